//! The upper case of the volume (`$UpCase`), by which its folders are ordered.

use super::attribute::kind;
use super::mft::Mft;
use super::units::Reference;
use crate::base::{Error, Result};

/// The record of the table, which never is another's.
const UP_CASE: u64 = 10;
/// Characters that it tells of.
const CHARACTERS: u16 = u16::MAX;
/// Its bytes.
const LENGTH: u64 = 2 << 16;

/// The upper case of each character of 16 bits.
pub(super) struct UpCase {
    table: Vec<u16>,
}

impl UpCase {
    /// Reads the volume's table.
    ///
    /// # Errors
    /// `Corrupt` when it is missing or too short; see [`Mft::value`].
    pub(super) fn read(mft: &Mft) -> Result<Self> {
        let file = mft.file(Reference::new(UP_CASE, 0))?;
        let value = mft.value(&file, kind::DATA, b"", LENGTH)?.unwrap_or_default();
        let (units, _) = value.as_chunks::<2>();
        if units.len() <= usize::from(CHARACTERS) {
            let found = format!("{} bytes", value.len());
            return Err(Error::corrupt("up-case table", format!("{LENGTH} bytes"), found));
        }
        Ok(Self { table: units.iter().map(|unit| u16::from_le_bytes(*unit)).collect() })
    }

    /// All that it says, in numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let packed = |units: &[u16]| units.iter().fold(0, |all, unit| all << 16 | u64::from(*unit));
        self.table.chunks(4).map(packed)
    }

    pub(super) fn upper(&self, unit: u16) -> u16 {
        self.table.get(usize::from(unit)).copied().unwrap_or(unit)
    }
}

/// Unicode's.
impl Default for UpCase {
    fn default() -> Self {
        let upper = |unit: u16| {
            let mut upper = char::from_u32(u32::from(unit))?.to_uppercase();
            let single = upper.next().filter(|_| upper.next().is_none())?;
            u16::try_from(u32::from(single)).ok()
        };
        Self { table: (0..=CHARACTERS).map(|unit| upper(unit).unwrap_or(unit)).collect() }
    }
}
