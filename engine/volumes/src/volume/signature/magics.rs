//! Content that one magic number at a fixed place tells, and that imgx only needs to name.
//!
//! Places and values: util-linux 2.38, `libblkid/src/superblocks/*.c`.

use super::super::layout::{Content, Notes};
use super::super::text::{label, uuid};
use super::Subject;
use crate::base::fields::{array, has, le64, slice};

/// Kind, place of the magic, the magic, and the place of a 16-byte UUID.
type Magic = (&'static str, usize, &'static [u8], Option<usize>);

const MAGICS: &[Magic] = &[
    ("jfs", 32768, b"JFS1", Some(32904)),
    ("reiserfs", 65588, b"ReIsErFs", None),
    ("reiserfs", 65588, b"ReIsEr2Fs", Some(65620)),
    ("reiserfs", 65588, b"ReIsEr3Fs", Some(65620)),
    ("reiserfs", 8244, b"ReIsErFs", None),
    ("reiser4", 65536, b"ReIsEr4", None),
    ("nilfs2", 1030, &[0x34, 0x34], Some(1176)),
    ("ocfs2", 4096, b"OCFSV2", Some(4432)),
    ("ocfs2", 2048, b"OCFSV2", Some(2384)),
    ("ocfs2", 1024, b"OCFSV2", Some(1360)),
    ("gfs2", 65536, &[0x01, 0x16, 0x19, 0x70], None),
    ("apfs", 32, b"NXSB", Some(72)),
    ("hfs+", 1024, b"H+", None),
    ("hfs+", 1024, b"HX", None),
    ("hfs", 1024, b"BD", None),
    ("minix", 1040, &[0x7f, 0x13], None),
    ("minix", 1040, &[0x8f, 0x13], None),
    ("minix", 1040, &[0x68, 0x24], None),
    ("minix", 1040, &[0x78, 0x24], None),
    ("minix", 1040, &[0x13, 0x7f], None),
    ("minix", 1040, &[0x13, 0x8f], None),
    ("minix", 1040, &[0x24, 0x68], None),
    ("minix", 1040, &[0x24, 0x78], None),
    ("minix", 1048, &[0x5a, 0x4d], None),
    ("cramfs", 0, &[0x45, 0x3d, 0xcd, 0x28], None),
    ("cramfs", 0, &[0x28, 0xcd, 0x3d, 0x45], None),
    ("romfs", 0, b"-rom1fs-", None),
    ("ubi", 0, b"UBI#", None),
    ("ubifs", 0, &[0x31, 0x18, 0x10, 0x06], None),
    ("zonefs", 0, b"SFOZ", None),
    ("vdo", 0, b"dmvdo001", None),
    ("ceph bluestore", 0, b"bluestore block device", None),
    ("beos fs", 544, b"1SFB", None),
    ("sco bfs", 0, &[0xce, 0xfa, 0xad, 0x1b], None),
    ("ufs", 9564, &[0x54, 0x19, 0x01, 0x00], None),
    ("ufs", 66908, &[0x19, 0x01, 0x54, 0x19], None),
];

/// VMware's magics are beyond the head: a member's at 1 MiB, a filesystem's at 2 MiB.
const VMFS: [(&str, u64, [u8; 4]); 2] = [
    ("vmfs", 2 << 20, [0x5e, 0xf1, 0xab, 0x2f]),
    ("vmfs member", 1 << 20, [0x0d, 0xd0, 0x01, 0xc0]),
];

/// Any of the content above.
pub(super) fn other(subject: &Subject<'_>, notes: &mut Notes) -> Option<Content> {
    let head = subject.head;
    if let Some((kind, _, _, id)) = MAGICS.iter().find(|(_, at, magic, _)| has(head, *at, magic)) {
        let id = id.and_then(|at| array(head, at)).and_then(|id| uuid(&id));
        return Some(Content::new(*kind).uuid(id));
    }
    VMFS.iter().find_map(|(kind, at, magic)| {
        let bytes = subject.read(*at, magic.len(), notes)?;
        (bytes == *magic).then(|| Content::new(*kind))
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
pub(super) fn bcache(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Content> {
    let block = subject.head.get(4096..)?;
    let shared = has(block, 24, BCACHE);
    if shared && le64(block, 8) == Some(8) {
        let id = array(block, 40).and_then(|id| uuid(&id));
        return Some(Content::new("bcache").label(slice(block, 72, 32).and_then(label)).uuid(id));
    }
    if !shared && !has(block, 24, BCACHEFS) {
        return None;
    }
    let id = array(block, 56).and_then(|id| uuid(&id));
    Some(Content::new("bcachefs").label(slice(block, 72, 32).and_then(label)).uuid(id))
}
