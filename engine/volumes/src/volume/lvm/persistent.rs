//! Device mapper's metadata on disk, as pools and caches have it: checked blocks, B-trees, arrays.
//!
//! Source: Linux, `drivers/md/persistent-data` (`dm-btree-internal.h`, `dm-array.c`,
//! `dm-block-manager.c`).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::fields::{le32, le64};
use crate::base::limits::{CACHED_NODES_OF_POOLS, MAX_POOL_TREE_DEPTH};
use crate::base::{ByteOffset, Error, ReadAt, Result};
use crate::volume::layer::Layer;

/// Bytes of a block.
pub(super) const BLOCK: usize = 4096;
/// What is mixed into the checksums of each sort of block.
const NODE_SALT: u32 = 121_107;
const ARRAY_SALT: u32 = 595_846_735;
/// Bytes of the headers of a node and of an array's block.
const NODE_HEADER: usize = 32;
const ARRAY_HEADER: usize = 24;

/// The checksum of a block, all behind its first four bytes: CRC32C without its last complement.
pub(super) fn checksum(block: &[u8], salt: u32) -> u32 {
    !crc32c::crc32c(block.get(4..).unwrap_or_default()) ^ salt
}

/// A node of a B-tree.
#[derive(Debug)]
struct Node {
    is_leaf: bool,
    keys: Vec<u64>,
    values: Vec<u8>,
}

impl Node {
    fn value(&self, number: usize, size: usize) -> Option<&[u8]> {
        self.values.get(number.checked_mul(size)?..)?.get(..size)
    }
}

/// Nodes by their block and the size of their values.
type Nodes = HashMap<(u64, usize), Arc<Node>>;

/// What is called for each key of a tree and its value of `N` bytes.
type VisitValue<'a, const N: usize> = &'a mut dyn FnMut(u64, &[u8; N]) -> Result<ControlFlow<()>>;

/// The metadata of a pool or cache.
pub(super) struct Metadata {
    below: Arc<dyn Layer>,
    /// Nodes that were read, and those of before, which are forgotten next.
    recent: Mutex<[Nodes; 2]>,
}

impl Metadata {
    pub(super) fn new(below: Arc<dyn Layer>) -> Self {
        Self { below, recent: Mutex::default() }
    }

    /// Block 0, whose checksum is made with `salt`.
    ///
    /// # Errors
    /// `Corrupt` unless it has this checksum, magic number and one of these versions.
    pub(super) fn superblock(&self, what: &Superblock) -> Result<Vec<u8>> {
        let block = self.block(0, what.salt)?;
        let place = what.place;
        let field = |at| le32(&block, at).unwrap_or_default();
        let magic = le64(&block, 32).unwrap_or_default();
        if magic != what.magic || le64(&block, 8) != Some(0) {
            return Err(Error::corrupt(place, format!("magic {}", what.magic), magic));
        }
        let version = field(40);
        if !what.versions.contains(&version) {
            return Err(Error::newer(format!("{place}: version {version}")));
        }
        Ok(block)
    }

    /// The block `number`, its checksum right.
    fn block(&self, number: u64, salt: u32) -> Result<Vec<u8>> {
        let mut block = vec![0; BLOCK];
        let size = u64::try_from(BLOCK).unwrap_or(u64::MAX);
        let place = || format!("metadata block {number}");
        let blocks = self.below.size().0.checked_div(size).unwrap_or(0);
        if number >= blocks {
            return Err(Error::corrupt(place(), format!("one of {blocks} blocks"), "none"));
        }
        self.below.read_exact_at(ByteOffset(number.saturating_mul(size)), &mut block)?;
        let (said, found) = (le32(&block, 0).unwrap_or_default(), checksum(&block, salt));
        match said == found {
            true => Ok(block),
            false => {
                Err(Error::corrupt(place(), format!("checksum {said:08x}"), format!("{found:08x}")))
            }
        }
    }

    fn node(&self, number: u64, value: usize) -> Result<Arc<Node>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *recent;
        let key = (number, value);
        let known = young.get(&key).or_else(|| old.get(&key)).map(Arc::clone);
        if let Some(node) = known {
            young.insert(key, Arc::clone(&node));
            return Ok(node);
        }
        let node = Arc::new(self.read_node(number, value)?);
        if young.len() >= CACHED_NODES_OF_POOLS {
            *old = std::mem::take(young);
        }
        young.insert(key, Arc::clone(&node));
        Ok(node)
    }

    /// node_header: flags 4 (1 an inner node, 2 a leaf), its own number 8, entries 16, entries at
    /// most 20, bytes of a value 24; then as many keys as there may be, then the values.
    fn read_node(&self, number: u64, value: usize) -> Result<Node> {
        let block = self.block(number, NODE_SALT)?;
        let fields = || {
            let flags = le32(&block, 4)?;
            let is_leaf = flags & 3 == 2;
            let entries = usize::try_from(le32(&block, 16)?).ok()?;
            let most = usize::try_from(le32(&block, 20)?).ok()?;
            let size = usize::try_from(le32(&block, 24)?).ok()?;
            let is_sound = matches!(flags & 3, 1 | 2)
                && le64(&block, 8)? == number
                && entries <= most
                && size == if is_leaf { value } else { 8 };
            let values = NODE_HEADER.checked_add(most.checked_mul(8)?)?;
            let keys = block.get(NODE_HEADER..values).filter(|_| is_sound)?;
            let keys = keys.as_chunks::<8>().0.iter().take(entries);
            let keys: Vec<u64> = keys.map(|key| u64::from_le_bytes(*key)).collect();
            let values = block.get(values..)?.get(..entries.checked_mul(size)?)?.to_vec();
            let is_sorted = keys.iter().zip(keys.iter().skip(1)).all(|(one, next)| one < next);
            is_sorted.then_some(Node { is_leaf, keys, values })
        };
        fields().ok_or_else(|| {
            Error::corrupt(format!("metadata block {number}"), "a sound node", "none")
        })
    }

    /// The value of `key` in the tree of `root`, of `N` bytes.
    pub(super) fn find<const N: usize>(&self, root: u64, key: u64) -> Result<Option<[u8; N]>> {
        let mut found = None;
        self.each(root, key, &mut |own, value: &[u8; N]| {
            found = (own == key).then_some(*value);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// Calls `visit` for the keys of the tree of `root` from `first` on, in order, with their
    /// values of `N` bytes.
    pub(super) fn each<const N: usize>(
        &self,
        root: u64,
        first: u64,
        visit: VisitValue<'_, N>,
    ) -> Result<()> {
        // Nodes on the way down, which entry comes next, and the key that ends each.
        let mut way: Vec<(Arc<Node>, usize, Option<u64>)> = Vec::new();
        let node = self.node(root, N)?;
        way.push((Arc::clone(&node), start_of(&node, first), None));
        while let Some((node, next, end)) = way.pop() {
            let Some(key) = node.keys.get(next).copied() else { continue };
            let after = next.saturating_add(1);
            let limit = node.keys.get(after).copied().or(end);
            let (is_leaf, size) = (node.is_leaf, if node.is_leaf { N } else { 8 });
            let lacking = || Error::corrupt("node", "a value", "none");
            if is_leaf {
                let value = node.value(next, size).and_then(|value| value.first_chunk::<N>());
                if key >= first && visit(key, value.ok_or_else(lacking)?)?.is_break() {
                    return Ok(());
                }
                way.push((node, after, end));
                continue;
            }
            let below = node.value(next, size).and_then(|value| le64(value, 0));
            let below = below.ok_or_else(lacking)?;
            way.push((node, after, end));
            if way.len() > MAX_POOL_TREE_DEPTH {
                return Err(Error::corrupt("tree", "some levels of nodes", "more"));
            }
            let child = self.node(below, N)?;
            let is_within = child.keys.first().is_some_and(|own| *own >= key)
                && limit.is_none_or(|limit| child.keys.last().is_some_and(|own| *own < limit));
            if !is_within {
                let expected = format!("keys from {key} to {limit:?}");
                let found = format!("{:?}", child.keys.first());
                return Err(Error::corrupt(format!("metadata block {below}"), expected, found));
            }
            let start = start_of(&child, first);
            way.push((child, start, limit));
        }
        Ok(())
    }

    /// Calls `visit` for all words of the array of `root`, with their numbers.
    pub(super) fn each_word(
        &self,
        root: u64,
        visit: &mut dyn FnMut(u64, u64) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        // Blocks of an array are full but for the last.
        let each = BLOCK.saturating_sub(ARRAY_HEADER) / 8;
        let each = u64::try_from(each).unwrap_or(u64::MAX);
        self.each(root, 0, &mut |index, value: &[u8; 8]| {
            let words = self.array_block(u64::from_le_bytes(*value))?;
            let start = index.saturating_mul(each);
            for (number, word) in (start..).zip(words) {
                if visit(number, word)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// array_block: entries at most 4, entries 8, bytes of a value 12, its own number 16.
    fn array_block(&self, number: u64) -> Result<Vec<u64>> {
        let block = self.block(number, ARRAY_SALT)?;
        let fields = || {
            let entries = usize::try_from(le32(&block, 8)?).ok()?;
            let most = usize::try_from(le32(&block, 4)?).ok()?;
            let is_sound = entries <= most && le32(&block, 12)? == 8 && le64(&block, 16)? == number;
            let values = block.get(ARRAY_HEADER..)?.get(..entries.checked_mul(8)?)?;
            let words = values.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            is_sound.then(|| words.collect())
        };
        fields().ok_or_else(|| {
            Error::corrupt(format!("metadata block {number}"), "a sound part of an array", "none")
        })
    }
}

/// The entry to begin with in search of `first`.
fn start_of(node: &Node, first: u64) -> usize {
    match node.is_leaf {
        true => node.keys.partition_point(|key| *key < first),
        false => node.keys.partition_point(|key| *key <= first).saturating_sub(1),
    }
}

/// How a superblock is known.
pub(super) struct Superblock {
    pub place: &'static str,
    pub magic: u64,
    pub salt: u32,
    pub versions: std::ops::RangeInclusive<u32>,
}
