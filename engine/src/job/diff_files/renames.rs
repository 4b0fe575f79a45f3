//! Which of the paths that only one disk has are one file under another name.
//!
//! A file is the same under another name if it has the number, the type and the time of birth that
//! it had; where a filesystem notes no births, the size and the time of the last change besides. A
//! number alone is not enough: it is given to the next file when one is removed. FAT and exFAT have
//! no numbers: there a file is known by where its content starts, its size and its times, and a
//! folder by where its first entry is.
//!
//! Folders come first, from the top: what is below a renamed folder under the name that it had
//! there came along and is no renaming of its own.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::change::{Aspects, ChangeKind, FileChange, Side};
use super::compare::Pair;
use super::joint::Orphan;
use crate::fs::{FileId, FileType, Filesystem, Place};

/// What a file is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Its number.
    Number(FileId),
    /// An NTFS stream: its file's number and its own name, because streams count as they come.
    Stream(u64, Vec<u8>),
    /// The byte of the volume that it starts at.
    Start(u64),
}

/// Orphans in the order of their paths, each with what it turned out to be.
pub(super) struct Matched {
    pub orphans: [Vec<Orphan>; 2],
    /// For each of the second disk's, the one of the first that it was, and whether it was renamed
    /// itself and not only a folder above.
    pub mates: Vec<Option<(usize, bool)>>,
    /// For each of the first disk's, whether it still is.
    pub taken: Vec<bool>,
}

/// Finds out which orphans are one file.
pub(super) fn matched(
    filesystems: [&dyn Filesystem; 2],
    mut orphans: [Vec<Orphan>; 2],
    is_same_filesystem: bool,
) -> Matched {
    orphans.iter_mut().for_each(|side| side.sort_by(|one, other| one.path.cmp(&other.path)));
    let mates = vec![None; orphans[1].len()];
    let taken = vec![false; orphans[0].len()];
    let mut found = Matched { orphans, mates, taken };
    if is_same_filesystem && !found.mates.is_empty() && !found.taken.is_empty() {
        let keys = Side::BOTH.map(|side| {
            let filesystem = filesystems[side.index()];
            let orphans = &found.orphans[side.index()];
            orphans.iter().map(|orphan| key(filesystem, orphan)).collect::<Vec<_>>()
        });
        found.fill(&keys);
    }
    found
}

impl Matched {
    fn fill(&mut self, [before, after]: &[Vec<Option<Key>>; 2]) {
        // The last of those with one key is the first of them.
        let mut by_key: HashMap<&Key, Vec<usize>> = HashMap::new();
        for (number, key) in before.iter().enumerate().rev() {
            key.iter().for_each(|key| by_key.entry(key).or_default().push(number));
        }
        let by_path: HashMap<Vec<u8>, usize> = {
            let paths = self.orphans[0].iter().enumerate();
            paths.map(|(number, orphan)| (orphan.path.clone(), number)).collect()
        };
        let mut moved: HashMap<Vec<u8>, usize> = HashMap::new();
        for is_folder in [true, false] {
            let wanted: Vec<usize> = (0..self.mates.len())
                .filter(|number| self.orphans[1][*number].is_folder() == is_folder)
                .collect();
            if !is_folder {
                wanted.iter().for_each(|number| self.stay(*number, &moved, &by_path));
            }
            for number in wanted {
                if is_folder {
                    self.stay(number, &moved, &by_path);
                }
                if self.mates[number].is_none() {
                    let candidates = after[number].as_ref().and_then(|key| by_key.get_mut(key));
                    candidates.into_iter().for_each(|candidates| self.find(number, candidates));
                }
                if let (true, Some((mate, _))) = (is_folder, self.mates[number]) {
                    moved.insert(self.orphans[1][number].path.clone(), mate);
                }
            }
        }
    }

    /// Matches what is in a folder that was renamed, under the name that it had there.
    fn stay(
        &mut self,
        number: usize,
        moved: &HashMap<Vec<u8>, usize>,
        by_path: &HashMap<Vec<u8>, usize>,
    ) {
        let [before, after] = &self.orphans;
        let orphan = &after[number];
        let (folder, name) = split(&orphan.path);
        let Some(folder) = moved.get(folder) else { return };
        let path = [&before[*folder].path, b"/".as_slice(), name].concat();
        let Some(mate) = by_path.get(&path).filter(|mate| !self.taken[**mate]) else { return };
        if before[*mate].brief.file_type == orphan.brief.file_type {
            self.taken[*mate] = true;
            self.mates[number] = Some((*mate, false));
        }
    }

    /// Matches the first of `candidates`, which are one file's names, if it is the same file.
    fn find(&mut self, number: usize, candidates: &mut Vec<usize>) {
        while candidates.last().is_some_and(|last| self.taken[*last]) {
            candidates.pop();
        }
        let Some(mate) = candidates.last().copied() else { return };
        if is_same(&self.orphans[0][mate], &self.orphans[1][number]) {
            candidates.pop();
            self.taken[mate] = true;
            self.mates[number] = Some((mate, true));
        }
    }

    /// What was added and removed.
    pub fn one_sided(&self) -> impl Iterator<Item = FileChange> {
        let change = |orphan: &Orphan, kind| FileChange {
            kind,
            path: orphan.path.clone(),
            old_path: None,
            aspects: Aspects::default(),
            before: (kind == ChangeKind::Removed).then_some(orphan.brief),
            after: (kind == ChangeKind::Added).then_some(orphan.brief),
        };
        let [before, after] = &self.orphans;
        let gone = before.iter().zip(&self.taken).filter(|(_, is_taken)| !**is_taken);
        let new = after.iter().zip(&self.mates).filter(|(_, mate)| mate.is_none());
        let gone = gone.map(move |(orphan, _)| change(orphan, ChangeKind::Removed));
        gone.chain(new.map(move |(orphan, _)| change(orphan, ChangeKind::Added)))
    }

    /// The pairs to compare.
    pub fn pairs(&self) -> Vec<Pair> {
        let [before, after] = &self.orphans;
        // Entries of each folder, and of those the ones that stayed what they were.
        let mut entries: [HashMap<&[u8], u64>; 2] = [HashMap::new(), HashMap::new()];
        for (orphans, entries) in self.orphans.iter().zip(&mut entries) {
            orphans.iter().for_each(|one| *entries.entry(split(&one.path).0).or_default() += 1);
        }
        let mut stayed: HashMap<&[u8], u64> = HashMap::new();
        let mates = || self.mates.iter().enumerate().filter_map(|(at, mate)| Some((at, (*mate)?)));
        for (number, (mate, is_renamed)) in mates() {
            if !is_renamed && before[mate].file == after[number].file {
                *stayed.entry(split(&after[number].path).0).or_default() += 1;
            }
        }
        let pair = |(number, (mate, is_renamed)): (usize, (usize, bool))| {
            let (one, other): (&Orphan, &Orphan) = (&before[mate], &after[number]);
            let count = |of: &HashMap<&[u8], u64>, path: &[u8]| of.get(path).copied();
            let stayed = count(&stayed, &other.path);
            let counts = [count(&entries[0], &one.path), count(&entries[1], &other.path)];
            Pair {
                path: other.path.clone(),
                old_path: Some(one.path.clone()),
                files: [one.file, other.file],
                is_renamed,
                has_new_entries: counts != [stayed; 2],
            }
        };
        mates().map(pair).collect()
    }
}

/// A path's folder and its name there.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
    (&path[..slash], path.get(slash + 1..).unwrap_or_default())
}

/// Whether two orphans with one key are one file.
fn is_same(before: &Orphan, after: &Orphan) -> bool {
    if before.brief.file_type != after.brief.file_type {
        return false;
    }
    let is_as_it_was = || {
        let has_size = after.brief.file_type == FileType::Regular;
        let is_as_long = !has_size || before.brief.size == after.brief.size;
        is_as_long && before.modified.is_some() && before.modified == after.modified
    };
    match (before.created, after.created) {
        (Some(one), Some(other)) => one == other,
        (None, None) => is_as_it_was(),
        _ => false,
    }
}

fn has_numbers(filesystem: &dyn Filesystem) -> bool {
    !filesystem.info().kind.contains("fat")
}

/// What `orphan` is known by; `None` if by nothing.
fn key(filesystem: &dyn Filesystem, orphan: &Orphan) -> Option<Key> {
    let file = orphan.file;
    if has_numbers(filesystem) {
        let is_stream = filesystem.info().kind == "ntfs" && file.tree != 0;
        if !is_stream {
            return Some(Key::Number(file));
        }
        let name = split(&orphan.path).1.rsplit(|byte| *byte == b':').next();
        return Some(Key::Stream(file.number, name.unwrap_or_default().to_vec()));
    }
    let mut start = None;
    if orphan.is_folder() {
        // What cannot be read has no key, and was told of before.
        let _ = filesystem.list(file, &mut |entry| {
            start = entry.ok().map(|entry| entry.file.number);
            ControlFlow::Break(())
        });
    } else if let Ok(mut content) = filesystem.open(file) {
        let _ = content.extents(&mut |extent| {
            start = match extent.place {
                Place::At(place) => Some(place),
                _ => None,
            };
            ControlFlow::Break(())
        });
    }
    start.map(Key::Start)
}
