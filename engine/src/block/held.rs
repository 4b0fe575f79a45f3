//! Whether a target holds anything that a restore would destroy.

use super::Target;
use super::extents::{self, ExtentKind};
use super::files::index;
use crate::base::{ByteCount, ByteOffset, ByteRange, Result};

/// Bytes at either end that are read in full: partition tables, boot loaders, superblocks and
/// metadata copies lie there.
const ENDS: u64 = 1 << 20;
/// Bytes of a sample from between.
const SAMPLE: u64 = 4096;

impl Target {
    /// The place of a byte that is not zero, if one is found: in the first or last MiB, which are
    /// read in full, or in samples of 4 KiB spread evenly over the rest, of `limit` bytes in all.
    /// Holes are skipped. Finding none does not prove that there is none.
    ///
    /// # Errors
    /// `Io` if the target cannot be read.
    pub fn first_data(&self, limit: ByteCount) -> Result<Option<ByteOffset>> {
        let size = self.files.size();
        let extents = extents::extents(&self.files);
        let data = extents.iter().filter(|extent| extent.kind == ExtentKind::Data);
        let data: Vec<ByteRange> = data.map(|extent| extent.range).collect();
        let last = size.saturating_sub(ENDS).max(ENDS.min(size));
        let head = ByteRange { start: 0, end: ENDS.min(size) };
        let tail = ByteRange { start: last, end: size };
        for end in [head, tail] {
            if let Some(found) = self.scan(&data, end)? {
                return Ok(Some(found));
            }
        }
        let total: u64 = data.iter().map(ByteRange::len).sum();
        let samples = (limit.0 / SAMPLE).max(1);
        let step = (total / samples).next_multiple_of(SAMPLE).max(SAMPLE);
        // Bytes of the current range that are to be skipped to reach the next sample.
        let mut skip = 0;
        for range in &data {
            while skip < range.len() {
                let sample = ByteRange::new(range.start + skip, SAMPLE.min(range.len() - skip));
                if let Some(found) = self.nonzero(sample)? {
                    return Ok(Some(found));
                }
                skip += step;
            }
            skip -= range.len();
        }
        Ok(None)
    }

    /// The place of the first byte within `range` that is not zero, if there is one. All of it is
    /// read, but for holes.
    ///
    /// # Errors
    /// `Io` if the target cannot be read.
    pub fn data_in(&self, range: ByteRange) -> Result<Option<ByteOffset>> {
        let extents = extents::extents(&self.files);
        let data = extents.iter().filter(|extent| extent.kind == ExtentKind::Data);
        let data: Vec<ByteRange> = data.map(|extent| extent.range).collect();
        self.scan(&data, range)
    }

    fn scan(&self, data: &[ByteRange], within: ByteRange) -> Result<Option<ByteOffset>> {
        for range in data.iter().filter_map(|range| range.intersection(&within)) {
            if let Some(found) = self.nonzero(range)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn nonzero(&self, range: ByteRange) -> Result<Option<ByteOffset>> {
        let mut bytes = vec![0; index(range.len())];
        self.files.read_exact_at(ByteOffset(range.start), &mut bytes)?;
        let place = bytes.iter().position(|byte| *byte != 0);
        Ok(place.map(|place| ByteOffset(range.start + place as u64)))
    }
}
