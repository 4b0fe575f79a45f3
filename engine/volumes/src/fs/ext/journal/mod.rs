//! The journal: what a crash left to be written, laid over the volume in memory.
//!
//! Kernel documentation, `filesystems/ext4/journal.rst`; all of its fields are big-endian.
//! [`Log`] is the journal as a ring of blocks; `scan` finds its whole transactions and
//! what they revoke; the result is an overlay, which every later read goes through. What
//! `fast_commit` finds behind the ring is no blocks, but [`Changes`] of files.

mod crc;
mod fast_commit;
mod header;
mod log;
mod overlay;
mod scan;
mod tags;

use std::sync::Arc;

use super::Ext;
use super::changes::Changes;
use super::features::{compat, incompat};
use super::inode::Inode;
use super::units::InodeNumber;
use crate::base::{ByteRange, Error, ErrorKind, ReadAt, Result};
use log::Log;

/// What came of a dirty journal.
pub(super) struct Replay {
    /// The volume with the journal's blocks over it.
    pub volume: Arc<dyn ReadAt>,
    /// What fast commits change of what is there.
    pub changes: Changes,
    /// What is to be said of it.
    pub note: String,
    /// What of it is damaged, so that something older is read.
    pub damage: Vec<String>,
    /// Why the result is not to be trusted with what is free, if it is not.
    pub doubt: Option<String>,
    /// What of the volume the journal has newer.
    pub replayed: Vec<ByteRange>,
}

impl Ext {
    /// Lays what the journal holds over `volume`; `None` if there is nothing to replay. Copies of
    /// the superblock do not say whether there is, so with `always`, the journal itself is asked.
    ///
    /// # Errors
    /// `Unsupported` for a journal on another device, and for features that are not known;
    /// `Corrupt` when the journal cannot be read.
    pub(super) fn replay(&self, volume: &Arc<dyn ReadAt>, always: bool) -> Result<Option<Replay>> {
        let superblock = &self.superblock;
        let has_journal = superblock.has_compat(compat::HAS_JOURNAL);
        let is_dirty = superblock.has_incompat(incompat::RECOVER) || always && has_journal;
        if !is_dirty {
            return Ok(None);
        }
        if !has_journal {
            return Err(Error::corrupt("superblock", "has_journal with needs_recovery", "none"));
        }
        if superblock.s_journal_inum == 0 {
            let context = "the journal needs to be replayed, but is on another device";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let inode = self.inode(InodeNumber(superblock.s_journal_inum));
        let inode = inode.map_err(|error| error.within("journal"))?;
        self.replay_log(&inode, volume).map_err(|error| error.within("journal"))
    }

    fn replay_log(&self, inode: &Inode, volume: &Arc<dyn ReadAt>) -> Result<Option<Replay>> {
        let log = Log::open(self, inode)?;
        let found = scan::scan(&log)?;
        let fast = fast_commit::read(&log, found.next_sequence)?;
        let damage: Vec<String> = found.damage.into_iter().chain(fast.damage).collect();
        if found.copies.is_empty() && fast.count == 0 && damage.is_empty() {
            return Ok(None);
        }
        let what = match (found.copies.len(), fast.count) {
            (blocks, 0) => format!("{blocks} blocks"),
            (blocks, commits) => format!("{blocks} blocks and {commits} fast commits"),
        };
        let doubt = (!damage.is_empty()).then(|| "the journal is damaged".to_owned());
        // The bitmaps say nothing of what fast commits allocate.
        let fast_doubt = (fast.count > 0).then(|| "fast commits were replayed".to_owned());
        let block_size = self.geometry().block_size;
        Ok(Some(Replay {
            replayed: overlay::covered(block_size, &found.copies),
            volume: overlay::over(volume, block_size, found.copies),
            changes: Changes::new(fast.changes),
            note: format!("The journal was replayed in memory: {what}."),
            damage,
            doubt: doubt.or(fast_doubt),
        }))
    }
}
