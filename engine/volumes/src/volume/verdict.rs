//! What a stretch of bytes holds, of all the signatures that stand in it.
//!
//! Whoever makes something new of a volume seldom wipes all that tells of the old. But what a tool
//! surely writes is known: what stands there was written later. So of two signatures the newer is
//! the one that stands where making the other would have overwritten it; [`written`] is the table.
//! Where that says nothing, or both, [`rank`] and the order of the search decide what is shown, and the answer
//! is in doubt: all of the volume is needed then.
//!
//! Sources: mke2fs (`zap_sector`, superblock, descriptors, the end by 64 KiB), mkfs.xfs (the first and last
//! 128 KiB), mkfs.btrfs (the first and last 2 MiB), mkntfs (`$Boot` and its copy in the last
//! sector), mkfs.fat (reserved sectors, tables and root folder), mkfs.exfat (both boot regions), mkswap (the first page),
//! pvcreate (four sectors and the first metadata area), mdadm (its superblock), cryptsetup (header and first key slot), sfdisk and sgdisk.

use std::sync::Arc;

use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::signature::{self, Signature};
use super::tables::Signs;
use super::types::is_dynamic;
use crate::base::ReadAt;
use crate::content::Content;
use crate::kind::Kind;

/// What a stretch holds.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// The newest that was made of it.
    pub content: Option<Content>,
    /// Why that is not certain.
    pub doubt: Option<String>,
    /// What the other signatures say.
    pub others: Vec<Content>,
}

const KIB: u64 = 1024;

/// Ranges that are surely written, from the start and (negative) from the end of a volume.
type Written = &'static [(i64, u64)];

/// What making something of a volume writes in any case: first bytes, negative ones counting from
/// its end, and lengths.
fn written(signature: &Signature) -> Written {
    match signature.content.kind {
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 | Kind::ExtJournal => {
            &[(0, 5 * KIB), (-64 * 1024, 64 * KIB)]
        }
        Kind::Xfs => &[(0, 128 * KIB), (-128 * 1024, 128 * KIB)],
        Kind::Btrfs => &[(0, 1024 * KIB), (-64 * 1024, 64 * KIB)],
        Kind::Ntfs => &[(0, 8 * KIB), (-512, 512)],
        Kind::BitLocker => &[(0, 512)],
        Kind::Exfat => &[(0, 12 * KIB)],
        Kind::Fat12 | Kind::Fat16 | Kind::Fat32 => &[(0, 5 * KIB)],
        Kind::Swap | Kind::Hibernation => &[(0, 4 * KIB)],
        // A second header. What has only weak signatures may be older, and show in a damaged first.
        Kind::Luks if signature.place > 0 => &[(0, 2 * KIB)],
        Kind::Luks => &[(0, 592), (4 * 1024, 512)],
        Kind::PhysicalVolume => &[(0, 2 * KIB), (4 * 1024, 512)],
        Kind::Iso9660 | Kind::Udf => &[(0, 34 * KIB)],
        Kind::Squashfs | Kind::Erofs | Kind::F2fs => &[(0, 2 * KIB)],
        Kind::Mbr => &[(446, 66)],
        // With sectors of 4 KiB there are gaps.
        Kind::Gpt if signature.place > 512 => &[(446, 66), (4 * 1024, 92), (-512, 512)],
        Kind::Gpt => &[(446, 66), (512, 92), (1024, 8 * KIB), (-512, 512)],
        Kind::Apm => &[(0, 4), (512, KIB)],
        Kind::BsdDisklabel if signature.place < 512 => &[(64, 404)],
        Kind::BsdDisklabel => &[(512, 404)],
        Kind::MdMember if signature.place == 0 => &[(0, 512)],
        Kind::MdMember if signature.place == 4 * KIB => &[(4 * 1024, 512)],
        _ => &[],
    }
}

/// Whether making the volume what `later` says would have overwritten `earlier`.
fn overwrites(later: &Signature, earlier: &Signature, length: u64) -> bool {
    // mke2fs leaves the sector alone.
    let is_spared = earlier.content.kind == Kind::BsdDisklabel && earlier.place < 512;
    if is_spared && matches!(later.content.kind, Kind::Ext2 | Kind::Ext3 | Kind::Ext4) {
        return false;
    }
    written(later).iter().any(|(start, count)| {
        let start = match u64::try_from(*start) {
            Ok(start) => start,
            Err(_) => length.saturating_sub(start.unsigned_abs()),
        };
        (start..start.saturating_add(*count)).contains(&earlier.place)
    })
}

/// What two signatures say of one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The first is what is there; the other is a rest, or lies within.
    First,
    /// The other way about.
    Second,
    /// Nobody knows.
    Open,
}

fn order(one: &Signature, other: &Signature, length: u64) -> Order {
    if one.content.kind == other.content.kind || is_one_medium(one, other) {
        return Order::First;
    }
    match (overwrites(other, one, length), overwrites(one, other, length)) {
        // Had the other been made later, the first would be gone.
        (true, false) => return Order::First,
        (false, true) => return Order::Second,
        _ => {}
    }
    match (goes_around(one, other, length), goes_around(other, one, length)) {
        (true, _) => Order::First,
        (_, true) => Order::Second,
        (false, false) => Order::Open,
    }
}

/// Whether both are views of one medium, as on discs that are read as either.
fn is_one_medium(one: &Signature, other: &Signature) -> bool {
    let optical = |kind| matches!(kind, Kind::Iso9660 | Kind::Udf);
    let is_beside = |kind| matches!(kind, Kind::Mbr | Kind::Gpt | Kind::Apm);
    let on_disc = |kind| optical(kind) || is_beside(kind);
    (optical(one.content.kind) && on_disc(other.content.kind))
        || (optical(other.content.kind) && on_disc(one.content.kind))
}

/// Whether `within` is not of the volume that `container` is in, but lies in it.
fn goes_around(container: &Signature, within: &Signature, length: u64) -> bool {
    // The filesystem of BSD leaves room for a label before itself.
    let is_label = container.content.kind == Kind::BsdDisklabel;
    (is_label && within.content.kind == Kind::Ufs) || is_around(container, within, length)
}

/// Whether `container`, which keeps its own at the end, goes around the filesystem `within`, which
/// begins where its members' data does: that ends before, or lies on several members. Of FAT that
/// says nothing: it ends up to 63 sectors before the end.
fn is_around(container: &Signature, within: &Signature, length: u64) -> bool {
    let is_at_end = container.content.kind.is_container()
        && container.place > length / 2
        && !within.content.kind.is_container();
    let is_exact = matches!(within.content.kind, Kind::Ntfs | Kind::Exfat) || ends_with(within);
    let size = within.content.size.filter(|_| is_at_end && is_exact);
    size.is_some_and(|size| size <= container.place || size > length)
}

/// Whether making it would have overwritten what stood at the volume's end.
fn ends_with(signature: &Signature) -> bool {
    written(signature).iter().any(|(start, _)| *start < 0)
}

/// A volume that is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// What its table says of it.
    pub volume: &'a Volume,
    /// The sector size of the disk.
    pub sector_size: u32,
    /// Whether it begins where that begins whose table lists it, so that the table stands in it as
    /// well: as of most disklabels' first partition.
    pub has_outer_table: bool,
}

/// What a volume with these bytes holds.
pub(super) fn of(bytes: &Arc<dyn ReadAt>, asked: Asked<'_>, notes: &mut Notes) -> Verdict {
    let Asked { volume, sector_size, has_outer_table } = asked;
    // Whatever its bytes look like: they are only a part of a volume, or were one once.
    if volume.partition_type.as_deref().is_some_and(is_dynamic) {
        return Verdict { content: Some(Content::new(Kind::Ldm)), ..Verdict::default() };
    }
    let name = &volume.name;
    let mut found = signature::all(bytes, name, notes);
    if !has_outer_table {
        let signs = Signs::read(Extent::whole(bytes.as_ref()), sector_size);
        found.extend(signs.signatures());
    }
    let verdict = weigh(found, bytes.size().0);
    if let Some(doubt) = &verdict.doubt {
        notes.add(format!("{name}: {doubt}"));
    }
    verdict
}

/// What a whole disk holds, whose first sectors say `signs`.
pub(super) fn of_disk(disk: &Arc<dyn ReadAt>, signs: &Signs<'_>, notes: &mut Notes) -> Verdict {
    let mut found = signature::all(disk, "disk", notes);
    found.extend(signs.disk_signatures());
    weigh(found, disk.size().0)
}

/// Where nothing says what is newer, what has the lowest is shown: what is named only, so that no
/// bytes of it are taken for files; then what goes around others.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::BitLocker | Kind::Squashfs | Kind::Erofs | Kind::Iso9660 | Kind::Udf => 0,
        Kind::MdMember => 1,
        Kind::Luks | Kind::PhysicalVolume => 2,
        Kind::Mbr | Kind::Gpt | Kind::Apm | Kind::BsdDisklabel => 3,
        _ => 4,
    }
}

/// The newest of the signatures in a volume of `length` bytes.
fn weigh(mut found: Vec<Signature>, length: u64) -> Verdict {
    found.sort_by_key(|signature| rank(signature.content.kind));
    let Some(best) = (0..found.len()).find(|candidate| is_newest(&found, *candidate, length))
    else {
        return Verdict::default();
    };
    let best = found.remove(best);
    let open = found.iter().find(|other| order(&best, other, length) != Order::First);
    let doubt = open.map(|other| {
        format!(
            "it holds {} by its signature, but one of {} is there too, at byte {}, and which is \
             the newer is not certain",
            best.content.kind, other.content.kind, other.place
        )
    });
    let others = found.into_iter().map(|other| other.content).collect();
    Verdict { content: Some(best.content), doubt, others }
}

/// Whether none of the others is known to be newer; of several such the first is shown.
fn is_newest(found: &[Signature], candidate: usize, length: u64) -> bool {
    let Some(one) = found.get(candidate) else { return false };
    let others = found.iter().enumerate().filter(|(number, _)| *number != candidate);
    others.map(|(_, other)| order(one, other, length)).all(|order| order != Order::Second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 64 << 20;

    fn winner(found: &[(Kind, u64, Option<u64>)]) -> (Option<Kind>, bool) {
        let made = |(kind, place, size): &(Kind, u64, Option<u64>)| {
            Signature::new(*kind, *place).size(*size)
        };
        let verdict = weigh(found.iter().map(made).collect(), LENGTH);
        (verdict.content.map(|content| content.kind), verdict.doubt.is_some())
    }

    #[test]
    fn what_the_other_would_have_overwritten_is_newer() {
        let btrfs = (Kind::Btrfs, 65536, Some(LENGTH));
        let ext = (Kind::Ext4, 1024, Some(LENGTH));
        let swap = (Kind::Swap, 4086, Some(LENGTH));
        let mbr = (Kind::Mbr, 446, None);
        for (found, newest) in [
            ([swap, btrfs], Kind::Swap),
            ([ext, btrfs], Kind::Ext4),
            ([swap, mbr], Kind::Mbr),
            ([ext, mbr], Kind::Mbr),
            ([btrfs, mbr], Kind::Mbr),
            ([(Kind::MdMember, 4096, None), (Kind::Gpt, 446, None)], Kind::MdMember),
            ([(Kind::MdMember, 4096, None), ext], Kind::MdMember),
        ] {
            let mut reversed = found;
            reversed.reverse();
            for found in [found, reversed] {
                let (kind, _) = winner(&found);
                assert_eq!(kind, Some(newest), "{found:?}");
            }
        }
    }

    #[test]
    fn what_nothing_tells_is_in_doubt() {
        let found = [(Kind::MdMember, 4096, None), (Kind::Mbr, 446, None)];
        assert_eq!(winner(&found), (Some(Kind::MdMember), true));
    }

    #[test]
    fn a_container_at_the_end_goes_around_what_ends_before_it() {
        let end = LENGTH - 8192;
        let member = (Kind::MdMember, end, None);
        assert_eq!(winner(&[member, (Kind::Ntfs, 0, Some(end))]), (Some(Kind::MdMember), false));
        // Over its bytes: either may be a rest.
        let over = (Kind::Ntfs, 0, Some(LENGTH - 512));
        assert_eq!(winner(&[member, over]), (Some(Kind::MdMember), true));
        // It lies on several members, and its tool would have wiped the end.
        let striped = (Kind::Ext4, 1024, Some(4 * LENGTH));
        assert_eq!(winner(&[member, striped]), (Some(Kind::MdMember), false));
    }
}
