//! Reading contents by their places: a frame's members, and deltas against their bases.

use super::codec::{Decoder, Steps, check_digest};
use super::digest::{DigestKeys, PackId};
use super::frame::{Codec, Frame, FrameHeader, FrameKind, Member, Place};
use super::node::StoredEntry;
use super::reader::FrameReader;
use crate::base::{Error, Result};

/// Reads contents of one kind, and keeps what it read last: a block's neighbours on the disk are
/// mostly in its frame, and a delta's base in its neighbours'. One for each thread.
pub struct ContentReader {
    kind: FrameKind,
    keys: DigestKeys,
    decoder: Decoder,
    /// Of the last whole frame, where no more of it is decoded than was asked for.
    steps: Option<Steps>,
    bytes: Vec<u8>,
    /// The last frame that was no delta: of the content itself, or of a delta's base.
    whole: Held,
    delta: Held,
}

/// A frame that was read.
#[derive(Default)]
struct Held {
    /// Pack and first byte; none when nothing of use is held.
    of: Option<(PackId, u32)>,
    parts: Option<Parts>,
    /// The frame.
    bytes: Vec<u8>,
    /// What is decoded of it; nothing of one that is stored as it is.
    content: Vec<u8>,
    decoded: usize,
    /// Members that have the digest that they should have: a bit for each.
    checked: u64,
}

/// What a frame says of itself.
struct Parts {
    header: FrameHeader,
    members: Vec<Member>,
    /// What a delta is against.
    base: Option<StoredEntry>,
    /// Where its payload begins.
    payload: usize,
}

/// What to make a delta against.
pub struct Base<'a> {
    /// Where it is; no delta itself.
    pub stored: StoredEntry,
    /// Its content.
    pub content: &'a [u8],
    /// Bytes of the delta against it that the version before takes; zero if that is the base.
    pub grown: usize,
}

impl Base<'_> {
    /// Whether one more delta is better than storing `content` bytes whole, when it takes `delta`
    /// bytes: deltas against one base grow, and what was spent on them since the base is best
    /// ended when it reaches what a new base costs.
    #[must_use]
    pub fn is_worth_keeping(&self, content: usize, delta: usize) -> bool {
        // Deltas that grew by equal steps to this one take half its square, over a step, in all.
        let step = delta.saturating_sub(self.grown).max(delta / 16).max(1);
        self.grown == 0 || delta.saturating_mul(delta) / step / 2 < content
    }
}

impl ContentReader {
    /// A reader of contents of `kind` whose digests are made with `keys`.
    #[must_use]
    pub fn new(kind: FrameKind, keys: DigestKeys) -> Self {
        let (whole, delta) = (Held::default(), Held::default());
        let decoder = Decoder::new(keys.clone());
        Self { kind, keys, decoder, steps: None, bytes: Vec::new(), whole, delta }
    }

    /// The same, which decodes frames no further than to what is asked for. For contents here and
    /// there: reading a frame's members one after another is slower this way.
    #[must_use]
    pub fn sparing(mut self) -> Self {
        self.steps = Some(Steps::new());
        self
    }

    /// Whether the frame of `stored` is held already.
    #[must_use]
    pub fn holds(&self, stored: &StoredEntry) -> bool {
        self.whole.is_of(&stored.place) || self.delta.is_of(&stored.place)
    }

    /// The content of `stored`. Blocks are checked against their digest; whoever asks for
    /// another kind checks what it decodes to.
    ///
    /// # Errors
    /// `Corrupt` with the place when anything differs; `Io`.
    pub fn read(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<&[u8]> {
        self.load(frames, stored)?;
        let checked = self.check(stored);
        frames.marking(&stored.place, checked)?;
        let of_delta = self.delta.is_of(&stored.place);
        let held = if of_delta { &self.delta } else { &self.whole };
        held.member(stored)
    }

    /// Checks the digest of a block, whose content is held.
    fn check(&mut self, stored: &StoredEntry) -> Result<()> {
        let of_delta = self.delta.is_of(&stored.place);
        let held = if of_delta { &mut self.delta } else { &mut self.whole };
        if self.kind == FrameKind::Block {
            held.check(stored, &self.keys).map_err(|error| error.within(stored.place))?;
        }
        Ok(())
    }

    /// What a delta against the content of `stored` is best made against: that content, or what
    /// it is itself a delta against, so that no delta ever stands on another.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn base(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<Base<'_>> {
        self.load(frames, stored)?;
        let base = self.delta.parts.as_ref().and_then(|parts| parts.base);
        let (base, grown) = match base {
            Some(base) if self.delta.is_of(&stored.place) => (base, stored.place.length as usize),
            _ => (*stored, 0),
        };
        Ok(Base { stored: base, content: self.read(frames, &base)?, grown })
    }

    /// Decodes a frame that was read elsewhere, and checks it as [`read`](Self::read) does.
    ///
    /// # Errors
    /// `Corrupt` when anything differs; `Io`.
    pub fn expand(
        &mut self,
        frames: &FrameReader,
        frame: &Frame<'_>,
        content: &mut Vec<u8>,
    ) -> Result<()> {
        let prefix = match &frame.base {
            Some(base) => {
                self.load_base(frames, base)?;
                self.whole.member(base)?
            }
            None => &[],
        };
        match self.kind {
            FrameKind::Block => self.decoder.decode_blocks(frame, prefix, content),
            FrameKind::Node | FrameKind::Manifest => self.decoder.expand(frame, prefix, content),
        }
    }

    /// Checks what a frame that was read elsewhere is a delta against, if it is one.
    ///
    /// # Errors
    /// `Corrupt` when that is missing or not sound; `Io`.
    pub fn check_base(&mut self, frames: &FrameReader, frame: &Frame<'_>) -> Result<()> {
        let Some(base) = &frame.base else { return Ok(()) };
        self.load_base(frames, base)?;
        self.whole.member(base).map(drop)
    }

    /// Sees to it that the content of `stored` is held.
    fn load(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<()> {
        let outcome = if self.delta.is_of(&stored.place) {
            Ok(())
        } else if self.whole.is_of(&stored.place) {
            self.decode_whole(stored)
        } else {
            self.load_frame(frames, stored)
        };
        frames.marking(&stored.place, outcome).map_err(|error| error.within(stored.place))
    }

    fn load_frame(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<()> {
        let parts = self.fetch(frames, stored)?;
        let Some(base) = parts.base else {
            self.whole.take(parts, &mut self.bytes, &stored.place);
            return self.decode_whole(stored);
        };
        self.delta.take(parts, &mut self.bytes, &stored.place);
        let outcome = self.load_base(frames, &base).and_then(|()| {
            let prefix = self.whole.member(&base)?;
            self.delta.decode(&mut self.decoder, prefix)
        });
        self.delta.keep_if(outcome)
    }

    /// Sees to it that the content of a delta's base is held.
    fn load_base(&mut self, frames: &FrameReader, base: &StoredEntry) -> Result<()> {
        let mut load = || {
            if !self.whole.is_of(&base.place) {
                let parts = self.fetch(frames, base)?;
                if parts.base.is_some() {
                    return Err(Error::corrupt("frame", "no delta", "a delta"));
                }
                self.whole.take(parts, &mut self.bytes, &base.place);
            }
            self.decode_whole(base)
        };
        let loaded = frames.marking(&base.place, load());
        loaded.map_err(|error| error.within(format!("a delta's base, {}", base.place)))
    }

    /// Reads the frame of `stored` into `bytes`.
    fn fetch(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<Parts> {
        frames.frame(self.kind, &stored.place, &mut self.bytes)?;
        let Frame { header, members, base, payload } = {
            let frame = Frame::open(&self.bytes)?;
            frame.expect(self.kind, stored.place.member, &stored.digest)?;
            frame
        };
        Ok(Parts { header, members, base, payload: self.bytes.len() - payload.len() })
    }

    /// Decodes the whole frame, or as far as the content of `stored` reaches.
    fn decode_whole(&mut self, stored: &StoredEntry) -> Result<()> {
        let outcome = match &mut self.steps {
            Some(steps) => self.whole.decode_to(stored, steps),
            None => self.whole.decode(&mut self.decoder, &[]),
        };
        self.whole.keep_if(outcome)
    }
}

impl Held {
    fn is_of(&self, place: &Place) -> bool {
        self.of == Some((place.pack, place.offset))
    }

    /// Takes the frame in `bytes`, of which nothing is decoded yet.
    fn take(&mut self, parts: Parts, bytes: &mut Vec<u8>, place: &Place) {
        std::mem::swap(&mut self.bytes, bytes);
        let length = parts.header.content_length as usize;
        // A frame that is stored as it is needs no other memory.
        self.decoded = if parts.header.codec == Codec::Raw { length } else { 0 };
        (self.of, self.parts, self.checked) = (Some((place.pack, place.offset)), Some(parts), 0);
    }

    /// Whatever fails, no half of a frame stays behind.
    fn keep_if(&mut self, outcome: Result<()>) -> Result<()> {
        outcome.inspect_err(|_| self.of = None)
    }

    /// Decodes all that is not decoded yet, if anything.
    fn decode(&mut self, decoder: &mut Decoder, prefix: &[u8]) -> Result<()> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let length = parts.header.content_length as usize;
        if self.decoded < length || parts.header.codec == Codec::Delta {
            let payload = self.bytes.get(parts.payload..).unwrap_or_default();
            decoder.decode((&parts.header, payload), prefix, &mut self.content)?;
            self.decoded = length;
        }
        Ok(())
    }

    /// Decodes what is not decoded yet up to the end of `stored`.
    fn decode_to(&mut self, stored: &StoredEntry, steps: &mut Steps) -> Result<()> {
        let end = self.place_of(stored).map_or(0, |place| place.end);
        let Some(parts) = self.parts.as_ref().filter(|_| self.decoded < end) else { return Ok(()) };
        if self.decoded == 0 {
            steps.begin();
            self.content.resize(parts.header.content_length as usize, 0);
        }
        let payload = self.bytes.get(parts.payload..).unwrap_or_default();
        let content = self.content.get_mut(..end).unwrap_or_default();
        steps.decode(payload, content, self.decoded)?;
        self.decoded = end;
        Ok(())
    }

    /// Checks a member's digest, once: of a delta's base only the delta's own says all.
    fn check(&mut self, stored: &StoredEntry, keys: &DigestKeys) -> Result<()> {
        let bit = 1_u64.checked_shl(stored.place.member.into()).unwrap_or(0);
        if self.checked & bit == 0 {
            check_digest(stored.digest, keys.block(self.member(stored)?))?;
            self.checked |= bit;
        }
        Ok(())
    }

    /// Where `stored` is in the content; none if it is no member.
    fn place_of(&self, stored: &StoredEntry) -> Option<std::ops::Range<usize>> {
        let members = &self.parts.as_ref()?.members;
        let number = usize::from(stored.place.member);
        let found = members.get(number).filter(|member| member.digest == stored.digest)?;
        let length = |member: &Member| member.length as usize;
        let start: usize = members.iter().take(number).map(length).sum();
        Some(start..start + length(found))
    }

    fn member(&self, stored: &StoredEntry) -> Result<&[u8]> {
        let content = match &self.parts {
            Some(parts) if parts.header.codec == Codec::Raw => self.bytes.get(parts.payload..),
            _ => self.content.get(..self.decoded),
        };
        let found = self.place_of(stored).and_then(|place| content?.get(place));
        found.ok_or_else(|| Error::corrupt(stored.place, stored.digest, "another member"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_are_ended_when_they_took_as_much_as_a_new_base() {
        let stored = StoredEntry {
            digest: crate::store::Digest([0; 32]),
            place: Place { pack: PackId([0; 16]), offset: 0, length: 0, member: 0 },
        };
        let keeps =
            |grown, delta| Base { stored, content: &[], grown }.is_worth_keeping(128 << 10, delta);
        assert!(keeps(0, 60 << 10) && keeps(4 << 10, 8 << 10) && keeps(24 << 10, 28 << 10));
        assert!(!keeps(32 << 10, 36 << 10) && !keeps(20 << 10, 20 << 10));
        assert!(keeps(300, 300) && keeps(1, 1) && keeps(1, 0));
    }
}
