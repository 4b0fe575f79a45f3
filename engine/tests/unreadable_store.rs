//! Sectors under a pack that the medium does not give back, by a real device: a loop device over a
//! file that is cut short fails with EIO. What lies there is damaged, and the rest comes out.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, ErrorKind, Silent};
use imgx_engine::job::{Restore, RestoreOptions, Salvage, VerifyOptions, verify};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;

use support::{KIB, Listener, MIB, Mounted, captured, differs, file};

const MEDIUM: u64 = 36 * MIB as u64;
const PAGE: u64 = 4096;

/// A repository on a filesystem of its own, of which one pack has pages that are the last on the
/// medium.
struct Scene {
    folder: tempfile::TempDir,
    device: Option<LoopDevice>,
    mounted: Option<Mounted>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let medium = folder.path().join("medium");
        File::create(&medium).expect("made").set_len(MEDIUM).expect("grown");
        let plain = medium.to_str().expect("plain");
        tool::run("mke2fs", &["-q", "-F", "-t", "ext2", "-b", "4096", "-m", "0", plain])
            .expect("made");
        let device = LoopDevice::attach(&medium).expect("attached");
        fs::create_dir(folder.path().join("point")).expect("made");
        let mut scene = Self { folder, device: Some(device), mounted: None };
        scene.mount();
        scene
    }

    fn mount(&mut self) {
        let device = self.device.as_ref().expect("attached").path().to_str().expect("plain");
        self.mounted =
            Some(Mounted::new(&["-t", "ext2", device], &self.folder.path().join("point")));
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("point/repository")
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.root().join("packs")).expect("listed").flatten();
        packs.map(|pack| pack.path()).collect()
    }

    /// Writes a pack again so that the pages of `lost` lie behind all others, and cuts the medium
    /// there.
    fn lose(&mut self, pack: &Path, lost: std::ops::Range<u64>) {
        let bytes = fs::read(pack).expect("read");
        fs::remove_file(pack).expect("removed");
        let copy = OpenOptions::new().write(true).create_new(true).open(pack).expect("made");
        let (start, end) = (lost.start * PAGE, (lost.end * PAGE).min(bytes.len() as u64));
        let at = |place: u64| usize::try_from(place).expect("small");
        let part = |from: u64, to: u64| &bytes[at(from)..at(to)];
        copy.write_all_at(part(0, start), 0).expect("written");
        copy.write_all_at(part(end, bytes.len() as u64), end).expect("written");
        copy.sync_all().expect("synced");
        // The filesystem is filled up, and what was taken last is free again: only there is room.
        let filler = |number: usize| self.folder.path().join(format!("point/filler {number}"));
        let fill = |number: &usize| {
            let filled = fs::write(filler(*number), vec![1; MIB]);
            filled.and_then(|()| File::open(filler(*number))?.sync_all()).is_err()
        };
        let full = (0..).find(fill).expect("it gets full");
        fs::remove_file(filler(full)).expect("removed");
        fs::remove_file(filler(full - 1)).expect("removed");
        tool::run("sync", &[]).expect("synced");
        copy.write_all_at(part(start, end), start).expect("written");
        copy.sync_all().expect("synced");
        drop(copy);
        let name = pack.strip_prefix(self.folder.path().join("point")).expect("inside");
        let name = name.to_str().expect("plain").to_owned();
        drop(self.mounted.take());
        let medium = self.folder.path().join("medium");
        let plain = medium.to_str().expect("plain");
        let places = |page: u64| {
            let asked = format!("bmap /{name} {page}");
            let output = std::process::Command::new("debugfs").args(["-R", &asked, plain]).output();
            let output = String::from_utf8(output.expect("runs").stdout).expect("text");
            output.trim().parse::<u64>().expect("a block")
        };
        let first = places(lost.start);
        let pages = (bytes.len() as u64).div_ceil(PAGE);
        let others = (0..pages).filter(|page| !lost.contains(page)).map(places);
        assert!(others.max().expect("some") < first, "other pages lie behind");
        let medium = OpenOptions::new().write(true).open(&medium).expect("opened");
        medium.set_len(first * PAGE).expect("cut");
        self.mount();
        let mut page = vec![0; at(PAGE)];
        let read = File::open(pack).expect("opened").read_exact_at(&mut page, start);
        assert_eq!(read.expect_err("lost").raw_os_error(), Some(nix_eio()), "no EIO here");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.mounted.take());
        drop(self.device.take());
    }
}

fn nix_eio() -> i32 {
    5
}

#[test]
fn a_lost_sector_costs_what_it_covers_and_no_more() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    // In the middle; at the front, with the pack's header; at the end, with its table.
    for part in ["middle", "front", "end"] {
        let mut scene = Scene::new();
        let content = incompressible(1, 10 * MIB);
        let disk = file(scene.folder.path(), "disk", &content);
        let block_size = BlockSize::new(16 * 1024).expect("valid");
        Repository::create(&scene.root(), block_size).expect("created");
        let open = |scene: &Scene| Repository::open(&scene.root()).expect("opens");
        let id = captured(&open(&scene), &disk, "disk").id;
        let pack = scene.packs().remove(0);
        let pages = fs::metadata(&pack).expect("there").len().div_ceil(PAGE);
        let lost = match part {
            "middle" => pages / 2..pages / 2 + 1,
            "front" => 0..1,
            _ => pages - 1..pages,
        };
        scene.lose(&pack, lost);

        let repository = open(&scene);
        let listener = Listener::default();
        for quick in [false, true] {
            let options = VerifyOptions { quick, ..VerifyOptions::default() };
            let report = verify(&repository, &options, &listener).expect("damage is no error");
            assert!(report.damage > 0, "{part}");
            let lost: u64 = report.lost.iter().map(|lost| lost.range.len()).sum();
            assert!(lost <= 1 << 20, "{part}: {lost} bytes");
            assert_eq!(lost > 0, part != "end", "{part}");
        }
        assert!(!listener.damage().is_empty());
        let salvage = Salvage::new(&repository, &listener).look().expect("looked through");
        assert!(salvage.damage > 0);
        assert_eq!(salvage.images.len(), 1, "{part}: {:?}", listener.damage());

        let image = repository.image(id).expect("listed");
        let target = scene.folder.path().join("restored");
        let plan = Restore::plan(&repository, &image, &target, RestoreOptions::default());
        let report = plan.expect("planned").run(&listener).expect("the rest comes out");
        let restored = fs::read(&target).expect("read");
        let wrong: Vec<usize> = (0..content.len())
            .step_by(16 * KIB)
            .filter(|start| restored[*start..start + 16 * KIB] != content[*start..start + 16 * KIB])
            .collect();
        assert_eq!(report.damaged, (wrong.len() * 16 * KIB) as u64, "{part}");
        assert_eq!(!wrong.is_empty(), part != "end", "{part}");
        assert!(wrong.len() <= 64, "{part}: {wrong:?}");
        wrong
            .iter()
            .for_each(|start| assert_eq!(restored[*start..start + 16 * KIB], [0; 16 * KIB]));

        // The disk is intact: its next image is whole.
        let again = captured(&repository, &disk, "disk").id;
        let image = repository.image(again).expect("listed");
        assert_eq!(differs(&repository, &image, &content), None, "{part}");
    }
}

#[test]
fn a_medium_that_is_gone_is_no_damage() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let mut scene = Scene::new();
    let disk = file(scene.folder.path(), "disk", &incompressible(1, 6 * MIB));
    let repository = Repository::create(&scene.root(), BlockSize::DEFAULT).expect("created");
    captured(&repository, &disk, "disk");
    drop(scene.mounted.take());
    scene.mount();
    let repository = Repository::open(&scene.root()).expect("opens");
    let image = repository.resolve("disk", &Silent).expect("listed");
    // Its folders are in memory, and nothing else is there any more.
    scene.packs();
    let medium = OpenOptions::new().write(true).open(scene.folder.path().join("medium"));
    medium.expect("opened").set_len(0).expect("cut");
    let target = scene.folder.path().join("restored");
    let outcome = Restore::plan(&repository, &image, &target, RestoreOptions::default())
        .and_then(|plan| plan.run(&Silent));
    assert_eq!(outcome.expect_err("nothing can be read").kind(), ErrorKind::Io);
}
