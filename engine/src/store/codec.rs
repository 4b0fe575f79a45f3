//! Turning contents into frames and back: compression, checksums, digests.

use std::io::Cursor;
use xxhash_rust::xxh3::xxh3_64;

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::content::Base;
use super::digest::{Digest, DigestKeys};
use super::frame::{
    Codec, Frame, FrameHeader, FrameKind, HEADER_LENGTH, MEMBER_LENGTH, Member, encode_base,
};
use crate::base::{Error, ErrorKind, Result};

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// A step of the ladder of tuned settings, from 0, the fastest.
    Step(usize),
    /// A plain zstd level, 1 to 19.
    Level(i32),
}

/// zstd's parameters, where they differ from those of its level; zero leaves the level's own.
#[derive(Debug, Clone, Copy)]
struct Settings {
    level: i32,
    hash_log: u32,
    chain_log: u32,
    min_match: u32,
}

/// Frames are up to 1 MiB, and every byte may refer to every earlier one.
const WINDOW_LOG: u32 = 20;
/// zstd's smallest window.
const MIN_WINDOW_LOG: u32 = 10;
/// A delta is mostly one long match after another: more than this finds nothing more.
const DELTA_LEVEL: i32 = 1;
/// What zstd's trained dictionaries begin with. Bytes that begin so are taken for one, unless
/// they are given as a prefix, for which a context must be made anew.
const DICTIONARY_MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();

/// The settings that automatic compression climbs while processors are idle, fastest first.
/// Measured on a Debian disk in frames of 1 MiB, against zstd's level 1 on blocks of 128 KiB:
/// 0.98, 0.97, 0.96, 0.945, 0.935 and 0.92 of its size, for 1.0, 1.06, 1.13, 1.4, 1.6 and 3.3
/// times its processor time. Negative levels, probes for incompressible content, dictionaries and
/// other match finders were tried and gave less for more.
const LADDER: [Settings; 6] = [
    Settings { level: 1, hash_log: 14, chain_log: 0, min_match: 7 },
    Settings { level: 1, hash_log: 14, chain_log: 0, min_match: 6 },
    Settings { level: 1, hash_log: 15, chain_log: 0, min_match: 6 },
    Settings { level: 3, hash_log: 15, chain_log: 14, min_match: 5 },
    Settings { level: 3, hash_log: 17, chain_log: 16, min_match: 5 },
    Settings { level: 5, hash_log: 0, chain_log: 0, min_match: 0 },
];

impl Compression {
    /// Steps of the ladder.
    pub const STEPS: usize = LADDER.len();
}

/// Makes frames. One for each thread; its context is reused.
pub struct Encoder {
    context: CCtx<'static>,
    current: Option<Compression>,
}

impl Encoder {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self { context: CCtx::create(), current: None }
    }

    /// Appends the frame of `content`, which `members` divide, to `out`, and returns its header.
    /// Content that does not shrink by a thirty-second is stored as it is.
    ///
    /// # Errors
    /// `Limit` for more than the kind's limits; `Invalid` for a level that zstd refuses.
    pub fn encode(
        &mut self,
        (kind, members): (FrameKind, &[Member]),
        content: &[u8],
        compression: Compression,
        out: &mut Vec<u8>,
    ) -> Result<FrameHeader> {
        let total: usize = members.iter().map(|member| member.length as usize).sum();
        assert_eq!(total, content.len(), "members must divide the content");
        if content.len() > kind.max_content() || members.len() > usize::from(kind.max_members()) {
            let (count, length) = (members.len(), content.len());
            return Err(Error::new(
                ErrorKind::Limit,
                format!("{} frame of {count} members and {length} bytes", kind.name()),
            ));
        }
        let start = out.len();
        out.reserve(HEADER_LENGTH + members.len() * MEMBER_LENGTH + content.len());
        out.resize(start + HEADER_LENGTH, 0);
        for member in members {
            out.extend_from_slice(&member.digest.0);
            out.extend_from_slice(&member.length.to_le_bytes());
        }
        let codec = self.append_payload(content, compression, out)?;
        Ok(seal((kind, codec, members.len()), content, &mut out[start..]))
    }

    /// Appends the frame of `content` as a delta against `base` to `out`. Returns false, and
    /// appends nothing, unless that takes at most half of the content and is worth it in the long
    /// run.
    ///
    /// # Errors
    /// `Limit` for more than the kind's limits; `Invalid` for what zstd refuses.
    pub fn encode_delta(
        &mut self,
        (kind, member): (FrameKind, Member),
        content: &[u8],
        base: &Base<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        if content.len() > kind.max_content() {
            let length = content.len();
            let context = format!("{} frame of {length} bytes", kind.name());
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let start = out.len();
        out.resize(start + HEADER_LENGTH, 0);
        out.extend_from_slice(&member.digest.0);
        out.extend_from_slice(&member.length.to_le_bytes());
        encode_base(&base.stored, out);
        let payload = out.len();
        let room = (content.len() / 2).saturating_sub(payload - start);
        out.resize(payload + room, 0);
        let compressed = self.compress_after(base.content, content, &mut out[payload..])?;
        let kept = compressed.map(|length| payload + length);
        let kept = kept.filter(|end| base.is_worth_keeping(content.len(), end - start));
        out.truncate(kept.unwrap_or(start));
        if kept.is_none() {
            return Ok(false);
        }
        seal((kind, Codec::Delta, 1), content, &mut out[start..]);
        Ok(true)
    }

    /// Compresses `content` as what follows `prefix`; none where that does not fit into `out`.
    fn compress_after(
        &mut self,
        prefix: &[u8],
        content: &[u8],
        out: &mut [u8],
    ) -> Result<Option<usize>> {
        if !prefix.starts_with(&DICTIONARY_MAGIC) {
            // An error says that it did not fit.
            return Ok(self.context.compress_using_dict(out, content, prefix, DELTA_LEVEL).ok());
        }
        // A context keeps such a prefix as long as it lives.
        let mut context = CCtx::create();
        let span = (content.len() + prefix.len()).next_power_of_two().trailing_zeros();
        let parameters = [
            CParameter::CompressionLevel(DELTA_LEVEL),
            CParameter::WindowLog(span.max(MIN_WINDOW_LOG)),
        ];
        parameters
            .into_iter()
            .try_for_each(|parameter| context.set_parameter(parameter).map(drop))
            .and_then(|()| context.ref_prefix(prefix).map(drop))
            .map_err(|code| Error::new(ErrorKind::Invalid, zstd_safe::get_error_name(code)))?;
        Ok(context.compress2(out, content).ok())
    }

    /// Appends `content` to `out`, compressed where that is worth it.
    fn append_payload(
        &mut self,
        content: &[u8],
        compression: Compression,
        out: &mut Vec<u8>,
    ) -> Result<Codec> {
        if self.current != Some(compression) {
            self.configure(compression)?;
        }
        let start = out.len();
        if compression != Compression::Off {
            let worthwhile = content.len() - content.len() / 32;
            // Compressed in place: a buffer between would cost a copy of all that is stored.
            let mut place = Cursor::new(&mut *out);
            place.set_position(start as u64);
            // An error says that it did not fit.
            if let Ok(length) = self.context.compress2(&mut place, content)
                && length <= worthwhile
            {
                return Ok(Codec::Zstd);
            }
        }
        out.truncate(start);
        out.extend_from_slice(content);
        Ok(Codec::Raw)
    }

    fn configure(&mut self, compression: Compression) -> Result<()> {
        let settings = match compression {
            Compression::Off => return Ok(()),
            Compression::Level(level) => {
                Settings { level, hash_log: 0, chain_log: 0, min_match: 0 }
            }
            Compression::Step(step) => LADDER[step.min(LADDER.len() - 1)],
        };
        let refused = |code| {
            let reason = zstd_safe::get_error_name(code);
            Error::new(ErrorKind::Invalid, format!("zstd level {}: {reason}", settings.level))
        };
        let context = &mut self.context;
        context.reset(ResetDirective::SessionAndParameters).map_err(refused)?;
        for parameter in [
            CParameter::CompressionLevel(settings.level),
            CParameter::WindowLog(WINDOW_LOG),
            CParameter::ChainLog(settings.chain_log),
            CParameter::HashLog(settings.hash_log),
            CParameter::MinMatch(settings.min_match),
        ] {
            context.set_parameter(parameter).map_err(refused)?;
        }
        self.current = Some(compression);
        Ok(())
    }
}

/// Writes the header of a frame whose stored bytes are complete.
fn seal(
    (kind, codec, members): (FrameKind, Codec, usize),
    content: &[u8],
    frame: &mut [u8],
) -> FrameHeader {
    let (place, stored) = frame.split_at_mut(HEADER_LENGTH);
    let header = FrameHeader {
        kind,
        codec,
        members: u16::try_from(members).unwrap_or(u16::MAX),
        stored_length: length_field(stored),
        content_length: length_field(content),
        stored_checksum: xxh3_64(stored),
    };
    place.copy_from_slice(&header.encode());
    header
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

fn length_field(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("frames are bounded by their kind's limit")
}

/// Reads frames. One for each thread; its context is reused.
pub struct Decoder {
    context: DCtx<'static>,
    keys: DigestKeys,
}

impl Decoder {
    /// A decoder that checks contents with `keys`.
    #[must_use]
    pub fn new(keys: DigestKeys) -> Self {
        Self { context: DCtx::create(), keys }
    }

    /// Decodes a frame's content into `content`, which is made its length. `prefix` is the
    /// content of a delta's base. The members' digests are not checked yet.
    ///
    /// # Errors
    /// `Corrupt` when the payload does not decode to exactly that much.
    pub fn expand(
        &mut self,
        frame: &Frame<'_>,
        prefix: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<()> {
        self.decode((&frame.header, frame.payload), prefix, content)
    }

    /// As [`expand`](Self::expand), of a frame's header and payload.
    ///
    /// # Errors
    /// As that.
    pub(super) fn decode(
        &mut self,
        (header, payload): (&FrameHeader, &[u8]),
        prefix: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<()> {
        let expected = header.content_length as usize;
        content.resize(expected, 0);
        let check_length = |decoded| match decoded {
            Ok(length) if length == expected => Ok(()),
            Ok(length) => Err(Error::corrupt("decoded length", expected, length)),
            Err(code) => Err(no_zstd(code)),
        };
        match header.codec {
            Codec::Raw if payload.len() == expected => {
                content.copy_from_slice(payload);
            }
            Codec::Raw => {
                return Err(Error::corrupt("raw payload's length", expected, payload.len()));
            }
            Codec::Zstd => {
                check_length(self.context.decompress(content.as_mut_slice(), payload))?;
            }
            Codec::Delta if prefix.starts_with(&DICTIONARY_MAGIC) => {
                let mut context = DCtx::create();
                let decoded = context
                    .ref_prefix(prefix)
                    .and_then(|_| context.decompress(content.as_mut_slice(), payload));
                check_length(decoded)?;
            }
            Codec::Delta => {
                let out = content.as_mut_slice();
                check_length(self.context.decompress_using_dict(out, payload, prefix))?;
            }
        }
        Ok(())
    }

    /// Decodes a frame of blocks, as [`expand`](Self::expand), and checks every member's digest.
    ///
    /// # Errors
    /// `Corrupt` naming what differs.
    pub fn decode_blocks(
        &mut self,
        frame: &Frame<'_>,
        prefix: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<()> {
        self.expand(frame, prefix, content)?;
        let mut rest = content.as_slice();
        for member in &frame.members {
            let (part, behind) = rest.split_at(member.length as usize);
            check_digest(member.digest, self.keys.block(part))?;
            rest = behind;
        }
        Ok(())
    }
}

fn no_zstd(code: usize) -> Error {
    Error::corrupt("payload", "a zstd frame", zstd_safe::get_error_name(code))
}

/// Decodes a frame of codec zstd step by step. What it gives is checked by its digest alone.
pub(super) struct Steps {
    context: DCtx<'static>,
    /// Bytes of the payload that were taken.
    taken: usize,
}

impl Steps {
    /// At no frame yet.
    pub(super) fn new() -> Self {
        let mut context = DCtx::create();
        // More would be of no use, and memory is taken for it.
        let limited = context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG));
        limited.expect("zstd knows this window");
        Self { context, taken: 0 }
    }

    /// Starts with another frame.
    pub(super) fn begin(&mut self) {
        let reset = self.context.reset(ResetDirective::SessionOnly);
        reset.expect("a session can always be ended");
        self.taken = 0;
    }

    /// Goes on with `payload` until `content` is full, of which `done` bytes are.
    ///
    /// # Errors
    /// `Corrupt` when the payload does not decode to so much.
    pub(super) fn decode(&mut self, payload: &[u8], content: &mut [u8], done: usize) -> Result<()> {
        let wanted = content.len();
        let mut input = InBuffer { src: payload, pos: self.taken };
        let mut output = OutBuffer::around_pos(content, done);
        while output.pos() < wanted {
            let before = (input.pos, output.pos());
            self.context.decompress_stream(&mut output, &mut input).map_err(no_zstd)?;
            if before == (input.pos, output.pos()) {
                return Err(Error::corrupt("decoded length", wanted, output.pos()));
            }
        }
        self.taken = input.pos;
        Ok(())
    }
}

/// Compares what led here with what is here.
///
/// # Errors
/// `Corrupt` when they differ.
pub fn check_digest(expected: Digest, found: Digest) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(Error::corrupt("content's digest", expected, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::PackId;
    use crate::store::frame::Place;
    use crate::store::node::StoredEntry;

    fn keys() -> DigestKeys {
        DigestKeys::derive(&[7; 32])
    }

    fn encode(content: &[u8], compression: Compression) -> Vec<u8> {
        let (front, back) = content.split_at(content.len() / 3);
        let members = [front, back]
            .map(|part| Member { digest: keys().block(part), length: part.len() as u32 });
        let mut frame = Vec::new();
        let header = Encoder::new()
            .encode((FrameKind::Block, &members), content, compression, &mut frame)
            .expect("encodes");
        assert_eq!(header.frame_length() as usize, frame.len());
        frame
    }

    fn decode(frame: &[u8]) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        Decoder::new(keys()).decode_blocks(&Frame::open(frame)?, &[], &mut content)?;
        Ok(content)
    }

    fn round_trip(content: &[u8], compression: Compression) -> usize {
        let frame = encode(content, compression);
        assert_eq!(decode(&frame).expect("decodes"), content);
        frame.len() - HEADER_LENGTH - 2 * MEMBER_LENGTH
    }

    #[test]
    fn every_setting_gives_the_content_back() {
        let text: Vec<u8> = (0..131_072_u32).map(|place| (place / 100 % 251) as u8).collect();
        for level in [1, 3, 19] {
            assert!(round_trip(&text, Compression::Level(level)) < text.len() / 4);
        }
        for step in 0..Compression::STEPS {
            assert!(round_trip(&text, Compression::Step(step)) < text.len() / 4);
        }
        assert_eq!(round_trip(&text, Compression::Off), text.len());
        round_trip(&[], Compression::Step(0));
        round_trip(&[5], Compression::Level(1));
    }

    #[test]
    fn incompressible_content_is_stored_as_it_is() {
        let noise: Vec<u8> = (0..4096_u32)
            .flat_map(|place| *blake3::hash(&place.to_le_bytes()).as_bytes())
            .collect();
        assert_eq!(round_trip(&noise, Compression::Level(3)), noise.len());
    }

    fn noise(length: usize, seed: u32) -> Vec<u8> {
        let words = (0..u32::try_from(length / 32).expect("short")).map(|place| (place, seed));
        words
            .flat_map(|(place, seed)| {
                *blake3::hash(&[place.to_le_bytes(), seed.to_le_bytes()].concat()).as_bytes()
            })
            .collect()
    }

    fn delta(content: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
        let place = Place { pack: PackId([3; 16]), offset: 48, length: 99, member: 1 };
        let base = StoredEntry { digest: keys().block(prefix), place };
        let member = Member { digest: keys().block(content), length: content.len() as u32 };
        let mut frame = b"before".to_vec();
        let against = Base { stored: base, content: prefix, grown: 0 };
        let kind = (FrameKind::Block, member);
        let is_delta =
            Encoder::new().encode_delta(kind, content, &against, &mut frame).expect("valid");
        assert_eq!(frame[..6], *b"before");
        assert_eq!(is_delta, frame.len() > 6);
        let frame = is_delta.then(|| frame[6..].to_vec())?;
        let opened = Frame::open(&frame).expect("sound");
        assert_eq!(opened.base, Some(base));
        let mut decoded = Vec::new();
        Decoder::new(keys()).decode_blocks(&opened, prefix, &mut decoded).expect("decodes");
        assert_eq!(decoded, content);
        let without = Decoder::new(keys()).decode_blocks(&opened, b"", &mut decoded);
        assert_eq!(without.is_err(), !prefix.is_empty());
        Some(frame)
    }

    #[test]
    fn one_changed_page_of_incompressible_content_is_stored_as_a_page() {
        let before = noise(128 << 10, 1);
        for place in [0, 40 << 10, 124 << 10] {
            let mut after = before.clone();
            after[place..place + 4096].copy_from_slice(&noise(4096, 2));
            let frame = delta(&after, &before).expect("a delta");
            assert!(frame.len() < 4096 + 300, "{} bytes for a page at {place}", frame.len());
        }
        assert_eq!(delta(&noise(128 << 10, 3), &before), None);
    }

    #[test]
    fn a_base_that_looks_like_a_trained_dictionary_is_none() {
        let mut before = noise(64 << 10, 1);
        before[..4].copy_from_slice(&DICTIONARY_MAGIC);
        let mut after = before.clone();
        after[5000] ^= 1;
        assert!(delta(&after, &before).expect("a delta").len() < 400);
        assert!(delta(&[0; 4096], &[]).is_some_and(|frame| frame.len() < 200));
        assert_eq!(delta(&[7; 100], &[]), None);
    }

    #[test]
    fn a_frame_decoded_step_by_step_is_the_same_as_far_as_it_goes() {
        let text: Vec<u8> = (0..1_u32 << 20).map(|place| (place / 100 % 251) as u8).collect();
        let content = [&noise(300_000 / 32 * 32, 1), &text[..700_000]].concat();
        for compression in [Compression::Step(0), Compression::Level(19)] {
            let bytes = encode(&content, compression);
            let frame = Frame::open(&bytes).expect("sound");
            assert_eq!(frame.header.codec, Codec::Zstd);
            let mut steps = Steps::new();
            for ends in [vec![1, 131_072, 131_073, content.len()], vec![400_000], vec![10, 20]] {
                let (mut decoded, mut done) = (vec![0; content.len()], 0);
                steps.begin();
                for end in ends {
                    steps.decode(frame.payload, &mut decoded[..end], done).expect("decodes");
                    assert_eq!(decoded[done..end], content[done..end]);
                    done = end;
                }
            }
            let cut = &frame.payload[..frame.payload.len() / 2];
            for payload in [cut, &bytes[..100], &[]] {
                steps.begin();
                assert!(steps.decode(payload, &mut vec![0; content.len()], 0).is_err());
            }
        }
    }

    #[test]
    fn content_that_is_not_its_digests_is_refused() {
        let members = [Member { digest: keys().block(b"one"), length: 3 }];
        let mut frame = Vec::new();
        Encoder::new()
            .encode((FrameKind::Block, &members), b"two", Compression::Off, &mut frame)
            .expect("encodes");
        assert!(decode(&frame).is_err());
    }
}
