//! What only btrfs has, besides files of every awkward sort.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgx_fixtures::pattern::{incompressible, text};
use imgx_fixtures::tool;
use nix::fcntl::{AT_FDCWD, FallocateFlags, fallocate};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::basics::{self, folder};
use crate::fixture::btrfs;

/// Everything below, in folders of its own.
pub fn everything(root: &Path) {
    basics::contents(&folder(root, "contents"));
    basics::sparse(&folder(root, "sparse"));
    basics::links(&folder(root, "links"));
    basics::nodes(&folder(root, "nodes"));
    basics::owners(&folder(root, "owners"));
    basics::attributes(&folder(root, "attributes"), 3000);
    basics::names(&folder(root, "names"), 800);
    times(&folder(root, "times"));
    compressed(&folder(root, "compressed"));
    pieces(&folder(root, "pieces"));
    subvolumes(root);
    collisions(&folder(root, "collisions"));
    many_links(&folder(root, "many-links"));
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("plain")
}

pub fn sync(root: &Path) {
    btrfs(&["filesystem", "sync", plain(root)]);
}

pub fn clone(from: &Path, to: &Path) {
    tool::run("cp", &["--reflink=always", plain(from), plain(to)]).expect("cloned");
}

/// At the ends of 64 bits, as far as the kernel sets them.
fn times(root: &Path) {
    let all = [0, -1, i64::from(i32::MIN), 1 << 31, 1 << 34, -(1 << 40), 1 << 60, i64::MAX];
    for (number, seconds) in all.into_iter().enumerate() {
        let path = root.join(format!("at-{number}"));
        fs::write(&path, "then").expect("written");
        let time = TimeSpec::new(seconds, 999_999_999 - number as i64);
        utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink).expect("set");
    }
}

/// Text, which is compressed where that is mounted for, and overwritten in parts, so that extents
/// are referred to from their middle.
pub fn compressed(root: &Path) {
    for size in [10, 100, 1900, 2048, 3000, 4095, 4096, 4097, 50_000, 131_072, 500_000] {
        fs::write(root.join(format!("text-{size}")), text(size as u64, size)).expect("written");
    }
    fs::write(root.join("same"), vec![b'z'; 1_000_000]).expect("written");
    fs::write(root.join("noise"), incompressible(3, 400_000)).expect("written");
    let file = File::create(root.join("overwritten")).expect("made");
    file.write_all_at(&text(1, 1_000_000), 0).expect("written");
    sync(root);
    for place in [0, 5000, 130_000, 262_144, 400_000, 999_000] {
        file.write_all_at(&text(place, 9000), place).expect("written");
        file.sync_all().expect("synced");
    }
    sync(root);
    clone(&root.join("overwritten"), &root.join("cloned"));
    let cloned = File::options().write(true).open(root.join("cloned")).expect("opened");
    cloned.write_all_at(b"little", 70_000).expect("written");
    cloned.set_len(777_777).expect("cut");
}

/// Reserved ranges that are written in part, holes punched, cut ends, swapped parts.
pub fn pieces(root: &Path) {
    let reserved = File::create(root.join("reserved")).expect("made");
    fallocate(&reserved, FallocateFlags::empty(), 0, 3 << 20).expect("reserved");
    reserved.write_all_at(&incompressible(1, 50_000), 1_000_000).expect("written");
    fallocate(&reserved, FallocateFlags::FALLOC_FL_KEEP_SIZE, 4 << 20, 1 << 20).expect("reserved");
    let punched = File::create(root.join("punched")).expect("made");
    punched.write_all_at(&incompressible(2, 2 << 20), 0).expect("written");
    sync(root);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for (place, length) in [(4096, 4096), (100_000, 77_777), (1_000_000, 500_000)] {
        fallocate(&punched, punch, place, length).expect("punched");
    }
    fallocate(&punched, FallocateFlags::FALLOC_FL_ZERO_RANGE, 700_000, 90_000).expect("zeroed");
    clone(&root.join("punched"), &root.join("twin"));
    let cut = File::create(root.join("cut")).expect("made");
    cut.write_all_at(&incompressible(4, 300_000), 0).expect("written");
    cut.set_len(123_456).expect("cut");
    cut.set_len(1_234_567).expect("grown");
    let many = File::create(root.join("many")).expect("made");
    for number in 0..400 {
        many.write_all_at(&incompressible(number, 4096), (399 - number) * 8192).expect("written");
        if number % 40 == 0 {
            many.sync_data().expect("synced");
        }
    }
    let uncow = root.join("no-sums");
    fs::create_dir(&uncow).expect("made");
    // A filesystem mounted for compression has none of these.
    if tool::run("chattr", &["+C", plain(&uncow)]).is_ok() {
        fs::write(uncow.join("file"), incompressible(5, 300_000)).expect("written");
    }
    let inline = File::create(root.join("inline-and-more")).expect("made");
    inline.write_all_at(b"the start", 0).expect("written");
    inline.sync_all().expect("synced");
    inline.set_len(20_000).expect("grown");
}

/// Subvolumes within one another, and snapshots of those, in which the inner ones are empty.
pub fn subvolumes(root: &Path) {
    let outer = root.join("outer");
    btrfs(&["subvolume", "create", plain(&outer)]);
    fs::write(outer.join("file"), text(1, 60_000)).expect("written");
    let inner = outer.join("folder/inner");
    fs::create_dir(outer.join("folder")).expect("made");
    btrfs(&["subvolume", "create", plain(&inner)]);
    fs::write(inner.join("file"), "of the inner one").expect("written");
    btrfs(&["subvolume", "snapshot", plain(&inner), plain(&root.join("copy"))]);
    btrfs(&["subvolume", "snapshot", "-r", plain(&inner), plain(&root.join("frozen"))]);
    fs::write(inner.join("later"), "not in the snapshots").expect("written");
    fs::write(root.join("copy/own"), "only there").expect("written");
    btrfs(&["subvolume", "create", plain(&root.join("gone"))]);
    fs::write(root.join("gone/file"), "deleted").expect("written");
    btrfs(&["subvolume", "delete", plain(&root.join("gone"))]);
}

/// Names of one hash: CRC32C is linear, so that two texts that differ by a multiple of its
/// polynomial have one.
fn collisions(root: &Path) {
    // The 33 bits of the polynomial, least significant bit first, over five bytes.
    let polynomial = [0xf1_u8, 0x76, 0xec, 0x05, 0x01];
    for number in 0..20_u8 {
        let mut one = format!("name {number} ========").into_bytes();
        fs::write(root.join(String::from_utf8(one.clone()).expect("text")), [number])
            .expect("written");
        let at = one.len() - 8;
        for (byte, bits) in one[at..].iter_mut().zip(polynomial) {
            *byte ^= bits;
        }
        let other = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(one);
        fs::write(root.join(other), [number, number]).expect("written");
    }
}

/// More names of one file than one item has room for.
fn many_links(root: &Path) {
    fs::write(root.join("first"), "many names").expect("written");
    for number in 0..300 {
        let name = format!("{number}-{}", "l".repeat(200));
        if fs::hard_link(root.join("first"), root.join(name)).is_err() {
            // Without `extref`, one item has to hold them all.
            assert!(number > 10);
            break;
        }
    }
}
