//! What each processor does with a chunk of the disk: zero test, digest, look-up, compression.

use super::delta::Deltas;
use super::recheck::Recheck;
use crate::base::bytes::is_zero;
use crate::base::{BlockIndex, BlockSize, ByteRange, Result};
use crate::block::Chunk;
use crate::store::frame::Member;
use crate::store::node::{BadSectors, SECTOR};
use crate::store::{Compression, Digest, DigestKeys, Encoder, FrameKind, Place};

/// What became of a block.
#[derive(Debug)]
pub enum Content {
    /// It is zero.
    Zero,
    /// None of it could be read.
    Unreadable,
    /// It is stored already.
    Known(Digest, Place),
    /// It is this one of the chunk's new contents.
    New(Digest, u8),
}

/// A block of a chunk.
#[derive(Debug)]
pub struct Block {
    /// What became of it.
    pub content: Content,
    /// Its bytes.
    pub length: u32,
    /// Sectors of it that could not be read, unless all of it could not.
    pub bad: Vec<BadSectors>,
}

/// A chunk, ready to be stored.
#[derive(Debug)]
pub struct WorkedChunk {
    /// Its bytes on the disk.
    pub range: ByteRange,
    /// Its blocks.
    pub blocks: Vec<Block>,
    /// How many contents are new.
    pub contents: usize,
    /// The frames of those.
    pub frames: Vec<WorkedFrame>,
    /// What could not be read, as bytes of the disk.
    pub bad: Vec<ByteRange>,
}

/// New contents in a frame.
#[derive(Debug)]
pub struct WorkedFrame {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Which of the chunk's new contents are its members.
    pub contents: Vec<u8>,
}

/// A content that is new.
struct New<'b> {
    member: Member,
    bytes: &'b [u8],
    delta: Option<Vec<u8>>,
}

/// Works on chunks, one after another.
pub struct Worker<'a> {
    keys: DigestKeys,
    stored: &'a Recheck<'a>,
    block_size: BlockSize,
    deltas: Option<Deltas<'a>>,
    encoder: Encoder,
    gathered: Vec<u8>,
}

impl<'a> Worker<'a> {
    /// A worker that looks up what is `stored` already, and stores blocks as `deltas` where those are
    /// smaller.
    #[must_use]
    pub fn new(
        keys: DigestKeys,
        stored: &'a Recheck<'a>,
        block_size: BlockSize,
        deltas: Option<Deltas<'a>>,
    ) -> Self {
        Self { keys, stored, block_size, deltas, encoder: Encoder::new(), gathered: Vec::new() }
    }

    /// Works on `chunk`, whose first byte is a block's.
    ///
    /// # Errors
    /// `Invalid` for a compression that zstd refuses.
    pub fn work(&mut self, chunk: &Chunk, compression: Compression) -> Result<WorkedChunk> {
        let start = chunk.offset.0;
        let mut blocks = Vec::with_capacity(chunk.buffer.len() / self.block_size.usize() + 1);
        let mut new = Vec::new();
        for (number, bytes) in chunk.buffer.chunks(self.block_size.usize()).enumerate() {
            let first = start + number as u64 * self.block_size.bytes();
            let range = ByteRange::new(first, bytes.len() as u64);
            let bad = bad_sectors(range, &chunk.bad);
            let content = if chunk.bad.iter().any(|bad| bad.intersection(&range) == Some(range)) {
                Content::Unreadable
            } else if bad.is_empty() && is_zero(bytes) {
                Content::Zero
            } else {
                self.look_up(BlockIndex(first / self.block_size.bytes()), bytes, &mut new)
            };
            let bad = if matches!(content, Content::Unreadable) { Vec::new() } else { bad };
            blocks.push(Block { content, length: u32::try_from(bytes.len()).unwrap_or(0), bad });
        }
        let range = ByteRange::new(start, chunk.buffer.len() as u64);
        let contents = new.len();
        let frames = self.encode(new, &chunk.buffer, compression)?;
        Ok(WorkedChunk { range, blocks, contents, frames, bad: chunk.bad.clone() })
    }

    fn look_up<'b>(
        &mut self,
        block: BlockIndex,
        bytes: &'b [u8],
        new: &mut Vec<New<'b>>,
    ) -> Content {
        let digest = self.keys.block(bytes);
        if let Some(place) = self.stored.look_up(&digest, bytes.len() as u64) {
            return Content::Known(digest, place);
        }
        let beside = new.iter().position(|new| new.member.digest == digest);
        let number = beside.unwrap_or_else(|| {
            let member = Member { digest, length: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
            let delta = self.deltas.as_mut().and_then(|deltas| deltas.encode(block, member, bytes));
            new.push(New { member, bytes, delta });
            new.len() - 1
        });
        Content::New(digest, u8::try_from(number).expect("a chunk has at most 64 blocks"))
    }

    /// The deltas, and the frame of all else that is new, in the order on the disk.
    fn encode(
        &mut self,
        new: Vec<New<'_>>,
        chunk: &[u8],
        compression: Compression,
    ) -> Result<Vec<WorkedFrame>> {
        let (mut frames, mut members, mut contents) = (Vec::new(), Vec::new(), Vec::new());
        self.gathered.clear();
        let length: usize = new.iter().map(|new| new.bytes.len()).sum();
        let is_all = length == chunk.len() && new.iter().all(|new| new.delta.is_none());
        for (number, new) in (0..=u8::MAX).zip(new) {
            if let Some(bytes) = new.delta {
                frames.push(WorkedFrame { bytes, contents: vec![number] });
                continue;
            }
            members.push(new.member);
            contents.push(number);
            if !is_all {
                self.gathered.extend_from_slice(new.bytes);
            }
        }
        if !members.is_empty() {
            let content = if is_all { chunk } else { &self.gathered };
            let mut bytes = Vec::new();
            let members = (FrameKind::Block, members.as_slice());
            self.encoder.encode(members, content, compression, &mut bytes)?;
            frames.push(WorkedFrame { bytes, contents });
        }
        Ok(frames)
    }
}

/// The sectors of `block` that `bad` covers.
fn bad_sectors(block: ByteRange, bad: &[ByteRange]) -> Vec<BadSectors> {
    let inside = bad.iter().filter_map(|bad| bad.intersection(&block));
    let field = |sectors| u16::try_from(sectors).expect("a block has at most 2048 sectors");
    inside
        .map(|bad| {
            let first = (bad.start - block.start) / SECTOR;
            let end = (bad.end - block.start).div_ceil(SECTOR);
            BadSectors { first: field(first), count: field(end - first) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_ranges_become_the_sectors_of_their_block() {
        let block = ByteRange::new(131_072, 131_072);
        let bad = [ByteRange::new(100_000, 40_000), ByteRange::new(200_704, 512)];
        assert_eq!(
            bad_sectors(block, &bad),
            [BadSectors { first: 0, count: 18 }, BadSectors { first: 136, count: 1 }]
        );
        assert!(bad_sectors(ByteRange::new(0, 65_536), &bad).is_empty());
    }
}
