//! Snapshots whose stores are written here, from the kernel's description of them.

use imgx_fixtures::lvm::{EXTENT, linear, logical};
use imgx_volumes::base::{ByteOffset, ByteRange, ErrorKind};

use crate::support::{Disk, bytes, have, pattern};

const ORIGIN: (u64, u64) = (0, 3);
const STORE: (u64, u64) = (4, 2);

fn text(chunk: u64, store: &str) -> String {
    let snapshot = format!(
        "start_extent = 0\nextent_count = {}\ntype = \"snapshot\"\nchunk_size = {}\n\
         origin = \"root\"\n{store} = \"snap\"",
        ORIGIN.1,
        chunk / 512
    );
    [
        logical("root", true, &[linear(0, ORIGIN.1, (0, ORIGIN.0))]),
        logical("snap", false, &[linear(0, STORE.1, (0, STORE.0))]),
        logical("snapshot0", true, &[snapshot]),
    ]
    .concat()
}

/// A store: a header of one chunk, areas of exceptions, and the content of each.
fn store(chunk: u64, valid: u32, exceptions: &[u64], content: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let size = chunk as usize;
    let mut bytes = vec![0; (STORE.1 * EXTENT) as usize];
    for (at, field) in [(4, valid), (8, 1), (12, (chunk / 512) as u32)] {
        bytes[at..at + 4].copy_from_slice(&field.to_le_bytes());
    }
    bytes[..4].copy_from_slice(b"SnAp");
    let of_area = size / 16;
    for (number, old) in exceptions.iter().enumerate() {
        let (area, within) = (number / of_area, number % of_area);
        let list = 1 + area * (of_area + 1);
        let new = list + 1 + within;
        let entry = list * size + within * 16;
        bytes[entry..entry + 8].copy_from_slice(&old.to_le_bytes());
        bytes[entry + 8..entry + 16].copy_from_slice(&(new as u64).to_le_bytes());
        bytes[new * size..][..size].copy_from_slice(&content(*old));
    }
    bytes
}

#[test]
fn a_snapshot_is_its_origin_but_for_what_its_store_holds() {
    if !have(&["vgcfgrestore"]) {
        return;
    }
    for chunk in [4096, 8192, 65_536] {
        let disk = Disk::make("imgxsnap", 8, &text(chunk, "cow_store"));
        let origin = pattern("origin", 0, ORIGIN.1 * EXTENT / 4096);
        disk.write(ORIGIN.0, 0, &origin);
        let pages = chunk / 4096;
        let content = |old: u64| pattern("changed", old * pages, pages);
        // More than one area with chunks of 4 KiB, some in a row, some not.
        let last = ORIGIN.1 * EXTENT / chunk - 1;
        let most = STORE.1 * EXTENT / chunk - 10;
        let mut old: Vec<u64> = (0..most.min(600)).map(|number| number * 37 % last).collect();
        old.sort_unstable();
        old.dedup();
        old.reverse();
        old.push(last);
        disk.write(STORE.0, 0, &store(chunk, 1, &old, content));
        let mut wanted = origin.clone();
        for old in &old {
            let at = (old * chunk) as usize;
            wanted[at..at + chunk as usize].copy_from_slice(&content(*old));
        }
        let group = disk.group();
        let names: Vec<String> = group.volumes().into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["root", "snap"]);
        let snapshot = group.open("snap").unwrap();
        assert!(bytes(snapshot.as_ref()).unwrap() == wanted, "chunks of {chunk}");
        let mut piece = vec![0; 3 * chunk as usize];
        snapshot.read_exact_at(ByteOffset(chunk - 7), &mut piece).unwrap();
        assert!(piece == wanted[chunk as usize - 7..][..piece.len()]);
        let root = group.open("root").unwrap();
        assert!(bytes(root.as_ref()).unwrap() == origin, "the origin is as it is");
        for layer in [snapshot, root] {
            let places = layer.each_place(ByteRange::new(0, 4096), &mut |_, _| {});
            assert_eq!(places.expect_err("shared").kind(), ErrorKind::Unsupported);
        }
    }
}

#[test]
fn snapshots_out_of_use_are_refused_by_name() {
    if !have(&["vgcfgrestore"]) {
        return;
    }
    let disk = Disk::make("imgxinvalid", 8, &text(4096, "cow_store"));
    let content = |old: u64| pattern("changed", old, 1);
    let refused = |bytes: &[u8]| {
        disk.write(STORE.0, 0, bytes);
        let error = disk.open("snap").err().expect("refused");
        disk.open("root").expect("the origin is not");
        (error.kind(), error.to_string())
    };
    let (kind, why) = refused(&store(4096, 0, &[1, 2], content));
    assert!(kind == ErrorKind::Unsupported && why.contains("/snap: the snapshot is invalid"));
    let sound = store(4096, 1, &[1, 2], content);
    let changed = |at: usize, byte: u8| {
        let mut bytes = sound.clone();
        bytes[at] = byte;
        refused(&bytes).0
    };
    assert_eq!(changed(0, 0), ErrorKind::Corrupt, "no magic");
    assert_eq!(changed(8, 2), ErrorKind::Unsupported, "another version");
    assert_eq!(changed(12, 9), ErrorKind::Corrupt, "chunks of nine sectors");
    assert_eq!(changed(4096 + 16 + 8 + 6, 1), ErrorKind::Corrupt, "beyond the store");
    assert_eq!(changed(4096 + 16, 1), ErrorKind::Corrupt, "one chunk twice");

    // Nothing was written since it was made.
    disk.write(STORE.0, 0, &vec![0; EXTENT as usize]);
    let all = bytes(disk.open("snap").unwrap().as_ref()).unwrap();
    assert!(all == bytes(disk.open("root").unwrap().as_ref()).unwrap());

    let disk = Disk::make("imgxmerge", 8, &text(4096, "merging_store"));
    disk.write(STORE.0, 0, &sound);
    for name in ["snap", "root"] {
        let error = disk.open(name).err().expect("refused").to_string();
        assert!(error.contains("being merged into"), "{error}");
    }
}
