//! What is made of the items of committed transactions, in their order.
//!
//! As the kernel's `xlog_recover_reorder_trans` and `xlog_recover_commit_trans`
//! (`fs/xfs/xfs_log_recover.c`) have it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::geometry::Geometry;
use super::super::units::InodeNumber;
use super::buffer::{Buffer, Format};
use super::intents::Intents;
use super::overlay::Overlay;
use super::ring::Lsn;
use super::transactions::Item;
use crate::base::Result;

/// Sorts of items.
mod kinds {
    pub(super) const INODE: u16 = 0x123b;
    pub(super) const BUFFER: u16 = 0x123c;
    pub(super) const DQUOT: u16 = 0x123d;
    pub(super) const QUOTA_OFF: u16 = 0x123e;
    pub(super) const NEW_INODES: u16 = 0x123f;
}

/// Buffers of which what was logged is void, and how often that is said.
#[derive(Debug, Default)]
pub(super) struct Cancelled(BTreeMap<Buffer, u32>);

impl Cancelled {
    fn add(&mut self, buffer: Buffer) {
        let count = self.0.entry(buffer).or_default();
        *count = count.saturating_add(1);
    }

    /// One of its cancellations is past: what comes after the last of them holds.
    pub(super) fn take(&mut self, buffer: Buffer) {
        if let Some(count) = self.0.get_mut(&buffer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(&buffer);
            }
        }
    }

    pub(super) fn has(&self, buffer: Buffer) -> bool {
        self.0.contains_key(&buffer)
    }

    /// Whether a buffer in these sectors is cancelled.
    pub(super) fn has_within(&self, sector: u64, sectors: u64) -> bool {
        let start = Buffer { sector, sectors: 0 };
        let end = Buffer { sector: sector.saturating_add(sectors), sectors: 0 };
        self.0.range(start..end).next().is_some()
    }

    /// Notes what a transaction cancels, on a first pass.
    pub(super) fn note(&mut self, items: &[Item]) -> Result<()> {
        for item in items.iter().filter(|item| item.kind() == kinds::BUFFER) {
            let format = Format::parse(item.format())?;
            if format.is_cancel() {
                self.add(format.buffer);
            }
        }
        Ok(())
    }
}

/// The state of a replay.
pub(super) struct Replayer<'a> {
    pub geometry: &'a Geometry,
    pub is_v5: bool,
    /// What may identify the filesystem in its metadata, and what does.
    pub uuids: [[u8; 16]; 2],
    pub metadata_uuid: [u8; 16],
    pub overlay: Overlay,
    pub cancelled: Cancelled,
    /// Sectors where metadata was damaged before, and stays so.
    pub damaged: BTreeSet<u64>,
    pub intents: Intents,
    /// Files of which the log has more to do than a reader can, and what.
    pub unfinished: BTreeMap<InodeNumber, String>,
    /// Items of sorts that are not known.
    pub unknown: BTreeSet<u16>,
}

impl<'a> Replayer<'a> {
    pub(super) fn new(geometry: &'a Geometry, overlay: Overlay, cancelled: Cancelled) -> Self {
        Self {
            geometry,
            is_v5: false,
            uuids: [[0; 16]; 2],
            metadata_uuid: [0; 16],
            overlay,
            cancelled,
            damaged: BTreeSet::new(),
            intents: Intents::default(),
            unfinished: BTreeMap::new(),
            unknown: BTreeSet::new(),
        }
    }

    /// Replays a transaction: buffers and new inodes first, then inodes, then what is cancelled.
    ///
    /// # Errors
    /// `Corrupt` where an item makes no sense; `Limit`; the volume's own.
    pub(super) fn commit(&mut self, lsn: Lsn, mut items: Vec<Item>) -> Result<()> {
        items.sort_by_cached_key(|item| match item.kind() {
            kinds::BUFFER => Format::parse(item.format()).map_or(0, |format| format.order()),
            kinds::NEW_INODES => 0,
            _ => 1,
        });
        for item in &items {
            match item.kind() {
                kinds::BUFFER => self.buffer(lsn, item)?,
                kinds::INODE => self.inode(lsn, item)?,
                kinds::NEW_INODES => self.new_inodes(item)?,
                // A reader needs no quotas.
                kinds::DQUOT | kinds::QUOTA_OFF => {}
                kind if self.intents.note(kind, item.format())? => {}
                kind => {
                    self.unknown.insert(kind);
                }
            }
        }
        Ok(())
    }

    /// A tree of extents was given to inode `number`: the log does not say so of its blocks.
    pub(super) fn note_owner_change(&mut self, number: u64) {
        let what = "its extents were another file's, and the log does not say which".to_owned();
        self.unfinished.insert(InodeNumber(number), what);
    }
}
