//! What an export says of its blocks: which read as zeros, and which a dirty bitmap marks.

use std::io;

use super::NbdExport;
use super::connection::Request;
use super::wire::{ALLOCATION, DIRTY_BITMAP, STATE_DIRTY, STATE_ZERO, violation};
use crate::base::{ByteRange, ChangeMap, Error, ErrorKind, Granule, Result, limits};

/// Bytes that one question is about at most: its length has 32 bits.
const QUESTION: u64 = 1 << 31;

impl NbdExport {
    /// The ranges that may hold data, in order; all else reads as zeros. None if the server
    /// does not tell.
    pub(in crate::block) fn data(&self, most: usize) -> Option<Vec<ByteRange>> {
        let context = self.contexts().position(|name| name == ALLOCATION)?;
        let mut data: Vec<ByteRange> = Vec::new();
        let mut known = 0;
        let whole = ByteRange { start: 0, end: self.size() };
        let walked = self.walk(context, whole, &mut |range, flags| {
            known = range.end;
            if flags & STATE_ZERO == 0 {
                match data.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => data.push(range),
                }
            }
            Ok(data.len() < most)
        });
        // What nobody told about is data; an error there will show when it is read.
        if walked.is_err() || known < self.size() {
            data.push(ByteRange { start: known, end: self.size() });
        }
        Some(data)
    }

    /// The dirty bitmaps that the export offers of those whose names are imgx's.
    pub fn bitmaps(&self) -> impl Iterator<Item = &str> {
        self.contexts().filter_map(|name| name.strip_prefix(DIRTY_BITMAP))
    }

    /// What the dirty bitmap `name` marks.
    ///
    /// # Errors
    /// `NotFound` if the export does not offer it; `Io`.
    pub fn dirty(&self, name: &str) -> Result<ChangeMap> {
        let size = self.info.size;
        let mut map = ChangeMap::new(size, Granule::for_disk(size))?;
        self.dirty_within(name, ByteRange { start: 0, end: size.0 }, &mut |range| map.set(range))?;
        Ok(map)
    }

    /// Hands each range that the dirty bitmap `name` marks within `range` to `sink`.
    ///
    /// # Errors
    /// As [`dirty`](Self::dirty).
    pub fn dirty_within(
        &self,
        name: &str,
        range: ByteRange,
        sink: &mut dyn FnMut(ByteRange),
    ) -> Result<()> {
        let wanted = format!("{DIRTY_BITMAP}{name}");
        let context = self.contexts().position(|context| *context == wanted).ok_or_else(|| {
            let context = format!("{}: the export offers no bitmap {name}", self.uri());
            Error::new(ErrorKind::NotFound, context)
        })?;
        let walked = self.walk(context, range, &mut |range, flags| match flags {
            0 => Ok(true),
            STATE_DIRTY => {
                sink(range);
                Ok(true)
            }
            _ => Err(violation(format!("flags {flags:#x} in a dirty bitmap"))),
        });
        let describe = || format!("read the bitmap {name} of {}", self.uri());
        walked.map_err(|error| self.failed(describe, error))
    }

    /// Hands the extents of `range` to `sink`, in order and without gaps, until it says `false`.
    fn walk(
        &self,
        context: usize,
        range: ByteRange,
        sink: &mut dyn FnMut(ByteRange, u32) -> io::Result<bool>,
    ) -> io::Result<()> {
        let minimum = u64::from(self.shared.agreement.minimum);
        let end = range.end.next_multiple_of(minimum).min(self.size());
        let mut at = range.start - range.start % minimum;
        for _ in 0..limits::MAX_NBD_STATUS_REQUESTS {
            if at >= end {
                return Ok(());
            }
            let asked = (end - at).min(QUESTION);
            let length = u32::try_from(asked).map_err(io::Error::other)?;
            let (outbox, inbox) = crossbeam_channel::bounded(1);
            self.shared.send(Request::Status { offset: at, length, context, outbox });
            let extents = self.shared.await_on(&inbox)??;
            let stop = at + asked;
            for (length, flags) in extents {
                // The last may go beyond what was asked for.
                let next = (at + u64::from(length)).min(stop);
                if next <= at {
                    return Err(violation("extents beyond what was asked for"));
                }
                if !sink(ByteRange { start: at, end: next }, flags)? {
                    return Ok(());
                }
                at = next;
            }
            if at < end && !at.is_multiple_of(minimum) {
                return Err(violation(format!("an extent ends at {at}, between blocks")));
            }
        }
        Err(violation("descriptions of blocks without end"))
    }
}
