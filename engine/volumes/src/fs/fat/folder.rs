//! A folder's files, each under its long name where it has one.

use std::ops::ControlFlow;

use super::Fat;
use super::boot::Root;
use super::entry::{DELETED, END, LongName, ShortEntry};
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::fs::clusters::{Heap, Record, each_record, show, wtf8};

/// Bytes of a folder at most: 65,536 records, as the specification has it, and Linux.
pub(super) const MAX_FOLDER: u64 = 65_536 * 32;

/// A file of a folder.
pub(super) struct File {
    pub name: Vec<u8>,
    pub short_name: Vec<u8>,
    /// The byte of the volume where its entry is.
    pub place: u64,
    pub entry: ShortEntry,
}

/// Shows each file of a folder to `visit`, and an error for each piece that is lost, until it
/// breaks.
pub(super) fn each_file(
    fat: &Fat,
    folder: Root,
    visit: &mut dyn FnMut(Result<File>) -> ControlFlow<()>,
) {
    let mut long = LongName::default();
    let mut is_stopped = false;
    let mut take = |record: Result<Record<'_>>| {
        let flow = take(fat, record, &mut long, visit);
        is_stopped |= flow.is_break();
        flow
    };
    let ended = match each(&fat.heap, folder, MAX_FOLDER, &mut take) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let context = format!("a folder of more than {MAX_FOLDER} bytes");
            Err(Error::new(ErrorKind::Limit, context))
        }
        Err(error) => Err(error),
    };
    // After the end of a folder its chain does not matter; before it, the folder's end is lost,
    // and what was shown is not.
    if let (Err(error), false) = (ended, is_stopped) {
        let _ = visit(Err(error));
    }
}

fn take(
    fat: &Fat,
    record: Result<Record<'_>>,
    long: &mut LongName,
    visit: &mut dyn FnMut(Result<File>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let record = match record {
        Ok(record) => record,
        Err(error) => {
            *long = LongName::default();
            return visit(Err(error));
        }
    };
    match record.bytes.first() {
        None | Some(&END) => return ControlFlow::Break(()),
        Some(&DELETED) => {
            *long = LongName::default();
            return ControlFlow::Continue(());
        }
        Some(_) => {}
    }
    if long.take(record.bytes) {
        return ControlFlow::Continue(());
    }
    let Some(entry) = ShortEntry::parse(record.bytes, fat.heap.table.width) else {
        *long = LongName::default();
        return ControlFlow::Continue(());
    };
    let short_name = entry.short_name();
    let name = long.finish(&entry).map_or_else(|| short_name.clone(), |units| wtf8(&units));
    if name.is_empty() {
        let place = format!("folder entry at byte {}", record.place);
        return visit(Err(Error::corrupt(place, "a name", "none")));
    }
    visit(Ok(File { name, short_name, place: record.place, entry }))
}

/// Shows the records of the first `most` bytes of a folder to `take`; returns whether there is more.
fn each(
    heap: &Heap,
    folder: Root,
    most: u64,
    take: &mut dyn FnMut(Result<Record<'_>>) -> ControlFlow<()>,
) -> Result<bool> {
    match folder {
        Root::Chain(start) => each_record(heap, start, ByteRange::new(0, most), take),
        Root::Fixed(place, length) => {
            // Breaking and ending are the same here.
            let _ = show(heap, place, length, take);
            Ok(false)
        }
    }
}

/// The volume's label, which is an entry of the root's first `most` bytes.
///
/// # Errors
/// Why it was not found, where some of the root cannot be read.
pub(super) fn label(heap: &Heap, root: Root, most: u64) -> Result<Option<String>> {
    let (mut found, mut failure) = (None, None);
    let ended = each(heap, root, most, &mut |record| match record {
        Ok(record) if record.bytes.first() == Some(&END) => ControlFlow::Break(()),
        Ok(record) => {
            found = ShortEntry::label(record.bytes);
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
        Err(error) => {
            failure = failure.take().or(Some(error));
            ControlFlow::Continue(())
        }
    });
    let failure = ended.err().or(failure).filter(|_| found.is_none());
    failure.map_or(Ok(found), Err)
}
