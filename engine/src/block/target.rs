//! A disk to write to: a block device, held exclusively, or a regular file.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::SourceInfo;
use super::files::{Access, Files};
use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorContext, ErrorKind, ReadAt, Result, WriteAt,
};
use crate::sys::{DeviceFacts, ioctl, sparse};

/// What file a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    /// A new file, all hole.
    Sparse,
    /// A new file whose space is reserved.
    Preallocate,
    /// A file that exists with just the right size, written in place.
    Existing,
}

/// An open disk or file that can be written.
#[derive(Debug)]
pub struct Target {
    pub(super) files: Arc<Files>,
    /// Whether space is to stay reserved where zeros are written.
    pub(super) keeps_space: bool,
    is_new: bool,
}

impl Target {
    /// Opens the block device `path`, claiming it for this process.
    ///
    /// # Errors
    /// `Conflict` if it is in use or read-only; `Invalid` if it is no block device; `NotFound`;
    /// `Io`.
    pub fn open_device(path: &Path) -> Result<Self> {
        let files = Files::open(path, Access::Write, true)?;
        match &files.facts {
            None => Err(Error::new(
                ErrorKind::Invalid,
                format!("{} is a regular file: expected a block device", path.display()),
            )),
            Some(facts) if facts.read_only => {
                Err(Error::new(ErrorKind::Conflict, format!("{} is read-only", path.display())))
            }
            Some(_) => Ok(Self { files: Arc::new(files), keeps_space: false, is_new: false }),
        }
    }

    /// Creates or opens the regular file `path` of `size` bytes.
    ///
    /// # Errors
    /// `Conflict` if a new one exists already or an existing one has another size; `NotFound`;
    /// `Unsupported` if the filesystem cannot reserve space; `Io`. A new file is removed again
    /// when its space cannot be had.
    pub fn create_file(path: &Path, size: ByteCount, mode: FileMode) -> Result<Self> {
        let keeps_space = mode == FileMode::Preallocate;
        if mode == FileMode::Existing {
            let files = Files::open(path, Access::Write, true)?;
            return match files.info.size {
                _ if files.facts.is_some() => Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{} is a block device: expected a regular file", path.display()),
                )),
                found if found != size => Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{} has {found} bytes: expected {size}", path.display()),
                )),
                _ => Ok(Self { files: Arc::new(files), keeps_space, is_new: false }),
            };
        }
        let created = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = created.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::Conflict, format!("{} exists already", path.display()))
            }
            _ => Error::io(format!("create {}", path.display()), error),
        })?;
        let files = resize(&file, path, size, mode)
            .and_then(|()| Files::of_open(path, file, Access::Write, true));
        match files {
            Ok(files) => Ok(Self { files: Arc::new(files), keeps_space, is_new: true }),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Takes over a new regular file, open to write, that has its size already. Messages call it
    /// `shown`; nothing is opened by that name.
    ///
    /// # Errors
    /// `Limit` if it is too large; `Io`.
    pub fn of_new_file(file: fs::File, shown: &Path) -> Result<Self> {
        let files = Arc::new(Files::of_handle(shown, file)?);
        Ok(Self { files, keeps_space: false, is_new: true })
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &SourceInfo {
        &self.files.info
    }

    /// What the kernel says about it; `None` for a regular file.
    #[must_use]
    pub fn facts(&self) -> Option<&DeviceFacts> {
        self.files.facts.as_ref()
    }

    /// Cuts off what a regular file has behind its first `size` bytes.
    ///
    /// # Errors
    /// `Invalid` for a device, or while it is written; `Io`.
    pub fn truncate(&mut self, size: ByteCount) -> Result<()> {
        let shown = self.files.path.display().to_string();
        let files = Arc::get_mut(&mut self.files).filter(|files| files.facts.is_none());
        let Some(files) = files else {
            let context = format!("{shown}: only a file that nothing is written to can be cut");
            return Err(Error::new(ErrorKind::Invalid, context));
        };
        files.buffered.set_len(size.0).context(|| format!("cut {shown} to {size} bytes"))?;
        files.info.size = size;
        Ok(())
    }

    /// Whether it was just created, so that whatever is not written reads as zero by itself.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Has everything that was written reach the medium.
    ///
    /// # Errors
    /// `Io` if anything did not; nothing is known of the target's bytes then.
    pub fn sync(&self) -> Result<()> {
        self.files.buffered.sync_all().context(|| format!("sync {}", self.files.path.display()))
    }

    /// Tells the kernel that a device's content is new: forgets its cached pages and has the
    /// partition table read again. Returns whether the kernel shows the new partitions.
    ///
    /// # Errors
    /// `Io` if the cache cannot be written back.
    pub fn refresh(&self) -> Result<bool> {
        if self.files.facts.is_none() {
            return Ok(false);
        }
        let device = &self.files.buffered;
        ioctl::flush_buffers(device).context(|| format!("flush {}", self.files.path.display()))?;
        Ok(ioctl::reread_partitions(device).is_ok())
    }
}

impl ReadAt for Target {
    fn size(&self) -> ByteCount {
        self.files.info.size
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.files.read_exact_at(offset, buffer)
    }
}

impl WriteAt for Target {
    fn write_all_at(&self, offset: ByteOffset, bytes: &[u8]) -> Result<()> {
        crate::base::check_range(self.files.info.size, offset, bytes.len())?;
        self.files.write(offset.0, bytes).map_err(|error| self.files.writing(offset.0, error))
    }
}

fn resize(file: &fs::File, path: &Path, size: ByteCount, mode: FileMode) -> Result<()> {
    let shown = path.display();
    file.set_len(size.0).context(|| format!("set the size of {shown} to {size}"))?;
    if mode != FileMode::Preallocate || size.0 == 0 {
        return Ok(());
    }
    match sparse::reserve(file, ByteRange::new(0, size.0)) {
        Err(Errno::EOPNOTSUPP) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{shown}: the filesystem cannot reserve space"),
        )),
        other => other.context(|| format!("reserve {size} bytes for {shown}")),
    }
}
