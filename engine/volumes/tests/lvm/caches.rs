//! Caches, whose metadata `cache_restore` wrote: only clean ones are passed over.

use std::fmt::Write as _;
use std::fs;

use imgx_fixtures::lvm::{EXTENT, linear, logical};
use imgx_fixtures::tool;

use crate::support::{Disk, bytes, have, pattern};

const CHUNK: u64 = 64 << 10;
const ORIGIN: (u64, u64) = (0, 3);
const META: (u64, u64) = (4, 2);
const DATA: (u64, u64) = (8, 4);

fn text() -> String {
    let cache = format!(
        "start_extent = 0\nextent_count = {}\ntype = \"cache\"\ncache_pool = \"fast\"\n\
         origin = \"vol_corig\"",
        ORIGIN.1
    );
    let pool = format!(
        "start_extent = 0\nextent_count = {}\ntype = \"cache-pool+METADATA_FORMAT\"\n\
         data = \"fast_cdata\"\nmetadata = \"fast_cmeta\"\nchunk_size = {}\nmetadata_format = 2\n\
         cache_mode = \"writeback\"\npolicy = \"smq\"",
        DATA.1,
        CHUNK / 512
    );
    [
        logical("vol", true, &[cache]),
        logical("vol_corig", false, &[linear(0, ORIGIN.1, (0, ORIGIN.0))]),
        logical("fast", false, &[pool]),
        logical("fast_cmeta", false, &[linear(0, META.1, (0, META.0))]),
        logical("fast_cdata", false, &[linear(0, DATA.1, (0, DATA.0))]),
    ]
    .concat()
}

/// Metadata of a cache, in the format of this version, of whose blocks those are dirty.
fn restore(disk: &Disk, version: &str, dirty: &[u64], more: &[&str]) {
    let blocks = DATA.1 * EXTENT / CHUNK;
    let mut xml = format!(
        "<superblock uuid=\"\" block_size=\"{}\" nr_cache_blocks=\"{blocks}\" policy=\"smq\" \
         hint_width=\"4\">\n<mappings>\n",
        CHUNK / 512
    );
    for block in 0..40 {
        let is_dirty = dirty.contains(&block);
        let _ = writeln!(
            xml,
            "<mapping cache_block=\"{block}\" origin_block=\"{}\" dirty=\"{is_dirty}\"/>",
            block * 3 % 41
        );
    }
    xml += "</mappings>\n<hints>\n</hints>\n</superblock>\n";
    let (source, file) = (disk.beside("cache.xml"), disk.beside("meta"));
    fs::write(&source, xml).unwrap();
    fs::write(&file, vec![0; (META.1 * EXTENT) as usize]).unwrap();
    let (source, path) = (source.to_str().unwrap(), file.to_str().unwrap());
    let arguments = ["-i", source, "-o", path, "--metadata-version", version];
    tool::run("cache_restore", &[&arguments, more].concat()).expect("cache_restore runs");
    tool::run("cache_check", &[path]).expect("cache_check is content");
    disk.write_file(META.0, &file);
}

#[test]
fn only_a_clean_cache_is_passed_over() {
    if !have(&["cache_restore", "cache_check", "vgcfgrestore"]) {
        return;
    }
    let disk = Disk::make("imgxcache", 14, &text());
    let origin = pattern("origin", 0, ORIGIN.1 * EXTENT / 4096);
    disk.write(ORIGIN.0, 0, &origin);
    let refused = || disk.open("vol").err().expect("refused").to_string();
    for version in ["1", "2"] {
        restore(&disk, version, &[], &[]);
        let volume = disk.open("vol").unwrap_or_else(|error| panic!("{version}: {error}"));
        assert!(bytes(volume.as_ref()).unwrap() == origin);
        for dirty in [vec![0], vec![39], vec![7, 8, 9]] {
            restore(&disk, version, &dirty, &[]);
            let why = refused();
            let count = format!("dirty: {} of its blocks", dirty.len());
            assert!(why.contains("/vol: ") && why.contains(&count), "{version}: {why}");
        }
        restore(&disk, version, &[], &["--omit-clean-shutdown"]);
        assert!(refused().contains("not shut down"), "{}", refused());
    }
}

#[test]
fn only_an_empty_write_cache_is_passed_over() {
    if !have(&["vgcfgrestore"]) {
        return;
    }
    let cache = format!(
        "start_extent = 0\nextent_count = {}\ntype = \"writecache\"\nwritecache = \"fast_cvol\"\n\
         origin = \"vol_wcorig\"\nwritecache_block_size = 4096",
        ORIGIN.1
    );
    let text = [
        logical("vol", true, &[cache]),
        logical("vol_wcorig", false, &[linear(0, ORIGIN.1, (0, ORIGIN.0))]),
        logical("fast_cvol", false, &[linear(0, META.1, (0, META.0))]),
    ];
    let disk = Disk::make("imgxwrite", 14, &text.concat());
    let origin = pattern("origin", 0, ORIGIN.1 * EXTENT / 4096);
    disk.write(ORIGIN.0, 0, &origin);
    let blocks = 1900_u64;
    let mut head = vec![0; 64];
    for (at, field) in [(0, 0x2348_9321_u32), (4, 1), (8, 4096)] {
        head[at..at + 4].copy_from_slice(&field.to_le_bytes());
    }
    head[16..24].copy_from_slice(&blocks.to_le_bytes());
    let entry = [u64::MAX.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    let empty = [head, entry.repeat(blocks as usize)].concat();
    disk.write(META.0, 0, &empty);
    assert!(bytes(disk.open("vol").unwrap().as_ref()).unwrap() == origin);
    for number in [0, 1, blocks as usize - 1] {
        let mut dirty = empty.clone();
        dirty[64 + number * 16..][..8].copy_from_slice(&8_u64.to_le_bytes());
        disk.write(META.0, 0, &dirty);
        let why = disk.open("vol").err().expect("refused").to_string();
        assert!(why.contains("write cache is dirty"), "{why}");
    }
}
