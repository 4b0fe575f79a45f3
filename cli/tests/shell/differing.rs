//! What `diff` says is what a comparison of the disks' bytes says.

use std::fs;

use imgx_fixtures::tool;

use crate::support::{Shell, overwrite};

const BLOCK: usize = 131_072;

/// The ranges of whole blocks in which two disks differ, found by reading both.
fn differing(one: &[u8], other: &[u8]) -> Vec<(u64, u64)> {
    let end = one.len().max(other.len());
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for start in (0..end).step_by(BLOCK) {
        let part =
            |disk: &[u8]| disk[start.min(disk.len())..(start + BLOCK).min(disk.len())].to_vec();
        if part(one) == part(other) {
            continue;
        }
        let length = (BLOCK.min(end - start)) as u64;
        match ranges.last_mut() {
            Some((first, so_far)) if *first + *so_far == start as u64 => *so_far += length,
            _ => ranges.push((start as u64, length)),
        }
    }
    ranges
}

fn told(shell: &Shell, line: &str) -> Vec<(u64, u64)> {
    let document = shell.imgx(line).exits(0).document();
    let field = |range: &serde_json::Value, name: &str| range[name].as_u64().expect("a number");
    let ranges = document["ranges"].as_array().expect("a list").iter();
    ranges.map(|range| (field(range, "offset"), field(range, "length"))).collect()
}

#[test]
fn changes_growth_and_shrinking_are_told_as_the_bytes_say() {
    let shell = Shell::with_repository();
    // More than 512 blocks, so that its tree has a level more than the small disks'.
    let sizes = [90_000_001, 90_000_001, 30_000_000, 131_073, 131_072, 1, 70_000_000];
    let mut disks: Vec<Vec<u8>> = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let disk = shell.mixed_disk("disk.raw", size);
        if number == 1 {
            for place in [0, 131_071, 131_072, 40_000_000, 67_108_863, 67_108_864, 90_000_000] {
                overwrite(&disk, place, &[0x5a]);
            }
            overwrite(&disk, 10_000_000, &vec![0; 3_000_000]);
        }
        disks.push(fs::read(&disk).expect("the disk can be read"));
        shell.imgx("capture disk.raw --name d").exits(0);
    }
    let last = sizes.len() - 1;
    for before in 0..=last {
        for after in 0..=last {
            let line = format!("diff d~{} d~{} --json", last - before, last - after);
            let expected = differing(&disks[before], &disks[after]);
            assert_eq!(told(&shell, &line), expected, "sizes {before} and {after}");
        }
    }
    assert!(!differing(&disks[0], &disks[1]).is_empty());
    shell.imgx("diff d d").exits(0).shows(&["no difference"]);
    shell.imgx("diff d~6 d~5").exits(0).shows(&["0 262144", "differ"]);
}

#[test]
fn what_is_no_image_is_refused() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 1_000_000);
    shell.imgx("capture disk.raw").exits(0);
    shell.imgx("diff disk.raw ./disk.raw").exits(2).complains(&["capture it"]);
    shell.imgx("diff disk.raw nothing").exits(1).complains(&["nothing"]);
}

#[test]
fn files_that_differ_are_listed_for_people_and_programs() {
    if !["mke2fs", "debugfs"].into_iter().all(tool::have) {
        println!("skipped: no mke2fs or debugfs");
        return;
    }
    let shell = Shell::with_repository();
    let tree = shell.path("tree");
    fs::create_dir_all(tree.join("folder")).expect("made");
    for name in ["changed", "gone", "folder/kept", "strange\u{1b}[31m"] {
        fs::write(tree.join(name), format!("content of {name}")).expect("written");
    }
    let disk = shell.path("disk.raw");
    let (disk, tree) = (disk.to_str().expect("plain"), tree.to_str().expect("plain"));
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", tree, disk, "8M"]).expect("made");
    shell.imgx("capture disk.raw --name d").exits(0);
    shell.imgx("diff --files d d").exits(0).shows(&["disk: no block differs"]);
    fs::copy(disk, shell.path("old.raw")).expect("copied");
    for change in ["rm gone", "sif changed mode 0100600", "rm strange\u{1b}[31m"] {
        tool::run("debugfs", &["-w", "-R", change, disk]).expect("changed");
    }
    shell.imgx("capture disk.raw --name d").exits(0);
    let lines = ["D  disk:/gone", "M  disk:/changed (mode)", "D  disk:/strange\\u{1b}[31m"];
    shell.imgx("diff --files d~1 d").exits(0).shows(&lines).shows(&["2 removed, 1 changed"]);
    shell.imgx("diff --files ./old.raw ./disk.raw").exits(0).shows(&lines);
    shell.imgx("diff --files ./old.raw d").exits(0).shows(&lines);
    shell.imgx("diff --files d ./disk.raw").exits(0).shows(&["no file differs"]);
    let said = shell.imgx("diff --files d~1 d --json").exits(0).events();
    let find = |path: &str| said.iter().find(|line| line["path"] == path).expect("it is there");
    assert_eq!(find("/gone")["change"], "removed");
    assert_eq!(find("/gone")["before"]["size"], 15);
    assert_eq!(find("/changed")["what"], serde_json::json!(["mode"]));
    let volume = said.last().expect("a volume");
    assert_eq!((&volume["state"], &volume["removed"]), (&"compared".into(), &2.into()));
}
