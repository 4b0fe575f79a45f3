//! Disks with several volumes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use imgx_engine::base::{BlockSize, Silent};
use imgx_engine::job::diff_files::VolumeState;
use imgx_engine::store::Repository;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

use crate::common::{capture, folder_in_memory};
use crate::fixture::{compare_disks, compare_images};

const MIB: u64 = 1 << 20;

#[test]
fn volumes_are_same_added_removed_or_told_by_their_bytes() {
    if !["sfdisk", "mke2fs", "debugfs"].into_iter().all(tool::have) {
        println!("skipped: no sfdisk, mke2fs or debugfs");
        return;
    }
    let folder = folder_in_memory();
    let repository =
        Repository::create(&folder.path().join("repo"), BlockSize::DEFAULT).expect("made");
    let [before, after] = ["before", "after"].map(|name| folder.path().join(name));
    mkfs::blank(&before, 64 * MIB).expect("made");
    let script = "label: gpt\nstart=2048, size=32768\nstart=34816, size=32768\n\
                  start=67584, size=16384\n";
    mkfs::sfdisk(&before, script).expect("partitioned");
    let path = before.to_str().expect("plain");
    for (offset, size) in [("offset=1048576", "16M"), ("offset=17825792", "16M")] {
        tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", offset, path, size]).expect("made");
    }
    let open = File::options().write(true).open(&before).expect("opened");
    // Nothing that anybody knows.
    open.write_all_at(&incompressible(1, 8 << 20), 33 * MIB).expect("written");
    capture(&repository, &before, "d", &Silent).expect("captured");

    fs::copy(&before, &after).expect("copied");
    let open = File::options().write(true).open(&after).expect("opened");
    open.write_all_at(b"overwritten", 36 * MIB).expect("written");
    let content = folder.path().join("content");
    fs::write(&content, "new").expect("written");
    let write = format!("write {} new", content.display());
    let volume = format!("{}?offset=17825792", after.display());
    tool::run("debugfs", &["-w", "-R", &write, &volume]).expect("written");
    capture(&repository, &after, "d", &Silent).expect("captured");

    let told = compare_images(&repository);
    let state = |name: &str, state| (name.to_owned(), state);
    assert_eq!(told.lost, Vec::<String>::new());
    assert_eq!(
        told.states,
        [
            state("p1", VolumeState::Same),
            state("p2", VolumeState::Compared { sealed: 0 }),
            state("p3", VolumeState::Unread { changed: Some(128 << 10) }),
        ]
    );
    assert!(told.lines().contains(&"Added /new []".to_owned()), "{:?}", told.lines());
    let raw = compare_disks([&before, &after]);
    assert_eq!(raw.changes, told.changes);
    assert_eq!(raw.states[0], state("p1", VolumeState::Compared { sealed: 0 }));
    assert_eq!(raw.states[2], told.states[2]);

    let script = "label: gpt\nstart=2048, size=32768\nstart=100352, size=16384\n";
    mkfs::sfdisk(&after, script).expect("partitioned");
    let raw = compare_disks([&before, &after]);
    let gone: Vec<_> = raw.states.iter().map(|(name, state)| (name.as_str(), state)).collect();
    assert!(gone.contains(&("p3", &VolumeState::Removed)), "{gone:?}");
    assert_eq!(gone[0], ("p1", &VolumeState::Compared { sealed: 0 }));
}
