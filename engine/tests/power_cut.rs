//! A power cut at every step of a capture: committed images survive, the unfinished one is whole
//! or absent, and the next capture succeeds.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_engine::base::{BlockSize, ErrorKind, Result, Silent};
use imgx_engine::store::Repository;
use imgx_engine::store::storage::simulated::{SimulatedStorage, Unsynced};

use support::{KIB, capture, differs, file, folder_in_memory, image_named, small_disk, unsound};

const PACK: u64 = 512 * KIB as u64;

/// A repository's storage with one committed image, and the disk that is captured next.
struct Scene {
    _folder: tempfile::TempDir,
    storage: SimulatedStorage,
    first: Vec<u8>,
    second: Vec<u8>,
    disk: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = folder_in_memory();
        let storage = SimulatedStorage::new();
        let first = small_disk(1, 2048 * KIB + 700);
        // A third of it stays as it was.
        let mut second = first[..1024 * KIB].to_vec();
        second.extend(small_disk(2, 2100 * KIB + 3));
        let block_size = BlockSize::new(16 * 1024).expect("valid");
        Repository::create_in(Arc::new(storage.clone()), block_size).expect("created");
        let disk = file(folder.path(), "first", &first);
        capture(&open(&storage).expect("opens"), &disk, "first", &Silent).expect("captured");
        let disk = file(folder.path(), "second", &second);
        let storage = storage.after_power_cut(Unsynced::Lost);
        Self { _folder: folder, storage, first, second, disk }
    }

    /// A copy of the storage, to be harmed.
    fn copy(&self) -> SimulatedStorage {
        self.storage.after_power_cut(Unsynced::Lost)
    }

    /// What is wrong in storage where `second` may or may not have been committed.
    fn problem(&self, storage: &SimulatedStorage, must_have_second: bool) -> Option<String> {
        let repository = match open(storage) {
            Ok(repository) => repository,
            Err(error) => return Some(format!("open: {error}")),
        };
        if let Some(problem) = unsound(&repository) {
            return Some(problem);
        }
        match image_named(&repository, "first") {
            None => return Some("the first image is lost".to_owned()),
            Some(first) => {
                if let Some(problem) = differs(&repository, &first, &self.first) {
                    return Some(format!("the first image: {problem}"));
                }
            }
        }
        match image_named(&repository, "second") {
            None => must_have_second.then(|| "the second image is lost".to_owned()),
            Some(second) => differs(&repository, &second, &self.second),
        }
    }

    /// What is wrong with storage after a cut, or with capturing into it again.
    fn problem_now_or_next(&self, storage: &SimulatedStorage) -> Option<String> {
        if let Some(problem) = self.problem(storage, false) {
            return Some(problem);
        }
        if let Err(error) = try_capture(storage, &self.disk) {
            return Some(format!("the next capture: {error}"));
        }
        let problem = self.problem(&storage.after_power_cut(Unsynced::Lost), true);
        problem.map(|problem| format!("after the next capture: {problem}"))
    }
}

fn open(storage: &SimulatedStorage) -> Result<Repository> {
    Ok(Repository::open_in(Arc::new(storage.clone()))?.with_pack_size(PACK))
}

fn try_capture(storage: &SimulatedStorage, disk: &Path) -> Result<()> {
    capture(&open(storage)?, disk, "second", &Silent).map(|_| ())
}

#[test]
fn a_power_cut_at_any_step_costs_no_committed_image() {
    let scene = Scene::new();
    let mut steps = 0;
    loop {
        let storage = scene.copy();
        storage.cut_before(steps);
        let outcome = try_capture(&storage, &scene.disk);
        for unsynced in Unsynced::ALL {
            let left = storage.after_power_cut(unsynced);
            let problem = match &outcome {
                Ok(()) => scene.problem(&left, true),
                Err(_) => scene.problem_now_or_next(&left),
            };
            assert_eq!(problem, None, "cut before step {steps}, {unsynced:?}");
        }
        if outcome.is_ok() {
            break;
        }
        steps += 1;
    }
    let packs =
        open(&scene.storage).and_then(|repository| repository.packs()).expect("listed").finished;
    assert!(steps > 30 && packs.len() > 1, "{steps} steps and {} packs are few", packs.len());
}

#[test]
fn a_second_power_cut_while_the_first_ones_leftovers_are_adopted_costs_nothing_either() {
    let scene = Scene::new();
    for (first_cut, unsynced) in [(12, Unsynced::Torn), (19, Unsynced::Kept), (25, Unsynced::Torn)]
    {
        let storage = scene.copy();
        storage.cut_before(first_cut);
        assert!(try_capture(&storage, &scene.disk).is_err(), "step {first_cut} is too late");
        let left = storage.after_power_cut(unsynced);
        // Lock, adoption, and the first steps behind it.
        for second_cut in 0..16 {
            let storage = left.after_power_cut(Unsynced::Lost);
            storage.cut_before(second_cut);
            assert!(try_capture(&storage, &scene.disk).is_err(), "step {second_cut} is too late");
            for unsynced in Unsynced::ALL {
                let problem = scene.problem_now_or_next(&storage.after_power_cut(unsynced));
                assert_eq!(problem, None, "cuts before {first_cut} and {second_cut}");
            }
        }
    }
}

#[test]
fn a_failed_sync_is_never_made_good_by_a_later_one() {
    let scene = Scene::new();
    for number in 0.. {
        let storage = scene.copy();
        storage.fail_sync(number);
        let outcome = try_capture(&storage, &scene.disk);
        if outcome.is_ok() {
            assert!(number > 3, "only {number} syncs");
            return;
        }
        let error = outcome.expect_err("just seen");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        // The same machine goes on: what can be read need not be on the disk.
        try_capture(&storage, &scene.disk).expect("the next capture succeeds");
        let left = storage.after_power_cut(Unsynced::Lost);
        assert_eq!(scene.problem(&left, true), None, "sync {number} failed");
    }
}

#[test]
fn storage_that_ignores_syncs_is_caught() {
    let scene = Scene::new();
    let storage = scene.copy();
    storage.ignore_syncs();
    try_capture(&storage, &scene.disk).expect("it says that all went well");
    for unsynced in Unsynced::ALL {
        let left = storage.after_power_cut(unsynced);
        assert!(scene.problem(&left, false).is_some(), "{unsynced:?}: nothing was noticed");
    }
}
