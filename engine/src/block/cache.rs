//! A cache over what is slow to read at random: an image's compressed blocks, a disk.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::check_range;
use crate::base::limits::CACHED_PIECES;
use crate::base::{ByteCount, ByteOffset, ReadAt, Result};

/// Bytes that are read and kept as one: the usual block of a repository.
const PIECE: u64 = 128 * 1024;

/// Another reader, of which the pieces that were used last are kept in memory,
/// [`CACHED_PIECES`] of 128 KiB if nothing else is said. Reads of a piece or more pass by, so that file contents do not
/// drive folders and inodes out. Shared by threads.
pub struct Cached {
    inner: Arc<dyn ReadAt>,
    pieces: Mutex<Pieces>,
}

struct Pieces {
    held: HashMap<u64, Piece>,
    /// Counts uses; the piece with the lowest one is dropped first.
    clock: u64,
    /// How many are held at most.
    most: usize,
}

struct Piece {
    bytes: Arc<Vec<u8>>,
    used: u64,
}

impl Cached {
    /// `inner`, with a cache that is empty.
    #[must_use]
    pub fn new(inner: Arc<dyn ReadAt>) -> Self {
        Self::holding(inner, CACHED_PIECES)
    }

    /// `inner`, with a cache of at most `most` pieces of 128 KiB.
    #[must_use]
    pub fn holding(inner: Arc<dyn ReadAt>, most: usize) -> Self {
        let pieces = Pieces { held: HashMap::new(), clock: 0, most };
        Self { inner, pieces: Mutex::new(pieces) }
    }

    /// Piece `number`, whole but for the last one.
    fn piece(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        let mut bytes = match self.with_pieces(|pieces| pieces.find_or_make_room(number)) {
            Ok(found) => return Ok(found),
            Err(spare) => spare,
        };
        let start = number * PIECE;
        let length = PIECE.min(self.inner.size().0 - start);
        bytes.resize(usize::try_from(length).unwrap_or_default(), 0);
        self.inner.read_exact_at(ByteOffset(start), &mut bytes)?;
        let bytes = Arc::new(bytes);
        self.with_pieces(|pieces| pieces.keep(number, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn with_pieces<T>(&self, use_them: impl FnOnce(&mut Pieces) -> T) -> T {
        // A thread that panicked while it held the lock left whole pieces behind.
        use_them(&mut self.pieces.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pieces {
    /// Piece `number`; where it is not held, memory for it, that of the piece which was not used
    /// for longest if there is no more room.
    fn find_or_make_room(&mut self, number: u64) -> Result<Arc<Vec<u8>>, Vec<u8>> {
        self.clock += 1;
        if let Some(piece) = self.held.get_mut(&number) {
            piece.used = self.clock;
            return Ok(Arc::clone(&piece.bytes));
        }
        let is_full = self.held.len() >= self.most;
        let oldest = self.held.iter().filter(|_| is_full).min_by_key(|(_, piece)| piece.used);
        let oldest = oldest.map(|(number, _)| *number);
        let dropped = oldest.and_then(|oldest| self.held.remove(&oldest));
        // Somebody may still be copying from it.
        Err(dropped.and_then(|piece| Arc::into_inner(piece.bytes)).unwrap_or_default())
    }

    fn keep(&mut self, number: u64, bytes: Arc<Vec<u8>>) {
        // Threads that each made room may come with the same piece, or with more than there is
        // room for, by as many as they are.
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

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.inner.reach(offset)
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
