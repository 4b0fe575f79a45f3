//! A header as both versions give it.

use super::identity::Identity;
use super::kdf::Kdf;
use super::segment::{Segment, SegmentKind};
use super::{luks1, luks2};
use crate::base::{ByteCount, ByteRange, Error, ErrorKind, ReadAt, Result};

/// The header of a LUKS volume. What of it this version cannot use is refused only where it is
/// needed, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) version: Version,
    pub(super) copy: HeaderCopy,
    pub(super) identity: Identity,
    pub(super) keyslots: Vec<Keyslot>,
    pub(super) digests: Vec<KeyDigest>,
    /// In their order, by number, without those that are only kept for a reencryption.
    pub(super) segments: Vec<(u32, Segment)>,
    pub(super) requirements: Vec<String>,
    /// One past the last byte that the header and its keyslots take.
    pub(super) end: u64,
    /// What was found wrong with the other copy.
    pub(super) damage: Option<String>,
}

/// The format's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// LUKS1: one header in fixed fields, without a checksum.
    Luks1,
    /// LUKS2: two copies of a header in JSON.
    Luks2,
}

/// Which of LUKS2's two copies a header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderCopy {
    /// The one at the start.
    First,
    /// The one behind it, at one of a few places.
    Second,
}

/// When a keyslot is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Only when it is asked for.
    Ignore,
    /// After the preferred ones.
    Normal,
    /// First.
    Prefer,
}

/// A keyslot: the volume key, encrypted by a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyslot {
    pub number: u32,
    pub priority: Priority,
    pub kind: KeyslotKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyslotKind {
    /// What both versions have (`luks2`).
    Luks(Box<KeyArea>),
    /// A kind that is not known, by its name.
    Other(String),
}

/// Where and how a keyslot keeps the volume key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyArea {
    /// Bytes of the volume key; not zero, within limits.
    pub key_size: usize,
    /// Copies that the key is spread over; not zero, the product with the key's size within limits.
    pub stripes: usize,
    /// The hash by which it is spread.
    pub split_hash: String,
    /// First byte of the area.
    pub offset: u64,
    /// Bytes of the area: at least those of the stripes.
    pub length: u64,
    /// How the area is encrypted.
    pub encryption: String,
    /// Bytes of the key that it is encrypted with; not zero, within limits.
    pub area_key_size: usize,
    /// How a secret makes that key.
    pub kdf: Kdf,
}

/// A digest by which a volume key is known to be right: PBKDF2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyDigest {
    pub keyslots: Vec<u32>,
    pub segments: Vec<u32>,
    pub hash: String,
    pub iterations: u64,
    pub salt: Vec<u8>,
    pub digest: Vec<u8>,
}

impl Header {
    /// The header at the start of `device`, which is a volume or a header kept apart; `None` where
    /// none is. Of LUKS2's two copies the newest that is sound; where only the second one's place
    /// is left, that one, so a volume that got another use since may still show it.
    ///
    /// # Errors
    /// `Corrupt` when all copies that are there are damaged; `Unsupported` for other versions;
    /// those of `device`.
    pub fn read(device: &dyn ReadAt) -> Result<Option<Self>> {
        match luks1::read(device)? {
            Some(header) => Ok(Some(header)),
            None => luks2::read(device),
        }
    }

    /// The format's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Which copy it is.
    #[must_use]
    pub fn copy(&self) -> HeaderCopy {
        self.copy
    }

    /// What is wrong with the other copy, as a plain sentence.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The UUID, as text.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        self.identity.uuid.as_deref()
    }

    /// The label; LUKS1 has none.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.identity.label.as_deref()
    }

    /// The subsystem, a second label; LUKS1 has none.
    #[must_use]
    pub fn subsystem(&self) -> Option<&str> {
        self.identity.subsystem.as_deref()
    }

    /// The first segment's encryption as dm-crypt names it, `aes-xts-plain64`; `None` if nothing
    /// is encrypted (any more).
    #[must_use]
    pub fn encryption(&self) -> Option<&str> {
        self.encrypted().next().map(|(_, encryption)| encryption.name.as_str())
    }

    /// The first encrypted segment's sectors, bytes.
    #[must_use]
    pub fn sector_size(&self) -> u32 {
        self.encrypted().next().map_or(512, |(_, encryption)| encryption.sector)
    }

    /// Bytes of the volume key, as the keyslots say.
    #[must_use]
    pub fn key_size(&self) -> Option<usize> {
        let digest = self.payload_digest().ok()??;
        self.keyslots.iter().find_map(|slot| match &slot.kind {
            KeyslotKind::Luks(area) if digest.keyslots.contains(&slot.number) => {
                Some(area.key_size)
            }
            _ => None,
        })
    }

    /// The keyslots' numbers, kinds and priorities. The kind is the key derivation's name
    /// (`pbkdf2`, `argon2i`, `argon2id`), or the name of another sort of keyslot.
    pub fn keyslots(&self) -> impl Iterator<Item = (u32, &str, Priority)> {
        self.keyslots.iter().map(|slot| {
            let kind = match &slot.kind {
                KeyslotKind::Luks(area) => area.kdf.name(),
                KeyslotKind::Other(name) => name,
            };
            (slot.number, kind, slot.priority)
        })
    }

    /// What a reader must know to use the volume, by name (`online-reencrypt`).
    #[must_use]
    pub fn requirements(&self) -> &[String] {
        &self.requirements
    }

    /// First byte of the payload on the device that holds it.
    #[must_use]
    pub fn payload_start(&self) -> u64 {
        self.segments.iter().map(|(_, segment)| segment.offset).min().unwrap_or_default()
    }

    /// Bytes of the payload on a device of `size`.
    #[must_use]
    pub fn payload_length(&self, size: ByteCount) -> u64 {
        let lengths = self.segments.iter().map(|(_, segment)| {
            segment.length.unwrap_or_else(|| size.0.saturating_sub(segment.offset))
        });
        ByteCount::total(lengths).0
    }

    /// The bytes that belong to the header, keyslots included: without them the volume cannot be
    /// opened. Where the payload lies behind them, all before it.
    #[must_use]
    pub fn bytes(&self) -> ByteRange {
        let start = if self.is_detached() { 0 } else { self.payload_start() };
        ByteRange { start: 0, end: self.end.max(start) }
    }

    /// Whether the payload cannot lie on the header's own device, since it would begin within the
    /// header. A header of which this is not so may have been detached all the same.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.payload_start() < self.end
    }

    /// Whether some of the payload is encrypted, so that it needs a key.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted().next().is_some()
    }

    /// Fails unless this version knows all that the volume is.
    ///
    /// # Errors
    /// `Unsupported`, naming the requirement, segment kind or integrity that is not known.
    pub fn check_supported(&self) -> Result<()> {
        let unsupported = |context: String| Err(Error::newer(context));
        if let Some(name) = self.requirements.iter().find(|name| name.contains("reencrypt")) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a reencryption has begun and not ended ({name}): end it first"),
            ));
        }
        if let Some(name) = self.requirements.first() {
            return unsupported(format!("the LUKS header requires {name:?}, which is not known"));
        }
        if self.segments.is_empty() {
            return Err(Error::corrupt("LUKS header", "segments", "none"));
        }
        for (number, segment) in &self.segments {
            match &segment.kind {
                SegmentKind::Other(name) => {
                    return unsupported(format!("LUKS segment {number} is of the kind {name:?}"));
                }
                SegmentKind::Crypt(encryption) => {
                    if let Some(name) = &encryption.integrity {
                        let context = format!("LUKS segment {number} has integrity {name:?}");
                        return unsupported(context);
                    }
                }
                SegmentKind::Linear => {}
            }
        }
        Ok(())
    }

    /// The digest of the key of all encrypted segments; `None` if there are none of these.
    ///
    /// # Errors
    /// `Unsupported` if segments have different keys; `Corrupt` if one has none.
    pub(super) fn payload_digest(&self) -> Result<Option<&KeyDigest>> {
        let mut numbers = self.encrypted().map(|(number, _)| number);
        let Some(first) = numbers.next() else { return Ok(None) };
        let of = |number| self.digests.iter().find(|digest| digest.segments.contains(&number));
        let digest = of(first).ok_or_else(|| {
            Error::corrupt(format!("LUKS segment {first}"), "a digest of its key", "none")
        })?;
        if numbers.all(|number| digest.segments.contains(&number)) {
            return Ok(Some(digest));
        }
        Err(Error::new(ErrorKind::Unsupported, "LUKS segments with different keys"))
    }

    fn encrypted(&self) -> impl Iterator<Item = (u32, &super::segment::Encryption)> {
        self.segments.iter().filter_map(|(number, segment)| match &segment.kind {
            SegmentKind::Crypt(encryption) => Some((*number, encryption)),
            _ => None,
        })
    }

    /// Fails with `Corrupt` if two keyslots share bytes, or one shares any with `heads`, the first
    /// bytes of the device, which hold the headers themselves.
    pub(super) fn check_areas(&self, heads: u64) -> Result<()> {
        let mut areas: Vec<(ByteRange, u32)> = Vec::new();
        for slot in &self.keyslots {
            if let KeyslotKind::Luks(area) = &slot.kind {
                areas.push((ByteRange::new(area.offset, area.length), slot.number));
            }
        }
        areas.sort_unstable();
        let mut end = heads;
        for (area, number) in areas {
            if area.start < end {
                let place = format!("LUKS keyslot {number}");
                return Err(Error::corrupt(place, format!("an area behind byte {end}"), area));
            }
            end = area.end;
        }
        Ok(())
    }
}
