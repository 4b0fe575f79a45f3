//! What walks remember of subtrees, so that their work follows from the nodes that there are, and
//! not from the size that a disk claims: seven nodes can stand for an exbibyte.
//!
//! Each level has room of its own. A node of few levels below it may be forgotten on a disk with
//! more of them than there is room for; those above, which are a fraction as many, never.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::AddAssign;

use super::node::StoredEntry;
use super::tree::Subtree;
use crate::base::limits::{MAX_KNOWN_NODES, MAX_TREE_LEVEL};

/// What is known of subtrees by what they are.
#[derive(Debug)]
pub struct Memo<K, T> {
    levels: Vec<HashMap<K, T>>,
}

impl<K: Eq + Hash, T: Copy> Memo<K, T> {
    /// What is known of the subtree `key` of `level`.
    #[must_use]
    pub fn get(&self, level: u8, key: &K) -> Option<T> {
        self.levels.get(usize::from(level))?.get(key).copied()
    }

    /// Remembers it, if there is room.
    pub fn keep(&mut self, level: u8, key: K, known: T) {
        let of_level = self.levels.get_mut(usize::from(level));
        if let Some(of_level) = of_level.filter(|level| level.len() < MAX_KNOWN_NODES) {
            of_level.insert(key, known);
        }
    }
}

impl<K, T> Default for Memo<K, T> {
    fn default() -> Self {
        Self { levels: (0..=MAX_TREE_LEVEL).map(|_| HashMap::new()).collect() }
    }
}

/// Sums over the subtrees that a walk goes through, each remembered.
#[derive(Debug)]
pub struct Sums<T> {
    /// Of the nodes that are open, the root's at the front.
    open: Vec<T>,
    known: Memo<StoredEntry, (T, bool)>,
}

impl<T: Copy + Default + AddAssign> Sums<T> {
    /// Sums of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { open: vec![T::default()], known: Memo::default() }
    }

    /// What a subtree came to when it was gone through, and whether no damage was met there.
    #[must_use]
    pub fn known(&self, node: &Subtree<'_>) -> Option<(T, bool)> {
        let is_like_others = !node.is_last;
        self.known.get(node.level, node.stored).filter(|_| is_like_others)
    }

    /// A node is gone into.
    pub fn enter(&mut self) {
        self.open.push(T::default());
    }

    /// Adds what was found.
    pub fn add(&mut self, more: T) {
        if let Some(open) = self.open.last_mut() {
            *open += more;
        }
    }

    /// The node that was gone into last is done.
    pub fn leave(&mut self, node: &Subtree<'_>, whole: bool) {
        let sum = self.open.pop().unwrap_or_default();
        if !node.is_last {
            self.known.keep(node.level, *node.stored, (sum, whole));
        }
        self.add(sum);
    }

    /// The sum of all.
    #[must_use]
    pub fn total(&self) -> T {
        self.open.first().copied().unwrap_or_default()
    }
}

impl<T: Copy + Default + AddAssign> Default for Sums<T> {
    fn default() -> Self {
        Self::new()
    }
}
