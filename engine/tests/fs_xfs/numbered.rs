//! Files by their numbers are those that the kernel names, and all that is said of one follows from
//! its parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use imgx_engine::base::{ByteCount, ByteOffset, ByteRange, ErrorKind, ReadAt, Result};
use imgx_engine::fs::{self as engine_fs, FileId, FileType, Filesystem, InUse, Numbered, Part};
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::fill;
use crate::fixture::{Fixture, MIB, open, open_bytes, xfs_db};
use crate::need_mounts;

/// What the kernel says of a file: whether it is a folder, and the folders that name it.
type Known = (bool, BTreeSet<u64>);

/// Every file below `root`, by its number.
fn of_mount(root: &Path) -> BTreeMap<u64, Known> {
    let number = |path: &Path| fs::symlink_metadata(path).expect("there").ino();
    let mut known = BTreeMap::from([(number(root), (true, BTreeSet::new()))]);
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("listed").path();
            let is_folder = fs::symlink_metadata(&path).expect("there").is_dir();
            let found = known.entry(number(&path)).or_default();
            found.0 = is_folder;
            found.1.insert(number(&folder));
            waiting.extend(is_folder.then_some(path));
        }
    }
    known
}

fn numbered(filesystem: &dyn Filesystem) -> &dyn Numbered {
    filesystem.numbered().expect("its files are known by their numbers")
}

/// At most `most` files behind `after`.
fn files(numbered: &dyn Numbered, after: Option<FileId>, most: usize) -> Result<Vec<InUse>> {
    let mut found = Vec::new();
    numbered.each_file(after, &mut |file| {
        found.push(file);
        if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

fn parts(numbered: &dyn Numbered, file: FileId) -> Result<Vec<Part>> {
    let mut found = Vec::new();
    numbered.parts(file, &mut |part| {
        found.push(part);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn assert_numbered(context: &str, filesystem: &dyn Filesystem, known: &BTreeMap<u64, Known>) {
    let numbered = numbered(filesystem);
    let found = files(numbered, None, usize::MAX);
    let found = found.unwrap_or_else(|error| panic!("{context}: {error}"));
    let numbers: Vec<(u64, bool)> =
        found.iter().map(|file| (file.file.number, file.is_folder)).collect();
    let expected: Vec<(u64, bool)> = known.iter().map(|(file, known)| (*file, known.0)).collect();
    let odd = numbers.iter().zip(&expected).find(|(one, other)| one != other);
    assert_eq!((odd, numbers.len()), (None, expected.len()), "{context}");
    // One after the other, from any of them on.
    for at in (0..found.len()).step_by(found.len() / 200 + 1).chain([found.len() - 1]) {
        let rest = files(numbered, Some(found[at].file), 3).expect("told");
        assert_eq!(rest, found[at + 1..found.len().min(at + 4)], "{context}: after {at}");
    }
    for (number, (is_folder, folders)) in known {
        let told = numbered.folders_of(FileId::new(*number)).expect("told");
        let told = told.map(|folders| folders.iter().map(|one| one.number).collect());
        assert_eq!(told, is_folder.then(|| folders.clone()), "{context}: folders of {number}");
    }
}

/// Fills a filesystem, and removes some of it again.
fn fill_and_remove(root: &Path) {
    fill::everything(root);
    for number in (0..2000).filter(|number| number % 7 > 1) {
        let path = root.join(format!("folders/of-4000/{number}-{}", "n".repeat(number % 200)));
        fs::remove_file(path).expect("removed");
    }
    fs::remove_dir_all(root.join("folders/of-900")).expect("removed");
    fs::rename(root.join("folders/of-40"), root.join("contents/a/moved")).expect("moved");
    fs::create_dir(root.join("new")).expect("made");
    fs::hard_link(root.join("links/one"), root.join("new/one")).expect("linked");
}

#[test]
fn the_files_by_number_are_those_that_folders_name() {
    need_mounts!();
    for (size, arguments) in [
        (300 * MIB, [].as_slice()),
        // Trees of two levels, and several chunks' inodes in one block.
        (300 * MIB, &["-b", "size=1024", "-d", "agcount=3"]),
        (300 * MIB, &["-b", "size=65536", "-i", "sparse=0", "-m", "finobt=0"]),
        (300 * MIB, &["-i", "size=2048,nrext64=1", "-s", "size=4096"]),
    ] {
        let fixture = Fixture::make(size, arguments);
        let known = {
            let mount = fixture.mount(&fixture.image(), "noatime");
            fill_and_remove(mount.root());
            of_mount(mount.root())
        };
        let filesystem = open(&fixture.image()).expect("opened");
        assert_numbered(&arguments.join(" "), filesystem.as_ref(), &known);
    }
}

/// Quotas, in any file that the superblock says.
#[test]
fn what_no_folder_names_is_left_out() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &[]);
    let mut known = {
        let mount = fixture.mount(&fixture.image(), "noatime");
        fill::names(&fill::folder(mount.root(), "names"), 5);
        of_mount(mount.root())
    };
    for field in ["uquotino", "gquotino", "pquotino"] {
        let is_file = |(_, known): &(&u64, &Known)| !known.0;
        let own = *known.iter().find(is_file).expect("one is left").0;
        xfs_db(&fixture.image(), true, &["sb 0", &format!("write -d {field} {own}")]);
        known.remove(&own);
        assert_numbered(field, open(&fixture.image()).expect("opened").as_ref(), &known);
    }
}

/// Where there is no room for 64 inodes side by side.
#[test]
fn chunks_with_gaps_are_read_around_them() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-d", "agcount=1", "-i", "sparse=1"]);
    let known = {
        let mount = fixture.mount(&fixture.image(), "noatime");
        let large = File::create(mount.root().join("large")).expect("made");
        let mut length = 64 * MIB;
        // As much as there is room for.
        while length > 4096 {
            let end = large.metadata().expect("there").len();
            let (start, more) = (end.cast_signed(), length.cast_signed());
            match fallocate(&large, FallocateFlags::empty(), start, more) {
                Ok(()) => {}
                Err(_) => length /= 2,
            }
        }
        let end = large.metadata().expect("there").len();
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for start in (0..end / 2).step_by(48 << 10) {
            fallocate(&large, punch, start.cast_signed(), 24 << 10).expect("punched");
        }
        for number in 0..12_000 {
            // Until there is no more room.
            let _ = File::create(mount.root().join(format!("file-{number}")));
        }
        of_mount(mount.root())
    };
    let tree = xfs_db(&fixture.image(), false, &["agi 0", "addr root", "print recs"]);
    let gaps = tree.lines().filter(|line| {
        let fields = line.split(':').nth(1).and_then(|rest| rest.split(',').nth(1));
        fields.is_some_and(|holes| holes != "0")
    });
    let gaps = gaps.count();
    println!("{gaps} chunks with gaps, {} files", known.len());
    assert!(gaps > 1, "{tree}");
    assert_numbered("gaps", open(&fixture.image()).expect("opened").as_ref(), &known);
}

/// Without checksums, and without a mount: what the folders name is the truth.
#[test]
fn version_4_has_its_files_by_number() {
    need_mounts!();
    let sources = crate::common::folder_in_memory();
    let prototype = sources.path().join("prototype");
    let mut text = "/no-boot-block\n0 0\nd--755 0 0\n".to_owned();
    for folder in 0..30 {
        text.push_str(&format!("folder-{folder} d--755 0 0\n"));
        (0..folder * 5).for_each(|file| text.push_str(&format!("file-{file} p--600 0 0\n")));
        text.push_str("$\n");
    }
    fs::write(&prototype, text + "$\n").expect("written");
    let prototype = prototype.to_str().expect("plain");
    let arguments = ["-m", "crc=0", "-b", "size=512", "-i", "attr=2", "-p", prototype];
    let fixture = Fixture::make(64 * MIB, &arguments);
    let filesystem = open(&fixture.image()).expect("opened");
    let mut known = BTreeMap::from([(filesystem.root().number, (true, BTreeSet::new()))]);
    let mut waiting = vec![filesystem.root()];
    while let Some(folder) = waiting.pop() {
        let listed = filesystem.list(folder, &mut |entry| {
            let file = entry.expect("sound").file;
            let metadata = filesystem.metadata(file).expect("read");
            let is_folder = metadata.file_type == FileType::Directory;
            known.insert(file.number, (is_folder, BTreeSet::from([folder.number])));
            waiting.extend(is_folder.then_some(file));
            ControlFlow::Continue(())
        });
        listed.expect("listed");
    }
    assert_eq!(known.len(), 31 + 29 * 30 / 2 * 5);
    assert_numbered("version 4", filesystem.as_ref(), &known);
    // A leaf of the tree that lost its last record is not all there.
    let text = xfs_db(&fixture.image(), false, &["agi 0", "addr root", "print numrecs"]);
    let count: u32 = text.trim().rsplit(' ').next().and_then(|text| text.parse().ok()).expect("n");
    let write = format!("write -d numrecs {}", count - 1);
    xfs_db(&fixture.image(), true, &["agi 0", "addr root", &write]);
    assert_refused(&fixture, "a record less");
}

fn assert_refused(fixture: &Fixture, context: &str) {
    let filesystem = open(&fixture.image()).expect("opened");
    let told = files(numbered(filesystem.as_ref()), None, usize::MAX);
    let error = told.map(|files| files.len()).expect_err(context);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {error}");
    println!("{context}: {error}");
}

#[test]
fn a_damaged_tree_of_inodes_tells_no_files() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-b", "size=1024", "-d", "agcount=2"]);
    fixture.fill(|root| fill::names(&fill::folder(root, "names"), 300));
    let copy = fixture.path().join("copy");
    fs::copy(fixture.image(), &copy).expect("copied");
    let root = open(&fixture.image()).expect("opened").root().number;
    let inode = format!("inode {root}");
    for commands in [
        ["agi 1", "write -d root 7"].as_slice(),
        &["agi 0", "write -d level 3"],
        &["agi 0", "write -d count 64"],
        &["agi 0", "addr root", "write -d recs[2].startino 0"],
        &["agi 0", "addr root", "write -d recs[5].free 0"],
        &["agi 0", "addr root", "write -d recs[5].startino 1000000"],
        &[&inode, "write -d core.mode 0"],
    ] {
        xfs_db(&fixture.image(), true, commands);
        assert_refused(&fixture, &commands.join(", "));
        fs::copy(&copy, fixture.image()).expect("copied");
    }
    assert!(files(numbered(open(&copy).expect("opened").as_ref()), None, 9).is_ok());
}

/// A removed file that is still open has no name, and is none of those in use.
#[test]
fn a_log_that_was_replayed_tells_the_files_as_they_are_then() {
    need_mounts!();
    let fixture = Fixture::make(300 * MIB, &[]);
    let mut gone = 0;
    {
        let mount = fixture.mount(&fixture.image(), "noatime");
        let root = mount.root();
        fill::names(&fill::folder(root, "first"), 400);
        let path = root.join("first/open");
        fs::write(&path, "open").expect("written");
        nix::unistd::syncfs(File::open(root).expect("opened")).expect("synced");
        let open = File::open(&path).expect("opened");
        gone += open.metadata().expect("there").ino();
        fs::remove_file(&path).expect("removed");
        fs::remove_file(root.join("first/7-nnnnnnn")).expect("removed");
        fill::names(&fill::folder(root, "second"), 100);
        let path = root.to_str().expect("plain");
        tool::run("xfs_io", &["-x", "-c", "shutdown -f", path]).expect("shut down");
    }
    let copy = fixture.path().join("copy");
    fs::copy(fixture.image(), &copy).expect("copied");
    let known = of_mount(fixture.mount(&copy, "noatime").root());
    assert!(!known.contains_key(&gone));
    let filesystem = open(&fixture.image()).expect("opened");
    assert!(!filesystem.replayed().is_empty());
    assert_numbered("replayed", filesystem.as_ref(), &known);
}

/// A volume of which, once it is covered, nothing but some ranges can be seen.
struct Masked {
    bytes: Arc<Vec<u8>>,
    is_covered: AtomicBool,
    seen: Mutex<Vec<ByteRange>>,
}

impl ReadAt for Masked {
    fn size(&self) -> ByteCount {
        self.bytes.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.bytes.read_exact_at(offset, buffer)?;
        if !self.is_covered.load(Ordering::Relaxed) {
            return Ok(());
        }
        let whole = ByteRange::new(offset.0, buffer.len() as u64);
        let mut visible = vec![0xa5; buffer.len()];
        for range in self.seen.lock().expect("no panic").iter() {
            let Some(both) = range.intersection(&whole) else { continue };
            let start = usize::try_from(both.start - whole.start).expect("small");
            let end = usize::try_from(both.end - whole.start).expect("small");
            visible[start..end].copy_from_slice(&buffer[start..end]);
        }
        buffer.copy_from_slice(&visible);
        Ok(())
    }
}

/// All that a filesystem says of one file.
fn answers(filesystem: &dyn Filesystem, file: FileId) -> String {
    let metadata = filesystem.metadata(file).expect("read");
    let xattrs = filesystem.xattrs(file).expect("read");
    let mut text = format!("{metadata:?} {xattrs:?} {:?}", filesystem.may_share(file));
    match metadata.file_type {
        FileType::Directory => {
            let listed = filesystem.list(file, &mut |entry| {
                let entry = entry.expect("sound");
                let found = filesystem.lookup(file, &entry.name).expect("searched");
                text.push_str(&format!("{entry:?} {found:?}"));
                ControlFlow::Continue(())
            });
            listed.expect("listed");
            text.push_str(&format!("{:?}", filesystem.lookup(file, b"none").expect("searched")));
        }
        FileType::Symlink => text.push_str(&format!("{:?}", filesystem.link_target(file))),
        FileType::Regular => {
            let mut content = filesystem.open(file).expect("opened");
            content
                .extents(&mut |extent| {
                    text.push_str(&format!("{extent:?}"));
                    let length = usize::try_from(extent.length.min(MIB)).expect("small");
                    let mut buffer = vec![0; length];
                    let mut other = filesystem.open(file).expect("opened");
                    other.read_at(extent.offset, &mut buffer).expect("read");
                    text.push_str(&blake3::hash(&buffer).to_string());
                    ControlFlow::Continue(())
                })
                .expect("told");
        }
        _ => {}
    }
    text
}

#[test]
fn all_that_is_said_of_a_file_follows_from_its_parts() {
    need_mounts!();
    for arguments in [
        [].as_slice(),
        &["-b", "size=1024", "-n", "size=4096", "-i", "size=512"],
        &["-m", "rmapbt=1,reflink=1", "-i", "size=1024,nrext64=1", "-n", "size=16384"],
    ] {
        let context = arguments.join(" ");
        let fixture = Fixture::make(300 * MIB, arguments);
        fixture.fill(|root| {
            fill::everything(root);
            // Entries in the inode, beside attributes that are not.
            let path = fill::folder(root, "small");
            File::create(path.join("entry")).expect("made");
            xattr::set(&path, "user.large", &incompressible(3, 3000)).expect("set");
        });
        let bytes = Arc::new(fs::read(fixture.image()).expect("read"));
        let volume: Arc<dyn ReadAt> = Arc::<Vec<u8>>::clone(&bytes);
        let whole = engine_fs::open(&volume).expect("opened");
        let mut sorts = BTreeMap::new();
        for (place, InUse { file, .. }) in
            files(numbered(whole.as_ref()), None, usize::MAX).expect("told").into_iter().enumerate()
        {
            let parts = parts(numbered(whole.as_ref()), file).expect("told");
            let is_plain = parts.len() < 2;
            if is_plain && place % 50 > 0 {
                continue;
            }
            let seen: Vec<ByteRange> = parts.iter().map(Part::range).collect();
            let masked = Arc::new(Masked {
                bytes: Arc::clone(&bytes),
                is_covered: AtomicBool::new(false),
                seen: Mutex::new(seen),
            });
            let volume: Arc<dyn ReadAt> = Arc::<Masked>::clone(&masked);
            let covered = engine_fs::open(&volume).expect("opened");
            masked.is_covered.store(true, Ordering::Relaxed);
            let expected = answers(whole.as_ref(), file);
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                answers(covered.as_ref(), file)
            }));
            assert!(found.is_ok_and(|found| found == expected), "{context}: {file:?}: {parts:?}");
            let sort = (whole.metadata(file).expect("read").file_type as u8, parts.len().min(4));
            *sorts.entry(sort).or_insert(0) += 1;
        }
        println!("{context}: {sorts:?}");
        assert!(sorts.len() > 7, "{context}: only {sorts:?}");
    }
}

/// The parts of every file, with what is there.
fn snapshot(fixture: &Fixture) -> BTreeMap<u64, Vec<(Part, blake3::Hash)>> {
    let bytes = fs::read(fixture.image()).expect("read");
    let filesystem = open_bytes(bytes.clone()).expect("opened");
    let numbered = numbered(filesystem.as_ref());
    let files = files(numbered, None, usize::MAX).expect("told");
    let with_content = files.into_iter().map(|InUse { file, .. }| {
        let parts = parts(numbered, file).expect("told").into_iter().map(|part| {
            let ByteRange { start, end } = part.range();
            let place =
                usize::try_from(start).expect("small")..usize::try_from(end).expect("small");
            (part, blake3::hash(&bytes[place]))
        });
        (file.number, parts.collect())
    });
    with_content.collect()
}

/// Does something to `path` and puts its times back.
fn with_times(path: &Path, change: impl FnOnce(&Path)) {
    let before = fs::metadata(path).expect("there");
    change(path);
    let times = FileTimes::new()
        .set_modified(before.modified().expect("known"))
        .set_accessed(before.accessed().expect("known"));
    File::open(path).and_then(|file| file.set_times(times)).expect("put back");
}

fn overwrite(path: &Path, place: u64) {
    with_times(path, |path| {
        let file = File::options().write(true).open(path).expect("opened");
        file.write_all_at(b"changed", place).expect("written");
    });
}

#[test]
fn what_is_changed_shows_in_its_parts_and_nothing_else_does() {
    need_mounts!();
    let fixture = Fixture::make(300 * MIB, &["-b", "size=1024", "-m", "reflink=1"]);
    fixture.fill(|root| {
        fill::everything(root);
        let path = fill::folder(root, "small");
        File::create(path.join("entry")).expect("made");
        xattr::set(&path, "user.large", &incompressible(3, 3000)).expect("set");
    });
    let rename = |folder: &str, from: &str| {
        let (folder, from) = (folder.to_owned(), from.to_owned());
        move |root: &Path| {
            with_times(&root.join(&folder), |path| {
                fs::rename(path.join(&from), path.join("n")).expect("renamed");
            });
            vec![root.join(&folder), root.join(&folder).join("n")]
        }
    };
    let content = |path: &'static str, place: u64| {
        move |root: &Path| {
            overwrite(&root.join(path), place);
            vec![root.join(path)]
        }
    };
    let attribute = |path: &'static str, size: usize| {
        move |root: &Path| {
            let path = root.join(path);
            xattr::set(&path, "user.change", &incompressible(1, size)).expect("set");
            xattr::set(&path, "user.change", &incompressible(2, size)).expect("set");
            vec![path]
        }
    };
    type Change = Box<dyn Fn(&Path) -> Vec<std::path::PathBuf>>;
    let changes: Vec<Change> = vec![
        Box::new(rename("folders/of-5", "3-nnn")),
        Box::new(rename("small", "entry")),
        Box::new(rename("folders/of-40", "3-nnn")),
        Box::new(rename("folders/of-150", "3-nnn")),
        Box::new(rename("folders/of-900", "3-nnn")),
        Box::new(rename("folders/of-4000", "3-nnn")),
        Box::new(content("contents/bytes-300000", 200_000)),
        Box::new(content("sparse/pieces", 12_288 * 600)),
        Box::new(content("sparse/reserved", 700_000)),
        Box::new(content("shared/one", 900_000)),
        Box::new(attribute("contents/bytes-1", 10)),
        Box::new(attribute("contents/bytes-59", 2000)),
        Box::new(attribute("more-attributes/many", 60_000)),
        Box::new(attribute("more-attributes/values", 500)),
    ];
    let mut before = snapshot(&fixture);
    for (number, change) in changes.iter().enumerate() {
        let changed: BTreeSet<u64> = {
            let mount = fixture.mount(&fixture.image(), "noatime");
            let paths = change(mount.root());
            let number = |path: &std::path::PathBuf| fs::metadata(path).expect("there").ino();
            paths.iter().map(number).collect()
        };
        let after = snapshot(&fixture);
        let is_other = |file: &u64| before.get(file) != after.get(file);
        let all = before.keys().chain(after.keys()).copied();
        let found: BTreeSet<u64> = all.filter(is_other).collect();
        assert_eq!(found, changed, "change {number}");
        before = after;
    }
}
