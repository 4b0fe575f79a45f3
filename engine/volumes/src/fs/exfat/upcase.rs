//! The up-case table [7.2]: which names are the same but for upper and lower case.

use super::folder::SystemFiles;
use crate::base::{Error, ErrorKind, Result};
use crate::fs::FileContent;
use crate::fs::clusters::{ChainContent, Heap, same_name, wtf8};

/// Bytes of a table at most: one number for each of UTF-16's.
const MAX_TABLE: u64 = 128 * 1024;
/// Stands before the number of characters that are their own upper case.
const SKIP: u16 = 0xffff;

/// A volume's upper case; without a table, Unicode's.
#[derive(Default)]
pub(super) struct UpCase {
    table: Option<Vec<u16>>,
}

impl UpCase {
    /// Reads the table that the root names.
    ///
    /// # Errors
    /// `Corrupt` when it is missing or its checksum differs; `Limit`; `Io`.
    pub(super) fn read(heap: &Heap, system: &SystemFiles) -> Result<Self> {
        let file = system.upcase;
        let file = file.ok_or_else(|| Error::corrupt("root", "an up-case table", "none"))?;
        if file.size > MAX_TABLE || !file.size.is_multiple_of(2) {
            let context = format!("an up-case table of {} bytes", file.size);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let mut bytes = vec![0; usize::try_from(file.size).unwrap_or_default()];
        ChainContent::new(heap, file.start, file.size, file.size).read_at(0, &mut bytes)?;
        let sum = |sum: u32, byte: &u8| sum.rotate_right(1).wrapping_add(u32::from(*byte));
        let found = bytes.iter().fold(0_u32, sum);
        if found != file.checksum {
            let expected = format!("checksum {:#010x}", file.checksum);
            return Err(Error::corrupt("up-case table", expected, format!("{found:#010x}")));
        }
        let (units, _) = bytes.as_chunks::<2>();
        let mut units = units.iter().map(|unit| u16::from_le_bytes(*unit));
        let mut table = Vec::with_capacity(usize::from(u16::MAX));
        let mut next = Some(0_u16);
        while let (Some(unit), Some(here)) = (units.next(), next) {
            if unit == SKIP && here != SKIP {
                let count = units.next().unwrap_or_default();
                let end = here.saturating_add(count);
                table.extend(here..end);
                next = Some(end);
            } else {
                table.push(unit);
                next = here.checked_add(1);
            }
        }
        Ok(Self { table: Some(table) })
    }

    /// Whether `name` on the disk is the one that is looked for.
    pub(super) fn is_same(&self, name: &[u16], wanted: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(wanted) else { return wtf8(name) == wanted };
        match &self.table {
            None => same_name(&wtf8(name), wanted),
            Some(table) => {
                let upper = |unit: u16| table.get(usize::from(unit)).copied().unwrap_or(unit);
                name.iter().copied().map(upper).eq(text.encode_utf16().map(upper))
            }
        }
    }
}
