//! Which folders name a file, where only the folders know.
//!
//! A file is near its folder: filesystems give a new one the next free number, so that the folder
//! that was made last before it, or one above that, is likely to be its own. Folders are listed in
//! the order of that likelihood, by all threads.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use crate::base::limits::MAX_FOLDER_DEPTH;
use crate::base::{Error, Observer, Result};
use crate::fs::{FileId, Filesystem, Numbered};
use crate::sys::threads;

/// Folders that may be listed in vain, besides a share of all, before the walk of all folders is
/// thought to be the shorter way.
const TRIED: usize = 512;
/// One in so many of all folders may be.
const SHARE: usize = 4;

/// The names of one side.
pub(super) struct Names<'a> {
    pub filesystem: &'a dyn Filesystem,
    pub numbered: &'a dyn Numbered,
    pub observer: &'a dyn Observer,
    /// All folders, in order.
    pub folders: &'a [FileId],
}

impl Names<'_> {
    /// `folder` and the folders above it, up to the root.
    ///
    /// # Errors
    /// `Corrupt` if they do not lead there; the filesystem's.
    pub fn above(&self, folder: FileId) -> Result<Vec<FileId>> {
        let mut way = vec![folder];
        let mut at = folder;
        while at != self.filesystem.root() {
            let above = self.numbered.folders_of(at)?.unwrap_or_default();
            let ([above], true) = (above.as_slice(), way.len() < MAX_FOLDER_DEPTH) else {
                return Err(Error::corrupt("folder", "a way to the root", format!("{way:?}")));
            };
            at = *above;
            way.push(at);
        }
        Ok(way)
    }

    /// The folders that name the files of `wanted`, of each as often as is said there. Begins with
    /// those of `likely` that are folders on this side. `None` if they were not found with
    /// reasonable effort.
    ///
    /// # Errors
    /// `Cancelled`; the filesystem's.
    pub fn search(
        &self,
        mut wanted: HashMap<FileId, u32>,
        likely: &[FileId],
    ) -> Result<Option<HashSet<FileId>>> {
        let (mut found, mut listed) = (HashSet::new(), HashSet::new());
        if wanted.is_empty() {
            return Ok(Some(found));
        }
        let most = self.folders.len() / SHARE + TRIED + likely.len();
        let order = |folder: &FileId| self.numbered.order(*folder);
        let is_here =
            |folder: &&FileId| self.folders.binary_search_by_key(&order(folder), order).is_ok();
        let mut next: Vec<FileId> = likely.iter().filter(is_here).copied().collect();
        let (mut distance, mut step) = (0, 1);
        loop {
            next.sort_unstable();
            next.dedup();
            next.retain(|folder| listed.insert(*folder));
            let hits = threads::map(&next, |folder| self.named(*folder, &wanted));
            let hits: Result<Vec<_>> = hits.into_iter().collect();
            for (folder, files) in next.iter().zip(hits?) {
                if !files.is_empty() {
                    found.insert(*folder);
                }
                for file in files {
                    if let Some(left) = wanted.get_mut(&file) {
                        *left = left.saturating_sub(1);
                    }
                }
            }
            wanted.retain(|_, left| *left > 0);
            if wanted.is_empty() {
                return Ok(Some(found));
            }
            if distance > self.folders.len() || listed.len() > most {
                return Ok(None);
            }
            next = self.near(wanted.keys(), distance..distance + step)?;
            distance += step;
            step += distance / 8;
        }
    }

    /// Folders at these distances from each of `files`, and all above them.
    fn near<'f>(
        &self,
        files: impl Iterator<Item = &'f FileId>,
        distances: std::ops::Range<usize>,
    ) -> Result<Vec<FileId>> {
        let mut near = HashSet::new();
        for file in files {
            let order = |folder: &FileId| self.numbered.order(*folder);
            let behind = self.folders.partition_point(|folder| order(folder) <= order(file));
            for distance in distances.clone() {
                let before = behind.checked_sub(distance + 1).and_then(|at| self.folders.get(at));
                near.extend(before.into_iter().chain(self.folders.get(behind + distance)));
            }
        }
        let near: Vec<FileId> = near.into_iter().collect();
        let ways = threads::map(&near, |folder| self.above(*folder));
        let ways: Result<Vec<_>> = ways.into_iter().collect();
        Ok(ways?.concat())
    }

    /// Which of `wanted` are named in `folder`, once for each name.
    fn named(&self, folder: FileId, wanted: &HashMap<FileId, u32>) -> Result<Vec<FileId>> {
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        let (mut named, mut lost) = (Vec::new(), None);
        self.filesystem.list(folder, &mut |entry| {
            match entry {
                Ok(entry) if wanted.contains_key(&entry.file) => named.push(entry.file),
                Ok(_) => {}
                Err(error) => lost = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        lost.map_or(Ok(named), Err)
    }
}
