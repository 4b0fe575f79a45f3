//! The order of images is that in which they were made, whatever the clocks said.

mod support;

use std::fs;
use std::path::PathBuf;

use imgx_engine::base::{BlockSize, Silent};
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
        assert_eq!(self.repository.resolve(reference).expect("there").id, id, "{reference}");
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
    let warned = || {
        let warnings = Warnings::default();
        let options = CaptureOptions { name: Some("a".to_owned()), ..CaptureOptions::default() };
        Capture::plan(&scene.repository, &scene.disk, options, &warnings).expect("planned");
        warnings.0.into_inner().expect("no panic").join("\n")
    };
    scene.capture("a");
    assert_eq!(warned(), "");
    scene.capture_at("a", FUTURE);
    let told = warned();
    assert!(told.contains("clock") && told.contains("2093-01-01"), "{told}");
    scene.capture_at("a", PAST);
    assert_eq!(warned(), "");
}
