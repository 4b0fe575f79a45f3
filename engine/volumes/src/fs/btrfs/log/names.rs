//! Folders while the log is replayed: entries by index and by name, and what leads to inodes, as
//! they are after all that was replayed so far.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::super::checksum::{extref_hash, name_hash};
use super::super::dir::{DirItem, entry_size};
use super::super::inode::Inode;
use super::super::units::{Key, kinds};
use super::links::RefName;
use super::replay::Replayer;
use crate::base::{Error, ErrorKind, Result, limits};

impl Replayer<'_> {
    /// Inode `number`, if there is one.
    pub(super) fn inode(&self, number: u64) -> Result<Option<Inode>> {
        if let Some(inode) = self.changes.inodes.get(&number) {
            return Ok(Some(inode.clone()));
        }
        let item =
            self.source.tree.find(self.source.pool, Key::new(number, kinds::INODE_ITEM, 0))?;
        Ok(item.and_then(|item| Inode::parse(number, item.data())))
    }

    /// The entry of `folder` at `index`.
    pub(super) fn by_index(&self, folder: u64, index: u64) -> Result<Option<DirItem>> {
        if let Some(entry) = self.changes.entries.get(&(folder, index)) {
            return Ok(entry.clone());
        }
        let item =
            self.source.tree.find(self.source.pool, Key::new(folder, kinds::DIR_INDEX, index))?;
        let entries = item.map_or(Ok(Vec::new()), |item| DirItem::all(&item))?;
        Ok(entries.into_iter().next())
    }

    /// The entry of `folder` called `name`.
    pub(super) fn by_name(&self, folder: u64, name: &[u8]) -> Result<Option<DirItem>> {
        if let Some(entry) = self.changes.names.get(&(folder, name.to_vec())) {
            return Ok(entry.clone());
        }
        let key = Key::new(folder, kinds::DIR_ITEM, name_hash(name));
        let item = self.source.tree.find(self.source.pool, key)?;
        let entries = item.map_or(Ok(Vec::new()), |item| DirItem::all(&item))?;
        Ok(entries.into_iter().find(|entry| entry.name == name))
    }

    /// The entries of `folder` whose index is in `range`.
    pub(super) fn entries_in(
        &self,
        folder: u64,
        range: RangeInclusive<u64>,
    ) -> Result<BTreeMap<u64, DirItem>> {
        let mut found = BTreeMap::new();
        let first = Key::new(folder, kinds::DIR_INDEX, *range.start());
        let mut cursor = self.source.tree.from(self.source.pool, first);
        cursor.limit(Key { offset: *range.end(), ..first });
        while let Some(item) = cursor.next()? {
            if !item.key.is_of(folder, first.kind) || item.key.offset > *range.end() {
                break;
            }
            if let Some(entry) = DirItem::all(&item)?.into_iter().next() {
                found.insert(item.key.offset, entry);
            }
            if found.len() > limits::MAX_REPLAYED {
                let context = format!("folder {folder}: too many entries for a tree log");
                return Err(Error::new(ErrorKind::Limit, context));
            }
        }
        let changed = (folder, *range.start())..=(folder, *range.end());
        for ((_, index), entry) in self.changes.entries.range(changed) {
            match entry {
                Some(entry) => found.insert(*index, entry.clone()),
                None => found.remove(index),
            };
        }
        Ok(found)
    }

    /// The names in the item under `key`.
    pub(super) fn names_in(&self, key: Key) -> Result<Vec<RefName>> {
        if let Some(names) = self.changes.refs.get(&key) {
            return Ok(names.clone());
        }
        let item = self.source.tree.find(self.source.pool, key)?;
        item.map_or(Ok(Vec::new()), |item| RefName::all(&item))
    }

    /// How many names lead to an inode.
    pub(super) fn count_names(&self, inode: u64) -> Result<usize> {
        let first = Key::new(inode, kinds::INODE_REF, 0);
        let last = Key::new(inode, kinds::INODE_EXTREF, u64::MAX);
        let mut count = 0_usize;
        let mut cursor = self.source.tree.from(self.source.pool, first);
        cursor.limit(last);
        while let Some(item) = cursor.next()?.filter(|item| item.key <= last) {
            if !self.changes.refs.contains_key(&item.key) {
                count = count.saturating_add(RefName::all(&item)?.len());
            }
        }
        let changed = self.changes.refs.range(first..=last);
        Ok(changed.fold(count, |count, (_, names)| count.saturating_add(names.len())))
    }

    /// The keys under which the name of an inode may stand.
    fn ref_keys(inode: u64, folder: u64, name: &[u8]) -> [Key; 2] {
        let extended = extref_hash(folder, name);
        [Key::new(inode, kinds::INODE_REF, folder), Key::new(inode, kinds::INODE_EXTREF, extended)]
    }

    /// Whether the log says that an inode has `name` in `folder`.
    pub(super) fn is_logged(&self, inode: u64, folder: u64, name: &[u8]) -> Result<bool> {
        for key in Self::ref_keys(inode, folder, name) {
            let item = self.changes.log.find(self.source.pool, key)?;
            let names = item.map_or(Ok(Vec::new()), |item| RefName::all(&item))?;
            if names.iter().any(|each| each.is(folder, name)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the name of an inode, and the entry, which is at `index` if the name does not say.
    pub(super) fn unlink(
        &mut self,
        folder: u64,
        entry: &DirItem,
        index: Option<u64>,
    ) -> Result<()> {
        let (inode, name) = (entry.location.objectid, entry.name.as_slice());
        if entry.location.kind != kinds::INODE_ITEM {
            let place = format!("folder {folder}");
            return Err(Error::corrupt(place, "a file's entry", "that of a subvolume"));
        }
        let mut index = index;
        for key in Self::ref_keys(inode, folder, name) {
            let mut names = self.names_in(key)?;
            let Some(place) = names.iter().position(|each| each.is(folder, name)) else { continue };
            index = Some(names.remove(place).index);
            self.changes.refs.insert(key, names);
            break;
        }
        if let Some(index) = index {
            self.changes.entries.insert((folder, index), None);
        }
        self.changes.names.insert((folder, name.to_vec()), None);
        self.resize(folder, |size| size.saturating_sub(entry_size(name)))?;
        self.recount.insert(inode);
        self.changes.check_size()
    }

    /// Adds an entry, but no name of the inode.
    pub(super) fn link(&mut self, folder: u64, index: u64, entry: DirItem) -> Result<()> {
        let size = entry_size(&entry.name);
        self.changes.names.insert((folder, entry.name.clone()), Some(entry.clone()));
        self.recount.insert(entry.location.objectid);
        self.changes.entries.insert((folder, index), Some(entry));
        self.resize(folder, |before| before.saturating_add(size))?;
        self.changes.check_size()
    }

    fn resize(&mut self, folder: u64, size: impl FnOnce(u64) -> u64) -> Result<()> {
        if let Some(mut inode) = self.inode(folder)? {
            inode.size = size(inode.size);
            self.changes.inodes.insert(folder, inode);
        }
        Ok(())
    }
}
