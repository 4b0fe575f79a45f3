//! Captures of mounted disks under load: the image is the disk at one instant, its filesystems
//! are clean, and whatever was synced before is there.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use imgx_engine::base::{BlockSize, ByteRange, Silent};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, LiveOptions, Restore, RestoreOptions,
};
use imgx_engine::store::Repository;
use imgx_engine::store::manifest::Moment;
use imgx_engine::sys::Holders;
use imgx_engine::sys::freeze::Freezer;
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};
use support::{MIB, Mounted, Warnings, is_long};

/// One at a time: they share the machine's tracker and its disk.
static ALONE: Mutex<()> = Mutex::new(());

macro_rules! need {
    ($($tool:literal),*) => {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
        for tool in [$($tool),*] {
            if !tool::have(tool) {
                println!("skipped: no {tool}");
                return;
            }
        }
    };
}

const MKE2FS: [&str; 7] = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard"];

struct Stage {
    // In the order in which they have to go.
    mounted: Option<Mounted>,
    device: LoopDevice,
    folder: tempfile::TempDir,
    repository: Repository,
    /// What the last capture warned of.
    warnings: Mutex<Vec<String>>,
}

impl Stage {
    fn new(size: usize, maker: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk");
        // Free space is no hole: what is left out is left out because nothing uses it.
        fs::write(&disk, incompressible(5, size)).expect("written");
        let device = LoopDevice::attach(&disk).expect("attached");
        let node = device.path().to_str().expect("plain").to_owned();
        tool::run(maker[0], &[&maker[1..], &[node.as_str()]].concat()).expect("made");
        let point = folder.path().join("mounted");
        fs::create_dir(&point).expect("made");
        let mounted = Mounted::new(&["-o", "nodiscard", &node], &point);
        let repository = folder.path().join("repository");
        let repository = Repository::create(&repository, BlockSize::DEFAULT).expect("a repository");
        let warnings = Mutex::default();
        Self { mounted: Some(mounted), device, folder, repository, warnings }
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn capture(&self, live: LiveOptions) -> imgx_engine::base::Result<CaptureReport> {
        self.capture_without(live, Vec::new())
    }

    /// Captures it, guessing besides what is really free that `unused` is.
    fn capture_without(
        &self,
        live: LiveOptions,
        unused: Vec<ByteRange>,
    ) -> imgx_engine::base::Result<CaptureReport> {
        self.capture_with(live, unused, false)
    }

    fn capture_with(
        &self,
        live: LiveOptions,
        unused: Vec<ByteRange>,
        skip_swap: bool,
    ) -> imgx_engine::base::Result<CaptureReport> {
        let options = CaptureOptions {
            skip_swap,
            name: Some("disk".to_owned()),
            live: Some(live),
            audit: Some(1 << 20),
            ..CaptureOptions::default()
        };
        let listener = Warnings::default();
        let plan = Capture::plan(&self.repository, self.device.path(), options, &listener)?;
        let report = plan.leaving_out(unused).run(&listener)?;
        *self.warnings.lock().expect("no panic") = listener.0.into_inner().expect("no panic");
        Ok(report)
    }

    fn restored(&self, report: &CaptureReport) -> PathBuf {
        let target = self.folder.path().join("restored");
        let _earlier = fs::remove_file(&target);
        let image = self.repository.image(report.id).expect("committed");
        let restore = Restore::plan(&self.repository, &image, &target, RestoreOptions::default());
        restore.expect("planned").run(&Silent).expect("restored");
        target
    }
}

/// Files of the writer that are there at a time: more than it makes while one capture lasts.
const KEPT: u64 = 800;

/// After so many files, it preallocates one anew.
const PREALLOCATED: u64 = 25;

/// Writes and syncs numbered files until it is stopped, and says up to which they are safe.
fn churn(point: &Path, stop: &AtomicBool, synced: &AtomicU64) {
    let noise = incompressible(3, MIB);
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let path = point.join(format!("file {number}"));
        let mut file = File::create(&path).expect("created");
        file.write_all(&number.to_string().into_bytes()).expect("written");
        let length = usize::try_from(number * 7919 % 400_000).expect("small");
        file.write_all(&noise[..length]).expect("written");
        file.sync_all().expect("synced");
        if number % PREALLOCATED == 0 {
            // Blocks that come into use and are never written.
            let path = point.join("preallocated");
            let _earlier = fs::remove_file(&path);
            let path = path.to_str().expect("plain");
            tool::run("fallocate", &["--length", "3MiB", path]).expect("preallocated");
        }
        synced.store(number, Ordering::Release);
        if number > KEPT {
            fs::remove_file(point.join(format!("file {}", number - KEPT))).expect("removed");
        }
        thread::sleep(Duration::from_millis(3));
    }
}

/// Most of what nothing uses is left out.
fn assert_used_blocks_only(report: &CaptureReport) {
    let allocation = &report.manifest.allocation;
    let [volume] = allocation.as_slice() else { panic!("{allocation:?}") };
    assert_eq!(volume.doubt, None, "{allocation:?}");
    assert!(volume.unallocated > 100 * MIB as u64, "{volume:?}");
}

/// Ends the writer, also when a check fails.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn instant(report: &CaptureReport) -> &Moment {
    let moment = report.manifest.live.as_ref().expect("it was in use");
    assert_eq!(moment.doubt, None, "{moment:?}");
    assert!(!moment.rounds.is_empty() && moment.frozen_milliseconds < 2000, "{moment:?}");
    moment
}

/// Captures under load, and has `check` judge the restored filesystem before it was ever mounted.
fn under_load(maker: &[&str], check: &dyn Fn(&str)) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut stage = Stage::new(400 * MIB, maker);
    let (stop, synced) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut frozen, rounds) = (Vec::new(), if is_long() { 20 } else { 3 });
    thread::scope(|scope| {
        let point = stage.point();
        let (stop, synced) = (&stop, &synced);
        let writer = scope.spawn(move || churn(&point, stop, synced));
        let stopped = Stopped(stop);
        for _ in 0..rounds {
            while synced.load(Ordering::Acquire) < 60 && !writer.is_finished() {
                thread::sleep(Duration::from_millis(10));
            }
            let before = synced.load(Ordering::Acquire);
            let report = stage.capture(LiveOptions::default()).expect("captured");
            let moment = instant(&report);
            assert_used_blocks_only(&report);
            assert_eq!(*stage.warnings.lock().expect("no panic"), Vec::<String>::new());
            frozen.push(moment.frozen_milliseconds);
            println!("{}: {moment:?}", maker[0]);
            let target = stage.restored(&report);
            let target = target.to_str().expect("plain");
            check(target);
            let compared = stage.folder.path().join("compared");
            fs::create_dir_all(&compared).expect("made");
            let mut options =
                vec!["-o", if maker[0] == "mkfs.xfs" { "loop,nouuid" } else { "loop" }];
            options.push(target);
            // btrfs knows one filesystem of an id at a time.
            if maker[0] == "mkfs.btrfs" {
                tool::run("btrfstune", &["-f", "-u", target]).expect("another id");
            }
            let mounted = Mounted::new(&options, &compared);
            for number in before.saturating_sub(20)..=before {
                let held =
                    fs::read(compared.join(format!("file {number}"))).expect("it was synced");
                assert!(held.starts_with(number.to_string().as_bytes()), "file {number}");
            }
            drop(mounted);
        }
        drop(stopped);
        writer.join().expect("it wrote");
    });
    frozen.sort_unstable();
    println!("{}: frozen for {frozen:?} ms", maker[0]);
    stage.mounted = None;
    assert!(
        imgx_engine::track::Tracking::default().open(stage.device.path()).expect("asked").is_none()
    );
}

#[test]
fn ext4_under_load_is_clean_at_one_instant() {
    need!("mke2fs", "e2fsck");
    under_load(&MKE2FS, &|image| {
        tool::run("e2fsck", &["-f", "-n", image]).expect("clean without replay");
    });
}

#[test]
fn xfs_under_load_is_clean_once_its_log_is_replayed() {
    need!("mkfs.xfs", "xfs_repair");
    under_load(&["mkfs.xfs", "-q", "-f", "-K"], &|image| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copy = folder.path().join("copy");
        fs::copy(image, &copy).expect("copied");
        let copy = copy.to_str().expect("plain");
        let point = folder.path().join("point");
        fs::create_dir(&point).expect("made");
        drop(Mounted::new(&["-o", "loop,nouuid", copy], &point));
        tool::run("xfs_repair", &["-n", copy]).expect("clean after one mount");
    });
}

#[test]
fn btrfs_under_load_is_clean_at_one_instant() {
    need!("mkfs.btrfs", "btrfs", "btrfstune");
    under_load(&["mkfs.btrfs", "-q", "-f", "-K"], &|image| {
        tool::run("btrfs", &["check", image]).expect("clean");
    });
}

/// Partitions of one disk that are mounted, and detached again.
struct Partitions {
    mounted: Vec<Mounted>,
    device: LoopDevice,
}

impl Drop for Partitions {
    fn drop(&mut self) {
        self.mounted.clear();
    }
}

/// Where the partitions of the next test begin and end, in MiB.
const TWO: [(usize, usize); 2] = [(1, 160), (161, 360)];
const TWO_MAKERS: [&[&str]; 2] = [&MKE2FS, &["mkfs.xfs", "-q", "-f", "-K", "--unsupported"]];

#[test]
fn several_filesystems_of_one_disk_are_frozen_at_one_instant() {
    need!("mke2fs", "mkfs.xfs", "sfdisk", "partx", "e2fsck", "xfs_repair");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk");
    fs::write(&disk, incompressible(8, 361 * MIB)).expect("written");
    let line =
        |(start, end): (usize, usize)| format!("start={start}MiB, size={}MiB\n", end - start);
    mkfs::sfdisk(&disk, &format!("label: gpt\n{}{}", line(TWO[0]), line(TWO[1]))).expect("made");
    let mut disk =
        Partitions { device: LoopDevice::attach(&disk).expect("attached"), mounted: Vec::new() };
    disk.device.add_partitions().expect("added");
    let points = [folder.path().join("one"), folder.path().join("other")];
    for ((number, maker), point) in (1..).zip(TWO_MAKERS).zip(&points) {
        let part = disk.device.partition(number).to_str().expect("plain").to_owned();
        tool::run(maker[0], &[&maker[1..], &[part.as_str()]].concat()).expect("made");
        fs::create_dir(point).expect("made");
        disk.mounted.push(Mounted::new(&[&part], point));
    }
    let repository = Repository::create(&folder.path().join("repository"), BlockSize::DEFAULT);
    let repository = repository.expect("a repository");
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let report = thread::scope(|scope| {
        // Each file is safe in one filesystem before it is begun in the other.
        let write = || {
            for number in 1_u64.. {
                for point in &points {
                    let path = point.join(format!("file {number}"));
                    fs::write(&path, incompressible(number, 20_000)).expect("written");
                    File::open(path).and_then(|file| file.sync_all()).expect("synced");
                }
                written.store(number, Ordering::Release);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        scope.spawn(write);
        let _stopped = Stopped(&stop);
        while written.load(Ordering::Acquire) < 20 {
            thread::sleep(Duration::from_millis(10));
        }
        let live = Some(LiveOptions::default());
        let options = CaptureOptions { live, ..CaptureOptions::default() };
        let plan = Capture::plan(&repository, disk.device.path(), options, &Silent);
        plan.expect("planned").run(&Silent).expect("captured")
    });
    drop(disk);
    let moment = instant(&report);
    println!("{moment:?}");
    assert_eq!(moment.filesystems.len(), 2, "{moment:?}");
    let doubts = report.manifest.allocation.iter().filter_map(|volume| volume.doubt.as_ref());
    assert_eq!(doubts.collect::<Vec<_>>(), Vec::<&String>::new());
    let target = folder.path().join("restored");
    let image = repository.image(report.id).expect("committed");
    let restore = Restore::plan(&repository, &image, &target, RestoreOptions::default());
    restore.expect("planned").run(&Silent).expect("restored");
    let last = [0, 1].map(|number| {
        let (start, end) = TWO[number];
        let (offset, size_limit) = ((start * MIB) as u64, Some(((end - start) * MIB) as u64));
        let options = Options { offset, size_limit, ..Options::default() };
        let part = LoopDevice::attach_with(&target, options).expect("attached");
        let part = part.path().to_str().expect("plain");
        if number == 0 {
            tool::run("e2fsck", &["-f", "-n", part]).expect("clean without replay");
        }
        // Whoever copied the mounts meanwhile, as `unshare` does, still has the original's id.
        let options: &[&str] = if number == 1 { &["-o", "nouuid", part] } else { &[part] };
        let mounted = Mounted::new(options, &points[number]);
        let is_there = |file: &u64| points[number].join(format!("file {file}")).exists();
        let last = (1..).take_while(is_there).last().expect("some");
        // The last one may be begun and no more.
        for file in 1..last {
            let held = fs::read(points[number].join(format!("file {file}"))).expect("read");
            assert!(held == incompressible(file, 20_000), "file {file}");
        }
        drop(mounted);
        if number == 1 {
            tool::run("xfs_repair", &["-n", part]).expect("clean after one mount");
        }
        last
    });
    let [one, other] = last;
    assert!(one == other || one == other + 1, "{one} in one, {other} in the other");
    assert!(other >= 20, "{other}");
}

#[test]
fn what_was_taken_for_free_and_is_in_use_when_frozen_is_read() {
    need!("mke2fs");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut stage = Stage::new(64 * MIB, &MKE2FS);
    let noise = incompressible(4, 9 * MIB);
    fs::write(stage.point().join("file"), &noise).expect("written");
    let wrong = ByteRange { start: MIB as u64, end: 60 * MIB as u64 };
    let report = stage.capture_without(LiveOptions::default(), vec![wrong]).expect("captured");
    instant(&report);
    let [volume] = report.manifest.allocation.as_slice() else { panic!("{report:?}") };
    assert!(volume.doubt.is_none() && volume.unallocated > 30 * MIB as u64, "{volume:?}");
    stage.mounted = None;
    let point = stage.point();
    let target = stage.restored(&report);
    let _mounted = Mounted::new(&["-o", "loop,ro", target.to_str().expect("plain")], &point);
    assert!(fs::read(point.join("file")).expect("it is there") == noise);
}

#[test]
fn a_damaged_filesystem_that_is_mounted_is_read_whole_and_is_one_instant_if_nothing_wrote() {
    need!("mke2fs", "debugfs");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut stage = Stage::new(64 * MIB, &MKE2FS);
    for number in 0..9 {
        let content = incompressible(number, MIB);
        fs::write(stage.point().join(format!("file {number}")), content).expect("written");
    }
    stage.mounted = None;
    // The kernel does not mind as long as nobody asks for the file.
    let node = stage.device.path().to_str().expect("plain").to_owned();
    let request = "sif \"file 5\" mode 0170644";
    tool::run("debugfs", &["-w", "-R", request, &node]).expect("debugfs runs");
    stage.mounted = Some(Mounted::new(&["-o", "nodiscard", &node], &stage.point()));
    let report = stage.capture(LiveOptions::default()).expect("captured");
    instant(&report);
    let [volume] = report.manifest.allocation.as_slice() else { panic!("{report:?}") };
    assert!(volume.doubt.is_some() && volume.unallocated == 0, "{volume:?}");
    assert_eq!(report.manifest.cost.unallocated, 0, "{:?}", report.manifest.cost);
    let warnings = std::mem::take(&mut *stage.warnings.lock().expect("no panic"));
    assert!(warnings.iter().any(|line| line.contains("all of it is read")), "{warnings:?}");
    let disk = fs::read(stage.folder.path().join("disk")).expect("read");
    let restored = fs::read(stage.restored(&report)).expect("read");
    // What the kernel writes when it mounts, freezes and thaws lies in front: the superblock.
    let differing = restored.chunks(4096).zip(disk.chunks(4096)).filter(|(a, b)| a != b).count();
    assert!(differing < 16, "{differing} blocks differ: all that was free is there");
}

#[test]
fn swap_that_is_written_meanwhile_is_copied_in_no_round() {
    need!("mke2fs", "mkswap", "e2fsck");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut stage = Stage::new(96 * MIB, &MKE2FS);
    fs::create_dir(stage.point().join("etc")).expect("made");
    fs::write(stage.point().join("etc/fstab"), "/swapfile none swap sw\n").expect("written");
    let swap = stage.point().join("swapfile");
    let noise = incompressible(4, 24 * MIB);
    fs::write(&swap, &noise).expect("written");
    tool::run("chmod", &["600", swap.to_str().expect("plain")]).expect("changed");
    tool::run("mkswap", &[swap.to_str().expect("plain")]).expect("made");
    let stop = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        let _stopped = Stopped(&stop);
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(&swap).expect("opened");
            // Its header stays, and all else is written over and over.
            for round in (0..10).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                file.write_all_at(&noise[round * MIB..][..12 * MIB], MIB as u64).expect("written");
                file.sync_data().expect("synced");
            }
        });
        stage.capture_with(LiveOptions::default(), Vec::new(), true).expect("captured")
    });
    let moment = instant(&report);
    let copied: u64 = moment.rounds.iter().sum();
    assert!(copied < 4 * MIB as u64, "{moment:?}");
    let [volume] = report.manifest.allocation.as_slice() else { panic!("{report:?}") };
    let [file] = volume.skipped.as_slice() else { panic!("{volume:?}") };
    assert!(file.path == "/swapfile" && file.bytes > 22 * MIB as u64, "{file:?}");
    stage.mounted = None;
    let point = stage.point();
    let target = stage.restored(&report);
    tool::run("e2fsck", &["-f", "-y", target.to_str().expect("plain")]).expect("it is sound");
    let _mounted = Mounted::new(&["-o", "loop,ro", target.to_str().expect("plain")], &point);
    let back = fs::read(point.join("swapfile")).expect("it is there");
    assert!(back.len() == noise.len() && back[..4096].ends_with(b"SWAPSPACE2"));
    assert!(back[MIB..13 * MIB].iter().all(|byte| *byte == 0));
}

#[test]
fn hooks_run_around_the_freeze_and_a_failing_one_fails_the_capture() {
    need!("mke2fs");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stage = Stage::new(64 * MIB, &MKE2FS);
    let flushed = stage.point().join("flushed");
    let after = stage.folder.path().join("after");
    let options = LiveOptions {
        hook_pre: Some(format!("echo yes > '{}'", flushed.display())),
        hook_post: Some(format!("touch '{}'", after.display())),
        ..LiveOptions::default()
    };
    let report = stage.capture(options).expect("captured");
    instant(&report);
    assert!(after.exists());
    let found = fs::read(stage.restored(&report)).expect("read");
    assert!(found.windows(4).any(|bytes| bytes == b"yes\n"), "what the hook flushed is there");

    let failing = LiveOptions { hook_pre: Some("exit 3".to_owned()), ..LiveOptions::default() };
    let error = stage.capture(failing).expect_err("the hook failed");
    assert!(error.to_string().contains("exit 3"), "{error}");
    assert_eq!(stage.repository.images().expect("listed").images.len(), 1);
}

#[test]
fn what_is_too_much_to_hold_is_followed_by_rounds_before_the_next_freeze() {
    need!("mke2fs", "e2fsck");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stage = Stage::new(600 * MIB, &["mke2fs", "-q", "-t", "ext4"]);
    let written = 300 * 1024 * 1024;
    let much = stage.point().join("much");
    let hook = format!("head -c {written} /dev/zero > '{}'", much.display());
    let options = LiveOptions { hook_pre: Some(hook), ..LiveOptions::default() };
    let report = stage.capture(options).expect("captured");
    let rounds = &instant(&report).rounds;
    let at = rounds.iter().position(|bytes| *bytes >= written);
    let at = at.expect("the hook's file was too much");
    assert!(rounds.len() >= at + 3, "a round and another freeze follow: {rounds:?}");
    let target = stage.restored(&report);
    tool::run("e2fsck", &["-f", "-n", target.to_str().expect("plain")]).expect("clean");
}

#[test]
fn a_freeze_by_somebody_else_is_left_alone_and_told() {
    need!("mke2fs", "fsfreeze");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stage = Stage::new(64 * MIB, &MKE2FS);
    let point = stage.point();
    let point = point.to_str().expect("plain");
    tool::run("fsfreeze", &["--freeze", point]).expect("frozen");
    let report = stage.capture(LiveOptions::default());
    let thawed = tool::run("fsfreeze", &["--unfreeze", point]);
    thawed.expect("it was still frozen");
    let moment = report.expect("captured").manifest.live.expect("it was in use");
    let [filesystem] = moment.filesystems.as_slice() else { panic!("{moment:?}") };
    let why = filesystem.not_frozen.as_deref().expect("it was not imgx that froze it");
    assert!(why.contains("somebody else"), "{why}");
    // What nobody can write to is at one instant.
    assert_eq!(moment.doubt, None);
}

/// Freezes what is mounted from the device in `IMGX_FREEZE` until it is killed.
#[test]
#[ignore = "a process of the next test's"]
fn freezes_until_it_is_killed() {
    let Some(device) = std::env::var_os("IMGX_FREEZE") else { return };
    let mounts = Holders::of(Path::new(&device)).expect("listed").mounts();
    let freezer = Freezer::open(&mounts).expect("opened");
    let _frozen = freezer.freeze(Duration::from_secs(30)).expect("frozen");
    println!("it is frozen");
    thread::sleep(Duration::from_secs(30));
}

/// Has another process freeze the device's filesystem, and kills it.
fn freeze_and_kill(device: &Path) {
    let itself = std::env::current_exe().expect("known");
    let mut process = Command::new(itself)
        .args(["--ignored", "--exact", "--nocapture", "freezes_until_it_is_killed"])
        .env("IMGX_FREEZE", device)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let told = BufReader::new(process.stdout.take().expect("piped"));
    let mut lines = told.lines().map_while(std::result::Result::ok);
    assert!(lines.any(|line| line.contains("it is frozen")), "it never froze");
    process.kill().expect("killed");
    process.wait().expect("ended");
}

#[test]
fn what_is_frozen_is_thawed_when_the_time_is_over_or_the_process_is_killed() {
    need!("mke2fs");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stage = Stage::new(64 * MIB, &MKE2FS);
    let mounts = Holders::of(stage.device.path()).expect("listed").mounts();
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    let write = || {
        let clock = Instant::now();
        let path = stage.point().join("file");
        let file = OpenOptions::new().create(true).append(true).open(path).expect("opened");
        (&file).write_all(b"more").expect("written");
        file.sync_all().expect("synced");
        clock.elapsed()
    };
    let freezer = Freezer::open(&mounts).expect("opened");
    let frozen = freezer.freeze(Duration::from_millis(500)).expect("frozen");
    let waited = write();
    assert!(waited > Duration::from_millis(300) && waited < Duration::from_secs(5), "{waited:?}");
    assert!(!frozen.thaw(), "the watchdog thawed it");
    let frozen = freezer.freeze(Duration::from_secs(60)).expect("frozen");
    assert!(frozen.thaw());
    write();
    freeze_and_kill(stage.device.path());
    let waited = write();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}
