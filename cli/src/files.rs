//! What the commands that read files share: opening their disk, and how a run ends that lost some.

use std::path::Path;
use std::sync::Arc;

use imgx_engine::base::{Error, ErrorKind, Observer, Result};
use imgx_engine::block::{Disk, NbdExport};
use imgx_engine::job::FileDisk;
use imgx_engine::store::lock::ReadLock;
use imgx_engine::store::repository::Image;
use imgx_engine::store::{ImageReader, Repository};

use crate::args::is_path;
use crate::output::Console;
use crate::session::{Outcome, Session};

/// A disk whose files are read; its repository is locked as long.
pub struct Files {
    pub disk: FileDisk,
    export: Option<Arc<NbdExport>>,
    _lock: Option<ReadLock>,
}

impl Files {
    /// Opens an image, or the disk or file that a path names.
    ///
    /// # Errors
    /// `NotFound` for an unknown image or path; `Io`; `Corrupt`.
    pub fn open(reference: &str, what: &'static str, session: &Session) -> Result<Self> {
        Self::open_with(reference, what, session, Repository::reader)
    }

    /// The same, to read much of it once.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for_bulk(reference: &str, what: &'static str, session: &Session) -> Result<Self> {
        Self::open_with(reference, what, session, Repository::bulk_reader)
    }

    fn open_with(
        reference: &str,
        what: &'static str,
        session: &Session,
        reader: fn(&Repository, &Image) -> ImageReader,
    ) -> Result<Self> {
        if is_path(reference) {
            let disk = Disk::open_to_browse(Path::new(reference))?;
            for warning in disk.warnings() {
                session.console.complain(&format!("warning: {warning}"));
            }
            let export = disk.export().cloned();
            return Ok(Self { disk: FileDisk::of_disk(disk)?, export, _lock: None });
        }
        let repository = session.repository()?;
        let lock = Some(repository.lock_to_read(what)?);
        let image = repository.resolve(reference)?;
        let disk = FileDisk::of_image(reader(&repository, &image))?;
        Ok(Self { disk, export: None, _lock: lock })
    }

    /// Does `work`, in which no wait for an NBD server goes on when `observer` wants to stop.
    pub fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        match &self.export {
            Some(export) => export.watched(observer, work),
            None => work(),
        }
    }
}

/// What a run could not read.
#[derive(Debug, Default)]
pub struct Losses {
    damaged: bool,
    unreadable: bool,
    failed: bool,
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

    /// How the run ended: by what was worst.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self { damaged: true, .. } => Outcome::Damaged,
            Self { unreadable: true, .. } => Outcome::Unreadable,
            Self { failed: true, .. } => Outcome::Failed,
            _ => Outcome::Done,
        }
    }
}
