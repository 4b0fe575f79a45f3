//! What a stretch of bytes holds, as a closed set.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What kinds of content are for those who read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// A filesystem that imgx reads.
    Read,
    /// One that it only names.
    Filesystem,
    /// What holds volumes, or is a part of what does: its bytes are theirs, and no filesystem's.
    Container,
    /// Space that is nobody's files: swap, a journal.
    Space,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $nature:ident;)*) => {
        /// What a stretch of bytes holds, by its signature.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name, as in listings and in a manifest.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it is for readers.
            #[must_use]
            pub fn nature(self) -> Nature {
                match self {
                    $(Self::$variant => Nature::$nature,)*
                }
            }
        }
    };
}

kinds! {
    /// ext2.
    Ext2 = "ext2", Read;
    /// ext3.
    Ext3 = "ext3", Read;
    /// ext4.
    Ext4 = "ext4", Read;
    /// XFS.
    Xfs = "xfs", Read;
    /// btrfs, or one device of it.
    Btrfs = "btrfs", Read;
    /// NTFS.
    Ntfs = "ntfs", Read;
    /// exFAT.
    Exfat = "exfat", Read;
    /// FAT with 12 bits.
    Fat12 = "fat12", Read;
    /// FAT with 16 bits.
    Fat16 = "fat16", Read;
    /// FAT with 32 bits.
    Fat32 = "fat32", Read;
    /// A member of a Linux RAID array.
    MdMember = "md raid member", Container;
    /// A physical volume of LVM2.
    PhysicalVolume = "lvm2 physical volume", Container;
    /// LUKS, either version.
    Luks = "luks", Container;
    /// BitLocker.
    BitLocker = "bitlocker", Container;
    /// A member of Intel's firmware RAID.
    IntelRaid = "intel raid member", Container;
    /// A member of a RAID that follows SNIA's DDF.
    DdfRaid = "ddf raid member", Container;
    /// A member of LSI's firmware RAID.
    LsiRaid = "lsi raid member", Container;
    /// A member of NVIDIA's firmware RAID.
    NvidiaRaid = "nvidia raid member", Container;
    /// A device of a ZFS pool.
    ZfsMember = "zfs member", Container;
    /// A device of bcache.
    Bcache = "bcache", Container;
    /// A volume of VDO.
    Vdo = "vdo", Container;
    /// A device of VMware's filesystem.
    VmfsMember = "vmfs member", Container;
    /// A device of Ceph's store.
    Bluestore = "ceph bluestore", Container;
    /// A master boot record with partitions: in a volume, a virtual machine's disk.
    Mbr = "mbr partition table", Container;
    /// A GUID partition table.
    Gpt = "gpt partition table", Container;
    /// Apple's partition map.
    Apm = "apple partition map", Container;
    /// A disklabel of BSD: partitions within a partition, or on a whole disk.
    BsdDisklabel = "bsd disklabel", Container;
    /// A dynamic disk of Windows (Logical Disk Manager).
    Ldm = "ldm dynamic disk", Container;
    /// Swap space.
    Swap = "swap", Space;
    /// A hibernated machine's memory.
    Hibernation = "hibernation image", Space;
    /// An external journal of ext3 or ext4.
    ExtJournal = "ext journal", Space;
    /// An external log of XFS.
    XfsLog = "xfs log", Space;
    /// SquashFS.
    Squashfs = "squashfs", Filesystem;
    /// EROFS.
    Erofs = "erofs", Filesystem;
    /// F2FS.
    F2fs = "f2fs", Filesystem;
    /// ReFS.
    Refs = "refs", Filesystem;
    /// UDF.
    Udf = "udf", Filesystem;
    /// ISO 9660.
    Iso9660 = "iso9660", Filesystem;
    /// bcachefs.
    Bcachefs = "bcachefs", Filesystem;
    /// JFS.
    Jfs = "jfs", Filesystem;
    /// ReiserFS 3.
    Reiserfs = "reiserfs", Filesystem;
    /// Reiser4.
    Reiser4 = "reiser4", Filesystem;
    /// NILFS2.
    Nilfs2 = "nilfs2", Filesystem;
    /// OCFS2.
    Ocfs2 = "ocfs2", Filesystem;
    /// GFS2.
    Gfs2 = "gfs2", Filesystem;
    /// APFS.
    Apfs = "apfs", Filesystem;
    /// HFS+ and HFSX.
    HfsPlus = "hfs+", Filesystem;
    /// HFS.
    Hfs = "hfs", Filesystem;
    /// Minix's filesystem.
    Minix = "minix", Filesystem;
    /// cramfs.
    Cramfs = "cramfs", Filesystem;
    /// romfs.
    Romfs = "romfs", Filesystem;
    /// UBI.
    Ubi = "ubi", Filesystem;
    /// UBIFS.
    Ubifs = "ubifs", Filesystem;
    /// zonefs.
    Zonefs = "zonefs", Filesystem;
    /// BeOS's filesystem.
    Befs = "beos fs", Filesystem;
    /// SCO's boot filesystem.
    Bfs = "sco bfs", Filesystem;
    /// UFS.
    Ufs = "ufs", Filesystem;
    /// VMware's filesystem.
    Vmfs = "vmfs", Filesystem;
}

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether what lies in it are volumes, and no files of its own.
    #[must_use]
    pub fn is_container(self) -> bool {
        self.nature() == Nature::Container
    }

    /// Whether it is a partition table.
    #[must_use]
    pub fn is_table(self) -> bool {
        matches!(self, Self::Mbr | Self::Gpt | Self::Apm | Self::BsdDisklabel)
    }

    /// Whether it has files, whoever could read them.
    #[must_use]
    pub fn is_filesystem(self) -> bool {
        matches!(self.nature(), Nature::Read | Nature::Filesystem)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| D::Error::custom("a content that is not known"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_one_kind() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(*kind));
        }
    }
}
