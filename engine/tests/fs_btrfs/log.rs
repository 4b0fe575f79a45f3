//! A tree log, as a crash leaves it, reads as the kernel replays it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use imgx_fixtures::pattern::{Random, incompressible, text};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::basics::{self, folder};
use crate::everything::told;
use crate::fill;
use crate::fixture::{Fixture, MIB, content};
use crate::need_mounts;
use crate::sums::crc32c;
use crate::truth::{self, Tree};

fn sync_file(path: &Path) {
    File::open(path).expect("opened").sync_all().expect("synced");
}

fn write_at(path: &Path, place: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    file.expect("opened").write_all_at(bytes, place).expect("written");
}

/// What is committed before anything is logged.
fn base(root: &Path) {
    basics::names(&folder(root, "names"), 40);
    basics::attributes(&folder(root, "attributes"), 300);
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        fs::write(root.join(name), incompressible(7, 200_000)).expect("written");
        xattr::set(root.join(name), "user.old", name.as_bytes()).expect("set");
    }
    fs::hard_link(root.join("c"), root.join("names/c-too")).expect("linked");
    fs::create_dir_all(root.join("deep/er/still")).expect("made");
    fs::write(root.join("deep/er/file"), "deep").expect("written");
    fs::create_dir(root.join("other")).expect("made");
    fs::hard_link(root.join("d"), root.join("other/d-too")).expect("linked");
    fill::sync(root);
}

/// Makes a filesystem, changes it without a commit, and copies its file as it is then. Returns
/// the fixture, whose file is that copy, and what the kernel makes of it.
fn crashed(options: &str, arguments: &[&str], change: impl FnOnce(&Path)) -> (Fixture, Tree) {
    let fixture = Fixture::make(256 * MIB, arguments);
    let copy = fixture.path().join("crashed");
    {
        let mount = fixture.mount(&format!("noatime,commit=300,{options}"));
        base(mount.root());
        change(mount.root());
        // Some changes make the kernel commit all there is; this one it logs.
        fs::write(mount.root().join("last"), "synced").expect("written");
        sync_file(&mount.root().join("last"));
        fs::copy(fixture.image(), &copy).expect("copied");
    }
    fs::copy(&copy, fixture.image()).expect("copied");
    let truth = truth::of_mount(fixture.mount_files(&[copy], "noatime").root());
    (fixture, truth)
}

/// The kernel gives folders the time of the replay where it removes entries of them.
fn without_times(mut tree: Tree, expected: &Tree) -> Tree {
    for (path, file) in &mut tree {
        let replayed = expected.get(path);
        if let Some(other) =
            replayed.filter(|other| other.modified > file.modified || other.changed > file.changed)
        {
            file.modified = other.modified;
            file.changed = other.changed;
        }
    }
    tree
}

fn check(context: &str, change: impl FnOnce(&Path)) {
    check_with(context, "", &[], change);
}

fn check_with(context: &str, options: &str, arguments: &[&str], change: impl FnOnce(&Path)) {
    let (fixture, truth) = crashed(options, arguments, change);
    let filesystem = fixture.open().unwrap_or_else(|error| panic!("{context}: {error}"));
    let notes = told(filesystem.as_ref());
    assert!(notes.iter().any(|note| note.contains("log was replayed")), "{context}: {notes:?}");
    let found = truth::of_engine(filesystem.as_ref());
    truth::assert_same(context, &without_times(found, &truth), &truth);
    assert!(filesystem.free_space(&mut |_| panic!("it is not certain")).is_err(), "{context}");
}

#[test]
fn new_files() {
    need_mounts!();
    check("new files", |root| {
        fs::write(root.join("new"), incompressible(1, 1_000_000)).expect("written");
        sync_file(&root.join("new"));
        fs::write(root.join("small"), "inline").expect("written");
        sync_file(&root.join("small"));
        fs::write(root.join("not-synced"), "lost").expect("written");
        fs::create_dir_all(root.join("x/y/z")).expect("made");
        fs::write(root.join("x/y/z/file"), text(1, 50_000)).expect("written");
        symlink("target", root.join("x/y/link")).expect("made");
        sync_file(&root.join("x/y/z/file"));
    });
    check("new folders", |root| {
        fs::create_dir_all(root.join("x/y")).expect("made");
        fs::write(root.join("x/file"), "in it").expect("written");
        symlink("target", root.join("x/link")).expect("made");
        sync_file(&root.join("x"));
        sync_file(&root.join("x/file"));
        sync_file(root);
    });
}

#[test]
fn changed_content() {
    need_mounts!();
    check("changed content", |root| {
        write_at(&root.join("a"), 50_000, &incompressible(2, 30_000));
        sync_file(&root.join("a"));
        write_at(&root.join("a"), 20_000, &incompressible(3, 9000));
        sync_file(&root.join("a"));
        let file = OpenOptions::new().write(true).open(root.join("b")).expect("opened");
        file.set_len(70_001).expect("cut");
        file.sync_all().expect("synced");
        file.set_len(500_000).expect("grown");
        file.write_all_at(b"the end", 499_000).expect("written");
        file.sync_all().expect("synced");
        let file = OpenOptions::new().write(true).open(root.join("c")).expect("opened");
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, punch, 40_960, 81_920).expect("punched");
        file.sync_all().expect("synced");
        let file = OpenOptions::new().write(true).open(root.join("d")).expect("opened");
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 204_800, 100_000).expect("reserved");
        file.write_all_at(&incompressible(6, 5000), 201_000).expect("written");
        file.sync_data().expect("synced");
        let file = OpenOptions::new().write(true).open(root.join("e")).expect("opened");
        file.set_len(0).expect("emptied");
        file.write_all_at(b"small now", 0).expect("written");
        file.sync_all().expect("synced");
        fill::clone(&root.join("f"), &root.join("clone"));
        sync_file(&root.join("clone"));
    });
}

#[test]
fn changed_content_with_compression_and_holes() {
    need_mounts!();
    let change = |root: &Path| {
        fs::write(root.join("new"), text(5, 700_000)).expect("written");
        sync_file(&root.join("new"));
        write_at(&root.join("new"), 300_000, &text(6, 5000));
        write_at(&root.join("new"), 900_000, &text(7, 5000));
        sync_file(&root.join("new"));
        let file = OpenOptions::new().write(true).open(root.join("a")).expect("opened");
        file.set_len(1000).expect("cut");
        file.set_len(300_000).expect("grown");
        file.sync_all().expect("synced");
    };
    check_with("zstd", "compress-force=zstd", &[], change);
    check_with("holes", "compress-force=lzo", &["-O", "^no-holes", "--csum", "xxhash"], change);
}

#[test]
fn names() {
    need_mounts!();
    check("renames", |root| {
        fs::rename(root.join("a"), root.join("a-renamed")).expect("renamed");
        sync_file(&root.join("a-renamed"));
        fs::rename(root.join("b"), root.join("other/b-moved")).expect("renamed");
        sync_file(&root.join("other/b-moved"));
        fs::rename(root.join("d"), root.join("e")).expect("replaced");
        sync_file(&root.join("e"));
        fs::rename(root.join("deep/er"), root.join("other/er")).expect("renamed");
        sync_file(&root.join("other/er/file"));
    });
    check("unlinks", |root| {
        fs::remove_file(root.join("a")).expect("removed");
        sync_file(root);
        fs::remove_file(root.join("names/c-too")).expect("removed");
        sync_file(&root.join("c"));
        for number in 0..20 {
            let name = format!("names/{number}-{}", "n".repeat(number % 200));
            fs::remove_file(root.join(name)).expect("removed");
        }
        sync_file(&root.join("names"));
        fs::remove_file(root.join("b")).expect("removed");
        fs::write(root.join("b"), "another one of that name").expect("written");
        sync_file(&root.join("b"));
        fs::remove_dir(root.join("deep/er/still")).expect("removed");
        sync_file(&root.join("deep/er"));
    });
    check("links", |root| {
        fs::hard_link(root.join("a"), root.join("other/a-too")).expect("linked");
        sync_file(&root.join("a"));
        for number in 0..100 {
            let name = format!("other/{number}-{}", "l".repeat(150));
            fs::hard_link(root.join("b"), root.join(name)).expect("linked");
        }
        sync_file(&root.join("b"));
    });
    check("links that go", |root| {
        fs::remove_file(root.join("c")).expect("removed");
        sync_file(&root.join("names/c-too"));
        fs::remove_file(root.join("other/d-too")).expect("removed");
        sync_file(&root.join("other"));
    });
}

#[test]
fn attributes() {
    need_mounts!();
    check("attributes", |root| {
        xattr::set(root.join("a"), "user.new", b"new").expect("set");
        xattr::remove(root.join("a"), "user.old").expect("removed");
        sync_file(&root.join("a"));
        xattr::set(root.join("b"), "user.old", &incompressible(1, 2000)).expect("set");
        sync_file(&root.join("b"));
        xattr::remove(root.join("c"), "user.old").expect("removed");
        sync_file(&root.join("c"));
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o4711);
        fs::set_permissions(root.join("d"), mode).expect("set");
        sync_file(&root.join("d"));
        xattr::set(root.join("names"), "user.of-folder", b"here").expect("set");
        sync_file(&root.join("names"));
    });
}

#[test]
fn subvolumes_each_with_a_log() {
    need_mounts!();
    check("subvolumes", |root| {
        fill::subvolumes(root);
        fill::sync(root);
        for place in ["outer", "outer/folder/inner", "copy"] {
            write_at(&root.join(place).join("file"), 3, b"changed");
            fs::write(root.join(place).join("new"), incompressible(1, 9000)).expect("written");
            sync_file(&root.join(place).join("file"));
            sync_file(&root.join(place).join("new"));
        }
    });
}

/// Everything at random, a third of it synced.
#[test]
fn a_random_life() {
    need_mounts!();
    for seed in 0..if crate::common::is_long() { 60 } else { 4 } {
        check(&format!("seed {seed}"), |root| {
            let mut random = Random::new(1000 + seed);
            for number in 0..60 {
                act(root, number, &mut random);
            }
        });
    }
}

/// One change; those that fail, because a name is taken or gone, do not matter.
fn act(root: &Path, number: u64, random: &mut Random) {
    let mut below = |limit: u64| random.next_u64() % limit;
    let folders = [root.to_owned(), root.join("names"), root.join("other"), root.join("deep/er")];
    let mut name = || {
        let folder = usize::try_from(below(4)).expect("small");
        folders[folder].join(format!("r{}", below(12)))
    };
    let (one, other) = (name(), name());
    match below(12) {
        0 | 1 => drop(fs::write(
            &one,
            incompressible(number, 3000 * usize::try_from(number).expect("small")),
        )),
        2 => {
            if let Ok(file) = OpenOptions::new().write(true).open(&one) {
                let _ = file.write_all_at(&incompressible(number, 10_000), below(100_000));
            }
        }
        3 => drop(fs::rename(&one, &other)),
        4 => drop(fs::remove_file(&one)),
        5 => drop(fs::hard_link(&one, &other)),
        6 => {
            if let Ok(file) = OpenOptions::new().write(true).open(&one) {
                let _ = file.set_len(below(200_000));
            }
        }
        7 => drop(xattr::set(&one, format!("user.{}", below(3)), &number.to_le_bytes())),
        8 => {
            if let Ok(file) = OpenOptions::new().write(true).open(&one) {
                let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
                let keep = punch | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let _ = fallocate(&file, keep, 8192 * number.cast_signed(), 20_000);
            }
        }
        9 => drop(fs::remove_dir(&one)),
        10 => sync_file(one.parent().expect("it has one")),
        _ => drop(fs::create_dir(&one)),
    }
    if below(3) == 0 {
        for path in [&one, &other] {
            if let Ok(file) = File::open(path) {
                file.sync_all().expect("synced");
            }
        }
    }
}

#[test]
fn a_log_that_is_damaged_is_told_of_and_leaves_what_was_committed() {
    need_mounts!();
    let (fixture, _) = crashed("", &[], |root| {
        fs::write(root.join("new"), "synced").expect("written");
        sync_file(&root.join("new"));
    });
    let mut bytes = fs::read(fixture.image()).expect("read");
    // The superblock's `log_root` leads elsewhere; its checksum is made anew.
    for place in [64 << 10, 64 << 20] {
        let block = &mut bytes[place..place + 4096];
        block[0x60..0x68].copy_from_slice(&(30_u64 << 20).to_le_bytes());
        let sum = crc32c(&block[0x20..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
    let filesystem = crate::fixture::open_bytes(bytes).expect("opened");
    let notes = told(filesystem.as_ref());
    assert!(notes.iter().any(|note| note.contains("cannot be replayed")), "{notes:?}");
    assert_eq!(content(filesystem.as_ref(), "a").expect("read"), incompressible(7, 200_000));
    assert!(filesystem.lookup(filesystem.root(), b"new").expect("searched").is_none());
    assert!(filesystem.free_space(&mut |_| panic!("it is not certain")).is_err());
}
