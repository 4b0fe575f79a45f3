//! Volume groups: from physical volumes to the bytes of logical ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::cache;
use super::description::{Description, Logical, Physical, SnapshotText};
use super::label::Label;
use super::layers::{Joined, Part, Shared, Stretch, Striped, Zeros};
use super::mirror::{Copies, Copy, InSync, Log};
use super::segment::{Area, CacheVolume, Kind, SegmentText};
use super::snapshot::Snapshot;
use super::text::Section;
use super::thin::{Expected, Pool, Thin};
use super::{metadata, raid};
use crate::base::limits::MAX_LVM_STACK;
use crate::base::{Error, ErrorKind, ReadAt, Result};
use crate::volume::layer::Layer;

/// A volume group.
pub struct Group {
    description: Description,
    /// Those of the physical volumes that the group was read from, by their identity, with their
    /// numbers.
    physical: HashMap<String, (usize, Arc<dyn ReadAt>)>,
    /// Two texts of one age that say different things: none of them can be believed.
    is_torn: bool,
    opened: Mutex<HashMap<String, Opened>>,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
}

/// What came of opening a volume: errors are kept too, so that nothing is tried for ever.
type Opened = Result<Arc<dyn Layer>, (ErrorKind, String)>;

/// What [`Group::read`] found.
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
    /// Metadata that cannot be used, by the number of its physical volume. The group may be known
    /// from another.
    pub damage: Vec<(usize, Error)>,
}

/// A logical volume that is seen.
#[derive(Debug)]
pub struct LogicalVolume {
    /// Its name, without the group's.
    pub name: String,
    /// Its identity, as LVM spells it.
    pub uuid: Option<String>,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: Kind,
    /// Why it cannot be read; `None` if it can.
    pub problem: Option<Error>,
}

/// A physical volume that a group needs and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its identity, as LVM spells it.
    pub id: String,
    /// Where it was when the group was last changed.
    pub device: Option<String>,
    /// It is there, but the group went on without it.
    pub is_stale: bool,
}

impl Group {
    /// The groups of `physical` volumes; what among them is none is passed over. Of each group
    /// the newest description counts.
    #[must_use]
    pub fn read(physical: &[Arc<dyn ReadAt>]) -> Groups {
        let mut groups: Vec<Self> = Vec::new();
        let mut damage = Vec::new();
        let mut found = HashMap::new();
        for (number, volume) in physical.iter().enumerate() {
            let label = match Label::read(volume) {
                Ok(Some(label)) => label,
                Ok(None) => continue,
                Err(error) => {
                    damage.push((number, error));
                    continue;
                }
            };
            for text in metadata::texts(volume, &label) {
                match text.and_then(|text| text.as_deref().map(describe).transpose()) {
                    Ok(Some(description)) => keep_newest(&mut groups, description),
                    Ok(None) => {}
                    Err(error) => damage.push((number, error)),
                }
            }
            // The first one goes before copies of it.
            found.entry(label.id).or_insert((number, Arc::clone(volume)));
        }
        for group in &mut groups {
            group.physical.clone_from(&found);
        }
        Groups { groups, damage }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.description.name
    }

    /// Its identity, as LVM spells it.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        self.description.id.as_deref()
    }

    /// The numbers, among those that were given, of its physical volumes.
    pub fn present(&self) -> impl Iterator<Item = usize> {
        let all = self.description.physical.values();
        all.filter_map(|volume| self.physical.get(&volume.id).map(|(number, _)| *number))
    }

    /// The physical volumes that are not there, or are out of date.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let is_there = |volume: &Physical| self.physical.contains_key(&volume.id);
        let all = self.description.physical.values();
        let mut missing: Vec<Missing> = all
            .filter(|volume| volume.is_missing || !is_there(volume))
            .map(|volume| Missing {
                id: volume.id.clone(),
                device: volume.device.clone(),
                is_stale: is_there(volume),
            })
            .collect();
        missing.sort_by(|one, other| one.id.cmp(&other.id));
        missing
    }

    /// Its logical volumes, but for those that only others use.
    #[must_use]
    pub fn volumes(&self) -> Vec<LogicalVolume> {
        let all = self.description.logical.iter();
        all.filter(|logical| logical.is_visible)
            .map(|logical| {
                let snapshot = self.description.snapshots.get(&logical.name);
                LogicalVolume {
                    name: logical.name.clone(),
                    uuid: logical.id.clone(),
                    length: snapshot.map_or(logical.length, |snapshot| snapshot.length),
                    kind: kind(logical, snapshot),
                    problem: self.open(&logical.name).err(),
                }
            })
            .collect()
    }

    /// The bytes of the volume called `name`; places are those of the physical volumes, by the
    /// numbers that they had when the group was read.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Unsupported`, saying why, if it cannot be read; `Corrupt` if
    /// what describes it is damaged.
    pub fn open(&self, name: &str) -> Result<Arc<dyn Layer>> {
        let within = |error: Error| error.within(format!("{}/{name}", self.description.name));
        self.view(name, 0).map_err(within)
    }

    /// A volume as its users see it.
    fn view(&self, name: &str, depth: usize) -> Result<Arc<dyn Layer>> {
        if self.is_torn {
            let found = "two that differ and are of one age";
            return Err(Error::corrupt("LVM metadata", "one description of the group", found));
        }
        let snapshots = &self.description.snapshots;
        if let Some(snapshot) = snapshots.get(name) {
            if snapshot.is_merging {
                let origin = &snapshot.origin;
                return Err(unsupported(format!("it is being merged into {origin}")));
            }
            let origin = self.layer(&snapshot.origin, depth)?;
            let store = self.layer(name, depth)?;
            let layer = Snapshot::open(origin, store, snapshot.length, snapshot.chunk)?;
            return Ok(Arc::new(layer));
        }
        let mut own = snapshots.iter().filter(|(_, snapshot)| snapshot.origin == name);
        if let Some((store, _)) = own.clone().find(|(_, snapshot)| snapshot.is_merging) {
            return Err(unsupported(format!("the snapshot {store} is being merged into it")));
        }
        let below = self.layer(name, depth)?;
        match own.next() {
            None => Ok(below),
            Some((store, _)) => {
                let by = format!("the snapshot {store} shares its blocks");
                Ok(Arc::new(Shared { below, by }))
            }
        }
    }

    /// A volume's own bytes, whatever snapshots it has.
    fn layer(&self, name: &str, depth: usize) -> Result<Arc<dyn Layer>> {
        if depth >= MAX_LVM_STACK {
            let why = format!("more than {MAX_LVM_STACK} logical volumes on one another");
            return Err(Error::new(ErrorKind::Limit, why));
        }
        let known = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let opened = known.unwrap_or_else(|| {
            let opened = self.new_layer(name, depth);
            let opened = opened.map_err(|error| (error.kind(), error.to_string()));
            let mut all = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(name.to_owned(), opened.clone());
            opened
        });
        opened.map_err(|(kind, context)| Error::new(kind, context))
    }

    fn new_layer(&self, name: &str, depth: usize) -> Result<Arc<dyn Layer>> {
        let logical = self.logical(name)?;
        let segments = segments(logical)?;
        let mut parts = Vec::new();
        let mut length = 0_u64;
        for (number, segment) in (1_u32..).zip(segments) {
            let layer = self.segment(logical, segment, depth);
            let layer = layer.map_err(|error| error.within(format!("segment{number}")))?;
            let start = length;
            length = length.saturating_add(layer.size().0);
            parts.push((start, layer));
        }
        match parts.pop() {
            Some((0, only)) => Ok(only),
            last => {
                parts.extend(last);
                Ok(Arc::new(Joined { parts, length }))
            }
        }
    }

    fn logical(&self, name: &str) -> Result<&Logical> {
        let place = &self.description.name;
        self.description.logical(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no logical volume {name} in group {place}"))
        })
    }

    fn segment(
        &self,
        logical: &Logical,
        segment: &SegmentText,
        depth: usize,
    ) -> Result<Arc<dyn Layer>> {
        let below = depth.saturating_add(1);
        match segment {
            SegmentText::Striped { length, stripe, areas } => {
                self.striped(*length, *stripe, areas, below)
            }
            SegmentText::Mirror { length, areas, moved, .. } if logical.is_moving => {
                // What was moved is in the second place, all else still in the first.
                let area = areas.get(usize::from(moved == length)).ok_or_else(nonsense)?;
                self.area(area, *length, below)
            }
            SegmentText::Mirror { length, region, log, areas, .. } => {
                self.mirror(*length, *region, log.as_deref(), areas, below)
            }
            SegmentText::Raid { .. } => raid::open(segment, &|name| self.member(name, below)),
            SegmentText::Thin { length, pool, device, external } => {
                let external = external.as_ref().map(|name| self.layer(name, below)).transpose()?;
                let pool = self.pool(pool, below)?;
                Ok(Arc::new(Thin::open(pool, *device, *length, external)?))
            }
            SegmentText::Cache { length, pool, origin, own } => {
                cache::check_clean(self.cache_metadata(pool, own.as_ref(), below)?)?;
                self.cached(origin, *length, below)
            }
            SegmentText::WriteCache { length, store, origin } => {
                cache::check_empty(self.layer(store, below)?.as_ref())?;
                self.cached(origin, *length, below)
            }
            SegmentText::Zero { length } => Ok(Arc::new(Zeros { length: *length })),
            SegmentText::ThinPool { .. }
            | SegmentText::CachePool { .. }
            | SegmentText::Snapshot { .. }
            | SegmentText::Named { .. } => Err(unsupported(unread(&segment.kind()))),
        }
    }

    /// The bytes at `area`.
    fn area(&self, area: &Area, length: u64, depth: usize) -> Result<Arc<dyn Layer>> {
        let Area { name, start } = area;
        let end = start.checked_add(length).ok_or_else(nonsense)?;
        let Some(physical) = self.description.physical.get(name) else {
            let below = self.layer(name, depth)?;
            if end > below.size().0 {
                return Err(Error::corrupt("segment", format!("an end within {name}"), end));
            }
            return Ok(match *start {
                0 if end == below.size().0 => below,
                start => Arc::new(Part { below, start, length }),
            });
        };
        let Physical { id, device, .. } = physical;
        if physical.length.is_some_and(|most| end > most) {
            let expected = format!("an end within its physical volume {id}");
            return Err(Error::corrupt("segment", expected, format!("extents up to byte {end}")));
        }
        let device = device.as_deref().unwrap_or("a disk");
        let why = |what: &str| unsupported(format!("its physical volume {id} ({device}) {what}"));
        let (number, disk) = self.physical.get(id).ok_or_else(|| why("is on another disk"))?;
        if physical.is_missing {
            return Err(why("is out of date: the group went on without it"));
        }
        let start = physical.start.checked_add(*start).ok_or_else(nonsense)?;
        Ok(Arc::new(Stretch { number: *number, disk: Arc::clone(disk), start, length }))
    }

    fn striped(
        &self,
        length: u64,
        stripe: u64,
        areas: &[Area],
        depth: usize,
    ) -> Result<Arc<dyn Layer>> {
        if let [only] = areas {
            return self.area(only, length, depth);
        }
        let count = u64::try_from(areas.len()).unwrap_or(u64::MAX);
        let each = length.checked_div(count).unwrap_or(0);
        if stripe == 0
            || each.checked_rem(stripe) != Some(0)
            || each.checked_mul(count) != Some(length)
        {
            let expected = format!("whole stripes of {stripe} bytes");
            return Err(Error::corrupt("stripes", expected, format!("{each} bytes on each")));
        }
        let below = areas.iter().map(|area| self.area(area, each, depth));
        let below = below.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(Striped { below, stripe, length }))
    }

    /// The first copy is the one that others are made of, so it needs no log.
    fn mirror(
        &self,
        length: u64,
        region: u64,
        log: Option<&str>,
        areas: &[Area],
        depth: usize,
    ) -> Result<Arc<dyn Layer>> {
        let log = log.map(|log| {
            let layer = self.layer(log, depth)?;
            Log::read(layer.as_ref(), region, length).map(Arc::new)
        });
        let (mut copies, mut failed) = (Vec::new(), None);
        for (number, area) in areas.iter().enumerate() {
            let in_sync = match (number, &log) {
                (0, _) => InSync::All,
                (_, Some(Ok(log))) => InSync::Regions(Arc::clone(log)),
                _ => continue,
            };
            match self.area(area, length, depth) {
                Ok(layer) => copies.push(Copy { layer, in_sync }),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match (copies.is_empty(), failed, log) {
            (false, _, _) => Ok(Arc::new(Copies { copies, length })),
            (true, Some(error), Some(Err(log))) => {
                Err(error.within(format!("no copy is known to be in sync: {log}")))
            }
            (true, Some(error), _) => Err(error.within("no copy is known to be in sync")),
            (true, None, _) => Err(nonsense()),
        }
    }

    /// A member of an array, unless it is not to be used.
    fn member(&self, name: &str, depth: usize) -> Result<Arc<dyn Layer>> {
        let logical = self.logical(name)?;
        if logical.is_visible || logical.is_rebuilt {
            return Err(unsupported(format!("{name} is not part of the array, or not yet")));
        }
        self.layer(name, depth)
    }

    fn pool(&self, name: &str, depth: usize) -> Result<Arc<Pool>> {
        let known = self.pools.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(pool) = known {
            return Ok(pool);
        }
        let [SegmentText::ThinPool { metadata, data, chunk, transaction, is_waiting }] =
            segments(self.logical(name)?)?
        else {
            return Err(Error::corrupt(
                "thin volume",
                "a thin pool",
                format!("{name}, which is none"),
            ));
        };
        let expected =
            Expected { chunk: *chunk, transaction: *transaction, is_waiting: *is_waiting };
        let (metadata, data) = (self.layer(metadata, depth)?, self.layer(data, depth)?);
        let pool = Arc::new(Pool::open(metadata, data, &expected)?);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.insert(name.to_owned(), Arc::clone(&pool));
        Ok(pool)
    }

    fn cache_metadata(
        &self,
        pool: &str,
        own: Option<&CacheVolume>,
        depth: usize,
    ) -> Result<Arc<dyn Layer>> {
        if let Some(CacheVolume { metadata }) = own {
            let area = Area { name: pool.to_owned(), start: metadata.start };
            return self.area(&area, metadata.len(), depth);
        }
        match segments(self.logical(pool)?)? {
            [SegmentText::CachePool { metadata }] => self.layer(metadata, depth),
            _ => Err(Error::corrupt("cache", "a cache pool", format!("{pool}, which is none"))),
        }
    }

    /// What is behind a cache that holds nothing of its own.
    fn cached(&self, origin: &str, length: u64, depth: usize) -> Result<Arc<dyn Layer>> {
        let area = Area { name: origin.to_owned(), start: 0 };
        let below = self.area(&area, length, depth)?;
        Ok(Arc::new(Shared { below, by: "a cache holds some of its blocks as well".to_owned() }))
    }
}

fn unsupported(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, why)
}

fn nonsense() -> Error {
    Error::corrupt("segment", "numbers that make sense", "none")
}

fn segments(logical: &Logical) -> Result<&[SegmentText]> {
    match &logical.segments {
        Ok(segments) => Ok(segments),
        Err(why) => Err(Error::new(ErrorKind::Corrupt, why.clone())),
    }
}

/// Why a volume of this kind has no bytes to read.
fn unread(kind: &Kind) -> String {
    match kind {
        Kind::ThinPool => "a thin pool has no bytes of its own: its thin volumes do".to_owned(),
        Kind::CachePool => "a cache pool has no bytes of its own".to_owned(),
        Kind::VdoPool => "a VDO pool has no bytes of its own".to_owned(),
        Kind::Vdo => "VDO volumes (deduplicated and compressed) are not read".to_owned(),
        Kind::Integrity => "volumes with dm-integrity are not read".to_owned(),
        Kind::Error => "segments of type error cannot be read".to_owned(),
        other => format!("segments of type {} are not read", other.name()),
    }
}

fn kind(logical: &Logical, snapshot: Option<&SnapshotText>) -> Kind {
    if snapshot.is_some() {
        return Kind::Snapshot;
    }
    let first = logical.segments.as_ref().ok().and_then(|segments| segments.first());
    first.map_or_else(|| Kind::Other("damaged".to_owned()), SegmentText::kind)
}

/// What a text describes.
pub(super) fn describe(text: &str) -> Result<Description> {
    let description = Section::parse(text).as_ref().and_then(Description::new);
    description.ok_or_else(|| {
        Error::corrupt("LVM metadata", "a volume group", "a text that makes no sense")
    })
}

/// Every physical volume of a group holds a copy of its text; the newest counts.
fn keep_newest(groups: &mut Vec<Group>, description: Description) {
    let new = |description| Group {
        description,
        physical: HashMap::new(),
        is_torn: false,
        opened: Mutex::default(),
        pools: Mutex::default(),
    };
    let same = groups.iter_mut().find(|group| group.description.is_of(&description));
    match same {
        None => groups.push(new(description)),
        Some(group) if group.description.seqno > description.seqno => {}
        Some(group) if group.description.seqno < description.seqno => *group = new(description),
        Some(group) => group.is_torn |= !group.description.equals(&description),
    }
}
