//! Streams and single reads give the bytes that are there, whatever way they take.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use imgx_engine::base::{ByteOffset, ByteRange, Error, ErrorKind, Event, Observer, ReadAt, Silent};
use imgx_engine::block::{BufferPool, Disk, IoMode, OpenOptions, ReadRequest, SourceKind};

use crate::need_root;
use crate::support::{
    LoopDevice, MIB, content, file, folder, modes, read_all, read_with, run, ways,
};

#[test]
fn files_of_odd_sizes_are_read_the_same_in_every_way() {
    let folder = folder();
    for size in [0, 1, 511, 512, 4095, 4096, 4097, MIB - 1, MIB, 5 * MIB + 777, 9 * MIB + 512] {
        let expected = content(size as u64, size);
        let path = file(&folder, "disk.raw", &expected);
        for options in ways() {
            let disk = Disk::open(&path, &options).unwrap();
            let found = read_all(&disk);
            assert!(found.bytes == expected, "{size} bytes, {}", disk.io_engine());
            assert!(found.bad.is_empty());
        }
    }
}

#[test]
fn loop_devices_of_both_sector_sizes_are_read_the_same_in_every_way() {
    need_root!();
    let folder = folder();
    for (sector, size) in [
        (512, 3 * MIB + 512 * 3),
        (512, 3 * MIB + 777),
        (4096, 3 * MIB + 4096),
        (4096, 3 * MIB + 512 * 3),
    ] {
        let expected = content(7, size);
        let path = file(&folder, "disk.raw", &expected);
        let device = LoopDevice::attach(&path, &["-b", &sector.to_string()]);
        for options in ways() {
            let disk = Disk::open(&device.path, &options).unwrap();
            assert_eq!(disk.info().kind, SourceKind::Device);
            assert_eq!(u64::from(disk.info().logical_sector_size), sector);
            let blockdev = run("blockdev", &["--getsize64", device.as_str()]);
            let whole_sectors = blockdev.parse::<u64>().unwrap() / sector * sector;
            assert_eq!(disk.info().size.0, whole_sectors);
            assert_eq!(
                disk.warnings().len(),
                usize::from(disk.info().size.to_string() != blockdev)
            );
            let found = read_all(&disk);
            let length = found.bytes.len();
            let engine = disk.io_engine();
            assert!(found.bytes == expected[..length], "{sector}, {size}, {engine}");
            assert!(found.bad.is_empty(), "{sector}, {size}, {engine}: {:?}", found.bad);
        }
    }
}

#[test]
fn the_engine_in_use_is_told() {
    let folder = folder();
    let path = file(&folder, "disk.raw", &[1; 8192]);
    let names: Vec<_> =
        ways().iter().map(|options| Disk::open(&path, options).unwrap().io_engine()).collect();
    let first = if modes()[0] == IoMode::Ring { "io_uring" } else { "threads" };
    let expected = [first, "threads"].map(|io| [format!("{io} direct"), format!("{io} buffered")]);
    assert_eq!(names, expected.concat());
}

#[test]
fn single_reads_anywhere_give_what_is_there() {
    need_root!();
    let folder = folder();
    let expected = content(3, MIB + 512 * 3);
    let path = file(&folder, "disk.raw", &expected);
    let device = LoopDevice::attach(&path, &[]);
    for path in [&path, &device.path] {
        let disk = Disk::open(path, &OpenOptions::default()).unwrap();
        for (offset, length) in [
            (0, 0),
            (0, 1),
            (1, 1),
            (511, 2),
            (4095, 4098),
            (100, 700_000),
            (512, 4096),
            (expected.len() - 1, 1),
            (expected.len() - 700, 700),
            (expected.len(), 0),
        ] {
            let mut found = vec![0; length];
            disk.read_exact_at(ByteOffset(offset as u64), &mut found).unwrap();
            assert!(found == expected[offset..offset + length], "{offset}+{length}");
        }
        let beyond = disk.read_exact_at(ByteOffset(expected.len() as u64 - 1), &mut [0; 2]);
        assert_eq!(beyond.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn only_the_ranges_asked_for_are_read() {
    let folder = folder();
    let expected = content(4, 4 * MIB + 100);
    let path = file(&folder, "disk.raw", &expected);
    let range = |start, end| ByteRange { start, end };
    let ranges = vec![
        range(0, 128 << 10),
        range(1000 << 10, 2000 << 10),
        range((3 << 20) + 5, (3 << 20) + 5000),
        range((4 << 20) - 1, (4 << 20) + 100),
    ];
    for options in ways() {
        let disk = Disk::open(&path, &options).unwrap();
        let request = ReadRequest { ranges: ranges.clone(), chunk: 128 << 10, depth: 4 };
        let pool = BufferPool::new(8, 128 << 10).unwrap();
        let mut found = Vec::new();
        disk.stream(&request, &pool, &Silent, &mut |chunk| {
            let start = chunk.offset.0 as usize;
            assert!(chunk.buffer[..] == expected[start..start + chunk.buffer.len()]);
            found.push((chunk.index, ByteRange::new(chunk.offset.0, chunk.buffer.len() as u64)));
            Ok(())
        })
        .unwrap();
        found.sort_unstable();
        assert!(found.iter().enumerate().all(|(place, (index, _))| place as u64 == *index));
        let total: u64 = found.iter().map(|(_, range)| range.len()).sum();
        assert_eq!(total, ranges.iter().map(ByteRange::len).sum::<u64>());
    }
}

#[test]
fn a_consumer_that_holds_every_buffer_of_a_tiny_pool_does_not_deadlock() {
    let folder = folder();
    let expected = content(5, 64 * 4096 + 9);
    let path = file(&folder, "disk.raw", &expected);
    for options in ways() {
        let disk = Disk::open(&path, &options).unwrap();
        let pool = BufferPool::new(2, 4096).unwrap();
        let request = ReadRequest {
            ranges: vec![ByteRange { start: 0, end: expected.len() as u64 }],
            chunk: 4096,
            depth: 16,
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let slow = std::thread::spawn(move || {
            let mut total = 0;
            for chunk in receiver {
                let chunk: imgx_engine::block::Chunk = chunk;
                std::thread::sleep(std::time::Duration::from_millis(1));
                total += chunk.buffer.len();
            }
            total
        });
        disk.stream(&request, &pool, &Silent, &mut |chunk| {
            sender.send(chunk).unwrap();
            Ok(())
        })
        .unwrap();
        drop(sender);
        assert_eq!(slow.join().unwrap(), expected.len());
        assert!(pool.try_take().is_some() && pool.count() == 2);
        assert!(read_with(&disk, &pool, &Silent).unwrap().bytes == expected);
    }
}

/// Cancels after some chunks.
struct Impatient {
    left: AtomicUsize,
}

impl Observer for Impatient {
    fn event(&self, _event: &Event<'_>) {}

    fn cancelled(&self) -> bool {
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err()
    }
}

#[test]
fn a_stream_stops_when_cancelled_or_when_its_consumer_fails_and_gives_all_buffers_back() {
    let folder = folder();
    let path = file(&folder, "disk.raw", &content(6, 256 * 4096));
    for options in ways() {
        let disk = Disk::open(&path, &options).unwrap();
        let pool = BufferPool::new(4, 4096).unwrap();
        let impatient = Impatient { left: AtomicUsize::new(5) };
        let error = read_with(&disk, &pool, &impatient).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);

        let request = ReadRequest {
            ranges: vec![ByteRange { start: 0, end: 256 * 4096 }],
            chunk: 4096,
            depth: 4,
        };
        let mut count = 0;
        let error = disk.stream(&request, &pool, &Silent, &mut |_| {
            count += 1;
            if count == 3 { Err(Error::new(ErrorKind::Limit, "enough")) } else { Ok(()) }
        });
        assert_eq!(error.unwrap_err().to_string(), "enough");
        assert_eq!(count, 3);
        let all: Vec<_> = std::iter::from_fn(|| pool.try_take()).collect();
        assert_eq!(all.len(), 4);
    }
}

#[test]
fn what_was_written_through_the_cache_of_a_partition_is_seen_on_the_disk() {
    need_root!();
    let folder = folder();
    let path = file(&folder, "disk.raw", &content(8, 8 * MIB));
    let device = LoopDevice::attach(&path, &["-P"]);
    let partition = device.add_partition(1);
    // Have the disk's own cache hold the old bytes.
    let _ = std::fs::read(&device.path).unwrap();
    let fresh = content(9, MIB);
    let mut file = std::fs::OpenOptions::new().write(true).open(&partition).unwrap();
    file.write_all(&fresh).unwrap();
    for options in ways() {
        let disk = Disk::open(&device.path, &options).unwrap();
        assert_eq!(disk.warnings(), &[] as &[String]);
        let found = read_all(&disk);
        assert!(found.bytes[MIB..2 * MIB] == fresh[..], "{}", disk.io_engine());
    }
    // The other way round: the disk's cache, seen on the partition.
    let newer = content(10, 4096);
    let mut whole = std::fs::OpenOptions::new().write(true).open(&device.path).unwrap();
    whole.seek(SeekFrom::Start(MIB as u64)).unwrap();
    whole.write_all(&newer).unwrap();
    let disk = Disk::open(&partition, &OpenOptions::default()).unwrap();
    assert_eq!(disk.info().size.0, 4096 * 512);
    assert_eq!(disk.facts().unwrap().parent_disk.as_deref(), Some(device.name()));
    assert!(read_all(&disk).bytes[..4096] == newer[..]);
}

#[test]
fn the_kernels_word_on_a_disk_is_kept_through_json() {
    need_root!();
    let folder = folder();
    let path = file(&folder, "disk.raw", &[0; 8192]);
    let device = LoopDevice::attach(&path, &[]);
    let disk = Disk::open(&device.path, &OpenOptions::default()).unwrap();
    let info = disk.info();
    let number = std::fs::read_to_string(format!("/sys/block/{}/dev", device.name())).unwrap();
    assert_eq!(info.device_number.as_deref(), Some(number.trim()));
    let sequence = std::fs::read_to_string(format!("/sys/block/{}/diskseq", device.name()));
    assert_eq!(info.disk_sequence, sequence.ok().and_then(|text| text.trim().parse().ok()));
    let backing = disk.facts().unwrap().loop_backing.as_ref().unwrap();
    assert_eq!(backing.path, std::fs::canonicalize(&path).unwrap());
    let json = serde_json::to_string(info).unwrap();
    assert!(json.contains("\"kind\":\"device\""), "{json}");
    let back: imgx_engine::block::SourceInfo = serde_json::from_str(&json).unwrap();
    assert_eq!(&back, info);
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let folder = folder();
    for (path, kind, word) in [
        (folder.path(), ErrorKind::Invalid, "a directory"),
        (Path::new("/dev/null"), ErrorKind::Invalid, "a character device"),
        (Path::new("/nowhere/at/all"), ErrorKind::NotFound, "no such file"),
    ] {
        let error = Disk::open(path, &OpenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_file_that_shrinks_is_an_error_and_not_zeros() {
    let folder = folder();
    let path = file(&folder, "disk.raw", &content(11, 3 * MIB));
    for options in ways() {
        let whole = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        whole.set_len(3 * MIB as u64).unwrap();
        let disk = Disk::open(&path, &options).unwrap();
        whole.set_len(MIB as u64 + 5000).unwrap();
        let pool = BufferPool::new(4, MIB).unwrap();
        let error = read_with(&disk, &pool, &Silent).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("ends at byte"), "{error}");
    }
}

#[test]
fn a_driver_that_moves_whole_sectors_overwrites_nothing_beside_the_buffer() {
    let Ok(device) = imgx_fixtures::zram::Zram::add(4 << 20) else {
        return println!("skipped: no zram device can be added");
    };
    let expected = content(9, 4 * MIB);
    std::fs::OpenOptions::new()
        .write(true)
        .open(device.path())
        .and_then(|mut disk| disk.write_all(&expected).and_then(|()| disk.sync_all()))
        .unwrap();
    let disk = Disk::open(device.path(), &OpenOptions::default()).unwrap();
    let mut memory = vec![0xa5; 64 << 10];
    let aligned = memory.as_ptr().align_offset(4096);
    for start in (aligned + 8192..aligned + 16_384).step_by(512) {
        memory.fill(0xa5);
        let target = &mut memory[start..start + 8192];
        disk.read_exact_at(ByteOffset(4096 * 5), target).unwrap();
        assert!(target == &expected[4096 * 5..4096 * 7], "memory at {start}");
        let beside = memory[..start].iter().chain(&memory[start + 8192..]);
        assert!(beside.copied().all(|byte| byte == 0xa5), "bytes beside the memory at {start}");
    }
}
