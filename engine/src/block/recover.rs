//! Reading around bad sectors: what of a chunk can be had, and which bytes cannot.

use std::io;

use super::origin::Origin;
use super::queue::is_medium_error;
use crate::base::{ByteRange, Error, Event, Observer, Result};

/// Reads `memory` from `offset` in ever smaller parts around what fails. A part of one sector is
/// tried twice, then zeroed and returned as bad. Each bad range is told to `observer`.
///
/// # Errors
/// `Io` for any failure that is not of the medium, and when the whole disk is gone or shorter
/// than it was; `Cancelled`.
pub(super) fn read_around(
    origin: &Origin,
    offset: u64,
    memory: &mut [u8],
    observer: &dyn Observer,
) -> Result<Vec<ByteRange>> {
    let sector = origin.sector();
    let mut attempt = Attempt { origin, sector, observer, bad: Vec::new(), reason: String::new() };
    attempt.part(offset, memory)?;
    if !attempt.bad.is_empty()
        && let Some(reason) = origin.gone()
    {
        return Err(origin.reading(offset, io::Error::other(reason)));
    }
    for range in &attempt.bad {
        observer.event(&Event::Unreadable { range: *range, reason: &attempt.reason });
    }
    Ok(attempt.bad)
}

struct Attempt<'a> {
    origin: &'a Origin,
    sector: usize,
    observer: &'a dyn Observer,
    bad: Vec<ByteRange>,
    /// The first failure.
    reason: String,
}

impl Attempt<'_> {
    fn part(&mut self, offset: u64, memory: &mut [u8]) -> Result<()> {
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        let Some(error) = self.read(offset, memory)? else { return Ok(()) };
        if memory.len() > self.sector {
            let half = (memory.len() / 2).next_multiple_of(self.sector).min(memory.len());
            // A sector and a bit: the bit goes by itself.
            let half = if half == memory.len() { half - self.sector } else { half };
            let half = half.max(self.sector);
            let (first, second) = memory.split_at_mut(half);
            self.part(offset, first)?;
            return self.part(offset + half as u64, second);
        }
        if self.read(offset, memory)?.is_some() {
            memory.fill(0);
            self.give_up(ByteRange::new(offset, memory.len() as u64), &error);
        }
        Ok(())
    }

    /// Reads a part; returns the medium's error if that is what fails.
    fn read(&self, offset: u64, memory: &mut [u8]) -> Result<Option<io::Error>> {
        match self.origin.read(offset, memory) {
            Ok(done) => self.origin.expect_whole(offset, done, memory.len()).map(|()| None),
            Err(error) if is_medium_error(&error) => Ok(Some(error)),
            Err(error) => Err(self.origin.reading(offset, error)),
        }
    }

    fn give_up(&mut self, range: ByteRange, error: &io::Error) {
        if self.reason.is_empty() {
            self.reason = error.to_string();
        }
        match self.bad.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.bad.push(range),
        }
    }
}
