//! Opening: which superblock is to be believed, and what is to be said about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Xfs;
use super::blocks::Blocks;
use super::features::{self, incompat, ro_compat};
use super::geometry::Geometry;
use super::headers::FREE_SPACE;
use super::log;
use super::superblock::{MAGIC, Superblock};
use super::units::{GroupNumber, InodeNumber};
use crate::base::fields::{be32, has};
use crate::base::{ByteOffset, Error, ErrorKind, ReadAt, Result};
use crate::content::Content;
use crate::fs::{Doubts, Filesystem, FilesystemInfo};
use crate::kind::Kind;

/// Bytes of a sector at least and at most.
const SECTORS: std::ops::RangeInclusive<usize> = 512..=32768;
/// Allocation groups that mkfs.xfs divides a filesystem into by itself.
const USUAL_GROUPS: [u64; 6] = [4, 2, 1, 8, 16, 32];
/// Bytes that an allocation group never reaches.
const MAX_GROUP_BYTES: u64 = 1 << 40;

/// A superblock that makes sense, and the byte that it was found at.
struct Sound {
    superblock: Superblock,
    geometry: Geometry,
    offset: u64,
}

impl Sound {
    /// The superblock at `offset`; `None` if none is there.
    fn read(volume: &Arc<dyn ReadAt>, offset: u64) -> Result<Option<Self>> {
        let Some(start) = read(volume, offset, *SECTORS.start())? else { return Ok(None) };
        let Some(superblock) = Superblock::parse(&start) else { return Ok(None) };
        let size = usize::from(superblock.sb_sectsize);
        if !SECTORS.contains(&size) {
            return Err(Error::corrupt("superblock", "a valid sb_sectsize", size));
        }
        let sector = read(volume, offset, size)?.unwrap_or(start);
        if let Some((expected, found)) = superblock.wrong_checksum(&sector) {
            let expected = format!("checksum {expected:#010x}");
            return Err(Error::corrupt("superblock", expected, format!("{found:#010x}")));
        }
        let geometry = Geometry::check(&superblock)?;
        Ok(Some(Self { superblock, geometry, offset }))
    }
}

/// Opens the XFS of `volume`; `None` if no superblock is where the first one belongs.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open(volume: &Arc<dyn ReadAt>) -> Result<Option<Box<dyn Filesystem>>> {
    let Some(start) = read(volume, 0, *SECTORS.start())? else { return Ok(None) };
    // A copy of a superblock is no filesystem's start, wherever a partition table has it begin.
    if !start.starts_with(MAGIC) || group_here(volume, &start).is_some_and(|group| group != 0) {
        return Ok(None);
    }
    let sound = match Sound::read(volume, 0) {
        Ok(Some(sound)) => sound,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            find_backup(volume, &start)?.ok_or(error)?
        }
        Err(error) => return Err(error),
    };
    if sound.offset == 0 && sound.superblock.sb_inprogress != 0 {
        let context = "an XFS that mkfs.xfs did not finish";
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    Ok(Some(Box::new(assemble(volume, &sound)?)))
}

/// What the superblock says that a volume with these first bytes is, or that it is an external
/// log; `None` where there is none that makes sense.
pub(crate) fn identify(head: &[u8]) -> Option<Content> {
    if has(head, 0, log::MAGIC) && matches!(be32(head, 4), Some(1 | 2)) {
        return Some(Content::new(Kind::XfsLog));
    }
    let superblock = Superblock::parse(head).filter(Superblock::has_known_blocks)?;
    Some(superblock.content())
}

/// As [`open`], where the first superblock is gone altogether.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open_by_backup(
    volume: &Arc<dyn ReadAt>,
) -> Result<Option<Box<dyn Filesystem>>> {
    match find_backup(volume, &[])? {
        Some(sound) => Ok(Some(Box::new(assemble(volume, &sound)?))),
        None => Ok(None),
    }
}

/// The allocation group whose headers follow the superblock in `start`, if any do.
fn group_here(volume: &Arc<dyn ReadAt>, start: &[u8]) -> Option<u32> {
    let size = Superblock::parse(start).map_or(0, |superblock| superblock.sb_sectsize);
    let size = if SECTORS.contains(&usize::from(size)) { u64::from(size) } else { 512 };
    // Where they cannot be read, the superblock alone has to do.
    let header = read(volume, size, 512).ok().flatten()?;
    be32(&header, 8).filter(|_| has(&header, 0, b"XAGF"))
}

/// A sound copy of the superblock that belongs to what is at the volume's start: copies outlive
/// what replaced their filesystem, so more than the copy has to fit.
fn find_backup(volume: &Arc<dyn ReadAt>, damaged: &[u8]) -> Result<Option<Sound>> {
    let mut places = Vec::new();
    if let Some(superblock) = Superblock::parse(damaged) {
        places
            .push(u64::from(superblock.sb_agblocks).saturating_mul(superblock.sb_blocksize.into()));
    }
    for block_size in [4096, 1024, 2048, 512, 8192, 16384, 32768, 65536_u64] {
        let blocks = volume.size().0.checked_div(block_size).unwrap_or(0);
        let sizes =
            USUAL_GROUPS.iter().map(|groups| blocks.div_ceil(*groups).saturating_mul(block_size));
        let largest = MAX_GROUP_BYTES.saturating_sub(block_size);
        places.extend(sizes.chain([largest]));
    }
    for place in places.into_iter().filter(|place| *place > 0) {
        let Ok(Some(sound)) = Sound::read(volume, place) else { continue };
        let belongs = sound.geometry.offset(sound.geometry.group_start(GroupNumber(1))) == place;
        if belongs && is_certain(volume, &sound) {
            return Ok(Some(sound));
        }
    }
    Ok(None)
}

/// Whether the first allocation group, whose superblock is damaged, is one of the filesystem that
/// `sound` describes: its header says so, and its root folder is there.
fn is_certain(volume: &Arc<dyn ReadAt>, sound: &Sound) -> bool {
    let xfs = unreplayed(volume, sound);
    let is_ours = xfs.header(GroupNumber(0), &FREE_SPACE).is_ok();
    is_ours && xfs.folder(InodeNumber(sound.superblock.sb_rootino)).is_ok()
}

/// `length` bytes at `offset`; `None` beyond the volume's end.
fn read(volume: &Arc<dyn ReadAt>, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
    let mut sector = vec![0; length];
    let end = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    if end > volume.size().0 {
        return Ok(None);
    }
    volume.read_exact_at(ByteOffset(offset), &mut sector)?;
    Ok(Some(sector))
}

/// Opens what `sound` describes, with its log replayed.
fn assemble(volume: &Arc<dyn ReadAt>, sound: &Sound) -> Result<Xfs> {
    let xfs = unreplayed(volume, sound);
    let Some(replay) = xfs.replay(volume)? else { return Ok(xfs) };
    // The superblock is in the log too, and newer there, or sound at last.
    let newer = Sound::read(&replay.volume, 0).ok().flatten();
    let mut xfs = unreplayed(&replay.volume, newer.as_ref().unwrap_or(sound));
    xfs.info.notes.extend(replay.notes);
    replay.damage.into_iter().for_each(|damage| xfs.doubts.add(damage));
    xfs.doubt = xfs.doubt.or(replay.doubt);
    xfs.is_clean = false;
    xfs.unfinished = replay.unfinished;
    xfs.replayed = replay.replayed;
    Ok(xfs)
}

fn unreplayed(volume: &Arc<dyn ReadAt>, sound: &Sound) -> Xfs {
    let (superblock, geometry) = (&sound.superblock, &sound.geometry);
    let info = info(superblock, geometry, volume.size().0);
    let doubts = Doubts::default();
    let mut doubt = doubt(superblock, geometry, volume.size().0);
    if sound.offset != 0 {
        let place = sound.offset;
        doubts.add(format!("The superblock is damaged; the copy at byte {place} is used."));
        doubt = doubt.or(Some("the superblock is damaged".to_owned()));
    }
    Xfs {
        superblock: superblock.clone(),
        blocks: Blocks::new(Arc::clone(volume), geometry.clone()),
        info,
        doubts,
        doubt,
        is_clean: true,
        unfinished: BTreeMap::new(),
        replayed: Vec::new(),
    }
}

/// Why it is not certain what is free, as far as the superblock tells.
fn doubt(superblock: &Superblock, geometry: &Geometry, volume_size: u64) -> Option<String> {
    let unknown = superblock.sb_features_ro_compat & !ro_compat::KNOWN;
    if superblock.is_v5() && unknown != 0 {
        let names = features::describe(unknown, &ro_compat::NAMES);
        return Some(format!("features that are not known: {names}"));
    }
    if superblock.has_incompat(incompat::NEEDSREPAIR) {
        return Some("it needs xfs_repair".to_owned());
    }
    if superblock.sb_logstart == 0 {
        return Some("its log is on another device".to_owned());
    }
    let is_cut = geometry.span() > volume_size;
    is_cut.then(|| "it reaches beyond the volume's end".to_owned())
}

fn info(superblock: &Superblock, geometry: &Geometry, volume_size: u64) -> FilesystemInfo {
    let Content { kind, label, uuid, .. } = superblock.content();
    let mut notes = Vec::new();
    if superblock.has_incompat(incompat::NEEDSREPAIR) {
        notes.push("It is marked as in need of xfs_repair.".to_owned());
    }
    if superblock.sb_logstart == 0 {
        let note = "Its log is on another device: what that holds is not seen.";
        notes.push(note.to_owned());
    }
    let span = geometry.span();
    if span > volume_size {
        notes.push(format!("It spans {span} bytes, but the volume has {volume_size} only."));
    }
    FilesystemInfo {
        kind: kind.name(),
        label,
        uuid,
        size: span,
        block_size: geometry.block_size,
        notes,
    }
}
