//! A GPT moved to a larger disk satisfies sgdisk and sfdisk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgx_engine::base::ByteCount;
use imgx_engine::volume::{plan_gpt_move, probe};
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::mkfs::{blank, sfdisk};
use imgx_fixtures::pattern::MIB;
use imgx_fixtures::{demo, tool};

use crate::support::{FileDisk, Memory, folder, rows, shared, skip_without};

/// Restores `image` to a file of `size` bytes and moves its GPT there.
fn restore(image: &Memory, path: &Path, sector_size: u32, size: u64) {
    let plan = plan_gpt_move(image, sector_size, ByteCount(size)).expect("the move is planned");
    let plan = plan.expect("there is something to move");
    let file = File::create(path).expect("a file can be made");
    file.set_len(size).expect("it can grow");
    file.write_all_at(&image.0, 0).expect("the image can be written");
    for (place, bytes) in &plan.writes {
        assert!(place.0 + bytes.len() as u64 <= size);
        file.write_all_at(bytes, place.0).expect("the move can be written");
    }
    let before = probe(&shared(image.clone()), sector_size).expect("the probe runs");
    let after = probe(&shared(FileDisk::open(path)), sector_size).expect("the probe runs");
    assert_eq!(rows(&after), rows(&before));
    assert_eq!(after.notes, [""; 0]);
}

fn satisfies_tools(node: &str) {
    for (tool, arguments, verdict) in [
        ("sgdisk", ["--verify", node], "No problems found."),
        ("sfdisk", ["--verify", node], "No errors detected."),
    ] {
        let printed = tool::run(tool, &arguments).expect("the tool accepts the disk");
        assert!(printed.contains(verdict), "{tool}: {printed}");
    }
}

#[test]
fn a_moved_gpt_satisfies_sgdisk_and_sfdisk() {
    if skip_without(&["sgdisk", "sfdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let image = Memory::load(&path);
    let old = usize::try_from(demo::SIZE).expect("a small number") - 512;
    // Far larger, a few sectors larger (the new backup covers the old), and an odd size.
    for grown in [64 * MIB, 512, 5 * 512, 40 * 512, 3 * MIB + 100] {
        restore(&image, &path, 512, demo::SIZE + grown);
        satisfies_tools(tool::text(&path).expect("a plain path"));
        let after = Memory::load(&path);
        let start = &after.0[old..old + 8];
        assert_ne!(start, b"EFI PART", "a stale header was left behind");
    }
}

#[test]
fn a_gpt_is_moved_from_its_backup_when_the_first_copy_is_damaged() {
    if skip_without(&["sgdisk", "sfdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let mut image = Memory::load(&path);
    image.0[512..4096].fill(0xee);
    let plan = plan_gpt_move(&image, 512, ByteCount(demo::SIZE + MIB)).expect("it is planned");
    let plan = plan.expect("the backup serves");
    assert!(plan.gained.0 >= MIB);
    let mut disk = Memory(image.0.clone());
    disk.0.resize(disk.0.len() + (1 << 20), 0);
    for (place, bytes) in &plan.writes {
        let start = usize::try_from(place.0).expect("a small number");
        disk.0[start..start + bytes.len()].copy_from_slice(bytes);
    }
    std::fs::write(&path, &disk.0).expect("the disk can be written");
    satisfies_tools(tool::text(&path).expect("a plain path"));
}

#[test]
fn a_gpt_in_4k_sectors_is_moved() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    if skip_without(&["sgdisk", "sfdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    blank(&path, 24 * MIB).expect("a file can be made");
    let options = Options { sector_size: Some(4096), ..Options::default() };
    let device = LoopDevice::attach_with(&path, options).expect("the loop device attaches");
    sfdisk(device.path(), "label: gpt\nsize=4MiB, name=a\nsize=8MiB, name=b\n")
        .expect("sfdisk writes the table");
    drop(device);
    let image = Memory::load(&path);
    restore(&image, &path, 4096, 48 * MIB);
    let device = LoopDevice::attach_with(&path, options).expect("the loop device attaches");
    satisfies_tools(tool::text(device.path()).expect("a plain path"));
}

#[test]
fn nothing_is_moved_without_need() {
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let image = Memory::load(&path);
    let plan = |image: &Memory, size| plan_gpt_move(image, 512, ByteCount(size));
    assert_eq!(plan(&image, demo::SIZE).ok(), Some(None));
    assert_eq!(plan(&image, demo::SIZE + 511).ok(), Some(None));
    assert!(plan(&image, demo::SIZE - 512).is_err());
    assert_eq!(plan(&Memory(vec![0; 1 << 20]), 2 << 20).ok(), Some(None));
}

#[test]
fn a_partition_over_the_old_backup_is_left_alone() {
    // The image's own size is not where its GPT ends: a disk image cut from a larger disk's
    // start, with a partition that reaches beyond it.
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let mut image = Memory::load(&path);
    image.0.truncate(30 << 20);
    let place = image.0.len() - 512;
    image.0[place..place + 8].copy_from_slice(b"EFI PART");
    let plan = plan_gpt_move(&image, 512, ByteCount(128 * MIB)).expect("it is planned");
    let writes = plan.expect("the first copy is valid").writes;
    assert!(writes.iter().all(|(written, _)| written.0 != place as u64));
}

#[test]
fn a_partition_where_the_table_would_go_is_refused() {
    // p2 is said to reach to the larger disk's very end, where the backup must go.
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let mut image = Memory::load(&path);
    let last_sector = 128 * MIB / 512 - 1;
    image.0[1024 + 128 + 40..1024 + 128 + 48].copy_from_slice(&last_sector.to_le_bytes());
    let sum = crc32fast::hash(&image.0[1024..1024 + 16384]);
    image.0[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
    image.0[528..532].fill(0);
    let sum = crc32fast::hash(&image.0[512..512 + 92]);
    image.0[528..532].copy_from_slice(&sum.to_le_bytes());
    let error = plan_gpt_move(&image, 512, ByteCount(128 * MIB)).expect_err("no room is left");
    assert_eq!(error.kind(), imgx_engine::base::ErrorKind::Corrupt);
    assert!(plan_gpt_move(&image, 512, ByteCount(129 * MIB)).is_ok_and(|plan| plan.is_some()));
}
