//! FAT12, FAT16 and FAT32, with long names.
//!
//! Names without a long one are in code page 437, as Linux assumes; times are local ones
//! of a zone that is not said.
//! Where the first allocation table cannot be read or leads nowhere, the second one is asked.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03 (2000).

mod boot;
mod entry;
mod folder;
mod oem;

use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::tz::TimeZone;

use self::boot::{Boot, Root};
use self::entry::ShortEntry;
use super::clusters::{ChainContent, Heap, Start, WallTime, Width, Window, read_record, same_name};
use super::identify::Identified;
use super::{
    DirEntry, Doubts, FileContent, FileId, FileType, Filesystem, FilesystemInfo, Metadata,
    Protection, Visit, Xattr,
};
use crate::base::limits::MAX_LABEL_SEARCH;
use crate::base::{ByteRange, Error, ErrorKind, ReadAt, Result};

/// A FAT filesystem.
pub(super) struct Fat {
    heap: Heap,
    root: Root,
    is_clean: bool,
    /// The zone of its times.
    zone: TimeZone,
    info: FilesystemInfo,
    /// What is damaged of it as a whole.
    doubts: Arc<Doubts>,
}

/// Opens a FAT filesystem; `None` if the boot sector is none of it.
///
/// # Errors
/// See [`Filesystem`].
pub(super) fn open(
    volume: &Arc<dyn ReadAt>,
    zone: &TimeZone,
) -> Result<Option<Box<dyn Filesystem>>> {
    match Boot::read(volume)? {
        Some(boot) => Ok(Some(Box::new(assemble(volume, &boot, zone)?))),
        None => Ok(None),
    }
}

/// What the boot sector says that `volume`, with these first bytes, is; `None` where there is none
/// that makes sense.
pub(crate) fn identify(head: &[u8], volume: &Arc<dyn ReadAt>) -> Option<Identified> {
    let boot = Boot::identify(head)?;
    let heap = boot.heap(volume, &Arc::default());
    let label = folder::label(&heap, boot.root, MAX_LABEL_SEARCH);
    Some(Identified::with_label(boot.content(), label))
}

/// Whether `sector` is a boot sector of FAT.
pub(super) fn is_boot_sector(sector: &[u8]) -> bool {
    Boot::identify(sector).is_some()
}

/// As [`open`], where the boot sector is gone altogether; the copy of it may be left of a
/// filesystem that something else took the place of, so this is for volumes that nothing else
/// knows.
///
/// # Errors
/// See [`Filesystem`].
pub(super) fn open_by_backup(
    volume: &Arc<dyn ReadAt>,
    zone: &TimeZone,
) -> Result<Option<Box<dyn Filesystem>>> {
    let Some(boot) = Boot::read_copy(volume)? else { return Ok(None) };
    let fat = assemble(volume, &boot, zone)?;
    fat.doubts.add("The boot sector is damaged; its copy is used.");
    Ok(Some(Box::new(fat)))
}

/// Opens what `boot` describes.
fn assemble(volume: &Arc<dyn ReadAt>, boot: &Boot, zone: &TimeZone) -> Result<Fat> {
    let doubts = Arc::new(Doubts::default());
    let heap = boot.heap(volume, &doubts);
    let (zone, info) = (zone.clone(), boot.info());
    let mut fat = Fat { heap, root: boot.root, is_clean: false, zone, info, doubts };
    fat.is_clean = !boot.is_dirty && fat.is_marked_clean()?;
    if !fat.is_clean {
        fat.info.notes.push("it was not unmounted cleanly".to_owned());
    }
    // A label that cannot be found for damage is none.
    fat.info.label = folder::label(&fat.heap, fat.root, folder::MAX_FOLDER).unwrap_or_default();
    Ok(fat)
}

impl Fat {
    /// Whether entry 1 of the table says that everything was written.
    fn is_marked_clean(&self) -> Result<bool> {
        let table = &self.heap.table;
        let (at, clean) = match table.width {
            Width::Twelve => return Ok(true),
            Width::Sixteen => (2, 0xc000_u32),
            Width::TwentyEight | Width::ThirtyTwo => (4, 0x0c00_0000_u32),
        };
        let start = table.copies.first().copied().unwrap_or_default();
        let mut field = [0; 4];
        let length = if table.width == Width::Sixteen { 2 } else { 4 };
        if let Some(field) = field.get_mut(..length) {
            self.heap.read(start.saturating_add(at), field)?;
        }
        Ok(u32::from_le_bytes(field) & clean == clean)
    }

    /// The entry of a file; `None` for the root.
    fn entry(&self, file: FileId) -> Result<Option<ShortEntry>> {
        if file == self.root() {
            return Ok(None);
        }
        let record = read_record(&self.heap, file.number)?;
        let entry = ShortEntry::parse(&record, self.heap.table.width);
        entry.map(Some).ok_or_else(|| {
            let place = format!("folder entry at byte {}", file.number);
            Error::corrupt(place, "a file", "none")
        })
    }

    /// Where the records of `folder` are.
    fn folder(&self, folder: FileId) -> Result<Root> {
        match self.entry(folder)? {
            None => Ok(self.root),
            Some(entry) if entry.is_folder() => Ok(Root::Chain(entry.start())),
            Some(_) => Err(Error::new(ErrorKind::Invalid, "it is no folder")),
        }
    }
}

impl Filesystem for Fat {
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
        let mut found = None;
        let mut failure = None;
        folder::each_file(self, self.folder(folder)?, &mut |file| {
            match file {
                Ok(file) if same_name(&file.name, name) || same_name(&file.short_name, name) => {
                    found = Some(FileId::new(file.place));
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
        folder::each_file(self, self.folder(folder)?, &mut |file| {
            visit(file.map(|file| DirEntry {
                name: file.name,
                file: FileId::new(file.place),
                file_type: Some(file.entry.file_type()),
            }))
        });
        Ok(())
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let entry = self.entry(file)?;
        let entry = entry.as_ref();
        let time =
            |of: fn(&ShortEntry) -> WallTime| entry.and_then(|entry| of(entry).instant(&self.zone));
        Ok(Metadata {
            file_type: entry.map_or(FileType::Directory, ShortEntry::file_type),
            size: entry.filter(|entry| !entry.is_folder()).map_or(0, |entry| entry.size.into()),
            mode: None,
            uid: None,
            gid: None,
            links: 1,
            device: None,
            modified: time(ShortEntry::modified),
            accessed: time(ShortEntry::accessed),
            changed: None,
            created: time(ShortEntry::created),
            protection: Protection::None,
        })
    }

    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>> {
        match self.entry(file)? {
            Some(entry) if !entry.is_folder() => {
                let size = u64::from(entry.size);
                Ok(Box::new(ChainContent::new(&self.heap, entry.start(), size, size)))
            }
            _ => Err(Error::new(ErrorKind::Invalid, "a folder has no content")),
        }
    }

    fn link_target(&self, _file: FileId) -> Result<Vec<u8>> {
        Err(Error::new(ErrorKind::Invalid, "FAT has no symbolic links"))
    }

    fn each_xattr(&self, _file: FileId, _visit: Visit<'_, Result<Xattr>>) -> Result<()> {
        Ok(())
    }

    fn may_share(&self, _file: FileId) -> Result<bool> {
        Ok(false)
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        if !self.is_clean {
            let context = "free space is not certain: it was not unmounted cleanly";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let table = &self.heap.table;
        let mut windows: Vec<Window> = table.copies.iter().map(|_| Window::default()).collect();
        let mut free: Option<ByteRange> = None;
        for cluster in 2..table.end {
            if !table.is_free(cluster, &mut windows)? {
                continue;
            }
            let range = ByteRange::new(self.heap.place(cluster)?, self.heap.cluster_size);
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

impl Fat {
    /// The folder of a chain: its first cluster as the start of one that the table links.
    fn chain(cluster: u32) -> Start {
        Start { cluster, is_contiguous: false }
    }
}
