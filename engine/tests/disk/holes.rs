//! Holes are found where they are, and never where data is.

use std::fs::OpenOptions as FileOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use imgx_engine::base::{ByteRange, Silent};
use imgx_engine::block::{BufferPool, Disk, Extent, ExtentKind, OpenOptions, ReadRequest};

use crate::need_root;
use crate::support::{LoopDevice, MIB, content, folder, read_all, sparse_file};

const M: u64 = MIB as u64;

fn extents(disk: &Disk) -> Vec<Extent> {
    let extents = disk.extents().unwrap();
    let mut known = 0;
    for extent in &extents {
        assert_eq!(extent.range.start, known, "{extents:?}");
        assert!(!extent.range.is_empty(), "{extents:?}");
        known = extent.range.end;
    }
    assert_eq!(known, disk.info().size.0);
    extents
}

fn data(disk: &Disk) -> Vec<ByteRange> {
    let all = extents(disk).into_iter().filter(|extent| extent.kind == ExtentKind::Data);
    all.map(|extent| extent.range).collect()
}

#[test]
fn a_sparse_files_holes_are_known_exactly() {
    let folder = folder();
    let path = sparse_file(&folder, "disk.raw", 64 * M + 100);
    let file = FileOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&content(1, 8192), 8 * M).unwrap();
    file.write_all_at(b"x", 40 * M + 5000).unwrap();
    file.write_all_at(b"end", 64 * M + 97).unwrap();
    let disk = Disk::open(&path, &OpenOptions::default()).unwrap();
    let expected = [
        ByteRange::new(8 * M, 8192),
        ByteRange::new(40 * M + 4096, 4096),
        ByteRange { start: 64 * M, end: 64 * M + 100 },
    ];
    assert_eq!(data(&disk), expected);
    let empty = Disk::open(&sparse_file(&folder, "empty", 0), &OpenOptions::default()).unwrap();
    assert!(extents(&empty).is_empty());
}

#[test]
fn a_loop_devices_holes_are_its_files_at_its_offset_even_right_after_a_write() {
    need_root!();
    let folder = folder();
    let path = sparse_file(&folder, "disk.raw", 64 * M);
    let file = FileOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&content(2, 4096), 10 * M).unwrap();
    file.write_all_at(&content(2, 4096), M / 2).unwrap();
    file.write_all_at(&content(2, 4096), 50 * M).unwrap();
    let limits = ["--offset", "1048576", "--sizelimit", "33554432"];
    let device = LoopDevice::attach(&path, &limits);
    let disk = Disk::open(&device.path, &OpenOptions::default()).unwrap();
    assert_eq!(disk.info().size.0, 32 * M);
    assert_eq!(data(&disk), [ByteRange::new(9 * M, 4096)]);
    // Into the device's cache, not synced.
    let fresh = content(3, 8192);
    let node = FileOptions::new().write(true).open(&device.path).unwrap();
    node.write_all_at(&fresh, 20 * M).unwrap();
    assert_eq!(data(&disk), [ByteRange::new(9 * M, 4096), ByteRange::new(20 * M, 8192)]);
    let whole = read_all(&disk).bytes;
    assert!(whole[20 * MIB..20 * MIB + 8192] == fresh[..]);
    for extent in extents(&disk) {
        let bytes = &whole[extent.range.start as usize..extent.range.end as usize];
        let is_zero = bytes.iter().all(|byte| *byte == 0);
        assert_eq!(is_zero, extent.kind == ExtentKind::Hole);
    }
}

#[test]
fn a_loop_device_whose_file_was_replaced_is_all_data() {
    need_root!();
    let folder = folder();
    let path = sparse_file(&folder, "disk.raw", 4 * M);
    let device = LoopDevice::attach(&path, &[]);
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    let disk = Disk::open(&device.path, &OpenOptions::default()).unwrap();
    // The kernel follows a rename: the path it shows leads to the file still.
    assert!(data(&disk).is_empty());
    std::fs::remove_file(folder.path().join("moved")).unwrap();
    sparse_file(&folder, "moved", 4 * M);
    let disk = Disk::open(&device.path, &OpenOptions::default()).unwrap();
    assert_eq!(data(&disk), [ByteRange::new(0, 4 * M)]);
}

#[test]
fn a_huge_sparse_loop_device_is_read_in_time_that_follows_its_data() {
    need_root!();
    let folder = folder();
    let size = (16 << 40) - (1 << 20);
    let path = sparse_file(&folder, "disk.raw", size);
    let device = LoopDevice::attach(&path, &[]);
    let node = FileOptions::new().write(true).open(&device.path).unwrap();
    for place in [0, 5 << 40, size - 4096] {
        node.write_all_at(&content(place, 4096), place).unwrap();
    }
    let started = Instant::now();
    let disk = Disk::open(&device.path, &OpenOptions::default()).unwrap();
    let ranges = data(&disk);
    assert_eq!(ranges.len(), 3);
    let pool = BufferPool::new(4, MIB).unwrap();
    let mut total = 0;
    disk.stream(&ReadRequest::new(ranges), &pool, &Silent, &mut |chunk| {
        assert!(chunk.buffer[..] == content(chunk.offset.0, 4096)[..]);
        total += chunk.buffer.len();
        Ok(())
    })
    .unwrap();
    assert_eq!(total, 3 * 4096);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
