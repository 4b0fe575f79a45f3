//! Disks that are full or fail: a clear error, every earlier image intact, and nothing that could
//! not be read passed off as data.

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use imgx_engine::base::{BlockSize, ByteOffset, ErrorKind, ReadAt, Result, Silent};
use imgx_engine::job::{Capture, CaptureOptions, OnError, Restore, RestoreOptions};
use imgx_engine::store::storage::simulated::{SimulatedStorage, Unsynced};
use imgx_engine::store::{LocalStorage, Repository};
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::pattern::{incompressible, text};
use imgx_fixtures::tool;

use faulty::FaultyStorage;
use support::{
    KIB, MIB, Mounted, capture, captured, differs, file, folder_in_memory, image_named,
    read_pieces, small_disk, unsound, verify_all,
};

const ENOSPC: i32 = 28;

fn open(storage: &SimulatedStorage) -> Repository {
    let repository = Repository::open_in(Arc::new(storage.clone())).expect("opens");
    repository.with_pack_size(256 * KIB as u64)
}

/// Storage with the image `first` of the returned disk.
fn with_first_image() -> (SimulatedStorage, tempfile::TempDir, Vec<u8>) {
    let (storage, folder) = (SimulatedStorage::new(), folder_in_memory());
    let block_size = BlockSize::new(16 * 1024).expect("valid");
    Repository::create_in(Arc::new(storage.clone()), block_size).expect("created");
    let first = small_disk(21, 700 * KIB);
    captured(&open(&storage), &file(folder.path(), "first", &first), "first");
    (storage.after_power_cut(Unsynced::Lost), folder, first)
}

/// Asserts that a repository is sound, with or without locks, and holds `first`.
fn assert_intact(repository: &Repository, first: &[u8], case: &str) {
    assert_eq!(unsound(repository), None, "{case}");
    let image = image_named(repository, "first").expect("the first image is there");
    assert_eq!(differs(repository, &image, first), None, "{case}");
}

#[test]
fn a_disk_that_fills_at_any_byte_costs_no_image_and_the_next_capture_goes_on() {
    let (storage, folder, first) = with_first_image();
    let second = [incompressible(22, MIB), text(22, MIB + 5)].concat();
    let disk = file(folder.path(), "second", &second);
    let whole = captured(&open(&storage.after_power_cut(Unsynced::Lost)), &disk, "second");
    let cost = whole.manifest.cost;
    let mut reused = 0;
    for number in 0..60 {
        // The first limits hit the lock and the first pack's header.
        let room = if number < 10 { number * 100 } else { cost.stored * (number - 9) / 50 };
        let case = format!("room for {room} bytes");
        let storage = storage.after_power_cut(Unsynced::Lost);
        storage.limit(Some(room));
        let error = capture(&open(&storage), &disk, "second", &Silent).expect_err("no room");
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Io, Some(ENOSPC)), "{error}");
        assert!(image_named(&open(&storage), "second").is_none(), "{case}: half an image");
        // Verifying and restoring must not need any room.
        assert_intact(&open(&storage), &first, &case);
        let target = folder.path().join("target");
        let image = image_named(&open(&storage), "first").expect("there");
        let plan = Restore::plan(&open(&storage), &image, &target, RestoreOptions::default());
        plan.expect("planned").run(&Silent).expect("restored");
        assert!(fs::read(&target).expect("read") == first, "{case}");
        fs::remove_file(&target).expect("removed");

        storage.limit(None);
        let report = captured(&open(&storage), &disk, "second");
        let image = open(&storage).image(report.id).expect("committed");
        assert_eq!(differs(&open(&storage), &image, &second), None, "{case}");
        assert_intact(&open(&storage), &first, &case);
        assert!(report.manifest.cost.fresh <= cost.fresh, "{case}");
        reused = reused.max(cost.fresh - report.manifest.cost.fresh);
    }
    assert!(reused > cost.fresh / 2, "only {reused} bytes of {} were reused", cost.fresh);
}

#[test]
fn a_full_filesystem_costs_no_image_and_the_next_capture_goes_on() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").expect("temporary folder");
    let backing = folder.path().join("ext4");
    fs::File::create(&backing).and_then(|file| file.set_len(40 << 20)).expect("created");
    let backing = backing.to_str().expect("plain");
    tool::run("mkfs.ext4", &["-q", "-m", "0", backing]).expect("mkfs.ext4 runs");
    let point = folder.path().join("mounted");
    fs::create_dir(&point).expect("created");
    let _mounted = Mounted::new(&["-o", "loop", backing], &point);
    let root = point.join("repository");
    let repository = Repository::create(&root, BlockSize::DEFAULT).expect("created");
    let repository = repository.with_pack_size(4 << 20);
    let first = small_disk(23, 3 * MIB);
    captured(&repository, &file(folder.path(), "first", &first), "first");
    let ballast = file(&point, "ballast", &incompressible(1, 14 * MIB));

    let second = incompressible(24, 24 * MIB);
    let disk = file(folder.path(), "second", &second);
    let error = capture(&repository, &disk, "second", &Silent).expect_err("no room");
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Io, Some(ENOSPC)), "{error}");
    assert!(error.to_string().contains("packs/"), "{error}");
    // Not a byte is left, not even for a lock.
    let mut filler = fs::File::create(point.join("filler")).expect("created");
    while std::io::Write::write(&mut filler, &[1; 1024]).is_ok_and(|written| written > 0) {}
    let _full = filler.sync_all();
    assert!(fs::write(point.join("more"), [1; 4096]).is_err(), "there is room");
    assert_intact(&repository, &first, "full");
    assert!(image_named(&repository, "second").is_none());
    let error = capture(&repository, &disk, "second", &Silent).expect_err("still no room");
    assert_eq!(error.raw_os_error(), Some(ENOSPC), "{error}");

    fs::remove_file(ballast).expect("removed");
    fs::remove_file(point.join("filler")).expect("removed");
    let report = captured(&repository, &disk, "second");
    let image = repository.image(report.id).expect("committed");
    assert_eq!(differs(&repository, &image, &second), None);
    assert_intact(&repository, &first, "after room was made");
    let fresh = report.manifest.cost.fresh;
    assert!(fresh < 16 << 20, "{fresh} bytes were stored again");
}

#[test]
fn a_read_only_repository_can_be_verified_and_restored() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().join("repository");
    let repository = Repository::create(&root, BlockSize::DEFAULT).expect("created");
    let first = small_disk(25, MIB);
    let disk = file(folder.path(), "first", &first);
    captured(&repository, &disk, "first");
    let root = root.to_str().expect("plain");
    let _mounted = Mounted::new(&["--bind", root], Path::new(root));
    tool::run("mount", &["-o", "remount,ro,bind", root]).expect("made read-only");
    assert_intact(&repository, &first, "read-only");
    let error = capture(&repository, &disk, "first", &Silent).expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(30), "{error}");
}

/// A loop device of which everything from `cut` on fails with `EIO`.
fn failing_device(folder: &Path, content: &[u8], cut: u64, sector: u32) -> LoopDevice {
    let path = file(folder, "backing", content);
    let options = Options { sector_size: Some(sector), ..Options::default() };
    let device = LoopDevice::attach_with(&path, options).expect("attached");
    let backing = OpenOptions::new().write(true).open(&path).expect("opens");
    backing.set_len(cut).expect("cut");
    device
}

#[test]
fn unreadable_sectors_are_recorded_and_never_read_back_as_data() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").expect("temporary folder");
    let content = incompressible(26, 3 * MIB);
    // In the middle of a block; and at a block's start, so that only whole blocks are lost.
    for (cut, sector) in [(MIB + 40 * KIB + 512 * 3, 512), (2 * MIB, 512), (MIB + 12 * KIB, 4096)] {
        let device = failing_device(folder.path(), &content, cut as u64, sector);
        let root = folder.path().join(format!("repository-{cut}"));
        let repository = Repository::create(&root, BlockSize::DEFAULT).expect("created");
        let report = captured(&repository, device.path(), "failing");
        let lost = (3 * MIB - cut) as u64;
        assert_eq!(report.manifest.cost.unreadable, lost);
        let ranges: Vec<(u64, u64)> =
            report.manifest.unreadable.iter().map(|range| (range.offset, range.length)).collect();
        assert_eq!(ranges, [(cut as u64, lost)]);
        assert_eq!(unsound(&repository), None);

        let image = repository.image(report.id).expect("committed");
        for (start, piece) in read_pieces(&repository.reader(&image), 512) {
            match piece {
                Ok(bytes) => {
                    assert!(start < cut, "byte {start} was read back");
                    assert!(bytes == content[start..start + 512], "wrong bytes from {start}");
                }
                Err(error) => {
                    assert!(start >= cut, "byte {start}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                }
            }
        }
        let mut across = vec![0; 2 * MIB];
        assert!(
            repository.reader(&image).read_exact_at(ByteOffset(MIB as u64), &mut across).is_err()
        );

        let target = folder.path().join("target");
        let options = RestoreOptions { verify: true, ..RestoreOptions::default() };
        let plan = Restore::plan(&repository, &image, &target, options).expect("planned");
        assert_eq!(plan.describe().unreadable, lost);
        let restored = plan.run(&Silent).expect("restored");
        assert_eq!((restored.unreadable, restored.damaged), (lost, 0));
        let bytes = fs::read(&target).expect("read");
        fs::remove_file(&target).expect("removed");
        assert!(bytes[..cut] == content[..cut], "what could be read differs");
        assert!(bytes[cut..].iter().all(|byte| *byte == 0), "what could not is not zero");
        assert_eq!(bytes.len(), content.len());

        let options = CaptureOptions {
            name: Some("aborted".to_owned()),
            on_error: OnError::Abort,
            ..CaptureOptions::default()
        };
        let plan = Capture::plan(&repository, device.path(), options, &Silent).expect("planned");
        let error = plan.run(&Silent).expect_err("aborted");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.to_string().contains(&cut.to_string()), "{error}");
        assert!(image_named(&repository, "aborted").is_none());
        assert_eq!(unsound(&repository), None);
    }
}

/// A job, and whether it went well though an operation failed.
type Job = fn(&Repository, &Path) -> Result<()>;

fn verify_job(repository: &Repository, _: &Path) -> Result<()> {
    let report = verify_all(repository, &Silent)?;
    let error = || imgx_engine::base::Error::new(ErrorKind::Corrupt, "damage");
    if report.damage > 0 { Err(error()) } else { Ok(()) }
}

fn restore_job(repository: &Repository, folder: &Path) -> Result<()> {
    let Some(image) = repository.images()?.images.pop() else {
        return Err(imgx_engine::base::Error::new(ErrorKind::NotFound, "image"));
    };
    let target = folder.join("target");
    let outcome = Restore::plan(repository, &image, &target, RestoreOptions::default())
        .and_then(|plan| plan.run(&Silent));
    let restored = fs::read(&target);
    let _absent = fs::remove_file(&target);
    if outcome?.damaged == 0 {
        assert!(restored.expect("read") == fs::read(folder.join("first")).expect("read"));
    }
    Ok(())
}

fn capture_job(repository: &Repository, folder: &Path) -> Result<()> {
    capture(repository, &folder.join("second"), "second", &Silent).map(|_| ())
}

#[test]
fn any_operation_on_the_repository_may_fail_and_costs_no_image() {
    let jobs: [(&str, Job); 3] =
        [("verify", verify_job), ("restore", restore_job), ("capture", capture_job)];
    let second = small_disk(28, 900 * KIB);
    let mut failures = 0;
    for (name, job) in jobs {
        for number in 0.. {
            let folder = folder_in_memory();
            let root = folder.path().join("repository");
            let block_size = BlockSize::new(16 * 1024).expect("valid");
            Repository::create(&root, block_size).expect("created");
            let plain = || Repository::open(&root).expect("opens").with_pack_size(256 << 10);
            let first = small_disk(27, 500 * KIB);
            captured(&plain(), &file(folder.path(), "first", &first), "first");
            file(folder.path(), "second", &second);
            // A killed capture's leftover, so that adoption may fail too.
            leave_unfinished_pack(&root);
            let storage = Arc::new(LocalStorage::open(&root).expect("opens"));
            let storage = FaultyStorage::new(storage);
            let repository = Repository::open_in(Arc::new(storage.clone())).expect("opens");
            let repository = repository.with_pack_size(256 << 10);
            storage.fail(number);
            let outcome = job(&repository, folder.path());
            let Some(failed) = storage.failed() else {
                outcome.expect("nothing failed");
                assert!(number > 5, "{name}: only {number} operations");
                break;
            };
            let case = format!("{name}, operation {number} failed: {failed}");
            failures += 1;
            if let Err(error) = &outcome {
                let object = failed.rsplit(' ').next().expect("named");
                let told = error.to_string().contains(object) || error.kind() != ErrorKind::Io;
                assert!(told, "{case}: {error}");
            } else {
                assert!(is_harmless(name, &failed), "{case}: nobody was told");
            }
            drop(repository);
            assert_intact(&plain(), &first, &case);
            capture_job(&plain(), folder.path()).unwrap_or_else(|error| panic!("{case}: {error}"));
            let image = image_named(&plain(), "second").expect("committed");
            assert_eq!(differs(&plain(), &image, &second), None, "{case}");
        }
    }
    assert!(failures > 60, "only {failures} operations");
}

/// Whether a job may end well though this failed, because it did not need it.
fn is_harmless(job: &str, failed: &str) -> bool {
    // A pack that cannot be read is not used for deduplication; a parent that cannot be read is
    // none; a dead lock's removal is only tidiness.
    let reading = failed.starts_with("read") || failed.starts_with("open");
    (job == "capture" && reading && !failed.contains("locks/"))
        || failed.starts_with("remove locks/")
}

fn leave_unfinished_pack(root: &Path) {
    let packs = root.join("packs");
    let entry = fs::read_dir(&packs).expect("listed").next().expect("one").expect("read");
    let bytes = fs::read(entry.path()).expect("read");
    let name = entry.file_name().to_str().expect("plain").replace(".pack", "");
    // Another id than the name's: it is no pack, and is removed.
    let other: String = name.chars().rev().collect();
    fs::write(packs.join(format!("{other}.partial")), &bytes).expect("written");
}
