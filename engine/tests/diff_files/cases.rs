//! Cases with a known answer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgx_engine::job::diff_files::VolumeState;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

use crate::fixture::{EXT4, EXT4_INLINE, Fixture, XFS, compare_disks};
use crate::{common, need, operations, truth};

#[test]
fn a_renamed_folder_is_told_once_and_what_changed_in_it_by_its_new_path() {
    need!(&EXT4);
    let fixture = Fixture::new(&EXT4);
    let before = fixture.change(|root| operations::fill(root, 9));
    fixture.capture();
    let after = fixture.change(|root| {
        fs::rename(root.join("many"), root.join("a/lots")).expect("renamed");
        fs::write(root.join("a/lots/file7"), "other").expect("written");
        fs::remove_file(root.join("a/lots/file8")).expect("removed");
        fs::rename(root.join("a/lots/file9"), root.join("nine")).expect("renamed");
        fs::create_dir(root.join("many")).expect("made");
        fs::write(root.join("many/file1"), "new").expect("written");
    });
    fixture.capture();
    let told = fixture.compare();
    // The old name leads to another folder now, which is compared as the path that it is.
    truth::assert_is_difference("renamed", &before, &after, &told.changes);
    let gone = "many";
    fixture.change(|root| fs::remove_dir_all(root.join(gone)).expect("removed"));
    let middle = fixture.change(|root| {
        fs::rename(root.join("a/lots"), root.join("few")).expect("renamed");
        fs::rename(root.join("few/file10"), root.join("few/ten")).expect("renamed");
        fs::write(root.join("few/file11"), "eleven").expect("written");
    });
    fixture.capture();
    let told = fixture.compare();
    truth::assert_is_difference("again", &after, &middle, &told.changes);
    let lines = told.lines();
    let has = |line: &str| lines.iter().any(|one| one == line);
    assert!(has("Renamed /a/lots -> /few []"), "{lines:?}");
    assert!(has("Renamed /a/lots/file10 -> /few/ten []"), "{lines:?}");
    assert!(has("Changed /a/lots/file11 -> /few/file11 [Content, Modified]"), "{lines:?}");
    assert_eq!(lines.len(), 5, "{lines:?}");
}

/// The entries lie within the folder's inode, and its attributes do not.
#[test]
fn a_renamed_entry_of_a_small_folder_is_told_whatever_its_time_says() {
    for kind in [&EXT4_INLINE, &XFS] {
        need!(kind);
        let fixture = Fixture::new(kind);
        fixture.change(|root| {
            operations::fill(root, 5);
            let small = root.join("small");
            fs::create_dir(&small).expect("made");
            fs::write(small.join("one"), "one").expect("written");
            xattr::set(&small, "user.large", &incompressible(1, 800)).expect("set");
        });
        fixture.capture();
        fixture.change(|root| {
            let small = root.join("small");
            let times = operations::times(&small);
            fs::rename(small.join("one"), small.join("two")).expect("renamed");
            File::open(&small).and_then(|folder| folder.set_times(times)).expect("put back");
        });
        fixture.capture();
        let told = fixture.compare();
        assert_eq!(told.lines(), ["Renamed /small/one -> /small/two []"], "{}", kind.name);
    }
}

#[test]
fn a_content_that_only_the_journal_has_yet_is_told() {
    need!(&EXT4);
    let fixture = Fixture::new(&EXT4);
    let content = incompressible(1, 400_000);
    fixture.change(|root| fs::write(root.join("file"), &content).expect("written"));
    fixture.capture();
    {
        let mount = fixture.mount(",data=journal,commit=300");
        let file = File::options().write(true).open(mount.root.join("file")).expect("opened");
        file.write_all_at(b"changed", 200_000).expect("written");
        file.sync_all().expect("synced");
        fs::copy(fixture.disk(), fixture.path("crashed")).expect("copied");
    }
    fs::rename(fixture.path("crashed"), fixture.disk()).expect("moved");
    fixture.capture();
    let told = fixture.compare();
    assert_eq!(told.lost, Vec::<String>::new());
    assert_eq!(told.lines(), ["Changed /file [Content, Modified]"]);
}

#[test]
fn files_of_fat_are_known_by_where_they_start() {
    if !tool::have("mkfs.vfat") || !tool::have("mcopy") {
        println!("skipped: no mkfs.vfat or mcopy");
        return;
    }
    let folder = common::folder_in_memory();
    let [before, after] = ["before", "after"].map(|name| folder.path().join(name));
    mkfs::blank(&before, 16 << 20).expect("made");
    let text = |path: &Path| path.to_str().expect("plain").to_owned();
    tool::run("mkfs.vfat", &["-F", "16", "-i", "1234abcd", &text(&before)]).expect("made");
    let source = folder.path().join("source");
    let put = |disk: &Path, content: &[u8], to: &str| {
        fs::write(&source, content).expect("written");
        tool::run("mcopy", &["-o", "-m", "-i", &text(disk), &text(&source), to]).expect("copied");
    };
    let mtools = |tool: &str, arguments: &[&str]| {
        let disk = text(&after);
        let line = [&["-i", disk.as_str()], arguments].concat();
        tool::run(tool, &line).expect("it runs");
    };
    put(&before, &incompressible(1, 9000), "::moved.bin");
    put(&before, &incompressible(2, 9000), "::changed.bin");
    put(&before, &incompressible(3, 9000), "::gone.bin");
    tool::run("mmd", &["-i", &text(&before), "::folder"]).expect("made");
    put(&before, b"inner", "::folder/inner.txt");
    fs::copy(&before, &after).expect("copied");
    mtools("mren", &["::moved.bin", "a new and longer name.bin"]);
    mtools("mren", &["::folder", "another"]);
    mtools("mdel", &["::gone.bin"]);
    put(&after, &incompressible(4, 7000), "::changed.bin");
    put(&after, b"new", "::new.txt");
    let told = compare_disks([&before, &after]);
    let lines = told.lines();
    let has = |line: &str| lines.iter().any(|one| one == line);
    assert_eq!(told.lost, Vec::<String>::new());
    assert!(has("Renamed /moved.bin -> /a new and longer name.bin []"), "{lines:?}");
    assert!(has("Renamed /folder -> /another []"), "{lines:?}");
    assert!(has("Removed /gone.bin []") && has("Added /new.txt []"), "{lines:?}");
    let changed = lines.iter().filter(|line| line.starts_with("Changed /changed.bin [Content"));
    assert_eq!((changed.count(), lines.len()), (1, 5), "{lines:?}");
    assert_eq!(told.states, [("disk".to_owned(), VolumeState::Compared { sealed: 0 })]);
}
