//! Reading packs by themselves: adopting what a killed capture left, and finding what can be
//! had when manifests, tables or nodes are damaged.

use std::collections::HashSet;

use memchr::memmem;

use super::digest::{PackId, RepositoryId};
use super::frame::{Frame, FrameHeader, HEADER_LENGTH as FRAME_HEADER, MAGIC};
use super::lock::Lock;
use super::pack::{self, HEADER_LENGTH, TableEntry};
use super::repository::Repository;
use super::storage::{Folder, ObjectReader};
use super::writer::sync_or_remove;
use crate::base::{Error, ErrorKind, Event, Observer, Result};

/// Bytes read at a time.
const WINDOW: usize = 4 * 1024 * 1024;
/// What media lose at a time, at least as far as the page cache tells.
const SECTOR: u64 = 4096;

/// What a scan found at a place of a pack.
pub enum Found<'a> {
    /// A sound frame: where it begins, and its parts.
    Frame(u32, Frame<'a>),
    /// A frame whose header is sound, but whose stored bytes are not.
    BadFrame(u32, FrameHeader, Error),
    /// Bytes that are no frame; the scan goes on behind them.
    Garbage(u64, Error),
}

/// Reads a pack's frames one after another, from their own headers, up to `end`. After damage it
/// goes on where the pack's `table` says that the next frame is, and without one looks for the
/// next sound header.
///
/// # Errors
/// `Io` when the pack cannot be read; the visitor's own, which end the scan.
pub fn scan(
    object: &dyn ObjectReader,
    end: u64,
    table: Option<&[TableEntry]>,
    visit: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    let mut window = Window { object, end, start: 0, bytes: Vec::new() };
    let mut at = HEADER_LENGTH as u64;
    while at < end {
        let header = match window.get(at, FRAME_HEADER) {
            Ok(Some(bytes)) => FrameHeader::decode(bytes),
            Ok(None) => {
                Err(Error::corrupt("frame header", format!("{FRAME_HEADER} bytes"), end - at))
            }
            Err(unreadable) => Err(damage_only(unreadable)?),
        };
        let header = match header {
            Ok(header) => header,
            Err(error) => {
                visit(Found::Garbage(at, error.within(format!("byte {at}"))))?;
                let next = match table {
                    Some(table) => next_listed(table, at),
                    None => window.find_header(at + 1)?,
                };
                let Some(next) = next else { return Ok(()) };
                at = next;
                continue;
            }
        };
        let offset = u32::try_from(at).map_err(|_| {
            Error::new(ErrorKind::Limit, format!("pack of {end} bytes: frames end at 4 GiB"))
        })?;
        let length = u64::from(header.frame_length());
        let frame = match window.get(at, header.frame_length() as usize) {
            Ok(Some(bytes)) => Frame::open(bytes),
            Ok(None) => {
                let expected = format!("{length} bytes");
                let error = Error::corrupt(format!("frame at {at}"), expected, end - at);
                visit(Found::Garbage(at, error))?;
                let Some(next) = table.and_then(|table| next_listed(table, at)) else {
                    return Ok(());
                };
                at = next;
                continue;
            }
            Err(unreadable) => Err(damage_only(unreadable)?),
        };
        match frame {
            Ok(frame) => visit(Found::Frame(offset, frame))?,
            Err(error) => {
                visit(Found::BadFrame(offset, header, error.within(format!("frame at {at}"))))?;
            }
        }
        // A header that is another frame's leads astray.
        at = table.map_or(Some(at + length), |table| next_listed(table, at)).unwrap_or(end);
    }
    Ok(())
}

/// Where the next frame behind `at` begins.
fn next_listed(table: &[TableEntry], at: u64) -> Option<u64> {
    let next = table.partition_point(|entry| u64::from(entry.offset) <= at);
    table.get(next).map(|entry| u64::from(entry.offset))
}

/// Damage, as what it is; all else is passed on.
fn damage_only(error: Error) -> Result<Error> {
    if error.kind() == ErrorKind::Corrupt { Ok(error) } else { Err(error) }
}

/// A piece of a pack in memory.
struct Window<'a> {
    object: &'a dyn ObjectReader,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// `length` bytes at `at`; `None` when the pack ends before. Damage is what lies in these
    /// bytes, not in others of the window.
    fn get(&mut self, at: u64, length: usize) -> Result<Option<&[u8]>> {
        if at.checked_add(length as u64).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        let held = self.start..self.start + self.bytes.len() as u64;
        if at < held.start || at + length as u64 > held.end {
            let left = usize::try_from(self.end - at).unwrap_or(usize::MAX);
            self.bytes.resize(length.max(WINDOW).min(left), 0);
            self.start = at;
            let mut outcome = self.object.read_exact_at(at, &mut self.bytes);
            if matches!(&outcome, Err(error) if error.kind() == ErrorKind::Corrupt) {
                self.bytes.truncate(length);
                outcome = self.object.read_exact_at(at, &mut self.bytes);
            }
            if outcome.is_err() {
                self.bytes.clear();
            }
            outcome?;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..from + length))
    }

    /// The next place with a sound frame header.
    fn find_header(&mut self, from: u64) -> Result<Option<u64>> {
        let mut at = from;
        loop {
            at = self.find_magic(at)?;
            match self.get(at, FRAME_HEADER) {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) if FrameHeader::decode(bytes).is_ok() => return Ok(Some(at)),
                Ok(Some(_)) => at += 1,
                // The next that may be readable.
                Err(unreadable) => {
                    damage_only(unreadable)?;
                    at = (at / SECTOR + 1) * SECTOR;
                }
            }
        }
    }

    /// The next place that begins as a header does or is damaged, or the end. Holes are passed
    /// over unread.
    fn find_magic(&mut self, from: u64) -> Result<u64> {
        let mut at = from;
        loop {
            at = self.object.next_data(at);
            match self.get(at, MAGIC.len()) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(self.end),
                Err(unreadable) => return damage_only(unreadable).map(|_| at),
            }
            let held = usize::try_from(at - self.start).ok().and_then(|at| self.bytes.get(at..));
            let held = held.unwrap_or_default();
            if let Some(found) = memmem::find(held, &MAGIC) {
                return Ok(at + found as u64);
            }
            // It may begin with the last bytes that are held.
            at += (held.len() - (MAGIC.len() - 1)) as u64;
        }
    }
}

/// Finishes the packs that ended captures left unfinished, up to their last sound frame, so that
/// their blocks need not be stored again. Does nothing unless `lock` is the repository's only
/// one: another's unfinished pack may still grow.
///
/// # Errors
/// `Io`; `Cancelled`.
pub fn adopt_unfinished(
    repository: &Repository,
    lock: &Lock,
    observer: &dyn Observer,
) -> Result<()> {
    // In this order: whoever locks after the list was made can have no pack on it.
    let unfinished = repository.packs()?.unfinished;
    if unfinished.is_empty() || !lock.is_alone(&**repository.storage())? {
        return Ok(());
    }
    for (id, size) in unfinished {
        if observer.cancelled() {
            return Err(Error::cancelled());
        }
        adopt(repository, id, size).map_err(|error| error.within(pack::unfinished_name(id)))?;
    }
    Ok(())
}

fn adopt(repository: &Repository, id: PackId, size: u64) -> Result<()> {
    let storage = repository.storage();
    let name = pack::unfinished_name(id);
    let entries = sound_frames(&*storage.open(&name)?, size, repository.config().id, id)?;
    let Some(end) = entries.last().map(TableEntry::end) else {
        return storage.remove(&name);
    };
    let mut writer = storage.reopen(&name, end)?;
    writer.append(&pack::encode_end(&entries, end))?;
    sync_or_remove(&**storage, &name, &mut *writer)?;
    drop(writer);
    storage.rename(&name, &pack::object_name(id).name)?;
    storage.sync_folder(Folder::Packs)
}

/// The frames of an unfinished pack, up to the first that is not sound.
fn sound_frames(
    object: &dyn ObjectReader,
    size: u64,
    repository: RepositoryId,
    id: PackId,
) -> Result<Vec<TableEntry>> {
    let mut header = [0; HEADER_LENGTH];
    if size < HEADER_LENGTH as u64 {
        return Ok(Vec::new());
    }
    object.read_exact_at(0, &mut header)?;
    if pack::check_header(&header, repository, id).is_err() {
        return Ok(Vec::new());
    }
    let mut entries = Vec::new();
    let stop = || Error::new(ErrorKind::Corrupt, "the sound frames' end");
    let scanned = scan(object, size, None, &mut |found| match found {
        Found::Frame(offset, frame) if pack::has_room(0, entries.len(), 0) => {
            entries.extend(TableEntry::of_frame(&frame, offset));
            Ok(())
        }
        _ => Err(stop()),
    });
    match scanned {
        Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
        _ => Ok(entries),
    }
}

/// Tells of a finished pack whatever is wrong with it, and shows each sound frame, so that the
/// visitor can say what more is wrong with its contents.
///
/// # Errors
/// `Io`; the visitor's own of kinds other than `Corrupt`, which is a finding.
pub fn inspect(
    repository: &Repository,
    id: PackId,
    observer: &dyn Observer,
    visit: &mut dyn FnMut(u32, &Frame<'_>) -> Result<()>,
) -> Result<PackState> {
    let name = pack::object_name(id);
    let object = repository.storage().open_for_bulk(&name)?;
    let mut state = PackState { size: object.size(), ..PackState::default() };
    let report = |error: &Error| {
        observer.event(&Event::Damage { report: &format!("{name}: {error}") });
    };
    let mut header = [0; HEADER_LENGTH];
    let checked = object
        .read_exact_at(0, &mut header)
        .and_then(|()| pack::check_header(&header, repository.config().id, id));
    if let Err(error) = checked {
        state.damage += 1;
        report(&error);
    }
    let table = pack::read_table(&*object);
    if let Err(error) = &table {
        state.damage += 1;
        report(error);
    }
    let table = table.ok();
    let end = match &table {
        Some(table) => table.last().map_or(HEADER_LENGTH as u64, TableEntry::end),
        // Places are 32-bit.
        None => object.size().min(u64::from(u32::MAX)),
    };
    scan(&*object, end, table.as_deref(), &mut |found| {
        let outcome = match found {
            Found::Frame(offset, frame) => check_against(table.as_deref(), offset, &frame)
                .and_then(|()| visit(offset, &frame))
                .map(|()| state.sound.extend(TableEntry::of_frame(&frame, offset))),
            Found::BadFrame(offset, _, error) => {
                state.unsound.push(offset);
                Err(error)
            }
            // Without a table, the table's own bytes look like garbage.
            Found::Garbage(..) if table.is_none() => Ok(()),
            Found::Garbage(_, error) => Err(error),
        };
        match outcome {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                state.damage += 1;
                report(&error);
                Ok(())
            }
            outcome => outcome,
        }
    })?;
    if let Some(table) = &table {
        let sound: HashSet<u32> = state.sound.iter().map(|entry| entry.offset).collect();
        let firsts = table.iter().filter(|entry| entry.member == 0).map(|entry| entry.offset);
        state.unsound = firsts.filter(|offset| !sound.contains(offset)).collect();
    }
    Ok(state)
}

/// Checks that a pack's table says of a frame what the frame itself says: a sound frame in
/// another's place is damage.
fn check_against(table: Option<&[TableEntry]>, offset: u32, frame: &Frame<'_>) -> Result<()> {
    let Some(table) = table else { return Ok(()) };
    let from = table.partition_point(|entry| entry.offset < offset);
    let listed = table[from..].iter().take_while(|entry| entry.offset == offset).copied();
    if listed.eq(TableEntry::of_frame(frame, offset)) {
        return Ok(());
    }
    Err(Error::corrupt(format!("frame at {offset}"), "the one in the pack's table", "another"))
}

/// What an inspection found.
#[derive(Debug, Default)]
pub struct PackState {
    /// The pack's bytes.
    pub size: u64,
    /// The members of its sound frames, in the pack's order.
    pub sound: Vec<TableEntry>,
    /// The first bytes of the frames that are not sound, as far as they are known.
    pub unsound: Vec<u32>,
    /// Damages that were reported.
    pub damage: u64,
}
