//! Inodes: a file's attributes.
//!
//! The kernel's `struct btrfs_inode_item` in `include/uapi/linux/btrfs_tree.h`.

use super::Btrfs;
use super::root::Subvolume;
use super::units::{Key, kinds};
use crate::base::fields::{le32, le64};
use crate::base::{Error, Result};
use crate::fs::{FileType, Metadata, Protection, Timestamp};

/// Bits of `flags`.
const NODATASUM: u64 = 1;

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inode {
    pub number: u64,
    pub generation: u64,
    pub size: u64,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub rdev: u64,
    pub flags: u64,
    pub atime: Timestamp,
    pub ctime: Timestamp,
    pub mtime: Timestamp,
    pub otime: Timestamp,
}

impl Inode {
    /// The inode that the item's `bytes` describe; `None` if some are missing.
    pub(super) fn parse(number: u64, bytes: &[u8]) -> Option<Self> {
        Some(Self {
            number,
            generation: le64(bytes, 0x0)?,
            size: le64(bytes, 0x10)?,
            nlink: le32(bytes, 0x28)?,
            uid: le32(bytes, 0x2c)?,
            gid: le32(bytes, 0x30)?,
            mode: le32(bytes, 0x34)?,
            rdev: le64(bytes, 0x38)?,
            flags: le64(bytes, 0x40)?,
            atime: time(bytes, 0x70)?,
            ctime: time(bytes, 0x7c)?,
            mtime: time(bytes, 0x88)?,
            otime: time(bytes, 0x94)?,
        })
    }

    /// What sort of file the mode says it is.
    ///
    /// # Errors
    /// `Corrupt` if it is none.
    pub(super) fn file_type(&self) -> Result<FileType> {
        file_type(self.mode).ok_or_else(|| {
            let place = format!("inode {}", self.number);
            Error::corrupt(place, "a file's mode", format!("{:#o}", self.mode))
        })
    }

    /// Whether its content has no checksums.
    pub(super) fn is_unchecked(&self) -> bool {
        self.flags & NODATASUM != 0
    }

    /// Its attributes.
    ///
    /// # Errors
    /// `Corrupt` if its mode is no file's.
    pub(super) fn metadata(&self) -> Result<Metadata> {
        let file_type = self.file_type()?;
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let low = u32::try_from(self.rdev & u64::from(u32::MAX)).unwrap_or_default();
        Ok(Metadata {
            file_type,
            size: self.size,
            mode: u16::try_from(self.mode & 0xfff).ok(),
            uid: Some(self.uid),
            gid: Some(self.gid),
            links: self.nlink,
            // The kernel's own form: twelve bits and twenty.
            device: is_device.then_some((low >> 20, low & 0xf_ffff)),
            modified: Some(self.mtime),
            accessed: Some(self.atime),
            changed: Some(self.ctime),
            created: Some(self.otime),
            protection: Protection::None,
        })
    }
}

/// What sort of file a mode says it is.
pub(super) fn file_type(mode: u32) -> Option<FileType> {
    Some(match mode & 0xf000 {
        0x1000 => FileType::Fifo,
        0x2000 => FileType::CharDevice,
        0x4000 => FileType::Directory,
        0x6000 => FileType::BlockDevice,
        0x8000 => FileType::Regular,
        0xa000 => FileType::Symlink,
        0xc000 => FileType::Socket,
        _ => return None,
    })
}

fn time(bytes: &[u8], at: usize) -> Option<Timestamp> {
    let seconds = le64(bytes, at)?.cast_signed();
    let nanoseconds = le32(bytes, at.checked_add(8)?)?.min(999_999_999);
    Some(Timestamp { seconds, nanoseconds })
}

impl Btrfs {
    /// Inode `number` of a subvolume, as the log leaves it.
    ///
    /// # Errors
    /// `Corrupt` when there is none, or the way to it is damaged.
    pub(super) fn inode(&self, subvolume: &Subvolume, number: u64) -> Result<Inode> {
        let place = || format!("inode {number} of subvolume {}", subvolume.id);
        if let Some(inode) = subvolume.replay.as_ref().and_then(|replay| replay.inode(number)) {
            return Ok(inode.clone());
        }
        let item = subvolume.tree.find(&self.pool, Key::new(number, kinds::INODE_ITEM, 0));
        let item = item.map_err(|error| error.within(place()))?;
        let item = item.ok_or_else(|| Error::corrupt(place(), "an inode", "none"))?;
        let short = || Error::corrupt(place(), "160 bytes", item.data().len());
        Inode::parse(number, item.data()).ok_or_else(short)
    }
}
