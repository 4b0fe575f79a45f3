//! A file's data, in pieces that are best read and written each at once.

use std::ops::ControlFlow;

use super::copy::ALIGNMENT;
use crate::base::limits::MAX_IO_SIZE;
use crate::base::{ByteOffset, ByteRange, Result};
use crate::block::ReadAt;
use crate::fs::{Extent, FileContent, Place};

/// Takes a range of a file, and says whether to go on.
pub(super) type Take<'a> = &'a mut dyn FnMut(ByteRange) -> ControlFlow<()>;

fn has_data(extent: &Extent) -> bool {
    !matches!(extent.place, Place::Hole | Place::Unwritten)
}

/// Cuts the data of `content`, a file on `volume`, into pieces of at most 1 MiB, in order. They
/// end where reads of the volume best do, so that a piece mostly needs one frame of an image, and
/// that frame is needed for no other; but only where direct writes can end too.
///
/// # Errors
/// Those of the content's map.
pub(super) fn cut(
    content: &mut dyn FileContent,
    volume: &dyn ReadAt,
    take: Take<'_>,
) -> Result<()> {
    let mut cutter = Cutter { volume, piece: ByteRange::new(0, 0), take };
    let mut flow = ControlFlow::Continue(());
    content.extents(&mut |extent| {
        flow = cutter.add(&extent);
        flow
    })?;
    if flow.is_continue() {
        let _last = cutter.end_piece(0);
    }
    Ok(())
}

struct Cutter<'a> {
    volume: &'a dyn ReadAt,
    /// What was gathered for the next piece.
    piece: ByteRange,
    take: Take<'a>,
}

impl Cutter<'_> {
    fn add(&mut self, extent: &Extent) -> ControlFlow<()> {
        if !has_data(extent) {
            return ControlFlow::Continue(());
        }
        let range = ByteRange::new(extent.offset, extent.length);
        if range.start != self.piece.end {
            self.end_piece(range.start)?;
        }
        let mut at = range.start;
        loop {
            let place = match extent.place {
                Place::At(place) => Some(place.saturating_add(at - range.start)),
                _ => None,
            };
            let cut = self.cut_behind(at, place);
            if cut > range.end {
                self.piece.end = range.end;
                return ControlFlow::Continue(());
            }
            self.piece.end = cut;
            self.end_piece(cut)?;
            at = cut;
        }
    }

    /// Where the piece has to end, if the byte `at` of the file, which is at `place` of the
    /// volume, follows what was gathered.
    fn cut_behind(&self, at: u64, place: Option<u64>) -> u64 {
        let aligned = |end: u64| end - end % ALIGNMENT as u64;
        let full = aligned(self.piece.start.saturating_add(MAX_IO_SIZE as u64)).max(at);
        let best = place.map(|place| at.saturating_add(self.volume.reach(ByteOffset(place))));
        best.map(aligned).filter(|best| *best > at).map_or(full, |best| best.min(full))
    }

    /// Hands out what was gathered, if anything was; the next piece begins at `next`.
    fn end_piece(&mut self, next: u64) -> ControlFlow<()> {
        let piece = std::mem::replace(&mut self.piece, ByteRange { start: next, end: next });
        if piece.is_empty() { ControlFlow::Continue(()) } else { (self.take)(piece) }
    }
}
