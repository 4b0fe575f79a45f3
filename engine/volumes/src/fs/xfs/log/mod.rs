//! The log: what a crash left to be written, laid over the volume in memory.
//!
//! All of it is little-endian but the headers of records and operations: only what a
//! little-endian machine wrote is understood. [`Ring`] is the log as blocks and records; `head`
//! finds which of it counts; `transactions` puts them together; `replay` makes of their items an
//! [`Overlay`], which every later read goes through: of `buffer`s and `inode`s, as the kernel
//! does. What it does beyond that when it mounts, removing files that were open without a name and
//! ending what was begun (extents to free, reverse maps, counts of references), changes nothing
//! that a reader sees, but for files with blocks or attributes to come, which are refused by name.

mod buffer;
mod head;
mod inode;
mod intents;
mod kinds;
mod overlay;
mod replay;
mod ring;
mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Xfs;
use super::features;
use super::units::InodeNumber;
use crate::base::{ByteRange, Error, ErrorKind, ReadAt, Result};
use head::Dirty;
use overlay::Overlay;
use replay::{Cancelled, Replayer};
pub(super) use ring::MAGIC;
use ring::Ring;

/// What came of a dirty log.
pub(super) struct Replay {
    /// The volume with the log's changes over it.
    pub volume: Arc<dyn ReadAt>,
    /// What is to be said of it.
    pub notes: Vec<String>,
    /// What of it is damaged, so that something older is read.
    pub damage: Vec<String>,
    /// Why the result is not to be trusted with what is free, if it is not.
    pub doubt: Option<String>,
    /// Files that cannot be read as they would be, and why.
    pub unfinished: BTreeMap<InodeNumber, String>,
    /// What of the volume the log has newer.
    pub replayed: Vec<ByteRange>,
}

impl Xfs {
    /// Lays what the log holds over `volume`; `None` if there is nothing to replay. A log that
    /// cannot be replayed is left out, and told.
    ///
    /// # Errors
    /// The run's being stopped.
    pub(super) fn replay(&self, volume: &Arc<dyn ReadAt>) -> Result<Option<Replay>> {
        if self.superblock.sb_logstart == 0 {
            return Ok(None);
        }
        let found = self.ring(volume).and_then(|ring| Ok((head::find(&ring)?, ring)));
        let replayed = match found {
            Ok((None, _)) => return Ok(None),
            Ok((Some(dirty), ring)) => self.replay_ring(volume, &ring, dirty),
            Err(error) => Err(error),
        };
        match replayed {
            Ok(replay) => Ok(Some(replay)),
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            Err(error) => Ok(Some(Replay {
                volume: Arc::clone(volume),
                notes: Vec::new(),
                damage: vec![format!(
                    "The log cannot be replayed, so what it holds is not seen, and what is on the \
                     volume may be stale: {error}."
                )],
                doubt: Some("the log cannot be replayed".to_owned()),
                unfinished: BTreeMap::new(),
                replayed: Vec::new(),
            })),
        }
    }

    fn ring(&self, volume: &Arc<dyn ReadAt>) -> Result<Ring> {
        let geometry = self.geometry();
        let (start, blocks) =
            self.log_place().filter(|(_, blocks)| *blocks > 0).ok_or_else(|| {
                let found = format!("{} blocks", self.superblock.sb_logblocks);
                Error::corrupt("superblock", "a log within the filesystem", found)
            })?;
        let sectors = blocks.saturating_mul(u64::from(geometry.block_size)) / 512;
        let place = (geometry.offset(start), sectors);
        let range = geometry.range(start, blocks);
        if range.end > volume.size().0 {
            return Err(Error::corrupt("log", "a log within the volume", range));
        }
        let uuid = self.superblock.sb_uuid;
        Ok(Ring::new(volume, place, uuid, self.superblock.is_v5()))
    }

    fn replay_ring(&self, volume: &Arc<dyn ReadAt>, ring: &Ring, dirty: Dirty) -> Result<Replay> {
        let mut cancelled = Cancelled::default();
        transactions::each(ring, dirty, &mut |_, items| cancelled.note(&items))?;
        let mut replayer = Replayer::new(self.geometry(), Overlay::new(volume), cancelled);
        replayer.is_v5 = self.superblock.is_v5();
        replayer.uuids = [self.superblock.sb_uuid, self.superblock.metadata_uuid()];
        replayer.metadata_uuid = self.superblock.metadata_uuid();
        let mut count = 0_u64;
        let ended = transactions::each(ring, dirty, &mut |lsn, items| {
            count = count.saturating_add(1);
            replayer.commit(lsn, items)
        })?;
        let begun = replayer.intents.len();
        replayer.unfinished.extend(replayer.intents.files());
        let mut notes = vec![format!(
            "The log was replayed in memory: {count} transactions, {} sectors.",
            replayer.overlay.len()
        )];
        // Records of version 4 have no checksums, so what was in flight may be among them.
        let is_v5 = self.superblock.is_v5();
        let mut doubt = (!is_v5).then(|| "a log without checksums was replayed".to_owned());
        let mut damage = Vec::new();
        if let Some(error) = ended {
            damage.push(format!("The log is damaged; what comes after is not replayed: {error}."));
            doubt = doubt.or(Some("the log is damaged".to_owned()));
        }
        if dirty.is_torn {
            let note = "The log's last records are damaged, and taken for not written.";
            notes.push(note.to_owned());
            doubt = doubt.or(Some("the end of the log is damaged".to_owned()));
        }
        if !replayer.damaged.is_empty() {
            let count = replayer.damaged.len();
            damage.push(format!("{count} pieces of metadata that the log changes are damaged."));
            doubt = doubt.or(Some("metadata is damaged".to_owned()));
        }
        let unknown = self.superblock.sb_features_log_incompat;
        if !replayer.unknown.is_empty() || is_v5 && unknown & !1 != 0 {
            let names = features::describe(unknown, &["xattrs"]);
            let kinds = &replayer.unknown;
            let note = format!(
                "The log has what is not known, which was not replayed: items {kinds:#x?}, \
                 features {names}."
            );
            damage.push(note);
            doubt = doubt.or(Some("the log has what is not known".to_owned()));
        }
        if begun > 0 {
            let note = format!("{begun} operations that the log has begun were not ended.");
            notes.push(note);
            doubt = doubt.or(Some("the log has operations to end".to_owned()));
        }
        let Replayer { overlay, unfinished, .. } = replayer;
        if !unfinished.is_empty() {
            let count = unfinished.len();
            notes.push(format!("{count} files cannot be read before the log's operations end."));
        }
        let replayed = overlay.covered();
        Ok(Replay { volume: Arc::new(overlay), notes, damage, doubt, unfinished, replayed })
    }
}
