//! A disk to read from: a block device, a regular file that holds one's bytes, or an export.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::SourceInfo;
use super::extents::Extent;
use super::files::{Access, Files};
use super::nbd::{ImageFormat, NbdExport, NbdUri, Patience};
use super::origin::Origin;
use super::queue::{self, IoMode};
use crate::base::{ByteCount, ByteOffset, Observer, ReadAt, Result, Silent};
use crate::sys::{DeviceFacts, device};

/// How a disk is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// What keeps reads in flight.
    pub io: IoMode,
    /// Whether to bypass the page cache where that is possible.
    pub direct: bool,
    /// Whether to take a file's bytes for the disk's, even if they look like an image of another
    /// format.
    pub raw: bool,
    /// How long an NBD server is waited for.
    pub patience: Patience,
}

impl Default for OpenOptions {
    fn default() -> Self {
        let patience = Patience::default();
        Self { io: IoMode::Auto, direct: true, raw: false, patience }
    }
}

/// An open, read-only disk.
#[derive(Debug)]
pub struct Disk {
    pub(super) origin: Origin,
    pub(super) mode: IoMode,
    warnings: Vec<String>,
}

impl Disk {
    /// Opens the block device or regular file `path`, or the export that an `nbd://` or
    /// `nbd+unix://` URI names. An image file of QEMU's, VMware's or Hyper-V's own format, known by
    /// its magic, is read through `qemu-nbd`: never as raw bytes.
    ///
    /// What was written to it through the page cache, or to the disk's partitions, is written
    /// back first, so that direct reads see it.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` if it is something else than a device or file; `Io` if it cannot be
    /// opened, or io_uring is demanded and not to be had; `Limit` if it is too large;
    /// `Unsupported` for an image file that `qemu-nbd` is missing for, or that refers to others.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        Self::open_watched(path, options, &Silent)
    }

    /// The same, not waiting for an NBD server when `observer` wants to stop.
    ///
    /// # Errors
    /// As [`open`](Self::open); `Cancelled`.
    pub fn open_watched(
        path: &Path,
        options: &OpenOptions,
        observer: &dyn Observer,
    ) -> Result<Self> {
        if NbdUri::is_one(path) {
            return Ok(Self::of_export(NbdExport::open(path, options.patience, observer)?));
        }
        let files = Files::open(path, Access::Read, options.direct)?;
        if let Some(format) = image_format(&files).filter(|_| !options.raw) {
            let opened = NbdExport::open_image((path, format), options.patience, observer);
            return Ok(Self::of_export(opened?));
        }
        let mut warnings = Vec::new();
        if let Err(error) = files.buffered.sync_all() {
            warnings.push(format!("{}: cannot write its cache back: {error}", path.display()));
        }
        if let Some(facts) = &files.facts {
            if facts.size.0 != files.size() {
                let (path, whole) = (path.display(), files.size());
                warnings.push(format!(
                    "{path}: has {} bytes, of which only {whole} are in whole sectors; the rest \
                     cannot be read",
                    facts.size
                ));
            }
            write_back_family(facts, &mut warnings);
        }
        if files.direct.is_none() {
            files.drop_cache();
        }
        let mode = options.io.resolve(&files)?;
        Ok(Self { origin: Origin::Files(Arc::new(files)), mode, warnings })
    }

    /// Opens `path` for reads here and there: a regular file through the page cache, which keeps
    /// what is read again; a device as [`open`](Self::open) does, because each of its partitions
    /// has a cache of its own that the disk's knows nothing of.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_browse(path: &Path) -> Result<Self> {
        if NbdUri::is_one(path) {
            return Self::open(path, &OpenOptions::default());
        }
        let files = Files::open(path, Access::Read, false)?;
        if files.facts.is_some() || image_format(&files).is_some() {
            drop(files);
            return Self::open(path, &OpenOptions::default());
        }
        let origin = Origin::Files(Arc::new(files));
        Ok(Self { origin, mode: IoMode::Threads, warnings: Vec::new() })
    }

    fn of_export(export: NbdExport) -> Self {
        let warnings = export.warning().into_iter().collect();
        Self { origin: Origin::Nbd(Arc::new(export)), mode: IoMode::Threads, warnings }
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &SourceInfo {
        self.origin.info()
    }

    /// What the kernel says about it; `None` for all but a block device.
    #[must_use]
    pub fn facts(&self) -> Option<&DeviceFacts> {
        match &self.origin {
            Origin::Files(files) => files.facts.as_ref(),
            Origin::Nbd(_) => None,
        }
    }

    /// The export that it is read through, if it is one.
    #[must_use]
    pub fn export(&self) -> Option<&Arc<NbdExport>> {
        match &self.origin {
            Origin::Files(_) => None,
            Origin::Nbd(export) => Some(export),
        }
    }

    /// Does `work`. Where the disk is an export, no wait for its server goes on within it when
    /// `observer` wants to stop.
    pub fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        match &self.origin {
            Origin::Files(_) => work(),
            Origin::Nbd(export) => export.watched(observer, work),
        }
    }

    /// What reads really go through: `io_uring` or `threads`, `direct` or `buffered`;
    /// or `nbd`.
    #[must_use]
    pub fn io_engine(&self) -> &'static str {
        match &self.origin {
            Origin::Files(files) => queue::engine_name(self.mode, files),
            Origin::Nbd(_) => "nbd",
        }
    }

    /// What is wrong without being fatal: cached writes that could not be written back, which
    /// reads may then miss; a last part of a sector, which the kernel does not serve.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where it has data and where it is known to read as zero: sorted, adjoining, covering it
    /// exactly. Holes come from a file's own, from those of the file behind a loop device, or
    /// from what an NBD server says; what cannot be told is data. Data is rounded outward to 4096 bytes.
    ///
    /// # Errors
    /// None today; the kernel's refusals to tell are not errors.
    pub fn extents(&self) -> Result<Vec<Extent>> {
        Ok(self.origin.extents())
    }
}

impl ReadAt for Disk {
    fn size(&self) -> ByteCount {
        self.origin.info().size
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.origin.read_exact_at(offset, buffer)
    }
}

/// The format of a regular file that is no raw disk. A device's bytes are a guest's or a
/// filesystem's, and never taken for an image.
fn image_format(files: &Files) -> Option<ImageFormat> {
    files.facts.is_none().then(|| ImageFormat::of(&files.buffered)).flatten()
}

/// Writes back what the page cache holds of the whole disk and of each partition: every one has
/// a cache of its own, which direct reads of another do not see.
fn write_back_family(facts: &DeviceFacts, warnings: &mut Vec<String>) {
    let mut names = facts.partitions();
    names.extend(facts.parent_disk.clone());
    for name in names {
        let node = device::node(&name);
        // A node that is not there was not written through either.
        let Ok(file) = File::open(&node) else { continue };
        if let Err(error) = file.sync_all() {
            warnings.push(format!("{}: cannot write its cache back: {error}", node.display()));
        }
    }
}
