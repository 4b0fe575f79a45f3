//! Free space: whatever lies there, the volume is the same; and nothing is free in doubt.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use imgx_engine::base::{ByteRange, ErrorKind};
use imgx_fixtures::tool;

use crate::everything::told;
use crate::fixture::{Fixture, MIB, contents, many, noise, open};
use crate::need_ntfs_3g;

fn free(fixture: &Fixture) -> Vec<ByteRange> {
    let filesystem = open(&fixture.image()).expect("opened");
    let mut ranges: Vec<ByteRange> = Vec::new();
    let result = filesystem.free_space(&mut |range| {
        assert!(ranges.last().is_none_or(|last| last.end < range.start), "ascending and apart");
        ranges.push(range);
        ControlFlow::Continue(())
    });
    result.expect("it is certain what is free");
    ranges
}

#[test]
fn noise_in_free_space_changes_nothing() {
    need_ntfs_3g!();
    if !tool::have("ntfsinfo") || !tool::have("ntfsfix") {
        println!("skipped: no ntfsinfo or ntfsfix");
        return;
    }
    for (cluster_size, size) in [(512, 48), (4096, 48), (65_536, 96)] {
        let fixture = Fixture::make(size * MIB, cluster_size);
        let truth = fixture.fill("", |root| {
            contents(root);
            many(&root.join("many"), 200);
            fs::remove_file(root.join("file of 300001")).expect("removed");
        });
        let image = fixture.image();
        let image_text = image.to_str().expect("plain");
        let ranges = free(&fixture);
        let total: u64 = ranges.iter().map(ByteRange::len).sum();
        let said = tool::run("ntfsinfo", &["-m", "-f", image_text]).expect("ntfsinfo runs");
        let line = said.lines().find(|line| line.contains("Free Clusters")).expect("it says");
        let digits = line.split(':').nth(1).and_then(|text| text.split_whitespace().next());
        let clusters: u64 = digits.expect("a number").parse().expect("a number");
        assert_eq!(total, clusters * cluster_size, "clusters of {cluster_size}");
        let file = File::options().write(true).open(&image).expect("opened");
        for range in ranges {
            let length = usize::try_from(range.len()).expect("small");
            file.write_all_at(&noise(range.start, length), range.start).expect("written");
        }
        tool::run("ntfsfix", &["-n", image_text]).expect("ntfsfix finds it sound");
        fixture.assert_reads_as(&format!("noise, clusters of {cluster_size}"), &truth);
        assert_eq!(fixture.truth(), truth);
    }
}

#[test]
fn nothing_is_free_in_doubt() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 4096);
    let good = fs::read(fixture.image()).expect("read");
    let table = usize::try_from(u64::from_le_bytes(good[0x30..0x38].try_into().expect("8 bytes")))
        .expect("small")
        * 4096;
    let refused = |bytes: Vec<u8>, what: &str| {
        let filesystem = crate::fixture::open_bytes(bytes).expect("opened");
        let result = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
        let kind = result.expect_err(what).kind();
        assert!(matches!(kind, ErrorKind::Unsupported | ErrorKind::Corrupt), "{what}");
        told(filesystem.as_ref()).join(" ")
    };
    // The flags follow the version, 3.1, in the volume's record.
    let volume = table + 3 * 1024;
    let version = good[volume..volume + 1024].windows(4).position(|window| window == [3, 1, 0, 0]);
    let mut dirty = good.clone();
    dirty[volume + version.expect("a version") + 2] = 1;
    assert!(refused(dirty, "a dirty volume").contains("dirty"));
    let mut torn = good.clone();
    torn[table + 510] ^= 1;
    assert!(refused(torn, "a damaged record").contains("copy"));
    let cut = good[..good.len() - 4096].to_vec();
    assert!(refused(cut, "a volume that was cut").contains("spans"));
    // The first bits of the bitmap are the boot sector's and the table's.
    let mut freed = good.clone();
    let place = place_of(&good, b"$Bitmap");
    freed[place..place + 8].fill(0);
    refused(freed, "the table in free space");
    let log = place_of(&good, b"$LogFile");
    let mut unclean = good;
    unclean[log..log + 4096].copy_from_slice(&restart_page());
    unclean[log + 4096..log + 8192].copy_from_slice(&restart_page());
    assert!(refused(unclean, "a log that was not closed").contains("$LogFile"));
}

/// The first byte of a file's content.
fn place_of(bytes: &[u8], name: &[u8]) -> usize {
    let filesystem = crate::fixture::open_bytes(bytes.to_vec()).expect("opened");
    let file = filesystem.lookup(filesystem.root(), name).expect("searched").expect("found");
    let mut content = filesystem.open(file).expect("opened");
    let mut place = None;
    let mapped = content.extents(&mut |extent| {
        place = Some(extent.place);
        ControlFlow::Break(())
    });
    mapped.expect("mapped");
    match place {
        Some(imgx_engine::fs::Place::At(place)) => usize::try_from(place).expect("small"),
        other => panic!("{other:?}"),
    }
}

/// The first page of a log that a client has open.
fn restart_page() -> [u8; 4096] {
    let mut page = [0; 4096];
    page[..8].copy_from_slice(&[b'R', b'S', b'T', b'R', 0x1e, 0, 9, 0]);
    page[0x10..0x18].copy_from_slice(&[0, 0x10, 0, 0, 0, 0x10, 0, 0]);
    page[0x18..0x1e].copy_from_slice(&[0x30, 0, 1, 0, 1, 0]);
    page[0x1e] = 1;
    page[0x30] = 77;
    // The first client is in use; the flags say nothing.
    page[0x3a..0x3e].copy_from_slice(&[0xff, 0xff, 0, 0]);
    for end in (510..4096).step_by(512) {
        page[end] = 1;
    }
    page
}
