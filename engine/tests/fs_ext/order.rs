//! What is searched is checked before it is believed: what the kernel refuses of a damaged map,
//! attribute or group is damage here, and what it reads, reads the same.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgx_engine::base::{ErrorKind, Result};
use imgx_engine::fs::Filesystem;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;

use crate::fill;
use crate::fixture::{Fixture, MIB, open_bytes};
use crate::need_mounts;
use crate::truth;

const BLOCK: usize = 1024;

/// Content of every second block of a file, so that each is an extent of its own.
fn in_pieces(path: &Path, pieces: u64) {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    let file = file.expect("made");
    for piece in 0..pieces {
        let bytes = incompressible(piece, BLOCK);
        file.write_all_at(&bytes, piece * 2 * BLOCK as u64).expect("written");
    }
    file.sync_all().expect("synced");
}

/// What the engine reads of the file called `name`.
fn read(filesystem: &dyn Filesystem, name: &str) -> Result<Vec<u8>> {
    let file = filesystem.lookup(filesystem.root(), name.as_bytes())?.expect("it is there");
    let mut content = filesystem.open(file)?;
    content.extents(&mut |_| std::ops::ControlFlow::Continue(()))?;
    let mut bytes = vec![0; usize::try_from(content.size()).expect("small")];
    content.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The place in the image of the first node of the extent tree of `name` that is of `depth`.
fn node(fixture: &Fixture, name: &str, depth: u16) -> usize {
    let image = fixture.image();
    let request = format!("dump_extents {name}");
    let shown = tool::run("debugfs", &["-R", &request, image.to_str().expect("plain")]);
    let shown = shown.expect("debugfs runs");
    // Nodes are told as ` 1/ 2  1/  3     0 -   167  8257   168`: level, entry, blocks, place.
    let bytes = fs::read(&image).expect("read");
    for line in shown.lines().filter(|line| line.contains('/')) {
        let numbers: Vec<usize> = line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect();
        // An index entry has the place of the node below it as its last number but one.
        for number in numbers.iter().rev().take(2) {
            let at = number * BLOCK;
            let is_node = bytes.get(at..at + 2) == Some(&[0x0a, 0xf3][..]);
            if is_node && bytes[at + 6..at + 8] == depth.to_le_bytes() {
                return at;
            }
        }
    }
    panic!("no node of depth {depth}: {shown}")
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"))
}

/// Where entry `number` of the node at `node` is.
fn entry(node: usize, number: usize) -> usize {
    node + 12 + number * 12
}

/// A change of the image: of the leaf and of the index at these places.
type Change = fn(&mut [u8], usize, usize);

/// Changes after which a search would go astray.
const CHANGES: [(&str, Change); 14] = [
    ("two extents in each other's place", |bytes, leaf, _| {
        let (one, other) = (entry(leaf, 3), entry(leaf, 40));
        for byte in 0..12 {
            bytes.swap(one + byte, other + byte);
        }
    }),
    ("an extent that reaches over the next", |bytes, leaf, _| {
        put16(bytes, entry(leaf, 10) + 4, 5);
    }),
    ("an extent without blocks", |bytes, leaf, _| put16(bytes, entry(leaf, 10) + 4, 0)),
    ("an extent twice", |bytes, leaf, _| {
        let block = get32(bytes, entry(leaf, 10));
        put32(bytes, entry(leaf, 11), block);
    }),
    ("an extent beyond the filesystem", |bytes, leaf, _| {
        put32(bytes, entry(leaf, 10) + 8, 0x00ff_ffff);
    }),
    ("an extent with a high part of its place", |bytes, leaf, _| {
        put16(bytes, entry(leaf, 10) + 6, 1);
    }),
    ("an extent among the inodes", |bytes, leaf, _| {
        // `bg_inode_table` of the first group, whose descriptor is in block 2.
        let table = get32(bytes, 2 * BLOCK + 8);
        put32(bytes, entry(leaf, 10) + 8, table + 3);
    }),
    ("an extent before what the index says", |bytes, leaf, _| {
        let block = get32(bytes, entry(leaf, 0));
        put32(bytes, entry(leaf, 0), block.wrapping_sub(1));
    }),
    ("an extent at the end of all blocks", |bytes, leaf, _| {
        let last = usize::from(u16::from_le_bytes([bytes[leaf + 2], bytes[leaf + 3]])) - 1;
        put32(bytes, entry(leaf, last), u32::MAX);
    }),
    ("an index that leads too far", |bytes, _, index| {
        let block = get32(bytes, entry(index, 1));
        put32(bytes, entry(index, 1), block + 1);
    }),
    ("indexes in each other's place", |bytes, _, index| {
        for byte in 0..12 {
            bytes.swap(entry(index, 0) + byte, entry(index, 1) + byte);
        }
    }),
    ("an index that leads out of the filesystem", |bytes, _, index| {
        put32(bytes, entry(index, 1) + 4, 0x00ff_ffff);
    }),
    ("a leaf of another depth", |bytes, leaf, _| put16(bytes, leaf + 6, 1)),
    ("more entries than there is room for", |bytes, leaf, _| put16(bytes, leaf + 2, 999)),
];

#[test]
fn a_map_whose_order_is_broken_is_damage_as_it_is_to_the_kernel() {
    need_mounts!();
    let fixture =
        Fixture::make(32 * MIB, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"]);
    fixture.fill(|root| {
        in_pieces(&root.join("file"), 600);
        fs::write(root.join("other"), "another file").expect("written");
    });
    let good = fs::read(fixture.image()).expect("read");
    let expected = read(open_bytes(good.clone()).expect("opened").as_ref(), "file");
    let expected = expected.expect("sound");
    let (leaf, index) = (node(&fixture, "file", 0), node(&fixture, "file", 1));
    for (what, change) in CHANGES {
        let mut bytes = good.clone();
        change(&mut bytes, leaf, index);
        assert_ne!(bytes, good, "{what}");
        let filesystem = open_bytes(bytes.clone()).expect("opened");
        let error = read(filesystem.as_ref(), "file").expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.to_string().contains("inode "), "{what}: {error}");
        assert_eq!(read(filesystem.as_ref(), "other").expect("sound"), b"another file");
        let file = filesystem.lookup(filesystem.root(), b"file").expect("searched");
        let numbered = filesystem.numbered().expect("numbers");
        let parts =
            numbered.parts(file.expect("there"), &mut |_| std::ops::ControlFlow::Continue(()));
        assert!(parts.is_err(), "{what}: by number");
        fs::write(fixture.image(), &bytes).expect("written");
        let mount = fixture.mount(&fixture.image(), "ro");
        let error = fs::read(mount.root().join("file")).expect_err(what);
        // EUCLEAN, or that it would be out of the volume.
        assert!(matches!(error.raw_os_error(), Some(117 | 5)), "{what}: {error}");
    }
    fs::write(fixture.image(), &good).expect("written");
    let mount = fixture.mount(&fixture.image(), "ro");
    assert_eq!(fs::read(mount.root().join("file")).expect("sound"), expected);
}

#[test]
fn an_index_of_a_folder_that_is_out_of_order_costs_no_name() {
    need_mounts!();
    let fixture = Fixture::make(32 * MIB, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"]);
    let truth = fixture.fill(|root| fill::names(&fill::folder(root, "many"), 600));
    let good = fs::read(fixture.image()).expect("read");
    // The root of an index: `..` reaches to the block's end, then comes `dx_root_info`.
    let is_root = |block: &&[u8]| block[16..18] == [0xf4, 3] && block[28..30] == [1, 8];
    let root = good.chunks(BLOCK).position(|block| is_root(&block)).expect("an index") * BLOCK;
    let first = root + 0x20;
    let count = usize::from(u16::from_le_bytes([good[first + 2], good[first + 3]]));
    assert!(count > 4, "{count} entries");
    let mut bytes = good;
    for byte in 0..8 {
        bytes.swap(first + 8 + byte, first + 8 * (count - 1) + byte);
    }
    let filesystem = open_bytes(bytes).expect("opened");
    let many = filesystem.lookup(filesystem.root(), b"many").expect("searched").expect("there");
    let mut found = 0;
    for path in truth.keys() {
        let Some(name) = path.strip_prefix(b"/many/") else { continue };
        let file = filesystem.lookup(many, name).expect("searched");
        assert!(file.is_some(), "{} is not found", String::from_utf8_lossy(name));
        found += 1;
    }
    assert!(found > 500, "{found} names");
}

/// Where the entry of an attribute whose name ends in `name` is.
fn attribute(bytes: &[u8], name: &str) -> usize {
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes());
    at.expect("it is there") - 16
}

#[test]
fn a_value_over_the_entries_costs_the_attribute_and_not_the_file() {
    need_mounts!();
    let fixture =
        Fixture::make(32 * MIB, &["-t", "ext4", "-I", "256", "-O", "^metadata_csum,inline_data"]);
    fixture.fill(|root| {
        fs::write(root.join("file"), vec![7; 5000]).expect("written");
        xattr::set(root.join("file"), "user.in-the-inode", b"short").expect("set");
        xattr::set(root.join("file"), "user.in-a-block", &[b'b'; 300]).expect("set");
        xattr::set(root.join("file"), "user.other-in-it", &[b'o'; 200]).expect("set");
        fs::write(root.join("inline"), vec![b'i'; 100]).expect("written");
    });
    let good = fs::read(fixture.image()).expect("read");
    // Names are stored without their namespace.
    for (name, offset) in
        [("in-the-inode", 0), ("in-the-inode", 4000), ("in-a-block", 40), ("in-a-block", 65_000)]
    {
        let context = format!("{name} at {offset}");
        let mut bytes = good.clone();
        put16(&mut bytes, attribute(&good, name) + 2, offset);
        let filesystem = open_bytes(bytes.clone()).expect("opened");
        let file = filesystem.lookup(filesystem.root(), b"file").expect("searched").expect("there");
        let (found, lost) = filesystem.sound_xattrs(file).expect("the others are there");
        let names: Vec<_> = found.iter().map(|one| String::from_utf8_lossy(&one.name)).collect();
        let lost = lost.expect("one is lost");
        assert_eq!(lost.kind(), ErrorKind::Corrupt, "{context}: {lost}");
        assert!(!names.iter().any(|found| found.ends_with(name)), "{context}: {names:?}");
        assert_eq!(names.len(), 2, "{context}: {names:?}");
        assert_eq!(read(filesystem.as_ref(), "file").expect("sound"), vec![7; 5000]);
        assert!(filesystem.xattrs(file).is_err(), "{context}");
        fs::write(fixture.image(), &bytes).expect("written");
        let mount = fixture.mount(&fixture.image(), "ro");
        let full = format!("user.{name}");
        assert!(xattr::get(mount.root().join("file"), full).is_err(), "{context}: the kernel");
    }
    // What an inode has no other room for is the value of an attribute called `data`.
    let inline = good.windows(100).position(|window| window == [b'i'; 100]);
    assert!(inline.is_none(), "it is in two parts");
    let start = good.windows(60).position(|window| window == [b'i'; 60]).expect("an inode") - 0x28;
    let at = start + attribute(&good[start..start + 256], "data");
    let mut bytes = good.clone();
    put16(&mut bytes, at + 2, 0);
    let filesystem = open_bytes(bytes.clone()).expect("opened");
    let error = read(filesystem.as_ref(), "inline").expect_err("the value lies over its entry");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    fs::write(fixture.image(), &bytes).expect("written");
    let mount = fixture.mount(&fixture.image(), "ro");
    assert!(fs::read(mount.root().join("inline")).is_err(), "the kernel reads it");
}

#[test]
fn values_that_share_bytes_are_lost_both() {
    need_mounts!();
    let fixture = Fixture::make(32 * MIB, &["-t", "ext4", "-I", "128", "-O", "^metadata_csum"]);
    fixture.fill(|root| {
        fs::write(root.join("file"), "content").expect("written");
        for (name, byte) in [("user.first-value", b'1'), ("user.second-value", b'2')] {
            xattr::set(root.join("file"), name, &[byte; 40]).expect("set");
        }
        xattr::set(root.join("file"), "user.third-value", b"sound").expect("set");
    });
    let mut bytes = fs::read(fixture.image()).expect("read");
    let (one, other) = (attribute(&bytes, "first-value"), attribute(&bytes, "second-value"));
    let place = u16::from_le_bytes([bytes[one + 2], bytes[one + 3]]);
    put16(&mut bytes, other + 2, place - 20);
    let filesystem = open_bytes(bytes).expect("opened");
    let file = filesystem.lookup(filesystem.root(), b"file").expect("searched").expect("there");
    let (found, lost) = filesystem.sound_xattrs(file).expect("one is sound");
    assert_eq!(found.iter().map(|one| one.value.as_slice()).collect::<Vec<_>>(), [b"sound"]);
    assert_eq!(lost.expect("two are lost").kind(), ErrorKind::Corrupt);
}

#[test]
fn a_group_descriptor_with_a_wrong_checksum_is_told_and_costs_nothing() {
    need_mounts!();
    // With copies of the descriptors, and without any.
    for (size, features) in
        [(32, "metadata_csum"), (32, "^metadata_csum,uninit_bg"), (6, "metadata_csum")]
    {
        let context = format!("{size} MiB, {features}");
        let arguments = ["-t", "ext4", "-b", "1024", "-O", features];
        let fixture = Fixture::make(size * MIB, &arguments);
        let truth = fixture.fill(fill::everything_small);
        let mut bytes = fs::read(fixture.image()).expect("read");
        // Behind the superblock, in block 2; `bg_checksum` is at 0x1e.
        bytes[2 * BLOCK + 0x1e] ^= 0x55;
        fs::write(fixture.image(), &bytes).expect("written");
        let filesystem = fixture.assert_reads_as(&context, &truth);
        let doubts = filesystem.doubts().all();
        assert!(doubts.iter().any(|doubt| doubt.contains("group 0")), "{context}: {doubts:?}");
        assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err(), "{context}");
        let kernel = truth::of_mount(fixture.mount(&fixture.image(), "ro,noload").root());
        truth::assert_same(&format!("{context}: the kernel"), &kernel, &truth);
    }
}
