//! Fast commits: what happened since the last transaction, written behind the journal's ring as
//! changes to files rather than as blocks.
//!
//! Kernel documentation, `filesystems/ext4/journal.rst`, "Fast Commits". They are recognised here,
//! not replayed.

use super::log::Log;
use crate::base::fields::{le16, le32};
use crate::base::{Error, ErrorKind, Result};

/// `EXT4_FC_TAG_HEAD`, the first tag of an area in use.
const TAG_HEAD: u16 = 0x9;

/// Refuses a journal whose fast commits follow its last whole transaction: without them the
/// view would silently be an older one.
///
/// # Errors
/// `Unsupported` if there are any; the volume's own.
pub(super) fn refuse(log: &Log<'_>, next_sequence: u32) -> Result<()> {
    if log.superblock.fast_commit_blocks == 0 {
        return Ok(());
    }
    // jbd2 leaves the first block after the ring out.
    let block = log.read(log.superblock.ring_end().saturating_add(1))?;
    // A tag and its length come before `fc_features` and `fc_tid`.
    let is_head = le16(&block, 0) == Some(TAG_HEAD);
    if is_head && le32(&block, 8) == Some(next_sequence) {
        let context = "fast commits that need to be replayed, which is not supported";
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    Ok(())
}
