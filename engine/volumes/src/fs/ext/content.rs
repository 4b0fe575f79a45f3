//! The content of files and the targets of links.

use super::Ext;
use super::inode::{I_BLOCK_SIZE, Inode, flags};
use super::map::{Run, RunPlace};
use super::units::{FileBlock, bytes, index};
use crate::base::fields::slice;
use crate::base::{Error, ErrorKind, Result, limits};
use crate::fs::{Extent, FileContent, FileType, Place, Visit};

/// An open file.
pub(super) struct Content<'a> {
    ext: &'a Ext,
    inode: Inode,
    /// The content, if it is within the inode.
    inline: Option<Vec<u8>>,
    /// The run that was read last: the next read is likely to go on there.
    run: Option<Run>,
}

impl Ext {
    /// Opens the content of `inode`, whatever its type.
    ///
    /// # Errors
    /// `Unsupported` if it is encrypted; `Corrupt` if it is inline and damaged.
    pub(super) fn content(&self, inode: Inode) -> Result<Content<'_>> {
        if inode.has(flags::ENCRYPT) {
            let context = format!("{} is encrypted (fscrypt)", inode.number);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let inline = match inode.has(flags::INLINE_DATA) {
            true => Some(self.inline_content(&inode)?),
            false => None,
        };
        Ok(Content { ext: self, inode, inline, run: None })
    }

    /// All of a small file.
    ///
    /// # Errors
    /// See [`FileContent::read_at`].
    pub(super) fn whole_content(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut whole = vec![0; index(inode.i_size).min(limits::MAX_XATTR_SIZE)];
        self.content(inode.clone())?.read_at(0, &mut whole)?;
        Ok(whole)
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// `Invalid` if it is none; `Unsupported` if it is encrypted; `Corrupt`.
    pub(super) fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.file_type()? != FileType::Symlink {
            let context = format!("{} is no symbolic link", inode.number);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        if inode.i_size > u64::from(self.geometry().block_size) {
            return Err(inode.corrupt("a target of one block at most", inode.i_size));
        }
        let mut target = match slice(&inode.i_block, 0, index(inode.i_size)) {
            Some(target) if self.is_fast_link(inode) => target.to_vec(),
            _ => self.whole_content(inode)?,
        };
        let end = target.iter().position(|byte| *byte == 0).unwrap_or(target.len());
        target.truncate(end);
        Ok(target)
    }

    /// Whether a link's target is where its map would be: it has no blocks then, other than that
    /// of its extended attributes.
    pub(super) fn is_fast_link(&self, inode: &Inode) -> bool {
        let geometry = self.geometry();
        let sectors = geometry.block_size.saturating_mul(geometry.cluster_blocks) / 512;
        let attributes = if inode.i_file_acl.0 == 0 { 0 } else { sectors };
        let other = flags::ENCRYPT | flags::INLINE_DATA | flags::EXTENTS;
        index(inode.i_size) < I_BLOCK_SIZE && !inode.has(other) && inode.i_blocks_lo <= attributes
    }
}

impl Content<'_> {
    /// The file block after the last.
    fn end(&self) -> u64 {
        self.ext.geometry().blocks_of(self.inode.i_size)
    }

    fn run_at(&mut self, block: FileBlock) -> Result<Run> {
        let known = self.run.filter(|run| run.first <= block && block.0 < run.end());
        let run = match known {
            Some(run) => run,
            None => self.ext.run(&self.inode, block, self.end())?,
        };
        self.run = Some(run);
        let count = run.end().saturating_sub(block.0);
        Ok(Run { first: block, count, place: run.place_of(block) })
    }

    /// Fills the start of `buffer` from `offset`, within one run; returns how many bytes.
    fn read_run(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let block_size = u64::from(self.ext.geometry().block_size).max(1);
        let block = FileBlock(offset.checked_div(block_size).unwrap_or(0));
        let within = offset.checked_rem(block_size).unwrap_or(0);
        let run = self.run_at(block)?;
        let length = run.count.saturating_mul(block_size).saturating_sub(within);
        let length = index(length).min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        match run.place {
            RunPlace::At(first) => {
                let start = self.ext.geometry().offset(first).saturating_add(within);
                let read = self.ext.blocks.read_bytes(start, part);
                read.map_err(|error| error.within(self.inode.number))?;
            }
            RunPlace::Unwritten(_) | RunPlace::Hole => part.fill(0),
        }
        Ok(length)
    }
}

impl FileContent for Content<'_> {
    fn size(&self) -> u64 {
        self.inode.i_size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = index(self.inode.i_size.saturating_sub(offset)).min(buffer.len());
        let buffer = buffer.get_mut(..left).unwrap_or_default();
        if let Some(inline) = &self.inline {
            let content = slice(inline, index(offset), left).unwrap_or_default();
            buffer.get_mut(..content.len()).unwrap_or_default().copy_from_slice(content);
            return Ok(content.len());
        }
        let mut done = 0_usize;
        while done < left {
            let rest = buffer.get_mut(done..).unwrap_or_default();
            let count = self.read_run(offset.saturating_add(bytes(done)), rest)?;
            done = done.saturating_add(count.max(1));
        }
        Ok(left)
    }

    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
        let size = self.inode.i_size;
        if self.inline.is_some() && size > 0 {
            let _ = visit(Extent { offset: 0, length: size, place: Place::Inline });
            return Ok(());
        }
        let geometry = self.ext.geometry();
        let block_size = u64::from(geometry.block_size);
        let mut next = FileBlock(0);
        let mut mapped = 0_u64;
        while next.0 < self.end() {
            let run = self.ext.run(&self.inode, next, self.end())?;
            // Whoever asks where it is reads it next.
            self.run.get_or_insert(run);
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
            // A sound file has no block twice; a map that leads in circles would go on for ever.
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
