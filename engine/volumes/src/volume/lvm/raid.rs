//! Arrays: LVM's names of the members, and what the members' own metadata say.
//!
//! What a member's metadata say is told to md, whose layouts these arrays have.
//!
//! Source: Linux, `drivers/md/dm-raid.c` (`struct dm_raid_superblock`, `super_load` and
//! `super_init_validation`).

use std::sync::Arc;

use super::segment::{Member, RaidLevel, SegmentText};
use crate::base::fields::{has, le32, le64};
use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, check_range,
};
use crate::volume::layer::Layer;
use crate::volume::md::{self, Array, Features, Level, Role, Version};

const MAGIC: &[u8] = b"DmRd";
/// Bytes of a superblock that are used.
const SIZE: usize = 152;
/// Members of one array at most: dm-raid's own limit.
const MAX_MEMBERS: usize = 253;
/// The superblock has the fields that came with version 1.9.0.
const EXTENDED: u32 = 1;
/// The array's shape is being changed.
const RESHAPED: u32 = 1;

/// What one member says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub devices: usize,
    pub position: usize,
    pub events: u64,
    /// A bit for each member.
    pub failed: [u64; 4],
    /// Bytes up to which this member was rebuilt; none if it is whole.
    pub recovered: Option<u64>,
    /// Bytes of a member up to which all agree; none if they all do.
    pub in_sync: Option<u64>,
    pub level: u32,
    pub layout: u32,
    pub stripe: u64,
    pub is_reshaped: bool,
    pub data_offset: u64,
}

impl Superblock {
    /// magic 0, features 4, devices 8, position 12, events 16, failed 24, recovery 32, resync 40,
    /// level 48, layout 52, sectors of a stripe 56; with the extension: flags 60, first sector of
    /// the data 96, more failed 120, features that have to be known 144.
    pub(super) fn parse(block: &[u8]) -> Result<Self> {
        let fields = || {
            let is_extended = le32(block, 4)? & EXTENDED != 0;
            let extended = |at: usize| if is_extended { le64(block, at) } else { Some(0) };
            let bytes = |sectors: u64| match sectors {
                u64::MAX => Some(None),
                sectors => sectors.checked_mul(512).map(Some),
            };
            Some((
                Self {
                    devices: usize::try_from(le32(block, 8)?).ok()?,
                    position: usize::try_from(le32(block, 12)?).ok()?,
                    events: le64(block, 16)?,
                    failed: [le64(block, 24)?, extended(120)?, extended(128)?, extended(136)?],
                    recovered: bytes(le64(block, 32)?)?,
                    in_sync: bytes(le64(block, 40)?)?,
                    level: le32(block, 48)?,
                    layout: le32(block, 52)?,
                    stripe: u64::from(le32(block, 56)?).checked_mul(512)?,
                    is_reshaped: is_extended && le32(block, 60)? & RESHAPED != 0,
                    data_offset: extended(96)?.checked_mul(512)?,
                },
                if is_extended { le32(block, 144)? } else { 0 },
            ))
        };
        let place = "array's metadata";
        if !has(block, 0, MAGIC) {
            let found = format!("{:02x?}", block.get(..4).unwrap_or_default());
            return Err(Error::corrupt(place, "magic DmRd", found));
        }
        match fields() {
            Some((superblock, 0)) => Ok(superblock),
            Some((_, features)) => Err(Error::newer(format!("{place}: features {features:#x}"))),
            None => Err(Error::corrupt(place, "numbers within 64 bits", "others")),
        }
    }

    fn is_failed(&self, member: usize) -> bool {
        let word = self.failed.get(member / 64).copied().unwrap_or(u64::MAX);
        word >> (member % 64) & 1 == 1
    }
}

/// An array of logical volumes.
struct Raid {
    array: Array,
    /// Those that the array was given, in that order.
    images: Vec<Arc<dyn Layer>>,
    length: u64,
}

impl ReadAt for Raid {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        self.array.read_exact_at(offset, buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.array.reach(offset)
    }
}

impl Layer for Raid {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        let end = within.end.min(self.length);
        let within = ByteRange { start: within.start.min(end), end };
        let mut places = Vec::new();
        self.array.each_place(within, &mut |image, range| places.push((image, range)))?;
        places.into_iter().try_for_each(|(image, range)| match self.images.get(image) {
            Some(image) => image.each_place(range, visit),
            None => Ok(()),
        })
    }
}

/// The array of `segment`, whose members `open` opens by their names.
///
/// # Errors
/// `Unsupported` or `NotFound`, saying which and why, if too many of its members are missing,
/// failed or not rebuilt; `Corrupt` if what describes it makes no sense.
pub(super) fn open(
    segment: &SegmentText,
    open: &dyn Fn(&str) -> Result<Arc<dyn Layer>>,
) -> Result<Arc<dyn Layer>> {
    let SegmentText::Raid { length, level, members, is_reshaped, .. } = segment else {
        return Err(Error::corrupt("array", "an array", "none"));
    };
    if *is_reshaped {
        let why = "arrays that were or are being reshaped are not read";
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    if members.is_empty() || members.len() > MAX_MEMBERS {
        let expected = format!("1 to {MAX_MEMBERS} members");
        return Err(Error::corrupt("array", expected, members.len()));
    }
    let (mut given, mut images, mut missing) = (Vec::new(), Vec::new(), None);
    for (position, member) in members.iter().enumerate() {
        match open_member(segment, position, member, open) {
            Ok((superblock, image)) => {
                images.push(Arc::clone(&image));
                let bytes: Arc<dyn ReadAt> = image;
                given.push((superblock, bytes));
            }
            // RAID 0 needs all of them.
            Err(error) if *level == RaidLevel::Zero => return Err(error),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    let array = match (given.is_empty(), missing) {
        (true, Some(error)) => return Err(error),
        (_, missing) => Array::assemble(&given).map_err(|error| match missing {
            Some(missing) => error.within(missing),
            None => error,
        })?,
    };
    let size = array.size().0;
    if size < *length {
        return Err(Error::corrupt("array", format!("{length} bytes at least"), size));
    }
    Ok(Arc::new(Raid { array, images, length: *length }))
}

/// A member, and what md is told of it.
fn open_member(
    segment: &SegmentText,
    position: usize,
    member: &Member,
    open: &dyn Fn(&str) -> Result<Arc<dyn Layer>>,
) -> Result<(md::Superblock, Arc<dyn Layer>)> {
    let image = open(&member.image)?;
    let own = match &member.metadata {
        None => None,
        Some(name) => {
            let mut block = [0; SIZE];
            open(name)?.read_exact_at(ByteOffset(0), &mut block)?;
            let own = Superblock::parse(&block);
            Some(own.map_err(|error| error.within(&member.image))?)
        }
    };
    let superblock = told(segment, position, own.as_ref(), image.size().0);
    superblock.map(|superblock| (superblock, image)).map_err(|error| error.within(&member.image))
}

/// What md is told of the member at `position`, which has `size` bytes.
fn told(
    segment: &SegmentText,
    position: usize,
    own: Option<&Superblock>,
    size: u64,
) -> Result<md::Superblock> {
    let SegmentText::Raid { length, level, stripe, members, .. } = segment else {
        return Err(Error::corrupt("array", "an array", "none"));
    };
    let (md_level, layout, parities) = match level {
        RaidLevel::Zero => (Level::Raid0, ORIGINAL_ZONES, 0),
        RaidLevel::One => (Level::Raid1, 0, 0),
        RaidLevel::Four => (Level::Raid5, PARITY_FIRST, 1),
        RaidLevel::Five(layout) => (Level::Raid5, *layout, 1),
        RaidLevel::Six(layout) => (Level::Raid6, *layout, 2),
        RaidLevel::Ten => (Level::Raid10, NEAR_TWO, 0),
    };
    let count = members.len();
    if let Some(own) = own {
        check(own, position, count, *level, *stripe)?;
    }
    // Of RAID 10 the layout says how many copies there are.
    let layout = own.filter(|_| *level == RaidLevel::Ten).map_or(layout, |own| own.layout);
    let copies = if *level == RaidLevel::Ten { u64::from(layout & 255) } else { 1 };
    let data = u64::try_from(count.saturating_sub(parities)).unwrap_or(1).max(1);
    let used = match level {
        RaidLevel::One => *length,
        _ => length.saturating_mul(copies).div_ceil(data),
    };
    let role = |number: usize| match own.is_some_and(|own| own.is_failed(number)) {
        true => Role::Faulty,
        false => Role::Active(u16::try_from(number).unwrap_or(u16::MAX)),
    };
    let start = own.map_or(0, |own| own.data_offset);
    Ok(md::Superblock {
        version: Version::V1_1,
        array: [0; 16],
        label: Some("of logical volumes".to_owned()),
        minor: None,
        created: 0,
        level: md_level,
        layout,
        chunk: *stripe,
        raid_disks: u32::try_from(count).unwrap_or(u32::MAX),
        used,
        number: u32::try_from(position).unwrap_or(u32::MAX),
        roles: (0..count).map(role).collect(),
        events: own.map_or(0, |own| own.events),
        data: ByteRange { start, end: size },
        recovered: own.and_then(|own| own.recovered),
        in_sync: own.and_then(|own| own.in_sync),
        write_mostly: false,
        reshape: None,
        features: Features { zone_layout: *level == RaidLevel::Zero, ..Features::default() },
        bad: Vec::new(),
        place: ByteRange { start: 0, end: 0 },
    })
}

/// dm-raid's RAID 4 is a RAID 5 whose parity is always on the first member.
const PARITY_FIRST: u32 = 4;
/// Two copies side by side, md's RAID 10 as LVM makes it.
const NEAR_TWO: u32 = 0x102;
/// The layout of zones makes no difference where all members are of one size.
const ORIGINAL_ZONES: u32 = 2;

/// That a member's metadata are of this array.
fn check(
    own: &Superblock,
    position: usize,
    count: usize,
    level: RaidLevel,
    stripe: u64,
) -> Result<()> {
    if own.is_reshaped {
        let why = "arrays that are being reshaped are not read";
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let levels: &[u32] = match level {
        RaidLevel::Zero => &[0],
        RaidLevel::One => &[1],
        RaidLevel::Four | RaidLevel::Five(_) => &[5],
        RaidLevel::Six(_) => &[6],
        RaidLevel::Ten => &[10],
    };
    let layout = match level {
        RaidLevel::Four => PARITY_FIRST,
        RaidLevel::Five(layout) | RaidLevel::Six(layout) => layout,
        _ => own.layout,
    };
    let stripe = if level == RaidLevel::One { own.stripe } else { stripe };
    let expected = (position, count, layout, stripe);
    let found = (own.position, own.devices, own.layout, own.stripe);
    if expected != found || !levels.contains(&own.level) {
        let text = |(position, count, layout, stripe): (usize, usize, u32, u64)| {
            format!("member {position} of {count}, layout {layout}, stripes of {stripe} bytes")
        };
        let expected = format!("level {levels:?}, {}", text(expected));
        let found = format!("level {}, {}", own.level, text(found));
        return Err(Error::corrupt("array's metadata", expected, found));
    }
    Ok(())
}
