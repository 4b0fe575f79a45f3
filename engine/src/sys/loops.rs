//! Loop devices: what each is attached to, and who is attached to a file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ioctl;

/// What a loop device shows a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopBacking {
    /// The file's path when it was attached, as the kernel knows it.
    pub path: PathBuf,
    /// `st_dev` of the file.
    pub device: u64,
    /// `st_ino` of the file.
    pub inode: u64,
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
        let path = fs::read_to_string(format!("/sys/class/block/{name}/loop/backing_file")).ok()?;
        Some(Self {
            path: PathBuf::from(path.strip_suffix('\n').unwrap_or(&path)),
            device: status.device,
            inode: status.inode,
            offset: status.offset,
            size_limit: status.size_limit,
        })
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

/// The loop devices (`loop0`) that are attached to the file or block device `path`.
#[must_use]
pub fn attached_to(path: &Path) -> Vec<String> {
    let Ok(wanted) = fs::metadata(path) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names
        .filter(|name| name.starts_with("loop") && is_attached_to(name, path, &wanted))
        .collect();
    found.sort();
    found
}

fn is_attached_to(name: &str, path: &Path, wanted: &fs::Metadata) -> bool {
    let Ok(shown) = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")) else {
        return false;
    };
    match File::open(format!("/dev/{name}")).and_then(|file| Ok(ioctl::loop_status(&file)?)) {
        Ok(status) if wanted.is_file() => {
            (status.device, status.inode) == (wanted.dev(), wanted.ino())
        }
        Ok(status) => status.raw_device == wanted.rdev(),
        // Not allowed to ask: the path alone has to do.
        Err(_) => fs::canonicalize(path).is_ok_and(|path| path == Path::new(shown.trim_end())),
    }
}
