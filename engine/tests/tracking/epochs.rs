//! Epochs one by one: what is told, what is told again, and what is noticed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use imgx_engine::base::{ByteRange, ErrorKind};
use imgx_engine::sys::bpf::{BpfFolder, FoundFolder};
use imgx_engine::track::Verdict;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::{loopdev, tool};

use super::support::{Tracked, follows, stored};

const O_DIRECT: i32 = 0o40_000;

/// A page, where direct writes want it.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn direct(path: &Path) -> File {
    OpenOptions::new().write(true).custom_flags(O_DIRECT).open(path).expect("opened")
}

pub fn write_page(path: &Path, page: u64) {
    fill_page(path, page, page.to_le_bytes()[0] | 1);
}

pub fn fill_page(path: &Path, page: u64, byte: u8) {
    let content = Page([byte; 4096]);
    direct(path).write_all_at(&content.0, page * 4096).expect("written");
}

pub fn pages(changes: &imgx_engine::base::ChangeMap) -> Vec<u64> {
    changes.runs().flat_map(|run| run.start / 4096..run.end / 4096).collect()
}

#[test]
fn what_no_image_was_stored_of_is_told_again_and_what_was_is_not() {
    let Some(disk) = Tracked::new(64 << 20, 4096) else { return };
    let path = disk.device.path();
    let mut tracker = disk.tracker();
    let first = tracker.checkpoint().expect("checkpoint");
    stored(&mut tracker, &first);
    write_page(path, 3);
    let lost = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&lost.changes), [3]);
    write_page(path, 16_383);
    // As a process that knows nothing of the one before.
    let mut tracker = disk.tracker();
    let again = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&again.changes), [3, 16_383]);
    assert_ne!(again.verdict, Verdict::Tainted(String::new()));
    assert_eq!(follows(&again.evidence, &first.evidence), Ok(()));
    stored(&mut tracker, &again);
    assert!(tracker.commit(lost.evidence.epoch, [7; 16]).is_err(), "another image took it over");
    let mut none = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&none.changes), [0_u64; 0]);
    assert_eq!(follows(&none.evidence, &again.evidence), Ok(()));
    assert!(follows(&none.evidence, &first.evidence).is_err());
    // What another process's checkpoint took over is still known to this one.
    write_page(path, 9);
    disk.tracker().checkpoint().expect("checkpoint");
    assert!(tracker.is_marked(&[ByteRange::new(9 * 4096, 1)]).expect("asked"));
    assert!(!tracker.is_marked(&[ByteRange::new(10 * 4096, 1)]).expect("asked"));
    // Failing again and again costs no more than so many maps.
    for page in 0..40 {
        write_page(path, page);
        none = disk.tracker().checkpoint().expect("checkpoint");
    }
    assert_eq!(pages(&none.changes), (0..40).collect::<Vec<_>>());
    let status = disk.tracking().status().expect("status");
    assert!(status[0].open_epochs <= 17, "{status:?}");
    assert_eq!(status[0].epoch, none.evidence.epoch + 1);
}

#[test]
fn what_was_marked_since_a_checkpoint_is_told_whoever_ended_epochs_meanwhile() {
    let Some(disk) = Tracked::new(64 << 20, 4096) else { return };
    let path = disk.device.path();
    let (mut one, mut other) = (disk.tracker(), disk.tracker());
    let since = |tracker: &mut imgx_engine::track::Tracker, copied: u64| {
        let told = tracker.checkpoint_since(copied).expect("checkpoint");
        let is_known = !matches!(told.verdict, Verdict::Tainted(_));
        (is_known.then(|| pages(&told.changes)), told.evidence.epoch)
    };
    write_page(path, 1);
    let (told, mut copied) = since(&mut one, 0);
    assert_eq!(told, Some(vec![1]));
    write_page(path, 2);
    assert_eq!(since(&mut other, 0).0, Some(vec![1, 2]));
    write_page(path, 3);
    let (told, last) = since(&mut one, copied);
    assert_eq!(told, Some(vec![2, 3]));
    // What was told and not copied is told again.
    write_page(path, 5);
    assert_eq!(since(&mut one, copied).0, Some(vec![2, 3, 5]));
    copied = last;
    // More epochs than are kept apart.
    for page in 5..30 {
        write_page(path, page);
        assert!(since(&mut other, 0).0.is_some());
    }
    let told = since(&mut one, copied).0.expect("known");
    assert!((5..30).all(|page| told.contains(&page)), "{told:?}");
    write_page(path, 40);
    let taken = other.checkpoint().expect("checkpoint");
    stored(&mut other, &taken);
    assert_eq!(since(&mut one, copied).0, None, "the other has what was marked");
    let (_, copied) = since(&mut one, taken.evidence.epoch);
    write_page(path, 41);
    assert_eq!(since(&mut one, copied).0, Some(vec![41]));
}

#[test]
fn a_write_in_flight_across_the_switch_is_told_after_it() {
    if !loopdev::is_root() || !tool::have("fsfreeze") || !tool::have("mkfs.ext4") {
        return println!("skipped: needs root, fsfreeze and mkfs.ext4");
    }
    let temporary = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let temporary = temporary.expect("a temporary folder can be made");
    let outer = temporary.path().join("outer");
    File::create(&outer).and_then(|file| file.set_len(96 << 20)).expect("a file can be made");
    let text = |path: &Path| path.to_str().expect("plain").to_owned();
    tool::run("mkfs.ext4", &["-q", &text(&outer)]).expect("made");
    let point = temporary.path().join("mounted");
    fs::create_dir(&point).expect("made");
    let device = LoopDevice::attach(&outer).expect("attached");
    let mounted = crate::epochs::Mount::new(device.path(), &point);
    let inner = point.join("inner");
    File::create(&inner).and_then(|file| file.set_len(16 << 20)).expect("a file can be made");
    let Some(disk) = Tracked::of_file(tempfile::tempdir().expect("made"), inner, 4096) else {
        return;
    };
    let path = disk.device.path().to_owned();
    let mut tracker = disk.tracker();
    let first = tracker.checkpoint().expect("checkpoint");
    stored(&mut tracker, &first);

    let frozen = Frozen::new(&point);
    let writer = thread::spawn(move || write_page(&path, 77));
    let start = Instant::now();
    let marked = ByteRange::new(77 * 4096, 4096);
    while !tracker.is_marked(&[marked]).expect("asked") {
        assert!(start.elapsed() < Duration::from_secs(10), "the queueing was not marked");
        thread::sleep(Duration::from_millis(5));
    }
    let during = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&during.changes), [77]);
    let content = fs::read(&disk.file).expect("the medium can be read");
    assert_eq!(content[77 * 4096], 0, "the write was not in flight");
    stored(&mut tracker, &during);
    // Whoever marks at the queueing only knows nothing of it any more.
    assert!(!tracker.is_marked(&[marked]).expect("asked"));
    drop(frozen);
    writer.join().expect("written");
    let after = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&after.changes), [77], "{:?}", after.verdict);
    assert_ne!(fs::read(&disk.file).expect("read")[77 * 4096], 0);
    drop(disk);
    drop(mounted);
}

/// A mounted filesystem.
pub struct Mount(String);

impl Mount {
    pub fn new(device: &Path, point: &Path) -> Self {
        let text = |path: &Path| path.to_str().expect("plain").to_owned();
        tool::run("mount", &[&text(device), &text(point)]).expect("mounted");
        Self(text(point))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..200 {
            if tool::run("umount", &[&self.0]).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A filesystem that takes no writes.
struct Frozen(String);

impl Frozen {
    fn new(point: &Path) -> Self {
        let point = point.to_str().expect("plain").to_owned();
        tool::run("fsfreeze", &["--freeze", &point]).expect("frozen");
        Self(point)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        tool::run("fsfreeze", &["--unfreeze", &self.0]).expect("thawed");
    }
}

#[test]
fn discards_of_any_length_are_covered() {
    if !tool::have("blkdiscard") {
        return println!("skipped: needs blkdiscard");
    }
    let gib = 1_u64 << 30;
    let Some(disk) = Tracked::new(100 * gib, 4096) else { return };
    let path = disk.device.path().to_str().expect("plain").to_owned();
    let mut tracker = disk.tracker();
    let first = tracker.checkpoint().expect("checkpoint");
    stored(&mut tracker, &first);
    for (offset, length) in
        [(4096, 4096), (8 * gib + 512 * 9, 60 * gib), (99 * gib + 4096, gib - 4096), (0, 512)]
    {
        let (o, l) = (offset.to_string(), length.to_string());
        tool::run("blkdiscard", &["--offset", &o, "--length", &l, &path]).expect("discarded");
        let told = tracker.checkpoint().expect("checkpoint");
        assert!(!matches!(told.verdict, Verdict::Tainted(_)), "{:?}", told.verdict);
        let covered: u64 = told.changes.runs().map(|run| run.len()).sum();
        let range = ByteRange::new(offset, length);
        assert!(told.changes.runs().any(|run| run.intersection(&range) == Some(range)), "{range}");
        assert!(covered <= length + 2 * 64 * 4096, "{covered} bytes for {length}");
        stored(&mut tracker, &told);
    }
}

#[test]
fn other_disks_stopped_and_broken_tracking_are_noticed() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let path = disk.device.path().to_str().expect("plain").to_owned();
    let mut tracker = disk.tracker();
    let before = tracker.checkpoint().expect("checkpoint").evidence;
    assert!(!disk.tracking().start(disk.device.path(), None).expect("asked"), "started twice");
    let text = disk.file.to_str().expect("plain").to_owned();
    tool::run("losetup", &["--detach", &path]).expect("detached");
    tool::run("losetup", &[&path, &text]).expect("attached again");
    let kind = |error: imgx_engine::base::Error| error.kind();
    assert_eq!(disk.try_tracker().map_err(kind).err(), Some(ErrorKind::Unsupported));
    assert!(matches!(disk.tracking().status().expect("status")[0].verdict, Verdict::Tainted(_)));
    assert!(disk.tracking().start(disk.device.path(), None).expect("started"), "not started anew");
    assert_eq!(tracker.checkpoint().map_err(kind).err(), Some(ErrorKind::Unsupported));
    let mut tracker = disk.tracker();
    let after = tracker.checkpoint().expect("checkpoint").evidence;
    assert!(follows(&after, &before).is_err());

    let folder = BpfFolder::existing(disk.folder()).and_then(FoundFolder::closed);
    let folder = folder.expect("looked at").expect("there");
    let open = after.epoch;
    let pin =
        folder.names().expect("listed").into_iter().find(|pin| pin.ends_with(&format!("_{open}")));
    folder.unpin(&pin.expect("pinned")).expect("removed");
    assert!(matches!(tracker.checkpoint().expect("told").verdict, Verdict::Tainted(_)));

    disk.tracker().distrust().expect("distrusted");
    assert!(matches!(tracker.checkpoint().expect("told").verdict, Verdict::Tainted(_)));

    folder.unpin("imgx_request_link").expect("removed");
    assert_eq!(disk.try_tracker().map_err(kind).err(), Some(ErrorKind::Unsupported));
    assert!(disk.tracking().start(disk.device.path(), None).expect("started"), "not started anew");
    assert!(disk.try_tracker().expect("opened").is_some());
    assert!(disk.tracking().stop(disk.device.path()).expect("stopped"));
    assert_eq!(folder.names().expect("listed"), Vec::<String>::new());
    assert!(disk.try_tracker().expect("asked").is_none());
}

#[test]
fn partitions_and_files_are_refused_with_what_to_do() {
    let Some(disk) = Tracked::new(16 << 20, 4096) else { return };
    let refused = disk.tracking().start(&disk.file, None).expect_err("a file");
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(disk.tracking().open(&disk.file).expect("asked").is_none());
    if !tool::have("sfdisk") || !tool::have("partx") {
        return println!("skipped in part: needs sfdisk and partx");
    }
    let path = disk.device.path().to_str().expect("plain").to_owned();
    tool::run_with_input("sfdisk", &["-q", &path], "start=2048, size=8192\n").expect("made");
    disk.device.add_partitions().expect("added");
    let partition = disk.device.partition(1);
    if !partition.exists() {
        return println!("skipped in part: no device of the partition");
    }
    let refused = disk.tracking().start(&partition, None).expect_err("a partition");
    assert!(refused.to_string().contains("whole"), "{refused}");
    let mut tracker = disk.tracker();
    let told = tracker.checkpoint().expect("checkpoint");
    stored(&mut tracker, &told);
    write_page(&partition, 5);
    let told = tracker.checkpoint().expect("checkpoint");
    assert_eq!(pages(&told.changes), [2048 / 8 + 5]);
}

#[test]
fn a_disk_without_a_request_queue_is_tracked() {
    let Ok(device) = imgx_fixtures::zram::Zram::add(64 << 20) else {
        return println!("skipped: no zram device can be added");
    };
    let Some(tracking) = super::support::Started::new(device.path(), 4096) else { return };
    let mut tracker = tracking.tracker();
    let first = tracker.checkpoint().expect("checkpoint");
    stored(&mut tracker, &first);
    for page in [1, 7, 16_383] {
        write_page(device.path(), page);
    }
    let path = device.path().to_str().expect("plain");
    if tool::have("blkdiscard") {
        tool::run("blkdiscard", &["-o", "81920", "-l", "8192", path]).expect("discarded");
    }
    let told = tracker.checkpoint().expect("checkpoint");
    let marked = pages(&told.changes);
    assert!([1, 7, 16_383].iter().all(|page| marked.contains(page)), "{marked:?}");
    assert!(!tool::have("blkdiscard") || [20, 21].iter().all(|page| marked.contains(page)));
    assert_eq!(told.evidence.completed.written, 3 * 8, "{:?}", told.evidence);
    assert!(!matches!(told.verdict, Verdict::Tainted(_)), "{:?}", told.verdict);
}
