//! The master file table: records by number, and with them the files and their attributes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::attribute::{Attribute, kind};
use super::boot::Boot;
use super::list::{self, ListEntry};
use super::record::Record;
use super::space::Space;
use super::stream::{Body, Stream};
use super::units::{Lcn, RecordNumber, Reference, bytes};
use crate::base::limits::MAX_ATTRIBUTE_LIST;
use crate::base::{ByteRange, Error, Result};

/// Records that there is a copy of.
const MIRRORED: u64 = 4;

/// The table.
pub(super) struct Mft {
    pub space: Space,
    pub record_size: usize,
    mirror: Lcn,
    table: Stream,
}

/// A file: its first record, and the list of its attributes if that does not hold them all.
pub(super) struct File {
    pub record: Record,
    list: Option<Vec<ListEntry>>,
}

impl File {
    pub(super) fn reference(&self) -> Reference {
        Reference::new(self.record.number.0, self.record.sequence)
    }

    /// The values that it has according to the list of its attributes, by kind and name, each once;
    /// `None` where it has no list.
    pub(super) fn listed(&self) -> Option<BTreeSet<(u32, &[u8])>> {
        let list = self.list.as_ref()?;
        Some(list.iter().map(|entry| (entry.kind, entry.name.as_slice())).collect())
    }

    /// The records that it needs besides its first, ascending.
    pub(super) fn later_records(&self) -> BTreeSet<u64> {
        let records = self.list.iter().flatten().map(|entry| entry.record.number().0);
        records.filter(|number| *number != self.record.number.0).collect()
    }

    /// An error about this file.
    pub(super) fn corrupt(&self, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::corrupt(self.record.number, expected, found)
    }
}

impl Mft {
    /// Opens the table; with notes about its first records, if they are damaged.
    ///
    /// # Errors
    /// `Corrupt` when its own record is damaged, and the copy of that too.
    pub(super) fn open(space: Space, boot: &Boot) -> Result<(Self, Vec<String>)> {
        let (record_size, mirror) = (boot.record_size, boot.mirror);
        let mut mft = Self { space, record_size, mirror, table: Stream::empty() };
        let mut failure = None;
        // Where neither is marked as in use, that bit is what is wrong, as long as all else fits.
        for (place, may_be_unused) in
            [(boot.mft, false), (mirror, false), (boot.mft, true), (mirror, true)]
        {
            let opened = mft.first_record(place, may_be_unused);
            match opened.and_then(|record| mft.load_table(record)) {
                Ok(()) => {
                    let mut notes = mft.compare_mirror();
                    // It may be the boot sector that leads to a wrong place.
                    if let (Some(error), true) = (failure, notes.is_empty()) {
                        notes.push(format!(
                            "The table was found by the copy of its start: {error}."
                        ));
                    }
                    return Ok((mft, notes));
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::corrupt("master file table", "a record", "none")))
    }

    /// The table's own record, as it is at `place`.
    fn first_record(&self, place: Lcn, may_be_unused: bool) -> Result<Record> {
        let (offset, number) = (self.space.offset(place), RecordNumber(0));
        match may_be_unused {
            false => read_record(&self.space, offset, self.record_size, number),
            true => {
                let mut record = vec![0; self.record_size];
                self.space.read_metadata(offset, &mut record)?;
                Ok(Record::parse_any(number, record)?.0)
            }
        }
    }

    /// Takes the table to be where its `first` record says.
    fn load_table(&mut self, first: Record) -> Result<()> {
        let number = first.number;
        self.load_parts(first).map_err(|error| error.within(number))
    }

    fn load_parts(&mut self, first: Record) -> Result<()> {
        let mut table = None;
        for attribute in first.attributes() {
            let attribute = attribute?;
            if attribute.kind == kind::DATA && attribute.name.is_empty() {
                table = Some(Stream::begin(&attribute, &self.space)?);
                break;
            }
        }
        let none = || Error::corrupt("master file table", "a data stream", "none");
        self.table = table.ok_or_else(none)?;
        // Each part of the table's map is in a record that the parts before it lead to.
        let file = self.file_of(first)?;
        for entry in file.list.iter().flatten() {
            let is_later = entry.lowest.0 > 0 && entry.kind == kind::DATA && entry.name.is_empty();
            if is_later {
                let record = self.part_record(&file, entry)?;
                let attribute = find(record.as_ref().unwrap_or(&file.record), entry)?;
                self.table.extend(&attribute, &self.space)?;
            }
        }
        Ok(())
    }

    /// What is to be said of the first records, which there is a copy of.
    fn compare_mirror(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for number in (0..MIRRORED).map(RecordNumber) {
            if let Err(error) = self.own_record(number) {
                let copy = match self.mirrored(number) {
                    Ok(_) => "the copy of it is used",
                    Err(_) if number.0 == 0 => "its copy is too, and it is read as far as it goes",
                    Err(_) => "its copy is damaged too",
                };
                notes.push(format!("A record is damaged ({error}); {copy}."));
            }
        }
        notes
    }

    /// Record `number`, or the copy of it, if there is one and the record is damaged.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or not in use; the volume's own.
    pub(super) fn record(&self, number: RecordNumber) -> Result<Record> {
        self.own_record(number).or_else(|error| match number.0 < MIRRORED {
            true => self.mirrored(number).map_err(|_| error),
            false => Err(error),
        })
    }

    fn own_record(&self, number: RecordNumber) -> Result<Record> {
        let mut record = vec![0; self.record_size];
        let offset = number.0.saturating_mul(bytes(self.record_size));
        let read = self.table.read_metadata(&self.space, offset, &mut record);
        read.map_err(|error| error.within(number))?;
        Record::parse(number, record)
    }

    fn mirrored(&self, number: RecordNumber) -> Result<Record> {
        let distance = number.0.saturating_mul(bytes(self.record_size));
        let offset = self.space.offset(self.mirror).saturating_add(distance);
        read_record(&self.space, offset, self.record_size, number)
    }

    /// The runs of the table itself.
    pub(super) fn table(&self) -> &Stream {
        &self.table
    }

    /// Where record `number` is: in two places or more only where clusters are smaller than it.
    ///
    /// # Errors
    /// `Corrupt` when it is beyond the table's end.
    pub(super) fn places(&self, number: u64) -> Result<Vec<ByteRange>> {
        let mut at = number.saturating_mul(bytes(self.record_size));
        let end = at.saturating_add(bytes(self.record_size));
        let mut places = Vec::new();
        while let (Body::Mapped(runs), true) = (&self.table.body, at < end) {
            let stretch = Stream::stretch(runs, &self.space, at)?;
            let length = stretch.length.min(end.saturating_sub(at)).max(1);
            places.extend(stretch.place.map(|place| ByteRange::new(place, length)));
            at = at.saturating_add(length);
        }
        Ok(places)
    }

    /// The file that `reference` means.
    ///
    /// # Errors
    /// `Corrupt` when it is another file's by now, or damaged; the volume's own.
    pub(super) fn file(&self, reference: Reference) -> Result<File> {
        let record = self.record(reference.number())?;
        record.check(reference)?;
        if record.base.0 != 0 {
            let found = format!("a later one of {}", record.base);
            return Err(Error::corrupt(record.number, "a file's first record", found));
        }
        self.file_of(record)
    }

    /// The file whose first record is `record`.
    ///
    /// # Errors
    /// `Corrupt` when the list of its attributes is damaged; the volume's own.
    pub(super) fn file_of(&self, record: Record) -> Result<File> {
        let mut list = None;
        for attribute in record.attributes() {
            let attribute = attribute?;
            if attribute.kind == kind::ATTRIBUTE_LIST {
                let value = Stream::begin(&attribute, &self.space)
                    .and_then(|stream| stream.whole(&self.space, MAX_ATTRIBUTE_LIST));
                let entries = value.and_then(|value| list::parse(&value));
                list = Some(entries.map_err(|error| error.within(record.number))?);
            }
            if attribute.kind >= kind::ATTRIBUTE_LIST {
                break;
            }
        }
        Ok(File { record, list })
    }

    /// Shows the attributes of `file` of a kind, and of a name if there is one, to `visit`, until
    /// it breaks: all parts of a value in their order.
    ///
    /// # Errors
    /// `Corrupt` when one is damaged; those of `visit`; the volume's own.
    pub(super) fn each_attribute(
        &self,
        file: &File,
        kind: u32,
        name: Option<&[u8]>,
        visit: &mut dyn FnMut(&Attribute<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let place = file.record.number;
        let Some(list) = &file.list else {
            for attribute in file.record.attributes() {
                let attribute = attribute?;
                let is_wanted =
                    attribute.kind == kind && name.is_none_or(|name| name == attribute.name);
                let visited = is_wanted.then(|| visit(&attribute)).transpose();
                if visited.map_err(|error| error.within(place))?.is_some_and(|flow| flow.is_break())
                {
                    break;
                }
            }
            return Ok(());
        };
        let mut known: Option<(Reference, Option<Record>)> = None;
        for entry in list {
            if entry.kind != kind || name.is_some_and(|name| name != entry.name) {
                continue;
            }
            // Parts that follow one another are often in one record.
            if known.as_ref().is_none_or(|(reference, _)| *reference != entry.record) {
                known = Some((entry.record, self.part_record(file, entry)?));
            }
            let record = known.as_ref().and_then(|(_, record)| record.as_ref());
            let attribute = find(record.unwrap_or(&file.record), entry)?;
            if visit(&attribute).map_err(|error| error.within(place))?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The record that an attribute of `file` is in; `None` if that is the file's first.
    fn part_record(&self, file: &File, entry: &ListEntry) -> Result<Option<Record>> {
        if entry.record.number() == file.record.number {
            file.record.check(entry.record)?;
            return Ok(None);
        }
        let record = self.record(entry.record.number())?;
        record.check(entry.record)?;
        if record.base.number() != file.record.number {
            let expected = format!("a part of {}", file.record.number);
            return Err(Error::corrupt(record.number, expected, record.base));
        }
        file.record.check(record.base)?;
        Ok(Some(record))
    }

    /// The value of an attribute of `file`; `None` if it has none of the kind and name.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; `Limit` when it is in too many pieces; the volume's own.
    pub(super) fn stream(&self, file: &File, kind: u32, name: &[u8]) -> Result<Option<Stream>> {
        let mut found: Option<Stream> = None;
        self.each_attribute(file, kind, Some(name), &mut |attribute| {
            match &mut found {
                Some(stream) => stream.extend(attribute, &self.space)?,
                None => found = Some(Stream::begin(attribute, &self.space)?),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// All of a value of at most `most` bytes; `None` if `file` has none of the kind and name.
    ///
    /// # Errors
    /// `Limit` when it is longer; see [`stream`](Self::stream).
    pub(super) fn value(
        &self,
        file: &File,
        kind: u32,
        name: &[u8],
        most: u64,
    ) -> Result<Option<Vec<u8>>> {
        let stream = self.stream(file, kind, name)?;
        let value = stream.map(|stream| stream.whole(&self.space, most)).transpose();
        value.map_err(|error| error.within(file.record.number))
    }

    /// The names of the attributes of a kind that `file` has, each once, in their order.
    ///
    /// # Errors
    /// `Corrupt` when an attribute is damaged.
    pub(super) fn names(&self, file: &File, kind: u32) -> Result<Vec<Vec<u8>>> {
        if let Some(list) = &file.list {
            let firsts = list.iter().filter(|entry| entry.kind == kind && entry.lowest.0 == 0);
            return Ok(firsts.map(|entry| entry.name.clone()).collect());
        }
        let mut names = Vec::new();
        self.each_attribute(file, kind, None, &mut |attribute| {
            names.push(attribute.name.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(names)
    }
}

pub(super) fn read_record(
    space: &Space,
    at: u64,
    size: usize,
    number: RecordNumber,
) -> Result<Record> {
    let mut record = vec![0; size];
    space.read_metadata(at, &mut record).map_err(|error| error.within(number))?;
    Record::parse(number, record)
}

/// The attribute of `record` that a list's entry means.
fn find<'a>(record: &'a Record, entry: &ListEntry) -> Result<Attribute<'a>> {
    for attribute in record.attributes() {
        let attribute = attribute?;
        let is_it = attribute.kind == entry.kind
            && attribute.instance == entry.instance
            && attribute.lowest() == entry.lowest
            && attribute.name == entry.name;
        if is_it {
            return Ok(attribute);
        }
    }
    let expected = format!("attribute {:#x}, instance {}", entry.kind, entry.instance);
    Err(Error::corrupt(record.number, expected, "none"))
}
