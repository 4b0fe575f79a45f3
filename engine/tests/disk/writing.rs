//! What is written is there afterwards, as `std::fs` reads it.

use std::fs;

use imgx_engine::base::{ByteCount, ByteOffset, ErrorKind, ReadAt, Result, WriteAt};
use imgx_engine::block::{BufferPool, FileMode, IoMode, Target, TargetWriter};

use crate::need_root;
use crate::support::{LoopDevice, MIB, Mounted, content, file, folder, modes, sparse_file};

/// Writes `bytes` in chunks of 256 KiB, last first, from fewer buffers than the depth.
fn write_all(target: &Target, bytes: &[u8], mode: IoMode) -> Result<u64> {
    let pool = BufferPool::new(1 + bytes.len() % 4, 256 << 10)?;
    let mut writer = TargetWriter::new(target, &pool, 8, mode)?;
    let chunks: Vec<_> = bytes.chunks(256 << 10).enumerate().collect();
    for (index, chunk) in chunks.into_iter().rev() {
        let mut buffer = pool.take(&|| false)?;
        buffer.set_len(chunk.len());
        buffer.copy_from_slice(chunk);
        writer.write(ByteOffset((index * (256 << 10)) as u64), buffer)?;
    }
    writer.finish()
}

#[test]
fn files_of_odd_sizes_are_written_the_same_in_every_way() {
    let folder = folder();
    let path = folder.path().join("target.raw");
    for size in [0, 1, 4096, MIB, 3 * MIB + 777] {
        let expected = content(size as u64, size);
        for mode in modes() {
            for kind in [FileMode::Sparse, FileMode::Preallocate, FileMode::Existing] {
                if kind == FileMode::Existing {
                    fs::write(&path, content(99, size)).unwrap();
                } else {
                    let _ = fs::remove_file(&path);
                }
                let target = Target::create_file(&path, ByteCount(size as u64), kind).unwrap();
                assert_eq!(write_all(&target, &expected, mode).unwrap(), size as u64);
                target.sync().unwrap();
                assert!(fs::read(&path).unwrap() == expected, "{size}, {mode:?}, {kind:?}");
                let mut back = vec![0; size];
                target.read_exact_at(ByteOffset(0), &mut back).unwrap();
                assert!(back == expected);
            }
        }
    }
}

#[test]
fn loop_devices_of_both_sector_sizes_are_written_the_same_in_every_way() {
    need_root!();
    let folder = folder();
    for (sector, size) in
        [("512", 2 * MIB + 512 * 3), ("4096", 2 * MIB + 4096), ("4096", 2 * MIB + 512 * 3)]
    {
        for mode in modes() {
            let path = file(&folder, "target.raw", &content(1, size));
            let device = LoopDevice::attach(&path, &["-b", sector]);
            let target = Target::open_device(&device.path).unwrap();
            let expected = content(2, target.size().0 as usize);
            write_all(&target, &expected, mode).unwrap();
            target.sync().unwrap();
            assert!(fs::read(&path).unwrap()[..expected.len()] == expected[..]);
            assert!(target.write_all_at(ByteOffset(1000), &[7; 5000]).is_ok());
            let mut back = [0; 5002];
            target.read_exact_at(ByteOffset(999), &mut back).unwrap();
            assert_eq!(back[0], expected[999]);
            assert!(back[1..5001].iter().all(|byte| *byte == 7));
            assert_eq!(back[5001], expected[6000]);
        }
    }
}

#[test]
fn a_write_that_fails_is_reported_with_its_place_and_finish_fails_too() {
    need_root!();
    let folder = folder();
    let point = folder.path().join("small");
    fs::create_dir(&point).unwrap();
    let small = Mounted::new(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"], &point);
    let path = small.point.join("disk.raw");
    fs::File::create(&path).unwrap().set_len(8 * MIB as u64).unwrap();
    let device = LoopDevice::attach(&path, &[]);
    for mode in modes() {
        let target = Target::open_device(&device.path).unwrap();
        let error = write_all(&target, &content(1, 8 * MIB), mode).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("at byte "), "{error}");

        let pool = BufferPool::new(16, MIB).unwrap();
        let mut writer = TargetWriter::new(&target, &pool, 1, mode).unwrap();
        let mut failed = 0;
        for index in 0..8 {
            let mut buffer = pool.try_take().unwrap();
            buffer.fill(index + 1);
            let offset = ByteOffset(u64::from(index) * MIB as u64);
            failed += usize::from(writer.write(offset, buffer).is_err());
        }
        assert!(failed > 0);
        assert!(writer.finish().is_err());
    }
}

#[test]
fn targets_that_exist_are_not_created_and_other_sizes_are_not_written_over() {
    let folder = folder();
    let path = file(&folder, "target.raw", b"precious");
    for (size, mode) in [(8, FileMode::Sparse), (8, FileMode::Preallocate), (9, FileMode::Existing)]
    {
        let error = Target::create_file(&path, ByteCount(size), mode).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{mode:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(Target::open_device(&path).unwrap_err().kind(), ErrorKind::Invalid);
    let missing = folder.path().join("missing");
    let error = Target::create_file(&missing, ByteCount(1), FileMode::Existing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // More than the filesystem has: nothing is left behind.
    let error = Target::create_file(&missing, ByteCount(1 << 43), FileMode::Preallocate);
    assert!(error.is_err() && !missing.exists());
}

#[test]
fn a_device_is_claimed_once() {
    need_root!();
    let folder = folder();
    let device = LoopDevice::attach(&sparse_file(&folder, "disk.raw", MIB as u64), &[]);
    let first = Target::open_device(&device.path).unwrap();
    let error = Target::open_device(&device.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("in use"), "{error}");
    drop(first);
    assert!(Target::open_device(&device.path).is_ok());
    let read_only = LoopDevice::attach(&sparse_file(&folder, "ro.raw", MIB as u64), &["-r"]);
    let error = Target::open_device(&read_only.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[test]
fn data_on_a_target_is_found_and_emptiness_is_believed() {
    need_root!();
    let folder = folder();
    let limit = ByteCount(1 << 20);
    for place in [0, 700_000, 20 * MIB - 5000, 20 * MIB - 1] {
        let mut bytes = vec![0; 20 * MIB];
        bytes[place] = 1;
        let device = LoopDevice::attach(&file(&folder, "disk.raw", &bytes), &[]);
        let target = Target::open_device(&device.path).unwrap();
        assert_eq!(target.first_data(limit).unwrap(), Some(ByteOffset(place as u64)));
    }
    // In the middle only, enough of it that samples must hit.
    let mut bytes = vec![0; 20 * MIB];
    bytes[8 * MIB..9 * MIB].fill(1);
    let path = file(&folder, "middle.raw", &bytes);
    let size = ByteCount(bytes.len() as u64);
    let target = Target::create_file(&path, size, FileMode::Existing).unwrap();
    let found = target.first_data(limit).unwrap().unwrap();
    assert_eq!(bytes[found.0 as usize], 1);
    // Nothing, stored and not stored.
    let zeros = file(&folder, "zeros.raw", &vec![0; 20 * MIB]);
    let target = Target::create_file(&zeros, size, FileMode::Existing).unwrap();
    assert_eq!(target.first_data(limit).unwrap(), None);
    let path = sparse_file(&folder, "huge.raw", 15 << 40);
    let target = Target::create_file(&path, ByteCount(15 << 40), FileMode::Existing).unwrap();
    assert_eq!(target.first_data(limit).unwrap(), None);
}
