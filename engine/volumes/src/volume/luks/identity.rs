//! What the first sector of a header says it is, whether or not the rest is sound.

use super::header::HeaderCopy;
use super::luks2::PLACES;
use crate::base::fields::{be16, has, slice};
use crate::text::label;

/// The magic of LUKS1 and of the first header of LUKS2.
pub(super) const MAGIC: &[u8] = b"LUKS\xba\xbe";
/// The magic of the second header of LUKS2.
pub(super) const SECOND_MAGIC: &[u8] = b"SKUL\xba\xbe";

/// A header's own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) struct Identity {
    /// The format's version, which may be none that is known.
    pub version: u16,
    /// LUKS2's label.
    pub label: Option<String>,
    /// LUKS2's subsystem, a second label.
    pub subsystem: Option<String>,
    /// The UUID, as text.
    pub uuid: Option<String>,
}

impl Identity {
    /// Of the sector `block`, if it begins with the magic of `copy`.
    pub(super) fn parse(block: &[u8], copy: HeaderCopy) -> Option<Self> {
        let magic = match copy {
            HeaderCopy::First => MAGIC,
            HeaderCopy::Second => SECOND_MAGIC,
        };
        if !has(block, 0, magic) {
            return None;
        }
        let version = be16(block, 6)?; // version
        let name = |at| (version == 2).then(|| slice(block, at, 48).and_then(label)).flatten();
        Some(Self {
            version,
            label: name(24),
            subsystem: name(208),
            uuid: slice(block, 168, 40).and_then(label),
        })
    }
}

/// What the LUKS header at the start of a volume is, by the volume's first bytes.
pub(in crate::volume) fn identify(head: &[u8]) -> Option<Identity> {
    // Versions are small numbers; anything else behind the magic is no header.
    Identity::parse(head, HeaderCopy::First).filter(|identity| identity.version < 256)
}

/// What the second header of a LUKS2 volume is, at any of its places that `head` reaches, and where.
pub(in crate::volume) fn identify_second(head: &[u8]) -> Option<(u64, Identity)> {
    PLACES
        .iter()
        .filter_map(|place| {
            let block = head.get(usize::try_from(*place).ok()?..)?;
            Some((*place, Identity::parse(block, HeaderCopy::Second)?))
        })
        .find(|(_, identity)| identity.version == 2)
}
