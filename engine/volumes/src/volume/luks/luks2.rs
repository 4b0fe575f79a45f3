//! LUKS2's two headers: which copy is the newest that is sound (LUKS2, 3.1).

use super::hash::Hash;
use super::header::{Header, HeaderCopy};
use super::identity::Identity;
use super::json;
use crate::base::fields::{be64, slice};
use crate::base::limits::MAX_LUKS_HEADER;
use crate::base::{ByteOffset, Error, ReadAt, Result};

/// Bytes before the JSON.
pub(super) const BINARY: usize = 4096;

/// Where the second header may begin, which is also how long each of the two is.
pub(super) const PLACES: [u64; 9] =
    [0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x10_0000, 0x20_0000, MAX_LUKS_HEADER];

/// A sound copy and how new it is.
struct Copy {
    header: Header,
    sequence: u64,
    size: u64,
}

/// The newest sound header of version 2 on `device`; `None` where none is.
pub(super) fn read(device: &dyn ReadAt) -> Result<Option<Header>> {
    let first = read_copy(device, 0, HeaderCopy::First);
    let second = match &first {
        Ok(Some(copy)) => read_copy(device, copy.size, HeaderCopy::Second),
        _ => find_second(device),
    };
    Ok(match (first, second) {
        (Ok(Some(first)), Ok(Some(second))) if second.sequence > first.sequence => {
            Some(second.told("the first LUKS2 header is older; the second was read".to_owned()))
        }
        (Ok(Some(first)), Ok(Some(_))) => Some(first.header),
        (Ok(Some(first)), Ok(None)) => {
            Some(first.told("the second LUKS2 header is missing; the first was read".to_owned()))
        }
        (Ok(Some(first)), Err(error)) => {
            let damage =
                format!("the second LUKS2 header is damaged ({error}); the first was read");
            Some(first.told(damage))
        }
        (first, Ok(Some(second))) => {
            let why = first.err().map(|error| format!(" ({error})")).unwrap_or_default();
            let damage = format!("the first LUKS2 header is damaged{why}; the second was read");
            Some(second.told(damage))
        }
        // Without a first header, what looks like the rest of a second one is nothing.
        (first, _) => return first.map(|_| None),
    })
}

impl Copy {
    fn told(mut self, damage: String) -> Header {
        self.header.damage = Some(damage);
        self.header
    }
}

/// The second copy, at any of its places; of several, the newest.
fn find_second(device: &dyn ReadAt) -> Result<Option<Copy>> {
    let copies = PLACES.iter().filter_map(|place| {
        // Damage at one place leaves the others.
        read_copy(device, *place, HeaderCopy::Second).ok().flatten()
    });
    Ok(copies.max_by_key(|copy| copy.sequence))
}

/// The copy at `place`; `None` if its magic is not there.
fn read_copy(device: &dyn ReadAt, place: u64, which: HeaderCopy) -> Result<Option<Copy>> {
    let mut block = vec![0; BINARY];
    if device.size().0.checked_sub(place).is_none_or(|left| left < 4096) {
        return Ok(None);
    }
    device.read_exact_at(ByteOffset(place), &mut block)?;
    let Some(identity) = Identity::parse(&block, which) else { return Ok(None) };
    let name = match which {
        HeaderCopy::First => "first LUKS2 header",
        HeaderCopy::Second => "second LUKS2 header",
    };
    if identity.version != 2 {
        let context = format!("LUKS version {} is not known", identity.version);
        return Err(Error::newer(context));
    }
    let field = |at| be64(&block, at).unwrap_or_default();
    let size = field(8); // hdr_size
    let sequence = field(16); // seqid
    let stored_place = field(256); // hdr_offset
    let is_alone = which == HeaderCopy::First || size == place;
    if !PLACES.contains(&size) || !is_alone {
        return Err(Error::corrupt(name, "one of nine sizes", size));
    }
    if stored_place != place {
        return Err(Error::corrupt(name, format!("that it is at byte {place}"), stored_place));
    }
    if place.checked_add(size).is_none_or(|end| end > device.size().0) {
        return Err(Error::corrupt(name, format!("{size} bytes"), "the end of the device"));
    }
    let length = usize::try_from(size).map_err(|_| Error::corrupt(name, "a size", size))?;
    block.resize(length, 0);
    device.read_exact_at(ByteOffset(place), &mut block)?;
    check_sum(name, &mut block)?;
    let json = block.get(BINARY..).unwrap_or_default();
    let text = json.split(|byte| *byte == 0).next().unwrap_or_default();
    let header = json::parse(text, size, (identity, which)).map_err(|error| error.within(name))?;
    Ok(Some(Copy { header, sequence, size }))
}

/// Fails with `Corrupt` unless the checksum is right, which is over all of the copy with zeros in
/// its own place.
fn check_sum(name: &str, block: &mut [u8]) -> Result<()> {
    let algorithm = slice(block, 72, 32).unwrap_or_default(); // csum_alg
    let algorithm = algorithm.split(|byte| *byte == 0).next().unwrap_or_default();
    let hash = Hash::named(&String::from_utf8_lossy(algorithm))
        .map_err(|_| Error::corrupt(name, "a known checksum", "another"))?;
    let Some(field) = block.get_mut(448..512) else { return Ok(()) };
    let stored = field.to_vec(); // csum
    field.fill(0);
    if stored.starts_with(&hash.digest(&[block])) {
        return Ok(());
    }
    Err(Error::corrupt(name, "its checksum", "another"))
}
