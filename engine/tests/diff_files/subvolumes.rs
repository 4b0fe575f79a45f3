//! Subvolumes and snapshots of btrfs: folders whose files have the numbers of others.

use std::fs;
use std::path::Path;

use imgx_fixtures::tool;

use crate::fixture::{BTRFS, Fixture, compare_disks};
use crate::{need, operations, truth};

fn btrfs(arguments: &[&str], at: &Path) {
    let at = at.to_str().expect("plain");
    tool::run("btrfs", &[arguments, &[at]].concat()).expect("btrfs runs");
}

fn snapshot(root: &Path, of: &str, to: &str, more: &[&str]) {
    let of = root.join(of);
    let arguments = [&["subvolume", "snapshot"], more, &[of.to_str().expect("plain")]].concat();
    btrfs(&arguments, &root.join(to));
}

#[test]
fn snapshots_are_added_changed_and_removed() {
    need!(&BTRFS);
    if !tool::have("btrfs") {
        println!("skipped: no btrfs");
        return;
    }
    let fixture = Fixture::new(&BTRFS);
    let mut states = vec![fixture.change(|root| {
        for volume in ["work", "gone"] {
            btrfs(&["subvolume", "create"], &root.join(volume));
            operations::fill(&root.join(volume), 21);
        }
        snapshot(root, "work", "first", &["-r"]);
    })];
    fixture.capture();
    let steps: [&dyn Fn(&Path); 3] = [
        // A new snapshot, and the original goes on.
        &|root| {
            snapshot(root, "work", "second", &[]);
            operations::change(&root.join("work"), 22, 25);
            btrfs(&["subvolume", "delete", "--commit-after"], &root.join("gone"));
        },
        // The snapshot goes its own way, and another takes the place of the first.
        &|root| {
            operations::change(&root.join("second"), 23, 25);
            btrfs(&["subvolume", "delete", "--commit-after"], &root.join("first"));
            snapshot(root, "work", "first", &["-r"]);
        },
        &|root| fs::rename(root.join("second"), root.join("work/within")).expect("renamed"),
    ];
    for (number, step) in steps.into_iter().enumerate() {
        fs::copy(fixture.disk(), fixture.path("old")).expect("copied");
        states.push(fixture.change(step));
        fixture.capture();
        let told = fixture.compare();
        let context = format!("step {number}");
        assert_eq!(told.lost, Vec::<String>::new(), "{context}");
        truth::assert_is_difference(&context, &states[number], &states[number + 1], &told.changes);
        let raw = compare_disks([&fixture.path("old"), &fixture.disk()]);
        assert!(raw == told, "{context}: of raw files");
    }
}
