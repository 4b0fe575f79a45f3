//! Superblocks of version 0.90, in the byte order of the machine that wrote them.
//!
//! Source: Linux, `mdp_super_t` in `include/uapi/linux/raid/md_p.h`, `super_90_validate` in
//! `drivers/md/md.c`.

use super::superblock::{
    Features, Found, Level, MAGIC, Reshape, Role, SECTOR, SIZE, Superblock, Version,
};
use super::version_1::BadBlockLog;
use crate::base::ByteRange;
use crate::base::fields::{be32, be64, has, le32, le64};

/// Descriptors of devices, from byte 512 of 128 bytes each.
const DEVICES: u32 = 27;
const DESCRIPTORS: usize = 512;
const DESCRIPTOR: usize = 128;
/// This device's own descriptor.
const OWN: usize = 3968;
/// Bits of a descriptor's state.
const FAULTY: u32 = 1;
const IN_SYNC: u32 = 1 << 2;
const REMOVED: u32 = 1 << 3;
const WRITE_MOSTLY: u32 = 1 << 9;
/// Bits of the array's state.
const CLEAN: u32 = 1;
const BITMAP: u32 = 1 << 8;
const KIB: u64 = 1024;

/// The fields, in the order of bytes that the magic shows.
struct Fields<'a> {
    block: &'a [u8],
    is_big: bool,
}

impl Fields<'_> {
    fn u32(&self, at: usize) -> Option<u32> {
        if self.is_big { be32(self.block, at) } else { le32(self.block, at) }
    }

    fn u64(&self, at: usize) -> Option<u64> {
        if self.is_big { be64(self.block, at) } else { le64(self.block, at) }
    }

    /// The sum of all words but the checksum's own, its carries added.
    fn checksum(&self) -> u32 {
        let words = self.block.as_chunks::<4>().0.iter().enumerate();
        let sum = words.filter(|(at, _)| *at != 38).fold(0_u64, |sum, (_, word)| {
            let word =
                if self.is_big { u32::from_be_bytes(*word) } else { u32::from_le_bytes(*word) };
            sum.wrapping_add(word.into())
        });
        let (low, high) = (sum & 0xffff_ffff, sum.wrapping_shr(32));
        u32::try_from(low.wrapping_add(high) & 0xffff_ffff).unwrap_or_default()
    }
}

/// Folded to 16 bits, as some machines stored it.
fn fold(sum: u32) -> u32 {
    let fold = |sum: u32| (sum & 0xffff).wrapping_add(sum.wrapping_shr(16));
    fold(fold(sum))
}

/// The superblock in `block`, which stands at byte `place`.
pub(super) fn parse(block: &[u8], place: u64) -> Option<(Found, Option<BadBlockLog>)> {
    let is_big = has(block, 0, &MAGIC.to_be_bytes());
    if !is_big && !has(block, 0, &MAGIC.to_le_bytes()) {
        return None;
    }
    let fields = Fields { block, is_big };
    let minor_version = fields.u32(8)?;
    if fields.u32(4)? != 0 || !(90..=91).contains(&minor_version) {
        return None;
    }
    let (found, expected) = (fields.u32(152)?, fields.checksum());
    // What both fold to counts, as for the kernel.
    let expected = if fold(found) == fold(expected) { found } else { expected };
    let superblock = superblock(&fields, minor_version, place)?;
    Some((Found { superblock, expected, found }, None))
}

fn superblock(fields: &Fields<'_>, minor_version: u32, place: u64) -> Option<Superblock> {
    let mut array = [0; 16];
    // Its words are numbers: they are read in the machine's order and printed as they are.
    for (into, at) in array.as_chunks_mut::<4>().0.iter_mut().zip([20_usize, 52, 56, 60]) {
        *into = fields.u32(at)?.to_be_bytes();
    }
    let roles: Option<Vec<Role>> = (0..DEVICES).map(|number| role(fields, number)).collect();
    let state = fields.u32(132)?;
    let events = fields.u64(156)?;
    let in_sync = match state & CLEAN {
        CLEAN => None,
        _ if fields.u64(164)? == events => u64::from(fields.u32(172)?).checked_mul(SECTOR),
        _ => Some(0),
    };
    let delta = i32::from_le_bytes(fields.u32(188)?.to_le_bytes());
    let reshape = Reshape {
        position: fields.u64(176)?,
        level: Level::of(fields.u32(184)?),
        delta_disks: delta,
    };
    Some(Superblock {
        version: Version::V0_90,
        array,
        label: None,
        minor: Some(fields.u32(44)?),
        created: fields.u32(24)?.into(),
        level: Level::of(fields.u32(28)?),
        layout: fields.u32(256)?,
        // Counted in whole sectors.
        chunk: (fields.u32(260)? & !511).into(),
        raid_disks: fields.u32(40)?,
        used: u64::from(fields.u32(32)?).checked_mul(KIB)?,
        number: fields.u32(OWN)?,
        roles: roles?,
        events,
        data: ByteRange::new(0, place),
        recovered: None,
        in_sync,
        write_mostly: fields.u32(OWN.checked_add(16)?)? & WRITE_MOSTLY != 0,
        reshape: (minor_version >= 91).then_some(reshape),
        features: Features { bitmap: state & BITMAP != 0, ..Features::default() },
        bad: Vec::new(),
        place: ByteRange::new(place, u64::try_from(SIZE).ok()?),
    })
}

/// What the descriptor of device `number` says of it.
fn role(fields: &Fields<'_>, number: u32) -> Option<Role> {
    let start = usize::try_from(number).ok()?.checked_mul(DESCRIPTOR)?.checked_add(DESCRIPTORS)?;
    let state = fields.u32(start.checked_add(16)?)?;
    let disk = fields.u32(start.checked_add(12)?)?;
    // One that is active and not in sync is being rebuilt, nobody knows how far.
    Some(match u16::try_from(disk) {
        _ if state & (FAULTY | REMOVED) != 0 => Role::Faulty,
        Ok(disk) if state & IN_SYNC != 0 => Role::Active(disk),
        _ => Role::Spare,
    })
}
