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

use self::swap::{SWAP_HEADER, SwapFile};
use super::changes::whole_blocks;
use crate::base::limits::MAX_UNUSED_PIECES;
use crate::base::ranges::{common, joined, whole_units};
use crate::base::{BlockSize, ByteCount, ByteRange, Error, ErrorKind, Result};
use crate::fs::{self, FileId, ReadOptions};
use crate::store::manifest::{SkippedFile, VolumeUse};
use crate::volume::{Kind, Placed, Stack, Volume};
use std::ops::ControlFlow;

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
    /// The volumes of the disk, or of its image.
    pub stack: &'a Stack,
    /// Its size.
    pub size: ByteCount,
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
        for placed in self.stack.volumes().filter(|placed| is_wanted(placed.volume())) {
            let volume = placed.volume();
            let mut found = Found::default();
            let Some(outcome) = self.look_at(&placed, &mut found) else { continue };
            let outcome = outcome.and_then(|kind| self.check_apart(&placed).map(|()| kind));
            let (kind, doubt) = match outcome {
                Ok(kind) => (Some(kind), None),
                Err(error) => (None, Some(error.to_string())),
            };
            let found = if doubt.is_none() { found } else { Found::default() };
            let held = volume.kind().map(|kind| kind.to_string());
            let kind = kind.or(held).unwrap_or_default();
            let name = volume.name.clone();
            let skipped = Vec::new();
            unused.volumes.push(VolumeUse { volume: name, kind, unallocated: 0, doubt, skipped });
            all.push(found);
        }
        let pieces = joined(all.iter().flat_map(Found::pieces).collect());
        unused.ranges = whole_units(&pieces, self.block.bytes(), self.size.0);
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
        let swap = whole_blocks(swap, self.block, self.size);
        unused.swap = common(&swap, &unused.ranges);
        unused
    }

    /// Adds what is not used of a volume to `found`, as bytes of the disk, and says what it holds;
    /// `None` if that is nothing which knows of free space.
    fn look_at(&self, placed: &Placed, found: &mut Found) -> Option<Result<String>> {
        let volume = placed.volume();
        let content = volume.content.as_ref();
        if volume.unsupported.is_some() || volume.holds_volumes() {
            return None;
        }
        if let Some(why) = &volume.read_whole {
            return Some(Err(Error::new(ErrorKind::Unsupported, why.as_str())));
        }
        let free = &mut found.free;
        let mut shared = None;
        let mut take = |range: ByteRange| {
            let taken = placed.each_own_place(range, &mut |place| free.push(place));
            shared = taken.err();
            if shared.is_some() || free.len() > MAX_UNUSED_PIECES {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let held = volume.kind();
        if held == Some(Kind::Swap) {
            // What lies behind its end is not the swap space's.
            let size = content.and_then(|content| content.size).unwrap_or(0).min(volume.length);
            if size > SWAP_HEADER {
                let _only_one = take(ByteRange { start: SWAP_HEADER, end: size });
            }
            return Some(shared.map_or(Ok(Kind::Swap.to_string()), Err));
        }
        let options = ReadOptions::default();
        let opened = placed.bytes().and_then(|bytes| fs::open_with(&bytes, held, &options));
        match opened {
            Ok(filesystem) => {
                let outcome = match self.is_in_use {
                    true => filesystem.likely_free_space(&mut take),
                    false => filesystem.free_space(&mut take),
                };
                let outcome = shared.map_or(outcome, Err);
                if self.skip_swap && outcome.is_ok() {
                    found.swap = swap::find(filesystem.as_ref(), placed);
                }
                Some(outcome.map(|()| filesystem.info().kind.to_owned()))
            }
            Err(error) if error.kind() == ErrorKind::Unsupported && content.is_none() => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// The names of the volumes that `volume` lies in, and of those that these lie in.
    fn around(&self, volume: &Volume) -> Vec<String> {
        let mut names = volume.within.clone();
        let mut seen = 0;
        while let Some(name) = names.get(seen).cloned() {
            seen += 1;
            let further = self.stack.layout().volume(&name);
            for name in further.into_iter().flat_map(|further| &further.within) {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
    }

    /// Checks that no other volume lies on the same bytes, but what this one lies in.
    fn check_apart(&self, placed: &Placed) -> Result<()> {
        let volume = placed.volume();
        let unsupported = |why: &str| {
            Err(Error::new(ErrorKind::Unsupported, format!("volume {} {why}", volume.name)))
        };
        let Some(places) = placed.places(MAX_UNUSED_PIECES) else {
            return unsupported("is in too many pieces");
        };
        if places.last().is_none_or(|last| last.end > self.size.0) {
            return unsupported("does not lie within the disk");
        }
        let around = self.around(volume);
        for other in self.stack.volumes() {
            let is_around = around.contains(&other.volume().name);
            if other.is(placed) || is_around || other.volume().holds_volumes() {
                continue;
            }
            let others = other.places(MAX_UNUSED_PIECES).unwrap_or_else(|| places.clone());
            if !common(&places, &others).is_empty() {
                let context = format!("volume {} lies on the same bytes", other.volume().name);
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
        }
        Ok(())
    }
}

/// Where a volume of `stack` lies on the disk, or, of one in very many pieces, where the volumes lie
/// that it is made of.
pub fn places(stack: &Stack, volume: &Volume) -> Vec<ByteRange> {
    let Some(placed) = stack.placed(volume) else { return Vec::new() };
    placed.places(MAX_UNUSED_PIECES).unwrap_or_else(|| {
        let around = stack.layout().volumes.iter().filter(|of| volume.within.contains(&of.name));
        joined(around.flat_map(|of| places(stack, of)).collect())
    })
}
