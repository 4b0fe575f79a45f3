//! Volumes of which it is not certain what they hold, or whose blocks others need: all of them is
//! in the image, whatever an allocation map says.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use imgx_engine::base::{BlockSize, Silent};
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{lvm, tool};

use crate::restored;
use crate::support::{MIB, folder_in_memory};

/// The volume on its disk: one partition, the rest is nobody's.
const START: usize = MIB;
const LENGTH: usize = 64 * MIB;
const DISK: usize = START + LENGTH + MIB;

/// A disk of noise with one partition.
struct Stage {
    folder: tempfile::TempDir,
    repository: Repository,
    disk: PathBuf,
}

impl Stage {
    fn new() -> Option<Self> {
        for tool in ["sfdisk", "mke2fs", "mkswap"] {
            if !tool::have(tool) {
                println!("skipped: no {tool}");
                return None;
            }
        }
        let folder = folder_in_memory();
        let disk = folder.path().join("disk");
        fs::write(&disk, incompressible(3, DISK)).expect("written");
        sfdisk(&disk, "label: gpt\nstart=1MiB, size=64MiB\n");
        let repository = folder.path().join("repository");
        let block_size = BlockSize::new(16_384).expect("valid");
        let repository = Repository::create(&repository, block_size).expect("created");
        Some(Self { folder, repository, disk })
    }

    /// Takes the partition out into a file, has `work` change it, and puts it back.
    fn in_part(&self, work: impl FnOnce(&str)) {
        let part = self.folder.path().join("part");
        let disk = OpenOptions::new().read(true).write(true).open(&self.disk).expect("opened");
        let mut bytes = vec![0; LENGTH];
        disk.read_exact_at(&mut bytes, START as u64).expect("read");
        fs::write(&part, &bytes).expect("written");
        work(part.to_str().expect("plain"));
        disk.write_all_at(&fs::read(&part).expect("read"), START as u64).expect("written");
    }

    fn capture(&self) -> CaptureReport {
        let options = CaptureOptions::default();
        let plan = Capture::plan(&self.repository, &self.disk, options, &Silent).expect("planned");
        plan.run(&Silent).expect("captured")
    }

    /// Captures, and asserts that all of the disk comes back, with the reason in the image.
    #[track_caller]
    fn assert_all_is_kept(&self) {
        let report = self.capture();
        let back = restored(&self.repository, &report, self.folder.path());
        let disk = fs::read(&self.disk).expect("read");
        let lost = back.iter().zip(&disk).filter(|(one, other)| one != other).count();
        assert_eq!(lost, 0, "bytes are missing: {:?}", report.manifest.layout);
    }
}

fn sfdisk(path: &std::path::Path, script: &str) {
    let node = path.to_str().expect("plain");
    let arguments = ["-q", "--wipe=never", "--wipe-partitions=never", node];
    tool::run_with_input("sfdisk", &arguments, script).expect("sfdisk runs");
}

/// A virtual machine's disk, written into a volume that was something else before.
fn nested(stage: &Stage, make: &[&str]) {
    stage.in_part(|part| {
        let all: Vec<&str> = make[1..].iter().copied().chain([part]).collect();
        tool::run(make[0], &all).expect("made");
        sfdisk(part.as_ref(), "label: dos\nstart=2048, size=102400\n");
    });
}

#[test]
fn a_virtual_machines_disk_in_a_former_swap_space_is_kept() {
    let Some(stage) = Stage::new() else { return };
    nested(&stage, &["mkswap", "-f"]);
    stage.assert_all_is_kept();
}

#[test]
fn a_virtual_machines_disk_in_a_former_filesystem_is_kept() {
    let Some(stage) = Stage::new() else { return };
    nested(&stage, &["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard"]);
    stage.assert_all_is_kept();
}

#[test]
fn what_is_used_of_a_virtual_machines_disk_in_a_volume_is_kept() {
    let Some(stage) = Stage::new() else { return };
    nested(&stage, &["mkswap", "-f"]);
    let report = stage.capture();
    let layout = serde_json::to_string(&report.manifest.layout).expect("plain");
    assert!(layout.contains("\"p1/p1\""), "{layout}");
    assert!(layout.contains("mbr partition table"), "{layout}");
}

#[test]
fn what_lies_behind_the_end_of_a_swap_space_is_kept() {
    let Some(stage) = Stage::new() else { return };
    stage.in_part(|part| {
        let file = OpenOptions::new().write(true).open(part).expect("opened");
        // Swap of 16 MiB in a volume of 64.
        let whole = fs::read(part).expect("read");
        file.set_len(16 << 20).expect("cut");
        tool::run("mkswap", &["-f", part]).expect("made");
        file.set_len(LENGTH as u64).expect("grown");
        file.write_all_at(&whole[16 << 20..], 16 << 20).expect("written");
    });
    let report = stage.capture();
    let back = restored(&stage.repository, &report, stage.folder.path());
    let disk = fs::read(&stage.disk).expect("read");
    let behind = START + (16 << 20);
    assert!(back[behind..] == disk[behind..], "what is behind the swap space is lost");
    let within = START + (1 << 20)..START + (15 << 20);
    assert!(back[within].iter().all(|byte| *byte == 0), "swap is left out as ever");
}

#[test]
fn what_a_snapshot_may_need_of_its_origin_is_kept() {
    let Some(stage) = Stage::new() else { return };
    if !tool::have("vgcfgrestore") || LoopDevice::unavailable().is_some() {
        println!("skipped: no LVM tools, or no loop devices");
        return;
    }
    let extents = LENGTH as u64 / lvm::EXTENT - 1;
    let store = "start_extent = 0\nextent_count = 2\ntype = \"snapshot\"\nchunk_size = 8\n\
        origin = \"origin\"\ncow_store = \"store\"";
    let volumes = [
        lvm::Logical { name: "origin", segments: vec![lvm::linear(0, extents - 4, (0, 0))] },
        lvm::Logical { name: "store", segments: vec![lvm::linear(0, 2, (0, extents - 4))] },
        lvm::Logical { name: "snapshot0", segments: vec![store.to_owned()] },
    ];
    let group = format!("imgxs{}", std::process::id());
    lvm::make_group(&stage.disk, &[(START as u64, LENGTH as u64)], &group, &volumes)
        .expect("LVM takes it");
    // A filesystem in the origin, with much free space of which the snapshot may need any.
    let image = stage.folder.path().join("origin");
    let length = usize::try_from((extents - 4) * lvm::EXTENT).expect("small");
    fs::write(&image, incompressible(8, length)).expect("written");
    let node = image.to_str().expect("plain");
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "nodiscard", node]).expect("made");
    let disk = OpenOptions::new().write(true).open(&stage.disk).expect("opened");
    let place = START as u64 + lvm::DATA;
    disk.write_all_at(&fs::read(&image).expect("read"), place).expect("written");
    stage.assert_all_is_kept();
}
