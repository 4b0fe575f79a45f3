//! The content of files and the targets of links.

use super::Xfs;
use super::inode::{Form, Inode};
use super::map::{Map, Run, RunPlace};
use super::stamp::REMOTE;
use super::units::{FileBlock, bytes, index};
use crate::base::fields::{be32, has, slice};
use crate::base::{Error, ErrorKind, Result};
use crate::fs::{Extent, FileContent, FileType, Place, Visit};

/// What the header of a block of a link's target starts with, in version 5.
const TARGET_MAGIC: &[u8] = b"XSLM";
/// Bytes of that header, and of the one of an attribute's value.
pub(super) const REMOTE_HEADER: usize = 56;
/// Bytes of a target at most.
const MAX_TARGET: u64 = 1024;

/// An open file.
pub(super) struct Content<'a> {
    xfs: &'a Xfs,
    inode: Inode,
    map: Map,
    /// The run that was read last: the next read is likely to go on there.
    run: Option<Run>,
}

impl Xfs {
    /// Opens the content of the regular file `inode`.
    ///
    /// # Errors
    /// `Unsupported` if it is on the realtime device, or the log has more to do to it.
    pub(super) fn content(&self, inode: Inode) -> Result<Content<'_>> {
        let unsupported =
            |what: &str| Error::new(ErrorKind::Unsupported, format!("{}: {what}", inode.number));
        if inode.is_realtime() {
            return Err(unsupported("its content is on the realtime device"));
        }
        if let Some(what) = self.unfinished.get(&inode.number) {
            return Err(unsupported(what));
        }
        let fork = inode.data_fork()?;
        let map = Map::new(&inode, &fork)?;
        self.check_extent_count(&map, fork.extents).map_err(|error| error.within(inode.number))?;
        Ok(Content { xfs: self, inode, map, run: None })
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// `Invalid` if it is none; `Corrupt`.
    pub(super) fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.file_type()? != FileType::Symlink {
            let context = format!("{} is no symbolic link", inode.number);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        if inode.di_size == 0 || inode.di_size > MAX_TARGET {
            let expected = format!("a target of 1 to {MAX_TARGET} bytes");
            return Err(inode.corrupt(expected, inode.di_size));
        }
        let size = index(inode.di_size);
        let fork = inode.data_fork()?;
        let target = match fork.form {
            Form::Local => slice(fork.bytes, 0, size).map(<[u8]>::to_vec),
            _ => Some(self.remote_target(inode, size)?),
        };
        target.ok_or_else(|| inode.corrupt("a target within the inode", size))
    }

    /// A target in blocks of its own: each run of them has a header in version 5.
    fn remote_target(&self, inode: &Inode, size: usize) -> Result<Vec<u8>> {
        let mut map = Map::new(inode, &inode.data_fork()?)?;
        let header = self.header_size(0, REMOTE_HEADER);
        let most = self.geometry().blocks_of(MAX_TARGET).saturating_add(1);
        let mut target = Vec::new();
        let mut next = FileBlock(0);
        // Each run has a byte at least, or is damaged.
        while target.len() < size {
            let run = self.part_of_run(&mut map, next)?;
            let RunPlace::At(first) = run.place else {
                return Err(inode.corrupt(format!("a target in {next}"), "no block"));
            };
            if run.end() > most {
                return Err(inode.corrupt(format!("{most} blocks of target at most"), run.end()));
            }
            let mut buffer =
                vec![0; index(run.count).saturating_mul(self.geometry().block_bytes())];
            self.blocks.read_bytes(self.geometry().offset(first), &mut buffer)?;
            let content = buffer.get(header..).unwrap_or_default();
            let length = content.len().min(size.saturating_sub(target.len()));
            if header > 0 {
                let place = (be32(&buffer, 4), be32(&buffer, 8));
                let expected = (u32::try_from(target.len()).ok(), u32::try_from(length).ok());
                if !has(&buffer, 0, TARGET_MAGIC) || place != expected {
                    let found = format!("bytes {place:?} of one");
                    return Err(inode.corrupt(format!("bytes {expected:?} of a target"), found));
                }
                self.check_stamp(&buffer, &REMOTE, first, inode.number.0)
                    .map_err(|error| error.within(first).within(inode.number))?;
            }
            target.extend(content.get(..length).unwrap_or_default());
            next = FileBlock(run.end());
        }
        Ok(target)
    }
}

impl Content<'_> {
    /// The file block after the last.
    fn end(&self) -> u64 {
        self.xfs.geometry().blocks_of(self.inode.di_size)
    }

    fn run_at(&mut self, block: FileBlock) -> Result<Run> {
        let end = self.end();
        let known = self.run.filter(|run| run.first <= block && block.0 < run.end());
        let run = match known {
            Some(run) => run.from(block),
            None => self.xfs.run(&mut self.map, block, end)?,
        };
        self.run = Some(run);
        Ok(run)
    }

    /// Fills the start of `buffer` from `offset`, within one run; returns how many bytes.
    fn read_run(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let block_size = u64::from(self.xfs.geometry().block_size).max(1);
        let block = FileBlock(offset.checked_div(block_size).unwrap_or(0));
        let within = offset.checked_rem(block_size).unwrap_or(0);
        let run = self.run_at(block)?;
        let length = run.count.saturating_mul(block_size).saturating_sub(within);
        let length = index(length).min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        match run.place {
            RunPlace::At(first) => {
                let start = self.xfs.geometry().offset(first).saturating_add(within);
                let read = self.xfs.blocks.read_bytes(start, part);
                read.map_err(|error| error.within(self.inode.number))?;
            }
            RunPlace::Unwritten(_) | RunPlace::Hole => part.fill(0),
        }
        Ok(length)
    }
}

impl FileContent for Content<'_> {
    fn size(&self) -> u64 {
        self.inode.di_size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = index(self.inode.di_size.saturating_sub(offset)).min(buffer.len());
        let mut done = 0_usize;
        while done < left {
            let rest = buffer.get_mut(done..left).unwrap_or_default();
            let count = self.read_run(offset.saturating_add(bytes(done)), rest)?;
            done = done.saturating_add(count.max(1));
        }
        Ok(left)
    }

    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
        let size = self.inode.di_size;
        let geometry = self.xfs.geometry();
        let block_size = u64::from(geometry.block_size);
        let (end, mut next, mut mapped) = (self.end(), FileBlock(0), 0_u64);
        while next.0 < end {
            let run = self.xfs.run(&mut self.map, next, end)?;
            let offset = next.0.saturating_mul(block_size);
            let length = run.count.saturating_mul(block_size).min(size.saturating_sub(offset));
            let place = match run.place {
                RunPlace::At(first) => Place::At(geometry.offset(first)),
                RunPlace::Unwritten(first) => Place::Unwritten(Some(geometry.offset(first))),
                RunPlace::Hole => Place::Hole,
            };
            if run.place != RunPlace::Hole {
                mapped = mapped.saturating_add(run.count);
            }
            // Shared blocks belong to several files, but are in each once: a map that leads in
            // circles would go on for ever.
            if mapped > geometry.block_count {
                return Err(self.inode.corrupt("fewer blocks than the filesystem has", mapped));
            }
            if visit(Extent { offset, length, place }).is_break() {
                break;
            }
            next = FileBlock(run.end());
        }
        Ok(())
    }
}
