//! The replay itself, in the kernel's own three passes: inodes with what was deleted, then
//! entries of folders, then names of inodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::content::in_sectors;
use super::super::dir::DirItem;
use super::super::inode::{Inode, file_type};
use super::super::node::Item;
use super::super::tree::Tree;
use super::super::units::{Key, kinds};
use super::links::RefName;
use super::{Replay, Source};
use crate::base::fields::le64;
use crate::base::{Error, Result};
use crate::fs::FileType;

/// A replay under way.
pub(super) struct Replayer<'a> {
    pub source: &'a Source<'a>,
    pub changes: Replay,
    /// Inodes whose names have to be counted again.
    pub recount: BTreeSet<u64>,
}

/// What `log` makes of the tree in `source`.
///
/// # Errors
/// `Corrupt` where the log is damaged or does not fit; `Limit` if it is too large.
pub(super) fn replay(source: &Source<'_>, log: Tree) -> Result<Replay> {
    let changes = Replay {
        log,
        inodes: BTreeMap::new(),
        logged: BTreeMap::new(),
        entries: BTreeMap::new(),
        names: HashMap::new(),
        refs: BTreeMap::new(),
    };
    let mut replayer = Replayer { source, changes, recount: BTreeSet::new() };
    replayer.each(|replayer, item| match item.key.kind {
        kinds::INODE_ITEM => replayer.replay_inode(item),
        _ => Ok(()),
    })?;
    replayer.each(|replayer, item| match item.key.kind {
        kinds::DIR_INDEX if replayer.is_logged_inode(item) => replayer.replay_entry(item),
        _ => Ok(()),
    })?;
    replayer.each(|replayer, item| match item.key.kind {
        kinds::INODE_REF | kinds::INODE_EXTREF if replayer.is_logged_inode(item) => {
            replayer.replay_names(item)
        }
        _ => Ok(()),
    })?;
    replayer.count_all()?;
    Ok(replayer.changes)
}

impl Replayer<'_> {
    /// Calls `replay` for each item of the log.
    fn each(&mut self, replay: impl Fn(&mut Self, &Item) -> Result<()>) -> Result<()> {
        let mut cursor = self.changes.log.from(self.source.pool, Key::FIRST);
        while let Some(item) = cursor.next()? {
            replay(self, &item).map_err(|error| error.within(format!("item {}", item.key)))?;
        }
        Ok(())
    }

    /// Whether the inode of an item was logged, and not one without names, whose items are
    /// nobody's.
    fn is_logged_inode(&self, item: &Item) -> bool {
        self.changes.logged.contains_key(&item.key.objectid)
    }

    fn replay_inode(&mut self, item: &Item) -> Result<()> {
        let number = item.key.objectid;
        let short = || item.corrupt("an inode", format!("{} bytes", item.data().len()));
        let logged = Inode::parse(number, item.data()).ok_or_else(short)?;
        if logged.nlink == 0 {
            return Ok(());
        }
        if file_type(logged.mode) == Some(FileType::Directory) {
            self.replay_deletes(number)?;
        }
        let inode = match self.inode(number)? {
            Some(before) => merged(&before, &logged),
            None if file_type(logged.mode) == Some(FileType::Directory) => {
                Inode { size: 0, ..logged.clone() }
            }
            None => logged.clone(),
        };
        let cut = match file_type(logged.mode) {
            Some(FileType::Regular) => in_sectors(inode.size, self.source.sectorsize),
            _ => u64::MAX,
        };
        self.changes.logged.insert(number, cut);
        self.changes.inodes.insert(number, inode);
        self.recount.insert(number);
        self.changes.check_size()
    }

    /// Removes the entries of a folder that were gone when it was logged: those in the ranges of
    /// indexes that it was logged with, that the log does not have.
    fn replay_deletes(&mut self, folder: u64) -> Result<()> {
        let first = Key::new(folder, kinds::DIR_LOG_INDEX, 0);
        let mut cursor = self.changes.log.from(self.source.pool, first);
        while let Some(item) = cursor.next()?.filter(|item| item.key.is_of(folder, first.kind)) {
            let start = item.key.offset;
            let end = le64(item.data(), 0).filter(|end| *end >= start);
            let end = end.ok_or_else(|| item.corrupt("a range's end", "none"))?;
            for (index, entry) in self.entries_in(folder, start..=end)? {
                let key = Key::new(folder, kinds::DIR_INDEX, index);
                let logged = self.changes.log.find(self.source.pool, key)?;
                let logged = logged.map_or(Ok(Vec::new()), |item| DirItem::all(&item))?;
                if !logged.iter().any(|logged| logged.name == entry.name) {
                    self.unlink(folder, &entry, Some(index))?;
                }
            }
        }
        Ok(())
    }

    /// An entry of a folder that was logged.
    fn replay_entry(&mut self, item: &Item) -> Result<()> {
        let (folder, index) = (item.key.objectid, item.key.offset);
        let entry = DirItem::all(item)?.into_iter().next();
        let entry = entry.ok_or_else(|| item.corrupt("an entry", "none"))?;
        let location = entry.location;
        if location.kind != kinds::INODE_ITEM {
            return Err(item.corrupt("a file's entry", format!("one of {location}")));
        }
        let exists = self.inode(location.objectid)?.is_some();
        let by_name = self.by_name(folder, &entry.name)?;
        let is_named = self.settle(folder, by_name, &entry, exists)?;
        let by_index = self.by_index(folder, index)?.filter(|found| found.name == entry.name);
        let is_indexed = self.settle(folder, by_index, &entry, exists)?;
        // One whose name was logged too is added with that.
        let is_done = is_named && is_indexed;
        if is_done || !exists || self.is_logged(location.objectid, folder, &entry.name)? {
            return Ok(());
        }
        if self.by_name(folder, &entry.name)?.is_some() {
            return Ok(());
        }
        let key = Key::new(location.objectid, kinds::INODE_REF, folder);
        let mut names = self.names_in(key)?;
        names.push(RefName { parent: folder, index, name: entry.name.clone() });
        self.changes.refs.insert(key, names);
        self.link(folder, index, entry)
    }

    /// Whether `found` is the entry that was logged; if it is another one, it gives way.
    fn settle(
        &mut self,
        folder: u64,
        found: Option<DirItem>,
        logged: &DirItem,
        exists: bool,
    ) -> Result<bool> {
        let Some(found) = found else { return Ok(false) };
        if found.location == logged.location && found.kind == logged.kind {
            return Ok(true);
        }
        // What is to take its place may never have come to the disk.
        if exists {
            self.unlink(folder, &found, None)?;
        }
        Ok(false)
    }

    /// The names of an inode that were logged in one item: those that it had there before and
    /// has no longer are removed, those that are new added.
    fn replay_names(&mut self, item: &Item) -> Result<()> {
        let inode = item.key.objectid;
        let logged = RefName::all(item)?;
        // The root folder's own name.
        if item.key.kind == kinds::INODE_REF && item.key.offset == inode {
            return Ok(());
        }
        let mut names = Vec::new();
        for name in logged {
            // A folder that was not logged, and is not in the tree, was lost.
            if self.inode(name.parent)?.is_none() {
                continue;
            }
            if !self.is_in_folder(inode, &name)? {
                self.make_way(inode, &name)?;
                let entry = self.entry_of(inode, &name)?;
                self.link(name.parent, name.index, entry)?;
            }
            names.push(name);
        }
        if names.is_empty() {
            return Ok(());
        }
        for old in self.names_in(item.key)? {
            if !names.iter().any(|name| name.is(old.parent, &old.name)) {
                let entry = self.entry_of(inode, &old)?;
                self.unlink(old.parent, &entry, Some(old.index))?;
            }
        }
        self.changes.refs.insert(item.key, names);
        self.recount.insert(inode);
        self.changes.check_size()
    }

    fn is_in_folder(&self, inode: u64, name: &RefName) -> Result<bool> {
        let is_it = |entry: Option<DirItem>| {
            entry.is_some_and(|entry| entry.name == name.name && entry.location.objectid == inode)
        };
        Ok(is_it(self.by_index(name.parent, name.index)?)
            && is_it(self.by_name(name.parent, &name.name)?))
    }

    /// Removes what is in the way of a new name: other names of the inode in that folder that
    /// the log does not have, and other entries of that name or index.
    fn make_way(&mut self, inode: u64, name: &RefName) -> Result<()> {
        for old in self.names_in(Key::new(inode, kinds::INODE_REF, name.parent))? {
            if !self.is_logged(inode, old.parent, &old.name)? {
                let entry = self.entry_of(inode, &old)?;
                self.unlink(old.parent, &entry, Some(old.index))?;
            }
        }
        let by_index = self.by_index(name.parent, name.index)?;
        if let Some(other) = by_index.filter(|other| other.name == name.name) {
            self.unlink(name.parent, &other, Some(name.index))?;
        }
        if let Some(other) = self.by_name(name.parent, &name.name)? {
            self.unlink(name.parent, &other, None)?;
        }
        Ok(())
    }

    /// What the entry of an inode's name is.
    fn entry_of(&self, inode: u64, name: &RefName) -> Result<DirItem> {
        let found = self.inode(inode)?;
        let none = || Error::corrupt(format!("inode {inode}"), "an inode", "none");
        let found = found.ok_or_else(none)?;
        let kind = match found.file_type()? {
            FileType::Regular => 1,
            FileType::Directory => 2,
            FileType::CharDevice => 3,
            FileType::BlockDevice => 4,
            FileType::Fifo => 5,
            FileType::Socket => 6,
            FileType::Symlink => 7,
        };
        let location = Key::new(inode, kinds::INODE_ITEM, 0);
        Ok(DirItem { location, kind, name: name.name.clone(), data: Vec::new() })
    }

    /// Counts the names of all inodes whose names may have changed. A folder without one loses
    /// its entries, as it is about to be deleted.
    fn count_all(&mut self) -> Result<()> {
        // Each round takes an inode, and adds entries of folders that have them no longer then.
        while let Some(number) = self.recount.pop_last() {
            let Some(mut inode) = self.inode(number)? else { continue };
            let count = u32::try_from(self.count_names(number)?).unwrap_or(u32::MAX);
            if inode.nlink != count {
                inode.nlink = count;
                self.changes.inodes.insert(number, inode.clone());
            }
            if count == 0 && file_type(inode.mode) == Some(FileType::Directory) {
                for (index, entry) in self.entries_in(number, 0..=u64::MAX)? {
                    self.unlink(number, &entry, Some(index))?;
                }
            }
        }
        Ok(())
    }
}

/// What a logged inode makes of the one that was committed.
fn merged(before: &Inode, logged: &Inode) -> Inode {
    let is = |kind| [before.mode, logged.mode].iter().all(|mode| file_type(*mode) == Some(kind));
    // It was logged to say that it exists only, unless its size says more.
    if logged.generation == 0 {
        let size = match is(FileType::Regular) && logged.size != 0 {
            true => logged.size,
            false => before.size,
        };
        return Inode { size, ..before.clone() };
    }
    // A folder's size follows from its entries.
    let size = if is(FileType::Directory) { before.size } else { logged.size };
    Inode { size, ..logged.clone() }
}
