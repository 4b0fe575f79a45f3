//! Stretches of the payload, as a header describes them.

use super::cipher::IV_UNIT;
use crate::base::{Error, Result};

/// One stretch of the payload; together they are the opened volume, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its first byte on the device that holds the data.
    pub offset: u64,
    /// Its bytes; `None` if it reaches to the device's end.
    pub length: Option<u64>,
    /// What is there.
    pub kind: SegmentKind,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SegmentKind {
    /// Bytes as they are.
    Linear,
    /// Encrypted sectors.
    Crypt(Encryption),
    /// A kind that is not known, by its name.
    Other(String),
}

/// How a segment is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encryption {
    /// Cipher, mode and initial values, as dm-crypt names them.
    pub name: String,
    /// Bytes of a sector.
    pub sector: u32,
    /// What is added to the sector's number, in units of 512 bytes.
    pub iv_offset: u64,
    /// How sectors are authenticated, by its name, if they are.
    pub integrity: Option<String>,
}

impl Segment {
    /// Fails with `Corrupt` unless its numbers make sense.
    pub(super) fn check(&self, number: u32) -> Result<()> {
        let place = format!("LUKS segment {number}");
        let sector = match &self.kind {
            SegmentKind::Crypt(encryption) => encryption.sector,
            SegmentKind::Linear | SegmentKind::Other(_) => 512,
        };
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(Error::corrupt(place, "sectors of 512 to 4096 bytes", sector));
        }
        let end = self.offset.checked_add(self.length.unwrap_or_default());
        if !self.offset.is_multiple_of(IV_UNIT) || end.is_none() {
            return Err(Error::corrupt(place, "a sector's offset", self.offset));
        }
        match self.length {
            Some(length) if length == 0 || !length.is_multiple_of(u64::from(sector)) => {
                Err(Error::corrupt(place, format!("sectors of {sector} bytes"), length))
            }
            _ => Ok(()),
        }
    }
}
