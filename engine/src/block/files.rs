//! A disk's open descriptors: one that bypasses the page cache, one that does not, and the rules
//! which of them serves what.
//!
//! `O_DIRECT` wants offset, length and memory aligned. Whatever is not, such as the tail of a
//! file of odd size, goes through the buffered descriptor. The kernel keeps the two coherent:
//! direct I/O writes cached pages of its range back first, and a direct write drops them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::libc;

use super::info::SourceInfo;
use crate::base::check_range;
use crate::base::{ByteOffset, Error, ErrorContext, ErrorKind, Result, limits};
use crate::sys::{BufferPool, DeviceFacts, Holders, ioctl, mounts};

/// Alignment that direct I/O on a regular file is given, whatever less the filesystem wants.
const FILE_ALIGNMENT: u64 = 4096;
/// Alignment of memory for direct I/O at least; at most that of the offset. Some drivers (zram)
/// move whole sectors even where memory is divided within one, over whatever lies beside it.
const MEMORY_ALIGNMENT: u64 = 512;
/// Bytes that a read of unaligned memory or place goes through at a time.
const BOUNCE_SIZE: usize = 256 * 1024;

/// What a disk is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// Exclusively, where it is a block device.
    Write,
}

/// An open disk or file.
#[derive(Debug)]
pub(super) struct Files {
    pub path: PathBuf,
    pub info: SourceInfo,
    /// What the kernel says about a block device; `None` for a regular file.
    pub facts: Option<DeviceFacts>,
    pub buffered: File,
    pub direct: Option<File>,
    bounce: OnceLock<BufferPool>,
}

impl Files {
    /// Opens an existing block device or regular file.
    pub fn open(path: &Path, access: Access, direct: bool) -> Result<Self> {
        let shown = path.display();
        let found = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("{shown}: no such file or device"))
            }
            _ => Error::io(format!("stat {shown}"), error),
        })?;
        let kind = found.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let message =
                format!("{shown} is {}: expected a block device or a regular file", name_of(kind));
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let exclusive = if kind.is_block_device() { libc::O_EXCL } else { 0 };
        let flags = if access == Access::Write { exclusive } else { 0 };
        let buffered = mounts::open_patiently(&options(access, flags), path);
        let buffered = buffered.map_err(|error| opening(path, error))?;
        if buffered.metadata().context(|| format!("stat {shown}"))?.file_type() != kind {
            return Err(Error::new(ErrorKind::Conflict, format!("{shown} was just replaced")));
        }
        Self::of_open(path, buffered, access, direct)
    }

    /// Takes over a file that is open already, opening it once more for direct I/O.
    pub fn of_open(path: &Path, buffered: File, access: Access, direct: bool) -> Result<Self> {
        let metadata = buffered.metadata().context(|| format!("stat {}", path.display()))?;
        let is_device = metadata.file_type().is_block_device();
        let facts = if is_device { Some(DeviceFacts::of(&buffered)?) } else { None };
        let info = match &facts {
            Some(facts) => SourceInfo::of_device(path, facts),
            None => SourceInfo::of_file(path, metadata.len()),
        };
        if info.size.0 > limits::MAX_DISK_SIZE {
            let message = format!("{}: {} bytes are too many", path.display(), info.size);
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let path = path.to_owned();
        let mut this = Self { path, info, facts, buffered, direct: None, bounce: OnceLock::new() };
        if direct {
            this.direct = this.open_direct(&this.path, access);
        }
        Ok(this)
    }

    /// Takes over a regular file to write that was reached by way of handles, and is called
    /// `shown`. Nothing is opened by that name, which may lead elsewhere by now.
    pub fn of_handle(shown: &Path, buffered: File) -> Result<Self> {
        let own = format!("/proc/self/fd/{}", buffered.as_raw_fd());
        let mut this = Self::of_open(shown, buffered, Access::Write, false)?;
        this.direct = this.open_direct(Path::new(&own), Access::Write);
        Ok(this)
    }

    pub fn size(&self) -> u64 {
        self.info.size.0
    }

    /// What offsets and lengths of direct I/O are multiples of; 1 without direct I/O.
    pub fn alignment(&self) -> u64 {
        match (&self.direct, &self.facts) {
            (None, _) => 1,
            (Some(_), Some(facts)) => u64::from(facts.logical_sector_size),
            (Some(_), None) => FILE_ALIGNMENT,
        }
    }

    /// The descriptor that bulk I/O goes through.
    pub fn bulk(&self) -> &File {
        self.direct.as_ref().unwrap_or(&self.buffered)
    }

    /// Whether bulk I/O can move these bytes.
    pub fn is_aligned(&self, offset: u64, memory: &[u8]) -> bool {
        let alignment = self.alignment();
        alignment == 1
            || (offset.is_multiple_of(alignment)
                && (memory.len() as u64).is_multiple_of(alignment)
                && is_aligned_memory(memory, alignment))
    }

    /// Reads until `memory` is full or the end; returns the bytes read.
    pub fn read(&self, offset: u64, memory: &mut [u8]) -> io::Result<usize> {
        let body = self.direct_part(offset, memory);
        let (body, tail) = memory.split_at_mut(body);
        let mut done = 0;
        if let Some(direct) = self.direct.as_ref().filter(|_| !body.is_empty()) {
            match read_fully(direct, offset, body) {
                // A filesystem that does not do direct I/O on this file after all.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    done = read_fully(&self.buffered, offset, body)?;
                }
                other => done = other?,
            }
        }
        if done == body.len() && !tail.is_empty() {
            done += self.read_buffered(offset + done as u64, tail)?;
        }
        Ok(done)
    }

    /// Writes all of `bytes`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (body, tail) = bytes.split_at(self.direct_part(offset, bytes));
        if let Some(direct) = self.direct.as_ref().filter(|_| !body.is_empty()) {
            match direct.write_all_at(body, offset) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.buffered.write_all_at(body, offset)?;
                }
                other => other?,
            }
        }
        self.buffered.write_all_at(tail, offset + body.len() as u64)
    }

    /// As [`crate::base::ReadAt::read_exact_at`], for any offset, length and memory.
    pub fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.info.size, offset, buffer.len())?;
        let start = offset.0;
        if self.is_aligned(start, buffer) {
            let done = self.read(start, buffer).map_err(|error| self.reading(start, error))?;
            return self.expect_whole(start, done, buffer.len());
        }
        let alignment = self.alignment();
        let mut bounce = self.bounce()?.take(&|| false)?;
        let mut done = 0;
        while done < buffer.len() {
            let at = start + done as u64;
            let from = at - at % alignment;
            let skip = index(at - from);
            let wanted = (buffer.len() - done).min(bounce.capacity() - skip);
            let end = (at + wanted as u64).next_multiple_of(alignment).min(self.size());
            bounce.set_len(index(end - from));
            let got = self.read(from, &mut bounce).map_err(|error| self.reading(from, error))?;
            self.expect_whole(from, got, bounce.len())?;
            buffer[done..done + wanted].copy_from_slice(&bounce[skip..skip + wanted]);
            done += wanted;
        }
        Ok(())
    }

    /// The error of a read at `offset`.
    pub fn reading(&self, offset: u64, error: io::Error) -> Error {
        Error::io(format!("read {} at byte {offset}", self.path.display()), error)
    }

    /// The error of a write at `offset`.
    pub fn writing(&self, offset: u64, error: io::Error) -> Error {
        Error::io(format!("write {} at byte {offset}", self.path.display()), error)
    }

    /// Fails unless `done` is all of `wanted`: within the known size, that means it shrank.
    pub fn expect_whole(&self, offset: u64, done: usize, wanted: usize) -> Result<()> {
        if done == wanted {
            return Ok(());
        }
        let ends = offset + done as u64;
        let message =
            format!("{} ends at byte {ends}: it had {}", self.path.display(), self.size());
        Err(Error::new(ErrorKind::Io, message))
    }

    /// How many bytes from the start of `memory` direct I/O can move.
    fn direct_part(&self, offset: u64, memory: &[u8]) -> usize {
        let alignment = self.alignment();
        let fits = self.direct.is_some()
            && offset.is_multiple_of(alignment)
            && is_aligned_memory(memory, alignment);
        if fits { memory.len() - memory.len() % index(alignment) } else { 0 }
    }

    fn read_buffered(&self, offset: u64, memory: &mut [u8]) -> io::Result<usize> {
        if self.direct.is_some() && self.facts.is_some() {
            // Cached pages of the disk may be older than what a filesystem wrote through a
            // partition's device. Dropping them is advice: a failure costs nothing certain.
            let (offset, length) = (offset.cast_signed(), memory.len().cast_signed() as i64);
            let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = nix::fcntl::posix_fadvise(&self.buffered, offset, length, advice);
        }
        read_fully(&self.buffered, offset, memory)
    }

    fn bounce(&self) -> Result<&BufferPool> {
        if let Some(pool) = self.bounce.get() {
            return Ok(pool);
        }
        let pool = BufferPool::new(4, BOUNCE_SIZE)?;
        Ok(self.bounce.get_or_init(|| pool))
    }

    /// The disk again, without the page cache; `None` where that does not work.
    fn open_direct(&self, path: &Path, access: Access) -> Option<File> {
        // Not exclusively: `buffered` holds that claim, and a second one would fail.
        let direct = options(access, libc::O_DIRECT).open(path).ok()?;
        let same = |file: &File| {
            use std::os::unix::fs::MetadataExt;
            file.metadata().map(|found| (found.dev(), found.ino(), found.rdev())).ok()
        };
        if same(&direct) != same(&self.buffered) {
            return None;
        }
        // Some filesystems take the flag and refuse the reads.
        let pool = self.bounce().ok()?;
        let mut probe = pool.take(&|| false).ok()?;
        let alignment = self
            .facts
            .as_ref()
            .map_or(FILE_ALIGNMENT, |facts| u64::from(facts.logical_sector_size));
        probe.set_len(index(alignment));
        match direct.read_at(&mut probe, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            _ => Some(direct),
        }
    }

    /// Why the disk can no longer be read at all, if it can't.
    pub fn gone(&self) -> Option<String> {
        match &self.facts {
            Some(facts) => facts.gone(&self.buffered),
            None => match self.buffered.metadata() {
                Ok(found) if found.len() < self.size() => {
                    Some(format!("it shrank from {} to {} bytes", self.size(), found.len()))
                }
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            },
        }
    }

    /// Forgets what the page cache holds of a block device, if allowed to.
    pub fn drop_cache(&self) {
        if self.facts.is_some() {
            let _ = ioctl::flush_buffers(&self.buffered);
        }
    }
}

/// A byte count that is known to fit memory, as an index.
pub(super) fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn is_aligned_memory(memory: &[u8], alignment: u64) -> bool {
    memory.as_ptr().addr().is_multiple_of(index(alignment.max(MEMORY_ALIGNMENT)))
}

fn read_fully(file: &File, offset: u64, memory: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < memory.len() {
        match file.read_at(&mut memory[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn options(access: Access, flags: i32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::Write).custom_flags(flags);
    options
}

fn opening(path: &Path, error: io::Error) -> Error {
    let shown = path.display();
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            let uses = Holders::of(path).map(|holders| holders.summary()).unwrap_or_default();
            let uses = if uses.is_empty() { format!("{shown} is in use") } else { uses };
            Error::new(ErrorKind::Conflict, uses)
        }
        Some(libc::ENOMEDIUM) => Error::new(ErrorKind::NotFound, format!("{shown} has no medium")),
        Some(libc::EROFS) => Error::new(ErrorKind::Conflict, format!("{shown} is read-only")),
        _ => Error::io(format!("open {shown}"), error),
    }
}

fn name_of(kind: fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "of an unknown type"
    }
}
