//! Large folders and large files, in the long profile: some take a minute to make.

use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::common::is_long;
use crate::fixture::{Fixture, MIB, many, noise, open_bytes};
use crate::links::find;
use crate::need_ntfs_3g;

/// Bars that a slow machine meets too.
const LISTING: Duration = Duration::from_secs(2);
const BYTES_A_SECOND: f64 = 1e9;

#[test]
fn a_folder_of_a_hundred_thousand_files_is_listed_in_two_seconds() {
    need_ntfs_3g!();
    if !is_long() {
        println!("skipped: IMGX_LONG is not set");
        return;
    }
    let fixture = Fixture::make(400 * MIB, 4096);
    {
        let mount = fixture.mount("");
        many(&mount.root().join("folder"), 100_000);
    }
    let filesystem = open_bytes(fs::read(fixture.image()).expect("read")).expect("opened");
    let folder = find(filesystem.as_ref(), "folder");
    let start = Instant::now();
    let (mut count, mut size) = (0, 0);
    let listed = filesystem.list(folder, &mut |entry| {
        let entry = entry.expect("sound");
        size += filesystem.metadata(entry.file).expect("described").size;
        count += 1;
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    let took = start.elapsed();
    println!("{count} files of {size} bytes in {took:?}");
    assert_eq!((count, size), (100_000, 488_890));
    assert!(took < LISTING, "{took:?}");
    let start = Instant::now();
    for number in (0..100_000).step_by(100) {
        let name = format!("a file with the number {number:06}");
        let found = filesystem.lookup(folder, name.as_bytes()).expect("searched");
        assert!(found.is_some(), "{name}");
    }
    println!("1,000 names were looked up in {:?}", start.elapsed());
}

#[test]
fn a_large_file_is_read_at_the_speed_of_memory() {
    need_ntfs_3g!();
    if !is_long() {
        println!("skipped: IMGX_LONG is not set");
        return;
    }
    let fixture = Fixture::make(400 * MIB, 4096);
    {
        let mount = fixture.mount("");
        let mut file = File::create(mount.root().join("file")).expect("made");
        for number in 0..256 {
            file.write_all(&noise(number, 1 << 20)).expect("written");
        }
    }
    let filesystem = open_bytes(fs::read(fixture.image()).expect("read")).expect("opened");
    let mut content = filesystem.open(find(filesystem.as_ref(), "file")).expect("opened");
    let mut buffer = vec![1; 1 << 20];
    let start = Instant::now();
    for place in (0..256 * MIB).step_by(1 << 20) {
        assert_eq!(content.read_at(place, &mut buffer).expect("read"), buffer.len());
    }
    let took = start.elapsed();
    println!("256 MiB in {took:?}");
    assert!(256.0 * 1048576.0 / took.as_secs_f64() > BYTES_A_SECOND, "{took:?}");
}
