//! Reading contents by their places: a frame's members, and deltas against their bases.

use super::codec::{Decoder, check_digest};
use super::digest::{DigestKeys, PackId};
use super::frame::{Frame, FrameKind, Member, Place};
use super::node::StoredEntry;
use super::reader::FrameReader;
use crate::base::{Error, Result};

/// Reads contents of one kind, and keeps what it read last: a block's neighbours on the disk are
/// mostly in its frame, and a delta's base in its neighbours'. One for each thread.
pub struct ContentReader {
    kind: FrameKind,
    keys: DigestKeys,
    decoder: Decoder,
    bytes: Vec<u8>,
    /// The last frame that was no delta: of the content itself, or of a delta's base.
    whole: Decoded,
    delta: Decoded,
}

/// A frame's members.
#[derive(Default)]
struct Decoded {
    /// Pack and first byte; none when nothing whole is held.
    of: Option<(PackId, u32)>,
    members: Vec<Member>,
    content: Vec<u8>,
    /// Members that have the digest that they should have: a bit for each.
    checked: u64,
    /// What a delta is against.
    base: Option<StoredEntry>,
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
        let (whole, delta) = (Decoded::default(), Decoded::default());
        let decoder = Decoder::new(keys.clone());
        Self { kind, keys, decoder, bytes: Vec::new(), whole, delta }
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
        let of_delta = self.delta.is_of(&stored.place);
        let held = if of_delta { &mut self.delta } else { &mut self.whole };
        if self.kind == FrameKind::Block {
            held.check(stored, &self.keys).map_err(|error| error.within(stored.place))?;
        }
        held.member(stored)
    }

    /// What a delta against the content of `stored` is best made against: that content, or what
    /// it is itself a delta against, so that no delta ever stands on another.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn base(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<Base<'_>> {
        self.load(frames, stored)?;
        let (base, grown) = match self.delta.base {
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

    /// Sees to it that the frame of `stored` is held.
    fn load(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<()> {
        if self.delta.is_of(&stored.place) || self.whole.is_of(&stored.place) {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        let outcome = self.load_frame(frames, stored, &mut bytes);
        self.bytes = bytes;
        outcome.map_err(|error| error.within(stored.place))
    }

    fn load_frame(
        &mut self,
        frames: &FrameReader,
        stored: &StoredEntry,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        frames.frame(self.kind, &stored.place, bytes)?;
        let frame = Frame::open(bytes)?;
        frame.expect(self.kind, stored.place.member, &stored.digest)?;
        let Some(base) = &frame.base else {
            return self.whole.fill(&mut self.decoder, &frame, &[], &stored.place);
        };
        self.load_base(frames, base)?;
        let prefix = self.whole.member(base)?;
        self.delta.fill(&mut self.decoder, &frame, prefix, &stored.place)
    }

    /// Sees to it that the frame of a delta's base is held.
    fn load_base(&mut self, frames: &FrameReader, base: &StoredEntry) -> Result<()> {
        if self.whole.is_of(&base.place) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut load = || {
            frames.frame(self.kind, &base.place, &mut bytes)?;
            let frame = Frame::open(&bytes)?;
            frame.expect(self.kind, base.place.member, &base.digest)?;
            if frame.base.is_some() {
                return Err(Error::corrupt("frame", "no delta", "a delta"));
            }
            self.whole.fill(&mut self.decoder, &frame, &[], &base.place)
        };
        load().map_err(|error| error.within(format!("a delta's base, {}", base.place)))
    }
}

impl Decoded {
    fn is_of(&self, place: &Place) -> bool {
        self.of == Some((place.pack, place.offset))
    }

    fn fill(
        &mut self,
        decoder: &mut Decoder,
        frame: &Frame<'_>,
        prefix: &[u8],
        place: &Place,
    ) -> Result<()> {
        // Whatever fails, no half of a frame stays behind.
        self.of = None;
        decoder.expand(frame, prefix, &mut self.content)?;
        self.members.clone_from(&frame.members);
        self.checked = 0;
        self.base = frame.base;
        self.of = Some((place.pack, place.offset));
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

    fn member(&self, stored: &StoredEntry) -> Result<&[u8]> {
        let number = usize::from(stored.place.member);
        let found = self.members.get(number).filter(|member| member.digest == stored.digest);
        let length = |member: &Member| member.length as usize;
        let start: usize = self.members.iter().take(number).map(length).sum();
        found
            .and_then(|member| self.content.get(start..start + length(member)))
            .ok_or_else(|| Error::corrupt(stored.place, stored.digest, "another member"))
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
