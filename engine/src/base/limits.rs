//! Every limit of the engine, on one page. Units are in the names or the docs.

/// Smallest block, bytes.
pub const MIN_BLOCK_SIZE: u32 = 16 * 1024;
/// Largest block, bytes.
pub const MAX_BLOCK_SIZE: u32 = 1024 * 1024;
/// Largest disk, bytes: 2^60, so that sums of offsets and lengths stay within 64 bits.
pub const MAX_DISK_SIZE: u64 = 1 << 60;
/// Bytes that one read or write of the data path moves at most.
pub const MAX_IO_SIZE: usize = 1024 * 1024;
/// Largest manifest, bytes.
pub const MAX_MANIFEST_SIZE: u64 = 16 * 1024 * 1024;
/// Largest repository config, bytes.
pub const MAX_CONFIG_SIZE: u64 = 64 * 1024;
/// Largest lock record, bytes.
pub const MAX_LOCK_SIZE: u64 = 64 * 1024;
/// Unreadable ranges that one image records at most; a source with more aborts the capture.
pub const MAX_UNREADABLE_RANGES: usize = 65_536;
/// Partitions that one disk lists at most.
pub const MAX_PARTITIONS: usize = 1024;
/// Links that one chain of logical partitions (EBRs) is followed for at most.
pub const MAX_EBR_LINKS: usize = 256;
/// Largest GPT entry array that is read, bytes: 8,192 entries of the usual size.
pub const MAX_GPT_ENTRY_BYTES: u64 = 1024 * 1024;
/// Notes that one disk's layout keeps at most.
pub const MAX_LAYOUT_NOTES: usize = 64;
/// Directory bytes that are searched for a FAT or exFAT volume label at most.
pub const MAX_LABEL_SEARCH: u64 = 1024 * 1024;
