//! Where each sort of metadata of version 5 has its checksum, and when it was last changed.
//!
//! As `xlog_recover_get_buf_lsn` (`fs/xfs/xfs_buf_item_recover.c`) tells them apart.

use super::ring::Lsn;
use crate::base::fields::{array, be16, be64};

/// Where a structure says when it was last written, whose it is, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    lsn: usize,
    uuid: usize,
    pub crc: usize,
    /// Whether what is on the disk may be newer than it says: then the log always holds.
    is_timeless: bool,
}

impl Kind {
    /// What sort of metadata `block` is.
    pub(super) fn of(block: &[u8]) -> Option<Self> {
        let kind = |lsn, uuid, crc| Some(Self { lsn, uuid, crc, is_timeless: false });
        match block.get(..4)? {
            b"XFSB" => kind(0xf0, 0x20, 0xe0),
            b"XAGF" => kind(0xd0, 0x40, 0xd8),
            b"XAGI" => kind(0x140, 0x128, 0x138),
            b"XAFL" => kind(0x18, 0x8, 0x20),
            b"AB3B" | b"AB3C" | b"RMB3" | b"R3FC" | b"IAB3" | b"FIB3" => kind(0x18, 0x20, 0x34),
            b"BMA3" => kind(0x20, 0x28, 0x40),
            b"XDB3" | b"XDD3" | b"XDF3" => kind(0x10, 0x18, 0x4),
            b"XSLM" => kind(0x30, 0x10, 0xc),
            b"XARM" => Some(Self { lsn: 0x30, uuid: 0x10, crc: 0xc, is_timeless: true }),
            _ => match be16(block, 8)? {
                0x3ebe | 0x3df1 | 0x3dff | 0x3bee => kind(0x18, 0x20, 0xc),
                _ => None,
            },
        }
    }

    /// When `block` was last written, if it says so and is the filesystem's of `uuids`.
    pub(super) fn lsn_of(&self, block: &[u8], uuids: &[[u8; 16]]) -> Option<Lsn> {
        let uuid = array(block, self.uuid)?;
        let lsn = be64(block, self.lsn).filter(|lsn| *lsn != 0 && *lsn != u64::MAX)?;
        (uuids.contains(&uuid) && !self.is_timeless).then_some(Lsn(lsn))
    }
}
