//! Making what was planned: folders first, then contents in the order of the disk, then links
//! and devices, and the folders' own attributes at the end.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::attributes::{Attributes, Missing};
use super::folders::Folders;
use super::plan::{Extract, Failure, Item};
use super::report::ExtractReport;
use super::spot::Spot;
use super::target::open_target;
use super::tree::{Folder, Tree};
use super::trouble::{Made, Trouble};
use super::{ExtractOptions, names};
use crate::base::{Error, ErrorKind, Event, Observer, Phase, Progress, Result};
use crate::block::BufferPool;

/// One run.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Extract<'a>,
    pub(super) tree: Tree,
    pub(super) folders: Folders<'a>,
    pub(super) attributes: Attributes<'a>,
    pub(super) options: &'a ExtractOptions,
    observer: &'a dyn Observer,
    pub(super) report: Mutex<ExtractReport>,
    done: AtomicU64,
    stop: AtomicBool,
    fatal: Mutex<Option<Error>>,
    /// For large files, which are made one after another.
    pub(super) buffers: Mutex<Option<BufferPool>>,
    /// Items that were not made, so that nothing is put in or linked to them.
    missing: Vec<AtomicBool>,
    /// The further names of files with several.
    pub(super) links: HashMap<u32, Vec<usize>>,
}

/// Makes an item at a spot.
pub(super) type Make<'m, 'a> = &'m mut dyn FnMut(&'a Item, &Spot<'_>) -> Made<()>;

impl Extract<'_> {
    /// Makes everything below the folder `to`, which is made if need be.
    ///
    /// # Errors
    /// `Io` when the target folder cannot be opened; `Conflict` where another user's link leads to
    /// it; `Cancelled`. Whatever else cannot be read, made or kept is in the report, and also why
    /// it ended early.
    pub fn run(
        mut self,
        to: &Path,
        options: &ExtractOptions,
        observer: &dyn Observer,
    ) -> Result<ExtractReport> {
        let tree = Tree::new(open_target(to)?, to, options.overwrite)?;
        let failures = std::mem::take(&mut self.lost);
        let run = Run::new(&self, tree, options, observer);
        lock(&run.report).failures = failures;
        run.all()
    }
}

// A thread that panicked while it held one of these locks left a whole value behind.
pub(super) fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Run<'a> {
    pub(super) fn new(
        plan: &'a Extract<'a>,
        tree: Tree,
        options: &'a ExtractOptions,
        observer: &'a dyn Observer,
    ) -> Self {
        let mut links: HashMap<u32, Vec<usize>> = HashMap::new();
        for (index, item) in plan.items.iter().enumerate() {
            if let Some(first) = item.link_of {
                links.entry(first).or_default().push(index);
            }
        }
        Self {
            plan,
            tree,
            folders: Folders::new(plan),
            attributes: Attributes::new(plan.filesystem, options.privileged),
            options,
            observer,
            report: Mutex::default(),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            fatal: Mutex::default(),
            buffers: Mutex::default(),
            missing: plan.items.iter().map(|_| AtomicBool::new(false)).collect(),
            links,
        }
    }

    /// Makes everything.
    pub(super) fn all(self) -> Result<ExtractReport> {
        self.observer.event(&Event::Started { phase: Phase::Extract, total: self.plan.bytes });
        self.make_folders();
        self.make_contents();
        self.make_others();
        if !self.observer.cancelled() {
            // What was made before the target was full is to be as it should be, too.
            self.give_folder_attributes();
            self.list_names();
        }
        let mut report = self.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        match self.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            stopped => {
                report.stopped = stopped;
                Ok(report)
            }
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        if self.observer.cancelled() {
            self.fail(Error::cancelled());
        }
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        let mut fatal = lock(&self.fatal);
        fatal.get_or_insert(error);
    }

    pub(super) fn with_report(&self, change: impl FnOnce(&mut ExtractReport)) {
        change(&mut lock(&self.report));
    }

    /// Indices of the items that `is_wanted`.
    pub(super) fn items(&self, is_wanted: impl Fn(&Item) -> bool) -> Vec<usize> {
        let items = self.plan.items.iter().enumerate();
        items.filter(|(_, item)| is_wanted(item)).map(|(index, _)| index).collect()
    }

    pub(super) fn item(&self, index: usize) -> Option<&'a Item> {
        self.plan.items.get(index)
    }

    pub(super) fn is_missing(&self, index: Option<u32>) -> bool {
        let missing = index.and_then(|index| self.missing.get(index as usize));
        missing.is_some_and(|missing| missing.load(Ordering::Relaxed))
    }

    pub(super) fn set_missing(&self, index: usize, is_missing: bool) {
        if let Some(missing) = self.missing.get(index) {
            missing.store(is_missing, Ordering::Relaxed);
        }
    }

    /// Has `make` make item `index` in its folder under its name; under others, where the target
    /// cannot have that one and others may be given.
    pub(super) fn make(&self, index: usize, make: Make<'_, 'a>) -> Made<()> {
        let Some(item) = self.item(index) else { return Ok(()) };
        let folder = self.folders.open(item.parent, &self.tree)?;
        let outcome = self.make_as(index, &item.name, &folder, make);
        let Err(Trouble::Name(why)) = outcome else { return outcome };
        if !self.options.shorten_names {
            return Err(Trouble::Name(why));
        }
        for attempt in 0..names::ATTEMPTS {
            let name = names::given(&item.name, attempt);
            match self.make_as(index, &name, &folder, make) {
                Err(Trouble::Name(_)) => {}
                Ok(()) => {
                    self.folders.note_name(index, &name);
                    return Ok(());
                }
                other => return other,
            }
        }
        Err(Trouble::Name(why))
    }

    fn make_as(&self, index: usize, name: &[u8], folder: &Folder, make: Make<'_, 'a>) -> Made<()> {
        let Some(item) = self.item(index) else { return Ok(()) };
        let mut path = item.parent.map_or_else(Vec::new, |parent| {
            let mut path = self.folders.path(parent as usize);
            path.push(b'/');
            path
        });
        path.extend_from_slice(name);
        let shown = self.tree.shown(&path);
        let is_special = matches!(name, b"" | b"." | b"..");
        if is_special || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            let (place, found) = (shown.display(), "one that leads elsewhere");
            return Err(Trouble::Image(Error::corrupt(place, "a file's name", found)));
        }
        let name = OsStr::from_bytes(name);
        let (tree, parent) = (&self.tree, item.parent);
        let is_lending = !folder.standing.is_new && self.attributes.lends(item.file);
        let folder = folder.clone();
        let spot = Spot { tree, item: index, parent, folder, name, shown, is_lending };
        match make(item, &spot) {
            Err(Trouble::Elsewhere) => make(item, &spot),
            outcome => outcome,
        }
    }

    /// Notes why item `index` was not made.
    pub(super) fn note(&self, index: usize, trouble: Trouble) {
        self.set_missing(index, true);
        let path = self.plan.path(index);
        match trouble {
            Trouble::End(error) => self.fail(error),
            other => self.with_report(|report| report.note(path, other)),
        }
    }

    /// Counts item `index` as one that is not there because another is not.
    pub(super) fn note_beneath(&self, index: usize) {
        self.set_missing(index, true);
        self.with_report(|report| report.beneath += 1);
    }

    /// Notes what of item `index` is missing.
    pub(super) fn note_missing(&self, index: usize, missing: Missing) {
        self.with_report(|report| {
            report.rights_left_out += u64::from(missing.rights);
            report.attributes_left_out += u64::from(!missing.not_kept.is_empty());
            for (property, error) in missing.not_kept {
                report.note_not_kept(self.plan.path(index), property, error);
            }
            if let Some(error) = missing.failed {
                let path = self.plan.path(index);
                report.target_failures.push(Failure { path, error });
            }
            if let Some(error) = missing.unread {
                report.attributes_lost.push(Failure { path: self.plan.path(index), error });
            }
        });
    }

    /// Counts what was written; says when to stop.
    pub(super) fn written(&self, count: u64) -> Made<()> {
        self.with_report(|report| report.written += count);
        if self.is_stopped() { Err(Trouble::End(Error::cancelled())) } else { Ok(()) }
    }

    /// Tells that `count` bytes more are dealt with.
    pub(super) fn tell(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        let total = self.plan.bytes;
        let progress = Progress { done, total, moved: done, ..Progress::default() };
        self.observer.event(&Event::Progress(progress));
    }
}
