//! Apple's partition map.
//!
//! Layout: "Inside Macintosh: Devices" (1994), chapter 3: the driver descriptor in block 0 says how
//! large blocks are, and each block from the first on is one entry of the map. All numbers are
//! big-endian. Entries are numbered by their blocks and listed as Linux does (`block/partitions/
//! mac.c`), the map's own and free space among them.

use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::types::apm_type_name;
use crate::base::fields::{be16, be32, has, slice};
use crate::base::limits::MAX_APM_ENTRIES;
use crate::text::label;

/// How the driver descriptor (`sbSig`) and an entry (`pmSig`) begin.
const DESCRIPTOR: &[u8] = b"ER";
const ENTRY: &[u8] = b"PM";
/// Bytes of an entry that say anything.
const LENGTH: usize = 512;

/// Where a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Map {
    /// Bytes of a block, which is where the first entry stands.
    pub block: u64,
    /// Entries, by the first one.
    count: u32,
}

impl Map {
    /// The map of a disk; `None` if there is none.
    pub(super) fn find(disk: &Extent<'_>) -> Option<Self> {
        let (descriptor, _) = disk.head(LENGTH);
        let block = u64::from(be16(&descriptor, 2)?); // sbBlkSize
        if !has(&descriptor, 0, DESCRIPTOR) || !matches!(block, 512 | 1024 | 2048 | 4096) {
            return None;
        }
        let first = disk.read(block, LENGTH).ok()??;
        let count = be32(&first, 4)?; // pmMapBlkCnt
        has(&first, 0, ENTRY).then_some(Self { block, count })
    }

    /// The partitions, numbered by their places in the map.
    pub(super) fn volumes(self, disk: &Extent<'_>, notes: &mut Notes) -> Vec<Volume> {
        let most = u32::try_from(MAX_APM_ENTRIES).unwrap_or(u32::MAX);
        if self.count > most {
            let count = self.count;
            notes.add(format!("the partition map says {count} entries; {most} were read at most"));
        }
        let mut volumes = Vec::new();
        for number in 1..=self.count.min(most) {
            let entry = match disk.read(self.block.saturating_mul(number.into()), LENGTH) {
                Ok(Some(entry)) if has(&entry, 0, ENTRY) => entry,
                Ok(_) => {
                    notes.add(format!("the partition map ends before its entry {number}"));
                    break;
                }
                Err(error) => {
                    notes.add(format!("entry {number} of the partition map: {error}"));
                    continue;
                }
            };
            volumes.extend(self.volume(number, &entry));
        }
        volumes
    }

    /// The partition of one entry; `None` for an empty one.
    fn volume(self, number: u32, entry: &[u8]) -> Option<Volume> {
        let start = u64::from(be32(entry, 8)?).saturating_mul(self.block); // pmPyPartStart
        let length = u64::from(be32(entry, 12)?).saturating_mul(self.block); // pmPartBlkCnt
        let mut volume = Volume::new(format!("p{number}"), start, length);
        volume.partition_label = slice(entry, 16, 32).and_then(label); // pmPartName
        volume.partition_type = slice(entry, 48, 32).and_then(label); // pmParType
        let named = volume.partition_type.as_deref().and_then(apm_type_name);
        volume.type_name = named.map(str::to_owned);
        (length > 0).then_some(volume)
    }
}
