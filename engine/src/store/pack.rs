//! A pack: a header, frames back to back, a table of them, a trailer. Immutable once named.
//!
//! Layout, little-endian (FORMAT.md, "Pack"). Header, 48 bytes: magic `IMGXPACK`, version `u16`,
//! zero `u16`, repository id (16), pack id (16), CRC32 of the 44 bytes before. Table entry, 48
//! bytes, for each member of each frame: kind `u8`, member `u8`, zero (2), offset `u32`, frame
//! length `u32`, content length `u32`, digest (32). Trailer, 48 bytes: magic `IMGXTABL`, table offset `u64`, entries `u32`, zero `u32`,
//! XXH3-64 of the table, pack length `u64`, zero `u32`, CRC32 of the 44 bytes before.

use xxhash_rust::xxh3::xxh3_64;

use super::digest::{Digest, PackId, RepositoryId};
use super::frame::{Frame, FrameKind, HEADER_LENGTH as FRAME_HEADER, Place};
use super::storage::{Folder, ObjectName, ObjectReader};
use crate::base::bytes::{FieldReader, to_hex};
use crate::base::limits::{MAX_FRAME_MEMBERS, MAX_PACK_ENTRIES, MAX_PACK_SIZE};
use crate::base::{Error, Result};

/// Bytes of a pack's header.
pub const HEADER_LENGTH: usize = 48;
/// Bytes of a pack's trailer.
pub const TRAILER_LENGTH: usize = 48;
/// Bytes of a table's entry.
pub const ENTRY_LENGTH: usize = 48;
/// Bytes of the longest pack.
pub const LONGEST: u64 = MAX_PACK_SIZE + (MAX_PACK_ENTRIES * ENTRY_LENGTH + TRAILER_LENGTH) as u64;

const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"IMGXPACK";
const TABLE_MAGIC: [u8; 8] = *b"IMGXTABL";
const SUFFIX: &str = ".pack";
const UNFINISHED_SUFFIX: &str = ".partial";

/// The name of a finished pack.
#[must_use]
pub fn object_name(id: PackId) -> ObjectName {
    ObjectName::new(Folder::Packs, format!("{id}{SUFFIX}"))
}

/// The name of a pack under construction.
#[must_use]
pub fn unfinished_name(id: PackId) -> ObjectName {
    ObjectName::new(Folder::Packs, format!("{id}{UNFINISHED_SUFFIX}"))
}

/// What a name in the packs' folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackName {
    /// A finished pack.
    Finished(PackId),
    /// One that its writer did not finish, or has not yet.
    Unfinished(PackId),
}

impl PackName {
    /// Reads a name; `None` for what is no pack.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(id) = name.strip_suffix(SUFFIX) {
            return PackId::from_hex(id).map(Self::Finished);
        }
        PackId::from_hex(name.strip_suffix(UNFINISHED_SUFFIX)?).map(Self::Unfinished)
    }
}

/// The header's bytes.
#[must_use]
pub fn encode_header(repository: RepositoryId, pack: PackId) -> [u8; HEADER_LENGTH] {
    let mut bytes = [0; HEADER_LENGTH];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..28].copy_from_slice(&repository.0);
    bytes[28..44].copy_from_slice(&pack.0);
    let checksum = crc32fast::hash(&bytes[..44]);
    bytes[44..48].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Checks a header: this version, this repository, this pack.
///
/// # Errors
/// `Corrupt` naming what differs; `Unsupported` for a later version.
pub fn check_header(bytes: &[u8], repository: RepositoryId, pack: PackId) -> Result<()> {
    let mut fields = FieldReader::new("pack header", bytes);
    let magic: [u8; 8] = fields.array()?;
    if magic != MAGIC {
        return Err(Error::corrupt("pack magic", to_hex(&MAGIC), to_hex(&magic)));
    }
    let (version, _zero) = (fields.u16()?, fields.u16()?);
    let (in_repository, in_pack) = (RepositoryId(fields.array()?), PackId(fields.array()?));
    check_crc("pack header CRC32", fields.u32()?, &bytes[..44])?;
    if version != VERSION {
        return Err(Error::newer(format!("pack version {version}: this version reads {VERSION}")));
    }
    if in_repository != repository {
        return Err(Error::corrupt("pack's repository", repository, in_repository));
    }
    if in_pack != pack { Err(Error::corrupt("pack's id", pack, in_pack)) } else { Ok(()) }
}

/// One member of a frame, as a pack's table says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableEntry {
    /// What the frame holds.
    pub kind: FrameKind,
    /// The member's number in its frame.
    pub member: u8,
    /// The frame's first byte in the pack.
    pub offset: u32,
    /// The frame's header and stored bytes.
    pub length: u32,
    /// The member's bytes once decoded.
    pub content_length: u32,
    /// The content's digest.
    pub digest: Digest,
}

impl TableEntry {
    /// The entries of a frame at `offset`.
    pub fn of_frame(frame: &Frame<'_>, offset: u32) -> impl Iterator<Item = Self> {
        let header = frame.header;
        (0..=u8::MAX).zip(&frame.members).map(move |(number, member)| Self {
            kind: header.kind,
            member: number,
            offset,
            length: header.frame_length(),
            content_length: member.length,
            digest: member.digest,
        })
    }

    /// The first byte behind the frame.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }

    /// The member's place in `pack`.
    #[must_use]
    pub fn place(&self, pack: PackId) -> Place {
        let Self { offset, length, member, .. } = *self;
        Place { pack, offset, length, member }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.code(), self.member, 0, 0]);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.content_length.to_le_bytes());
        out.extend_from_slice(&self.digest.0);
    }

    fn decode(fields: &mut FieldReader<'_>) -> Result<Self> {
        let [kind, member, zeros @ ..] = fields.array::<4>()?;
        if zeros != [0; 2] {
            return Err(fields.corrupt("zero bytes after the member", to_hex(&zeros)));
        }
        Ok(Self {
            kind: FrameKind::from_code(kind)?,
            member,
            offset: fields.u32()?,
            length: fields.u32()?,
            content_length: fields.u32()?,
            digest: Digest(fields.array()?),
        })
    }
}

/// The table and trailer that end a pack whose frames end at `offset`.
#[must_use]
pub fn encode_end(entries: &[TableEntry], offset: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_LENGTH + TRAILER_LENGTH);
    for entry in entries {
        entry.encode(&mut bytes);
    }
    let (table, checksum) = (bytes.len() as u64, xxh3_64(&bytes));
    let start = bytes.len();
    bytes.extend_from_slice(&TABLE_MAGIC);
    bytes.extend_from_slice(&offset.to_le_bytes());
    let count = u32::try_from(entries.len()).expect("a pack's frames are bounded");
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    let length = offset + table + TRAILER_LENGTH as u64;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let trailer_checksum = crc32fast::hash(&bytes[start..]);
    bytes.extend_from_slice(&trailer_checksum.to_le_bytes());
    bytes
}

/// Reads and checks a finished pack's table, entries in order of their offsets.
///
/// # Errors
/// `Corrupt` naming what differs; `Io`.
pub fn read_table(pack: &dyn ObjectReader) -> Result<Vec<TableEntry>> {
    let smallest = (HEADER_LENGTH + TRAILER_LENGTH) as u64;
    let Some(trailer_at) =
        pack.size().checked_sub(TRAILER_LENGTH as u64).filter(|_| pack.size() >= smallest)
    else {
        return Err(Error::corrupt("pack's length", format!("{smallest} or more"), pack.size()));
    };
    let mut trailer = [0; TRAILER_LENGTH];
    pack.read_exact_at(trailer_at, &mut trailer)?;
    let mut fields = FieldReader::new("pack trailer", &trailer);
    let magic: [u8; 8] = fields.array()?;
    if magic != TABLE_MAGIC {
        return Err(Error::corrupt("pack trailer's magic", to_hex(&TABLE_MAGIC), to_hex(&magic)));
    }
    let (offset, count, _zero) = (fields.u64()?, fields.u32()? as usize, fields.u32()?);
    let (checksum, length, _zero_too) = (fields.u64()?, fields.u64()?, fields.u32()?);
    check_crc("pack trailer CRC32", fields.u32()?, &trailer[..44])?;
    if length != pack.size() {
        return Err(Error::corrupt("pack's length", length, pack.size()));
    }
    let table_length = count.saturating_mul(ENTRY_LENGTH);
    if count > MAX_PACK_ENTRIES || offset.checked_add(table_length as u64) != Some(trailer_at) {
        return Err(Error::corrupt(
            "pack's table",
            format!("at most {MAX_PACK_ENTRIES} entries up to byte {trailer_at}"),
            format!("{count} entries from byte {offset}"),
        ));
    }
    let mut table = vec![0; table_length];
    pack.read_exact_at(offset, &mut table)?;
    let counted = xxh3_64(&table);
    if counted != checksum {
        return Err(Error::corrupt(
            "pack table's XXH3",
            format!("{checksum:016x}"),
            format!("{counted:016x}"),
        ));
    }
    decode_table(&table, offset)
}

fn decode_table(table: &[u8], end: u64) -> Result<Vec<TableEntry>> {
    let mut fields = FieldReader::new("pack table", table);
    let mut entries = Vec::with_capacity(table.len() / ENTRY_LENGTH);
    let mut expected = HEADER_LENGTH as u64;
    while fields.remaining() > 0 {
        let entry = TableEntry::decode(&mut fields)?;
        let next_member = entries.last().is_some_and(|last: &TableEntry| {
            let same_frame = (last.kind, last.offset, last.length);
            same_frame == (entry.kind, entry.offset, entry.length)
                && last.member.checked_add(1) == Some(entry.member)
        });
        let next_frame = entry.member == 0 && u64::from(entry.offset) == expected;
        if !(next_member || next_frame) || (entry.length as usize) < FRAME_HEADER {
            return Err(fields.corrupt(format!("a frame at {expected}"), entry.offset));
        }
        expected = entry.end();
        entries.push(entry);
    }
    if expected != end {
        return Err(Error::corrupt("pack table's frames", format!("an end at {end}"), expected));
    }
    Ok(entries)
}

/// Whether a pack of `length` bytes and `entries` entries has room for a frame of `more` bytes.
#[must_use]
pub fn has_room(length: u64, entries: usize, more: u64) -> bool {
    let most_entries = MAX_PACK_ENTRIES - usize::from(MAX_FRAME_MEMBERS);
    entries <= most_entries && length.saturating_add(more) <= MAX_PACK_SIZE
}

fn check_crc(place: &str, stored: u32, bytes: &[u8]) -> Result<()> {
    let counted = crc32fast::hash(bytes);
    if stored == counted {
        return Ok(());
    }
    Err(Error::corrupt(place, format!("{stored:08x}"), format!("{counted:08x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl ObjectReader for Bytes {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            let start = offset as usize;
            buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
            Ok(())
        }
    }

    fn sample() -> (Vec<TableEntry>, Vec<u8>) {
        let (repository, id) = (RepositoryId([1; 16]), PackId([2; 16]));
        let mut bytes = encode_header(repository, id).to_vec();
        let mut entries = Vec::new();
        for length in [100_u32, 64, 70] {
            for member in 0..2 {
                entries.push(TableEntry {
                    kind: FrameKind::Block,
                    member,
                    offset: bytes.len() as u32,
                    length,
                    content_length: 500,
                    digest: Digest([length as u8; 32]),
                });
            }
            bytes.resize(bytes.len() + length as usize, 0xee);
        }
        let end = encode_end(&entries, bytes.len() as u64);
        bytes.extend_from_slice(&end);
        (entries, bytes)
    }

    #[test]
    fn a_table_reads_back() {
        let (entries, bytes) = sample();
        assert_eq!(read_table(&Bytes(bytes)).expect("valid"), entries);
    }

    #[test]
    fn every_flipped_bit_of_header_table_and_trailer_is_noticed() {
        let (_, bytes) = sample();
        let table_start = HEADER_LENGTH + 234;
        for place in (0..HEADER_LENGTH).chain(table_start..bytes.len()) {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1 << bit;
                let header = check_header(&damaged, RepositoryId([1; 16]), PackId([2; 16]));
                let table = read_table(&Bytes(damaged));
                assert!(header.is_err() || table.is_err(), "byte {place} bit {bit}");
            }
        }
    }

    #[test]
    fn a_truncated_pack_is_no_pack() {
        let (_, bytes) = sample();
        for length in 0..bytes.len() {
            assert!(read_table(&Bytes(bytes[..length].to_vec())).is_err());
        }
    }
}
