//! Files of every sort that XFS has a form for.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

pub use crate::common_fill::{attributes, contents, folder, names, owners, sparse, times};

/// Everything below, in folders of its own.
pub fn everything(root: &Path) {
    contents(&folder(root, "contents"));
    sparse(&folder(root, "sparse"));
    links(&folder(root, "links"));
    nodes(&folder(root, "nodes"));
    owners(&folder(root, "owners"));
    times(&folder(root, "times"));
    attributes(&folder(root, "attributes"), 60_000);
    many_attributes(&folder(root, "more-attributes"));
    folders(&folder(root, "folders"));
    shared(&folder(root, "shared"));
}

/// Folders of each form: in the inode, one block, one leaf, many leaves; some with gaps.
pub fn folders(root: &Path) {
    for count in [0, 1, 5, 40, 150, 900, 4000] {
        names(&folder(root, &format!("of-{count}")), count);
    }
    let holey = folder(root, "holey");
    names(&holey, 1500);
    for number in (100..1400).filter(|number| number % 50 != 0) {
        fs::remove_file(holey.join(format!("{number}-{}", "n".repeat(number % 200))))
            .expect("removed");
    }
}

/// Targets in the inode, in one block, in more.
pub fn links(root: &Path) {
    for length in [1, 100, 150, 300, 330, 336, 337, 400, 900, 968, 969, 1000, 1022, 1023] {
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
    node("large", SFlag::S_IFCHR, 511, 262_143);
}

/// Attributes in one leaf, in many, and values in blocks of their own among them.
pub fn many_attributes(root: &Path) {
    for (name, count) in [("leaf", 20), ("many", 600)] {
        let path = root.join(name);
        fs::write(&path, name).expect("written");
        for number in 0..count {
            let value = incompressible(number, usize::try_from(number % 70).expect("small"));
            xattr::set(&path, format!("user.{number}-attribute"), &value).expect("set");
        }
    }
    let path = root.join("values");
    fs::write(&path, "values").expect("written");
    for size in [255, 256, 1000, 3000, 4039, 4040, 4041, 5000, 40_000, 65_535, 65_536] {
        xattr::set(&path, format!("user.of-{size}"), &incompressible(9, size)).expect("set");
    }
}

/// Blocks that several files share, where the filesystem can.
pub fn shared(root: &Path) {
    let one = root.join("one");
    fs::write(&one, incompressible(5, 1 << 20)).expect("written");
    let paths = (one.to_str().expect("plain"), root.join("two"));
    let copied = tool::run("cp", &["--reflink=always", paths.0, paths.1.to_str().expect("plain")]);
    if copied.is_ok() {
        let two = File::options().write(true).open(&paths.1).expect("opened");
        for number in 0..20 {
            two.write_all_at(b"changed", number * 50_000).expect("written");
        }
    }
}

/// A little of everything, for an image that is walked many times.
pub fn everything_small(root: &Path) {
    links(&folder(root, "links"));
    nodes(&folder(root, "nodes"));
    attributes(&folder(root, "attributes"), 5000);
    names(&folder(root, "names"), 300);
    names(&folder(root, "few"), 3);
    fs::write(root.join("content"), incompressible(1, 500_000)).expect("written");
    let holes = File::create(root.join("holes")).expect("made");
    for number in 0..60 {
        holes.write_all_at(b"data", number * 40_000).expect("written");
    }
}
