//! Captures of what filesystems use: what is left out is free, what is restored is sound, and
//! nothing that is used is ever left out, even when an allocation map says so.

mod damaged;
mod interleaved;
mod logical;
#[path = "../support/logical.rs"]
mod logical_disk;
mod lying;
mod others;
#[path = "../fs_btrfs/sums.rs"]
mod sums;
#[path = "../support/mod.rs"]
mod support;
mod swap;
mod uncertain;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use imgx_engine::base::{BlockSize, ByteCount, ByteRange, ChangeMap, Granule, Result, Silent};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, ChangeTracker, Copied, Findings, Restore,
    RestoreOptions, Since,
};
use imgx_engine::store::{ImageId, Repository};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::{incompressible, text};
use imgx_fixtures::tool;
use serde_json::json;
use support::{MIB, Mounted, folder_in_memory, unsound};

/// Where the parts of the disk begin and how long they are, in MiB: ext4, FAT32, exFAT, swap; the
/// rest belongs to nobody.
const PARTS: [(usize, usize); 4] = [(1, 40), (41, 40), (81, 24), (105, 16)];
const DISK: usize = 128;

macro_rules! need_tools {
    () => {
        let tools = ["sfdisk", "mke2fs", "mkfs.vfat", "mkfs.exfat", "mkswap", "mcopy", "debugfs"];
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
        if let Some(missing) = tools.iter().find(|name| !tool::have(name)) {
            println!("skipped: no {missing}");
            return;
        }
    };
}

/// A disk full of noise, on which four volumes were made; a repository; a tracker that says what
/// it is told to say.
struct Stage {
    folder: tempfile::TempDir,
    repository: Repository,
    disk: PathBuf,
    told: Arc<Mutex<Vec<ByteRange>>>,
}

struct Told(Arc<Mutex<Vec<ByteRange>>>, ByteCount);

impl ChangeTracker for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn checkpoint(&mut self, _since: Since<'_>) -> Result<Findings> {
        let mut map = ChangeMap::new(self.1, Granule::new(4096)?)?;
        self.0.lock().expect("no panic").iter().for_each(|range| map.set(*range));
        Ok(Findings { changes: Ok(map), evidence: json!({"by": "test"}) })
    }

    fn is_written_since(&self, _ranges: &[ByteRange]) -> Result<bool> {
        Ok(false)
    }

    fn commit(&mut self, _copied: &Copied, _image: ImageId) -> Result<()> {
        self.0.lock().expect("no panic").clear();
        Ok(())
    }

    fn distrust(&mut self) -> Result<()> {
        panic!("it was right");
    }
}

impl Stage {
    fn new(block_size: u32) -> Self {
        let folder = folder_in_memory();
        let disk = folder.path().join("disk");
        fs::write(&disk, incompressible(9, DISK * MIB)).expect("written");
        let script: String = PARTS
            .iter()
            .map(|(start, length)| format!("start={start}MiB, size={length}MiB\n"))
            .collect();
        let table = format!("label: gpt\n{script}");
        let plain = disk.to_str().expect("plain").to_owned();
        tool::run_with_input("sfdisk", &["-q", &plain], &table).expect("sfdisk runs");
        let block_size = BlockSize::new(block_size).expect("valid");
        let repository = folder.path().join("repository");
        let repository = Repository::create(&repository, block_size).expect("created");
        let stage = Self { folder, repository, disk, told: Arc::default() };
        stage.in_part(0, |part| {
            let run = ["-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard", part];
            tool::run("mke2fs", &run).expect("made");
        });
        stage.in_part(1, |part| {
            tool::run("mkfs.vfat", &["-F", "32", "-s", "1", part]).expect("made");
        });
        stage.in_part(2, |part| {
            tool::run("mkfs.exfat", &[part]).expect("made");
        });
        stage.in_part(3, |part| {
            tool::run("mkswap", &[part]).expect("made");
        });
        stage
    }

    /// Takes a partition out into a file, has `work` change it, and puts it back.
    fn in_part(&self, number: usize, work: impl FnOnce(&str)) {
        let (start, length) = PARTS[number];
        let part = self.folder.path().join("part");
        let mut bytes = vec![0; length * MIB];
        let disk = OpenOptions::new().read(true).write(true).open(&self.disk).expect("opened");
        disk.read_exact_at(&mut bytes, (start * MIB) as u64).expect("read");
        fs::write(&part, &bytes).expect("written");
        work(part.to_str().expect("plain"));
        let changed = fs::read(&part).expect("read");
        disk.write_all_at(&changed, (start * MIB) as u64).expect("written");
        for (number, (old, new)) in bytes.chunks(4096).zip(changed.chunks(4096)).enumerate() {
            if old != new {
                let place = (start * MIB + number * 4096) as u64;
                self.told.lock().expect("no panic").push(ByteRange::new(place, 4096));
            }
        }
    }

    /// Mounts the ext4 partition, and has `work` change it.
    fn in_ext(&self, work: impl FnOnce(&Path)) {
        self.in_part(0, |part| {
            let point = self.folder.path().join("mounted");
            fs::create_dir_all(&point).expect("made");
            let _mounted = Mounted::new(&["-o", "loop,nodiscard", part], &point);
            work(&point);
        });
    }

    fn fill(&self) {
        self.in_ext(fill);
        self.in_part(1, |part| {
            let file = self.folder.path().join("file");
            fs::write(&file, text(7, 3 * MIB)).expect("written");
            let file = file.to_str().expect("plain");
            tool::run("mcopy", &["-i", part, file, "::file"]).expect("copied");
        });
    }

    fn try_capture(&self, all_blocks: bool, left_out: Vec<ByteRange>) -> Result<CaptureReport> {
        let size = ByteCount((DISK * MIB) as u64);
        let audit = Some(1 << 24);
        let options = CaptureOptions { audit, all_blocks, ..CaptureOptions::default() };
        Capture::plan(&self.repository, &self.disk, options, &Silent)?
            .leaving_out(left_out)
            .with_tracker(Box::new(Told(Arc::clone(&self.told), size)))
            .run(&Silent)
    }

    /// Makes the next capture the first.
    fn forget_images(&self) {
        for image in fs::read_dir(self.folder.path().join("repository/images")).expect("listed") {
            fs::remove_file(image.expect("listed").path()).expect("removed");
        }
    }

    fn capture(&self) -> CaptureReport {
        self.try_capture(false, Vec::new()).expect("captured")
    }

    fn restored(&self, report: &CaptureReport) -> Vec<u8> {
        restored(&self.repository, report, self.folder.path())
    }

    /// The image restores to a disk whose parts are sound and whose files are the disk's own; and
    /// to the disk itself, but where it is unallocated.
    fn check(&self, report: &CaptureReport) {
        let restored = self.restored(report);
        assert_only_lacks(&restored, &fs::read(&self.disk).expect("read"));
        let part = |number: usize| {
            let (start, length) = PARTS[number];
            let path = self.folder.path().join(format!("restored {number}"));
            fs::write(&path, &restored[start * MIB..(start + length) * MIB]).expect("written");
            path.to_str().expect("plain").to_owned()
        };
        tool::run("e2fsck", &["-f", "-n", &part(0)]).expect("ext4 is sound");
        tool::run("fsck.vfat", &["-n", &part(1)]).expect("FAT is sound");
        tool::run("fsck.exfat", &["-n", &part(2)]).expect("exFAT is sound");
        assert_eq!(self.tree(&part(0)), self.tree_of_disk());
        let copied = self.folder.path().join("copied");
        let _earlier = fs::remove_file(&copied);
        let to = copied.to_str().expect("plain");
        tool::run("mcopy", &["-i", &part(1), "::file", to]).expect("copied");
        assert!(fs::read(&copied).expect("read") == text(7, 3 * MIB));
        assert_eq!(unsound(&self.repository), None);
    }

    fn tree_of_disk(&self) -> Vec<(String, Vec<u8>)> {
        let mut tree = Vec::new();
        self.in_part(0, |part| {
            let copy = format!("{part}.copy");
            fs::copy(part, &copy).expect("copied");
            tree = self.tree(&copy);
        });
        tree
    }

    fn tree(&self, image: &str) -> Vec<(String, Vec<u8>)> {
        tree_of(&["-o", "loop,ro", image], self.folder.path())
    }
}

/// The disk that an image restores to, by way of a file in `folder`.
fn restored(repository: &Repository, report: &CaptureReport, folder: &Path) -> Vec<u8> {
    let target = folder.join("restored");
    let _earlier = fs::remove_file(&target);
    let image = repository.image(report.id).expect("committed");
    let restore = Restore::plan(repository, &image, &target, RestoreOptions::default());
    restore.expect("planned").run(&Silent).expect("restored");
    fs::read(&target).expect("read")
}

/// Asserts that what differs between two disks is zero in the first.
fn assert_only_lacks(restored: &[u8], disk: &[u8]) {
    assert_eq!(restored.len(), disk.len());
    let differing = restored.chunks(4096).zip(disk.chunks(4096)).filter(|(a, b)| a != b);
    let zero = differing.clone().filter(|(restored, _)| restored.iter().all(|b| *b == 0));
    assert_eq!(differing.count(), zero.count(), "what differs is left out");
}

/// The files of what `mount` mounts at a folder of `folder`, with what they hold.
fn tree_of(mount: &[&str], folder: &Path) -> Vec<(String, Vec<u8>)> {
    let point = folder.join("compared");
    fs::create_dir_all(&point).expect("made");
    let _mounted = Mounted::new(mount, &point);
    let mut files = Vec::new();
    let mut waiting = vec![point.clone()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).expect("listed").flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(&point).expect("below").display().to_string();
                files.push((name, fs::read(&path).expect("read")));
            }
        }
    }
    files.sort();
    files
}

/// Files and folders below `root`, of which half are removed again, so that what is free has been
/// in use.
fn fill(root: &Path) {
    for number in 0..40 {
        let folder = root.join(format!("folder {number}"));
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("text"), text(number, 70_000)).expect("written");
        fs::write(folder.join("noise"), incompressible(number, 150_000)).expect("written");
    }
    for number in (0..40).step_by(2) {
        fs::remove_dir_all(root.join(format!("folder {number}"))).expect("removed");
    }
}

#[test]
fn what_no_filesystem_uses_is_left_out_and_all_else_is_restored() {
    need_tools!();
    for block_size in [16_384, 131_072] {
        let stage = Stage::new(block_size);
        stage.fill();
        let report = stage.capture();
        let manifest = &report.manifest;
        let of = |name: &str| {
            let found = manifest.allocation.iter().find(|volume| volume.volume == name);
            found.unwrap_or_else(|| panic!("{name} in {:?}", manifest.allocation))
        };
        for (number, (_, length)) in (1..).zip(PARTS) {
            let volume = of(&format!("p{number}"));
            assert_eq!(volume.doubt, None, "{volume:?}");
            let least = (length * MIB) as u64 / 10 * 6;
            assert!(volume.unallocated > least, "{block_size}: {volume:?}");
        }
        let cost = manifest.cost;
        assert_eq!(cost.read + cost.unallocated, (DISK * MIB) as u64);
        assert_eq!(
            manifest.allocation.iter().map(|v| v.unallocated).sum::<u64>(),
            cost.unallocated
        );
        stage.check(&report);

        let all = stage.try_capture(true, Vec::new()).expect("captured");
        assert_eq!(all.manifest.cost.unallocated, 0);
        assert!(stage.restored(&all) == fs::read(&stage.disk).expect("read"));
    }
}

#[test]
fn generations_follow_what_is_used_and_what_is_freed() {
    need_tools!();
    let stage = Stage::new(16_384);
    stage.fill();
    stage.capture();
    for generation in 0..4_u64 {
        stage.in_ext(|root| {
            let kept = root.join(format!("new {generation}"));
            fs::write(&kept, incompressible(100 + generation, 3 * MIB)).expect("written");
            let gone = root.join(format!("folder {}", generation * 2 + 1));
            fs::remove_dir_all(gone).expect("removed");
        });
        let report = stage.capture();
        assert_eq!((report.manifest.tracker.as_str(), report.alarm.as_ref()), ("told", None));
        assert!(report.manifest.cost.read < 12 << 20, "{:?}", report.manifest.cost);
        assert_eq!(report.manifest.allocation.len(), 4);
        stage.check(&report);
    }
    let nothing = stage.capture();
    assert_eq!(nothing.manifest.cost.read, 0);
    stage.check(&nothing);
}

#[test]
fn what_is_used_again_without_being_written_is_captured_then() {
    need_tools!();
    let stage = Stage::new(16_384);
    stage.fill();
    stage.in_ext(|root| {
        fs::write(root.join("kept"), incompressible(55, 4 * MIB)).expect("written");
    });
    let block = |part: &str| {
        let said = tool::run("debugfs", &["-R", "bmap /kept 3000", part]).expect("debugfs runs");
        said.trim().parse::<usize>().expect("a block")
    };
    let mut place = 0;
    // Its blocks are marked free, as if it were gone, and used again later; they are not written.
    stage.in_part(0, |part| {
        place = block(part);
        let free = format!("freeb {} 64", place);
        tool::run("debugfs", &["-w", "-R", &free, part]).expect("debugfs runs");
        // The counts, which `freeb` leaves: without them the free space is not certain.
        tool::run("e2fsck", &["-f", "-n", part]).expect_err("the file's blocks are free");
        tool::run("debugfs", &["-w", "-R", "clri /kept", part]).expect("debugfs runs");
        let _repaired = tool::run("e2fsck", &["-f", "-y", part]);
    });
    let first = stage.capture();
    let bytes = |disk: &[u8]| {
        let start = PARTS[0].0 * MIB + place * 1024;
        disk[start..start + 64 * 1024].to_vec()
    };
    let expected = bytes(&fs::read(&stage.disk).expect("read"));
    assert!(bytes(&stage.restored(&first)) != expected, "they are free now");
    stage.in_part(0, |part| {
        let used = format!("setb {} 64", place);
        tool::run("debugfs", &["-w", "-R", &used, part]).expect("debugfs runs");
        let state = tool::run("debugfs", &["-R", "stats", part]).expect("debugfs runs");
        assert!(state.contains("Free blocks"), "{state}");
    });
    let second = stage.capture();
    assert_eq!(second.manifest.tracker, "told");
    assert!(bytes(&stage.restored(&second)) == expected, "they are used again");
}

#[test]
fn what_is_left_out_though_it_is_used_is_read_with_all_of_its_volume() {
    need_tools!();
    let stage = Stage::new(16_384);
    stage.fill();
    let (start, _) = PARTS[0];
    let base = (start * MIB) as u64;
    let mut places = Vec::new();
    stage.in_part(0, |part| {
        for request in ["bmap \"/folder 1/noise\" 40", "bmap \"/folder 3\" 0"] {
            let said = tool::run("debugfs", &["-R", request, part]).expect("debugfs runs");
            places.push(base + said.trim().parse::<u64>().expect("a block") * 1024);
        }
        let said = tool::run("dumpe2fs", &[part]).expect("dumpe2fs runs");
        let table = said.lines().find_map(|line| line.trim().strip_prefix("Inode table at "));
        let table = table.and_then(|rest| rest.split('-').next()).expect("an inode table");
        places.push(base + table.parse::<u64>().expect("a block") * 1024);
    });
    for place in places {
        let range = ByteRange::new(place / 16_384 * 16_384, 16_384);
        let report = stage.try_capture(false, vec![range]).expect("captured");
        let (restored, disk) = (stage.restored(&report), fs::read(&stage.disk).expect("read"));
        let (start, length) = PARTS[0];
        let part = start * MIB..(start + length) * MIB;
        assert!(restored[part.clone()] == disk[part], "byte {place}: nothing of it is left out");
        let [ext, others @ ..] = report.manifest.allocation.as_slice() else {
            panic!("{report:?}")
        };
        let doubt = ext.doubt.as_deref().unwrap_or_default();
        assert!(doubt.contains("are in use"), "{ext:?}");
        assert_eq!(ext.unallocated, 0);
        assert!(others.iter().all(|one| one.doubt.is_none() && one.unallocated > 0), "{others:?}");
        stage.check(&report);
        stage.forget_images();
    }
    stage.check(&stage.capture());
}

#[test]
fn in_doubt_a_volume_is_read_whole() {
    need_tools!();
    let stage = Stage::new(131_072);
    stage.fill();
    // Mounted when it was copied: what its maps say may be behind what is on the disk.
    let part = stage.folder.path().join("live");
    stage.in_part(0, |bytes| {
        fs::copy(bytes, &part).expect("copied");
        let point = stage.folder.path().join("mounted");
        fs::create_dir_all(&point).expect("made");
        let _mounted = Mounted::new(&["-o", "loop", part.to_str().expect("plain")], &point);
        fs::write(point.join("fresh"), b"not synced").expect("written");
        File::open(&point).expect("opened").sync_all().expect("synced");
        fs::copy(&part, bytes).expect("copied");
    });
    let report = stage.capture();
    let ext = report.manifest.allocation.iter().find(|volume| volume.volume == "p1");
    let ext = ext.expect("it was looked at");
    assert_eq!(ext.unallocated, 0);
    println!("{:?}", ext.doubt);
    assert!(ext.doubt.is_some());
    let (start, length) = PARTS[0];
    let (restored, disk) = (stage.restored(&report), fs::read(&stage.disk).expect("read"));
    let ext = start * MIB..(start + length) * MIB;
    assert!(restored[ext.clone()] == disk[ext]);
}
