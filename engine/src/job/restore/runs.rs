//! Runs of blocks in the disk's order, in memory that is bounded whatever the disk.

/// Runs that are told apart at most; more are taken together with what lies between them.
const MAX_RUNS: usize = 1 << 20;

/// Runs of blocks, each its first and how many, none touching the next. It may hold more blocks
/// than were added, never fewer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    runs: Vec<(u64, u64)>,
    /// Blocks between two runs up to which they are taken together.
    slack: u64,
}

impl Runs {
    /// The runs, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.runs
    }

    /// How many blocks they hold.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|(_, count)| count).sum()
    }

    /// Whether block `index` is among them.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        let behind = self.runs.partition_point(|(first, _)| *first <= index);
        let run = behind.checked_sub(1).and_then(|before| self.runs.get(before));
        run.is_some_and(|(first, count)| index - first < *count)
    }

    /// Adds a run that begins where the last one did, or behind.
    pub fn add(&mut self, (first, count): (u64, u64)) {
        match self.runs.last_mut() {
            Some((last, length)) if first <= *last + *length + self.slack => {
                *length = (*length).max(first + count - *last);
            }
            _ => self.runs.push((first, count)),
        }
        if self.runs.len() > MAX_RUNS {
            self.slack = (self.slack * 2).max(1);
            for run in std::mem::take(&mut self.runs) {
                self.add(run);
            }
        }
    }

    /// Adds runs that may lie anywhere.
    pub fn merge(&mut self, other: Self) {
        let mut all = std::mem::take(&mut self.runs);
        all.extend(other.runs);
        all.sort_unstable();
        all.into_iter().for_each(|run| self.add(run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_every_block_is_kept() {
        let mut runs = Runs::default();
        [(1, 2), (3, 1), (7, 3), (8, 1), (12, 1)].into_iter().for_each(|run| runs.add(run));
        assert_eq!((runs.as_slice(), runs.blocks()), (&[(1, 3), (7, 3), (12, 1)][..], 7));
        let mut other = Runs::default();
        [(0, 1), (5, 1), (10, 2)].into_iter().for_each(|run| other.add(run));
        runs.merge(other);
        assert_eq!(runs.as_slice(), [(0, 4), (5, 1), (7, 6)]);
        let inside: Vec<u64> = (0..15).filter(|index| runs.contains(*index)).collect();
        assert_eq!(inside, [0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn more_runs_than_memory_may_hold_are_taken_together() {
        let mut runs = Runs::default();
        let most = MAX_RUNS as u64;
        (0..=most).for_each(|number| runs.add((number * 4, 1)));
        assert!(runs.as_slice().len() <= MAX_RUNS);
        assert!((0..=most).all(|number| runs.contains(number * 4)));
    }
}
