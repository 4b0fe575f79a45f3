//! What a disk holds, in the form that an image's manifest keeps.

use serde::{Deserialize, Serialize};

use super::verdict::Verdict;
use crate::base::ByteRange;
use crate::base::limits::MAX_LAYOUT_NOTES;
use crate::content::Content;
use crate::kind::Kind;

/// The scheme of a disk's partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionTable {
    /// A master boot record, logical partitions included.
    Mbr,
    /// A GUID partition table.
    Gpt,
    /// Apple's partition map.
    Apm,
}

impl PartitionTable {
    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mbr => "mbr",
            Self::Gpt => "gpt",
            Self::Apm => "apm",
        }
    }
}

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLayout {
    /// The partition table's scheme; `None` for a disk without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<PartitionTable>,
    /// Bytes of the sectors that the table counts in. An image file of a 4096-byte-sector disk
    /// says 4096 here, whatever the file's own device says.
    pub sector_size: u32,
    /// The disk's GUID (GPT) or its eight-digit signature (MBR), in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_id: Option<String>,
    /// Partitions in the order of their numbers, or the one filesystem directly on the disk; then
    /// the arrays and logical volumes within them.
    pub volumes: Vec<Volume>,
    /// Damage and oddities, a plain sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl DiskLayout {
    /// The volume called `name`.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }
}

/// A partition, or the whole disk where a filesystem lies directly on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `p1`, `p2`... by partition number, `disk`, `GROUP/NAME` of LVM, `md/NAME` of a RAID. What
    /// lies in an encrypted volume, on a virtual machine's disk or in a BSD's partition is called by
    /// that one's name before its own: `p3/luks`, `p3/luks/vg0/root`, `vg0/machine/p1`, `p1/a`.
    pub name: String,
    /// First byte on the disk; of what lies in other volumes, a place of its first byte, or zero
    /// if that is not known.
    pub start: u64,
    /// Bytes, as the table says; a damaged table may say more than the disk has.
    pub length: u64,
    /// The type's GUID in lower case (GPT), `0x83` and the like (MBR, disklabels) or its name
    /// (Apple's partition map).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_type: Option<String>,
    /// What the type is called, if it is a known one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// The partition's own name (GPT and Apple's partition map).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_label: Option<String>,
    /// The partition's GUID, or the disk signature and number (MBR), as Linux's PARTUUID; LVM's
    /// own identifier of a logical volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_uuid: Option<String>,
    /// Whether the table marks it as the one that a BIOS boots.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub active: bool,
    /// What its signature says it contains; `None` if no known one is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// A digest of where its bytes are, if they lie in other volumes and are its alone: where it is
    /// the same, they are at the same places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// The volumes whose bytes it is made of: of a logical volume its physical ones, of an array
    /// its members, of a partition or of what is encrypted within a volume that volume. None if it
    /// is the disk's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<String>,
    /// Why its bytes cannot be had; nothing if they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<String>,
    /// Why all of it is needed, whatever its own allocation maps say: it is not certain what it
    /// holds, or something else needs its bytes as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_whole: Option<String>,
}

impl Volume {
    /// A volume of `length` bytes from `start`, with nothing else known.
    pub(super) fn new(name: impl Into<String>, start: u64, length: u64) -> Self {
        Self {
            name: name.into(),
            start,
            length,
            partition_type: None,
            type_name: None,
            partition_label: None,
            partition_uuid: None,
            active: false,
            content: None,
            mapping: None,
            within: Vec::new(),
            unsupported: None,
            read_whole: None,
        }
    }

    /// Whether it lies within other volumes: a RAID array, a logical volume, a partition of a
    /// volume, what is encrypted in one.
    #[must_use]
    pub fn is_stacked(&self) -> bool {
        !self.within.is_empty()
    }

    /// What it holds, if that is known.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.content.as_ref().map(|content| content.kind)
    }

    /// Whether what it holds is of this kind.
    #[must_use]
    pub fn holds(&self, kind: Kind) -> bool {
        self.kind() == Some(kind)
    }

    /// Whether what it holds is a partition table.
    #[must_use]
    pub fn holds_table(&self) -> bool {
        self.kind().is_some_and(Kind::is_table)
    }

    /// Whether what lies in it are other volumes.
    #[must_use]
    pub fn holds_volumes(&self) -> bool {
        self.kind().is_some_and(Kind::is_container)
    }

    /// Whether what it holds is a filesystem, read or not.
    #[must_use]
    pub fn holds_filesystem(&self) -> bool {
        self.kind().is_some_and(Kind::is_filesystem)
    }

    /// Keeps what was found out about its content.
    pub(super) fn found(&mut self, verdict: Verdict) {
        self.content = verdict.content;
        self.read_whole = self.read_whole.take().or(verdict.doubt);
    }

    /// Whether both are called the same, and lie in the same.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let is_one = self.name == other.name && self.within == other.within;
        is_one && self.start == other.start && self.partition_uuid == other.partition_uuid
    }

    /// Its bytes on the disk, if it is the disk's own.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.length)
    }
}

/// Collects notes, [`MAX_LAYOUT_NOTES`] at most, so that a hostile table cannot fill a manifest.
#[derive(Debug, Default)]
pub(super) struct Notes {
    sentences: Vec<String>,
    dropped: u64,
}

impl Notes {
    pub(super) fn add(&mut self, sentence: impl Into<String>) {
        if self.sentences.len() < MAX_LAYOUT_NOTES {
            self.sentences.push(sentence.into());
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.dropped = self.dropped.saturating_add(other.dropped);
        other.sentences.into_iter().for_each(|sentence| self.add(sentence));
    }

    pub(super) fn into_sentences(self) -> Vec<String> {
        let mut sentences = self.sentences;
        if self.dropped > 0 {
            sentences.push(format!("{} more notes of this sort were left out", self.dropped));
        }
        sentences
    }
}
