//! What is to be read: all, or what changed since the parent, where that can be believed.

use serde_json::Value;

use super::checkpoint::Copied;
use crate::base::ranges::joined;
use crate::base::{BlockSize, ByteCount, ByteRange, ChangeMap, Event, Observer, Result};
use crate::store::ImageId;
use crate::store::manifest::VolumeUse;
use crate::store::repository::Image;

/// The way of finding changes that reads everything and stores only what differs.
pub const COMPARE: &str = "compare";

/// Says what changed on a disk since an earlier capture of it.
pub trait ChangeTracker: Send + Sync {
    /// Its name in manifests.
    fn name(&self) -> &'static str;

    /// Ends an epoch, and tells what was written since what is known. The disk is read only after
    /// this returned.
    ///
    /// # Errors
    /// `Io`; what it does not know is no error.
    fn checkpoint(&mut self, since: Since<'_>) -> Result<Findings>;

    /// Whether anything in one of `ranges` was written since the last checkpoint.
    ///
    /// # Errors
    /// `Io`.
    fn is_written_since(&self, ranges: &[ByteRange]) -> Result<bool>;

    /// The `image` is stored, and lacks nothing up to this checkpoint: its successor starts from
    /// there.
    ///
    /// # Errors
    /// `Io`, or `Conflict` if that cannot be recorded: the next image has to read more then.
    fn commit(&mut self, copied: &Copied, image: ImageId) -> Result<()>;

    /// It was wrong: no map that starts from an epoch so far may be used.
    ///
    /// # Errors
    /// `Io`.
    fn distrust(&mut self) -> Result<()>;
}

/// What a tracker is asked for changes since.
#[derive(Debug, Clone, Copy)]
pub enum Since<'a> {
    /// There is nothing to start from.
    Nothing,
    /// An image that is stored.
    Image {
        /// Its id.
        id: ImageId,
        /// What a tracker said of itself then.
        evidence: Option<&'a Value>,
    },
    /// A checkpoint of the same tracker, up to which all was copied.
    Copied(&'a Copied),
}

impl<'a> Since<'a> {
    /// A capture's parent.
    #[must_use]
    pub fn parent(parent: Option<&'a Image>) -> Self {
        parent.map_or(Self::Nothing, |parent| Self::Image {
            id: parent.id,
            evidence: parent.manifest.tracking.as_ref(),
        })
    }
}

/// What a tracker found.
#[derive(Debug, Clone)]
pub struct Findings {
    /// All that changed since what was asked for; or why that cannot be told.
    pub changes: std::result::Result<ChangeMap, String>,
    /// What it says of itself, for the manifest.
    pub evidence: Value,
}

/// What is to be read of a disk.
#[derive(Debug)]
pub struct Reading {
    /// In the disk's order, whole blocks.
    pub ranges: Vec<ByteRange>,
    /// What no filesystem uses of all else, though the parent may hold something there.
    pub left_out: Vec<ByteRange>,
    /// What is a hole of the disk of all else, though the parent has something else there.
    pub holes: Vec<ByteRange>,
    /// Volumes that were looked at for what they do not use.
    pub volumes: Vec<VolumeUse>,
    /// The blocks of swap files among what is left out, whether or not anything is there.
    pub swap: Vec<ByteRange>,
    /// Whether all else is as in the parent; otherwise it is a hole.
    pub is_incremental: bool,
    /// How the changes are found.
    pub tracker: &'static str,
    /// Why not in a better way, if one was tried.
    pub doubt: Option<String>,
    /// What the tracker was caught at.
    pub alarm: Option<String>,
}

impl Reading {
    /// Tells which files' contents are not left out though they were to be.
    pub fn tell_kept(&self, observer: &dyn Observer) {
        let tell = |message: &str| observer.event(&Event::Warning { message });
        for VolumeUse { volume, doubt, skipped, .. } in &self.volumes {
            if let Some(doubt) = doubt {
                tell(&format!("{volume}: nothing is left out: {doubt}"));
            }
            for file in skipped {
                let Some(note) = &file.note else { continue };
                tell(&format!("{volume}:{}: {note}", file.path));
            }
        }
    }

    /// All of `ranges`, to be compared.
    #[must_use]
    pub fn all(ranges: Vec<ByteRange>) -> Self {
        Self {
            ranges,
            left_out: Vec::new(),
            holes: Vec::new(),
            volumes: Vec::new(),
            swap: Vec::new(),
            is_incremental: false,
            tracker: COMPARE,
            doubt: None,
            alarm: None,
        }
    }
}

/// The blocks that a tracker's `changes` name, and what could not be read of the parent; or why
/// that is of no use, if a tracker was tried.
///
/// # Errors
/// The reason; none where there is no parent to start from.
pub fn usable(
    parent: Option<&Image>,
    changes: std::result::Result<ChangeMap, String>,
) -> std::result::Result<Vec<ByteRange>, Option<String>> {
    let manifest = &parent.ok_or(None)?.manifest;
    let changes = changes.map_err(Some)?;
    if changes.size() != manifest.size {
        let (now, before) = (changes.size(), manifest.size);
        return Err(Some(format!("its map is of {now} bytes, the parent of {before}")));
    }
    let ranges = changes.runs().chain(manifest.unreadable_ranges()).collect();
    Ok(whole_blocks(ranges, manifest.block_size, changes.size()))
}

/// Widens ranges of a disk to whole blocks, sorts and joins them.
#[must_use]
pub fn whole_blocks(
    mut ranges: Vec<ByteRange>,
    block: BlockSize,
    size: ByteCount,
) -> Vec<ByteRange> {
    ranges.retain(|range| !range.is_empty() && range.start < size.0);
    let outward = |range: ByteRange| ByteRange {
        start: range.start / block.bytes() * block.bytes(),
        end: range.end.min(size.0).next_multiple_of(block.bytes()).min(size.0),
    };
    joined(ranges.into_iter().map(outward).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_whole_blocks_within_the_disk() {
        let block = BlockSize::new(16_384).expect("a block size");
        let size = ByteCount(100_000);
        let given = [(99_999, 5), (40_000, 1), (0, 0), (20_000, 16_384), (200_000, 9)];
        let given = given.map(|(start, length)| ByteRange::new(start, length)).to_vec();
        let expected =
            [ByteRange { start: 16_384, end: 49_152 }, ByteRange { start: 98_304, end: 100_000 }];
        assert_eq!(whole_blocks(given, block, size), expected);
    }
}
