//! Folders: their entries in the order in which they were made, and by name; and extended
//! attributes, which are kept in the same form.
//!
//! The kernel's `struct btrfs_dir_item` in `include/uapi/linux/btrfs_tree.h`, and
//! `btrfs_lookup_dentry` in `fs/btrfs/inode.c`.

use std::ops::ControlFlow;

use super::Btrfs;
use super::checksum::name_hash;
use super::node::Item;
use super::root::Subvolume;
use super::units::{Key, bytes, kinds, objects};
use crate::base::fields::{le16, slice, u8_at};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::{DirEntry, FileId, FileType, Metadata, Protection, Visit, Xattr};

/// Bytes of an entry before its name.
const HEADER: usize = 30;
/// Names are this long at most.
const MAX_NAME: usize = 255;
/// Bit of `type` of names that are encrypted.
const ENCRYPTED: u8 = 0x80;
/// The bit that marks, as a file's number, the empty folder in the place of a subvolume that a
/// snapshot did not take over; the others are that subvolume's. Nothing on the disk has such a
/// number.
const PLACEHOLDER: u64 = 1 << 63;

/// An entry of a folder, or an extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirItem {
    pub location: Key,
    pub kind: u8,
    pub name: Vec<u8>,
    pub data: Vec<u8>,
}

impl DirItem {
    /// The entry at byte `at`, and where the next one is.
    fn parse(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
        let header = slice(bytes, at, HEADER)?;
        let data_len = usize::from(le16(header, 0x19)?);
        let name_len = usize::from(le16(header, 0x1b)?);
        let name_at = at.checked_add(HEADER)?;
        let data_at = name_at.checked_add(name_len)?;
        let entry = Self {
            location: Key::parse(header, 0x0)?,
            kind: u8_at(header, 0x1d)?,
            name: slice(bytes, name_at, name_len)?.to_vec(),
            data: slice(bytes, data_at, data_len)?.to_vec(),
        };
        Some((entry, data_at.checked_add(data_len)?))
    }

    /// The entries that an item holds: several where names have one hash.
    ///
    /// # Errors
    /// `Corrupt` where they do not fill it.
    pub(super) fn all(item: &Item) -> Result<Vec<Self>> {
        let bytes = item.data();
        let (mut found, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let entry = Self::parse(bytes, at).filter(|(entry, _)| {
                let length = entry.name.len();
                // As the kernel's `check_dir_item` has it.
                let is_named = match item.key.kind {
                    kinds::DIR_ITEM | kinds::XATTR_ITEM => {
                        name_hash(&entry.name) == item.key.offset
                    }
                    _ => true,
                };
                let is_attribute = item.key.kind == kinds::XATTR_ITEM;
                let has_data = is_attribute || entry.data.is_empty();
                length > 0 && length <= MAX_NAME && is_named && has_data
            });
            let Some((entry, next)) = entry else {
                return Err(item.corrupt(format!("an entry at byte {at}"), "something else"));
            };
            found.push(entry);
            at = next;
        }
        Ok(found)
    }

    fn file_type(&self) -> Option<FileType> {
        Some(match self.kind & !ENCRYPTED {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::CharDevice,
            4 => FileType::BlockDevice,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => return None,
        })
    }
}

impl Btrfs {
    /// Calls `visit` for each entry of `folder`.
    pub(super) fn entries(
        &self,
        subvolume: &Subvolume,
        folder: u64,
        visit: Visit<'_, Result<DirEntry>>,
    ) {
        let mut is_stopped = false;
        let mut show = |entry: Result<DirItem>| {
            let flow = visit(entry.and_then(|entry| self.dir_entry(subvolume, folder, &entry)));
            is_stopped |= flow.is_break();
            flow
        };
        let replay = subvolume.replay.as_deref();
        let first = Key::new(folder, kinds::DIR_INDEX, 0);
        subvolume.tree.each(&self.pool, first, &mut |item| {
            let item = match item {
                Ok(item) => item,
                Err(error) => return show(Err(error)),
            };
            if replay.is_some_and(|replay| replay.has_changed(folder, item.key.offset)) {
                return ControlFlow::Continue(());
            }
            match DirItem::all(&item) {
                Ok(entries) => entries.into_iter().try_for_each(|entry| show(Ok(entry))),
                Err(error) => show(Err(error)),
            }
        });
        if let Some(replay) = replay.filter(|_| !is_stopped) {
            // What the log added came after all else.
            let _ = replay
                .added(folder)
                .try_for_each(|entry| visit(self.dir_entry(subvolume, folder, entry)));
        }
    }

    /// What an entry says, in the form of all filesystems.
    fn dir_entry(&self, subvolume: &Subvolume, folder: u64, entry: &DirItem) -> Result<DirEntry> {
        let place = || format!("folder {folder} of subvolume {}", subvolume.id);
        if entry.kind & ENCRYPTED != 0 {
            let context = format!("{}: an encrypted name", place());
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let location = entry.location;
        let file = match location.kind {
            kinds::INODE_ITEM if location.objectid & PLACEHOLDER == 0 => {
                FileId { tree: subvolume.id, number: location.objectid }
            }
            kinds::ROOT_ITEM => {
                let child = location.objectid;
                match self.is_linked(subvolume.id, folder, child, &entry.name)? {
                    true => FileId { tree: child, number: self.subvolume(child)?.root_dirid },
                    false => FileId { tree: subvolume.id, number: PLACEHOLDER | child },
                }
            }
            _ => {
                let expected = "an entry of a file or subvolume";
                return Err(Error::corrupt(place(), expected, format!("one of {location}")));
            }
        };
        Ok(DirEntry { name: entry.name.clone(), file, file_type: entry.file_type() })
    }

    /// The entry called `name` in `folder`.
    ///
    /// # Errors
    /// `Corrupt` where the way to it is damaged.
    pub(super) fn find_entry(
        &self,
        subvolume: &Subvolume,
        folder: u64,
        name: &[u8],
    ) -> Result<Option<FileId>> {
        let changed = subvolume.replay.as_ref().and_then(|replay| replay.named(folder, name));
        let entry = match changed {
            Some(changed) => changed.cloned(),
            None => {
                let key = Key::new(folder, kinds::DIR_ITEM, name_hash(name));
                let item = subvolume.tree.find(&self.pool, key)?;
                let entries = item.map_or(Ok(Vec::new()), |item| DirItem::all(&item))?;
                entries.into_iter().find(|entry| entry.name == name)
            }
        };
        let found = entry.map(|entry| self.dir_entry(subvolume, folder, &entry)).transpose()?;
        Ok(found.map(|entry| entry.file))
    }

    /// Calls `visit` for each extended attribute of a file, with an error for each that is lost.
    pub(super) fn each_attribute(
        &self,
        subvolume: &Subvolume,
        number: u64,
        visit: Visit<'_, Result<Xattr>>,
    ) {
        let replay = subvolume.replay.as_deref();
        let tree = match replay.filter(|replay| replay.has_attributes(number)) {
            Some(replay) => replay.log,
            None => subvolume.tree,
        };
        let within = |error: Error| error.within(format!("attributes of inode {number}"));
        let mut size = 0_usize;
        tree.each(&self.pool, Key::new(number, kinds::XATTR_ITEM, 0), &mut |item| {
            let entries = match item.and_then(|item| DirItem::all(&item)) {
                Ok(entries) => entries,
                Err(error) => return visit(Err(within(error))),
            };
            for entry in entries {
                size = size.saturating_add(entry.name.len()).saturating_add(entry.data.len());
                if size > limits::MAX_XATTRS_SIZE {
                    let context = format!("more than {size} bytes of attributes");
                    let _ = visit(Err(within(Error::new(ErrorKind::Limit, context))));
                    return ControlFlow::Break(());
                }
                visit(Ok(Xattr { name: entry.name, value: entry.data }))?;
            }
            ControlFlow::Continue(())
        });
    }

    /// The names that lead to `folder` from its subvolume's root, the last first.
    pub(super) fn path_of_folder(&self, subvolume: &Subvolume, folder: u64) -> Option<Vec<String>> {
        let mut parts = Vec::new();
        let mut at = folder;
        for _ in 0..limits::MAX_LINKS_FOLLOWED {
            if at == subvolume.root_dirid {
                return Some(parts);
            }
            let last = Key::new(at, kinds::INODE_REF, u64::MAX);
            let item = subvolume.tree.at_or_below(&self.pool, last).ok()??;
            let item = Some(item).filter(|item| item.key.is_of(at, kinds::INODE_REF))?;
            let length = usize::from(le16(item.data(), 8)?);
            parts.push(String::from_utf8_lossy(slice(item.data(), 10, length)?).into_owned());
            at = item.key.offset;
        }
        None
    }
}

/// Whether a file is the empty folder in the place of a subvolume.
pub(super) fn is_placeholder(number: u64) -> bool {
    number & PLACEHOLDER != 0 && number <= objects::LAST_FREE
}

/// What there is to be said of such a folder; nothing of it is on the disk.
pub(super) fn placeholder() -> Metadata {
    Metadata {
        file_type: FileType::Directory,
        size: 0,
        mode: Some(0o755),
        uid: None,
        gid: None,
        links: 1,
        device: None,
        modified: None,
        accessed: None,
        changed: None,
        created: None,
        protection: Protection::None,
    }
}

/// Bytes that an entry adds to its folder's size.
pub(super) fn entry_size(name: &[u8]) -> u64 {
    bytes(name.len()).saturating_mul(2)
}
