//! Opening: which boot sector is to be believed, and what is to be said about the volume.

use std::sync::{Arc, OnceLock};

use super::attribute::kind;
use super::boot::{Boot, Found};
use super::identity::{VOLUME, label};
use super::index::Index;
use super::mft::Mft;
use super::space::Space;
use super::units::Reference;
use super::upcase::UpCase;
use super::{Ntfs, ROOT, log};
use crate::base::fields::{le16, u8_at};
use crate::base::{Error, ErrorKind, ReadAt, Result};
use crate::fs::{Doubts, Filesystem, FilesystemInfo};
use crate::kind::Kind;

/// Bytes of what the volume says of its version and state at most.
const MAX_INFORMATION: u64 = 512;
/// `VolumeFlags`: something is to be done, or being done, before all is as it should be: a check,
/// a new size of the log, an upgrade, a check that goes on.
const DIRTY: u16 = 0x1;
const UNSETTLED: u16 = 0x1 | 0x2 | 0x4 | 0x4000;
/// Where Windows keeps what was in memory while it sleeps; and how that begins.
const SLEEP: &[u8] = b"h\0i\0b\0e\0r\0f\0i\0l\0.\0s\0y\0s\0";
const ASLEEP: [&[u8]; 2] = [b"hibr", b"HIBR"];

/// Opens an NTFS filesystem; `None` if the boot sector is none of it.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open(volume: &Arc<dyn ReadAt>) -> Result<Option<Box<dyn Filesystem>>> {
    let ntfs = match Boot::read(volume)? {
        Found::Nothing => return Ok(None),
        Found::Copy(boot) => assemble(volume, &boot, true)?,
        Found::First(boot) => match assemble(volume, &boot, false) {
            Ok(ntfs) => ntfs,
            // It may lead to the wrong places.
            Err(error) => match Boot::read_copy(volume) {
                Ok(Some(copy)) if copy.differs(&boot) => {
                    assemble(volume, &copy, true).map_err(|_| error)?
                }
                _ => return Err(error),
            },
        },
    };
    Ok(Some(Box::new(ntfs)))
}

/// As [`open`], where the boot sector is gone altogether. The copy may be left of a filesystem that
/// something else took the place of, so this is for volumes that nothing else knows.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open_by_backup(
    volume: &Arc<dyn ReadAt>,
) -> Result<Option<Box<dyn Filesystem>>> {
    match Boot::read_copy(volume)? {
        // Without a table where it says, it is all that is left.
        Some(boot) => match assemble(volume, &boot, true) {
            Ok(ntfs) => Ok(Some(Box::new(ntfs))),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        },
        None => Ok(None),
    }
}

/// What is said of a volume, and why it is not certain what is free.
#[derive(Default)]
struct Remarks {
    notes: Vec<String>,
    /// What is damaged.
    damage: Doubts,
    doubt: Option<String>,
}

impl Remarks {
    /// A note of what makes the volume doubtful.
    fn doubt(&mut self, note: String) {
        self.doubt.get_or_insert_with(|| note.clone());
        self.notes.push(note);
    }

    /// As [`doubt`](Self::doubt), of damage for which something else is read.
    fn damage(&mut self, what: String) {
        self.doubt.get_or_insert_with(|| what.clone());
        self.damage.add(what);
    }
}

/// Opens what `boot` describes.
fn assemble(volume: &Arc<dyn ReadAt>, boot: &Boot, is_copy: bool) -> Result<Ntfs> {
    let space = Space::new(Arc::clone(volume), boot);
    let (mft, damage) = Mft::open(space, boot)?;
    let mut remarks = Remarks::default();
    if is_copy {
        remarks.damage("The boot sector is damaged; its copy at the end is used.".to_owned());
    }
    damage.into_iter().for_each(|what| remarks.damage(what));
    if boot.size > volume.size().0 {
        let (size, found) = (boot.size, volume.size());
        remarks.doubt(format!("It spans {size} bytes, but the volume has {found} only."));
    }
    let label = match remark_state(&mft, &mut remarks).and_then(|()| label(&mft.space, boot)) {
        Ok(label) => label,
        Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
        Err(error) => {
            remarks.damage(format!("What the volume says of itself is damaged: {error}."));
            None
        }
    };
    remark_log(&mft, &mut remarks);
    let upcase = UpCase::read(&mft).unwrap_or_else(|error| {
        remarks.damage(format!("The up-case table is damaged: {error}."));
        UpCase::default()
    });
    match is_asleep(&mft, &upcase) {
        Ok(false) => {}
        Ok(true) => remarks.doubt(
            "Windows sleeps on it (hiberfil.sys): files may be older than what Windows shows."
                .to_owned(),
        ),
        Err(error) => remarks.damage(format!("The root folder is damaged: {error}.")),
    }
    let info = FilesystemInfo {
        kind: Kind::Ntfs.name(),
        label,
        uuid: boot.uuid(),
        size: boot.size.saturating_add(boot.sector_size),
        block_size: u32::try_from(boot.cluster_size).unwrap_or(u32::MAX),
        notes: std::mem::take(&mut remarks.notes),
    };
    let Remarks { damage: doubts, doubt, .. } = remarks;
    Ok(Ntfs { mft, upcase, info, doubts, doubt, own_folders: OnceLock::new() })
}

/// What the volume's version and flags mean.
fn remark_state(mft: &Mft, remarks: &mut Remarks) -> Result<()> {
    let file = mft.file(Reference::new(VOLUME, 0))?;
    let information = mft.value(&file, kind::VOLUME_INFORMATION, b"", MAX_INFORMATION)?;
    let information = information.unwrap_or_default();
    let (major, minor) = (u8_at(&information, 8), u8_at(&information, 9));
    let flags = le16(&information, 10);
    let (Some(major), Some(minor), Some(flags)) = (major, minor, flags) else {
        return Err(file.corrupt("a version and flags", "none"));
    };
    if major != 1 && major != 3 {
        let context = format!("NTFS of version {major}.{minor}");
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    if flags & UNSETTLED != 0 {
        let why = if flags & DIRTY != 0 { "is marked dirty" } else { "waits for a change" };
        remarks.doubt(format!("The volume {why} (flags {flags:#x}): it may need a check."));
    }
    Ok(())
}

fn remark_log(mft: &Mft, remarks: &mut Remarks) {
    match log::is_clean(mft) {
        Ok(true) => {}
        Ok(false) => remarks.doubt(
            "The log ($LogFile) holds changes that are not on the volume yet, and is not replayed: \
             files may be older than they should be."
                .to_owned(),
        ),
        Err(error) => remarks.damage(format!("The log ($LogFile) is damaged: {error}.")),
    }
}

/// Whether Windows has put itself to sleep, with the volume as it was in memory.
fn is_asleep(mft: &Mft, upcase: &UpCase) -> Result<bool> {
    let root = mft.file(ROOT)?;
    let Some(found) = Index::open(mft, &root)?.find(SLEEP, upcase)? else { return Ok(false) };
    let file = mft.file(found)?;
    let stream = mft.stream(&file, kind::DATA, b"")?;
    let Some(stream) = stream.filter(|stream| stream.size >= 4) else { return Ok(false) };
    let mut start = [0; 4];
    stream.read_metadata(&mft.space, 0, &mut start)?;
    Ok(ASLEEP.contains(&start.as_slice()))
}
