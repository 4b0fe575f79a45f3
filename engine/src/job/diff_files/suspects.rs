//! Which files differ between two states of one filesystem, by their numbers alone.
//!
//! All files in use are gone through on both sides, without a folder being read. A file whose
//! parts are at the same places, where the volumes hold the same bytes, is the same; every other
//! one is compared. So what was written with its times put back is found like anything else. No
//! file in use may be damaged: then nothing is known, and all folders are walked.

use std::ops::ControlFlow;

use super::change::Side;
use super::compare::{Comparer, Pair};
use super::ground::differ_in;
use super::names::Names;
use crate::base::limits::{MAX_COMPARED_EXTENTS, MAX_IO_SIZE};
use crate::base::{ByteRange, Error, ErrorKind, ReadAt, Result};
use crate::fs::{FileId, InUse, Numbered, Part};
use crate::job::files::list_sorted;
use crate::sys::threads;

/// Files of one side that are taken at once.
const AT_ONCE: usize = 8192;

/// Two states of one filesystem.
#[derive(Clone, Copy)]
pub(super) struct States<'a> {
    pub comparer: &'a Comparer<'a>,
    pub numbered: [&'a dyn Numbered; 2],
    /// The bytes of the volumes.
    pub bytes: [&'a dyn ReadAt; 2],
}

/// What was found.
#[derive(Default)]
pub(super) struct Suspects {
    /// Files that both sides have and that are not the same, and whether they are folders.
    pub changed: Vec<[InUse; 2]>,
    /// Files that one side has only.
    pub one_sided: [Vec<InUse>; 2],
    /// All folders of each side, in order.
    pub folders: [Vec<FileId>; 2],
    /// Encrypted files that may not be the same.
    pub sealed: u64,
}

enum Verdict {
    Same,
    Sealed,
    Changed,
}

/// Where a file's parts are not those that it had, or may hold something else.
#[derive(Default)]
struct Disturbed {
    record: bool,
    body: bool,
}

/// Files that follow one another, of both sides.
struct Batch {
    files: [Vec<InUse>; 2],
    /// The last of them, if there may be more.
    end: Option<FileId>,
}

impl Suspects {
    /// Finds them.
    ///
    /// # Errors
    /// `Cancelled`; those of the filesystems, after which nothing is known.
    pub fn find(states: States<'_>) -> Result<Self> {
        let mut found = Self::default();
        let mut batch = states.batch(None)?;
        while let Some(end) = batch.end {
            // What is unpacked for the next ones waits for nothing of these.
            let (taken, next) =
                threads::join(|| found.take(states, &batch.files), || states.batch(Some(end)));
            taken?;
            batch = next?;
        }
        found.take(states, &batch.files)?;
        Ok(found)
    }

    fn take(&mut self, states: States<'_>, files: &[Vec<InUse>; 2]) -> Result<()> {
        for (side, files) in files.iter().enumerate() {
            let folders = files.iter().filter(|one| one.is_folder);
            self.folders[side].extend(folders.map(|one| one.file));
        }
        let both = self.merge(states, files);
        let verdicts = threads::map(&both, |files| states.examine(*files));
        let verdicts: Result<Vec<_>> = verdicts.into_iter().collect();
        for (files, verdict) in both.into_iter().zip(verdicts?) {
            match verdict {
                Verdict::Same => {}
                Verdict::Sealed => self.sealed += 1,
                Verdict::Changed => self.changed.push(files),
            }
        }
        Ok(())
    }

    /// The files that both sides have; notes the others.
    fn merge(&mut self, states: States<'_>, [before, after]: &[Vec<InUse>; 2]) -> Vec<[InUse; 2]> {
        let order = |one: &InUse| states.numbered[1].order(one.file);
        let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
        let mut both = Vec::new();
        loop {
            match (before.peek().copied(), after.peek().copied()) {
                (Some(one), Some(other)) if one.file == other.file => {
                    both.push([*one, *other]);
                    before.next();
                    after.next();
                }
                (Some(one), other) if other.is_none_or(|other| order(one) <= order(other)) => {
                    self.one_sided[0].push(*one);
                    before.next();
                }
                (_, Some(other)) => {
                    self.one_sided[1].push(*other);
                    after.next();
                }
                _ => return both,
            }
        }
    }
}

impl<'a> States<'a> {
    /// The files behind `after`. One side is asked after the other, so that what both hold is
    /// unpacked once.
    fn batch(&self, after: Option<FileId>) -> Result<Batch> {
        let [before, later] = self.numbered;
        let mut files = [before.next_files(after, AT_ONCE)?, later.next_files(after, AT_ONCE)?];
        let order = |one: &InUse| later.order(one.file);
        let ends = files.iter().filter(|files| files.len() == AT_ONCE);
        let end = ends.filter_map(|files| files.last().copied()).min_by_key(order);
        if let Some(end) = &end {
            files.iter_mut().for_each(|files| files.retain(|one| order(one) <= order(end)));
        }
        Ok(Batch { files, end: end.map(|end| end.file) })
    }

    /// The names of one side, which has `folders`.
    pub fn names<'f>(&self, side: Side, folders: &'f [FileId]) -> Names<'f>
    where
        'a: 'f,
    {
        let contents = &self.comparer.contents;
        Names {
            filesystem: contents.filesystems[side.index()],
            numbered: self.numbered[side.index()],
            observer: contents.observer,
            folders,
        }
    }

    fn examine(&self, files: [InUse; 2]) -> Result<Verdict> {
        let file = files[1].file;
        if self.comparer.contents.observer.cancelled() {
            return Err(Error::cancelled());
        }
        let disturbed = self.disturbed(file)?;
        if !disturbed.record && !disturbed.body {
            return Ok(Verdict::Same);
        }
        // Its folders list them beside it, and are the same themselves.
        let [before, after] = self.numbered.map(|numbered| numbered.stream_names(file));
        if before? != after? {
            return Ok(Verdict::Changed);
        }
        let is_folder = files.iter().all(|one| one.is_folder);
        if is_folder
            && disturbed.body
            && self.entries(Side::Before, file)? != self.entries(Side::After, file)?
        {
            return Ok(Verdict::Changed);
        }
        let pair = Pair {
            path: Vec::new(),
            old_path: None,
            files: [file; 2],
            is_renamed: false,
            has_new_entries: false,
        };
        let compared = self.comparer.compare(&pair);
        match (compared.lost.into_iter().next(), compared.change) {
            (Some((_, error)), _) => Err(error),
            (None, Some(_)) => Ok(Verdict::Changed),
            (None, None) if compared.is_sealed => Ok(Verdict::Sealed),
            (None, None) => Ok(Verdict::Same),
        }
    }

    fn entries(&self, side: Side, folder: FileId) -> Result<Vec<(Vec<u8>, FileId)>> {
        let filesystem = self.comparer.contents.filesystems[side.index()];
        let (entries, errors) = list_sorted(filesystem, folder)?;
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(entries.into_iter().map(|entry| (entry.name, entry.file)).collect()),
        }
    }

    fn disturbed(&self, file: FileId) -> Result<Disturbed> {
        let mut records = [Vec::new(), Vec::new()];
        let mut bodies = [Vec::new(), Vec::new()];
        for side in [0, 1] {
            self.numbered[side].parts(file, &mut |part| {
                match part {
                    Part::Record(range) => records[side].push(range),
                    body => bodies[side].push(body),
                }
                match bodies[side].len() <= MAX_COMPARED_EXTENTS {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if bodies[side].len() > MAX_COMPARED_EXTENTS {
                let context = format!("a file of more than {MAX_COMPARED_EXTENTS} parts");
                return Err(Error::new(ErrorKind::Limit, context));
            }
        }
        let mut disturbed =
            Disturbed { record: records[0] != records[1], body: bodies[0] != bodies[1] };
        for range in &records[1] {
            disturbed.record = disturbed.record || self.differs(*range)?;
        }
        for part in &bodies[1] {
            disturbed.body = disturbed.body
                || match *part {
                    Part::Content(range) => {
                        !self.comparer.contents.ground.doubtful(range).is_empty()
                    }
                    Part::Structure(range) | Part::Record(range) => self.differs(range)?,
                };
        }
        Ok(disturbed)
    }

    /// Whether the volumes hold different bytes in `range`, or may.
    fn differs(&self, range: ByteRange) -> Result<bool> {
        let ground = self.comparer.contents.ground;
        let doubtful = ground.doubtful(range);
        if doubtful.is_empty() {
            return Ok(false);
        }
        // The filesystem has something else there than the volume.
        if ground.is_replayed(range) {
            return Ok(true);
        }
        let mut buffers = [Vec::new(), Vec::new()];
        for range in doubtful {
            for start in (range.start..range.end).step_by(MAX_IO_SIZE) {
                let length = (range.end - start).min(MAX_IO_SIZE as u64);
                if differ_in(self.bytes, ByteRange::new(start, length), &mut buffers)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
