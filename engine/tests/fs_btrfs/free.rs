//! What is said to be free is free: garbage there harms nothing.

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use imgx_engine::base::{ByteRange, ErrorKind, Result};
use imgx_engine::fs::Filesystem;
use imgx_fixtures::pattern::incompressible;

use crate::fill;
use crate::fixture::{Fixture, MIB, btrfs, open_bytes};
use crate::need_mounts;
use crate::sums::{blocks, fix};

fn free_ranges(filesystem: &dyn Filesystem) -> Result<Vec<ByteRange>> {
    let mut ranges = Vec::new();
    filesystem.free_space(&mut |range| {
        ranges.push(range);
        ControlFlow::Continue(())
    })?;
    Ok(ranges)
}

fn contents(root: &std::path::Path) {
    fill::pieces(&crate::basics::folder(root, "pieces"));
    fill::subvolumes(root);
    crate::basics::names(&crate::basics::folder(root, "names"), 900);
    for number in 0..30 {
        let file = root.join(format!("file-{number}"));
        fs::write(&file, incompressible(number, 400_000)).expect("written");
    }
    fill::sync(root);
    for number in (0..30).step_by(2) {
        fs::remove_file(root.join(format!("file-{number}"))).expect("removed");
    }
    fill::sync(root);
}

#[test]
fn garbage_in_free_space_harms_nothing() {
    need_mounts!();
    for arguments in [
        [].as_slice(),
        &["-m", "single", "-d", "dup"],
        &["--mixed"],
        &["-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree"],
        &["-n", "65536", "--csum", "blake2"],
    ] {
        let context = arguments.join(" ");
        let fixture = Fixture::make(240 * MIB, arguments);
        let truth = fixture.fill("compress=zstd", contents);
        let image = fixture.image();
        let ranges = free_ranges(fixture.open().expect("opened").as_ref());
        let ranges = ranges.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(ranges.is_sorted_by(|one, other| one.end < other.start), "{context}: unmerged");
        let free: u64 = ranges.iter().map(ByteRange::len).sum();
        assert!(free > 160 * MIB && free < 239 * MIB, "{context}: {free} bytes");
        let file = OpenOptions::new().write(true).open(&image).expect("opened");
        for range in ranges {
            let garbage = vec![0xa5; usize::try_from(range.len()).expect("small")];
            file.write_all_at(&garbage, range.start).expect("written");
        }
        let text = image.to_str().expect("plain");
        btrfs(&["check", "--check-data-csum", text]);
        fixture.assert_reads_as(&context, &truth);
        // The kernel too, and it can go on writing.
        let after =
            fixture.fill("noatime", |root| fs::write(root.join("more"), "it").expect("written"));
        assert_eq!(after.len(), truth.len() + 1, "{context}");
    }
}

#[test]
fn what_is_not_certain_is_not_said() {
    need_mounts!();
    let fixture = Fixture::make(200 * MIB, &[]);
    fixture.fill("noatime", contents);
    let good = fs::read(fixture.image()).expect("read");
    let refused = |bytes: Vec<u8>| {
        let filesystem = open_bytes(bytes).expect("it can still be read");
        free_ranges(filesystem.as_ref()).expect_err("it is not certain").kind()
    };
    let with = |place: usize, value: &[u8]| {
        let mut bytes = good.clone();
        let start = (64 << 10) + place;
        bytes[start..start + value.len()].copy_from_slice(value);
        fix(&mut bytes, &[(64 << 10, 4096)]);
        bytes
    };
    assert!(free_ranges(open_bytes(good.clone()).expect("opened").as_ref()).is_ok());
    assert_eq!(refused(with(0xb4, &[0x80])), ErrorKind::Unsupported, "an unknown feature");
    assert_eq!(refused(with(0x38, &[4])), ErrorKind::Unsupported, "the error flag");
    assert_eq!(refused(with(0x78, &[1])), ErrorKind::Corrupt, "a wrong sum");
    assert_eq!(refused(good[..150 << 20].to_vec()), ErrorKind::Unsupported, "a short volume");
    // A wrong count in every block group item that can be found.
    let mut bytes = good.clone();
    let nodes = blocks(&bytes, 16 << 10);
    for (place, length) in nodes.iter().copied().filter(|(_, length)| *length > 4096) {
        let block = &mut bytes[place..place + length];
        let count = usize::from(block[0x60]) | usize::from(block[0x61]) << 8;
        let items = if block[0x64] == 0 { count.min(600) } else { 0 };
        for item in 0..items {
            let at = 101 + item * 25;
            if block[at + 8] == 192 {
                let data = usize::from(block[at + 17]) | usize::from(block[at + 18]) << 8;
                block[101 + data] ^= 0x10;
            }
        }
    }
    fix(&mut bytes, &nodes);
    assert_eq!(refused(bytes), ErrorKind::Corrupt, "a wrong count");
}

#[test]
fn an_old_extent_that_nothing_refers_to_any_longer_is_free() {
    need_mounts!();
    let fixture = Fixture::make(400 * MIB, &["-d", "single"]);
    let free = || -> u64 {
        let ranges = free_ranges(fixture.open().expect("opened").as_ref()).expect("certain");
        ranges.iter().map(ByteRange::len).sum()
    };
    let empty = free();
    fixture.fill("noatime", |root| {
        fs::write(root.join("file"), incompressible(1, 50 << 20)).expect("written");
    });
    let full = free();
    fixture.fill("noatime", |root| fs::remove_file(root.join("file")).expect("removed"));
    let again = free();
    assert!(full <= empty - 50 * MIB, "{empty} to {full}");
    assert!(again.abs_diff(empty) < 4 * MIB, "{empty} to {again}");
}
