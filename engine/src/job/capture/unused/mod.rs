//! What no filesystem of a disk uses, so that it need not be read: a capture leaves it out, and
//! the image says of it that it is unallocated.
//!
//! A filesystem's free space counts only where it is certain, and where nothing else lies on the
//! same bytes of the disk. In any doubt a volume is read whole. What lies outside of volumes is
//! always read: boot loaders live there. With `skip_swap`, the contents of [`swap`] files are no
//! more used than free space. [`proof`] walks the image afterwards. Of a disk in use it is certain
//! only of its image at one instant what is free; until then, what is likely will do.

mod fstab;
pub mod proof;
mod swap;

use std::ops::ControlFlow;
use std::sync::Arc;

use self::swap::{SWAP_HEADER, SwapFile};
use super::changes::whole_blocks;
use crate::base::limits::MAX_UNUSED_PIECES;
use crate::base::ranges::{common, joined, whole_units};
use crate::base::{BlockSize, ByteRange, Error, ErrorKind, ReadAt, Result};
use crate::fs::{self, FileId, ReadOptions};
use crate::store::manifest::{SkippedFile, VolumeUse};
use crate::volume::{self, DiskLayout, Kind, Volume};

/// What is not used of a disk.
#[derive(Debug, Default)]
pub struct Unused {
    /// Whole blocks, sorted and apart.
    pub ranges: Vec<ByteRange>,
    /// What this is of each volume that was looked at, or why it is nothing.
    pub volumes: Vec<VolumeUse>,
    /// The files whose contents are among the ranges: volume and file.
    pub skipped: Vec<(String, FileId)>,
    /// The blocks that hold these contents.
    pub swap: Vec<ByteRange>,
}

impl Unused {
    /// Why nothing of `volume` is known to be unused.
    fn doubt_of(&self, volume: &Volume) -> &str {
        let own = self.volumes.iter().find(|found| found.volume == volume.name);
        own.and_then(|found| found.doubt.as_deref()).unwrap_or("so its own allocation maps say")
    }
}

/// What was found on one volume.
#[derive(Default)]
struct Found {
    free: Vec<ByteRange>,
    swap: Vec<SwapFile>,
}

impl Found {
    /// All that is not needed, sorted and apart.
    fn pieces(&self) -> Vec<ByteRange> {
        let swap = self.swap.iter().flat_map(|file| &file.pieces);
        joined(self.free.iter().chain(swap).copied().collect())
    }
}

#[cfg(feature = "fault-injection")]
impl Unused {
    /// The same, and `more`.
    #[must_use]
    pub fn leaving_out(mut self, more: &[ByteRange]) -> Self {
        self.ranges = joined(self.ranges.into_iter().chain(more.iter().copied()).collect());
        self
    }
}

/// Looks for what is not used.
pub struct Search<'a> {
    /// The disk, or its image.
    pub disk: &'a Arc<dyn ReadAt>,
    /// Its volumes.
    pub layout: &'a DiskLayout,
    /// Its blocks.
    pub block: BlockSize,
    /// Whether it is written to meanwhile, so that what is found is likely, and no more.
    pub is_in_use: bool,
    /// Whether the contents of swap files are as good as free.
    pub skip_swap: bool,
}

impl Search<'_> {
    /// What is not used of the volumes that `is_wanted`.
    #[must_use]
    pub fn run(&self, is_wanted: impl Fn(&Volume) -> bool) -> Unused {
        let mut unused = Unused::default();
        let mut all = Vec::new();
        for volume in self.layout.volumes.iter().filter(|volume| is_wanted(volume)) {
            let mut found = Found::default();
            let Some(outcome) = self.look_at(volume, &mut found) else { continue };
            let outcome = outcome.and_then(|kind| self.check_apart(volume).map(|()| kind));
            let (kind, doubt) = match outcome {
                Ok(kind) => (Some(kind), None),
                Err(error) => (None, Some(error.to_string())),
            };
            let found = if doubt.is_none() { found } else { Found::default() };
            let held = volume.content.as_ref().map(|content| content.kind.to_string());
            let kind = kind.or(held).unwrap_or_default();
            let name = volume.name.clone();
            let skipped = Vec::new();
            unused.volumes.push(VolumeUse { volume: name, kind, unallocated: 0, doubt, skipped });
            all.push(found);
        }
        let pieces = joined(all.iter().flat_map(Found::pieces).collect());
        unused.ranges = whole_units(&pieces, self.block.bytes(), self.disk.size().0);
        let mut swap = Vec::new();
        for (volume, found) in unused.volumes.iter_mut().zip(all) {
            let left_out = |pieces: &[ByteRange]| -> u64 {
                common(pieces, &unused.ranges).iter().map(ByteRange::len).sum()
            };
            volume.unallocated = left_out(&found.pieces());
            for SwapFile { path, file, pieces, note } in found.swap {
                let bytes = left_out(&pieces);
                if bytes > 0 {
                    unused.skipped.push((volume.volume.clone(), file));
                    swap.extend(pieces);
                }
                volume.skipped.push(SkippedFile { path, bytes, note });
            }
        }
        let swap = whole_blocks(swap, self.block, self.disk.size());
        unused.swap = common(&swap, &unused.ranges);
        unused
    }

    /// Adds what is not used of a volume to `found`, as bytes of the disk, and says what it holds;
    /// `None` if that is nothing which knows of free space.
    fn look_at(&self, volume: &Volume, found: &mut Found) -> Option<Result<String>> {
        let content = volume.content.as_ref();
        if volume.unsupported.is_some() || volume.holds_volumes() {
            return None;
        }
        if let Some(why) = &volume.read_whole {
            return Some(Err(Error::new(ErrorKind::Unsupported, why.as_str())));
        }
        let free = &mut found.free;
        let mut take = |range: ByteRange| {
            volume.each_place(range, &mut |place| free.push(place));
            if free.len() > MAX_UNUSED_PIECES {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let held = content.map(|content| content.kind);
        if held == Some(Kind::Swap) {
            // What lies behind its end is not the swap space's.
            let size = content.and_then(|content| content.size).unwrap_or(0).min(volume.length);
            if size > SWAP_HEADER {
                let _only_one = take(ByteRange { start: SWAP_HEADER, end: size });
            }
            return Some(Ok(Kind::Swap.to_string()));
        }
        let options = ReadOptions::default();
        let opened =
            volume::open(self.disk, volume).and_then(|bytes| fs::open_with(&bytes, held, &options));
        match opened {
            Ok(filesystem) => {
                let outcome = match self.is_in_use {
                    true => filesystem.likely_free_space(&mut take),
                    false => filesystem.free_space(&mut take),
                };
                if self.skip_swap && outcome.is_ok() {
                    found.swap = swap::find(filesystem.as_ref(), volume);
                }
                Some(outcome.map(|()| filesystem.info().kind.to_owned()))
            }
            Err(error) if error.kind() == ErrorKind::Unsupported && content.is_none() => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Checks that no other volume lies on the same bytes, but what this one lies in.
    fn check_apart(&self, volume: &Volume) -> Result<()> {
        let places = places(volume);
        let size = self.disk.size().0;
        if places.last().is_none_or(|last| last.end > size) {
            let context = format!("volume {} does not lie within the disk", volume.name);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let others = self.layout.volumes.iter().filter(|other| !std::ptr::eq(*other, volume));
        for other in others {
            if !other.holds_volumes() && places.iter().any(|place| other.lies_in(place)) {
                let context = format!("volume {} lies on the same bytes", other.name);
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
        }
        Ok(())
    }
}

/// Where a volume lies on the disk.
pub fn places(volume: &Volume) -> Vec<ByteRange> {
    let mut places = Vec::new();
    let whole = ByteRange { start: 0, end: volume.length };
    volume.each_place(whole, &mut |place| places.push(place));
    joined(places)
}
