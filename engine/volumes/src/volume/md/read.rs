//! Reading an array: each member's part of a request in one go, and what fails by another way.

use std::ops::Range;

use super::array::Array;
use super::geometry::{Geometry, Piece};
use crate::base::{Error, Result, limits};

/// Bytes that are read by themselves where a larger read failed.
const GRAIN: u64 = 4096;
/// Bytes of a member between two stretches that are read rather than passed over.
const GAP: u64 = 16 * 1024;

/// A stretch of a member and where in the request it belongs.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub piece: Piece,
    pub within: Range<usize>,
}

impl Array {
    /// Fills `buffer` from byte `at`, which the array has.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let mut at = at;
        for block in buffer.chunks_mut(limits::MAX_IO_SIZE) {
            let (mut sound, mut missing) = self.plan(at, block.len())?;
            self.fill_whole_rows(&mut sound, &mut missing, block);
            if !missing.is_empty() {
                self.fill_missing(at, &missing, &mut sound, block)?;
            }
            self.fill_sound(at, sound, block)?;
            at = at.saturating_add(u64::try_from(block.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// The stretches that hold `length` bytes from byte `at`: those that a member is there for, by
    /// its first copy, and the others.
    fn plan(&self, at: u64, length: usize) -> Result<(Vec<Want>, Vec<Want>)> {
        let (mut sound, mut missing) = (Vec::new(), Vec::new());
        let mut done = 0;
        while done < length {
            let place = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            let left = length.saturating_sub(done);
            let (piece, is_sound) = self.first_copy(place, left)?;
            let taken = usize::try_from(piece.length).unwrap_or(usize::MAX).min(left);
            let end = done.saturating_add(taken.max(1));
            let want = Want { piece, within: done..end.min(length) };
            if is_sound {
                sound.push(want);
            } else {
                missing.push(want);
            }
            done = end;
        }
        Ok((sound, missing))
    }

    /// The first copy of byte `at`, of `most` bytes at most, that a member holds as a whole, or
    /// just the first.
    fn first_copy(&self, at: u64, most: usize) -> Result<(Piece, bool)> {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let cut = |piece: Piece| Piece { length: piece.length.min(most), ..piece };
        let copies = || {
            (0..self.geometry.copies()).filter_map(|copy| self.geometry.locate(at, copy)).map(cut)
        };
        let held = |wants_all: bool| {
            copies().find(|piece| {
                let member = self.members.get(piece.role).and_then(Option::as_ref);
                member.is_some_and(|member| {
                    (wants_all || !member.write_mostly) && member.holds(piece.at, piece.length)
                })
            })
        };
        if let Some(piece) = held(false).or_else(|| held(true)) {
            return Ok((piece, true));
        }
        let first = copies().next();
        let first = first.ok_or_else(|| Error::corrupt("RAID", format!("byte {at}"), "none"))?;
        Ok((first, false))
    }

    /// Fills `block`, which is at byte `at`, with `wants`: what lies close together on a member is
    /// read in one go.
    fn fill_sound(&self, at: u64, mut wants: Vec<Want>, block: &mut [u8]) -> Result<()> {
        wants.sort_by_key(|want| (want.piece.role, want.piece.at));
        let mut rest = wants.as_slice();
        while let Some(first) = rest.first() {
            let mut end = first.piece.at.saturating_add(first.piece.length);
            let mut count = 1_usize;
            for next in rest.iter().skip(1) {
                let Piece { role, at, length } = next.piece;
                if role != first.piece.role || at > end.saturating_add(first.piece.length.min(GAP))
                {
                    break;
                }
                end = at.saturating_add(length);
                count = count.saturating_add(1);
            }
            let (run, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            self.fill_run(at, run, end, block)?;
            rest = after;
        }
        Ok(())
    }

    /// Fills `block` with the stretches `run` of one member, the last of which ends at byte `end`.
    fn fill_run(&self, at: u64, run: &[Want], end: u64, block: &mut [u8]) -> Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        if run.len() > 1 {
            let start = first.piece.at;
            let mut span = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
            if self.read_member(first.piece.role, start, &mut span).is_ok() {
                for want in run {
                    copy(&span, start, want, block);
                }
                return Ok(());
            }
        }
        for want in run {
            let Some(part) = block.get_mut(want.within.clone()) else { continue };
            if self.read_member(want.piece.role, want.piece.at, part).is_err() {
                self.rescue(at, want, block)?;
            }
        }
        Ok(())
    }

    /// Fills `block` with `want` in small pieces, each by any way there is.
    ///
    /// # Errors
    /// The first way's, where no way leads to a piece.
    pub(super) fn rescue(&self, at: u64, want: &Want, block: &mut [u8]) -> Result<()> {
        let Some(part) = block.get_mut(want.within.clone()) else { return Ok(()) };
        let start = u64::try_from(want.within.start).unwrap_or(u64::MAX);
        let mut at = at.saturating_add(start);
        let mut rest = part;
        while !rest.is_empty() {
            let length = GRAIN.saturating_sub(at.checked_rem(GRAIN).unwrap_or(0));
            let length = usize::try_from(length).unwrap_or(1).clamp(1, rest.len());
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(length);
            self.read_grain(at, piece)?;
            at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            rest = after;
        }
        Ok(())
    }

    /// Fills `buffer`, which lies together, from byte `at` by any way there is.
    fn read_grain(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let mut first = None;
        for copy in 0..self.geometry.copies() {
            let Some(piece) = self.geometry.locate(at, copy) else { continue };
            match self.read_member(piece.role, piece.at, buffer) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        if let Geometry::Rows(rows) = &self.geometry
            && let Some(piece) = rows.locate(at)
        {
            return self.rebuild(rows, piece, buffer, &mut |role, at, buffer| {
                self.read_member(role, at, buffer)
            });
        }
        Err(first.unwrap_or_else(|| Error::corrupt("RAID", format!("byte {at}"), "none")))
    }

    /// Fills `buffer` from byte `at` of the data of the member of `role`.
    pub(super) fn read_member(&self, role: usize, at: u64, buffer: &mut [u8]) -> Result<()> {
        let member = self.members.get(role).and_then(Option::as_ref);
        let missing = || {
            let context = format!("the member of role {role} is missing");
            Error::new(crate::base::ErrorKind::NotFound, context)
        };
        let read = member.ok_or_else(missing)?.read(at, buffer);
        read.map_err(|error| error.within(format_args!("role {role}, byte {at} of its data")))
    }
}

/// Puts what `want` is of `span`, a member's bytes from `start`, into `block`.
pub(super) fn copy(span: &[u8], start: u64, want: &Want, block: &mut [u8]) {
    let from = usize::try_from(want.piece.at.saturating_sub(start)).unwrap_or(usize::MAX);
    let part = block.get_mut(want.within.clone());
    let source = span.get(from..).and_then(|rest| rest.get(..want.within.len()));
    if let (Some(part), Some(source)) = (part, source) {
        part.copy_from_slice(source);
    }
}
