//! The order of images is that in which they were made, whatever the clocks said.

mod support;

use std::fs;
use std::path::PathBuf;

use imgx_engine::base::{BlockSize, ErrorKind, Silent};
use imgx_engine::job::{Capture, CaptureOptions, ParentChoice};
use imgx_engine::store::repository::manifest_name;
use imgx_engine::store::writer::restore_manifest;
use imgx_engine::store::{ImageId, Repository};

use support::{Warnings, captured, file, folder_in_memory, small_disk};

struct Scene {
    folder: tempfile::TempDir,
    repository: Repository,
    disk: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = folder_in_memory();
        let block_size = BlockSize::new(16 * 1024).expect("valid");
        let repository = Repository::create(&folder.path().join("repository"), block_size);
        let disk = file(folder.path(), "disk", &small_disk(1, 300_000));
        Self { folder, repository: repository.expect("created"), disk }
    }

    fn capture(&self, name: &str) -> ImageId {
        captured(&self.repository, &self.disk, name).id
    }

    /// Captured while the clock says `created`.
    fn capture_at(&self, name: &str, created: &str) -> ImageId {
        self.redate(self.capture(name), created)
    }

    /// Has an image say that it was made at another time, as a wrong clock would have it.
    fn redate(&self, id: ImageId, created: &str) -> ImageId {
        let mut manifest = self.repository.image(id).expect("there").manifest;
        manifest.created = created.to_owned();
        let bytes = manifest.encode();
        let new = self.repository.keys().image_id(&bytes);
        restore_manifest(&**self.repository.storage(), new, &bytes).expect("written");
        if new != id {
            self.remove(id);
        }
        new
    }

    fn path(&self, id: ImageId) -> PathBuf {
        self.folder.path().join("repository").join(manifest_name(id).to_string())
    }

    fn remove(&self, id: ImageId) {
        fs::remove_file(self.path(id)).expect("removed");
    }

    fn parent(&self, id: ImageId) -> Option<ImageId> {
        self.repository.image(id).expect("there").manifest.parent
    }

    #[track_caller]
    fn means(&self, reference: &str, id: ImageId) {
        let told = Warnings::default();
        let image = self.repository.resolve(reference, &told).expect("there");
        assert_eq!(image.id, id, "{reference}");
    }

    /// What `resolve` says of a reference, and what it tells besides.
    fn resolved(&self, reference: &str) -> (imgx_engine::base::Result<ImageId>, Vec<String>) {
        let told = Warnings::default();
        let found = self.repository.resolve(reference, &told).map(|image| image.id);
        (found, told.0.into_inner().expect("no panic"))
    }

    fn damage(&self, id: ImageId) {
        let manifest = fs::read(self.path(id)).expect("read");
        fs::write(self.path(id), &manifest[..manifest.len() / 2]).expect("written");
    }

    /// What a plan to capture as `name` tells, and the parent that it has.
    fn planned(&self, name: &str, parent: ParentChoice) -> (Option<ImageId>, String) {
        let told = Warnings::default();
        let name = Some(name.to_owned());
        let options = CaptureOptions { name, parent, ..CaptureOptions::default() };
        let plan = Capture::plan(&self.repository, &self.disk, options, &told).expect("planned");
        let parent = plan.parent().map(|image| image.id);
        drop(plan);
        (parent, told.0.into_inner().expect("no panic").join("\n"))
    }
}

const FUTURE: &str = "2093-01-01T00:00:00.000000000Z";
const PAST: &str = "1970-01-01T00:00:03.000000000Z";

#[test]
fn an_image_from_the_future_hides_no_later_one() {
    let scene = Scene::new();
    let first = scene.capture("a");
    let future = scene.capture_at("a", FUTURE);
    let third = scene.capture("a");
    assert_eq!(scene.parent(third), Some(future));
    let fourth = scene.capture("a");
    assert_eq!(scene.parent(fourth), Some(third), "the future image is no parent twice");
    let other = scene.capture("b");
    for (reference, id) in
        [("a", fourth), ("a~1", third), ("a~2", future), ("a~3", first), ("latest", other)]
    {
        scene.means(reference, id);
    }
    let listed: Vec<ImageId> =
        scene.repository.images().expect("listed").images.iter().map(|image| image.id).collect();
    assert_eq!(listed, [other, fourth, third, future, first]);
}

#[test]
fn a_clock_that_stands_still_or_goes_back_changes_no_order() {
    let scene = Scene::new();
    for created in [PAST, "2026-11-27T10:00:00.000000000Z", "no time at all"] {
        let images: Vec<ImageId> = (0..5).map(|_| scene.capture_at("a", created)).collect();
        for (back, id) in images.iter().rev().enumerate() {
            scene.means(&format!("a~{back}"), *id);
        }
        assert_eq!(scene.parent(images[4]), Some(images[3]));
    }
}

#[test]
fn branches_and_histories_that_begin_anew_come_last_as_they_were_made_last() {
    let scene = Scene::new();
    let first = scene.capture("a");
    let second = scene.capture_at("a", FUTURE);
    let make = |parent: ParentChoice| {
        let options =
            CaptureOptions { name: Some("a".to_owned()), parent, ..CaptureOptions::default() };
        let plan = Capture::plan(&scene.repository, &scene.disk, options, &Silent);
        plan.expect("planned").run(&Silent).expect("captured").id
    };
    let branch = make(ParentChoice::Image(first.to_string()));
    scene.means("a", branch);
    scene.means("a~1", second);
    let anew = make(ParentChoice::None);
    scene.means("a", anew);
    assert_eq!(scene.parent(anew), None);
    let next = scene.capture("a");
    assert_eq!(scene.parent(next), Some(anew));
    scene.means("a~4", first);
}

#[test]
fn what_is_missing_or_damaged_in_the_middle_hides_nothing() {
    let scene = Scene::new();
    let images: Vec<ImageId> = (0..6)
        .map(|number| scene.capture_at("a", if number % 2 == 0 { FUTURE } else { PAST }))
        .collect();
    scene.remove(images[2]);
    let damaged = fs::read(scene.path(images[5])).expect("read");
    fs::write(scene.path(images[5]), &damaged[..100]).expect("written");
    for (back, number) in [4, 3, 1, 0].into_iter().enumerate() {
        scene.means(&format!("a~{back}"), images[number]);
    }
    // Later than the damaged one, should that be mended.
    let next = scene.capture("a");
    assert_eq!(scene.parent(next), Some(images[4]));
    scene.redate(next, PAST);
    fs::write(scene.path(images[5]), &damaged).expect("written");
    scene.means("a~1", images[5]);
}

#[test]
fn a_clock_behind_the_history_is_told() {
    let scene = Scene::new();
    let warned = || scene.planned("a", ParentChoice::Auto).1;
    scene.capture("a");
    assert_eq!(warned(), "");
    scene.capture_at("a", FUTURE);
    let told = warned();
    assert!(told.contains("clock") && told.contains("2093-01-01"), "{told}");
    scene.capture_at("a", PAST);
    assert_eq!(warned(), "");
}

#[test]
fn whoever_counts_by_order_is_told_of_damaged_manifests_and_whoever_names_an_id_is_not() {
    let scene = Scene::new();
    let images: Vec<ImageId> = ["a", "a", "b", "a", "b"].map(|name| scene.capture(name)).into();
    for reference in ["latest", "latest~1", "a", "a~1", "b"] {
        assert_eq!(scene.resolved(reference).1, Vec::<String>::new(), "{reference}");
    }
    scene.damage(images[3]);
    scene.damage(images[4]);
    let is_told = |told: &str| {
        let ids = [3, 4].map(|number| images[number].to_string());
        told.contains("2 manifests are damaged") && ids.iter().all(|id| told.contains(id))
    };
    for (reference, number) in [("latest", 2), ("latest~1", 1), ("a", 1), ("a~1", 0), ("b", 2)] {
        let (found, told) = scene.resolved(reference);
        assert_eq!(found.expect("there"), images[number], "{reference}");
        assert!(told.len() == 1 && is_told(&told[0]), "{reference}: {told:?}");
    }
    for reference in ["a~2", "latest~3", "c"] {
        let (found, told) = scene.resolved(reference);
        assert_eq!(found.expect_err("none").kind(), ErrorKind::NotFound, "{reference}");
        assert!(is_told(&told.concat()), "{reference}: {told:?}");
    }
    // An id means one image, whatever else is damaged, and a damaged one is not passed over.
    let id = images[1].to_string();
    for digits in [&id[..12], &id] {
        let (found, told) = scene.resolved(digits);
        assert_eq!((found.expect("there"), told), (images[1], Vec::new()), "{digits}");
    }
    let (found, _) = scene.resolved(&images[3].to_string()[..12]);
    assert_eq!(found.expect_err("damaged").kind(), ErrorKind::Corrupt);

    let (parent, told) = scene.planned("a", ParentChoice::Auto);
    assert!(parent == Some(images[1]) && is_told(&told), "{told}");
    let (parent, told) = scene.planned("a", ParentChoice::Image("a~1".to_owned()));
    assert!(parent == Some(images[0]) && is_told(&told), "{told}");
    let (parent, told) = scene.planned("c", ParentChoice::Auto);
    assert!(parent.is_none() && is_told(&told), "{told}");
    for (choice, expected) in
        [(ParentChoice::Image(id), Some(images[1])), (ParentChoice::None, None)]
    {
        assert_eq!(scene.planned("a", choice), (expected, String::new()));
    }
}

#[test]
fn digits_that_a_damaged_image_shares_with_a_sound_one_mean_neither() {
    let scene = Scene::new();
    let id = scene.capture("a");
    let digits = &id.to_string()[..8];
    let other = format!("images/{digits}{}.json", "0".repeat(24));
    fs::write(scene.folder.path().join("repository").join(other), b"{").expect("written");
    let error = scene.resolved(digits).0.expect_err("two are meant");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(scene.resolved(&id.to_string()).0.expect("one is meant"), id);
}
