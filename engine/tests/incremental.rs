//! Incremental images: what a tracker names is read, all else is shared, and the image is the
//! disk nonetheless.

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use imgx_engine::base::{
    BlockSize, ByteCount, ByteRange, ChangeMap, ErrorKind, Granule, Result, Silent,
};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, ChangeTracker, Copied, Findings, ParentChoice, Since,
    VerifyOptions, verify,
};
use imgx_engine::store::repository::Image;
use imgx_engine::store::{ImageId, Repository};
use imgx_fixtures::pattern::incompressible;
use serde_json::json;
use support::{KIB, MIB, differs, small_disk, unsound};

/// What a scripted tracker says, and what became of it.
#[derive(Default)]
struct Script {
    changes: Vec<ByteRange>,
    doubt: Option<String>,
    since: Vec<ByteRange>,
    commits: usize,
    is_distrusted: bool,
}

/// Says what it is told to say.
struct Scripted(Arc<Mutex<Script>>, ByteCount);

impl ChangeTracker for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn checkpoint(&mut self, _since: Since<'_>) -> Result<Findings> {
        let script = self.0.lock().expect("no panic");
        let mut map = ChangeMap::new(self.1, Granule::new(4096)?)?;
        script.changes.iter().for_each(|range| map.set(*range));
        let changes = script.doubt.clone().map_or(Ok(map), Err);
        Ok(Findings { changes, evidence: json!({"by": "script"}) })
    }

    fn is_written_since(&self, ranges: &[ByteRange]) -> Result<bool> {
        let script = self.0.lock().expect("no panic");
        let touches =
            |range: &ByteRange| script.since.iter().any(|s| s.intersection(range).is_some());
        Ok(ranges.iter().any(touches))
    }

    fn commit(&mut self, _copied: &Copied, _image: ImageId) -> Result<()> {
        let mut script = self.0.lock().expect("no panic");
        script.commits += 1;
        script.changes.clear();
        Ok(())
    }

    fn distrust(&mut self) -> Result<()> {
        self.0.lock().expect("no panic").is_distrusted = true;
        Ok(())
    }
}

/// A disk's file, a repository, and what the tracker is to say.
struct Stage {
    folder: tempfile::TempDir,
    repository: Repository,
    disk: PathBuf,
    script: Arc<Mutex<Script>>,
}

impl Stage {
    fn new(content: &[u8], block_size: u32) -> Self {
        let folder = support::folder_in_memory();
        let disk = support::file(folder.path(), "disk", content);
        let block_size = BlockSize::new(block_size).expect("valid");
        let repository =
            Repository::create(&folder.path().join("repository"), block_size).expect("created");
        Self { folder, repository, disk, script: Arc::default() }
    }

    /// Writes to the disk, and has the tracker know of it.
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.write_unseen(offset, bytes);
        let range = ByteRange::new(offset as u64, bytes.len() as u64);
        self.script.lock().expect("no panic").changes.push(range);
    }

    fn write_unseen(&self, offset: usize, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.disk).expect("opened");
        file.write_all_at(bytes, offset as u64).expect("written");
    }

    fn content(&self) -> Vec<u8> {
        fs::read(&self.disk).expect("read")
    }

    fn try_capture(&self, audit: u64) -> Result<CaptureReport> {
        let size = ByteCount(fs::metadata(&self.disk).expect("there").len());
        let options = CaptureOptions { audit: Some(audit), ..CaptureOptions::default() };
        Capture::plan(&self.repository, &self.disk, options, &Silent)?
            .with_tracker(Box::new(Scripted(Arc::clone(&self.script), size)))
            .run(&Silent)
    }

    fn capture(&self, audit: u64) -> CaptureReport {
        self.try_capture(audit).expect("captured")
    }

    fn image(&self, report: &CaptureReport) -> Image {
        self.repository.image(report.id).expect("committed")
    }

    /// The image is the disk: byte by byte, and by the digest of an image that read everything.
    fn check(&self, report: &CaptureReport) {
        let image = self.image(report);
        assert_eq!(differs(&self.repository, &image, &self.content()), None);
        let options = CaptureOptions {
            name: Some("whole".to_owned()),
            parent: ParentChoice::None,
            ..CaptureOptions::default()
        };
        let whole = Capture::plan(&self.repository, &self.disk, options, &Silent);
        let whole = whole.expect("planned").run(&Silent).expect("captured");
        assert_eq!(whole.manifest.content, report.manifest.content);
    }
}

/// Places that look random, the same each time.
fn places(seed: u64, count: usize, below: usize) -> Vec<usize> {
    let bytes = incompressible(seed, count * 8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight"));
    bytes
        .chunks(8)
        .map(|bytes| usize::try_from(word(bytes) % below as u64).expect("small"))
        .collect()
}

#[test]
fn generations_of_changes_are_the_disk_and_read_only_what_changed() {
    for (length, block_size) in [(20 * MIB + 777, 16_384), (40 * MIB, 131_072), (3 * KIB, 16_384)] {
        let stage = Stage::new(&small_disk(1, length), block_size);
        let first = stage.capture(0);
        assert_eq!((first.manifest.tracker.as_str(), first.manifest.parent), ("compare", None));
        for generation in 1..=12_u64 {
            let mut blocks = std::collections::BTreeSet::new();
            for place in places(generation, 9, length) {
                let bytes = incompressible(generation, (5 * KIB).min(length - place));
                blocks.extend(
                    place / block_size as usize..=(place + bytes.len() - 1) / block_size as usize,
                );
                stage.write(place, &bytes);
            }
            let report = stage.capture(1 << 20);
            let manifest = &report.manifest;
            assert_eq!((manifest.tracker.as_str(), report.alarm.as_ref()), ("scripted", None));
            assert_eq!(manifest.tracking, Some(json!({"by": "script"})));
            assert!(manifest.cost.read <= blocks.len() as u64 * u64::from(block_size));
            assert_eq!(manifest.cost.read + manifest.cost.unchanged, length as u64);
            stage.check(&report);
        }
        let nothing = stage.capture(0);
        assert_eq!((nothing.manifest.cost.read, nothing.manifest.cost.fresh), (0, 0));
        stage.check(&nothing);
        assert_eq!(stage.script.lock().expect("no panic").commits, 14);
        assert_eq!(unsound(&stage.repository), None);
    }
}

#[test]
fn pages_that_changed_cost_little_more_than_their_bytes() {
    let length = 256 * MIB;
    let stage = Stage::new(&incompressible(3, length), 131_072);
    stage.capture(0);
    for generation in 1..=3 {
        let pages: std::collections::BTreeSet<usize> =
            places(generation, 200, length / 4096).into_iter().collect();
        for page in &pages {
            stage.write(page * 4096, &incompressible(generation << 32 | *page as u64, 4096));
        }
        let before = folder_size(&stage.folder.path().join("repository"));
        let report = stage.capture(0);
        let grown = folder_size(&stage.folder.path().join("repository")) - before;
        let share = grown as f64 / (pages.len() * 4096) as f64;
        println!("generation {generation}: {share:.3} of the pages' bytes");
        assert!(share <= 1.5, "{share} of the bytes of {} pages", pages.len());
        assert_eq!(differs(&stage.repository, &stage.image(&report), &stage.content()), None);
    }
}

fn folder_size(folder: &Path) -> u64 {
    let sizes = fs::read_dir(folder).expect("listed").flatten().map(|entry| {
        let facts = entry.metadata().expect("there");
        if facts.is_dir() { folder_size(&entry.path()) } else { facts.len() }
    });
    sizes.sum()
}

#[test]
fn a_tracker_that_missed_a_change_is_caught_by_the_audit_and_the_image_is_right() {
    let stage = Stage::new(&small_disk(2, 8 * MIB), 16_384);
    stage.capture(0);
    stage.write_unseen(3 * MIB + 5, b"nobody told");
    let report = stage.capture(1 << 40);
    assert!(report.alarm.is_some());
    assert_eq!(report.manifest.tracker, "compare");
    assert!(report.manifest.tracker_doubt.is_some());
    assert!(stage.script.lock().expect("no panic").is_distrusted);
    stage.check(&report);
}

#[test]
fn what_is_written_after_the_checkpoint_is_no_lie() {
    let stage = Stage::new(&small_disk(2, 8 * MIB), 16_384);
    stage.capture(0);
    stage.write_unseen(3 * MIB, b"later");
    stage.script.lock().expect("no panic").since = vec![ByteRange::new(3 << 20, 5)];
    let report = stage.capture(1 << 40);
    assert_eq!((report.alarm, report.manifest.tracker.as_str()), (None, "scripted"));
}

#[test]
fn in_doubt_everything_is_compared_within_the_same_history() {
    let stage = Stage::new(&small_disk(4, 8 * MIB), 16_384);
    let first = stage.capture(0);
    stage.write_unseen(MIB, b"unknown");
    stage.script.lock().expect("no panic").doubt = Some("the machine was booted".to_owned());
    let report = stage.capture(0);
    assert_eq!(report.manifest.parent, Some(first.id));
    assert_eq!(report.manifest.tracker_doubt.as_deref(), Some("the machine was booted"));
    stage.check(&report);

    stage.script.lock().expect("no panic").doubt = None;
    for length in [9 * MIB as u64, 5 * MIB as u64 + 3] {
        let file = OpenOptions::new().write(true).open(&stage.disk).expect("opened");
        file.set_len(length).expect("resized");
        let report = stage.capture(0);
        assert!(report.manifest.tracker_doubt.expect("a doubt").contains("its map is of"));
        assert_eq!(report.manifest.name, "disk");
        stage.check(&stage.capture(0));
    }
}

#[test]
fn a_parent_whose_tree_is_lost_is_no_hindrance() {
    let stage = Stage::new(&small_disk(5, 24 * MIB), 16_384);
    stage.capture(0);
    let packs = stage.folder.path().join("repository/packs");
    for pack in fs::read_dir(&packs).expect("listed").flatten() {
        fs::remove_file(pack.path()).expect("removed");
    }
    stage.write(MIB, b"seen");
    let report = stage.capture(0);
    assert_eq!(report.manifest.tracker, "compare");
    assert!(report.manifest.tracker_doubt.as_ref().is_some_and(|doubt| doubt.contains("damaged")));
    stage.check(&report);
}

#[test]
fn a_capture_that_fails_commits_nothing() {
    let stage = Stage::new(&small_disk(6, 4 * MIB), 16_384);
    stage.capture(0);
    stage.write(MIB, b"kept");
    let packs = stage.folder.path().join("repository/packs");
    fs::rename(&packs, packs.with_extension("away")).expect("renamed");
    assert!(stage.try_capture(0).is_err_and(|error| error.kind() != ErrorKind::Corrupt));
    assert_eq!(stage.script.lock().expect("no panic").commits, 1);
    fs::rename(packs.with_extension("away"), &packs).expect("renamed");
    stage.check(&stage.capture(0));
}

#[test]
fn what_a_delta_stands_on_is_verified_with_it() {
    let stage = Stage::new(&incompressible(7, 64 * KIB), 16_384);
    let first = stage.capture(0);
    let packs = stage.folder.path().join("repository/packs");
    let base = fs::read_dir(&packs).expect("listed").flatten().next().expect("a pack").path();
    for block in 0..4 {
        stage.write(block * 16 * KIB, b"so that every block is a delta");
    }
    let second = stage.capture(0);
    assert!(second.manifest.cost.stored < 4 * KIB as u64, "{:?}", second.manifest.cost);
    let damage = |quick| {
        let images = vec![second.id.to_string()];
        let options = VerifyOptions { images, quick, ..VerifyOptions::default() };
        verify(&stage.repository, &options, &Silent).expect("verified").damage
    };
    assert_eq!([damage(true), damage(false)], [0, 0]);
    let sound = fs::read(&base).expect("read");
    let mut flipped = sound.clone();
    flipped[200] ^= 1;
    fs::write(&base, &flipped).expect("written");
    assert!(damage(true) > 0 && damage(false) > 0);
    fs::remove_file(&base).expect("removed");
    assert!(damage(true) > 0 && damage(false) > 0);
    fs::write(&base, &sound).expect("written");
    assert_eq!([damage(true), damage(false)], [0, 0]);
    assert_ne!(first.id, second.id);
    stage.check(&second);
}
