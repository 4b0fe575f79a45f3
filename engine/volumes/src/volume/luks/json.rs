//! LUKS2's JSON area: objects by number, each of a type (LUKS2, 3.2 to 3.7). Tokens, which say
//! where secrets are kept, are passed over.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::header::{
    Header, HeaderCopy, KeyArea, KeyDigest, Keyslot, KeyslotKind, Priority, Version,
};
use super::identity::Identity;
use super::kdf::{Costs, Kdf};
use super::luks2::BINARY;
use super::segment::{Encryption, Segment, SegmentKind};
use crate::base::limits::{MAX_LUKS_KEY, MAX_LUKS_MATERIAL, MAX_LUKS_OBJECTS, MAX_LUKS_SALT};
use crate::base::{Error, ErrorKind, Result};

type Objects<'a> = BTreeMap<u32, &'a RawValue>;

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    keyslots: Objects<'a>,
    #[serde(borrow)]
    segments: Objects<'a>,
    #[serde(borrow)]
    digests: Objects<'a>,
    config: JsonConfig,
}

#[derive(Deserialize)]
struct JsonConfig {
    #[serde(deserialize_with = "decimal")]
    json_size: u64,
    #[serde(deserialize_with = "decimal")]
    keyslots_size: u64,
    #[serde(default)]
    requirements: JsonRequirements,
}

#[derive(Deserialize, Default)]
struct JsonRequirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

#[derive(Deserialize)]
struct Typed {
    r#type: String,
}

#[derive(Deserialize)]
struct JsonKeyslot {
    key_size: u64,
    #[serde(default)]
    priority: Option<i64>,
    af: JsonSplit,
    area: JsonArea,
    kdf: JsonKdf,
}

#[derive(Deserialize)]
struct JsonSplit {
    r#type: String,
    stripes: u64,
    hash: String,
}

#[derive(Deserialize)]
struct JsonArea {
    r#type: String,
    #[serde(deserialize_with = "decimal")]
    offset: u64,
    #[serde(deserialize_with = "decimal")]
    size: u64,
    encryption: String,
    key_size: u64,
}

#[derive(Deserialize)]
struct JsonKdf {
    r#type: String,
    #[serde(deserialize_with = "base64")]
    salt: Vec<u8>,
    hash: Option<String>,
    iterations: Option<u64>,
    time: Option<u64>,
    memory: Option<u64>,
    cpus: Option<u64>,
}

#[derive(Deserialize)]
struct JsonSegment {
    #[serde(deserialize_with = "decimal")]
    offset: u64,
    size: String,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct JsonEncryption {
    #[serde(deserialize_with = "decimal")]
    iv_tweak: u64,
    encryption: String,
    sector_size: u32,
    integrity: Option<Typed>,
}

#[derive(Deserialize)]
struct JsonDigest {
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u64,
    #[serde(deserialize_with = "base64")]
    salt: Vec<u8>,
    #[serde(deserialize_with = "base64")]
    digest: Vec<u8>,
}

/// The header that the JSON `text` of the copy of `size` bytes describes.
pub(super) fn parse(
    text: &[u8],
    size: u64,
    (identity, copy): (Identity, HeaderCopy),
) -> Result<Header> {
    let metadata: Metadata<'_> = serde_json::from_slice(text).map_err(|error| wrong(&error))?;
    let Metadata { keyslots, segments, digests, config } = metadata;
    for (name, count) in
        [("keyslots", keyslots.len()), ("segments", segments.len()), ("digests", digests.len())]
    {
        if count > MAX_LUKS_OBJECTS {
            let context = format!("{count} {name}, more than {MAX_LUKS_OBJECTS}");
            return Err(Error::new(ErrorKind::Limit, context));
        }
    }
    if u64::try_from(BINARY).ok().and_then(|binary| config.json_size.checked_add(binary))
        != Some(size)
    {
        return Err(Error::corrupt("json_size", format!("{size} less {BINARY}"), config.json_size));
    }
    let heads = size.saturating_mul(2);
    let end = heads.checked_add(config.keyslots_size).filter(|end| *end < 1 << 60);
    let end = end.ok_or_else(|| Error::corrupt("keyslots_size", "a size", config.keyslots_size))?;
    let header = Header {
        version: Version::Luks2,
        copy,
        identity,
        keyslots: all(&keyslots, "keyslot", |number, raw| keyslot(number, raw, end))?,
        digests: all(&digests, "digest", |_, raw| digest(raw))?.into_iter().flatten().collect(),
        segments: all(&segments, "segment", segment)?.into_iter().flatten().collect(),
        requirements: config.requirements.mandatory,
        end,
        damage: None,
    };
    header.check_areas(heads)?;
    check_order(&header.segments)?;
    Ok(header)
}

fn wrong(error: &serde_json::Error) -> Error {
    Error::corrupt("JSON", "the objects of LUKS2", error)
}

/// Each object, turned into what it means.
fn all<T>(
    objects: &Objects<'_>,
    name: &str,
    make: impl Fn(u32, &RawValue) -> Result<T>,
) -> Result<Vec<T>> {
    let each = |(number, raw): (&u32, &&RawValue)| {
        make(*number, raw).map_err(|error| error.within(format!("{name} {number}")))
    };
    objects.iter().map(each).collect()
}

fn object<T: DeserializeOwned>(raw: &RawValue) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|error| wrong(&error))
}

fn keyslot(number: u32, raw: &RawValue, end: u64) -> Result<Keyslot> {
    let Typed { r#type: kind } = object(raw)?;
    if kind != "luks2" {
        let kind = KeyslotKind::Other(kind);
        return Ok(Keyslot { number, priority: Priority::Normal, kind });
    }
    let json: JsonKeyslot = object(raw)?;
    let priority = match json.priority {
        None | Some(1) => Priority::Normal,
        Some(0) => Priority::Ignore,
        Some(2) => Priority::Prefer,
        Some(other) => return Err(Error::corrupt("priority", "0, 1 or 2", other)),
    };
    if json.af.r#type != "luks1" || json.area.r#type != "raw" {
        let kind = KeyslotKind::Other(format!("{} in {}", json.af.r#type, json.area.r#type));
        return Ok(Keyslot { number, priority, kind });
    }
    let material = json.key_size.saturating_mul(json.af.stripes);
    let sizes = [json.key_size, json.area.key_size];
    let fits = sizes.iter().all(|size| (1..=MAX_LUKS_KEY).contains(size));
    if !fits || !(1..=MAX_LUKS_MATERIAL).contains(&material) {
        let found = format!("{} stripes of {} bytes, by {}", json.af.stripes, sizes[0], sizes[1]);
        return Err(Error::corrupt("key", "sizes within limits", found));
    }
    let area_end = json.area.offset.checked_add(json.area.size);
    let is_short = json.area.size < material.next_multiple_of(512);
    if is_short || area_end.is_none_or(|area| area > end) {
        let found = format!("{} bytes from {}", json.area.size, json.area.offset);
        let expected = format!("{material} bytes or more that end before byte {end}");
        return Err(Error::corrupt("area", expected, found));
    }
    let size = |value| usize::try_from(value).map_err(|_| Error::corrupt("key", "a size", value));
    let area = KeyArea {
        key_size: size(json.key_size)?,
        stripes: size(json.af.stripes)?,
        split_hash: json.af.hash,
        offset: json.area.offset,
        length: json.area.size,
        encryption: json.area.encryption,
        area_key_size: size(json.area.key_size)?,
        kdf: kdf(json.kdf)?,
    };
    Ok(Keyslot { number, priority, kind: KeyslotKind::Luks(Box::new(area)) })
}

fn kdf(json: JsonKdf) -> Result<Kdf> {
    let JsonKdf { r#type: name, salt, hash, iterations, time, memory, cpus } = json;
    let missing = || Error::corrupt(format!("key derivation {name}"), "its costs", "none");
    Ok(match name.as_str() {
        "pbkdf2" => Kdf::Pbkdf2 {
            hash: hash.ok_or_else(missing)?,
            iterations: iterations.ok_or_else(missing)?,
            salt,
        },
        "argon2i" | "argon2id" => Kdf::Argon2(Costs {
            is_hybrid: name == "argon2id",
            passes: time.ok_or_else(missing)?,
            memory: memory.ok_or_else(missing)?,
            lanes: cpus.ok_or_else(missing)?,
            salt,
        }),
        _ => Kdf::Other(name),
    })
}

/// A segment; `None` for one that is only kept for a reencryption.
fn segment(number: u32, raw: &RawValue) -> Result<Option<(u32, Segment)>> {
    let Typed { r#type: kind } = object(raw)?;
    let json: JsonSegment = object(raw)?;
    if json.flags.iter().any(|flag| flag.starts_with("backup-")) {
        return Ok(None);
    }
    let length = match json.size.as_str() {
        "dynamic" => None,
        size => Some(number_of(size).ok_or_else(|| Error::corrupt("size", "a number", size))?),
    };
    let kind = match kind.as_str() {
        "linear" => SegmentKind::Linear,
        "crypt" => {
            let json: JsonEncryption = object(raw)?;
            SegmentKind::Crypt(Encryption {
                name: json.encryption,
                sector: json.sector_size,
                iv_offset: json.iv_tweak,
                integrity: json.integrity.map(|integrity| integrity.r#type),
            })
        }
        _ => SegmentKind::Other(kind),
    };
    let segment = Segment { offset: json.offset, length, kind };
    segment.check(number)?;
    Ok(Some((number, segment)))
}

/// Fails with `Corrupt` where something lies behind a segment that has no end.
fn check_order(segments: &[(u32, Segment)]) -> Result<()> {
    let open = segments.iter().position(|(_, segment)| segment.length.is_none());
    match open.and_then(|at| at.checked_add(1)) {
        Some(next) if next != segments.len() => {
            Err(Error::corrupt("segments", "only the last without an end", "another"))
        }
        _ => Ok(()),
    }
}

/// A digest; `None` for one of an unknown type, whose keys then cannot be checked.
fn digest(raw: &RawValue) -> Result<Option<KeyDigest>> {
    let Typed { r#type: kind } = object(raw)?;
    if kind != "pbkdf2" {
        return Ok(None);
    }
    let json: JsonDigest = object(raw)?;
    let numbers = |texts: &[String]| -> Result<Vec<u32>> {
        let each = |text: &String| {
            let number = number_of(text).and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| Error::corrupt("reference", "a number", text))
        };
        texts.iter().map(each).collect()
    };
    Ok(Some(KeyDigest {
        keyslots: numbers(&json.keyslots)?,
        segments: numbers(&json.segments)?,
        hash: json.hash,
        iterations: json.iterations,
        salt: json.salt,
        digest: json.digest,
    }))
}

/// The number that `text` says in decimal digits and nothing else.
fn number_of(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Numbers of 64 bits stand as text, because JSON's own need not have as many.
fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    number_of(&text).ok_or_else(|| D::Error::custom("not a number in decimal digits"))
}

fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() / 4 > MAX_LUKS_SALT / 3 {
        return Err(D::Error::custom("a salt or digest beyond limits"));
    }
    STANDARD.decode(text).map_err(D::Error::custom)
}
