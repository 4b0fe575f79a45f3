//! Where a disk has data, and where it is known to read as zero without being read.

use std::fs::File;

use super::files::Files;
use super::nbd::NbdExport;
use crate::base::ByteRange;
use crate::sys::{DeviceFacts, sparse};

/// Data is rounded outward to multiples of this many bytes.
const GRANULE: u64 = 4096;
/// Most extents that are told apart (24 MiB of them); the rest of the disk counts as data then.
const MAX_EXTENTS: usize = 1 << 20;

/// What a stretch of a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes that must be read to be known.
    Data,
    /// Nothing: it reads as zero.
    Hole,
}

/// A stretch of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its bytes.
    pub range: ByteRange,
    /// What it holds.
    pub kind: ExtentKind,
}

/// The extents of `files`: sorted, adjoining, covering it exactly. In doubt all is data.
pub(super) fn extents(files: &Files) -> Vec<Extent> {
    let size = files.size();
    let mut found = Collector { size, extents: Vec::new() };
    match &files.facts {
        None => {
            // Data that the filesystem has not placed yet might pass for a hole on some.
            if files.buffered.sync_data().is_ok() {
                found.walk(&files.buffered, 0, size);
            }
        }
        Some(facts) => {
            if let Some((backing, start, end)) = backing_file(files, facts) {
                found.walk(&backing, start, end);
            }
        }
    }
    found.finish()
}

/// The extents of an export, as its server tells. In doubt all is data.
pub(super) fn of_export(export: &NbdExport) -> Vec<Extent> {
    let mut found = Collector { size: export.size(), extents: Vec::new() };
    if let Some(data) = export.data(MAX_EXTENTS / 2) {
        data.iter().for_each(|range| found.push_data(range.start, range.end));
        found.push_data(found.size, found.size);
    }
    found.finish()
}

/// The file behind a loop device (or a partition of one), and the part of it that is shown, if
/// its holes can be relied on.
fn backing_file(files: &Files, facts: &DeviceFacts) -> Option<(File, u64, u64)> {
    let backing = facts.loop_backing.as_ref()?;
    // What was written to the loop device must have reached the file before its holes count.
    files.buffered.sync_all().ok()?;
    let file = backing.open().ok()?;
    let length = file.metadata().ok()?.len();
    let start = backing.offset.checked_add(facts.start)?;
    let end = start.checked_add(files.size())?;
    let limit = match backing.size_limit {
        0 => length,
        limit => length.min(backing.offset.checked_add(limit)?),
    };
    // A file that shrank below the device gives errors, not holes: that must be read to be seen.
    // A loop device does not show a last part of less than a sector, so more is fine.
    (end <= limit).then_some((file, start, end))
}

struct Collector {
    size: u64,
    extents: Vec<Extent>,
}

impl Collector {
    /// Adds what `file` says of its bytes from `start` to `end`, which are the disk's from 0.
    fn walk(&mut self, file: &File, start: u64, end: u64) {
        let mut at = start;
        while at < end && self.extents.len() < MAX_EXTENTS {
            // On any error the rest is left to `finish`, which takes it for data.
            let Ok(data) = sparse::next_data(file, at) else { return };
            let data = data.unwrap_or(end).min(end);
            if data < at {
                return;
            }
            let hole = match sparse::next_hole(file, data) {
                Ok(hole) if hole > data => hole.min(end),
                _ if data == end => end,
                _ => return,
            };
            self.push_data(data - start, hole - start);
            at = hole;
            if data == end {
                break;
            }
        }
        if at < end {
            self.push_data(at - start, end - start);
        }
    }

    /// Adds data, and the hole before it.
    fn push_data(&mut self, start: u64, end: u64) {
        let known = self.extents.last().map_or(0, |last| last.range.end);
        let start = if start >= self.size { self.size } else { start - start % GRANULE };
        let start = start.max(known);
        let end = end.div_ceil(GRANULE).saturating_mul(GRANULE).min(self.size);
        self.push(ByteRange { start: known, end: start }, ExtentKind::Hole);
        self.push(ByteRange { start, end }, ExtentKind::Data);
    }

    fn push(&mut self, range: ByteRange, kind: ExtentKind) {
        if range.is_empty() {
            return;
        }
        match self.extents.last_mut() {
            Some(last) if last.kind == kind => last.range.end = range.end,
            _ => self.extents.push(Extent { range, kind }),
        }
    }

    /// The extents, with whatever nobody told about as data.
    fn finish(mut self) -> Vec<Extent> {
        let known = self.extents.last().map_or(0, |last| last.range.end);
        self.push(ByteRange { start: known, end: self.size }, ExtentKind::Data);
        self.extents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_rounded_outward_and_neighbours_merge() {
        let mut collector = Collector { size: 20_000, extents: Vec::new() };
        collector.push_data(5000, 6000);
        collector.push_data(8191, 8192);
        collector.push_data(17_000, 17_001);
        let extent = |start, end, kind| Extent { range: ByteRange { start, end }, kind };
        assert_eq!(
            collector.finish(),
            [
                extent(0, 4096, ExtentKind::Hole),
                extent(4096, 8192, ExtentKind::Data),
                extent(8192, 16_384, ExtentKind::Hole),
                extent(16_384, 20_000, ExtentKind::Data),
            ]
        );
    }

    #[test]
    fn what_nobody_told_about_is_data() {
        let extents = Collector { size: 10, extents: Vec::new() }.finish();
        assert_eq!(
            extents,
            [Extent { range: ByteRange { start: 0, end: 10 }, kind: ExtentKind::Data }]
        );
        assert!(Collector { size: 0, extents: Vec::new() }.finish().is_empty());
    }
}
