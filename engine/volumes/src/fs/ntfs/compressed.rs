//! Compressed streams: units of clusters, each a hole, or as it is, or packed with LZNT1 into
//! fewer clusters than it has.

use std::ops::ControlFlow;

use super::content::{fill, visit_rest};
use super::lznt1;
use super::space::Space;
use super::stream::Stream;
use super::units::{Vcn, bytes, index};
use crate::base::fields::slice;
use crate::base::limits::MAX_COMPRESSION_UNIT;
use crate::base::{Error, ErrorKind, Result};
use crate::fs::{Extent, FileContent, Place, Visit};

/// LZNT1, as a method of compression.
const LZNT1: u16 = 1;

/// An open stream that is compressed.
pub(super) struct Compressed<'a> {
    space: &'a Space,
    stream: Stream,
    unit_clusters: u64,
    unit_size: u64,
    /// The packed unit that was read last, by its number.
    unpacked: Option<(u64, Vec<u8>)>,
}

/// How a unit is kept.
enum Unit {
    Hole,
    /// On all of its clusters.
    AsItIs,
    /// Packed, in these stretches of the volume: first byte and length.
    Packed(Vec<(u64, u64)>),
}

impl<'a> Compressed<'a> {
    /// # Errors
    /// `Unsupported` when it is packed by another method than LZNT1; `Corrupt` when its units have
    /// no size.
    pub(super) fn new(space: &'a Space, stream: Stream) -> Result<Self> {
        if stream.method() != LZNT1 {
            let context = format!("compression method {}", stream.method());
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let shift = stream.compressed().map_or(0, |(_, shift)| shift);
        let unit_clusters = 1_u64.checked_shl(shift.into()).unwrap_or_default();
        let unit_size = unit_clusters.checked_mul(space.cluster_size);
        let unit_size =
            unit_size.filter(|size| shift > 0 && (1..=MAX_COMPRESSION_UNIT).contains(size));
        let unit_size = unit_size.ok_or_else(|| {
            let expected = format!("compression units of up to {MAX_COMPRESSION_UNIT} bytes");
            Error::corrupt("stream", expected, format!("2^{shift} clusters"))
        })?;
        Ok(Self { space, stream, unit_clusters, unit_size, unpacked: None })
    }

    fn unit(&self, number: u64) -> Result<Unit> {
        let Some((runs, _)) = self.stream.compressed() else { return Ok(Unit::Hole) };
        let mut next = number.saturating_mul(self.unit_clusters);
        let end = next.saturating_add(self.unit_clusters);
        let (mut packed, mut clusters) = (Vec::new(), 0_u64);
        let mut is_ended = false;
        while next < end {
            let Some(run) = runs.at(Vcn(next)) else {
                if clusters > 0 || is_ended {
                    break;
                }
                let expected = format!("clusters for compression unit {number}");
                return Err(Error::corrupt("stream", expected, "none"));
            };
            let count = run.count.min(end.saturating_sub(next));
            match run.place {
                None => is_ended = true,
                Some(_) if is_ended => {
                    let place = format!("compression unit {number}");
                    return Err(Error::corrupt(place, "its hole last", "clusters after it"));
                }
                Some(place) => {
                    let length = count.saturating_mul(self.space.cluster_size);
                    packed.push((self.space.offset(place), length));
                    clusters = clusters.saturating_add(count);
                }
            }
            next = next.saturating_add(count.max(1));
        }
        Ok(match clusters {
            0 => Unit::Hole,
            clusters if clusters == self.unit_clusters => Unit::AsItIs,
            _ => Unit::Packed(packed),
        })
    }

    /// The unpacked bytes of a unit that is kept in `stretches`.
    fn unpack(&mut self, number: u64, stretches: &[(u64, u64)]) -> Result<&[u8]> {
        if self.unpacked.as_ref().is_none_or(|(known, _)| *known != number) {
            self.unpacked = None;
            let mut packed = Vec::new();
            for (place, length) in stretches {
                let start = packed.len();
                packed.resize(start.saturating_add(index(*length)), 0);
                self.space.read(*place, packed.get_mut(start..).unwrap_or_default())?;
            }
            let start = number.saturating_mul(self.unit_size);
            let needed = self.stream.valid.saturating_sub(start).min(self.unit_size);
            let unpacked = lznt1::unpack(&packed, index(needed));
            let unpacked =
                unpacked.map_err(|error| error.within(format!("compression unit {number}")))?;
            self.unpacked = Some((number, unpacked));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |(_, unpacked)| unpacked))
    }

    /// Fills the start of `part` from byte `at`, within one unit; returns how many bytes.
    fn read_unit(&mut self, at: u64, part: &mut [u8]) -> Result<usize> {
        let number = at.checked_div(self.unit_size).unwrap_or_default();
        let within = at.checked_rem(self.unit_size).unwrap_or_default();
        let count = index(self.unit_size.saturating_sub(within)).min(part.len());
        let part = part.get_mut(..count).unwrap_or_default();
        match self.unit(number)? {
            Unit::Hole => part.fill(0),
            Unit::AsItIs => return self.read_as_it_is(at, part),
            Unit::Packed(stretches) => {
                let unpacked = self.unpack(number, &stretches)?;
                let found = slice(unpacked, index(within), count).ok_or_else(|| {
                    Error::corrupt(format!("compression unit {number}"), "all of it", "less")
                })?;
                part.copy_from_slice(found);
            }
        }
        Ok(count)
    }

    fn read_as_it_is(&self, at: u64, part: &mut [u8]) -> Result<usize> {
        let Some((runs, _)) = self.stream.compressed() else { return Ok(0) };
        let stretch = Stream::stretch(runs, self.space, at)?;
        let count = index(stretch.length).min(part.len());
        let part = part.get_mut(..count).unwrap_or_default();
        match stretch.place {
            Some(place) => self.space.read(place, part)?,
            None => part.fill(0),
        }
        Ok(count)
    }

    /// Shows the extents of a unit from byte `start` to `end`.
    fn visit_unit(
        &self,
        start: u64,
        end: u64,
        visit: Visit<'_, Extent>,
    ) -> Result<ControlFlow<()>> {
        let number = start.checked_div(self.unit_size).unwrap_or_default();
        let stretches = match self.unit(number)? {
            Unit::Hole => vec![Place::Hole],
            Unit::Packed(stretches) => {
                stretches.into_iter().map(|(place, length)| Place::Encoded(place, length)).collect()
            }
            Unit::AsItIs => return self.visit_as_it_is(start, end, visit),
        };
        Ok(visit_parts(start, end, &stretches, visit))
    }

    fn visit_as_it_is(
        &self,
        start: u64,
        end: u64,
        visit: Visit<'_, Extent>,
    ) -> Result<ControlFlow<()>> {
        let Some((runs, _)) = self.stream.compressed() else { return Ok(ControlFlow::Break(())) };
        let mut offset = start;
        while offset < end {
            let stretch = Stream::stretch(runs, self.space, offset)?;
            let length = stretch.length.max(1).min(end.saturating_sub(offset));
            let place = stretch.place.map_or(Place::Hole, Place::At);
            if visit(Extent { offset, length, place }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            offset = offset.saturating_add(length);
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Shows the bytes from `start` to `end` of a file, which are packed in several places, in as many
/// parts: which byte is where is not to be told.
pub(super) fn visit_parts(
    start: u64,
    end: u64,
    places: &[Place],
    visit: Visit<'_, Extent>,
) -> ControlFlow<()> {
    let share = end.saturating_sub(start).div_ceil(bytes(places.len()).max(1));
    let mut offset = start;
    for (place, left) in places.iter().zip((0..places.len()).rev()) {
        let length = match left {
            0 => end.saturating_sub(offset),
            _ => share.min(end.saturating_sub(offset)),
        };
        if length > 0 {
            visit(Extent { offset, length, place: *place })?;
        }
        offset = offset.saturating_add(length);
    }
    ControlFlow::Continue(())
}

impl FileContent for Compressed<'_> {
    fn size(&self) -> u64 {
        self.stream.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let (size, valid) = (self.stream.size, self.stream.valid);
        fill(size, valid, offset, buffer, &mut |at, part| self.read_unit(at, part))
    }

    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
        let (size, valid) = (self.stream.size, self.stream.valid);
        let mut offset = 0_u64;
        while offset < valid {
            // What is mapped to nothing at all is shown as one.
            let hole = self.hole_from(offset);
            let end = match hole {
                0 => offset.saturating_add(self.unit_size).min(valid),
                hole => offset.saturating_add(hole).min(valid),
            };
            let flow = match hole {
                0 => self.visit_unit(offset, end, visit)?,
                _ => visit_parts(offset, end, &[Place::Hole], visit),
            };
            if flow.is_break() {
                return Ok(());
            }
            offset = end;
        }
        visit_rest(offset, valid, size, visit)
    }
}

impl Compressed<'_> {
    /// Bytes of whole units from `offset` on, the start of a unit, that are one hole.
    fn hole_from(&self, offset: u64) -> u64 {
        let Some((runs, _)) = self.stream.compressed() else { return 0 };
        let first = offset.checked_div(self.space.cluster_size).unwrap_or_default();
        let run = runs.at(Vcn(first)).filter(|run| run.place.is_none());
        let units = run.and_then(|run| run.count.checked_div(self.unit_clusters));
        units.unwrap_or_default().saturating_mul(self.unit_size)
    }
}
