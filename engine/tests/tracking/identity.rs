//! A disk that is made of something else by now, or whose file was changed past it, is noticed
//! though its number, sequence number and size are the same.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use imgx_engine::base::{BlockSize, ErrorKind, Silent};
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport, Restore, RestoreOptions};
use imgx_engine::store::Repository;
use imgx_engine::track::{Evidence, Tracking};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;

use super::support::Tracked;

const SIZE: u64 = 64 << 20;

/// Ends an epoch whose image is stored.
fn stored(disk: &Tracked) -> Evidence {
    let mut tracker = disk.tracker();
    let told = tracker.checkpoint().expect("checkpoint");
    told.evidence
}

fn now(disk: &Tracked) -> Evidence {
    disk.tracker().checkpoint().expect("checkpoint").evidence
}

fn same(one: &Evidence, other: &Evidence) -> bool {
    one.check_disk(other).is_ok()
}

/// Has the loop device show its file from `offset` on, `size` bytes, as LOOP_SET_STATUS64 does.
/// Says whether that could be done.
fn show_part(device: &Path, offset: u64, size: u64) -> bool {
    let script = "import fcntl, struct, sys\n\
        device = open(sys.argv[1], 'rb')\n\
        status = bytearray(232)\n\
        fcntl.ioctl(device, 0x4c05, status)\n\
        struct.pack_into('<QQ', status, 24, int(sys.argv[2]), int(sys.argv[3]))\n\
        fcntl.ioctl(device, 0x4c04, bytes(status))\n";
    let (offset, size) = (offset.to_string(), size.to_string());
    let arguments = ["-c", script, device.to_str().expect("plain"), &offset, &size];
    Command::new("python3").args(arguments).status().is_ok_and(|status| status.success())
}

#[test]
fn another_part_of_the_file_is_another_disk() {
    let Some(disk) = Tracked::new(SIZE, 4096) else { return };
    disk.settle();
    let before = stored(&disk);
    assert!(same(&now(&disk), &before), "nothing changed");
    if !show_part(disk.device.path(), 0, SIZE - 4096) || !show_part(disk.device.path(), 0, 0) {
        println!("skipped: no python3, or the part that is shown cannot be changed");
        return;
    }
    // As long as before, but from another byte on.
    let file = OpenOptions::new().write(true).open(&disk.file).expect("opened");
    file.set_len(SIZE + 4096).expect("grown");
    assert!(show_part(disk.device.path(), 4096, SIZE));
    assert!(!same(&now(&disk), &before), "it begins elsewhere");
}

#[test]
fn a_file_that_was_changed_past_the_device_is_noticed() {
    let Some(disk) = Tracked::new(SIZE, 4096) else { return };
    disk.settle();
    let file = OpenOptions::new().write(true).open(&disk.file).expect("opened");
    let write: [(&str, &dyn Fn()); 3] = [
        ("written", &|| file.write_all_at(b"past the device", 1 << 20).expect("written")),
        ("cut", &|| file.set_len(SIZE / 2).and_then(|()| file.set_len(SIZE)).expect("cut")),
        ("shorter", &|| file.set_len(SIZE / 2).expect("cut")),
    ];
    for (what, change) in write {
        let before = stored(&disk);
        assert!(same(&now(&disk), &before), "{what}: not yet");
        change();
        assert!(!same(&now(&disk), &before), "{what}");
    }
}

#[test]
fn a_disk_that_others_begin_to_write_past_is_refused() {
    let Some(disk) = Tracked::new(SIZE, 4096) else { return };
    let other = LoopDevice::attach(&disk.file).expect("attached");
    let error = disk.try_tracker().expect_err("it is written past");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("is attached as"), "{error}");
    drop(other);
    disk.tracker();
}

struct Stage {
    // In the order in which they have to go.
    device: LoopDevice,
    repository: Repository,
    folder: tempfile::TempDir,
}

impl Stage {
    fn capture(&self) -> CaptureReport {
        let options = CaptureOptions {
            name: Some("disk".to_owned()),
            // What is noticed is not noticed by chance.
            audit: Some(0),
            all_blocks: true,
            ..CaptureOptions::default()
        };
        let plan = Capture::plan(&self.repository, self.device.path(), options, &Silent);
        plan.expect("planned").run(&Silent).expect("captured")
    }

    fn is_disk(&self, report: &CaptureReport) -> bool {
        let target = self.folder.path().join("restored");
        let _earlier = fs::remove_file(&target);
        let image = self.repository.image(report.id).expect("stored");
        let restore = Restore::plan(&self.repository, &image, &target, RestoreOptions::default());
        restore.expect("planned").run(&Silent).expect("restored");
        let [target, device] = [target.as_path(), self.device.path()];
        let paths = [target.to_str().expect("plain"), device.to_str().expect("plain")];
        tool::run("cmp", &paths).is_ok()
    }
}

/// Stops the tracking of a device.
struct Stop<'a>(&'a Path);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _best_effort = Tracking::default().stop(self.0);
    }
}

#[test]
fn a_file_that_was_cut_and_grew_again_is_read_whole_even_if_it_was_written_to_since() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk");
    fs::write(&path, incompressible(1, 16 << 20)).expect("written");
    let device = LoopDevice::attach(&path).expect("attached");
    let repository = folder.path().join("repository");
    let repository = Repository::create(&repository, BlockSize::DEFAULT).expect("a repository");
    let stage = Stage { device, repository, folder };
    match Tracking::default().start(stage.device.path(), None) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            println!("skipped: {error}");
            return;
        }
        started => assert!(started.expect("started")),
    }
    let _stop = Stop(stage.device.path());
    assert!(stage.is_disk(&stage.capture()));
    let write = |place: u64| {
        let device = OpenOptions::new().write(true).open(stage.device.path()).expect("opened");
        device.write_all_at(&incompressible(place, 4096), place).expect("written");
        device.sync_all().expect("synced");
    };
    write(1 << 20);
    let report = stage.capture();
    assert_eq!(report.manifest.tracker, "ebpf", "{:?}", report.manifest.tracker_doubt);
    assert!(stage.is_disk(&report));
    let file = File::options().write(true).open(&path).expect("opened");
    file.set_len(10 << 20).and_then(|()| file.set_len(16 << 20)).expect("cut");
    drop(file);
    write(2 << 20);
    let report = stage.capture();
    assert!(stage.is_disk(&report), "what was cut is missing in it");
    let doubt = report.manifest.tracker_doubt.expect("it was noticed");
    assert!(doubt.contains("changed past the device"), "{doubt}");
}
