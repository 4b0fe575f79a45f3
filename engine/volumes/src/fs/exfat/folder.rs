//! A folder's files, and what the root's other records name.

use std::ops::ControlFlow;

use super::entry::{BITMAP, END, FILE, FileEntry, LABEL, UP_CASE, secondaries};
use crate::base::fields::{le32, le64, slice, u8_at};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::fs::clusters::{Heap, Record, Start, each_record};
use crate::text::label_utf16;

/// Bytes of a folder at most [7.4.9, `DataLength`].
const MAX_FOLDER: u64 = 256 << 20;

/// A folder's records: on a chain, from the first byte to the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records {
    pub start: Start,
    pub range: ByteRange,
}

impl Records {
    /// All of a folder of `length` bytes.
    pub(super) fn whole(start: Start, length: u64) -> Self {
        Self { start, range: ByteRange::new(0, length) }
    }

    /// All of a folder of a length that nothing says: the root.
    pub(super) fn root(start: Start) -> Self {
        Self::whole(start, MAX_FOLDER)
    }
}

/// Shows each file of a folder to `visit`, and an error for each one that is lost, until it
/// breaks.
pub(super) fn each_file(
    heap: &Heap,
    folder: Records,
    visit: &mut dyn FnMut(Result<FileEntry>) -> ControlFlow<()>,
) {
    let mut set = Set { is_contiguous: folder.start.is_contiguous, ..Set::default() };
    let mut is_stopped = false;
    let end = folder.range.end.min(MAX_FOLDER);
    let range = ByteRange { end, ..folder.range };
    let ended = each_record(heap, folder.start, range, &mut |record| {
        let flow = set.take(record, visit);
        is_stopped |= flow.is_break();
        flow
    });
    let ended = ended.and_then(|_| {
        if folder.range.end <= MAX_FOLDER || is_stopped {
            return Ok(());
        }
        let context = format!("a folder of more than {MAX_FOLDER} bytes");
        Err(Error::new(ErrorKind::Limit, context))
    });
    if let (Err(error), false) = (ended, is_stopped || set.is_past_end) {
        // What is lost is the folder's end, and what was shown is not.
        let _ = visit(Err(error));
    }
}

/// A set of records that is gathered.
#[derive(Default)]
struct Set {
    bytes: Vec<u8>,
    place: u64,
    /// Records that are still to come.
    left: u8,
    is_contiguous: bool,
    /// Whether a record came that ends the folder. Some drivers leave such ones before others
    /// that are in use, so all are looked at; those that do not check out are then no loss.
    is_past_end: bool,
}

impl Set {
    fn take(
        &mut self,
        record: Result<Record<'_>>,
        visit: &mut dyn FnMut(Result<FileEntry>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                self.left = 0;
                return self.lose(error, visit);
            }
        };
        let kind = record.bytes.first().copied().unwrap_or(END);
        let is_secondary = kind & 0xc0 == 0xc0;
        if self.left > 0 && is_secondary {
            self.bytes.extend_from_slice(record.bytes);
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                return match FileEntry::parse(&self.bytes, self.place, self.is_contiguous) {
                    Ok(entry) => visit(Ok(entry)),
                    Err(error) => self.lose(error, visit),
                };
            }
            return ControlFlow::Continue(());
        }
        if std::mem::take(&mut self.left) > 0 {
            self.lose(self.wrong("the rest of its records", "another entry"), visit)?;
        }
        match kind {
            END => {
                self.is_past_end = true;
                ControlFlow::Continue(())
            }
            FILE => {
                self.place = record.place;
                self.bytes.clear();
                self.bytes.extend_from_slice(record.bytes);
                match secondaries(record.bytes) {
                    Some(count) => self.left = count,
                    None => {
                        self.lose(self.wrong("2 to 18 more records", "another number"), visit)?;
                    }
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn lose(
        &self,
        error: Error,
        visit: &mut dyn FnMut(Result<FileEntry>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if self.is_past_end { ControlFlow::Continue(()) } else { visit(Err(error)) }
    }

    fn wrong(&self, expected: &str, found: &str) -> Error {
        Error::corrupt(format!("folder entry at byte {}", self.place), expected, found)
    }
}

/// A file that only the root's records name.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemFile {
    pub start: Start,
    pub size: u64,
    /// The up-case table's.
    pub checksum: u32,
}

/// What the root names besides files.
#[derive(Debug, Default)]
pub(super) struct SystemFiles {
    pub bitmap: Option<SystemFile>,
    pub upcase: Option<SystemFile>,
    pub label: Option<String>,
}

impl SystemFiles {
    /// Finds them in the records of `root`, as far as those can be read; with why not. `active` is
    /// the table that counts: each has a bitmap of its own.
    pub(super) fn find(heap: &Heap, root: Records, active: u8) -> (Self, Option<Error>) {
        let (mut found, mut failure) = (Self::default(), None);
        let ended = each_record(heap, root.start, root.range, &mut |record| match record {
            Ok(record) => found.take(record.bytes, active),
            Err(error) => {
                failure = failure.take().or(Some(error));
                ControlFlow::Continue(())
            }
        });
        (found, ended.err().or(failure))
    }

    fn take(&mut self, record: &[u8], active: u8) -> ControlFlow<()> {
        let file = || {
            let start = Start { cluster: le32(record, 20)?, is_contiguous: false };
            let (size, checksum) = (le64(record, 24)?, le32(record, 4)?);
            Some(SystemFile { start, size, checksum })
        };
        match u8_at(record, 0) {
            None | Some(END) => return ControlFlow::Break(()),
            Some(BITMAP) if u8_at(record, 1).is_some_and(|flags| flags & 1 == active) => {
                self.bitmap = file();
            }
            Some(UP_CASE) => self.upcase = file(),
            Some(LABEL) => {
                let count = usize::from(u8_at(record, 1).unwrap_or_default()).min(11);
                self.label = slice(record, 2, count.saturating_mul(2)).and_then(label_utf16);
            }
            Some(_) => {}
        }
        ControlFlow::Continue(())
    }
}
