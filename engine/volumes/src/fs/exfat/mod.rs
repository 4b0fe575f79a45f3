//! exFAT.
//!
//! Times may carry their offset from UTC; where they do not, they are local ones of a zone that is
//! not said.
//!
//! Source: Microsoft, "exFAT file system specification" (2019); sections in brackets.

mod boot;
mod entry;
mod folder;
mod upcase;

use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::tz::TimeZone;

use self::boot::Boot;
use self::entry::FileEntry;
use self::folder::{Records, SystemFiles};
use self::upcase::UpCase;
use super::clusters::{ChainContent, Heap, Start};
use super::identify::Identified;
use super::{
    DirEntry, Doubts, FileContent, FileId, FileType, Filesystem, FilesystemInfo, Metadata,
    Protection, Visit, Xattr,
};
use crate::base::limits::MAX_LABEL_SEARCH;
use crate::base::{ByteRange, Error, ErrorKind, ReadAt, Result};

/// Bytes of the allocation bitmap that are read at once.
const BITMAP_PIECE: usize = 64 * 1024;
/// Bytes of one file's records at most: 19 of them.
const MOST_RECORDS: u64 = 19 * 32;

/// An exFAT filesystem.
pub(super) struct ExFat {
    heap: Heap,
    root: Start,
    system: SystemFiles,
    upcase: UpCase,
    is_clean: bool,
    /// The zone of times that do not say theirs.
    zone: TimeZone,
    info: FilesystemInfo,
    /// What is damaged of it as a whole.
    doubts: Arc<Doubts>,
}

/// Opens an exFAT filesystem; `None` if no boot sector is one of it.
///
/// # Errors
/// See [`Filesystem`].
pub(super) fn open(
    volume: &Arc<dyn ReadAt>,
    zone: &TimeZone,
) -> Result<Option<Box<dyn Filesystem>>> {
    let Some((boot, note)) = Boot::read(volume)? else { return Ok(None) };
    let doubts = Arc::new(Doubts::default());
    let heap = boot.heap(volume, &doubts);
    let mut info = boot.info();
    note.into_iter().for_each(|note| doubts.add(note));
    let root = Start { cluster: boot.root_cluster, is_contiguous: false };
    // What damage hides is missing, and whoever needs it says so.
    let (system, _) = SystemFiles::find(&heap, Records::root(root), boot.active_table);
    let upcase = match UpCase::read(&heap, &system) {
        Ok(upcase) => upcase,
        Err(error) => {
            doubts.add(format!("The up-case table is damaged: {error}."));
            UpCase::default()
        }
    };
    info.label.clone_from(&system.label);
    let is_clean = !boot.is_dirty;
    if !is_clean {
        info.notes.push("it was not unmounted cleanly".to_owned());
    }
    let zone = zone.clone();
    Ok(Some(Box::new(ExFat { heap, root, system, upcase, is_clean, zone, info, doubts })))
}

/// What the boot sector says that `volume`, with these first bytes, is; `None` where there is none
/// that makes sense.
pub(crate) fn identify(head: &[u8], volume: &Arc<dyn ReadAt>) -> Option<Identified> {
    let boot = Boot::identify(head)?;
    let heap = boot.heap(volume, &Arc::default());
    let start = Start { cluster: boot.root_cluster, is_contiguous: false };
    let root = Records::whole(start, MAX_LABEL_SEARCH);
    let (system, failure) = SystemFiles::find(&heap, root, boot.active_table);
    let failure = failure.filter(|_| system.label.is_none());
    let label = failure.map_or(Ok(system.label), Err);
    Some(Identified::with_label(boot.content(), label))
}

/// Whether `sector` is a boot sector of exFAT.
pub(super) fn is_boot_sector(sector: &[u8]) -> bool {
    Boot::identify(sector).is_some()
}

impl ExFat {
    /// A file's number: where its entry is, and how its folder's records go on after a cluster's
    /// end.
    fn id(entry: &FileEntry) -> FileId {
        FileId { tree: u64::from(entry.is_in_contiguous), number: entry.place }
    }

    /// The entry of a file; `None` for the root.
    fn entry(&self, file: FileId) -> Result<Option<FileEntry>> {
        if file == self.root() {
            return Ok(None);
        }
        let wrong = || {
            let place = format!("folder entry at byte {}", file.number);
            Error::corrupt(place, "a file", "none")
        };
        // The records from this one on: the rest of its cluster, and what follows that.
        let cluster = self.heap.cluster_at(file.number).ok_or_else(wrong)?;
        let before = file.number.saturating_sub(self.heap.place(cluster)?);
        let start = Start { cluster, is_contiguous: file.tree != 0 };
        let range = ByteRange::new(before, MOST_RECORDS);
        let mut found = None;
        folder::each_file(&self.heap, Records { start, range }, &mut |entry| {
            found = Some(entry);
            ControlFlow::Break(())
        });
        match found {
            Some(Ok(entry)) if entry.place == file.number => Ok(Some(entry)),
            Some(Err(error)) => Err(error),
            _ => Err(wrong()),
        }
    }

    /// Where the records of `folder` are.
    fn folder(&self, folder: FileId) -> Result<Records> {
        match self.entry(folder)? {
            None => Ok(Records::root(self.root)),
            Some(entry) if entry.is_folder() => Ok(Records::whole(entry.start, entry.size)),
            Some(_) => Err(Error::new(ErrorKind::Invalid, "it is no folder")),
        }
    }
}

impl Filesystem for ExFat {
    fn info(&self) -> &FilesystemInfo {
        &self.info
    }

    fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    fn root(&self) -> FileId {
        FileId::new(0)
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let (mut found, mut failure) = (None, None);
        folder::each_file(&self.heap, self.folder(folder)?, &mut |entry| {
            match entry {
                Ok(entry) if self.upcase.is_same(&entry.name, name) => {
                    found = Some(Self::id(&entry));
                    return ControlFlow::Break(());
                }
                Ok(_) => {}
                Err(error) => failure = failure.take().or(Some(error)),
            }
            ControlFlow::Continue(())
        });
        match (found, failure) {
            // It may be in what is lost.
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()> {
        folder::each_file(&self.heap, self.folder(folder)?, &mut |entry| {
            visit(entry.map(|entry| DirEntry {
                name: entry.name_bytes(),
                file: Self::id(&entry),
                file_type: Some(entry.file_type()),
            }))
        });
        Ok(())
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let entry = self.entry(file)?;
        let entry = entry.as_ref();
        Ok(Metadata {
            file_type: entry.map_or(FileType::Directory, FileEntry::file_type),
            size: entry.filter(|entry| !entry.is_folder()).map_or(0, |entry| entry.size),
            mode: None,
            uid: None,
            gid: None,
            links: 1,
            device: None,
            modified: entry.and_then(|entry| entry.modified.instant(&self.zone)),
            accessed: entry.and_then(|entry| entry.accessed.instant(&self.zone)),
            changed: None,
            created: entry.and_then(|entry| entry.created.instant(&self.zone)),
            protection: Protection::None,
        })
    }

    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>> {
        match self.entry(file)? {
            Some(entry) if !entry.is_folder() => {
                let (start, size, valid) = (entry.start, entry.size, entry.valid);
                Ok(Box::new(ChainContent::new(&self.heap, start, size, valid)))
            }
            _ => Err(Error::new(ErrorKind::Invalid, "a folder has no content")),
        }
    }

    fn link_target(&self, _file: FileId) -> Result<Vec<u8>> {
        Err(Error::new(ErrorKind::Invalid, "exFAT has no symbolic links"))
    }

    fn each_xattr(&self, _file: FileId, _visit: Visit<'_, Result<Xattr>>) -> Result<()> {
        Ok(())
    }

    fn may_share(&self, _file: FileId) -> Result<bool> {
        Ok(false)
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        let uncertain = |why: &str| {
            Error::new(ErrorKind::Unsupported, format!("free space is not certain: {why}"))
        };
        if !self.is_clean {
            return Err(uncertain("it was not unmounted cleanly"));
        }
        let bitmap = self.system.bitmap.ok_or_else(|| uncertain("it has no allocation bitmap"))?;
        let clusters = self.heap.table.end.saturating_sub(2);
        if bitmap.size < u64::from(clusters.div_ceil(8)) {
            return Err(uncertain("its allocation bitmap is too short"));
        }
        let mut content = ChainContent::new(&self.heap, bitmap.start, bitmap.size, bitmap.size);
        let mut bytes = vec![0; BITMAP_PIECE];
        let mut free: Option<ByteRange> = None;
        for index in 0..clusters {
            let at = usize::try_from(index / 8).unwrap_or(usize::MAX) % BITMAP_PIECE;
            if at == 0 && index.is_multiple_of(8) {
                content.read_at(u64::from(index / 8), &mut bytes)?;
            }
            if bytes.get(at).is_none_or(|byte| byte >> (index % 8) & 1 != 0) {
                continue;
            }
            let place = self.heap.place(index.saturating_add(2))?;
            let range = ByteRange::new(place, self.heap.cluster_size);
            match free.as_mut().filter(|before| before.end == range.start) {
                Some(before) => before.end = range.end,
                None => {
                    if free.replace(range).is_some_and(|before| visit(before).is_break()) {
                        return Ok(());
                    }
                }
            }
        }
        if let Some(last) = free {
            // It is the last one in any case.
            let _ = visit(last);
        }
        Ok(())
    }
}
