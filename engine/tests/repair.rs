//! Repair: packs are again what they were, byte for byte, from a disk or from a copy.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, ErrorKind, Silent};
use imgx_engine::job::{Capture, CaptureOptions, Effort, Repair, RepairReport};
use imgx_engine::store::pack::{TableEntry, read_table};
use imgx_engine::store::storage::{Folder, ObjectName};
use imgx_engine::store::{FrameKind, LocalStorage, Repository, Storage};
use imgx_fixtures::pattern::{Random, incompressible, text};

use support::{MIB, captured, differs, file, folder_in_memory, is_long, small_disk, unsound};

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(block_size: u32) -> Self {
        let scene = Self { folder: folder_in_memory() };
        let block_size = BlockSize::new(block_size).expect("valid");
        Repository::create(&scene.root(), block_size).expect("created");
        scene
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn open(&self) -> Repository {
        let repository = Repository::open(&self.root()).expect("opens").with_pack_size(3 << 20);
        repository.with_cache(&self.folder.path().join("cache"))
    }

    fn disk(&self, content: &[u8]) -> PathBuf {
        file(self.folder.path(), "disk", content)
    }

    fn capture(&self, content: &[u8], effort: Effort) {
        let options =
            CaptureOptions { name: Some("disk".to_owned()), effort, ..CaptureOptions::default() };
        let (repository, disk) = (self.open(), self.disk(content));
        let plan = Capture::plan(&repository, &disk, options, &Silent).expect("planned");
        plan.run(&Silent).expect("captured");
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.root().join("packs")).expect("listed").flatten();
        let packs = packs.map(|pack| pack.path());
        let mut packs: Vec<PathBuf> =
            packs.filter(|path| path.extension().is_some_and(|kind| kind == "pack")).collect();
        packs.sort();
        packs
    }

    fn table(&self, pack: &Path) -> Vec<TableEntry> {
        let storage = LocalStorage::open(&self.root()).expect("opens");
        let name = pack.file_name().and_then(|name| name.to_str()).expect("plain");
        let object = storage.open(&ObjectName::new(Folder::Packs, name)).expect("opens");
        read_table(&*object).expect("sound")
    }

    fn repair(&self, from: &Path) -> RepairReport {
        let repository = self.open();
        let plan = Repair::plan(&repository, from, None, &Silent).expect("planned");
        plan.run(&Silent).expect("ran")
    }

    /// Everything in `packs`, marks too.
    fn everything(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let listed = fs::read_dir(self.root().join("packs")).expect("listed").flatten();
        let mut all: Vec<(PathBuf, Vec<u8>)> =
            listed.map(|entry| (entry.path(), fs::read(entry.path()).expect("read"))).collect();
        all.sort();
        all
    }
}

/// In what the packs' folder is not what it was.
fn changes(before: &[(PathBuf, Vec<u8>)], after: &[(PathBuf, Vec<u8>)]) -> Vec<String> {
    let differing = |one: &[(PathBuf, Vec<u8>)], other: &[(PathBuf, Vec<u8>)]| {
        let only = one.iter().filter(|entry| !other.contains(entry));
        only.map(|(path, bytes)| format!("{} ({} bytes)", path.display(), bytes.len())).collect()
    };
    let sides: [Vec<String>; 2] = [differing(before, after), differing(after, before)];
    sides.concat()
}

/// The first byte behind a frame.
fn end(entry: &TableEntry) -> usize {
    usize::try_from(entry.end()).expect("a small pack")
}

fn damage(pack: &Path, range: std::ops::Range<usize>) {
    let mut bytes = fs::read(pack).expect("read");
    bytes[range].iter_mut().for_each(|byte| *byte = byte.wrapping_add(77));
    fs::write(pack, bytes).expect("written");
}

#[test]
fn blocks_are_made_again_from_the_disk_whatever_is_wrong_with_their_frames() {
    for effort in [Effort::Auto, Effort::Off, Effort::Fast, Effort::Level(2), Effort::Level(9)] {
        let scene = Scene::new(65_536);
        let content = [text(1, 2 * MIB), incompressible(2, 2 * MIB), text(3, MIB + 700)].concat();
        scene.capture(&content, effort);
        let before = scene.everything();
        for pack in scene.packs() {
            let frames: Vec<TableEntry> = scene.table(&pack);
            let blocks = frames.iter().filter(|entry| entry.kind == FrameKind::Block);
            for (number, entry) in blocks.filter(|entry| entry.member == 0).enumerate() {
                let (start, end) = (entry.offset as usize, end(entry));
                damage(
                    &pack,
                    match number % 4 {
                        0 => start..end,
                        1 => end - 100..end,
                        2 => start..start + 32,
                        _ => start + 40..start + 5000,
                    },
                );
            }
        }
        assert!(unsound(&scene.open()).is_some());
        let report = scene.repair(&scene.folder.path().join("disk"));
        assert_eq!(report.left, [], "{effort:?}");
        assert!(report.repaired >= 4, "{report:?}");
        assert_eq!(changes(&before, &scene.everything()), [""; 0]);
        assert_eq!(unsound(&scene.open()), None);
    }
}

#[test]
fn headers_tables_nodes_and_manifests_are_made_again_too() {
    let scene = Scene::new(131_072);
    let content = small_disk(4, 5 * MIB);
    scene.capture(&content, Effort::Auto);
    let before = scene.everything();
    let pack = scene.packs();
    for pack in &pack {
        let table = scene.table(pack);
        let length = fs::read(pack).expect("read").len();
        for range in [0..48, 10..11, length - 48..length, length - 200..length - 190] {
            damage(pack, range);
        }
        for entry in table.iter().filter(|entry| entry.kind == FrameKind::Manifest) {
            damage(pack, end(entry) - 90..end(entry));
        }
        for entry in table.iter().filter(|entry| entry.kind == FrameKind::Node) {
            let place = end(entry) - 5;
            damage(pack, place..place + 1);
        }
    }
    let report = scene.repair(&scene.folder.path().join("disk"));
    assert_eq!(report.left, []);
    assert_eq!(changes(&before, &scene.everything()), [""; 0]);
    assert_eq!(unsound(&scene.open()), None);
}

#[test]
fn deltas_and_what_they_stand_on_are_made_again_together() {
    let scene = Scene::new(131_072);
    let mut content = incompressible(5, 4 * MIB);
    scene.capture(&content, Effort::Auto);
    let first = content.clone();
    for number in 0..10 {
        let place = number * 300_000;
        content[place..place + 600].copy_from_slice(&incompressible(number as u64, 600));
    }
    scene.capture(&content, Effort::Auto);
    let before = scene.everything();
    for pack in scene.packs() {
        let table = scene.table(&pack);
        let blocks = table.iter().filter(|entry| entry.kind == FrameKind::Block);
        for entry in blocks.filter(|entry| entry.member == 0) {
            damage(&pack, end(entry) - 3..end(entry));
        }
    }
    // The disk has both versions of the blocks: as it is, and behind that as it was.
    scene.disk(&[content, first].concat());
    let report = scene.repair(&scene.folder.path().join("disk"));
    assert_eq!(report.left, []);
    assert_eq!(changes(&before, &scene.everything()), [""; 0]);
    assert_eq!(unsound(&scene.open()), None);
}

#[test]
fn what_a_disk_does_not_have_stays_damaged_and_the_rest_is_repaired() {
    let scene = Scene::new(131_072);
    let mut content = incompressible(6, 6 * MIB);
    scene.capture(&content, Effort::Auto);
    for pack in scene.packs() {
        let table = scene.table(&pack);
        let blocks = table.iter().filter(|entry| entry.kind == FrameKind::Block);
        for entry in blocks.filter(|entry| entry.member == 0) {
            damage(&pack, end(entry) - 300..end(entry) - 100);
        }
    }
    content[2 * MIB + 5] ^= 1;
    let disk = scene.disk(&content);
    let report = scene.repair(&disk);
    assert_eq!((report.repaired, report.left.len()), (5, 1), "{report:?}");
    assert!(report.left[0].offset.is_some());
    let again = scene.repair(&disk);
    assert_eq!((again.repaired, again.left), (0, report.left));
    // And what is left is stored anew.
    let repository = scene.open();
    let id = captured(&repository, &disk, "disk").id;
    let image = repository.image(id).expect("listed");
    assert_eq!(differs(&repository, &image, &content), None);
}

#[test]
fn a_copy_of_the_repository_gives_back_everything() {
    let scene = Scene::new(16_384);
    scene.capture(&small_disk(7, 8 * MIB), Effort::Auto);
    let copy = scene.folder.path().join("copy");
    let (from, to) = (scene.root(), copy.clone());
    let [from, to] = [&from, &to].map(|path| path.to_str().expect("plain"));
    imgx_fixtures::tool::run("cp", &["-a", from, to]).expect("copied");
    let before = scene.everything();
    let packs = scene.packs();
    fs::remove_file(&packs[0]).expect("removed");
    let mut random = Random::new(8);
    for pack in &packs[1..] {
        let size = fs::metadata(pack).expect("there").len();
        for _ in 0..30 {
            let place = usize::try_from(random.below(size - 5000)).expect("small");
            damage(pack, place..place + 5000);
        }
    }
    let manifest = fs::read_dir(scene.root().join("images")).expect("listed").flatten().next();
    let manifest = manifest.expect("one").path();
    let right = fs::read(&manifest).expect("read");
    fs::write(&manifest, b"{}").expect("written");
    let report = scene.repair(&copy);
    assert_eq!(report.left, []);
    assert_eq!(changes(&before, &scene.everything()), [""; 0]);
    assert!(fs::read(&manifest).expect("read") == right);
    assert_eq!(unsound(&scene.open()), None);

    let other = scene.folder.path().join("other");
    Repository::create(&other, BlockSize::DEFAULT).expect("created");
    let repository = scene.open();
    let error = Repair::plan(&repository, &other, None, &Silent).err().expect("no copy");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn flips_at_random_are_repaired() {
    let mut random = Random::new(9);
    for round in 0..if is_long() { 300 } else { 20 } {
        let scene = Scene::new(131_072);
        let content = small_disk(round, 3 * MIB + 700);
        scene.capture(&content, Effort::Auto);
        let before = scene.everything();
        for pack in scene.packs() {
            let size = fs::metadata(&pack).expect("there").len();
            let place = usize::try_from(random.below(size)).expect("small");
            damage(&pack, place..place + 1);
        }
        let report = scene.repair(&scene.folder.path().join("disk"));
        assert_eq!(report.left, [], "round {round}");
        assert_eq!(changes(&before, &scene.everything()), [""; 0]);
        assert_eq!(unsound(&scene.open()), None);
    }
}
