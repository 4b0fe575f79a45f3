//! What is free: the cluster bitmap (`$Bitmap`), where it can be believed.

use super::Ntfs;
use super::attribute::kind;
use super::stream::{Body, Stream};
use super::units::{Lcn, Reference, bytes, index};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::fs::Visit;

/// The record of the bitmap, which never is another's.
const BITMAP: u64 = 6;
/// Bytes of the bitmap that are read at once.
const PIECE: u64 = 64 * 1024;

impl Ntfs {
    /// Calls `visit` for each free range, ascending.
    ///
    /// # Errors
    /// See [`Filesystem::free_space`](crate::fs::Filesystem::free_space).
    pub(super) fn free_ranges(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        if let Some(doubt) = &self.doubt {
            let context = format!("it is not certain what is free: {doubt}");
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let file = self.mft.file(Reference::new(BITMAP, 0))?;
        let bitmap = self.mft.stream(&file, kind::DATA, b"")?;
        let bitmap = bitmap.ok_or_else(|| file.corrupt("a bitmap", "none"))?;
        let clusters = self.mft.space.clusters;
        if bitmap.size < clusters.div_ceil(8) {
            return Err(file.corrupt("a bit for each cluster", format!("{} bytes", bitmap.size)));
        }
        for stream in [&bitmap, self.mft.table()] {
            self.check_used(&bitmap, stream)?;
        }
        let mut pending: Option<(u64, u64)> = None;
        let mut start = 0_u64;
        while start < clusters {
            let mut piece = vec![0; index(PIECE.min(bitmap.size.saturating_sub(start / 8)))];
            bitmap.read_metadata(&self.mft.space, start / 8, &mut piece)?;
            let end = start.saturating_add(bytes(piece.len()).saturating_mul(8)).min(clusters);
            for free in clear_runs(&piece, start, end) {
                match &mut pending {
                    Some(last) if last.1 == free.0 => last.1 = free.1,
                    _ => {
                        let done = pending.replace(free);
                        if done.is_some_and(|done| visit(self.range(done)).is_break()) {
                            return Ok(());
                        }
                    }
                }
            }
            start = end;
        }
        if let Some(last) = pending {
            // There is nothing after it, whatever the visitor says.
            let _ = visit(self.range(last));
        }
        Ok(())
    }

    fn range(&self, (start, end): (u64, u64)) -> ByteRange {
        let space = &self.mft.space;
        ByteRange { start: space.offset(Lcn(start)), end: space.offset(Lcn(end)) }
    }

    /// Checks that the clusters of a stream that is surely there are in use.
    fn check_used(&self, bitmap: &Stream, stream: &Stream) -> Result<()> {
        let Body::Mapped(runs) = &stream.body else { return Ok(()) };
        for run in runs.iter() {
            let Some(first) = run.place else { continue };
            let end = first.0.saturating_add(run.count);
            let mut start = first.0;
            while start < end {
                let byte = start / 8;
                let last = end.div_ceil(8).min(byte.saturating_add(PIECE));
                let mut piece = vec![0; index(last.saturating_sub(byte))];
                bitmap.read_metadata(&self.mft.space, byte, &mut piece)?;
                let after = last.saturating_mul(8);
                let free = clear_runs(&piece, byte.saturating_mul(8), after);
                if free.iter().any(|free| free.0 < end && free.1 > start) {
                    let found = format!("some of {} clusters from {first} free", run.count);
                    return Err(Error::corrupt("bitmap", "the filesystem's own in use", found));
                }
                start = after;
            }
        }
        Ok(())
    }
}

/// The runs of clear bits, of which the first is bit `start`, up to `end`.
fn clear_runs(bitmap: &[u8], start: u64, end: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut add = |from: u64, length: u64| {
        let to = from.saturating_add(length).min(end);
        match runs.last_mut() {
            Some(last) if last.1 == from => last.1 = to.max(last.1),
            _ if from < to => runs.push((from, to)),
            _ => {}
        }
    };
    for (byte, first) in bitmap.iter().zip((start..).step_by(8)) {
        match byte {
            0xff => {}
            0 => add(first, 8),
            mixed => {
                for bit in (0..8).filter(|bit| mixed >> bit & 1 == 0) {
                    add(first.saturating_add(bit), 1);
                }
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_bits_become_runs_that_end_with_the_volume() {
        let runs = clear_runs(&[0b1110_0001, 0, 0xff, 0x7f], 64, 96);
        assert_eq!(runs, [(65, 69), (72, 80), (95, 96)]);
        assert_eq!(clear_runs(&[0x0f, 0, 0, 0], 0, 13), [(4, 13)]);
        assert_eq!(clear_runs(&[0xff, 0], 0, 8), []);
    }
}
