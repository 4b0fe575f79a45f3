//! Reading contents by their places: a frame's members, and deltas against their bases.

use super::codec::Decoder;
use super::digest::{DigestKeys, PackId};
use super::frame::{Frame, FrameKind, Member, Place};
use super::node::StoredEntry;
use super::reader::FrameReader;
use crate::base::{Error, Result};

/// Reads contents of one kind, and keeps what it read last: a block's neighbours on the disk are
/// mostly in its frame, and a delta's base in its neighbours'. One for each thread.
pub struct ContentReader {
    kind: FrameKind,
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
    /// What a delta is against.
    base: Option<StoredEntry>,
}

impl ContentReader {
    /// A reader of contents of `kind` whose digests are made with `keys`.
    #[must_use]
    pub fn new(kind: FrameKind, keys: DigestKeys) -> Self {
        let (whole, delta) = (Decoded::default(), Decoded::default());
        Self { kind, decoder: Decoder::new(keys), bytes: Vec::new(), whole, delta }
    }

    /// The content of `stored`. Blocks are checked against their digest; whoever asks for
    /// another kind checks what it decodes to.
    ///
    /// # Errors
    /// `Corrupt` with the place when anything differs; `Io`.
    pub fn read(&mut self, frames: &FrameReader, stored: &StoredEntry) -> Result<&[u8]> {
        self.load(frames, stored)?;
        let held = if self.delta.is_of(&stored.place) { &self.delta } else { &self.whole };
        held.member(stored)
    }

    /// What a delta against the content of `stored` is best made against: that content, or what
    /// it is itself a delta against, so that no delta ever stands on another.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn base(
        &mut self,
        frames: &FrameReader,
        stored: &StoredEntry,
    ) -> Result<(StoredEntry, &[u8])> {
        self.load(frames, stored)?;
        let base = match self.delta.base {
            Some(base) if self.delta.is_of(&stored.place) => base,
            _ => *stored,
        };
        Ok((base, self.read(frames, &base)?))
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
        decode(self.kind, &mut self.decoder, frame, prefix, content)
    }

    /// Checks what a frame that was read elsewhere is a delta against, if it is one.
    ///
    /// # Errors
    /// `Corrupt` when that is missing or not sound; `Io`.
    pub fn check_base(&mut self, frames: &FrameReader, frame: &Frame<'_>) -> Result<()> {
        frame.base.as_ref().map_or(Ok(()), |base| self.load_base(frames, base))
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
            return self.whole.fill(self.kind, &mut self.decoder, &frame, &[], &stored.place);
        };
        self.load_base(frames, base)?;
        let prefix = self.whole.member(base)?;
        self.delta.fill(self.kind, &mut self.decoder, &frame, prefix, &stored.place)
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
            self.whole.fill(self.kind, &mut self.decoder, &frame, &[], &base.place)
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
        kind: FrameKind,
        decoder: &mut Decoder,
        frame: &Frame<'_>,
        prefix: &[u8],
        place: &Place,
    ) -> Result<()> {
        // Whatever fails, no half of a frame stays behind.
        self.of = None;
        decode(kind, decoder, frame, prefix, &mut self.content)?;
        self.members.clone_from(&frame.members);
        self.base = frame.base;
        self.of = Some((place.pack, place.offset));
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

/// Decodes a frame. The digests of blocks are of their bytes, and checked; a node's is of its
/// meaning.
fn decode(
    kind: FrameKind,
    decoder: &mut Decoder,
    frame: &Frame<'_>,
    prefix: &[u8],
    content: &mut Vec<u8>,
) -> Result<()> {
    match kind {
        FrameKind::Block => decoder.decode_blocks(frame, prefix, content),
        FrameKind::Node | FrameKind::Manifest => decoder.expand(frame, prefix, content),
    }
}
