//! A cache of what was read last: metadata of one filesystem, shared by threads.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Up to so many values. Two generations: a value that is used moves to the younger one, and when
/// that is full, it takes the place of the elder. So whatever is used stays, at no cost of
/// bookkeeping.
pub(super) struct Recent<K, V: ?Sized> {
    most: usize,
    generations: Mutex<Generations<K, V>>,
}

struct Generations<K, V: ?Sized> {
    young: HashMap<K, Arc<V>>,
    old: HashMap<K, Arc<V>>,
}

impl<K: Copy + Eq + Hash, V: ?Sized> Recent<K, V> {
    /// Room for `most` values.
    pub(super) fn new(most: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Self { most, generations: Mutex::new(generations) }
    }

    pub(super) fn get(&self, key: K) -> Option<Arc<V>> {
        let mut generations = self.generations();
        if let Some(found) = generations.young.get(&key) {
            return Some(Arc::clone(found));
        }
        let found = generations.old.remove(&key)?;
        generations.put(key, Arc::clone(&found), self.most);
        Some(found)
    }

    pub(super) fn put(&self, key: K, value: Arc<V>) {
        self.generations().put(key, value, self.most);
    }

    fn generations(&self) -> MutexGuard<'_, Generations<K, V>> {
        // A thread that panicked left whole values behind, or none.
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V: ?Sized> Generations<K, V> {
    fn put(&mut self, key: K, value: Arc<V>, most: usize) {
        if self.young.len() >= most / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_no_more_than_there_is_room_for_is_kept() {
        let most = 100;
        let recent: Recent<u64, [u8]> = Recent::new(most);
        for number in 0..400 {
            recent.put(number, Arc::from([0_u8].as_slice()));
            assert!(recent.get(0).is_some(), "value 0 was lost at {number}");
            let generations = recent.generations();
            assert!(generations.young.len() + generations.old.len() <= most);
        }
        assert!(recent.get(5).is_none());
    }
}
