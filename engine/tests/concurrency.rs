//! Several jobs on one repository at once, and jobs that are killed: every committed image stays
//! sound, dead owners' locks are recognised, and what was stored is used again.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use imgx_engine::base::{BlockSize, ErrorKind};
use imgx_engine::store::{LockKind, Repository};
use imgx_fixtures::pattern::{Random, incompressible};

use support::{MIB, captured, differs, file, image_named, is_long, unsound};

/// Where the child process finds its repository and disk.
const CHILD: &str = "IMGX_TEST_CHILD";

fn open(root: &Path) -> Repository {
    let repository = Repository::open(&root.join("repository")).expect("opens");
    repository.with_pack_size(3 << 20)
}

fn create(root: &Path) {
    Repository::create(&root.join("repository"), BlockSize::DEFAULT).expect("created");
}

/// What this test binary does when it is started again by itself.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn child_captures() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let root = Path::new(&root);
    let name = std::env::var("IMGX_TEST_DISK").expect("set by the parent");
    captured(&open(root), &root.join(&name), &name);
}

fn start_capture(root: &Path, disk: &str) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "child_captures"])
        .env(CHILD, root)
        .env("IMGX_TEST_DISK", disk)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

#[test]
fn captures_killed_at_random_moments_cost_no_image_and_the_next_one_goes_on() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path();
    create(root);
    let mut content = incompressible(31, 24 * MIB);
    let disk = file(root, "disk", &content);
    let clock = Instant::now();
    assert!(start_capture(root, "disk").wait().expect("ran").success());
    let whole = clock.elapsed();
    let first = image_named(&open(root), "disk").expect("committed");
    let first_content = content.clone();

    let mut random = Random::new(u64::from(std::process::id()));
    let (mut cut_short, mut unfinished) = (0, 0);
    for number in 0..if is_long() { 500 } else { 50 } {
        let change = incompressible(1000 + number, 8 * MIB);
        let place = usize::try_from(random.below(16)).expect("small") * MIB;
        content[place..place + change.len()].copy_from_slice(&change);
        let writer = File::options().write(true).open(&disk).expect("opens");
        writer.write_all_at(&change, place as u64).expect("written");
        let before = open(root).images().expect("listed").images.len();
        let mut child = start_capture(root, "disk");
        let limit = u64::try_from(whole.as_micros()).expect("short") * 6 / 5;
        thread::sleep(Duration::from_micros(random.below(limit)));
        child.kill().expect("killed");
        child.wait().expect("ended");

        let repository = open(root);
        let found = repository.images().expect("listed");
        assert!(found.damaged.is_empty(), "kill {number}: {:?}", found.damaged);
        assert!(found.images.len() >= before, "kill {number}: an image is gone");
        cut_short += usize::from(found.images.len() == before);
        unfinished += usize::from(!repository.packs().expect("listed").unfinished.is_empty());
        assert_eq!(unsound(&repository), None, "kill {number}");
        if found.images.len() > before {
            let newest = &found.images[0];
            assert_eq!(differs(&repository, newest, &content), None, "kill {number}");
        }
    }
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
    let mut child = start_capture(root, "disk");
    let stored = || -> u64 {
        let entries = fs::read_dir(root.join("repository/packs")).expect("listed");
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
    };
    let patience = Instant::now();
    while stored() < 24 << 20 && patience.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
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
    let mut child = start_capture(root, "disk");
    let locks = || {
        let entries = fs::read_dir(root.join("repository/locks")).expect("listed").flatten();
        entries.filter(|entry| entry.path().extension().is_none()).count()
    };
    let patience = Instant::now();
    while locks() == 0 && patience.elapsed() < Duration::from_secs(60) {
        thread::yield_now();
    }
    // Stopped, so that it lives as long as this looks.
    let id = child.id().to_string();
    imgx_fixtures::tool::run("kill", &["-STOP", &id]).expect("stopped");
    let error = open(root).lock(LockKind::Exclusive, "test").err().expect("its owner lives");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains(&id), "{error}");
    drop(open(root).lock(LockKind::Shared, "test").expect("shared locks share"));
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(locks(), 1, "a killed process removes nothing");
    drop(open(root).lock(LockKind::Exclusive, "test").expect("its owner is dead"));
    assert_eq!(locks(), 0);
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
    let mut child = start_capture(root, "a");
    thread::sleep(Duration::from_millis(60));
    child.kill().expect("killed");
    child.wait().expect("ended");

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
            names[2..].iter().map(|name| start_capture(root, name)).collect();
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
