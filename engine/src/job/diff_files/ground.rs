//! What of two disks is known to be the same without being read: all outside the ranges in which
//! their images' trees differ.

use std::sync::Arc;

use crate::base::limits::MAX_UNUSED_PIECES;
use crate::base::ranges::{common, joined, touches};
use crate::base::{ByteCount, ByteOffset, ByteRange, Observer, ReadAt, Result};
use crate::job::files::each_place;
use crate::store::difference::Differences;
use crate::store::{ImageReader, difference};
use crate::volume::Placed;

/// Bytes in which a difference is counted where no tree says it: an image's usual block.
const COUNTED: u64 = 128 * 1024;

/// What is known of two disks.
#[derive(Debug)]
pub(super) struct Ground {
    /// Where they may differ, sorted and apart; `None` where nothing is known, as of two devices.
    doubtful: Option<Vec<ByteRange>>,
}

impl Ground {
    /// Of two images of one repository. What could not be read when either was captured is in
    /// doubt too: the trees are the same there, and say nothing.
    ///
    /// # Errors
    /// Those of [`difference`].
    pub fn of_images(images: [&ImageReader; 2], observer: &dyn Observer) -> Result<Self> {
        let mut doubtful = Vec::new();
        difference(images, observer, &mut Doubtful(&mut doubtful))?;
        let lost = images.into_iter().flat_map(|image| &image.manifest().unreadable);
        doubtful.extend(lost.map(|range| ByteRange::new(range.offset, range.length)));
        Ok(Self { doubtful: Some(joined(doubtful)) })
    }

    /// Of disks of which nothing is known.
    pub fn unknown() -> Self {
        Self { doubtful: None }
    }

    /// Whether a volume that is at the same places of both disks is the same on both.
    pub fn is_same(&self, volumes: [&Placed; 2]) -> bool {
        let [before, after] = volumes;
        let Some(doubtful) = &self.doubtful else { return false };
        let places = after.places(MAX_UNUSED_PIECES);
        let is_apart = places.is_some_and(|places| common(&places, doubtful).is_empty());
        is_apart && is_placed_alike(before, after) && length(before) == length(after)
    }

    /// Bytes of a volume that may differ, as the trees say; `None` where they do not.
    pub fn count(&self, volumes: [&Placed; 2]) -> Option<u64> {
        let ranges = self.doubtful.as_ref()?;
        let [before, after] = volumes;
        if !is_placed_alike(before, after) || length(before) != length(after) {
            return None;
        }
        let places = after.places(MAX_UNUSED_PIECES)?;
        let bytes = |ranges: &[ByteRange]| ByteCount::total(ranges.iter().map(ByteRange::len)).0;
        // Copies would be counted each.
        (bytes(&places) <= length(after)).then(|| bytes(&common(&places, ranges)))
    }

    /// The second disk, read from the first one where they are the same, so that what both hold
    /// is read and unpacked once.
    pub fn shared(&self, disks: [Arc<dyn ReadAt>; 2]) -> Arc<dyn ReadAt> {
        let [before, after] = disks;
        match self.doubtful.clone() {
            Some(doubtful) => Arc::new(Shared { before, after, doubtful }),
            None => after,
        }
    }
}

/// Gathers what differs; of what repeats and differs in places, all.
struct Doubtful<'a>(&'a mut Vec<ByteRange>);

impl Differences for Doubtful<'_> {
    fn range(&mut self, range: ByteRange) -> Result<()> {
        self.0.push(range);
        Ok(())
    }

    fn part(&mut self, within: ByteRange, _bytes: u64) -> Result<bool> {
        self.0.push(within);
        Ok(true)
    }
}

fn length(placed: &Placed) -> u64 {
    placed.volume().length
}

/// Whether both volumes are the same stretches of their disks, and of theirs alone, as far as both
/// reach; of volumes within others, whether they are in all.
fn is_placed_alike(before: &Placed, after: &Placed) -> bool {
    let [one, other] = [before, after].map(Placed::volume);
    let is_had = one.unsupported.is_none() && other.unsupported.is_none();
    let is_same = match one.is_stacked() || other.is_stacked() {
        true => one.mapping.is_some() && one.mapping == other.mapping,
        false => one.start == other.start,
    };
    is_had && is_same
}

/// Bytes of whole [`COUNTED`] pieces in which two volumes differ, found by reading both.
///
/// # Errors
/// `Cancelled`; those of the volumes.
pub(super) fn count_by_reading(volumes: [&dyn ReadAt; 2], observer: &dyn Observer) -> Result<u64> {
    let [smaller, larger] = {
        let sizes = volumes.map(|volume| volume.size().0);
        [sizes[0].min(sizes[1]), sizes[0].max(sizes[1])]
    };
    let (mut at, mut bytes) = (0, larger - smaller);
    let mut buffers = [Vec::new(), Vec::new()];
    while at < smaller {
        if observer.cancelled() {
            return Err(crate::base::Error::cancelled());
        }
        let length = COUNTED.min(smaller - at);
        if differ_in(volumes, ByteRange::new(at, length), &mut buffers)? {
            bytes += length;
        }
        at += length;
    }
    Ok(bytes)
}

/// Whether two volumes hold different bytes in `range`, which are read into `buffers` whole.
///
/// # Errors
/// Those of the volumes.
pub(super) fn differ_in(
    volumes: [&dyn ReadAt; 2],
    range: ByteRange,
    buffers: &mut [Vec<u8>; 2],
) -> Result<bool> {
    for (volume, buffer) in volumes.iter().zip(&mut *buffers) {
        buffer.resize(usize::try_from(range.len()).unwrap_or_default(), 0);
        volume.read_exact_at(ByteOffset(range.start), buffer)?;
    }
    Ok(buffers[0] != buffers[1])
}

/// See [`Ground::shared`].
struct Shared {
    before: Arc<dyn ReadAt>,
    after: Arc<dyn ReadAt>,
    doubtful: Vec<ByteRange>,
}

impl ReadAt for Shared {
    fn size(&self) -> ByteCount {
        self.after.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset.0, buffer.len() as u64);
        let is_in_both = range.end <= self.before.size().0.min(self.after.size().0);
        let is_same = is_in_both && !touches(&self.doubtful, &range);
        // A copy of the same bytes may be sound where another is damaged.
        if is_same && self.before.read_exact_at(offset, buffer).is_ok() {
            return Ok(());
        }
        self.after.read_exact_at(offset, buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.after.reach(offset)
    }
}

/// What is known of one volume of two disks.
pub(super) struct VolumeGround<'a> {
    ground: &'a Ground,
    /// The parts that each filesystem lies on.
    parts: [&'a [Placed]; 2],
    /// What a dirty journal on either side has newer than the volume, sorted and apart.
    replayed: Vec<ByteRange>,
    is_placed_alike: bool,
}

impl<'a> VolumeGround<'a> {
    /// Of filesystems on `parts`, one behind the other, that read `replayed` from their journals.
    pub fn new(ground: &'a Ground, parts: [&'a [Placed]; 2], replayed: [&[ByteRange]; 2]) -> Self {
        let replayed = joined(replayed.concat());
        let [before, after] = parts;
        let mut pairs = before.iter().zip(after);
        let is_alike = |(one, other): (&Placed, &Placed)| {
            is_placed_alike(one, other) && (length(one) == length(other) || before.len() == 1)
        };
        let is_placed_alike = before.len() == after.len() && pairs.all(is_alike);
        Self { ground, parts, replayed, is_placed_alike }
    }

    /// The parts of `range`, bytes of the volume, that may not be the same on both sides.
    pub fn doubtful(&self, range: ByteRange) -> Vec<ByteRange> {
        let Some(doubtful) = &self.ground.doubtful else { return vec![range] };
        if !self.is_placed_alike {
            let [before, after] = [0, 1].map(|side| self.places(side, range));
            if before.is_none() || before != after {
                return vec![range];
            }
        }
        let length = |parts: &&[Placed]| ByteCount::total(parts.iter().map(length)).0;
        let shared = self.parts.iter().map(length).min().unwrap_or_default();
        let within = ByteRange { start: range.start, end: range.end.min(shared) };
        let found = match self.parts[1].iter().any(|part| part.volume().is_stacked()) {
            true => self.doubtful_pieces(within, doubtful),
            false => self.doubtful_parts(within, doubtful),
        };
        let Ok(mut found) = found else { return vec![range] };
        // What is on one side only.
        found.push(ByteRange { start: within.end.max(range.start), end: range.end });
        found.extend(common(&[range], &self.replayed));
        joined(found)
    }

    /// What of `within` is in doubt, of volumes of which each byte is in one place.
    fn doubtful_parts(&self, within: ByteRange, doubtful: &[ByteRange]) -> Result<Vec<ByteRange>> {
        let (mut at, mut found) = (within.start, Vec::new());
        each_place(self.parts[1], within, &mut |place| {
            for part in common(&[place], doubtful) {
                found.push(ByteRange::new(at + (part.start - place.start), part.len()));
            }
            at = at.saturating_add(place.len());
        })?;
        // What is nowhere on the disk.
        found.push(ByteRange { start: at.min(within.end), end: within.end });
        Ok(found)
    }

    /// The same in whole pieces, of volumes whose bytes may be in several places.
    fn doubtful_pieces(&self, within: ByteRange, doubtful: &[ByteRange]) -> Result<Vec<ByteRange>> {
        let is_hit = |range: ByteRange| -> Result<bool> {
            let mut is_hit = false;
            each_place(self.parts[1], range, &mut |place| is_hit |= touches(doubtful, &place))?;
            Ok(is_hit)
        };
        if within.is_empty() || !is_hit(within)? {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut at = within.start;
        while at < within.end {
            let piece = ByteRange::new(at, COUNTED.min(within.end - at));
            if is_hit(piece)? {
                found.push(piece);
            }
            at = piece.end;
        }
        Ok(found)
    }

    /// Whether a journal has some of `range` newer than the volume, on either side.
    pub fn is_replayed(&self, range: ByteRange) -> bool {
        touches(&self.replayed, &range)
    }

    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        self.ground.doubtful.is_some() && self.is_placed_alike
    }

    /// Where `range` is; `None` where more than that tells what is in it.
    fn places(&self, side: usize, range: ByteRange) -> Option<Vec<ByteRange>> {
        let mut places = Vec::new();
        each_place(self.parts[side], range, &mut |place| places.push(place)).ok()?;
        Some(places)
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::volume::{Keys, Stack};

    /// Volumes of a disk of zeros, by their starts and lengths.
    fn volumes(ranges: &[(u64, u64)]) -> Vec<Placed> {
        let volumes = ranges.iter().map(|(start, length)| {
            serde_json::json!({"name": format!("v{start}"), "start": start, "length": length})
        });
        let volumes: Vec<serde_json::Value> = volumes.collect();
        let layout = serde_json::json!({"sector_size": 512, "volumes": volumes});
        let layout = serde_json::from_value(layout).expect("a layout");
        let disk: Arc<dyn ReadAt> = Arc::new(vec![0_u8; 4096]);
        let stack = Stack::over(&disk, layout, &Keys::default()).expect("opened");
        stack.volumes().collect()
    }

    fn known(doubtful: &[(u64, u64)]) -> Ground {
        let ranges = doubtful.iter().map(|(start, end)| ByteRange { start: *start, end: *end });
        Ground { doubtful: Some(ranges.collect()) }
    }

    fn told(ground: &VolumeGround<'_>, start: u64, end: u64) -> Vec<(u64, u64)> {
        let ranges = ground.doubtful(ByteRange { start, end });
        ranges.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn doubt_is_told_in_bytes_of_the_volume() {
        let ground = known(&[(0, 110), (150, 160), (190, 300)]);
        let [plain, moved] = volumes(&[(100, 100), (101, 100)]).try_into().unwrap_or_else(|_| {
            panic!("two volumes");
        });
        let replayed = [ByteRange { start: 20, end: 30 }];
        let here = VolumeGround::new(&ground, [from_ref(&plain); 2], [&[], &replayed]);
        assert_eq!(told(&here, 0, 100), [(0, 10), (20, 30), (50, 60), (90, 100)]);
        assert_eq!(told(&here, 10, 20), []);
        assert_eq!(told(&here, 55, 200), [(55, 60), (90, 200)], "beyond the volume's end");
        assert_eq!(ground.count([&plain, &plain]), Some(30));
        let here = VolumeGround::new(&ground, [&moved, &plain].map(from_ref), [&[], &[]]);
        assert_eq!(told(&here, 12, 13), [(12, 13)]);
        assert_eq!(ground.count([&moved, &plain]), None);
        assert!(!ground.is_same([&plain; 2]) && known(&[(70, 90)]).is_same([&plain; 2]));
    }
}
