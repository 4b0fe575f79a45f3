//! Files of every awkward sort.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use imgx_fixtures::pattern::incompressible;
use nix::fcntl::{AT_FDCWD, FallocateFlags, fallocate};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::mkfifo;

/// Everything below, in folders of its own.
pub fn everything(root: &Path) {
    contents(&folder(root, "contents"));
    sparse(&folder(root, "sparse"));
    links(&folder(root, "links"));
    nodes(&folder(root, "nodes"));
    owners(&folder(root, "owners"));
    times(&folder(root, "times"));
    attributes(&folder(root, "attributes"), 500);
    names(&folder(root, "names"), 800);
    names(&folder(root, "few"), 5);
}

pub fn folder(root: &Path, name: &str) -> std::path::PathBuf {
    let path = root.join(name);
    fs::create_dir(&path).expect("made");
    path
}

fn bytes(length: usize) -> Vec<u8> {
    incompressible(length as u64, length)
}

/// Sizes around every limit of inline data, blocks, and indirect blocks.
pub fn contents(root: &Path) {
    for size in [0, 1, 59, 60, 61, 100, 150, 160, 1023, 1024, 1025, 4096, 5000, 13_000, 300_000] {
        fs::write(root.join(format!("bytes-{size}")), bytes(size)).expect("written");
    }
    fs::write(root.join("large"), bytes(3 << 20)).expect("written");
    let deep = root.join("a/b/c/d/e/f/g");
    fs::create_dir_all(&deep).expect("made");
    fs::write(deep.join("deep"), "down here").expect("written");
}

/// Holes at every level of a map, many extents, and blocks that were reserved but not written.
pub fn sparse(root: &Path) {
    let holes = File::create(root.join("holes")).expect("made");
    for place in [3_000, 20_000, 400_000, 5_000_000, 70_000_000, 4_600_000_000] {
        holes.write_all_at(&bytes(5000), place).expect("written");
    }
    File::create(root.join("all-hole")).and_then(|file| file.set_len(9_000_001)).expect("made");
    let pieces = File::create(root.join("pieces")).expect("made");
    for number in 0..700 {
        pieces.write_all_at(&bytes(4096), number * 12_288).expect("written");
    }
    let reserved = File::create(root.join("reserved")).expect("made");
    // Old forms of files cannot reserve.
    if fallocate(&reserved, FallocateFlags::empty(), 0, 1 << 20).is_ok() {
        reserved.write_all_at(&bytes(10_000), 333_333).expect("written");
        fallocate(&reserved, FallocateFlags::FALLOC_FL_KEEP_SIZE, 2 << 20, 1 << 20)
            .expect("reserved beyond the end");
    }
}

pub fn links(root: &Path) {
    for length in [1, 10, 59, 60, 61, 100, 150, 200, 1000] {
        symlink("t".repeat(length), root.join(format!("link-{length}"))).expect("made");
    }
    fs::write(root.join("one"), "two names").expect("written");
    fs::hard_link(root.join("one"), root.join("other")).expect("made");
}

pub fn nodes(root: &Path) {
    mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o640)).expect("made");
    let _listener = UnixListener::bind(root.join("socket")).expect("bound");
    let node = |name: &str, kind, major, minor| {
        let mode = Mode::from_bits_truncate(0o600);
        mknod(&root.join(name), kind, mode, makedev(major, minor)).expect("made");
    };
    node("null", SFlag::S_IFCHR, 1, 3);
    node("disk", SFlag::S_IFBLK, 255, 255);
    node("large-minor", SFlag::S_IFCHR, 7, 1_000_003);
    node("large-major", SFlag::S_IFBLK, 4_001, 256);
}

pub fn owners(root: &Path) {
    let owned =
        [(0, 0, 0o4755), (1000, 100, 0o2640), (70_000, 80_000, 0o1777), (4_000_000_000, 1, 0)];
    for (uid, gid, mode) in owned {
        let path = root.join(format!("of-{uid}-{gid}"));
        fs::write(&path, "owned").expect("written");
        chown(&path, Some(uid), Some(gid)).expect("given");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
    }
}

/// Before 1970, after 2038, and at the ends of what 34 bits can say.
pub fn times(root: &Path) {
    let all =
        [0, -1, i64::from(i32::MIN), i64::from(i32::MAX), 1 << 31, 5_000_000_000, 15_032_385_535];
    for (number, seconds) in all.into_iter().enumerate() {
        let path = root.join(format!("at-{number}"));
        fs::write(&path, "then").expect("written");
        let time = TimeSpec::new(seconds, 999_999_999 - number as i64);
        utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink).expect("set");
    }
}

/// Attributes within inodes and in blocks, ACLs in both places, of `large` bytes the largest.
pub fn attributes(root: &Path, large: usize) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let path = root.join(name);
        if !path.exists() {
            fs::write(&path, name).expect("written");
        }
        xattr::set(&path, attribute, value).expect("set");
    };
    set("small", "user.small", b"value");
    set("small", "user.empty", b"");
    set("large", "user.large", &bytes(large));
    set("large", "trusted.note", b"for root");
    set("large", "security.thing", &bytes(77));
    let entries =
        [(1_u16, 7_u16, None), (2, 6, Some(1234_u32)), (4, 5, None), (8, 4, Some(70_000))];
    let entries = entries.into_iter().chain([(0x10, 7, None), (0x20, 0, None)]);
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.unwrap_or(u32::MAX).to_le_bytes());
    }
    set("listed", "system.posix_acl_access", &acl);
    fs::create_dir(root.join("folder")).expect("made");
    xattr::set(root.join("folder"), "system.posix_acl_default", &acl).expect("set");
    xattr::set(root.join("folder"), "system.posix_acl_access", &acl).expect("set");
    symlink("nowhere", root.join("link")).expect("made");
    xattr::set(root.join("link"), "trusted.of-link", b"the link's own").expect("set");
}

/// `count` names, short and long, and some that are no text.
pub fn names(root: &Path, count: usize) {
    for number in 0..count {
        let long = "n".repeat(number % 200);
        File::create(root.join(format!("{number}-{long}"))).expect("made");
    }
    for name in
        [b"\xff\xfe\x80".as_slice(), b"new\nline", "\u{e4}\u{20ac}".as_bytes(), &[0xe9; 255]]
    {
        File::create(root.join(OsStr::from_bytes(name))).expect("made");
    }
}

/// A little of everything, for an image that is walked many times.
pub fn everything_small(root: &Path) {
    links(&folder(root, "links"));
    nodes(&folder(root, "nodes"));
    attributes(&folder(root, "attributes"), 500);
    names(&folder(root, "names"), 150);
    fs::write(root.join("content"), bytes(500_000)).expect("written");
    let holes = File::create(root.join("holes")).expect("made");
    for number in 0..30 {
        holes.write_all_at(b"data", number * 40_000).expect("written");
    }
}
