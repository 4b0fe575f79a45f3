//! What fast commits change, over what the volume holds: attributes of inodes, runs of their maps,
//! entries of folders. Everything else of a file is where the last transaction left it.
//!
//! The kernel's `fs/ext4/fast_commit.c` replays the same into blocks of the volume. What a name
//! leads to is decided by the last change of it, since they are in the order in which they
//! happened. Attributes of folders are not in the log: their times and counts of links stay.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::inode::{BASE_SIZE, I_BLOCK_AT, I_BLOCK_SIZE, flags};
use super::map::Run;
use super::units::{FileBlock, InodeNumber};
use crate::base::fields::{array, le16, le32};

/// Where the fields after `i_block` start: `i_generation`.
const AFTER_I_BLOCK: usize = I_BLOCK_AT + I_BLOCK_SIZE;
/// An extent tree's header with no entries and room for four, as an inode has.
const EMPTY_TREE: [u8; 12] = [0x0a, 0xf3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];

/// One change of a fast commit.
#[derive(Debug)]
pub(super) enum Change {
    /// An inode's attributes are these.
    Inode(InodeNumber, InodeChange),
    /// A run of a file is here now.
    Map(InodeNumber, Run),
    /// A file was made under this name.
    Create { folder: InodeNumber, name: Vec<u8>, inode: InodeNumber },
    /// A name leads to this inode.
    Link { folder: InodeNumber, name: Vec<u8>, inode: InodeNumber },
    /// A name is gone.
    Unlink { folder: InodeNumber, name: Vec<u8> },
}

/// An inode as a fast commit has it. Of its map, only what is no extent tree counts.
#[derive(Debug)]
pub(super) struct InodeChange {
    raw: Vec<u8>,
}

impl InodeChange {
    /// `None` if there is too little of it.
    pub(super) fn parse(raw: &[u8]) -> Option<Self> {
        (raw.len() >= BASE_SIZE).then(|| Self { raw: raw.to_vec() })
    }

    /// Lays the change over an inode's bytes, all of them zero if it is a new one.
    pub(super) fn apply(&self, bytes: &mut [u8], is_new: bool) {
        let i_block: [u8; I_BLOCK_SIZE] = array(bytes, I_BLOCK_AT).unwrap_or([0; I_BLOCK_SIZE]);
        bytes.iter_mut().zip(&self.raw).for_each(|(byte, new)| *byte = *new);
        let i_flags = le32(&self.raw, 0x20).unwrap_or_default();
        if i_flags & flags::INLINE_DATA != 0 || is_new && i_flags & flags::EXTENTS == 0 {
            return;
        }
        let place = bytes.get_mut(I_BLOCK_AT..AFTER_I_BLOCK).unwrap_or_default();
        place.iter_mut().zip(i_block).for_each(|(byte, old)| *byte = old);
        let is_tree = le16(&i_block, 0) == le16(&EMPTY_TREE, 0);
        if i_flags & flags::EXTENTS != 0 && !is_tree {
            place.iter_mut().zip(EMPTY_TREE).for_each(|(byte, new)| *byte = new);
        }
    }
}

/// Names of one folder that were changed, and what they lead to now, if to anything.
#[derive(Debug, Default)]
pub(super) struct FolderChanges {
    /// Whether it was made since, so that nothing but these is in it.
    pub is_new: bool,
    pub names: BTreeMap<Vec<u8>, Option<InodeNumber>>,
}

/// All changes, with the last for each thing deciding.
#[derive(Debug, Default)]
pub(super) struct Changes {
    inodes: HashMap<InodeNumber, InodeChange>,
    created: HashSet<InodeNumber>,
    /// For each file, runs that do not overlap, by their first block.
    maps: HashMap<InodeNumber, BTreeMap<u64, Run>>,
    folders: HashMap<InodeNumber, FolderChanges>,
}

impl Changes {
    /// What all of `changes`, in their order, amount to.
    pub(super) fn new(changes: Vec<Change>) -> Self {
        let mut all = Self::default();
        // Runs of the file that is being told of, since its attributes were.
        let mut fresh: Option<(InodeNumber, Vec<Run>)> = None;
        for change in changes {
            match change {
                Change::Inode(inode, change) => {
                    all.inodes.insert(inode, change);
                    fresh = Some((inode, Vec::new()));
                }
                Change::Map(inode, run) => {
                    put(all.maps.entry(inode).or_default(), run);
                    match &mut fresh {
                        Some((last, runs)) if *last == inode => runs.push(run),
                        _ => fresh = None,
                    }
                }
                Change::Create { folder, name, inode } => {
                    let runs = fresh.take().filter(|(last, _)| *last == inode);
                    all.create(inode, folder, runs.map(|(_, runs)| runs).unwrap_or_default());
                    all.name(folder, name, Some(inode));
                }
                Change::Link { folder, name, inode } => all.name(folder, name, Some(inode)),
                Change::Unlink { folder, name } => all.name(folder, name, None),
            }
        }
        all
    }

    /// A file was made, whose attributes and whose `runs` are those that stand right before. An
    /// inode may have been another's until then, of which nothing is left.
    fn create(&mut self, inode: InodeNumber, parent: InodeNumber, runs: Vec<Run>) {
        self.created.insert(inode);
        let mut map = BTreeMap::new();
        runs.into_iter().for_each(|run| put(&mut map, run));
        self.maps.insert(inode, map);
        // If it is a folder, this is all that is in it; if not, nobody asks.
        let names = [(b".".to_vec(), Some(inode)), (b"..".to_vec(), Some(parent))].into();
        self.folders.insert(inode, FolderChanges { is_new: true, names });
    }

    fn name(&mut self, folder: InodeNumber, name: Vec<u8>, inode: Option<InodeNumber>) {
        self.folders.entry(folder).or_default().names.insert(name, inode);
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.inodes.is_empty() && self.maps.is_empty() && self.folders.is_empty()
    }

    /// The change of an inode's attributes, and whether the inode is a new one.
    pub(super) fn inode(&self, number: InodeNumber) -> Option<(&InodeChange, bool)> {
        Some((self.inodes.get(&number)?, self.created.contains(&number)))
    }

    /// The change of a folder's entries.
    pub(super) fn folder(&self, number: InodeNumber) -> Option<&FolderChanges> {
        self.folders.get(&number)
    }

    /// The changed run that `block` of a file is in; or else where the next one starts.
    pub(super) fn run(&self, inode: InodeNumber, block: FileBlock) -> Result<Run, u64> {
        let Some(map) = self.maps.get(&inode) else { return Err(u64::MAX) };
        let before = map.range(..=block.0).next_back().map(|(_, run)| *run);
        if let Some(run) = before.filter(|run| block.0 < run.end()) {
            return Ok(run);
        }
        Err(map.range(block.0..).next().map_or(u64::MAX, |(first, _)| *first))
    }
}

/// Puts `run` into `map`, over whatever was there.
fn put(map: &mut BTreeMap<u64, Run>, run: Run) {
    if run.count == 0 {
        return;
    }
    // Runs that reach into it: one that starts before it, and those that start within it.
    let before = map.range(..run.first.0).next_back().map(|(first, _)| *first);
    let within = map.range(run.first.0..run.end()).map(|(first, _)| *first);
    let touched: Vec<u64> = before.into_iter().chain(within).collect();
    for first in touched {
        let Some(old) = map.remove(&first) else { continue };
        keep(map, old, old.first.0, old.end().min(run.first.0));
        keep(map, old, run.end().max(old.first.0), old.end());
    }
    map.insert(run.first.0, run);
}

/// Puts what of `old` is from block `start` to block `end` back.
fn keep(map: &mut BTreeMap<u64, Run>, old: Run, start: u64, end: u64) {
    let (Some(count), first) = (end.checked_sub(start), FileBlock(start)) else { return };
    if count > 0 {
        map.insert(start, Run { first, count, place: old.place_of(first) });
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::RunPlace;
    use super::super::units::BlockNumber;
    use super::*;

    fn run(first: u64, count: u64, place: u64) -> Run {
        Run { first: FileBlock(first), count, place: RunPlace::At(BlockNumber(place)) }
    }

    #[test]
    fn the_last_change_of_a_block_decides() {
        let file = InodeNumber(12);
        let hole = Run { first: FileBlock(4), count: 2, place: RunPlace::Hole };
        let runs = [run(0, 10, 100), run(20, 5, 200), hole, run(8, 14, 300), run(30, 0, 1)];
        let changes = Changes::new(runs.map(|run| Change::Map(file, run)).into());
        let place =
            |block| changes.run(file, FileBlock(block)).map(|run| run.place_of(FileBlock(block)));
        for block in 0..40 {
            let expected = match block {
                0..4 | 6..8 => Ok(RunPlace::At(BlockNumber(100 + block))),
                4..6 => Ok(RunPlace::Hole),
                8..22 => Ok(RunPlace::At(BlockNumber(292 + block))),
                22..25 => Ok(RunPlace::At(BlockNumber(180 + block))),
                _ => Err(u64::MAX),
            };
            assert_eq!(place(block), expected, "block {block}");
        }
        assert_eq!(changes.run(InodeNumber(13), FileBlock(0)), Err(u64::MAX));
    }

    #[test]
    fn a_gap_between_changed_runs_ends_where_the_next_starts() {
        let file = InodeNumber(12);
        let runs = [run(2, 2, 100), run(9, 1, 200)];
        let changes = Changes::new(runs.map(|run| Change::Map(file, run)).into());
        assert_eq!(changes.run(file, FileBlock(0)), Err(2));
        assert_eq!(changes.run(file, FileBlock(5)), Err(9));
    }
}
