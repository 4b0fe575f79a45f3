//! Thin pools: which blocks of the pool a thin volume has.
//!
//! Source: Linux, `drivers/md/dm-thin-metadata.c`, `dm-thin.c` and
//! `Documentation/admin-guide/device-mapper/thin-provisioning.rst`.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::layers::{length_of, not_alone, take};
use super::persistent::{Metadata, Superblock};
use crate::base::fields::{le32, le64};
use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, check_range,
};
use crate::volume::layer::Layer;

const SUPERBLOCK: Superblock = Superblock {
    place: "thin pool's superblock",
    magic: 27_022_010,
    salt: 160_774,
    versions: 1..=2,
};
/// The pool says that its metadata have to be checked before they are used.
const NEEDS_CHECK: u32 = 1;
/// Bytes of what is kept of one device.
const DETAILS: usize = 24;
/// Bits of a mapping that say when it was made.
const TIME_BITS: u32 = 24;

/// What LVM says of a pool.
pub(super) struct Expected {
    /// Bytes of a block.
    pub chunk: u64,
    /// The number of LVM's last change to it.
    pub transaction: u64,
    /// Whether LVM has changes written down that the pool may not have made yet.
    pub is_waiting: bool,
}

/// A pool.
pub(super) struct Pool {
    metadata: Metadata,
    data: Arc<dyn Layer>,
    chunk: u64,
    mappings: u64,
    details: u64,
}

impl Pool {
    /// The pool that `metadata` describes, whose blocks are in `data`.
    ///
    /// thin_disk_superblock: flags 4, transaction 48, roots of the mappings 320 and of devices'
    /// details 328, sectors of a data block 336, of a metadata block 340, features 360.
    ///
    /// # Errors
    /// `Unsupported` if it is to be checked first, or is not in the state that LVM knows;
    /// `Corrupt` if it is damaged.
    pub(super) fn open(
        metadata: Arc<dyn Layer>,
        data: Arc<dyn Layer>,
        expected: &Expected,
    ) -> Result<Self> {
        let metadata = Metadata::new(metadata);
        let block = metadata.superblock(&SUPERBLOCK)?;
        let short = |at| le32(&block, at).unwrap_or_default();
        let long = |at| le64(&block, at).unwrap_or_default();
        let refused = |why: String| Err(Error::new(ErrorKind::Unsupported, why));
        if short(4) & NEEDS_CHECK != 0 {
            return refused("its thin pool has to be checked first (thin_check)".to_owned());
        }
        if short(360) != 0 {
            let why = format!("its thin pool has unknown features {:#x}", short(360));
            return Err(Error::newer(why));
        }
        let (own, known) = (long(48), expected.transaction);
        let is_behind = expected.is_waiting && own.checked_add(1) == Some(known);
        if own != known && !is_behind {
            return refused(format!("its thin pool is at transaction {own}, LVM at {known}"));
        }
        let chunk = u64::from(short(336)).saturating_mul(512);
        if chunk != expected.chunk || chunk == 0 || short(340) != 8 {
            let expected = format!("blocks of {} bytes", expected.chunk);
            return Err(Error::corrupt(SUPERBLOCK.place, expected, chunk));
        }
        Ok(Self { metadata, data, chunk, mappings: long(320), details: long(328) })
    }

    /// The first mapping of the device `number`.
    fn root(&self, number: u64) -> Result<u64> {
        let details = self.metadata.find::<DETAILS>(self.details, number)?;
        let root = self.metadata.find::<8>(self.mappings, number)?;
        match (details, root) {
            (Some(_), Some(root)) => Ok(u64::from_le_bytes(root)),
            (None, None) => {
                let why = format!("its thin pool has no device {number}");
                Err(Error::new(ErrorKind::Unsupported, why))
            }
            _ => Err(Error::corrupt("thin pool", format!("all of device {number}"), "a part")),
        }
    }
}

/// A thin volume.
pub(super) struct Thin {
    pool: Arc<Pool>,
    root: u64,
    length: u64,
    /// What is behind blocks that the volume does not have.
    external: Option<Arc<dyn Layer>>,
}

impl Thin {
    /// The volume of `length` bytes that is the device `number` of `pool`.
    ///
    /// # Errors
    /// `Unsupported` if the pool has none; `Corrupt` if it is damaged.
    pub(super) fn open(
        pool: Arc<Pool>,
        number: u64,
        length: u64,
        external: Option<Arc<dyn Layer>>,
    ) -> Result<Self> {
        let root = pool.root(number)?;
        Ok(Self { pool, root, length, external })
    }

    /// Reads what the pool has no block for.
    fn read_behind(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(external) = &self.external else {
            buffer.fill(0);
            return Ok(());
        };
        let mut rest = buffer;
        let piece = take(&mut rest, external.size().0.saturating_sub(at));
        rest.fill(0);
        match piece.is_empty() {
            true => Ok(()),
            false => external.read_exact_at(ByteOffset(at), piece),
        }
    }

    /// Reads what is at `place` of the pool's data.
    fn read_block(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.pool.data.size().0;
        let end = place.checked_add(length_of(buffer));
        if end.is_none_or(|end| end > size) {
            let expected = format!("blocks within the pool's {size} bytes");
            return Err(Error::corrupt("thin volume", expected, format!("one at byte {place}")));
        }
        self.pool.data.read_exact_at(ByteOffset(place), buffer)
    }
}

/// A piece of a thin volume on its way to be read: blocks that follow one another in the pool.
struct Piece {
    start: u64,
    end: u64,
    place: u64,
}

impl ReadAt for Thin {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let chunk = self.pool.chunk;
        let wanted = ByteRange::new(offset.0, length_of(buffer));
        let (mut at, mut rest) = (wanted.start, buffer);
        let mut waiting: Option<Piece> = None;
        let mut read = |piece: &Piece| {
            let behind = take(&mut rest, piece.start.saturating_sub(at));
            self.read_behind(at, behind)?;
            at = piece.end;
            self.read_block(piece.place, take(&mut rest, piece.end.saturating_sub(piece.start)))
        };
        let first = wanted.start.checked_div(chunk).unwrap_or(0);
        self.pool.metadata.each(self.root, first, &mut |block, value: &[u8; 8]| {
            let own = block.checked_mul(chunk).filter(|start| *start < wanted.end);
            let Some(own) = own else { return Ok(ControlFlow::Break(())) };
            let place = u64::from_le_bytes(*value) >> TIME_BITS;
            let place = place
                .checked_mul(chunk)
                .ok_or_else(|| Error::corrupt("thin volume", "a block of the pool", place))?;
            let start = own.max(wanted.start);
            let end = own.saturating_add(chunk).min(wanted.end);
            let place = place.saturating_add(start.saturating_sub(own));
            match &mut waiting {
                Some(piece)
                    if piece.end == start
                        && piece.place.saturating_add(start.saturating_sub(piece.start))
                            == place =>
                {
                    piece.end = end;
                }
                _ => {
                    if let Some(piece) = waiting.replace(Piece { start, end, place }) {
                        read(&piece)?;
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(piece) = waiting {
            read(&piece)?;
        }
        self.read_behind(at, rest)
    }
}

impl Layer for Thin {
    fn each_place(&self, _: ByteRange, _: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        Err(not_alone("a thin pool shares blocks between its volumes"))
    }
}
