//! The devices of a filesystem, and bytes read from them.

use std::fmt;
use std::sync::Arc;

use super::chunk::{Piece, Stripe};
use super::superblock::DevItem;
use super::units::bytes;
use crate::base::bytes::to_uuid;
use crate::base::{ByteOffset, Error, ErrorKind, ReadAt, Result};

/// One device that is at hand.
#[derive(Clone)]
pub(super) struct Device {
    pub volume: Arc<dyn ReadAt>,
    pub item: DevItem,
    /// Its first byte where all volumes that were given lie one behind the other.
    pub start: u64,
    /// Whether it was left behind by the others, or an earlier state than its own is read, so that
    /// what it holds may be of another state.
    pub is_stale: bool,
}

/// The devices at hand.
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

    /// The part of a piece that a device at hand holds, and its place among all volumes' bytes.
    pub(super) fn at_hand(&self, piece: Piece) -> Option<(Piece, u64)> {
        let device = self.find(&piece.stripe)?;
        let length = device.volume.size().0.checked_sub(piece.physical())?.min(piece.length);
        let place = device.start.checked_add(piece.physical())?;
        (length > 0).then_some((Piece { length, ..piece }, place))
    }

    /// Fills `buffer` from the start of `piece`.
    ///
    /// # Errors
    /// `NotFound` when the device is missing; `Corrupt` when it ends before, or is of another
    /// state and nothing would tell; its own.
    pub(super) fn read(&self, piece: &Piece, buffer: &mut [u8], proof: Proof) -> Result<()> {
        let stripe = &piece.stripe;
        let device = self.find(stripe).ok_or_else(|| missing(&[Name(stripe).to_string()]))?;
        if device.is_stale && proof == Proof::None {
            let expected = "the state of the other devices, as nothing here can be verified";
            return Err(Error::corrupt(Name(stripe), expected, "another state"));
        }
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

/// Whether what is read is compared with a checksum or a generation that stands elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It is.
    Follows,
    /// Nothing tells whether it is of the right state.
    None,
}

/// Devices that are called `names` are missing.
pub(super) fn missing(names: &[String]) -> Error {
    let verb = if names.len() == 1 { "is" } else { "are" };
    let names = names.join(", ");
    let context = format!("{names} {verb} missing: give the disks that have it (--with)");
    Error::new(ErrorKind::NotFound, context)
}

/// A stripe's device by number and UUID.
pub(super) struct Name<'a>(pub &'a Stripe);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {} ({})", self.0.devid, to_uuid(&self.0.dev_uuid))
    }
}
