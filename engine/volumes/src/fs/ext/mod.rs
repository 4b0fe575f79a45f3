//! ext2, ext3 and ext4.
//!
//! Written from the kernel's documentation (`Documentation/filesystems/ext4`), whose names of
//! fields are used here. [`Superblock`] is what the disk says; [`Geometry`] is what makes sense of
//! it; [`Ext`] is the open filesystem, to which each file here adds one subject: `groups`,
//! `inode`, `map` with its two forms `extents` and `block_map`, `folder` with its index in
//! `htree`, `xattr`, `inline`, `content`, `free`, `numbered`. `journal` overlays the volume with what a dirty
//! journal holds, so nothing else knows of it; only what fast commits hold is no blocks, so `changes`
//! is asked by `inode`, `map` and `folder`.
//!
//! Invariants: all checksums that a structure has are verified before it is believed; every chain
//! and tree is bounded by its own size or by the filesystem's count of blocks; reads stay within
//! the filesystem.

mod acl;
mod backup;
mod block_map;
mod blocks;
mod changes;
mod checksum;
mod content;
mod dirent;
mod extents;
mod features;
mod folder;
mod free;
mod geometry;
mod groups;
mod hash;
mod htree;
mod inline;
mod inode;
mod journal;
mod map;
mod numbered;
mod open;
mod own;
mod superblock;
mod survey;
mod units;
mod xattr;

pub(crate) use open::identify;
pub(super) use open::{open, open_by_backup};

use std::ops::ControlFlow;

use super::recent::Recent;
use super::{
    DirEntry, Doubts, FileContent, FileId, FileType, Filesystem, FilesystemInfo, Metadata,
    Numbered, Survey, Visit, Xattr,
};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use blocks::Blocks;
use changes::Changes;
use checksum::Checksum;
use geometry::Geometry;
use inode::{Inode, flags};
use superblock::Superblock;
use units::{BlockNumber, InodeNumber, ROOT_INODE};

/// An open filesystem.
pub(super) struct Ext {
    superblock: Superblock,
    /// The block of the superblock that was used, after which the group descriptors come.
    superblock_at: BlockNumber,
    /// What the checksums of metadata start with.
    seed: Checksum,
    blocks: Blocks,
    /// What groups keep for themselves, by the number of their flexible group.
    own: Recent<u64, [own::Area]>,
    /// What fast commits change.
    changes: Changes,
    /// What the journal holds newer than the volume.
    replayed: Vec<ByteRange>,
    info: FilesystemInfo,
    /// What is damaged of it as a whole.
    doubts: Doubts,
    /// Why it is not certain what is free, if it is not.
    doubt: Option<String>,
}

impl Ext {
    fn geometry(&self) -> &Geometry {
        self.blocks.geometry()
    }

    /// The inode of a file that folders may name: the filesystem's own, and those that hold the
    /// value of an attribute, are none, as the kernel has it.
    fn file(&self, file: FileId) -> Result<Inode> {
        let number = number(file)?;
        if self.superblock.is_own(number) {
            return Err(Error::corrupt(number, "a file's inode", "one of the filesystem's own"));
        }
        let inode = self.inode(number)?;
        match inode.has(flags::EA_INODE) {
            true => Err(inode.corrupt("a file", "the value of an attribute")),
            false => Ok(inode),
        }
    }

    /// The inode of a folder.
    fn folder(&self, folder: FileId) -> Result<Inode> {
        let inode = self.file(folder)?;
        match inode.file_type()? {
            FileType::Directory => Ok(inode),
            _ => Err(Error::new(ErrorKind::Invalid, format!("{} is no folder", inode.number))),
        }
    }
}

/// The inode that a file's number stands for.
fn number(file: FileId) -> Result<InodeNumber> {
    let number = u32::try_from(file.number).ok().filter(|number| *number > 0 && file.tree == 0);
    let none = || Error::new(ErrorKind::Invalid, format!("{file:?} is no file of ext"));
    number.map(InodeNumber).ok_or_else(none)
}

fn id(inode: InodeNumber) -> FileId {
    FileId::new(u64::from(inode.0))
}

impl Filesystem for Ext {
    fn info(&self) -> &FilesystemInfo {
        &self.info
    }

    fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    fn root(&self) -> FileId {
        id(ROOT_INODE)
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let folder = self.folder(folder)?;
        Ok(self.find(&folder, name)?.map(id))
    }

    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()> {
        let folder = self.folder(folder)?;
        self.entries(&folder, &mut |entry| match entry {
            Ok(entry) if entry.name == b"." || entry.name == b".." => ControlFlow::Continue(()),
            Ok(entry) => visit(Ok(DirEntry {
                name: entry.name.to_vec(),
                file: id(entry.inode),
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
        self.each_attribute(&self.file(file)?, visit);
        Ok(())
    }

    fn may_share(&self, _file: FileId) -> Result<bool> {
        Ok(false)
    }

    fn replayed(&self) -> &[ByteRange] {
        &self.replayed
    }

    fn numbered(&self) -> Option<&dyn Numbered> {
        // What fast commits change is nowhere on the volume.
        self.changes.is_empty().then_some(self)
    }

    fn survey(&self) -> Result<Option<Box<dyn Survey + '_>>> {
        if self.numbered().is_none() {
            return Ok(None);
        }
        self.check_tables()?;
        Ok(Some(Box::new(self)))
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.free_ranges(visit)
    }

    fn likely_free_space(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.likely_free_ranges(visit)
    }
}
