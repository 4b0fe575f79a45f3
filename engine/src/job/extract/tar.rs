//! Files out of an image as a tar archive (POSIX.1-2001, with pax records), in the order of their
//! names. Nothing is left out: what may be made of it is for whoever unpacks it to say.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::plan::{Extract, Failure, Item};
use crate::base::{Error, ErrorContext, Event, Observer, Phase, Progress, Result};
use crate::fs::{FileContent, FileType, Metadata, Timestamp};

/// Largest number that a header's field for user and group takes in octal; larger ones are pax
/// records beside it.
const LARGEST_OCTAL_ID: u32 = 0o7_777_777;

impl Extract<'_> {
    /// Writes everything to `to` as a tar archive; returns what could not be read. A content that
    /// fails in its middle goes on as zeros, so that the archive stays whole.
    ///
    /// # Errors
    /// `Io` when `to` takes no more; `Cancelled`.
    pub fn write_tar(
        mut self,
        to: &mut dyn Write,
        observer: &dyn Observer,
    ) -> Result<Vec<Failure>> {
        let mut failures = std::mem::take(&mut self.lost);
        let mut archive = Builder::new(to);
        let (mut done, total) = (0, self.bytes);
        observer.event(&Event::Started { phase: Phase::Extract, total });
        for index in 0..self.items.len() {
            if observer.cancelled() {
                return Err(Error::cancelled());
            }
            let Some(item) = self.items.get(index) else { break };
            match self.append(&mut archive, index, item) {
                Ok(None) => {}
                Ok(Some(error)) => failures.push(Failure { path: self.path(index), error }),
                Err(NotAppended::Write(error)) => {
                    return Err(Error::io("write the archive", error));
                }
                Err(NotAppended::Read(error)) => {
                    failures.push(Failure { path: self.path(index), error });
                }
            }
            if item.file_type == FileType::Regular && item.link_of.is_none() {
                done += item.size;
                let progress = Progress { done, total, moved: done, ..Progress::default() };
                observer.event(&Event::Progress(progress));
            }
        }
        archive.finish().context(|| "write the archive")?;
        Ok(failures)
    }

    fn append(
        &self,
        archive: &mut Builder<&mut dyn Write>,
        index: usize,
        item: &Item,
    ) -> std::result::Result<Option<Error>, NotAppended> {
        let metadata = self.filesystem.metadata(item.file)?;
        let mut path = self.path(index);
        if item.file_type == FileType::Directory {
            path.push(b'/');
        }
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        let mut header = header(&metadata, &mut records);
        set_path(&mut header, &path, &mut records);
        let (mut target, mut lost) = (Vec::new(), None);
        if let Some(first) = item.link_of {
            header.set_entry_type(EntryType::Link);
            target = self.path(first as usize);
        } else if item.file_type == FileType::Symlink {
            target = self.filesystem.link_target(item.file)?;
        } else {
            let (attributes, damage) = self.filesystem.sound_xattrs(item.file)?;
            lost = damage;
            records.extend(attributes.into_iter().map(|attribute| {
                let name = String::from_utf8_lossy(&attribute.name).into_owned();
                (format!("SCHILY.xattr.{name}"), attribute.value)
            }));
        }
        set_target(&mut header, &target, &mut records);
        let has_content = item.file_type == FileType::Regular && item.link_of.is_none();
        let mut content = if has_content { Some(self.filesystem.open(item.file)?) } else { None };
        let size = content.as_ref().map_or(0, |content| content.size());
        header.set_size(size);
        header.set_cksum();
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        archive.append_pax_extensions(records)?;
        let mut reader = Reader { content: content.as_deref_mut(), at: 0, size, failure: None };
        archive.append(&header, &mut reader)?;
        Ok(reader.failure.or(lost))
    }
}

/// Why an entry is not in the archive.
enum NotAppended {
    Read(Error),
    Write(io::Error),
}

impl From<Error> for NotAppended {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for NotAppended {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

fn header(metadata: &Metadata, records: &mut Vec<(String, Vec<u8>)>) -> Header {
    let mut header = Header::new_ustar();
    let is_folder = metadata.file_type == FileType::Directory;
    header.set_entry_type(match metadata.file_type {
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::CharDevice => EntryType::Char,
        FileType::BlockDevice => EntryType::Block,
        FileType::Fifo | FileType::Socket => EntryType::Fifo,
        FileType::Regular => EntryType::Regular,
    });
    let without = if is_folder { 0o755 } else { 0o644 };
    header.set_mode(metadata.mode.unwrap_or(without).into());
    let (uid, gid) = (metadata.uid.unwrap_or(0), metadata.gid.unwrap_or(0));
    header.set_uid(uid.min(LARGEST_OCTAL_ID).into());
    header.set_gid(gid.min(LARGEST_OCTAL_ID).into());
    for (key, id) in [("uid", uid), ("gid", gid)] {
        if id > LARGEST_OCTAL_ID {
            records.push((key.to_owned(), id.to_string().into_bytes()));
        }
    }
    if let Some((major, minor)) = metadata.device {
        // The fields are there in a ustar header, so both can be set.
        let _ = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
    }
    header.set_mtime(0);
    for (key, time) in [("mtime", metadata.modified), ("atime", metadata.accessed)] {
        records.extend(time.map(|time| (key.to_owned(), decimal(time).into_bytes())));
    }
    header
}

/// Seconds since 1970 with their fraction, as pax has them.
fn decimal(time: Timestamp) -> String {
    let (mut seconds, mut fraction) = (time.seconds, time.nanoseconds);
    let is_negative = seconds < 0;
    if is_negative && fraction > 0 {
        // Seconds are rounded down, but the sign of a decimal number is of all of it.
        seconds += 1;
        fraction = 1_000_000_000_u32.saturating_sub(fraction);
    }
    let sign = if is_negative { "-" } else { "" };
    format!("{sign}{}.{fraction:09}", seconds.unsigned_abs())
}

/// Puts the path into the header if it fits, else into a record; names that are not UTF-8 do not
/// fit, as records are said to be and unpackers take their bytes all the same.
fn set_path(header: &mut Header, path: &[u8], records: &mut Vec<(String, Vec<u8>)>) {
    let field = &mut header.as_old_mut().name;
    let count = path.len().min(field.len());
    field[..count].copy_from_slice(&path[..count]);
    if path.len() > field.len() {
        records.push(("path".to_owned(), path.to_vec()));
    }
}

fn set_target(header: &mut Header, target: &[u8], records: &mut Vec<(String, Vec<u8>)>) {
    let field = &mut header.as_old_mut().linkname;
    let count = target.len().min(field.len());
    field[..count].copy_from_slice(&target[..count]);
    if target.len() > field.len() {
        records.push(("linkpath".to_owned(), target.to_vec()));
    }
}

/// A content as a stream; after a failure the rest of it is zeros.
struct Reader<'a, 'b> {
    content: Option<&'a mut (dyn FileContent + 'b)>,
    at: u64,
    size: u64,
    failure: Option<Error>,
}

impl Read for Reader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        let wanted = &mut buffer[..count];
        let Some(content) = self.content.as_mut().filter(|_| count > 0) else { return Ok(0) };
        let read = match &self.failure {
            Some(_) => Ok(0),
            None => content.read_at(self.at, wanted),
        };
        let read = read.unwrap_or_else(|error| {
            self.failure = Some(error);
            0
        });
        if read == 0 {
            wanted.fill(0);
            let place = format!("content from {}", self.at);
            self.failure.get_or_insert(Error::corrupt(place, "bytes", "none"));
        }
        let count = if read == 0 { count } else { read };
        self.at += count as u64;
        Ok(count)
    }
}
