//! Damage of what is stored does not spread to later images: what is met damaged is stored again
//! from a disk that still has it, whoever met it, and in whatever way the next image is made.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, ByteCount, ByteRange, ChangeMap, Granule, Result, Silent};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, ChangeTracker, Copied, Findings, ParentChoice, Restore,
    RestoreOptions, Since, VerifyOptions, verify,
};

use imgx_engine::store::pack::read_table;
use imgx_engine::store::storage::{Folder, ObjectName};
use imgx_engine::store::{FrameKind, ImageId, LocalStorage, Repository, Storage};
use imgx_fixtures::pattern::incompressible;
use serde_json::json;

use support::{MIB, differs, file, folder_in_memory, is_long, read_pieces};

const BLOCK: u32 = 16 * 1024;

/// A disk, and a repository with an image of it.
struct Scene {
    folder: tempfile::TempDir,
    content: Vec<u8>,
    disk: PathBuf,
}

impl Scene {
    fn new(content: Vec<u8>) -> Self {
        let folder = folder_in_memory();
        let disk = file(folder.path(), "disk", &content);
        let scene = Self { folder, content, disk };
        let block_size = BlockSize::new(BLOCK).expect("valid");
        Repository::create(&scene.root(), block_size).expect("created");
        scene
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    /// Opened anew, with an index that lasts, as a command line has it.
    fn open(&self) -> Repository {
        let repository = Repository::open(&self.root()).expect("opens");
        repository.with_cache(&self.folder.path().join("cache"))
    }

    fn capture(&self, options: CaptureOptions) -> CaptureReport {
        let options = CaptureOptions { name: Some("disk".to_owned()), ..options };
        let repository = self.open();
        let plan = Capture::plan(&repository, &self.disk, options, &Silent).expect("planned");
        plan.run(&Silent).expect("captured")
    }

    /// As an incremental image of which a tracker says that only `changed` was written.
    fn capture_changed(&self, changed: Vec<ByteRange>) -> CaptureReport {
        let repository = self.open();
        let options = CaptureOptions {
            name: Some("disk".to_owned()),
            audit: Some(0),
            ..CaptureOptions::default()
        };
        let tracker = Told(changed, ByteCount(self.content.len() as u64));
        let plan = Capture::plan(&repository, &self.disk, options, &Silent).expect("planned");
        plan.with_tracker(Box::new(tracker)).run(&Silent).expect("captured")
    }

    fn is_whole(&self, report: &CaptureReport) {
        let repository = self.open();
        let image = repository.image(report.id).expect("committed");
        assert_eq!(differs(&repository, &image, &self.content), None);
    }

    fn change(&mut self, place: usize, bytes: &[u8]) -> ByteRange {
        self.content[place..place + bytes.len()].copy_from_slice(bytes);
        fs::write(&self.disk, &self.content).expect("written");
        ByteRange::new(place as u64, bytes.len() as u64)
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.root().join("packs")).expect("listed").flatten();
        let packs = packs.map(|pack| pack.path());
        packs.filter(|path| path.extension().is_some_and(|kind| kind == "pack")).collect()
    }

    /// The first byte of the payload of each frame of blocks, with the frame's codec.
    fn frames(&self, pack: &Path) -> Vec<(usize, u8)> {
        let storage = LocalStorage::open(&self.root()).expect("opens");
        let name = pack.file_name().and_then(|name| name.to_str()).expect("plain");
        let object = storage.open(&ObjectName::new(Folder::Packs, name)).expect("opens");
        let table = read_table(&*object).expect("sound");
        let bytes = fs::read(pack).expect("read");
        let firsts = table.iter().filter(|entry| entry.member == 0);
        let blocks = firsts.filter(|entry| entry.kind == FrameKind::Block);
        blocks
            .map(|entry| {
                (usize::try_from(entry.end() - 1).expect("small"), bytes[entry.offset as usize + 5])
            })
            .collect()
    }

    fn marks(&self) -> usize {
        let found = fs::read_dir(self.root().join("packs")).expect("listed").flatten();
        found.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "bad")).count()
    }
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[place] ^= 0x10;
    fs::write(path, bytes).expect("written");
}

struct Told(Vec<ByteRange>, ByteCount);

impl ChangeTracker for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn checkpoint(&mut self, _since: Since<'_>) -> Result<Findings> {
        let mut map = ChangeMap::new(self.1, Granule::new(4096)?)?;
        self.0.iter().for_each(|range| map.set(*range));
        Ok(Findings { changes: Ok(map), evidence: json!({"by": "test"}) })
    }

    fn is_written_since(&self, _ranges: &[ByteRange]) -> Result<bool> {
        Ok(false)
    }

    fn commit(&mut self, _copied: &Copied, _image: ImageId) -> Result<()> {
        Ok(())
    }

    fn distrust(&mut self) -> Result<()> {
        panic!("it was right");
    }
}

/// Meets what is damaged.
type Find = fn(&Scene);

/// Who meets the damage before the next capture.
const FINDERS: [(&str, Find); 5] = [
    ("nobody", |_| {}),
    ("verify", |scene| {
        let report = verify(&scene.open(), &VerifyOptions::default(), &Silent).expect("read");
        assert!(report.damage > 0);
    }),
    ("quick verify", |scene| {
        let options = VerifyOptions { quick: true, ..VerifyOptions::default() };
        assert!(verify(&scene.open(), &options, &Silent).expect("read").damage > 0);
    }),
    ("restore", |scene| {
        let repository = scene.open();
        let image = repository.resolve("disk", &Silent).expect("there");
        let target = scene.folder.path().join("restored");
        let _earlier = fs::remove_file(&target);
        let options = RestoreOptions::default();
        let plan = Restore::plan(&repository, &image, &target, options).expect("planned");
        assert!(plan.run(&Silent).expect("damage is no error").damaged > 0);
    }),
    ("a reader", |scene| {
        let repository = scene.open();
        let image = repository.resolve("disk", &Silent).expect("there");
        let pieces = read_pieces(&repository.reader(&image), MIB);
        assert!(pieces.iter().any(|(_, piece)| piece.is_err()));
    }),
];

#[test]
fn an_image_of_an_intact_disk_is_whole_whatever_is_damaged_of_earlier_ones() {
    for (finder, find) in FINDERS {
        for parent in [ParentChoice::Auto, ParentChoice::None] {
            let scene = Scene::new(incompressible(1, 6 * MIB));
            scene.capture(CaptureOptions::default());
            let pack = scene.packs().remove(0);
            let frames = scene.frames(&pack);
            for (place, _) in &frames[1..3] {
                flip(&pack, *place);
            }
            find(&scene);
            println!("{finder}, {parent:?}");
            let report = scene.capture(CaptureOptions { parent, ..CaptureOptions::default() });
            let cost = report.manifest.cost;
            assert_eq!(cost.fresh, 2 << 20, "only what is damaged is stored anew");
            scene.is_whole(&report);
            // And from the new copy on.
            let again = scene.capture(CaptureOptions::default());
            assert_eq!(again.manifest.cost.fresh, 0);
            scene.is_whole(&again);
        }
    }
}

#[test]
fn an_incremental_reads_anew_what_was_found_damaged_of_its_parent() {
    for (finder, find) in &FINDERS[1..] {
        println!("{finder}");
        let mut scene = Scene::new(incompressible(2, 12 * MIB));
        scene.capture(CaptureOptions::default());
        let pack = scene.packs().remove(0);
        flip(&pack, scene.frames(&pack)[5].0);
        find(&scene);
        let changed = scene.change(MIB / 2, &incompressible(3, 4096));
        let report = scene.capture_changed(vec![changed]);
        assert_eq!(report.manifest.tracker, "told", "{:?}", report.manifest.tracker_doubt);
        assert_eq!(report.manifest.cost.read, (1 << 20) + u64::from(BLOCK));
        scene.is_whole(&report);
    }
}

#[test]
fn what_stands_on_a_damaged_base_is_stored_anew() {
    for (_, find) in &FINDERS {
        for is_tracked in [false, true] {
            let mut scene = Scene::new(incompressible(4, 4 * MIB));
            scene.capture(CaptureOptions::default());
            let base = scene.packs().remove(0);
            // A page of every fourth block.
            let changed: Vec<ByteRange> = (0..64)
                .map(|number| {
                    scene.change(number * 4 * 16_384, &incompressible(number as u64, 512))
                })
                .collect();
            let second = scene.capture_changed(changed);
            assert!(second.manifest.cost.stored < 512 << 10, "no deltas");
            let is_delta = |(_, codec): &(usize, u8)| *codec == 2;
            let packs = scene.packs();
            assert!(packs.iter().any(|pack| scene.frames(pack).iter().any(is_delta)));
            flip(&base, scene.frames(&base)[2].0);
            find(&scene);
            let third = if is_tracked && scene.marks() > 0 {
                scene.capture_changed(Vec::new())
            } else {
                scene.capture(CaptureOptions::default())
            };
            scene.is_whole(&third);
        }
    }
}

#[test]
fn a_pack_that_is_gone_is_not_referred_to() {
    let mut scene = Scene::new(incompressible(5, 4 * MIB));
    scene.capture(CaptureOptions::default());
    fs::remove_file(scene.packs().remove(0)).expect("removed");
    let repository = scene.open();
    let image = repository.resolve("disk", &Silent).expect("listed");
    assert!(read_pieces(&repository.reader(&image), MIB).iter().all(|(_, piece)| piece.is_err()));
    let changed = scene.change(0, &incompressible(6, 4096));
    let report = scene.capture_changed(vec![changed]);
    scene.is_whole(&report);
}

#[test]
fn an_unmarked_damage_anywhere_is_found_by_an_audit_in_the_end() {
    let scene = Scene::new(incompressible(7, 4 * MIB));
    scene.capture(CaptureOptions::default());
    let pack = scene.packs().remove(0);
    flip(&pack, scene.frames(&pack)[1].0);
    let repository = scene.open();
    let options = CaptureOptions { name: Some("disk".to_owned()), ..CaptureOptions::default() };
    let tracker = Told(Vec::new(), ByteCount(scene.content.len() as u64));
    let plan = Capture::plan(&repository, &scene.disk, options, &Silent).expect("planned");
    let report = plan.with_tracker(Box::new(tracker)).run(&Silent).expect("captured");
    assert!(report.manifest.tracker_doubt.is_some_and(|doubt| doubt.contains("damaged")));
    assert!(report.alarm.is_none(), "the tracker was right");
    let image = scene.open().image(report.id).expect("committed");
    assert_eq!(differs(&scene.open(), &image, &scene.content), None);
}

#[test]
fn marks_go_when_the_pack_is_sound_again() {
    let scene = Scene::new(incompressible(8, 3 * MIB));
    scene.capture(CaptureOptions::default());
    let pack = scene.packs().remove(0);
    let place = scene.frames(&pack)[1].0;
    flip(&pack, place);
    (FINDERS[1].1)(&scene);
    assert_eq!(scene.marks(), 1);
    flip(&pack, place);
    assert_eq!(verify(&scene.open(), &VerifyOptions::default(), &Silent).expect("read").damage, 0);
    assert_eq!(scene.marks(), 0);
    assert_eq!(scene.capture(CaptureOptions::default()).manifest.cost.fresh, 0);
}

#[test]
fn a_read_only_repository_is_read_without_marks() {
    let scene = Scene::new(incompressible(9, 2 * MIB));
    scene.capture(CaptureOptions::default());
    let pack = scene.packs().remove(0);
    flip(&pack, scene.frames(&pack)[0].0);
    let folder = scene.root().join("packs");
    imgx_fixtures::tool::run("chattr", &["+i", folder.to_str().expect("plain")]).ok();
    (FINDERS[3].1)(&scene);
    imgx_fixtures::tool::run("chattr", &["-i", folder.to_str().expect("plain")]).ok();
    scene.is_whole(&scene.capture(CaptureOptions::default()));
}

#[test]
fn flips_at_random_never_cost_a_later_image_anything() {
    let rounds = if is_long() { 200 } else { 12 };
    let mut random = imgx_fixtures::pattern::Random::new(11);
    for round in 0..rounds {
        let mut scene = Scene::new(support::small_disk(round, 3 * MIB + 700));
        scene.capture(CaptureOptions::default());
        scene.change(100_000, &incompressible(round, 9000));
        scene.capture(CaptureOptions::default());
        for pack in scene.packs() {
            let size = fs::metadata(&pack).expect("there").len();
            flip(&pack, usize::try_from(random.below(size)).expect("small"));
        }
        let (_, find) = FINDERS[usize::try_from(round % 3).expect("small")];
        if round % 3 != 0 {
            find(&scene);
        }
        scene.is_whole(&scene.capture(CaptureOptions::default()));
    }
}

#[test]
fn an_image_that_avoids_all_that_is_damaged_is_not_walked_again() {
    let mut scene = Scene::new(incompressible(12, 4 * MIB));
    scene.capture(CaptureOptions::default());
    let pack = scene.packs().remove(0);
    let frames = scene.frames(&pack);
    flip(&pack, frames[1].0);
    (FINDERS[1].1)(&scene);
    let second = scene.capture_changed(Vec::new());
    let avoids = second.manifest.avoids.clone().expect("there is a mark");
    scene.is_whole(&second);
    let third = scene.capture_changed(Vec::new());
    assert_eq!(third.manifest.avoids.as_ref(), Some(&avoids));
    assert_eq!(third.manifest.cost.read, 0);
    // More is damaged, which the parent does not avoid yet.
    flip(&pack, frames[2].0);
    (FINDERS[1].1)(&scene);
    let changed = scene.change(0, &incompressible(13, 512));
    let fourth = scene.capture_changed(vec![changed]);
    assert_ne!(fourth.manifest.avoids, Some(avoids));
    assert_eq!(fourth.manifest.cost.read, (1 << 20) + u64::from(BLOCK));
    scene.is_whole(&fourth);
}
