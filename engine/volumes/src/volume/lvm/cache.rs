//! Caches: whether all that they hold is in the volume behind them as well.
//!
//! Source: Linux, `drivers/md/dm-cache-metadata.c` and `dm-writecache.c`.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::persistent::{Metadata, Superblock};
use crate::base::fields::{le32, le64};
use crate::base::{ByteOffset, Error, ErrorKind, Result};
use crate::volume::layer::Layer;

const SUPERBLOCK: Superblock = Superblock {
    place: "cache's superblock",
    magic: 0o6_142_003,
    salt: 9_031_977,
    versions: 1..=2,
};
const CLEAN_SHUTDOWN: u32 = 1;
const NEEDS_CHECK: u32 = 2;
/// Bits of a mapping: it is in use; the volume behind lacks it.
const VALID: u64 = 1;
const DIRTY: u64 = 2;

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, why)
}

/// Whether a cache, by its metadata, holds nothing that the volume behind it lacks.
///
/// cache_disk_superblock: flags 4, version 40, root of the mappings 192, blocks of the cache 240,
/// features 252, in version 2 the root of the dirty bits 284.
///
/// # Errors
/// `Unsupported` if it does, or may; `Corrupt` if it is damaged.
pub(super) fn check_clean(metadata: Arc<dyn Layer>) -> Result<()> {
    let metadata = Metadata::new(metadata);
    let block = metadata.superblock(&SUPERBLOCK)?;
    let short = |at| le32(&block, at).unwrap_or_default();
    let long = |at| le64(&block, at).unwrap_or_default();
    if short(4) & NEEDS_CHECK != 0 {
        return Err(refused("its cache has to be checked first (cache_check)"));
    }
    if short(252) != 0 {
        let why = format!("its cache has unknown features {:#x}", short(252));
        return Err(Error::newer(why));
    }
    if short(4) & CLEAN_SHUTDOWN == 0 {
        return Err(refused("its cache was not shut down: what is newest may be there alone"));
    }
    let blocks = u64::from(short(240));
    let is_later = short(40) == 2;
    // A bit for each block of the cache that is in use, since bits of others may be anything.
    let (mut valid, mut dirty): (Vec<u64>, u64) = (Vec::new(), 0);
    metadata.each_word(long(192), &mut |number, mapping| {
        let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
        if number >= blocks || word > valid.len() {
            return Err(Error::corrupt("cache", format!("{blocks} blocks"), number));
        }
        if word == valid.len() {
            valid.push(0);
        }
        if let Some(word) = valid.get_mut(word).filter(|_| mapping & VALID != 0) {
            *word |= 1 << (number % 64);
        }
        let is_dirty = !is_later && mapping & (VALID | DIRTY) == VALID | DIRTY;
        dirty = dirty.saturating_add(u64::from(is_dirty));
        Ok(ControlFlow::Continue(()))
    })?;
    if is_later {
        let mut words = 0_usize;
        metadata.each_word(long(284), &mut |number, word| {
            let used = usize::try_from(number).ok().and_then(|number| valid.get(number));
            dirty =
                dirty.saturating_add(u64::from((word & used.copied().unwrap_or(0)).count_ones()));
            words = words.saturating_add(1);
            Ok(ControlFlow::Continue(()))
        })?;
        if words < valid.len() {
            let expected = format!("{} words of dirty bits", valid.len());
            return Err(Error::corrupt("cache", expected, words));
        }
    }
    match dirty {
        0 => Ok(()),
        _ => Err(refused(format!("its cache is dirty: {dirty} of its blocks are there alone"))),
    }
}

const WRITE_MAGIC: u32 = 0x2348_9321;
/// Where the entries begin, and the bytes of one.
const WRITE_ENTRIES: u64 = 64;
const ENTRY: u64 = 16;
/// Entries that are read at a time.
const PIECE: u64 = 4096;

/// Whether a write cache holds no block.
///
/// wc_memory_superblock: magic 0, version 4, bytes of a block 8, blocks 16, sequence 24; then an
/// entry for each block: the sector that it is of (all ones: of none), sequence.
///
/// # Errors
/// `Unsupported` if it does; `Corrupt` if it makes no sense.
pub(super) fn check_empty(store: &dyn Layer) -> Result<()> {
    let mut head = [0; 64];
    store.read_exact_at(ByteOffset(0), &mut head)?;
    if le32(&head, 0) != Some(WRITE_MAGIC) {
        return Err(Error::corrupt("write cache", "magic 23489321", format!("{:x?}", &head)));
    }
    let version = le32(&head, 4).unwrap_or_default();
    if version != 1 {
        return Err(Error::newer(format!("write cache of version {version}")));
    }
    let blocks = le64(&head, 16).unwrap_or_default();
    let room = store.size().0.saturating_sub(WRITE_ENTRIES).checked_div(ENTRY).unwrap_or(0);
    if blocks > room {
        return Err(Error::corrupt("write cache", format!("{room} blocks at most"), blocks));
    }
    let mut at = 0_u64;
    while at < blocks {
        let count = PIECE.min(blocks.saturating_sub(at));
        let bytes = usize::try_from(count.saturating_mul(ENTRY)).unwrap_or(0);
        let mut entries = vec![0; bytes];
        let place = at.saturating_mul(ENTRY).saturating_add(WRITE_ENTRIES);
        store.read_exact_at(ByteOffset(place), &mut entries)?;
        let mut sectors = entries.as_chunks::<16>().0.iter().map(|entry| le64(entry, 0));
        if sectors.any(|sector| sector != Some(u64::MAX)) {
            return Err(refused("its write cache is dirty: some blocks are there alone"));
        }
        at = at.saturating_add(count);
    }
    Ok(())
}
