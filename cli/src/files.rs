//! What the commands that read files share: opening their disk, and how a run ends that lost some.

use std::collections::HashSet;
use std::sync::Arc;

use imgx_engine::base::{Error, ErrorKind, Observer, Result};
use imgx_engine::block::{Disk, NbdExport};
use imgx_engine::fs::Filesystem;
use imgx_engine::job::FileDisk;
use imgx_engine::store::lock::ReadLock;
use imgx_engine::store::repository::Image;
use imgx_engine::store::{ImageReader, Repository};

use crate::args::{ImageWord, ReadingArguments, is_path};
use crate::output::Console;
use crate::session::{Outcome, Session};

/// How an image is read: here and there, or much of it once.
type Reader = fn(&Repository, &Image) -> ImageReader;

/// A disk whose files are read; its repository is locked as long.
pub struct Files {
    pub disk: FileDisk,
    /// Exports that are read, if any.
    exports: Vec<Arc<NbdExport>>,
    /// Held, and never looked at.
    locks: Vec<ReadLock>,
}

impl Files {
    /// Opens an image, or the disk or file that a path names; and further ones, on which parts of
    /// what is on it may lie.
    ///
    /// # Errors
    /// `NotFound` for an unknown image or path; `Io`; `Corrupt`.
    pub fn open(
        reference: &ImageWord,
        reading: &ReadingArguments,
        what: &'static str,
        session: &Session,
    ) -> Result<Self> {
        Self::open_all((reference, reading), what, session, Repository::reader)
    }

    /// The same, to read much of them once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for_bulk(
        reference: &ImageWord,
        reading: &ReadingArguments,
        what: &'static str,
        session: &Session,
    ) -> Result<Self> {
        Self::open_all((reference, reading), what, session, Repository::bulk_reader)
    }

    fn open_all(
        (reference, reading): (&ImageWord, &ReadingArguments),
        what: &'static str,
        session: &Session,
        reader: Reader,
    ) -> Result<Self> {
        let Self { disk, mut exports, mut locks } =
            Self::open_one(reference, what, session, reader)?;
        let mut beside = Vec::new();
        for other in &reading.with {
            let opened = Self::open_one(other, what, session, reader);
            let opened = opened.map_err(|error| error.within(format!("--with {}", &**other)))?;
            beside.push((other.to_string(), opened.disk));
            exports.extend(opened.exports);
            locks.extend(opened.locks);
        }
        let disk = disk.beside(beside)?.unlocked(&reading.unlock.keys()?)?;
        let disk = disk.with_options(&reading.zone().read_options());
        for other in disk.unrelated() {
            let message =
                format!("warning: nothing on {other} is a part of what is on {}", &**reference);
            session.console.complain(&message);
        }
        Ok(Self { disk, exports, locks })
    }

    fn open_one(
        reference: &ImageWord,
        what: &'static str,
        session: &Session,
        reader: Reader,
    ) -> Result<Self> {
        if is_path(reference) {
            let disk = Disk::open_to_browse(reference.path())?;
            for warning in disk.warnings() {
                session.console.complain(&format!("warning: {warning}"));
            }
            let exports = disk.export().cloned().into_iter().collect();
            return Ok(Self { disk: FileDisk::of_disk(disk)?, exports, locks: Vec::new() });
        }
        let repository = session.repository()?;
        let locks = vec![repository.lock_to_read(what)?];
        let image = repository.resolve(reference, session)?;
        let disk = FileDisk::of_image(reader(&repository, &image))?;
        Ok(Self { disk, exports: Vec::new(), locks })
    }

    /// Does `work`, in which no wait for an NBD server goes on when `observer` wants to stop.
    pub fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        watched(&self.exports, observer, Box::new(work))
    }
}

fn watched<'a, T>(
    exports: &[Arc<NbdExport>],
    observer: &dyn Observer,
    work: Box<dyn FnOnce() -> T + 'a>,
) -> T {
    match exports.split_first() {
        Some((first, rest)) => first.watched(observer, || watched(rest, observer, work)),
        None => work(),
    }
}

/// What a run could not read, or its target not take.
#[derive(Debug, Default)]
pub struct Losses {
    damaged: bool,
    unreadable: bool,
    failed: bool,
    not_kept: bool,
    /// Of whole filesystems, in words.
    doubts: HashSet<String>,
}

impl Losses {
    /// Tells of something that is lost at `place`, and remembers it.
    pub fn tell(&mut self, place: &str, error: &Error, console: &Console) {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Limit => self.damaged = true,
            ErrorKind::Io => self.unreadable = true,
            _ => self.failed = true,
        }
        let word = if error.kind() == ErrorKind::Corrupt { "damage" } else { "error" };
        console.complain(&format!("{word}: {place}: {error}"));
    }

    /// Tells of something at `place` that cannot be kept where it goes, and remembers it.
    pub fn tell_not_kept(&mut self, place: &str, what: &str, console: &Console) {
        self.not_kept = true;
        console.complain(&format!("warning: {place}: {what}"));
    }

    /// Tells what is wrong with a filesystem as a whole, and was not told before: some of it is
    /// met only while files are read.
    pub fn tell_doubts(&mut self, volume: &str, filesystem: &dyn Filesystem, console: &Console) {
        for doubt in filesystem.doubts().all() {
            let line = format!("damage: {volume}: {doubt}");
            if self.doubts.insert(line.clone()) {
                self.damaged = true;
                console.complain(&line);
            }
        }
    }

    /// Tells of something that could not be made at the target, and remembers it.
    pub fn tell_of_target(&mut self, place: &str, error: &Error, console: &Console) {
        self.failed = true;
        console.complain(&format!("error: {place}: {error}"));
    }

    /// Remembers that the target could not keep something.
    pub fn add_not_kept(&mut self) {
        self.not_kept = true;
    }

    /// How the run ended: by what was worst.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self { damaged: true, .. } => Outcome::Damaged,
            Self { unreadable: true, .. } => Outcome::Unreadable,
            Self { failed: true, .. } => Outcome::Failed,
            Self { not_kept: true, .. } => Outcome::NotKept,
            _ => Outcome::Done,
        }
    }
}
