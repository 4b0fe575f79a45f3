//! FAT and exFAT volumes, made by their mkfs tools and filled by mtools, read as they were made.

#[path = "support/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgx_engine::base::{ByteRange, ReadAt};
use imgx_engine::fs::{self as engine_fs, FileId, FileType, Filesystem, Place};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::Random;
use imgx_fixtures::{mkfs, tool};

use crate::common::{folder_in_memory, is_long};

const MIB: u64 = 1 << 20;
/// One walk of a small image must end within this, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends a test that needs a tool which is not here, saying so.
macro_rules! need {
    ($($tool:literal),+) => {
        $(if !tool::have($tool) {
            println!("skipped: no {}", $tool);
            return;
        })+
    };
}

/// Size and options of the volumes, and what each is to be taken for.
const VOLUMES: [(u64, &[&str], &str); 7] = [
    (MIB, &["-F", "12"], "fat12"),
    (16 * MIB, &["-F", "16"], "fat16"),
    (64 * MIB, &["-F", "32"], "fat32"),
    (48 * MIB, &["-F", "32", "-s", "1"], "fat32"),
    (200 * MIB, &["-F", "16", "-s", "64"], "fat16"),
    (300 * MIB, &["-F", "32", "-S", "4096"], "fat32"),
    (32 * MIB, &["-F", "16", "-f", "1", "-r", "16"], "fat16"),
];

fn open(path: &Path) -> Box<dyn Filesystem> {
    let volume: Arc<dyn ReadAt> = Arc::new(fs::read(path).expect("read"));
    engine_fs::open(&volume).expect("it opens")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain")
}

/// A folder of files with names and sizes that are awkward for FAT.
fn content(root: &Path, most: usize) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut random = Random::new(7);
    let mut add = |name: &str, size: usize| {
        let mut bytes = vec![0; size];
        random.fill(&mut bytes);
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, &bytes).expect("written");
        files.insert(name.to_owned(), bytes);
    };
    add("EMPTY.TXT", 0);
    add("PLAIN.TXT", 513.min(most));
    add("lower.txt", 1);
    add("A long name with spaces and more than thirteen characters.text", 100);
    add("grüße-Ωmega-名前.txt", 4096.min(most));
    add("exactly13char", 3);
    add("FOLDER/Inner Folder/deep.bin", 60_000.min(most));
    for number in 0..(most / 400).min(300) {
        add(&format!("FOLDER/many/a file with number {number:04}.txt"), number % 40);
    }
    files
}

/// Everything below the root, by path; folders end with a slash.
fn read_all(filesystem: &dyn Filesystem) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(String::new(), filesystem.root())];
    while let Some((path, folder)) = waiting.pop() {
        let listed = filesystem.list(folder, &mut |entry| {
            let entry = entry.expect("the entry is sound");
            let name = String::from_utf8(entry.name).expect("UTF-8");
            let path = format!("{path}{name}");
            match entry.file_type {
                Some(FileType::Directory) => waiting.push((format!("{path}/"), entry.file)),
                _ => {
                    found.insert(path, content_of(filesystem, entry.file));
                }
            }
            ControlFlow::Continue(())
        });
        listed.expect("listed");
    }
    found
}

fn content_of(filesystem: &dyn Filesystem, file: FileId) -> Vec<u8> {
    let mut content = filesystem.open(file).expect("opened");
    let mut bytes = vec![0; usize::try_from(content.size()).expect("small")];
    assert_eq!(content.read_at(0, &mut bytes).expect("read"), bytes.len());
    // In pieces, backwards.
    let mut piece = [0; 1000];
    for place in (0..bytes.len()).step_by(777).rev() {
        let count = content.read_at(place as u64, &mut piece).expect("read");
        assert_eq!(count, piece.len().min(bytes.len() - place));
        assert!(piece[..count] == bytes[place..place + count], "pieces differ at {place}");
    }
    bytes
}

/// Fills the volume at `image` through mtools.
fn fill(image: &Path, root: &Path) {
    for entry in fs::read_dir(root).expect("listed") {
        let path = entry.expect("listed").path();
        let arguments = ["-i", text(image), "-s", "-m", "-Q", text(&path), "::"];
        tool::run("mcopy", &arguments).expect("mcopy runs");
    }
}

fn make(folder: &Path, size: u64, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    mkfs::blank(&image, size).expect("made");
    let arguments = [options, &["-n", "LABEL", "-i", "1234ABCD", text(&image)]].concat();
    tool::run("mkfs.fat", &arguments).expect("mkfs.fat runs");
    image
}

#[test]
fn files_read_as_mtools_wrote_them() {
    need!("mkfs.fat", "mcopy", "mdel", "fsck.fat");
    for (size, options, kind) in VOLUMES {
        let folder = folder_in_memory();
        let image = make(folder.path(), size, options);
        let root = folder.path().join("content");
        let most = usize::try_from(size / 20).expect("small");
        let mut files = content(&root, most);
        fill(&image, &root);
        tool::run("mdel", &["-i", text(&image), "::PLAIN.TXT"]).expect("mdel runs");
        files.remove("PLAIN.TXT");
        tool::run("fsck.fat", &["-n", text(&image)]).expect("fsck.fat finds it sound");
        let filesystem = open(&image);
        let info = filesystem.info();
        let said = (info.kind, info.label.as_deref(), info.uuid.as_deref());
        assert_eq!(said, (kind, Some("LABEL"), Some("1234-ABCD")), "{options:?}");
        let found = read_all(filesystem.as_ref());
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&files), "{options:?}");
        assert!(found == files, "{options:?}: contents differ");
        names_are_found(filesystem.as_ref());
        free_space_is_free(filesystem.as_ref(), &image);
    }
}

/// Volumes of as many clusters as their kind has at least or at most.
#[test]
fn kinds_are_told_apart_by_their_clusters() {
    need!("mkfs.fat", "mcopy", "fsck.fat");
    for (kind, width, sectors, clusters) in [
        ("fat12", "12", 4141, 4084),
        ("fat16", "16", 4152, 4087),
        ("fat16", "16", 66_069, 65_524),
        ("fat32", "32", 66_581, 65_525),
    ] {
        let folder = folder_in_memory();
        let image = make(folder.path(), sectors * 512, &["-a", "-s", "1", "-F", width]);
        let root = folder.path().join("content");
        let files = content(&root, 20_000);
        fill(&image, &root);
        let told = tool::run("fsck.fat", &["-n", text(&image)]).expect("fsck.fat finds it sound");
        assert!(told.contains(&format!("/{clusters} clusters")), "{told}");
        let filesystem = open(&image);
        assert_eq!(filesystem.info().kind, kind, "{clusters} clusters");
        assert!(read_all(filesystem.as_ref()) == files, "{clusters} clusters: contents differ");
        free_space_is_free(filesystem.as_ref(), &image);
        // Fewer clusters than there were, which are still enough, or are told by the length of
        // the tables; mtools judges the latter by the count alone, and fails.
        let (place, fewer) = match (kind, clusters) {
            ("fat16", 4087) => (19, 2),
            ("fat32", _) => (32, 60_000),
            _ => continue,
        };
        let mut bytes = fs::read(&image).expect("read");
        let total = u32::try_from(sectors).expect("small") - fewer;
        if place == 19 {
            let total = u16::try_from(total).expect("small");
            bytes[place..place + 2].copy_from_slice(&total.to_le_bytes());
        } else {
            bytes[place..place + 4].copy_from_slice(&total.to_le_bytes());
        }
        fs::write(&image, &bytes).expect("written");
        let filesystem = open(&image);
        assert_eq!(filesystem.info().kind, kind, "{fewer} clusters fewer");
        assert!(read_all(filesystem.as_ref()) == files, "{fewer} clusters fewer: contents differ");
    }
}

fn names_are_found(filesystem: &dyn Filesystem) {
    let root = filesystem.root();
    let find = |name: &str| filesystem.lookup(root, name.as_bytes()).expect("searched");
    let file = find("LOWER.txt").expect("case does not matter");
    assert_eq!(find("lower.TXT"), Some(file));
    assert!(find("GRÜSSE-ωMEGA-名前.TXT").is_none() && find("GRÜßE-ωMEGA-名前.TXT").is_some());
    assert_eq!(find("PLAIN.TXT"), None, "it was deleted");
    let metadata = filesystem.metadata(file).expect("read");
    assert_eq!((metadata.size, metadata.mode, metadata.uid), (1, None, None));
    let written = metadata.modified.expect("it has a time").seconds;
    assert!((1_700_000_000..4_000_000_000).contains(&written), "{written}");
}

/// What is called free holds no file, and is as much as mtools says.
fn free_space_is_free(filesystem: &dyn Filesystem, image: &Path) {
    let mut free: Vec<ByteRange> = Vec::new();
    let visited = filesystem.free_space(&mut |range| {
        free.push(range);
        ControlFlow::Continue(())
    });
    visited.expect("it is certain");
    let told = tool::run("mdir", &["-i", text(image), "::"]).expect("mdir runs");
    let line = told.lines().rev().find(|line| line.contains("bytes free")).expect("a sum");
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    let sum: u64 = free.iter().map(ByteRange::len).sum();
    assert_eq!(sum.to_string(), digits, "{told}");
    let mut waiting = vec![filesystem.root()];
    while let Some(folder) = waiting.pop() {
        let listed = filesystem.list(folder, &mut |entry| {
            waiting.push(entry.expect("sound").file);
            ControlFlow::Continue(())
        });
        if listed.is_ok() {
            continue;
        }
        let mut content = filesystem.open(folder).expect("a file");
        let mapped = content.extents(&mut |extent| {
            let Place::At(place) = extent.place else { panic!("{extent:?}") };
            let used = ByteRange::new(place, extent.length);
            assert!(free.iter().all(|free| free.intersection(&used).is_none()), "{used}");
            ControlFlow::Continue(())
        });
        mapped.expect("mapped");
    }
}

#[test]
fn the_second_table_stands_in_for_the_first() {
    need!("mkfs.fat", "mcopy");
    let folder = folder_in_memory();
    let image = make(folder.path(), 64 * MIB, &["-F", "32"]);
    let root = folder.path().join("content");
    let files = content(&root, 100_000);
    fill(&image, &root);
    let mut bytes = fs::read(&image).expect("read");
    // Reserved sectors of 512 bytes, then the first table; its first entries are flags.
    let start = usize::from(u16::from_le_bytes([bytes[14], bytes[15]])) * 512;
    bytes[start + 12..start + 8192].fill(0xee);
    let volume: Arc<dyn ReadAt> = Arc::new(bytes);
    let filesystem = engine_fs::open(&volume).expect("it opens");
    assert!(read_all(filesystem.as_ref()) == files, "contents differ");
}

#[test]
fn chains_that_lead_nowhere_cost_their_file_only() {
    need!("mkfs.fat", "mcopy");
    let folder = folder_in_memory();
    let image = make(folder.path(), 16 * MIB, &["-F", "16", "-s", "1"]);
    let root = folder.path().join("content");
    let files = content(&root, 60_000);
    fill(&image, &root);
    let mut bytes = fs::read(&image).expect("read");
    let filesystem = open(&image);
    let find = |path: &[&str]| {
        path.iter().fold(filesystem.root(), |folder, name| {
            filesystem.lookup(folder, name.as_bytes()).expect("searched").expect("found")
        })
    };
    let entry =
        usize::try_from(find(&["FOLDER", "Inner Folder", "deep.bin"]).number).expect("small");
    let first = usize::from(u16::from_le_bytes([bytes[entry + 26], bytes[entry + 27]]));
    let table = usize::from(u16::from_le_bytes([bytes[14], bytes[15]])) * 512;
    let length = usize::from(u16::from_le_bytes([bytes[22], bytes[23]])) * 512;
    // To itself; out of the volume; free; the end.
    for (target, word) in [(first, "before"), (0xff00, "65280"), (0, "free"), (0xffff, "its end")] {
        for copy in [table, table + length] {
            let at = copy + (first + 1) * 2;
            bytes[at..at + 2]
                .copy_from_slice(&u16::try_from(target).expect("16 bits").to_le_bytes());
        }
        let volume: Arc<dyn ReadAt> = Arc::new(bytes.clone());
        let damaged = engine_fs::open(&volume).expect("it opens");
        let mut content = damaged.open(FileId::new(entry as u64)).expect("opened");
        let mut buffer = vec![0; 60_000];
        let result = content.read_at(0, &mut buffer);
        // A chain back to its start is as long as the file, so that only its content is wrong.
        if target != first {
            let error = result.expect_err("the chain is broken").to_string();
            assert!(error.contains(word), "{error}");
        }
        let other = damaged.lookup(damaged.root(), b"EMPTY.TXT").expect("searched");
        assert!(other.is_some() && files.contains_key("EMPTY.TXT"));
    }
}

#[test]
fn an_entry_without_a_name_is_told_as_lost() {
    if !tool::have("mkfs.vfat") || !tool::have("mcopy") {
        println!("skipped: no mkfs.vfat or mcopy");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = make(folder.path(), 4 << 20, &["-F", "12"]);
    for name in ["FIRST.TXT", "SECOND.TXT"] {
        let file = folder.path().join(name);
        fs::write(&file, name).expect("written");
        tool::run("mcopy", &["-i", text(&image), text(&file), "::"]).expect("copied");
    }
    let mut bytes = fs::read(&image).expect("read");
    let place = bytes.windows(11).position(|found| found == b"FIRST   TXT").expect("there");
    bytes[place..place + 11].fill(b' ');
    fs::write(&image, &bytes).expect("written");
    let filesystem = open(&image);
    let (mut names, mut lost) = (Vec::new(), 0);
    let listed = filesystem.list(filesystem.root(), &mut |entry| {
        entry.map_or_else(|_| lost += 1, |entry| names.push(entry.name));
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    assert_eq!((names, lost), (vec![b"SECOND.TXT".to_vec()], 1));
}

#[test]
fn an_exfat_volume_is_read_and_its_backup_used() {
    need!("mkfs.exfat", "dump.exfat");
    let folder = folder_in_memory();
    let image = folder.path().join("image");
    mkfs::blank(&image, 32 * MIB).expect("made");
    tool::run("mkfs.exfat", &["-L", "Größe", text(&image)]).expect("mkfs.exfat runs");
    let told = tool::run("dump.exfat", &[text(&image)]).expect("dump.exfat runs");
    let number = |name: &str| -> u64 {
        let line = told.lines().find(|line| line.contains(name)).expect("it is told");
        line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a number")
    };
    let expected = number("Free Clusters:") * number("Cluster size:");
    let good = fs::read(&image).expect("read");
    for damage in [None, Some(3..11), Some(80..84), Some(0..512)] {
        let mut bytes = good.clone();
        if let Some(range) = damage.clone() {
            bytes[range].fill(0xa5);
        }
        let volume: Arc<dyn ReadAt> = Arc::new(bytes);
        let filesystem = engine_fs::open(&volume).expect("it opens");
        assert_eq!(filesystem.info().kind, "exfat");
        assert_eq!(filesystem.info().label.as_deref(), Some("Größe"));
        assert_eq!(filesystem.doubts().first().is_some(), damage.is_some(), "{damage:?}");
        assert!(read_all(filesystem.as_ref()).is_empty());
        let mut free = 0;
        let visited = filesystem.free_space(&mut |range| {
            free += range.len();
            ControlFlow::Continue(())
        });
        match damage {
            None => assert_eq!(visited.map(|()| free).expect("certain"), expected, "{told}"),
            Some(_) => assert!(visited.is_err(), "nothing is certain of what is damaged"),
        }
    }
}

/// An exFAT volume that is mounted by FUSE, unmounted when dropped.
struct Fuse {
    point: PathBuf,
    _device: LoopDevice,
}

impl Fuse {
    fn mount(image: &Path, point: PathBuf) -> Self {
        fs::create_dir_all(&point).expect("made");
        let device = LoopDevice::attach(image).expect("attached");
        tool::run("mount.exfat-fuse", &[text(device.path()), text(&point)]).expect("mounted");
        Self { point, _device: device }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        tool::run("umount", &[text(&self.point)]).expect("unmounted");
    }
}

#[test]
fn exfat_files_read_as_fuse_wrote_them() {
    need!("mkfs.exfat", "mount.exfat-fuse");
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: no FUSE");
        return;
    }
    // On the disk, as a loop device does not take every file in memory.
    let folder = tempfile::tempdir().expect("made");
    let image = folder.path().join("image");
    mkfs::blank(&image, 64 * MIB).expect("made");
    tool::run("mkfs.exfat", &["-c", "4K", text(&image)]).expect("mkfs.exfat runs");
    let mounted = Fuse::mount(&image, folder.path().join("mnt"));
    let mut files = content(&mounted.point, 200_000);
    // Pieces of two files in turns, so that their clusters are chained; a file whose end was
    // never written; one that goes.
    let names = ["one", "two"].map(|name| mounted.point.join(name));
    let mut random = Random::new(3);
    let mut turns = [Vec::new(), Vec::new()];
    for _ in 0..50 {
        for (name, whole) in names.iter().zip(&mut turns) {
            let mut piece = vec![0; 5000];
            random.fill(&mut piece);
            let mut file =
                fs::File::options().append(true).create(true).open(name).expect("opened");
            file.write_all(&piece).expect("written");
            whole.extend(piece);
        }
    }
    let [one, two] = turns;
    files.insert("one".to_owned(), one);
    files.insert("two".to_owned(), two);
    let grown = fs::File::create(mounted.point.join("grown 😀")).expect("made");
    (&grown).write_all(b"start").expect("written");
    grown.set_len(300_000).expect("grown");
    drop(grown);
    let mut bytes = vec![0; 300_000];
    bytes[..5].copy_from_slice(b"start");
    files.insert("grown 😀".to_owned(), bytes);
    fs::remove_file(mounted.point.join("PLAIN.TXT")).expect("removed");
    files.remove("PLAIN.TXT");
    drop(mounted);

    let filesystem = open(&image);
    let found = read_all(filesystem.as_ref());
    assert_eq!(found.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    assert!(found == files, "contents differ");
    let root = filesystem.root();
    let find = |name: &str| filesystem.lookup(root, name.as_bytes()).expect("searched");
    assert!(find("LOWER.txt").is_some() && find("ONE") == find("one") && find("none").is_none());
    let told = tool::run("dump.exfat", &[text(&image)]).expect("dump.exfat runs");
    let mut free = 0;
    let visited = filesystem.free_space(&mut |range| {
        free += range.len();
        ControlFlow::Continue(())
    });
    visited.expect("it is certain");
    let line = told.lines().find(|line| line.contains("Free Clusters:")).expect("it is told");
    let clusters = line.split_whitespace().last().and_then(|word| word.parse::<u64>().ok());
    assert_eq!(Some(free / 4096), clusters, "{told}");
    the_second_table_counts_where_flagged(&image, &files);
}

/// Gives the exFAT volume a second table and bitmap (TexFAT), of which the flag says that it counts;
/// and makes the first table wrong, so that files whose clusters are chained tell which was read.
fn the_second_table_counts_where_flagged(image: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let mut bytes = fs::read(image).expect("read");
    let field = |bytes: &[u8], at: usize| {
        let field: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        usize::try_from(u32::from_le_bytes(field)).expect("small")
    };
    let (table, length) = (field(&bytes, 80) * 512, field(&bytes, 84) * 512);
    let heap = field(&bytes, 88) * 512;
    assert!(table + 2 * length <= heap, "there is room for a second table");
    bytes.copy_within(table..table + length, table + length);
    // Its first entries are no cluster's.
    bytes[table + 8..table + length].fill(0);
    let root = heap + (field(&bytes, 96) - 2) * 4096;
    let bitmap = (root..).step_by(32).find(|at| bytes[*at] == 0x81).expect("it has a bitmap");
    bytes[bitmap + 1] |= 1;
    bytes[110] = 2;
    bytes[106] |= 1;
    let covered = (0..11 * 512).filter(|at| !matches!(at, 106 | 107 | 112));
    let sum = covered.fold(0_u32, |sum, at| sum.rotate_right(1).wrapping_add(bytes[at].into()));
    for place in (11 * 512..12 * 512).step_by(4) {
        bytes[place..place + 4].copy_from_slice(&sum.to_le_bytes());
    }
    let open = |bytes: &[u8]| {
        let volume: Arc<dyn ReadAt> = Arc::new(bytes.to_vec());
        engine_fs::open(&volume).expect("it opens")
    };
    let filesystem = open(&bytes);
    assert!(read_all(filesystem.as_ref()) == *files, "contents by the second table differ");
    filesystem.free_space(&mut |_| ControlFlow::Continue(())).expect("its bitmap is there");
    bytes[106] &= !1;
    let filesystem = open(&bytes);
    let one = filesystem.lookup(filesystem.root(), b"one").expect("searched").expect("found");
    let mut content = filesystem.open(one).expect("opened");
    content.read_at(0, &mut vec![0; 250_000]).expect_err("the first table leads nowhere");
    filesystem.free_space(&mut |_| ControlFlow::Continue(())).expect_err("its bitmap is missing");
}

/// Does everything there is to do with every file that can be reached.
fn use_everything(filesystem: &dyn Filesystem) {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![filesystem.root()]);
    while let Some(file) = waiting.pop() {
        if seen.len() > 5000 || !seen.insert(file) {
            continue;
        }
        let _ = filesystem.metadata(file);
        let mut count = 0;
        let _ = filesystem.list(file, &mut |entry| {
            count += 1;
            if let Ok(entry) = entry {
                let _ =
                    filesystem.lookup(file, &entry.name).map_err(drop).ok().filter(|_| count < 9);
                waiting.push(entry.file);
            }
            if count < 5000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Ok(mut content) = filesystem.open(file) {
            let mut buffer = vec![0; 128 * 1024];
            let middle = content.size() / 2;
            let _ =
                content.read_at(0, &mut buffer).and_then(|_| content.read_at(middle, &mut buffer));
            let mut extents = 0;
            let _ = content.extents(&mut |_| {
                extents += 1;
                if extents < 10_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        }
    }
    let _ = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
}

#[test]
fn flipped_bytes_cause_no_panic_and_no_endless_walk() {
    need!("mkfs.fat", "mcopy", "mkfs.exfat");
    let folder = folder_in_memory();
    let root = folder.path().join("content");
    content(&root, 30_000);
    let mut images = Vec::new();
    for (size, options) in [(MIB, ["-F", "12"]), (12 * MIB, ["-F", "16"]), (34 * MIB, ["-F", "32"])]
    {
        let image = make(folder.path(), size, &options);
        fill(&image, &root);
        images.push(fs::read(&image).expect("read"));
    }
    let image = folder.path().join("exfat");
    mkfs::blank(&image, 4 * MIB).expect("made");
    tool::run("mkfs.exfat", &["-L", "X", text(&image)]).expect("mkfs.exfat runs");
    images.push(fs::read(&image).expect("read"));
    let mut random = Random::new(11);
    let rounds = if is_long() { 2000 } else { 100 };
    for good in &images {
        // Flips count most where there is something.
        let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).take(200_000).collect();
        for round in 0..rounds {
            let mut bytes = good.clone();
            let mut draw = [0; 8];
            for _ in 0..=(round % 20) {
                random.fill(&mut draw);
                let pick = usize::try_from(u32::from_le_bytes([draw[0], draw[1], draw[2], 0]))
                    .expect("small");
                bytes[used[pick % used.len()]] = draw[4];
            }
            if round % 10 == 9 {
                bytes.truncate(good.len() / 100 * (usize::from(draw[5]) % 100));
            }
            let volume: Arc<dyn ReadAt> = Arc::new(bytes);
            let start = Instant::now();
            if let Ok(filesystem) = engine_fs::open(&volume) {
                use_everything(filesystem.as_ref());
            }
            let took = start.elapsed();
            assert!(took < PATIENCE, "round {round}: {took:?}");
        }
    }
}

/// Where the first allocation table of a FAT is, and its first cluster.
fn places(boot: &[u8]) -> (usize, usize, usize) {
    let le16 = |at: usize| usize::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let le32 = |at: usize| u32::from_le_bytes(boot[at..at + 4].try_into().expect("four"));
    let (sector, cluster) = (le16(11), le16(11) * usize::from(boot[13]));
    let table = le16(14) * sector;
    let length = usize::try_from(le32(36)).expect("small") * sector;
    (table, table + length * usize::from(boot[16]), cluster)
}

#[test]
fn clusters_of_512_kib_are_read() {
    need!("mkfs.vfat", "mcopy");
    let folder = folder_in_memory();
    let image = folder.path().join("image");
    mkfs::blank(&image, 700 * MIB).expect("made");
    let arguments = ["-F", "32", "-S", "4096", "-s", "128", text(&image)];
    tool::run("mkfs.vfat", &arguments).expect("mkfs.vfat runs");
    let file = folder.path().join("file");
    let bytes = imgx_fixtures::pattern::incompressible(1, 1_300_000);
    fs::write(&file, &bytes).expect("written");
    let copied = tool::run("mcopy", &["-i", text(&image), text(&file), "::file"]);
    if let Err(reason) = copied {
        println!("skipped: mtools takes no such clusters: {reason}");
        return;
    }
    let filesystem = open(&image);
    assert_eq!((filesystem.info().kind, filesystem.info().block_size), ("fat32", 512 * 1024));
    assert_eq!(read_all(filesystem.as_ref()).get("file"), Some(&bytes));
}

#[test]
fn the_copy_of_a_fat32s_boot_sector_is_used_and_told() {
    need!("mkfs.vfat", "mcopy");
    let folder = folder_in_memory();
    let image = folder.path().join("image");
    mkfs::blank(&image, 64 * MIB).expect("made");
    tool::run("mkfs.vfat", &["-F", "32", text(&image)]).expect("mkfs.vfat runs");
    let file = folder.path().join("file");
    fs::write(&file, "content").expect("written");
    tool::run("mcopy", &["-i", text(&image), text(&file), "::file"]).expect("mcopy runs");
    let mut bytes = fs::read(&image).expect("read");
    bytes[..512].fill(0);
    let volume: Arc<dyn ReadAt> = Arc::new(bytes.clone());
    let filesystem = engine_fs::open(&volume).expect("opened by the copy");
    assert_eq!(read_all(filesystem.as_ref()).get("file"), Some(&b"content".to_vec()));
    assert!(filesystem.doubts().first().is_some_and(|doubt| doubt.contains("copy")));
    assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err());
    // What outlived its filesystem has no table any more.
    bytes[places(&fs::read(&image).expect("read")).0] = 0;
    let volume: Arc<dyn ReadAt> = Arc::new(bytes);
    assert!(engine_fs::open(&volume).is_err());
}

#[test]
fn a_chain_that_comes_back_to_itself_is_damage() {
    need!("mkfs.vfat", "mcopy", "mmd");
    let folder = folder_in_memory();
    let image = folder.path().join("image");
    mkfs::blank(&image, 64 * MIB).expect("made");
    tool::run("mkfs.vfat", &["-F", "32", "-s", "1", text(&image)]).expect("mkfs.vfat runs");
    for (name, length) in [("file", 5 * 512), ("other", 3 * 512)] {
        let file = folder.path().join(name);
        fs::write(&file, vec![7; length]).expect("written");
        let target = format!("::{name}");
        tool::run("mcopy", &["-i", text(&image), text(&file), &target]).expect("mcopy runs");
    }
    tool::run("mmd", &["-i", text(&image), "::folder"]).expect("mmd runs");
    for number in 0..40 {
        let target = format!("::folder/n{number}");
        let file = folder.path().join("other");
        tool::run("mcopy", &["-i", text(&image), text(&file), &target]).expect("mcopy runs");
    }
    let good = fs::read(&image).expect("read");
    let (table, heap, cluster) = places(&good);
    // The entry of `file` in the root, which is cluster 2, names its first cluster.
    let root = &good[heap..heap + 512];
    let first = |name: &[u8]| {
        let entry = root.chunks(32).find(|entry| entry.starts_with(name)).expect("an entry");
        usize::from(u16::from_le_bytes([entry[26], entry[27]]))
    };
    let (file, names) = (first(b"FILE "), first(b"FOLDER "));
    let link = |bytes: &mut Vec<u8>, from: usize, to: usize| {
        let to = u32::try_from(to).expect("small").to_le_bytes();
        for copy in 0..usize::from(good[16]) {
            let start = table + (heap - table) / usize::from(good[16]) * copy + from * 4;
            bytes[start..start + 4].copy_from_slice(&to);
        }
    };
    assert_eq!(cluster, 512);
    // Its last cluster leads to one of its own; so does one before the end.
    for (from, to) in [(4, 1), (4, 4), (2, 0), (3, 2)] {
        let mut bytes = good.clone();
        link(&mut bytes, file + from, file + to);
        let volume: Arc<dyn ReadAt> = Arc::new(bytes);
        let filesystem = engine_fs::open(&volume).expect("opened");
        let found = filesystem.lookup(filesystem.root(), b"file").expect("searched");
        let mut content = filesystem.open(found.expect("there")).expect("opened");
        let mut buffer = vec![0; 5 * 512];
        let error = content.read_at(0, &mut buffer).expect_err("it has no end");
        assert!(error.to_string().contains("chain"), "{from} to {to}: {error}");
        assert!(content.extents(&mut |_| ControlFlow::Continue(())).is_err(), "{from} to {to}");
    }
    // More clusters than the size needs are no damage.
    let mut bytes = good.clone();
    let spare = 60_000;
    link(&mut bytes, file + 4, spare);
    link(&mut bytes, spare, 0x0fff_ffff);
    let volume: Arc<dyn ReadAt> = Arc::new(bytes);
    let filesystem = engine_fs::open(&volume).expect("opened");
    assert_eq!(read_all(filesystem.as_ref()).get("file"), Some(&vec![7; 5 * 512]));
    // A folder shows each entry once, and that its end is lost.
    let next = usize::try_from(u32::from_le_bytes(
        good[table + names * 4..table + names * 4 + 4].try_into().expect("four"),
    ))
    .expect("small");
    let mut bytes = good.clone();
    link(&mut bytes, next, names);
    let volume: Arc<dyn ReadAt> = Arc::new(bytes);
    let filesystem = engine_fs::open(&volume).expect("opened");
    let found = filesystem.lookup(filesystem.root(), b"folder").expect("searched").expect("there");
    let (mut names, mut lost) = (Vec::new(), 0);
    let listed = filesystem.list(found, &mut |entry| {
        match entry {
            Ok(entry) => names.push(entry.name),
            Err(_) => lost += 1,
        }
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), lost), (count, 1), "each once, and one loss");
}

#[test]
fn an_exfat_with_wrong_checksums_in_both_boot_regions_is_read_and_told() {
    need!("mkfs.exfat");
    let folder = folder_in_memory();
    let image = folder.path().join("image");
    mkfs::blank(&image, 32 * MIB).expect("made");
    tool::run("mkfs.exfat", &["-L", "label", text(&image)]).expect("mkfs.exfat runs");
    let mut bytes = fs::read(&image).expect("read");
    // The checksum is in the twelfth sector of each.
    for sector in [11, 23] {
        bytes[sector * 512..sector * 512 + 512].fill(0x5a);
    }
    let volume: Arc<dyn ReadAt> = Arc::new(bytes);
    let filesystem = engine_fs::open(&volume).expect("opened");
    assert_eq!(filesystem.info().label.as_deref(), Some("label"));
    assert!(filesystem.doubts().first().is_some_and(|doubt| doubt.contains("boot region")));
    assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err());
}
