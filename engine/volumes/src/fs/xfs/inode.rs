//! Inodes: a file's attributes, and the roots of the maps to its content and attributes.
//!
//! The kernel's `struct xfs_dinode` (`fs/xfs/libxfs/xfs_format.h`), whose field names and offsets
//! stand here.

use super::Xfs;
use super::stamp;
use super::units::{InodeNumber, index};
use crate::base::fields::{array, be16, be32, be64, has, slice, u8_at};
use crate::base::{Error, Result};
use crate::fs::{FileType, Metadata, Protection, Timestamp};

/// What `di_magic` says.
pub(super) const MAGIC: &[u8] = b"IN";
/// Where `di_crc` is, in version 3.
pub(super) const CRC_AT: usize = 0x64;
/// Bytes before the forks: of versions 1 and 2, and of version 3.
const OLD_FIELDS: usize = 0x64;
const FIELDS: usize = 0xb0;
/// Seconds by which counts of nanoseconds (`bigtime`) start before 1970.
const BIGTIME_EPOCH: i64 = 1 << 31;
const NANOSECONDS: u64 = 1_000_000_000;

/// Bit of `di_flags`: the content is on the realtime device.
const REALTIME: u16 = 0x1;

/// Bits of `di_flags2`.
pub(super) mod flags2 {
    pub(crate) const REFLINK: u64 = 0x2;
    pub(crate) const BIGTIME: u64 = 0x8;
    pub(crate) const NREXT64: u64 = 0x10;
}

/// What form a fork has: `di_format`, `di_aformat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A device's number.
    Device,
    /// The content itself.
    Local,
    /// A list of extents.
    Extents,
    /// The root of a tree of extents.
    Btree,
}

/// One of an inode's forks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork<'a> {
    pub form: Form,
    /// Its part of the inode.
    pub bytes: &'a [u8],
    /// Extents in it.
    pub extents: u64,
}

/// An inode, its checksum verified.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub number: InodeNumber,
    pub di_mode: u16,
    pub di_version: u8,
    pub di_format: u8,
    pub di_onlink: u16,
    pub di_uid: u32,
    pub di_gid: u32,
    pub di_nlink: u32,
    pub di_size: u64,
    pub di_forkoff: u8,
    pub di_aformat: u8,
    pub di_flags: u16,
    /// Zero before version 3.
    pub di_flags2: u64,
    /// The whole inode.
    pub bytes: Vec<u8>,
}

impl Inode {
    fn parse(number: InodeNumber, bytes: &[u8]) -> Option<Self> {
        let di_version = u8_at(bytes, 0x4)?;
        Some(Self {
            number,
            di_mode: be16(bytes, 0x2)?,
            di_version,
            di_format: u8_at(bytes, 0x5)?,
            di_onlink: be16(bytes, 0x6)?,
            di_uid: be32(bytes, 0x8)?,
            di_gid: be32(bytes, 0xc)?,
            di_nlink: be32(bytes, 0x10)?,
            di_size: be64(bytes, 0x38)?,
            di_forkoff: u8_at(bytes, 0x52)?,
            di_aformat: u8_at(bytes, 0x53)?,
            di_flags: be16(bytes, 0x5a)?,
            di_flags2: if di_version >= 3 { be64(bytes, 0x78)? } else { 0 },
            bytes: bytes.to_vec(),
        })
    }

    /// What sort of file the mode says it is.
    ///
    /// # Errors
    /// `Corrupt` if it is none.
    pub(super) fn file_type(&self) -> Result<FileType> {
        Ok(match self.di_mode & 0xf000 {
            0x1000 => FileType::Fifo,
            0x2000 => FileType::CharDevice,
            0x4000 => FileType::Directory,
            0x6000 => FileType::BlockDevice,
            0x8000 => FileType::Regular,
            0xa000 => FileType::Symlink,
            0xc000 => FileType::Socket,
            _ => return Err(self.corrupt("a file's mode", format!("{:#o}", self.di_mode))),
        })
    }

    /// Whether other files may have some of its blocks.
    pub(super) fn may_share(&self) -> bool {
        self.di_flags2 & flags2::REFLINK != 0
    }

    /// Whether the content is on the realtime device.
    pub(super) fn is_realtime(&self) -> bool {
        self.di_flags & REALTIME != 0
    }

    /// Damage to this inode.
    pub(super) fn corrupt(
        &self,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Error {
        Error::corrupt(self.number, expected, found)
    }

    /// The fork of content.
    ///
    /// # Errors
    /// `Corrupt` for a form that there is not.
    pub(super) fn data_fork(&self) -> Result<Fork<'_>> {
        let (start, end) = self.fork_ends();
        let extents = match self.counts_wide() {
            true => be64(&self.bytes, 0x18),
            false => be32(&self.bytes, 0x4c).map(u64::from),
        };
        self.fork(self.di_format, start, end, extents)
    }

    /// The fork of attributes, if there is one.
    ///
    /// # Errors
    /// `Corrupt` for a form that there is not.
    pub(super) fn attribute_fork(&self) -> Result<Option<Fork<'_>>> {
        if self.di_forkoff == 0 {
            return Ok(None);
        }
        let extents = match self.counts_wide() {
            true => be32(&self.bytes, 0x4c).map(u64::from),
            false => be16(&self.bytes, 0x50).map(u64::from),
        };
        let (_, start) = self.fork_ends();
        self.fork(self.di_aformat, start, self.bytes.len(), extents).map(Some)
    }

    fn counts_wide(&self) -> bool {
        self.di_flags2 & flags2::NREXT64 != 0
    }

    /// Where the fork of content starts and ends.
    fn fork_ends(&self) -> (usize, usize) {
        let start = if self.di_version >= 3 { FIELDS } else { OLD_FIELDS };
        let end = match self.di_forkoff {
            0 => self.bytes.len(),
            units => usize::from(units).saturating_mul(8).saturating_add(start),
        };
        (start, end)
    }

    fn fork(&self, form: u8, start: usize, end: usize, extents: Option<u64>) -> Result<Fork<'_>> {
        let form = match form {
            0 => Form::Device,
            1 => Form::Local,
            2 => Form::Extents,
            3 => Form::Btree,
            other => return Err(self.corrupt("a fork's format", other)),
        };
        let bytes = self.bytes.get(start..end);
        let bytes = bytes.ok_or_else(|| self.corrupt("a valid di_forkoff", self.di_forkoff))?;
        Ok(Fork { form, bytes, extents: extents.unwrap_or_default() })
    }

    /// The time at `at`.
    fn time(&self, at: usize) -> Option<Timestamp> {
        if self.di_flags2 & flags2::BIGTIME == 0 {
            let seconds = i64::from(i32::from_be_bytes(array(&self.bytes, at)?));
            let nanoseconds = be32(&self.bytes, at.checked_add(4)?)?.min(999_999_999);
            return Some(Timestamp { seconds, nanoseconds });
        }
        let count = be64(&self.bytes, at)?;
        let seconds = i64::try_from(count.checked_div(NANOSECONDS)?).ok()?;
        let nanoseconds = u32::try_from(count.checked_rem(NANOSECONDS)?).ok()?;
        Some(Timestamp { seconds: seconds.saturating_sub(BIGTIME_EPOCH), nanoseconds })
    }

    /// The device that it stands for, as System V encodes it.
    fn device(&self) -> Option<(u32, u32)> {
        let number = be32(self.data_fork().ok()?.bytes, 0)?;
        Some((number >> 18 & 0x3fff, number & 0x3_ffff))
    }

    /// Names that lead to it.
    pub(super) fn links(&self) -> u32 {
        if self.di_version == 1 { self.di_onlink.into() } else { self.di_nlink }
    }

    /// Its attributes.
    ///
    /// # Errors
    /// `Corrupt` if its mode is no file's.
    pub(super) fn metadata(&self) -> Result<Metadata> {
        let file_type = self.file_type()?;
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        Ok(Metadata {
            file_type,
            size: self.di_size,
            mode: Some(self.di_mode & 0xfff),
            uid: Some(self.di_uid),
            gid: Some(self.di_gid),
            links: self.links(),
            device: if is_device { self.device() } else { None },
            accessed: self.time(0x20),
            modified: self.time(0x28),
            changed: self.time(0x30),
            created: if self.di_version >= 3 { self.time(0x90) } else { None },
            protection: Protection::None,
        })
    }
}

impl Xfs {
    /// Reads inode `number`.
    ///
    /// # Errors
    /// `Corrupt` if it does not exist, is not in use, or something is wrong with it.
    pub(super) fn inode(&self, number: InodeNumber) -> Result<Inode> {
        let (block, start) = self.geometry().locate(number)?;
        let block = self.blocks.read(block).map_err(|error| error.within(number))?;
        let bytes = slice(&block, start, index(self.geometry().inode_size)).unwrap_or_default();
        self.inode_of(number, bytes)
    }

    /// Inode `number`, which is `bytes`.
    ///
    /// # Errors
    /// As [`inode`](Self::inode).
    pub(super) fn inode_of(&self, number: InodeNumber, bytes: &[u8]) -> Result<Inode> {
        self.check_inode(number, bytes).map_err(|error| error.within(number))?;
        let Some(inode) = Inode::parse(number, bytes) else { return Err(stamp::cut(bytes)) };
        if inode.di_mode == 0 {
            return Err(inode.corrupt("an inode in use", "a free one"));
        }
        if i64::try_from(inode.di_size).is_err() {
            return Err(inode.corrupt("a valid di_size", inode.di_size));
        }
        Ok(inode)
    }

    /// Checks that `bytes` are those of inode `number`.
    ///
    /// # Errors
    /// `Corrupt` if they are not, or damaged.
    pub(super) fn check_inode(&self, number: InodeNumber, bytes: &[u8]) -> Result<()> {
        let version = u8_at(bytes, 0x4).unwrap_or_default();
        let is_v5 = self.superblock.is_v5();
        if !has(bytes, 0, MAGIC) || !(if is_v5 { version == 3 } else { matches!(version, 1 | 2) }) {
            let found = format!("{:02x?}, version {version}", bytes.get(..2).unwrap_or_default());
            return Err(Error::corrupt("magic", "an inode", found));
        }
        if !is_v5 {
            return Ok(());
        }
        stamp::check_sum(bytes, CRC_AT)?;
        let own = be64(bytes, 0x98).unwrap_or_default();
        if own != number.0 {
            return Err(Error::corrupt("di_ino", number.0, own));
        }
        if array(bytes, 0xa0) != Some(self.superblock.metadata_uuid()) {
            return Err(Error::corrupt("di_uuid", "this filesystem's", "another"));
        }
        Ok(())
    }
}
