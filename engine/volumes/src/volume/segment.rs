//! Where the bytes of a mapped volume are.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::base::{ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result};

/// A stretch of a logical volume: on one stretch of the disk, or in turns on several (striped).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// First byte within the volume.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes on one place before the next one's turn; with one place, anything but zero.
    pub stripe: u64,
    /// First byte on the disk of each place.
    pub places: Vec<u64>,
}

impl Segment {
    /// The byte of the disk that holds byte `offset` of the volume, and how many follow it there;
    /// `None` if it is not in this segment.
    fn locate(&self, offset: u64) -> Option<(u64, u64)> {
        let within = offset.checked_sub(self.start).filter(|within| *within < self.length)?;
        let left = self.length.checked_sub(within)?;
        if let [only] = self.places.as_slice() {
            return Some((only.checked_add(within)?, left));
        }
        let count = u64::try_from(self.places.len()).ok()?;
        let number = within.checked_div(self.stripe)?;
        let of_stripe = within.checked_rem(self.stripe)?;
        let place = self.places.get(usize::try_from(number.checked_rem(count)?).ok()?)?;
        let row = number.checked_div(count)?.checked_mul(self.stripe)?;
        let place = place.checked_add(row)?.checked_add(of_stripe)?;
        Some((place, self.stripe.checked_sub(of_stripe)?.min(left)))
    }
}

/// Calls `visit` for each piece of the volume's bytes `wanted` with the place of it on the disk.
///
/// # Errors
/// `Corrupt` where the segments leave a gap; those of `visit`.
pub(super) fn each_piece(
    segments: &[Segment],
    wanted: ByteRange,
    visit: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut at = wanted.start;
    while at < wanted.end {
        let found = segments.iter().find_map(|segment| segment.locate(at));
        let (place, length) = found.filter(|(_, length)| *length > 0).ok_or_else(|| {
            Error::corrupt("logical volume", format!("a segment with byte {at}"), "none")
        })?;
        let length = length.min(wanted.end.saturating_sub(at));
        visit(place, length)?;
        at = at.saturating_add(length);
    }
    Ok(())
}

/// A mapped volume of a disk.
pub(super) struct Mapped<D> {
    pub disk: D,
    pub segments: Vec<Segment>,
    pub length: u64,
}

impl<D> ReadAt for Mapped<D>
where
    D: Deref + Send + Sync,
    D::Target: ReadAt,
{
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let count = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let wanted = ByteRange::new(offset.0, count);
        if wanted.end > self.length || wanted.len() != count {
            let context = format!("{count} bytes at {offset} of a volume of {}", self.length);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let mut rest = buffer;
        each_piece(&self.segments, wanted, &mut |place, length| {
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            self.disk.read_exact_at(ByteOffset(place), part)
        })
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        let found = self.segments.iter().find_map(|segment| segment.locate(offset.0));
        // Where there is a gap, the read itself says so. That stripes end before costs nothing.
        self.disk.reach(ByteOffset(found.map_or(offset.0, |(place, _)| place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_take_turns() {
        let disk: Vec<u8> = (0..100).collect();
        let disk: &dyn ReadAt = &disk;
        let segments = vec![
            Segment { start: 0, length: 12, stripe: 2, places: vec![10, 50, 30] },
            Segment { start: 12, length: 5, stripe: 5, places: vec![90] },
        ];
        let volume = Mapped { disk, segments, length: 17 };
        let mut bytes = [0; 17];
        volume.read_exact_at(ByteOffset(0), &mut bytes).expect("read");
        assert_eq!(bytes, [10, 11, 50, 51, 30, 31, 12, 13, 52, 53, 32, 33, 90, 91, 92, 93, 94]);
        let mut middle = [0; 4];
        volume.read_exact_at(ByteOffset(5), &mut middle).expect("read");
        assert_eq!(middle, [31, 12, 13, 52]);
        assert!(volume.read_exact_at(ByteOffset(15), &mut middle).is_err());
    }
}
