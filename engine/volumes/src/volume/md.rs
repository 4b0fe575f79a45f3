//! Linux RAID1: an array that can be read from any one member that is up to date.
//!
//! Source: Linux, `include/uapi/linux/raid/md_p.h`, `drivers/md/md.c`.

use super::extent::Extent;
use super::layout::{Notes, Volume};
use crate::base::fields::{le16, le32, le64};
use crate::kind::Kind;

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;
/// Bytes of a version-1 superblock before its list of roles.
const FIXED: usize = 256;
/// Devices of one array at most.
const MAX_DEVICES: u32 = 1920;
/// Feature bits: a member that is being rebuilt, an array that is being reshaped.
const RECOVERY: u32 = 0x2;
const RESHAPE: u32 = 0x4;
/// Roles from this one on are none: spare, faulty, journal.
const LAST_ROLE: u16 = 0xfffd;
/// `disk_state` bits of version 0.90: active and in sync.
const ACTIVE_IN_SYNC: u32 = 0x6;

/// A member of an array.
struct Member {
    array: [u8; 16],
    name: String,
    level: i32,
    /// First byte of the data within the member, and bytes.
    data: (u64, u64),
    events: u64,
    /// Why it is not to be read.
    unfit: Option<&'static str>,
}

/// The arrays whose members are among `volumes`, each read from its newest one.
pub(super) fn volumes(disk: &Extent<'_>, volumes: &[Volume], notes: &mut Notes) -> Vec<Volume> {
    let mut found: Vec<(Member, u64, Vec<String>)> = Vec::new();
    for volume in volumes {
        if !volume.holds(Kind::MdMember) || !volume.is_contiguous() {
            continue;
        }
        let extent = disk.part(volume.start, volume.length);
        let Some(member) = read(&extent) else {
            notes.add(format!("{}: its RAID superblock is damaged", volume.name));
            continue;
        };
        let same = found.iter_mut().find(|(other, ..)| other.array == member.array);
        let rank = |member: &Member| (member.unfit.is_none(), member.events);
        match same {
            Some((other, start, names)) => {
                names.push(volume.name.clone());
                if rank(other) < rank(&member) {
                    (*other, *start) = (member, volume.start);
                }
            }
            None => found.push((member, volume.start, vec![volume.name.clone()])),
        }
    }
    let made = |(member, start, names)| volume(&member, start, names);
    found.into_iter().map(made).collect()
}

fn volume(member: &Member, start: u64, names: Vec<String>) -> Volume {
    let (offset, length) = member.data;
    let name = format!("md/{}", member.name);
    let mut volume = Volume::new(name, start.saturating_add(offset), length);
    volume.type_name = Some("RAID array".to_owned());
    volume.within = names;
    volume.unsupported = match (member.level, member.unfit) {
        (1, None) => None,
        (1, Some(why)) => Some(why.to_owned()),
        (level, _) => Some(format!("arrays of RAID level {level} are not read")),
    };
    volume
}

fn read(member: &Extent<'_>) -> Option<Member> {
    let size = member.length();
    let near_end = size.checked_sub(8192).map(|place| place & !4095);
    let places = [Some(0), Some(4096), near_end];
    let found = places.into_iter().flatten().find_map(|place| version_1(member, place));
    found.or_else(|| version_0(member, (size & !65535).checked_sub(65536)?))
}

/// The sum of 32-bit words, its carries added.
fn sum(words: impl Iterator<Item = u32>) -> u32 {
    let sum = words.fold(0_u64, |sum, word| sum.wrapping_add(word.into()));
    let [low, high] = [sum & 0xffff_ffff, sum >> 32];
    u32::try_from(low.wrapping_add(high) & 0xffff_ffff).unwrap_or_default()
}

/// A superblock of version 1.x at byte `place`.
fn version_1(member: &Extent<'_>, place: u64) -> Option<Member> {
    let head = member.read(place, FIXED).ok()??;
    if le32(&head, 0)? != MAGIC
        || le32(&head, 4)? != 1
        || le64(&head, 144)?.checked_mul(SECTOR)? != place
    {
        return None;
    }
    let devices = le32(&head, 220).filter(|count| *count <= MAX_DEVICES)?;
    let roles = usize::try_from(devices).ok()?.checked_mul(2)?;
    let block = member.read(place, FIXED.checked_add(roles)?).ok()??;
    let (words, rest) = block.as_chunks::<4>();
    // The checksum's own word counts as zero, an odd role at the end as a word.
    let words = words.iter().enumerate().filter(|(at, _)| *at != 54);
    let odd = le16(rest, 0).map_or(0, u32::from);
    let found = sum(words.map(|(_, word)| u32::from_le_bytes(*word)).chain([odd]));
    if found != le32(&block, 216)? {
        return None;
    }
    let number = usize::try_from(le32(&block, 160)?).ok()?;
    let role = number.checked_mul(2).and_then(|at| le16(&block, at.checked_add(FIXED)?))?;
    let features = le32(&block, 8)?;
    let unfit = if role >= LAST_ROLE {
        Some("the member here is a spare or faulty")
    } else if features & RESHAPE != 0 {
        Some("the array is being reshaped")
    } else if features & RECOVERY != 0 {
        Some("the member here is not rebuilt to its end")
    } else {
        None
    };
    let name = block.get(32..64)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let name = String::from_utf8_lossy(name.get(..end)?).into_owned();
    // Names are mostly HOST:NAME.
    let name = name.split_once(':').map_or(name.as_str(), |(_, own)| own).to_owned();
    let offset = le64(&block, 128)?.checked_mul(SECTOR)?;
    let length = le64(&block, 80)?.checked_mul(SECTOR)?;
    let level = i32::from_le_bytes(*block.get(72..76)?.first_chunk()?);
    let array: [u8; 16] = *block.get(16..32)?.first_chunk()?;
    let name = if name.is_empty() { crate::base::bytes::to_hex(array.get(..4)?) } else { name };
    Some(Member { array, name, level, data: (offset, length), events: le64(&block, 200)?, unfit })
}

/// A superblock of version 0.90 at byte `place`, in the order of a little-endian machine.
fn version_0(member: &Extent<'_>, place: u64) -> Option<Member> {
    let block = member.read(place, 4096).ok()??;
    if le32(&block, 0)? != MAGIC || le32(&block, 4)? != 0 {
        return None;
    }
    let (words, _) = block.as_chunks::<4>();
    let words = words.iter().enumerate().filter(|(at, _)| *at != 38);
    if sum(words.map(|(_, word)| u32::from_le_bytes(*word))) != le32(&block, 152)? {
        return None;
    }
    let mut array = [0; 16];
    for (into, at) in array.as_chunks_mut::<4>().0.iter_mut().zip([20_usize, 52, 56, 60]) {
        *into = le32(&block, at)?.to_le_bytes();
    }
    // this_disk: the last descriptor, its state the fifth word.
    let state = le32(&block, 3968 + 16)?;
    let is_active = state & ACTIVE_IN_SYNC == ACTIVE_IN_SYNC && state & 1 == 0;
    let unfit = (!is_active).then_some("the member here is a spare or faulty");
    let length = u64::from(le32(&block, 32)?).checked_mul(1024)?;
    let level = i32::from_le_bytes(le32(&block, 28)?.to_le_bytes());
    let name = le32(&block, 44)?.to_string();
    Some(Member { array, name, level, data: (0, length), events: le64(&block, 156)?, unfit })
}
