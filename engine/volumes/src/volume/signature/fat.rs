//! FAT12, FAT16 and FAT32, by the BIOS parameter block.
//!
//! Layout: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, sections "Boot Sector and
//! BPB" and "FAT Data Structure". Nothing in it is a real signature, so every field must make
//! sense, as `libblkid` demands too.

use crate::base::bytes::to_hex;
use crate::base::limits::MAX_LABEL_SEARCH;

use super::super::layout::Notes;
use super::super::text::label;
use super::{Signature, Subject};
use crate::base::fields::{array, has, le16, le32, slice, u8_at};
use crate::kind::Kind;

const ENTRY: usize = 32;

/// Which FAT it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// The fields of the boot sector that are needed, checked against one another.
pub(super) struct Bpb {
    width: Width,
    cluster: u64,
    fat_start: u64,
    root_start: u64,
    root_length: u64,
    data_start: u64,
    root_cluster: u32,
    clusters: u64,
    size: u64,
}

impl Bpb {
    /// Reads a boot sector; `None` if it is not one of FAT's.
    pub(super) fn parse(boot: &[u8]) -> Option<Self> {
        let named = has(boot, 54, b"FAT") || has(boot, 54, b"MSDOS") || has(boot, 82, b"FAT32   ");
        if !named && !has(boot, 510, &[0x55, 0xaa]) {
            return None;
        }
        let sector = u64::from(le16(boot, 11)?);
        let per_cluster = u64::from(u8_at(boot, 13)?);
        let reserved = u64::from(le16(boot, 14)?);
        let fats = u64::from(u8_at(boot, 16)?);
        let root_entries = u64::from(le16(boot, 17)?);
        let media = u8_at(boot, 21)?;
        let short_fat = le16(boot, 22)?;
        let fits = matches!(sector, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two()
            && reserved != 0
            && (1..=4).contains(&fats)
            && (media == 0xf0 || media >= 0xf8);
        let total = match le16(boot, 19)? {
            0 => u64::from(le32(boot, 32)?),
            short => u64::from(short),
        };
        let fat = if short_fat == 0 { u64::from(le32(boot, 36)?) } else { u64::from(short_fat) };
        let root_sectors = root_entries.checked_mul(32)?.div_ceil(sector.max(1));
        let root_start = fat.checked_mul(fats)?.checked_add(reserved)?;
        let data_start = root_start.checked_add(root_sectors)?;
        let clusters = total.checked_sub(data_start)?.checked_div(per_cluster)?;
        let width = match short_fat {
            0 => Width::Fat32,
            _ if clusters < 4085 => Width::Fat12,
            _ => Width::Fat16,
        };
        let most = if width == Width::Fat32 { 0x0fff_fff6 } else { 0xfff5 };
        (fits && fat != 0 && clusters != 0 && clusters <= most).then_some(Self {
            width,
            cluster: per_cluster.checked_mul(sector)?,
            fat_start: reserved.checked_mul(sector)?,
            root_start: root_start.checked_mul(sector)?,
            root_length: root_entries.checked_mul(32)?,
            data_start: data_start.checked_mul(sector)?,
            root_cluster: le32(boot, 44)?,
            clusters,
            size: total.checked_mul(sector)?,
        })
    }

    /// Where a cluster's bytes start.
    fn cluster_start(&self, cluster: u32) -> Option<u64> {
        let index = u64::from(cluster.checked_sub(2)?);
        (index < self.clusters)
            .then(|| index.checked_mul(self.cluster)?.checked_add(self.data_start))?
    }
}

/// FAT of any width. Its label is the root directory's volume entry, as everywhere but in the
/// oldest tools; the boot sector's copy is often stale.
pub(super) fn fat(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let bpb = Bpb::parse(subject.head)?;
    // The volume serial number follows an extended boot signature of 0x28 or 0x29.
    let (kind, extended) = match bpb.width {
        Width::Fat12 => (Kind::Fat12, 38),
        Width::Fat16 => (Kind::Fat16, 38),
        Width::Fat32 => (Kind::Fat32, 66),
    };
    let serial = u8_at(subject.head, extended)
        .filter(|signature| matches!(signature, 0x28 | 0x29))
        .and_then(|_| array::<4>(subject.head, usize::checked_add(extended, 1)?))
        .and_then(serial_number);
    Some(
        Signature::new(kind, 0)
            .label(root_label(subject, &bpb, notes))
            .uuid(serial)
            .size(Some(bpb.size)),
    )
}

/// A serial number as DOS writes it: `1234-ABCD`; `None` if it is zero.
pub(super) fn serial_number(bytes: [u8; 4]) -> Option<String> {
    let [a, b, c, d] = bytes;
    let text = format!("{}-{}", to_hex(&[d, c]), to_hex(&[b, a])).to_uppercase();
    (bytes != [0; 4]).then_some(text)
}

fn root_label(subject: &Subject<'_>, bpb: &Bpb, notes: &mut Notes) -> Option<String> {
    if bpb.width != Width::Fat32 {
        let length = usize::try_from(bpb.root_length).ok()?;
        let root = subject.read(bpb.root_start, length, notes)?;
        return find_label(&root).flatten();
    }
    let length = usize::try_from(bpb.cluster).ok()?;
    let mut cluster = bpb.root_cluster;
    let mut searched = 0_u64;
    while searched < MAX_LABEL_SEARCH {
        let piece = subject.read(bpb.cluster_start(cluster)?, length, notes)?;
        if let Some(found) = find_label(&piece) {
            return found;
        }
        searched = searched.checked_add(bpb.cluster)?;
        let entry = u64::from(cluster).checked_mul(4)?.checked_add(bpb.fat_start)?;
        cluster = le32(&subject.read(entry, 4, notes)?, 0)? & 0x0fff_ffff;
    }
    None
}

/// The label in a piece of the root directory: `Some(None)` once the directory ended without.
fn find_label(directory: &[u8]) -> Option<Option<String>> {
    for entry in directory.chunks_exact(ENTRY) {
        let (first, attributes) = (u8_at(entry, 0)?, u8_at(entry, 11)?);
        match first {
            0 => return Some(None),
            0xe5 => continue,
            _ => {}
        }
        // A volume label has the volume bit without the directory bit; 0x0f is a long name.
        if attributes & 0x18 == 0x08 && attributes & 0x3f != 0x0f {
            return Some(slice(entry, 0, 11).and_then(label));
        }
    }
    None
}
