//! Large folders and large files take the time they should.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use imgx_engine::base::{ByteCount, ByteOffset, ReadAt, Result};
use imgx_fixtures::pattern::incompressible;

use crate::basics::folder;
use crate::common::is_long;
use crate::fixture::{Fixture, MIB, find};
use crate::need_mounts;

#[test]
fn a_large_folder_is_listed_whole_and_searched_by_hash() {
    need_mounts!();
    let count = if is_long() { 100_000 } else { 20_000 };
    let fixture = Fixture::make(600 * MIB, &[]);
    let truth = fixture.fill("noatime", |root| {
        let many = folder(root, "many");
        for number in 0..count {
            File::create(many.join(format!("entry number {number}"))).expect("made");
        }
    });
    let start = Instant::now();
    fixture.assert_reads_as("a large folder", &truth);
    println!("{count} entries were compared in {:?}", start.elapsed());
    let bytes = fs::read(fixture.image()).expect("read");
    let reads = Arc::new(AtomicU64::new(0));
    let volume: Arc<dyn ReadAt> = Arc::new(Counting(bytes, Arc::clone(&reads)));
    let filesystem = imgx_engine::fs::open(&volume).expect("opened");
    let start = Instant::now();
    let many = find(filesystem.as_ref(), "many");
    let mut found = 0;
    let list = filesystem.list(many, &mut |entry| {
        let file = entry.expect("sound").file;
        found += u64::from(filesystem.metadata(file).is_ok());
        std::ops::ControlFlow::Continue(())
    });
    list.expect("listed");
    println!("{found} entries were listed in {:?}", start.elapsed());
    assert_eq!(found, count);
    for name in ["entry number 17", "entry number x"] {
        let filesystem = imgx_engine::fs::open(&volume).expect("opened");
        let before = reads.load(Ordering::Relaxed);
        let exists = filesystem.lookup(many, name.as_bytes()).expect("searched").is_some();
        assert_eq!(exists, !name.ends_with('x'));
        let reads = reads.load(Ordering::Relaxed) - before;
        assert!(reads < 12, "{reads} reads for {name}, so its hash was of no use");
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

/// Prints how fast content is read and verified; run by `--ignored --nocapture`, in release.
#[test]
#[ignore = "a measurement"]
fn speed() {
    need_mounts!();
    for (kind, options) in [
        ("crc32c", "noatime"),
        ("xxhash", "noatime"),
        ("sha256", "noatime"),
        ("blake2", "noatime"),
        ("crc32c", "compress-force=zstd"),
        ("crc32c", "compress-force=lzo"),
        ("crc32c", "compress-force=zlib"),
    ] {
        let fixture = Fixture::make(800 * MIB, &["--csum", kind]);
        fixture.fill(options, |root| {
            let bytes = match options {
                "noatime" => incompressible(1, 64 << 20),
                _ => imgx_fixtures::pattern::text(1, 64 << 20),
            };
            fs::write(root.join("file"), bytes.repeat(4)).expect("written");
        });
        let filesystem = crate::fixture::open_bytes(fs::read(fixture.image()).expect("read"));
        let filesystem = filesystem.expect("opened");
        let mut content = filesystem.open(find(filesystem.as_ref(), "file")).expect("opened");
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..2 {
            let (start, mut place) = (Instant::now(), 0);
            while place < content.size() {
                place += content.read_at(place, &mut buffer).expect("read") as u64;
            }
            let speed = place as f64 / start.elapsed().as_secs_f64() / 1e9;
            println!("{kind} {options}: {speed:.2} GB/s");
        }
    }
}
