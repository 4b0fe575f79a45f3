//! RAID arrays: of members on one disk, and of members that further disks have.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, ErrorKind};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::md::{Metadata, Plan};
use imgx_fixtures::mkfs;

use crate::support::{captured, folder_in_memory};
use crate::{MIB, assert_holds, disk, filesystem, need, restored};

/// Level, layout and members, and how many of them may be missing.
const LEVELS: [(i32, u32, usize, usize); 8] = [
    (-1, 0, 2, 0),
    (0, 0, 3, 0),
    (1, 0, 2, 1),
    (4, 0, 3, 1),
    (5, 2, 3, 1),
    (6, 2, 4, 2),
    (10, 0x102, 4, 1),
    (10, 0x201, 3, 1),
];

/// The members of an array that holds an ext4 with the file `name`.
fn members(
    folder: &Path,
    (level, layout, count): (i32, u32, usize),
    metadata: Metadata,
) -> Vec<Vec<u8>> {
    let members = vec![12 * MIB; count];
    let plan = Plan { metadata, members, ..Plan::new(level, layout, 64 * 1024, count) };
    let size = plan.size() / 4096 * 4096;
    let mut content = filesystem(folder, size, "array");
    content.resize(usize::try_from(plan.size()).expect("small"), 0);
    plan.write(&content)
}

fn write(folder: &Path, members: &[Vec<u8>]) -> Vec<PathBuf> {
    let path = |number: usize| folder.join(format!("member{number}"));
    let write = |(number, bytes): (usize, &Vec<u8>)| {
        fs::write(path(number), bytes).expect("written");
        path(number)
    };
    members.iter().enumerate().map(write).collect()
}

#[test]
fn every_level_is_read_from_disks_beside_one_another() {
    need!("mke2fs");
    let folder = folder_in_memory();
    for (level, layout, count, spare) in LEVELS {
        let what = format!("level {level}, layout {layout:#x}");
        let all = members(folder.path(), (level, layout, count), Metadata::V1Behind);
        let paths = write(folder.path(), &all);
        let beside = |paths: &[PathBuf]| {
            let others = paths[1..].iter().map(|path| (path.display().to_string(), disk(path)));
            disk(&paths[0]).beside(others.collect()).expect("they are joined")
        };
        let mut whole = beside(&paths);
        assert_eq!(whole.unrelated(), [""; 0], "{what}");
        assert_holds(&mut whole, "md/fixture", "array");
        for missing in 1..count {
            let mut fewer = beside(&paths[missing..]);
            if missing <= spare {
                assert_holds(&mut fewer, "md/fixture", "array");
                continue;
            }
            let told: Vec<_> = fewer.closed().collect();
            let told = told.iter().find(|(volume, _)| volume.name == "md/fixture");
            let (_, why) = told.unwrap_or_else(|| panic!("{what}: not told"));
            assert!(
                ["lacks", "is missing"].iter().any(|word| why.to_string().contains(word)),
                "{what}: {why}"
            );
            let error = fewer.open(Some("md/fixture")).err().expect("too little is there");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
        }
    }
}

#[test]
fn an_array_on_one_disk_is_read_and_captured() {
    need!("sfdisk", "mke2fs", "e2fsck");
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    for (level, layout, count, _) in LEVELS {
        let what = format!("level {level}, layout {layout:#x}");
        for metadata in [Metadata::V1End, Metadata::V0, Metadata::V1Behind] {
            let folder = folder_in_memory();
            let path = folder.path().join("disk");
            let all = members(folder.path(), (level, layout, count), metadata);
            let part = all.iter().map(Vec::len).max().expect("some").div_ceil(1 << 20) as u64;
            mkfs::blank(&path, (2 + part * count as u64) * MIB).expect("made");
            let starts = (0..count as u64).map(|number| 1 + number * part);
            let lines = starts
                .clone()
                .zip(&all)
                .map(|(start, bytes)| format!("start={start}M, size={}\n", bytes.len() / 512));
            mkfs::sfdisk(&path, &format!("label: gpt\n{}", lines.collect::<String>()))
                .expect("made");
            let file = OpenOptions::new().write(true).open(&path).expect("opened");
            for (start, bytes) in starts.zip(&all) {
                file.write_all_at(bytes, start * MIB).expect("written");
            }
            let name = if metadata == Metadata::V0 { "md/7" } else { "md/fixture" };
            let mut found = disk(&path);
            assert_eq!(found.closed().count(), 0, "{what} {metadata:?}");
            assert_holds(&mut found, name, "array");
            // Its files are there once, and no member's bytes are taken for any.
            let read = found.open_all().filter(|(_, opened)| opened.is_ok()).count();
            assert_eq!(read, 1, "{what} {metadata:?}");

            let block = BlockSize::new(16_384).expect("valid");
            let repository = Repository::create(&folder.path().join("repository"), block);
            let repository = repository.expect("created");
            let report = captured(&repository, &path, "disk");
            let back = restored(&repository, folder.path());
            assert_holds(&mut disk(&back), name, "array");
            let of_array = report.manifest.allocation.iter().find(|found| found.volume == name);
            let of_array = of_array.unwrap_or_else(|| panic!("{what}: nothing of {name}"));
            let has_parity = matches!(level, 4..=6);
            assert_eq!(of_array.doubt.is_some(), has_parity, "{what}: {of_array:?}");
            assert_eq!(of_array.unallocated > MIB, !has_parity, "{what}: {of_array:?}");
        }
    }
}
