//! All that files consist of: every chunk of inodes, and what each inode leads to.
//!
//! The trees of inodes are maps as well, and may lie. So folders are listed, and where a name leads
//! to an inode that is in none of the chunks, nothing is said of the filesystem.

use std::ops::ControlFlow;

use super::Xfs;
use super::chunks::{CHUNK_INODES, Chunk};
use super::inode::{Form, Inode};
use super::map::Map;
use super::numbered::check_mode;
use super::units::{GroupNumber, InodeNumber, index};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::{FileId, FileType, Show, Survey};

/// Chunks of a share.
const SHARE: usize = 32;

/// All chunks of inodes, by group and place.
pub(super) struct Chunks<'a> {
    xfs: &'a Xfs,
    chunks: Vec<(GroupNumber, Chunk)>,
}

impl Xfs {
    /// All chunks of inodes.
    ///
    /// # Errors
    /// `Corrupt` where a tree is damaged; `Limit` where there are too many.
    pub(super) fn all_chunks(&self) -> Result<Chunks<'_>> {
        let mut chunks = Vec::new();
        for group in (0..self.geometry().group_count).map(GroupNumber) {
            let flow = self.each_chunk(group, 0, &mut |chunk| {
                if chunks.len() >= limits::MAX_SURVEYED {
                    let context = format!("more than {} chunks of inodes", limits::MAX_SURVEYED);
                    return Err(Error::new(ErrorKind::Limit, context));
                }
                chunks.push((group, *chunk));
                Ok(ControlFlow::Continue(()))
            });
            let _ = flow.map_err(|error| error.within(group))?;
        }
        Ok(Chunks { xfs: self, chunks })
    }
}

impl Survey for Chunks<'_> {
    fn shares(&self) -> usize {
        self.chunks.len().div_ceil(SHARE)
    }

    fn each_part(&self, share: usize, show: Show<'_>) -> Result<()> {
        let chunks = self.chunks.chunks(SHARE).nth(share).unwrap_or_default();
        let mut buffer = Vec::new();
        for (group, chunk) in chunks {
            let places = self.xfs.read_chunk(*group, chunk, &mut buffer)?;
            let size = index(self.xfs.geometry().inode_size);
            for (bytes, place) in buffer.chunks(size).zip(places) {
                if !chunk.has(place) {
                    continue;
                }
                let within = chunk.first.saturating_add(place.into());
                let number = self.xfs.geometry().inode_in(*group, within)?;
                self.look_at((number, chunk.is_free(place)), bytes, &mut *show)
                    .map_err(|error| error.within(number))?;
            }
        }
        Ok(())
    }
}

impl Chunks<'_> {
    /// Shows the parts of inode `number`, if it is in use and was not removed while it was open.
    fn look_at(
        &self,
        (number, is_free): (InodeNumber, bool),
        bytes: &[u8],
        show: Show<'_>,
    ) -> Result<()> {
        check_mode(bytes, is_free)?;
        if is_free {
            return Ok(());
        }
        let inode = self.xfs.inode_of(number, bytes)?;
        if inode.links() == 0 {
            return Ok(());
        }
        let file_type = inode.file_type()?;
        let fork = inode.data_fork()?;
        if file_type == FileType::Regular && fork.form == Form::Btree {
            self.xfs.check_extent_count(&Map::new(&inode, &fork)?, fork.extents)?;
        }
        for part in self.xfs.parts_of(&inode)? {
            show(Some(FileId::new(number.0)), part);
        }
        match file_type {
            FileType::Directory => self.check_names(&inode),
            _ => Ok(()),
        }
    }

    /// Checks that all names of a folder lead to inodes of the chunks.
    fn check_names(&self, folder: &Inode) -> Result<()> {
        let mut outcome = Ok(());
        self.xfs.entries(folder, &mut |entry| {
            outcome = entry.and_then(|entry| match self.is_in_use(entry.inode) {
                true => Ok(()),
                false => {
                    let context = format!("a name leads to {}, which no tree has", entry.inode);
                    Err(Error::new(ErrorKind::Unsupported, context))
                }
            });
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        outcome
    }

    /// Whether the trees have an inode as one in use.
    fn is_in_use(&self, inode: InodeNumber) -> bool {
        let (group, within) = self.xfs.geometry().split_inode(inode);
        let behind =
            self.chunks.partition_point(|(of, chunk)| (*of, chunk.first) <= (group, within));
        let found = behind.checked_sub(1).and_then(|place| self.chunks.get(place));
        found.filter(|(of, _)| *of == group).is_some_and(|(_, chunk)| {
            let place = within.checked_sub(chunk.first).and_then(|place| u32::try_from(place).ok());
            let place = place.filter(|place| *place < CHUNK_INODES);
            place.is_some_and(|place| chunk.has(place) && !chunk.is_free(place))
        })
    }
}
