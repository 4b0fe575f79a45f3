//! Inodes: a file's attributes, and the root of the map to its content.
//!
//! Kernel documentation, `filesystems/ext4/inodes.rst`, whose field names and offsets stand here.

use super::Ext;
use super::changes::InodeChange;
use super::checksum::Checksum;
use super::features::incompat;
use super::units::{BlockNumber, InodeNumber, index, join, join16};
use crate::base::fields::{array, le16, le32};
use crate::base::{Error, Result};
use crate::fs::{FileType, Metadata, Protection, Timestamp};

/// Bytes of an inode that every revision has.
pub(super) const BASE_SIZE: usize = 128;
/// Where `i_block` is, and its bytes.
pub(super) const I_BLOCK_AT: usize = 0x28;
pub(super) const I_BLOCK_SIZE: usize = 60;

/// Bits of `i_flags`.
pub(super) mod flags {
    pub(crate) const ENCRYPT: u32 = 0x800;
    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const VERITY: u32 = 0x10_0000;
    pub(crate) const EA_INODE: u32 = 0x20_0000;
    pub(crate) const INLINE_DATA: u32 = 0x1000_0000;
    pub(crate) const CASEFOLD: u32 = 0x4000_0000;
}

/// An inode, its checksum verified.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub number: InodeNumber,
    pub i_mode: u16,
    pub i_uid: u32,
    pub i_gid: u32,
    pub i_size: u64,
    pub i_links_count: u16,
    pub i_blocks_lo: u32,
    pub i_flags: u32,
    pub i_block: [u8; I_BLOCK_SIZE],
    pub i_generation: u32,
    pub i_file_acl: BlockNumber,
    pub i_extra_isize: u16,
    /// What the checksums of its blocks start with.
    pub seed: Checksum,
    /// The whole inode: what lies beyond the fields are extended attributes.
    pub bytes: Vec<u8>,
}

impl Inode {
    fn parse(number: InodeNumber, bytes: &[u8]) -> Option<Self> {
        let i_extra_isize = match bytes.len() {
            ..=BASE_SIZE => 0,
            _ => le16(bytes, 0x80)?,
        };
        Some(Self {
            number,
            i_mode: le16(bytes, 0x0)?,
            i_uid: join16(le16(bytes, 0x2)?, le16(bytes, 0x78)?),
            i_size: join(le32(bytes, 0x4)?, le32(bytes, 0x6c)?),
            i_gid: join16(le16(bytes, 0x18)?, le16(bytes, 0x7a)?),
            i_links_count: le16(bytes, 0x1a)?,
            i_blocks_lo: le32(bytes, 0x1c)?,
            i_flags: le32(bytes, 0x20)?,
            i_block: array(bytes, I_BLOCK_AT)?,
            i_generation: le32(bytes, 0x64)?,
            i_file_acl: BlockNumber(join(le32(bytes, 0x68)?, u32::from(le16(bytes, 0x76)?))),
            i_extra_isize,
            seed: Checksum::START,
            bytes: bytes.to_vec(),
        })
    }

    /// Whether `i_flags` has `flag`.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.i_flags & flag != 0
    }

    /// What sort of file the mode says it is.
    ///
    /// # Errors
    /// `Corrupt` if it is none.
    pub(super) fn file_type(&self) -> Result<FileType> {
        Ok(match self.i_mode & 0xf000 {
            0x1000 => FileType::Fifo,
            0x2000 => FileType::CharDevice,
            0x4000 => FileType::Directory,
            0x6000 => FileType::BlockDevice,
            0x8000 => FileType::Regular,
            0xa000 => FileType::Symlink,
            0xc000 => FileType::Socket,
            _ => return Err(self.corrupt("a file's mode", format!("{:#o}", self.i_mode))),
        })
    }

    /// Damage to this inode.
    pub(super) fn corrupt(
        &self,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Error {
        Error::corrupt(self.number, expected, found)
    }

    /// Where the fields end that the inode has room for.
    pub(super) fn fields_end(&self) -> usize {
        BASE_SIZE.saturating_add(usize::from(self.i_extra_isize))
    }

    /// A field of the part that not every inode has.
    fn extra(&self, at: usize) -> Option<u32> {
        let end = at.checked_add(4)?;
        (end <= self.fields_end()).then(|| le32(&self.bytes, at)).flatten()
    }

    /// The time whose seconds are at `seconds` and whose finer and higher bits are at `extra`.
    fn time(&self, seconds: usize, extra: usize) -> Option<Timestamp> {
        let low = i32::from_le_bytes(array(&self.bytes, seconds)?);
        let extra = self.extra(extra).unwrap_or(0);
        let epoch = i64::from(extra & 3) << 32;
        let nanoseconds = (extra >> 2).min(999_999_999);
        Some(Timestamp { seconds: i64::from(low).saturating_add(epoch), nanoseconds })
    }

    /// The device that it stands for: one of the two encodings in the first two words.
    fn device(&self) -> Option<(u32, u32)> {
        let old = le32(&self.i_block, 0)?;
        if old != 0 {
            return Some((old >> 8 & 0xff, old & 0xff));
        }
        let new = le32(&self.i_block, 4)?;
        Some((new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00))
    }

    /// Its attributes.
    ///
    /// # Errors
    /// `Corrupt` if its mode is no file's.
    pub(super) fn metadata(&self) -> Result<Metadata> {
        let file_type = self.file_type()?;
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let born = self.extra(0x90).and_then(|_| self.time(0x90, 0x94));
        let protection = match () {
            () if self.has(flags::ENCRYPT) => Protection::Encrypted,
            () if self.has(flags::VERITY) => Protection::Verity,
            () if self.has(flags::CASEFOLD) => Protection::Casefold,
            () => Protection::None,
        };
        Ok(Metadata {
            file_type,
            size: self.i_size,
            mode: Some(self.i_mode & 0xfff),
            uid: Some(self.i_uid),
            gid: Some(self.i_gid),
            links: u32::from(self.i_links_count),
            device: if is_device { self.device() } else { None },
            accessed: self.time(0x8, 0x8c),
            changed: self.time(0xc, 0x84),
            modified: self.time(0x10, 0x88),
            created: born,
            protection,
        })
    }
}

impl Ext {
    /// Reads inode `number`.
    ///
    /// # Errors
    /// `Corrupt` if it does not exist, is not in use, or its checksum is wrong.
    pub(super) fn inode(&self, number: InodeNumber) -> Result<Inode> {
        let change = self.changes.inode(number);
        let bytes = match change {
            None => self.inode_bytes(number)?,
            Some((change, is_new)) => self.changed_inode(number, change, is_new)?,
        };
        let Some(mut inode) = Inode::parse(number, &bytes) else {
            return Err(Error::corrupt(number, "an inode", format!("{} bytes", bytes.len())));
        };
        inode.seed = self.inode_seed(&inode);
        if change.is_none() {
            self.check_inode(&inode)?;
        }
        if inode.i_extra_isize % 4 != 0 || inode.fields_end() > inode.bytes.len() {
            return Err(inode.corrupt("a valid i_extra_isize", inode.i_extra_isize));
        }
        let is_wide_folder = self.superblock.has_incompat(incompat::LARGE_DIR);
        let is_folder = inode.file_type().is_ok_and(|kind| kind == FileType::Directory);
        if is_folder && !is_wide_folder {
            // The upper half is `i_dir_acl` there.
            inode.i_size &= u64::from(u32::MAX);
        }
        if inode.i_links_count == 0 || inode.i_mode == 0 {
            return Err(inode.corrupt("an inode in use", "a free one"));
        }
        Ok(inode)
    }

    /// The bytes of inode `number` with what fast commits changed.
    fn changed_inode(
        &self,
        number: InodeNumber,
        change: &InodeChange,
        is_new: bool,
    ) -> Result<Vec<u8>> {
        let mut bytes = vec![0; index(self.geometry().inode_size)];
        let (group, place) = self.geometry().locate(number)?;
        if !is_new && place < self.inodes_in(&self.group(group)?) {
            let stored = self.inode_bytes(number)?;
            // The tree of extents is still the stored one, unless the inode was free.
            if let Some(mut inode) = Inode::parse(number, &stored).filter(|inode| inode.i_mode != 0)
            {
                inode.seed = self.inode_seed(&inode);
                self.check_inode(&inode)?;
                bytes = stored;
            }
        }
        change.apply(&mut bytes, is_new);
        Ok(bytes)
    }

    fn inode_seed(&self, inode: &Inode) -> Checksum {
        self.seed.add(&inode.number.0.to_le_bytes()).add(&inode.i_generation.to_le_bytes())
    }

    fn inode_bytes(&self, number: InodeNumber) -> Result<Vec<u8>> {
        let geometry = self.geometry();
        let (group, place) = geometry.locate(number)?;
        let descriptor = self.group(group).map_err(|error| error.within(number))?;
        // In doubt, the group's count may be older than the inode, whose checksum tells then.
        let is_told_apart = self.superblock.has_checksums() && self.doubts.first().is_some();
        if place >= self.inodes_in(&descriptor) && !is_told_apart {
            return Err(Error::corrupt(number, "an inode in use", "one that never was"));
        }
        let size = u64::from(geometry.inode_size);
        let offset = u64::from(place).saturating_mul(size);
        let block_size = u64::from(geometry.block_size).max(1);
        let skip = offset.checked_div(block_size).unwrap_or(0);
        let block = BlockNumber(descriptor.bg_inode_table.0.saturating_add(skip));
        let block = self.blocks.read(block).map_err(|error| error.within(number))?;
        let start = index(offset.checked_rem(block_size).unwrap_or(0));
        let bytes = block.get(start..).and_then(|rest| rest.get(..index(size)));
        Ok(bytes.unwrap_or_default().to_vec())
    }

    /// `i_checksum_lo` and `i_checksum_hi` cover the whole inode; small ones have the lower only.
    fn check_inode(&self, inode: &Inode) -> Result<()> {
        if !self.superblock.has_checksums() {
            return Ok(());
        }
        let bytes = &inode.bytes;
        let (base, extra) = bytes.split_at_checked(BASE_SIZE).unwrap_or((bytes, &[]));
        let has_high = inode.i_extra_isize >= 4;
        let mut sum = inode.seed.add_without(base, 0x7c, 2);
        sum = if has_high { sum.add_without(extra, 0x2, 2) } else { sum.add(extra) };
        let low = le16(bytes, 0x7c).unwrap_or_default();
        let high = le16(bytes, 0x82).filter(|_| has_high).unwrap_or_default();
        let (found, expected) = match has_high {
            true => (join16(low, high), sum.value()),
            false => (u32::from(low), u32::from(sum.low())),
        };
        if found == expected {
            return Ok(());
        }
        Err(inode.corrupt(format!("checksum {expected:#010x}"), format!("{found:#010x}")))
    }
}
