//! The log as a ring of 512-byte blocks, and the records in it.
//!
//! The kernel's `fs/xfs/libxfs/xfs_log_format.h` (`struct xlog_rec_header`).

use std::sync::Arc;

use super::super::units::index;
use crate::base::fields::{array, be32, be64, has, le32, slice};
use crate::base::{ByteOffset, Error, ReadAt, Result};

/// Bytes of a block of the log.
pub(super) const BLOCK: usize = 512;
/// What a record starts with.
pub(in crate::fs::xfs) const MAGIC: &[u8] = &[0xfe, 0xed, 0xba, 0xbe];
/// Bytes that one block of header has room to keep first words of.
const HEADER_COVERS: u32 = 32 * 1024;
/// First words that it keeps.
const WORDS: usize = 64;
/// Bytes of a record's content at most.
const MAX_LENGTH: u32 = 512 * 1024;
/// `h_fmt` of records that a little-endian Linux wrote.
const FORMAT_LINUX_LE: u32 = 1;
/// Where `h_crc` is.
const CRC_AT: usize = 0x20;
/// Bytes of a header that its checksum covers: as 64-bit machines count them, and as 32-bit ones.
const HEADER_SIZES: [usize; 2] = [328, 324];
/// Bytes of a further block of header that the checksum covers.
const MORE_HEADER_SIZE: usize = 260;

/// A position in the log's history: the turn around the ring, and the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lsn(pub u64);

impl Lsn {
    /// The block.
    pub(super) fn block(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// The log.
pub(super) struct Ring {
    volume: Arc<dyn ReadAt>,
    /// Its first byte on the volume.
    start: u64,
    /// Its blocks; never zero.
    pub blocks: u64,
    /// The filesystem that records have to be of.
    uuid: [u8; 16],
    /// Whether records have checksums.
    has_checksums: bool,
}

/// A record's header, its fields checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// The block that it starts at.
    pub at: u64,
    pub h_lsn: Lsn,
    pub h_tail_lsn: Lsn,
    pub h_num_logops: u32,
    h_len: u32,
    /// Blocks of header.
    headers: u64,
}

impl Record {
    /// Blocks of the whole record.
    pub(super) fn blocks(&self) -> u64 {
        self.headers.saturating_add(u64::from(self.h_len.div_ceil(512)))
    }
}

impl Ring {
    pub(super) fn new(
        volume: &Arc<dyn ReadAt>,
        (start, blocks): (u64, u64),
        uuid: [u8; 16],
        has_checksums: bool,
    ) -> Self {
        Self { volume: Arc::clone(volume), start, blocks, uuid, has_checksums }
    }

    /// The block `count` after `at`.
    pub(super) fn after(&self, at: u64, count: u64) -> u64 {
        at.saturating_add(count).checked_rem(self.blocks).unwrap_or(0)
    }

    /// The block `count` before `at`.
    pub(super) fn before(&self, at: u64, count: u64) -> u64 {
        self.after(at, self.blocks.saturating_sub(count.min(self.blocks)))
    }

    /// Reads `count` blocks from `at`, around the ring's end.
    ///
    /// # Errors
    /// The volume's own.
    pub(super) fn read(&self, at: u64, count: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; index(count).saturating_mul(BLOCK)];
        let until_end = index(self.blocks.saturating_sub(at)).saturating_mul(BLOCK);
        let (first, rest) = bytes.split_at_mut(until_end.min(index(count).saturating_mul(BLOCK)));
        for (at, part) in [(at, first), (0, rest)] {
            if !part.is_empty() {
                let offset = at.saturating_mul(512).saturating_add(self.start);
                self.volume.read_exact_at(ByteOffset(offset), part)?;
            }
        }
        Ok(bytes)
    }

    /// The turn in which the block `at` was written; zero if it never was.
    ///
    /// # Errors
    /// The volume's own.
    pub(super) fn cycle(&self, at: u64) -> Result<u32> {
        Ok(cycle_of(&self.read(at, 1)?))
    }

    /// The record that starts at `at`; `None` if none does.
    ///
    /// # Errors
    /// `Corrupt` if its header makes no sense; the volume's own.
    pub(super) fn record(&self, at: u64) -> Result<Option<Record>> {
        let header = self.read(at, 1)?;
        if !has(&header, 0, MAGIC) {
            return Ok(None);
        }
        let field = |at| be32(&header, at).unwrap_or_default();
        let (version, h_len, h_size) = (field(0x8), field(0xc), field(0x140));
        let headers = match version {
            2 if h_size > HEADER_COVERS => u64::from(h_size.div_ceil(HEADER_COVERS)),
            _ => 1,
        };
        let lsn = |at| Lsn(be64(&header, at).unwrap_or_default());
        let record = Record {
            at,
            h_lsn: lsn(0x10),
            h_tail_lsn: lsn(0x18),
            h_num_logops: field(0x28),
            h_len,
            headers,
        };
        let sizes = h_len > 0 && h_len <= MAX_LENGTH && h_size <= MAX_LENGTH;
        let checks = [
            ("h_version", matches!(version, 1 | 2)),
            ("h_len", sizes && record.blocks() <= self.blocks),
            ("h_lsn", record.h_lsn.block() == at && record.h_lsn.0 >> 32 == u64::from(field(0x4))),
            ("h_tail_lsn", record.h_tail_lsn.block() < self.blocks),
            ("h_fmt, of a little-endian Linux,", field(0x12c) == FORMAT_LINUX_LE),
            ("h_fs_uuid", array(&header, 0x130) == Some(self.uuid)),
        ];
        match checks.iter().find(|(_, sound)| !sound) {
            None => Ok(Some(record)),
            Some((field, _)) => {
                let found = format!("{record:?}");
                Err(Error::corrupt("record", format!("a valid {field}"), found))
            }
        }
    }

    /// The content of `record`, its checksum verified, with the first words of its blocks, where
    /// the turn is written instead, put back. It `may_lack` a checksum if it is of mkfs.xfs.
    ///
    /// # Errors
    /// `Corrupt` if the checksum is wrong; the volume's own.
    pub(super) fn content(&self, record: &Record, may_lack: bool) -> Result<Vec<u8>> {
        let whole = self.read(record.at, record.blocks())?;
        let split = index(record.headers).saturating_mul(BLOCK);
        let (headers, content) = whole.split_at_checked(split).unwrap_or((&whole, &[]));
        let content = content.get(..index(record.h_len)).unwrap_or(content);
        let lacks = may_lack && le32(headers, CRC_AT) == Some(0);
        if self.has_checksums && !lacks && !checksum_is_right(headers, content) {
            let place = format!("record at block {}", record.at);
            return Err(Error::corrupt(place, "its checksum", "another"));
        }
        let mut content = content.to_vec();
        for (number, block) in content.chunks_mut(BLOCK).enumerate() {
            // The first header's words come after its fields, the others' after their cycle.
            let start = if number < WORDS { 0x2c } else { 4 };
            let header = (number / WORDS).saturating_mul(BLOCK).saturating_add(start);
            let at = (number % WORDS).saturating_mul(4).saturating_add(header);
            let word = slice(headers, at, 4).unwrap_or_default();
            block.iter_mut().zip(word).for_each(|(byte, word)| *byte = *word);
        }
        Ok(content)
    }
}

/// The turn in which a block was written.
pub(super) fn cycle_of(block: &[u8]) -> u32 {
    let at = if has(block, 0, MAGIC) { 4 } else { 0 };
    be32(block, at).unwrap_or_default()
}

fn checksum_is_right(headers: &[u8], content: &[u8]) -> bool {
    let found = le32(headers, CRC_AT).unwrap_or_default();
    HEADER_SIZES.iter().any(|size| {
        let header = headers.get(..*size).unwrap_or_default();
        let (before, rest) = header.split_at_checked(CRC_AT).unwrap_or_default();
        let mut sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
        sum = crc32c::crc32c_append(sum, rest.get(4..).unwrap_or_default());
        // As many further headers count as the content needs, not as there are.
        let covers = index(HEADER_COVERS);
        let more = content.len().div_ceil(covers).saturating_sub(1);
        for header in headers.chunks(BLOCK).skip(1).take(more) {
            sum = crc32c::crc32c_append(sum, header.get(..MORE_HEADER_SIZE).unwrap_or_default());
        }
        crc32c::crc32c_append(sum, content) == found
    })
}
