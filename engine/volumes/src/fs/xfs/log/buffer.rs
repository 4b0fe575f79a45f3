//! Logged buffers: parts of a piece of metadata, 128 bytes each.
//!
//! The kernel's `struct xfs_buf_log_format` (`fs/xfs/libxfs/xfs_log_format.h`), replayed as
//! `fs/xfs/xfs_buf_item_recover.c` does.

use super::super::stamp;
use super::super::units::index;
use super::kinds::Kind;
use super::replay::Replayer;
use super::ring::Lsn;
use super::transactions::Item;
use crate::base::fields::{le16, le32, le64};
use crate::base::{Error, Result};

/// Bytes of a part.
const CHUNK: usize = 128;
/// Bytes before the map of parts, and words of that at most.
const MAP_AT: usize = 20;
const MAX_MAP_WORDS: usize = 17;
/// 512-byte sectors of a buffer at most.
const MAX_SECTORS: u16 = 256;

/// Bits of `blf_flags`.
const INODES: u16 = 0x1;
const CANCEL: u16 = 0x2;
/// Those of user, project and group quotas.
const QUOTAS: u16 = 0x4 | 0x8 | 0x10;

/// What a logged buffer is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Buffer {
    /// `blf_blkno`: its first 512-byte sector.
    pub sector: u64,
    /// `blf_len`: its sectors.
    pub sectors: u16,
}

/// The format of a logged buffer.
pub(super) struct Format {
    pub buffer: Buffer,
    blf_flags: u16,
    /// Which parts are logged.
    map: Vec<u32>,
}

impl Format {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let broken = || Error::corrupt("logged buffer", "a format", "something else");
        let words = index(le32(bytes, 16).ok_or_else(broken)?);
        let sectors = le16(bytes, 6).filter(|sectors| *sectors <= MAX_SECTORS);
        let word = |number: usize| number.checked_mul(4)?.checked_add(MAP_AT);
        if words > MAX_MAP_WORDS {
            return Err(broken());
        }
        let map = (0..words).map(|number| word(number).and_then(|at| le32(bytes, at)));
        Ok(Self {
            buffer: Buffer {
                sector: le64(bytes, 8).ok_or_else(broken)?,
                sectors: sectors.ok_or_else(broken)?,
            },
            blf_flags: le16(bytes, 4).ok_or_else(broken)?,
            map: map.collect::<Option<_>>().ok_or_else(broken)?,
        })
    }

    /// Whether it says that what was logged of the buffer before is void.
    pub(super) fn is_cancel(&self) -> bool {
        self.blf_flags & CANCEL != 0
    }

    /// Whether all that is in it is what a reader needs not: links between inodes that were
    /// removed while they were open, and quotas.
    fn is_of_no_use(&self) -> bool {
        self.blf_flags & (INODES | QUOTAS) != 0
    }

    /// In which part of its transaction it is replayed, so that what others need comes first.
    pub(super) fn order(&self) -> u8 {
        match self.blf_flags {
            flags if flags & CANCEL != 0 => 3,
            flags if flags & INODES != 0 => 2,
            _ => 0,
        }
    }

    fn is_logged(&self, chunk: usize) -> bool {
        let word = self.map.get(chunk / 32).copied().unwrap_or_default();
        u32::try_from(chunk % 32).is_ok_and(|bit| word.wrapping_shr(bit) & 1 == 1)
    }

    /// Puts the logged parts into `content`.
    fn apply(&self, regions: &[Vec<u8>], content: &mut [u8]) -> Result<()> {
        let chunks = self.map.len().saturating_mul(32);
        let (mut chunk, mut regions) = (0_usize, regions.iter().skip(1));
        while chunk < chunks {
            if !self.is_logged(chunk) {
                chunk = chunk.saturating_add(1);
                continue;
            }
            // A run of parts is in one region, or in several, which then end where parts do.
            let run = (chunk..chunks).take_while(|chunk| self.is_logged(*chunk)).count();
            let region = regions.next().map_or(&[][..], Vec::as_slice);
            let count = run.min(region.len() / CHUNK);
            let (start, length) = (chunk.saturating_mul(CHUNK), count.saturating_mul(CHUNK));
            let place = content.get_mut(start..start.saturating_add(length));
            let (Some(place), Some(part), true) = (place, region.get(..length), count > 0) else {
                let found = format!("{} bytes", region.len());
                return Err(Error::corrupt("logged buffer", format!("{run} parts of it"), found));
            };
            place.copy_from_slice(part);
            chunk = chunk.saturating_add(count);
        }
        Ok(())
    }
}

impl Replayer<'_> {
    /// Replays a logged buffer.
    ///
    /// # Errors
    /// `Corrupt` if it makes no sense; `Limit`; the volume's own.
    pub(super) fn buffer(&mut self, lsn: Lsn, item: &Item) -> Result<()> {
        let format = Format::parse(item.format())?;
        if format.is_cancel() {
            self.cancelled.take(format.buffer);
            return Ok(());
        }
        if format.is_of_no_use() || self.cancelled.has(format.buffer) {
            return Ok(());
        }
        let sector = format.buffer.sector;
        let length = usize::from(format.buffer.sectors).saturating_mul(512);
        let before = self.overlay.read(sector, length)?;
        let known = Kind::of(&before).filter(|_| self.is_v5);
        let written = known.and_then(|kind| kind.lsn_of(&before, &self.uuids));
        if written.is_some_and(|written| written >= lsn) {
            return Ok(());
        }
        let mut content = before.clone();
        format.apply(&item.regions, &mut content)?;
        if let Some(kind) = Kind::of(&content).filter(|_| self.is_v5) {
            // What was damaged before is not made good by a new checksum, unless all is new.
            let all = (0..length / CHUNK).all(|chunk| format.is_logged(chunk));
            let was_wrong = known == Some(kind)
                && written.is_some()
                && !self.overlay.has(sector, length)
                && stamp::wrong_checksum(&before, kind.crc).is_some();
            if was_wrong && !all {
                self.damaged.insert(sector);
            }
            if !self.damaged.contains(&sector) {
                seal(&mut content, kind.crc);
            }
        }
        self.overlay.write(sector, &content)
    }
}

/// Gives `structure` the checksum that it should have.
pub(super) fn seal(structure: &mut [u8], crc: usize) {
    let sum = stamp::checksum(structure, crc).to_le_bytes();
    let place = structure.get_mut(crc..).unwrap_or_default();
    place.iter_mut().zip(sum).for_each(|(byte, sum)| *byte = sum);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    #[test]
    fn parts_go_where_the_map_says() {
        let mut format = vec![0; 28];
        format[6] = 2;
        format[16] = 1;
        format[20] = 0b1011_0010;
        let format = Format::parse(&format).expect("a format");
        // Parts 4 and 5 come as one region, or as two.
        for regions in [
            vec![vec![], vec![1; 128], vec![4; 256], vec![7; 128]],
            vec![vec![], vec![1; 128], vec![4; 128], vec![4; 128], vec![7; 128]],
        ] {
            let mut content = vec![0; 1024];
            format.apply(&regions, &mut content).expect("applied");
            let firsts: Vec<u8> = content.chunks(128).map(|part| part[127]).collect();
            assert_eq!(firsts, [0, 1, 0, 0, 4, 4, 0, 7]);
            assert!(format.apply(&regions[..2], &mut content).is_err());
        }
    }
}
