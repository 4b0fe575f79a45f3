//! Several readers as one.

use std::sync::Arc;

use crate::base::{ByteCount, ByteOffset, Error, ErrorKind, ReadAt, Result};

/// Readers one behind the other, with gaps between them perhaps. No read goes from one into the
/// next.
pub struct Joined {
    /// Each with its first byte, ascending.
    parts: Vec<(u64, Arc<dyn ReadAt>)>,
}

impl Joined {
    /// `readers` in this order, each `gap` bytes behind the one before it.
    #[must_use]
    pub fn new(readers: impl IntoIterator<Item = Arc<dyn ReadAt>>, gap: u64) -> Self {
        let mut start = 0_u64;
        let place = |reader: Arc<dyn ReadAt>| {
            let own = start;
            start = own.saturating_add(reader.size().0).saturating_add(gap);
            (own, reader)
        };
        Self { parts: readers.into_iter().map(place).collect() }
    }

    /// Where each reader begins.
    pub fn starts(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().map(|(start, _)| *start)
    }

    fn find(&self, offset: u64) -> Option<(ByteOffset, &dyn ReadAt)> {
        let (start, reader) = self.parts.iter().rfind(|(start, _)| *start <= offset)?;
        Some((ByteOffset(offset - start), reader.as_ref()))
    }
}

impl ReadAt for Joined {
    fn size(&self) -> ByteCount {
        let end = self.parts.last().map(|(start, last)| start.saturating_add(last.size().0));
        ByteCount(end.unwrap_or(0))
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        match self.find(offset.0) {
            Some((within, reader)) => reader.read_exact_at(within, buffer),
            None => Err(Error::new(ErrorKind::Invalid, format!("nothing is at {offset}"))),
        }
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.find(offset.0).map_or(1, |(within, reader)| reader.reach(within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_goes_from_one_into_the_next() {
        let readers: [Arc<dyn ReadAt>; 2] = [Arc::new(vec![1_u8; 10]), Arc::new(vec![2_u8; 5])];
        for (gap, second) in [(0, 10), (7, 17)] {
            let joined = Joined::new(readers.clone(), gap);
            assert_eq!(joined.size(), ByteCount(second + 5));
            assert!(joined.starts().eq([0, second]));
            let read = |offset, length| {
                let mut buffer = vec![0; length];
                joined.read_exact_at(ByteOffset(offset), &mut buffer).map(|()| buffer)
            };
            assert_eq!(read(8, 2).expect("read"), [1, 1]);
            assert_eq!(read(second, 5).expect("read"), [2; 5]);
            for (offset, length) in [(8, 3), (second - 1, 2), (second + 4, 2), (1000, 1)] {
                assert!(read(offset, length).is_err(), "{offset}+{length}");
            }
        }
    }
}
