//! What is said to be free is free: garbage there harms nothing.

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use imgx_engine::base::{ByteRange, ErrorKind, Result};
use imgx_engine::fs::Filesystem;
use imgx_fixtures::tool;

use crate::fill;
use crate::fixture::{Fixture, MIB, open};
use crate::need_mounts;

fn free_ranges(filesystem: &dyn Filesystem) -> Result<Vec<ByteRange>> {
    let mut ranges = Vec::new();
    filesystem.free_space(&mut |range| {
        ranges.push(range);
        ControlFlow::Continue(())
    })?;
    Ok(ranges)
}

/// The free bytes that the superblock counts.
fn counted(image: &str) -> u64 {
    let printed = tool::run("dumpe2fs", &["-h", image]).expect("dumpe2fs runs");
    let field = |name: &str| -> u64 {
        let line = printed.lines().find(|line| line.starts_with(name)).expect("it is printed");
        line[name.len()..].trim().parse().expect("a number")
    };
    field("Free blocks:") * field("Block size:")
}

#[test]
fn garbage_in_free_space_harms_nothing() {
    need_mounts!();
    for arguments in [
        ["-t", "ext2"].as_slice(),
        &["-t", "ext3", "-b", "1024"],
        &["-t", "ext4"],
        &["-t", "ext4", "-b", "1024", "-g", "2048"],
        &["-t", "ext4", "-O", "^metadata_csum,uninit_bg", "-b", "1024"],
        &["-t", "ext4", "-O", "bigalloc", "-C", "65536"],
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"],
        &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,^64bit"],
    ] {
        let context = arguments.join(" ");
        let fixture = Fixture::make(80 * MIB, arguments);
        let truth = fixture.fill(fill::contents);
        let image = fixture.image();
        let ranges = free_ranges(open(&image).expect("opened").as_ref());
        let ranges = ranges.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(ranges.is_sorted_by(|one, other| one.end < other.start), "{context}: unmerged");
        let free: u64 = ranges.iter().map(ByteRange::len).sum();
        let text = image.to_str().expect("plain");
        let most = counted(text);
        assert!(free <= most && free >= most / 10 * 9, "{context}: {free} bytes of {most}");
        let file = OpenOptions::new().write(true).open(&image).expect("opened");
        for range in ranges {
            let garbage = vec![0xa5; usize::try_from(range.len()).expect("small")];
            file.write_all_at(&garbage, range.start).expect("written");
        }
        tool::run("e2fsck", &["-f", "-n", text]).expect("the checker finds nothing");
        fixture.assert_reads_as(&context, &truth);
    }
}

#[test]
fn what_is_not_certain_is_not_said() {
    need_mounts!();
    let fixture = Fixture::make(16 * MIB, &["-t", "ext4", "-b", "1024"]);
    let image = fixture.image();
    let image = image.to_str().expect("plain");
    let debugfs = |request: &str| {
        tool::run("debugfs", &["-w", "-R", request, image]).expect("debugfs runs");
    };
    let refused = || {
        let filesystem = open(&fixture.image()).expect("it can still be read");
        free_ranges(filesystem.as_ref()).expect_err("it is not certain").kind()
    };
    debugfs("ssv state 2");
    assert_eq!(refused(), ErrorKind::Unsupported, "the error flag");
    debugfs("ssv state 1");
    assert!(free_ranges(open(&fixture.image()).expect("opened").as_ref()).is_ok());
    debugfs("freeb 5000");
    debugfs("set_bg 0 free_blocks_count 1");
    debugfs("set_bg 0 checksum calc");
    assert_eq!(refused(), ErrorKind::Corrupt, "a wrong count");
    debugfs("ssv feature_ro_compat 0x80046b");
    assert_eq!(refused(), ErrorKind::Unsupported, "an unknown feature");
}
