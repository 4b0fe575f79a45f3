//! Copies of the superblock, for when the first is damaged.
//!
//! Kernel documentation, `filesystems/ext4/blockgroup.rst`. mke2fs makes groups as large as a
//! bitmap's block can tell, unless it is told otherwise (`-g`); the second group has a copy with
//! every choice of features but one, and that has copies wherever it likes (`sparse_super2`: the
//! second group and the last).

use std::sync::Arc;

use super::open::{Sound, read};
use super::superblock::MAGIC;
use super::units::{BlockNumber, GroupNumber};
use crate::base::fields::{array, le16};
use crate::base::{ReadAt, Result};

/// Groups whose copies are tried first.
const USUAL_GROUPS: [u32; 8] = [1, 3, 5, 7, 9, 25, 27, 49];
/// Largest blocks for which every size of groups is tried: thousands of places, each of one read.
const MAX_SEARCHED_BLOCK: u64 = 4096;
/// Sizes of groups are multiples of this.
const GROUP_STEP: u64 = 8;

/// The copy of the superblock to go by; `None` if there is none, or if those that are found are of
/// different filesystems and `damaged`, what is left of the first one, does not tell which.
///
/// # Errors
/// The volume's own.
pub(super) fn find(volume: &Arc<dyn ReadAt>, damaged: Option<&[u8]>) -> Result<Option<Sound>> {
    let uuid = damaged.and_then(|damaged| array::<16>(damaged, 0x68));
    let mut first: Option<Sound> = None;
    let mut differ = false;
    for (offset, block_size) in places(volume.size().0) {
        let Some(sound) = copy_at(volume, offset, block_size)? else { continue };
        if uuid == Some(sound.superblock.s_uuid) {
            return Ok(Some(sound));
        }
        match &first {
            None => first = Some(sound),
            Some(first) => differ |= !is_same(first, &sound),
        }
    }
    Ok(first.filter(|_| !differ))
}

/// Whether two copies are of one filesystem.
fn is_same(one: &Sound, other: &Sound) -> bool {
    let of = |sound: &Sound| {
        (sound.superblock.s_uuid, sound.geometry.block_size, sound.geometry.group_blocks)
    };
    of(one) == of(other)
}

/// Where copies may be, in bytes, and the size of blocks for which that is: first the usual places,
/// then the second group with each other size of groups.
fn places(volume_size: u64) -> impl Iterator<Item = (u64, u64)> {
    let sizes = (0..=6).map(|log| 1024_u64.wrapping_shl(log));
    let usual = sizes.clone().flat_map(move |block_size| {
        let most = block_size.saturating_mul(8);
        let blocks = volume_size.checked_div(block_size).unwrap_or(0);
        let last = blocks.saturating_sub(2).checked_div(most).unwrap_or(0);
        let groups = USUAL_GROUPS.into_iter().map(u64::from).chain([last]);
        groups.map(move |group| (start(block_size, most.saturating_mul(group)), block_size))
    });
    let searched = sizes.filter(|size| *size <= MAX_SEARCHED_BLOCK).flat_map(|block_size| {
        let counts = 1..block_size.saturating_mul(8).checked_div(GROUP_STEP).unwrap_or(0);
        counts.map(move |count| (start(block_size, count.saturating_mul(GROUP_STEP)), block_size))
    });
    usual.chain(searched)
}

/// The byte at which block `number` after the first one of group 0 starts.
fn start(block_size: u64, number: u64) -> u64 {
    number.saturating_add(u64::from(block_size == 1024)).saturating_mul(block_size)
}

/// The copy at byte `offset`, if that is where its group starts.
fn copy_at(volume: &Arc<dyn ReadAt>, offset: u64, block_size: u64) -> Result<Option<Sound>> {
    let Some(bytes) = read(volume, offset)? else { return Ok(None) };
    if le16(&bytes, 0x38) != Some(MAGIC) {
        return Ok(None);
    }
    let Ok(mut sound) = Sound::check(&bytes) else { return Ok(None) };
    let group = u32::from(sound.superblock.s_block_group_nr);
    let block = sound.geometry.group_start(GroupNumber(group));
    let belongs = group > 0
        && u64::from(sound.geometry.block_size) == block_size
        && sound.geometry.offset(block) == offset;
    sound.block = BlockNumber(block.0);
    Ok(Some(sound).filter(|_| belongs))
}
