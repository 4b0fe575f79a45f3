//! Files by their numbers: which there are, where their names are, and that a file with the same
//! parts is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use imgx_engine::base::{ByteOffset, ReadAt};
use imgx_engine::fs::{FileId, Filesystem, InUse, Numbered, Part};

use crate::fixture::{Fixture, MIB, open_bytes};
use crate::operations;
use crate::streams_by_chance::{self, stream_of, streams_of};
use crate::{layouts, need_ntfs_3g};

/// A record, and the name of a stream of its file; empty for the file itself.
type Number = (u64, Vec<u8>);

/// Bits of a file's number that are its record's.
const RECORD: u64 = (1 << 48) - 1;

/// A file as ntfs-3g shows it, by whatever names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    is_folder: bool,
    /// The folders that name it, once for each name; of the root none.
    folders: Vec<u64>,
    /// All else, in words.
    facts: String,
}

type Tree = BTreeMap<Number, Seen>;

fn of_mount(root: &Path) -> Tree {
    let mut files = BTreeMap::new();
    note(root, None, &mut files);
    files
}

fn note(path: &Path, folder: Option<u64>, files: &mut Tree) {
    let found = fs::symlink_metadata(path).expect("there");
    let own = found.ino();
    let mut names = streams_of(path);
    // A content, and no stream besides; without a plugin, ntfs-3g reads neither.
    names.retain(|name| name != b"WofCompressedData");
    // The root itself lists what streams it has.
    let lists_streams = folder.unwrap_or(own);
    if files.contains_key(&(own, Vec::new())) {
        let names = [Vec::new()].into_iter().chain(names);
        for name in names {
            let seen = files.get_mut(&(own, name)).expect("seen before");
            seen.folders.extend(folder);
            seen.folders.sort_unstable();
        }
        return;
    }
    let mut entries = Vec::new();
    if found.is_dir() {
        let listed = fs::read_dir(path).expect("listed").map(|entry| entry.expect("listed"));
        entries = listed.map(|entry| (entry.file_name(), entry.path())).collect();
        entries.sort();
    }
    let number = |path: &Path| fs::symlink_metadata(path).expect("there").ino();
    let listed: Vec<_> = entries.iter().map(|(name, path)| (name, number(path))).collect();
    let content = found.is_file().then(|| fs::read(path).map(|bytes| blake3::hash(&bytes)).ok());
    let target = found.is_symlink().then(|| fs::read_link(path).expect("read"));
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    let made = xattr::get(path, "system.ntfs_crtime").ok();
    let facts = format!("{times:?} {made:?} {} {}", found.mode(), found.nlink());
    for name in &names {
        let content = blake3::hash(&fs::read(stream_of(path, name)).expect("read"));
        let (folders, facts) = (vec![lists_streams], format!("{facts} {name:?} {content}"));
        files.insert((own, name.clone()), Seen { is_folder: false, folders, facts });
    }
    let facts = format!("{facts} {content:?} {target:?} {names:?} {listed:?}");
    let (is_folder, folders) = (found.is_dir(), folder.into_iter().collect());
    files.insert((own, Vec::new()), Seen { is_folder, folders, facts });
    entries.iter().for_each(|(_, path)| note(path, Some(own), files));
}

/// One state of a volume.
struct State {
    filesystem: Box<dyn Filesystem>,
    bytes: Vec<u8>,
    mount: Tree,
}

impl State {
    fn of(fixture: &Fixture) -> Self {
        let mount = of_mount(fixture.mount("ro").root());
        let bytes = fs::read(fixture.image()).expect("read");
        Self { filesystem: open_bytes(bytes.clone()).expect("opened"), bytes, mount }
    }

    fn numbered(&self) -> &dyn Numbered {
        self.filesystem.numbered().expect("files have numbers")
    }

    fn files_after(&self, after: Option<FileId>, most: usize) -> Vec<InUse> {
        let mut files = Vec::new();
        let take = &mut |file| {
            files.push(file);
            if files.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.numbered().each_file(after, take).expect("gone through");
        files
    }

    /// What the mount calls `file`.
    fn number(&self, file: FileId) -> Number {
        let names = self.numbered().stream_names(FileId::new(file.number)).expect("known");
        let name = match file.tree {
            0 => String::new(),
            tree => {
                let name = &names[usize::try_from(tree - 1).expect("few")];
                let units = name.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
                char::decode_utf16(units).map(|one| one.expect("text")).collect()
            }
        };
        (file.number & RECORD, name.into_bytes())
    }

    /// What a file consists of: its parts and what they hold.
    fn parts(&self, file: FileId) -> Vec<(Part, Vec<u8>)> {
        let mut parts = Vec::new();
        let take = &mut |part: Part| {
            let range = part.range();
            let mut held = vec![0; usize::try_from(range.len()).expect("small")];
            self.bytes.read_exact_at(ByteOffset(range.start), &mut held).expect("on the volume");
            parts.push((part, held));
            ControlFlow::Continue(())
        };
        self.numbered().parts(file, take).expect("its parts");
        parts
    }

    /// Asserts that exactly the files of the mount are shown, in order, however often it is begun
    /// again, and where their names are.
    fn assert_shows(&self, context: &str) {
        let files = self.files_after(None, usize::MAX);
        let order = |one: &InUse| self.numbered().order(one.file);
        assert!(files.is_sorted_by(|one, other| order(one) < order(other)), "{context}: no order");
        let shown: BTreeMap<Number, bool> =
            files.iter().map(|one| (self.number(one.file), one.is_folder)).collect();
        assert_eq!(shown.len(), files.len(), "{context}: one twice");
        let expected = self.mount.iter().map(|(number, seen)| (number.clone(), seen.is_folder));
        let expected: BTreeMap<Number, bool> = expected.collect();
        let wrong: Vec<_> = shown
            .iter()
            .filter(|(number, kind)| expected.get(*number) != Some(*kind))
            .chain(expected.iter().filter(|(number, _)| !shown.contains_key(*number)))
            .collect();
        assert!(wrong.is_empty(), "{context}: {wrong:?}");
        for most in [61, 1000] {
            let mut after = None;
            let mut again = Vec::new();
            loop {
                let next = self.files_after(after, most);
                let Some(last) = next.last() else { break };
                after = Some(last.file);
                again.extend(next);
            }
            assert!(again == files, "{context}: begun again after each {most}");
        }
        for InUse { file, .. } in files {
            let folders = self.numbered().folders_of(file).expect("known").expect("they know");
            let mut folders: Vec<_> = folders.iter().map(|one| one.number & RECORD).collect();
            folders.sort_unstable();
            assert_eq!(folders, self.mount[&self.number(file)].folders, "{context}: {file:?}");
        }
    }
}

/// Asserts that what has the same parts is the same, and that something is and something is not.
fn assert_same_parts_are_same_files(context: &str, [before, after]: [&State; 2]) {
    assert_eq!(before.numbered().basis(), after.numbered().basis(), "{context}");
    let others: BTreeSet<FileId> =
        after.files_after(None, usize::MAX).iter().map(|one| one.file).collect();
    let (mut same, mut changed) = (0, 0);
    for InUse { file, .. } in before.files_after(None, usize::MAX) {
        if !others.contains(&file) {
            continue;
        }
        if before.parts(file) != after.parts(file) {
            changed += 1;
            continue;
        }
        let (number, other) = (before.number(file), after.number(file));
        assert_eq!(number, other, "{context}: {file:?} has the same parts");
        let facts = [before, after].map(|state| &state.mount[&number].facts);
        assert_eq!(facts[0], facts[1], "{context}: {number:?} has the same parts");
        same += 1;
    }
    assert!(same > 0 && changed > 0, "{context}: {same} are the same and {changed} are not");
}

#[test]
fn each_file_is_shown_by_its_number_and_is_what_its_parts_are() {
    need_ntfs_3g!();
    for (cluster_size, seed) in [(512, 1), (65_536, 2)] {
        let fixture = Fixture::make(96 * MIB, cluster_size);
        let states = [0, 1, 2].map(|round| {
            let mount = fixture.mount("noatime");
            if round == 0 {
                operations::fill(mount.root(), seed);
                streams_by_chance::fill(mount.root(), seed);
                layouts::fill(mount.root());
            } else {
                operations::change(mount.root(), seed * 10 + round, 30);
                streams_by_chance::change(mount.root(), seed * 10 + round, 20);
            }
            drop(mount);
            State::of(&fixture)
        });
        let context = format!("clusters of {cluster_size}");
        for (round, state) in states.iter().enumerate() {
            state.assert_shows(&format!("{context}, round {round}"));
        }
        for pair in [[0, 1], [1, 2]] {
            assert_same_parts_are_same_files(&context, pair.map(|state| &states[state]));
        }
    }
}

/// What comes behind the first record, which may be in two parts.
fn behind_record(parts: &[(Part, Vec<u8>)]) -> &[(Part, Vec<u8>)] {
    let (mut length, mut count) = (0, 0);
    while length < 1024 {
        length += parts[count].1.len();
        count += 1;
    }
    &parts[count..]
}

#[test]
fn what_changes_in_one_way_has_other_parts_and_nothing_else_has() {
    need_ntfs_3g!();
    for cluster_size in [512, 4096] {
        let fixture = Fixture::make(96 * MIB, cluster_size);
        layouts::fill(fixture.mount("noatime").root());
        let before = State::of(&fixture);
        layouts::change(fixture.mount("noatime").root());
        let after = State::of(&fixture);
        let find = |path: &str| crate::links::find(before.filesystem.as_ref(), path);
        // Folders have copies of their files' sizes and times, streams have their file's record.
        let mut changed = BTreeSet::from([before.filesystem.root().number]);
        for (name, case) in layouts::CASES {
            for path in case.changed {
                let file = find(&format!("{name}/{path}"));
                let parts = [&before, &after].map(|state| state.parts(file));
                assert_ne!(parts[0], parts[1], "{cluster_size}: {name}/{path}");
                if case.is_beyond && case.changed.last() == Some(path) {
                    let [one, other] = [&parts[0], &parts[1]].map(|parts| behind_record(parts));
                    assert!(one != other, "{cluster_size}: {name}/{path}, but its record");
                }
                changed.insert(file.number);
                let path = format!("{name}/{path}");
                let folders = path.match_indices('/').map(|(end, _)| find(&path[..end]).number);
                changed.extend(folders);
            }
        }
        let mut untouched = 0;
        for InUse { file, .. } in before.files_after(None, usize::MAX) {
            if !changed.contains(&file.number) {
                let is_same = before.parts(file) == after.parts(file);
                assert!(is_same, "{cluster_size}: {:?} was not touched", before.number(file));
                untouched += 1;
            }
        }
        assert!(untouched > layouts::CASES.len(), "{untouched} files");
    }
}
