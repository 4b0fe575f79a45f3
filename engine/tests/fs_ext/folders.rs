//! Large folders, by their index and one entry after another.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use imgx_engine::base::{ByteCount, ByteOffset, ReadAt, Result};

use crate::common::is_long;
use crate::fill::folder;
use crate::fixture::{Fixture, MIB};
use crate::need_mounts;

#[test]
fn a_large_folder_is_listed_whole_and_searched_by_its_index() {
    need_mounts!();
    let count = if is_long() { 100_000 } else { 20_000 };
    let fixture = Fixture::make(256 * MIB, &["-t", "ext4", "-b", "1024", "-O", "large_dir"]);
    let truth = fixture.fill(|root| {
        let many = folder(root, "many");
        for number in 0..count {
            File::create(many.join(format!("entry number {number}"))).expect("made");
        }
    });
    let start = Instant::now();
    let filesystem = fixture.assert_reads_as("large_dir", &truth);
    println!("{count} entries were compared in {:?}", start.elapsed());
    let many = filesystem.lookup(filesystem.root(), b"many").expect("searched").expect("found");
    assert_eq!(filesystem.lookup(many, b"entry number x").expect("searched"), None);
}

#[test]
fn every_hash_finds_every_name() {
    need_mounts!();
    for hash in ["legacy", "half_md4", "tea"] {
        for signed in ["signed", "unsigned"] {
            let fixture = Fixture::make(32 * MIB, &["-t", "ext4", "-b", "1024"]);
            let image = fixture.image();
            let image = image.to_str().expect("plain");
            let flags = if signed == "signed" { "1" } else { "2" };
            let request = format!("ssv def_hash_version {hash}\nssv flags {flags}\n");
            imgx_fixtures::tool::run_with_input("debugfs", &["-w", "-f", "-", image], &request)
                .expect("debugfs runs");
            let truth = fixture.fill(|root| crate::fill::names(root, 900));
            let context = format!("{hash} {signed}");
            fixture.assert_reads_as(&context, &truth);
            assert_few_reads(&fixture, &context);
        }
    }
}

/// A volume that counts how often it is read.
struct Counting(Vec<u8>, Arc<AtomicU64>);

impl ReadAt for Counting {
    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_exact_at(offset, buffer)
    }
}

/// Asserts that names are found, and not found, without reading the folder from end to end.
fn assert_few_reads(fixture: &Fixture, context: &str) {
    let bytes = fs::read(fixture.image()).expect("read");
    for (name, exists) in [("3-nnn", true), ("899-no", false), ("no such name", false)] {
        let count = Arc::new(AtomicU64::new(0));
        let volume: Arc<dyn ReadAt> = Arc::new(Counting(bytes.clone(), Arc::clone(&count)));
        let filesystem = imgx_engine::fs::open(&volume).expect("opened");
        let found = filesystem.lookup(filesystem.root(), name.as_bytes()).expect("searched");
        assert_eq!(found.is_some(), exists, "{context}: {name}");
        let reads = count.load(Ordering::Relaxed);
        assert!(reads < 12, "{context}: {reads} reads for {name}, so the index was of no use");
    }
}
