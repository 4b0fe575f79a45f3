//! What the log says was begun, and whether it was also done.
//!
//! The kernel's `XFS_LI_EFI` and its like (`fs/xfs/libxfs/xfs_log_format.h`): an item that says
//! what is to be done in the transactions to come has a number, and an item of the next sort says
//! of that number that it was done.

use std::collections::BTreeMap;

use super::super::units::InodeNumber;
use crate::base::fields::{le32, le64};
use crate::base::{Error, ErrorKind, Result, limits};

/// `BUI`: blocks to be mapped into a file, or out of it.
const MAP: u16 = 0x1244;
/// `ATTRI`: an attribute to be set or removed.
const ATTRIBUTE: u16 = 0x1246;
/// `XMI`: two files whose blocks are to be exchanged.
const EXCHANGE: u16 = 0x1248;
/// All that can be begun: extents to free (`EFI`), reverse maps (`RUI`), counts of references
/// (`CUI`), the three above, and the first three of realtime devices.
const BEGUN: [u16; 9] = [0x1236, 0x1240, 0x1242, MAP, ATTRIBUTE, EXCHANGE, 0x124a, 0x124c, 0x124e];

/// What was begun and not yet done: its sort and number, and the files that show it.
#[derive(Debug, Default)]
pub(super) struct Intents(BTreeMap<(u16, u64), Vec<u64>>);

impl Intents {
    /// Notes an item; returns whether it is one of those that begin or end something.
    ///
    /// # Errors
    /// `Limit` for too much that was begun.
    pub(super) fn note(&mut self, kind: u16, format: &[u8]) -> Result<bool> {
        let field = |at| le64(format, at).unwrap_or_default();
        let number = field(8);
        if BEGUN.contains(&kind) {
            let files = match kind {
                // `bui_nextents` of 32 bytes each, which start with the file.
                MAP => {
                    let count = usize::try_from(le32(format, 4).unwrap_or_default()).unwrap_or(0);
                    let extents = format.get(16..).unwrap_or_default().chunks_exact(32);
                    extents.take(count).filter_map(|extent| le64(extent, 0)).collect()
                }
                ATTRIBUTE => vec![field(16)],
                EXCHANGE => vec![field(16), field(24)],
                _ => Vec::new(),
            };
            self.0.insert((kind, number), files);
            if self.0.len() > limits::MAX_LOG_INTENTS {
                let context = format!("over {} operations begun", limits::MAX_LOG_INTENTS);
                return Err(Error::new(ErrorKind::Limit, context));
            }
            return Ok(true);
        }
        let begun = kind.saturating_sub(1);
        self.0.remove(&(begun, number));
        Ok(BEGUN.contains(&begun))
    }

    /// How much was not done.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The files that are not as they would be, and why.
    pub(super) fn files(&self) -> impl Iterator<Item = (InodeNumber, String)> {
        self.0.iter().flat_map(|((kind, _), files)| {
            let what = match *kind {
                ATTRIBUTE => "the log has an attribute to set, which was not replayed",
                EXCHANGE => "the log has blocks to exchange, which was not replayed",
                _ => "the log has blocks to map, which was not replayed",
            };
            files.iter().map(move |file| (InodeNumber(*file), what.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    fn item(count: u8, number: u8, files: &[u8]) -> Vec<u8> {
        let mut item = vec![0; 16];
        (item[4], item[8]) = (count, number);
        for file in files {
            item.extend([*file, 0, 0, 0, 0, 0, 0, 0]);
        }
        item
    }

    #[test]
    fn what_was_begun_and_not_done_is_told_of_its_files() {
        let mut intents = Intents::default();
        let mut note = |kind, item: &[u8]| intents.note(kind, item).expect("few");
        assert!(note(MAP, &item(2, 1, &[5, 0, 0, 0, 6, 0, 0, 0])));
        assert!(note(MAP, &item(1, 2, &[7, 0, 0, 0])));
        assert!(note(EXCHANGE, &item(0, 1, &[8, 9])));
        assert!(note(0x1236, &item(1, 3, &[1, 2])));
        // Done are the first of maps, and something that was begun before the log's tail.
        assert!(note(MAP + 1, &item(0, 1, &[])));
        assert!(note(0x1237, &item(0, 77, &[])));
        assert!(!note(0x123b, &item(0, 1, &[])));
        assert_eq!(intents.len(), 3);
        let files: Vec<u64> = intents.files().map(|(file, _)| file.0).collect();
        assert_eq!(files, [7, 8, 9]);
    }
}
