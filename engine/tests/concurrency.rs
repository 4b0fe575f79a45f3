//! Several jobs on one repository at once, and jobs that are killed: every committed image stays
//! sound, dead owners' locks are recognised, and what was stored is used again.

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use imgx_engine::base::{BlockSize, ErrorKind};
use imgx_engine::store::{LocalStorage, LockKind, Repository};
use imgx_fixtures::pattern::{Random, incompressible};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use faulty::FaultyStorage;
use support::{MIB, captured, differs, file, image_named, is_long, unsound};

/// Where the child process finds its repository and disk.
const CHILD: &str = "IMGX_TEST_CHILD";

/// Bytes of a pack.
const PACK: u64 = 3 << 20;

/// Where a capture ends that is a process of its own: at an event, so that no machine is too slow
/// or too fast for it. It sends the signal to itself.
#[derive(Clone, Copy)]
enum End {
    /// When it is through.
    Whole,
    /// Killed when it asks for this operation of its storage, or in the midst of it.
    Operation(u64),
    /// Killed this many operations after its manifest was begun.
    Publishing(u64),
    /// Killed when this many bytes of packs are there.
    Stored(u64),
    /// Stopped when its lock is there.
    Locked,
}

impl End {
    fn parse(word: &str) -> Self {
        let (kind, number) = word.split_once(' ').expect("two words");
        let number = number.parse().expect("a number");
        match kind {
            "operation" => Self::Operation(number),
            "publishing" => Self::Publishing(number),
            "stored" => Self::Stored(number),
            "locked" => Self::Locked,
            _ => Self::Whole,
        }
    }

    fn word(self) -> String {
        match self {
            Self::Whole => "whole 0".to_owned(),
            Self::Operation(number) => format!("operation {number}"),
            Self::Publishing(number) => format!("publishing {number}"),
            Self::Stored(bytes) => format!("stored {bytes}"),
            Self::Locked => "locked 0".to_owned(),
        }
    }
}

/// What decides in a child process when its end is there.
struct Watch {
    root: PathBuf,
    end: End,
    /// What was in the images' folder before.
    images: Vec<OsString>,
    /// Operations so far.
    count: AtomicU64,
    /// Operations since its manifest was begun.
    publishing: AtomicU64,
}

impl Watch {
    fn new(root: PathBuf, end: End) -> Self {
        let images = names(&root, "images");
        Self { root, end, images, count: AtomicU64::new(0), publishing: AtomicU64::new(0) }
    }

    /// The signal that is due before the next operation.
    fn signal(&self) -> Option<Signal> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let root = &self.root;
        match self.end {
            End::Whole => None,
            End::Operation(last) => (number == last).then_some(Signal::SIGKILL),
            End::Publishing(last) => {
                let is_begun = self.publishing.load(Ordering::Relaxed) > 0
                    || names(root, "images").iter().any(|name| !self.images.contains(name));
                let number = is_begun.then(|| self.publishing.fetch_add(1, Ordering::Relaxed));
                (number == Some(last)).then_some(Signal::SIGKILL)
            }
            End::Stored(bytes) => (stored(root) >= bytes).then_some(Signal::SIGKILL),
            End::Locked => (locks(root) > 0).then_some(Signal::SIGSTOP),
        }
    }
}

fn names(root: &Path, folder: &str) -> Vec<OsString> {
    let entries = fs::read_dir(root.join("repository").join(folder)).expect("listed").flatten();
    entries.map(|entry| entry.file_name()).collect()
}

fn stored(root: &Path) -> u64 {
    let entries = fs::read_dir(root.join("repository/packs")).expect("listed").flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

fn locks(root: &Path) -> usize {
    names(root, "locks").iter().filter(|name| Path::new(name).extension().is_none()).count()
}

/// Where a capture that comes to its end says how many operations that took.
fn count_file(root: &Path) -> PathBuf {
    root.join("operations")
}

fn open(root: &Path) -> Repository {
    let repository = Repository::open(&root.join("repository")).expect("opens");
    repository.with_pack_size(PACK)
}

fn create(root: &Path) {
    Repository::create(&root.join("repository"), BlockSize::DEFAULT).expect("created");
}

/// What this test binary does when it is started again by itself.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn child_captures() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let root = PathBuf::from(root);
    let name = std::env::var("IMGX_TEST_DISK").expect("set by the parent");
    let end = End::parse(&std::env::var("IMGX_TEST_END").expect("set by the parent"));
    let watch = Arc::new(Watch::new(root.clone(), end));
    let watched = Arc::clone(&watch);
    let look_on = move || {
        if let Some(signal) = watched.signal() {
            kill(Pid::this(), signal).expect("sent");
        }
    };
    let storage = LocalStorage::open(&root.join("repository")).expect("opens");
    let storage = FaultyStorage::new(Arc::new(storage)).watched_by(look_on);
    let repository = Repository::open_in(Arc::new(storage)).expect("opens").with_pack_size(PACK);
    captured(&repository, &root.join(&name), &name);
    let count = watch.count.load(Ordering::Relaxed).to_string();
    fs::write(count_file(&root), count).expect("written");
}

fn start_capture(root: &Path, disk: &str, end: End) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "child_captures"])
        .env(CHILD, root)
        .env("IMGX_TEST_DISK", disk)
        .env("IMGX_TEST_END", end.word())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

/// Runs a capture to its end; whether that was its own, and not that of a signal.
fn run_capture(root: &Path, disk: &str, end: End) -> bool {
    let status = start_capture(root, disk, end).wait().expect("ran");
    assert!(status.success() || status.code().is_none(), "the capture failed: {status}");
    status.success()
}

/// Operations of the last capture that came to its end.
fn operations(root: &Path) -> u64 {
    let count = fs::read_to_string(count_file(root)).expect("a capture was whole");
    count.parse().expect("a number")
}

/// Writes a change of 4 MiB to a disk of 12, somewhere.
fn change(disk: &Path, content: &mut [u8], number: u64, random: &mut Random) {
    let change = incompressible(1000 + number, 4 * MIB);
    let place = usize::try_from(random.below(9)).expect("small") * MIB;
    content[place..place + change.len()].copy_from_slice(&change);
    let writer = File::options().write(true).open(disk).expect("opens");
    writer.write_all_at(&change, place as u64).expect("written");
}

#[test]
fn captures_killed_at_random_moments_cost_no_image_and_the_next_one_goes_on() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path();
    create(root);
    let mut content = incompressible(31, 12 * MIB);
    let disk = file(root, "disk", &content);
    assert!(run_capture(root, "disk", End::Whole));
    let first = image_named(&open(root), "disk").expect("committed");
    let first_content = content.clone();

    let mut random = Random::new(u64::from(std::process::id()));
    let (mut late, mut cut_short, mut unfinished) = (0, 0, 0);
    let rounds = if is_long() { 500 } else { 50 };
    for number in 0..rounds {
        change(&disk, &mut content, number, &mut random);
        let before = open(root).images().expect("listed").images.len();
        // Every stage of a capture has its turn, also behind what the last one needed.
        let end = match number % 10 {
            0 => End::Whole,
            // The last of these five is behind the manifest's rename: the image is there.
            5 => End::Publishing(number / 10 * 2 % 5),
            9 => End::Publishing((number / 10 * 2 + 1) % 5),
            _ => {
                let stage = (number * 7 % rounds) * 1000 + random.below(1000);
                End::Operation(operations(root) * stage * 6 / 5 / (rounds * 1000))
            }
        };
        let is_killed = !run_capture(root, "disk", end);

        let repository = open(root);
        let found = repository.images().expect("listed");
        assert!(found.damaged.is_empty(), "kill {number}: {:?}", found.damaged);
        assert!(found.images.len() >= before, "kill {number}: an image is gone");
        let is_committed = found.images.len() > before;
        assert!(is_killed || is_committed, "kill {number}: whole, and there is no image");
        cut_short += usize::from(!is_committed);
        late += usize::from(is_killed && is_committed);
        unfinished += usize::from(!repository.packs().expect("listed").unfinished.is_empty());
        assert_eq!(unsound(&repository), None, "kill {number}");
        if is_committed {
            let newest = &found.images[0];
            assert_eq!(differs(&repository, newest, &content), None, "kill {number}");
        }
    }
    println!("of {rounds}: {cut_short} without an image, {late} with, {unfinished} unfinished");
    assert!(late >= 1, "no capture was killed after it had committed");
    assert!(cut_short >= 10, "only {cut_short} captures were killed before they had committed");
    assert!(unfinished >= 3, "only {unfinished} kills left a pack unfinished");

    let repository = open(root);
    assert_eq!(differs(&repository, &first, &first_content), None, "the first image");
    drop(repository.lock(LockKind::Exclusive, "test").expect("dead owners' locks are gone"));
    captured(&repository, &disk, "disk");
    let newest = image_named(&repository, "disk").expect("committed");
    assert_eq!(differs(&repository, &newest, &content), None);
    assert_eq!(unsound(&repository), None);
}

#[test]
fn a_capture_killed_midway_is_taken_up_by_the_next() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path();
    create(root);
    let content = incompressible(32, 64 * MIB);
    let disk = file(root, "disk", &content);
    assert!(!run_capture(root, "disk", End::Stored(24 << 20)), "it was to be killed");
    let repository = open(root);
    let report = captured(&repository, &disk, "disk");
    let cost = report.manifest.cost;
    // What was in the writer's buffer when it was killed is gone.
    assert!(cost.duplicate >= 16 << 20, "only {} bytes were used again", cost.duplicate);
    assert_eq!(cost.duplicate + cost.fresh, content.len() as u64);
    let image = repository.image(report.id).expect("committed");
    assert_eq!(differs(&repository, &image, &content), None);
}

#[test]
fn a_killed_owners_lock_is_recognised_and_a_living_ones_respected() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path();
    create(root);
    file(root, "disk", &incompressible(33, 48 * MIB));
    let mut child = start_capture(root, "disk", End::Locked);
    // It stops itself, so that it lives as long as this looks.
    let id = child.id().to_string();
    let pid = Pid::from_raw(id.parse().expect("a number"));
    let state = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("waited");
    assert_eq!(state, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    let error = open(root).lock(LockKind::Exclusive, "test").err().expect("its owner lives");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains(&id), "{error}");
    drop(open(root).lock(LockKind::Shared, "test").expect("shared locks share"));
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(locks(root), 1, "a killed process removes nothing");
    drop(open(root).lock(LockKind::Exclusive, "test").expect("its owner is dead"));
    assert_eq!(locks(root), 0);
}

#[test]
fn captures_and_verifications_at_once_disturb_no_image() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path();
    create(root);
    // The disks share half of their content.
    let common = incompressible(34, 8 * MIB);
    let contents: Vec<Vec<u8>> = (0..4)
        .map(|number| [common.clone(), incompressible(35 + number, 8 * MIB)].concat())
        .collect();
    let names = ["a", "b", "c", "d"];
    for (name, content) in names.iter().zip(&contents) {
        file(root, name, content);
    }
    // Something to be adopted by whoever is alone first.
    assert!(!run_capture(root, "a", End::Stored(2 * PACK)), "it was to be killed");

    let done = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let verifying = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                assert_eq!(unsound(&open(root)), None, "verified beside captures");
                rounds += 1;
            }
            rounds
        });
        let threads: Vec<_> = names[..2]
            .iter()
            .map(|name| scope.spawn(move || captured(&open(root), &root.join(name), name)))
            .collect();
        let children: Vec<Child> =
            names[2..].iter().map(|name| start_capture(root, name, End::Whole)).collect();
        threads.into_iter().for_each(|thread| drop(thread.join().expect("captured")));
        for mut child in children {
            assert!(child.wait().expect("ran").success(), "a capture failed beside the others");
        }
        done.store(true, Ordering::Relaxed);
        verifying.join().expect("verified")
    });
    assert!(rounds > 0);
    let repository = open(root);
    assert_eq!(unsound(&repository), None);
    for (name, content) in names.iter().zip(&contents) {
        let image = image_named(&repository, name).expect("committed");
        assert_eq!(differs(&repository, &image, content), None, "{name}");
    }
}
