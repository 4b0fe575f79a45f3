//! What a comparison tells: a file that is not the same, and in what.

use crate::fs::FileType;

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// Its path is on the second disk only.
    Added,
    /// Its path is on the first disk only.
    Removed,
    /// Its path is on both, and what it names is not the same.
    Changed,
    /// The same file has another path. Of a folder, all that is below it came along.
    Renamed,
}

/// In what a file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// It is of another sort: a symbolic link where a folder was.
    Type,
    /// A regular file's bytes.
    Content,
    /// What a symbolic link says.
    Target,
    /// Which device it stands for.
    Device,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// The time of its last change. A folder's counts only where its entries do not explain it.
    Modified,
    /// Extended attributes, access control lists among them.
    Xattrs,
    /// Whether it is encrypted, sealed, or minds case.
    Protection,
}

impl Aspect {
    const ALL: [Self; 9] = [
        Self::Type,
        Self::Content,
        Self::Target,
        Self::Device,
        Self::Mode,
        Self::Owner,
        Self::Modified,
        Self::Xattrs,
        Self::Protection,
    ];
}

/// Several aspects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aspects(u16);

impl Aspects {
    /// Adds `aspect` if `is_so`.
    pub(super) fn add_if(&mut self, is_so: bool, aspect: Aspect) {
        if is_so {
            self.0 |= 1 << aspect as u16;
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `aspect` is among them.
    #[must_use]
    pub fn has(self, aspect: Aspect) -> bool {
        self.0 & 1 << aspect as u16 != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |aspect| self.has(*aspect))
    }
}

/// What a file is on one of the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brief {
    /// Its type.
    pub file_type: FileType,
    /// Bytes of content.
    pub size: u64,
}

/// A file that is not the same on both disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Its path: on the second disk, or, if it was removed, on the first.
    pub path: Vec<u8>,
    /// Its path on the first disk where that is another: it was renamed, or a folder above it.
    pub old_path: Option<Vec<u8>>,
    /// In what it differs; empty for what was added, removed or only renamed.
    pub aspects: Aspects,
    /// What it was.
    pub before: Option<Brief>,
    /// What it is.
    pub after: Option<Brief>,
}

/// One of the two disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Before,
    /// The second.
    After,
}

impl Side {
    /// Both, in their order.
    pub(super) const BOTH: [Self; 2] = [Self::Before, Self::After];

    /// Its place in a pair.
    pub(super) fn index(self) -> usize {
        self as usize
    }
}
