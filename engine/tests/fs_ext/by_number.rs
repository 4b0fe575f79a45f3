//! Files by their numbers, in each form of the filesystem.

use std::fs;
use std::path::Path;

use imgx_engine::base::ByteRange;
use imgx_fixtures::tool;

use crate::fixture::{Fixture, MIB, open_bytes};
use crate::numbered::{
    State, assert_reads_are_parts, assert_same_parts_are_same_files, assert_shows, of_mount,
};
use crate::{fill, need_mounts, operations};

const FORMS: [&[&str]; 7] = [
    &["-t", "ext2", "-b", "1024", "-r", "1"],
    &["-t", "ext3", "-b", "2048"],
    &["-t", "ext4", "-b", "1024", "-I", "256"],
    &["-t", "ext4", "-I", "256", "-O", "inline_data,ea_inode"],
    &["-t", "ext4", "-I", "256", "-O", "bigalloc,orphan_file", "-C", "65536"],
    &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg,^flex_bg,^64bit"],
    &["-t", "ext4", "-b", "1024", "-I", "256", "-O", "meta_bg,^resize_inode", "-g", "1024"],
];

#[test]
fn each_file_is_shown_by_its_number_and_is_what_its_parts_are() {
    need_mounts!();
    for (form, seed) in FORMS.into_iter().zip(1..) {
        let context = form.join(" ");
        let fixture = Fixture::make(96 * MIB, form);
        let states = [0, 1, 2].map(|round| {
            let mount = fixture.mount(&fixture.image(), "noatime");
            match round {
                0 => fill(mount.root(), context.contains("ea_inode")),
                _ => operations::change(mount.root(), seed * 10 + round, 40),
            }
            drop(mount);
            let mount = fixture.mount(&fixture.image(), "ro");
            let seen = of_mount(mount.root());
            drop(mount);
            let bytes = fs::read(fixture.image()).expect("read");
            (open_bytes(bytes.clone()).expect("opened"), bytes, seen)
        });
        let states = states.each_ref().map(|(filesystem, bytes, mount)| State {
            filesystem: filesystem.as_ref(),
            bytes,
            mount,
        });
        for (round, state) in states.iter().enumerate() {
            let context = format!("{context}, round {round}");
            assert_shows(&context, state.filesystem, state.mount);
        }
        let last = &states[2];
        let unit = u64::from(last.filesystem.info().block_size);
        let shared = descriptors(&fixture.image(), unit);
        assert_reads_are_parts(&context, last.bytes.to_vec(), unit, &shared);
        for pair in [[0, 1], [1, 2], [0, 2]] {
            assert_same_parts_are_same_files(&context, pair.map(|state| &states[state]));
        }
    }
}

fn fill(root: &Path, with_large_attributes: bool) {
    fill::everything(root);
    if with_large_attributes {
        fill::attributes(&fill::folder(root, "large attributes"), 50_000);
    }
}

/// Where the group descriptors are.
fn descriptors(image: &Path, block_size: u64) -> Vec<ByteRange> {
    let listed = tool::run("dumpe2fs", &[image.to_str().expect("plain")]).expect("dumpe2fs runs");
    let words = listed.lines().flat_map(|line| line.split(", ").map(str::trim));
    let places = words.filter_map(|words| {
        let place = words
            .strip_prefix("Group descriptors at ")
            .or_else(|| words.strip_prefix("Group descriptor at "))?;
        let (first, last) = place.split_once('-').unwrap_or((place, place));
        let block = |text: &str| text.parse::<u64>().expect("a block's number");
        Some(ByteRange { start: block(first) * block_size, end: (block(last) + 1) * block_size })
    });
    places.collect()
}
