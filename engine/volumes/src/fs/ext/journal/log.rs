//! The journal as a ring of blocks, wherever on the volume those are.

use super::super::Ext;
use super::super::inode::Inode;
use super::super::map::{Run, RunPlace};
use super::super::units::FileBlock;
use super::header::JournalSuperblock;
use crate::base::{Error, ErrorKind, Result, limits};

/// An open journal.
pub(super) struct Log<'a> {
    ext: &'a Ext,
    /// Where its blocks are, ascending, all of them.
    runs: Vec<Run>,
    pub superblock: JournalSuperblock,
}

impl<'a> Log<'a> {
    /// Opens the journal that is the content of `inode`.
    ///
    /// # Errors
    /// `Limit` if it is too large; `Corrupt` where it has holes; see
    /// [`JournalSuperblock::parse`].
    pub(super) fn open(ext: &'a Ext, inode: &Inode) -> Result<Self> {
        let blocks = ext.geometry().blocks_of(inode.i_size);
        if blocks > limits::MAX_JOURNAL_BLOCKS.min(ext.geometry().block_count) {
            return Err(Error::new(ErrorKind::Limit, format!("a journal of {blocks} blocks")));
        }
        let mut runs = Vec::new();
        let mut next = FileBlock(0);
        while next.0 < blocks {
            let run = ext.run(inode, next, blocks)?;
            if !matches!(run.place, RunPlace::At(_)) {
                return Err(Error::corrupt(next, "a block", "a hole"));
            }
            next = FileBlock(run.end());
            runs.push(run);
        }
        let block_size = ext.geometry().block_size;
        let first = read(ext, place(ext, &runs, 0)?)?;
        let superblock = JournalSuperblock::parse(&first, block_size)?;
        if u64::from(superblock.s_maxlen) > blocks {
            return Err(Error::corrupt(
                "superblock",
                format!("{blocks} blocks"),
                superblock.s_maxlen,
            ));
        }
        Ok(Self { ext, runs, superblock })
    }

    /// The byte of the volume at which block `number` is.
    pub(super) fn place(&self, number: u32) -> Result<u64> {
        place(self.ext, &self.runs, number)
    }

    /// Block `number`. It goes past the cache: what is in a journal is read once.
    pub(super) fn read(&self, number: u32) -> Result<Vec<u8>> {
        read(self.ext, self.place(number)?)
    }

    /// The block at byte `place` of the volume.
    pub(super) fn read_at(&self, place: u64) -> Result<Vec<u8>> {
        read(self.ext, place)
    }

    /// The block after `number` in the ring.
    pub(super) fn after(&self, number: u32) -> u32 {
        let next = number.saturating_add(1);
        if next < self.superblock.ring_end() { next } else { self.superblock.s_first }
    }

    /// Blocks of the ring.
    pub(super) fn length(&self) -> u32 {
        self.superblock.ring_end().saturating_sub(self.superblock.s_first)
    }

    /// Bytes of the filesystem's inodes.
    pub(super) fn inode_size(&self) -> u16 {
        self.ext.geometry().inode_size
    }

    /// Blocks of the filesystem.
    pub(super) fn filesystem_blocks(&self) -> u64 {
        self.ext.geometry().block_count
    }
}

fn place(ext: &Ext, runs: &[Run], number: u32) -> Result<u64> {
    let block = FileBlock(u64::from(number));
    let after = runs.partition_point(|run| run.first <= block);
    let run = after.checked_sub(1).and_then(|at| runs.get(at));
    match run.filter(|run| block.0 < run.end()).map(|run| run.place_of(block)) {
        Some(RunPlace::At(block)) => Ok(ext.geometry().offset(block)),
        _ => Err(Error::corrupt(block, "a block of the journal", "none")),
    }
}

fn read(ext: &Ext, place: u64) -> Result<Vec<u8>> {
    let mut block = vec![0; ext.geometry().block_bytes()];
    ext.blocks.read_bytes(place, &mut block)?;
    Ok(block)
}
