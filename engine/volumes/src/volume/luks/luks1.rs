//! LUKS1's header: fixed big-endian fields and eight keyslots (LUKS1, 4.1 and 4.2).

use super::header::{Header, HeaderCopy, KeyArea, KeyDigest, Keyslot, KeyslotKind};
use super::header::{Priority, Version};
use super::identity::Identity;
use super::kdf::Kdf;
use super::segment::{Encryption, Segment, SegmentKind};
use crate::base::fields::{be32, slice};
use crate::base::limits::{MAX_LUKS_KEY, MAX_LUKS_MATERIAL};
use crate::base::{ByteOffset, Error, ReadAt, Result};

/// Bytes of the header proper.
const SIZE: usize = 592;
const SECTOR: u64 = 512;
const KEYSLOTS: u32 = 8;
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;

/// The header of version 1 at the start of `device`; `None` where none of this version is.
pub(super) fn read(device: &dyn ReadAt) -> Result<Option<Header>> {
    let mut block = [0; SIZE];
    if device.size().0 < u64::try_from(SIZE).unwrap_or(u64::MAX) {
        return Ok(None);
    }
    if device.read_exact_at(ByteOffset(0), &mut block).is_err() {
        // Only LUKS2 has a second header, which is looked for next, with the same error if none is.
        return Ok(None);
    }
    let Some(identity) = Identity::parse(&block, HeaderCopy::First) else { return Ok(None) };
    if identity.version != 1 {
        return Ok(None);
    }
    parse(&block, identity).map(Some)
}

fn parse(block: &[u8], identity: Identity) -> Result<Header> {
    let short = || Error::corrupt("LUKS1 header", format!("{SIZE} bytes"), block.len());
    let text = |at, length| text(block, at, length);
    let number = |at| be32(block, at).ok_or_else(short);
    let bytes = |at, length| slice(block, at, length).map(<[u8]>::to_vec).ok_or_else(short);
    let cipher_name = text(8, 32)?; // cipher-name
    let cipher_mode = text(40, 32)?; // cipher-mode
    let hash = text(72, 32)?; // hash-spec
    let payload_sector = number(104)?; // payload-offset
    let key_size = number(108)?; // key-bytes
    let digest = KeyDigest {
        keyslots: (0..KEYSLOTS).collect(),
        segments: vec![0],
        hash: hash.clone(),
        iterations: u64::from(number(164)?), // mk-digest-iter
        salt: bytes(132, 32)?,               // mk-digest-salt
        digest: bytes(112, 20)?,             // mk-digest
    };
    let fields =
        Fields { block, encryption: format!("{cipher_name}-{cipher_mode}"), hash, key_size };
    let mut keyslots = Vec::new();
    for number in 0..KEYSLOTS {
        keyslots.extend(fields.keyslot(number)?);
    }
    let encryption =
        Encryption { name: fields.encryption, sector: 512, iv_offset: 0, integrity: None };
    let segment = Segment {
        offset: u64::from(payload_sector).saturating_mul(SECTOR),
        length: None,
        kind: SegmentKind::Crypt(encryption),
    };
    let ends = keyslots.iter().map(|slot| match &slot.kind {
        KeyslotKind::Luks(area) => area.offset.saturating_add(area.length),
        KeyslotKind::Other(_) => 0,
    });
    let heads = 2 * SECTOR;
    let header = Header {
        version: Version::Luks1,
        copy: HeaderCopy::First,
        identity,
        end: ends.max().unwrap_or_default().max(heads),
        keyslots,
        digests: vec![digest],
        segments: vec![(0, segment)],
        requirements: Vec::new(),
        damage: None,
    };
    header.check_areas(heads)?;
    Ok(header)
}

struct Fields<'a> {
    block: &'a [u8],
    encryption: String,
    hash: String,
    key_size: u32,
}

impl Fields<'_> {
    /// The keyslot `number`, if it is enabled.
    fn keyslot(&self, number: u32) -> Result<Option<Keyslot>> {
        let place = format!("LUKS1 keyslot {number}");
        let short = || Error::corrupt(&place, "48 bytes", "fewer");
        let at = usize::try_from(number).ok().and_then(|number| number.checked_mul(48));
        let start = at.and_then(|at| at.checked_add(208)).ok_or_else(short)?;
        let slot = slice(self.block, start, 48).ok_or_else(short)?;
        let field = |at| be32(slot, at).ok_or_else(short);
        match field(0)? {
            ENABLED => {}
            DISABLED => return Ok(None),
            other => {
                let found = format!("{other:#010x}");
                return Err(Error::corrupt(place, "enabled or disabled", found));
            }
        }
        let (key_size, stripes) = (u64::from(self.key_size), u64::from(field(44)?)); // stripes
        let material = key_size.saturating_mul(stripes);
        if key_size == 0 || key_size > MAX_LUKS_KEY || !(1..=MAX_LUKS_MATERIAL).contains(&material)
        {
            let found = format!("{stripes} stripes of {key_size} bytes");
            return Err(Error::corrupt(place, "a key within limits", found));
        }
        let size = |value: u64| usize::try_from(value).map_err(|_| short());
        let area = KeyArea {
            key_size: size(key_size)?,
            stripes: size(stripes)?,
            split_hash: self.hash.clone(),
            offset: u64::from(field(40)?).saturating_mul(SECTOR), // key-material-offset
            length: material.next_multiple_of(SECTOR),
            encryption: self.encryption.clone(),
            area_key_size: size(key_size)?,
            kdf: Kdf::Pbkdf2 {
                hash: self.hash.clone(),
                iterations: u64::from(field(4)?), // iterations
                salt: slice(slot, 8, 32).ok_or_else(short)?.to_vec(), // salt
            },
        };
        let kind = KeyslotKind::Luks(Box::new(area));
        Ok(Some(Keyslot { number, priority: Priority::Normal, kind }))
    }
}

/// A name, which ends with the first NUL.
fn text(block: &[u8], at: usize, length: usize) -> Result<String> {
    let bytes = slice(block, at, length).unwrap_or_default();
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    match str::from_utf8(name) {
        Ok(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(name.to_owned()),
        _ => Err(Error::corrupt(format!("LUKS1 header at {at}"), "a name", "other bytes")),
    }
}
