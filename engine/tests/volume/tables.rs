//! Partition lists equal sfdisk's, and damage is told.

use std::path::Path;

use imgx_engine::base::ByteRange;
use imgx_engine::volume::{Kind, PartitionTable, probe};
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::mkfs::{blank, sfdisk};
use imgx_fixtures::pattern::MIB;
use imgx_fixtures::{demo, tool};

use crate::support::{Failing, FileDisk, Memory, folder, rows, sfdisk_rows, shared, skip_without};

/// Three primary and three logical partitions.
pub const MBR: &str = "label: dos\nlabel-id: 0xcafe1234\n\
    size=1MiB, type=7, bootable\nsize=2MiB, type=ef\nsize=8MiB, type=5\nsize=1MiB, type=83\n\
    size=1MiB, type=82\nsize=1MiB, type=83\nsize=1MiB, type=8e\n";
const GPT: &str = "label: gpt\nlabel-id: 01234567-89AB-4CDE-8F01-23456789ABCD\n\
    size=1MiB, type=uefi, name=\"EFI \u{e4}\"\n\
    5 : size=2MiB, type=linux, name=root, attrs=LegacyBIOSBootable\n\
    9 : size=1MiB, type=swap\n";

fn equals_sfdisk(script: &str, table: PartitionTable, id: &str) {
    if skip_without(&["sfdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    blank(&path, 24 * MIB).expect("a file can be made");
    sfdisk(&path, script).expect("sfdisk writes the table");
    let layout = probe(&shared(FileDisk::open(&path)), 512).expect("the probe runs");
    assert_eq!(rows(&layout), sfdisk_rows(&path));
    assert_eq!((layout.table, layout.sector_size), (Some(table), 512));
    assert_eq!(layout.disk_id.as_deref(), Some(id));
    assert_eq!(layout.notes, [""; 0]);
}

#[test]
fn primary_and_logical_partitions_equal_sfdisk() {
    equals_sfdisk(MBR, PartitionTable::Mbr, "cafe1234");
}

#[test]
fn gpt_partitions_equal_sfdisk() {
    equals_sfdisk(GPT, PartitionTable::Gpt, "01234567-89ab-4cde-8f01-23456789abcd");
}

/// Makes a table on a device with 4096-byte sectors and compares through the device and, as a
/// file that says nothing of its sectors, with 512.
fn equals_sfdisk_on_4k_sectors(script: &str) {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    if skip_without(&["sfdisk", "mke2fs"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    blank(&path, 24 * MIB).expect("a file can be made");
    let options = Options { sector_size: Some(4096), ..Options::default() };
    let device = LoopDevice::attach_with(&path, options).expect("the loop device attaches");
    sfdisk(device.path(), script).expect("sfdisk writes the table");
    let expected = sfdisk_rows(device.path());
    let first = Options { offset: expected[0].1, size_limit: Some(expected[0].2), ..options };
    let first = LoopDevice::attach_with(&path, first).expect("the partition attaches");
    let node = tool::text(first.path()).expect("a plain path");
    tool::run("mke2fs", &["-q", "-b", "4096", node]).expect("mke2fs runs");
    drop(first);
    drop(device);
    for sector_size in [4096, 512] {
        let layout = probe(&shared(FileDisk::open(&path)), sector_size).expect("the probe runs");
        assert_eq!(rows(&layout), expected);
        assert_eq!(layout.sector_size, 4096);
        assert_eq!(layout.notes, [""; 0]);
    }
}

#[test]
fn an_mbr_in_4k_sectors_equals_sfdisk() {
    equals_sfdisk_on_4k_sectors(MBR);
}

#[test]
fn a_gpt_in_4k_sectors_equals_sfdisk() {
    equals_sfdisk_on_4k_sectors(GPT);
}

fn demo_disk(path: &Path) -> Memory {
    demo::write_disk(path).expect("the demo disk can be written");
    Memory::load(path)
}

#[test]
fn the_demo_disk_is_read_as_it_was_written() {
    let folder = folder();
    let disk = demo_disk(&folder.path().join("disk"));
    let layout = probe(&shared(disk.clone()), 512).expect("the probe runs");
    assert_eq!(layout.notes, [""; 0]);
    for (volume, partition) in layout.volumes.iter().zip(demo::partitions()) {
        assert_eq!((volume.start, volume.length), (partition.start, partition.length));
        assert_eq!(volume.partition_label.as_deref(), Some(partition.name.as_str()));
    }
    assert_eq!(layout.volumes[0].type_name.as_deref(), Some("BIOS boot"));
    assert_eq!(layout.volumes[0].content, None);
    let content = layout.volume("p2").and_then(|p2| p2.content.clone()).expect("p2 has content");
    assert_eq!(content.kind, Kind::Ext4);
    assert_eq!(content.label.as_deref(), Some(demo::LABEL));
    assert_eq!(content.uuid.as_deref(), Some(demo::UUID));
    assert_eq!(content.size, Some(demo::EXT4_SIZE));
    let json = serde_json::to_string(&layout).expect("a layout is JSON");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).expect("it parses")["table"],
        "gpt"
    );
    assert_eq!(serde_json::from_str::<imgx_engine::volume::DiskLayout>(&json).ok(), Some(layout));
}

#[test]
fn the_backup_gpt_serves_when_the_first_is_damaged() {
    let folder = folder();
    let disk = demo_disk(&folder.path().join("disk"));
    let sound = probe(&shared(disk.clone()), 512).expect("the probe runs");
    // The header's checksum, the entries, the header wiped, both sectors unreadable.
    for (place, length, note) in [
        (512 + 60, 1, "the primary GPT is damaged (header CRC32: expected "),
        (1024 + 40, 1, "the primary GPT is damaged (entry array CRC32: expected "),
        (512, 512, "the primary GPT is missing; the backup was used"),
    ] {
        let mut damaged = disk.clone();
        damaged.0[place..place + length].iter_mut().for_each(|byte| *byte = 0xa7);
        let layout = probe(&shared(damaged.clone()), 512).expect("the probe runs");
        assert_eq!(rows(&layout), rows(&sound));
        assert_eq!(layout.notes.len(), 1, "{:?}", layout.notes);
        assert!(layout.notes[0].starts_with(note), "{:?}", layout.notes);
    }
    let failing = Failing(disk, vec![ByteRange::new(512, 512)]);
    let layout = probe(&shared(failing.clone()), 512).expect("the probe runs");
    assert_eq!(rows(&layout), rows(&sound));
    assert!(layout.notes.iter().any(|note| note.contains("the backup was used")));
}

#[test]
fn a_damaged_backup_is_told_and_changes_nothing() {
    let folder = folder();
    let mut disk = demo_disk(&folder.path().join("disk"));
    let sound = probe(&shared(disk.clone()), 512).expect("the probe runs");
    let end = disk.0.len();
    disk.0[end - 500] ^= 1;
    let layout = probe(&shared(disk.clone()), 512).expect("the probe runs");
    assert_eq!(rows(&layout), rows(&sound));
    assert_eq!(layout.notes.len(), 1);
    assert!(layout.notes[0].starts_with("the backup GPT is damaged ("), "{:?}", layout.notes);
}

#[test]
fn a_gpt_lost_in_both_copies_is_an_empty_layout_with_notes() {
    let folder = folder();
    let mut disk = demo_disk(&folder.path().join("disk"));
    let end = disk.0.len();
    disk.0[end - 500] ^= 1;
    disk.0[600] ^= 1;
    let layout = probe(&shared(disk.clone()), 512).expect("the probe runs");
    assert!(layout.volumes.is_empty());
    assert!(layout.notes.iter().any(|note| note.contains("no valid backup")), "{:?}", layout.notes);
}

#[test]
fn a_lost_protective_mbr_does_not_lose_the_gpt() {
    let folder = folder();
    let mut disk = demo_disk(&folder.path().join("disk"));
    let sound = probe(&shared(disk.clone()), 512).expect("the probe runs");
    disk.0[..512].fill(0);
    let layout = probe(&shared(disk.clone()), 512).expect("the probe runs");
    assert_eq!(rows(&layout), rows(&sound));
    assert_eq!(layout.notes, ["the GPT's protective MBR is missing"]);
}

#[test]
fn a_truncated_disk_keeps_its_partitions_and_says_so() {
    let folder = folder();
    let mut disk = demo_disk(&folder.path().join("disk"));
    let sound = probe(&shared(disk.clone()), 512).expect("the probe runs");
    disk.0.truncate(20 << 20);
    let layout = probe(&shared(disk.clone()), 512).expect("the probe runs");
    assert_eq!(rows(&layout), rows(&sound));
    let told = |text: &str| layout.notes.iter().any(|note| note.contains(text));
    assert!(told("the disk is smaller than its GPT says"), "{:?}", layout.notes);
    assert!(told("p2 ends at byte 37748736, but the disk has only 20971520"), "{:?}", layout.notes);
}

#[test]
fn a_hybrid_mbr_and_overlaps_are_told() {
    if skip_without(&["sgdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    let mut disk = demo_disk(&path);
    let node = tool::text(&path).expect("a plain path");
    tool::run("sgdisk", &["--hybrid=2", node]).expect("sgdisk makes a hybrid MBR");
    let layout = probe(&shared(FileDisk::open(&path)), 512).expect("the probe runs");
    assert_eq!(layout.volumes.len(), 2);
    assert!(layout.notes.iter().any(|note| note.contains("hybrid MBR")), "{:?}", layout.notes);

    // An MBR whose second entry starts within the first.
    disk.0[..512].fill(0);
    disk.0[512..1024].fill(0);
    let end = disk.0.len();
    disk.0[end - 512..].fill(0);
    disk.0[446..478].copy_from_slice(&[
        0, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0x83, 0, 0, 0, 50, 0, 0,
        0, 100, 0, 0, 0,
    ]);
    disk.0[510..512].copy_from_slice(&[0x55, 0xaa]);
    let layout = probe(&shared(disk.clone()), 512).expect("the probe runs");
    assert_eq!(layout.notes, ["p1 and p2 overlap"]);
}

#[test]
fn a_looping_chain_of_logical_partitions_ends() {
    if skip_without(&["sfdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    blank(&path, 24 * MIB).expect("a file can be made");
    sfdisk(&path, MBR).expect("sfdisk writes the table");
    let mut disk = Memory::load(&path);
    let le32 = |at: usize| u32::from_le_bytes(disk.0[at..at + 4].try_into().expect("four bytes"));
    let first = le32(446 + 32 + 8) as usize * 512;
    // The first link's next link is itself.
    disk.0[first + 446 + 16 + 8..first + 446 + 16 + 12].fill(0);
    let layout = probe(&shared(disk.clone()), 512).expect("the probe runs");
    assert!(layout.volumes.len() <= 3 + 256);
    assert!(layout.notes.iter().any(|note| note.contains("longer than 256 links")));
}

#[test]
fn unused_disks_hold_nothing() {
    let empty = probe(&shared(Memory(Vec::new())), 512).expect("the probe runs");
    assert_eq!((empty.table, empty.volumes.len()), (None, 0));
    let blank = probe(&shared(Memory(vec![0; 1 << 20])), 4096).expect("the probe runs");
    assert_eq!((blank.table, blank.volumes.len(), blank.notes.len()), (None, 0, 0));
    assert!(probe(&shared(Memory(Vec::new())), 520).is_err());
}

/// Entry `slot` of the boot record at `sector`.
fn put_entry(disk: &mut [u8], sector: usize, slot: usize, (kind, start, count): (u8, u32, u32)) {
    let at = sector * 512 + 446 + slot * 16;
    disk[at + 4] = kind;
    disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    disk[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
}

#[test]
fn logical_partitions_and_links_are_found_in_any_slot_as_other_readers_do() {
    if skip_without(&["partx"]) {
        return;
    }
    let mut bytes = vec![0; 24 << 20];
    put_entry(&mut bytes, 0, 0, (0x83, 100, 500));
    put_entry(&mut bytes, 0, 1, (0x05, 2048, 40_000));
    // A link in the third slot, one in the first, partitions in the third and fourth, and rubbish.
    put_entry(&mut bytes, 2048, 0, (0x83, 63, 1000));
    put_entry(&mut bytes, 2048, 2, (0x05, 5000, 6000));
    put_entry(&mut bytes, 7048, 0, (0x0f, 20_000, 8000));
    put_entry(&mut bytes, 7048, 3, (0x07, 100, 500));
    put_entry(&mut bytes, 22_048, 1, (0x82, 50, 700));
    put_entry(&mut bytes, 22_048, 2, (0x83, 900, 100));
    put_entry(&mut bytes, 22_048, 3, (0x83, 70_000, 4000));
    let folder = folder();
    let path = folder.path().join("disk");
    std::fs::write(&path, &bytes).expect("written");
    let arguments = ["-g", "-o", "NR,START,SECTORS", path.to_str().expect("plain")];
    let told = imgx_fixtures::tool::run("partx", &arguments).expect("partx runs");
    let expected: Vec<(String, u64, u64)> = told
        .lines()
        .map(|line| {
            let words: Vec<u64> =
                line.split_whitespace().map(|word| word.parse().expect("a number")).collect();
            (format!("p{}", words[0]), words[1] * 512, words[2] * 512)
        })
        // It tells of the container as well, and of other lengths for it.
        .filter(|(name, ..)| name != "p2")
        .collect();
    let layout = probe(&shared(Memory::load(&path)), 512).expect("the probe runs");
    let found: Vec<(String, u64, u64)> = layout
        .volumes
        .iter()
        .map(|volume| (volume.name.clone(), volume.start, volume.length))
        .collect();
    assert_eq!(found, expected, "{told}");
    assert_eq!(found.len(), 1 + 4, "{told}");
}
