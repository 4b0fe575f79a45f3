//! A mounted tree as the kernel shows it, and the check that a listing is the difference of two.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use imgx_engine::job::diff_files::{Aspect, ChangeKind, FileChange};
use imgx_fixtures::tool;

/// The number of a btrfs subvolume's own root.
const FIRST_OF_SUBVOLUME: u64 = 256;

use crate::streams_by_chance::{stream_of, streams_of};

/// A file as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The subvolume that it is in, of a btrfs, and its number there.
    ino: (u64, u64),
    /// What tells a file of NTFS from another that had its number before.
    generation: u64,
    /// The name of a stream, of which its file has the number.
    stream: Vec<u8>,
    born: Option<SystemTime>,
    links: u64,
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    /// Of a folder nothing.
    content: Vec<u8>,
    target: Vec<u8>,
    device: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Paths from the root, which is `/`.
pub type Tree = BTreeMap<Vec<u8>, Seen>;

/// Everything below `root`.
pub fn of_mount(root: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(root, (b"", 0), &mut tree);
    tree
}

/// The number of the subvolume that begins at `at`; `None` if none does.
fn subvolume(at: &Path) -> Option<u64> {
    let arguments = ["inspect-internal", "rootid", at.to_str()?];
    tool::run("btrfs", &arguments).ok()?.trim().parse().ok()
}

fn walk(at: &Path, (path, volume): (&[u8], u64), tree: &mut Tree) {
    let metadata = fs::symlink_metadata(at).expect("there");
    let may_begin = metadata.ino() == FIRST_OF_SUBVOLUME && metadata.is_dir();
    let volume = may_begin.then(|| subvolume(at)).flatten().unwrap_or(volume);
    let file_type = metadata.file_type();
    let content = if file_type.is_file() { fs::read(at).expect("read") } else { Vec::new() };
    let target = match file_type.is_symlink() {
        true => fs::read_link(at).expect("read").as_os_str().as_bytes().to_vec(),
        false => Vec::new(),
    };
    let names: Vec<_> = xattr::list(at).map(Iterator::collect).unwrap_or_default();
    let xattrs = names.into_iter().filter_map(|name| {
        let value = xattr::get(at, &name).ok().flatten()?;
        let is_own = !name.as_bytes().starts_with(b"system.ntfs");
        is_own.then(|| (name.as_bytes().to_vec(), value))
    });
    let ticks = ticks(at);
    let known = ticks.map(|ticks| SystemTime::UNIX_EPOCH + Duration::from_micros(ticks / 10));
    let seen = Seen {
        ino: (volume, metadata.ino()),
        generation: ticks.unwrap_or_default(),
        stream: Vec::new(),
        born: metadata.created().ok().or(known),
        links: metadata.nlink(),
        kind: metadata.mode() & 0o170_000,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        content,
        target,
        device: metadata.rdev(),
        xattrs: xattrs.collect(),
    };
    let own = if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
    for name in streams_of(at) {
        let path = [&own, &b":"[..], &name].concat();
        tree.insert(path, stream(at, &name, &seen));
    }
    tree.insert(own, seen);
    if file_type.is_dir() {
        for entry in fs::read_dir(at).expect("listed") {
            let entry = entry.expect("listed");
            let path = [path, b"/", entry.file_name().as_bytes()].concat();
            walk(&entry.path(), (&path, volume), tree);
        }
    }
}

/// A stream of the file at `at`, which is as `file` but for its content.
fn stream(at: &Path, name: &[u8], file: &Seen) -> Seen {
    Seen {
        stream: name.to_vec(),
        kind: 0o100_000,
        content: fs::read(stream_of(at, name)).expect("read"),
        target: Vec::new(),
        device: 0,
        xattrs: BTreeMap::new(),
        ..file.clone()
    }
}

/// When a file of NTFS was made, in its own ticks, which FUSE does not say.
fn ticks(at: &Path) -> Option<u64> {
    let time = xattr::get(at, "system.ntfs_crtime").ok().flatten()?;
    Some(u64::from_le_bytes(time.get(..8)?.try_into().ok()?))
}

fn folder_of(path: &[u8]) -> (Vec<u8>, &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/').expect("a path");
    (path[..slash.max(1)].to_vec(), &path[slash + 1..])
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder == b"/" { [b"/", name].concat() } else { [folder, b"/", name].concat() }
}

/// Which path of the first tree each path of the second was, as a listing says it.
struct Origins<'a> {
    added: BTreeSet<&'a [u8]>,
    renamed: BTreeMap<&'a [u8], &'a [u8]>,
}

impl Origins<'_> {
    fn of(&self, path: &[u8]) -> Option<Vec<u8>> {
        if path == b"/" {
            return Some(path.to_vec());
        }
        if self.added.contains(path) {
            return None;
        }
        if let Some(old) = self.renamed.get(path) {
            return Some(old.to_vec());
        }
        let (folder, name) = folder_of(path);
        Some(join(&self.of(&folder)?, name))
    }
}

/// Asserts that `changes` are what turns `before` into `after`, no more and no less, and that
/// every file that can be told to be the same one under another name is told so.
pub fn assert_is_difference(context: &str, before: &Tree, after: &Tree, changes: &[FileChange]) {
    let of_kind = |kind| changes.iter().filter(move |change| change.kind == kind);
    let path = |change: &'_ FileChange| -> Vec<u8> { change.path.clone() };
    let show = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let origins = Origins {
        added: of_kind(ChangeKind::Added).map(|change| change.path.as_slice()).collect(),
        renamed: of_kind(ChangeKind::Renamed)
            .map(|change| (&*change.path, change.old_path.as_deref().expect("an old path")))
            .collect(),
    };
    let mut told: BTreeMap<Vec<u8>, &FileChange> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.kind != ChangeKind::Removed) {
        assert!(told.insert(path(change), change).is_none(), "{context}: {change:?} twice");
        assert!(after.contains_key(&change.path), "{context}: {change:?} is not there");
    }
    let mut left: BTreeSet<&Vec<u8>> = before.keys().collect();
    for (path, seen) in after {
        let origin = origins.of(path);
        if before.contains_key(path) {
            assert_eq!(origin.as_ref(), Some(path), "{context}: {} is in both", show(path));
        }
        let mut same = before.iter().filter(|(old, was)| {
            let id = |one: &Seen| (one.ino, one.stream.clone(), one.born, one.kind);
            let is_one = id(was) == id(seen);
            was.links == 1 && is_one && seen.born.is_some() && !after.contains_key(*old)
        });
        let is_new = seen.links == 1 && !before.contains_key(path);
        if let Some((old, _)) = is_new.then(|| same.next()).flatten() {
            let shown = show(path);
            assert_eq!(origin.as_ref(), Some(old), "{context}: {shown} was {}", show(old));
        }
        let Some(origin) = origin else { continue };
        let was = before.get(&origin);
        let was = was.unwrap_or_else(|| panic!("{context}: no {} before", show(&origin)));
        assert!(left.remove(&origin), "{context}: {} became two", show(&origin));
        let expected = aspects(before, after, (&origin, was), (path, seen), &origins);
        let found = told.get(path);
        let found: Vec<Aspect> = found.map(|one| one.aspects.iter().collect()).unwrap_or_default();
        assert_eq!(found, expected, "{context}: {}", show(path));
        let is_told = told.contains_key(path);
        let is_renamed = origins.renamed.contains_key(&**path);
        assert_eq!(is_told, is_renamed || !expected.is_empty(), "{context}: {}", show(path));
    }
    let removed: BTreeSet<Vec<u8>> = of_kind(ChangeKind::Removed).map(path).collect();
    let left: BTreeSet<Vec<u8>> = left.into_iter().cloned().collect();
    assert_eq!(removed, left, "{context}: what was removed");
    assert_eq!(of_kind(ChangeKind::Removed).count(), removed.len(), "{context}: removed twice");
}

fn aspects(
    before: &Tree,
    after: &Tree,
    (old, was): (&[u8], &Seen),
    (path, seen): (&[u8], &Seen),
    origins: &Origins<'_>,
) -> Vec<Aspect> {
    let mut found = Vec::new();
    let mut add = |differs: bool, aspect| found.extend(differs.then_some(aspect));
    let is_one_kind = was.kind == seen.kind;
    add(!is_one_kind, Aspect::Type);
    add(is_one_kind && was.content != seen.content, Aspect::Content);
    add(is_one_kind && was.target != seen.target, Aspect::Target);
    add(is_one_kind && was.device != seen.device, Aspect::Device);
    add(was.mode != seen.mode, Aspect::Mode);
    add(was.owner != seen.owner, Aspect::Owner);
    let is_folder = seen.kind == 0o040_000;
    let is_explained = || {
        let entries = |tree: &Tree, folder: &[u8]| -> BTreeSet<Vec<u8>> {
            let within = tree.keys().filter(|path| *path != b"/" && folder_of(path).0 == folder);
            within.map(|path| folder_of(path).1.to_vec()).collect()
        };
        let names = entries(after, path);
        let stayed = |name: &Vec<u8>| {
            let (one, other) = (join(old, name), join(path, name));
            let number = |seen: &Seen| (seen.ino, seen.generation);
            let is_one = || number(&before[&one]) == number(&after[&other]);
            origins.of(&other).as_ref() == Some(&one) && is_one()
        };
        names != entries(before, old) || !names.iter().all(stayed)
    };
    add(was.modified != seen.modified && !(is_folder && is_explained()), Aspect::Modified);
    add(was.xattrs != seen.xattrs, Aspect::Xattrs);
    found
}
