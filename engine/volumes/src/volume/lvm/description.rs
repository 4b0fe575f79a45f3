//! A volume group as its text describes it: physical volumes, logical volumes, segments.
//!
//! Source: LVM2, `lib/format_text/import_vsn1.c` and `text_import` of each type of segment.

use std::collections::{HashMap, HashSet};

use super::segment::SegmentText;
use super::text::{Section, Value};
use crate::base::limits::MAX_LVM_SEGMENTS;

/// Bytes of the sectors that LVM's numbers count.
pub(super) const SECTOR: u64 = 512;

/// A physical volume of a group.
#[derive(Debug)]
pub(super) struct Physical {
    pub id: String,
    /// Where it was when the text was written.
    pub device: Option<String>,
    /// First byte of its first extent.
    pub start: u64,
    /// Bytes of all its extents.
    pub length: Option<u64>,
    /// Whether the group went on without it: what it holds is out of date.
    pub is_missing: bool,
}

/// A logical volume of a group, also those that only others use.
#[derive(Debug)]
pub(super) struct Logical {
    pub name: String,
    pub id: Option<String>,
    pub is_visible: bool,
    /// It is where extents are on their way from one physical volume to another.
    pub is_moving: bool,
    /// It is a member of an array that is to be made anew.
    pub is_rebuilt: bool,
    /// Its segments in order, one at least, without a gap; or why they cannot be used.
    pub segments: Result<Vec<SegmentText>, String>,
    /// Bytes of all segments that are understood.
    pub length: u64,
}

/// A snapshot of a logical volume: what was changed since is in a store.
#[derive(Debug, Clone)]
pub(super) struct SnapshotText {
    pub origin: String,
    pub length: u64,
    pub chunk: u64,
    /// Whether it is being put back into its origin.
    pub is_merging: bool,
}

/// What a text says of a group.
#[derive(Debug)]
pub(super) struct Description {
    pub name: String,
    pub id: Option<String>,
    pub seqno: u64,
    pub physical: HashMap<String, Physical>,
    pub logical: Vec<Logical>,
    by_name: HashMap<String, usize>,
    /// Snapshots by the names of their stores.
    pub snapshots: HashMap<String, SnapshotText>,
    /// The text itself, to be compared.
    text: Section,
}

impl Description {
    /// The group of a whole text; `None` if it describes none.
    pub(super) fn new(text: &Section) -> Option<Self> {
        let is_group = |section: &Section| section.number("extent_size").is_some();
        let (name, group) = text.sections().find(|(_, section)| is_group(section))?;
        let extent = group.number("extent_size")?.checked_mul(SECTOR).filter(|size| *size > 0)?;
        let mut physical = HashMap::new();
        for (name, section) in sections(group, "physical_volumes") {
            physical.entry(name.to_owned()).or_insert(physical_volume(section, extent)?);
        }
        let mut description = Self {
            name: name.to_owned(),
            id: group.text("id").map(str::to_owned),
            seqno: group.number("seqno")?,
            physical,
            logical: Vec::new(),
            by_name: HashMap::new(),
            snapshots: HashMap::new(),
            text: group.clone(),
        };
        for (name, section) in sections(group, "logical_volumes") {
            let number = description.logical.len();
            if description.by_name.insert(name.to_owned(), number).is_some() {
                return None;
            }
            description.logical.push(logical_volume(name, section, extent));
        }
        description.find_snapshots();
        Some(description)
    }

    /// Whether both are descriptions of one group.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.id.is_some() && self.id == other.id
    }

    /// Whether both say the same.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.text == other.text
    }

    pub(super) fn logical(&self, name: &str) -> Option<&Logical> {
        self.logical.get(*self.by_name.get(name)?)
    }

    /// A snapshot is a volume of its own in the text, that is never seen; its store has the name
    /// by which it is called, and is seen where its origin is, or where that is made of nothing.
    fn find_snapshots(&mut self) {
        let mut holders = HashSet::new();
        for logical in &self.logical {
            let Ok([SegmentText::Snapshot { store, snapshot }]) = logical.segments.as_deref()
            else {
                continue;
            };
            holders.insert(logical.name.clone());
            self.snapshots.entry(store.clone()).or_insert(snapshot.clone());
        }
        let is_virtual = |logical: &Logical| {
            logical.segments.as_ref().is_ok_and(|segments| {
                segments.iter().all(|segment| matches!(segment, SegmentText::Zero { .. }))
            })
        };
        let mut seen = Vec::new();
        for (store, snapshot) in &self.snapshots {
            let origin = self.logical(&snapshot.origin);
            let is_seen = origin.is_none_or(|origin| origin.is_visible || is_virtual(origin));
            seen.extend(self.by_name.get(store).map(|number| (*number, is_seen)));
        }
        for (number, is_seen) in seen {
            if let Some(store) = self.logical.get_mut(number) {
                store.is_visible = is_seen;
            }
        }
        for holder in self.logical.iter_mut().filter(|one| holders.contains(&one.name)) {
            holder.is_visible = false;
        }
    }
}

fn sections<'a>(group: &'a Section, name: &str) -> impl Iterator<Item = (&'a str, &'a Section)> {
    group.section(name).into_iter().flat_map(Section::sections)
}

fn list_has(list: Option<&[Value]>, word: &str) -> bool {
    let is_word = |value: &Value| matches!(value, Value::Text(text) if text == word);
    list.unwrap_or_default().iter().any(is_word)
}

fn physical_volume(section: &Section, extent: u64) -> Option<Physical> {
    Some(Physical {
        id: section.text("id")?.to_owned(),
        device: section.text("device").map(str::to_owned),
        start: section.number("pe_start")?.checked_mul(SECTOR)?,
        length: section.number("pe_count").and_then(|count| count.checked_mul(extent)),
        // Texts of old have it in the status.
        is_missing: list_has(section.list("flags"), "MISSING")
            || list_has(section.list("status"), "MISSING"),
    })
}

fn logical_volume(name: &str, section: &Section, extent: u64) -> Logical {
    let status = section.list("status");
    let (segments, length) = segments(section, extent);
    Logical {
        name: name.to_owned(),
        id: section.text("id").map(str::to_owned),
        is_visible: list_has(status, "VISIBLE"),
        is_moving: list_has(status, "PVMOVE"),
        is_rebuilt: list_has(status, "REBUILD") || list_has(section.list("flags"), "REBUILD"),
        segments,
        length,
    }
}

/// The segments of a volume, and the bytes of those that are understood.
fn segments(section: &Section, extent: u64) -> (Result<Vec<SegmentText>, String>, u64) {
    let (mut segments, mut length, mut wrong) = (Vec::new(), 0_u64, None);
    for (own, text) in section.sections().filter(|(own, _)| own.starts_with("segment")) {
        if segments.len() >= MAX_LVM_SEGMENTS {
            wrong = Some(format!("more than {MAX_LVM_SEGMENTS} segments"));
            break;
        }
        let range = SegmentText::range(text, extent);
        length = length.saturating_add(range.map_or(0, |range| range.len()));
        match range.and_then(|range| SegmentText::new(text, range.len(), extent)).zip(range) {
            Some((segment, range)) => segments.push((range, segment)),
            None => {
                wrong.get_or_insert(format!("{own}: its numbers make no sense"));
            }
        }
    }
    if let Some(wrong) = wrong {
        return (Err(wrong), length);
    }
    segments.sort_by_key(|(range, _)| range.start);
    let mut next = 0;
    for (range, _) in &segments {
        if range.start != next {
            let at = range.start;
            return (Err(format!("its segments overlap or leave a gap at byte {at}")), length);
        }
        next = range.end;
    }
    let count = u64::try_from(segments.len()).ok();
    if segments.is_empty() {
        (Err("it has no segments".to_owned()), length)
    } else if section.number("segment_count").is_some_and(|all| Some(all) != count) {
        (Err("some of its segments are missing".to_owned()), length)
    } else {
        (Ok(segments.into_iter().map(|(_, segment)| segment).collect()), length)
    }
}
