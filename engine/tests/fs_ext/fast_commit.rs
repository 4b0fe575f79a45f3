//! Fast commits read as what they made sure of: a filesystem is changed and `fsync`ed through the
//! kernel's mount, its file is copied while that is there, and the copy is read.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use imgx_engine::fs::Filesystem;
use imgx_fixtures::pattern::{Random, incompressible};
use imgx_fixtures::{fast_commit, tool};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::syncfs;

use crate::common::is_long;
use crate::damage::PATIENCE;
use crate::everything::use_everything;
use crate::fill;
use crate::fixture::{Fixture, MIB, open, open_bytes};
use crate::need_mounts;
use crate::truth::{self, Tree};

fn bytes(length: usize) -> Vec<u8> {
    incompressible(length as u64, length)
}

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

/// Writes a file of `length` bytes and makes sure of it.
fn write(path: &Path, length: usize) {
    fs::write(path, bytes(length)).expect("written");
    sync(path);
}

fn sync(path: &Path) {
    File::open(path).and_then(|file| file.sync_all()).expect("synced");
}

fn edit(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("opened")
}

/// What is there before, in whole transactions.
fn before(root: &Path) {
    for (name, length) in [("old", 15_000), ("short", 10), ("cut", 50_000), ("holes", 200_000)] {
        fs::write(root.join(name), bytes(length)).expect("written");
    }
    fs::hard_link(root.join("old"), root.join("hard")).expect("linked");
    fs::write(root.join("open"), "read while it is unlinked").expect("written");
    fill::names(&fill::folder(root, "many"), 400);
    fill::attributes(&fill::folder(root, "attributes"), 300);
    fs::create_dir(root.join("empty")).expect("made");
    syncfs(File::open(root).expect("opened")).expect("synced");
}

/// Contents: new, longer, shorter, with holes, reserved.
fn contents(root: &Path) -> Vec<File> {
    for length in [0, 1, 100, 5_000, 300_000] {
        write(&root.join(format!("new-{length}")), length);
    }
    let old = edit(&root.join("old"));
    old.write_all_at(b"in the middle", 7_000).expect("written");
    old.write_all_at(&bytes(9_000), 15_000).expect("written");
    old.sync_all().expect("synced");
    let cut = edit(&root.join("cut"));
    cut.set_len(5_001).and_then(|()| cut.sync_all()).expect("cut");
    cut.set_len(30_000).and_then(|()| cut.write_all_at(b"after a hole", 29_000)).expect("longer");
    cut.sync_all().expect("synced");
    let holes = edit(&root.join("holes"));
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&holes, punch, 40_000, 60_000).expect("punched");
    holes.sync_all().expect("synced");
    holes.write_all_at(&bytes(3_000), 70_000).and_then(|()| holes.sync_all()).expect("written");
    let reserved = File::create(root.join("reserved")).expect("made");
    fallocate(&reserved, FallocateFlags::empty(), 0, 400_000).expect("reserved");
    reserved.sync_all().expect("synced");
    reserved.write_all_at(&bytes(20_000), 111_111).and_then(|()| reserved.sync_all()).expect("ok");
    Vec::new()
}

/// Names: new, gone, moved, over others, in small and large folders and in new ones.
fn names(root: &Path) -> Vec<File> {
    fs::rename(root.join("short"), root.join("renamed")).expect("renamed");
    fs::remove_file(root.join("hard")).expect("removed");
    fs::hard_link(root.join("old"), root.join("many/second name")).expect("linked");
    write(&root.join("many/new"), 1_000);
    for entry in fs::read_dir(root.join("many")).expect("listed").step_by(7).take(20) {
        let path = entry.expect("listed").path();
        let _ = fs::remove_file(&path);
    }
    for number in 0..30 {
        File::create(root.join(format!("many/added-{number}"))).expect("made");
    }
    write(&root.join("over"), 200);
    fs::rename(root.join("over"), root.join("cut")).expect("renamed");
    let folder = root.join("made/inner");
    fs::create_dir_all(&folder).expect("made");
    write(&folder.join("file"), 10);
    fs::rename(root.join("old"), folder.join("moved")).expect("renamed");
    fs::create_dir(root.join("made/empty")).expect("made");
    fs::remove_dir(root.join("empty")).expect("removed");
    let held = File::open(root.join("open")).expect("opened");
    fs::remove_file(root.join("open")).expect("removed");
    sync(&folder.join("file"));
    write(&root.join("made/last"), 77);
    vec![held]
}

/// One file in more pieces than an inode has room for.
fn pieces(root: &Path) -> Vec<File> {
    let file = File::create(root.join("pieces")).expect("made");
    for number in 0..40 {
        file.write_all_at(&bytes(4_096), number * 65_536).expect("written");
        if number % 8 == 0 {
            file.sync_all().expect("synced");
        }
    }
    file.sync_all().expect("synced");
    Vec::new()
}

/// What no fast commit can hold: a whole transaction between fast ones.
fn between(root: &Path) -> Vec<File> {
    write(&root.join("first"), 3_000);
    std::os::unix::fs::symlink("old", root.join("link")).expect("made");
    fill::nodes(&fill::folder(root, "nodes"));
    xattr::set(root.join("old"), "user.late", b"value").expect("set");
    syncfs(File::open(root).expect("opened")).expect("synced");
    write(&root.join("first"), 30);
    write(&root.join("second"), 4_097);
    fs::remove_file(root.join("link")).expect("removed");
    write(&root.join("third"), 4_097);
    Vec::new()
}

/// A random history.
fn random(root: &Path, seed: u64) -> Vec<File> {
    let mut random = Random::new(seed);
    let mut held = Vec::new();
    let mut below = |limit: u64| random.next_u64() % limit;
    let path = |number: u64| -> PathBuf {
        let folder = ["", "many", "made", "made/deep"][small(number % 4)];
        root.join(folder).join(format!("r{}", number / 4))
    };
    for _ in 0..90 {
        let (one, other) = (path(below(40)), path(below(40)));
        // Most of these fail at times, for want of a file or a folder.
        match below(12) {
            0 => drop(fs::create_dir(root.join(["made", "made/deep"][small(below(2))]))),
            1 => drop(fs::remove_file(&one)),
            2 => drop(fs::rename(&one, &other)),
            3 => drop(fs::hard_link(&one, &other)),
            4 => held.extend(File::open(&one).ok().filter(|_| below(3) == 0)),
            kind => {
                let Ok(file) =
                    OpenOptions::new().create(true).write(true).truncate(false).open(&one)
                else {
                    continue;
                };
                let (start, length) = (below(100_000), below(20_000));
                match kind {
                    5 => drop(file.set_len(start)),
                    6 => {
                        let _ =
                            fallocate(&file, FallocateFlags::empty(), start.cast_signed(), 30_000);
                    }
                    7 => {
                        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE
                            | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                        let _ = fallocate(&file, punch, start.cast_signed(), 30_000);
                    }
                    _ => file.write_all_at(&bytes(small(length)), start).expect("written"),
                }
                if below(2) == 0 {
                    file.sync_all().expect("synced");
                }
            }
        }
    }
    held
}

/// A filesystem that was changed by `change` and is as a crash leaves it; and what the kernel
/// had made sure of by then. Of folders, the log has neither times nor sizes nor counts of links.
fn crashed(arguments: &[&str], change: &dyn Fn(&Path) -> Vec<File>) -> (Fixture, Tree) {
    let arguments = [&["-t", "ext4", "-O", "fast_commit"], arguments].concat();
    let fixture = Fixture::make(64 * MIB, &arguments);
    let mount = fixture.mount(&fixture.image(), "noatime");
    before(mount.root());
    let held = change(mount.root());
    sync_files(mount.root());
    write(&mount.root().join("last"), 50);
    for copy in ["ours", "theirs"] {
        fs::copy(fixture.image(), fixture.path().join(copy)).expect("copied");
    }
    let mut expected = truth::of_mount(mount.root());
    hide_folders(&mut expected);
    drop(held);
    drop(mount);
    (fixture, expected)
}

fn sync_files(folder: &Path) {
    for entry in fs::read_dir(folder).expect("listed") {
        let entry = entry.expect("listed");
        match entry.file_type().expect("known") {
            kind if kind.is_dir() => sync_files(&entry.path()),
            kind if kind.is_file() => sync(&entry.path()),
            _ => {}
        }
    }
}

/// What the kernel's own replay makes of it; it refuses files that were unlinked while open, and
/// mixes up files that had one inode after another.
fn replayed(fixture: &Fixture) -> Tree {
    let mount = fixture.mount(&fixture.path().join("theirs"), "noatime");
    let mut replayed = truth::of_mount(mount.root());
    hide_folders(&mut replayed);
    replayed
}

fn hide_folders(tree: &mut Tree) {
    for file in tree.values_mut().filter(|file| file.file_type == "dir") {
        (file.size, file.links, file.modified, file.changed) = (0, 0, (0, 0), (0, 0));
    }
}

fn assert_reads_as(context: &str, fixture: &Fixture, expected: &Tree) -> Box<dyn Filesystem> {
    let filesystem = open(&fixture.path().join("ours"));
    let filesystem = filesystem.unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut found = truth::of_engine(filesystem.as_ref());
    hide_folders(&mut found);
    truth::assert_same(context, &found, expected);
    filesystem
}

#[test]
fn hostile_fast_commits_cause_no_panic_and_no_endless_walk() {
    need_mounts!();
    for change in [contents, names] {
        let (fixture, _) = crashed(&["-b", "1024", "-O", "^metadata_csum"], &change);
        let good = fs::read(fixture.path().join("ours")).expect("read");
        let area = fast_commit::area(&good, 1024).expect("there are some");
        let used: Vec<usize> =
            (area..area + (64 << 10)).filter(|place| good[*place] != 0).take(6000).collect();
        let mut random = Random::new(5);
        let rounds = if is_long() { 3000 } else { 60 };
        for round in 0..rounds {
            let mut bytes = good.clone();
            for _ in 0..=round % 5 {
                let place = used[small(random.next_u64() % used.len() as u64)];
                bytes[place] ^= 1 << (random.next_u64() % 8);
            }
            if round % 4 > 0 {
                fast_commit::mend(&mut bytes, area, 1024);
            }
            let start = Instant::now();
            if let Ok(filesystem) = open_bytes(bytes) {
                use_everything(filesystem.as_ref());
            }
            assert!(start.elapsed() < PATIENCE, "round {round}");
        }
    }
}

/// Whether the copy has fast commits that are to be replayed, as `debugfs` tells: those of the
/// transaction that comes after the last whole one.
fn has_pending(fixture: &Fixture) -> bool {
    let image = fixture.path().join("ours");
    let log = tool::run("debugfs", &["-R", "logdump", image.to_str().expect("plain")]);
    let log = log.expect("debugfs runs");
    let number = |line: &str, after: &str| -> Option<u32> {
        let rest = line.split(after).nth(1)?;
        rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    };
    let last = log.lines().filter_map(|line| number(line, "Found expected sequence ")).max();
    let heads = log.lines().filter(|line| line.contains("HEAD"));
    let tids: Vec<u32> = heads.filter_map(|line| number(line, "tid ")).collect();
    last.is_some_and(|last| tids.contains(&(last + 1)))
}

#[test]
fn fast_commits_are_replayed() {
    need_mounts!();
    let forms: [&[&str]; 6] = [
        &[],
        &["-b", "1024"],
        &["-b", "1024", "-O", "inline_data", "-I", "512"],
        &["-O", "^metadata_csum,^64bit"],
        &["-I", "128", "-O", "^metadata_csum"],
        &["-O", "bigalloc", "-C", "16384"],
    ];
    type Shape = (&'static str, fn(&Path) -> Vec<File>);
    let shapes: [Shape; 4] =
        [("contents", contents), ("names", names), ("pieces", pieces), ("between", between)];
    let mut pending = 0;
    for form in forms {
        for (shape, change) in shapes {
            let context = format!("{shape} with {}", form.join(" "));
            let (fixture, expected) = crashed(form, &change);
            let filesystem = assert_reads_as(&context, &fixture, &expected);
            if shape != "names" {
                truth::assert_same(&context, &replayed(&fixture), &expected);
            }
            if has_pending(&fixture) {
                pending += 1;
                let notes = filesystem.info().notes.join(" ");
                assert!(notes.contains("fast commits"), "{context}: {notes}");
                let free = filesystem.free_space(&mut |_| std::ops::ControlFlow::Continue(()));
                assert!(free.is_err(), "{context}: the bitmaps are older than the files");
            }
        }
    }
    // Folders that outgrow their inodes end in a whole transaction.
    assert!(pending >= 22, "{pending} of 24 had fast commits");
}

#[test]
fn random_histories_are_replayed() {
    need_mounts!();
    let mut pending = 0;
    let rounds = if is_long() { 200 } else { 6 };
    for seed in 0..rounds {
        let form: &[&str] = if seed % 2 == 0 { &["-b", "1024"] } else { &[] };
        let (fixture, expected) = crashed(form, &|root| random(root, seed));
        pending += u64::from(has_pending(&fixture));
        assert_reads_as(&format!("history {seed}"), &fixture, &expected);
    }
    assert!(pending >= rounds / 2, "{pending} of {rounds} had fast commits");
}
