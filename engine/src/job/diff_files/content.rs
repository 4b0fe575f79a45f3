//! Whether two files hold the same bytes, read only where their places do not say it.
//!
//! A stretch is the same without being read where both files have it at one place of the disk
//! which is in no doubt, or where neither has anything. All else is read from both: what lies at
//! different places (it may have been moved, or written again as it was), what shares a block with
//! a change, what lies within the filesystem's structures. Compressed data is believed to mean the
//! same only for one file with the same times besides: an extent does not say which part of what
//! was packed it is.

use std::ops::ControlFlow;

use super::change::Side;
use super::ground::VolumeGround;
use crate::base::limits::{MAX_COMPARED_EXTENTS, MAX_IO_SIZE};
use crate::base::ranges::joined;
use crate::base::{ByteRange, Error, Observer, Result};
use crate::fs::{Extent, FileContent, FileId, Filesystem, Place};

/// An error, and the disk that it is of.
pub(super) type SideError = (Side, Error);

/// How the contents of one volume's files are compared.
pub(super) struct Contents<'a> {
    pub filesystems: [&'a dyn Filesystem; 2],
    pub ground: &'a VolumeGround<'a>,
    pub observer: &'a dyn Observer,
}

type Open<'a> = [Box<dyn FileContent + 'a>; 2];

impl Contents<'_> {
    /// Whether two regular files differ. `is_settled` if they are one file with the same times.
    ///
    /// # Errors
    /// The filesystems' own, where a file or what has to be read of it cannot be; `Cancelled`.
    pub fn differ(&self, files: [FileId; 2], is_settled: bool) -> Result<bool, SideError> {
        let [before, after] = Side::BOTH
            .map(|side| of(side, self.filesystems[side.index()].open(files[side.index()])));
        let mut open: Open<'_> = [before?, after?];
        let size = open[0].size();
        if size != open[1].size() {
            return Ok(true);
        }
        let mut maps = [Vec::new(), Vec::new()];
        for side in Side::BOTH {
            match of(side, map_of(open[side.index()].as_mut(), self.observer))? {
                Some(map) => maps[side.index()] = map,
                None => return self.read_and_compare(&mut open, &[ByteRange::new(0, size)]),
            }
        }
        let doubt = self.doubtful(&maps, size, is_settled);
        self.read_and_compare(&mut open, &doubt)
    }

    /// The ranges of two files of `size` bytes that have to be read.
    fn doubtful(&self, maps: &[Vec<Extent>; 2], size: u64, is_settled: bool) -> Vec<ByteRange> {
        let (mut at, mut next, mut doubt) = (0, [0, 0], Vec::new());
        while at < size {
            let [before, after] = [0, 1].map(|side| {
                let map: &Vec<Extent> = &maps[side];
                while map.get(next[side]).is_some_and(|extent| end_of(extent) <= at) {
                    next[side] += 1;
                }
                map.get(next[side]).filter(|extent| extent.offset <= at)
            });
            let (Some(before), Some(after)) = (before, after) else {
                // A map with a gap says nothing.
                doubt.push(ByteRange { start: at, end: size });
                break;
            };
            let end = end_of(before).min(end_of(after)).min(size);
            let part = ByteRange { start: at, end };
            match (before.place, after.place) {
                (Place::Hole | Place::Unwritten(_), Place::Hole | Place::Unwritten(_)) => {}
                (Place::At(one), Place::At(other))
                    if one.checked_add(at - before.offset)
                        == other.checked_add(at - after.offset) =>
                {
                    let start = one.saturating_add(at - before.offset);
                    let places = self.ground.doubtful(ByteRange::new(start, part.len()));
                    let here =
                        |place: ByteRange| ByteRange::new(at + (place.start - start), place.len());
                    doubt.extend(places.into_iter().map(here));
                }
                (Place::Encoded(start, length), Place::Encoded(..))
                    if is_settled
                        && before == after
                        && self.ground.doubtful(ByteRange::new(start, length)).is_empty() => {}
                _ => doubt.push(part),
            }
            at = end;
        }
        joined(doubt)
    }

    fn read_and_compare(
        &self,
        open: &mut Open<'_>,
        ranges: &[ByteRange],
    ) -> Result<bool, SideError> {
        let mut buffers = [Vec::new(), Vec::new()];
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                if self.observer.cancelled() {
                    return Err((Side::After, Error::cancelled()));
                }
                let length = (range.end - at).min(MAX_IO_SIZE as u64);
                for side in Side::BOTH {
                    let buffer = &mut buffers[side.index()];
                    buffer.resize(usize::try_from(length).unwrap_or_default(), 0);
                    of(side, read(open[side.index()].as_mut(), at, buffer))?;
                }
                if buffers[0] != buffers[1] {
                    return Ok(true);
                }
                at += length;
            }
        }
        Ok(false)
    }
}

fn of<T>(side: Side, result: Result<T>) -> Result<T, SideError> {
    result.map_err(|error| (side, error))
}

fn end_of(extent: &Extent) -> u64 {
    extent.offset.saturating_add(extent.length)
}

/// A file's stretches, neighbours on the disk as one; `None` if there are too many.
fn map_of(content: &mut dyn FileContent, observer: &dyn Observer) -> Result<Option<Vec<Extent>>> {
    let mut map: Vec<Extent> = Vec::new();
    let (mut is_whole, mut is_stopped) = (true, false);
    content.extents(&mut |extent| {
        let place_behind = map.last().and_then(|last| match last.place {
            Place::At(place) => place.checked_add(last.length).map(Place::At),
            _ => None,
        });
        match map.last_mut() {
            Some(last) if place_behind == Some(extent.place) && end_of(last) == extent.offset => {
                last.length = last.length.saturating_add(extent.length);
            }
            _ => map.push(extent),
        }
        is_whole = map.len() <= MAX_COMPARED_EXTENTS;
        is_stopped = observer.cancelled();
        match is_whole && !is_stopped {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    if is_stopped {
        return Err(Error::cancelled());
    }
    Ok(is_whole.then_some(map))
}

fn read(content: &mut dyn FileContent, at: u64, buffer: &mut [u8]) -> Result<()> {
    match content.read_at(at, buffer)? {
        count if count == buffer.len() => Ok(()),
        count => {
            let expected = format!("{} bytes at {at}", buffer.len());
            Err(Error::corrupt("content", expected, count))
        }
    }
}
