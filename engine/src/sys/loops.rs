//! Loop devices: what each is attached to.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{device, ioctl};

/// What a loop device shows a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopBacking {
    /// The file's path when it was attached, as the kernel knows it.
    pub path: PathBuf,
    /// `st_dev` of the file.
    pub device: u64,
    /// `st_ino` of the file.
    pub inode: u64,
    /// `st_rdev` of the file, if it is a device itself; else 0.
    pub raw_device: u64,
    /// Bytes of the file before the loop device's first.
    pub offset: u64,
    /// Bytes shown at most; 0 for all.
    pub size_limit: u64,
}

impl LoopBacking {
    /// What the loop device `name` (`loop0`), open as `device`, is attached to.
    #[must_use]
    pub fn of(device: &File, name: &str) -> Option<Self> {
        let status = ioctl::loop_status(device).ok()?;
        Some(Self {
            path: shown_path(name)?,
            device: status.device,
            inode: status.inode,
            raw_device: status.raw_device,
            offset: status.offset,
            size_limit: status.size_limit,
        })
    }

    /// The same of the loop device that the kernel calls `name`. Where it may not be opened, its
    /// path alone has to do, and there may be another file by now.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let opened = File::open(device::node(name)).ok();
        if let Some(found) = opened.and_then(|device| Self::of(&device, name)) {
            return Some(found);
        }
        let path = shown_path(name)?;
        let found = fs::metadata(&path).ok()?;
        let number = |file: &str| {
            let text = device::text(&device::sysfs(name).join("loop").join(file));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let (device, inode) = (found.dev(), found.ino());
        let (offset, size_limit) = (number("offset"), number("sizelimit"));
        let raw_device = if found.is_file() { 0 } else { found.rdev() };
        Some(Self { path, device, inode, raw_device, offset, size_limit })
    }

    /// Opens the backing file for reading, if its path still leads to it.
    ///
    /// # Errors
    /// The system's error; `NotFound` if the path leads to another file, or to none.
    pub fn open(&self) -> io::Result<File> {
        // Look before opening: a pipe in the file's place would block, and a tape might rewind.
        let is_it = |found: &fs::Metadata| {
            found.is_file() && (found.dev(), found.ino()) == (self.device, self.inode)
        };
        if is_it(&fs::metadata(&self.path)?) {
            let file = File::open(&self.path)?;
            if is_it(&file.metadata()?) {
                return Ok(file);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the path leads to another file"))
    }
}

/// The path of what the loop device shows, as sysfs has it.
fn shown_path(name: &str) -> Option<PathBuf> {
    let mut path = fs::read(device::sysfs(name).join("loop/backing_file")).ok()?;
    path.pop_if(|byte| *byte == b'\n');
    Some(PathBuf::from(OsString::from_vec(path)))
}
