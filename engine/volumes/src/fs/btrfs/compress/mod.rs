//! Compressed extents.
//!
//! The kernel's `fs/btrfs/compression.c`, `zlib.c`, `lzo.c` and `zstd.c`.

mod lzo;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::base::fields::{le32, slice};
use crate::base::{Error, Result};

use super::units::index;

/// The logarithm of the largest window of a zstd frame that the kernel reads.
const WINDOW_LOG: u32 = 17;

/// How an extent is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Lzo,
    Zstd,
}

impl Compression {
    /// The one of a file extent's `compression`; `None` for no compression.
    ///
    /// # Errors
    /// `Unsupported` for others.
    pub(super) fn of_type(compression: u8) -> Result<Option<Self>> {
        Ok(match compression {
            0 => None,
            1 => Some(Self::Zlib),
            2 => Some(Self::Lzo),
            3 => Some(Self::Zstd),
            other => {
                let context = format!("compression of type {other}");
                return Err(Error::newer(context));
            }
        })
    }

    /// Unpacks the start of `packed`, `most` bytes at most; what it holds beyond is let go, and
    /// it may hold less. LZO comes in pieces that each unpack to `sectorsize` bytes at most.
    ///
    /// # Errors
    /// `Corrupt` when it is not so compressed.
    pub(super) fn unpack(self, packed: &[u8], most: usize, sectorsize: usize) -> Result<Vec<u8>> {
        let unpacked = match self {
            Self::Zlib => zlib(packed, most),
            Self::Lzo => lzo_pieces(packed, most, sectorsize),
            Self::Zstd => zstd(packed, most),
        };
        let expected = match self {
            Self::Zlib => "a zlib stream",
            Self::Lzo => "pieces of LZO",
            Self::Zstd => "a zstd frame",
        };
        unpacked.ok_or_else(|| Error::corrupt("compressed extent", expected, "something else"))
    }
}

fn zlib(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut unpacked = vec![0; most];
    let mut state = Box::<DecompressorOxide>::default();
    let flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
        | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, length) = decompress(&mut state, packed, &mut unpacked, 0, flags);
    unpacked.truncate(length);
    matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput).then_some(unpacked)
}

fn zstd(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut context = DCtx::create();
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).ok()?;
    let mut unpacked = vec![0; most];
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around(unpacked.as_mut_slice());
    // Each round takes input or makes output, or is the last.
    loop {
        let before = (input.pos(), output.pos());
        let left = context.decompress_stream(&mut output, &mut input).ok()?;
        let after = (input.pos(), output.pos());
        if left == 0 || after.1 == most {
            break;
        }
        if before == after {
            return None;
        }
    }
    let length = output.pos();
    unpacked.truncate(length);
    Some(unpacked)
}

/// A length of everything, then pieces, each with its length before it. No such length lies across
/// two sectors: where one would, it starts the next.
fn lzo_pieces(packed: &[u8], most: usize, sectorsize: usize) -> Option<Vec<u8>> {
    let total = index(le32(packed, 0)?);
    let packed = packed.get(..total)?;
    let mut unpacked = Vec::with_capacity(most);
    let mut at = 4_usize;
    // Each piece is four bytes of input at least.
    while at < total && unpacked.len() < most {
        let left = sectorsize.checked_sub(at.checked_rem(sectorsize)?)?;
        if left < 4 {
            // There may be nothing behind it.
            at = at.checked_add(left)?;
            continue;
        }
        let length = index(le32(packed, at)?);
        at = at.checked_add(4)?;
        let piece = slice(packed, at, length)?;
        let end = unpacked.len().checked_add(sectorsize)?;
        lzo::unpack(piece, &mut unpacked, end)?;
        at = at.checked_add(length)?;
    }
    unpacked.truncate(most);
    Some(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn what_follows_the_end_is_let_go() {
        let text = b"the same words, the same words, and the same words again".repeat(300);
        let mut packed = zstd::bulk::compress(&text, 3).expect("packed");
        packed.resize(packed.len().next_multiple_of(4096), 0);
        let unpacked = Compression::Zstd.unpack(&packed, text.len(), 4096).expect("unpacked");
        assert!(unpacked == text);
        let some = Compression::Zstd.unpack(&packed, 5000, 4096).expect("unpacked");
        assert!(some == text.split_at(5000).0);
        assert!(
            Compression::Zstd.unpack(packed.split_at(20).0, text.len(), 4096).is_err(),
            "cut short"
        );
    }

    #[test]
    fn noise_is_no_compressed_extent() {
        let noise = [0x5a; 5000];
        for kind in [Compression::Zlib, Compression::Lzo, Compression::Zstd] {
            let error = kind.unpack(&noise, 9000, 4096).expect_err("noise");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind:?}");
        }
    }
}
