//! Opening: which superblock is to be believed, and what is to be said about it.

use std::sync::Arc;

use super::Ext;
use super::backup;
use super::blocks::Blocks;
use super::changes::Changes;
use super::features::{self, incompat, ro_compat};
use super::geometry::Geometry;
use super::superblock::{MAX_LOG_BLOCK_SIZE, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};
use super::units::BlockNumber;
use crate::base::{ByteOffset, Error, ErrorKind, ReadAt, Result, limits};
use crate::content::Content;
use crate::fs::recent::Recent;
use crate::fs::{Doubts, Filesystem, FilesystemInfo};

/// A superblock that makes sense, and the block that it was found in.
pub(super) struct Sound {
    pub superblock: Superblock,
    pub geometry: Geometry,
    pub block: BlockNumber,
}

impl Sound {
    /// Checks the bytes of a superblock.
    ///
    /// # Errors
    /// `Corrupt` and `Unsupported`, see [`Geometry::check`].
    pub(super) fn check(bytes: &[u8]) -> Result<Self> {
        let superblock = Superblock::parse(bytes)
            .ok_or_else(|| Error::corrupt("superblock", "its magic number", "something else"))?;
        if let Some((expected, found)) = superblock.wrong_checksum() {
            let expected = format!("checksum {expected:#010x}");
            return Err(Error::corrupt("superblock", expected, format!("{found:#010x}")));
        }
        let geometry = Geometry::check(&superblock)?;
        let block = geometry.superblock_block;
        Ok(Self { superblock, geometry, block })
    }

    fn is_backup(&self) -> bool {
        self.block != self.geometry.superblock_block
    }
}

/// Opens the ext filesystem of `volume`; `None` if no superblock is where the first one belongs.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open(volume: &Arc<dyn ReadAt>) -> Result<Option<Box<dyn Filesystem>>> {
    let Some(block) = read(volume, SUPERBLOCK_OFFSET)? else { return Ok(None) };
    if Superblock::parse_first(&block).is_none() {
        return Ok(None);
    }
    let sound = match Sound::check(&block) {
        Ok(sound) => sound,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            backup::find(volume, Some(&block))?.ok_or(error)?
        }
        Err(error) => return Err(error),
    };
    Ok(Some(Box::new(assemble(volume, sound)?)))
}

/// What the superblock says that a volume with these first bytes is; `None` where there is none
/// that makes sense.
pub(crate) fn identify(head: &[u8]) -> Option<Content> {
    let superblock = Superblock::parse_first(head.get(1024..)?)?;
    (superblock.s_log_block_size <= MAX_LOG_BLOCK_SIZE).then(|| superblock.content())
}

/// As [`open`], where the first superblock is gone altogether. A copy may be left of a filesystem
/// that something else took the place of, so this is for volumes that nothing else knows.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open_by_backup(
    volume: &Arc<dyn ReadAt>,
) -> Result<Option<Box<dyn Filesystem>>> {
    match backup::find(volume, None)? {
        Some(sound) => Ok(Some(Box::new(assemble(volume, sound)?))),
        None => Ok(None),
    }
}

/// The bytes of a superblock at `offset`; `None` beyond the volume's end.
pub(super) fn read(volume: &Arc<dyn ReadAt>, offset: u64) -> Result<Option<[u8; SUPERBLOCK_SIZE]>> {
    let end = offset.saturating_add(1024);
    if end > volume.size().0 {
        return Ok(None);
    }
    let mut block = [0; SUPERBLOCK_SIZE];
    volume.read_exact_at(ByteOffset(offset), &mut block)?;
    Ok(Some(block))
}

/// Opens what `sound` describes, with its journal replayed.
fn assemble(volume: &Arc<dyn ReadAt>, sound: Sound) -> Result<Ext> {
    let is_backup = sound.is_backup();
    let mut ext = unreplayed(volume, sound);
    let replay = match ext.replay(volume, is_backup) {
        Ok(Some(replay)) => replay,
        Ok(None) => return Ok(ext),
        // What is on the volume may be read all the same.
        Err(error) => {
            ext.doubts.add(format!(
                "The journal cannot be replayed, so what it holds is not seen, and what is on the \
                 volume may be stale: {error}."
            ));
            ext.doubt = ext.doubt.or(Some("the journal cannot be replayed".to_owned()));
            return Ok(ext);
        }
    };
    // The superblock is in the journal too, and newer there, or sound at last.
    let newer = read(&replay.volume, SUPERBLOCK_OFFSET)?.map(|block| Sound::check(&block));
    let sound = match newer {
        Some(Ok(newer)) => newer,
        _ => Sound {
            block: ext.superblock_at,
            geometry: ext.geometry().clone(),
            superblock: ext.superblock,
        },
    };
    let mut ext = unreplayed(&replay.volume, sound);
    ext.changes = replay.changes;
    ext.replayed = replay.replayed;
    ext.info.notes.push(replay.note);
    replay.damage.into_iter().for_each(|damage| ext.doubts.add(damage));
    // Somebody may be using it, and then what is free changes from one moment to the next.
    let dirty = Some("it was not unmounted cleanly".to_owned());
    ext.doubt = ext.doubt.or(replay.doubt).or(dirty);
    Ok(ext)
}

fn unreplayed(volume: &Arc<dyn ReadAt>, sound: Sound) -> Ext {
    let doubts = Doubts::default();
    let info = info(&sound.superblock, &sound.geometry, volume.size().0);
    let mut doubt = doubt(&sound.superblock, &sound.geometry, volume.size().0);
    if sound.is_backup() {
        doubts.add(format!("The superblock is damaged; the copy in {} is used.", sound.block));
        doubt = doubt.or(Some("the superblock is damaged".to_owned()));
    }
    Ext {
        seed: sound.superblock.checksum_seed(),
        superblock: sound.superblock,
        superblock_at: sound.block,
        blocks: Blocks::new(Arc::clone(volume), sound.geometry),
        own: Recent::new(limits::CACHED_FS_BLOCKS),
        changes: Changes::default(),
        replayed: Vec::new(),
        info,
        doubts,
        doubt,
    }
}

/// Why it is not certain what is free, as far as the superblock tells.
fn doubt(superblock: &Superblock, geometry: &Geometry, volume_size: u64) -> Option<String> {
    let unknown = superblock.s_feature_ro_compat & !ro_compat::KNOWN;
    if unknown != 0 {
        let names = features::describe(unknown, &ro_compat::NAMES);
        return Some(format!("features that are not known: {names}"));
    }
    if superblock.has_errors() {
        return Some("the kernel has noted errors in it".to_owned());
    }
    if !superblock.is_settled() {
        return Some("it was not cleanly unmounted and has no journal".to_owned());
    }
    let is_cut = geometry.span() > volume_size;
    is_cut.then(|| "it reaches beyond the volume's end".to_owned())
}

fn info(superblock: &Superblock, geometry: &Geometry, volume_size: u64) -> FilesystemInfo {
    let Content { kind, label, uuid, .. } = superblock.content();
    let mut notes = Vec::new();
    for (feature, note) in [
        (incompat::ENCRYPT, "Some files may be encrypted (fscrypt)."),
        (incompat::CASEFOLD, "Some folders may ignore case (casefold)."),
    ] {
        if superblock.has_incompat(feature) {
            notes.push(note.to_owned());
        }
    }
    if superblock.has_ro_compat(ro_compat::VERITY) {
        notes.push("Some files may be sealed (fs-verity), which is not checked.".to_owned());
    }
    if superblock.has_errors() {
        notes.push("The kernel has noted errors in it.".to_owned());
    }
    if geometry.span() > volume_size {
        let span = geometry.span();
        notes.push(format!("It spans {span} bytes, but the volume has {volume_size} only."));
    }
    FilesystemInfo {
        kind: kind.name(),
        label,
        uuid,
        size: geometry.span(),
        block_size: geometry.block_size,
        notes,
    }
}
