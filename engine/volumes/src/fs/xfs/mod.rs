//! XFS, versions 4 and 5.
//!
//! Written from the kernel's documentation (`Documentation/filesystems/xfs`) and its headers of
//! the format, whose names of fields are used here. [`Superblock`] is what the disk says;
//! [`Geometry`] is what makes sense of it; [`Xfs`] is the open filesystem, to which each file here
//! adds one subject: `inode`, `map` with its `btree`, `entries` of folders with their `index`,
//! `shortform`, `attributes`, `content`, `free`, `numbered` and `survey` with their `chunks` of inodes. `log` overlays the volume with what a dirty log
//! holds, so nothing else knows of it.
//!
//! Invariants: everything of version 5 is verified before it is believed, by its checksum and by
//! whose it says that it is (`stamp`); every chain and tree is bounded by its own size or by the
//! filesystem's count of blocks; reads stay within the filesystem.

mod acl;
mod attributes;
mod blocks;
mod btree;
mod chunks;
mod content;
mod entries;
mod features;
mod folder;
mod free;
mod geometry;
mod hash;
mod headers;
mod index;
mod inode;
mod log;
mod map;
mod numbered;
mod open;
mod shortform;
mod stamp;
mod superblock;
mod survey;
mod units;

pub(crate) use open::identify;
pub(super) use open::{open, open_by_backup};

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{
    DirEntry, Doubts, FileContent, FileId, FileType, Filesystem, FilesystemInfo, Metadata,
    Numbered, Survey, Visit, Xattr,
};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use blocks::Blocks;
use geometry::Geometry;
use inode::Inode;
use superblock::Superblock;
use units::{BlockNumber, InodeNumber};

/// An open filesystem.
pub(super) struct Xfs {
    superblock: Superblock,
    blocks: Blocks,
    info: FilesystemInfo,
    /// What is damaged of it as a whole.
    doubts: Doubts,
    /// Why it is not certain what is free, if it is not.
    doubt: Option<String>,
    /// Whether it was unmounted, so that there was nothing to replay.
    is_clean: bool,
    /// Files that the log has more to do to than a reader can, and what.
    unfinished: BTreeMap<InodeNumber, String>,
    /// What the log holds newer than the volume.
    replayed: Vec<ByteRange>,
}

impl Xfs {
    fn geometry(&self) -> &Geometry {
        self.blocks.geometry()
    }

    /// The log's first block and how many it has, if it is on the volume and within it.
    fn log_place(&self) -> Option<(BlockNumber, u64)> {
        let blocks = u64::from(self.superblock.sb_logblocks);
        let start = Some(self.superblock.sb_logstart).filter(|start| *start != 0)?;
        Some((self.geometry().block(start, blocks).ok()?, blocks))
    }

    /// The inode of a file that has a name: one that was removed while it was open has none.
    fn file(&self, file: FileId) -> Result<Inode> {
        let inode = self.inode(number(file)?)?;
        match inode.links() {
            0 => Err(Error::corrupt(inode.number, "a file with a name", "a removed one")),
            _ => Ok(inode),
        }
    }
}

/// The inode that a file's number stands for.
fn number(file: FileId) -> Result<InodeNumber> {
    if file.tree == 0 && file.number > 0 {
        return Ok(InodeNumber(file.number));
    }
    Err(Error::new(ErrorKind::Invalid, format!("{file:?} is no file of XFS")))
}

impl Filesystem for Xfs {
    fn info(&self) -> &FilesystemInfo {
        &self.info
    }

    fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    fn root(&self) -> FileId {
        FileId::new(self.superblock.sb_rootino)
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let folder = self.folder(number(folder)?)?;
        Ok(self.find(&folder, name)?.map(|inode| FileId::new(inode.0)))
    }

    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()> {
        let folder = self.folder(number(folder)?)?;
        self.entries(&folder, &mut |entry| match entry {
            Ok(entry) if entry.name == b"." || entry.name == b".." => ControlFlow::Continue(()),
            Ok(entry) => visit(Ok(DirEntry {
                name: entry.name.to_vec(),
                file: FileId::new(entry.inode.0),
                file_type: entry.file_type,
            })),
            Err(error) => visit(Err(error)),
        })
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        self.file(file)?.metadata()
    }

    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>> {
        let inode = self.file(file)?;
        if inode.file_type()? != FileType::Regular {
            let context = format!("{} is no regular file", inode.number);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        Ok(Box::new(self.content(inode)?))
    }

    fn link_target(&self, file: FileId) -> Result<Vec<u8>> {
        self.target(&self.file(file)?)
    }

    fn each_xattr(&self, file: FileId, visit: Visit<'_, Result<Xattr>>) -> Result<()> {
        self.each_attribute(&self.file(file)?, visit)
    }

    fn may_share(&self, file: FileId) -> Result<bool> {
        Ok(self.file(file)?.may_share())
    }

    fn replayed(&self) -> &[ByteRange] {
        &self.replayed
    }

    fn numbered(&self) -> Option<&dyn Numbered> {
        // Where it is not certain what is free, it is not either what is in use.
        (self.doubt.is_none() && self.unfinished.is_empty()).then_some(self)
    }

    fn survey(&self) -> Result<Option<Box<dyn Survey + '_>>> {
        if self.numbered().is_none() {
            return Ok(None);
        }
        Ok(Some(Box::new(self.all_chunks()?)))
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.free_ranges(visit)
    }

    fn likely_free_space(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.likely_free_ranges(visit)
    }
}
