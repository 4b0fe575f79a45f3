//! Large folders, by their index and one entry after another; large files.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use imgx_engine::base::{ByteCount, ByteOffset, ReadAt, Result};
use imgx_engine::fs::Extent;
use imgx_fixtures::pattern::incompressible;

use crate::common::is_long;
use crate::fill::folder;
use crate::fixture::{Fixture, MIB, open};
use crate::need_mounts;

#[test]
fn a_large_folder_is_listed_whole_and_searched_by_its_index() {
    need_mounts!();
    let count = if is_long() { 100_000 } else { 20_000 };
    for arguments in
        [["-b", "size=1024", "-n", "size=4096"], ["-n", "size=65536", "-i", "size=512"]]
    {
        let fixture = Fixture::make(400 * MIB, &arguments);
        let truth = fixture.fill(|root| {
            let many = folder(root, "many");
            for number in 0..count {
                File::create(many.join(format!("entry number {number}"))).expect("made");
            }
        });
        let filesystem = fixture.assert_reads_as("many", &truth);
        let many = filesystem.lookup(filesystem.root(), b"many").expect("searched").expect("found");
        assert_eq!(filesystem.lookup(many, b"entry number x").expect("searched"), None);
        let filesystem = open(&fixture.image()).expect("opened");
        let (start, mut listed) = (Instant::now(), 0);
        let listing = filesystem.list(many, &mut |entry| {
            filesystem.metadata(entry.expect("sound").file).expect("read");
            listed += 1;
            ControlFlow::Continue(())
        });
        listing.expect("listed");
        println!("{listed} entries were listed with their metadata in {:?}", start.elapsed());
        assert_eq!(listed, count);
        assert_few_reads(&fixture);
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
fn assert_few_reads(fixture: &Fixture) {
    let count = Arc::new(AtomicU64::new(0));
    let bytes = fs::read(fixture.image()).expect("read");
    let volume: Arc<dyn ReadAt> = Arc::new(Counting(bytes, Arc::clone(&count)));
    let filesystem = imgx_engine::fs::open(&volume).expect("opened");
    let many = filesystem.lookup(filesystem.root(), b"many").expect("searched").expect("found");
    for (name, exists) in [("entry number 7", true), ("entry number 19999", true), ("none", false)]
    {
        let before = count.load(Ordering::Relaxed);
        let found = filesystem.lookup(many, name.as_bytes()).expect("searched");
        assert_eq!(found.is_some(), exists, "{name}");
        let reads = count.load(Ordering::Relaxed) - before;
        // Blocks of folders of 64 KiB are 16 of the filesystem's; three or four of them each.
        assert!(reads < 80, "{reads} reads for {name}, so the index was of no use");
    }
}

#[test]
fn a_file_of_very_many_extents_reads_right_and_fast() {
    need_mounts!();
    let fixture = Fixture::make(400 * MIB, &["-b", "size=1024"]);
    let piece = incompressible(1, 1024);
    let truth = fixture.fill(|root| {
        let file = File::create(root.join("pieces")).expect("made");
        for number in 0..20_000 {
            file.write_all_at(&piece, number * 2048).expect("written");
        }
        fs::write(root.join("large"), incompressible(2, 64 << 20)).expect("written");
    });
    fixture.assert_reads_as("pieces", &truth);
    let filesystem = crate::fixture::open_bytes(fs::read(fixture.image()).expect("read"));
    let filesystem = filesystem.expect("opened");
    let open = |name: &[u8]| {
        let file = filesystem.lookup(filesystem.root(), name).expect("searched").expect("found");
        filesystem.open(file).expect("opened")
    };
    let (start, mut extents) = (Instant::now(), 0);
    let mut visit = |_: Extent| {
        extents += 1;
        ControlFlow::Continue(())
    };
    open(b"pieces").extents(&mut visit).expect("told");
    println!("{extents} extents were told in {:?}", start.elapsed());
    assert_eq!(extents, 39_999);
    let (start, mut buffer) = (Instant::now(), vec![0; 1 << 20]);
    let mut content = open(b"large");
    for number in 0..64 {
        content.read_at(number << 20, &mut buffer).expect("read");
    }
    println!("64 MiB were read in {:?}", start.elapsed());
}
