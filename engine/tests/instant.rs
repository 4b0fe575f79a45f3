//! Which volumes of a disk are in its image as they were at one instant, whoever writes to it.

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imgx_engine::base::{BlockSize, ByteRange, Event, Observer, Phase, Result};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, ChangeTracker, Copied, Findings, LiveOptions, Restore,
    RestoreOptions, Since,
};
use imgx_engine::store::manifest::Moment;
use imgx_engine::store::{ImageId, Repository};
use imgx_engine::track::Tracking;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};
use support::{MIB, Mounted};

/// One at a time: they share the machine's tracker.
static ALONE: Mutex<()> = Mutex::new(());

/// The partitions: where they begin and how long they are, in MiB.
const PARTS: [(usize, usize); 2] = [(1, 32), (34, 16)];
const DISK: usize = 52;
/// A place within the second partition, and one behind it.
const IN_SECOND: u64 = 40 << 20;
const BEHIND: u64 = 50 << 20;

/// A disk with two partitions; the second is used raw.
struct Stage {
    // In the order in which they have to go.
    _mounted: Option<Mounted>,
    disk: PartitionedDisk,
    repository: Repository,
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

struct PartitionedDisk(LoopDevice);

impl Drop for PartitionedDisk {
    fn drop(&mut self) {
        let _not_tracked = Tracking::default().stop(self.0.path());
    }
}

impl Stage {
    fn new(is_mounted: bool) -> Option<Self> {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return None;
        }
        if let Some(missing) = ["mke2fs", "sfdisk", "partx"].iter().find(|name| !tool::have(name)) {
            println!("skipped: no {missing}");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = support::folder_in_memory();
        let file = folder.path().join("disk");
        fs::write(&file, incompressible(5, DISK * MIB)).expect("written");
        let part =
            |(start, length): (usize, usize)| format!("start={start}MiB, size={length}MiB\n");
        let script = format!("label: gpt\n{}", PARTS.map(part).concat());
        mkfs::sfdisk(&file, &script).expect("made");
        let disk = PartitionedDisk(LoopDevice::attach(&file).expect("attached"));
        disk.0.add_partitions().expect("added");
        let first = disk.0.partition(1).to_str().expect("plain").to_owned();
        tool::run("mke2fs", &["-q", "-F", "-t", "ext4", &first]).expect("made");
        let point = folder.path().join("mounted");
        fs::create_dir(&point).expect("made");
        let mounted = is_mounted.then(|| Mounted::new(&[&first], &point));
        let repository = folder.path().join("repository");
        let repository = Repository::create(&repository, BlockSize::new(16_384).expect("valid"));
        let repository = repository.expect("a repository");
        Some(Self { _mounted: mounted, disk, repository, folder, _alone: alone })
    }

    fn node(&self) -> &Path {
        self.disk.0.path()
    }

    fn plan(&self, source: &Path, observer: &dyn Observer) -> Capture<'_> {
        let options = CaptureOptions {
            name: Some("disk".to_owned()),
            live: Some(LiveOptions::default()),
            all_blocks: true,
            audit: Some(0),
            threads: Some(1),
            ..CaptureOptions::default()
        };
        Capture::plan(&self.repository, source, options, observer).expect("planned")
    }

    fn meddling(&self, meddle: impl Fn(Asked) + Send + Sync + 'static) -> CaptureReport {
        let plan = self.plan(self.node(), &Nobody);
        let plan = plan.meddling(|inner| Box::new(Meddling { inner, meddle: Box::new(meddle) }));
        plan.run(&Nobody).expect("captured")
    }

    fn restored(&self, report: &CaptureReport) -> Vec<u8> {
        let target = self.folder.path().join("restored");
        let _earlier = fs::remove_file(&target);
        let image = self.repository.image(report.id).expect("committed");
        let restore = Restore::plan(&self.repository, &image, &target, RestoreOptions::default());
        restore.expect("planned").run(&Nobody).expect("restored");
        fs::read(target).expect("read")
    }
}

struct Nobody;

impl Observer for Nobody {
    fn event(&self, _event: &Event<'_>) {}
}

/// Writes to a disk as soon as some of it was read.
struct WritesOnce {
    device: PathBuf,
    at: u64,
    is_reading: AtomicBool,
}

impl WritesOnce {
    fn new(device: &Path, at: u64) -> Self {
        Self { device: device.to_owned(), at, is_reading: AtomicBool::new(false) }
    }
}

impl Observer for WritesOnce {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Started { phase: Phase::Capture, .. } => {
                self.is_reading.store(true, Ordering::Relaxed);
            }
            Event::Progress(_) if self.is_reading.swap(false, Ordering::Relaxed) => {
                write(&self.device, self.at, 77);
            }
            _ => {}
        }
    }
}

/// What a tracker is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Checkpoint,
    WrittenSince,
}

/// A tracker at whose questions something happens to the disk.
struct Meddling {
    inner: Box<dyn ChangeTracker>,
    meddle: Box<dyn Fn(Asked) + Send + Sync>,
}

impl ChangeTracker for Meddling {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn checkpoint(&mut self, since: Since<'_>) -> Result<Findings> {
        (self.meddle)(Asked::Checkpoint);
        self.inner.checkpoint(since)
    }

    fn is_written_since(&self, ranges: &[ByteRange]) -> Result<bool> {
        (self.meddle)(Asked::WrittenSince);
        self.inner.is_written_since(ranges)
    }

    fn commit(&mut self, copied: &Copied, image: ImageId) -> Result<()> {
        self.inner.commit(copied, image)
    }

    fn distrust(&mut self) -> Result<()> {
        self.inner.distrust()
    }
}

/// Writes a page to a device or file, and waits until it is there.
fn write(path: &Path, at: u64, byte: u8) {
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(&[byte; 4096], at).expect("written");
    file.sync_all().expect("synced");
}

fn moment(report: &CaptureReport) -> &Moment {
    report.manifest.live.as_ref().expect("it was in use")
}

/// Volumes of which it is not said that they are at one instant.
fn doubted(moment: &Moment) -> Vec<&str> {
    let doubted = moment.volumes.iter().filter(|volume| volume.doubt.is_some());
    doubted.map(|volume| volume.volume.as_str()).collect()
}

#[test]
fn a_volume_that_is_written_to_raw_while_it_is_read_is_no_point_in_time_and_others_are() {
    let Some(stage) = Stage::new(true) else { return };
    let node = stage.node().to_owned();
    // Before each checkpoint, so that it is read while all is frozen, and again meanwhile.
    let report = stage.meddling(move |_| write(&node, IN_SECOND, 1));
    let moment = moment(&report);
    assert_eq!(doubted(moment), ["p2"], "{moment:?}");
    let doubt = moment.doubt.as_deref().expect("it is not all at one instant");
    assert!(doubt.contains("p2") && !doubt.contains("p1"), "{doubt}");
    let [filesystem] = moment.filesystems.as_slice() else { panic!("{moment:?}") };
    assert_eq!(filesystem.not_frozen, None);
}

#[test]
fn what_is_written_outside_of_volumes_while_it_is_read_is_told() {
    let Some(stage) = Stage::new(true) else { return };
    let node = stage.node().to_owned();
    let report = stage.meddling(move |_| write(&node, BEHIND, 1));
    let moment = moment(&report);
    assert_eq!(doubted(moment), Vec::<&str>::new(), "{moment:?}");
    assert!(moment.doubt.is_some(), "{moment:?}");
}

#[test]
fn a_raw_writer_that_rests_while_the_last_blocks_are_read_does_no_harm() {
    let Some(stage) = Stage::new(true) else { return };
    let node = stage.node().to_owned();
    let byte = Arc::new(AtomicU32::new(0));
    let last = Arc::clone(&byte);
    let report = stage.meddling(move |asked| {
        if asked == Asked::Checkpoint {
            let next = byte.fetch_add(1, Ordering::Relaxed) + 1;
            write(&node, IN_SECOND, u8::try_from(next).expect("few"));
        }
    });
    let moment = moment(&report);
    assert_eq!((doubted(moment), &moment.doubt), (Vec::new(), &None), "{moment:?}");
    let last = u8::try_from(last.load(Ordering::Relaxed)).expect("few");
    let at = usize::try_from(IN_SECOND).expect("small");
    assert_eq!(stage.restored(&report)[at], last, "the last write before the instant");
}

#[test]
fn a_tracked_disk_that_nobody_uses_is_followed_when_it_is_written_to() {
    let Some(stage) = Stage::new(false) else { return };
    Tracking::default().start(stage.node(), None).expect("started");
    let writes = WritesOnce::new(stage.node(), IN_SECOND);
    let report = stage.plan(stage.node(), &Nobody).run(&writes).expect("captured");
    let moment = moment(&report);
    assert_eq!(moment.doubt, None, "{moment:?}");
    assert!(!moment.rounds.is_empty(), "{moment:?}");
    let disk = fs::read(stage.node()).expect("read");
    assert!(stage.restored(&report) == disk, "the image is not the disk");
    // And one that nobody writes to is not said to have been in use.
    let report = stage.plan(stage.node(), &Nobody).run(&Nobody).expect("captured");
    assert_eq!(report.manifest.live, None);
}

#[test]
fn a_disk_that_nobody_follows_is_no_point_in_time_when_it_is_written_to() {
    let Some(stage) = Stage::new(false) else { return };
    // By the disk nobody knows where; by the partition it is that one.
    for (device, at, expected) in [
        (stage.node().to_owned(), IN_SECOND, &["p1", "p2"][..]),
        (stage.disk.0.partition(2), 1 << 20, &["p2"][..]),
    ] {
        let writes = WritesOnce::new(&device, at);
        let report = stage.plan(stage.node(), &Nobody).run(&writes).expect("captured");
        let moment = moment(&report);
        assert_eq!(doubted(moment), expected, "{moment:?}");
        assert!(moment.doubt.is_some());
    }
    let report = stage.plan(stage.node(), &Nobody).run(&Nobody).expect("captured");
    assert_eq!(report.manifest.live, None);
}

#[test]
fn a_file_that_is_written_to_while_it_is_read_is_no_point_in_time() {
    let folder = support::folder_in_memory();
    let disk = folder.path().join("disk");
    fs::write(&disk, incompressible(3, 4 * MIB)).expect("written");
    let repository = Repository::create(&folder.path().join("repository"), BlockSize::DEFAULT);
    let repository = repository.expect("a repository");
    let capture = |observer: &dyn Observer| {
        let plan = Capture::plan(&repository, &disk, CaptureOptions::default(), observer);
        plan.expect("planned").run(observer).expect("captured")
    };
    let report = capture(&Nobody);
    assert_eq!(report.manifest.live, None);
    let writes = WritesOnce::new(&disk, 1 << 20);
    let report = capture(&writes);
    let moment = moment(&report);
    assert_eq!(moment.doubt.as_deref(), Some("written to while it was read"), "{moment:?}");
}
