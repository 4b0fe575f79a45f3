//! A file's data, in pieces that are best read and written each at once.

use std::ops::ControlFlow;

use crate::base::limits::MAX_IO_SIZE;
use crate::base::{ByteOffset, ByteRange, Error, ReadAt, Result};
use crate::fs::{Extent, FileContent, Place};

/// Bytes that direct writes are multiples of, in place, length and memory: enough for all sectors.
const ALIGNMENT: u64 = 4096;

/// Takes a range of a file, and says whether to go on.
pub(super) type Take<'a> = &'a mut dyn FnMut(ByteRange) -> ControlFlow<()>;

fn has_data(extent: &Extent) -> bool {
    !matches!(extent.place, Place::Hole | Place::Unwritten(_))
}

/// Cuts the data of `content`, a file on `volume`, into pieces of at most 1 MiB, in order. They
/// end where reads of the volume best do, so that a piece mostly needs one frame of an image, and
/// that frame is needed for no other; but only where direct writes can end too.
///
/// # Errors
/// Those of the content's map; `Cancelled` once `is_stopped`.
pub(super) fn cut(
    content: &mut dyn FileContent,
    volume: &dyn ReadAt,
    is_stopped: &dyn Fn() -> bool,
    take: Take<'_>,
) -> Result<()> {
    let mut cutter = Cutter { volume, piece: ByteRange::new(0, 0), take };
    let mut flow = ControlFlow::Continue(());
    let mut stopped = false;
    content.extents(&mut |extent| {
        stopped = is_stopped();
        flow = if stopped { ControlFlow::Break(()) } else { cutter.add(&extent) };
        flow
    })?;
    if stopped {
        return Err(Error::cancelled());
    }
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
        while at < range.end {
            let place = match extent.place {
                Place::At(place) => Some(place.saturating_add(at - range.start)),
                _ => None,
            };
            let cut = self.cut_behind(at, place);
            at = cut.min(range.end);
            self.piece.end = at;
            if at == cut {
                self.end_piece(cut)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Where the piece has to end, if the byte `at` of the file, which is at `place` of the
    /// volume, follows what was gathered.
    fn cut_behind(&self, at: u64, place: Option<u64>) -> u64 {
        let aligned = |end: u64| end - end % ALIGNMENT;
        let full = self.piece.start.checked_add(MAX_IO_SIZE as u64);
        // Where numbers end, the data does too.
        let full = full.map_or(u64::MAX, aligned).max(at);
        let best = place.map(|place| at.saturating_add(self.volume.reach(ByteOffset(place))));
        best.map(aligned).filter(|best| *best > at).map_or(full, |best| best.min(full))
    }

    /// Hands out what was gathered, if anything was; the next piece begins at `next`.
    fn end_piece(&mut self, next: u64) -> ControlFlow<()> {
        let piece = std::mem::replace(&mut self.piece, ByteRange { start: next, end: next });
        if piece.is_empty() { ControlFlow::Continue(()) } else { (self.take)(piece) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::ByteCount;
    use crate::base::ranges::joined;
    use crate::fs::Visit;

    const MIB: u64 = 1 << 20;

    /// A content that has nothing but its map.
    struct Mapped(Vec<Extent>);

    impl FileContent for Mapped {
        fn size(&self) -> u64 {
            self.0.last().map_or(0, |extent| extent.offset + extent.length)
        }

        fn read_at(&mut self, _offset: u64, _buffer: &mut [u8]) -> Result<usize> {
            unreachable!("cutting reads nothing")
        }

        fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
            let _stopped = self.0.iter().try_for_each(|extent| visit(*extent));
            Ok(())
        }
    }

    /// A volume of which reads best end where it says, by turns.
    struct Reaching(Vec<u64>);

    impl ReadAt for Reaching {
        fn size(&self) -> ByteCount {
            ByteCount(u64::MAX)
        }

        fn read_exact_at(&self, _offset: ByteOffset, _buffer: &mut [u8]) -> Result<()> {
            unreachable!("cutting reads nothing")
        }

        fn reach(&self, offset: ByteOffset) -> u64 {
            self.0[usize::try_from(offset.0 / 4096 % self.0.len() as u64).expect("small")]
        }
    }

    /// A volume of which reads best end at each whole MiB.
    struct Even;

    impl ReadAt for Even {
        fn size(&self) -> ByteCount {
            ByteCount(u64::MAX)
        }

        fn read_exact_at(&self, _offset: ByteOffset, _buffer: &mut [u8]) -> Result<()> {
            unreachable!("cutting reads nothing")
        }
    }

    fn pieces_of(extents: &[Extent], volume: &dyn ReadAt, most: usize) -> Vec<ByteRange> {
        let mut pieces = Vec::new();
        cut(&mut Mapped(extents.to_vec()), volume, &|| false, &mut |piece| {
            pieces.push(piece);
            if pieces.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .expect("it has a map");
        pieces
    }

    fn range_of(extent: &Extent) -> ByteRange {
        ByteRange::new(extent.offset, extent.length)
    }

    /// Extents one behind the other from `start`, as far as numbers go.
    fn laid(start: u64, stretches: &[(u64, Place)]) -> Vec<Extent> {
        let mut offset = start;
        let extents = stretches.iter().map_while(|(length, place)| {
            let length = (*length).min(u64::MAX - offset);
            let extent = Extent { offset, length, place: *place };
            offset += length;
            (length > 0).then_some(extent)
        });
        extents.collect()
    }

    fn place() -> impl Strategy<Value = Place> {
        prop_oneof![
            4 => any::<u64>().prop_map(|place| Place::At(place / 512 * 512)),
            2 => (0..1_u64 << 40).prop_map(Place::At),
            1 => (0..1_u64 << 40, 1..MIB).prop_map(|(place, count)| Place::Encoded(place, count)),
            1 => Just(Place::Inline),
            2 => Just(Place::Hole),
            1 => Just(Place::Unwritten(None)),
        ]
    }

    fn length() -> impl Strategy<Value = u64> {
        prop_oneof![(1..700_u64).prop_map(|pages| pages * 4096), 1..3 * MIB, 1..5000_u64]
    }

    fn reach() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), 1..10_000_u64, 1..=MIB, Just(MIB)]
    }

    fn start() -> impl Strategy<Value = u64> {
        prop_oneof![4 => Just(0), 1 => 0..MIB, 1 => (0..8 * MIB).prop_map(|back| u64::MAX - back)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn pieces_are_the_data_in_order_and_fit_for_direct_writes(
            start in start(),
            stretches in proptest::collection::vec((length(), place()), 0..12),
            reaches in proptest::collection::vec(reach(), 1..5),
        ) {
            let extents = laid(start, &stretches);
            let pieces = pieces_of(&extents, &Reaching(reaches), usize::MAX);
            let data = joined(extents.iter().filter(|one| has_data(one)).map(range_of).collect());
            prop_assert_eq!(joined(pieces.clone()), data.clone());
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
            for piece in &pieces {
                prop_assert!((1..=MIB).contains(&piece.len()), "{piece:?}");
                let is_end = data.iter().any(|range| range.end == piece.end);
                prop_assert!(is_end || piece.end % 4096 == 0, "{piece:?} of {data:?}");
            }
        }

        #[test]
        fn nothing_more_is_handed_out_when_it_was_enough(
            stretches in proptest::collection::vec((length(), place()), 1..8),
            most in 1..6_usize,
        ) {
            let extents = laid(0, &stretches);
            let all = pieces_of(&extents, &Even, usize::MAX);
            prop_assert_eq!(&pieces_of(&extents, &Even, most)[..], &all[..most.min(all.len())]);
        }
    }

    #[test]
    fn a_map_of_holes_alone_can_be_left_too() {
        let holes = Mapped(laid(0, &[(MIB, Place::Hole); 1000]));
        let asked = std::cell::Cell::new(0);
        let is_stopped = || asked.replace(asked.get() + 1) == 7;
        let mut content = holes;
        let cut = cut(&mut content, &Even, &is_stopped, &mut |_| unreachable!("no data"));
        assert_eq!(cut.expect_err("stopped").kind(), crate::base::ErrorKind::Cancelled);
        assert_eq!(asked.get(), 8);
    }

    #[test]
    fn pieces_end_where_the_volume_is_stored_in_parts() {
        let page = 4096;
        let extents =
            laid(0, &[(2 * MIB, Place::At(7 * MIB - 3 * page)), (MIB, Place::At(40 * MIB))]);
        let ends: Vec<u64> =
            pieces_of(&extents, &Even, usize::MAX).iter().map(|piece| piece.end).collect();
        // Two where the volume's MiB end; one that is full, begun before the second extent, which is
        // not stored where the first one ends; and the rest, to where that one's MiB ends.
        assert_eq!(ends, [3 * page, MIB + 3 * page, 2 * MIB + 3 * page, 3 * MIB]);
    }
}
