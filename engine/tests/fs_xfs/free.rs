//! What is said to be free is free: garbage there harms nothing.

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use imgx_engine::base::{ByteRange, ErrorKind, Result};
use imgx_engine::fs::Filesystem;
use imgx_fixtures::pattern::incompressible;

use crate::fill;
use crate::fixture::{Fixture, MIB, open, xfs_db};
use crate::need_mounts;

fn free_ranges(filesystem: &dyn Filesystem) -> Result<Vec<ByteRange>> {
    let mut ranges = Vec::new();
    filesystem.free_space(&mut |range| {
        ranges.push(range);
        ControlFlow::Continue(())
    })?;
    Ok(ranges)
}

#[test]
fn garbage_in_free_space_harms_nothing() {
    need_mounts!();
    for arguments in [
        [].as_slice(),
        &["-m", "rmapbt=1,reflink=1"],
        &["-b", "size=1024", "-d", "agcount=7"],
        &["-s", "size=4096", "-m", "finobt=0,reflink=0", "-i", "sparse=0"],
    ] {
        let context = arguments.join(" ");
        let fixture = Fixture::make(180 * MIB, arguments);
        let truth = fixture.fill(|root| {
            fill::contents(&fill::folder(root, "contents"));
            fill::sparse(&fill::folder(root, "sparse"));
            fill::names(&fill::folder(root, "names"), 2000);
            fill::shared(&fill::folder(root, "shared"));
            std::fs::remove_dir_all(root.join("contents/a")).expect("removed");
        });
        let ranges = free_ranges(open(&fixture.image()).expect("opened").as_ref());
        let ranges = ranges.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(ranges.is_sorted_by(|one, other| one.end < other.start), "{context}: unmerged");
        let free: u64 = ranges.iter().map(ByteRange::len).sum();
        let counted =
            xfs_db(&fixture.image(), false, &["sb 0", "print fdblocks", "print blocksize"]);
        let counted = counted.lines().map(|line| {
            let number = line.rsplit(' ').next().expect("printed");
            number.parse::<u64>().expect("a number")
        });
        let counted: u64 = counted.product();
        assert!(free <= counted && free >= counted / 20 * 19, "{context}: {free} of {counted}");
        let file = OpenOptions::new().write(true).open(fixture.image()).expect("opened");
        for (number, range) in (0..).zip(ranges) {
            let length = usize::try_from(range.len()).expect("small");
            file.write_all_at(&incompressible(number, length), range.start).expect("written");
        }
        fixture.assert_clean(&context);
        fixture.assert_reads_as(&context, &truth);
    }
}

#[test]
fn what_is_not_certain_is_not_said() {
    need_mounts!();
    let fixture = Fixture::make(180 * MIB, &[]);
    let refused = |context: &str| {
        let filesystem = open(&fixture.image()).expect("it can still be read");
        let error = free_ranges(filesystem.as_ref()).expect_err(context);
        println!("{context}: {error}");
        error.kind()
    };
    let write = |commands: &[&str]| xfs_db(&fixture.image(), true, commands);
    write(&["sb 0", "write -d fdblocks 77"]);
    assert_eq!(refused("the superblock's count"), ErrorKind::Corrupt);
    let fixture_count = |text: &str| text.trim().rsplit(' ').next().map(str::to_owned);
    let count = fixture_count(&xfs_db(&fixture.image(), false, &["agf 1", "print freeblks"]));
    write(&["agf 1", "write -d freeblks 77"]);
    assert_eq!(refused("a group's count"), ErrorKind::Corrupt);
    write(&["agf 1", &format!("write -d freeblks {}", count.expect("printed"))]);
    write(&["agf 2", "write -d longest 1"]);
    assert_eq!(refused("a group's longest run"), ErrorKind::Corrupt);
    write(&["sb 0", "write -d features_ro_compat 0x8000000f"]);
    assert_eq!(refused("an unknown feature"), ErrorKind::Unsupported);
}
