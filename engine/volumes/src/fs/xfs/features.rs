//! Bits of features, and which of them are understood.
//!
//! The kernel's `fs/xfs/libxfs/xfs_format.h`.

/// Bits of `sb_versionnum` beside the version in its lowest four.
pub(super) mod version {
    pub(crate) const NUMBER: u16 = 0xf;
    /// Unwritten extents have a flag.
    pub(crate) const EXTFLG: u16 = 0x1000;
    /// Folders of version 2.
    pub(crate) const DIRV2: u16 = 0x2000;
    /// Names are compared without regard to case, in ASCII and Latin-1 only.
    pub(crate) const BORG: u16 = 0x4000;
    /// `sb_features2` means something.
    pub(crate) const MORE: u16 = 0x8000;
}

/// Bits of `sb_features2`.
pub(super) mod features2 {
    /// The superblock's counters are right after an unmount only.
    pub(crate) const LAZYSBCOUNT: u32 = 0x2;
    /// Entries of folders tell the file's type.
    pub(crate) const FTYPE: u32 = 0x200;
}

/// Bits of `sb_features_ro_compat`: what one who only reads need not know.
pub(super) mod ro_compat {
    pub(crate) const KNOWN: u32 = 0xf;
    pub(crate) const NAMES: [&str; 4] = ["finobt", "rmapbt", "reflink", "inobtcount"];
}

/// Bits of `sb_features_incompat`.
pub(super) mod incompat {
    pub(crate) const FTYPE: u32 = 0x1;
    pub(crate) const SPINODES: u32 = 0x2;
    /// Metadata carries `sb_meta_uuid`, because the other was changed.
    pub(crate) const META_UUID: u32 = 0x4;
    pub(crate) const NEEDSREPAIR: u32 = 0x10;
    /// The lowest eight, from `ftype` to `parent`. All that the others change is either said by
    /// each inode (`bigtime`, `nrext64`), of the trees of inodes alone (`spinodes`), found by no
    /// reader (`exchrange`), or an attribute that is not shown (`parent`).
    pub(crate) const KNOWN: u32 = 0xff;
    pub(crate) const NAMES: [&str; 11] = [
        "ftype",
        "spinodes",
        "meta_uuid",
        "bigtime",
        "needsrepair",
        "nrext64",
        "exchrange",
        "parent",
        "metadir",
        "zoned",
        "zone_gaps",
    ];
}

/// The names of the bits of `set`, those without a name by their value.
pub(super) fn describe(set: u32, names: &[&str]) -> String {
    let bits = (0..32_u32).filter(|bit| set.wrapping_shr(*bit) & 1 == 1);
    let name = |bit: u32| {
        let known = usize::try_from(bit).ok().and_then(|bit| names.get(bit));
        known.map_or_else(|| format!("{:#x}", 1_u32.wrapping_shl(bit)), ToString::to_string)
    };
    bits.map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_called_by_their_names() {
        assert_eq!(describe(0x8000_0110, &incompat::NAMES), "needsrepair, metadir, 0x80000000");
    }
}
