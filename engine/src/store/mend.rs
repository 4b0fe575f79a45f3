//! Making a damaged frame's stored bytes again, exactly as they were published: from what is left
//! of them, from its contents, or from a copy. Whether they are the same is what the checksum in
//! the frame's header says; where that header is lost itself, they have to be as long, and to hold
//! what the pack's table says.

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Compression, Decoder, Encoder, check_digest};
use super::content::Base;
use super::digest::DigestKeys;
use super::frame::{
    Codec, Frame, FrameHeader, FrameKind, HEADER_LENGTH, MEMBER_LENGTH, Member, base_of,
};
use super::node::{Node, StoredEntry};
use super::pack::{self, HEADER_LENGTH as PACK_HEADER, TableEntry};
use super::salvage::{Found, scan};
use super::storage::ObjectReader;
use crate::base::limits::MAX_FLIPPED;
use crate::base::{Error, ErrorKind, Result};
use crate::sys::threads;

/// A frame as its pack's table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its first byte in the pack.
    pub offset: u32,
    /// Its header and stored bytes.
    pub length: u32,
    /// What it holds.
    pub kind: FrameKind,
    /// The contents.
    pub members: Vec<Member>,
}

impl Listed {
    /// The frames of a pack.
    #[must_use]
    pub fn all(table: &[TableEntry]) -> Vec<Self> {
        let frames = table.chunk_by(|one, next| one.offset == next.offset);
        let frames = frames.filter_map(|entries| entries.first().zip(Some(entries)));
        frames
            .map(|(first, entries)| Self {
                offset: first.offset,
                length: first.length,
                kind: first.kind,
                members: entries.iter().map(member).collect(),
            })
            .collect()
    }

    /// Bytes of all its contents.
    #[must_use]
    pub fn content_length(&self) -> u32 {
        self.members.iter().fold(0, |sum, member| sum.saturating_add(member.length))
    }

    /// Where it is in its pack's bytes.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        let start = self.offset as usize;
        start..start.saturating_add(self.length as usize)
    }
}

fn member(entry: &TableEntry) -> Member {
    Member { digest: entry.digest, length: entry.content_length }
}

/// The table of a pack in memory: its own, or if that is damaged the one that its frames make.
///
/// # Errors
/// `Corrupt` when neither can be had.
pub fn table_of(pack: &dyn ObjectReader) -> Result<Vec<TableEntry>> {
    let error = match pack::read_table(pack) {
        Ok(table) => return Ok(table),
        Err(error) => error,
    };
    let mut entries: Vec<TableEntry> = Vec::new();
    let mut at = PACK_HEADER as u64;
    let is_end = |at: u64, entries: &[TableEntry]| {
        !entries.is_empty() && at + pack::encode_end(entries, at).len() as u64 == pack.size()
    };
    let stop = || Error::new(ErrorKind::Invalid, "the frames' end");
    let scanned = scan(pack, pack.size(), None, &mut |found| {
        let offset = match &found {
            Found::Frame(offset, _) | Found::BadFrame(offset, ..) => u64::from(*offset),
            Found::Garbage(offset, _) => *offset,
        };
        if offset != at || is_end(at, &entries) {
            return Err(stop());
        }
        match found {
            Found::Frame(offset, frame) => entries.extend(TableEntry::of_frame(&frame, offset)),
            Found::BadFrame(offset, header, _) => {
                let mut bytes = vec![0; header.frame_length() as usize];
                pack.read_exact_at(u64::from(offset), &mut bytes)?;
                entries.extend(TableEntry::of_frame(&Frame::parse(&bytes)?, offset));
            }
            Found::Garbage(..) => return Err(stop()),
        }
        at = entries.last().map_or(at, TableEntry::end);
        Ok(())
    });
    match scanned {
        Err(other) if !matches!(other.kind(), ErrorKind::Invalid | ErrorKind::Corrupt) => {
            Err(other)
        }
        _ if is_end(at, &entries) => Ok(entries),
        _ => Err(error),
    }
}

/// Makes frames again. One for each thread.
pub struct Mender {
    keys: DigestKeys,
    encoder: Encoder,
    decoder: Decoder,
}

/// Values that a wrong byte is tried with, and a byte with a wrong bit.
const BYTES: u64 = 255;
const BITS: u64 = 8;

/// Whether so many `values` of each byte of a frame can be tried.
fn can_try(length: u64, values: u64) -> bool {
    length.saturating_mul(length).saturating_mul(values) <= MAX_FLIPPED
}

/// What a delta is against, by what the delta says of it.
pub type FindBase<'a> = dyn Fn(&StoredEntry) -> Option<Vec<u8>> + 'a;

impl Mender {
    /// One for frames whose digests are made with `keys`.
    #[must_use]
    pub fn new(keys: DigestKeys) -> Self {
        Self { encoder: Encoder::new(), decoder: Decoder::new(keys.clone()), keys }
    }

    /// The frame, if what is left of it (`remains`) lacks only what is known otherwise: its
    /// header, or its members' digests.
    pub fn make_of_remains(
        &mut self,
        listed: &Listed,
        remains: &[u8],
        base: &FindBase<'_>,
    ) -> Option<Vec<u8>> {
        if remains.len() != listed.length as usize {
            return None;
        }
        let mut bytes = remains.to_vec();
        write_members(&listed.members, &mut bytes)?;
        if let Some(header) = header_of(listed, remains) {
            return is_it(&header, &bytes).then_some(bytes);
        }
        [Codec::Zstd, Codec::Delta, Codec::Raw].into_iter().find_map(|codec| {
            let header = made_header(listed, codec, &bytes);
            bytes.get_mut(..HEADER_LENGTH)?.copy_from_slice(&header.encode());
            self.holds(listed, &bytes, base).then(|| bytes.clone())
        })
    }

    /// Whether it can be [guessed](Self::guess) in some seconds.
    #[must_use]
    pub fn may_guess(listed: &Listed) -> bool {
        can_try(u64::from(listed.length), BITS)
    }

    /// The frame, if what is left of it lacks only a bit, or, of a short one, a byte: nodes cannot
    /// be made from a disk's content.
    #[must_use]
    pub fn guess(listed: &Listed, remains: &[u8]) -> Option<Vec<u8>> {
        let header = header_of(listed, remains)?;
        let mut bytes = remains.to_vec();
        write_members(&listed.members, &mut bytes)?;
        let length = u64::from(listed.length);
        let values: Vec<u8> = if can_try(length, BYTES) {
            (1..=u8::MAX).collect()
        } else if can_try(length, BITS) {
            (0..8).map(|bit| 1 << bit).collect()
        } else {
            return None;
        };
        let stored = bytes.get(HEADER_LENGTH..)?;
        let found = threads::find_any(stored.len(), |place| {
            let mut tried = stored.to_vec();
            let right = *stored.get(place)?;
            values.iter().find_map(|value| {
                *tried.get_mut(place)? = right ^ value;
                (xxh3_64(&tried) == header.stored_checksum).then_some((place, right ^ value))
            })
        });
        let (place, value) = found?;
        *bytes.get_mut(HEADER_LENGTH + place)? = value;
        Some(bytes)
    }

    /// The frame, if a copy of it is the same.
    #[must_use]
    pub fn take_copy(&mut self, listed: &Listed, remains: &[u8], copy: Vec<u8>) -> Option<Vec<u8>> {
        let frame = Frame::open(&copy).ok()?;
        let is_same = copy.len() == listed.length as usize
            && (frame.header.kind, &frame.members) == (listed.kind, &listed.members)
            && header_of(listed, remains).is_none_or(|header| header == frame.header);
        is_same.then_some(copy)
    }

    /// The frame, made again from its `content` in each way that it may have been made.
    pub fn make_of_content(
        &mut self,
        listed: &Listed,
        (remains, content): (&[u8], &[u8]),
        base: &FindBase<'_>,
    ) -> Option<Vec<u8>> {
        if content.len() != listed.content_length() as usize {
            return None;
        }
        let header = header_of(listed, remains);
        let codec = header.map(|header| header.codec);
        let is_right = |bytes: &Vec<u8>| {
            let is_as_long = bytes.len() == listed.length as usize;
            is_as_long && header.is_none_or(|header| is_it(&header, bytes))
        };
        let is_right = |mender: &mut Self, bytes: &Vec<u8>| {
            is_right(bytes) && (header.is_some() || mender.holds(listed, bytes, base))
        };
        if codec.is_none_or(|codec| codec == Codec::Delta)
            && let Some(bytes) = self.delta(listed, (remains, content), base)
            && is_right(self, &bytes)
        {
            return Some(bytes);
        }
        if codec == Some(Codec::Delta) {
            return None;
        }
        let steps = (0..Compression::STEPS).map(Compression::Step);
        let levels = (1..=19).map(Compression::Level);
        let ways = [Compression::Off, Compression::Level(3)].into_iter().chain(steps).chain(levels);
        ways.filter(|way| codec != Some(Codec::Raw) || *way == Compression::Off).find_map(|way| {
            let mut bytes = Vec::new();
            let members = (listed.kind, listed.members.as_slice());
            self.encoder.encode(members, content, way, &mut bytes).ok()?;
            is_right(self, &bytes).then_some(bytes)
        })
    }

    fn delta(
        &mut self,
        listed: &Listed,
        (remains, content): (&[u8], &[u8]),
        base: &FindBase<'_>,
    ) -> Option<Vec<u8>> {
        let [member] = listed.members.as_slice() else { return None };
        let stored = base_of(remains.get(HEADER_LENGTH + MEMBER_LENGTH..)?).ok()?;
        let of_base = base(&stored)?;
        let against = Base { stored, content: &of_base, grown: 0 };
        let (kind, mut bytes) = ((listed.kind, *member), Vec::new());
        let made = self.encoder.encode_delta(kind, content, &against, &mut bytes).ok()?;
        made.then_some(bytes)
    }

    /// Whether a frame is sound, and its contents are those of the table.
    fn holds(&mut self, listed: &Listed, bytes: &[u8], base: &FindBase<'_>) -> bool {
        let mut check = || -> Result<()> {
            let frame = Frame::open(bytes)?;
            let none = || Error::new(ErrorKind::NotFound, "a delta's base");
            let prefix = match &frame.base {
                Some(stored) => base(stored).ok_or_else(none)?,
                None => Vec::new(),
            };
            let mut content = Vec::new();
            if listed.kind == FrameKind::Block {
                return self.decoder.decode_blocks(&frame, &prefix, &mut content);
            }
            self.decoder.expand(&frame, &prefix, &mut content)?;
            let digest = match listed.kind {
                FrameKind::Node => Node::decode(&content)?.digest(&self.keys),
                _ => self.keys.manifest(&content),
            };
            listed.members.iter().try_for_each(|member| check_digest(member.digest, digest))
        };
        check().is_ok()
    }
}

/// The header in `remains`, if it is sound and the one of this frame.
fn header_of(listed: &Listed, remains: &[u8]) -> Option<FrameHeader> {
    let header = FrameHeader::decode(remains.get(..HEADER_LENGTH)?).ok()?;
    let is_this = (header.kind, header.frame_length(), header.content_length)
        == (listed.kind, listed.length, listed.content_length())
        && usize::from(header.members) == listed.members.len();
    is_this.then_some(header)
}

fn made_header(listed: &Listed, codec: Codec, bytes: &[u8]) -> FrameHeader {
    let stored = bytes.get(HEADER_LENGTH..).unwrap_or_default();
    FrameHeader {
        kind: listed.kind,
        codec,
        members: u16::try_from(listed.members.len()).unwrap_or(u16::MAX),
        stored_length: u32::try_from(stored.len()).unwrap_or(u32::MAX),
        content_length: listed.content_length(),
        stored_checksum: xxh3_64(stored),
    }
}

/// Whether these bytes are what the header was made for.
fn is_it(header: &FrameHeader, bytes: &[u8]) -> bool {
    bytes.get(..HEADER_LENGTH) == Some(&header.encode()[..])
        && bytes.get(HEADER_LENGTH..).map(xxh3_64) == Some(header.stored_checksum)
}

fn write_members(members: &[Member], frame: &mut [u8]) -> Option<()> {
    let list = frame.get_mut(HEADER_LENGTH..HEADER_LENGTH + members.len() * MEMBER_LENGTH)?;
    for (member, place) in members.iter().zip(list.chunks_mut(MEMBER_LENGTH)) {
        let (digest, length) = place.split_at_mut(member.digest.0.len());
        digest.copy_from_slice(&member.digest.0);
        length.copy_from_slice(&member.length.to_le_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::PackId;
    use crate::store::frame::Place;

    fn keys() -> DigestKeys {
        DigestKeys::derive(&[7; 32])
    }

    fn text(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|place| (place / 7 % 200) as u8 ^ (place % 11) as u8 ^ seed).collect()
    }

    fn listed(frame: &[u8]) -> Listed {
        let opened = Frame::open(frame).expect("sound");
        let table: Vec<TableEntry> = TableEntry::of_frame(&opened, 48).collect();
        Listed::all(&table).remove(0)
    }

    fn blocks(content: &[u8], compression: Compression) -> Vec<u8> {
        let members: Vec<Member> = content
            .chunks(16_384)
            .map(|part| Member { digest: keys().block(part), length: part.len() as u32 })
            .collect();
        let mut frame = Vec::new();
        let members = (FrameKind::Block, members.as_slice());
        Encoder::new().encode(members, content, compression, &mut frame).expect("encodes");
        frame
    }

    #[test]
    fn a_frame_is_made_again_from_its_content_however_it_was_compressed() {
        let content = text(1, 200_000);
        let levels = [1, 2, 3, 4, 7, 12, 19].map(Compression::Level);
        let steps = (0..Compression::STEPS).map(Compression::Step);
        let mut mender = Mender::new(keys());
        for compression in [Compression::Off].into_iter().chain(levels).chain(steps) {
            let frame = blocks(&content, compression);
            let listed = listed(&frame);
            let mut remains = frame.clone();
            let end = remains.len();
            remains[end / 2..].fill(0x5a);
            let made = mender.make_of_content(&listed, (&remains, &content), &|_| None);
            assert_eq!(made.as_ref(), Some(&frame), "{compression:?}");
            let other = text(2, content.len());
            assert_eq!(mender.make_of_content(&listed, (&remains, &other), &|_| None), None);
        }
    }

    #[test]
    fn a_lost_header_or_list_of_members_is_made_again_without_the_content() {
        let frame = blocks(&text(3, 100_000), Compression::Level(3));
        let listed = listed(&frame);
        let mut mender = Mender::new(keys());
        for lost in [0..HEADER_LENGTH, HEADER_LENGTH..HEADER_LENGTH + 70, 5..6, 17..18] {
            let mut remains = frame.clone();
            remains[lost.clone()].fill(0xee);
            let made = mender.make_of_remains(&listed, &remains, &|_| None);
            assert_eq!(made.as_ref(), Some(&frame), "{lost:?}");
        }
        let mut remains = frame.clone();
        remains[2000..2100].fill(0);
        assert_eq!(mender.make_of_remains(&listed, &remains, &|_| None), None);
    }

    #[test]
    fn a_wrong_byte_of_a_short_frame_is_found_without_anything_else() {
        let frame = blocks(&text(4, 700), Compression::Level(3));
        let listed = listed(&frame);
        let mut mender = Mender::new(keys());
        for place in
            (HEADER_LENGTH + MEMBER_LENGTH..frame.len()).step_by(37).chain([frame.len() - 1])
        {
            let mut remains = frame.clone();
            remains[place] = remains[place].wrapping_add(99);
            assert_eq!(mender.make_of_remains(&listed, &remains, &|_| None), None);
            assert_eq!(Mender::guess(&listed, &remains).as_ref(), Some(&frame), "byte {place}");
        }
    }

    #[test]
    fn a_delta_is_made_again_from_its_content_and_its_base() {
        let before = text(5, 131_072);
        let mut after = before.clone();
        after[70_000..70_100].fill(9);
        let place = Place { pack: PackId([3; 16]), offset: 48, length: 99, member: 1 };
        let stored = StoredEntry { digest: keys().block(&before), place };
        let member = Member { digest: keys().block(&after), length: after.len() as u32 };
        let mut frame = Vec::new();
        let base = Base { stored, content: &before, grown: 0 };
        let kind = (FrameKind::Block, member);
        assert!(Encoder::new().encode_delta(kind, &after, &base, &mut frame).expect("valid"));
        let listed = listed(&frame);
        let mut remains = frame.clone();
        let end = remains.len();
        remains[end - 3..].fill(1);
        let find = |wanted: &StoredEntry| (*wanted == stored).then(|| before.clone());
        let mut mender = Mender::new(keys());
        assert_eq!(
            mender.make_of_content(&listed, (&remains, &after), &find).as_ref(),
            Some(&frame)
        );
        assert_eq!(mender.make_of_content(&listed, (&remains, &after), &|_| None), None);
    }
}
