//! Which parts of a disk changed: one bit a granule, dense in memory, compact when stored.
//!
//! A map may say that too much changed, never too little: ranges are rounded outward, a coarser
//! granule covers every finer one.

use serde::{Deserialize, Serialize};

use super::bytes::FieldReader;
use super::limits;
use super::{ByteCount, ByteRange, Error, ErrorKind, Result};

/// The unit of change tracking: a power of two from 4 KiB to 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Granule(u32);

impl Granule {
    /// The granule of `bytes`.
    ///
    /// # Errors
    /// `Invalid` unless it is a power of two from 4 KiB to 1 MiB.
    pub fn new(bytes: u64) -> Result<Self> {
        let range = limits::MIN_GRANULE..=limits::MAX_GRANULE;
        if bytes.is_power_of_two() && range.contains(&bytes) {
            return Ok(Self(bytes.trailing_zeros()));
        }
        let context = format!("granule {bytes}: expected a power of two from 4 KiB to 1 MiB");
        Err(Error::new(ErrorKind::Invalid, context))
    }

    /// What suits a disk of `size`: 16 KiB up to 1 TiB, 64 KiB above, more where a map would
    /// hold more granules than [`limits::MAX_GRANULES`].
    #[must_use]
    pub fn for_disk(size: ByteCount) -> Self {
        let mut granule = Self(if size.0 <= 1 << 40 { 14 } else { 16 });
        while granule.count(size) > limits::MAX_GRANULES && granule.bytes() < limits::MAX_GRANULE {
            granule.0 += 1;
        }
        granule
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The power of two that it is.
    #[must_use]
    pub fn exponent(self) -> u32 {
        self.0
    }

    /// Granules that cover `size`; the last may be short.
    #[must_use]
    pub fn count(self, size: ByteCount) -> u64 {
        size.0.div_ceil(self.bytes())
    }
}

impl TryFrom<u64> for Granule {
    type Error = Error;

    fn try_from(bytes: u64) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<Granule> for u64 {
    fn from(granule: Granule) -> Self {
        granule.bytes()
    }
}

/// The changed granules of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeMap {
    size: ByteCount,
    granule: Granule,
    /// Bits from the lowest; those beyond the disk's last granule are never set.
    words: Vec<u64>,
}

/// How a stored map's bits follow its header.
const FORM_RUNS: u8 = 0;
const FORM_DENSE: u8 = 1;

impl ChangeMap {
    /// A map of a disk of `size` on which nothing changed.
    ///
    /// # Errors
    /// `Limit` for more granules than [`limits::MAX_GRANULES`].
    pub fn new(size: ByteCount, granule: Granule) -> Result<Self> {
        let granules = granule.count(size);
        if granules > limits::MAX_GRANULES {
            let context = format!(
                "a change map of {granules} granules of {} bytes; {} at most",
                granule.bytes(),
                limits::MAX_GRANULES
            );
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let words = usize::try_from(granules.div_ceil(64)).expect("within MAX_GRANULES");
        Ok(Self { size, granule, words: vec![0; words] })
    }

    /// A map from its words, lowest granule in the lowest bit; surplus words and bits are ignored.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_words(
        size: ByteCount,
        granule: Granule,
        words: impl Iterator<Item = u64>,
    ) -> Result<Self> {
        let mut map = Self::new(size, granule)?;
        for (own, word) in map.words.iter_mut().zip(words) {
            *own = word;
        }
        map.clear_surplus();
        Ok(map)
    }

    /// The disk's size.
    #[must_use]
    pub fn size(&self) -> ByteCount {
        self.size
    }

    /// The unit of its bits.
    #[must_use]
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// Its words, lowest granule in the lowest bit.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Marks every granule that shares a byte with `range`; what is beyond the disk is ignored.
    pub fn set(&mut self, range: ByteRange) {
        let disk = ByteRange { start: 0, end: self.size.0 };
        if let Some(range) = range.intersection(&disk) {
            let first = range.start >> self.granule.0;
            self.set_granules(first, ((range.end - 1) >> self.granule.0) + 1);
        }
    }

    /// Marks the granules from `first` to before `end`, both within the disk.
    fn set_granules(&mut self, first: u64, end: u64) {
        let mut at = first;
        while at < end {
            let bit = at % 64;
            let length = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - length)) << bit;
            if let Some(word) = usize::try_from(at / 64).ok().and_then(|at| self.words.get_mut(at))
            {
                *word |= mask;
            }
            at += length;
        }
    }

    /// Whether the granule that holds byte `offset` changed; never beyond the disk.
    #[must_use]
    pub fn is_set(&self, offset: u64) -> bool {
        let granule = offset >> self.granule.0;
        let word = usize::try_from(granule / 64).ok().and_then(|at| self.words.get(at));
        word.is_some_and(|word| word >> (granule % 64) & 1 == 1)
    }

    /// Whether any byte of `range` may have changed.
    #[must_use]
    pub fn touches(&self, range: ByteRange) -> bool {
        let disk = ByteRange { start: 0, end: self.size.0 };
        let Some(range) = range.intersection(&disk) else { return false };
        let first = range.start >> self.granule.0;
        let end = ((range.end - 1) >> self.granule.0) + 1;
        self.find(first, true).is_some_and(|found| found < end)
    }

    /// Adds what changed in `other`.
    ///
    /// # Errors
    /// `Invalid` for a map of another size or granule.
    pub fn union(&mut self, other: &Self) -> Result<()> {
        if (self.size, self.granule) != (other.size, other.granule) {
            let context = "change maps of different disks or granules cannot be united";
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        for (own, word) in self.words.iter_mut().zip(&other.words) {
            *own |= word;
        }
        Ok(())
    }

    /// How many granules changed.
    #[must_use]
    pub fn changed_granules(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many bytes may have changed; a short last granule counts as short.
    #[must_use]
    pub fn changed_bytes(&self) -> ByteCount {
        let whole = self.changed_granules() << self.granule.0;
        let covered = self.granule.count(self.size) << self.granule.0;
        let is_last_set = self.size.0 > 0 && self.is_set(self.size.0 - 1);
        ByteCount(if is_last_set { whole - (covered - self.size.0) } else { whole })
    }

    /// The changed ranges in order, none touching the next, the last ending with the disk at most.
    pub fn runs(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let size = self.size.0;
        self.granule_runs().map(move |(first, end)| ByteRange {
            start: first << self.granule.0,
            end: (end << self.granule.0).min(size),
        })
    }

    /// Runs of changed granules, as the first and one past the last.
    fn granule_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.find(at, true)?;
            let end = self.find(first, false).unwrap_or_else(|| self.granule.count(self.size));
            at = end;
            Some((first, end))
        })
    }

    /// The first granule from `from` on whose bit is `wanted`; whole words are passed at once.
    fn find(&self, from: u64, wanted: bool) -> Option<u64> {
        let flip = if wanted { 0 } else { u64::MAX };
        let start = usize::try_from(from / 64).ok()?;
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in self.words.iter().enumerate().skip(start) {
            let bits = (word ^ flip) & mask;
            if bits != 0 {
                let found = index as u64 * 64 + u64::from(bits.trailing_zeros());
                return (found < self.granule.count(self.size)).then_some(found);
            }
            mask = u64::MAX;
        }
        None
    }

    /// The same changes in a larger granule.
    ///
    /// # Errors
    /// `Invalid` if `granule` is smaller than the map's.
    pub fn coarsen(&self, granule: Granule) -> Result<Self> {
        let Some(shift) = granule.0.checked_sub(self.granule.0) else {
            let context = "a change map cannot be made finer";
            return Err(Error::new(ErrorKind::Invalid, context));
        };
        let mut coarse = Self::new(self.size, granule)?;
        for (first, end) in self.granule_runs() {
            coarse.set_granules(first >> shift, ((end - 1) >> shift) + 1);
        }
        Ok(coarse)
    }

    /// The stored form: form (1 byte), granule's exponent (1), size (8, little-endian), then either
    /// runs (gap and length in granules, as LEB128) or words (little-endian), whichever is shorter.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = |form| {
            let exponent = u8::try_from(self.granule.0).expect("20 at most");
            let mut bytes = vec![form, exponent];
            bytes.extend(self.size.0.to_le_bytes());
            bytes
        };
        let mut runs = header(FORM_RUNS);
        let dense_length = runs.len() + self.words.len() * 8;
        let mut at = 0;
        for (first, end) in self.granule_runs() {
            push_varint(&mut runs, first - at);
            push_varint(&mut runs, end - first);
            at = end;
            if runs.len() > dense_length {
                let mut dense = header(FORM_DENSE);
                dense.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
                return dense;
            }
        }
        runs
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` where it is not what [`to_bytes`](Self::to_bytes) writes, `Limit` for a map of
    /// more granules than [`limits::MAX_GRANULES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = FieldReader::new("change map", bytes);
        let form = reader.u8()?;
        let exponent = reader.u8()?;
        let size = ByteCount(u64::from_le_bytes(reader.array()?));
        let granule = 1_u64.checked_shl(u32::from(exponent)).unwrap_or(0);
        let granule = Granule::new(granule)
            .map_err(|_| Error::corrupt("change map at 1", "a granule's exponent", exponent))?;
        if size.0 > limits::MAX_DISK_SIZE {
            return Err(Error::new(ErrorKind::Limit, format!("a change map of {size} bytes")));
        }
        let mut map = Self::new(size, granule)?;
        let body = bytes.get(HEADER..).unwrap_or_default();
        match form {
            FORM_RUNS => map.read_runs(body)?,
            FORM_DENSE => map.read_words(body)?,
            _ => return Err(Error::corrupt("change map at 0", "form 0 or 1", form)),
        }
        Ok(map)
    }

    fn read_runs(&mut self, mut body: &[u8]) -> Result<()> {
        let granules = self.granule.count(self.size);
        let mut at = 0_u64;
        while !body.is_empty() {
            let wrong = || Error::corrupt("change map", "runs in order within the disk", "others");
            let gap = take_varint(&mut body).ok_or_else(wrong)?;
            let length = take_varint(&mut body).ok_or_else(wrong)?;
            let first = at.checked_add(gap).ok_or_else(wrong)?;
            let end = first.checked_add(length).ok_or_else(wrong)?;
            if length == 0 || (gap == 0 && at != 0) || end > granules {
                return Err(wrong());
            }
            self.set_granules(first, end);
            at = end;
        }
        Ok(())
    }

    fn read_words(&mut self, body: &[u8]) -> Result<()> {
        let (words, rest) = body.as_chunks::<8>();
        if words.len() != self.words.len() || !rest.is_empty() {
            let expected = format!("{} words", self.words.len());
            return Err(Error::corrupt("change map", expected, format!("{} bytes", body.len())));
        }
        for (own, word) in self.words.iter_mut().zip(words) {
            *own = u64::from_le_bytes(*word);
        }
        let last = self.words.last().copied();
        self.clear_surplus();
        if last != self.words.last().copied() {
            return Err(Error::corrupt("change map", "no change beyond the disk", "one"));
        }
        Ok(())
    }

    fn clear_surplus(&mut self) {
        let used = self.granule.count(self.size) % 64;
        if let Some(last) = self.words.last_mut().filter(|_| used != 0) {
            *last &= u64::MAX >> (64 - used);
        }
    }
}

/// Bytes before a stored map's bits.
const HEADER: usize = 10;

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Takes a number of at most 63 bits, in its shortest form, from the front of `bytes`.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (*byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: ByteCount = ByteCount(200 * 4096 + 77);

    fn map(ranges: &[(u64, u64)]) -> ChangeMap {
        let granule = Granule::new(4096).expect("a granule");
        let mut map = ChangeMap::new(DISK, granule).expect("small");
        for (start, length) in ranges {
            map.set(ByteRange::new(*start, *length));
        }
        map
    }

    #[test]
    fn ranges_are_rounded_outward_and_end_with_the_disk() {
        let map = map(&[(4095, 2), (200 * 4096 + 1, 1 << 40), (8192, 0)]);
        let runs: Vec<ByteRange> = map.runs().collect();
        let last = ByteRange { start: 200 * 4096, end: DISK.0 };
        assert_eq!(runs, [ByteRange { start: 0, end: 8192 }, last]);
        assert_eq!((map.changed_granules(), map.changed_bytes()), (3, ByteCount(8192 + 77)));
        assert!(map.is_set(DISK.0 - 1) && !map.is_set(DISK.0 + 4096) && !map.is_set(8192));
    }

    #[test]
    fn maps_of_different_disks_do_not_unite() {
        let mut one = map(&[]);
        let other = ChangeMap::new(ByteCount(4096), one.granule()).expect("small");
        assert!(one.union(&other).is_err());
    }

    #[test]
    fn the_granule_of_a_huge_disk_keeps_its_map_within_the_limit() {
        for size in [1 << 30, 1 << 41, limits::MAX_DISK_SIZE >> 10] {
            let granule = Granule::for_disk(ByteCount(size));
            assert!(granule.count(ByteCount(size)) <= limits::MAX_GRANULES, "{size}");
        }
        assert!(ChangeMap::new(ByteCount(1 << 59), Granule(12)).is_err());
    }

    #[test]
    fn hostile_stored_maps_are_refused() {
        let sound = map(&[(0, 4096), (40_960, 9000)]).to_bytes();
        assert!(ChangeMap::from_bytes(&sound).is_ok());
        for length in 0..HEADER {
            assert!(ChangeMap::from_bytes(&sound[..length]).is_err());
        }
        for (place, value) in [(0, 7), (1, 63), (9, 0xff), (HEADER + 1, 0)] {
            let mut wrong = sound.clone();
            wrong[place] = value;
            assert!(ChangeMap::from_bytes(&wrong).is_err(), "byte {place} as {value}");
        }
        let beyond = [&sound[..HEADER], &[0, 0xff, 0x7f]].concat();
        assert!(ChangeMap::from_bytes(&beyond).is_err());
    }

    fn granules(ranges: &[(u64, u64)], size: u64) -> Vec<u64> {
        let changed = |granule: &u64| {
            ranges.iter().any(|(start, length)| {
                let end = (start + length).min(DISK.0);
                *start < (granule + 1) * size && granule * size < end
            })
        };
        (0..DISK.0.div_ceil(size)).filter(changed).collect()
    }

    fn listed(map: &ChangeMap) -> Vec<u64> {
        map.granule_runs().flat_map(|(first, end)| first..end).collect()
    }

    proptest! {
        #[test]
        fn a_map_says_what_a_list_of_granules_says(
            ranges in proptest::collection::vec((0..DISK.0, 1_u64..40_000), 0..40),
            others in proptest::collection::vec((0..DISK.0, 1_u64..40_000), 0..5),
        ) {
            let mut one = map(&ranges);
            prop_assert_eq!(listed(&one), granules(&ranges, 4096));
            prop_assert_eq!(&ChangeMap::from_bytes(&one.to_bytes()).expect("its own form"), &one);
            let words = one.words().iter().copied();
            let again = ChangeMap::from_words(DISK, one.granule(), words).expect("small");
            prop_assert_eq!(&again, &one);
            let coarse = one.coarsen(Granule::new(32_768).expect("a granule")).expect("coarser");
            prop_assert_eq!(listed(&coarse), granules(&ranges, 32_768));
            one.union(&map(&others)).expect("one disk");
            prop_assert_eq!(listed(&one), granules(&[ranges, others].concat(), 4096));
            for granule in 0..201 {
                let range = ByteRange::new(granule * 4096 + 5, 1);
                prop_assert_eq!(one.touches(range), one.is_set(range.start));
            }
        }
    }
}
