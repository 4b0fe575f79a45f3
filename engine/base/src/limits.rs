//! Every limit of the engine, on one page. Units are in the names or the docs.

use std::time::Duration;

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
/// Memory that one manifest's description of a source, of volumes or of tracking takes at most,
/// bytes; of more, nothing is known. A thousand partitions take 3 MiB.
pub const MAX_JSON_MEMORY: usize = 32 * 1024 * 1024;
/// Memory of all large manifests (of 256 KiB and more) that are held together at most, bytes.
pub const MAX_LARGE_MANIFESTS: usize = 1024 * 1024 * 1024;
/// Memory above which a manifest is a large one.
pub const LARGE_MANIFEST: usize = 256 * 1024;
/// Volumes that one image tells of what they do not use at most.
pub const MAX_VOLUME_USES: usize = 65_536;
/// Subtrees of one level that a walk remembers at most.
pub const MAX_KNOWN_NODES: usize = 1 << 18;
/// Nodes that a comparison of two trees goes through again at most, because they repeat and
/// differ in places.
pub const MAX_REPEATED_NODES: u64 = 1 << 16;
/// Stretches of one disk that are told to be lost at most; those behind are told as one, with what
/// lies between.
pub const MAX_LOST_RANGES: usize = 65_536;
/// Largest repository config, bytes.
pub const MAX_CONFIG_SIZE: u64 = 64 * 1024;
/// Largest lock record, bytes.
pub const MAX_LOCK_SIZE: u64 = 64 * 1024;
/// Unreadable ranges that one image records at most; a source with more aborts the capture.
pub const MAX_UNREADABLE_RANGES: usize = 65_536;
/// Partitions that one disk lists at most.
pub const MAX_PARTITIONS: usize = 1024;
/// Bytes that a pack holds before its table, at most; places are 32-bit.
pub const MAX_PACK_SIZE: u64 = 256 * 1024 * 1024;
/// Entries of one pack's table at most, which bounds it to 3 MiB.
pub const MAX_PACK_ENTRIES: usize = 65_536;
/// Children of one tree node.
pub const NODE_FANOUT: u16 = 512;
/// Bytes of one encoded tree node at most.
pub const MAX_NODE_SIZE: usize = 4 * 1024 * 1024;
/// Levels of a tree at most: 512^7 blocks of 16 KiB exceed [`MAX_DISK_SIZE`].
pub const MAX_TREE_LEVEL: u8 = 6;
/// Decoded tree nodes that one open image keeps in memory at most.
pub const CACHED_NODES: usize = 64;
/// Decoded frames that one open image keeps in memory for the next read, of some 1 MiB each.
pub const IDLE_READERS: usize = 12;
/// Pack files that one reader keeps open at most.
pub const OPEN_PACKS: usize = 256;
/// Entries of finished packs that the index keeps on the heap before it writes a segment.
pub const INDEX_HEAP_ENTRIES: usize = 131_072;
/// Index segments above which the smallest are merged.
pub const INDEX_SEGMENTS: usize = 8;
/// Contents of one frame at most: 64 blocks of 16 KiB are a frame's 1 MiB.
pub const MAX_FRAME_MEMBERS: u16 = 64;
/// Entries of one Apple partition map at most: Linux's own limit.
pub const MAX_APM_ENTRIES: usize = 256;
/// Entries of one BSD disklabel at most: what a sector holds.
pub const MAX_BSD_ENTRIES: usize = 22;
/// Links that one chain of logical partitions (EBRs) is followed for at most.
pub const MAX_EBR_LINKS: usize = 256;
/// Largest GPT entry array that is read, bytes: 8,192 entries of the usual size.
pub const MAX_GPT_ENTRY_BYTES: u64 = 1024 * 1024;
/// Notes that one disk's layout keeps at most.
pub const MAX_LAYOUT_NOTES: usize = 64;
/// Volume descriptors of one UDF that are looked at for its label at most; 16 are usual.
pub const MAX_UDF_DESCRIPTORS: u32 = 256;
/// Directory bytes that are searched for a FAT or exFAT volume label at most.
pub const MAX_LABEL_SEARCH: u64 = 1024 * 1024;
/// Sentences about what is wrong with one filesystem as a whole that are kept at most.
pub const MAX_DOUBTS: usize = 64;
/// Blocks of metadata that an open filesystem keeps in memory at most.
pub const CACHED_FS_BLOCKS: usize = 1024;
/// Blocks of one folder at most: 4 GiB of entries with blocks of 4 KiB.
pub const MAX_FOLDER_BLOCKS: u64 = 1 << 20;
/// Blocks of the map to one file's content at most, where all of them are looked at: those of
/// a thousand million extents.
pub const MAX_MAP_BLOCKS: usize = 1 << 22;
/// Bytes of one extended attribute's value at most: Linux's own limit.
pub const MAX_XATTR_SIZE: usize = 64 * 1024;
/// Blocks and bytes of one file's extended attributes at most. Linux lists 64 KiB of names.
pub const MAX_XATTR_BLOCKS: usize = 65_536;
/// See [`MAX_XATTR_BLOCKS`].
pub const MAX_XATTR_BYTES: usize = 64 * 1024 * 1024;
/// Blocks of one filesystem journal at most: what mke2fs makes at most.
pub const MAX_JOURNAL_BLOCKS: u64 = 10_240_000;
/// Bytes of one journal's pending fast commits at most; 16 MiB are usual with the largest journals.
pub const MAX_FAST_COMMIT_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of one XFS log's transactions that are not yet whole at most: Linux's own limit is a
/// fourth of it.
pub const MAX_OPEN_TRANSACTIONS: usize = 256 * 1024 * 1024;
/// Operations that one XFS log has begun and not ended at most.
pub const MAX_LOG_INTENTS: usize = 1 << 20;
/// Bytes of a volume that the replay of one XFS log changes at most.
pub const MAX_REPLAYED_BYTES: usize = 512 * 1024 * 1024;
/// Bitmaps and tables that one filesystem's free space is computed with at most: those of a
/// million block groups.
pub const MAX_METADATA_RANGES: usize = 3 << 20;
/// Bytes of the kernel's own types (`/sys/kernel/btf/vmlinux`) at most; some 10 MiB are usual.
pub const MAX_KERNEL_TYPES: u64 = 128 * 1024 * 1024;
/// Smallest granule of a change map, bytes.
pub const MIN_GRANULE: u64 = 4 * 1024;
/// Largest granule of a change map, bytes.
pub const MAX_GRANULE: u64 = MAX_BLOCK_SIZE as u64;
/// Granules of one change map at most: 128 MiB of bits, which cover 64 TiB at 64 KiB.
pub const MAX_GRANULES: u64 = 1 << 30;
/// Disks that are tracked at the same time at most.
pub const MAX_TRACKED_DISKS: u32 = 64;
/// Writes in flight to tracked disks without a request queue at most; more are told, and then
/// the marks at their queueing have to do.
pub const MAX_TRACKED_IN_FLIGHT: u32 = 65_536;
/// Epochs of one disk whose images were not stored that are kept apart at most; more are joined.
pub const MAX_OPEN_EPOCHS: usize = 16;
/// How long to wait at most for another process that holds the trackers.
pub const MAX_TRACKER_WAIT: Duration = Duration::from_secs(5);
/// The same where filesystems may be frozen meanwhile.
pub const MAX_TRACKER_WAIT_FROZEN: Duration = Duration::from_millis(500);
/// Disks whose files are read together at most.
pub const MAX_DISKS: usize = 64;
/// Cells of one map at most, besides one for each of its sections.
pub const MAX_MAP_CELLS: u64 = 65_536;
/// Blocks that are read at most to find out whether what is known of a restore's target is true.
pub const KNOWN_SAMPLES: u64 = 256;
/// Pieces of 128 KiB that are kept of a disk or image whose files are read: 48 MiB.
pub const CACHED_PIECES: usize = 384;
/// Pieces that the comparison of two images' files keeps of what both hold: it goes through all
/// folders of a disk, more than once over the same stretches.
pub const COMPARED_PIECES: usize = 1024;
/// Symbolic links that the lookup of one path follows at most: Linux's own limit.
pub const MAX_LINKS_FOLLOWED: usize = 40;
/// Folders within folders that a walk goes down at most.
pub const MAX_FOLDER_DEPTH: usize = 2048;
/// Files and folders that one extraction plans at most.
pub const MAX_EXTRACTED: usize = 1 << 26;
/// Stretches of data that an archive tells apart in one file at most; of a file with more, holes
/// that are small are written out.
pub const MAX_ARCHIVED_STRETCHES: usize = 1 << 20;
/// Folders that one extraction holds open at most, because others could put something else in
/// their places: what most systems allow a process (1,024 files), less all other needs.
pub const MAX_HELD_FOLDERS: usize = 384;
/// Things that one extraction names at most of all that the target could not keep.
pub const MAX_NAMED: usize = 10_000;
/// Paths that one comparison of disks finds in only one of them at most.
pub const MAX_DIFFERENCES: usize = 1 << 24;
/// Stretches of one file that are compared by where they are at most; of a file with more, the
/// whole content is read.
pub const MAX_COMPARED_EXTENTS: usize = 1 << 22;
/// Bytes of one LVM2 volume group's text at most.
pub const MAX_LVM_TEXT: u64 = 16 * 1024 * 1024;
/// Sections and lists within one another that such a text has at most.
pub const MAX_LVM_DEPTH: usize = 16;
/// Names and list members of such a text at most.
pub const MAX_LVM_VALUES: usize = 1 << 20;
/// Segments of one logical volume at most.
pub const MAX_LVM_SEGMENTS: usize = 4096;
/// Logical volumes on one another at most.
pub const MAX_LVM_STACK: usize = 16;
/// Changed stretches of one LVM snapshot at most: 384 MiB of memory.
pub const MAX_SNAPSHOT_EXCEPTIONS: usize = 1 << 24;
/// Regions of one LVM mirror at most: 8 MiB of bits.
pub const MAX_MIRROR_REGIONS: u64 = 1 << 26;
/// Levels of one tree of a thin pool or cache at most; Linux's own have up to seven.
pub const MAX_POOL_TREE_DEPTH: usize = 16;
/// Nodes of one thin pool's trees that are kept in memory at most, 4 KiB each, twice.
pub const CACHED_NODES_OF_POOLS: usize = 1024;
/// Volumes within volumes within volumes: how deep they are looked for.
pub const MAX_VOLUME_DEPTH: usize = 6;
/// Places of contents that a verification compares with the packs' tables together: 16 MiB.
pub const WAITING_PLACES: usize = 1 << 18;
/// Deltas that a verification puts off at most, to check them in the order of their bases: some
/// 50 MiB.
pub const WAITING_DELTAS: usize = 1 << 18;
/// Bytes of them that it holds meanwhile; those beyond are read again.
pub const WAITING_DELTA_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that are hashed at most to find the wrong bit of a damaged frame: some seconds.
pub const MAX_FLIPPED: u64 = 1 << 36;
/// Frames whose wrong bit one repair looks for at most.
pub const MAX_GUESSES: usize = 64;
/// Bytes of contents that a repair gathers from a disk at a time.
pub const MAX_GATHERED: u64 = 256 * 1024 * 1024;
/// Frames that one capture remembers to have read back at most.
pub const MAX_RECHECKED: usize = 1 << 18;
/// Files of one image that a verification names at most.
pub const MAX_DAMAGED_FILES: usize = 1000;
/// Pieces of free space that one capture leaves out at most; what lies behind them is read.
pub const MAX_UNUSED_PIECES: usize = 1 << 22;
/// Bytes and entries of an fstab that are looked into at most.
pub const MAX_FSTAB: usize = 1 << 20;
/// See [`MAX_FSTAB`].
pub const MAX_FSTAB_ENTRIES: usize = 1024;
/// Swap files of one filesystem at most, whose contents a capture leaves out.
pub const MAX_SWAP_FILES: usize = 64;
/// Rounds that a disk in use is copied in at most, before its filesystems are frozen.
pub const MAX_ROUNDS: usize = 8;
/// Bytes that are read into memory at most while filesystems are frozen.
pub const MAX_HELD: u64 = 256 * 1024 * 1024;
/// Seconds that a command around a freeze may take at most.
pub const HOOK_SECONDS: u64 = 3600;
/// Seconds that the one after may take once the capture is cancelled.
pub const LAST_HOOK_SECONDS: u64 = 30;
/// Bytes of one NTFS attribute list at most: Windows' own limit.
pub const MAX_ATTRIBUTE_LIST: u64 = 256 * 1024;
/// Runs of one NTFS stream at most: more than such a list leads to.
pub const MAX_NTFS_RUNS: usize = 1 << 22;
/// Bytes of one NTFS compression unit at most; 64 KiB are usual.
pub const MAX_COMPRESSION_UNIT: u64 = 32 * 1024 * 1024;
/// Bytes of one NTFS reparse point at most: Windows' own limit.
pub const MAX_REPARSE: u64 = 16 * 1024;
/// Folders that are gone through at most to find out what a link of Windows' means.
pub const MAX_LINKED_DEPTH: usize = 256;
/// Folders of an NTFS's own at most.
pub const MAX_OWN_FOLDERS: usize = 4096;
/// Bytes of all members of a RAID that are held at most to compute what is missing.
pub const MAX_REBUILT_AT_ONCE: usize = 32 * 1024 * 1024;
/// Chunks of one btrfs at most: a million of the usual GiB.
pub const MAX_CHUNKS: usize = 1 << 20;
/// Bytes that one compressed extent of btrfs holds at most; Linux makes them of 128 KiB.
pub const MAX_UNPACKED_EXTENT: u64 = 1 << 20;
/// Bytes of all extended attributes of one file at most.
pub const MAX_XATTRS_SIZE: usize = 64 << 20;
/// Inodes, entries and names that one tree log of btrfs changes at most.
pub const MAX_REPLAYED: usize = 1 << 20;
/// Subvolumes of one tree log at most.
pub const MAX_LOGS: usize = 64;
/// Chunks of inodes of XFS, or nodes of btrfs, that one survey of a filesystem goes by at most:
/// some 200 MiB. What has more is walked through its folders.
pub const MAX_SURVEYED: usize = 1 << 21;
/// Free stretches within one chunk of btrfs at most.
pub const MAX_FREE_STRETCHES: usize = 1 << 22;
/// Bytes of an NBD export's or context's name at most: the protocol's own limit.
pub const MAX_NBD_NAME: usize = 4096;
/// Bytes of an NBD server's answer to an option at most.
pub const MAX_NBD_OPTION_REPLY: u32 = 64 * 1024;
/// Answers to one such option at most.
pub const MAX_NBD_OPTION_REPLIES: usize = 4096;
/// Contexts (what is allocated, dirty bitmaps) that one NBD export is asked about at most.
pub const MAX_NBD_CONTEXTS: usize = 16;
/// Bytes of an NBD server's description of blocks at most: half a million extents.
pub const MAX_NBD_STATUS: u32 = 4 * 1024 * 1024;
/// Questions after the blocks of one NBD export at most.
pub const MAX_NBD_STATUS_REQUESTS: usize = 1 << 20;
/// Chunks of an NBD server's answer that are not in order at most.
pub const MAX_NBD_PIECES: usize = 1024;
/// Chunks of one such answer at most: one for each sector of the largest request.
pub const MAX_NBD_CHUNKS: usize = 65_536;
/// Connections to one NBD export at most.
pub const NBD_CONNECTIONS: usize = 4;
/// Bytes of a key file at most: cryptsetup's own limit.
pub const MAX_KEY_FILE: u64 = 8 * 1024 * 1024;
/// Bytes of one LUKS2 header at most, checksum and JSON together: the largest of its format.
pub const MAX_LUKS_HEADER: u64 = 4 * 1024 * 1024;
/// Keyslots, segments and digests of one LUKS2 header at most, of each: cryptsetup's own limit.
pub const MAX_LUKS_OBJECTS: usize = 32;
/// Bytes of one volume key at most: cryptsetup's own limit.
pub const MAX_LUKS_KEY: u64 = 512;
/// Bytes of the key material of one keyslot at most: 4,000 stripes of the largest key.
pub const MAX_LUKS_MATERIAL: u64 = 4000 * MAX_LUKS_KEY;
/// Bytes of one salt or digest of a LUKS header at most; 32 are usual.
pub const MAX_LUKS_SALT: usize = 4096;
/// KiB of memory that one keyslot's Argon2 takes at most: cryptsetup's own limit, 4 GiB.
pub const MAX_ARGON2_MEMORY: u64 = 4 * 1024 * 1024;
/// Lanes of one keyslot's Argon2 at most; cryptsetup makes four.
pub const MAX_ARGON2_LANES: u64 = 64;
/// KiB that one keyslot's Argon2 goes through at most, all passes together: about an hour.
pub const MAX_ARGON2_WORK: u64 = 1 << 32;
/// Iterations of one PBKDF2 at most: cryptsetup's own limit, some minutes.
pub const MAX_PBKDF2_ITERATIONS: u64 = u32::MAX as u64;
