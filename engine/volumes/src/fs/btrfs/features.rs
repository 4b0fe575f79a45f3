//! The features that a filesystem uses, by the names that `btrfs inspect-internal` prints.
//!
//! The kernel's `include/uapi/linux/btrfs.h` and `btrfs_tree.h`.

/// `incompat_flags`: must be understood to read anything.
pub(super) mod incompat {
    pub(crate) const MIXED_GROUPS: u64 = 1 << 2;
    pub(crate) const NO_HOLES: u64 = 1 << 9;
    pub(crate) const METADATA_UUID: u64 = 1 << 10;

    /// `mixed_backref`, `default_subvol`, `compress_lzo`, `compress_zstd`, `big_metadata`,
    /// `extended_iref`, `raid56`, `skinny_metadata`, `raid1c34` and `simple_quota`.
    const OTHERS: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
    const YOUNGER: u64 = 1 << 11 | 1 << 16;
    /// Those that this reader understands.
    pub(crate) const KNOWN: u64 = MIXED_GROUPS | NO_HOLES | METADATA_UUID | OTHERS | YOUNGER;

    /// What the bits that are not known are called.
    pub(crate) const NAMES: [(u64, &str); 4] = [
        (1 << 12, "zoned"),
        (1 << 13, "extent_tree_v2"),
        (1 << 14, "raid_stripe_tree"),
        (1 << 17, "remap_tree"),
    ];
}

/// `compat_ro_flags`: must be understood to know what is free.
pub(super) mod compat_ro {
    pub(crate) const BLOCK_GROUP_TREE: u64 = 1 << 3;
    /// `free_space_tree`, `free_space_tree_valid` and `verity` besides.
    pub(crate) const KNOWN: u64 = 1 | 1 << 1 | 1 << 2 | BLOCK_GROUP_TREE;
}

/// `flags` of the superblock.
pub(super) mod flags {
    pub(crate) const ERROR: u64 = 1 << 2;
    pub(crate) const SEEDING: u64 = 1 << 32;
    pub(crate) const METADUMP: u64 = 1 << 33 | 1 << 34;
    /// Besides these, that it was written and relocated.
    pub(crate) const KNOWN: u64 = 1 | 1 << 1 | ERROR | SEEDING | METADUMP;

    /// What is under way while one of the others is set.
    pub(crate) const NAMES: [(u64, &str); 5] = [
        (1 << 35, "an unfinished change of its UUID"),
        (1 << 36, "an unfinished change of its UUID"),
        (1 << 38, "an unfinished conversion to a block group tree"),
        (1 << 39, "an unfinished change of its data checksums"),
        (1 << 40, "an unfinished change of its metadata checksums"),
    ];
}

/// The names of `bits`, or their values where they have none.
pub(super) fn describe(bits: u64, names: &[(u64, &str)]) -> String {
    let each = (0..64).map(|shift| 1_u64.wrapping_shl(shift)).filter(|bit| bits & bit != 0);
    let name = |bit: u64| {
        let known = names.iter().find(|(known, _)| *known == bit);
        known.map_or(format!("bit {bit:#x}"), |(_, name)| (*name).to_owned())
    };
    each.map(name).collect::<Vec<_>>().join(", ")
}
