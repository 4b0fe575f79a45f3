//! The devices of a filesystem, and bytes read from them.

use std::fmt;
use std::sync::Arc;

use super::chunk::{Piece, Stripe};
use super::superblock::DevItem;
use super::units::bytes;
use crate::base::bytes::to_uuid;
use crate::base::{ByteOffset, Error, ErrorKind, Result};
use crate::block::ReadAt;

/// One device that is at hand.
#[derive(Clone)]
pub(super) struct Device {
    pub volume: Arc<dyn ReadAt>,
    pub item: DevItem,
    /// Whether it was left behind by the others, so that what it holds may be old.
    pub is_stale: bool,
}

/// The devices at hand; the first is the one whose bytes are spoken of as the volume's.
#[derive(Clone)]
pub(super) struct Devices(pub Vec<Device>);

impl Devices {
    fn find(&self, stripe: &Stripe) -> Option<&Device> {
        let is_it = |device: &&Device| {
            device.item.devid == stripe.devid && device.item.uuid == stripe.dev_uuid
        };
        self.0.iter().find(is_it)
    }

    /// How a stripe is to be preferred: what is up to date, then what is stale, then what is not
    /// there.
    pub(super) fn rank(&self, stripe: &Stripe) -> u8 {
        match self.find(stripe) {
            Some(device) if !device.is_stale => 0,
            Some(_) => 1,
            None => 2,
        }
    }

    /// Whether a stripe is on the first device.
    pub(super) fn is_first(&self, stripe: &Stripe) -> bool {
        self.0.first().is_some_and(|first| first.item.uuid == stripe.dev_uuid)
    }

    /// The part of a piece that is on the first device.
    pub(super) fn clipped_to_first(&self, piece: Piece) -> Option<Piece> {
        let first = self.0.first().filter(|_| self.is_first(&piece.stripe))?;
        let length = first.volume.size().0.checked_sub(piece.physical())?.min(piece.length);
        (length > 0).then_some(Piece { length, ..piece })
    }

    /// Fills `buffer` from the start of `piece`.
    ///
    /// # Errors
    /// `NotFound` when the device is missing; `Corrupt` when it ends before; its own.
    pub(super) fn read(&self, piece: &Piece, buffer: &mut [u8]) -> Result<()> {
        let stripe = &piece.stripe;
        let device = self.find(stripe).ok_or_else(|| {
            let context = format!("{} of the filesystem is missing", Name(stripe));
            Error::new(ErrorKind::NotFound, context)
        })?;
        let start = piece.physical();
        let end = start.saturating_add(bytes(buffer.len()));
        if end > device.volume.size().0 {
            let place = format!("{} at byte {start}", Name(stripe));
            let expected = format!("{} bytes", buffer.len());
            let found = format!("its end at {}", device.volume.size());
            return Err(Error::corrupt(place, expected, found));
        }
        let read = device.volume.read_exact_at(ByteOffset(start), buffer);
        read.map_err(|error| error.within(Name(stripe)))
    }
}

/// A stripe's device by number and UUID.
pub(super) struct Name<'a>(pub &'a Stripe);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {} ({})", self.0.devid, to_uuid(&self.0.dev_uuid))
    }
}
