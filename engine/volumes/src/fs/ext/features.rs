//! The features that a filesystem uses, by the names that `dumpe2fs` prints.
//!
//! Kernel documentation, `filesystems/ext4/super.rst`: `s_feature_compat`, `s_feature_incompat`,
//! `s_feature_ro_compat`.

/// `s_feature_compat`: may be ignored.
pub(super) mod compat {
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
}

/// `s_feature_incompat`: must be understood to read anything.
pub(super) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const JOURNAL_DEV: u32 = 0x8;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const SIXTY_FOUR_BIT: u32 = 0x80;
    pub(crate) const MMP: u32 = 0x100;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const EA_INODE: u32 = 0x400;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGE_DIR: u32 = 0x4000;
    pub(crate) const INLINE_DATA: u32 = 0x8000;
    pub(crate) const ENCRYPT: u32 = 0x1_0000;
    pub(crate) const CASEFOLD: u32 = 0x2_0000;

    /// Those that this reader understands.
    pub(crate) const KNOWN: u32 = FILETYPE
        | RECOVER
        | META_BG
        | EXTENTS
        | SIXTY_FOUR_BIT
        | MMP
        | FLEX_BG
        | EA_INODE
        | CSUM_SEED
        | LARGE_DIR
        | INLINE_DATA
        | ENCRYPT
        | CASEFOLD;
    /// Those that an ext2 driver understands.
    pub(crate) const OF_EXT2: u32 = FILETYPE | META_BG;
    /// Those that an ext3 driver understands.
    pub(crate) const OF_EXT3: u32 = OF_EXT2 | RECOVER;

    /// What the bits that are not known are called.
    pub(crate) const NAMES: [(u32, &str); 3] =
        [(0x1, "compression"), (JOURNAL_DEV, "journal_dev"), (0x1000, "dirdata")];
}

/// `s_feature_ro_compat`: must be understood to know what is free.
pub(super) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const LARGE_FILE: u32 = 0x2;
    pub(crate) const BTREE_DIR: u32 = 0x4;
    pub(crate) const HUGE_FILE: u32 = 0x8;
    pub(crate) const GDT_CSUM: u32 = 0x10;
    pub(crate) const BIGALLOC: u32 = 0x200;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
    pub(crate) const VERITY: u32 = 0x8000;

    /// `dir_nlink`, `extra_isize`, `quota`, `read-only`, `project`, `shared_blocks` and
    /// `orphan_present`, none of which changes what the allocation bitmaps mean.
    const OTHERS: u32 = 0x20 | 0x40 | 0x100 | 0x1000 | 0x2000 | 0x4000 | 0x1_0000;
    /// Those with which the allocation bitmaps are understood.
    pub(crate) const KNOWN: u32 = SPARSE_SUPER
        | LARGE_FILE
        | BTREE_DIR
        | HUGE_FILE
        | GDT_CSUM
        | BIGALLOC
        | METADATA_CSUM
        | VERITY
        | OTHERS;
    /// Those that ext2 and ext3 drivers understand.
    pub(crate) const OF_EXT3: u32 = SPARSE_SUPER | LARGE_FILE | BTREE_DIR;

    /// What the bits that are not known are called.
    pub(crate) const NAMES: [(u32, &str); 2] = [(0x80, "snapshot"), (0x800, "replica")];
}

/// The names of `bits`, or their values where they have none.
pub(super) fn describe(bits: u32, names: &[(u32, &str)]) -> String {
    let each = (0..32).map(|shift| 1_u32.wrapping_shl(shift)).filter(|bit| bits & bit != 0);
    let name = |bit: u32| {
        let known = names.iter().find(|(known, _)| *known == bit);
        known.map_or(format!("bit {bit:#x}"), |(_, name)| (*name).to_owned())
    };
    each.map(name).collect::<Vec<_>>().join(", ")
}
