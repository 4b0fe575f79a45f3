//! Both trees of a volume at once: folders of one path side by side, so that only what is on one
//! side has to be held in memory.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::change::{Brief, FileChange, Side};
use super::compare::{Comparer, Pair};
use super::scope::Scope;
use crate::base::limits::{MAX_DIFFERENCES, MAX_FOLDER_DEPTH};
use crate::base::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, FileId, FileType, Filesystem, Metadata, Timestamp};
use crate::job::files::{Descend, Found, Visited, Walk, list_sorted};
use crate::sys::threads;

/// Pairs that are gathered before they are compared by all threads.
const GATHERED: usize = 32_768;
/// Folders that are listed at once by all threads.
const LISTED: usize = 256;

/// Told of what cannot be read.
pub(super) type TellLost<'a> = &'a mut dyn FnMut(Side, &[u8], Error) -> Result<()>;

/// A path that only one side has.
#[derive(Debug)]
pub(super) struct Orphan {
    pub path: Vec<u8>,
    pub file: FileId,
    pub brief: Brief,
    pub modified: Option<Timestamp>,
    pub created: Option<Timestamp>,
}

impl Orphan {
    fn new(path: &[u8], file: FileId, metadata: &Metadata) -> Self {
        Self {
            path: path.to_vec(),
            file,
            brief: Brief { file_type: metadata.file_type, size: metadata.size },
            modified: metadata.modified,
            created: metadata.created,
        }
    }

    pub fn is_folder(&self) -> bool {
        self.brief.file_type == FileType::Directory
    }
}

/// The walk of one volume.
pub(super) struct Joint<'a, 'b> {
    comparer: &'a Comparer<'a>,
    /// Where it has to go, if that is known.
    scope: Option<&'a Scope>,
    /// How many names were met of what the scope expects.
    met: [HashMap<FileId, u32>; 2],
    tell_lost: TellLost<'b>,
    pairs: Vec<Pair>,
    seen: [HashSet<FileId>; 2],
    /// What came of it so far.
    pub changes: Vec<FileChange>,
    /// Paths of one side only.
    pub orphans: [Vec<Orphan>; 2],
    /// Encrypted files of which the content could not be compared.
    pub sealed: u64,
}

/// A folder's entries in order, and whether that is all of them.
type Listed = (Vec<DirEntry>, bool);

/// Two folders of one path.
struct Folders {
    path: Vec<u8>,
    files: [FileId; 2],
    /// Folders between them and the root.
    depth: usize,
}

/// Folders that are to be gone into, in the order of their numbers on the second disk.
#[derive(Default)]
struct Waiting(BTreeMap<FileId, Vec<Folders>>);

impl Waiting {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, folders: Folders) {
        self.0.entry(folders.files[1]).or_default().push(folders);
    }

    /// The next ones from `position` on, which comes behind them; from the start if there are
    /// none.
    fn take(&mut self, position: &mut FileId) -> Vec<Folders> {
        let mut taken: Vec<Folders> = Vec::new();
        if self.0.range(*position..).next().is_none() {
            *position = FileId { tree: 0, number: 0 };
        }
        while taken.len() < LISTED {
            let Some((file, _)) = self.0.range(*position..).next() else { break };
            *position = *file;
            taken.extend(self.0.remove(position).unwrap_or_default());
        }
        taken
    }
}

impl<'a, 'b> Joint<'a, 'b> {
    /// A walk that compares with `comparer`, everywhere or within `scope`.
    pub fn new(
        comparer: &'a Comparer<'a>,
        scope: Option<&'a Scope>,
        tell_lost: TellLost<'b>,
    ) -> Self {
        Self {
            comparer,
            scope,
            met: [HashMap::new(), HashMap::new()],
            tell_lost,
            pairs: Vec::new(),
            seen: [HashSet::new(), HashSet::new()],
            changes: Vec::new(),
            orphans: [Vec::new(), Vec::new()],
            sealed: 0,
        }
    }

    /// What it compares with.
    pub fn comparer(&self) -> &'a Comparer<'a> {
        self.comparer
    }

    fn filesystem(&self, side: Side) -> &'a dyn Filesystem {
        self.comparer.contents.filesystems[side.index()]
    }

    /// Goes through both trees, in sweeps from low file numbers to high ones: numbers that are near
    /// each other are near on the disk, so that what is unpacked serves many folders.
    ///
    /// # Errors
    /// `Cancelled`; `Limit` for more than [`MAX_DIFFERENCES`]; those of telling. Damage is told.
    pub fn run(&mut self) -> Result<()> {
        let root = self.filesystem(Side::After).root();
        let files = [self.filesystem(Side::Before).root(), root];
        let mut waiting = Waiting::default();
        Side::BOTH.into_iter().for_each(|side| self.note(side, files[side.index()]));
        waiting.add(Folders { path: b"/".to_vec(), files, depth: 0 });
        let mut position = root;
        while !waiting.is_empty() {
            let folders = waiting.take(&mut position);
            self.folders(&folders, &mut waiting)?;
        }
        self.compare_gathered()
    }

    /// Whether all that the scope expects was met.
    pub fn has_met_all(&self) -> bool {
        let count = |side: Side, file| self.met[side.index()].get(file).copied().unwrap_or(0);
        self.scope.is_none_or(|scope| {
            let all = |side| scope.expected(side).iter().all(|(file, n)| count(side, file) >= *n);
            Side::BOTH.into_iter().all(all)
        })
    }

    /// Notes that a name of `file` was met.
    fn note(&mut self, side: Side, file: FileId) {
        if self.scope.is_some_and(|scope| scope.expected(side).contains_key(&file)) {
            *self.met[side.index()].entry(file).or_default() += 1;
        }
    }

    /// Compares a pair, now or later.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn add(&mut self, pair: Pair) -> Result<()> {
        self.pairs.push(pair);
        if self.pairs.len() >= GATHERED { self.compare_gathered() } else { Ok(()) }
    }

    /// Compares the pairs that wait.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn compare_gathered(&mut self) -> Result<()> {
        let mut pairs = std::mem::take(&mut self.pairs);
        pairs.sort_unstable_by_key(|pair| pair.files[1]);
        let comparer = self.comparer;
        let compared = threads::map(&pairs, |pair| comparer.compare(pair));
        for (pair, compared) in pairs.iter().zip(compared) {
            self.sealed += u64::from(compared.is_sealed);
            self.changes.extend(compared.change);
            for (side, error) in compared.lost {
                let path = match side {
                    Side::Before => pair.old_path.as_deref().unwrap_or(&pair.path),
                    Side::After => &pair.path,
                };
                self.lose(side, path, error)?;
            }
        }
        self.check_limit()
    }

    fn check_limit(&self) -> Result<()> {
        let count = self.changes.len() + self.orphans[0].len() + self.orphans[1].len();
        if count > MAX_DIFFERENCES {
            let context = format!("more than {MAX_DIFFERENCES} differences");
            return Err(Error::new(ErrorKind::Limit, context));
        }
        Ok(())
    }

    fn lose(&mut self, side: Side, path: &[u8], error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::Cancelled => Err(error),
            _ => (self.tell_lost)(side, path, error),
        }
    }

    /// Compares pairs of folders, and their entries by name; what is to be gone into waits.
    fn folders(&mut self, folders: &[Folders], waiting: &mut Waiting) -> Result<()> {
        let filesystems = self.comparer.contents.filesystems;
        let observer = self.comparer.contents.observer;
        let lists = threads::map(folders, |folders| {
            let list = |side: Side| match observer.cancelled() {
                true => Err(Error::cancelled()),
                false => list_sorted(filesystems[side.index()], folders.files[side.index()]),
            };
            Side::BOTH.map(list)
        });
        for (folders, [before, after]) in folders.iter().zip(lists) {
            let (path, files) = (&folders.path, folders.files);
            let mut has_new_entries = false;
            if self.may_enter(path, files, folders.depth)? {
                let before = self.take(Side::Before, path, before)?;
                let after = self.take(Side::After, path, after)?;
                has_new_entries = self.merge(folders, [before, after], waiting)?;
            }
            let (path, old_path, is_renamed) = (path.clone(), None, false);
            self.add(Pair { path, old_path, files, is_renamed, has_new_entries })?;
        }
        Ok(())
    }

    /// Whether folders are to be gone into: nowhere too deep, and nowhere twice.
    fn may_enter(&mut self, path: &[u8], files: [FileId; 2], depth: usize) -> Result<bool> {
        if depth >= MAX_FOLDER_DEPTH {
            let context = format!("more than {MAX_FOLDER_DEPTH} folders within one another");
            self.lose(Side::After, path, Error::new(ErrorKind::Limit, context))?;
            return Ok(false);
        }
        for side in Side::BOTH {
            if !self.seen[side.index()].insert(files[side.index()]) {
                let error = Error::corrupt("folder", "one place that it is in", "a second one");
                self.lose(side, path, error)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells of what is lost of a folder.
    fn take(
        &mut self,
        side: Side,
        path: &[u8],
        listed: Result<(Vec<DirEntry>, Vec<Error>)>,
    ) -> Result<Listed> {
        let (entries, errors) = listed.unwrap_or_else(|error| (Vec::new(), vec![error]));
        let is_whole = errors.is_empty();
        errors.into_iter().try_for_each(|error| self.lose(side, path, error))?;
        Ok((entries, is_whole))
    }

    /// Goes through two sorted lists, and says whether entries came, went or were replaced. What a
    /// folder that is not whole lacks is not said to be gone.
    fn merge(
        &mut self,
        folders: &Folders,
        [before, after]: [Listed; 2],
        waiting: &mut Waiting,
    ) -> Result<bool> {
        let is_whole = [before.1, after.1];
        let (mut before, mut after) = (before.0.as_slice(), after.0.as_slice());
        let mut has_new_entries = false;
        loop {
            let order = match (before.first(), after.first()) {
                (None, None) => return Ok(has_new_entries),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(other)) => one.name.cmp(&other.name),
            };
            let pop = |entries: &mut &[DirEntry], is_next: bool| {
                let (first, rest) = entries.split_first().filter(|_| is_next)?;
                *entries = rest;
                Some((join(&folders.path, &first.name), first.file, first.file_type))
            };
            let one = pop(&mut before, order != Ordering::Greater);
            let other = pop(&mut after, order != Ordering::Less);
            match (one, other) {
                (Some((path, one, one_type)), Some((_, other, other_type))) => {
                    has_new_entries |= one != other;
                    let types = [one_type, other_type];
                    let depth = folders.depth + 1;
                    self.meet(Folders { path, files: [one, other], depth }, types, waiting)?;
                }
                (Some((path, file, _)), _) => {
                    has_new_entries = true;
                    if is_whole[1] {
                        self.expand(Side::Before, &path, file, true)?;
                    }
                }
                (None, Some((path, file, _))) => {
                    has_new_entries = true;
                    if is_whole[0] {
                        self.expand(Side::After, &path, file, true)?;
                    }
                }
                (None, None) => return Ok(has_new_entries),
            }
        }
    }

    /// Takes two files of one path.
    fn meet(
        &mut self,
        folders: Folders,
        types: [Option<FileType>; 2],
        waiting: &mut Waiting,
    ) -> Result<()> {
        let (files, path) = (folders.files, &folders.path);
        if files[0] == files[1] && self.scope.is_some_and(|scope| !scope.has(files[0])) {
            return Ok(());
        }
        Side::BOTH.into_iter().for_each(|side| self.note(side, files[side.index()]));
        let mut is_folder = [false; 2];
        for side in Side::BOTH {
            let file_type = match types[side.index()] {
                Some(file_type) => file_type,
                None => match self.filesystem(side).metadata(files[side.index()]) {
                    Ok(metadata) => metadata.file_type,
                    Err(error) => return self.lose(side, path, error),
                },
            };
            is_folder[side.index()] = file_type == FileType::Directory;
        }
        if is_folder == [true; 2] {
            waiting.add(folders);
            return Ok(());
        }
        for side in Side::BOTH {
            if is_folder[side.index()] {
                self.expand(side, path, files[side.index()], false)?;
            }
        }
        let (path, old_path, is_renamed, has_new_entries) = (folders.path, None, false, false);
        self.add(Pair { path, old_path, files, is_renamed, has_new_entries })
    }

    /// Notes `file`, if `with_itself`, and all that is below it as on one side only.
    fn expand(&mut self, side: Side, path: &[u8], file: FileId, with_itself: bool) -> Result<()> {
        let filesystem = self.filesystem(side);
        let metadata = match filesystem.metadata(file) {
            Ok(metadata) => metadata,
            Err(error) => return self.lose(side, path, error),
        };
        if metadata.file_type != FileType::Directory {
            if with_itself {
                self.note(side, file);
                self.orphans[side.index()].push(Orphan::new(path, file, &metadata));
            }
            return self.check_limit();
        }
        let start = Found { file, path: path.to_vec(), metadata };
        Walk::new(filesystem).run(&start, &mut |visited| {
            if self.comparer.contents.observer.cancelled() {
                return Err(Error::cancelled());
            }
            match visited {
                Visited::File { depth: 0, .. } if !with_itself => {}
                Visited::File { path, file, metadata, .. } => {
                    self.note(side, file);
                    self.orphans[side.index()].push(Orphan::new(path, file, &metadata));
                    self.check_limit()?;
                }
                Visited::Lost { path, error } => self.lose(side, path, error)?,
            }
            Ok(Descend::Into)
        })
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder.last() == Some(&b'/') { b"" } else { b"/" };
    [folder, slash, name].concat()
}
