//! Opening: which superblock is to be believed, and what is to be said about it.

use std::sync::Arc;

use super::Ext;
use super::blocks::Blocks;
use super::features::incompat;
use super::geometry::Geometry;
use super::superblock::{MAGIC, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};
use super::units::BlockNumber;
use crate::base::bytes::to_hex;
use crate::base::fields::le16;
use crate::base::{ByteOffset, Error, Result};
use crate::block::ReadAt;
use crate::fs::{Filesystem, FilesystemInfo};

/// Opens the ext filesystem of `volume`; `None` if it holds none.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open(volume: &Arc<dyn ReadAt>) -> Result<Option<Box<dyn Filesystem>>> {
    let Some(block) = read(volume, SUPERBLOCK_OFFSET)? else { return Ok(None) };
    if le16(&block, 0x38) != Some(MAGIC) {
        return Ok(None);
    }
    let ext = open_with(volume, &block)?;
    Ok(Some(Box::new(ext)))
}

/// The bytes of a superblock at `offset`; `None` beyond the volume's end.
fn read(volume: &Arc<dyn ReadAt>, offset: u64) -> Result<Option<[u8; SUPERBLOCK_SIZE]>> {
    let end = offset.saturating_add(1024);
    if end > volume.size().0 {
        return Ok(None);
    }
    let mut block = [0; SUPERBLOCK_SIZE];
    volume.read_exact_at(ByteOffset(offset), &mut block)?;
    Ok(Some(block))
}

fn open_with(volume: &Arc<dyn ReadAt>, block: &[u8]) -> Result<Ext> {
    let superblock = Superblock::parse(block)
        .ok_or_else(|| Error::corrupt("superblock", "its magic number", "something else"))?;
    if let Some((expected, found)) = superblock.wrong_checksum() {
        let expected = format!("checksum {expected:#010x}");
        return Err(Error::corrupt("superblock", expected, format!("{found:#010x}")));
    }
    let geometry = Geometry::check(&superblock)?;
    Ok(assemble(volume, superblock, geometry))
}

fn assemble(volume: &Arc<dyn ReadAt>, superblock: Superblock, geometry: Geometry) -> Ext {
    let superblock_at: BlockNumber = geometry.superblock_block;
    let info = info(&superblock, &geometry, volume.size().0);
    Ext {
        seed: superblock.checksum_seed(),
        superblock,
        superblock_at,
        blocks: Blocks::new(Arc::clone(volume), geometry),
        info,
        doubt: None,
    }
}

fn info(superblock: &Superblock, geometry: &Geometry, volume_size: u64) -> FilesystemInfo {
    let label: &[u8] = &superblock.s_volume_name;
    let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut notes = Vec::new();
    for (feature, note) in [
        (incompat::ENCRYPT, "Some files may be encrypted (fscrypt)."),
        (incompat::CASEFOLD, "Some folders may ignore case (casefold)."),
    ] {
        if superblock.has_incompat(feature) {
            notes.push(note.to_owned());
        }
    }
    if superblock.has_errors() {
        notes.push("The kernel has noted errors in it.".to_owned());
    }
    if geometry.span() > volume_size {
        let span = geometry.span();
        notes.push(format!("It spans {span} bytes, but the volume has {volume_size} only."));
    }
    FilesystemInfo {
        kind: superblock.kind(),
        label: (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned()),
        uuid: uuid(&superblock.s_uuid),
        size: geometry.span(),
        block_size: geometry.block_size,
        notes,
    }
}

/// A UUID in its usual spelling; `None` if it is all zeros.
fn uuid(bytes: &[u8; 16]) -> Option<String> {
    if *bytes == [0; 16] {
        return None;
    }
    let digits = to_hex(bytes);
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32];
    let groups = groups.into_iter().filter_map(|range| digits.get(range));
    Some(groups.collect::<Vec<_>>().join("-"))
}
