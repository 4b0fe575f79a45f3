//! What is searched is checked before it is believed, behind checksums that are right, as the
//! kernel's `tree-checker.c` does; and older roots stand in for the newest.

use std::fs;
use std::ops::ControlFlow;

use imgx_engine::base::ErrorKind;
use imgx_fixtures::pattern::incompressible;

use crate::basics;
use crate::fixture::{Fixture, MIB, content, open_bytes};
use crate::need_mounts;
use crate::sums::{blocks, fix};

const NODE: usize = 16 << 10;

fn le32(bytes: &[u8], at: usize) -> usize {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    usize::try_from(u32::from_le_bytes(field)).expect("it fits")
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A change of a leaf whose items are `first` and the next one.
type Change = fn(leaf: &mut [u8], first: usize);

const CHANGES: [(&str, Change); 4] = [
    ("two keys in each other's place", |leaf, first| {
        for byte in 0..17 {
            leaf.swap(first + byte, first + 25 + byte);
        }
    }),
    ("an item over the one before it", |leaf, first| {
        let length = u32::try_from(le32(leaf, first + 21) + 8).expect("small");
        leaf[first + 21..first + 25].copy_from_slice(&length.to_le_bytes());
    }),
    ("an item with a gap behind it", |leaf, first| {
        let length = u32::try_from(le32(leaf, first + 21) - 8).expect("small");
        leaf[first + 21..first + 25].copy_from_slice(&length.to_le_bytes());
    }),
    ("an item beyond the node", |leaf, first| {
        leaf[first + 17..first + 21].copy_from_slice(&60_000_u32.to_le_bytes());
    }),
];

#[test]
fn a_leaf_whose_items_are_out_of_order_is_damage_as_it_is_to_the_kernel() {
    need_mounts!();
    let fixture = Fixture::make(128 * MIB, &["-m", "single"]);
    fixture.fill("noatime", |root| {
        fs::write(root.join("file"), incompressible(1, 50_000)).expect("written");
        basics::names(&basics::folder(root, "names"), 20);
    });
    let good = fs::read(fixture.image()).expect("read");
    let generation = |place: usize| le64(&good, place + 0x50);
    // The newest leaf of the subvolume, owner 5.
    let leaf = blocks(&good, NODE)
        .into_iter()
        .filter(|(place, length)| *length == NODE && le64(&good, place + 0x58) == 5)
        .filter(|(place, _)| good[place + 0x64] == 0)
        .max_by_key(|(place, _)| generation(*place))
        .expect("a leaf");
    // An item of the file's extents: kind 108 in the ninth byte of its key.
    let count = le32(&good, leaf.0 + 0x60);
    let item = (1..count - 1).find(|number| good[leaf.0 + 101 + number * 25 + 8] == 108);
    let first = 101 + item.expect("an extent") * 25;
    for (what, change) in CHANGES {
        let mut bytes = good.clone();
        change(&mut bytes[leaf.0..leaf.0 + NODE], first);
        fix(&mut bytes, &[leaf]);
        let read = open_bytes(bytes.clone()).and_then(|filesystem| {
            filesystem.list(filesystem.root(), &mut |_| ControlFlow::Continue(()))?;
            content_of(filesystem.as_ref())
        });
        assert_eq!(read.expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        fs::write(fixture.image(), &bytes).expect("written");
        assert!(!fixture.reads(&["file"]), "the kernel reads {what}");
    }
}

fn content_of(filesystem: &dyn imgx_engine::fs::Filesystem) -> imgx_engine::base::Result<Vec<u8>> {
    let file = filesystem.lookup(filesystem.root(), b"file")?;
    let file = file.ok_or_else(|| imgx_engine::base::Error::new(ErrorKind::NotFound, "file"))?;
    let mut content = filesystem.open(file)?;
    let mut bytes = vec![0; usize::try_from(content.size()).expect("small")];
    content.read_at(0, &mut bytes).map(|_| bytes)
}

#[test]
fn where_the_newest_roots_are_damaged_an_older_state_is_read_and_told() {
    need_mounts!();
    let fixture = Fixture::make(128 * MIB, &["-m", "single"]);
    fixture.fill("noatime", |root| {
        fs::write(root.join("old"), incompressible(1, 50_000)).expect("written");
    });
    fixture.fill("noatime", |root| {
        fs::write(root.join("new"), incompressible(2, 50_000)).expect("written");
    });
    let good = fs::read(fixture.image()).expect("read");
    let superblock = 64 << 10;
    let root = le64(&good, superblock + 0x50);
    // The node of the newest root of roots, wherever it is on the device.
    let node = blocks(&good, NODE)
        .into_iter()
        .find(|(place, length)| *length == NODE && le64(&good, place + 0x30) == root);
    let (place, _) = node.expect("the root of roots");
    let mut bytes = good;
    bytes[place + 300] ^= 0x55;
    let filesystem = open_bytes(bytes).expect("an older state is there");
    let doubts = filesystem.doubts().all();
    assert!(doubts.iter().any(|doubt| doubt.contains("older one, generation")), "{doubts:?}");
    assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err());
    let old = content(filesystem.as_ref(), "old").expect("it was there before");
    assert_eq!(old, incompressible(1, 50_000));
}
