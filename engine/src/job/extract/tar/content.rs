//! Writing an archive's bytes: contents piece by piece, each of which may be the last if the run
//! is to stop.

use std::io::{self, Write};

use super::BLOCK;
use super::sparse::DataMap;
use crate::base::limits::MAX_IO_SIZE;
use crate::base::{ByteRange, Error, ErrorKind, Event, Observer, Progress, Result};
use crate::fs::FileContent;

/// Bytes that are given up together where a content cannot be read.
const LOST_TOGETHER: usize = 4096;

/// Writes to an archive and tells how far it is.
pub(super) struct Copier<'a> {
    to: &'a mut dyn Write,
    observer: &'a dyn Observer,
    buffer: Vec<u8>,
    /// Bytes of contents that are done, holes included.
    done: u64,
    total: u64,
}

impl<'a> Copier<'a> {
    /// Writes contents of `total` bytes to `to`.
    pub(super) fn new(to: &'a mut dyn Write, observer: &'a dyn Observer, total: u64) -> Self {
        Self { to, observer, buffer: vec![0; MAX_IO_SIZE], done: 0, total }
    }

    /// # Errors
    /// `Cancelled` when the run is to stop.
    pub(super) fn check(&self) -> Result<()> {
        if self.observer.cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// # Errors
    /// `Io` when the archive takes no more.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (observer, written) = (self.observer, self.to.write_all(bytes));
        written.map_err(|error| failed(observer, error))
    }

    /// Writes the first bytes of the buffer.
    fn write_buffer(&mut self, count: usize) -> Result<()> {
        let (observer, written) = (self.observer, self.to.write_all(&self.buffer[..count]));
        written.map_err(|error| failed(observer, error))
    }

    /// Writes the two blocks that end an archive.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn end_of_archive(&mut self) -> Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        self.to.flush().map_err(|error| failed(self.observer, error))
    }

    /// Writes the data of `content`, or all of it where the archive does not have its map. What
    /// cannot be read is zeros; returns the first failure.
    ///
    /// # Errors
    /// As [`write`](Self::write); `Cancelled`.
    pub(super) fn content(
        &mut self,
        content: &mut dyn FileContent,
        map: &DataMap,
    ) -> Result<Option<Error>> {
        let before = self.done;
        let is_sparse = map.encoded.is_some();
        if let Some(encoded) = &map.encoded {
            self.write(encoded)?;
        }
        let mut failure = None;
        let mut at = 0;
        for stretch in &map.data {
            if !is_sparse {
                self.zeros(ByteRange { start: at, end: stretch.start }, before)?;
            }
            let lost = self.stretch(content, *stretch, before)?;
            failure = failure.or(lost);
            at = stretch.end;
        }
        if !is_sparse {
            self.zeros(ByteRange { start: at, end: map.size }, before)?;
        }
        let written = if is_sparse { map.data_size() } else { map.size };
        let padding = written.next_multiple_of(BLOCK as u64) - written;
        self.write(&[0; BLOCK][..usize::try_from(padding).unwrap_or(0)])?;
        self.tell(before.saturating_add(map.size));
        Ok(failure)
    }

    fn stretch(
        &mut self,
        content: &mut dyn FileContent,
        stretch: ByteRange,
        before: u64,
    ) -> Result<Option<Error>> {
        let mut failure = None;
        let mut at = stretch.start;
        while at < stretch.end {
            self.check()?;
            let count = piece(stretch.end - at);
            let lost = read_or_zeros(content, at, &mut self.buffer[..count])?;
            failure = failure.or(lost);
            self.write_buffer(count)?;
            at += count as u64;
            self.tell(before.saturating_add(at));
        }
        Ok(failure)
    }

    /// Writes a hole that is too small for the archive to know it.
    fn zeros(&mut self, hole: ByteRange, before: u64) -> Result<()> {
        let mut at = hole.start;
        while at < hole.end {
            self.check()?;
            let count = piece(hole.end - at);
            self.buffer[..count].fill(0);
            self.write_buffer(count)?;
            at += count as u64;
            self.tell(before.saturating_add(at));
        }
        Ok(())
    }

    fn tell(&mut self, done: u64) {
        self.done = done;
        let progress = Progress { done, total: self.total, moved: done, ..Progress::default() };
        self.observer.event(&Event::Progress(progress));
    }
}

/// Why the archive took no more. A write may have waited until the run was to stop.
fn failed(observer: &dyn Observer, error: io::Error) -> Error {
    match observer.cancelled() {
        true => Error::cancelled(),
        false => Error::io("write the archive", error),
    }
}

fn piece(left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(MAX_IO_SIZE)
}

/// Fills `buffer` from `offset`, with zeros where the content cannot be read; returns the first
/// failure.
///
/// # Errors
/// `Cancelled`.
fn read_or_zeros(
    content: &mut dyn FileContent,
    offset: u64,
    buffer: &mut [u8],
) -> Result<Option<Error>> {
    let (mut at, mut failure) = (0, None);
    // At first as much as there is; once something fails, in small pieces.
    let mut most = buffer.len();
    while at < buffer.len() {
        let count = most.min(buffer.len() - at);
        let place = offset + at as u64;
        let wanted = &mut buffer[at..at + count];
        let error = match content.read_at(place, wanted) {
            Ok(0) => Error::corrupt(format!("content at {place}"), "bytes", "its end"),
            Ok(read) => {
                at += read;
                continue;
            }
            Err(error) => error,
        };
        if error.kind() == ErrorKind::Cancelled {
            return Err(error);
        }
        if count > LOST_TOGETHER {
            most = LOST_TOGETHER;
            continue;
        }
        wanted.fill(0);
        at += count;
        failure.get_or_insert(error);
    }
    Ok(failure)
}
