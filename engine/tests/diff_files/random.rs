//! Operations by chance, and the listing that has to be their effect.

use crate::fixture::{
    BTRFS, BTRFS_PACKED, EXT4, EXT4_INLINE, Fixture, Kind, NTFS, NTFS_SMALL_CLUSTERS, XFS,
    XFS_SMALL, compare_disks, report,
};
use crate::{common, need, operations, streams_by_chance, truth};
use imgx_engine::base::Silent;
use imgx_engine::block::Disk;
use imgx_engine::job::{DiffFiles, FileDisk};

fn check(kind: &'static Kind, seed: u64) {
    need!(kind);
    let rounds = if common::is_long() { 20 } else { 3 };
    let fixture = Fixture::new(kind);
    let mut before = fixture.change(|root| {
        operations::fill(root, seed);
        if kind.is_ntfs() {
            streams_by_chance::fill(root, seed);
        }
    });
    fixture.capture();
    for round in 0..rounds {
        let context = format!("{} seed {seed} round {round}", kind.name);
        std::fs::copy(fixture.disk(), fixture.path("old")).expect("copied");
        let many = if round == 0 { 4 } else { 40 };
        let seed = seed * 100 + round;
        let after = fixture.change(|root| {
            operations::change(root, seed, many);
            if kind.is_ntfs() {
                streams_by_chance::change(root, seed, many / 2);
            }
        });
        fixture.capture();
        let told = fixture.compare();
        assert!(told.lost.is_empty(), "{context}: {:?}", told.lost);
        truth::assert_is_difference(&context, &before, &after, &told.changes);
        let old = fixture.path("old");
        let raw = compare_disks([&old, &fixture.disk()]);
        assert_eq!(raw, told, "{context}: of raw files");
        before = after;
    }
    // An image beside a disk.
    let image = fixture.repository.resolve("d", &Silent).expect("there");
    let image = FileDisk::of_image(fixture.repository.reader(&image)).expect("opened");
    let disk = Disk::open_to_browse(&fixture.disk()).and_then(FileDisk::of_disk).expect("opened");
    let told = report(Ok(DiffFiles::of_disks([image, disk])));
    assert_eq!((told.lines(), told.lost), (vec![], vec![]));
}

#[test]
fn listings_of_ext4_are_what_was_done() {
    check(&EXT4, 1);
    check(&EXT4_INLINE, 2);
}

#[test]
fn listings_of_xfs_are_what_was_done() {
    check(&XFS, 3);
    check(&XFS_SMALL, 6);
}

#[test]
fn listings_of_btrfs_are_what_was_done() {
    check(&BTRFS, 4);
    check(&BTRFS_PACKED, 5);
}

#[test]
fn listings_of_ntfs_are_what_was_done() {
    check(&NTFS, 6);
    check(&NTFS_SMALL_CLUSTERS, 7);
}
