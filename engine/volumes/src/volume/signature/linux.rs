//! Linux's own filesystems that imgx does not read, and swap.
//!
//! F2FS, EROFS, SquashFS: the kernel's `include/linux/f2fs_fs.h`, `fs/erofs/erofs_fs.h`,
//! `fs/squashfs/squashfs_fs.h`. Swap: `include/linux/swap.h`.

use super::super::layout::Notes;
use super::{Signature, Subject};
use crate::base::fields::{array, be32, has, le16, le32, le64, slice, u8_at};
use crate::kind::Kind;
use crate::text::{label, label_utf16, uuid};

/// F2FS.
pub(super) fn f2fs(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let block = subject.head.get(1024..)?;
    if !has(block, 0, &[0x10, 0x20, 0xf5, 0xf2]) {
        return None;
    }
    let size = le32(block, 16)
        .filter(|shift| *shift <= 16)
        .and_then(|shift| le64(block, 36)?.checked_mul(1_u64.checked_shl(shift)?));
    let id = array(block, 108).and_then(|id| uuid(&id));
    let label = slice(block, 124, 1024).and_then(label_utf16);
    Some(Signature::new(Kind::F2fs, 1024).label(label).uuid(id).size(size))
}

/// EROFS.
pub(super) fn erofs(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let block = subject.head.get(1024..)?;
    if !has(block, 0, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        return None;
    }
    let size = u8_at(block, 12).filter(|shift| (9..=16).contains(shift)).and_then(|shift| {
        u64::from(le32(block, 36)?).checked_mul(1_u64.checked_shl(u32::from(shift))?)
    });
    let id = array(block, 48).and_then(|id| uuid(&id));
    Some(
        Signature::new(Kind::Erofs, 1024)
            .label(slice(block, 64, 16).and_then(label))
            .uuid(id)
            .size(size),
    )
}

/// SquashFS of any version; only version 4 says its size where it is read here.
pub(super) fn squashfs(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let block = subject.head;
    let little = has(block, 0, b"hsqs");
    if !little && !has(block, 0, b"sqsh") && !has(block, 0, b"qshs") {
        return None;
    }
    let size = le16(block, 28).filter(|major| little && *major == 4).and_then(|_| le64(block, 40));
    Some(Signature::new(Kind::Squashfs, 0).size(size))
}

/// Page sizes of the architectures that Linux swaps on.
const PAGES: [usize; 5] = [4096, 8192, 16384, 32768, 65536];

/// The ten bytes at the end of the first page, whatever a page is.
fn page_magics(head: &[u8]) -> impl Iterator<Item = (usize, [u8; 10])> {
    PAGES.iter().filter_map(|page| Some((*page, array(head, page.checked_sub(10)?)?)))
}

/// Where the magic of a page of `page` bytes stands.
fn magic_at(page: usize) -> Option<u64> {
    u64::try_from(page.checked_sub(10)?).ok()
}

/// Swap space, with the size that its header says.
pub(super) fn swap(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let head = subject.head;
    for (page, magic) in page_magics(head) {
        if magic == *b"SWAP-SPACE" {
            return Some(Signature::new(Kind::Swap, magic_at(page)?));
        }
        if magic != *b"SWAPSPACE2" {
            continue;
        }
        let last = match (le32(head, 1024)?, be32(head, 1024)?) {
            (1, _) => le32(head, 1028)?,
            (_, 1) => be32(head, 1028)?,
            _ => continue,
        };
        let pages = u64::from(last).checked_add(1)?;
        let id = array(head, 1036).and_then(|id| uuid(&id));
        return Some(
            Signature::new(Kind::Swap, magic_at(page)?)
                .label(slice(head, 1052, 16).and_then(label))
                .uuid(id)
                .size(pages.checked_mul(u64::try_from(page).ok()?)),
        );
    }
    None
}

/// A hibernated machine's memory in a swap space: it must not be thrown away as mere swap.
pub(super) fn hibernation(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    const MAGICS: [&[u8]; 5] =
        [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", TUX_ON_ICE];
    let known = page_magics(subject.head)
        .any(|(_, magic)| MAGICS.iter().any(|known| has(&magic, 0, known)));
    (known || has(subject.head, 0, TUX_ON_ICE)).then(|| Signature::new(Kind::Hibernation, 0))
}

const TUX_ON_ICE: &[u8] = &[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c];
