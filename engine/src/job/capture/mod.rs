//! Capture: a whole disk becomes an image.
//!
//! [`Capture::plan`] opens the source, looks at what it holds and finds its parent;
//! [`Capture::run`] reads it and commits the image. A run that fails, is stopped or killed leaves
//! no image, and the blocks that it stored are used by the next.

mod assembly;
mod effort;
mod lanes;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use self::assembly::Assembly;
use self::effort::Governor;
use self::lanes::Lanes;
use self::worker::Worker;
use super::pipeline::{Pipeline, worker_threads};
use crate::base::limits::{MAX_DISK_SIZE, NODE_FANOUT};
use crate::base::{ByteRange, Error, ErrorKind, Event, Observer, Phase, Result};
use crate::block::{Chunk, Disk, ExtentKind, IoMode, OpenOptions, SourceInfo};
use crate::store::lock::host_name;
use crate::store::manifest::TreeRoot;
use crate::store::repository::Image;
use crate::store::tree::disk_digest;
use crate::store::{ImageId, LockKind, Manifest, Repository, StoreWriter, salvage};
use crate::sys::mounts;
use crate::volume::{DiskLayout, probe};

pub use effort::Effort;

/// The tracker that reads everything and stores only what differs.
const COMPARE: &str = "compare";

/// Which image a capture is compared with, and recorded as the successor of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ParentChoice {
    /// The newest image of the same name, if there is one.
    #[default]
    Auto,
    /// None.
    None,
    /// This one, as [`Repository::resolve`] understands it.
    Image(String),
}

/// What to do about sectors that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// Record them in the image and go on.
    #[default]
    Record,
    /// Give up at the first.
    Abort,
}

/// How to capture.
#[derive(Debug, Clone, Default)]
pub struct CaptureOptions {
    /// The name of the disk's history; by default the host and the disk's serial number, or the
    /// file's name.
    pub name: Option<String>,
    /// What to compare with.
    pub parent: ParentChoice,
    /// How hard to compress.
    pub effort: Effort,
    /// What keeps reads in flight.
    pub io: IoMode,
    /// Sectors that cannot be read.
    pub on_error: OnError,
    /// Worker threads; by default one for each processor.
    pub threads: Option<usize>,
}

/// A capture that is ready to run.
pub struct Capture<'a> {
    repository: &'a Repository,
    disk: Disk,
    name: String,
    parent: Option<Image>,
    layout: DiskLayout,
    ranges: Vec<ByteRange>,
    options: CaptureOptions,
}

/// What a capture made.
#[derive(Debug, Clone)]
pub struct CaptureReport {
    /// The image's id.
    pub id: ImageId,
    /// Its manifest.
    pub manifest: Manifest,
    /// What kept reads in flight.
    pub io_engine: &'static str,
}

impl<'a> Capture<'a> {
    /// Opens the device or file `source` and plans its capture into `repository`.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` for a wrong source, name or parent; `Io`.
    pub fn plan(
        repository: &'a Repository,
        source: &Path,
        options: CaptureOptions,
        observer: &dyn Observer,
    ) -> Result<Self> {
        repository.config().check_writable()?;
        let open = OpenOptions { io: options.io, ..OpenOptions::default() };
        let disk = Disk::open(source, &open)?;
        let info = disk.info();
        if info.size.0 > MAX_DISK_SIZE {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("{}: {} bytes, at most {MAX_DISK_SIZE}", source.display(), info.size),
            ));
        }
        for message in disk.warnings() {
            observer.event(&Event::Warning { message });
        }
        warn_of_uses(source, observer);
        let name = match &options.name {
            Some(name) => checked_name(name)?,
            None => default_name(info),
        };
        let parent = find_parent(repository, &name, &options.parent)?;
        let layout = probe(&disk, info.logical_sector_size)?;
        let ranges = ranges_to_read(&disk, repository.config().block_size.bytes())?;
        Ok(Self { repository, disk, name, parent, layout, ranges, options })
    }

    /// What the disk is.
    #[must_use]
    pub fn source(&self) -> &SourceInfo {
        self.disk.info()
    }

    /// The name of its history.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it will be compared with.
    #[must_use]
    pub fn parent(&self) -> Option<&Image> {
        self.parent.as_ref()
    }

    /// Reads the disk and commits the image.
    ///
    /// # Errors
    /// `Conflict` when the repository is locked; `Cancelled`; `Io` of source or repository. There
    /// is no image then.
    pub fn run(self, observer: &dyn Observer) -> Result<CaptureReport> {
        let created = jiff::Timestamp::now();
        let clock = Instant::now();
        let lock = self.repository.lock(LockKind::Shared, "capture")?;
        salvage::adopt_unfinished(self.repository, &lock, observer)?;
        let index = Arc::new(self.repository.index(observer)?);
        let mut writer = StoreWriter::new(self.repository, Arc::clone(&index))?;
        let size = self.disk.info().size;
        let block_size = self.repository.config().block_size;
        observer.event(&Event::Started { phase: Phase::Capture, total: size.0 });
        let pipeline =
            Pipeline { disk: &self.disk, threads: worker_threads(self.options.threads), observer };
        let governor = Governor::new(self.options.effort);
        let make_worker = || {
            let mut worker = Worker::new(self.repository.keys(), &index, block_size);
            let governor = &governor;
            move |chunk: &Chunk, queued| worker.work(chunk, governor.setting(queued))
        };
        let leaf = block_size.bytes() * u64::from(NODE_FANOUT);
        let lanes = Lanes::divide(self.ranges, size.0, leaf);
        let mut assembly = Assembly::new(block_size, size, lanes.split, self.options.on_error);
        pipeline.run(lanes.ranges, &make_worker, &mut |chunk| {
            assembly.store(&chunk, &mut writer)?;
            observer.event(&Event::Progress(assembly.progress(&writer)));
            Ok(())
        })?;
        let assembled = assembly.finish(&mut writer)?;
        observer.event(&Event::Progress(assembled.progress));
        let (level, root) = &assembled.root;
        let keys = self.repository.keys();
        let mut cost = assembled.cost;
        cost.milliseconds = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let manifest = Manifest {
            imgx: Manifest::mark(),
            format: self.repository.config().format,
            repository: self.repository.config().id,
            name: self.name,
            // All nine digits, so that text sorts as time does.
            created: format!("{created:.9}"),
            host: host_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            size,
            block_size,
            content: disk_digest(&keys, (size, block_size), (*level, root)),
            tree: TreeRoot::new(*level, root),
            parent: self.parent.map(|parent| parent.id),
            tracker: COMPARE.to_owned(),
            source: as_json(self.disk.info()),
            layout: as_json(&self.layout),
            unreadable: assembled.unreadable,
            cost,
        };
        let id = writer.commit(&manifest)?;
        Ok(CaptureReport { id, manifest, io_engine: self.disk.io_engine() })
    }
}

/// A manifest's part that a lower layer describes.
fn as_json(part: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(part).expect("descriptions of disks are plain JSON")
}

fn warn_of_uses(source: &Path, observer: &dyn Observer) {
    let uses = mounts::uses_of(source).unwrap_or_default();
    if let Some(first) = uses.first() {
        let message =
            format!("{first}: what is written meanwhile may be half in the image, half not");
        observer.event(&Event::Warning { message: &message });
    }
}

/// A name must not be mistaken for an image's number, path or id.
fn checked_name(name: &str) -> Result<String> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '/' | '~');
    let sound = !name.is_empty() && name.len() <= 255 && name.chars().all(is_plain);
    if sound && name != "latest" {
        return Ok(name.to_owned());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("name '{name}': expected up to 255 bytes without '/', '~' or spaces, not 'latest'"),
    ))
}

fn default_name(info: &SourceInfo) -> String {
    let file = info.path.file_name().map_or(PathBuf::from("disk"), PathBuf::from);
    let file = file.to_string_lossy();
    let name = match (&info.device_number, &info.serial) {
        (None, _) => file.into_owned(),
        (Some(_), Some(serial)) => format!("{}-{serial}", host_name()),
        (Some(_), None) => format!("{}-{file}", host_name()),
    };
    let plain =
        |c: char| if c.is_control() || c.is_whitespace() || "/~".contains(c) { '_' } else { c };
    let name: String = name.chars().map(plain).take(200).collect();
    if name == "latest" { "latest_".to_owned() } else { name }
}

fn find_parent(
    repository: &Repository,
    name: &str,
    choice: &ParentChoice,
) -> Result<Option<Image>> {
    match choice {
        ParentChoice::None => Ok(None),
        ParentChoice::Image(reference) => repository.resolve(reference).map(Some),
        ParentChoice::Auto => {
            let images = repository.images()?.images;
            Ok(images.into_iter().find(|image| image.manifest.name == name))
        }
    }
}

/// The data of the disk, widened to whole blocks.
fn ranges_to_read(disk: &Disk, block: u64) -> Result<Vec<ByteRange>> {
    let size = disk.info().size.0;
    let mut ranges: Vec<ByteRange> = Vec::new();
    for extent in disk.extents()? {
        if extent.kind == ExtentKind::Hole || extent.range.is_empty() {
            continue;
        }
        let start = extent.range.start / block * block;
        let end = extent.range.end.next_multiple_of(block).min(size);
        match ranges.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => ranges.push(ByteRange { start, end }),
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_mistaken_for_something_else_are_refused() {
        assert!(checked_name("web-01_sda").is_ok());
        for wrong in ["", "latest", "a/b", "a~1", "two words", "new\nline"] {
            assert!(checked_name(wrong).is_err(), "{wrong} was accepted");
        }
    }
}
