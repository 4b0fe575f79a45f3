//! Making a stretch of a target read as zero, by the cheapest way that is certain to.
//!
//! Discarding (`BLKDISCARD`) is not among them: it is a hint that devices may ignore in part or
//! in whole, and Linux has not vouched for its result since 4.12. Punching a hole into a block
//! device is the kernel's own word for "zeros that need not be stored": it succeeds only where
//! the device guarantees them (`REQ_OP_WRITE_ZEROES` with unmap), as loop devices, NVMe, SCSI
//! and thin volumes do. What was not written is read back in samples all the same.

use nix::errno::Errno;

use super::Target;
use super::files::{Files, index};
use crate::base::{ByteRange, Error, ErrorKind, Observer, Result};
use crate::sys::{Buffer, BufferPool, ioctl, sparse};

/// Bytes whose space is given back at a time.
const RELEASE_STEP: u64 = 1 << 30;
/// Bytes that the kernel or the device fills with zeros at a time, so that it can be cancelled.
const FILL_STEP: u64 = 64 << 20;
/// Bytes of zeros written at a time where nothing else is possible.
const WRITE_STEP: usize = 1 << 20;

/// How a stretch comes to read as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zeroing {
    /// Its space is given back (a hole, unmapped blocks), or it is filled if that cannot be.
    Release,
    /// It keeps its space; device or kernel fill it.
    Fill,
    /// Zeros are written to it.
    Write,
}

impl Target {
    /// Makes `range` read as zero, as `how` prefers; what does not work there is done by the next
    /// way. Nothing of `range` may be in flight in a [`TargetWriter`](super::TargetWriter).
    ///
    /// # Errors
    /// `Invalid` if `range` reaches beyond the end; `Io` if zeros cannot be written; `Cancelled`.
    pub fn zero(&self, range: ByteRange, how: Zeroing, observer: &dyn Observer) -> Result<()> {
        if range.end > self.files.size() {
            let message = format!("{range} reach beyond the end at {}", self.files.size());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        // What devices are told is in whole sectors; files take any range.
        let unit = self.facts().map_or(1, |facts| u64::from(facts.logical_sector_size));
        let start = range.start.next_multiple_of(unit).min(range.end);
        let end = (range.end - range.end % unit).max(start);
        let how = if self.keeps_space { how.max(Zeroing::Fill) } else { how };
        let mut work = Work { files: &self.files, how, observer, zeros: None };
        work.write(ByteRange { start: range.start, end: start })?;
        work.whole_sectors(ByteRange { start, end })?;
        work.write(ByteRange { start: end, end: range.end })
    }
}

struct Work<'a> {
    files: &'a Files,
    /// What has not failed yet.
    how: Zeroing,
    observer: &'a dyn Observer,
    zeros: Option<Buffer>,
}

impl Work<'_> {
    fn whole_sectors(&mut self, range: ByteRange) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            if self.observer.cancelled() {
                return Err(Error::cancelled());
            }
            let step = match self.how {
                Zeroing::Release => RELEASE_STEP,
                Zeroing::Fill => FILL_STEP,
                Zeroing::Write => return self.write(ByteRange { start: at, end: range.end }),
            };
            let part = ByteRange { start: at, end: at.saturating_add(step).min(range.end) };
            match self.ask_kernel(part) {
                Ok(()) if self.reads_as_zero(part) => at = part.end,
                // It said so and did not do it: never ask it again.
                Ok(()) => self.how = Zeroing::Write,
                Err(Errno::EINTR) => {}
                Err(_) if self.how == Zeroing::Release => self.how = Zeroing::Fill,
                // If the cause is the medium, writing will say so, with the place.
                Err(_) => self.how = Zeroing::Write,
            }
        }
        Ok(())
    }

    fn ask_kernel(&self, range: ByteRange) -> nix::Result<()> {
        let file = &self.files.buffered;
        match (self.how, self.files.facts.is_some()) {
            (Zeroing::Write, _) => Err(Errno::EOPNOTSUPP),
            (Zeroing::Release, _) => sparse::punch(file, range),
            (Zeroing::Fill, true) => ioctl::zero_out(file, range),
            (Zeroing::Fill, false) => sparse::zero_range(file, range),
        }
    }

    /// Whether the first, middle and last sector are zero. Only devices are asked: a filesystem
    /// that does not know its own holes cannot be helped.
    fn reads_as_zero(&self, range: ByteRange) -> bool {
        let Some(facts) = &self.files.facts else { return true };
        let sector = u64::from(facts.logical_sector_size);
        let last = range.end - sector;
        let middle = range.start + (range.len() / 2 / sector) * sector;
        let mut bytes = vec![0; index(sector)];
        [range.start, middle, last].into_iter().all(|offset| {
            let read = self.files.read_exact_at(crate::base::ByteOffset(offset), &mut bytes);
            read.is_ok() && bytes.iter().all(|byte| *byte == 0)
        })
    }

    fn write(&mut self, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut zeros = match self.zeros.take() {
            Some(zeros) => zeros,
            None => new_zeros()?,
        };
        let mut at = range.start;
        while at < range.end {
            if self.observer.cancelled() {
                return Err(Error::cancelled());
            }
            // A first short step brings the rest into alignment.
            let step = WRITE_STEP as u64 - at % WRITE_STEP as u64;
            zeros.set_len(index(step.min(range.end - at)));
            self.files.write(at, &zeros).map_err(|error| self.files.writing(at, error))?;
            at += zeros.len() as u64;
        }
        self.zeros = Some(zeros);
        Ok(())
    }
}

fn new_zeros() -> Result<Buffer> {
    // Fresh anonymous memory is zero, and only written from here on.
    BufferPool::new(1, WRITE_STEP)?.take(&|| false)
}
