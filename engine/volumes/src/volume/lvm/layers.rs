//! What the bytes of logical volumes are put together of.

use std::sync::Arc;

use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, check_range,
};
use crate::volume::layer::Layer;

/// What is called for each stretch of a layer below.
type VisitLayer<'a> = &'a mut dyn FnMut(&Arc<dyn Layer>, ByteRange) -> Result<()>;

/// Part of a physical volume.
pub(super) struct Stretch {
    /// Its number among those that the group was read from.
    pub number: usize,
    pub disk: Arc<dyn ReadAt>,
    pub start: u64,
    pub length: u64,
}

/// Part of a logical volume.
pub(super) struct Part {
    pub below: Arc<dyn Layer>,
    pub start: u64,
    pub length: u64,
}

/// Several, one behind the other; each with its first byte.
pub(super) struct Joined {
    pub parts: Vec<(u64, Arc<dyn Layer>)>,
    pub length: u64,
}

/// Several in turns.
pub(super) struct Striped {
    pub below: Vec<Arc<dyn Layer>>,
    /// Bytes of one before the next one's turn, not 0.
    pub stripe: u64,
    pub length: u64,
}

/// Nothing.
pub(super) struct Zeros {
    pub length: u64,
}

/// Bytes that somebody else needs as they are.
pub(super) struct Shared {
    pub below: Arc<dyn Layer>,
    /// Who does.
    pub by: String,
}

/// The part of `wanted` that a layer of `length` bytes has.
pub(super) fn clip(wanted: ByteRange, length: u64) -> ByteRange {
    let end = wanted.end.min(length);
    ByteRange { start: wanted.start.min(end), end }
}

/// Takes the first `length` bytes off `buffer`.
pub(super) fn take<'a>(buffer: &mut &'a mut [u8], length: u64) -> &'a mut [u8] {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
    let (first, rest) = std::mem::take(buffer).split_at_mut(length);
    *buffer = rest;
    first
}

pub(super) fn length_of(buffer: &[u8]) -> u64 {
    u64::try_from(buffer.len()).unwrap_or(u64::MAX)
}

/// That `what` keeps other bytes as well in the same places.
pub(super) fn not_alone(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, what.to_owned())
}

impl ReadAt for Stretch {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        self.disk.read_exact_at(ByteOffset(self.start.saturating_add(offset.0)), buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.disk.reach(ByteOffset(self.start.saturating_add(offset.0)))
    }
}

impl Layer for Stretch {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        let within = clip(within, self.length);
        if !within.is_empty() {
            let start = self.start.saturating_add(within.start);
            visit(self.number, ByteRange::new(start, within.len()));
        }
        Ok(())
    }
}

impl ReadAt for Part {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        self.below.read_exact_at(ByteOffset(self.start.saturating_add(offset.0)), buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.below.reach(ByteOffset(self.start.saturating_add(offset.0)))
    }
}

impl Layer for Part {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        let within = clip(within, self.length);
        let start = self.start.saturating_add(within.start);
        self.below.each_place(ByteRange::new(start, within.len()), visit)
    }
}

impl Joined {
    /// The part that holds byte `at`: what is left of it from there, and where that is in it.
    fn at(&self, at: u64) -> Option<(&Arc<dyn Layer>, u64, u64)> {
        let number = self.parts.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, layer) = self.parts.get(number)?;
        let within = at.checked_sub(*start)?;
        let left = layer.size().0.checked_sub(within).filter(|left| *left > 0)?;
        Some((layer, within, left))
    }
}

impl ReadAt for Joined {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let (mut at, mut rest) = (offset.0, buffer);
        while !rest.is_empty() {
            let (layer, within, left) = self.at(at).ok_or_else(|| {
                Error::corrupt("logical volume", format!("a segment with byte {at}"), "none")
            })?;
            let piece = take(&mut rest, left);
            at = at.saturating_add(length_of(piece));
            layer.read_exact_at(ByteOffset(within), piece)?;
        }
        Ok(())
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        match self.at(offset.0) {
            Some((layer, within, left)) => layer.reach(ByteOffset(within)).min(left).max(1),
            None => 1,
        }
    }
}

impl Layer for Joined {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        let within = clip(within, self.length);
        for (start, layer) in &self.parts {
            let own = ByteRange::new(*start, layer.size().0);
            if let Some(common) = own.intersection(&within) {
                let first = common.start.saturating_sub(*start);
                layer.each_place(ByteRange::new(first, common.len()), visit)?;
            }
        }
        Ok(())
    }
}

impl Striped {
    /// The layer that holds byte `at`, where in it, and how many follow there.
    fn at(&self, at: u64) -> Option<(&Arc<dyn Layer>, u64, u64)> {
        let count = u64::try_from(self.below.len()).ok()?;
        let (number, within) = (at.checked_div(self.stripe)?, at.checked_rem(self.stripe)?);
        let layer = self.below.get(usize::try_from(number.checked_rem(count)?).ok()?)?;
        let row = number.checked_div(count)?.checked_mul(self.stripe)?;
        Some((layer, row.checked_add(within)?, self.stripe.checked_sub(within)?))
    }

    fn each(&self, wanted: ByteRange, visit: VisitLayer<'_>) -> Result<()> {
        let mut at = wanted.start;
        while at < wanted.end {
            let (layer, place, left) =
                self.at(at).ok_or_else(|| Error::corrupt("stripes", "some", "none"))?;
            let length = left.min(wanted.end.saturating_sub(at));
            visit(layer, ByteRange::new(place, length))?;
            at = at.saturating_add(length);
        }
        Ok(())
    }
}

impl ReadAt for Striped {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let wanted = ByteRange::new(offset.0, length_of(buffer));
        let mut rest = buffer;
        self.each(wanted, &mut |layer, place| {
            layer.read_exact_at(ByteOffset(place.start), take(&mut rest, place.len()))
        })
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        // That stripes end before costs nothing.
        self.at(offset.0).map_or(1, |(layer, place, _)| layer.reach(ByteOffset(place)))
    }
}

impl Layer for Striped {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        let within = clip(within, self.length);
        self.each(within, &mut |layer, place| layer.each_place(place, visit))
    }
}

impl ReadAt for Zeros {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        buffer.fill(0);
        Ok(())
    }
}

impl Layer for Zeros {
    fn each_place(&self, _: ByteRange, _: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        Ok(())
    }
}

impl ReadAt for Shared {
    fn size(&self) -> ByteCount {
        self.below.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.below.read_exact_at(offset, buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.below.reach(offset)
    }
}

impl Layer for Shared {
    fn each_place(&self, _: ByteRange, _: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        Err(not_alone(&self.by))
    }
}
