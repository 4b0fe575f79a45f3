//! What a folder tree holds: told by ntfs-3g, and told by the engine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use imgx_engine::fs::{FileId, FileType, Filesystem, Place};
use nix::sys::stat::{major, minor};

const PIECE: usize = 100_000;

/// A file, as far as both sides can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    pub file_type: &'static str,
    pub size: u64,
    pub links: u64,
    pub device: Option<(u64, u64)>,
    pub modified: (i64, i64),
    pub changed: (i64, i64),
    pub accessed: (i64, i64),
    pub target: Option<Vec<u8>>,
    pub content: Option<blake3::Hash>,
}

/// Every file of a tree, by its path.
pub type Tree = BTreeMap<Vec<u8>, Truth>;

/// Digest of a file, read in pieces.
fn digest(size: u64, read: &mut dyn FnMut(u64, &mut [u8])) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE];
    for place in (0..size).step_by(PIECE) {
        let length = usize::try_from((size - place).min(PIECE as u64)).expect("a piece");
        buffer.fill(0xee);
        read(place, &mut buffer[..length]);
        hasher.update(&buffer[..length]);
    }
    hasher.finalize()
}

/// What ntfs-3g says of the tree at `root`.
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

/// What ntfs-3g says of one file.
pub fn truth_of_mount(path: &Path) -> Truth {
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
    let has_size = kind.is_file() || kind.is_symlink();
    Truth {
        file_type,
        size: if has_size { found.size() } else { 0 },
        links: found.nlink(),
        device: is_device.then(|| (major(found.rdev()), minor(found.rdev()))),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
        accessed: (found.atime(), found.atime_nsec()),
        target: kind
            .is_symlink()
            .then(|| fs::read_link(path).expect("a link has a target").into_os_string().into_vec()),
        content: kind.is_file().then(|| {
            let file = File::open(path).expect("opened");
            digest(found.size(), &mut |place, buffer| {
                file.read_exact_at(buffer, place).expect("read");
            })
        }),
    }
}

/// What the engine says of the whole filesystem, without its streams. Each name is also looked up
/// by itself.
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
    for entry in entries.into_iter().filter(|entry| entry.file.tree == 0) {
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

fn name_of(file_type: FileType) -> &'static str {
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

/// What the engine says of one file; its content is read in order, and its extents are compared
/// with what was read.
pub fn truth_of_engine(filesystem: &dyn Filesystem, file: FileId, shown: &str) -> Truth {
    let found = filesystem.metadata(file).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let time = |time: Option<imgx_engine::fs::Timestamp>| {
        let time = time.expect("NTFS keeps its times");
        (time.seconds, i64::from(time.nanoseconds))
    };
    Truth {
        file_type: name_of(found.file_type),
        size: found.size,
        links: u64::from(found.links),
        device: found.device.map(|(major, minor)| (major.into(), minor.into())),
        modified: time(found.modified),
        changed: time(found.changed),
        accessed: time(found.accessed),
        target: (found.file_type == FileType::Symlink)
            .then(|| filesystem.link_target(file).expect("a link has a target")),
        content: (found.file_type == FileType::Regular)
            .then(|| content_of_engine(filesystem, file, found.size, shown)),
    }
}

fn content_of_engine(
    filesystem: &dyn Filesystem,
    file: FileId,
    size: u64,
    shown: &str,
) -> blake3::Hash {
    let mut content = filesystem.open(file).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(content.size(), size, "{shown}: its content's size");
    let digest = digest(size, &mut |place, buffer| {
        let count = content.read_at(place, buffer);
        let count = count.unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(count, buffer.len(), "{shown}: a short read");
    });
    let (mut end, mut holes) = (0, Vec::new());
    let mapped = content.extents(&mut |extent| {
        assert_eq!(extent.offset, end, "{shown}: a gap");
        end += extent.length;
        if matches!(extent.place, Place::Hole | Place::Unwritten(_)) {
            holes.push((extent.offset, extent.length));
        }
        ControlFlow::Continue(())
    });
    mapped.unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(end, size, "{shown}: its extents end elsewhere");
    for (offset, length) in holes {
        let mut hole = vec![1; usize::try_from(length.min(1 << 20)).expect("small")];
        content.read_at(offset, &mut hole).expect("read");
        assert!(hole.iter().all(|byte| *byte == 0), "{shown}: a hole at {offset} is none");
    }
    digest
}

/// Asserts that both trees are one, naming the first few files that differ.
pub fn assert_same(context: &str, found: &Tree, expected: &Tree) {
    let paths: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differing: Vec<String> = paths
        .into_iter()
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            let name = String::from_utf8_lossy(path);
            let (found, expected) = (found.get(path), expected.get(path));
            format!("{name}:\n  found    {found:?}\n  expected {expected:?}")
        })
        .collect();
    let count = differing.len();
    let some: Vec<String> = differing.into_iter().take(5).collect();
    assert!(count == 0, "{context}: {count} files differ\n{}", some.join("\n"));
    assert!(!expected.is_empty(), "{context}: nothing was compared");
}
