//! Reading an object's file, past the page cache where much is read only once: there the cache
//! would cost a copy of everything, and push out what others keep in it.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc::{EBADMSG, EILSEQ, EIO, ENODATA, EREMOTEIO, EUCLEAN, O_DIRECT};
use nix::unistd::{Whence, lseek};

use super::ObjectReader;
use crate::base::{Error, ErrorContext, Result};
use crate::block::{Buffer, BufferPool};

/// Bytes of one direct read at most.
const STEP: usize = 4 * 1024 * 1024;
/// Objects of up to so many bytes are read whole at the first direct read: a small pack holds
/// what one small image changed here and there, and each of its frames would cost a read.
const SMALL: u64 = 512 * 1024;
/// An object that every repository has.
const CONFIG: &str = "config";
/// What direct reads are aligned to: no disk has larger logical sectors than memory has pages.
const ALIGNMENT: usize = 4096;

thread_local! {
    /// Aligned memory that direct reads go through.
    static ALIGNED: RefCell<Option<Buffer>> = const { RefCell::new(None) };
}

/// A file open for reading.
pub struct LocalReader {
    file: File,
    direct: Option<File>,
    /// All of a small object, once it was read directly; none where that failed.
    whole: OnceLock<Option<Vec<u8>>>,
    path: PathBuf,
    size: u64,
}

impl LocalReader {
    /// Reads `file`, which is at `path`.
    ///
    /// # Errors
    /// `Io` when its size cannot be had.
    pub fn new(file: File, path: PathBuf) -> Result<Self> {
        let size = file.metadata().context(|| format!("open {}", path.display()))?.len();
        Ok(Self { file, direct: None, whole: OnceLock::new(), path, size })
    }

    /// Reads past the page cache, where the filesystem can.
    #[must_use]
    pub fn past_the_cache(mut self) -> Self {
        // The very file, whatever its name stands for by now.
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        self.direct = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(own).ok();
        self
    }

    /// Reads from memory what is held there; false where nothing is, or that is beyond its end.
    fn read_whole(&self, offset: u64, buffer: &mut [u8]) -> bool {
        if self.direct.is_none() || self.size > SMALL {
            return false;
        }
        let whole = self.whole.get_or_init(|| {
            let mut whole = vec![0; usize::try_from(self.size).ok()?];
            self.read_direct(0, &mut whole).is_ok_and(|read| read).then_some(whole)
        });
        let held = whole.as_ref().zip(usize::try_from(offset).ok());
        let held = held.and_then(|(whole, start)| whole.get(start..)?.get(..buffer.len()));
        held.map(|held| buffer.copy_from_slice(held)).is_some()
    }

    /// Reads directly; false where that cannot be done, and nothing is known of `buffer`.
    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(direct) = &self.direct else { return Ok(false) };
        ALIGNED.with_borrow_mut(|aligned| {
            if aligned.is_none() {
                *aligned = BufferPool::new(1, STEP).ok().and_then(|pool| pool.try_take());
            }
            let Some(memory) = aligned.as_mut() else { return Ok(false) };
            let (mut at, mut left) = (offset, buffer);
            while !left.is_empty() {
                let skipped = usize::try_from(at % ALIGNMENT as u64).unwrap_or(0);
                let wanted = (left.len() + skipped).min(STEP);
                memory.set_len(wanted.next_multiple_of(ALIGNMENT));
                let read = match direct.read_at(memory, at - skipped as u64) {
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    // Whatever it is, the ordinary way will do it, or say what is wrong.
                    Err(_) => return Ok(false),
                };
                let Some(bytes) = memory.get(skipped..read.min(wanted)).filter(|b| !b.is_empty())
                else {
                    return Err(ErrorKind::UnexpectedEof.into());
                };
                let (now, later) = left.split_at_mut(bytes.len());
                now.copy_from_slice(bytes);
                at += bytes.len() as u64;
                left = later;
            }
            Ok(true)
        })
    }
}

impl ObjectReader for LocalReader {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&self, offset: u64) -> u64 {
        let Ok(start) = i64::try_from(offset) else { return offset };
        match lseek(&self.file, start, Whence::SeekData) {
            Ok(data) => u64::try_from(data).unwrap_or(offset),
            Err(Errno::ENXIO) => self.size.max(offset),
            // No filesystem has to know.
            Err(_) => offset,
        }
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if self.read_whole(offset, buffer) {
            return Ok(());
        }
        let read = match self.read_direct(offset, buffer) {
            Ok(true) => Ok(()),
            Ok(false) => self.file.read_exact_at(buffer, offset),
            Err(error) => Err(error),
        };
        read.map_err(|error| {
            let place = format!("{} at {offset}", self.path.display());
            if error.kind() == ErrorKind::UnexpectedEof {
                return Error::corrupt(place, format!("{} bytes", buffer.len()), "its end");
            }
            damage_or_failure(error, &place, &self.path)
        })
    }
}

/// What the system says of a sector that the medium does not give back, or that is not what its
/// filesystem's or the medium's own checksums demand.
const MEDIUM: [i32; 6] = [EIO, ENODATA, EILSEQ, EREMOTEIO, EBADMSG, EUCLEAN];

/// Whether it is the medium that fails, in one place.
pub fn is_of_medium(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| MEDIUM.contains(&number))
}

/// An error of reading the object at `path`: damage if the medium has lost what is there, and an
/// ordinary failure if the medium itself is gone, since what is out of reach is not lost.
pub fn damage_or_failure(error: io::Error, place: &str, path: &Path) -> Error {
    if is_of_medium(&error) && answers_still(path) {
        return Error::corrupt(place, "bytes", error);
    }
    Error::io(format!("read {place}"), error)
}

/// Whether the medium of the repository, of which `path` is an object, gives anything back: its
/// config, past the cache.
fn answers_still(path: &Path) -> bool {
    let root = path.parent().filter(|folder| !folder.join(CONFIG).exists());
    let Some(root) = root.map_or(path.parent(), Path::parent) else { return false };
    let config = root.join(CONFIG);
    let Ok(file) = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(&config) else {
        // Where there are no direct reads, whether it is there has to do.
        return config.exists();
    };
    let memory = BufferPool::new(1, ALIGNMENT).ok().and_then(|pool| pool.try_take());
    let Some(mut memory) = memory else { return false };
    memory.set_len(ALIGNMENT);
    match file.read_at(&mut memory, 0) {
        Ok(read) => read > 0,
        Err(error) => !is_of_medium(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Folder, LocalStorage, ObjectName, Storage};

    #[test]
    fn both_ways_of_reading_give_the_same_bytes_and_end_at_the_same_place() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = LocalStorage::create(&folder.path().join("repo")).expect("new");
        for size in [9_000_017, 70_001] {
            let object = ObjectName::new(Folder::Packs, format!("{size}"));
            let bytes: Vec<u8> = (0..size).map(|place: u32| (place / 3) as u8).collect();
            let mut writer = storage.create(&object).expect("free");
            writer.append(&bytes).expect("appended");
            writer.sync().expect("synced");
            let readers = [storage.open(&object), storage.open_for_bulk(&object)];
            for reader in readers.map(|reader| reader.expect("there")) {
                let last = bytes.len() - 17;
                for (offset, length) in
                    [(0, 0), (0, 1), (4095, 2), (4096, 4096), (1, bytes.len() - 1), (last, 17)]
                {
                    let mut part = vec![0; length];
                    reader.read_exact_at(offset as u64, &mut part).expect("within the file");
                    assert!(part == bytes[offset..offset + length], "{offset} +{length}");
                }
                assert!(reader.read_exact_at(last as u64, &mut [0; 18]).is_err());
                assert!(reader.read_exact_at(20_000_000, &mut [0; 1]).is_err());
            }
        }
    }
}
