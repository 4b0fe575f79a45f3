//! An image's manifest: the small JSON object that makes an image of a tree.
//!
//! Its name is its content's digest, so a damaged manifest is noticed before it is believed.

use serde::{Deserialize, Serialize};

use super::digest::{Digest, DigestKeys, ImageId, PackId, RepositoryId};
use super::frame::Place;
use super::json;
use super::node::{Entry, StoredEntry};
use super::tree::{disk_digest, root_level};
use crate::base::limits::{MAX_DISK_SIZE, MAX_SWAP_FILES, MAX_UNREADABLE_RANGES, MAX_VOLUME_USES};
use crate::base::ranges::joined;
use crate::base::{
    BlockCount, BlockIndex, BlockSize, ByteCount, ByteRange, Error, ErrorKind, Result,
};

/// A manifest's `imgx` member.
const MARK: &str = "image";

/// The root of an image's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TreeRoot {
    /// The whole disk reads as zeros.
    Zero,
    /// No block of the disk is used.
    Unallocated,
    /// No block of the disk could be read.
    Unreadable,
    /// There is a root node.
    Stored {
        /// Its level; zero for a leaf.
        level: u8,
        /// Its digest.
        digest: Digest,
        /// The pack that holds it.
        pack: PackId,
        /// Its frame's first byte there.
        offset: u32,
        /// Its frame's length.
        length: u32,
    },
}

impl TreeRoot {
    /// The root that a tree's builder returned.
    ///
    /// # Panics
    /// For a partial block, which is never a root.
    #[must_use]
    pub fn new(level: u8, entry: &Entry) -> Self {
        match entry {
            Entry::Zero => Self::Zero,
            Entry::Unallocated => Self::Unallocated,
            Entry::Unreadable => Self::Unreadable,
            Entry::Stored(StoredEntry { digest, place }) => Self::Stored {
                level,
                digest: *digest,
                pack: place.pack,
                offset: place.offset,
                length: place.length,
            },
            Entry::Partial(..) => unreachable!("a root is never a partial block"),
        }
    }

    /// The root as a tree's entry.
    #[must_use]
    pub fn entry(&self) -> Entry {
        match self {
            Self::Zero => Entry::Zero,
            Self::Unallocated => Entry::Unallocated,
            Self::Unreadable => Entry::Unreadable,
            Self::Stored { digest, pack, offset, length, .. } => Entry::Stored(StoredEntry {
                digest: *digest,
                place: Place { pack: *pack, offset: *offset, length: *length, member: 0 },
            }),
        }
    }
}

/// What an image cost. All counts are bytes of the disk, but for `stored`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Read from the source.
    pub read: u64,
    /// Zero, or holes.
    pub zero: u64,
    /// As in the parent, and not read.
    #[serde(default)]
    pub unchanged: u64,
    /// Not read, because no filesystem uses it.
    #[serde(default)]
    pub unallocated: u64,
    /// Stored before, here or in another image.
    pub duplicate: u64,
    /// Stored by this image.
    pub fresh: u64,
    /// Could not be read.
    pub unreadable: u64,
    /// What the repository grew by: frames of blocks and nodes.
    pub stored: u64,
    /// Frames of nodes among them.
    pub nodes: u64,
    /// How long it took, milliseconds.
    pub milliseconds: u64,
}

impl Cost {
    /// What was read and is not zero.
    #[must_use]
    pub fn of_blocks(&self) -> u64 {
        self.duplicate.saturating_add(self.fresh).saturating_add(self.unreadable)
    }

    /// This, and what a further round over the same disk took.
    #[must_use]
    pub fn and(&self, round: &Self) -> Self {
        Self {
            read: self.read + round.read,
            duplicate: self.duplicate + round.duplicate,
            fresh: self.fresh + round.fresh,
            unreadable: round.unreadable,
            stored: self.stored + round.stored,
            nodes: self.nodes + round.nodes,
            ..*self
        }
    }
}

/// Sectors that could not be read, as bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableRange {
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl UnreadableRange {
    /// The bytes of the disk.
    #[must_use]
    pub fn bytes(&self) -> ByteRange {
        ByteRange::new(self.offset, self.length)
    }
}

impl From<ByteRange> for UnreadableRange {
    fn from(range: ByteRange) -> Self {
        Self { offset: range.start, length: range.len() }
    }
}

/// A file whose content is not in an image, because nobody needs it after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFile {
    /// Its path on its volume.
    pub path: String,
    /// Bytes of it that were left out, in whole blocks; none if all of it was kept.
    pub bytes: u64,
    /// Why it was kept, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a volume's filesystem does not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// The volume's name.
    pub volume: String,
    /// What it holds.
    pub kind: String,
    /// Bytes of whole blocks that were left out because it does not use them, or as
    /// [`skipped`](Self::skipped) says.
    pub unallocated: u64,
    /// Why nothing was left out, if it is not certain what is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// Files whose contents were to be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedFile>,
}

impl VolumeUse {
    /// Says that nothing was left out of the volume after all, and why.
    pub fn keep_all(&mut self, doubt: &str) {
        (self.unallocated, self.doubt) = (0, Some(doubt.to_owned()));
        self.skipped.clear();
    }
}

/// How a disk that was in use was captured as it was at one instant: all of it, or of which volumes
/// this is certain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Bytes that were copied again in each round; the last at the instant.
    pub rounds: Vec<u64>,
    /// How long the filesystems were frozen, milliseconds.
    pub frozen_milliseconds: u64,
    /// Those that were mounted.
    pub filesystems: Vec<MountedFilesystem>,
    /// The disk's volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeMoment>,
    /// Why the image as a whole is not one instant, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// A filesystem that was mounted from the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedFilesystem {
    /// Where.
    pub mounted: String,
    /// Its type.
    pub kind: String,
    /// Why it was not frozen, if it was not: it is as after a power cut then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_frozen: Option<String>,
}

/// Whether a volume is in the image as it was at one instant, the same for all of which it is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMoment {
    /// Its name.
    pub volume: String,
    /// Why it is not, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What this file is: `image`.
    pub imgx: String,
    /// The format's version.
    pub format: u32,
    /// The repository that it belongs to.
    pub repository: RepositoryId,
    /// The name of the disk's history.
    pub name: String,
    /// When the capture began, RFC 3339, UTC, by the clock of the machine: it says nothing of
    /// the order of images.
    pub created: String,
    /// One more than that of every image that the repository held when the capture began, so that
    /// a child comes after its parent whatever the clocks say. Zero where an earlier version wrote
    /// none.
    #[serde(default)]
    pub ordinal: u64,
    /// The machine that captured it.
    pub host: String,
    /// The version that wrote it.
    pub version: String,
    /// The disk's size.
    pub size: ByteCount,
    /// The size of its blocks, bytes.
    pub block_size: BlockSize,
    /// The disk's identity: a digest of its size and content, the same wherever it is stored.
    pub content: Digest,
    /// The tree's root.
    pub tree: TreeRoot,
    /// The image that this one was compared with.
    pub parent: Option<ImageId>,
    /// The [marks of damage](super::damage::BadPlaces::digest) that were known when the capture
    /// began, none of which it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avoids: Option<String>,
    /// How changes were found.
    pub tracker: String,
    /// Why they were not found in a better way, if one was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracker_doubt: Option<String>,
    /// What the tracker of changes said of itself, as [`crate::track`] describes it.
    #[serde(default, deserialize_with = "json::bounded_option")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking: Option<serde_json::Value>,
    /// How the disk was brought to one instant, if it was in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Moment>,
    /// The source, as [`crate::block`] describes it.
    #[serde(deserialize_with = "json::bounded")]
    pub source: serde_json::Value,
    /// What the disk holds, as [`crate::volume`] describes it.
    #[serde(deserialize_with = "json::bounded")]
    pub layout: serde_json::Value,
    /// What was left out because no filesystem uses it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocation: Vec<VolumeUse>,
    /// What could not be read.
    pub unreadable: Vec<UnreadableRange>,
    /// What it cost.
    pub cost: Cost,
}

impl Manifest {
    /// The value of [`imgx`](Self::imgx).
    #[must_use]
    pub fn mark() -> String {
        MARK.to_owned()
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest is plain JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads and checks the manifest that is stored as `id`.
    ///
    /// # Errors
    /// `Corrupt` when its bytes do not have that id, or say what cannot be; `Unsupported` for a
    /// later format.
    pub fn decode(bytes: &[u8], id: ImageId, keys: &DigestKeys) -> Result<Self> {
        let found = keys.image_id(bytes);
        if found != id {
            return Err(Error::corrupt("manifest's digest", id, found));
        }
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::corrupt("manifest", "an image's", error))?;
        manifest.check(keys)?;
        Ok(manifest)
    }

    fn check(&self, keys: &DigestKeys) -> Result<()> {
        if self.imgx != MARK {
            return Err(Error::corrupt("manifest", MARK, &self.imgx));
        }
        if self.format != super::config::FORMAT {
            return Err(Error::newer(format!(
                "image format {}: this version knows {}",
                self.format, 1
            )));
        }
        if self.size.0 > MAX_DISK_SIZE {
            return Err(Error::new(ErrorKind::Limit, format!("image of {} bytes", self.size)));
        }
        self.check_counts()?;
        let level = root_level(self.blocks());
        match self.tree {
            TreeRoot::Stored { level: stored, .. } if stored != level => {
                return Err(Error::corrupt("root's level", level, stored));
            }
            _ => {}
        }
        let content = disk_digest(keys, (self.size, self.block_size), (level, &self.tree.entry()));
        if content != self.content {
            return Err(Error::corrupt("image's content digest", self.content, content));
        }
        Ok(())
    }

    /// Checks that it tells no more of anything than a capture writes.
    fn check_counts(&self) -> Result<()> {
        let skipped = self.allocation.iter().map(|volume| volume.skipped.len()).max();
        for (what, count, most) in [
            ("unreadable ranges", self.unreadable.len(), MAX_UNREADABLE_RANGES),
            ("volumes", self.allocation.len(), MAX_VOLUME_USES),
            ("files left out", skipped.unwrap_or_default(), MAX_SWAP_FILES),
        ] {
            if count > most {
                let expected = format!("at most {most} {what}");
                return Err(Error::corrupt("manifest", expected, count));
            }
        }
        Ok(())
    }

    /// Memory that it takes, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let parts = [Some(&self.source), Some(&self.layout), self.tracking.as_ref()];
        let parts: usize = parts.into_iter().flatten().map(json::memory).sum();
        let of_volume = |volume: &VolumeUse| 256 + volume.skipped.len() * 256;
        let volumes: usize = self.allocation.iter().map(of_volume).sum();
        parts + volumes + self.unreadable.len() * size_of::<UnreadableRange>()
    }

    /// The bytes of the disk that `count` blocks from `first` cover.
    #[must_use]
    pub fn bytes_of(&self, first: BlockIndex, count: u64) -> ByteRange {
        let (size, block) = (self.size.0, self.block_size.bytes());
        ByteRange { start: (first.0 * block).min(size), end: ((first.0 + count) * block).min(size) }
    }

    /// What could not be read, sorted and apart.
    #[must_use]
    pub fn unreadable_ranges(&self) -> Vec<ByteRange> {
        joined(self.unreadable.iter().map(UnreadableRange::bytes).collect())
    }

    /// Blocks of the disk.
    #[must_use]
    pub fn blocks(&self) -> BlockCount {
        self.block_size.count(self.size)
    }

    /// The tree's root: level and entry.
    #[must_use]
    pub fn root(&self) -> (u8, Entry) {
        (root_level(self.blocks()), self.tree.entry())
    }
}
