//! Processes that are killed while they end and commit epochs: a copy that takes only what the
//! maps name must still end up as the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use imgx_engine::base::ByteRange;
use imgx_engine::track::{Evidence, Tracking, Verdict};

use super::epochs::fill_page;
use super::support::{Random, Tracked, follows, stored};

const SIZE: u64 = 16 << 20;
const ROUNDS: u64 = 40;

/// A copy of a tracked disk, and what is known of it.
struct Follower {
    tracking: Tracking,
    device: PathBuf,
    /// The file behind the device.
    source: PathBuf,
    copy: PathBuf,
}

impl Follower {
    fn state(&self) -> PathBuf {
        self.copy.with_extension("evidence")
    }

    fn take(&self, range: ByteRange) {
        let mut bytes = vec![0; usize::try_from(range.len()).expect("small")];
        let source = File::open(&self.source).expect("opened");
        source.read_exact_at(&mut bytes, range.start).expect("read");
        let copy = OpenOptions::new().write(true).open(&self.copy).expect("opened");
        copy.write_all_at(&bytes, range.start).expect("written");
    }

    /// As a capture does: ends an epoch, copies, has the image stored, and commits. Says whether
    /// the map was believed.
    fn step(&self) -> bool {
        let mut tracker = self.tracking.open(&self.device).expect("opened").expect("tracked");
        let told = tracker.checkpoint().expect("checkpoint");
        let parent = fs::read(self.state()).ok();
        let parent = parent.and_then(|text| serde_json::from_slice::<Evidence>(&text).ok());
        let is_known = !matches!(told.verdict, Verdict::Tainted(_))
            && parent.is_some_and(|parent| follows(&told.evidence, &parent).is_ok());
        if is_known {
            told.changes.runs().for_each(|run| self.take(run));
        } else {
            self.take(ByteRange { start: 0, end: SIZE });
        }
        let text = serde_json::to_vec(&told.evidence).expect("plain");
        let fresh = self.state().with_extension("new");
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, self.state())).expect("stored");
        stored(&mut tracker, &told);
        is_known
    }
}

/// Follows a disk until it is killed.
#[test]
#[ignore = "a process of the next test's"]
fn follows_until_it_is_killed() {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(device), Some(folder)) = (path("IMGX_FOLLOW"), std::env::var("IMGX_PINS").ok())
    else {
        return;
    };
    let (source, copy) = (path("IMGX_SOURCE").expect("given"), path("IMGX_COPY").expect("given"));
    let follower = Follower { tracking: Tracking::named(folder), device, source, copy };
    loop {
        println!("it {}", if follower.step() { "knew" } else { "read all" });
    }
}

fn start(disk: &Tracked, copy: &Path) -> Child {
    let itself = std::env::current_exe().expect("known");
    Command::new(itself)
        .args(["--ignored", "--exact", "--nocapture", "killed::follows_until_it_is_killed"])
        .env("IMGX_FOLLOW", disk.device.path())
        .env("IMGX_PINS", disk.folder())
        .env("IMGX_SOURCE", &disk.file)
        .env("IMGX_COPY", copy)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

#[test]
fn processes_that_are_killed_anywhere_lose_nothing() {
    let Some(disk) = Tracked::new(SIZE, 4096) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("copy");
    fs::write(&copy, vec![0; usize::try_from(SIZE).expect("small")]).expect("written");
    let mut random = Random(5);
    let write = |random: &mut Random| {
        let byte = u8::try_from(1 + random.below(255)).expect("small");
        fill_page(disk.device.path(), random.below(SIZE / 4096), byte);
    };
    let mut known = 0;
    for _ in 0..ROUNDS {
        let mut process = start(&disk, &copy);
        let told = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut lines = told.map_while(Result::ok).filter(|line| line.contains("it "));
        let wanted = 1 + usize::try_from(random.below(3)).expect("small");
        // Whoever reads goes on listening: it is to be killed, not to fail.
        for line in lines.by_ref().take(wanted) {
            known += u32::from(line.contains("knew"));
            write(&mut random);
        }
        // So that it is killed sooner or later in what it does next.
        for _ in 0..random.below(40) {
            write(&mut random);
        }
        process.kill().expect("killed");
        process.wait().expect("ended");
        drop(lines);
    }
    let tracking = Tracking::named(disk.folder());
    let (device, source) = (disk.device.path().to_owned(), disk.file.clone());
    let follower = Follower { tracking, device, source, copy };
    disk.settle();
    follower.step();
    let (truth, held) = (fs::read(&disk.file).expect("read"), fs::read(&follower.copy));
    let held = held.expect("read");
    let pages = truth.chunks(4096).zip(held.chunks(4096)).enumerate();
    let missed: Vec<usize> = pages.filter(|(_, (a, b))| a != b).map(|(page, _)| page).collect();
    assert!(missed.is_empty(), "pages {missed:?} changed and were not told");
    assert!(known > 10, "hardly any map was believed: {known}");
    assert!(follower.step(), "all is well again");
}
