//! btrfs: subvolumes and snapshots, compression, checksums of everything, several devices, and
//! a tree log that was not replayed yet.
//!
//! `superblock` is what the disk says; `chunk` and `device` map the filesystem's own address space
//! to devices, and `pool` reads by it, from whichever copy is sound; `node` and `tree` are its one
//! structure, a tree of items by key. What items say is one file a subject: `root` (subvolumes),
//! `inode`, `dir` (folders, attributes), `extent`, `data` (verified), `content`, `compress`,
//! `free`. `log` is what was synced since the last commit, laid over the subvolumes.
//!
//! The root is that of the top-level subvolume (id 5), whichever is mounted by default; other
//! subvolumes are folders where they are linked. A file's tree is its subvolume's id.
//!
//! Invariants: nothing is believed before its checksum is verified; a node is what its parent says
//! it is, and no walk comes to one twice.
//!
//! Sources: the kernel's headers `include/uapi/linux/btrfs_tree.h` and `btrfs.h`, and the
//! btrfs documentation's "On-disk format".

mod checksum;
mod chunk;
mod compress;
mod content;
mod data;
mod device;
mod dir;
mod extent;
mod features;
mod free;
mod inode;
mod log;
mod node;
mod open;
mod parity;
mod pool;
mod root;
mod shared;
mod superblock;
mod survey;
mod tree;
mod units;

pub(crate) use open::identify;
pub use open::{device_of, open_many};
pub(super) use open::{open, open_by_backup};

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::{
    DirEntry, Doubts, FileContent, FileId, FileType, Filesystem, FilesystemInfo, Metadata, Survey,
    Visit, Xattr,
};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use inode::Inode;
use log::Replay;
use pool::Pool;
use root::Subvolume;
use superblock::Superblock;
use tree::Tree;
use units::objects;

/// An open filesystem.
pub(super) struct Btrfs {
    superblock: Superblock,
    pool: Pool,
    root_tree: Tree,
    /// Missing where nothing has checksums.
    csum_tree: Option<Tree>,
    /// What the log changes, by subvolume.
    replays: BTreeMap<u64, Arc<Replay>>,
    subvolumes: Mutex<HashMap<u64, Arc<Subvolume>>>,
    root: FileId,
    info: FilesystemInfo,
    /// What is damaged of it as a whole.
    doubts: Doubts,
    /// Why it is not certain what is free, if it is not.
    doubt: Option<String>,
}

impl Btrfs {
    fn file(&self, file: FileId) -> Result<(Arc<Subvolume>, Inode)> {
        let subvolume = self.subvolume(file.tree)?;
        let inode = self.inode(&subvolume, file.number)?;
        Ok((subvolume, inode))
    }

    fn folder(&self, file: FileId) -> Result<Arc<Subvolume>> {
        let (subvolume, inode) = self.file(file)?;
        if inode.file_type()? != FileType::Directory {
            let context = format!("inode {} is no folder", inode.number);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        Ok(subvolume)
    }
}

impl Filesystem for Btrfs {
    fn info(&self) -> &FilesystemInfo {
        &self.info
    }

    fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    fn root(&self) -> FileId {
        self.root
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>> {
        if dir::is_placeholder(folder.number) {
            return Ok(None);
        }
        let subvolume = self.folder(folder)?;
        self.find_entry(&subvolume, folder.number, name)
    }

    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()> {
        if dir::is_placeholder(folder.number) {
            return Ok(());
        }
        let subvolume = self.folder(folder)?;
        self.entries(&subvolume, folder.number, visit);
        Ok(())
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        if dir::is_placeholder(file.number) {
            return Ok(dir::placeholder());
        }
        self.file(file)?.1.metadata()
    }

    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>> {
        if dir::is_placeholder(file.number) {
            return Err(Error::new(ErrorKind::Invalid, "a folder has no content"));
        }
        let (subvolume, inode) = self.file(file)?;
        if inode.file_type()? != FileType::Regular {
            let context = format!("inode {} is no regular file", inode.number);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        Ok(Box::new(self.content(subvolume, inode)))
    }

    fn link_target(&self, file: FileId) -> Result<Vec<u8>> {
        if dir::is_placeholder(file.number) {
            return Err(Error::new(ErrorKind::Invalid, "a folder is no symbolic link"));
        }
        let (subvolume, inode) = self.file(file)?;
        self.target(subvolume, inode)
    }

    fn each_xattr(&self, file: FileId, visit: Visit<'_, Result<Xattr>>) -> Result<()> {
        if dir::is_placeholder(file.number) {
            return Ok(());
        }
        let (subvolume, inode) = self.file(file)?;
        self.each_attribute(&subvolume, inode.number, visit);
        Ok(())
    }

    fn may_share(&self, file: FileId) -> Result<bool> {
        let (subvolume, inode) = self.file(file)?;
        self.shares_extents(&subvolume, inode.number)
    }

    fn survey(&self) -> Result<Option<Box<dyn Survey + '_>>> {
        // What the log changes is in no tree of a subvolume.
        if !self.replays.is_empty() || self.why_uncertain().is_some() {
            return Ok(None);
        }
        Ok(Some(Box::new(self.all_leaves()?)))
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.free_ranges(visit)
    }

    fn likely_free_space(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.likely_free_ranges(visit)
    }
}

/// The top-level subvolume, which every filesystem has.
const TOP: u64 = objects::FS_TREE;
