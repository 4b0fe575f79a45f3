//! What every filesystem says of its files, in one form.

/// A file's number within its filesystem, stable while it is open. Two names with one id are
/// hard links of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Which tree or stream of the filesystem it belongs to: a btrfs subvolume, an NTFS data
    /// stream; zero where a filesystem has one tree only.
    pub tree: u64,
    /// Its number there: an inode number, a master file table record, or, where files have no
    /// numbers (FAT), its directory entry's place.
    pub number: u64,
}

impl FileId {
    /// File `number` of a filesystem with one tree.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { tree: 0, number }
    }
}

/// What sort of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Has content.
    Regular,
    /// Has entries.
    Directory,
    /// Has a target; junctions and other links of Windows too.
    Symlink,
    /// A device that moves characters.
    CharDevice,
    /// A device that moves blocks.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A local socket.
    Socket,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: never empty, but otherwise whatever the disk says, slashes and NULs included.
    pub name: Vec<u8>,
    /// The file that it names.
    pub file: FileId,
    /// The file's type, if the entry itself says it.
    pub file_type: Option<FileType>,
}

/// Seconds and nanoseconds since 1970-01-01 00:00 UTC; the seconds are negative before it.
/// Local times without a zone are those of [`ReadOptions::zone`](crate::fs::ReadOptions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds after them, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What is special about a file's content or a folder's names. The first that applies is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protection {
    /// Nothing.
    None,
    /// It is encrypted, and there is no key: sizes and attributes hold, content does not.
    Encrypted,
    /// Its content is not on the disk: in cloud storage, deduplicated. Sizes and attributes hold.
    Elsewhere,
    /// Its content is sealed by a tree of digests (fs-verity), which is not checked.
    Verity,
    /// A folder in a filesystem that minds case finds names whatever their case.
    Casefold,
}

/// A file's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What sort of file it is.
    pub file_type: FileType,
    /// Bytes of content; of a symbolic link, of its target.
    pub size: u64,
    /// Permission bits, set-id and sticky bits (the low twelve); `None` where the filesystem has
    /// none.
    pub mode: Option<u16>,
    /// The owner; `None` where the filesystem has none.
    pub uid: Option<u32>,
    /// The owning group.
    pub gid: Option<u32>,
    /// Names that lead to it.
    pub links: u32,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// When the content changed last.
    pub modified: Option<Timestamp>,
    /// When the content was read last.
    pub accessed: Option<Timestamp>,
    /// When the attributes changed last.
    pub changed: Option<Timestamp>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What is special about it, if anything is.
    pub protection: Protection,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its whole name, with the prefix of its namespace.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Where a stretch of a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// As it is, at this byte of the volume.
    At(u64),
    /// Encoded (compressed) in the stretch of the volume that starts at this byte and has the
    /// second number of bytes.
    Encoded(u64, u64),
    /// Within the filesystem's structures, not on blocks of its own.
    Inline,
    /// Nowhere: never written, reads as zeros.
    Hole,
    /// On blocks that were reserved but not written; reads as zeros. They are at this byte of the
    /// volume, if that is known.
    Unwritten(Option<u64>),
}

/// A stretch of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte within the file.
    pub offset: u64,
    /// Bytes; never zero.
    pub length: u64,
    /// Where they are.
    pub place: Place,
}

/// What a filesystem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemInfo {
    /// `ext4`, `fat32`, `exfat`... as `blkid` spells it.
    pub kind: &'static str,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Its UUID or serial number, spelled as `blkid` does.
    pub uuid: Option<String>,
    /// Bytes that it spans from the volume's start.
    pub size: u64,
    /// Bytes of its unit of allocation.
    pub block_size: u32,
    /// What was noticed when it was opened, a plain sentence each: a journal that was replayed,
    /// a backup superblock that was used, damage.
    pub notes: Vec<String>,
}

/// Which device of a filesystem on several a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOf {
    /// The filesystem's UUID.
    pub filesystem: String,
    /// The device's own.
    pub device: String,
    /// How many devices the filesystem has.
    pub devices: u64,
    /// The UUIDs of devices of other filesystems that it grew from, and still needs (seeds).
    pub seeds: Vec<String>,
}
