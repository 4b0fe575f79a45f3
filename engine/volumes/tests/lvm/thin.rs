//! Thin volumes, whose pool's metadata `thin_restore` wrote.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use imgx_fixtures::lvm::{EXTENT, linear, logical};
use imgx_fixtures::tool;
use imgx_volumes::base::{ByteOffset, ByteRange, ErrorKind};

use crate::support::{Disk, bytes, have, pattern};

const CHUNK: u64 = 64 << 10;
/// Extents of metadata and data, and where they begin.
const META: (u64, u64) = (0, 1);
const DATA: (u64, u64) = (2, 24);
const EXTERNAL: (u64, u64) = (30, 2);
const CHUNKS: u64 = DATA.1 * EXTENT / CHUNK;
/// Extents of the thin volumes.
const LENGTH: u64 = 12;

/// A mapping of a device: blocks from the first number on are those of the pool from the second.
type Mapping = (u64, u64, u64);

fn thin(device: u64, transaction: u64, more: &str) -> String {
    format!(
        "start_extent = 0\nextent_count = {LENGTH}\ntype = \"thin\"\nthin_pool = \"pool\"\n\
         transaction_id = {transaction}\ndevice_id = {device}\n{more}"
    )
}

fn text(transaction: u64, message: &str) -> String {
    let pool = format!(
        "start_extent = 0\nextent_count = {}\ntype = \"thin-pool\"\nmetadata = \"pool_tmeta\"\n\
         pool = \"pool_tdata\"\ntransaction_id = {transaction}\nchunk_size = {}\n\
         discards = \"passdown\"\nzero_new_blocks = 1\n{message}",
        DATA.1,
        CHUNK / 512
    );
    [
        logical("pool", true, &[pool]),
        logical("one", true, &[thin(1, 0, "")]),
        logical("two", true, &[thin(2, 0, "origin = \"one\"")]),
        logical("three", true, &[thin(3, 0, "external_origin = \"outside\"")]),
        logical("nine", true, &[thin(9, 0, "")]),
        logical("outside", true, &[linear(0, EXTERNAL.1, (0, EXTERNAL.0))]),
        logical("pool_tmeta", false, &[linear(0, META.1, (0, META.0))]),
        logical("pool_tdata", false, &[linear(0, DATA.1, (0, DATA.0))]),
    ]
    .concat()
}

/// Has `thin_restore` write the metadata of a pool with these devices into `file`.
fn restore(file: &Path, transaction: u64, devices: &[(u64, &[Mapping])]) {
    let mut xml = format!(
        "<superblock uuid=\"\" time=\"1\" transaction=\"{transaction}\" flags=\"0\" \
         version=\"2\" data_block_size=\"{}\" nr_data_blocks=\"{CHUNKS}\">\n",
        CHUNK / 512
    );
    for (device, mappings) in devices {
        let count: u64 = mappings.iter().map(|(_, _, count)| count).sum();
        let _ = writeln!(
            xml,
            "<device dev_id=\"{device}\" mapped_blocks=\"{count}\" transaction=\"0\" \
             creation_time=\"0\" snap_time=\"1\">"
        );
        for (start, place, count) in *mappings {
            let _ = writeln!(
                xml,
                "<range_mapping origin_begin=\"{start}\" data_begin=\"{place}\" \
                 length=\"{count}\" time=\"1\"/>"
            );
        }
        xml += "</device>\n";
    }
    xml += "</superblock>\n";
    let source = file.with_extension("xml");
    fs::write(&source, xml).unwrap();
    fs::write(file, vec![0; (META.1 * EXTENT) as usize]).unwrap();
    let (source, file) = (source.to_str().unwrap(), file.to_str().unwrap());
    tool::run("thin_restore", &["-i", source, "-o", file]).expect("thin_restore runs");
    tool::run("thin_check", &[file]).expect("thin_check is content");
}

/// What a device with these mappings reads, of a pool full of a pattern; `behind` is what there is
/// where it has no block.
fn expected(mappings: &[Mapping], pool: &[u8], behind: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; (LENGTH * EXTENT) as usize];
    bytes[..behind.len()].copy_from_slice(behind);
    for (start, place, count) in mappings {
        for number in 0..*count {
            let (to, from) = ((start + number) * CHUNK, (place + number) * CHUNK);
            let (to, from) = (to as usize, from as usize);
            bytes[to..to + CHUNK as usize].copy_from_slice(&pool[from..from + CHUNK as usize]);
        }
    }
    bytes
}

/// Every block of the volume but each seventh, in an order that has no two together.
fn scattered() -> Vec<Mapping> {
    let all = LENGTH * EXTENT / CHUNK;
    let blocks = (0..all).filter(|block| block % 7 != 3);
    blocks.map(|block| (block, block * 101 % 383, 1)).collect()
}

#[test]
fn thin_volumes_have_the_blocks_that_the_pool_says() {
    if !have(&["thin_restore", "thin_check", "vgcfgrestore"]) {
        return;
    }
    let disk = Disk::make("imgxthin", 40, &text(7, ""));
    let pool = pattern("pool", 0, DATA.1 * EXTENT / 4096);
    let outside = pattern("outside", 0, EXTERNAL.1 * EXTENT / 4096);
    disk.write(DATA.0, 0, &pool);
    disk.write(EXTERNAL.0, 0, &outside);
    let (one, two) = (scattered(), [(0, 0, 3), (5, 383, 1), (100, 10, 60)]);
    let three = [(1, 40, 1), (127, 50, 2)];
    let file = disk.beside("meta");
    restore(&file, 7, &[(1, &one), (2, &two), (3, &three)]);
    disk.write_file(META.0, &file);

    let group = disk.group();
    let wanted = [
        ("one", expected(&one, &pool, &[])),
        ("two", expected(&two, &pool, &[])),
        ("three", expected(&three, &pool, &outside)),
    ];
    for (name, wanted) in &wanted {
        let volume = group.open(name).unwrap();
        assert!(bytes(volume.as_ref()).unwrap() == *wanted, "{name} differs");
        for (at, length) in [(CHUNK - 1, 2), (3 * CHUNK - 5, 70_000), (12 * EXTENT - 1, 1)] {
            let mut piece = vec![1; length];
            volume.read_exact_at(ByteOffset(at), &mut piece).unwrap();
            assert!(piece == wanted[at as usize..at as usize + length], "{name} at {at}");
        }
        let places = volume.each_place(ByteRange::new(0, 4096), &mut |_, _| {});
        assert_eq!(places.expect_err("shared").kind(), ErrorKind::Unsupported);
    }
    for (name, why) in [("nine", "no device 9"), ("pool", "no bytes of its own")] {
        let error = group.open(name).err().expect("refused");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_pool_that_lvm_would_not_start_is_refused() {
    if !have(&["thin_restore", "thin_check", "vgcfgrestore"]) {
        return;
    }
    let message = "message1 {\ncreate = \"nine\"\n}\n";
    let cases = [
        (7, 7, "", None),
        (6, 7, "", Some("at transaction 6, LVM at 7")),
        (8, 7, "", Some("at transaction 8, LVM at 7")),
        // LVM wrote down what the pool has still to do.
        (6, 7, message, None),
        (5, 7, message, Some("at transaction 5")),
    ];
    for (own, known, message, why) in cases {
        let disk = Disk::make("imgxtrans", 40, &text(known, message));
        let file = disk.beside("meta");
        restore(&file, own, &[(1, &[(0, 0, 1)])]);
        disk.write_file(META.0, &file);
        match (disk.open("one"), why) {
            (Ok(_), None) => {}
            (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{error}"),
            (opened, why) => panic!("{own} {known}: {:?}, not {why:?}", opened.err()),
        }
        // The flag that says so, and the checksum made right again.
        let mut block = fs::read(&file).unwrap()[..4096].to_vec();
        block[4] |= 1;
        let sum = !crc32c::crc32c(&block[4..]) ^ 160_774;
        block[..4].copy_from_slice(&sum.to_le_bytes());
        disk.write(META.0, 0, &block);
        let error = disk.open("one").err().expect("it needs a check").to_string();
        assert!(error.contains("checked first"), "{error}");
    }
}

#[test]
fn damaged_metadata_never_give_wrong_bytes() {
    if !have(&["thin_restore", "thin_check", "vgcfgrestore"]) {
        return;
    }
    let disk = Disk::make("imgxdamage", 40, &text(0, ""));
    let pool = pattern("pool", 0, DATA.1 * EXTENT / 4096);
    disk.write(DATA.0, 0, &pool);
    let one = scattered();
    let file = disk.beside("meta");
    restore(&file, 0, &[(1, &one)]);
    let metadata = fs::read(&file).unwrap();
    let wanted = expected(&one, &pool, &[]);
    let (mut refused, mut equal) = (0, 0);
    let blocks = metadata.chunks(4096).enumerate();
    for (number, block) in blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        let mut damaged = metadata.clone();
        damaged[number * 4096 + 32 + number % 64] ^= 0x10;
        assert_ne!(damaged[number * 4096..][..4096], *block);
        disk.write(META.0, 0, &damaged);
        match disk.open("one").and_then(|volume| bytes(volume.as_ref())) {
            Ok(found) => {
                assert!(found == wanted, "wrong bytes with block {number} damaged");
                equal += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                refused += 1;
            }
        }
    }
    // The superblock, the roots, and some leaves; what counts free blocks is not needed.
    assert!(refused >= 5 && equal >= 2, "{refused} refused, {equal} equal");
}
