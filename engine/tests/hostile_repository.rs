//! Repositories that somebody made to harm, or that fell into disorder: whatever lies there, every
//! job ends, in memory and work that follow from what is really there.

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;

use faulty::FaultyStorage;
use imgx_engine::base::{BlockIndex, BlockSize, ByteCount, ByteRange, ErrorKind, Silent};
use imgx_engine::job::{
    DiskMap, Repair, Restore, RestoreOptions, Salvage, VerifyOptions, VerifyReport, verify,
};
use imgx_engine::store::frame::Member;
use imgx_engine::store::index::Index;
use imgx_engine::store::manifest::{Manifest, TreeRoot, VolumeUse};
use imgx_engine::store::node::Node;
use imgx_engine::store::repository::Image;
use imgx_engine::store::storage::LocalStorage;
use imgx_engine::store::tree::{NodeSink, disk_digest};
use imgx_engine::store::{
    Compression, Encoder, Entry, FrameKind, Repository, StoreWriter, difference,
};
use imgx_fixtures::pattern::incompressible;
use serde_json::json;
use support::{captured, file, image_named, unsound};
use xxhash_rust::xxh3::xxh3_64;

/// What every tree here claims to be.
const EXBIBYTE: u64 = 1 << 60;
const BLOCK: u64 = 128 << 10;

struct Stage {
    folder: tempfile::TempDir,
    repository: Repository,
}

impl Stage {
    fn new() -> Self {
        Self::within(tempfile::tempdir().expect("a temporary folder"))
    }

    fn within(folder: tempfile::TempDir) -> Self {
        let root = folder.path().join("repository");
        let repository = Repository::create(&root, BlockSize::DEFAULT).expect("a repository");
        // Its block, of noise, is what all trees are made of.
        let disk = file(folder.path(), "disk", &incompressible(1, 128 << 10));
        captured(&repository, &disk, "block");
        Self { folder, repository }
    }

    fn block(&self) -> Image {
        image_named(&self.repository, "block").expect("it was captured")
    }

    /// A block that is stored.
    fn stored(&self) -> Entry {
        let (level, root) = self.block().manifest.root();
        assert_eq!(level, 0);
        let stored = *root.stored().expect("a leaf");
        use imgx_engine::store::tree::NodeSource;
        let leaf = self.repository.reader(&self.block()).frames().node(&stored).expect("read");
        leaf.child(0).expect("a block").clone()
    }

    /// An image of an exbibyte, in five nodes: each holds its only child wherever `leaf` is true.
    fn exbibyte(&self, name: &str, leaf: &[Entry]) -> Image {
        let index = Index::open(self.repository.config().id, None);
        let mut writer = StoreWriter::new(&self.repository, index.into()).expect("a writer");
        let mut node = Node::new(0);
        for number in 0..512 {
            node.push(leaf[number % leaf.len()].clone(), 1);
        }
        let mut entry = Entry::Stored(writer.put_node(&node, BlockIndex(0)).expect("put"));
        for level in 1..=4 {
            let mut node = Node::new(level);
            node.push(entry, if level == 4 { 128 } else { 512 });
            entry = Entry::Stored(writer.put_node(&node, BlockIndex(0)).expect("put"));
        }
        writer.end().expect("stored");
        let (size, keys) = (ByteCount(EXBIBYTE), self.repository.keys());
        let manifest = Manifest {
            name: name.to_owned(),
            size,
            content: disk_digest(&keys, (size, BlockSize::DEFAULT), (4, &entry)),
            tree: TreeRoot::new(4, &entry),
            layout: json!({"sector_size": 512, "volumes": [], "notes": []}),
            ..self.block().manifest
        };
        self.publish(&manifest)
    }

    fn publish(&self, manifest: &Manifest) -> Image {
        let bytes = manifest.encode();
        let keys = self.repository.keys();
        let id = keys.image_id(&bytes);
        // And a copy of it in a pack.
        let (mut frame, index) = (Vec::new(), Index::open(self.repository.config().id, None));
        let length = u32::try_from(bytes.len()).expect("short");
        let kind = (FrameKind::Manifest, &[Member { digest: keys.manifest(&bytes), length }][..]);
        let compression = Compression::Level(1);
        Encoder::new().encode(kind, &bytes, compression, &mut frame).expect("encoded");
        let mut writer = StoreWriter::new(&self.repository, index.into()).expect("a writer");
        writer.put(&frame).expect("put");
        writer.end().expect("stored");
        fs::write(self.root().join(format!("images/{id}.json")), &bytes).expect("published");
        self.repository.image(id).expect("it is one")
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("repository")
    }

    fn packs(&self) -> Vec<std::path::PathBuf> {
        let listed = fs::read_dir(self.root().join("packs")).expect("listed");
        let paths = listed.map(|entry| entry.expect("listed").path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "pack")).collect()
    }

    fn verify(&self) -> VerifyReport {
        verify(&self.repository, &VerifyOptions::default(), &Silent).expect("it ends")
    }
}

#[test]
fn a_tree_of_five_nodes_that_claims_an_exbibyte_is_mapped_planned_and_verified() {
    let stage = Stage::new();
    let stored = stage.stored();
    let full = stage.exbibyte("full", std::slice::from_ref(&stored));
    let half = stage.exbibyte("half", &[stored, Entry::Unallocated]);
    for (image, content) in [(&full, EXBIBYTE), (&half, EXBIBYTE / 2)] {
        let reader = stage.repository.reader(image);
        let map = DiskMap::read((None, &reader), u64::MAX, &Silent).expect("it ends");
        assert_eq!((map.total.stored, map.total.length()), (content, EXBIBYTE));
        let [section] = map.sections.as_slice() else { panic!("{} sections", map.sections.len()) };
        let of_cell = map.cell_length.0 / (EXBIBYTE / content);
        assert!(section.cells.iter().all(|cell| cell.stored == of_cell));
        let target = stage.folder.path().join("target");
        let plan = Restore::plan(&stage.repository, image, &target, RestoreOptions::default());
        let plan = plan.expect("it ends").describe().clone();
        assert_eq!((plan.content, plan.zero), (content, EXBIBYTE - content));
        let _planned = fs::remove_file(target);
    }
    assert_eq!(unsound(&stage.repository), None);
    let salvage = Salvage::new(&stage.repository, &Silent).look().expect("it ends");
    let reachable = salvage.images.iter().map(|image| image.reachable).max();
    assert_eq!(reachable, Some(EXBIBYTE));
}

#[test]
fn trees_that_claim_an_exbibyte_are_compared_and_what_differs_is_merged() {
    let stage = Stage::new();
    let stored = stage.stored();
    let full = stage.exbibyte("full", std::slice::from_ref(&stored));
    let zero = stage.exbibyte("zero", &[Entry::Zero, Entry::Unallocated]);
    let half = stage.exbibyte("half", &[stored, Entry::Zero]);
    let readers = [&full, &zero, &half].map(|image| stage.repository.reader(image));
    let [full, zero, half] = &readers;
    let mut ranges = Vec::new();
    difference([zero, full], &Silent, &mut |range: ByteRange| {
        ranges.push(range);
        Ok(())
    })
    .expect("it ends");
    assert_eq!(ranges, [ByteRange { start: 0, end: EXBIBYTE }]);
    for (before, after, changed) in [(zero, full, EXBIBYTE), (full, half, EXBIBYTE / 2)] {
        let map = DiskMap::read((Some(before), after), 4096, &Silent).expect("it ends");
        assert_eq!(map.total.changed, changed);
        let cells = map.sections.iter().flat_map(|section| &section.cells);
        assert!(cells.clone().all(|cell| cell.changed == cells.clone().next().unwrap().changed));
    }
    // One by one there are more of them than anybody can be told.
    let mut told = 0_u64;
    let outcome = difference([full, half], &Silent, &mut |_range: ByteRange| {
        told += 1;
        Ok(())
    });
    assert_eq!(outcome.expect_err("too many").kind(), ErrorKind::Limit);
    assert!(told > 1 << 16, "{told}");
}

#[test]
fn what_is_lost_of_an_exbibyte_is_told_and_no_more_than_can_be_read() {
    let stage = Stage::new();
    let stored = stage.stored();
    stage.exbibyte("full", std::slice::from_ref(&stored));
    stage.exbibyte("half", &[stored.clone(), Entry::Unallocated]);
    let place = stored.stored().expect("stored").place;
    let pack = stage.root().join(format!("packs/{}.pack", place.pack));
    let pack = OpenOptions::new().read(true).write(true).open(pack).expect("opened");
    let mut byte = [0];
    let at = u64::from(place.offset) + 1000;
    pack.read_exact_at(&mut byte, at).expect("read");
    pack.write_all_at(&[byte[0] ^ 1], at).expect("written");
    let report = stage.verify();
    let lost = |name: &str| {
        let ranges = report.lost.iter().filter(|lost| lost.name == name);
        let ranges: Vec<ByteRange> = ranges.map(|lost| lost.range).collect();
        (ranges.len(), ranges.first().copied(), ranges.last().map(|last| last.end))
    };
    let whole = ByteRange { start: 0, end: EXBIBYTE };
    assert_eq!(lost("full"), (1, Some(whole), Some(EXBIBYTE)));
    let (count, first, end) = lost("half");
    assert!((2..=1 << 16).contains(&count), "{count}");
    assert_eq!(first, Some(ByteRange { start: 0, end: BLOCK }));
    assert!(end.is_some_and(|end| end >= EXBIBYTE - BLOCK), "{end:?}");
    // A node that is lost is met as often.
    for pack in stage.packs() {
        let length = fs::read(&pack).expect("read").len();
        let pack = OpenOptions::new().write(true).open(pack).expect("opened");
        pack.write_all_at(&incompressible(2, length - 48), 48).expect("written");
    }
    assert!(stage.verify().damage > 0);
}

#[test]
fn a_sparse_pack_of_a_tebibyte_and_garbage_are_looked_through() {
    let stage = Stage::new();
    let name = |digit: &str| stage.root().join(format!("packs/{}.pack", digit.repeat(32)));
    let sparse = File::create(name("a")).expect("made");
    sparse.set_len(1 << 40).expect("made");
    sparse.write_all_at(&incompressible(4, 70_000), 3 << 30).expect("written");
    // What looks like frames all over, and is none.
    fs::write(name("b"), b"IMGF".repeat(1 << 20)).expect("written");
    fs::write(name("c"), incompressible(3, 8 << 20)).expect("written");
    fs::write(name("d"), b"short").expect("written");
    fs::write(name("e"), b"").expect("written");
    let report = stage.verify();
    assert!(report.damage >= 5, "{report:?}");
    assert_eq!(report.lost, []);
    let salvage = Salvage::new(&stage.repository, &Silent).look().expect("it ends");
    assert_eq!(salvage.images.len(), 1);
    // A capture goes by them.
    let disk = file(stage.folder.path(), "other", &incompressible(9, 300_000));
    captured(&stage.repository, &disk, "other");
}

#[test]
fn packs_that_claim_more_bytes_together_than_can_be_counted_are_damaged_and_no_more() {
    // Few other filesystems have files of that length.
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no filesystem in memory");
        return;
    };
    let stage = Stage::within(folder);
    let longest = i64::MAX as u64;
    for digit in ["a", "b", "c"] {
        let name = stage.root().join(format!("packs/{}.pack", digit.repeat(32)));
        let pack = File::create(name).expect("made");
        pack.set_len(longest).expect("as long as files are");
    }
    let report = stage.verify();
    assert_eq!((report.read, report.packs), (u64::MAX, stage.packs().len()));
    assert!(report.damage >= 3, "{report:?}");
    assert_eq!(report.lost, []);
    let salvage = Salvage::new(&stage.repository, &Silent).look().expect("it ends");
    assert_eq!(salvage.images.len(), 1);
    let disk = file(stage.folder.path(), "other", &incompressible(9, 300_000));
    captured(&stage.repository, &disk, "other");
    let repair = Repair::plan(&stage.repository, &disk, None, &Silent).expect("it ends");
    let report = repair.run(&Silent).expect("it ends");
    assert_eq!((report.read, report.repaired), (u64::MAX, 0), "{report:?}");
    assert_eq!(report.left.len(), 3, "{report:?}");
}

/// Has a segment of the index claim so many records, and words of its filter, and be as long as
/// that takes, in holes.
fn claim(segment: &Path, records: u64, words: u64) {
    const PAGE: usize = 4096;
    let file = OpenOptions::new().read(true).write(true).open(segment).expect("opened");
    let mut page = [0; PAGE];
    file.read_exact_at(&mut page, 0).expect("read");
    page[16..24].copy_from_slice(&records.to_le_bytes());
    page[24..32].copy_from_slice(&words.to_le_bytes());
    let checksum = xxh3_64(&page[..PAGE - 8]);
    page[PAGE - 8..].copy_from_slice(&checksum.to_le_bytes());
    file.write_all_at(&page, 0).expect("written");
    let packs = u64::from(u32::from_le_bytes(page[12..16].try_into().expect("four bytes")));
    let pages = records.div_ceil(85);
    file.set_len((pages + 1) * PAGE as u64 + (pages + words) * 8 + packs * 24 + 8).expect("cut");
}

#[test]
fn a_segment_of_the_index_that_claims_what_is_a_hole_is_not_read() {
    let stage = Stage::new();
    let caches = stage.folder.path().join("caches");
    let repository = Repository::open(&stage.root()).expect("opened").with_cache(&caches);
    let id = repository.config().id;
    let folder = caches.join(id.to_string());
    let segments = || {
        let listed = fs::read_dir(&folder).expect("listed").map(|entry| entry.expect("listed"));
        listed.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    for (round, (records, words)) in [(1, 1 << 40), (85 << 30, 8), (1, 1 << 10)].iter().enumerate()
    {
        let disk = file(stage.folder.path(), "other", &incompressible(9, 300_000));
        captured(&repository, &disk, &format!("round-{round}"));
        assert!(!Index::open(id, Some(&folder)).is_empty());
        segments().iter().for_each(|segment| claim(segment, *records, *words));
        assert!(Index::open(id, Some(&folder)).is_empty(), "{records} {words}");
        assert_eq!(segments(), Vec::<std::path::PathBuf>::new());
    }
    assert_eq!(unsound(&repository), None);
}

#[test]
fn names_that_are_foreign_are_not_held() {
    const FOREIGN: usize = 3000;
    let stage = Stage::new();
    for (folder, ends) in [("images", ""), ("packs", ".pack"), ("locks", ".lock")] {
        for number in 0..FOREIGN {
            let name = format!("{folder}/foreign-{number}{ends}");
            File::create(stage.root().join(name)).expect("made");
        }
    }
    let storage = LocalStorage::open(&stage.root()).expect("opened");
    let storage = FaultyStorage::new(Arc::new(storage));
    let repository = Repository::open_in(Arc::new(storage.clone())).expect("opened");
    let disk = file(stage.folder.path(), "other", &incompressible(9, 300_000));
    captured(&repository, &disk, "other");
    assert_eq!(unsound(&repository), None);
    assert!((1..1000).contains(&storage.listed()), "{} were held", storage.listed());
}

#[test]
fn manifests_take_memory_in_proportion_and_list_no_more_than_captures_write() {
    let stage = Stage::new();
    let manifest = stage.block().manifest;
    // As much as one may have, of what takes the most memory.
    let wild = "{\"\":0},".repeat((14 << 20) / 7);
    let wild: serde_json::Value =
        serde_json::from_str(&format!("[{}0]", &wild[..7 * 20_000])).expect("JSON");
    let image = stage.publish(&Manifest { layout: wild.clone(), ..manifest.clone() });
    assert_eq!(image.manifest.layout, wild, "what is ordinary is kept");
    let text = "{\"\":0},".repeat((14 << 20) / 7);
    let bytes = manifest.encode();
    let text = String::from_utf8(bytes)
        .expect("JSON")
        .replace("\"layout\": {", &format!("\"tracking\": [{text}0],\n  \"layout\": {{"));
    let keys = stage.repository.keys();
    let id = keys.image_id(text.as_bytes());
    let large = Manifest::decode(text.as_bytes(), id, &keys).expect("an image all the same");
    assert_eq!(large.tracking, None, "nothing is known of it");
    assert!(large.memory() < 64 << 20, "{}", large.memory());

    let volume = VolumeUse {
        volume: String::new(),
        kind: String::new(),
        unallocated: 0,
        doubt: None,
        skipped: Vec::new(),
    };
    let many = Manifest { allocation: vec![volume; 70_000], ..manifest.clone() };
    let range = ByteRange::new(0, 512).into();
    let ranges = Manifest { unreadable: vec![range; 70_000], ..manifest };
    for wild in [many, ranges] {
        let bytes = wild.encode();
        let error = Manifest::decode(&bytes, keys.image_id(&bytes), &keys).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

/// Puts something in the place of `path` that is no regular file.
fn replace(path: &Path, kind: &str) {
    let _there = fs::remove_file(path);
    match kind {
        "pipe" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("made"),
        "folder" => fs::create_dir(path).expect("made"),
        "loop" => symlink(path, path).expect("made"),
        "device" => symlink("/dev/zero", path).expect("made"),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_no_regular_file_is_no_object_and_is_not_waited_for() {
    for kind in ["pipe", "folder", "loop", "device"] {
        let stage = Stage::new();
        let place = stage.stored().stored().expect("stored").place;
        for name in ["images/0123456789abcdef0123456789abcdef.json", "locks/0123456789abcdef"] {
            replace(&stage.root().join(name), kind);
        }
        let foreign = stage.root().join(format!("packs/{}.pack", "f".repeat(32)));
        replace(&foreign, kind);
        replace(&stage.root().join(format!("packs/{}.partial", "e".repeat(32))), kind);
        assert_eq!(stage.repository.images().expect("listed").images.len(), 1);
        let disk = file(stage.folder.path(), "other", &incompressible(9, 300_000));
        captured(&stage.repository, &disk, "other");
        assert_eq!(unsound(&stage.repository), None, "{kind}");
        replace(&stage.root().join(format!("packs/{}.pack", place.pack)), kind);
        let report = stage.verify();
        assert!(report.damage > 0 && !report.lost.is_empty(), "{kind}: {report:?}");
        replace(&stage.root().join("config"), kind);
        let error = Repository::open(&stage.root()).map(|_| ()).expect_err("no repository");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{kind}: {error}");
    }
}
