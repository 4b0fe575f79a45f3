//! Making what was planned: folders first, then contents in the order of the disk, then links
//! and devices, and the folders' own attributes at the end.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::stat::SFlag;

use super::ExtractOptions;
use super::attributes::{Attributes, Withheld, costs_one_file};
use super::copy::copy;
use super::pieces::cut;
use super::plan::{Extract, Failure, Item};
use super::tree::{Spot, Tree};
use crate::base::limits::MAX_IO_SIZE;
use crate::base::{Error, ErrorContext, Event, Observer, Phase, Progress, Result};
use crate::block::BufferPool;
use crate::fs::FileType;
use crate::sys::threads;

/// Files beyond this are copied by all threads together.
const LARGE: u64 = 16 * 1024 * 1024;

/// What an extraction did.
#[derive(Debug, Default)]
pub struct ExtractReport {
    /// Regular files, links and others that were made.
    pub files: u64,
    /// Folders that were made or used.
    pub folders: u64,
    /// Bytes of data that were written.
    pub written: u64,
    /// Device nodes that were left out.
    pub devices_left_out: u64,
    /// Files whose rights (set-id bits, capabilities) were left out.
    pub rights_left_out: u64,
    /// Files of which the target could not keep some extended attributes.
    pub attributes_left_out: u64,
    /// Files that were made without attributes of theirs that are damaged.
    pub attributes_lost: Vec<Failure>,
    /// What could not be extracted.
    pub failures: Vec<Failure>,
}

/// One run.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Extract<'a>,
    tree: Tree,
    attributes: Attributes<'a>,
    pub(super) options: &'a ExtractOptions,
    observer: &'a dyn Observer,
    report: Mutex<ExtractReport>,
    done: AtomicU64,
    stop: AtomicBool,
    fatal: Mutex<Option<Error>>,
    /// For large files, which are made one after another.
    pub(super) buffers: Mutex<Option<BufferPool>>,
    /// Items that were not made, so that nothing is put in or linked to them.
    missing: Vec<AtomicBool>,
}

impl Extract<'_> {
    /// Makes everything below the folder `to`, which is made if need be.
    ///
    /// # Errors
    /// `Io` when the target can take no more; `Cancelled`. What is damaged, or exists already,
    /// costs only itself and is in the report.
    pub fn run(
        mut self,
        to: &Path,
        options: &ExtractOptions,
        observer: &dyn Observer,
    ) -> Result<ExtractReport> {
        let failures = std::mem::take(&mut self.lost);
        let run = Run {
            plan: &self,
            tree: Tree::open(to, options.overwrite)?,
            attributes: Attributes::new(self.filesystem, options.privileged),
            options,
            observer,
            report: Mutex::new(ExtractReport { failures, ..ExtractReport::default() }),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            fatal: Mutex::default(),
            buffers: Mutex::default(),
            missing: self.items.iter().map(|_| AtomicBool::new(false)).collect(),
        };
        observer.event(&Event::Started { phase: Phase::Extract, total: self.bytes });
        run.folders();
        run.contents();
        run.others();
        run.folder_attributes();
        if let Some(error) = run.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        Ok(run.report.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

// A thread that panicked while it held one of these locks left a whole value behind.
pub(super) fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run<'_> {
    pub(super) fn is_stopped(&self) -> bool {
        if self.observer.cancelled() {
            self.fail(Error::cancelled());
        }
        self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        let mut fatal = lock(&self.fatal);
        fatal.get_or_insert(error);
    }

    fn with_report(&self, change: impl FnOnce(&mut ExtractReport)) {
        change(&mut lock(&self.report));
    }

    /// Indices of the items that `is_wanted`.
    fn items(&self, is_wanted: impl Fn(&Item) -> bool) -> Vec<usize> {
        let items = self.plan.items.iter().enumerate();
        items.filter(|(_, item)| is_wanted(item)).map(|(index, _)| index).collect()
    }

    fn is_missing(&self, index: Option<u32>) -> bool {
        let missing = index.and_then(|index| self.missing.get(index as usize));
        missing.is_some_and(|missing| missing.load(Ordering::Relaxed))
    }

    /// Has `make` make item `index`, unless its folder could not be made; notes how it ended.
    fn each(&self, index: usize, make: impl FnOnce(&Item, &Spot<'_>) -> Result<Withheld>) -> bool {
        let Some(item) = self.plan.items.get(index) else { return false };
        if self.is_stopped() {
            return false;
        }
        let made = if self.is_missing(item.parent) {
            // The folder itself was reported.
            None
        } else {
            let parts = self.plan.parts(index);
            Some(self.tree.spot(&parts).and_then(|spot| make(item, &spot)))
        };
        match made {
            Some(Ok(withheld)) => {
                let path = withheld.lost.is_some().then(|| self.plan.path(index));
                self.with_report(|report| {
                    let lost = path.zip(withheld.lost);
                    report
                        .attributes_lost
                        .extend(lost.map(|(path, error)| Failure { path, error }));
                    report.rights_left_out += u64::from(withheld.rights);
                    report.attributes_left_out += u64::from(withheld.attributes);
                });
                return true;
            }
            Some(Err(error)) if costs_one_file(&error) => {
                let path = self.plan.path(index);
                self.with_report(|report| report.failures.push(Failure { path, error }));
            }
            Some(Err(error)) => self.fail(error),
            None => {}
        }
        if let Some(missing) = self.missing.get(index) {
            missing.store(true, Ordering::Relaxed);
        }
        false
    }

    fn folders(&self) {
        for index in self.items(|item| item.file_type == FileType::Directory) {
            if self.each(index, |_, spot| spot.make_folder().map(|_| Withheld::default())) {
                self.with_report(|report| report.folders += 1);
            }
        }
    }

    /// Small files side by side, then each large one by all threads.
    fn contents(&self) {
        let is_content =
            |item: &Item| item.file_type == FileType::Regular && item.link_of.is_none();
        let mut files = self.items(is_content);
        files.sort_by_key(|index| self.plan.items.get(*index).map(|item| item.place));
        let is_large =
            |index: &usize| self.plan.items.get(*index).is_some_and(|item| item.size > LARGE);
        let (large, small): (Vec<_>, Vec<_>) = files.into_iter().partition(is_large);
        let next = AtomicUsize::new(0);
        Self::in_threads(self.options.threads.get(), &|| {
            let mut buffer = vec![0; MAX_IO_SIZE];
            while let Some(index) = small.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.content(*index, &mut |item, _, file| self.small(item, file, &mut buffer));
                if self.is_stopped() {
                    break;
                }
            }
        });
        for index in large {
            self.content(index, &mut |item, spot, file| self.large(item, spot, file));
        }
    }

    fn in_threads(count: usize, work: &(dyn Fn() + Sync)) {
        thread::scope(|scope| {
            threads::crew(scope, count - 1, || work);
            work();
        });
    }

    /// Makes a regular file with what `fill` writes, or none.
    fn content(&self, index: usize, fill: &mut dyn FnMut(&Item, &Spot<'_>, &File) -> Result<()>) {
        let is_made = self.each(index, |item, spot| {
            let file = spot.make_file()?;
            let sized = file.set_len(item.size).context(|| "write the content");
            let filled = sized.and_then(|()| fill(item, spot, &file));
            let given = filled.and_then(|()| self.attributes.give(item.file, &file, spot));
            if given.is_err() {
                // Half a file must not be taken for the whole one.
                spot.remove()?;
            }
            given
        });
        if is_made {
            self.with_report(|report| report.files += 1);
        }
    }

    pub(super) fn small(&self, item: &Item, file: &File, buffer: &mut [u8]) -> Result<()> {
        let mut content = self.plan.filesystem.open(item.file)?;
        let mut pieces = Vec::new();
        cut(content.as_mut(), self.plan.volume, &|| self.is_stopped(), &mut |piece| {
            pieces.push(piece);
            ControlFlow::Continue(())
        })?;
        let outcome = pieces.iter().try_for_each(|piece| {
            copy(content.as_mut(), *piece, file, buffer)?;
            self.written(piece.len())
        });
        self.tell(item.size);
        outcome
    }

    /// Counts what was written; says when to stop.
    pub(super) fn written(&self, count: u64) -> Result<()> {
        self.with_report(|report| report.written += count);
        if self.is_stopped() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Tells that `count` bytes more are dealt with.
    pub(super) fn tell(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        let total = self.plan.bytes;
        let progress = Progress { done, total, moved: done, ..Progress::default() };
        self.observer.event(&Event::Progress(progress));
    }

    /// Further names, symbolic links, devices, pipes.
    fn others(&self) {
        let is_other = |item: &Item| {
            item.link_of.is_none()
                && !matches!(item.file_type, FileType::Directory | FileType::Regular)
        };
        for index in self.items(is_other) {
            let mut is_left_out = false;
            let is_made = self.each(index, |item, spot| {
                is_left_out = !self.other(item, spot)?;
                Ok(Withheld::default())
            });
            self.with_report(|report| {
                report.devices_left_out += u64::from(is_made && is_left_out);
                report.files += u64::from(is_made && !is_left_out);
            });
            if is_left_out {
                self.missing[index].store(true, Ordering::Relaxed);
            }
        }
        for index in self.items(|item| item.link_of.is_some()) {
            let first = self.plan.items.get(index).and_then(|item| item.link_of);
            if self.is_missing(first) {
                continue;
            }
            let is_made = self.each(index, |_, spot| {
                let parts = self.plan.parts(first.unwrap_or_default() as usize);
                spot.make_name_of(&self.tree.spot(&parts)?)?;
                Ok(Withheld::default())
            });
            self.with_report(|report| report.files += u64::from(is_made));
        }
    }

    /// Makes what is neither folder nor regular file; returns false for a device that is to be
    /// left out.
    fn other(&self, item: &Item, spot: &Spot<'_>) -> Result<bool> {
        let kind = match item.file_type {
            FileType::Symlink => {
                spot.make_link(&self.plan.filesystem.link_target(item.file)?)?;
                self.attributes.give_unopened(item.file, spot, true)?;
                return Ok(true);
            }
            FileType::CharDevice => SFlag::S_IFCHR,
            FileType::BlockDevice => SFlag::S_IFBLK,
            FileType::Socket => SFlag::S_IFSOCK,
            FileType::Fifo | FileType::Regular | FileType::Directory => SFlag::S_IFIFO,
        };
        let is_device = matches!(item.file_type, FileType::CharDevice | FileType::BlockDevice);
        if is_device && !self.options.privileged {
            return Ok(false);
        }
        let metadata = self.plan.filesystem.metadata(item.file)?;
        spot.make_node(kind, metadata.device.unwrap_or_default())?;
        self.attributes.give_unopened(item.file, spot, false)?;
        Ok(true)
    }

    /// Innermost folders first: giving a folder its times and rights comes after all that is
    /// made in it.
    fn folder_attributes(&self) {
        let folders = self.items(|item| item.file_type == FileType::Directory);
        for index in folders.into_iter().rev() {
            if self.is_missing(u32::try_from(index).ok()) {
                continue;
            }
            self.each(index, |item, spot| {
                let folder = File::from(spot.open_folder()?);
                self.attributes.give(item.file, &folder, spot)
            });
        }
    }
}
