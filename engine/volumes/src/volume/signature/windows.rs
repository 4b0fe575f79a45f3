//! NTFS, exFAT, ReFS and BitLocker.
//!
//! NTFS: the layout in the kernel's `fs/ntfs3/ntfs.h`. exFAT: Microsoft's "exFAT file system
//! specification", sections 3.1 and 7.3. BitLocker: libbde's "BitLocker Drive Encryption format".

use crate::base::bytes::to_hex;
use crate::base::limits::MAX_LABEL_SEARCH;

use super::super::layout::Notes;
use super::super::text::label_utf16;
use super::fat::serial_number;
use super::{Signature, Subject};
use crate::base::fields::{array, has, le16, le32, le64, slice, u8_at};
use crate::kind::Kind;

/// Whether `sector` is NTFS's or exFAT's boot sector.
pub(super) fn is_boot_sector(sector: &[u8]) -> bool {
    Ntfs::parse(sector).is_some() || Exfat::parse(sector).is_some()
}

/// BitLocker, by the OEM name of its boot sector (from Windows 7 on, and "to go").
pub(super) fn bitlocker(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let to_go = [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a];
    let known = has(subject.head, 3, b"-FVE-FS-")
        || (has(subject.head, 3, b"MSWIN4.1") && has(subject.head, 424, &to_go));
    known.then(|| Signature::new(Kind::BitLocker, 0))
}

/// ReFS.
pub(super) fn refs(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    has(subject.head, 3, b"ReFS\0\0\0\0").then(|| Signature::new(Kind::Refs, 0))
}

struct Ntfs {
    cluster: u64,
    mft: u64,
    record: usize,
    size: u64,
}

impl Ntfs {
    fn parse(boot: &[u8]) -> Option<Self> {
        if !has(boot, 3, b"NTFS    ") {
            return None;
        }
        let sector = u64::from(le16(boot, 11)?);
        if !matches!(sector, 256 | 512 | 1024 | 2048 | 4096) || le16(boot, 14)? != 0 {
            return None;
        }
        // Sectors per cluster: a power of two to 128, or the negative of a shift.
        let per_cluster = match u8_at(boot, 13)? {
            shift @ 0xe1..=0xff => 1_u64.checked_shl(u32::from(shift.wrapping_neg()))?,
            count => u64::from(count),
        };
        if !per_cluster.is_power_of_two() {
            return None;
        }
        let cluster = per_cluster.checked_mul(sector)?;
        let record = match u8_at(boot, 64)? {
            shift @ 0xe1..=0xff => 1_u64.checked_shl(u32::from(shift.wrapping_neg()))?,
            count => u64::from(count).checked_mul(cluster)?,
        };
        let fits = (256..=65536).contains(&record) && cluster <= 2 << 20;
        Some(Self {
            cluster,
            mft: le64(boot, 48)?,
            record: usize::try_from(record).ok().filter(|_| fits)?,
            size: le64(boot, 40)?.checked_mul(sector)?,
        })
    }

    /// The label, from the file record of `$Volume`: the fourth of the MFT.
    fn label(&self, subject: &Subject<'_>, notes: &mut Notes) -> Option<String> {
        let place = self.mft.checked_mul(self.cluster)?;
        let skip = u64::try_from(self.record).ok()?.checked_mul(3)?;
        let mut record = subject.read(place.checked_add(skip)?, self.record, notes)?;
        if !has(&record, 0, b"FILE") {
            return None;
        }
        apply_fixups(&mut record)?;
        let mut at = usize::from(le16(&record, 20)?);
        for _ in 0..64 {
            let kind = le32(&record, at)?;
            let length = usize::try_from(le32(&record, at.checked_add(4)?)?).ok()?;
            let attribute = slice(&record, at, length)?;
            // $VOLUME_NAME, always resident.
            if kind == 0x60 && u8_at(attribute, 8)? == 0 {
                let value = usize::from(le16(attribute, 20)?);
                let bytes = usize::try_from(le32(attribute, 16)?).ok()?;
                return label_utf16(slice(attribute, value, bytes)?);
            }
            if kind == u32::MAX || length == 0 {
                return None;
            }
            at = at.checked_add(length)?;
        }
        None
    }
}

/// Puts back the last two bytes of each 512-byte stride, which an update sequence replaced.
fn apply_fixups(record: &mut [u8]) -> Option<()> {
    let start = usize::from(le16(record, 4)?);
    let count = usize::from(le16(record, 6)?).checked_sub(1)?;
    let fixups = slice(record, start.checked_add(2)?, count.checked_mul(2)?)?.to_vec();
    for (stride, fixup) in record.chunks_exact_mut(512).zip(fixups.as_chunks::<2>().0) {
        *stride.last_chunk_mut::<2>()? = *fixup;
    }
    Some(())
}

/// NTFS.
pub(super) fn ntfs(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let boot = Ntfs::parse(subject.head)?;
    let mut serial: [u8; 8] = array(subject.head, 72)?;
    serial.reverse();
    Some(
        Signature::new(Kind::Ntfs, 0)
            .label(boot.label(subject, notes))
            .uuid((serial != [0; 8]).then(|| to_hex(&serial).to_uppercase()))
            .size(Some(boot.size)),
    )
}

struct Exfat {
    sector: u64,
    cluster: u64,
    fat: u64,
    heap: u64,
    clusters: u32,
    root: u32,
    size: u64,
}

impl Exfat {
    fn parse(boot: &[u8]) -> Option<Self> {
        if !has(boot, 3, b"EXFAT   ") {
            return None;
        }
        let (sector_shift, cluster_shift) = (u8_at(boot, 108)?, u8_at(boot, 109)?);
        let both = sector_shift.checked_add(cluster_shift)?;
        if !(9..=12).contains(&sector_shift) || both > 25 {
            return None;
        }
        let sector = 1_u64.checked_shl(u32::from(sector_shift))?;
        Some(Self {
            sector,
            cluster: 1_u64.checked_shl(u32::from(both))?,
            fat: u64::from(le32(boot, 80)?).checked_mul(sector)?,
            heap: u64::from(le32(boot, 88)?).checked_mul(sector)?,
            clusters: le32(boot, 92)?,
            root: le32(boot, 96)?,
            size: le64(boot, 72)?.checked_mul(sector)?,
        })
    }

    /// The label, from the root directory's entry of type 0x83.
    fn label(&self, subject: &Subject<'_>, notes: &mut Notes) -> Option<String> {
        let length = usize::try_from(self.sector).ok()?;
        let mut cluster = self.root;
        let mut searched = 0_u64;
        while searched < MAX_LABEL_SEARCH {
            let index = cluster.checked_sub(2).filter(|index| *index < self.clusters)?;
            let start = u64::from(index).checked_mul(self.cluster)?.checked_add(self.heap)?;
            let mut within = 0_u64;
            while within < self.cluster && searched < MAX_LABEL_SEARCH {
                let piece = subject.read(start.checked_add(within)?, length, notes)?;
                for entry in piece.chunks_exact(32) {
                    match u8_at(entry, 0)? {
                        0 => return None,
                        0x83 => {
                            let letters = usize::from(u8_at(entry, 1)?.min(11));
                            return label_utf16(slice(entry, 2, letters.checked_mul(2)?)?);
                        }
                        _ => {}
                    }
                }
                within = within.checked_add(self.sector)?;
                searched = searched.checked_add(self.sector)?;
            }
            let entry = u64::from(cluster).checked_mul(4)?.checked_add(self.fat)?;
            cluster = le32(&subject.read(entry, 4, notes)?, 0)?;
        }
        None
    }
}

/// exFAT.
pub(super) fn exfat(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let boot = Exfat::parse(subject.head)?;
    Some(
        Signature::new(Kind::Exfat, 0)
            .label(boot.label(subject, notes))
            .uuid(array::<4>(subject.head, 100).and_then(serial_number))
            .size(Some(boot.size)),
    )
}
