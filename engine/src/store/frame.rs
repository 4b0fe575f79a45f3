//! A frame: what is compressed and checked as one piece, self-describing. It holds one tree node,
//! one manifest copy, or up to 1 MiB of blocks that were new together, each with its own digest.
//!
//! Layout, little-endian (FORMAT.md, "Frame"):
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | magic `IMGF` |
//! | 4 | 1 | kind |
//! | 5 | 1 | codec |
//! | 6 | 2 | members, 1 to 64 |
//! | 8 | 4 | `stored_length`: bytes after this header |
//! | 12 | 4 | `content_length`: bytes of all members once decoded |
//! | 16 | 8 | XXH3-64 of the stored bytes |
//! | 24 | 4 | zero |
//! | 28 | 4 | CRC32 of bytes 0 to 27 |
//!
//! The stored bytes are, for each member, its digest (32) and its length (4), then of a delta its
//! base (digest, pack, offset, length, member: 57), then the payload.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use super::digest::{Digest, PackId};
use super::node::StoredEntry;
use crate::base::bytes::{FieldReader, to_hex};
use crate::base::limits::{MAX_BLOCK_SIZE, MAX_FRAME_MEMBERS, MAX_MANIFEST_SIZE, MAX_NODE_SIZE};
use crate::base::{Error, Result};

/// Bytes of a frame's header.
pub const HEADER_LENGTH: usize = HEADER_FIELD as usize;
/// Bytes that each member takes before the payload.
pub const MEMBER_LENGTH: usize = 36;
/// Bytes that a delta's base takes before the payload.
pub const BASE_LENGTH: usize = 57;

const HEADER_FIELD: u32 = 32;
pub(super) const MAGIC: [u8; 4] = *b"IMGF";

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Blocks of a disk.
    Block,
    /// A tree's node.
    Node,
    /// A copy of an image's manifest, from which a lost one is salvaged.
    Manifest,
}

impl FrameKind {
    /// Its number in headers and tables.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Block => 1,
            Self::Node => 2,
            Self::Manifest => 3,
        }
    }

    /// The kind with this number.
    ///
    /// # Errors
    /// `Corrupt` for another number.
    pub fn from_code(code: u8) -> Result<Self> {
        match code {
            1 => Ok(Self::Block),
            2 => Ok(Self::Node),
            3 => Ok(Self::Manifest),
            _ => Err(Error::corrupt("frame kind", "1, 2 or 3", code)),
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Node => "node",
            Self::Manifest => "manifest",
        }
    }

    /// The longest content of a frame of this kind, bytes.
    #[must_use]
    pub fn max_content(self) -> usize {
        match self {
            Self::Block => MAX_BLOCK_SIZE as usize,
            Self::Node => MAX_NODE_SIZE,
            Self::Manifest => usize::try_from(MAX_MANIFEST_SIZE).unwrap_or(usize::MAX),
        }
    }

    /// The most members of a frame of this kind.
    #[must_use]
    pub fn max_members(self) -> u16 {
        match self {
            Self::Block => MAX_FRAME_MEMBERS,
            Self::Node | Self::Manifest => 1,
        }
    }

    /// The longest frame of this kind, bytes.
    #[must_use]
    pub fn max_length(self) -> usize {
        HEADER_LENGTH + usize::from(self.max_members()) * MEMBER_LENGTH + self.max_content()
    }
}

/// How a frame's payload becomes its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// It is the content.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One zstd frame that has another content of the repository, the delta's base, as prefix.
    Delta,
}

impl Codec {
    fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Delta => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self> {
        match code {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::Delta),
            _ => Err(Error::newer(format!(
                "frame codec {code}: this version knows 0 (raw), 1 (zstd) and 2 (delta)"
            ))),
        }
    }
}

/// Where a content lies: its frame's pack, first byte and length there, header included, and
/// which member of the frame it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// The frame's first byte.
    pub offset: u32,
    /// The whole frame's bytes.
    pub length: u32,
    /// The member's number.
    pub member: u8,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pack {} at {} (+{}) member {}", self.pack, self.offset, self.length, self.member)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One content of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its digest.
    pub digest: Digest,
    /// Its length, bytes.
    pub length: u32,
}

/// A frame's header, verified by its CRC32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it holds.
    pub kind: FrameKind,
    /// How it is stored.
    pub codec: Codec,
    /// How many contents it holds.
    pub members: u16,
    /// Bytes after the header.
    pub stored_length: u32,
    /// Bytes of all members once decoded.
    pub content_length: u32,
    /// XXH3-64 of the stored bytes.
    pub stored_checksum: u64,
}

impl FrameHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind.code();
        bytes[5] = self.codec.code();
        bytes[6..8].copy_from_slice(&self.members.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.stored_length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.content_length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.stored_checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads and checks a header from the start of `bytes`.
    ///
    /// # Errors
    /// `Corrupt` for a wrong magic, checksum, kind or length; `Unsupported` for a codec of a
    /// later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = FieldReader::new("frame header", bytes);
        let magic: [u8; 4] = fields.array()?;
        if magic != MAGIC {
            return Err(Error::corrupt("frame magic", to_hex(&MAGIC), to_hex(&magic)));
        }
        let (kind, codec, members) = (fields.u8()?, fields.u8()?, fields.u16()?);
        let (stored_length, content_length) = (fields.u32()?, fields.u32()?);
        let stored_checksum = fields.u64()?;
        let (zero, checksum) = (fields.u32()?, fields.u32()?);
        let counted = crc32fast::hash(&bytes[..28]);
        if checksum != counted {
            return Err(Error::corrupt(
                "frame header CRC32",
                format!("{checksum:08x}"),
                format!("{counted:08x}"),
            ));
        }
        if zero != 0 {
            return Err(Error::newer("frame header: reserved bytes in use"));
        }
        let (kind, codec) = (FrameKind::from_code(kind)?, Codec::from_code(codec)?);
        let header = Self { kind, codec, members, stored_length, content_length, stored_checksum };
        header.check_lengths()?;
        Ok(header)
    }

    fn check_lengths(&self) -> Result<()> {
        let table = u64::from(self.members) * MEMBER_LENGTH as u64;
        let payload = u64::from(self.stored_length).checked_sub(table);
        let (max_members, base) = match self.codec {
            Codec::Delta => (1, BASE_LENGTH as u64),
            Codec::Raw | Codec::Zstd => (self.kind.max_members(), 0),
        };
        let sound = (1..=max_members).contains(&self.members)
            && self.content_length as usize <= self.kind.max_content()
            && payload
                .is_some_and(|payload| (base..=u64::from(self.content_length)).contains(&payload));
        if sound {
            return Ok(());
        }
        Err(Error::corrupt(
            format!("{} frame's lengths", self.kind.name()),
            format!("at most {max_members} members of {} bytes", self.kind.max_content()),
            format!(
                "{} members, {} bytes stored, {} of content",
                self.members, self.stored_length, self.content_length
            ),
        ))
    }

    /// Header and stored bytes together.
    #[must_use]
    pub fn frame_length(&self) -> u32 {
        self.stored_length.saturating_add(HEADER_FIELD)
    }
}

/// A whole frame whose header, checksum and member list are sound. Its contents' digests are
/// checked when they are decoded.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// Its members, in order; their lengths add up to the header's.
    pub members: Vec<Member>,
    /// What a delta is against; no delta itself.
    pub base: Option<StoredEntry>,
    /// What decodes to the members' contents.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a frame from exactly its bytes.
    ///
    /// # Errors
    /// `Corrupt` naming what differs; `Unsupported` for a later version's.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let frame = Self::parse(bytes)?;
        let counted = xxh3_64(&bytes[HEADER_LENGTH..]);
        if counted != frame.header.stored_checksum {
            return Err(Error::corrupt(
                "stored bytes' XXH3",
                format!("{:016x}", frame.header.stored_checksum),
                format!("{counted:016x}"),
            ));
        }
        Ok(frame)
    }

    /// Reads a frame that was just made, without counting its checksum again.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let header = FrameHeader::decode(bytes)?;
        let stored = &bytes[HEADER_LENGTH..];
        if stored.len() != header.stored_length as usize {
            return Err(Error::corrupt("frame's length", header.stored_length, stored.len()));
        }
        let mut fields = FieldReader::new("frame's members", stored);
        let mut members = Vec::with_capacity(usize::from(header.members));
        for _ in 0..header.members {
            members.push(Member { digest: Digest(fields.array()?), length: fields.u32()? });
        }
        let total: u64 = members.iter().map(|member| u64::from(member.length)).sum();
        if total != u64::from(header.content_length) {
            return Err(Error::corrupt("members' lengths", header.content_length, total));
        }
        let base = match header.codec {
            Codec::Delta => Some(decode_base(&mut fields)?),
            Codec::Raw | Codec::Zstd => None,
        };
        let payload = fields.take(fields.remaining())?;
        Ok(Self { header, members, base, payload })
    }

    /// Checks that the frame holds what led here.
    ///
    /// # Errors
    /// `Corrupt` when kind or member differ.
    pub fn expect(&self, kind: FrameKind, member: u8, digest: &Digest) -> Result<()> {
        if self.header.kind != kind {
            return Err(Error::corrupt("frame's kind", kind.name(), self.header.kind.name()));
        }
        match self.members.get(usize::from(member)) {
            Some(found) if found.digest == *digest => Ok(()),
            Some(found) => Err(Error::corrupt("content's digest", digest, found.digest)),
            None => {
                Err(Error::corrupt("frame's members", u16::from(member) + 1, self.members.len()))
            }
        }
    }
}

/// What a delta says of its base, in what follows its member.
///
/// # Errors
/// `Corrupt` when there is too little.
pub fn base_of(bytes: &[u8]) -> Result<StoredEntry> {
    decode_base(&mut FieldReader::new("delta's base", bytes))
}

/// Appends a delta's base.
pub fn encode_base(base: &StoredEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(&base.digest.0);
    out.extend_from_slice(&base.place.pack.0);
    out.extend_from_slice(&base.place.offset.to_le_bytes());
    out.extend_from_slice(&base.place.length.to_le_bytes());
    out.push(base.place.member);
}

fn decode_base(fields: &mut FieldReader<'_>) -> Result<StoredEntry> {
    let (digest, pack) = (Digest(fields.array()?), PackId(fields.array()?));
    let (offset, length, member) = (fields.u32()?, fields.u32()?, fields.u8()?);
    Ok(StoredEntry { digest, place: Place { pack, offset, length, member } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut stored = Vec::new();
        for byte in [9_u8, 8] {
            stored.extend_from_slice(&[byte; 32]);
            stored.extend_from_slice(&4_u32.to_le_bytes());
        }
        stored.extend_from_slice(b"contents");
        let header = FrameHeader {
            kind: FrameKind::Block,
            codec: Codec::Raw,
            members: 2,
            stored_length: stored.len() as u32,
            content_length: 8,
            stored_checksum: xxh3_64(&stored),
        };
        [header.encode().to_vec(), stored].concat()
    }

    #[test]
    fn a_frame_reads_back() {
        let bytes = sample();
        let frame = Frame::open(&bytes).expect("sound");
        assert_eq!(frame.payload, b"contents");
        assert!(frame.expect(FrameKind::Block, 1, &Digest([8; 32])).is_ok());
        assert!(frame.expect(FrameKind::Block, 0, &Digest([8; 32])).is_err());
        assert!(frame.expect(FrameKind::Block, 2, &Digest([8; 32])).is_err());
        assert!(frame.expect(FrameKind::Node, 1, &Digest([8; 32])).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut bytes = sample();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::open(&bytes).is_err(), "bit {bit} went unnoticed");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert!(Frame::open(&bytes[..length]).is_err());
        }
    }
}
