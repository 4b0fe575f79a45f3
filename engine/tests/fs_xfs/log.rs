//! A filesystem as a crash leaves it reads as the kernel reads it once it has replayed.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use imgx_fixtures::pattern::{Random, incompressible};
use imgx_fixtures::tool;
use nix::unistd::syncfs;

use crate::common::is_long;
use crate::everything::told;
use crate::fill;
use crate::fixture::{Fixture, MIB, of_mount, open, xfs_db};
use crate::need_mounts;
use crate::truth;

/// What a record of the log starts with.
const MAGIC: [u8; 4] = [0xfe, 0xed, 0xba, 0xbe];

fn sync(root: &Path) {
    syncfs(File::open(root).expect("opened")).expect("synced");
}

/// Transaction after transaction: files come, go and come back elsewhere, so that blocks of
/// folders become content, and what was logged of them is void.
fn churn(root: &Path) {
    fill::names(&fill::folder(root, "first"), 900);
    fill::attributes(&fill::folder(root, "attributes"), 5000);
    fill::many_attributes(&fill::folder(root, "more"));
    sync(root);
    fs::remove_dir_all(root.join("first")).expect("removed");
    fs::remove_file(root.join("more/many")).expect("removed");
    sync(root);
    fill::contents(&fill::folder(root, "contents"));
    fill::sparse(&fill::folder(root, "sparse"));
    fill::links(&fill::folder(root, "links"));
    fill::nodes(&fill::folder(root, "nodes"));
    fill::shared(&fill::folder(root, "shared"));
    // Content that looks like a record of the log.
    fs::write(root.join("magic"), MAGIC.repeat(8192)).expect("written");
    sync(root);
    fill::names(&fill::folder(root, "second"), 2500);
    fs::remove_file(root.join("contents/large")).expect("removed");
    fs::rename(root.join("links"), root.join("second/links")).expect("moved");
    fs::write(root.join("last"), "the last file").expect("written");
    sync(root);
}

/// Ends a filesystem's life as a power cut does: with what the log has, or, unless `flush`, what
/// of that was written.
fn cut(root: &Path, flush: bool) {
    let command = if flush { "shutdown -f" } else { "shutdown" };
    tool::run("xfs_io", &["-x", "-c", command, root.to_str().expect("plain")]).expect("shut down");
}

/// A filesystem that `use_it` was cut short in, with a copy beside it.
fn crashed(size: u64, arguments: &[&str], options: &str, use_it: impl FnOnce(&Path)) -> Fixture {
    let fixture = Fixture::make(size, arguments);
    {
        let mount = fixture.mount(&fixture.image(), options);
        use_it(mount.root());
    }
    fs::copy(fixture.image(), fixture.path().join("copy")).expect("copied");
    fixture
}

fn assert_reads_as_replayed(context: &str, fixture: &Fixture) {
    let expected = of_mount(fixture.mount(&fixture.path().join("copy"), "noatime").root());
    let filesystem = fixture.assert_reads_as(context, &expected);
    let notes = told(filesystem.as_ref());
    println!("{context}: {notes:?}");
    assert!(notes.iter().any(|note| note.contains("was replayed")), "{context}: {notes:?}");
    // What is free then is free for the kernel too, which has yet to replay.
    let file = File::options().write(true).open(fixture.image()).expect("opened");
    let mut free = 0;
    let told = filesystem.free_space(&mut |range| {
        free += range.len();
        let length = usize::try_from(range.len()).expect("small");
        file.write_all_at(&vec![0xa5; length], range.start).expect("written");
        ControlFlow::Continue(())
    });
    told.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(free > 10 * MIB, "{context}: {free} bytes are free");
    let found = of_mount(fixture.mount(&fixture.image(), "noatime").root());
    truth::assert_same(context, &found, &expected);
    fixture.assert_clean(context);
}

#[test]
fn a_dirty_log_reads_as_the_kernel_replays_it() {
    need_mounts!();
    for (size, arguments, options) in [
        (300 * MIB, [].as_slice(), "noatime"),
        (300 * MIB, &["-m", "rmapbt=1,reflink=1", "-i", "nrext64=1"], "noatime,logbsize=256k"),
        (300 * MIB, &["-b", "size=1024", "-n", "size=8192", "-l", "su=32k"], "noatime"),
        (300 * MIB, &["-m", "bigtime=0,finobt=0", "-i", "size=1024,sparse=0"], "noatime"),
        (300 * MIB, &["-s", "size=4096", "-b", "size=16384"], "noatime"),
    ] {
        let context = format!("{} mounted {options}", arguments.join(" "));
        let fixture = crashed(size, arguments, options, |root| {
            churn(root);
            cut(root, true);
        });
        assert_reads_as_replayed(&context, &fixture);
    }
}

/// A log that is turned over many times, and cut where it happens to be.
#[test]
fn a_log_that_went_round_is_found_its_end_in() {
    need_mounts!();
    for round in 0..if is_long() { 4 } else { 2_u64 } {
        let fixture = crashed(128 * MIB, &["-b", "size=1024"], "noatime", |root| {
            for turn in 0..14 + 3 * round {
                let folder = fill::folder(root, &format!("turn-{turn}"));
                fill::names(&folder, 1500 + usize::try_from(round).expect("small") * 333);
                sync(root);
                if turn % 2 == 1 {
                    fs::remove_dir_all(&folder).expect("removed");
                }
            }
            fs::write(root.join("content"), incompressible(round, 100_000)).expect("written");
            if round % 2 == 0 {
                sync(root);
            }
            cut(root, false);
        });
        let bytes = fs::read(fixture.image()).expect("read");
        let start = log_start(&fixture);
        let at = if bytes[start..].starts_with(&MAGIC) { start + 4 } else { start };
        assert!(bytes[at + 3] > 1, "the log went round {} times", bytes[at + 3]);
        assert_reads_as_replayed(&format!("round {round}"), &fixture);
    }
}

/// Whatever comes to mind, over and over, and cut anywhere.
#[test]
fn a_log_of_all_sorts_reads_as_the_kernel_replays_it() {
    need_mounts!();
    let rounds = if is_long() { 60 } else { 3 };
    for round in 0..rounds {
        let arguments: &[&str] = match round % 3 {
            0 => &["-b", "size=1024", "-m", "rmapbt=1"],
            1 => &["-n", "size=16384", "-i", "nrext64=1"],
            _ => &["-b", "size=2048", "-i", "size=1024", "-m", "reflink=0"],
        };
        let fixture = crashed(128 * MIB, arguments, "noatime", |root| {
            let mut random = Random::new(round);
            let turns = 300 + random.next_u64() % 1500;
            for _ in 0..turns {
                anything(root, &mut random);
            }
            cut(root, round % 2 == 0);
        });
        let expected = of_mount(fixture.mount(&fixture.path().join("copy"), "noatime").root());
        let filesystem = open(&fixture.image()).expect("opened");
        let context = format!("round {round}: {:?}", filesystem.info().notes);
        println!("{context}, {} files", expected.len());
        if !expected.is_empty() {
            fixture.assert_reads_as(&context, &expected);
        }
    }
}

/// One of many things to do to one of a few files.
fn anything(root: &Path, random: &mut Random) {
    let mut pick = |most: u64| random.next_u64() % most;
    let small = |number: u64| usize::try_from(number).expect("small");
    let folder = root.join(format!("folder-{}", pick(4)));
    // What cannot be done is not done.
    let _ = fs::create_dir(&folder);
    let path = folder.join(format!("{}-{}", "n".repeat(small(pick(7) * 20)), pick(60)));
    let other = root.join(format!("folder-{}/{}", pick(4), pick(100)));
    let scale = pick(14);
    let size = small(pick(8 << scale));
    let place = pick(1 << 18);
    match pick(14) {
        0..3 => drop(fs::write(&path, incompressible(place, size))),
        3 | 4 => {
            if let Ok(file) = File::options().create(true).truncate(false).write(true).open(&path) {
                let _ = file.write_all_at(&incompressible(place, size), place);
            }
        }
        5 => drop(fs::remove_file(&path)),
        6 => drop(fs::rename(&path, &other)),
        7 => drop(fs::hard_link(&path, &other)),
        8 => drop(symlink("t".repeat(size % 1000 + 1), &path)),
        9 => drop(xattr::set(&path, format!("user.{}", pick(40)), &incompressible(1, size % 3000))),
        10 => drop(xattr::remove(&path, format!("user.{}", pick(40)))),
        11 => {
            if let Ok(file) = File::options().write(true).open(&path) {
                let _ = file.set_len(place);
            }
        }
        12 if pick(12) == 0 => drop(fs::remove_dir_all(&folder)),
        12 => {
            if let Ok(file) = File::open(&path) {
                let _ = file.sync_all();
            }
        }
        _ if pick(10) == 0 => sync(root),
        _ => fill_with_names(&folder, pick(30)),
    }
}

fn fill_with_names(folder: &Path, count: u64) {
    for number in 0..count {
        let _ = File::create(folder.join(format!("name-{number}")));
    }
}

/// A filesystem that is frozen, as one is for a snapshot, has a log with hardly anything in it.
#[test]
fn a_frozen_filesystem_reads_as_it_is() {
    need_mounts!();
    let fixture = Fixture::make(300 * MIB, &[]);
    let expected = {
        let mount = fixture.mount(&fixture.image(), "noatime");
        churn(mount.root());
        let root = mount.root().to_str().expect("plain").to_owned();
        tool::run("xfs_freeze", &["-f", &root]).expect("frozen");
        let copied = fs::copy(fixture.image(), fixture.path().join("copy"));
        tool::run("xfs_freeze", &["-u", &root]).expect("thawed");
        copied.expect("copied");
        of_mount(mount.root())
    };
    fs::rename(fixture.path().join("copy"), fixture.image()).expect("moved");
    let filesystem = fixture.assert_reads_as("frozen", &expected);
    println!("{:?}", filesystem.info().notes);
    filesystem.free_space(&mut |_| ControlFlow::Continue(())).expect("certain");
}

/// Files that were removed while they were open are no more, but still have their blocks.
#[test]
fn open_files_without_a_name_are_not_free_space() {
    need_mounts!();
    let fixture = crashed(300 * MIB, &[], "noatime", |root| {
        let path = root.join("gone");
        fs::write(&path, incompressible(3, 3 << 20)).expect("written");
        sync(root);
        let file = File::open(&path).expect("opened");
        fs::remove_file(&path).expect("removed");
        fs::write(root.join("left"), "left").expect("written");
        sync(root);
        cut(root, true);
        drop(file);
    });
    assert_reads_as_replayed("open", &fixture);
}

/// The byte at which the log starts.
fn log_start(fixture: &Fixture) -> usize {
    let number = xfs_db(&fixture.image(), false, &["sb 0", "print logstart"]);
    let number = number.trim().rsplit(' ').next().expect("printed").to_owned();
    let text = xfs_db(&fixture.image(), false, &[&format!("convert fsblock {number} byte")]);
    let start = text.split('(').nth(1).and_then(|rest| rest.split(')').next()).expect("printed");
    start.parse().expect("a number")
}

#[test]
fn a_damaged_record_is_told_of() {
    need_mounts!();
    let fixture = crashed(300 * MIB, &[], "noatime", |root| {
        churn(root);
        cut(root, true);
    });
    let mut bytes = fs::read(fixture.image()).expect("read");
    let start = log_start(&fixture);
    // The second of the records: those at the end could be what was in flight.
    let is_record = |at: &usize| bytes[*at..*at + 4] == MAGIC;
    let records: Vec<usize> = (start..start + (8 << 20)).step_by(512).filter(is_record).collect();
    assert!(records.len() > 12, "{} records", records.len());
    bytes[records[2] + 700] ^= 1;
    fs::write(fixture.image(), bytes).expect("written");
    let filesystem = open(&fixture.image()).expect("opened");
    let notes = told(filesystem.as_ref());
    assert!(notes.iter().any(|note| note.contains("log is damaged")), "{notes:?}");
    let free = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
    assert!(free.is_err(), "free space is not certain");
    assert!(filesystem.numbered().is_none(), "nor is what is in use");
}
