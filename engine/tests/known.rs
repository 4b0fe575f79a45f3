//! Restoring to a target of which most is known reads what is in doubt, and ends with the same
//! bytes as reading all of it, also when what was known is wrong.

#[path = "support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use imgx_engine::base::{
    BlockSize, ByteCount, ByteRange, ChangeMap, ErrorKind, Event, Granule, Observer, Silent,
};
use imgx_engine::block::IoMode;
use imgx_engine::job::{Known, Restore, RestoreOptions, RestoreReport};
use imgx_engine::store::manifest::TreeRoot;
use imgx_engine::store::repository::Image;
use imgx_engine::store::{Digest, Repository};
use imgx_fixtures::pattern::{Random, incompressible};
use support::{KIB, MIB, captured, file, folder_in_memory, small_disk};

const BLOCK: usize = 16 * KIB;

/// The kernel counts what the whole process reads, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A repository with images, and the bytes that their disks had.
struct Scene {
    folder: tempfile::TempDir,
    repository: Repository,
}

impl Scene {
    fn new() -> Self {
        let folder = folder_in_memory();
        let block = BlockSize::new(u32::try_from(BLOCK).expect("small")).expect("a block size");
        let repository = Repository::create(&folder.path().join("repository"), block);
        Self { repository: repository.expect("created"), folder }
    }

    fn image(&self, bytes: &[u8]) -> Image {
        let disk = file(self.folder.path(), "disk", bytes);
        let id = captured(&self.repository, &disk, "disk").id;
        self.repository.image(id).expect("committed")
    }

    /// Restores `image` to a file that holds `target` and is `known`; the file's path.
    fn restore(
        &self,
        image: &Image,
        target: &[u8],
        known: Known,
        observer: &dyn Observer,
    ) -> (RestoreReport, u64, PathBuf) {
        let path = self.folder.path().join("target");
        write_sparse(&path, target);
        let options = RestoreOptions { known: Some(known), ..only_changed() };
        let plan = Restore::plan(&self.repository, image, &path, options).expect("planned");
        let compared = plan.describe().compared;
        (plan.run(observer).expect("restored"), compared, path)
    }
}

/// Writes a new file whose zeros are holes, in pages of 4096 bytes.
fn write_sparse(path: &Path, bytes: &[u8]) {
    let target = File::create(path).expect("a file can be made");
    target.set_len(bytes.len() as u64).expect("it can be sized");
    for (number, page) in bytes.chunks(4096).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            target.write_all_at(page, number as u64 * 4096).expect("it can be written");
        }
    }
}

fn only_changed() -> RestoreOptions {
    let io = IoMode::Threads;
    RestoreOptions { overwrite: true, only_changed: true, io, ..RestoreOptions::default() }
}

/// Counts warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Warnings {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { message } = event {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*message).to_owned());
        }
    }
}

fn map(size: usize, granule: u64) -> ChangeMap {
    let granule = Granule::new(granule).expect("a granule");
    ChangeMap::new(ByteCount(size as u64), granule).expect("small")
}

/// Writes noise at `count` random places of at most 9,000 bytes each, and marks them.
fn write_at_random(disk: &mut [u8], changes: &mut ChangeMap, (seed, count): (u64, u64)) {
    let mut random = Random::new(seed);
    for number in 0..count {
        let start = usize::try_from(random.below(disk.len() as u64)).expect("small");
        let length = usize::try_from(1 + random.below(9000)).expect("small");
        let length = length.min(disk.len() - start);
        disk[start..start + length].copy_from_slice(&incompressible(seed << 8 | number, length));
        changes.set(ByteRange::new(start as u64, length as u64));
    }
}

/// Bytes of the blocks that differ or that the map marks, found by reading both disks.
fn in_doubt(before: &[u8], after: &[u8], changes: &ChangeMap) -> u64 {
    let mut bytes = 0;
    for start in (0..after.len()).step_by(BLOCK) {
        let end = (start + BLOCK).min(after.len());
        let part =
            |disk: &[u8]| disk[start.min(disk.len())..(start + BLOCK).min(disk.len())].to_vec();
        let marked = changes.touches(ByteRange { start: start as u64, end: end as u64 });
        if marked || part(before) != part(after) {
            bytes += (end - start) as u64;
        }
    }
    bytes
}

fn assert_holds(path: &Path, expected: &[u8]) {
    let found = fs::read(path).expect("the target can be read");
    let place = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((place, found.len() >= expected.len()), (None, true));
}

/// Bytes that this process has read with system calls (proc(5), `rchar`).
fn bytes_read() -> u64 {
    let counts = fs::read_to_string("/proc/self/io").expect("the kernel counts");
    let line = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|count| count.parse().ok()).expect("a count")
}

#[test]
fn only_what_is_in_doubt_is_read_and_the_target_ends_the_same() {
    let _alone = alone();
    for (seed, granule) in [(1, 4 * KIB as u64), (2, 64 * KIB as u64)] {
        let scene = Scene::new();
        let before = small_disk(seed, 48 * MIB + 777);
        let mut after = before.clone();
        write_at_random(&mut after, &mut map(before.len(), granule), (seed + 10, 40));
        after[20 * MIB..21 * MIB].fill(0);
        let (old, new) = (scene.image(&before), scene.image(&after));
        let mut target = before.clone();
        let mut changes = map(target.len(), granule);
        write_at_random(&mut target, &mut changes, (seed + 20, 60));
        let doubt = in_doubt(&before, &after, &changes);
        assert!(doubt < 8 * MIB as u64, "{doubt}");

        let known = Known { image: old, changes };
        let warnings = Warnings::default();
        let (report, planned, path) = scene.restore(&new, &target, known, &warnings);
        assert_eq!(warnings.all(), [""; 0]);
        assert_holds(&path, &after);
        assert_eq!(report.compared, planned);
        assert_eq!(report.compared - report.sampled, doubt);
        assert!(report.sampled >= (after.len() / 20) as u64 && report.sampled < 4 << 20);
        assert!(report.written + report.zeroed <= doubt, "{report:?}");
        assert_eq!(report.trusted + report.compared, after.len() as u64);
    }
}

#[test]
fn the_kernel_counts_no_reads_of_what_is_known() {
    let _alone = alone();
    let scene = Scene::new();
    let before = incompressible(7, 96 * MIB);
    let image = scene.image(&before);
    let mut target = before.clone();
    let mut changes = map(target.len(), 4096);
    write_at_random(&mut target, &mut changes, (7, 5));
    let known = Known { image: image.clone(), changes };
    let start = bytes_read();
    let (report, _, path) = scene.restore(&image, &target, known, &Silent);
    let read = bytes_read() - start;
    assert_holds(&path, &before);
    // Besides what was compared: the tree, and for each block that is written a frame.
    assert!(read > report.compared && read < 24 * MIB as u64, "{read} bytes: {report:?}");
}

#[test]
fn what_was_written_without_being_marked_makes_it_read_everything() {
    let _alone = alone();
    let scene = Scene::new();
    let before = small_disk(3, 16 * MIB);
    let image = scene.image(&before);
    for place in [0..1, before.len() - 1..before.len(), 4 * MIB..12 * MIB] {
        let mut target = before.clone();
        target[place].iter_mut().for_each(|byte| *byte ^= 1);
        let known = Known { image: image.clone(), changes: map(target.len(), 16_384) };
        let warnings = Warnings::default();
        let (report, planned, path) = scene.restore(&image, &target, known, &warnings);
        assert_holds(&path, &before);
        assert!(planned < 2 * MIB as u64, "{planned}");
        assert_eq!(report.compared - report.sampled, before.len() as u64);
        assert_eq!(report.trusted, 0);
        let told = warnings.all();
        assert!(told.len() == 1 && told[0].contains("all of it is compared"), "{told:?}");
    }
}

#[test]
fn what_lies_beyond_the_known_image_or_the_map_is_compared() {
    let _alone = alone();
    let scene = Scene::new();
    let after = small_disk(4, 20 * MIB + 5);
    let new = scene.image(&after);
    for (known_size, map_size) in [
        (20 * MIB + 5, 9 * MIB + 100),
        (9 * MIB + 100, 20 * MIB + 5),
        (9 * MIB, 8 * MIB),
        (26 * MIB, 26 * MIB),
        (1, 0),
    ] {
        let mut before = after.clone();
        before.resize(known_size, 7);
        let known = Known { image: scene.image(&before), changes: map(map_size, 4096) };
        let mut target = before.clone();
        target.resize(30 * MIB, 9);
        target[known_size.min(map_size)..].fill(8);
        let (report, _, path) = scene.restore(&new, &target, known, &Silent);
        assert_holds(&path, &after);
        let is_all = map_size == 0;
        assert_eq!(report.trusted == 0, is_all, "{known_size} {map_size} {report:?}");
        // What was behind it is cut off.
        assert_eq!(fs::read(&path).expect("read").len(), after.len());
    }
}

#[test]
fn a_damaged_tree_of_the_known_image_makes_it_read_everything() {
    let _alone = alone();
    let scene = Scene::new();
    let before = small_disk(5, 8 * MIB);
    let mut after = before.clone();
    after[MIB] ^= 1;
    let (mut old, new) = (scene.image(&before), scene.image(&after));
    let TreeRoot::Stored { digest, .. } = &mut old.manifest.tree else { panic!("it has a tree") };
    *digest = Digest([0; 32]);
    let warnings = Warnings::default();
    let known = Known { image: old, changes: map(before.len(), 4096) };
    let (report, planned, path) = scene.restore(&new, &before, known, &warnings);
    assert_holds(&path, &after);
    assert_eq!((planned, report.compared), (after.len() as u64, after.len() as u64));
    assert_eq!(warnings.all().len(), 1, "{:?}", warnings.all());
}

#[test]
fn a_known_target_needs_comparing_and_a_missing_one_is_written_whole() {
    let _alone = alone();
    let scene = Scene::new();
    let bytes = small_disk(6, 2 * MIB);
    let image = scene.image(&bytes);
    let known = Some(Known { image: image.clone(), changes: map(bytes.len(), 4096) });
    let path = scene.folder.path().join("new");
    let wrong = RestoreOptions { known: known.clone(), ..RestoreOptions::default() };
    let refused = Restore::plan(&scene.repository, &image, &path, wrong).err().expect("refused");
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let options = RestoreOptions { known, ..only_changed() };
    let plan = Restore::plan(&scene.repository, &image, &path, options).expect("planned");
    assert_eq!(plan.describe().compared, 0);
    let report = plan.run(&Silent).expect("restored");
    assert_eq!((report.compared, report.trusted), (0, 0));
    assert_holds(&path, &bytes);
}
