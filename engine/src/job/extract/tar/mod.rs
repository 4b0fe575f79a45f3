//! Files out of an image as a tar archive (POSIX.1-2001, with pax records), in the order of their
//! names. What GNU tar and bsdtar can unpack is in it: holes in GNU's sparse format 1.0, access
//! control lists and extended attributes as records of star's. What no archive can hold (sockets,
//! an attribute whose name has a NUL) is named in the report.

mod acl;
mod content;
mod header;
mod records;
mod sparse;

use std::collections::HashSet;
use std::io::Write;

use content::Copier;
use header::Entry;
use sparse::DataMap;

use super::plan::{Extract, Failure, Item};
use crate::base::{Error, ErrorKind, Event, Observer, Phase, Result};
use crate::fs::{FileContent, FileType, Xattr};

/// Bytes of an archive's blocks.
const BLOCK: usize = 512;

/// What an archive lacks.
#[derive(Debug, Default)]
pub struct TarReport {
    /// What could not be read, in whole or in part.
    pub failures: Vec<Failure>,
    /// What an archive cannot hold.
    pub left_out: Vec<LeftOut>,
}

/// Something that an archive cannot hold.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The file's path on the volume.
    pub path: Vec<u8>,
    /// What of it.
    pub what: LeftOutPart,
}

/// What of a file an archive cannot hold.
#[derive(Debug, PartialEq, Eq)]
pub enum LeftOutPart {
    /// All of it: it is a socket.
    Socket,
    /// The extended attribute of this name.
    Attribute(Vec<u8>),
}

impl Extract<'_> {
    /// Writes everything to `to` as a tar archive. What fails in a content's middle is zeros, so
    /// that the archive stays whole.
    ///
    /// # Errors
    /// `Io` when `to` takes no more; `Cancelled`.
    pub fn write_tar(mut self, to: &mut dyn Write, observer: &dyn Observer) -> Result<TarReport> {
        let failures = std::mem::take(&mut self.lost);
        observer.event(&Event::Started { phase: Phase::Extract, total: self.bytes });
        let mut archive = Archive {
            plan: &self,
            copier: Copier::new(to, observer, self.bytes),
            report: TarReport { failures, ..TarReport::default() },
            missing: HashSet::new(),
        };
        for (index, item) in self.items.iter().enumerate() {
            archive.copier.check()?;
            archive.append(index, item)?;
        }
        archive.copier.end_of_archive()?;
        Ok(archive.report)
    }
}

/// An archive that is being written.
struct Archive<'a> {
    plan: &'a Extract<'a>,
    copier: Copier<'a>,
    report: TarReport,
    /// Items that are not in the archive, so that no other name can be linked to them.
    missing: HashSet<usize>,
}

/// A content and which stretches of it are data.
struct Content<'a> {
    file: Box<dyn FileContent + 'a>,
    map: DataMap,
}

impl<'a> Archive<'a> {
    /// Appends an item; what cannot be read of it is reported.
    fn append(&mut self, index: usize, item: &Item) -> Result<()> {
        if item.file_type == FileType::Socket {
            self.left_out(index, LeftOutPart::Socket);
            return Ok(());
        }
        match self.prepare(index, item) {
            Ok((entry, content)) => self.write(index, entry, content),
            Err(error) => {
                self.missing.insert(index);
                self.failed(index, error)
            }
        }
    }

    /// Reads all that has to stand before an item's content.
    fn prepare(&mut self, index: usize, item: &Item) -> Result<(Entry, Option<Content<'a>>)> {
        let filesystem = self.plan.filesystem;
        let metadata = filesystem.metadata(item.file)?;
        let mut entry = Entry::new(self.plan.path(index), &metadata);
        let first = item.link_of.map(|first| first as usize);
        if let Some(first) = first.filter(|first| !self.missing.contains(first)) {
            entry.set_link_of(&self.plan.path(first));
            return Ok((entry, None));
        }
        match item.file_type {
            FileType::Symlink => entry.set_target(&filesystem.link_target(item.file)?),
            FileType::CharDevice | FileType::BlockDevice => {
                entry.set_device(metadata.device.unwrap_or_default());
            }
            _ => {}
        }
        let mut content = None;
        if item.file_type == FileType::Regular {
            let mut file = filesystem.open(item.file)?;
            let map = DataMap::of(file.as_mut(), self.plan.volume, &self.copier)?;
            entry.set_content(&map)?;
            content = Some(Content { file, map });
        }
        self.add_attributes(index, item, &mut entry)?;
        Ok((entry, content))
    }

    /// Adds access control lists and extended attributes. If they are damaged, the rest of the file
    /// is in the archive all the same.
    fn add_attributes(&mut self, index: usize, item: &Item, entry: &mut Entry) -> Result<()> {
        let attributes = match self.plan.filesystem.sound_xattrs(item.file) {
            Ok((attributes, lost)) => {
                lost.map_or(Ok(()), |error| self.failed(index, error))?;
                attributes
            }
            Err(error) => return self.failed(index, error.within("extended attributes")),
        };
        let is_name = |one: &Xattr| !one.name.is_empty() && !one.name.contains(&0);
        let (attributes, others): (Vec<_>, Vec<_>) = attributes.into_iter().partition(is_name);
        for other in others {
            self.left_out(index, LeftOutPart::Attribute(other.name));
        }
        let errors = entry.add_attributes(&attributes);
        errors.into_iter().try_for_each(|error| self.failed(index, error))
    }

    fn write(&mut self, index: usize, entry: Entry, content: Option<Content<'a>>) -> Result<()> {
        self.copier.write(&entry.encode())?;
        let Some(Content { mut file, map }) = content else { return Ok(()) };
        let failure = self.copier.content(file.as_mut(), &map)?;
        match map.failure.or(failure) {
            Some(error) => self.failed(index, error),
            None => Ok(()),
        }
    }

    /// Reports what costs this item; an interruption costs all.
    fn failed(&mut self, index: usize, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Cancelled {
            return Err(error);
        }
        self.report.failures.push(Failure { path: self.plan.path(index), error });
        Ok(())
    }

    fn left_out(&mut self, index: usize, what: LeftOutPart) {
        self.report.left_out.push(LeftOut { path: self.plan.path(index), what });
    }
}
