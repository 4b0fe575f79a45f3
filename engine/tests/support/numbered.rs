//! What `Numbered` promises, held against a mount: which files there are, where their names are,
//! and that a file with the same parts is the same: nothing is read for it that is none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use imgx_engine::base::ranges::{joined, without};
use imgx_engine::base::{ByteCount, ByteOffset, ByteRange, ReadAt, Result};
use imgx_engine::fs::{FileId, FileType, Filesystem, InUse, Numbered, Part};

/// Of larger files only the ends are read.
const WHOLE: u64 = 4 << 20;

/// A file as a mount shows it, by whatever names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub is_folder: bool,
    /// The folders that name it; of a folder the one that it is in, of the root none.
    pub folders: BTreeSet<u64>,
    /// All else, in words.
    pub facts: String,
}

/// Every file below `root`, by its number.
pub fn of_mount(root: &Path) -> BTreeMap<u64, Seen> {
    let mut files = BTreeMap::new();
    note(root, None, &mut files);
    files
}

fn note(path: &Path, folder: Option<u64>, files: &mut BTreeMap<u64, Seen>) {
    let found = fs::symlink_metadata(path).expect("there");
    let own = found.ino();
    if let Some(seen) = files.get_mut(&own) {
        seen.folders.extend(folder);
        return;
    }
    let is_folder = found.is_dir();
    let mut entries = Vec::new();
    if is_folder {
        let listed = fs::read_dir(path).expect("listed").map(|entry| entry.expect("listed"));
        entries = listed.map(|entry| (entry.file_name(), entry.path())).collect();
        entries.sort();
    }
    let names: Vec<_> = entries.iter().map(|(name, path)| (name, inode(path))).collect();
    let content = found.is_file().then(|| digest(path, found.size()));
    let target = found.is_symlink().then(|| fs::read_link(path).expect("read"));
    let xattrs: BTreeMap<_, _> = xattr::list(path)
        .map(|names| names.map(|name| (name.clone(), xattr::get(path, &name).ok())).collect())
        .unwrap_or_default();
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    let numbers = (found.mode(), found.uid(), found.gid(), found.size(), found.rdev(), times);
    let facts =
        format!("{numbers:?} {} {content:?} {target:?} {xattrs:?} {names:?}", found.nlink());
    files.insert(own, Seen { is_folder, folders: folder.into_iter().collect(), facts });
    entries.iter().for_each(|(_, path)| note(path, Some(own), files));
}

/// Digest of a file, or of both ends of a large one.
fn digest(path: &Path, size: u64) -> blake3::Hash {
    let file = File::open(path).expect("opened");
    let mut hasher = blake3::Hasher::new();
    for place in [0, size.saturating_sub(WHOLE)] {
        let mut held = vec![0; usize::try_from(size.min(WHOLE)).expect("small")];
        file.read_exact_at(&mut held, place).expect("read");
        hasher.update(&held);
    }
    hasher.finalize()
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("there").ino()
}

fn files_after(numbered: &dyn Numbered, after: Option<FileId>, most: usize) -> Vec<InUse> {
    let mut files = Vec::new();
    let take = &mut |file| {
        files.push(file);
        if files.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    numbered.each_file(after, take).expect("gone through");
    files
}

/// Asserts that exactly the files of the mount are shown, in order, however often it is begun
/// again, and where their names are, as far as that is said.
pub fn assert_shows(context: &str, filesystem: &dyn Filesystem, mount: &BTreeMap<u64, Seen>) {
    let numbered = filesystem.numbered().expect("files have numbers");
    let files = files_after(numbered, None, usize::MAX);
    let order = |one: &InUse| numbered.order(one.file);
    assert!(files.is_sorted_by(|one, other| order(one) < order(other)), "{context}: not in order");
    let shown: BTreeSet<_> = files.iter().map(|one| (one.file.number, one.is_folder)).collect();
    let expected: BTreeSet<_> =
        mount.iter().map(|(number, seen)| (*number, seen.is_folder)).collect();
    let wrong: Vec<_> = shown.symmetric_difference(&expected).collect();
    assert!(wrong.is_empty(), "{context}: shown are {} {wrong:?}", files.len());
    let mut again = Vec::new();
    loop {
        let after = again.last().map(|last: &InUse| last.file);
        let next = files_after(numbered, after, 97);
        if next.is_empty() {
            break;
        }
        again.extend(next);
    }
    assert!(again == files, "{context}: begun again");
    for InUse { file, is_folder } in files {
        match numbered.folders_of(file).expect("known") {
            Some(folders) => {
                let folders: BTreeSet<u64> = folders.iter().map(|one| one.number).collect();
                assert_eq!(folders, mount[&file.number].folders, "{context}: {file:?}");
            }
            None => assert!(!is_folder, "{context}: {file:?}"),
        }
    }
}

/// What a file consists of: its parts and what they hold.
fn parts(filesystem: &dyn Filesystem, bytes: &[u8], file: FileId) -> Vec<(Part, Vec<u8>)> {
    let mut parts = Vec::new();
    let numbered = filesystem.numbered().expect("files have numbers");
    let take = &mut |part: Part| {
        let range = part.range();
        let mut held = vec![0; usize::try_from(range.len()).expect("small")];
        bytes.read_exact_at(ByteOffset(range.start), &mut held).expect("on the volume");
        parts.push((part, held));
        ControlFlow::Continue(())
    };
    numbered.parts(file, take).expect("its parts");
    parts
}

/// One state of a filesystem.
pub struct State<'a> {
    pub filesystem: &'a dyn Filesystem,
    pub bytes: &'a [u8],
    pub mount: &'a BTreeMap<u64, Seen>,
}

/// Asserts that what has the same parts is the same, and that something is and something is not.
pub fn assert_same_parts_are_same_files(context: &str, [before, after]: [&State<'_>; 2]) {
    let basis = |state: &State<'_>| state.filesystem.numbered().expect("numbers").basis();
    assert_eq!(basis(before), basis(after), "{context}");
    let numbered = before.filesystem.numbered().expect("files have numbers");
    let (mut same, mut others) = (0, 0);
    for InUse { file, .. } in files_after(numbered, None, usize::MAX) {
        let (Some(was), Some(is)) = (before.mount.get(&file.number), after.mount.get(&file.number))
        else {
            continue;
        };
        let one = parts(before.filesystem, before.bytes, file);
        if one == parts(after.filesystem, after.bytes, file) {
            assert_eq!(was.facts, is.facts, "{context}: {file:?} has the same parts");
            same += 1;
        } else {
            others += 1;
        }
    }
    assert!(same > 0 && others > 0, "{context}: {same} are the same and {others} are not");
}

/// A volume that notes what is read of it.
struct Watched {
    bytes: Arc<Vec<u8>>,
    reads: Arc<Mutex<Vec<ByteRange>>>,
}

impl ReadAt for Watched {
    fn size(&self) -> ByteCount {
        self.bytes.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset.0, buffer.len() as u64);
        self.reads.lock().expect("nobody panicked").push(range);
        self.bytes.read_exact_at(offset, buffer)
    }
}

/// Asserts that all that is read to answer for a file is among its parts, to whole units of `unit`
/// bytes, or among `shared`: what the filesystem's basis and the places of parts stand for.
pub fn assert_reads_are_parts(context: &str, bytes: Vec<u8>, unit: u64, shared: &[ByteRange]) {
    let bytes = Arc::new(bytes);
    let open = || {
        let reads = Arc::new(Mutex::new(Vec::new()));
        let watched = Watched { bytes: Arc::clone(&bytes), reads: Arc::clone(&reads) };
        let volume: Arc<dyn ReadAt> = Arc::new(watched);
        (imgx_engine::fs::open(&volume).expect("opened"), reads)
    };
    let (first, _) = open();
    let numbered = first.numbered().expect("files have numbers");
    for InUse { file, .. } in files_after(numbered, None, usize::MAX) {
        let mut known = shared.to_vec();
        let own = parts(first.as_ref(), &bytes, file);
        // Empty files are many, and all alike.
        if own.len() == 1 && file.number % 16 != 0 {
            continue;
        }
        for (part, _) in own {
            let range = part.range();
            let (start, end) = (range.start / unit * unit, range.end.next_multiple_of(unit));
            known.push(ByteRange { start, end });
        }
        // Nothing is in a cache of its own yet.
        let (filesystem, reads) = open();
        reads.lock().expect("nobody panicked").clear();
        ask_everything(filesystem.as_ref(), file);
        let reads = std::mem::take(&mut *reads.lock().expect("nobody panicked"));
        let others = without(&joined(reads), &joined(known));
        assert!(others.is_empty(), "{context}: {file:?} is read from {others:?} too");
    }
}

fn ask_everything(filesystem: &dyn Filesystem, file: FileId) {
    let metadata = filesystem.metadata(file).expect("sound");
    filesystem.xattrs(file).expect("sound");
    match metadata.file_type {
        FileType::Directory => {
            let visit = &mut |entry: Result<_>| {
                entry.expect("sound");
                ControlFlow::Continue(())
            };
            filesystem.list(file, visit).expect("sound");
        }
        FileType::Symlink => drop(filesystem.link_target(file).expect("sound")),
        FileType::Regular => {
            let mut content = filesystem.open(file).expect("sound");
            content.extents(&mut |_| ControlFlow::Continue(())).expect("sound");
            let mut buffer = vec![0; usize::try_from(WHOLE).expect("small")];
            for place in [0, metadata.size.saturating_sub(WHOLE)] {
                content.read_at(place, &mut buffer).expect("sound");
            }
        }
        _ => {}
    }
}
