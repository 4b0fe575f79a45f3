//! A chain of clusters: a file's or folder's content, in order.

use super::heap::Heap;
use super::table::{Link, Window};
use crate::base::{Error, Result};

/// Where a chain begins, and how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct Start {
    /// Its first cluster; zero for no clusters at all.
    pub cluster: u32,
    /// Whether the clusters simply follow one another, without the table (exFAT's `NoFatChain`).
    pub is_contiguous: bool,
}

/// A chain that is gone along. It remembers where it is, so that going on costs nothing and going
/// back starts over.
pub(in crate::fs) struct Chain<'a> {
    heap: &'a Heap,
    start: Start,
    /// A cluster's index within the chain, and its number.
    at: (u32, u32),
    window: Window,
}

impl<'a> Chain<'a> {
    pub(in crate::fs) fn new(heap: &'a Heap, start: Start) -> Self {
        Self { heap, start, at: (0, start.cluster), window: Window::default() }
    }

    pub(in crate::fs) fn heap(&self) -> &'a Heap {
        self.heap
    }

    /// The cluster with `index` within the chain; `None` if the chain ends before.
    ///
    /// # Errors
    /// `Corrupt` when the chain leads to a cluster that is free, bad or none, or on for ever.
    pub(in crate::fs) fn cluster(&mut self, index: u64) -> Result<Option<u32>> {
        if self.start.cluster == 0 {
            return Ok(None);
        }
        let wrong = |found: String| Error::corrupt("chain of clusters", "a cluster in use", found);
        // A chain with more clusters than the volume has comes back to itself.
        let index = u32::try_from(index).ok().filter(|index| *index < self.heap.table.end);
        let index = index.ok_or_else(|| wrong("one that was there before".to_owned()))?;
        if self.start.is_contiguous {
            let cluster = self.start.cluster.checked_add(index);
            let cluster = cluster.filter(|cluster| self.heap.table.is_cluster(*cluster));
            return cluster.map(Some).ok_or_else(|| wrong("the volume's end".to_owned()));
        }
        if index < self.at.0 {
            self.at = (0, self.start.cluster);
        }
        self.heap.place(self.at.1)?;
        while self.at.0 < index {
            let here = self.at.1;
            match self.heap.table.link(here, &mut self.window)? {
                Link::Next(next) if self.heap.table.is_cluster(next) => {
                    self.at = (self.at.0.saturating_add(1), next);
                }
                Link::End => return Ok(None),
                Link::Next(next) => return Err(wrong(format!("{next} after {here}"))),
                Link::Free => return Err(wrong(format!("{here}, which is free"))),
                Link::Bad => return Err(wrong(format!("{here}, which is bad"))),
            }
        }
        Ok(Some(self.at.1))
    }

    /// Checks that a chain of `count` clusters ends: it may have more than anybody needs, but none
    /// that leads back to one of its own, since then those before are wrong as well.
    ///
    /// # Errors
    /// `Corrupt` when it does. What else is wrong behind its last cluster harms nobody.
    pub(in crate::fs) fn check_end(&mut self, count: u64) -> Result<()> {
        if self.start.is_contiguous || count == 0 {
            return Ok(());
        }
        // Brent's method: a cluster is remembered at every power of two.
        let (mut next, mut power) = (count, 1_u64);
        let mut known = self.cluster(count.saturating_sub(1))?;
        let mut steps = 0_u64;
        while let Ok(Some(cluster)) = self.cluster(next) {
            if Some(cluster) == known {
                let found = format!("{cluster} once more");
                return Err(Error::corrupt("chain of clusters", "its end", found));
            }
            steps = steps.saturating_add(1);
            if steps == power {
                (known, power, steps) = (Some(cluster), power.saturating_mul(2), 0);
            }
            next = next.saturating_add(1);
        }
        Ok(())
    }

    /// Bytes of the volume that hold the chain's bytes from `offset`: where they begin, and how
    /// many follow one another there, `wanted` at most. `None` if the chain ends before `offset`.
    ///
    /// # Errors
    /// As [`cluster`](Self::cluster).
    pub(in crate::fs) fn stretch(
        &mut self,
        offset: u64,
        wanted: u64,
    ) -> Result<Option<(u64, u64)>> {
        let size = self.heap.cluster_size;
        let wrong = || Error::corrupt("cluster size", "a power of two", size);
        let index = offset.checked_div(size).ok_or_else(wrong)?;
        let within = offset.checked_rem(size).ok_or_else(wrong)?;
        let Some(first) = self.cluster(index)? else { return Ok(None) };
        let place = self.heap.place(first)?.saturating_add(within);
        let mut length = size.saturating_sub(within);
        let (mut last, mut next) = (first, index);
        while length < wanted {
            next = next.saturating_add(1);
            // An error belongs to whoever reads what is beyond it.
            match self.cluster(next) {
                Ok(Some(cluster)) if Some(cluster) == last.checked_add(1) => last = cluster,
                _ => break,
            }
            length = length.saturating_add(size);
        }
        Ok(Some((place, length.min(wanted))))
    }
}
