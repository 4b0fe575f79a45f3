//! NTFS.
//!
//! [`Boot`] is what the boot sector says; [`Space`] the volume's bytes, with a cache for metadata;
//! [`Mft`] the master file table, by which files and the values of their attributes are found;
//! [`Ntfs`] the open filesystem. A value is a [`Stream`]: in a record or on clusters, of which
//! `content`, `compressed` and `wof` read those of files. `index` reads folders; `nature` says what
//! a file is that is more than a file: a link, a device, compressed by Windows' overlay filter.
//!
//! A file's number is its whole reference, record and sequence number, so that a name that
//! was left over is told from the file that has the record since. Its named data streams are files
//! of their own, in whose [`FileId::tree`] they are counted from 1. They are called `file:stream`,
//! or `file:stream:$DATA` where a file has that name already. The short names
//! that files have for DOS are not listed, nor are the filesystem's own files; both can be looked
//! up.
//!
//! `numbered` and `survey` go through the table instead of the folders.
//!
//! Names of fields are those of Microsoft's headers, as the projects that document the format give
//! them: linux-ntfs ("NTFS Documentation") and libfsntfs.

mod attribute;
mod boot;
mod compressed;
mod content;
mod ea;
mod fixup;
mod free;
mod identity;
mod index;
mod list;
mod log;
mod lznt1;
mod mft;
mod name;
mod nature;
mod numbered;
mod open;
mod record;
mod reparse;
mod runs;
mod space;
mod stream;
mod survey;
mod time;
mod units;
mod upcase;
mod wof;

pub(super) use boot::is_boot_sector;
pub(crate) use identity::identify;
pub(super) use open::{open, open_by_backup};

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::OnceLock;

use self::attribute::kind;
use self::compressed::Compressed;
use self::content::Content;
use self::index::Index;
use self::mft::{File, Mft};
use self::name::FileName;
use self::nature::Nature;
use self::stream::Stream;
use self::units::{Reference, bytes};
use self::upcase::UpCase;
use self::wof::Overlaid;
use super::{
    DirEntry, Doubts, FileContent, FileId, FileType, Filesystem, FilesystemInfo, Metadata,
    Numbered, Survey, Visit, Xattr,
};
use crate::base::{ByteRange, Error, ErrorKind, Result};

/// The record of the root folder, and how often it was used.
const ROOT: Reference = Reference(5 | 5 << 48);
/// Windows' name of a data stream's type, which may stand after its name.
const DATA_SUFFIX: &[u8] = b":$DATA";
/// Records below this one are the filesystem's own.
const FIRST_USER: u64 = 16;

/// An open filesystem.
pub(super) struct Ntfs {
    mft: Mft,
    upcase: UpCase,
    info: FilesystemInfo,
    /// What is damaged of it as a whole.
    doubts: Doubts,
    /// Why it is not certain what is free, if it is not.
    doubt: Option<String>,
    /// The folders of the filesystem's own, once they were asked for.
    own_folders: OnceLock<HashSet<Reference>>,
}

impl Ntfs {
    fn file(&self, file: FileId) -> Result<File> {
        self.mft.file(Reference(file.number))
    }

    fn folder(&self, folder: FileId) -> Result<File> {
        let file = self.file(folder)?;
        match file.record.is_folder && folder.tree == 0 {
            true => Ok(file),
            false => Err(Error::new(ErrorKind::Invalid, "it is no folder")),
        }
    }

    /// The names of the data streams that `file` has besides its content; of what the system keeps
    /// in one, it is not told.
    fn streams(&self, file: &File) -> Result<Vec<Vec<u8>>> {
        let mut names = self.mft.names(file, kind::DATA)?;
        names.retain(|name| !name.is_empty());
        if names.iter().any(|name| name == nature::WOF_STREAM) {
            let is_overlaid = matches!(self.nature(file), Ok(Nature::Overlaid(_)));
            names.retain(|name| !is_overlaid || name != nature::WOF_STREAM);
        }
        Ok(names)
    }

    /// The name of the data stream that `file` means; empty for its content.
    fn stream_name(&self, file: &File, tree: u64) -> Result<Vec<u8>> {
        let Some(position) = tree.checked_sub(1) else { return Ok(Vec::new()) };
        let name = self.streams(file)?.into_iter().nth(units::index(position));
        let number = file.record.number;
        name.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{number} has no data stream {tree}"))
        })
    }

    /// Shows the data streams of the file called `name` in `folder` to `visit`.
    fn list_streams(
        &self,
        folder: &Index<'_>,
        (name, file): (&[u8], &File),
        visit: Visit<'_, Result<DirEntry>>,
    ) -> ControlFlow<()> {
        let streams = match self.streams(file) {
            Ok(streams) => streams,
            Err(error) => return visit(Err(error)),
        };
        for (tree, stream) in (1_u64..).zip(streams) {
            let number = file.reference().0;
            let mut name = [name, b":", &name::text(&stream)].concat();
            // Linux may have called a file so.
            let units = name::from_text(&name);
            let taken = units.map(|name| folder.find_by_tree(&name, &self.upcase));
            if !matches!(taken, Some(Ok(None))) {
                name.extend_from_slice(DATA_SUFFIX);
            }
            visit(Ok(DirEntry {
                name,
                file: FileId { tree, number },
                file_type: Some(FileType::Regular),
            }))?;
        }
        ControlFlow::Continue(())
    }

    /// The stream that is called `file:stream` or `file:stream:$DATA` in `folder`.
    fn lookup_stream(&self, folder: &Index<'_>, name: &[u8]) -> Result<Option<FileId>> {
        let name = name.strip_suffix(DATA_SUFFIX).unwrap_or(name);
        let Some(colon) = name.iter().rposition(|byte| *byte == b':') else { return Ok(None) };
        let (base, stream) = name.split_at_checked(colon).unwrap_or_default();
        let wanted = name::from_text(stream.get(1..).unwrap_or_default());
        let (Some(base), Some(wanted)) = (name::from_text(base), wanted) else { return Ok(None) };
        let file = match base.is_empty() {
            true => (folder.number() == ROOT.number()).then_some(ROOT),
            false => folder.find(&base, &self.upcase)?,
        };
        let Some(reference) = file else { return Ok(None) };
        let file = self.mft.file(reference)?;
        let streams = self.streams(&file)?;
        let is_same = |name: &Vec<u8>| name::compare_folded(name, &wanted, &self.upcase).is_eq();
        let position = streams.iter().position(|name| *name == wanted);
        let position = position.or_else(|| streams.iter().position(is_same));
        let tree = position.map(|position| bytes(position).saturating_add(1));
        Ok(tree.map(|tree| FileId { tree, number: file.reference().0 }))
    }

    fn open_stream(&self, file: &File, name: &[u8]) -> Result<Box<dyn FileContent + '_>> {
        let stream = self.mft.stream(file, kind::DATA, name)?;
        let content = self.content(stream.unwrap_or_else(Stream::empty));
        content.map_err(|error| error.within(file.record.number))
    }

    /// Opens a file that is compressed by Windows' overlay filter.
    fn open_overlaid(&self, file: &File, algorithm: u32) -> Result<Box<dyn FileContent + '_>> {
        let stream = self.mft.stream(file, kind::DATA, nature::WOF_STREAM)?;
        let stream = stream.ok_or_else(|| file.corrupt("a stream WofCompressedData", "none"))?;
        let (size, map) = (self.size(file)?, stream.clone());
        let opened = self
            .content(stream)
            .and_then(|packed| Overlaid::new(&self.mft.space, size, algorithm, map, packed));
        Ok(Box::new(opened.map_err(|error| error.within(file.record.number))?))
    }

    fn content(&self, stream: Stream) -> Result<Box<dyn FileContent + '_>> {
        if stream.is_encrypted() {
            return Err(Error::new(ErrorKind::Unsupported, "it is encrypted (EFS)"));
        }
        match stream.compressed() {
            Some(_) => Ok(Box::new(Compressed::new(&self.mft.space, stream)?)),
            None => Ok(Box::new(Content::new(&self.mft.space, stream))),
        }
    }
}

impl Filesystem for Ntfs {
    fn info(&self) -> &FilesystemInfo {
        &self.info
    }

    fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    fn root(&self) -> FileId {
        FileId::new(ROOT.0)
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let folder = self.folder(folder)?;
        let folder = Index::open(&self.mft, &folder)?;
        let Some(wanted) = name::from_text(name) else { return Ok(None) };
        match folder.find(&wanted, &self.upcase)? {
            Some(file) => Ok(Some(FileId::new(file.0))),
            None => self.lookup_stream(&folder, name),
        }
    }

    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()> {
        let folder = self.folder(folder)?;
        let index = Index::open(&self.mft, &folder)?;
        let is_root = folder.reference() == ROOT;
        if is_root && self.list_streams(&index, (b"", &folder), visit).is_break() {
            return Ok(());
        }
        index.each_entry(&mut |entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return visit(Err(error)),
            };
            if entry.name.is_short() || entry.file.number().0 < FIRST_USER {
                return ControlFlow::Continue(());
            }
            let name = name::text(entry.name.name);
            visit(Ok(DirEntry {
                name: name.clone(),
                file: FileId::new(entry.file.0),
                file_type: likely_type(&entry.name),
            }))?;
            // What is wrong with the file will be told when it is used.
            match self.mft.file(entry.file) {
                Ok(file) => self.list_streams(&index, (&name, &file), visit),
                Err(_) => ControlFlow::Continue(()),
            }
        });
        Ok(())
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let found = self.file(file)?;
        let stream = self.stream_name(&found, file.tree)?;
        self.describe(&found, &stream)
    }

    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>> {
        let found = self.file(file)?;
        let name = self.stream_name(&found, file.tree)?;
        if !name.is_empty() {
            return self.open_stream(&found, &name);
        }
        match self.nature(&found)? {
            Nature::Plain(FileType::Regular) => self.open_stream(&found, &name),
            Nature::Overlaid(algorithm) => self.open_overlaid(&found, algorithm),
            Nature::Elsewhere(tag) => {
                let number = found.record.number;
                let place = reparse::elsewhere(tag).unwrap_or("what is not known");
                let context = format!(
                    "{number}: its content is not on the disk but in {place} ({tag:#010x})"
                );
                Err(Error::new(ErrorKind::Unsupported, context))
            }
            _ => Err(Error::new(ErrorKind::Invalid, "it is no regular file")),
        }
    }

    fn link_target(&self, file: FileId) -> Result<Vec<u8>> {
        let none = || Error::new(ErrorKind::Invalid, "it is no symbolic link");
        if file.tree != 0 {
            return Err(none());
        }
        match self.nature(&self.file(file)?)? {
            Nature::Link(target) => Ok(target),
            _ => Err(none()),
        }
    }

    fn each_xattr(&self, file: FileId, visit: Visit<'_, Result<Xattr>>) -> Result<()> {
        // Owner and mode are made of them; Linux shows no others.
        if let Err(error) = self.linux(&self.file(file)?) {
            let _ = visit(Err(error));
        }
        Ok(())
    }

    fn may_share(&self, _file: FileId) -> Result<bool> {
        Ok(false)
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.free_ranges(visit)
    }

    fn numbered(&self) -> Option<&dyn Numbered> {
        // Where a log was not replayed, folders and records may not go together.
        self.doubt.is_none().then_some(self)
    }

    fn survey(&self) -> Result<Option<Box<dyn Survey + '_>>> {
        if self.numbered().is_none() {
            return Ok(None);
        }
        self.check_table()?;
        Ok(Some(Box::new(self)))
    }
}

/// A file's type, if its name tells: what is a system file or leads elsewhere may be anything.
fn likely_type(name: &FileName<'_>) -> Option<FileType> {
    match name.attributes & (name::SYSTEM | name::REPARSE_POINT) {
        0 if name.is_folder() => Some(FileType::Directory),
        0 => Some(FileType::Regular),
        _ => None,
    }
}
