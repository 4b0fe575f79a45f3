//! What partition types are called.
//!
//! GPT: UEFI 2.10, table 5.7, the Discoverable Partitions Specification and `sfdisk --label gpt
//! --list-types`. MBR: `sfdisk --label dos --list-types`.
//! Apple: "Inside Macintosh: Devices", chapter 3, and parted's `libparted/labels/mac.c`. BSD:
//! FreeBSD's and NetBSD's `sys/disklabel.h`.

/// The name of a GPT type GUID in lower case.
pub(super) fn gpt_type_name(guid: &str) -> Option<&'static str> {
    GPT_TYPES.iter().find(|(known, _)| *known == guid).map(|(_, name)| *name)
}

/// The name of an MBR type.
pub(super) fn mbr_type_name(kind: u8) -> Option<&'static str> {
    MBR_TYPES.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name)
}

/// What a type of Apple's partition map stands for.
pub(super) fn apm_type_name(kind: &str) -> Option<&'static str> {
    APM_TYPES.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name)
}

/// The name of a type of a BSD disklabel.
pub(super) fn bsd_type_name(kind: u8) -> Option<&'static str> {
    BSD_TYPES.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name)
}

/// Whether a partition is of one of Windows' dynamic disks (Logical Disk Manager), which only
/// their own database says the content of: by its type in an MBR, or its two in a GPT.
pub(super) fn is_dynamic(partition_type: &str) -> bool {
    const DYNAMIC: [&str; 3] =
        ["0x42", "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad"];
    DYNAMIC.contains(&partition_type)
}

/// Whether an MBR type is a container of logical partitions (DOS, Windows with LBA, Linux).
pub(super) fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

const GPT_TYPES: &[(&str, &str)] = &[
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI System"),
    ("024dee41-33e7-11d3-9d69-0008c781f39f", "MBR partition scheme"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "Microsoft LDM metadata"),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Microsoft LDM data"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery environment"),
    ("e75caf8f-f680-4cee-afa3-b001e56efc2d", "Microsoft Storage Spaces"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux filesystem"),
    ("44479540-f297-41b2-9af7-d131d5f0458a", "Linux root (x86)"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux root (ARM-64)"),
    ("69dad710-2ce4-4e3c-b16c-21a1d49abed3", "Linux root (ARM)"),
    ("8484680c-9521-48c6-9c11-b0720656f69e", "Linux /usr (x86-64)"),
    ("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "Linux root verity (x86-64)"),
    ("77ff5f63-e7b6-4633-acf4-1565b864c0e6", "Linux /usr verity (x86-64)"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "Linux server data"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "Linux variable data"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "Linux temporary data"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux extended boot"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("8da63339-0007-60c0-c436-083ac8230908", "Linux reserved"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"),
    ("7ffec5c9-2d00-49b7-8941-3ea10a5586b7", "dm-crypt"),
    ("6a898cc3-1dd2-11b2-99a6-080020736631", "ZFS"),
    ("6a945a3b-1dd2-11b2-99a6-080020736631", "Solaris reserved"),
    ("516e7cb4-6ecf-11d6-8ff8-00022d09712b", "FreeBSD data"),
    ("83bd6b9d-7f41-11dc-be0b-001560b84f0f", "FreeBSD boot"),
    ("516e7cb5-6ecf-11d6-8ff8-00022d09712b", "FreeBSD swap"),
    ("516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD UFS"),
    ("516e7cba-6ecf-11d6-8ff8-00022d09712b", "FreeBSD ZFS"),
    ("48465300-0000-11aa-aa11-00306543ecac", "Apple HFS/HFS+"),
    ("7c3457ef-0000-11aa-aa11-00306543ecac", "Apple APFS"),
    ("426f6f74-0000-11aa-aa11-00306543ecac", "Apple boot"),
    ("aa31e02a-400f-11db-9590-000c2911d1b8", "VMware VMFS"),
    ("9d275380-40ad-11db-bf97-000c2911d1b8", "VMware Diagnostic"),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", "PowerPC PReP boot"),
    ("4fbd7e29-9d25-41b8-afd0-062c0ceff05d", "Ceph OSD"),
    ("fe3a2a5d-4f32-41a7-b725-accc3285a309", "ChromeOS kernel"),
    ("3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec", "ChromeOS root filesystem"),
];

const MBR_TYPES: &[(u8, &str)] = &[
    (0x00, "Empty"),
    (0x01, "FAT12"),
    (0x04, "FAT16 <32M"),
    (0x06, "FAT16"),
    (0x07, "HPFS/NTFS/exFAT"),
    (0x0b, "W95 FAT32"),
    (0x0c, "W95 FAT32 (LBA)"),
    (0x0e, "W95 FAT16 (LBA)"),
    (0x11, "Hidden FAT12"),
    (0x12, "Compaq diagnostics"),
    (0x14, "Hidden FAT16 <32M"),
    (0x16, "Hidden FAT16"),
    (0x17, "Hidden HPFS/NTFS"),
    (0x1b, "Hidden W95 FAT32"),
    (0x1c, "Hidden W95 FAT32 (LBA)"),
    (0x1e, "Hidden W95 FAT16 (LBA)"),
    (0x27, "Hidden NTFS WinRE"),
    (0x41, "PPC PReP Boot"),
    (0x42, "Windows dynamic disk (LDM)"),
    (0x4d, "QNX4.x"),
    (0x63, "GNU HURD or SysV"),
    (0x80, "Old Minix"),
    (0x81, "Minix / old Linux"),
    (0x82, "Linux swap / Solaris"),
    (0x83, "Linux"),
    (0x84, "OS/2 hidden or Intel hibernation"),
    (0x86, "NTFS volume set"),
    (0x87, "NTFS volume set"),
    (0x88, "Linux plaintext"),
    (0x8e, "Linux LVM"),
    (0xa5, "FreeBSD"),
    (0xa6, "OpenBSD"),
    (0xa8, "Darwin UFS"),
    (0xa9, "NetBSD"),
    (0xab, "Darwin boot"),
    (0xaf, "HFS / HFS+"),
    (0xbe, "Solaris boot"),
    (0xbf, "Solaris"),
    (0xda, "Non-FS data"),
    (0xde, "Dell Utility"),
    (0xea, "Linux extended boot"),
    (0xeb, "BeOS fs"),
    (0xee, "GPT"),
    (0xef, "EFI (FAT-12/16/32)"),
    (0xfb, "VMware VMFS"),
    (0xfc, "VMware VMKCORE"),
    (0xfd, "Linux raid autodetect"),
];

const APM_TYPES: &[(&str, &str)] = &[
    ("Apple_partition_map", "partition map"),
    ("Apple_Free", "free space"),
    ("Apple_Void", "unused entry"),
    ("Apple_Scratch", "scratch"),
    ("Apple_Driver", "driver"),
    ("Apple_Driver43", "driver"),
    ("Apple_Driver43_CD", "driver"),
    ("Apple_Driver_ATA", "driver"),
    ("Apple_Driver_ATAPI", "driver"),
    ("Apple_Driver_IOKit", "driver"),
    ("Apple_Driver_OpenFirmware", "driver"),
    ("Apple_FWDriver", "driver"),
    ("Apple_Patches", "driver patches"),
    ("Apple_MFS", "MFS"),
    ("Apple_HFS", "HFS / HFS+"),
    ("Apple_HFSX", "HFSX"),
    ("Apple_Boot", "Apple boot"),
    ("Apple_Bootstrap", "PowerPC bootstrap"),
    ("Apple_Loader", "Apple boot"),
    ("Apple_PRODOS", "ProDOS"),
    ("Apple_RAID", "Apple RAID"),
    ("Apple_UFS", "UFS"),
    ("Apple_UNIX_SVR2", "UNIX"),
    ("Be_BFS", "BeOS fs"),
    ("DOS_FAT_12", "FAT12"),
    ("DOS_FAT_16", "FAT16"),
    ("DOS_FAT_32", "FAT32"),
    ("Windows_FAT_16", "FAT16"),
    ("Windows_FAT_32", "FAT32"),
    ("Windows_NTFS", "NTFS"),
];

const BSD_TYPES: &[(u8, &str)] = &[
    (1, "swap"),
    (2, "Version 6"),
    (3, "Version 7"),
    (4, "System V"),
    (5, "4.1BSD"),
    (6, "Eighth Edition"),
    (7, "4.2BSD"),
    (8, "MS-DOS"),
    (9, "4.4LFS"),
    (11, "HPFS"),
    (12, "ISO 9660"),
    (13, "boot"),
    (14, "vinum"),
    (15, "HFS"),
    (17, "Linux ext2"),
    (18, "NTFS"),
    (19, "RAID"),
    (20, "ccd"),
    (27, "ZFS"),
];
