//! Disks that are tracked by an installation of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::result::Result;
use std::sync::atomic::{AtomicU32, Ordering};

use imgx_engine::base::bytes::to_hex;
use imgx_engine::base::{self, ErrorKind, Granule};
use imgx_engine::track::{Checkpoint, Evidence, Tracker, Tracking};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::tool;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The tracking of a device, by an installation of its own that ends with it.
pub struct Started {
    tracking: Tracking,
    folder: String,
    device: PathBuf,
}

impl Started {
    /// Starts it; none, with the reason printed, where that cannot be had.
    pub fn new(device: &Path, granule: u64) -> Option<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("imgx-test-{}-{number}", std::process::id());
        let tracking = Tracking::named(&folder);
        let this = Self { tracking, folder, device: device.to_owned() };
        match this.tracking.start(device, Some(Granule::new(granule).expect("valid"))) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                println!("skipped: {error}");
                None
            }
            started => {
                assert!(started.expect("started"), "it was tracked already");
                Some(this)
            }
        }
    }

    pub fn tracker(&self) -> Tracker {
        self.tracking.open(&self.device).expect("opened").expect("tracked")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _best_effort = self.tracking.stop(&self.device);
        let folder = Path::new("/sys/fs/bpf").join(&self.folder);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let _best_effort = fs::remove_file(entry.path());
        }
        let _best_effort = fs::remove_dir(folder);
    }
}

/// A loop device in memory, tracked.
pub struct Tracked {
    // In this order: what is tracked is stopped before its device is detached.
    started: Started,
    /// The file behind the device.
    pub file: PathBuf,
    // Before the folder: the device holds its file.
    pub device: LoopDevice,
    _temporary: tempfile::TempDir,
}

impl Tracked {
    /// A tracked disk of `size` bytes; none, with the reason printed, where that cannot be had.
    pub fn new(size: u64, granule: u64) -> Option<Self> {
        let temporary = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let temporary = temporary.expect("a temporary folder can be made");
        let file = temporary.path().join("disk");
        fs::File::create(&file).and_then(|file| file.set_len(size)).expect("a file can be made");
        Self::of_file(temporary, file, granule)
    }

    /// The same, of a file that is there.
    pub fn of_file(temporary: tempfile::TempDir, file: PathBuf, granule: u64) -> Option<Self> {
        if let Some(why) = LoopDevice::unavailable() {
            println!("skipped: {why}");
            return None;
        }
        let device = LoopDevice::attach(&file).expect("attached");
        let started = Started::new(device.path(), granule)?;
        Some(Self { started, file, device, _temporary: temporary })
    }

    pub fn tracking(&self) -> &Tracking {
        &self.started.tracking
    }

    pub fn folder(&self) -> &str {
        &self.started.folder
    }

    pub fn tracker(&self) -> Tracker {
        self.try_tracker().expect("opened").expect("tracked")
    }

    pub fn try_tracker(&self) -> base::Result<Option<Tracker>> {
        self.tracking().open(self.device.path())
    }

    /// Writes what the kernel still holds of the disk.
    pub fn settle(&self) {
        let path = self.device.path().to_str().expect("plain");
        tool::run("blockdev", &["--flushbufs", path]).expect("flushed");
    }
}

/// Has the tracker know that the image of a checkpoint is stored, whose id is its epoch's number.
pub fn stored(tracker: &mut Tracker, told: &Checkpoint) {
    tracker.commit(told.evidence.epoch, id(&told.evidence)).expect("committed");
}

/// Whether a map starts from the image of a checkpoint.
pub fn follows(evidence: &Evidence, parent: &Evidence) -> Result<(), String> {
    evidence.follows(&to_hex(&id(parent)), parent)
}

fn id(evidence: &Evidence) -> [u8; 16] {
    let mut id = [1; 16];
    id[8..].copy_from_slice(&evidence.epoch.to_be_bytes());
    id
}

/// Numbers that look random, the same each time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
}
