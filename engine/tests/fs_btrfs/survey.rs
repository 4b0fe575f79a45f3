//! A survey of the leaves shows all that reading every file needs, of every subvolume.

use std::collections::HashSet;

use imgx_engine::fs::Part;

use crate::fill;
use crate::fixture::{Fixture, MIB, btrfs, volume};
use crate::need_mounts;
use crate::surveyed::{assert_shows_all, shown};
use crate::truth::{assert_same, of_engine};

#[test]
fn a_survey_shows_all_that_reading_every_file_needs() {
    need_mounts!();
    for arguments in [
        [].as_slice(),
        &["-m", "single", "-d", "dup"],
        &["--mixed"],
        &["-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree"],
        &["-n", "65536", "--csum", "blake2"],
    ] {
        let context = arguments.join(" ");
        let fixture = Fixture::make(300 * MIB, arguments);
        let truth = fixture.fill("compress=zstd", fill::everything);
        assert_shows_all(&context, &volume(&fixture.image()), |filesystem| {
            assert_same(&context, &of_engine(filesystem), &truth);
        });
    }
}

/// What several subvolumes have in common is shown once, and as no single file's.
#[test]
fn what_snapshots_have_in_common_is_shown_once() {
    need_mounts!();
    let fixture = Fixture::make(300 * MIB, &[]);
    let files = |root: &std::path::Path| {
        crate::basics::names(&crate::basics::folder(root, "names"), 2000);
        for number in 0..300 {
            std::fs::write(root.join(format!("file-{number}")), vec![7; 9000]).expect("written");
        }
        fill::sync(root);
    };
    fixture.fill("noatime", files);
    let count = || {
        let filesystem = fixture.open().expect("opened");
        let shown = shown(filesystem.as_ref()).expect("sound").expect("shown");
        let is_content = |part: &Part| matches!(part, Part::Content(_));
        let nodes = shown.iter().filter(|(_, part)| !is_content(part)).count();
        let contents = shown.iter().filter(|(_, part)| is_content(part));
        let owned = contents.clone().filter(|(file, _)| file.is_some()).count();
        (nodes, contents.count(), owned)
    };
    let (nodes, contents, owned) = count();
    assert_eq!((contents, owned), (300, 300));
    fixture.fill("noatime", |root| {
        for number in 0..20 {
            let snapshot = root.join(format!("snapshot-{number}"));
            btrfs(&[
                "-q",
                "subvolume",
                "snapshot",
                root.to_str().expect("plain"),
                snapshot.to_str().expect("plain"),
            ]);
        }
        std::fs::write(root.join("file-7"), vec![8; 9000]).expect("written");
        fill::sync(root);
    });
    let (more_nodes, more_contents, still_owned) = count();
    // A few nodes are some subvolume's own; the new file's content and that of its leaf's others.
    println!("{nodes} nodes, {more_nodes} with snapshots; {more_contents} contents");
    assert!(more_nodes < nodes * 2 + 20 * 6, "{nodes} nodes, {more_nodes} with snapshots");
    assert!((301..700).contains(&more_contents) && still_owned < 301, "{more_contents} contents");
    let filesystem = fixture.open().expect("opened");
    let shown = shown(filesystem.as_ref()).expect("sound").expect("shown");
    let trees: HashSet<u64> =
        shown.iter().filter_map(|(file, _)| file.map(|file| file.tree)).collect();
    assert!(trees.contains(&5), "{trees:?}");
}
