//! Damaged filesystems: a damaged disk is when people image. What cannot be proven to be unused is
//! read, so that the image has all of that volume and says why; others are captured as ever.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, ByteRange};
use imgx_engine::job::CaptureReport;
use imgx_engine::store::Repository;
use imgx_engine::store::manifest::VolumeUse;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;

use crate::logical_disk::{gather, make_disk, scatter, volumes};
use crate::support::{MIB, Mounted, Warnings, capture, captured, folder_in_memory, unsound};
use crate::{DISK, PARTS, Stage, assert_only_lacks, restored};

/// Ends a test that needs what is not here, saying so.
macro_rules! need {
    ($($tool:literal),+) => {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
        $(if !tool::have($tool) {
            println!("skipped: no {}", $tool);
            return;
        })+
    };
}

fn repository(folder: &Path) -> Repository {
    let block = BlockSize::new(16_384).expect("valid");
    Repository::create(&folder.join("repository"), block).expect("created")
}

fn of<'a>(report: &'a CaptureReport, name: &str) -> &'a VolumeUse {
    let allocation = &report.manifest.allocation;
    let found = allocation.iter().find(|volume| volume.volume == name);
    found.unwrap_or_else(|| panic!("no {name}: {allocation:?}"))
}

/// The image is all of the disk, and says that it had to be.
fn assert_whole(repository: &Repository, report: &CaptureReport, disk: &Path) {
    let folder = folder_in_memory();
    let expected = fs::read(disk).expect("read");
    assert!(restored(repository, report, folder.path()) == expected, "{}", disk.display());
    let cost = report.manifest.cost;
    assert_eq!(cost.unallocated, 0, "{cost:?}");
    let parts = cost.zero + cost.unchanged + cost.duplicate + cost.fresh;
    assert_eq!(parts, expected.len() as u64, "{cost:?}");
    for volume in &report.manifest.allocation {
        assert!(volume.doubt.is_some() && volume.unallocated == 0, "{volume:?}");
    }
    assert_eq!(report.manifest.allocation.len(), 1);
    assert_eq!(unsound(repository), None);
}

/// What `debugfs` makes of the filesystem in `part` with `request`.
fn debugfs(part: &str, request: &str) {
    tool::run("debugfs", &["-w", "-R", request, part]).expect("debugfs runs");
}

#[test]
fn what_other_projects_damaged_is_captured_whole() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases");
    let cases = std::env::var_os("IMGX_CASES").map_or(beside, PathBuf::from);
    for name in ["ext-bitmaps-lie.img", "btrfs-damaged-capture.img"] {
        let packed = cases.join(format!("{name}.zst"));
        if !packed.exists() || !tool::have("zstd") {
            println!("skipped: no {} or no zstd", packed.display());
            continue;
        }
        let folder = folder_in_memory();
        let disk = folder.path().join(name);
        let words = ["-q", "-d", packed.to_str().expect("plain"), "-o"];
        let words = [&words[..], &[disk.to_str().expect("plain")]].concat();
        tool::run("zstd", &words).expect("unpacked");
        let (repository, warnings) = (repository(folder.path()), Warnings::default());
        let report = capture(&repository, &disk, "disk", &warnings).expect("captured");
        assert_whole(&repository, &report, &disk);
        let warnings = warnings.0.into_inner().expect("no panic");
        assert!(warnings.iter().any(|line| line.contains("all of it is read")), "{warnings:?}");
    }
}

/// How a filesystem is made, and how it is damaged so that its free space may be believed, and the
/// way to its files is lost.
type Damage = (&'static [&'static str], &'static [&'static str]);

const DAMAGES: [Damage; 6] = [
    (
        &["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard"],
        &["debugfs", "-w", "-R", "clri <2>"],
    ),
    (
        &["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard"],
        &["debugfs", "-w", "-R", "sif <2> mode 0170755"],
    ),
    // Its list of blocks is no tree of extents.
    (
        &["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard"],
        &["debugfs", "-w", "-R", "sif <2> block[0] 1"],
    ),
    (
        &["mke2fs", "-q", "-F", "-t", "ext2", "-E", "nodiscard"],
        &["debugfs", "-w", "-R", "sif <2> block[0] 99999999"],
    ),
    (
        &["mkfs.xfs", "-q", "-K", "--unsupported", "-m", "crc=0"],
        &["xfs_db", "-x", "-c", "inode 128", "-c", "write core.mode 0"],
    ),
    (
        &["mkfs.xfs", "-q", "-K", "--unsupported"],
        &["xfs_db", "-x", "-c", "inode 128", "-c", "write -c core.magic 0"],
    ),
];

#[test]
fn a_filesystem_without_its_root_is_captured_whole() {
    need!("mke2fs", "debugfs", "mkfs.xfs", "xfs_db");
    for (make, damage) in DAMAGES {
        let folder = folder_in_memory();
        let disk = folder.path().join("disk");
        // Free space that was in use once, so that what is missing shows.
        fs::write(&disk, incompressible(31, 64 * MIB)).expect("written");
        let path = disk.to_str().expect("plain");
        for line in [make, damage] {
            tool::run(line[0], &[&line[1..], &[path]].concat()).expect("it runs");
        }
        let repository = repository(folder.path());
        let report = captured(&repository, &disk, "disk");
        println!("{damage:?}: {:?}", report.manifest.allocation);
        assert_whole(&repository, &report, &disk);
    }
}

#[test]
fn holes_below_a_damaged_filesystem_are_not_read() {
    need!("mke2fs", "debugfs");
    let folder = folder_in_memory();
    let disk = folder.path().join("disk");
    let path = disk.to_str().expect("plain");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&disk)
        .and_then(|file| file.set_len(8 << 30))
        .expect("made");
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", path]).expect("made");
    debugfs(path, "clri <2>");
    let repository = repository(folder.path());
    let report = captured(&repository, &disk, "disk");
    let cost = report.manifest.cost;
    assert!(of(&report, "disk").doubt.is_some());
    assert!(cost.read < 300 << 20, "{cost:?}");
    assert_eq!((cost.unallocated, cost.zero + cost.duplicate + cost.fresh), (0, 8 << 30));
    assert_eq!(unsound(&repository), None);
}

/// Asserts that of the four volumes only the first was read whole, and all of it.
fn assert_only_first_is_whole(stage: &Stage, report: &CaptureReport) {
    let (restored, disk) = (stage.restored(report), fs::read(&stage.disk).expect("read"));
    let (start, length) = PARTS[0];
    let first = start * MIB..(start + length) * MIB;
    assert!(restored[first.clone()] == disk[first], "all of the damaged volume is there");
    assert_only_lacks(&restored, &disk);
    let damaged = of(report, "p1");
    assert!(damaged.doubt.is_some() && damaged.unallocated == 0, "{damaged:?}");
    for name in ["p2", "p3", "p4"] {
        let volume = of(report, name);
        assert!(volume.doubt.is_none() && volume.unallocated > 4 << 20, "{volume:?}");
    }
    assert_eq!(unsound(&stage.repository), None);
}

#[test]
fn only_the_damaged_one_of_several_volumes_is_read_whole_also_when_its_parent_trusted_it() {
    need!("sfdisk", "mke2fs", "mkfs.vfat", "mkfs.exfat", "mkswap", "mcopy", "debugfs");
    for block_size in [16_384, 1 << 20] {
        let stage = Stage::new(block_size);
        stage.fill();
        let sound = stage.capture();
        assert!(sound.manifest.allocation.iter().all(|volume| volume.doubt.is_none()));
        stage.check(&sound);
        stage.in_part(0, |part| debugfs(part, "clri <2>"));
        let report = stage.capture();
        assert_eq!(report.manifest.tracker, "told");
        assert_only_first_is_whole(&stage, &report);
        let cost = report.manifest.cost;
        assert!(cost.read <= (PARTS[0].1 * MIB) as u64 + (2 << 20), "{cost:?}");
        let parts = [cost.zero, cost.unchanged, cost.unallocated, cost.duplicate, cost.fresh];
        assert_eq!(parts.iter().sum::<u64>(), (DISK * MIB) as u64, "{cost:?}");
        // Of the next as well nothing is missing, and it says why.
        stage.in_part(0, |part| debugfs(part, "sif <12> mtime 20010101"));
        let next = stage.capture();
        assert_eq!(next.manifest.tracker, "told");
        assert_only_first_is_whole(&stage, &next);
        assert!(next.manifest.cost.read < 8 << 20, "{:?}", next.manifest.cost);
        let fresh = stage.try_capture(false, Vec::new()).expect("captured");
        assert_only_first_is_whole(&stage, &fresh);
    }
}

#[test]
fn only_the_damaged_one_of_several_logical_volumes_is_read_whole() {
    need!("vgcfgrestore", "sfdisk", "mke2fs", "e2fsck", "debugfs");
    let folder = folder_in_memory();
    let path = folder.path().join("disk");
    let group = format!("imgxhurt{}", std::process::id());
    make_disk(&path, &group);
    let mut disk = fs::read(&path).expect("read");
    let part = folder.path().join("part");
    let plain = part.to_str().expect("plain");
    for (volume, map) in volumes() {
        gather(&disk, &map, &part);
        let label = ["-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard", plain];
        tool::run("mke2fs", &label).expect("made");
        if volume.name == "striped" {
            debugfs(plain, "clri <2>");
        }
        scatter(&mut disk, &map, &part);
    }
    fs::write(&path, &disk).expect("written");
    let repository = repository(folder.path());
    let report = captured(&repository, &path, "disk");
    let back = restored(&repository, &report, folder.path());
    assert_only_lacks(&back, &disk);
    let [_, (_, striped)] = volumes();
    assert!(striped.iter().all(|run| back[run.clone()] == disk[run.clone()]));
    let damaged = of(&report, &format!("{group}/striped"));
    assert!(damaged.doubt.is_some() && damaged.unallocated == 0, "{damaged:?}");
    let turned = of(&report, &format!("{group}/turned"));
    assert!(turned.doubt.is_none() && turned.unallocated > 4 << 20, "{turned:?}");
    let cost = report.manifest.cost;
    assert_eq!(turned.unallocated, cost.unallocated, "{cost:?}");
    assert_eq!(unsound(&repository), None);
}

#[test]
fn what_cannot_be_read_of_a_damaged_volume_is_told_beside_what_could_not_be_read_before() {
    need!("mke2fs", "debugfs", "dumpe2fs");
    let folder = folder_in_memory();
    let disk = folder.path().join("disk");
    fs::write(&disk, incompressible(32, 64 * MIB)).expect("written");
    let path = disk.to_str().expect("plain");
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "nodiscard", path]).expect("made");
    let point = folder.path().join("mounted");
    fs::create_dir(&point).expect("made");
    {
        let _mounted = Mounted::new(&["-o", "loop,nodiscard", path], &point);
        for number in 0..15_u64 {
            let content = incompressible(number, 2 * MIB);
            fs::write(point.join(format!("file {number}")), content).expect("written");
        }
    }
    debugfs(path, "clri <2>");
    let device = LoopDevice::attach(&disk).expect("attached");
    // Both files and free space lie behind.
    let cut = 20 * MIB;
    let file = OpenOptions::new().write(true).open(&disk).expect("opened");
    file.set_len(cut as u64).expect("cut");
    let repository = repository(folder.path());
    let report = captured(&repository, device.path(), "disk");
    let manifest = &report.manifest;
    let told: Vec<ByteRange> = manifest.unreadable.iter().map(|range| range.bytes()).collect();
    assert_eq!(told, [ByteRange { start: cut as u64, end: 64 * MIB as u64 }]);
    assert_eq!(manifest.cost.unreadable, 44 * MIB as u64);
    assert!(of(&report, "disk").doubt.is_some());
}
