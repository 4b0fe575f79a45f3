//! Checkpoints in doubt: nothing that was not copied counts as copied, so that the next image
//! lacks nothing.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use imgx_engine::base::{BlockSize, ByteRange, Result, Silent};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, ChangeTracker, Copied, Findings, LiveOptions,
    ParentChoice, Restore, RestoreOptions, Since,
};
use imgx_engine::store::{ImageId, Repository};
use imgx_engine::sys::bpf::{BpfFolder, FoundFolder, Map, MapKind, MappedWords};
use imgx_engine::track::{Evidence, Tracker, Tracking, Verdict};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;
use support::{MIB, Mounted};

/// One at a time: they share the machine's tracker.
static ALONE: Mutex<()> = Mutex::new(());

const O_DIRECT: i32 = 0o40_000;

/// A device: a mounted filesystem, and behind it what nobody uses but is captured.
struct Stage {
    // In the order in which they have to go.
    mounted: Option<Mounted>,
    _tracking: Started,
    /// Which of the tracked disks it is.
    slot: usize,
    device: LoopDevice,
    folder: tempfile::TempDir,
    repository: Repository,
}

const FILESYSTEM: usize = 24 * MIB;
const DISK: usize = 32 * MIB;

/// Tracking of the usual installation, which ends with it.
struct Started(PathBuf);

impl Drop for Started {
    fn drop(&mut self) {
        let _best_effort = Tracking::default().stop(&self.0);
    }
}

impl Stage {
    fn new() -> Option<Self> {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return None;
        }
        if !tool::have("mke2fs") {
            println!("skipped: no mke2fs");
            return None;
        }
        let folder = support::folder_in_memory();
        let disk = folder.path().join("disk");
        fs::write(&disk, incompressible(5, DISK)).expect("written");
        let device = LoopDevice::attach(&disk).expect("attached");
        let others = slots();
        if let Err(error) = Tracking::default().start(device.path(), None) {
            println!("skipped: {error}");
            return None;
        }
        let slot = *slots().difference(&others).next().expect("one more");
        let started = Started(device.path().to_owned());
        let node = device.path().to_str().expect("plain").to_owned();
        let blocks = (FILESYSTEM / 1024).to_string();
        let make = ["-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard", &node, &blocks];
        tool::run("mke2fs", &make).expect("made");
        let repository = folder.path().join("repository");
        let block_size = BlockSize::new(16_384).expect("valid");
        let repository = Repository::create(&repository, block_size).expect("a repository");
        let mut stage =
            Self { mounted: None, _tracking: started, slot, device, folder, repository };
        stage.mount();
        Some(stage)
    }

    /// The pins of its maps.
    fn pins(&self) -> Vec<String> {
        let of_slot = |name: &String| {
            name.starts_with(&format!("epoch_{}_", self.slot))
                || *name == format!("carry_{}", self.slot)
        };
        pins().names().expect("listed").into_iter().filter(of_slot).collect()
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn mount(&mut self) {
        fs::create_dir_all(self.point()).expect("made");
        let node = self.device.path().to_str().expect("plain");
        self.mounted = Some(Mounted::new(&["-o", "nodiscard", node], &self.point()));
    }

    fn capture(&self, live: Option<LiveOptions>) -> CaptureReport {
        self.plan(live).run(&Silent).expect("captured")
    }

    fn plan(&self, live: Option<LiveOptions>) -> Capture<'_> {
        self.plan_after(ParentChoice::Auto, live)
    }

    fn plan_after(&self, parent: ParentChoice, live: Option<LiveOptions>) -> Capture<'_> {
        let options = CaptureOptions {
            name: Some("disk".to_owned()),
            parent,
            live,
            all_blocks: true,
            audit: Some(0),
            threads: Some(1),
            ..CaptureOptions::default()
        };
        Capture::plan(&self.repository, self.device.path(), options, &Silent).expect("planned")
    }

    fn restored(&self, report: &CaptureReport) -> Vec<u8> {
        let target = self.folder.path().join("restored");
        let _earlier = fs::remove_file(&target);
        let image = self.repository.image(report.id).expect("committed");
        let restore = Restore::plan(&self.repository, &image, &target, RestoreOptions::default());
        restore.expect("planned").run(&Silent).expect("restored");
        fs::read(target).expect("read")
    }

    /// The file behind the device, which is all written.
    fn content(&self) -> Vec<u8> {
        let device = File::open(self.device.path()).expect("opened");
        device.sync_all().expect("synced");
        fs::read(self.folder.path().join("disk")).expect("read")
    }

    #[track_caller]
    fn assert_is_disk(&self, report: &CaptureReport, from: usize) {
        let (restored, content) = (self.restored(report), self.content());
        assert_eq!(restored.len(), content.len());
        let pages = restored[from..].chunks(4096).zip(content[from..].chunks(4096));
        let differing = pages.enumerate().filter(|(_, (one, other))| one != other);
        let differing: Vec<usize> = differing.map(|(page, _)| page + from / 4096).collect();
        assert!(differing.is_empty(), "pages {differing:?} are not as on the disk");
    }

    fn write(&self, page: usize, seed: u64) {
        write_page(self.device.path(), page, seed);
    }
}

fn write_page(device: &Path, page: usize, seed: u64) {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut content = Page([0; 4096]);
    content.0.copy_from_slice(&incompressible(seed, 4096));
    let device = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(device);
    device.expect("opened").write_all_at(&content.0, (page * 4096) as u64).expect("written");
}

#[test]
fn what_a_tainted_checkpoint_of_a_live_capture_told_is_in_the_next_image() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut stage) = Stage::new() else { return };
    stage.capture(None);
    // Whatever is written while the filesystems are about to be frozen, and the map of it is lost.
    let hook = format!(
        "head -c 4194304 /dev/urandom > '{}/lost' && sync && rm /sys/fs/bpf/imgx/epoch_{}_*",
        stage.point().display(),
        stage.slot
    );
    let live = LiveOptions { hook_pre: Some(hook), ..LiveOptions::default() };
    let report = stage.capture(Some(live));
    let moment = report.manifest.live.expect("it was in use");
    assert!(moment.doubt.is_some(), "a map was lost: {moment:?}");
    stage.mounted = None;
    let next = stage.capture(None);
    assert_eq!(next.manifest.tracker, "compare");
    assert!(next.manifest.tracker_doubt.is_some(), "{:?}", next.manifest);
    stage.assert_is_disk(&next, 0);
    // And all is well again.
    stage.write(DISK / 4096 - 1, 77);
    let after = stage.capture(None);
    assert_eq!(after.manifest.tracker, "ebpf", "{:?}", after.manifest.tracker_doubt);
    stage.assert_is_disk(&after, 0);
}

#[test]
fn a_map_that_was_lost_before_a_live_capture_is_no_doubt_of_what_came_after() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(stage) = Stage::new() else { return };
    stage.capture(None);
    stage.write(FILESYSTEM / 4096, 1);
    for pin in stage.pins().iter().filter(|pin| pin.starts_with("epoch_")) {
        pins().unpin(pin).expect("removed");
    }
    let report = stage.capture(Some(LiveOptions::default()));
    assert_eq!(report.manifest.tracker, "compare");
    assert!(report.manifest.tracker_doubt.is_some(), "{:?}", report.manifest);
    let moment = report.manifest.live.as_ref().expect("it was in use");
    assert_eq!(moment.doubt, None);
    stage.assert_is_disk(&report, FILESYSTEM);
    stage.write(FILESYSTEM / 4096 + 1, 2);
    let next = stage.capture(None);
    assert_eq!(next.manifest.tracker, "ebpf", "{:?}", next.manifest.tracker_doubt);
    stage.assert_is_disk(&next, FILESYSTEM);
}

/// What befalls a tracker, and what it was told.
struct Fate {
    random: u64,
    checkpoints: usize,
    taints: usize,
    device: PathBuf,
}

impl Fate {
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Writes somewhere behind the filesystem.
    fn write(&mut self) {
        let pages = ((DISK - FILESYSTEM) / 4096) as u64;
        let page = FILESYSTEM / 4096 + usize::try_from(self.below(pages)).expect("small");
        let seed = self.below(u64::from(u32::MAX));
        write_page(&self.device, page, seed);
    }
}

/// A tracker that doubts its checkpoints at random, and forgets then what it knew of them; before
/// each one, something is written.
struct Doubting {
    tracker: Tracker,
    fate: Arc<Mutex<Fate>>,
}

impl ChangeTracker for Doubting {
    fn name(&self) -> &'static str {
        "doubting"
    }

    fn checkpoint(&mut self, since: Since<'_>) -> Result<Findings> {
        let mut fate = self.fate.lock().expect("no panic");
        fate.checkpoints += 1;
        (0..3).for_each(|_| fate.write());
        let read = |evidence: &serde_json::Value| {
            serde_json::from_value::<Evidence>(evidence.clone()).expect("its own")
        };
        let told = match since {
            Since::Copied(copied) => {
                self.tracker.checkpoint_since(read(copied.evidence()).epoch)?
            }
            Since::Nothing | Since::Image { .. } => self.tracker.checkpoint()?,
        };
        let follows = match since {
            Since::Image { id, evidence: Some(parent) } => {
                told.evidence.follows(&id.to_string(), &read(parent))
            }
            Since::Image { evidence: None, .. } | Since::Nothing => Err("no parent".to_owned()),
            Since::Copied(_) => Ok(()),
        };
        let mut changes = follows.map(|()| told.changes);
        if let Verdict::Tainted(reason) = told.verdict {
            changes = Err(reason);
        } else if fate.below(5) > 1 {
            fate.taints += 1;
            changes = Err("fate".to_owned());
        }
        let evidence = serde_json::to_value(&told.evidence).expect("plain");
        Ok(Findings { changes, evidence })
    }

    fn is_written_since(&self, ranges: &[ByteRange]) -> Result<bool> {
        self.tracker.is_marked(ranges)
    }

    fn commit(&mut self, copied: &Copied, image: ImageId) -> Result<()> {
        let evidence: Evidence =
            serde_json::from_value(copied.evidence().clone()).expect("its own");
        self.tracker.commit(evidence.epoch, image.0)
    }

    fn distrust(&mut self) -> Result<()> {
        panic!("it was right");
    }
}

/// A machine's state, as far as tracking goes: what a snapshot with memory sets back.
struct Snapshot {
    disk: Vec<u8>,
    page: Vec<u64>,
    maps: Vec<(String, Map, Vec<u64>)>,
}

/// Where the processes' own part of a page begins. What the programs count goes on, as the
/// kernel's own counts do.
const OWN: usize = 288;
const PAGE_WORDS: usize = 1024;

fn pins() -> BpfFolder {
    let folder = BpfFolder::existing("imgx").and_then(FoundFolder::closed);
    folder.expect("read").expect("there")
}

/// The pages of all slots up to `slot`'s, and where that one begins.
fn page(slot: usize) -> (MappedWords, usize) {
    let kind = MapKind::Array { value: u32::try_from(8 * PAGE_WORDS).expect("small") };
    let pages = Map::adopt(pins().get("pages").expect("pinned"), kind);
    (pages.words(PAGE_WORDS * (slot + 1)).expect("mapped"), PAGE_WORDS * slot)
}

/// The slots of the disks that are tracked, by the pins of their maps.
fn slots() -> BTreeSet<usize> {
    let Some(folder) = BpfFolder::existing("imgx").and_then(FoundFolder::closed).expect("read")
    else {
        return BTreeSet::new();
    };
    let slot = |name: &String| name.strip_prefix("epoch_")?.split('_').next()?.parse().ok();
    folder.names().expect("listed").iter().filter_map(slot).collect()
}

fn words(map: &Map) -> MappedWords {
    map.words(map.facts().expect("asked").entries as usize).expect("mapped")
}

impl Snapshot {
    fn take(stage: &Stage) -> Self {
        let all = |words: &MappedWords| (0..words.len()).map(|at| words.load(at)).collect();
        let maps = stage.pins().into_iter().map(|name| {
            let map = Map::adopt(pins().get(&name).expect("pinned"), MapKind::Words);
            let bits = all(&words(&map));
            (name, map, bits)
        });
        let (pages, start) = page(stage.slot);
        let page = (start..start + PAGE_WORDS).map(|at| pages.load(at)).collect();
        Self { disk: stage.content(), page, maps: maps.collect() }
    }

    #[allow(clippy::host_endian_bytes)]
    fn set_back(&self, stage: &Stage) {
        let folder = pins();
        stage.pins().iter().for_each(|name| folder.unpin(name).expect("removed"));
        for (name, map, bits) in &self.maps {
            folder.pin(name, map.descriptor()).expect("pinned");
            let words = words(map);
            bits.iter().enumerate().for_each(|(at, bits)| words.store(at, *bits));
        }
        let number = |name: &str| name.rsplit('_').next().and_then(|last| last.parse::<u64>().ok());
        let of_epoch = self.maps.iter().filter(|(name, ..)| name.starts_with("epoch_"));
        let running = of_epoch.max_by_key(|(name, ..)| number(name)).expect("one runs");
        let kind = MapKind::ArrayOfMaps { like: -1 };
        let descriptor = running.1.descriptor().as_raw_fd().to_ne_bytes();
        let epochs = Map::adopt(folder.get("epochs").expect("pinned"), kind);
        let slot = u32::try_from(stage.slot).expect("small");
        epochs.update(&slot.to_ne_bytes(), &descriptor).expect("exchanged");
        let (pages, start) = page(stage.slot);
        (OWN..PAGE_WORDS).for_each(|at| pages.store(start + at, self.page[at]));
        let disk = OpenOptions::new().write(true).open(stage.folder.path().join("disk"));
        disk.expect("opened").write_all_at(&self.disk, 0).expect("set back");
        let node = stage.device.path().to_str().expect("plain");
        tool::run("blockdev", &["--flushbufs", node]).expect("flushed");
    }
}

#[test]
fn a_machine_that_was_set_back_to_a_snapshot_with_its_memory_is_noticed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut stage) = Stage::new() else { return };
    stage.mounted = None;
    let last = DISK / 4096 - 100;
    stage.capture(None);
    stage.write(last, 1);
    let before = stage.capture(None);
    assert_eq!(before.manifest.tracker, "ebpf", "{:?}", before.manifest.tracker_doubt);
    stage.write(last + 1, 2);
    let snapshot = Snapshot::take(&stage);
    // What is set back, and is in the newest image.
    stage.write(last + 2, 3);
    let newest = stage.capture(None);
    assert_eq!(newest.manifest.tracker, "ebpf");
    stage.assert_is_disk(&newest, 0);

    snapshot.set_back(&stage);
    stage.write(last + 3, 4);
    // As a capture that fails: more epochs than the newest image knows of.
    for _ in 0..2 {
        let tracker = Tracking::default().open(stage.device.path()).expect("opened");
        tracker.expect("tracked").checkpoint().expect("checkpoint");
    }
    let next = stage.capture(None);
    assert_eq!(next.manifest.parent, Some(newest.id));
    assert_eq!(next.manifest.tracker, "compare");
    let doubt = next.manifest.tracker_doubt.clone().expect("a doubt");
    assert!(doubt.contains(&before.id.to_string()[..12]), "{doubt}");
    stage.assert_is_disk(&next, 0);
    stage.write(last + 4, 5);
    let after = stage.capture(None);
    assert_eq!(after.manifest.tracker, "ebpf", "{:?}", after.manifest.tracker_doubt);
    stage.assert_is_disk(&after, 0);

    // From the image that the machine was at, its map is right.
    snapshot.set_back(&stage);
    stage.write(last + 5, 6);
    let parent = ParentChoice::Image(before.id.to_string());
    let again = stage.plan_after(parent, None).run(&Silent).expect("captured");
    assert_eq!(again.manifest.tracker, "ebpf", "{:?}", again.manifest.tracker_doubt);
    stage.assert_is_disk(&again, 0);
}

#[test]
fn an_image_in_another_repository_takes_the_history_over() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut stage) = Stage::new() else { return };
    stage.mounted = None;
    let last = DISK / 4096 - 100;
    let elsewhere = stage.folder.path().join("elsewhere");
    let block_size = BlockSize::new(16_384).expect("valid");
    let mut elsewhere = Repository::create(&elsewhere, block_size).expect("a repository");
    stage.capture(None);
    for round in 0..4 {
        stage.write(last + round, round as u64);
        // In turns; the first one here is the second there.
        let report = stage.capture(None);
        assert_eq!(report.manifest.tracker == "ebpf", round == 0, "{round}");
        stage.assert_is_disk(&report, 0);
        std::mem::swap(&mut stage.repository, &mut elsewhere);
    }
}

#[test]
fn images_after_doubts_at_random_lack_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(stage) = Stage::new() else { return };
    let device = stage.device.path().to_owned();
    let fate = Fate { random: 17, checkpoints: 0, taints: 0, device };
    let fate = Arc::new(Mutex::new(fate));
    let (mut instants, mut doubts, mut tracked) = (0, 0, 0);
    for round in 0..14 {
        stage.write(FILESYSTEM / 4096 + round, round as u64);
        let tracker = Tracking::default().open(stage.device.path()).expect("opened");
        let doubting = Doubting { tracker: tracker.expect("tracked"), fate: Arc::clone(&fate) };
        let plan = stage.plan(Some(LiveOptions::default())).with_tracker(Box::new(doubting));
        let report = plan.run(&Silent).expect("captured");
        tracked += usize::from(report.manifest.tracker == "doubting");
        let moment = report.manifest.live.as_ref().expect("it was in use");
        match &moment.doubt {
            // Nothing was written after the last checkpoint.
            None => {
                instants += 1;
                stage.assert_is_disk(&report, FILESYSTEM);
            }
            Some(_) => doubts += 1,
        }
        let evidence = report.manifest.tracking.as_ref().expect("the disk was read");
        assert!(evidence["epoch"].as_u64() > evidence["since"].as_u64().map(|since| since - 1));
        // The next one that has the real tracker's word.
        let next = stage.capture(None);
        stage.assert_is_disk(&next, FILESYSTEM);
    }
    let fate = fate.lock().expect("no panic");
    let met = [instants, doubts, tracked, fate.taints, fate.checkpoints];
    assert!(met.iter().all(|count| *count > 1), "some case was not met: {met:?}");
}
