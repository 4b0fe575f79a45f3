//! What lies on a larger target behind the image: cut off a file; on a device, wiped where it
//! would be taken for something, and left alone elsewhere.

use crate::base::{ByteCount, ByteOffset, ByteRange, Error, ReadAt, Result, WriteAt};
use crate::block::Target;
use crate::volume::{GptMove, Leftover, leftovers};

/// What becomes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// Bytes that are cut off.
    pub cut: Option<ByteCount>,
    /// Signatures of what was there, which are wiped.
    pub wiped: Vec<Leftover>,
    /// Bytes that stay, those of the signatures among them.
    pub stays: ByteCount,
    /// The first byte of a file's end that is not zero.
    pub data: Option<ByteOffset>,
}

impl Behind {
    /// Decides it for an image of `size` whose table would move as `gpt` says. A file is as long
    /// as its image, but for a blank one in which a partition table has room to grow: it stands
    /// for a larger disk.
    ///
    /// # Errors
    /// `Io` of the target.
    pub fn plan(target: &Target, size: ByteCount, gpt: Option<&GptMove>) -> Result<Self> {
        let stays = ByteCount(target.size().0.saturating_sub(size.0));
        if stays.0 == 0 {
            return Ok(Self::default());
        }
        if target.facts().is_some() {
            return Ok(Self { wiped: found(target, size)?, stays, ..Self::default() });
        }
        let data = target.data_in(ByteRange { start: size.0, end: target.size().0 })?;
        Ok(match (data, gpt) {
            (None, Some(_)) => Self { stays, ..Self::default() },
            (data, _) => Self { cut: Some(stays), data, ..Self::default() },
        })
    }

    /// Leaves out what the partition table will be written over.
    #[must_use]
    pub fn without_table(mut self, gpt: Option<&GptMove>) -> Self {
        self.wiped = uncovered(self.wiped, gpt);
        self
    }

    /// Wipes what is to be wiped.
    ///
    /// # Errors
    /// `Io` of the target.
    pub fn wipe(&self, target: &Target) -> Result<()> {
        for leftover in &self.wiped {
            let length = usize::try_from(leftover.range.len()).unwrap_or(usize::MAX);
            target.write_all_at(ByteOffset(leftover.range.start), &vec![0; length])?;
        }
        Ok(())
    }

    /// Checks on the disk, read anew, that nothing is left to be taken for something.
    ///
    /// # Errors
    /// `Corrupt` if there is; `Io`.
    pub fn verify(disk: &dyn ReadAt, size: ByteCount, gpt: Option<&GptMove>) -> Result<()> {
        let left = uncovered(found(disk, size)?, gpt);
        let Some(first) = left.first() else { return Ok(()) };
        let place = format!("byte {}, behind the image", first.range.start);
        Err(Error::corrupt(place, "nothing", first.what))
    }
}

fn found(disk: &dyn ReadAt, size: ByteCount) -> Result<Vec<Leftover>> {
    if disk.size() <= size { Ok(Vec::new()) } else { leftovers(disk, ByteOffset(size.0)) }
}

fn uncovered(mut found: Vec<Leftover>, gpt: Option<&GptMove>) -> Vec<Leftover> {
    let writes = || gpt.into_iter().flat_map(|gpt| &gpt.writes);
    let is_covered = |leftover: &Leftover| {
        writes().any(|(place, bytes)| {
            let written = ByteRange::new(place.0, bytes.len() as u64);
            written.start <= leftover.range.start && leftover.range.end <= written.end
        })
    };
    found.retain(|leftover| !is_covered(leftover));
    found
}
