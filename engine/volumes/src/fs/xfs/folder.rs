//! Folders: their entries one after another, and by name.

use std::ops::ControlFlow;

use super::Xfs;
use super::entries::Visit;
use super::index::Found;
use super::inode::{Form, Inode};
use super::map::{Map, RunPlace};
use super::shortform::short_parent;
use super::units::{FileBlock, InodeNumber};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::FileType;

impl Xfs {
    /// The inode of a folder.
    ///
    /// # Errors
    /// `Invalid` if it is none; see [`inode`](Self::inode).
    pub(super) fn folder(&self, number: InodeNumber) -> Result<Inode> {
        let inode = self.inode(number)?;
        match inode.file_type()? {
            FileType::Directory => Ok(inode),
            _ => Err(Error::new(ErrorKind::Invalid, format!("{number} is no folder"))),
        }
    }

    /// Calls `visit` for each entry in the order of the disk, `.` and `..` among them where they
    /// are stored; with an error for each entry and block that is lost.
    ///
    /// # Errors
    /// `Limit` for a folder of too many blocks; `Corrupt` where nothing can be listed.
    pub(super) fn entries(&self, folder: &Inode, visit: Visit<'_>) -> Result<()> {
        let fork = folder.data_fork()?;
        if fork.form == Form::Local {
            return self.short_entries(folder, visit);
        }
        let mut map = Map::new(folder, &fork)?;
        self.check_extent_count(&map, fork.extents).map_err(|error| error.within(folder.number))?;
        let count = u64::from(self.geometry().folder_blocks).max(1);
        let end = self.geometry().blocks_of(folder.di_size);
        let (mut next, mut blocks) = (FileBlock(0), 0_u64);
        while next.0 < end {
            let run = self.run(&mut map, next, end);
            if let Ok(run) = &run
                && run.place == RunPlace::Hole
                && run.count >= count
            {
                // Whole blocks without an entry are given back.
                let skip = run.count.checked_div(count).unwrap_or(0).saturating_mul(count);
                next = FileBlock(next.0.saturating_add(skip));
                continue;
            }
            blocks = blocks.saturating_add(1);
            if blocks > limits::MAX_FOLDER_BLOCKS {
                let context = format!("{}: a folder of {blocks} blocks and more", folder.number);
                return Err(Error::new(ErrorKind::Limit, context));
            }
            let block =
                run.and_then(|_| self.fork_block(&mut map, next, self.geometry().folder_blocks));
            let flow = match block.and_then(|block| self.entry_block(folder, block)) {
                Ok(block) => self.each_entry(&block, &mut |entry| {
                    visit(entry.map_err(|error| error.within(folder.number)))
                }),
                Err(error) => visit(Err(error)),
            };
            if flow.is_break() {
                break;
            }
            next = FileBlock(next.0.saturating_add(count));
        }
        Ok(())
    }

    /// The folder that `folder` is in; the root is in itself.
    ///
    /// # Errors
    /// `Corrupt` where it does not say so.
    pub(super) fn parent(&self, folder: &Inode) -> Result<InodeNumber> {
        let fork = folder.data_fork()?;
        let mut parent = None;
        if fork.form == Form::Local {
            parent = short_parent(fork.bytes);
        } else {
            let mut map = Map::new(folder, &fork)?;
            let first = self.fork_block(&mut map, FileBlock(0), self.geometry().folder_blocks)?;
            let _ = self.each_entry(&self.entry_block(folder, first)?, &mut |entry| match entry {
                Ok(entry) if entry.name == b".." => {
                    parent = Some(entry.inode);
                    ControlFlow::Break(())
                }
                Ok(_) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            });
        }
        parent.ok_or_else(|| folder.corrupt("the folder above", "none"))
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// `Corrupt` if it is not found, but entries are lost; see [`entries`](Self::entries).
    pub(super) fn find(&self, folder: &Inode, name: &[u8]) -> Result<Option<InodeNumber>> {
        let fork = folder.data_fork()?;
        if fork.form != Form::Local {
            let mut map = Map::new(folder, &fork)?;
            // A damaged index is no reason not to find what the blocks of entries still say.
            if let Ok(found) = self.find_by_index(folder, &mut map, name) {
                return Ok(found);
            }
        }
        let ignores_case = self.superblock.ignores_case();
        let mut found = Found::new(name);
        let mut lost = None;
        self.entries(folder, &mut |entry| {
            match entry {
                Ok(entry) => found.look_at(&entry, ignores_case),
                Err(error) => lost = lost.take().or(Some(error)),
            }
            match found.exact {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        })?;
        match (found.inode(), lost) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }
}
