//! What a folder tree holds: told by the kernel, and told by the engine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use imgx_engine::fs::{FileId, FileType, Filesystem};
use nix::sys::stat::{major, minor};

/// Files above this are compared in pieces.
const WHOLE: u64 = 64 << 20;
const PIECE: usize = 1 << 20;

/// A file, as far as both sides can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    pub file_type: &'static str,
    pub size: u64,
    pub mode: u32,
    pub owner: (u32, u32),
    pub links: u64,
    pub device: Option<(u64, u64)>,
    pub modified: (i64, i64),
    pub changed: (i64, i64),
    pub target: Option<Vec<u8>>,
    pub content: Option<blake3::Hash>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Every file of a tree, by its path.
pub type Tree = BTreeMap<Vec<u8>, Truth>;

/// Digest of a file: whole, or its ends and a piece at each GiB.
fn digest(size: u64, read: &mut dyn FnMut(u64, &mut [u8])) -> blake3::Hash {
    let piece = PIECE as u64;
    let places: Vec<u64> = if size <= WHOLE {
        (0..size.div_ceil(piece)).map(|number| number * piece).collect()
    } else {
        (0..size - piece).step_by(1 << 30).chain([size - piece]).collect()
    };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE];
    for place in places {
        let length = usize::try_from(piece.min(size - place)).expect("a piece fits memory");
        buffer.fill(0xee);
        read(place, &mut buffer[..length]);
        hasher.update(&buffer[..length]);
    }
    hasher.finalize()
}

/// What the kernel says of the tree at `root`.
pub fn of_mount(root: &Path) -> Tree {
    let mut tree = Tree::new();
    walk_mount(root, &mut Vec::new(), &mut tree);
    tree
}

fn walk_mount(folder: &Path, path: &mut Vec<u8>, tree: &mut Tree) {
    for entry in fs::read_dir(folder).expect("listed") {
        let entry = entry.expect("listed");
        let length = path.len();
        path.push(b'/');
        path.extend(entry.file_name().into_vec());
        let truth = truth_of_mount(&entry.path());
        let is_folder = truth.file_type == "dir";
        tree.insert(path.clone(), truth);
        if is_folder {
            walk_mount(&entry.path(), path, tree);
        }
        path.truncate(length);
    }
}

fn truth_of_mount(path: &Path) -> Truth {
    let found = fs::symlink_metadata(path).expect("a listed file exists");
    let kind = found.file_type();
    let file_type = match () {
        () if kind.is_dir() => "dir",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symlink",
        () if kind.is_char_device() => "char",
        () if kind.is_block_device() => "block",
        () if kind.is_fifo() => "fifo",
        () => "socket",
    };
    let is_device = kind.is_char_device() || kind.is_block_device();
    let names = xattr::list(path).expect("attributes are listed");
    let value = |name: &OsStr| xattr::get(path, name).expect("read").expect("a listed one exists");
    Truth {
        file_type,
        size: found.size(),
        mode: found.mode() & 0xfff,
        owner: (found.uid(), found.gid()),
        links: found.nlink(),
        device: is_device.then(|| (major(found.rdev()), minor(found.rdev()))),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
        target: kind
            .is_symlink()
            .then(|| fs::read_link(path).expect("a link has a target").into_os_string().into_vec()),
        content: kind.is_file().then(|| {
            let file = File::open(path).expect("opened");
            digest(found.size(), &mut |place, buffer| {
                file.read_exact_at(buffer, place).expect("read");
            })
        }),
        xattrs: names.map(|name| (name.as_bytes().to_vec(), value(&name))).collect(),
    }
}

/// What the engine says of the whole filesystem. Each name is also looked up by itself.
pub fn of_engine(filesystem: &dyn Filesystem) -> Tree {
    let mut tree = Tree::new();
    walk_engine(filesystem, filesystem.root(), &mut Vec::new(), &mut tree);
    tree
}

fn walk_engine(filesystem: &dyn Filesystem, folder: FileId, path: &mut Vec<u8>, tree: &mut Tree) {
    let mut entries = Vec::new();
    filesystem
        .list(folder, &mut |entry| {
            entries.push(entry.expect("every entry is sound"));
            ControlFlow::Continue(())
        })
        .expect("the folder is listed");
    for entry in entries {
        let length = path.len();
        path.push(b'/');
        path.extend(&entry.name);
        let shown = String::from_utf8_lossy(path).into_owned();
        let found = filesystem.lookup(folder, &entry.name).expect("looked up");
        assert_eq!(found, Some(entry.file), "{shown} was listed, but looked up otherwise");
        let truth = truth_of_engine(filesystem, entry.file, &shown);
        if let Some(file_type) = entry.file_type {
            assert_eq!(name_of(file_type), truth.file_type, "{shown}: its entry says otherwise");
        }
        let is_folder = truth.file_type == "dir";
        assert!(tree.insert(path.clone(), truth).is_none(), "{shown} was listed twice");
        if is_folder {
            walk_engine(filesystem, entry.file, path, tree);
        }
        path.truncate(length);
    }
}

pub fn name_of(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

fn truth_of_engine(filesystem: &dyn Filesystem, file: FileId, shown: &str) -> Truth {
    let found = filesystem.metadata(file).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let xattrs = filesystem.xattrs(file).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let time = |time: Option<imgx_engine::fs::Timestamp>| {
        let time = time.expect("ext keeps its times");
        (time.seconds, i64::from(time.nanoseconds))
    };
    Truth {
        file_type: name_of(found.file_type),
        size: found.size,
        mode: u32::from(found.mode.expect("ext keeps modes")),
        owner: (found.uid.expect("ext keeps owners"), found.gid.expect("ext keeps groups")),
        links: u64::from(found.links),
        device: found.device.map(|(major, minor)| (major.into(), minor.into())),
        modified: time(found.modified),
        changed: time(found.changed),
        target: (found.file_type == FileType::Symlink)
            .then(|| filesystem.link_target(file).expect("a link has a target")),
        content: (found.file_type == FileType::Regular).then(|| {
            let mut content = filesystem.open(file).expect("opened");
            assert_eq!(content.size(), found.size, "{shown}: its content's size");
            digest(found.size, &mut |place, buffer| {
                let count = content.read_at(place, buffer);
                let count = count.unwrap_or_else(|error| panic!("{shown}: {error}"));
                assert_eq!(count, buffer.len(), "{shown}: a short read");
            })
        }),
        xattrs: xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect(),
    }
}

/// Every file of a damaged tree: its size and the digest of its content, or that it is lost.
pub type Rest = BTreeMap<Vec<u8>, Option<(u64, Option<blake3::Hash>)>>;

/// What the kernel can still read of the tree at `root`.
pub fn of_mount_as_far_as_it_goes(root: &Path) -> Rest {
    let mut rest = Rest::new();
    let mut waiting = vec![(root.to_owned(), Vec::new())];
    while let Some((folder, path)) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = [path.as_slice(), b"/", entry.file_name().as_bytes()].concat();
            let found = fs::symlink_metadata(entry.path()).ok().map(|found| {
                let content = fs::read(entry.path()).ok().filter(|_| found.is_file());
                (found.size(), content.map(|content| blake3::hash(&content)))
            });
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push((entry.path(), path.clone()));
            }
            rest.insert(path, found);
        }
    }
    rest
}

/// What the engine can still read.
pub fn of_engine_as_far_as_it_goes(filesystem: &dyn Filesystem) -> Rest {
    let mut rest = Rest::new();
    let mut waiting = vec![(filesystem.root(), Vec::new())];
    while let Some((folder, path)) = waiting.pop() {
        let mut entries = Vec::new();
        let _ = filesystem.list(folder, &mut |entry| {
            entries.extend(entry.ok());
            ControlFlow::Continue(())
        });
        for entry in entries {
            let path = [path.as_slice(), b"/", &entry.name].concat();
            let found = filesystem.metadata(entry.file).ok().map(|found| {
                let content = (found.file_type == FileType::Regular)
                    .then(|| {
                        let mut content = filesystem.open(entry.file).ok()?;
                        let mut bytes = vec![0; usize::try_from(content.size()).ok()?];
                        content.read_at(0, &mut bytes).ok()?;
                        Some(blake3::hash(&bytes))
                    })
                    .flatten();
                (found.size, content)
            });
            if entry.file_type == Some(FileType::Directory) {
                waiting.push((entry.file, path.clone()));
            }
            rest.insert(path, found);
        }
    }
    rest
}

/// Asserts that both trees are one, naming the first few files that differ.
pub fn assert_same(context: &str, found: &Tree, expected: &Tree) {
    let paths: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differing: Vec<String> = paths
        .into_iter()
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            let name = String::from_utf8_lossy(path);
            format!(
                "{name}:\n  found    {:?}\n  expected {:?}",
                found.get(path),
                expected.get(path)
            )
        })
        .collect();
    let count = differing.len();
    let some: Vec<String> = differing.into_iter().take(5).collect();
    assert!(count == 0, "{context}: {count} files differ\n{}", some.join("\n"));
    assert!(!expected.is_empty(), "{context}: nothing was compared");
}
