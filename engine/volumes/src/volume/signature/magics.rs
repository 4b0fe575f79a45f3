//! Content that one magic number at a fixed place tells, and that imgx only needs to name.
//!
//! Places and values: util-linux 2.38, `libblkid/src/superblocks/*.c`.

use super::super::layout::Notes;
use super::{Signature, Subject};
use crate::base::fields::{array, has, le64, slice};
use crate::kind::Kind;
use crate::text::{label, uuid};

/// Kind, place of the magic, the magic, and the place of a 16-byte UUID.
type Magic = (Kind, usize, &'static [u8], Option<usize>);

const MAGICS: &[Magic] = &[
    (Kind::Jfs, 32768, b"JFS1", Some(32904)),
    (Kind::Reiserfs, 65588, b"ReIsErFs", None),
    (Kind::Reiserfs, 65588, b"ReIsEr2Fs", Some(65620)),
    (Kind::Reiserfs, 65588, b"ReIsEr3Fs", Some(65620)),
    (Kind::Reiserfs, 8244, b"ReIsErFs", None),
    (Kind::Reiser4, 65536, b"ReIsEr4", None),
    (Kind::Nilfs2, 1030, &[0x34, 0x34], Some(1176)),
    (Kind::Ocfs2, 4096, b"OCFSV2", Some(4432)),
    (Kind::Ocfs2, 2048, b"OCFSV2", Some(2384)),
    (Kind::Ocfs2, 1024, b"OCFSV2", Some(1360)),
    (Kind::Gfs2, 65536, &[0x01, 0x16, 0x19, 0x70], None),
    (Kind::Apfs, 32, b"NXSB", Some(72)),
    (Kind::HfsPlus, 1024, b"H+", None),
    (Kind::HfsPlus, 1024, b"HX", None),
    (Kind::Hfs, 1024, b"BD", None),
    (Kind::Minix, 1040, &[0x7f, 0x13], None),
    (Kind::Minix, 1040, &[0x8f, 0x13], None),
    (Kind::Minix, 1040, &[0x68, 0x24], None),
    (Kind::Minix, 1040, &[0x78, 0x24], None),
    (Kind::Minix, 1040, &[0x13, 0x7f], None),
    (Kind::Minix, 1040, &[0x13, 0x8f], None),
    (Kind::Minix, 1040, &[0x24, 0x68], None),
    (Kind::Minix, 1040, &[0x24, 0x78], None),
    (Kind::Minix, 1048, &[0x5a, 0x4d], None),
    (Kind::Cramfs, 0, &[0x45, 0x3d, 0xcd, 0x28], None),
    (Kind::Cramfs, 0, &[0x28, 0xcd, 0x3d, 0x45], None),
    (Kind::Romfs, 0, b"-rom1fs-", None),
    (Kind::Ubi, 0, b"UBI#", None),
    (Kind::Ubifs, 0, &[0x31, 0x18, 0x10, 0x06], None),
    (Kind::Zonefs, 0, b"SFOZ", None),
    (Kind::Vdo, 0, b"dmvdo001", None),
    (Kind::Bluestore, 0, b"bluestore block device", None),
    (Kind::Befs, 544, b"1SFB", None),
    (Kind::Bfs, 0, &[0xce, 0xfa, 0xad, 0x1b], None),
    (Kind::Ufs, 9564, &[0x54, 0x19, 0x01, 0x00], None),
    (Kind::Ufs, 66908, &[0x19, 0x01, 0x54, 0x19], None),
];

/// VMware's magics are beyond the head: a member's at 1 MiB, a filesystem's at 2 MiB.
const VMFS: [(Kind, u64, [u8; 4]); 2] = [
    (Kind::Vmfs, 2 << 20, [0x5e, 0xf1, 0xab, 0x2f]),
    (Kind::VmfsMember, 1 << 20, [0x0d, 0xd0, 0x01, 0xc0]),
];

/// Any of the content above.
pub(super) fn other(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let head = subject.head;
    if let Some((kind, at, _, id)) = MAGICS.iter().find(|(_, at, magic, _)| has(head, *at, magic)) {
        let id = id.and_then(|at| array(head, at)).and_then(|id| uuid(&id));
        return Some(Signature::new(*kind, u64::try_from(*at).ok()?).uuid(id));
    }
    VMFS.iter().find_map(|(kind, at, magic)| {
        let bytes = subject.read(*at, magic.len(), notes)?;
        (bytes == *magic).then(|| Signature::new(*kind, *at))
    })
}

const BCACHE: &[u8; 16] = &[
    0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
];
const BCACHEFS: &[u8; 16] = &[
    0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef,
];

/// bcache and bcachefs. Early bcachefs has bcache's magic; only bcache's superblock says at byte
/// 8 that it stands in sector 8 (the kernel's `drivers/md/bcache/bcache_ondisk.h`).
pub(super) fn bcache(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let block = subject.head.get(4096..)?;
    let shared = has(block, 24, BCACHE);
    if shared && le64(block, 8) == Some(8) {
        let id = array(block, 40).and_then(|id| uuid(&id));
        return Some(
            Signature::new(Kind::Bcache, 4096).label(slice(block, 72, 32).and_then(label)).uuid(id),
        );
    }
    if !shared && !has(block, 24, BCACHEFS) {
        return None;
    }
    let id = array(block, 56).and_then(|id| uuid(&id));
    Some(Signature::new(Kind::Bcachefs, 4096).label(slice(block, 72, 32).and_then(label)).uuid(id))
}
