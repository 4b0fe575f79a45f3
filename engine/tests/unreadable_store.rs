//! Sectors under a pack that the medium does not give back: what lies there is damaged, and the
//! rest comes out. Real ones: btrfs answers a sector that fails its checksum with EIO, and so does
//! a loop device over a file that was cut short.

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

const MEDIUM: u64 = 160 * MIB as u64;
const PAGE: usize = 4096;

/// A repository on a filesystem of its own.
struct Scene {
    folder: tempfile::TempDir,
    kind: &'static str,
    device: Option<LoopDevice>,
    mounted: Option<Mounted>,
}

impl Scene {
    fn new(kind: &'static str, maker: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let medium = folder.path().join("medium");
        File::create(&medium).expect("made").set_len(MEDIUM).expect("grown");
        let plain = medium.to_str().expect("plain");
        tool::run(maker[0], &[&maker[1..], &[plain]].concat()).expect("made");
        let device = LoopDevice::attach(&medium).expect("attached");
        fs::create_dir(folder.path().join("point")).expect("made");
        let mut scene = Self { folder, kind, device: Some(device), mounted: None };
        scene.mount();
        scene
    }

    fn mount(&mut self) {
        let device = self.device.as_ref().expect("attached").path().to_str().expect("plain");
        let point = self.folder.path().join("point");
        self.mounted = Some(Mounted::new(&["-t", self.kind, device], &point));
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("point/repository")
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.root().join("packs")).expect("listed").flatten();
        packs.map(|pack| pack.path()).collect()
    }

    /// Has the medium not give back the page `lost` of a pack.
    fn lose(&mut self, pack: &Path, lost: usize) {
        let bytes = fs::read(pack).expect("read");
        let start = lost * PAGE;
        let content = &bytes[start..bytes.len().min(start + PAGE)];
        drop(self.mounted.take());
        let medium = self.folder.path().join("medium");
        let all = fs::read(&medium).expect("read");
        let pages = all.chunks(PAGE).zip((0..).step_by(PAGE));
        let places = pages.filter(|(page, _)| page.starts_with(content));
        let places: Vec<u64> = places.map(|(_, place)| place).collect();
        let [place] = places[..] else { panic!("not at one place: {places:?}") };
        let medium = OpenOptions::new().write(true).open(&medium).expect("opened");
        medium.write_all_at(&[!content[0]], place).expect("written");
        self.mount();
        let mut page = vec![0; content.len()];
        let read = File::open(pack).expect("opened").read_exact_at(&mut page, start as u64);
        assert_eq!(read.expect_err("lost").raw_os_error(), Some(EIO), "no EIO here");
    }
}

const EIO: i32 = 5;

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.mounted.take());
        drop(self.device.take());
    }
}

#[test]
fn a_lost_sector_costs_what_it_covers_and_no_more() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    if !tool::have("mkfs.btrfs") {
        println!("skipped: no mkfs.btrfs");
        return;
    }
    // In the middle; at the front, with the pack's header; at the end, with its table.
    for part in ["middle", "front", "end"] {
        let mkfs = ["mkfs.btrfs", "-q", "-d", "single", "-m", "single"];
        let mut scene = Scene::new("btrfs", &mkfs);
        let content = incompressible(1, 10 * MIB);
        let disk = file(scene.folder.path(), "disk", &content);
        let block_size = BlockSize::new(16 * 1024).expect("valid");
        Repository::create(&scene.root(), block_size).expect("created");
        let open = |scene: &Scene| Repository::open(&scene.root()).expect("opens");
        let id = captured(&open(&scene), &disk, "disk").id;
        let pack = scene.packs().remove(0);
        let pages = fs::read(&pack).expect("read").len().div_ceil(PAGE);
        let lost = match part {
            "middle" => pages / 2,
            "front" => 0,
            _ => pages - 1,
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
    let mut scene = Scene::new("ext2", &["mke2fs", "-q", "-F", "-t", "ext2", "-b", "4096"]);
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
