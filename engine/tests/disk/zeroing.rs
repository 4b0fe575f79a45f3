//! A zeroed stretch reads as zero and its neighbours stay, whichever way was taken.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use imgx_engine::base::{ByteCount, ByteRange, ReadAt, Silent};
use imgx_engine::block::{FileMode, Target, Zeroing};

use crate::need_root;
use crate::support::{LoopDevice, MIB, Mounted, content, file, folder};

const WAYS: [Zeroing; 3] = [Zeroing::Release, Zeroing::Fill, Zeroing::Write];
/// Aligned, ragged at either end, within one sector, across many, at the very end.
const RANGES: [(usize, usize); 6] = [
    (0, MIB),
    (MIB + 1, 2 * MIB + 3),
    (3 * MIB + 10, 3 * MIB + 20),
    (3 * MIB + 510, 3 * MIB + 4100),
    (3 * MIB + 8192, 3 * MIB + 8192),
    (4 * MIB - 700, 4 * MIB),
];

fn zero_and_compare(target: &Target, backing: &Path, how: Zeroing) {
    let mut expected = fs::read(backing).unwrap();
    for (start, end) in RANGES {
        let range = ByteRange { start: start as u64, end: end as u64 };
        target.zero(range, how, &Silent).unwrap();
        expected[start..end].fill(0);
        let mut found = vec![1; target.size().0 as usize];
        target.read_exact_at(imgx_engine::base::ByteOffset(0), &mut found).unwrap();
        assert!(found == expected, "{how:?} {range}");
    }
    target.sync().unwrap();
    assert!(fs::read(backing).unwrap() == expected, "{how:?}");
}

/// Bytes that a file takes up.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn files_are_zeroed_in_every_way_and_space_is_given_back_only_on_release() {
    let folder = folder();
    for how in WAYS {
        let path = file(&folder, "target.raw", &content(1, 4 * MIB));
        fs::File::open(&path).unwrap().sync_all().unwrap();
        let before = taken(&path);
        let size = ByteCount(4 * MIB as u64);
        let target = Target::create_file(&path, size, FileMode::Existing).unwrap();
        assert!(!target.is_new());
        zero_and_compare(&target, &path, how);
        let given_back = before - taken(&path);
        if how == Zeroing::Release {
            assert!(given_back >= 2 * MIB as u64 - 8192, "{given_back}");
        } else {
            assert_eq!(given_back, 0, "{how:?}");
        }
    }
}

#[test]
fn reserved_space_stays_reserved() {
    let folder = folder();
    let path = folder.path().join("target.raw");
    let size = ByteCount(4 * MIB as u64);
    let target = Target::create_file(&path, size, FileMode::Preallocate).unwrap();
    assert!(target.is_new());
    target.zero(ByteRange::new(0, size.0), Zeroing::Release, &Silent).unwrap();
    target.sync().unwrap();
    assert!(taken(&path) >= size.0);
}

#[test]
fn loop_devices_are_zeroed_in_every_way_and_space_is_given_back_on_release() {
    need_root!();
    let folder = folder();
    for sector in ["512", "4096"] {
        for how in WAYS {
            let path = file(&folder, "target.raw", &content(2, 4 * MIB));
            let device = LoopDevice::attach(&path, &["-b", sector]);
            let before = taken(&path);
            let target = Target::open_device(&device.path).unwrap();
            zero_and_compare(&target, &path, how);
            if how == Zeroing::Release {
                assert!(before - taken(&path) >= 2 * MIB as u64 - 16_384);
            }
        }
    }
}

#[test]
fn a_device_without_offload_is_zeroed_all_the_same() {
    need_root!();
    let folder = folder();
    // The loop driver offers none on a filesystem that cannot punch holes, as this one.
    let point = folder.path().join("ram");
    fs::create_dir(&point).unwrap();
    let ram = Mounted::new(&["-t", "ramfs", "ramfs"], &point);
    let path = ram.point.join("target.raw");
    fs::write(&path, content(3, 4 * MIB)).unwrap();
    let device = LoopDevice::attach(&path, &[]);
    let target = Target::open_device(&device.path).unwrap();
    assert_eq!(target.facts().unwrap().write_zeroes_max, 0);
    zero_and_compare(&target, &path, Zeroing::Release);
}

#[test]
fn zeroing_beyond_the_end_is_refused() {
    let folder = folder();
    let path = file(&folder, "target.raw", &[1; 100]);
    let target = Target::create_file(&path, ByteCount(100), FileMode::Existing).unwrap();
    assert!(target.zero(ByteRange { start: 0, end: 101 }, Zeroing::Release, &Silent).is_err());
    assert_eq!(fs::read(&path).unwrap(), [1; 100]);
}
