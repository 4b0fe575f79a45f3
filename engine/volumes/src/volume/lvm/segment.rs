//! Segments of logical volumes, as a group's text has them.
//!
//! Source: LVM2, `text_import` in `lib/striped`, `mirror`, `raid`, `thin`, `snapshot`, `cache_segtype`
//! and `writecache`; `lib/metadata/segtype.h` for the names.

use super::description::{SECTOR, SnapshotText};
use super::text::{Section, Value};
use crate::base::ByteRange;

/// What a logical volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// In one piece or several behind one another.
    Linear,
    /// In turns on several.
    Striped,
    /// The old sort of copies, of which a log says which are in sync.
    Mirror,
    /// An array.
    Raid(RaidLevel),
    /// What thin volumes take their blocks from.
    ThinPool,
    /// A volume whose blocks are in a pool.
    Thin,
    /// What another volume was at some time: its changed blocks are in a store.
    Snapshot,
    /// A volume some of whose blocks are on a faster disk.
    Cache,
    /// Where such blocks are.
    CachePool,
    /// A volume whose newest blocks are on a faster disk.
    WriteCache,
    /// A deduplicated and compressed volume.
    Vdo,
    /// What such volumes are in.
    VdoPool,
    /// A volume with checksums of its blocks.
    Integrity,
    /// Nothing that can be read.
    Error,
    /// Zeros.
    Zero,
    /// A type of segment that is not known.
    Other(String),
}

impl Kind {
    /// Its name among LVM's types of segments.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Linear => "linear",
            Self::Striped => "striped",
            Self::Mirror => "mirror",
            Self::Raid(RaidLevel::Zero) => "raid0",
            Self::Raid(RaidLevel::One) => "raid1",
            Self::Raid(RaidLevel::Four) => "raid4",
            Self::Raid(RaidLevel::Five(_)) => "raid5",
            Self::Raid(RaidLevel::Six(_)) => "raid6",
            Self::Raid(RaidLevel::Ten) => "raid10",
            Self::ThinPool => "thin-pool",
            Self::Thin => "thin",
            Self::Snapshot => "snapshot",
            Self::Cache => "cache",
            Self::CachePool => "cache-pool",
            Self::WriteCache => "writecache",
            Self::Vdo => "vdo",
            Self::VdoPool => "vdo-pool",
            Self::Integrity => "integrity",
            Self::Error => "error",
            Self::Zero => "zero",
            Self::Other(name) => name,
        }
    }
}

/// The layout of an array. `Five` and `Six` have the number of md's algorithm of where parity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaidLevel {
    /// Stripes, without any copy.
    Zero,
    /// Copies.
    One,
    /// Stripes and one disk of parity.
    Four,
    /// Stripes and parity in turns.
    Five(u32),
    /// Stripes and two parities in turns.
    Six(u32),
    /// Stripes of copies, as many as that side by side.
    Ten,
}

/// A place that a segment names: some bytes of a physical or logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area {
    pub name: String,
    pub start: u64,
}

/// A member of an array: its metadata and its data, by the names of logical volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub metadata: Option<String>,
    pub image: String,
}

/// What a segment says, in bytes.
#[derive(Debug, Clone)]
pub(super) enum SegmentText {
    Striped {
        length: u64,
        stripe: u64,
        areas: Vec<Area>,
    },
    Mirror {
        length: u64,
        region: u64,
        log: Option<String>,
        moved: u64,
        areas: Vec<Area>,
    },
    Raid {
        length: u64,
        level: RaidLevel,
        stripe: u64,
        members: Vec<Member>,
        is_reshaped: bool,
    },
    ThinPool {
        metadata: String,
        data: String,
        chunk: u64,
        transaction: u64,
        is_waiting: bool,
    },
    Thin {
        length: u64,
        pool: String,
        device: u64,
        external: Option<String>,
    },
    Snapshot {
        store: String,
        snapshot: SnapshotText,
    },
    Cache {
        length: u64,
        pool: String,
        origin: String,
        own: Option<CacheVolume>,
    },
    CachePool {
        metadata: String,
    },
    WriteCache {
        length: u64,
        store: String,
        origin: String,
    },
    Zero {
        length: u64,
    },
    /// What is only named.
    Named {
        kind: Kind,
    },
}

/// Where the parts of a cache are within the one volume that holds both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CacheVolume {
    pub metadata: ByteRange,
}

impl SegmentText {
    /// The bytes of its volume that a segment is.
    pub(super) fn range(text: &Section, extent: u64) -> Option<ByteRange> {
        let start = text.number("start_extent")?.checked_mul(extent)?;
        let length = text.number("extent_count")?.checked_mul(extent).filter(|size| *size > 0)?;
        Some(ByteRange { start, end: start.checked_add(length)? })
    }

    /// The segment of `length` bytes that `text` describes.
    pub(super) fn new(text: &Section, length: u64, extent: u64) -> Option<Self> {
        let name = |key: &str| text.text(key).map(str::to_owned);
        let sectors = |key: &str| text.number(key).and_then(|count| count.checked_mul(SECTOR));
        let mut flags = text.text("type")?.split('+');
        let kind = flags.next()?;
        // What has a flag that is not known may be laid out in another way.
        if !flags.all(|flag| KNOWN_FLAGS.contains(&flag)) {
            return Some(Self::Named { kind: Kind::Other(text.text("type")?.to_owned()) });
        }
        if let Some(level) = raid_level(kind) {
            return raid(text, length, level);
        }
        Some(match kind {
            "striped" | "linear" => Self::Striped {
                length,
                stripe: sectors("stripe_size").unwrap_or(0),
                areas: areas(text.list("stripes")?, extent)?,
            },
            "mirror" => Self::Mirror {
                length,
                region: sectors("region_size").unwrap_or(0),
                log: name("mirror_log"),
                moved: text.number("extents_moved").unwrap_or(0).checked_mul(extent)?,
                areas: areas(text.list("mirrors")?, extent)?,
            },
            "thin-pool" => Self::ThinPool {
                metadata: name("metadata")?,
                data: name("pool")?,
                chunk: sectors("chunk_size").filter(|size| *size > 0)?,
                transaction: text.number("transaction_id")?,
                is_waiting: text.sections().any(|(own, _)| own.starts_with("message")),
            },
            "thin" => Self::Thin {
                length,
                pool: name("thin_pool")?,
                device: text.number("device_id")?,
                external: name("external_origin"),
            },
            "snapshot" => {
                let merging = name("merging_store");
                let is_merging = merging.is_some();
                let chunk = sectors("chunk_size").filter(|size| *size > 0)?;
                let origin = name("origin")?;
                let snapshot = SnapshotText { origin, length, chunk, is_merging };
                Self::Snapshot { store: merging.or_else(|| name("cow_store"))?, snapshot }
            }
            "cache" => Self::Cache {
                length,
                pool: name("cache_pool")?,
                origin: name("origin")?,
                own: match text.number("metadata_start") {
                    Some(start) => {
                        let length = sectors("metadata_len")?;
                        Some(CacheVolume { metadata: part(start.checked_mul(SECTOR)?, length)? })
                    }
                    None => None,
                },
            },
            "cache-pool" => Self::CachePool { metadata: name("metadata")? },
            "writecache" => {
                Self::WriteCache { length, store: name("writecache")?, origin: name("origin")? }
            }
            "zero" => Self::Zero { length },
            other => Self::Named { kind: named(other) },
        })
    }

    /// What a volume that begins with this segment is.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Striped { areas, .. } if areas.len() > 1 => Kind::Striped,
            Self::Striped { .. } => Kind::Linear,
            Self::Mirror { .. } => Kind::Mirror,
            Self::Raid { level, .. } => Kind::Raid(*level),
            Self::ThinPool { .. } => Kind::ThinPool,
            Self::Thin { .. } => Kind::Thin,
            Self::Snapshot { .. } => Kind::Snapshot,
            Self::Cache { .. } => Kind::Cache,
            Self::CachePool { .. } => Kind::CachePool,
            Self::WriteCache { .. } => Kind::WriteCache,
            Self::Zero { .. } => Kind::Zero,
            Self::Named { kind } => kind.clone(),
        }
    }
}

/// Flags behind a type that say nothing of where bytes are.
const KNOWN_FLAGS: [&str; 3] = ["METADATA_FORMAT", "CACHE_USES_CACHEVOL", "CROP_METADATA"];

fn named(kind: &str) -> Kind {
    match kind {
        "vdo" => Kind::Vdo,
        "vdo-pool" => Kind::VdoPool,
        "integrity" => Kind::Integrity,
        "error" => Kind::Error,
        other => Kind::Other(other.to_owned()),
    }
}

/// The numbers are md's (`drivers/md/raid5.h`).
fn raid_level(kind: &str) -> Option<RaidLevel> {
    Some(match kind {
        "raid0" | "raid0_meta" => RaidLevel::Zero,
        "raid1" => RaidLevel::One,
        "raid4" => RaidLevel::Four,
        "raid5_la" => RaidLevel::Five(0),
        "raid5_ra" => RaidLevel::Five(1),
        "raid5" | "raid5_ls" => RaidLevel::Five(2),
        "raid5_rs" => RaidLevel::Five(3),
        "raid5_n" => RaidLevel::Five(5),
        "raid6" | "raid6_zr" => RaidLevel::Six(8),
        "raid6_nr" => RaidLevel::Six(9),
        "raid6_nc" => RaidLevel::Six(10),
        "raid6_la_6" => RaidLevel::Six(16),
        "raid6_ra_6" => RaidLevel::Six(17),
        "raid6_ls_6" => RaidLevel::Six(18),
        "raid6_rs_6" => RaidLevel::Six(19),
        "raid6_n_6" => RaidLevel::Six(5),
        "raid10" | "raid10_near" => RaidLevel::Ten,
        _ => return None,
    })
}

fn raid(text: &Section, length: u64, level: RaidLevel) -> Option<SegmentText> {
    let sectors = text.number("stripe_size").unwrap_or(0);
    let names = text.list("raids").or_else(|| text.list("raid0_lvs"))?;
    // Images stand alone where there is no metadata, as RAID 0 may have it.
    let has_metadata = text.list("raids").is_some();
    let name = |value: &Value| match value {
        Value::Text(name) => Some(name.clone()),
        _ => None,
    };
    let members = match has_metadata {
        true => names.chunks(2).map(|pair| {
            let [metadata, image] = pair else { return None };
            let metadata = name(metadata)?;
            Some(Member { metadata: (metadata != "-").then_some(metadata), image: name(image)? })
        }),
        false => return alone(names, length, sectors.checked_mul(SECTOR)?),
    };
    Some(SegmentText::Raid {
        length,
        level,
        stripe: sectors.checked_mul(SECTOR)?,
        members: members.collect::<Option<_>>()?,
        is_reshaped: ["data_offset", "reshape_count"].iter().any(|key| text.number(key).is_some()),
    })
}

/// Images without metadata.
fn alone(names: &[Value], length: u64, stripe: u64) -> Option<SegmentText> {
    let member = |value: &Value| match value {
        Value::Text(name) => Some(Member { metadata: None, image: name.clone() }),
        _ => None,
    };
    let members = names.iter().map(member).collect::<Option<_>>()?;
    let level = RaidLevel::Zero;
    Some(SegmentText::Raid { length, level, stripe, members, is_reshaped: false })
}

fn part(start: u64, length: u64) -> Option<ByteRange> {
    Some(ByteRange { start, end: start.checked_add(length)? })
}

/// Pairs of a name and an extent.
fn areas(list: &[Value], extent: u64) -> Option<Vec<Area>> {
    let area = |pair: &[Value]| {
        let [Value::Text(name), Value::Number(at)] = pair else { return None };
        let start = u64::try_from(*at).ok()?.checked_mul(extent)?;
        Some(Area { name: name.clone(), start })
    };
    let areas: Vec<Area> = list.chunks(2).map(area).collect::<Option<_>>()?;
    (!areas.is_empty()).then_some(areas)
}
