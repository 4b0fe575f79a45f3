//! A filesystem as a crash leaves it reads as the kernel reads it once it has replayed.

use std::fs::{self, File};
use std::path::Path;

use imgx_engine::base::ErrorKind;
use nix::unistd::syncfs;

use crate::fill;
use crate::fixture::{Fixture, MIB, open};
use crate::need_mounts;
use crate::truth;
use imgx_fixtures::tool;

/// Transaction after transaction: files come, go and come back elsewhere, so that blocks of
/// folders become content and are revoked.
fn churn(root: &Path) {
    let sync = || syncfs(File::open(root).expect("opened")).expect("synced");
    fill::names(&fill::folder(root, "first"), 600);
    fill::attributes(&fill::folder(root, "attributes"), 500);
    sync();
    fs::remove_dir_all(root.join("first")).expect("removed");
    sync();
    fill::contents(&fill::folder(root, "contents"));
    // Content that looks like the journal's own blocks has to be escaped there.
    let magic = [0xc0, 0x3b, 0x39, 0x98].repeat(8 * 1024);
    fs::write(root.join("magic"), &magic).expect("written");
    sync();
    fill::names(&fill::folder(root, "second"), 300);
    fs::remove_file(root.join("contents/large")).expect("removed");
    fs::write(root.join("last"), "the last file").expect("written");
    sync();
}

/// Returns the fixture, and the path of a copy that was taken while it was mounted and dirty.
fn crashed(arguments: &[&str], options: &str) -> Fixture {
    let fixture = Fixture::make(64 * MIB, arguments);
    {
        let mount = fixture.mount(&fixture.image(), options);
        churn(mount.root());
        fs::copy(fixture.image(), fixture.path().join("crashed")).expect("copied");
    }
    fs::copy(fixture.path().join("crashed"), fixture.image()).expect("copied");
    fixture
}

#[test]
fn a_dirty_journal_reads_as_the_kernel_replays_it() {
    need_mounts!();
    for (arguments, options) in [
        (["-t", "ext4"].as_slice(), "noatime"),
        (&["-t", "ext4", "-b", "1024", "-O", "^64bit"], "noatime,data=journal"),
        (&["-t", "ext4", "-O", "^metadata_csum,^64bit"], "noatime,data=journal"),
        (&["-t", "ext4", "-O", "^metadata_csum"], "noatime,journal_checksum"),
        (&["-t", "ext4"], "noatime,data=journal,journal_async_commit"),
        (&["-t", "ext3", "-b", "1024"], "noatime"),
        (&["-t", "ext4", "-J", "size=4", "-b", "1024"], "noatime"),
    ] {
        let context = format!("{} mounted {options}", arguments.join(" "));
        let fixture = crashed(arguments, options);
        let expected =
            truth::of_mount(fixture.mount(&fixture.path().join("crashed"), "noatime").root());
        let filesystem = fixture.assert_reads_as(&context, &expected);
        let notes = &filesystem.info().notes;
        assert!(notes.iter().any(|note| note.contains("was replayed")), "{context}: {notes:?}");
        let free = filesystem.free_space(&mut |_| std::ops::ControlFlow::Continue(()));
        let error = free.expect_err("somebody may be using it");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{context}: {error}");
    }
}

/// Blocks that at least two transactions of the journal have, with the journal's block that holds
/// the newest content of each.
fn logged_twice(image: &Path) -> Vec<(u64, u64)> {
    let image = image.to_str().expect("plain");
    let shown = tool::run("debugfs", &["-R", "logdump -a", image]).expect("debugfs runs");
    let mut seen: std::collections::BTreeMap<u64, Vec<(u64, u64)>> = Default::default();
    let mut transaction = 0;
    for line in shown.lines() {
        let numbers: Vec<u64> = line
            .split(|character: char| !character.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        if line.starts_with("Dumping descriptor block") {
            transaction = numbers[0];
        }
        // `FS block 70 logged at journal block 12 (flags 0x0)`; the kernel itself writes block 1.
        if let (true, [block, place, ..]) = (line.contains("FS block"), numbers.as_slice())
            && *block > 1
        {
            seen.entry(*block).or_default().push((transaction, *place));
        }
    }
    let newest = |(block, places): (u64, Vec<(u64, u64)>)| {
        let sequences: std::collections::BTreeSet<u64> =
            places.iter().map(|(sequence, _)| *sequence).collect();
        let newest = places.iter().max().map(|(_, place)| *place);
        newest.filter(|_| sequences.len() > 1).map(|place| (block, place))
    };
    seen.into_iter().filter_map(newest).collect()
}

#[test]
fn a_damaged_content_in_the_journal_leaves_the_one_before_it_as_the_kernel_does() {
    need_mounts!();
    let fixture = crashed(&["-t", "ext4", "-b", "1024"], "noatime");
    let good = fs::read(fixture.image()).expect("read");
    let twice = logged_twice(&fixture.image());
    assert!(!twice.is_empty(), "no block was logged twice");
    let mut checked = 0;
    for (block, place) in twice.iter().take(3) {
        let image = fixture.image();
        let request = format!("bmap <8> {place}");
        let told = tool::run("debugfs", &["-R", &request, image.to_str().expect("plain")]);
        let at: usize = told.expect("debugfs runs").trim().parse().expect("a block");
        let mut bytes = good.clone();
        bytes[at * 1024 + 700] ^= 0x10;
        fs::write(&image, &bytes).expect("written");
        let filesystem = open(&image).expect("opened");
        let doubts = filesystem.doubts().all();
        let named = format!("content of block {block} ");
        assert!(doubts.iter().any(|doubt| doubt.contains(&named)), "{named}: {doubts:?}");
        assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err());
        let found = truth::of_engine_as_far_as_it_goes(filesystem.as_ref());
        // The kernel refuses to mount it, once it has written what is sound.
        let refused = fixture.try_mount(&image, "noatime");
        assert!(!refused, "the kernel mounts it");
        let mount = fixture.mount(&image, "ro,noload");
        let expected = truth::of_mount_as_far_as_it_goes(mount.root());
        let paths = found.keys().chain(expected.keys());
        let differ: Vec<_> = paths
            .filter(|path| found.get(*path) != expected.get(*path))
            .map(|path| (String::from_utf8_lossy(path), found.get(path), expected.get(path)))
            .collect();
        assert!(differ.is_empty(), "block {block}: {differ:?}");
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn without_a_journal_whose_own_blocks_are_damaged_the_volume_is_shown() {
    need_mounts!();
    let fixture = crashed(&["-t", "ext4", "-b", "1024"], "noatime");
    let good = fs::read(fixture.image()).expect("read");
    let image = fixture.image();
    let told = tool::run("debugfs", &["-R", "bmap <8> 0", image.to_str().expect("plain")]);
    let start: usize = told.expect("debugfs runs").trim().parse().expect("a block");
    // Its superblock: the magic number; the block size; an unknown feature.
    for place in [0, 0xc, 0x28] {
        let mut bytes = good.clone();
        bytes[start * 1024 + place] ^= 0x40;
        fs::write(&image, &bytes).expect("written");
        let filesystem = open(&image).expect("what is on the volume is there");
        let doubts = filesystem.doubts().all();
        assert!(doubts.iter().any(|doubt| doubt.contains("cannot be replayed")), "{doubts:?}");
        assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err());
        let mount = fixture.mount(&image, "ro,noload");
        let expected = truth::of_mount_as_far_as_it_goes(mount.root());
        let found = truth::of_engine_as_far_as_it_goes(filesystem.as_ref());
        assert_eq!(found, expected, "damage at {place:#x}");
    }
}

#[test]
fn without_a_journal_that_is_elsewhere_the_volume_is_shown_and_that_is_told() {
    need_mounts!();
    let fixture = crashed(&["-t", "ext4"], "noatime");
    let image = fixture.image();
    let image = image.to_str().expect("plain");
    imgx_fixtures::tool::run("debugfs", &["-w", "-R", "ssv journal_inum 0", image])
        .expect("debugfs runs");
    let filesystem = open(&fixture.image()).expect("what is on the volume is there");
    let doubts = filesystem.doubts().all();
    assert!(doubts.iter().any(|doubt| doubt.contains("on another device")), "{doubts:?}");
    assert!(doubts.iter().any(|doubt| doubt.contains("may be stale")), "{doubts:?}");
    assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err());
}
