//! Views of other readers: a part of one, a reference to one, bytes in memory.

use std::sync::Arc;

use crate::{ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, WriteAt};

/// Fails with `Invalid` unless `length` bytes from `offset` lie within `size`.
pub fn check_range(size: ByteCount, offset: ByteOffset, length: usize) -> Result<()> {
    match offset.checked_add(ByteCount(length as u64)) {
        Some(end) if end.0 <= size.0 => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            format!("{length} bytes at {offset} reach beyond the end at {size}"),
        )),
    }
}

/// A part of something readable, as something readable: its byte 0 is the part's first.
#[derive(Debug, Clone)]
pub struct Window<R> {
    inner: R,
    range: ByteRange,
}

impl<R: ReadAt> Window<R> {
    /// The bytes `range` of `inner`.
    ///
    /// # Errors
    /// `Invalid` if `range` reaches beyond `inner`.
    pub fn new(inner: R, range: ByteRange) -> Result<Self> {
        if range.end > inner.size().0 || range.start > range.end {
            let context = format!("{range} reach beyond the end at {}", inner.size());
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        Ok(Self { inner, range })
    }

    /// Where the part lies.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.range
    }
}

impl<R: ReadAt> ReadAt for Window<R> {
    fn size(&self) -> ByteCount {
        ByteCount(self.range.len())
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        self.inner.read_exact_at(ByteOffset(self.range.start + offset.0), buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.inner.reach(ByteOffset(self.range.start.saturating_add(offset.0)))
    }
}

impl<W: WriteAt> WriteAt for Window<W> {
    fn write_all_at(&self, offset: ByteOffset, bytes: &[u8]) -> Result<()> {
        check_range(self.size(), offset, bytes.len())?;
        self.inner.write_all_at(ByteOffset(self.range.start + offset.0), bytes)
    }
}

macro_rules! read_through {
    ($($pointer:ty),*) => {$(
        impl<R: ReadAt + ?Sized> ReadAt for $pointer {
            fn size(&self) -> ByteCount {
                (**self).size()
            }

            fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
                (**self).read_exact_at(offset, buffer)
            }

            fn reach(&self, offset: ByteOffset) -> u64 {
                (**self).reach(offset)
            }
        }
    )*};
}

read_through!(&R, Box<R>, Arc<R>);

impl ReadAt for [u8] {
    fn size(&self) -> ByteCount {
        ByteCount::of(self)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(ByteCount::of(self), offset, buffer.len())?;
        let start = usize::try_from(offset.0).unwrap_or(usize::MAX);
        if let Some(bytes) = self.get(start..start.saturating_add(buffer.len())) {
            buffer.copy_from_slice(bytes);
        }
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> ByteCount {
        ByteCount::of(self)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.as_slice().read_exact_at(offset, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_its_part_and_no_more() -> Result<()> {
        let bytes: Vec<u8> = (0..100).collect();
        let window = Window::new(&bytes, ByteRange { start: 10, end: 20 })?;
        let nested = Window::new(Arc::new(window), ByteRange { start: 2, end: 10 })?;
        let mut found = [0; 8];
        nested.read_exact_at(ByteOffset(0), &mut found)?;
        assert_eq!(found, [12, 13, 14, 15, 16, 17, 18, 19]);
        for (offset, length) in [(1, 8), (9, 0), (u64::MAX, 1)] {
            let error = nested.read_exact_at(ByteOffset(offset), &mut vec![0; length]).err();
            assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Invalid), "{offset}+{length}");
        }
        assert!(Window::new(&bytes, ByteRange { start: 99, end: 101 }).is_err());
        Ok(())
    }
}
