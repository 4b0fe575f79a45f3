//! Writing an object's file past the page cache, which a stream of packs would only fill.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::libc::{EINVAL, O_DIRECT};

use super::ObjectWriter;
use crate::base::{ErrorContext, Result};
use crate::block::{Buffer, BufferPool};

/// Bytes gathered for one write. While a capture reads, a write waits behind the reads in flight,
/// so it must carry much to keep up.
const GATHER: usize = 16 * 1024 * 1024;
/// What direct writes are aligned to: no disk has larger logical sectors than memory has pages.
const ALIGNMENT: u64 = 4096;

/// Appends to a file. Whole buffers are written directly where the filesystem can, the tail
/// through the page cache when the file is synced.
pub struct LocalWriter {
    file: File,
    direct: Option<File>,
    path: PathBuf,
    buffer: Buffer,
    filled: usize,
    /// Where the buffer belongs in the file.
    start: u64,
    /// How much of the buffer the file has already.
    tail: usize,
}

impl LocalWriter {
    /// A writer that goes on at the end of `file`, which is at `length`.
    ///
    /// # Errors
    /// `Io` when there is no memory for the buffer, or the file's end cannot be read.
    pub fn new(file: File, path: PathBuf, length: u64) -> Result<Self> {
        let direct = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(&path).ok();
        let pool = BufferPool::new(1, GATHER)?;
        let mut buffer = pool.take(&|| false)?;
        buffer.set_len(GATHER);
        // A reopened file goes on in the middle of a page, which is written again with the rest.
        let start = length / ALIGNMENT * ALIGNMENT;
        let filled = usize::try_from(length - start).unwrap_or(0);
        if filled > 0 {
            let reader = File::open(&path).context(|| format!("read {}", path.display()))?;
            reader
                .read_exact_at(&mut buffer[..filled], start)
                .context(|| format!("read {}", path.display()))?;
        }
        Ok(Self { file, direct, path, buffer, filled, start, tail: filled })
    }

    /// Writes a full buffer.
    fn write_buffer(&mut self) -> Result<()> {
        let bytes = &self.buffer[..self.filled];
        let outcome = match &self.direct {
            Some(direct) => direct.write_all_at(bytes, self.start),
            None => self.file.write_all_at(bytes, self.start),
        };
        let outcome = match outcome {
            // The filesystem took the flag, but not the write.
            Err(error) if self.direct.is_some() && error.raw_os_error() == Some(EINVAL) => {
                self.direct = None;
                self.file.write_all_at(bytes, self.start)
            }
            outcome => outcome,
        };
        outcome.context(|| format!("write {} at {}", self.path.display(), self.start))?;
        self.start += self.filled as u64;
        (self.filled, self.tail) = (0, 0);
        Ok(())
    }

    /// Writes what the file lacks of the buffer, which stays to be completed.
    fn write_tail(&mut self) -> io::Result<()> {
        let at = self.start + self.tail as u64;
        self.file.write_all_at(&self.buffer[self.tail..self.filled], at)?;
        self.tail = self.filled;
        Ok(())
    }
}

impl ObjectWriter for LocalWriter {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(GATHER - self.filled));
            self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == GATHER {
                self.write_buffer()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.write_tail().context(|| format!("write {}", self.path.display()))
    }

    fn sync(&mut self) -> Result<()> {
        self.write_tail().context(|| format!("write {}", self.path.display()))?;
        self.file.sync_all().context(|| format!("sync {}", self.path.display()))
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        // An object that was synced has no tail left; of another, as much as possible stays, for
        // the next capture to use.
        let _best_effort = self.write_tail();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Folder, LocalStorage, ObjectName, Storage};

    #[test]
    fn what_is_appended_in_any_pieces_is_what_the_file_holds() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = LocalStorage::create(&folder.path().join("repo")).expect("new");
        let object = ObjectName::new(Folder::Packs, "a");
        let bytes: Vec<u8> = (0..40_500_001_u32).map(|place| (place / 7) as u8).collect();
        let (first, rest) = bytes.split_at(20_000_003);
        let mut writer = storage.create(&object).expect("free");
        for piece in first.chunks(100_001) {
            writer.append(piece).expect("appended");
        }
        writer.sync().expect("synced");
        writer.append(b"to be cut off").expect("appended");
        drop(writer);
        let mut writer = storage.reopen(&object, first.len() as u64).expect("there");
        for piece in rest.chunks(1_234_567) {
            writer.append(piece).expect("appended");
            writer.sync().expect("synced");
        }
        drop(writer);
        let read = storage.open(&object).expect("there").read_all(u64::MAX).expect("read");
        assert!(read == bytes, "the file differs");
    }
}
