//! Deltas that were met and are not checked yet: what they are against is a member of a frame of
//! up to 1 MiB, which is best decoded once for all that stand on it.

use super::Room;
use crate::base::{Error, Result};
use crate::store::frame::{Frame, FrameHeader, Member};
use crate::store::{FrameReader, PackId, Place, StoredEntry};

/// A delta whose own stored bytes are sound.
pub struct Delta {
    /// Its pack.
    pub pack: PackId,
    /// Its frame's first byte there.
    pub offset: u32,
    /// Whether an image needs it.
    pub is_needed: bool,
    header: FrameHeader,
    member: Member,
    base: StoredEntry,
    /// None when it is to be read again.
    payload: Option<Box<[u8]>>,
}

impl Delta {
    /// The pack and first byte of its base's frame.
    fn base_frame(&self) -> (PackId, u32) {
        (self.base.place.pack, self.base.place.offset)
    }

    /// Bytes of its frame.
    #[must_use]
    pub fn length(&self) -> u64 {
        u64::from(self.header.frame_length())
    }

    /// Shows its frame to `check`; `bytes` is memory for it.
    ///
    /// # Errors
    /// `Corrupt` when it is not what it was when it was met; `Io`; those of `check`.
    pub fn show(
        &self,
        frames: &FrameReader,
        bytes: &mut Vec<u8>,
        check: impl FnOnce(&Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        let (header, members, base) = (self.header, vec![self.member], Some(self.base));
        if let Some(payload) = &self.payload {
            return check(&Frame { header, members, base, payload });
        }
        let (pack, offset, length) = (self.pack, self.offset, header.frame_length());
        frames.frame(header.kind, &Place { pack, offset, length, member: 0 }, bytes)?;
        let frame = Frame::open(bytes)?;
        if (frame.header, &frame.members, frame.base) != (header, &members, base) {
            return Err(Error::corrupt("frame read again", "the same", "another"));
        }
        check(&frame)
    }
}

/// The deltas that wait, as many as there is room for.
pub struct Waiting {
    room: Room,
    deltas: Vec<Delta>,
    held: usize,
}

impl Waiting {
    /// None yet.
    #[must_use]
    pub fn new(room: Room) -> Self {
        Self { room, deltas: Vec::new(), held: 0 }
    }

    /// Whether no more can wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.deltas.len() >= self.room.deltas
    }

    /// Has the frame at `offset` of `pack` wait; false if it is no delta, or no more can.
    pub fn add(
        &mut self,
        (pack, offset): (PackId, u32),
        frame: &Frame<'_>,
        is_needed: bool,
    ) -> bool {
        let (Some(base), [member], false) = (frame.base, &*frame.members, self.is_full()) else {
            return false;
        };
        let held = self.held.saturating_add(frame.payload.len());
        let payload = (held <= self.room.delta_bytes).then(|| {
            self.held = held;
            frame.payload.into()
        });
        let (header, member) = (frame.header, *member);
        self.deltas.push(Delta { pack, offset, is_needed, header, member, base, payload });
        true
    }

    /// Takes out all that wait, by their bases' frames, and in the order of their own.
    #[must_use]
    pub fn in_order(&mut self) -> Vec<Delta> {
        self.held = 0;
        let mut deltas = std::mem::take(&mut self.deltas);
        deltas.sort_unstable_by_key(|delta| (delta.base_frame(), delta.pack, delta.offset));
        deltas
    }
}

/// Divides what is [in order](Waiting::in_order) where the base's frame changes.
#[must_use]
pub fn by_base(deltas: &[Delta]) -> Vec<&[Delta]> {
    deltas.chunk_by(|one, next| one.base_frame() == next.base_frame()).collect()
}
