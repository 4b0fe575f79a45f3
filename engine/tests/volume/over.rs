//! New over old: a volume that something else was made of holds the newer, for every pair, with
//! the real tools writing to a block device that keeps what they leave.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imgx_engine::volume::{Kind, Volume, probe};
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::mkfs::{blank, sfdisk};
use imgx_fixtures::tool;

use crate::support::{FileDisk, shared};

const MIB: u64 = 1 << 20;
/// Where the volume begins on its disk, and its length.
const START: u64 = MIB;
const LENGTH: u64 = 304 * MIB;

/// Something that can be made of a volume.
#[derive(Debug, Clone, Copy)]
struct Owner {
    name: &'static str,
    kind: Kind,
    /// The tool that makes it and its arguments, before the device; none if it is written here.
    tool: Option<(&'static str, &'static [&'static str])>,
}

const fn by(
    name: &'static str,
    kind: Kind,
    tool: &'static str,
    arguments: &'static [&'static str],
) -> Owner {
    Owner { name, kind, tool: Some((tool, arguments)) }
}

const fn written(name: &'static str, kind: Kind) -> Owner {
    Owner { name, kind, tool: None }
}

const LVM: &str = "devices { filter=[\"a|^/dev/loop|\",\"r|.*|\"] use_devicesfile=0 }";
const LUKS: [&str; 5] =
    ["luksFormat", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=/dev/zero"];

const OWNERS: &[Owner] = &[
    by("ext4", Kind::Ext4, "mke2fs", &["-q", "-F", "-t", "ext4", "-E", "nodiscard"]),
    by("ext2", Kind::Ext2, "mke2fs", &["-q", "-F", "-t", "ext2", "-b", "1024", "-E", "nodiscard"]),
    by("xfs", Kind::Xfs, "mkfs.xfs", &["-q", "-f", "-K"]),
    by("btrfs", Kind::Btrfs, "mkfs.btrfs", &["-q", "-f", "-K"]),
    by("ntfs", Kind::Ntfs, "mkfs.ntfs", &["-q", "-Q", "-F"]),
    by("fat32", Kind::Fat32, "mkfs.vfat", &["-F", "32"]),
    by("exfat", Kind::Exfat, "mkfs.exfat", &[]),
    by("swap", Kind::Swap, "mkswap", &["-f"]),
    by("luks1", Kind::Luks, "cryptsetup", &["--type=luks1", "--keyfile-size=32"]),
    by("luks2", Kind::Luks, "cryptsetup", &["--type=luks2", "--keyfile-size=32"]),
    by("pv", Kind::PhysicalVolume, "pvcreate", &["-q", "-ff", "-y", "--config", LVM]),
    written("md 0.90", Kind::MdMember),
    written("md 1.0", Kind::MdMember),
    written("md 1.1", Kind::MdMember),
    written("md 1.2", Kind::MdMember),
    written("bitlocker", Kind::BitLocker),
    written("squashfs", Kind::Squashfs),
    written("iso", Kind::Iso9660),
    by("mbr", Kind::Mbr, "sfdisk", &["label: dos\nstart=2048, size=20480\n"]),
    by("gpt", Kind::Gpt, "sfdisk", &["label: gpt\nstart=2048, size=20480\n"]),
    by("apm", Kind::Apm, "parted", &["mklabel", "mac", "mkpart", "a", "hfs", "1MiB", "9MiB"]),
    by("bsd", Kind::BsdDisklabel, "parted", &["mklabel", "bsd", "mkpart", "ext2", "1MiB", "9MiB"]),
    written("disklabel", Kind::BsdDisklabel),
];

/// Old and new that the tools refuse to make of one another.
const REFUSED: [(&str, &str); 4] =
    [("md 0.90", "pv"), ("md 1.0", "pv"), ("md 1.1", "pv"), ("md 1.2", "pv")];

/// Pairs of which nothing on the disk tells the order: neither writes what the other is known by.
/// Whichever is shown, it is in doubt, unless the tool has wiped the other.
const OPEN: [(&str, &[&str]); 7] = [
    (
        "md 0.90",
        &[
            "ntfs",
            "fat32",
            "exfat",
            "swap",
            "luks1",
            "luks2",
            "mbr",
            "gpt",
            "apm",
            "bsd",
            "disklabel",
            "bitlocker",
            "squashfs",
            "iso",
        ],
    ),
    (
        "md 1.0",
        &[
            "ntfs",
            "fat32",
            "exfat",
            "swap",
            "luks1",
            "luks2",
            "mbr",
            "disklabel",
            "bitlocker",
            "squashfs",
            "iso",
        ],
    ),
    ("md 1.1", &["disklabel"]),
    ("md 1.2", &["mbr", "swap", "bitlocker", "squashfs", "disklabel"]),
    ("bitlocker", &["disklabel"]),
    ("mbr", &["disklabel"]),
    // mke2fs leaves this label alone.
    ("bsd", &["ext4", "ext2"]),
];

/// A disc that has a table too is a disc that can be started from.
const ONE_MEDIUM: [(&str, &str); 3] = [("iso", "mbr"), ("iso", "gpt"), ("iso", "apm")];

fn is_open(one: &str, other: &str) -> bool {
    OPEN.iter().any(|(member, others)| {
        (*member == one && others.contains(&other)) || (*member == other && others.contains(&one))
    })
}

/// A loop device that shows the volume, and its disk.
struct Stage {
    _folder: tempfile::TempDir,
    disk: PathBuf,
    device: LoopDevice,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("made");
        let disk = folder.path().join("disk");
        blank(&disk, START + LENGTH + MIB).expect("made");
        sfdisk(&disk, "label: gpt\nstart=1MiB, size=304MiB\n").expect("made");
        let part = Options { offset: START, size_limit: Some(LENGTH), ..Options::default() };
        let device = LoopDevice::attach_with(&disk, part).expect("attached");
        Self { _folder: folder, disk, device }
    }

    /// Another, with the same on its disk.
    fn again(&self) -> Self {
        let folder = tempfile::tempdir().expect("made");
        let disk = folder.path().join("disk");
        let [from, to] = [&self.disk, &disk].map(|path| path.to_str().expect("plain"));
        tool::run("cp", &["--sparse=always", from, to]).expect("copied");
        let part = Options { offset: START, size_limit: Some(LENGTH), ..Options::default() };
        let device = LoopDevice::attach_with(&disk, part).expect("attached");
        Self { _folder: folder, disk, device }
    }

    /// Makes `owner` of the volume.
    fn make(&self, owner: Owner) {
        let node = self.device.path().to_str().expect("plain");
        match owner.tool {
            Some(("sfdisk", [script])) => {
                let arguments = ["-q", "--wipe=never", "--wipe-partitions=never", node];
                tool::run_with_input("sfdisk", &arguments, script).expect("sfdisk runs");
            }
            Some(("cryptsetup", own)) => {
                let all: Vec<&str> = LUKS.iter().chain(own).copied().chain([node]).collect();
                tool::run("cryptsetup", &all).expect("cryptsetup runs");
            }
            Some(("parted", own)) => {
                let all: Vec<&str> = ["-s", node].iter().chain(own).copied().collect();
                tool::run("parted", &all).unwrap_or_else(|error| panic!("{error}"));
            }
            Some((name, own)) => {
                let all: Vec<&str> = own.iter().copied().chain([node]).collect();
                tool::run(name, &all).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            None => write_by_hand(self.device.path(), owner.name),
        }
        File::open(self.device.path()).expect("opened").sync_all().expect("synced");
    }

    fn volume(&self) -> Volume {
        let layout = probe(&shared(FileDisk::open(&self.disk)), 512).expect("it is probed");
        let found = layout.volume("p1");
        found.unwrap_or_else(|| panic!("p1 is there: {layout:#?}")).clone()
    }
}

fn write_by_hand(device: &Path, name: &str) {
    let device = OpenOptions::new().write(true).open(device).expect("opened");
    let put = |place: u64, bytes: &[u8]| device.write_all_at(bytes, place).expect("written");
    match name {
        "md 0.90" => put((LENGTH & !65535) - 65536, &md_version_0()),
        "md 1.0" => put(LENGTH - 8192, &md_version_1(LENGTH - 8192)),
        "md 1.1" => put(0, &md_version_1(0)),
        "md 1.2" => put(4096, &md_version_1(4096)),
        "bitlocker" => {
            let mut sector = [0; 512];
            sector[..11].copy_from_slice(b"\xeb\x58\x90-FVE-FS-");
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            put(0, &sector);
        }
        "squashfs" => {
            // Its superblock, and what would be its data.
            let mut image = vec![0x5a; 16384];
            image[..96].fill(0);
            image[..4].copy_from_slice(b"hsqs");
            image[28..30].copy_from_slice(&4_u16.to_le_bytes());
            image[40..48].copy_from_slice(&16384_u64.to_le_bytes());
            put(0, &image);
        }
        "iso" => {
            let mut image = vec![0; 38 * 1024];
            image[32768..32775].copy_from_slice(b"\x01CD001\x01");
            image[32768 + 40..32768 + 72].fill(b' ');
            image[32768 + 80..32768 + 84].copy_from_slice(&19_u32.to_le_bytes());
            image[32768 + 128..32768 + 130].copy_from_slice(&2048_u16.to_le_bytes());
            image[34816..34823].copy_from_slice(b"\xffCD001\x01");
            put(0, &image);
        }
        "disklabel" => {
            let mut label = [0; 512];
            for at in [0, 132] {
                label[at..at + 4].copy_from_slice(&0x8256_4557_u32.to_le_bytes());
            }
            label[138] = 3;
            put(512, &label);
        }
        other => panic!("{other} is not written by hand"),
    }
}

/// A superblock of a RAID1 of two members, as the kernel's `md_p.h` lays it out.
fn md_version_1(place: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, b"0123456789abcdef");
    put(32, b"host:over");
    put(72, &1_u32.to_le_bytes());
    let (start, sectors) = if place > MIB { (0, place / 512) } else { (2048, LENGTH / 512 - 2048) };
    put(80, &sectors.to_le_bytes());
    put(92, &2_u32.to_le_bytes());
    put(128, &u64::to_le_bytes(start));
    put(136, &sectors.to_le_bytes());
    put(144, &(place / 512).to_le_bytes());
    put(200, &7_u64.to_le_bytes());
    put(220, &2_u32.to_le_bytes());
    put(258, &1_u16.to_le_bytes());
    let words = block[..260].as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    let sum: u64 = words.map(u64::from).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    block[216..220].copy_from_slice(&u32::try_from(sum).expect("small").to_le_bytes());
    block
}

/// The same of version 0.90.
fn md_version_0() -> Vec<u8> {
    let mut block = vec![0; 4096];
    let mut put = |word: usize, value: u32| {
        block[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
    };
    let size = u32::try_from(((LENGTH & !65535) - 65536) / 1024).expect("small");
    let words = [(0, 0xa92b_4efc), (2, 90), (5, 0x1234_5678), (7, 1), (8, size), (9, 2), (10, 2)];
    words.into_iter().for_each(|(word, value)| put(word, value));
    put(156 / 4, 7);
    // Itself: the first of two, active and in sync.
    put(992 + 4, 6);
    let words = block.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    let sum: u64 = words.map(u64::from).sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    block[152..156].copy_from_slice(&u32::try_from(sum).expect("small").to_le_bytes());
    block
}

#[test]
fn a_volume_holds_what_was_made_of_it_last() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let is_there = |owner: &&Owner| owner.tool.is_none_or(|(name, _)| tool::have(name));
    let owners: Vec<Owner> = OWNERS.iter().filter(is_there).copied().collect();
    let mut wrong = Vec::new();
    for old in &owners {
        let before = Stage::new();
        before.make(*old);
        for new in owners.iter().filter(|new| new.name != old.name) {
            if REFUSED.contains(&(old.name, new.name)) {
                continue;
            }
            let stage = before.again();
            stage.make(*new);
            let volume = stage.volume();
            let is_right = volume.holds(new.kind)
                || (is_open(old.name, new.name) && volume.read_whole.is_some())
                || (ONE_MEDIUM.contains(&(old.name, new.name)) && volume.holds(old.kind));
            if !is_right {
                let held = volume.content.map(|content| content.kind);
                wrong.push(format!(
                    "{} over {}: {held:?}, {:?}",
                    new.name, old.name, volume.read_whole
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "of {}:\n{}", owners.len(), wrong.join("\n"));
}
