//! Copies: mirrors of the old sort, and which of their regions are in sync.
//!
//! Source: Linux, `drivers/md/dm-log.c` (the log on disk) and `dm-raid1.c`: what is not in sync is
//! read from the first copy, of which the others are made.

use std::sync::Arc;

use super::layers::{clip, length_of, take};
use crate::base::fields::{le32, le64};
use crate::base::limits::MAX_MIRROR_REGIONS;
use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, check_range,
};
use crate::volume::layer::Layer;

/// Which bytes of a copy may be read.
pub(super) enum InSync {
    /// All.
    All,
    /// Those of the regions that a log says are clean.
    Regions(Arc<Log>),
}

impl InSync {
    /// How many of the `length` bytes from `at` are in sync, up to the first that is not.
    fn length(&self, at: u64, length: u64) -> u64 {
        match self {
            Self::All => length,
            Self::Regions(log) => log.clean(at, length),
        }
    }
}

/// A copy.
pub(super) struct Copy {
    pub layer: Arc<dyn Layer>,
    pub in_sync: InSync,
}

/// Copies of the same bytes, in the order in which they are tried.
pub(super) struct Copies {
    pub copies: Vec<Copy>,
    pub length: u64,
}

impl ReadAt for Copies {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let (mut at, mut rest) = (offset.0, buffer);
        while !rest.is_empty() {
            let (mut done, mut failed) = (None, None);
            for copy in &self.copies {
                let length = copy.in_sync.length(at, length_of(rest));
                let count = usize::try_from(length).unwrap_or(usize::MAX);
                let Some(piece) = rest.get_mut(..count).filter(|piece| !piece.is_empty()) else {
                    continue;
                };
                match copy.layer.read_exact_at(ByteOffset(at), piece) {
                    Ok(()) => {
                        done = Some(length);
                        break;
                    }
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            let Some(length) = done else {
                return Err(failed.unwrap_or_else(|| {
                    let why = format!("no copy that is there is known to be in sync at byte {at}");
                    Error::new(ErrorKind::Unsupported, why)
                }));
            };
            take(&mut rest, length);
            at = at.saturating_add(length);
        }
        Ok(())
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.copies.first().map_or(1, |copy| copy.layer.reach(offset))
    }
}

impl Layer for Copies {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        let within = clip(within, self.length);
        self.copies.iter().try_for_each(|copy| copy.layer.each_place(within, visit))
    }
}

const MAGIC: u32 = 0x4d69_5272;
/// Where the bits begin: behind the header's sectors.
const BITS: u64 = 1024;

/// What a log says of its mirror's regions: a bit of each, set if all copies have the same.
pub(super) struct Log {
    region: u64,
    bits: Vec<u8>,
    count: u64,
}

impl Log {
    /// The log of a mirror of `length` bytes in regions of `region`.
    ///
    /// # Errors
    /// `Corrupt` unless it is the log of such a mirror; those of reading.
    pub(super) fn read(layer: &dyn Layer, region: u64, length: u64) -> Result<Self> {
        let mut header = [0; 16];
        layer.read_exact_at(ByteOffset(0), &mut header)?;
        let (magic, version) = (le32(&header, 0), le32(&header, 4));
        if magic != Some(MAGIC) || !matches!(version, Some(1 | 2)) {
            return Err(Error::corrupt(
                "mirror's log",
                "MiRr of version 2",
                format!("{header:x?}"),
            ));
        }
        let count = Some(region).filter(|region| *region > 0);
        let count = count.map_or(0, |region| length.div_ceil(region));
        if count == 0 || count > MAX_MIRROR_REGIONS {
            let expected = format!("1 to {MAX_MIRROR_REGIONS} regions");
            return Err(Error::corrupt("mirror", expected, count));
        }
        // Regions beyond those that the log was made for are not in sync.
        let known = le64(&header, 8).unwrap_or(0).min(count);
        let mut bits = vec![0; usize::try_from(known.div_ceil(8)).unwrap_or(usize::MAX)];
        layer.read_exact_at(ByteOffset(BITS), &mut bits)?;
        Ok(Self { region, bits, count: known })
    }

    fn is_clean(&self, region: u64) -> bool {
        let byte = usize::try_from(region / 8).ok().and_then(|at| self.bits.get(at));
        region < self.count && byte.is_some_and(|byte| byte >> (region % 8) & 1 == 1)
    }

    fn clean(&self, at: u64, length: u64) -> u64 {
        let end = at.saturating_add(length);
        let mut clean = at;
        while clean < end {
            let region = clean.checked_div(self.region).unwrap_or(u64::MAX);
            if !self.is_clean(region) {
                break;
            }
            clean = region.saturating_add(1).saturating_mul(self.region).min(end);
        }
        clean.saturating_sub(at)
    }
}
