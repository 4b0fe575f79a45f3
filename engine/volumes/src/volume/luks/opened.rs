//! The bytes of an opened volume.

use std::sync::Arc;

use super::cipher::{IV_UNIT, SectorCipher};
use super::header::Header;
use super::header::HeaderCopy;
use super::identity::Identity;
use super::secret::VolumeKey;
use super::segment::{Segment, SegmentKind};
use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, check_range,
};
use crate::volume::Layer;

/// What a LUKS volume holds, decrypted as it is read. Threads may share it.
pub struct Opened {
    data: Arc<dyn ReadAt>,
    pieces: Vec<Piece>,
    size: u64,
}

/// One segment, where it lies in the opened volume.
struct Piece {
    /// Its first byte in the opened volume.
    start: u64,
    /// Its bytes: whole sectors.
    length: u64,
    /// Its first byte below.
    place: u64,
    /// How it is encrypted; `None` for bytes that are as they are.
    encrypted: Option<Encrypted>,
}

struct Encrypted {
    cipher: SectorCipher,
    sector: u64,
    iv_offset: u64,
}

/// Reads that begin or end within a sector go through a buffer of their own up to this size.
const SMALL: u64 = 64 * 1024;

impl Opened {
    /// The volume that `header` describes on `data`, with the key that [`Header::unlock`] gave.
    /// `data` is the device that the header was read from, unless it was kept apart. Bytes at the
    /// end of `data` that make no whole sector are not part of the volume.
    ///
    /// # Errors
    /// `Unsupported` as [`Header::check_supported`], and for encryptions that are not known, by
    /// name; `Corrupt` if `data` ends before the payload does; `Invalid` if `data` is the header
    /// itself, whose payload lies on another device.
    pub fn new(data: Arc<dyn ReadAt>, header: &Header, key: &VolumeKey) -> Result<Self> {
        header.check_supported()?;
        check_place(data.as_ref(), header)?;
        let (mut pieces, mut size) = (Vec::new(), 0_u64);
        for (number, segment) in &header.segments {
            let piece = Piece::new(data.as_ref(), segment, (size, key))
                .map_err(|error| error.within(format!("LUKS segment {number}")))?;
            let end = size.checked_add(piece.length);
            size = end.ok_or_else(|| Error::corrupt("LUKS segments", "sizes", "larger ones"))?;
            pieces.push(piece);
        }
        Ok(Self { data, pieces, size })
    }

    /// The pieces that hold some of `within`, with those of their own bytes.
    fn each_piece(&self, within: ByteRange) -> impl Iterator<Item = (&Piece, ByteRange)> {
        self.pieces.iter().filter_map(move |piece| {
            let range = ByteRange::new(piece.start, piece.length).intersection(&within)?;
            let start = range.start.checked_sub(piece.start)?;
            Some((piece, ByteRange::new(start, range.len())))
        })
    }
}

/// Fails with `Invalid` where a detached header's payload is looked for on the header itself.
fn check_place(data: &dyn ReadAt, header: &Header) -> Result<()> {
    let mut block = [0; 512];
    if !header.is_detached() || data.size().0 < 512 {
        return Ok(());
    }
    data.read_exact_at(ByteOffset(0), &mut block)?;
    match Identity::parse(&block, HeaderCopy::First) {
        Some(found) if found.uuid == header.identity.uuid => Err(Error::new(
            ErrorKind::Invalid,
            "this is a LUKS header that was kept apart: what it encrypts is on another device",
        )),
        _ => Ok(()),
    }
}

impl Piece {
    fn new(data: &dyn ReadAt, segment: &Segment, (start, key): (u64, &VolumeKey)) -> Result<Self> {
        let (encrypted, sector) = match &segment.kind {
            SegmentKind::Crypt(encryption) => {
                let sector = u64::from(encryption.sector);
                let size = usize::try_from(sector).unwrap_or_default();
                let cipher = SectorCipher::new(&encryption.name, key.bytes(), size)?;
                let iv_offset = encryption.iv_offset;
                (Some(Encrypted { cipher, sector, iv_offset }), sector)
            }
            SegmentKind::Linear => (None, IV_UNIT),
            SegmentKind::Other(name) => return Err(Error::newer(format!("the kind {name:?}"))),
        };
        let left = data.size().0.checked_sub(segment.offset);
        let left = left.ok_or_else(|| cut_off(data, segment.offset))?;
        let length = match segment.length {
            Some(length) if length > left => {
                return Err(cut_off(data, segment.offset.saturating_add(length)));
            }
            Some(length) => length,
            None => left.saturating_sub(left.checked_rem(sector).unwrap_or_default()),
        };
        Ok(Self { start, length, place: segment.offset, encrypted })
    }

    /// Fills `buffer` from byte `at` of this piece.
    fn read(&self, data: &dyn ReadAt, at: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(encrypted) = &self.encrypted else {
            return data.read_exact_at(self.below(at), buffer);
        };
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let into = at.checked_rem(encrypted.sector).unwrap_or_default();
        if into == 0 && length.is_multiple_of(encrypted.sector) {
            return self.read_sectors(data, at, buffer);
        }
        if length <= SMALL {
            return self.read_small(data, at, buffer);
        }
        // The ends by themselves, and all whole sectors in place.
        let head = if into == 0 { 0 } else { encrypted.sector.saturating_sub(into) };
        let (head, rest) = split(buffer, head);
        let after = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        let tail = after.checked_rem(encrypted.sector).unwrap_or_default();
        let (middle, tail) = split(rest, after.saturating_sub(tail));
        let mut at = at;
        for part in [head, middle, tail] {
            if !part.is_empty() {
                self.read(data, at, part)?;
            }
            at = at.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// As [`read`](Self::read), by way of a buffer of the whole sectors.
    fn read_small(&self, data: &dyn ReadAt, at: u64, buffer: &mut [u8]) -> Result<()> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let sectors = self.rounded(ByteRange::new(at, length));
        let mut bytes = vec![0; usize::try_from(sectors.len()).unwrap_or_default()];
        self.read_sectors(data, sectors.start, &mut bytes)?;
        let skipped = usize::try_from(at.saturating_sub(sectors.start)).unwrap_or(usize::MAX);
        let wanted = bytes.get(skipped..).and_then(|bytes| bytes.get(..buffer.len()));
        let wanted = wanted.ok_or_else(|| Error::new(ErrorKind::Invalid, "beyond a segment"))?;
        buffer.copy_from_slice(wanted);
        Ok(())
    }

    /// Fills `buffer` with whole sectors from byte `at` of this piece.
    fn read_sectors(&self, data: &dyn ReadAt, at: u64, buffer: &mut [u8]) -> Result<()> {
        data.read_exact_at(self.below(at), buffer)?;
        if let Some(Encrypted { cipher, iv_offset, .. }) = &self.encrypted {
            cipher.decrypt((at / IV_UNIT).wrapping_add(*iv_offset), buffer);
        }
        Ok(())
    }

    /// The whole sectors that hold `range`, of this piece.
    fn rounded(&self, range: ByteRange) -> ByteRange {
        let sector = self.encrypted.as_ref().map_or(1, |encrypted| encrypted.sector.max(1));
        let into = range.start.checked_rem(sector).unwrap_or_default();
        let end = range.end.checked_next_multiple_of(sector).unwrap_or(range.end);
        ByteRange { start: range.start.saturating_sub(into), end }
    }

    /// The whole sectors within `range`, of this piece.
    fn whole(&self, range: ByteRange) -> ByteRange {
        let sector = self.encrypted.as_ref().map_or(1, |encrypted| encrypted.sector.max(1));
        let start = range.start.checked_next_multiple_of(sector).unwrap_or(range.end);
        let into = range.end.checked_rem(sector).unwrap_or_default();
        let start = start.min(range.end);
        ByteRange { start, end: range.end.saturating_sub(into).max(start) }
    }

    fn below(&self, at: u64) -> ByteOffset {
        ByteOffset(self.place.saturating_add(at))
    }
}

fn cut_off(data: &dyn ReadAt, end: u64) -> Error {
    Error::corrupt("device", format!("{end} bytes or more"), format!("{} bytes", data.size()))
}

fn split(buffer: &mut [u8], at: u64) -> (&mut [u8], &mut [u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(buffer.len());
    buffer.split_at_mut(at)
}

impl ReadAt for Opened {
    fn size(&self) -> ByteCount {
        ByteCount(self.size)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let wanted = ByteRange::new(offset.0, u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        let mut rest = buffer;
        for (piece, range) in self.each_piece(wanted) {
            let (part, after) = split(std::mem::take(&mut rest), range.len());
            rest = after;
            piece.read(self.data.as_ref(), range.start, part)?;
        }
        Ok(())
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        let here = self.each_piece(ByteRange::new(offset.0, 1)).next();
        self.data.reach(here.map_or(offset, |(piece, range)| piece.below(range.start)))
    }
}

impl Layer for Opened {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        for (piece, range) in self.each_piece(within) {
            let range = piece.rounded(range);
            visit(0, ByteRange::new(piece.below(range.start).0, range.len()));
        }
        Ok(())
    }

    fn each_own_place(
        &self,
        within: ByteRange,
        visit: &mut dyn FnMut(usize, ByteRange),
    ) -> Result<()> {
        for (piece, range) in self.each_piece(within) {
            let range = piece.whole(range);
            if !range.is_empty() {
                visit(0, ByteRange::new(piece.below(range.start).0, range.len()));
            }
        }
        Ok(())
    }
}
