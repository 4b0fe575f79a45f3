//! A cache over what is slow to read at random: an image's compressed blocks, a disk.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::ReadAt;
use super::window::check_range;
use crate::base::limits::CACHED_PIECES;
use crate::base::{ByteCount, ByteOffset, Result};

/// Bytes that are read and kept as one: the usual block of a repository.
const PIECE: u64 = 128 * 1024;

/// Another reader, of which the pieces that were used last are kept in memory, at most
/// [`CACHED_PIECES`] of 128 KiB. Reads of a piece or more pass by, so that file contents do not
/// drive folders and inodes out. Shared by threads.
pub struct Cached {
    inner: Arc<dyn ReadAt>,
    pieces: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    held: HashMap<u64, Piece>,
    /// Counts uses; the piece with the lowest one is dropped first.
    clock: u64,
}

struct Piece {
    bytes: Arc<[u8]>,
    used: u64,
}

impl Cached {
    /// `inner`, with a cache that is empty.
    #[must_use]
    pub fn new(inner: Arc<dyn ReadAt>) -> Self {
        Self { inner, pieces: Mutex::default() }
    }

    /// Piece `number`, whole but for the last one.
    fn piece(&self, number: u64) -> Result<Arc<[u8]>> {
        if let Some(found) = self.with_pieces(|pieces| pieces.find(number)) {
            return Ok(found);
        }
        let start = number * PIECE;
        let length = PIECE.min(self.inner.size().0 - start);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.inner.read_exact_at(ByteOffset(start), &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        self.with_pieces(|pieces| pieces.keep(number, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn with_pieces<T>(&self, use_them: impl FnOnce(&mut Pieces) -> T) -> T {
        // A thread that panicked while it held the lock left whole pieces behind.
        use_them(&mut self.pieces.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pieces {
    fn find(&mut self, number: u64) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let piece = self.held.get_mut(&number)?;
        piece.used = self.clock;
        Some(Arc::clone(&piece.bytes))
    }

    fn keep(&mut self, number: u64, bytes: Arc<[u8]>) {
        if self.held.len() >= CACHED_PIECES {
            let oldest = self.held.iter().min_by_key(|(_, piece)| piece.used);
            if let Some(oldest) = oldest.map(|(number, _)| *number) {
                self.held.remove(&oldest);
            }
        }
        self.held.insert(number, Piece { bytes, used: self.clock });
    }
}

impl ReadAt for Cached {
    fn size(&self) -> ByteCount {
        self.inner.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        if buffer.len() as u64 >= PIECE {
            return self.inner.read_exact_at(offset, buffer);
        }
        let (mut at, mut rest) = (offset.0, buffer);
        while !rest.is_empty() {
            let within = usize::try_from(at % PIECE).unwrap_or_default();
            let count = rest.len().min(usize::try_from(PIECE).unwrap_or_default() - within);
            let (part, after) = rest.split_at_mut(count);
            match self.piece(at / PIECE) {
                Ok(piece) => part.copy_from_slice(&piece[within..within + count]),
                // What cannot be read of the piece may lie beside what is wanted.
                Err(_) => self.inner.read_exact_at(ByteOffset(at), part)?,
            }
            at += count as u64;
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.with_pieces(|pieces| pieces.held.len());
        f.debug_struct("Cached").field("size", &self.size()).field("pieces", &held).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Error, ErrorKind};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Counts reads; byte `n` is `n / 512`, and sector 3 cannot be read.
    struct Counting(AtomicU64);

    impl ReadAt for Counting {
        fn size(&self) -> ByteCount {
            ByteCount(PIECE * 2 + 100)
        }

        fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let end = offset.0 + buffer.len() as u64;
            if offset.0 < 2048 && end > 1536 {
                return Err(Error::new(ErrorKind::Io, "a bad sector"));
            }
            for (place, byte) in (offset.0..).zip(buffer) {
                *byte = u8::try_from(place / 512 % 256).expect("a byte");
            }
            Ok(())
        }
    }

    fn read(cached: &Cached, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        cached.read_exact_at(ByteOffset(offset), &mut buffer).map(|()| buffer)
    }

    #[test]
    fn what_was_read_is_not_read_again() {
        let counting = Arc::new(Counting(AtomicU64::new(0)));
        let cached = Cached::new(Arc::clone(&counting) as Arc<dyn ReadAt>);
        for _ in 0..10 {
            assert_eq!(read(&cached, PIECE + 1024, 2).expect("read"), [2, 2]);
            assert_eq!(read(&cached, PIECE * 2 + 90, 10).expect("read"), [0; 10]);
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 2);
        let across = read(&cached, PIECE * 2 - 512, 1000).expect_err("beyond the end");
        assert_eq!(across.kind(), ErrorKind::Invalid);
        assert_eq!(read(&cached, PIECE * 2 - 1, 2).expect("read"), [255, 0]);
    }

    #[test]
    fn a_bad_sector_costs_only_itself() {
        let cached = Cached::new(Arc::new(Counting(AtomicU64::new(0))));
        assert_eq!(read(&cached, 2048, 512).expect("beside it"), vec![4; 512]);
        assert_eq!(read(&cached, 1500, 100).expect_err("in it").kind(), ErrorKind::Io);
    }
}
