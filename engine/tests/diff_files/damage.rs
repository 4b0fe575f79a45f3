//! Damaged filesystems: what is the same on both sides is not looked at, and all else is told.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgx_fixtures::tool;

use crate::fixture::{EXT4, Fixture, compare_disks};
use crate::{need, operations};

fn debugfs(disk: &Path, request: &str) -> String {
    tool::run("debugfs", &["-w", "-R", request, disk.to_str().expect("plain")]).expect("it runs")
}

fn block_size(disk: &Path) -> u64 {
    let stats = tool::run("dumpe2fs", &["-h", disk.to_str().expect("plain")]).expect("it runs");
    let line = stats.lines().find(|line| line.starts_with("Block size:")).expect("there");
    line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a number")
}

/// Spoils every block of a folder or file.
fn spoil(disk: &Path, path: &str) {
    let blocks = debugfs(disk, &format!("blocks {path}"));
    let open = File::options().write(true).open(disk).expect("opened");
    let size = block_size(disk);
    for block in blocks.split_whitespace().filter_map(|word| word.parse::<u64>().ok()) {
        open.write_all_at(&[0x55; 64], block * size + 100).expect("written");
    }
}

#[test]
fn what_cannot_be_read_is_lost_and_not_gone() {
    need!(&EXT4);
    let fixture = Fixture::new(&EXT4);
    fixture.change(|root| operations::fill(root, 11));
    fixture.capture();
    fs::copy(fixture.disk(), fixture.path("old")).expect("copied");
    spoil(&fixture.disk(), "/many");
    fixture.capture();
    let told = compare_disks([&fixture.path("old"), &fixture.disk()]);
    assert!(!told.lost.is_empty());
    let gone = told.lines().into_iter().filter(|line| line.starts_with("Removed"));
    assert_eq!(gone.collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(fixture.compare(), told);
}

#[test]
fn what_is_the_same_in_two_images_is_not_looked_at() {
    need!(&EXT4);
    let fixture = Fixture::new(&EXT4);
    fixture.change(|root| operations::fill(root, 12));
    spoil(&fixture.disk(), "/many");
    fixture.capture();
    fs::copy(fixture.disk(), fixture.path("old")).expect("copied");
    debugfs(&fixture.disk(), "set_inode_field /log/old mode 040700");
    fixture.capture();
    let told = fixture.compare();
    assert_eq!((told.lines(), told.lost), (vec!["Changed /log/old [Mode]".to_owned()], vec![]));
    let all = compare_disks([&fixture.path("old"), &fixture.disk()]);
    assert_eq!(all.lines(), ["Changed /log/old [Mode]"]);
    assert!(!all.lost.is_empty(), "the folder is damaged on both");
}

#[test]
fn a_name_that_leads_to_nothing_any_more_is_told() {
    need!(&EXT4);
    let fixture = Fixture::new(&EXT4);
    fixture.change(|root| {
        operations::fill(root, 13);
        fs::write(root.join("a/b/victim"), "here").expect("written");
    });
    fixture.capture();
    fs::copy(fixture.disk(), fixture.path("old")).expect("copied");
    // The inode is free, and its name is still there.
    debugfs(&fixture.disk(), "clri /a/b/victim");
    fixture.capture();
    let told = fixture.compare();
    assert_eq!(told, compare_disks([&fixture.path("old"), &fixture.disk()]));
    assert!(told.lost.iter().any(|line| line.starts_with("/a/b/victim: ")), "{told:?}");
}

#[test]
fn every_name_of_a_file_is_told_however_far_from_it() {
    need!(&EXT4);
    let fixture = Fixture::new(&EXT4);
    fixture.change(|root| {
        operations::fill(root, 14);
        fs::create_dir_all(root.join("x/y")).expect("made");
        fs::write(root.join("x/y/one"), "content").expect("written");
        for far in 0..700 {
            fs::create_dir(root.join(format!("far{far}"))).expect("made");
        }
        fs::hard_link(root.join("x/y/one"), root.join("far650/two")).expect("linked");
        fs::hard_link(root.join("x/y/one"), root.join("a/three")).expect("linked");
    });
    fixture.capture();
    fixture.change(|root| fs::write(root.join("x/y/one"), "CONTENT").expect("written"));
    fixture.capture();
    let told = fixture.compare();
    let lines = ["/a/three", "/far650/two", "/x/y/one"]
        .map(|path| format!("Changed {path} [Content, Modified]"));
    assert_eq!((told.lines(), told.lost), (lines.to_vec(), vec![]));
}
