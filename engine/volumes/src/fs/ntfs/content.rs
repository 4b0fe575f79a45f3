//! The content of a stream as it lies on the disk: in its record, or on clusters with holes.

use std::ops::ControlFlow;

use super::space::Space;
use super::stream::{Body, Stream};
use super::units::{bytes, index};
use crate::base::Result;
use crate::base::fields::slice;
use crate::fs::{Extent, FileContent, Place, Visit};

/// An open stream.
pub(super) struct Content<'a> {
    space: &'a Space,
    stream: Stream,
}

impl<'a> Content<'a> {
    pub(super) fn new(space: &'a Space, stream: Stream) -> Self {
        Self { space, stream }
    }
}

impl FileContent for Content<'_> {
    fn size(&self) -> u64 {
        self.stream.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let Self { space, stream } = self;
        let runs = match &stream.body {
            Body::Resident(value) => {
                let left = value.len().saturating_sub(index(offset)).min(buffer.len());
                let found = slice(value, index(offset), left).unwrap_or_default();
                buffer.get_mut(..found.len()).unwrap_or_default().copy_from_slice(found);
                return Ok(found.len());
            }
            Body::Mapped(runs) => runs,
        };
        fill(stream.size, stream.valid, offset, buffer, &mut |at, part| {
            let stretch = Stream::stretch(runs, space, at)?;
            let count = index(stretch.length).min(part.len());
            let part = part.get_mut(..count).unwrap_or_default();
            match stretch.place {
                Some(place) => space.read(place, part)?,
                None => part.fill(0),
            }
            Ok(count)
        })
    }

    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
        let (size, valid) = (self.stream.size, self.stream.valid);
        let runs = match &self.stream.body {
            Body::Resident(_) if size > 0 => {
                // It is the only one.
                let _ = visit(Extent { offset: 0, length: size, place: Place::Inline });
                return Ok(());
            }
            Body::Resident(_) => return Ok(()),
            Body::Mapped(runs) => runs,
        };
        let mut offset = 0_u64;
        for run in runs.iter() {
            let start = run.first.0.saturating_mul(self.space.cluster_size);
            let end = run.end().saturating_mul(self.space.cluster_size).min(size);
            let written = end.min(valid).max(start);
            let place = run.place.map(|place| self.space.offset(place));
            let parts = match place {
                Some(place) => {
                    let behind = place.saturating_add(written.saturating_sub(start));
                    let behind = Place::Unwritten(Some(behind));
                    [(start, written, Place::At(place)), (written, end, behind)]
                }
                None => [(start, end, Place::Hole), (end, end, Place::Hole)],
            };
            for (start, end, place) in parts {
                let length = end.saturating_sub(start);
                if length == 0 {
                    continue;
                }
                offset = end;
                if visit(Extent { offset: start, length, place }).is_break() {
                    return Ok(());
                }
            }
        }
        visit_rest(offset, valid, size, visit)
    }
}

/// Shows what no cluster is there for, which reads as zeros beyond the bytes that were written.
pub(super) fn visit_rest(
    offset: u64,
    valid: u64,
    size: u64,
    visit: Visit<'_, Extent>,
) -> Result<()> {
    if offset < valid {
        let expected = format!("clusters for {valid} bytes");
        let error = crate::base::Error::corrupt("stream", expected, format!("for {offset}"));
        return Err(error);
    }
    let length = size.saturating_sub(offset);
    if length > 0 {
        // Nobody is left to break for.
        let _: ControlFlow<()> = visit(Extent { offset, length, place: Place::Hole });
    }
    Ok(())
}

/// Fills `buffer` from `offset`, as far as `size` goes: by `read`, which says how many bytes it
/// filled, up to `valid`, and with zeros from there on. Returns how many bytes those are.
///
/// # Errors
/// Those of `read`.
pub(super) fn fill(
    size: u64,
    valid: u64,
    offset: u64,
    buffer: &mut [u8],
    read: &mut dyn FnMut(u64, &mut [u8]) -> Result<usize>,
) -> Result<usize> {
    let count = index(size.saturating_sub(offset)).min(buffer.len());
    let mut rest = buffer.get_mut(..count).unwrap_or_default();
    let mut at = offset;
    while !rest.is_empty() {
        let left = index(valid.saturating_sub(at)).min(rest.len());
        if left == 0 {
            rest.fill(0);
            break;
        }
        let done = read(at, rest.get_mut(..left).unwrap_or_default())?.clamp(1, left);
        at = at.saturating_add(bytes(done));
        rest = rest.get_mut(done..).unwrap_or_default();
    }
    Ok(count)
}
