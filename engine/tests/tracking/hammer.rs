//! Writers that never rest while epochs end: a copy that takes only what the maps name must end
//! up as the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use imgx_engine::base::ByteRange;
use imgx_engine::track::Verdict;
use imgx_fixtures::tool;

use super::epochs::Mount;
use super::support::{Random, Tracked};

const SIZE: u64 = 384 << 20;
const GRANULE: u64 = 16 << 10;

fn epochs() -> u32 {
    if std::env::var_os("IMGX_LONG").is_some_and(|value| value == "1") { 100 } else { 8 }
}

/// A copy of a disk that follows it by its maps.
struct Copy {
    source: File,
    bytes: Vec<u8>,
    copied: u64,
    unchanged: u64,
    verdicts: [u32; 3],
}

impl Copy {
    fn take(&mut self, range: ByteRange) {
        let mut next = range.start;
        while next < range.end {
            let end = range.end.min(next + GRANULE);
            let mut piece = vec![0; usize::try_from(end - next).expect("small")];
            self.source.read_exact_at(&mut piece, next).expect("the medium can be read");
            let start = usize::try_from(next).expect("small");
            let held = &mut self.bytes[start..start + piece.len()];
            self.unchanged += u64::from(*held == piece[..]);
            self.copied += 1;
            held.copy_from_slice(&piece);
            next = end;
        }
    }
}

/// Follows a disk while `work` writes to it, then compares.
fn follow(name: &str, work: impl Fn(&Path, &AtomicBool) + Sync) {
    let Some(disk) = Tracked::new(SIZE, GRANULE) else { return };
    let mut tracker = disk.tracker();
    let source = File::open(&disk.file).expect("opened");
    let bytes = vec![0; usize::try_from(SIZE).expect("small")];
    let mut copy = Copy { source, bytes, copied: 0, unchanged: 0, verdicts: [0; 3] };
    let (stop, path) = (AtomicBool::new(false), disk.device.path().to_owned());
    let mut step = |tracker: &mut imgx_engine::track::Tracker| {
        let told = tracker.checkpoint().expect("checkpoint");
        let kind = match &told.verdict {
            Verdict::Exact => 0,
            Verdict::Carried => 1,
            Verdict::Tainted(reason) => {
                println!("{name}: {reason}");
                2
            }
        };
        copy.verdicts[kind] += 1;
        if kind == 2 {
            // What users get then: everything is read. What it counts is no extra.
            let (copied, unchanged) = (copy.copied, copy.unchanged);
            copy.take(ByteRange { start: 0, end: SIZE });
            (copy.copied, copy.unchanged) = (copied, unchanged);
        } else {
            told.changes.runs().for_each(|run| copy.take(run));
        }
        super::support::stored(tracker, &told);
    };
    step(&mut tracker);
    thread::scope(|scope| {
        let worker = scope.spawn(|| work(&path, &stop));
        for _ in 0..epochs() {
            thread::sleep(Duration::from_millis(250));
            if worker.is_finished() {
                break;
            }
            step(&mut tracker);
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("the writer went on to its end");
    });
    disk.settle();
    step(&mut tracker);
    let truth = fs::read(&disk.file).expect("read");
    let granule = usize::try_from(GRANULE).expect("small");
    let missed = truth.chunks(granule).zip(copy.bytes.chunks(granule)).filter(|(a, b)| a != b);
    let missed = missed.count();
    let [exact, carried, tainted] = copy.verdicts;
    println!(
        "{name}: {} granules copied, {} of them unchanged; {exact} exact, {carried} carried, \
         {tainted} tainted",
        copy.copied, copy.unchanged
    );
    assert_eq!(missed, 0, "granules of {name} changed and were not told");
    assert!(copy.copied > 0 && exact + carried > tainted, "{name}: hardly any map was believed");
}

#[test]
fn random_writes_zeros_and_discards_on_the_raw_disk() {
    follow("raw", |path, stop| {
        let mut random = Random(7);
        let text = path.to_str().expect("plain");
        while !stop.load(Ordering::Relaxed) {
            let length = 512 * (1 + random.below(256));
            let offset = 512 * random.below((SIZE - length) / 512);
            let (o, l) = (offset.to_string(), length.to_string());
            match random.below(40) {
                0 => drop(tool::run("blkdiscard", &["-o", &o, "-l", &l, text])),
                1 => drop(tool::run("blkdiscard", &["-z", "-o", &o, "-l", &l, text])),
                _ => {
                    let mut file = OpenOptions::new().write(true).open(path).expect("opened");
                    let byte = random.below(255).to_le_bytes()[0];
                    let content = vec![byte; usize::try_from(length).expect("small")];
                    file.seek(SeekFrom::Start(offset)).expect("within");
                    file.write_all(&content).expect("written");
                    file.sync_data().expect("synced");
                }
            }
        }
    });
}

/// Makes a filesystem, and makes, changes, truncates, trims and removes files in it.
fn churn(mkfs: &[&str], path: &Path, stop: &AtomicBool) {
    let text = path.to_str().expect("plain");
    tool::run(mkfs[0], &[&mkfs[1..], &[text]].concat()).expect("made");
    let folder = tempfile::tempdir().expect("made");
    let mounted = Mount::new(path, folder.path());
    let mut random = Random(mkfs[0].len() as u64);
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let name = folder.path().join(format!("file{}", random.below(60)));
        let mut open = OpenOptions::new();
        let mut file =
            open.read(true).write(true).create(true).truncate(false).open(&name).expect("opened");
        let content = vec![
            round.to_le_bytes()[0];
            1 + usize::try_from(random.below(300_000)).expect("small")
        ];
        file.seek(SeekFrom::Start(random.below(400_000))).expect("sought");
        file.write_all(&content).expect("written");
        match random.below(6) {
            0 => file.sync_all().expect("synced"),
            1 => file.set_len(random.below(100_000)).expect("cut"),
            2 => fs::remove_file(&name).expect("removed"),
            3 => {
                let mut read = [0; 1];
                let _may_be_at_its_end = file.read(&mut read);
            }
            4 if round.is_multiple_of(4) => {
                drop(tool::run("fstrim", &[folder.path().to_str().expect("plain")]));
            }
            _ => {}
        }
        // So that the writer's processor is not all that is measured.
        thread::sleep(Duration::from_millis(1));
    }
    drop(mounted);
}

#[test]
fn filesystems_under_churn() {
    let kinds: [&[&str]; 3] = [
        &["mkfs.ext4", "-q", "-F", "-E", "nodiscard"],
        &["mkfs.xfs", "-q", "-f"],
        &["mkfs.btrfs", "-q", "-f"],
    ];
    for mkfs in kinds {
        if !tool::have(mkfs[0]) {
            println!("skipped: needs {}", mkfs[0]);
            continue;
        }
        follow(mkfs[0], |path, stop| churn(mkfs, path, stop));
    }
}
