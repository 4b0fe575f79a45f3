//! Every way in which a disk is held, by everyone who asks.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use imgx_engine::base::{BlockSize, Error, ErrorKind, Silent};
use imgx_engine::job::{Capture, CaptureOptions, Restore, RestoreOptions};
use imgx_engine::store::Repository;
use imgx_engine::sys::Holders;
use imgx_engine::track::Tracking;
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::tool;

use crate::cases::{self, Case, Stage, text};
use crate::support::{captured, file};

/// One at a time: they share the machine's loop devices and its swap.
static ALONE: Mutex<()> = Mutex::new(());

macro_rules! need {
    () => {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// Does `check` with each case.
fn with_each(check: impl Fn(&Case)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for make in cases::all() {
        if let Some(case) = make() {
            check(&case);
        }
    }
}

struct Stored {
    repository: Repository,
    _folder: tempfile::TempDir,
}

impl Stored {
    /// A repository with an image, `small`, that fits everywhere.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("repository");
        let repository = Repository::create(&path, BlockSize::DEFAULT).expect("a repository");
        let disk = file(folder.path(), "small", &[7; 1 << 20]);
        captured(&repository, &disk, "small");
        Self { repository, _folder: folder }
    }
}

/// The disk's first KiB: what is mounted never writes there, a restore always would.
fn head(case: &Case) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let mut disk = File::open(&case.disk).expect("opened");
    disk.read_exact(&mut bytes).expect("read");
    bytes
}

fn points(holders: &Holders) -> Vec<PathBuf> {
    holders.mounts().into_iter().map(|mount| mount.point).collect()
}

#[test]
fn what_holds_a_disk_is_found() {
    need!();
    with_each(|case| {
        let holders = Holders::of(&case.disk).expect("looked at");
        let told: Vec<String> = holders.iter().map(ToString::to_string).collect();
        let found = holders.iter().find(|holder| holder.to_string().contains(&case.holder));
        assert!(found.is_some(), "{}: no '{}' in {told:?}", case.name, case.holder);
        assert_eq!(points(&holders), case.frozen, "{}: {told:?}", case.name);
        let is_past = holders.iter().any(|holder| holder.is_past);
        assert_eq!(is_past, case.is_past, "{}: {told:?}", case.name);
    });
}

#[test]
fn restore_refuses_what_is_held_and_writes_nothing() {
    need!();
    let stored = Stored::new();
    let images = stored.repository.images().expect("listed");
    let image = images.resolve("small", &Silent).expect("there");
    with_each(|case| {
        let before = head(case);
        let options = RestoreOptions { overwrite: true, ..RestoreOptions::default() };
        let plan = Restore::plan(&stored.repository, image, &case.disk, options);
        let error = plan.err().unwrap_or_else(|| panic!("{}: was not refused", case.name));
        assert_eq!(error.kind(), ErrorKind::Conflict, "{}: {error}", case.name);
        let is_told = error.to_string().contains(&case.holder);
        assert!(is_told, "{}: no '{}' in {error}", case.name, case.holder);
        assert_eq!(head(case), before, "{}: something was written", case.name);
    });
}

#[test]
fn capture_sees_that_a_disk_is_in_use_and_what_to_freeze() {
    need!();
    let stored = Stored::new();
    with_each(|case| {
        let options = CaptureOptions { name: Some("held".to_owned()), ..CaptureOptions::default() };
        let plan = Capture::plan(&stored.repository, &case.disk, options, &Silent);
        let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let holders = plan.holders();
        let told: Vec<String> = holders.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|line| line.contains(&case.holder)), "{}: {told:?}", case.name);
        assert_eq!(points(holders), case.frozen, "{}: {told:?}", case.name);
    });
}

#[test]
fn track_refuses_what_is_written_past_the_disk_and_nothing_else() {
    need!();
    let tracking = Tracking::named(format!("imgx-test-holders-{}", std::process::id()));
    with_each(|case| {
        let started = tracking.start(&case.disk, None);
        if case.is_past {
            let error = started.expect_err(case.name);
            let is_refused = error.to_string().contains("cannot be tracked")
                || error.kind() == ErrorKind::Invalid && case.disk.is_file();
            assert!(is_refused, "{}: {error}", case.name);
            return;
        }
        match started {
            Err(error) if error.to_string().contains("cannot be tracked") => {
                panic!("{}: {error}", case.name);
            }
            Err(error) => println!("skipped: {error}"),
            Ok(is_new) => {
                assert!(is_new, "{}", case.name);
                assert!(tracking.stop(&case.disk).expect("stopped"), "{}", case.name);
            }
        }
    });
}

/// Creates a repository in `folder`, and has `disk` be captured into it.
fn captured_into(folder: &Path, disk: &Path) -> Result<(), Error> {
    let repository = Repository::create(&folder.join("repository"), BlockSize::DEFAULT);
    let repository = repository.expect("a repository");
    let options = CaptureOptions { name: Some("held".to_owned()), ..CaptureOptions::default() };
    Capture::plan(&repository, disk, options, &Silent).map(|_planned| ())
}

fn is_refused(outcome: Result<(), Error>, name: &str) {
    let error = outcome.expect_err(name);
    assert_eq!(error.kind(), ErrorKind::Conflict, "{name}: {error}");
    assert!(error.to_string().contains("lies on"), "{name}: {error}");
}

#[test]
fn capture_refuses_a_repository_in_a_filesystem_that_holds_the_disk() {
    need!();
    with_each(|case| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        captured_into(folder.path(), &case.disk).expect("it lies beside the disk");
        for mount in Holders::of(&case.disk).expect("looked at").mounts() {
            is_refused(captured_into(&mount.path(), &case.disk), case.name);
        }
    });
}

#[test]
fn capture_refuses_a_repository_that_reaches_the_disk_through_another_filesystem() {
    need!();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    let other = stage.attach(&stage.file("other"), 0, None);
    let point = stage.mount_ext4(&disk);
    // In a file within, attached twice over.
    let inner = point.join("inner");
    File::create(&inner).and_then(|file| file.set_len(64 << 20)).expect("made");
    let inner = stage.attach(&inner, 0, None);
    let inner = stage.attach(&inner, 1 << 20, None);
    Stage::format(&inner);
    let within = stage.mount(&[text(&inner)], "within");
    is_refused(captured_into(&within, &disk), "file within");
    captured_into(&point, &inner).expect("what it lies in is not what it holds");
    captured_into(&within.join("beside"), &other).expect("another disk");
    // What an overlay writes to, and what lies below only.
    let folders = ["upper one", "work"].map(|name| point.join(name));
    folders.iter().for_each(|folder| std::fs::create_dir(folder).expect("made"));
    let lower = stage.folder("lower");
    let [upper, work] = folders.each_ref().map(|folder| text(folder));
    let options = format!("lowerdir={},upperdir={upper},workdir={work}", text(&lower));
    if tool::run("modprobe", &["overlay"]).is_err() && !has_overlay() {
        println!("skipped: no overlay");
        return;
    }
    let merged = stage.mount(&["-t", "overlay", "-o", &options, "overlay"], "merged");
    is_refused(captured_into(&merged, &disk), "overlay");
    captured_into(&merged.join("beside"), &other).expect("another disk");
}

fn has_overlay() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.ends_with("\toverlay"))
}

/// Stretches that do not overlap, and what nobody uses, are nobody's.
#[test]
fn what_does_not_overlap_is_free() {
    need!();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stage = Stage::new();
    let file = stage.file("disk");
    let whole = stage.attach(&file, 0, None);
    for (number, start) in [("1", "2048"), ("2", "135168")] {
        tool::run("addpart", &[text(&whole), number, start, "126976"]).expect("added");
    }
    let partition = |number: u32| PathBuf::from(format!("{}p{number}", whole.display()));
    let point = stage.mount_ext4(&partition(2));
    let before = stage.attach(&whole, 1 << 20, Some(32 << 20));
    let told = |path: &PathBuf| {
        let holders = Holders::of(path).expect("looked at");
        holders.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let attached = format!("{} is attached as {}", whole.display(), before.display());
    let mounted = format!("{} is mounted on {}", partition(2).display(), point.display());
    assert_eq!(told(&before), Vec::<String>::new());
    assert_eq!(told(&partition(1)).join(""), attached);
    assert_eq!(told(&partition(2)).join(""), mounted);
    assert_eq!(told(&whole), [mounted, attached]);
    // A loop device that refuses writes writes past nothing.
    let read_only = Options { read_only: true, ..Options::default() };
    let read_only = LoopDevice::attach_with(&file, read_only).expect("attached");
    let holders = Holders::of(&before).expect("looked at");
    let shown: Vec<_> = holders.iter().map(|holder| (holder.to_string(), holder.is_past)).collect();
    let expected = format!("{} is attached as {}", file.display(), read_only.path().display());
    assert_eq!(shown, [(expected, false)]);
    let range = holders.iter().next().and_then(|holder| holder.range).expect("known");
    assert_eq!((range.start, range.end), (0, 32 << 20));
}
