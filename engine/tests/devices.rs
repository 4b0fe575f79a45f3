//! Whole disks on real loop devices, compared by the system's own tools: round trips, the sparse
//! disk of 16 TiB, what a restore refuses, and partition tables on larger disks.

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_engine::base::{BlockSize, ByteOffset, ErrorKind, ReadAt, Result, Silent};
use imgx_engine::job::{Capture, CaptureOptions, Restore, RestoreOptions, RestoreReport};
use imgx_engine::store::repository::Image;
use imgx_engine::store::{LocalStorage, Repository};
use imgx_fixtures::gpt;
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::pattern::{MixedDisk, Random, incompressible};
use imgx_fixtures::tool;
use nix::unistd::{Whence, lseek};

use faulty::FaultyStorage;
use support::{MIB, Mounted, file, is_long, unsound};

const TIB: u64 = 1 << 40;

/// Ends a test that needs loop devices where there are none, saying so.
macro_rules! need_loop_devices {
    () => {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
    };
}

fn folder() -> tempfile::TempDir {
    // Unlike /tmp, this is on a real disk nearly everywhere.
    tempfile::tempdir_in("/var/tmp").expect("temporary folder")
}

fn blank(path: &Path, size: u64) -> PathBuf {
    File::create(path).and_then(|file| file.set_len(size)).expect("a sparse file can be made");
    path.to_owned()
}

fn attach(path: &Path, sector: u32) -> LoopDevice {
    let options = Options { sector_size: Some(sector), ..Options::default() };
    LoopDevice::attach_with(path, options).expect("attached")
}

fn capture(repository: &Repository, source: &Path) -> Image {
    let options = CaptureOptions { name: Some("disk".to_owned()), ..CaptureOptions::default() };
    let plan = Capture::plan(repository, source, options, &Silent).expect("planned");
    let report = plan.run(&Silent).expect("captured");
    repository.image(report.id).expect("committed")
}

fn restore(
    repository: &Repository,
    image: &Image,
    target: &Path,
    options: RestoreOptions,
) -> Result<RestoreReport> {
    Restore::plan(repository, image, target, options)?.run(&Silent)
}

/// Overwrites whatever is there and reads it back.
const FORCE: RestoreOptions = RestoreOptions {
    overwrite: true,
    only_changed: false,
    known: None,
    verify: true,
    keep_table: false,
    space: imgx_engine::job::Space::Sparse,
    io: imgx_engine::block::IoMode::Auto,
    threads: None,
};

/// Asserts that `cmp` finds the first `bytes` bytes of both to be the same.
fn assert_cmp(one: &Path, other: &Path, bytes: u64) {
    let limit = format!("--bytes={bytes}");
    let arguments = [&limit, one.to_str().expect("plain"), other.to_str().expect("plain")];
    tool::run("cmp", &arguments).expect("both hold the same");
}

fn new_repository(folder: &Path) -> Repository {
    Repository::create(&folder.join("repository"), BlockSize::DEFAULT).expect("created")
}

#[test]
fn disks_of_any_sector_size_come_back_the_same_over_garbage() {
    need_loop_devices!();
    for (sector, size) in [
        (512, 24 * MIB as u64 + 512),
        (512, 9 * MIB as u64 - 3 * 512),
        (4096, 20 * MIB as u64 + 4096),
        (4096, 16 * MIB as u64 - 5 * 4096),
    ] {
        let folder = folder();
        let disk = folder.path().join("disk");
        MixedDisk { size, seed: size }.write(&disk).expect("written");
        let source = attach(&disk, sector);
        let repository = new_repository(folder.path());
        let image = capture(&repository, source.path());
        assert_eq!(image.manifest.size.0, size);
        assert_eq!(image.manifest.source["logical_sector_size"], sector);

        // Garbage everywhere: what is zero in the image must really become zero.
        let garbage = vec![0xa5; usize::try_from(size).expect("small")];
        let target = attach(&file(folder.path(), "target", &garbage), sector);
        let report = restore(&repository, &image, target.path(), FORCE).expect("restored");
        assert_eq!(report.written + report.zeroed, size);
        assert_eq!(report.verified, size);
        assert_cmp(&disk, target.path(), size);
        assert_cmp(source.path(), target.path(), size);
        let new = folder.path().join("new");
        restore(&repository, &image, &new, FORCE).expect("restored");
        assert_cmp(&disk, &new, size);
        assert_eq!(fs::metadata(&new).expect("there").len(), size);
        assert_eq!(unsound(&repository), None);
    }
}

#[test]
fn what_was_just_written_to_a_device_through_its_cache_is_captured() {
    need_loop_devices!();
    let folder = folder();
    let source = attach(&blank(&folder.path().join("disk"), 8 << 20), 512);
    let repository = new_repository(folder.path());
    for number in 0..10 {
        let device = OpenOptions::new().write(true).open(source.path()).expect("opens");
        let data = incompressible(number, 64 << 10);
        device.write_all_at(&data, number * 700_416).expect("written");
        let image = capture(&repository, source.path());
        drop(device);
        let restored = folder.path().join("restored");
        restore(&repository, &image, &restored, FORCE).expect("restored");
        assert_cmp(source.path(), &restored, 8 << 20);
        fs::remove_file(restored).expect("removed");
    }
}

/// The stretches of data that the filesystem knows in a file.
fn data_extents(file: &File) -> Vec<(u64, u64)> {
    let mut extents = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(file, at, Whence::SeekData) {
        at = lseek(file, start, Whence::SeekHole).expect("data ends");
        extents
            .push((u64::try_from(start).expect("positive"), u64::try_from(at).expect("positive")));
    }
    extents
}

#[test]
fn a_sparse_disk_of_16_tib_costs_what_its_data_costs() {
    need_loop_devices!();
    let folder = folder();
    // A filesystem in memory whose files may be larger than any disk.
    let memory = folder.path().join("memory");
    fs::create_dir(&memory).expect("created");
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=4g", "tmpfs"], &memory);
    let disk = blank(&memory.join("disk"), 16 * TIB);
    let pieces = if is_long() { 1024 } else { 256 };
    let mut random = Random::new(16);
    let file = OpenOptions::new().read(true).write(true).open(&disk).expect("opens");
    let mut places: Vec<u64> = (0..pieces).map(|_| random.below(16 << 20)).collect();
    places.extend([0, (16 << 20) - 1]);
    places.sort_unstable();
    places.dedup();
    for place in &places {
        file.write_all_at(&incompressible(*place, MIB), place << 20).expect("written");
    }
    let source = attach(&disk, 512);
    let repository = new_repository(folder.path());
    let image = capture(&repository, source.path());
    let (cost, data) = (image.manifest.cost, (places.len() as u64) << 20);
    assert_eq!(image.manifest.size.0, 16 * TIB);
    assert_eq!((cost.read, cost.fresh, cost.zero), (data, data, 16 * TIB - data));
    assert!(cost.nodes < 1 << 20, "the tree takes {} bytes", cost.nodes);
    assert!(cost.stored < data + (2 << 20), "{} bytes were stored", cost.stored);
    let manifest =
        fs::metadata(folder.path().join("repository/images").join(format!("{}.json", image.id)));
    assert!(manifest.expect("there").len() < 16 << 10);

    let target = memory.join("target");
    let report =
        restore(&repository, &image, &target, RestoreOptions::default()).expect("restored");
    assert_eq!((report.written, report.zeroed), (data, 16 * TIB - data));
    let restored = File::open(&target).expect("opens");
    assert_eq!(restored.metadata().expect("there").len(), 16 * TIB);
    assert_eq!(data_extents(&restored), data_extents(&file));
    let (mut one, mut other) = (vec![0; MIB], vec![0; MIB]);
    for place in &places {
        file.read_exact_at(&mut one, place << 20).expect("read");
        restored.read_exact_at(&mut other, place << 20).expect("read");
        assert!(one == other, "the MiB at {place} differs");
    }
    assert_eq!(unsound(&repository), None);
}

#[test]
fn an_image_opens_at_the_same_small_cost_whatever_its_size() {
    need_loop_devices!();
    let folder = folder();
    let memory = folder.path().join("memory");
    fs::create_dir(&memory).expect("created");
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=1g", "tmpfs"], &memory);
    let mut costs = Vec::new();
    for size in [1 << 30, 16 * TIB] {
        let disk = blank(&memory.join("disk"), size);
        let file = OpenOptions::new().write(true).open(&disk).expect("opens");
        for number in 0..64 {
            let piece = incompressible(number, 128 << 10);
            file.write_all_at(&piece, size / 64 * number).expect("written");
        }
        let root = folder.path().join(format!("repository-{size}"));
        let repository = Repository::create(&root, BlockSize::DEFAULT).expect("created");
        let id = capture(&repository, &disk).id;
        let storage = FaultyStorage::new(Arc::new(LocalStorage::open(&root).expect("opens")));
        let repository = Repository::open_in(Arc::new(storage.clone())).expect("opens");
        storage.operations();
        let reader = repository.reader(&repository.image(id).expect("listed"));
        let opening = storage.operations();
        let mut bytes = vec![0; 4096];
        reader.read_exact_at(ByteOffset(size / 64 * 40), &mut bytes).expect("read");
        assert!(bytes == incompressible(40, 128 << 10)[..4096]);
        costs.push((opening, storage.operations()));
        fs::remove_file(disk).expect("removed");
    }
    // A manifest is opened and read; then a pack is opened, and a node of each level read.
    assert_eq!((costs[0].0, costs[1].0), (2, 2));
    assert!(costs[0].1 <= 5 && costs[1].1 <= 7, "operations: {costs:?}");
}

/// Asserts that a restore is refused for a reason that has `words` in it.
fn assert_refused(repository: &Repository, image: &Image, target: &Path, words: &[&str]) {
    let options = RestoreOptions {
        overwrite: words[0] != "may not be overwritten",
        ..RestoreOptions::default()
    };
    let error = restore(repository, image, target, options).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    for word in words.iter().chain([&target.to_str().expect("plain")]) {
        assert!(error.to_string().contains(word), "'{word}' is not in: {error}");
    }
}

#[test]
fn targets_that_would_lose_something_are_refused_and_left_alone() {
    need_loop_devices!();
    let folder = folder();
    let disk = folder.path().join("disk");
    MixedDisk { size: 16 << 20, seed: 4 }.write(&disk).expect("written");
    let source = attach(&disk, 512);
    let repository = new_repository(folder.path());
    let image = capture(&repository, source.path());

    let backing = blank(&folder.path().join("mounted"), 32 << 20);
    let mounted = attach(&backing, 512);
    tool::run("mkfs.ext4", &["-q", mounted.path().to_str().expect("plain")]).expect("made");
    let point = folder.path().join("point");
    fs::create_dir(&point).expect("created");
    let mount = Mounted::new(&[mounted.path().to_str().expect("plain")], &point);
    let before = fs::read(&backing).expect("read");
    assert_refused(&repository, &image, mounted.path(), &["mounted", "point"]);
    assert_refused(&repository, &image, &backing, &["mounted"]);
    drop(mount);
    assert!(fs::read(&backing).expect("read").len() == before.len());
    assert_refused(&repository, &image, mounted.path(), &["may not be overwritten", "holds data"]);

    let small = attach(&blank(&folder.path().join("small"), (16 << 20) - 512), 512);
    assert_refused(&repository, &image, small.path(), &["16776704", "16777216"]);
    let short = blank(&folder.path().join("short"), 1 << 20);
    assert_refused(&repository, &image, &short, &["1048576", "16777216"]);
    let other = attach(&blank(&folder.path().join("other"), 16 << 20), 4096);
    assert_refused(&repository, &image, other.path(), &["4096", "512", "sectors"]);

    // Data far from both ends, and only there.
    let holding = blank(&folder.path().join("holding"), 16 << 20);
    let file = OpenOptions::new().write(true).open(&holding).expect("opens");
    file.write_all_at(&[1], 9 << 20).expect("written");
    let device = attach(&holding, 512);
    assert_refused(&repository, &image, device.path(), &["may not be overwritten", "9437184"]);
    let only = |place: u64, bytes: &[u8]| (place == 9 << 20) == (bytes[0] == 1);
    let left = fs::read(&holding).expect("read");
    assert!(only(9 << 20, &left[9 << 20..]) && left.iter().filter(|byte| **byte != 0).count() == 1);
    restore(&repository, &image, device.path(), FORCE).expect("allowed");
    assert_cmp(&disk, device.path(), 16 << 20);
}

fn gpt_disk(path: &Path, size: u64, sector: u64) {
    blank(path, size);
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
    let partition = |number: u8, start: u64, length: u64| gpt::Partition {
        start,
        length,
        kind: gpt::LINUX,
        id: [number; 16],
        name: format!("part {number}"),
    };
    let partitions = [partition(1, 1 << 20, 4 << 20), partition(2, 5 << 20, 20 << 20)];
    gpt::write(&file, size, sector, [9; 16], &partitions).expect("written");
    file.write_all_at(&incompressible(1, 3 * MIB), 1 << 20).expect("written");
    file.write_all_at(&incompressible(2, 5 * MIB), 6 << 20).expect("written");
}

#[test]
fn a_gpt_moves_to_the_end_of_a_larger_disk_unless_it_is_to_stay() {
    need_loop_devices!();
    for sector in [512, 4096] {
        let folder = folder();
        let disk = folder.path().join("disk");
        gpt_disk(&disk, 32 << 20, u64::from(sector));
        let source = attach(&disk, sector);
        let repository = new_repository(folder.path());
        let image = capture(&repository, source.path());
        let check = |target: &LoopDevice| {
            let printed = tool::run("sgdisk", &["-v", target.path().to_str().expect("plain")]);
            printed.unwrap_or_else(|error| error.to_string())
        };
        let large = attach(&blank(&folder.path().join("large"), 50 << 20), sector);
        let plan = Restore::plan(&repository, &image, large.path(), FORCE).expect("planned");
        assert_eq!(plan.describe().gpt_grows.map(|bytes| bytes.0), Some(18 << 20));
        plan.run(&Silent).expect("restored");
        let said = check(&large);
        assert!(said.contains("No problems found"), "{said}");
        // Everything between the tables is the source's.
        let (from, to) = (1 << 20, 31 << 20);
        let skip = format!("--ignore-initial={from}");
        let bytes = format!("--bytes={}", to - from);
        let paths = [disk.to_str().expect("plain"), large.path().to_str().expect("plain")];
        tool::run("cmp", &[&skip, &bytes, paths[0], paths[1]]).expect("the same");

        let kept = attach(&blank(&folder.path().join("kept"), 50 << 20), sector);
        let options = RestoreOptions { keep_table: true, ..FORCE };
        restore(&repository, &image, kept.path(), options).expect("restored");
        assert_cmp(&disk, kept.path(), 32 << 20);
        let said = check(&kept);
        assert!(!said.contains("No problems found"), "{said}");

        let same = attach(&blank(&folder.path().join("same"), 32 << 20), sector);
        restore(&repository, &image, same.path(), FORCE).expect("restored");
        assert_cmp(&disk, same.path(), 32 << 20);
        let said = check(&same);
        assert!(said.contains("No problems found"), "{said}");
    }
}

#[test]
fn only_what_differs_is_written_if_that_is_asked_for() {
    need_loop_devices!();
    let folder = folder();
    let disk = folder.path().join("disk");
    let size = (40 << 20) + 512 * 7;
    MixedDisk { size, seed: 8 }.write(&disk).expect("written");
    let source = attach(&disk, 512);
    let repository = new_repository(folder.path());
    let image = capture(&repository, source.path());
    let copy = folder.path().join("copy");
    fs::copy(&disk, &copy).expect("copied");
    let target = attach(&copy, 512);
    let options = RestoreOptions { only_changed: true, ..FORCE };
    let report = restore(&repository, &image, target.path(), options.clone()).expect("restored");
    assert_eq!((report.written, report.zeroed, report.unchanged), (0, 0, size));

    // In blocks 3, 100 and the last, which is short: one byte each.
    let block = BlockSize::DEFAULT.bytes();
    let last = size / block;
    let original = fs::read(&disk).expect("read");
    let device = OpenOptions::new().write(true).open(target.path()).expect("opens");
    for place in [3 * block + 5, 100 * block, size - 1] {
        let byte = original[usize::try_from(place).expect("small")];
        device.write_all_at(&[!byte], place).expect("written");
    }
    device.sync_all().expect("synced");
    drop(device);
    let report = restore(&repository, &image, target.path(), options).expect("restored");
    let changed = 2 * block + (size - last * block);
    assert_eq!(report.written + report.zeroed, changed, "{report:?}");
    assert_eq!(report.unchanged, size - changed);
    assert_cmp(&disk, target.path(), size);
}
