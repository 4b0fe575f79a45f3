//! Chunks: where the stretches of the logical address space are on the devices.
//!
//! The kernel's `struct btrfs_chunk` in `include/uapi/linux/btrfs_tree.h`, and
//! `btrfs_map_block` in `fs/btrfs/volumes.c`.

use super::units::{KEY_SIZE, Key, Logical, bytes, index, kinds, objects};
use crate::base::fields::{array, le16, le64};
use crate::base::{Error, ErrorKind, Result, limits};

/// Bytes of a stripe, the only size there is.
pub(super) const STRIPE_LEN: u64 = 64 * 1024;
/// Bytes of a chunk item before its stripes, and of each of these.
const HEADER: usize = 48;
const STRIPE: usize = 32;

/// Bits of `type`.
pub(super) mod groups {
    pub(crate) const RAID0: u64 = 1 << 3;
    pub(crate) const RAID1: u64 = 1 << 4;
    pub(crate) const DUP: u64 = 1 << 5;
    pub(crate) const RAID10: u64 = 1 << 6;
    pub(crate) const RAID5: u64 = 1 << 7;
    pub(crate) const RAID6: u64 = 1 << 8;
    pub(crate) const RAID1C3: u64 = 1 << 9;
    pub(crate) const RAID1C4: u64 = 1 << 10;
    /// Data, metadata, system.
    pub(crate) const TYPES: u64 = 7;
    pub(crate) const KNOWN: u64 = (1 << 11) - 1;
}

/// How a chunk's bytes lie on its stripes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each stripe holds all of it: one is `single`, more are DUP and RAID1.
    Mirrored,
    /// In turns of [`STRIPE_LEN`] on groups of as many stripes as there are copies: RAID0 (one)
    /// and RAID10.
    Striped { copies: usize },
    /// In turns, with as many stripes of each row for parity: RAID5 and RAID6.
    Parity { parities: usize },
}

/// A stripe: where a part of a chunk, or a copy of it, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stripe {
    pub devid: u64,
    pub offset: u64,
    pub dev_uuid: [u8; 16],
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub start: Logical,
    pub length: u64,
    pub group: u64,
    pub layout: Layout,
    pub stripes: Vec<Stripe>,
}

/// A stretch of one stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub stripe: Stripe,
    /// Bytes from the stripe's start.
    pub within: u64,
    /// Bytes that lie together.
    pub length: u64,
}

impl Piece {
    /// The byte of the device.
    pub(super) fn physical(&self) -> u64 {
        self.stripe.offset.saturating_add(self.within)
    }
}

impl Chunk {
    /// The chunk that `item` under `key` describes.
    ///
    /// # Errors
    /// `Corrupt` when it makes no sense; `Unsupported` for profiles that are not known.
    pub(super) fn parse(key: Key, item: &[u8], sectorsize: u32) -> Result<Self> {
        let place = format!("chunk at {}", Logical(key.offset));
        let short = || Error::corrupt(&place, "a whole item", format!("{} bytes", item.len()));
        let (length, group) =
            (le64(item, 0x0).ok_or_else(short)?, le64(item, 0x18).ok_or_else(short)?);
        let stripe_len = le64(item, 0x10).ok_or_else(short)?;
        let count = usize::from(le16(item, 0x2c).ok_or_else(short)?);
        let sub_stripes = usize::from(le16(item, 0x2e).ok_or_else(short)?);
        let stripes: Option<Vec<Stripe>> = (0..count).map(|number| stripe(item, number)).collect();
        let stripes = stripes.ok_or_else(short)?;
        if length == 0 || !length.is_multiple_of(u64::from(sectorsize)) {
            return Err(Error::corrupt(place, "a length in sectors", length));
        }
        if key.offset.checked_add(length).is_none() || stripe_len != STRIPE_LEN {
            let expected = format!("an end within 64 bits and stripes of {STRIPE_LEN}");
            return Err(Error::corrupt(place, expected, stripe_len));
        }
        let layout = layout(group, count, sub_stripes).map_err(|error| error.within(&place))?;
        Ok(Self { start: Logical(key.offset), length, group, layout, stripes })
    }

    /// The address after the last.
    pub(super) fn end(&self) -> Logical {
        self.start.after(self.length)
    }

    /// Ways to read each byte.
    pub(super) fn mirrors(&self) -> usize {
        match self.layout {
            Layout::Mirrored => self.stripes.len(),
            Layout::Striped { copies } => copies,
            // By the parity of its row; by two of them, without another one as well.
            Layout::Parity { parities: 2 } => self.stripes.len(),
            Layout::Parity { .. } => 2,
        }
    }

    /// Bytes of each stripe on its device.
    pub(super) fn stripe_length(&self) -> u64 {
        let data = bytes(self.data_stripes());
        match self.layout {
            Layout::Mirrored => self.length,
            _ => self.length.checked_div(data).unwrap_or(0),
        }
    }

    /// Stripes that hold different data.
    pub(super) fn data_stripes(&self) -> usize {
        let all = self.stripes.len();
        match self.layout {
            Layout::Mirrored => 1,
            Layout::Striped { copies } => all.checked_div(copies).unwrap_or(1),
            Layout::Parity { parities } => all.saturating_sub(parities).max(1),
        }
    }

    /// Where `at`, which the chunk holds, is in copy `mirror`; `None` if there is no such copy,
    /// or it has to be computed from a row's parity.
    pub(super) fn piece(&self, at: Logical, mirror: usize) -> Option<Piece> {
        let offset = at.0.checked_sub(self.start.0)?;
        let left = self.length.checked_sub(offset)?;
        if let Layout::Mirrored = self.layout {
            let stripe = *self.stripes.get(mirror)?;
            return Some(Piece { stripe, within: offset, length: left });
        }
        let data = bytes(self.data_stripes()).max(1);
        let (number, within) = (offset / STRIPE_LEN, offset % STRIPE_LEN);
        let (row, column) = (number.checked_div(data)?, number.checked_rem(data)?);
        let place = match self.layout {
            Layout::Striped { copies } if mirror < copies => {
                index(column).checked_mul(copies)?.checked_add(mirror)?
            }
            Layout::Parity { .. } if mirror == 0 => self.rotated(row, index(column))?,
            _ => return None,
        };
        let within = row.checked_mul(STRIPE_LEN)?.checked_add(within)?;
        let length = left.min(STRIPE_LEN.saturating_sub(offset % STRIPE_LEN));
        Some(Piece { stripe: *self.stripes.get(place)?, within, length })
    }

    /// The column of its row that `at`, which the chunk holds, is in, if rows have parity.
    pub(super) fn column(&self, at: Logical) -> Option<usize> {
        let Layout::Parity { .. } = self.layout else { return None };
        let number = at.0.checked_sub(self.start.0)? / STRIPE_LEN;
        number.checked_rem(bytes(self.data_stripes())).map(index)
    }

    /// The bytes of `column` beside those of `piece`, in the same row: parities stand behind the
    /// data.
    pub(super) fn beside(&self, piece: &Piece, column: usize) -> Option<Piece> {
        let row = piece.within / STRIPE_LEN;
        let stripe = *self.stripes.get(self.rotated(row, column)?)?;
        Some(Piece { stripe, ..*piece })
    }

    /// The stripe on which `column` of a row is: parities move on by one from row to row.
    fn rotated(&self, row: u64, column: usize) -> Option<usize> {
        let all = bytes(self.stripes.len());
        Some(index(row.checked_add(bytes(column))?.checked_rem(all)?))
    }
}

fn stripe(item: &[u8], number: usize) -> Option<Stripe> {
    let at = number.checked_mul(STRIPE)?.checked_add(HEADER)?;
    let field = |offset: usize| at.checked_add(offset);
    Some(Stripe {
        devid: le64(item, field(0x0)?)?,
        offset: le64(item, field(0x8)?)?,
        dev_uuid: array(item, field(0x10)?)?,
    })
}

fn layout(group: u64, count: usize, sub_stripes: usize) -> Result<Layout> {
    if group & !groups::KNOWN != 0 {
        let context = format!("block groups of type {group:#x}");
        return Err(Error::newer(context));
    }
    let (layout, is_right) = match group & !groups::TYPES {
        0 => (Layout::Mirrored, count == 1),
        groups::DUP | groups::RAID1 => (Layout::Mirrored, count == 2),
        groups::RAID1C3 => (Layout::Mirrored, count == 3),
        groups::RAID1C4 => (Layout::Mirrored, count == 4),
        groups::RAID0 => (Layout::Striped { copies: 1 }, count > 0),
        groups::RAID10 => {
            let is_even = count > 0 && count.is_multiple_of(2);
            (Layout::Striped { copies: 2 }, is_even && sub_stripes == 2)
        }
        groups::RAID5 => (Layout::Parity { parities: 1 }, count > 1),
        groups::RAID6 => (Layout::Parity { parities: 2 }, count > 2),
        _ => (Layout::Mirrored, false),
    };
    let found = format!("{count} of type {group:#x}");
    let wrong = || Error::corrupt("stripes", "as many as the profile demands", found);
    if is_right { Ok(layout) } else { Err(wrong()) }
}

/// All chunks, sorted by their start.
#[derive(Debug, Clone, Default)]
pub(super) struct ChunkMap(Vec<Chunk>);

impl ChunkMap {
    /// The chunks of a superblock's `sys_chunk_array`: keys, each with its item.
    ///
    /// # Errors
    /// As [`Chunk::parse`].
    pub(super) fn of_system(array: &[u8], sectorsize: u32) -> Result<Self> {
        let mut map = Self::default();
        let mut rest = array;
        while !rest.is_empty() {
            let wrong = || Error::corrupt("sys_chunk_array", "chunks", "something else");
            let key = Key::parse(rest, 0).filter(|key| key.kind == kinds::CHUNK_ITEM);
            let (key, item) = (key.ok_or_else(wrong)?, rest.get(KEY_SIZE..).ok_or_else(wrong)?);
            let chunk = Chunk::parse(key, item, sectorsize)?;
            let length = chunk.stripes.len().saturating_mul(STRIPE).saturating_add(HEADER);
            rest = item.get(length..).ok_or_else(wrong)?;
            map.add(chunk)?;
        }
        Ok(map)
    }

    /// Adds a chunk behind all others.
    ///
    /// # Errors
    /// `Corrupt` when it is before one's end; `Limit` when there are too many.
    pub(super) fn add(&mut self, chunk: Chunk) -> Result<()> {
        if self.0.last().is_some_and(|last| last.end() > chunk.start) {
            let place = format!("chunk at {}", chunk.start);
            return Err(Error::corrupt(place, "a start behind the one before it", "an overlap"));
        }
        if self.0.len() >= limits::MAX_CHUNKS {
            let context = format!("more than {} chunks", limits::MAX_CHUNKS);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        self.0.push(chunk);
        Ok(())
    }

    /// The chunk that holds `at`.
    ///
    /// # Errors
    /// `Corrupt` if none does.
    pub(super) fn find(&self, at: Logical) -> Result<&Chunk> {
        let next = self.0.partition_point(|chunk| chunk.start <= at);
        let chunk = next.checked_sub(1).and_then(|number| self.0.get(number));
        let none = || Error::corrupt(at, "a chunk there", "none");
        chunk.filter(|chunk| at < chunk.end()).ok_or_else(none)
    }

    /// All of them, by their start.
    pub(super) fn all(&self) -> &[Chunk] {
        &self.0
    }
}

/// The key under which all chunks stand.
pub(super) fn first_chunk_key() -> Key {
    Key::new(objects::FIRST_FREE, kinds::CHUNK_ITEM, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(layout: Layout, count: u64) -> Chunk {
        let stripe = |devid| Stripe { devid, offset: devid << 30, dev_uuid: [0; 16] };
        let stripes = (0..count).map(stripe).collect();
        Chunk { start: Logical(1 << 40), length: 60 * STRIPE_LEN, group: 0, layout, stripes }
    }

    fn place(chunk: &Chunk, number: u64, mirror: usize) -> Option<(u64, u64)> {
        let at = chunk.start.after(number.saturating_mul(STRIPE_LEN).saturating_add(5));
        let piece = chunk.piece(at, mirror)?;
        Some((piece.stripe.devid, piece.within / STRIPE_LEN))
    }

    #[test]
    fn stripes_take_turns() {
        let raid0 = chunk(Layout::Striped { copies: 1 }, 3);
        assert_eq!(place(&raid0, 0, 0), Some((0, 0)));
        assert_eq!(place(&raid0, 7, 0), Some((1, 2)));
        assert_eq!(place(&raid0, 7, 1), None);
        assert_eq!(raid0.stripe_length(), 20 * STRIPE_LEN);
        let raid10 = chunk(Layout::Striped { copies: 2 }, 4);
        assert_eq!((place(&raid10, 5, 0), place(&raid10, 5, 1)), (Some((2, 2)), Some((3, 2))));
    }

    #[test]
    fn parity_moves_on_with_each_row() {
        let raid5 = chunk(Layout::Parity { parities: 1 }, 3);
        // Row 0: data on 0 and 1, parity on 2; row 1: data on 1 and 2, parity on 0.
        assert_eq!((place(&raid5, 0, 0), place(&raid5, 1, 0)), (Some((0, 0)), Some((1, 0))));
        assert_eq!((place(&raid5, 2, 0), place(&raid5, 3, 0)), (Some((1, 1)), Some((2, 1))));
        let piece = raid5.piece(raid5.start.after(3 * STRIPE_LEN), 0).expect("inside");
        assert_eq!(raid5.column(raid5.start.after(3 * STRIPE_LEN)), Some(1));
        let beside = [0, 1, 2].map(|column| raid5.beside(&piece, column).expect("a row"));
        assert_eq!(beside.map(|piece| piece.stripe.devid), [1, 2, 0]);
    }

    #[test]
    fn addresses_between_chunks_are_in_none() {
        let mut map = ChunkMap::default();
        let one = chunk(Layout::Mirrored, 1);
        let end = one.end();
        map.add(one.clone()).expect("added");
        assert!(map.add(one).is_err(), "an overlap");
        assert!(map.find(Logical(0)).is_err() && map.find(end).is_err());
        assert!(map.find(Logical(1 << 40)).is_ok());
    }
}
