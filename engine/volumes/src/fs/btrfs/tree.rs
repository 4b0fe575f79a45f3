//! Trees: items found by key, and one after another.
//!
//! Invariant: what a pointer says of a node, and the keys between which it stands, are checked on
//! every way down. So no walk comes to a node twice, whatever the disk says.

use std::sync::Arc;

use super::node::{Item, Node, Pointer};
use super::pool::Pool;
use super::units::Key;
use crate::base::{Error, Result};

/// A tree, by its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tree {
    pub root: Pointer,
}

impl Tree {
    /// The item under `key`.
    ///
    /// # Errors
    /// `Corrupt` where the way down is damaged; the devices' own.
    pub(super) fn find(&self, pool: &Pool, key: Key) -> Result<Option<Item>> {
        Ok(self.at_or_below(pool, key)?.filter(|item| item.key == key))
    }

    /// The last item whose key is not above `key`.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(super) fn at_or_below(&self, pool: &Pool, key: Key) -> Result<Option<Item>> {
        let mut node = Arc::clone(&pool.node(self.root)?);
        let mut end = None;
        // Each round goes down one level.
        while node.level > 0 {
            let Some(number) = node.at_or_below(key) else { return Ok(None) };
            end = node.key(number.saturating_add(1)).or(end);
            node = child(pool, &node, number, end)?;
        }
        Ok(node.at_or_below(key).and_then(|number| Item::of(&node, number)))
    }

    /// Every item from `key` on, in order.
    pub(super) fn from<'a>(&self, pool: &'a Pool, key: Key) -> Cursor<'a> {
        Cursor::new(pool, *self, key)
    }

    /// Calls `visit` for each item from `first` on that has its object id and kind, and with an
    /// error for each node that is lost, until it breaks.
    pub(super) fn each(
        &self,
        pool: &Pool,
        first: Key,
        visit: &mut dyn FnMut(Result<Item>) -> std::ops::ControlFlow<()>,
    ) {
        let mut cursor = self.from(pool, first);
        cursor.limit(Key { offset: u64::MAX, ..first });
        loop {
            let flow = match cursor.next() {
                Ok(Some(item)) if item.key.is_of(first.objectid, first.kind) => visit(Ok(item)),
                Ok(_) => return,
                // What is lost need not be of these; but it may.
                Err(error) => visit(Err(error)),
            };
            if flow.is_break() {
                return;
            }
        }
    }
}

/// Pointer `number` of `node` followed; all keys below it are less than `end`.
fn child(pool: &Pool, node: &Node, number: usize, end: Option<Key>) -> Result<Arc<Node>> {
    let wrong = || Error::corrupt("tree node", "a pointer", "none");
    let (pointer, first) = (node.pointer(number), node.key(number));
    let (pointer, first) = (pointer.ok_or_else(wrong)?, first.ok_or_else(wrong)?);
    Below { pointer, first: Some(first), end }.read(pool)
}

/// A node below another one, and what that says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Below {
    pub pointer: Pointer,
    /// Its first key, if that is known.
    first: Option<Key>,
    /// All its keys are less than this.
    end: Option<Key>,
}

impl Below {
    /// The root of a tree.
    pub(super) fn root(tree: Tree) -> Self {
        Self { pointer: tree.root, first: None, end: None }
    }

    /// What is below pointer `number` of `node`, the node that is meant.
    pub(super) fn child(self, node: &Node, number: usize) -> Option<Self> {
        let end = node.key(number.saturating_add(1)).or(self.end);
        Some(Self { pointer: node.pointer(number)?, first: Some(node.key(number)?), end })
    }

    /// The node.
    ///
    /// # Errors
    /// `Corrupt` where it is not what is said of it; the devices' own.
    pub(super) fn read(self, pool: &Pool) -> Result<Arc<Node>> {
        let node = pool.node(self.pointer)?;
        let place = || format!("tree node at {}", self.pointer.at);
        if let Some(first) = self.first
            && node.key(0) != Some(first)
        {
            let found = node.key(0).map_or("none".to_owned(), |key| key.to_string());
            return Err(Error::corrupt(place(), format!("first key {first}"), found));
        }
        if let (Some(last), Some(end)) = (node.last_key(), self.end)
            && last >= end
        {
            return Err(Error::corrupt(place(), format!("keys below {end}"), last));
        }
        Ok(node)
    }
}

/// A place in a tree, which moves on.
pub(super) struct Cursor<'a> {
    pool: &'a Pool,
    /// Where it is on each level, the root first.
    levels: Vec<Level>,
    /// The root, until it is read.
    root: Option<Pointer>,
    from: Key,
    /// Nodes that start behind this key are not looked into.
    last: Option<Key>,
}

struct Level {
    node: Arc<Node>,
    /// The item or pointer that comes next.
    next: usize,
    /// All keys below are less than this.
    end: Option<Key>,
}

impl<'a> Cursor<'a> {
    fn new(pool: &'a Pool, tree: Tree, from: Key) -> Self {
        Self { pool, levels: Vec::new(), root: Some(tree.root), from, last: None }
    }

    /// Goes no further than `last`, as far as that saves reading nodes.
    pub(super) fn limit(&mut self, last: Key) {
        self.last = Some(last);
    }

    /// The next item. After an error it goes on behind the node that could not be read.
    ///
    /// # Errors
    /// `Corrupt` where a node is damaged; the devices' own.
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        if let Some(root) = self.root.take() {
            let node = self.pool.node(root)?;
            self.enter(node, None);
        }
        // Each round takes an item or pointer, or leaves a node; there are finitely many.
        while let Some(level) = self.levels.last_mut() {
            let number = level.next;
            if number >= level.node.count() {
                self.levels.pop();
                continue;
            }
            level.next = number.saturating_add(1);
            if level.node.level == 0 {
                return Ok(Item::of(&level.node, number));
            }
            if let (Some(last), Some(key)) = (self.last, level.node.key(number))
                && key > last
            {
                return Ok(None);
            }
            let end = level.node.key(level.next).or(level.end);
            let node = child(self.pool, &level.node, number, end)?;
            self.enter(node, end);
        }
        Ok(None)
    }

    fn enter(&mut self, node: Arc<Node>, end: Option<Key>) {
        let next = match node.level {
            0 => node.below(self.from),
            _ => node.at_or_below(self.from).unwrap_or(0),
        };
        self.levels.push(Level { node, next, end });
    }
}
