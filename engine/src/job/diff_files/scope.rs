//! Where the walk has to go to meet all that differs.
//!
//! A path that both sides have with one file's number, outside of the scope, leads to the same file
//! and, if that is a folder, to the same below it. The scope is a guide and no proof: what it
//! expects to be met has to be, or else everything is walked.

use std::collections::{HashMap, HashSet};

use super::change::Side;
use super::names::Names;
use super::suspects::{States, Suspects};
use crate::base::{ErrorKind, Result};
use crate::fs::{FileId, InUse};
use crate::sys::threads;

/// See the module.
pub(super) struct Scope {
    /// Files that differ, and folders that do or that lie above what does.
    wanted: HashSet<FileId>,
    /// What has to be met on each side, and by how many names.
    expected: [HashMap<FileId, u32>; 2],
    /// Encrypted files outside of it that may not be the same.
    pub sealed: u64,
}

impl Scope {
    /// The scope of two states of one filesystem; `None` if it cannot be found, or costs more than
    /// the walk of everything.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn find(states: States<'_>) -> Result<Option<Self>> {
        match Self::try_find(states) {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            // Whatever it is, the walk comes across it where it matters.
            Err(_) => Ok(None),
            Ok(scope) => Ok(scope),
        }
    }

    fn try_find(states: States<'_>) -> Result<Option<Self>> {
        let suspects = Suspects::find(states)?;
        let mut scope = Self {
            wanted: suspects.changed.iter().map(|[file, _]| file.file).collect(),
            expected: [HashMap::new(), HashMap::new()],
            sealed: suspects.sealed,
        };
        let mut likely = Vec::new();
        for side in [Side::After, Side::Before] {
            let names = states.names(side, &suspects.folders[side.index()]);
            let Some(folders) = scope.expect(side, &names, &suspects, &likely)? else {
                return Ok(None);
            };
            let ways = threads::map(&folders, |folder| names.above(*folder));
            let ways: Result<Vec<_>> = ways.into_iter().collect();
            scope.wanted.extend(ways?.into_iter().flatten());
            // What holds for one side is likely to hold for the other.
            likely = folders;
        }
        Ok(Some(scope))
    }

    /// Notes what has to be met on one side; returns the folders that differ or name what does.
    /// `None` if these were not found.
    fn expect(
        &mut self,
        side: Side,
        names: &Names<'_>,
        suspects: &Suspects,
        likely: &[FileId],
    ) -> Result<Option<Vec<FileId>>> {
        let expected = &mut self.expected[side.index()];
        // The folders that name it are not the same either, and are among what is changed.
        expected.extend(suspects.one_sided[side.index()].iter().map(|one| (one.file, 1)));
        let mut folders = Vec::new();
        let mut searched = HashMap::new();
        for InUse { file, is_folder } in suspects.changed.iter().map(|files| files[side.index()]) {
            let known = names.numbered.folders_of(file)?;
            let count = match known {
                _ if is_folder => {
                    folders.push(file);
                    1
                }
                Some(known) => {
                    folders.extend(&known);
                    u32::try_from(known.len()).unwrap_or(u32::MAX)
                }
                None => {
                    let links = names.filesystem.metadata(file)?.links;
                    searched.insert(file, links);
                    links
                }
            };
            expected.insert(file, count);
        }
        let likely: Vec<FileId> = folders.iter().chain(likely).copied().collect();
        let found = names.search(searched, &likely)?;
        Ok(found.map(|found| folders.into_iter().chain(found).collect()))
    }

    /// Whether a path of both sides that leads to `file` has to be looked into.
    pub fn has(&self, file: FileId) -> bool {
        self.wanted.contains(&file)
    }

    /// What has to be met on one side, and by how many names.
    pub fn expected(&self, side: Side) -> &HashMap<FileId, u32> {
        &self.expected[side.index()]
    }
}
