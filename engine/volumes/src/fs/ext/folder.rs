//! Folders: their entries one after another, and by name.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Ext;
use super::changes::FolderChanges;
use super::dirent::{self, Dirent, Layout, each_entry};
use super::features::incompat;
use super::htree;
use super::inode::{Inode, flags};
use super::map::RunPlace;
use super::units::{BlockNumber, FileBlock, InodeNumber};
use crate::base::fields::{le16, le32};
use crate::base::{Error, ErrorKind, Result, limits};

/// What a walk of entries calls.
type Visit<'a> = &'a mut dyn FnMut(Result<Dirent<'_>>) -> ControlFlow<()>;

impl Ext {
    pub(super) fn layout(&self) -> Layout {
        Layout {
            has_types: self.superblock.has_incompat(incompat::FILETYPE),
            inode_count: self.geometry().inode_count,
        }
    }

    /// Calls `visit` for each entry in the order of the disk, `.` and `..` among them where they
    /// are stored; with an error for each entry and block that is lost.
    ///
    /// # Errors
    /// `Limit` for a folder of too many blocks; `Corrupt` where nothing can be listed.
    pub(super) fn entries(&self, folder: &Inode, visit: Visit<'_>) -> Result<()> {
        match self.changes.folder(folder.number) {
            Some(changes) => self.changed_entries(folder, changes, visit),
            None => self.stored_entries(folder, visit),
        }
    }

    /// The entries that fast commits left in place, then those that they added.
    fn changed_entries(
        &self,
        folder: &Inode,
        changes: &FolderChanges,
        visit: Visit<'_>,
    ) -> Result<()> {
        if folder.has(flags::CASEFOLD | flags::ENCRYPT) {
            let context = format!("{}: fast commits in such a folder", folder.number);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let mut flow = ControlFlow::Continue(());
        if !changes.is_new {
            self.stored_entries(folder, &mut |entry| {
                let is_changed = |entry: &Dirent<'_>| changes.names.contains_key(entry.name);
                if !entry.as_ref().is_ok_and(is_changed) {
                    flow = visit(entry);
                }
                flow
            })?;
        }
        for (name, inode) in &changes.names {
            if flow.is_break() {
                break;
            }
            let Some(inode) = *inode else { continue };
            let file_type = self.inode(inode).and_then(|inode| inode.file_type()).ok();
            flow = visit(Ok(Dirent { inode, name, file_type }));
        }
        Ok(())
    }

    fn stored_entries(&self, folder: &Inode, visit: Visit<'_>) -> Result<()> {
        if folder.has(flags::INLINE_DATA) {
            return self.inline_entries(folder, visit);
        }
        let blocks = self.geometry().blocks_of(folder.i_size);
        let most = limits::MAX_FOLDER_BLOCKS.min(self.geometry().block_count);
        if blocks > most {
            let context = format!("{}: a folder of {blocks} blocks, {most} at most", folder.number);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let mut next = FileBlock(0);
        while next.0 < blocks {
            let (flow, after) = self.entries_of_run(folder, next, blocks, visit);
            if flow.is_break() {
                break;
            }
            next = after;
        }
        Ok(())
    }

    /// The entries of the run that starts at `first`; and the file block to go on with.
    fn entries_of_run(
        &self,
        folder: &Inode,
        first: FileBlock,
        end: u64,
        visit: Visit<'_>,
    ) -> (ControlFlow<()>, FileBlock) {
        let after = FileBlock(first.0.saturating_add(1));
        let run = match self.run(folder, first, end) {
            Ok(run) => run,
            Err(error) => return (visit(Err(error)), after),
        };
        let RunPlace::At(start) = run.place else {
            let found = format!("{} blocks without content", run.count);
            let error = folder.corrupt(format!("entries in {first}"), found);
            return (visit(Err(error)), FileBlock(run.end()));
        };
        for distance in 0..run.end().min(end).saturating_sub(first.0) {
            let block = BlockNumber(start.0.saturating_add(distance));
            let place = FileBlock(first.0.saturating_add(distance));
            let flow = match self.folder_block(folder, place, block) {
                Ok(bytes) => each_entry(&bytes, self.layout(), &mut |entry| {
                    visit(entry.map_err(|error| error.within(block).within(folder.number)))
                }),
                Err(error) => visit(Err(error)),
            };
            if flow.is_break() {
                return (flow, after);
            }
        }
        (ControlFlow::Continue(()), FileBlock(run.end()))
    }

    /// A block of a folder, its checksum verified.
    ///
    /// # Errors
    /// `Corrupt` if that is wrong; the volume's own.
    pub(super) fn folder_block(
        &self,
        folder: &Inode,
        place: FileBlock,
        block: BlockNumber,
    ) -> Result<Arc<[u8]>> {
        let bytes = self.blocks.read(block).map_err(|error| error.within(folder.number))?;
        if !self.superblock.has_checksums() {
            return Ok(bytes);
        }
        let verified = match is_index(folder, place, &bytes) {
            true => htree::wrong_checksum(folder, place, &bytes),
            false => match dirent::tail_checksum(&bytes) {
                Some((at, found)) => {
                    let expected = folder.seed.add(bytes.get(..at).unwrap_or_default()).value();
                    (expected != found).then(|| (format!("{expected:#010x}"), found))
                }
                None => Some(("one at the end".to_owned(), 0)),
            },
        };
        match verified {
            None => Ok(bytes),
            Some((expected, found)) => {
                let (expected, found) = (format!("checksum {expected}"), format!("{found:#010x}"));
                Err(Error::corrupt(block, expected, found).within(folder.number))
            }
        }
    }

    /// The folder that a folder is in: its entry `..`.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    pub(super) fn parent(&self, folder: &Inode) -> Result<InodeNumber> {
        if folder.has(flags::INLINE_DATA) {
            let parent = le32(&folder.i_block, 0).unwrap_or_default();
            return Ok(InodeNumber(parent));
        }
        let mut parent = None;
        let mut lost = None;
        self.entries(folder, &mut |entry| {
            match entry {
                Ok(entry) if entry.name == b".." => parent = Some(entry.inode),
                Ok(_) => return ControlFlow::Continue(()),
                Err(error) => lost = Some(error),
            }
            ControlFlow::Break(())
        })?;
        let none = || folder.corrupt("an entry for the folder above", "none");
        parent.ok_or_else(|| lost.unwrap_or_else(none))
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// `Corrupt` if it is not found, but entries are lost; see [`entries`](Self::entries).
    pub(super) fn find(&self, folder: &Inode, name: &[u8]) -> Result<Option<InodeNumber>> {
        let folds = folder.has(flags::CASEFOLD);
        let change = self.changes.folder(folder.number);
        if let Some(inode) = change.and_then(|change| change.names.get(name)).filter(|_| !folds) {
            return Ok(*inode);
        }
        let is_new = change.is_some_and(|change| change.is_new);
        if folder.has(flags::INDEX) && !folder.has(flags::INLINE_DATA) && !folds && !is_new {
            // A damaged index is no reason not to find what the blocks below still say.
            if let Ok(found) = self.find_by_index(folder, name) {
                return Ok(found);
            }
        }
        let mut found = None;
        let mut folded = None;
        let mut lost = None;
        // Whether Unicode's rules for forms of characters could decide.
        let mut is_open = folds && !name.is_ascii();
        self.entries(folder, &mut |entry| {
            match entry {
                Ok(entry) if entry.name == name => {
                    found = Some(entry.inode);
                    return ControlFlow::Break(());
                }
                Ok(entry) if folds && same_folded(entry.name, name) => folded = Some(entry.inode),
                Ok(entry) => is_open |= folds && !entry.name.is_ascii(),
                Err(error) => lost = lost.take().or(Some(error)),
            }
            ControlFlow::Continue(())
        })?;
        match (found.or(folded), lost) {
            (None, Some(error)) => Err(error),
            (None, None) if is_open => {
                let context = format!(
                    "{} ignores case by rules beyond ASCII: only names as they are stored, and \
                     names that differ in case alone, are found in it",
                    folder.number
                );
                Err(Error::new(ErrorKind::Unsupported, context))
            }
            (found, _) => Ok(found),
        }
    }
}

/// Whether two names are one in a case-folding folder, by the simple part of Unicode's rules: the
/// kernel's full case folding and normal forms join more.
fn same_folded(one: &[u8], other: &[u8]) -> bool {
    let texts = (std::str::from_utf8(one), std::str::from_utf8(other));
    let (Ok(one), Ok(other)) = texts else { return false };
    let fold = |text: &str| text.to_uppercase().to_lowercase();
    fold(one) == fold(other)
}

/// Whether a block of a folder is part of its index, which looks like a block without entries.
fn is_index(folder: &Inode, place: FileBlock, bytes: &[u8]) -> bool {
    let length = dirent::record_length(le16(bytes, 4).unwrap_or_default(), bytes.len());
    let is_empty = le32(bytes, 0) == Some(0) && length == bytes.len();
    folder.has(flags::INDEX) && (place.0 == 0 || is_empty)
}
