//! Copies of the superblock stand in for a damaged first one, wherever mke2fs puts them.

use std::fs;

use imgx_engine::base::ErrorKind;

use crate::everything::told;
use crate::fill;
use crate::fixture::{Fixture, MIB, open_bytes};
use crate::need_mounts;
use crate::truth;

#[test]
fn copies_are_found_wherever_groups_start() {
    need_mounts!();
    let forms: [&[&str]; 8] = [
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "1024", "-g", "1016"],
        &["-t", "ext4", "-b", "2048", "-g", "4008"],
        &["-t", "ext4", "-g", "2056"],
        &["-t", "ext2", "-b", "1024", "-g", "256"],
        &["-t", "ext4", "-b", "1024", "-O", "sparse_super2"],
        &["-t", "ext4", "-b", "1024", "-g", "1432", "-O", "sparse_super2"],
        &["-t", "ext4", "-b", "1024", "-O", "sparse_super2", "-E", "num_backup_sb=1"],
    ];
    for arguments in forms {
        let context = arguments.join(" ");
        let fixture = Fixture::make(64 * MIB, arguments);
        let expected = fixture.fill(|root| {
            fill::contents(&fill::folder(root, "contents"));
            fill::names(&fill::folder(root, "names"), 100);
        });
        let good = fs::read(fixture.image()).expect("read");
        // A wrong field or checksum, and nothing left at all.
        for damage in [1024..1048, 1024..2048] {
            let mut bytes = good.clone();
            bytes[damage].fill(0);
            let filesystem = open_bytes(bytes).unwrap_or_else(|error| panic!("{context}: {error}"));
            let notes = told(filesystem.as_ref()).join(" ");
            assert!(notes.contains("the copy in block"), "{context}: {notes}");
            let found = truth::of_engine(filesystem.as_ref());
            truth::assert_same(&context, &found, &expected);
        }
    }
}

#[test]
fn copies_of_different_filesystems_are_not_chosen_from() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-t", "ext4", "-b", "1024"]);
    let mut bytes = fs::read(fixture.image()).expect("read");
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    let other = Fixture::make(64 * MIB, &["-t", "ext4", "-b", "1024", "-U", id]);
    // The second group's copy and its descriptors are of another one that was here before.
    let start = 8193 * 1024;
    let older = fs::read(other.image()).expect("read");
    bytes[start..start + 1024].copy_from_slice(&older[start..start + 1024]);
    let mut damaged = bytes.clone();
    damaged[1024..1048].fill(0);
    let filesystem = open_bytes(damaged).expect("the identity that is left decides");
    assert_ne!(filesystem.info().uuid.as_deref(), Some(id));
    bytes[1024..2048].fill(0);
    let error = open_bytes(bytes).err().expect("nothing decides");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
