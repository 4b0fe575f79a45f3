//! Disks that the kernel tracks: images that cost what changed, and what makes a map doubtful.

use std::path::Path;

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;
use serde_json::Value;

use crate::support::{Ended, Shell, assert_same, overwrite};

/// A shell with a tracked disk; what is tracked is stopped in the end.
struct Stage {
    shell: Shell,
    device: LoopDevice,
}

impl Stage {
    fn new() -> Option<Self> {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return None;
        }
        let shell = Shell::with_repository();
        let disk = shell.mixed_disk("disk.raw", 48 << 20);
        let stage = Self { shell, device: LoopDevice::attach(&disk).expect("attached") };
        let started = stage.imgx("track start DISK");
        if started.code == Some(1) && started.err.contains("hint: this needs a newer") {
            println!("skipped: {}", started.err);
            return None;
        }
        started.exits(0).shows(&["exact", "16.0 KiB"]);
        Some(stage)
    }

    fn disk(&self) -> String {
        self.device.path().display().to_string()
    }

    fn imgx(&self, line: &str) -> Ended {
        self.shell.imgx(&line.replace("DISK", &self.disk()))
    }

    fn write(&self, place: u64, bytes: &[u8]) {
        overwrite(self.device.path(), place, bytes);
        tool::run("blockdev", &["--flushbufs", &self.disk()]).expect("flushed");
    }

    /// Captures, and says what the manifest says.
    fn capture(&self, options: &str, code: i32) -> Value {
        let line = format!("capture DISK --name web {options}");
        self.imgx(line.trim()).exits(code);
        self.check("web");
        self.imgx("show web --json").exits(0).document()
    }

    /// The image is the disk.
    fn check(&self, image: &str) {
        let out = self.shell.path("out.raw");
        let _absent = std::fs::remove_file(&out);
        self.imgx(&format!("restore {image} out.raw")).exits(0);
        assert_same(&self.shell.path("disk.raw"), &out);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _best_effort = self.shell.imgx(&format!("track stop {}", self.disk()));
    }
}

#[test]
fn an_image_of_a_tracked_disk_costs_what_changed_and_says_why_it_is_believed() {
    let Some(stage) = Stage::new() else { return };
    let first = stage.capture("--tracker ebpf", 0);
    assert_eq!(first["tracker"], "compare");
    assert_eq!(first["tracking"]["epoch"], 1);

    stage.write(5 << 20, &incompressible(1, 4096));
    stage.write((40 << 20) + 512, &incompressible(2, 512));
    let second = stage.capture("--audit 4M", 0);
    assert_eq!(
        (&second["tracker"], &second["cost"]["read"]),
        (&"ebpf".into(), &(256 << 10).into())
    );
    assert_eq!(second["cost"]["unchanged"], (48 << 20) - (256 << 10));
    assert!(second["cost"]["stored"].as_u64().is_some_and(|stored| stored < 10_000), "{second}");
    assert_eq!(second["parent"], first["id"]);
    let evidence = &second["tracking"];
    assert_eq!((&evidence["since"], &evidence["epoch"]), (&2.into(), &2.into()));
    assert_eq!(evidence["queued"]["written"], evidence["kernel"]["written"]);
    stage.imgx("show web").exits(0).shows(&["tracker", "ebpf", "evidence", "disk_sequence"]);

    let status = stage.imgx("track status DISK --json").exits(0).document();
    assert_eq!(status["disks"][0]["epoch"], 3);
    assert_eq!(status["disks"][0]["open_epochs"], 1);

    // A capture that fails loses nothing.
    stage.write(9 << 20, b"while the repository is away");
    let (repository, away) = (stage.shell.path("repo/packs"), stage.shell.path("away"));
    std::fs::rename(&repository, &away).expect("renamed");
    assert_ne!(stage.imgx("capture DISK --name web").code, Some(0));
    std::fs::rename(&away, &repository).expect("renamed");
    stage.write(11 << 20, b"and when it is back");
    let third = stage.capture("", 0);
    assert_eq!((&third["tracker"], &third["cost"]["read"]), (&"ebpf".into(), &(256 << 10).into()));
    stage.imgx("verify").exits(0);
}

#[test]
fn going_back_to_the_last_image_costs_what_changed_since() {
    let Some(stage) = Stage::new() else { return };
    stage.capture("", 0);
    let before = std::fs::read(stage.shell.path("disk.raw")).expect("read");
    stage.write(20 << 20, &incompressible(3, 300_000));
    let restored = stage.imgx("restore web DISK --yes --only-changed --json").exits(0);
    let plan = &restored.events()[0];
    // What was written, and a sixteenth of the rest as a sample.
    assert!(plan["compared"].as_u64().is_some_and(|bytes| bytes <= 4 << 20), "{plan}");
    assert!(before == std::fs::read(stage.shell.path("disk.raw")).expect("read"), "not restored");
    // What the restore wrote is known to the next image.
    let next = stage.capture("", 0);
    assert_eq!((&next["tracker"], &next["cost"]["fresh"]), (&"ebpf".into(), &0.into()));
}

#[test]
fn a_tracker_that_a_restore_finds_wrong_is_not_believed_by_the_next_capture() {
    let Some(stage) = Stage::new() else { return };
    stage.capture("", 0);
    let before = std::fs::read(stage.shell.path("disk.raw")).expect("read");
    overwrite(&stage.shell.path("disk.raw"), 8 << 20, &incompressible(4, 32 << 20));
    // Without it, the file behind the device tells that it was changed past that.
    stage.write(45 << 20, b"by way of the device");
    stage
        .imgx("restore web DISK --yes --only-changed")
        .exits(0)
        .complains(&["is not what it was known to be"]);
    assert!(before == std::fs::read(stage.shell.path("disk.raw")).expect("read"), "not restored");
    stage.imgx("track status DISK").exits(0).shows(&["in doubt", "stop and start"]);
    assert_eq!(stage.capture("", 0)["tracker"], "compare");
}

#[test]
fn a_map_in_doubt_is_not_used_and_the_history_goes_on() {
    let Some(stage) = Stage::new() else { return };
    let mut parent = stage.capture("", 0);
    let mut next = |stage: &Stage, place: u64, doubt: &str| {
        overwrite(stage.device.path(), place, doubt.as_bytes());
        tool::run("blockdev", &["--flushbufs", &stage.disk()]).expect("flushed");
        let image = stage.capture("", 0);
        assert_eq!((&image["tracker"], &image["parent"]), (&"compare".into(), &parent["id"]));
        let told = image["tracker_doubt"].as_str().expect("a doubt").to_owned();
        assert!(told.contains(doubt), "{told}");
        parent = image;
    };
    stage.imgx("track stop DISK").exits(0).shows(&["not tracked any more"]);
    stage.write(1 << 20, b"while nobody looked");
    stage.imgx("capture DISK --name web --tracker ebpf").exits(1).complains(&["track start"]);
    stage.imgx("track start DISK").exits(0);
    next(&stage, 2 << 20, "started anew");

    let (disk, file) = (stage.disk(), stage.shell.path("disk.raw"));
    tool::run("losetup", &["--detach", &disk]).expect("detached");
    overwrite(&file, 3 << 20, b"while it was detached");
    tool::run("losetup", &[&disk, file.to_str().expect("plain")]).expect("attached");
    next(&stage, 4 << 20, "attached again");
    stage.imgx("track start DISK").exits(0);
    next(&stage, 5 << 20, "before tracking began");
}

#[test]
fn a_change_behind_the_trackers_back_raises_an_alarm_and_is_captured() {
    let Some(stage) = Stage::new() else { return };
    stage.capture("", 0);
    // Alone, this would be seen by the file's own times.
    stage.write(11 << 20, b"by way of the device");
    overwrite(&stage.shell.path("disk.raw"), 30 << 20, b"into the file behind the device");
    let caught = stage.capture("--audit 1G", 3);
    assert_eq!(caught["tracker"], "compare");
    stage.imgx("track status DISK").exits(0).shows(&["in doubt", "stop and start"]);
    let after = stage.capture("", 0);
    assert!(after["tracker_doubt"].as_str().is_some_and(|doubt| doubt.contains("audit")));
    stage.imgx("track stop DISK").exits(0);
    stage.imgx("track start DISK").exits(0).shows(&["exact"]);
}

#[test]
fn what_cannot_be_tracked_is_refused_with_the_reason() {
    let shell = Shell::new();
    let file = shell.mixed_disk("disk.raw", 1 << 20);
    assert!(Path::new(&file).exists());
    shell.imgx("track start disk.raw").exits(2).complains(&["not a block device"]);
    shell.imgx("track start /dev/no-such-disk").exits(1).complains(&["/dev/no-such-disk"]);
    shell.imgx("track start disk.raw --granule 3000").exits(2).complains(&["power of two"]);
    shell.imgx("track status /dev/null").exits(1).complains(&["not tracked"]);
}
