//! Each form that mke2fs can give a filesystem reads as the kernel reads it.

use crate::fill;
use crate::fixture::{Fixture, MIB};
use crate::need_mounts;

fn check(size: u64, arguments: &[&str]) {
    need_mounts!();
    let context = arguments.join(" ");
    let fixture = Fixture::make(size, arguments);
    let truth = fixture.fill(fill::everything);
    fixture.assert_reads_as(&context, &truth);
}

#[test]
fn ext2_with_small_inodes() {
    check(64 * MIB, &["-t", "ext2", "-I", "128"]);
    check(64 * MIB, &["-t", "ext2", "-b", "1024", "-r", "1"]);
}

#[test]
fn ext3_reads_as_mounted() {
    check(64 * MIB, &["-t", "ext3", "-b", "2048"]);
}

#[test]
fn ext4_with_any_block_size() {
    for size in ["1024", "2048", "4096"] {
        check(96 * MIB, &["-t", "ext4", "-b", size]);
    }
}

#[test]
fn ext4_with_clusters() {
    check(128 * MIB, &["-t", "ext4", "-O", "bigalloc", "-C", "65536"]);
    check(128 * MIB, &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"]);
}

#[test]
fn ext4_with_inline_data() {
    check(64 * MIB, &["-t", "ext4", "-O", "inline_data"]);
    check(64 * MIB, &["-t", "ext4", "-O", "inline_data", "-I", "1024"]);
}

#[test]
fn ext4_without_what_makes_it_ext4() {
    check(64 * MIB, &["-t", "ext4", "-O", "^extents,^64bit"]);
    check(64 * MIB, &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"]);
    check(64 * MIB, &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg,^flex_bg,^64bit"]);
}

#[test]
fn ext4_with_scattered_group_descriptors() {
    check(256 * MIB, &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"]);
    check(96 * MIB, &["-t", "ext4", "-b", "1024", "-O", "sparse_super2"]);
}

#[test]
fn ext4_with_attributes_in_inodes() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-t", "ext4", "-O", "ea_inode"]);
    let truth = fixture.fill(|root| fill::attributes(root, 50_000));
    fixture.assert_reads_as("ea_inode", &truth);
}

#[test]
fn what_blkid_says_of_it() {
    need_mounts!();
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    let fixture = Fixture::make(16 * MIB, &["-t", "ext4", "-L", "a label", "-U", id]);
    let filesystem = crate::fixture::open(&fixture.image()).expect("opened");
    let info = filesystem.info();
    assert_eq!((info.kind, info.size), ("ext4", 16 * MIB));
    assert_eq!((info.label.as_deref(), info.uuid.as_deref()), (Some("a label"), Some(id)));
    assert_eq!(info.notes, [""; 0]);
}
