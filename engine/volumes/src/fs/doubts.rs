//! What is wrong with a filesystem as a whole: said to whoever reads it, and no ground for leaving
//! anything out of an image.

use std::sync::{Mutex, PoisonError};

use crate::base::limits::MAX_DOUBTS;

/// Sentences, each once, as they are found: when the filesystem is opened, or later, when a
/// damaged structure is met for which something else stands in.
#[derive(Debug, Default)]
pub struct Doubts {
    found: Mutex<Vec<String>>,
}

impl Doubts {
    /// Adds a plain sentence: what is damaged, what is read instead, what may be stale.
    pub(in crate::fs) fn add(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        // A thread that panicked left whole sentences behind.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() > MAX_DOUBTS || found.contains(&sentence) {
            return;
        }
        let is_last = found.len() == MAX_DOUBTS;
        found.push(if is_last {
            "There is more damage of this sort.".to_owned()
        } else {
            sentence
        });
    }

    /// All that was found up to now, in that order.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first that was found.
    #[must_use]
    pub fn first(&self) -> Option<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_doubt_is_kept_once_and_their_number_is_bounded() {
        let doubts = Doubts::default();
        assert_eq!(doubts.first(), None);
        for number in 0..MAX_DOUBTS.saturating_mul(2) {
            doubts.add(format!("group {}", number / 2));
        }
        assert_eq!(doubts.first().as_deref(), Some("group 0"));
        assert_eq!(doubts.all().len(), MAX_DOUBTS);
        doubts.add("one more");
        doubts.add("another");
        let all = doubts.all();
        assert_eq!(
            (all.len(), all.last().map(String::as_str)),
            (MAX_DOUBTS + 1, Some("There is more damage of this sort."),)
        );
    }
}
