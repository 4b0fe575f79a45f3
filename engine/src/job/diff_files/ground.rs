//! What of two disks is known to be the same without being read: all outside the ranges in which
//! their images' trees differ.

use std::sync::Arc;

use crate::base::ranges::{common, joined, touches};
use crate::base::{ByteCount, ByteOffset, ByteRange, Observer, ReadAt, Result};
use crate::job::files::each_place;
use crate::store::difference::Differences;
use crate::store::{ImageReader, difference};
use crate::volume::Volume;

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
    pub fn is_same(&self, volumes: [&Volume; 2]) -> bool {
        let [before, after] = volumes;
        let is_hit = |ranges: &Vec<ByteRange>| ranges.iter().any(|range| after.lies_in(range));
        let is_known = self.doubtful.as_ref().is_some_and(|ranges| !is_hit(ranges));
        is_known && is_placed_alike(before, after) && before.length == after.length
    }

    /// Bytes of a volume that may differ, as the trees say; `None` where they do not.
    pub fn count(&self, volumes: [&Volume; 2]) -> Option<u64> {
        let ranges = self.doubtful.as_ref()?;
        let [before, after] = volumes;
        if !is_placed_alike(before, after) || before.length != after.length {
            return None;
        }
        let mut bytes = 0_u64;
        let whole = ByteRange { start: 0, end: after.length };
        after.each_place(whole, &mut |place| {
            let parts = common(&[place], ranges);
            bytes = bytes.saturating_add(ByteCount::total(parts.iter().map(ByteRange::len)).0);
        });
        Some(bytes)
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

/// Whether both volumes begin with the same stretches of their disks.
fn is_placed_alike(before: &Volume, after: &Volume) -> bool {
    let is_had = before.unsupported.is_none() && after.unsupported.is_none();
    is_had && before.start == after.start && before.segments == after.segments
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
    parts: [&'a [Volume]; 2],
    /// What a dirty journal on either side has newer than the volume, sorted and apart.
    replayed: Vec<ByteRange>,
    is_placed_alike: bool,
}

impl<'a> VolumeGround<'a> {
    /// Of filesystems on `parts`, one behind the other, that read `replayed` from their journals.
    pub fn new(ground: &'a Ground, parts: [&'a [Volume]; 2], replayed: [&[ByteRange]; 2]) -> Self {
        let replayed = joined(replayed.concat());
        let [before, after] = parts;
        let mut pairs = before.iter().zip(after);
        let is_alike = |(one, other): (&Volume, &Volume)| {
            is_placed_alike(one, other) && (one.length == other.length || before.len() == 1)
        };
        let is_placed_alike = before.len() == after.len() && pairs.all(is_alike);
        Self { ground, parts, replayed, is_placed_alike }
    }

    /// The parts of `range`, bytes of the volume, that may not be the same on both sides.
    pub fn doubtful(&self, range: ByteRange) -> Vec<ByteRange> {
        let Some(doubtful) = &self.ground.doubtful else { return vec![range] };
        if !self.is_placed_alike && self.places(0, range) != self.places(1, range) {
            return vec![range];
        }
        let length = |parts: &&[Volume]| ByteCount::total(parts.iter().map(|part| part.length)).0;
        let shared = self.parts.iter().map(length).min().unwrap_or_default();
        let within = ByteRange { start: range.start, end: range.end.min(shared) };
        let (mut at, mut found) = (range.start, Vec::new());
        each_place(self.parts[1], within, &mut |place| {
            for part in common(&[place], doubtful) {
                found.push(ByteRange::new(at + (part.start - place.start), part.len()));
            }
            at = at.saturating_add(place.len());
        });
        // What is nowhere on the disk.
        found.push(ByteRange { start: at.min(range.end), end: range.end });
        found.extend(common(&[range], &self.replayed));
        joined(found)
    }

    /// Whether a journal has some of `range` newer than the volume, on either side.
    pub fn is_replayed(&self, range: ByteRange) -> bool {
        touches(&self.replayed, &range)
    }

    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        self.ground.doubtful.is_some() && self.is_placed_alike
    }

    fn places(&self, side: usize, range: ByteRange) -> Vec<ByteRange> {
        let mut places = Vec::new();
        each_place(self.parts[side], range, &mut |place| places.push(place));
        places
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn volume(start: u64, length: u64, segments: &serde_json::Value) -> Volume {
        let value = serde_json::json!({"name": "v", "start": start, "length": length,
            "segments": segments});
        serde_json::from_value(value).expect("a volume")
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
        let plain = volume(100, 100, &serde_json::json!([]));
        let replayed = [ByteRange { start: 20, end: 30 }];
        let here = VolumeGround::new(&ground, [from_ref(&plain); 2], [&[], &replayed]);
        assert_eq!(told(&here, 0, 100), [(0, 10), (20, 30), (50, 60), (90, 100)]);
        assert_eq!(told(&here, 10, 20), []);
        assert_eq!(told(&here, 55, 200), [(55, 60), (90, 200)], "beyond the volume's end");
        assert_eq!(ground.count([&plain, &plain]), Some(30));
        let moved = volume(101, 100, &serde_json::json!([]));
        let here = VolumeGround::new(&ground, [&moved, &plain].map(from_ref), [&[], &[]]);
        assert_eq!(told(&here, 12, 13), [(12, 13)]);
        assert_eq!(ground.count([&moved, &plain]), None);
    }

    #[test]
    fn doubt_follows_the_segments_of_a_logical_volume() {
        let segment = |start: u64, length: u64, place: u64| {
            serde_json::json!({"start": start, "length": length, "stripe": length,
                "places": [place]})
        };
        let one = volume(1000, 20, &serde_json::json!([segment(0, 10, 1000), segment(10, 10, 50)]));
        let grown =
            serde_json::json!([segment(0, 10, 1000), segment(10, 10, 50), segment(20, 10, 0)]);
        let grown = volume(1000, 30, &grown);
        let ground = known(&[(52, 55), (1008, 1009)]);
        let here = VolumeGround::new(&ground, [&one, &grown].map(from_ref), [&[], &[]]);
        assert_eq!(told(&here, 0, 20), [(8, 9), (12, 15)]);
        assert_eq!(told(&here, 20, 25), [(20, 25)], "only one of them has it");
        assert!(!ground.is_same([&one, &one]) && known(&[(70, 90)]).is_same([&one, &one]));
    }
}
