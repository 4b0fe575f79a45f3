//! Captures of mounted disks under load: the image is the disk at one instant, its filesystems
//! are clean, and whatever was synced before is there.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use imgx_engine::base::{BlockSize, Event, Observer, Silent};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, LiveOptions, Restore, RestoreOptions,
};
use imgx_engine::store::Repository;
use imgx_engine::store::manifest::Moment;
use imgx_engine::sys::freeze::Freezer;
use imgx_engine::sys::mounts::mounted_from;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;
use support::{MIB, Mounted, is_long};

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

struct Stage {
    // In the order in which they have to go.
    mounted: Option<Mounted>,
    device: LoopDevice,
    folder: tempfile::TempDir,
    repository: Repository,
    /// What the last capture warned of.
    warnings: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { message } = event {
            self.0.lock().expect("no panic").push((*message).to_owned());
        }
    }
}

impl Stage {
    fn new(size: usize, maker: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk");
        let file = File::create(&disk).expect("created");
        file.set_len(size as u64).expect("sized");
        let device = LoopDevice::attach(&disk).expect("attached");
        let node = device.path().to_str().expect("plain").to_owned();
        tool::run(maker[0], &[&maker[1..], &[node.as_str()]].concat()).expect("made");
        let point = folder.path().join("mounted");
        fs::create_dir(&point).expect("made");
        let mounted = Mounted::new(&[&node], &point);
        let repository = folder.path().join("repository");
        let repository = Repository::create(&repository, BlockSize::DEFAULT).expect("a repository");
        let warnings = Mutex::default();
        Self { mounted: Some(mounted), device, folder, repository, warnings }
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn capture(&self, live: LiveOptions) -> imgx_engine::base::Result<CaptureReport> {
        let options = CaptureOptions {
            name: Some("disk".to_owned()),
            live: Some(live),
            audit: Some(1 << 20),
            ..CaptureOptions::default()
        };
        let listener = Warnings::default();
        let report = Capture::plan(&self.repository, self.device.path(), options, &listener)?
            .run(&listener)?;
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
        synced.store(number, Ordering::Release);
        if number > KEPT {
            fs::remove_file(point.join(format!("file {}", number - KEPT))).expect("removed");
        }
        thread::sleep(Duration::from_millis(3));
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
        for _ in 0..rounds {
            while synced.load(Ordering::Acquire) < 60 && !writer.is_finished() {
                thread::sleep(Duration::from_millis(10));
            }
            let before = synced.load(Ordering::Acquire);
            let report = stage.capture(LiveOptions::default()).expect("captured");
            let moment = instant(&report);
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
        stop.store(true, Ordering::Relaxed);
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
    under_load(&["mke2fs", "-q", "-t", "ext4"], &|image| {
        tool::run("e2fsck", &["-f", "-n", image]).expect("clean without replay");
    });
}

#[test]
fn xfs_under_load_is_clean_once_its_log_is_replayed() {
    need!("mkfs.xfs", "xfs_repair");
    under_load(&["mkfs.xfs", "-q"], &|image| {
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
    under_load(&["mkfs.btrfs", "-q"], &|image| {
        tool::run("btrfs", &["check", image]).expect("clean");
    });
}

#[test]
fn hooks_run_around_the_freeze_and_a_failing_one_fails_the_capture() {
    need!("mke2fs");
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stage = Stage::new(64 * MIB, &["mke2fs", "-q", "-t", "ext4"]);
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
    let stage = Stage::new(64 * MIB, &["mke2fs", "-q", "-t", "ext4"]);
    let point = stage.point();
    let point = point.to_str().expect("plain");
    tool::run("fsfreeze", &["--freeze", point]).expect("frozen");
    let report = stage.capture(LiveOptions::default());
    let thawed = tool::run("fsfreeze", &["--unfreeze", point]);
    thawed.expect("it was still frozen");
    let moment = report.expect("captured").manifest.live.expect("it was in use");
    assert!(moment.doubt.is_some_and(|doubt| doubt.contains("somebody else")));
}

/// Freezes what is mounted from the device in `IMGX_FREEZE` until it is killed.
#[test]
#[ignore = "a process of the next test's"]
fn freezes_until_it_is_killed() {
    let Some(device) = std::env::var_os("IMGX_FREEZE") else { return };
    let mounts = mounted_from(Path::new(&device)).expect("listed");
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
    let stage = Stage::new(64 * MIB, &["mke2fs", "-q", "-t", "ext4"]);
    let mounts = mounted_from(stage.device.path()).expect("listed");
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
