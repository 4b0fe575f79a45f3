//! LVM2: the logical volumes of the volume groups whose physical volumes are on one disk.
//!
//! Linear and striped ones, of one segment or several, are mapped; what else there is (thin, RAID,
//! snapshots, ...) is listed with the reason why it cannot be read.

mod metadata;
mod text;

use self::text::{Section, Value};
use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::segment::Segment;
use crate::base::limits::{MAX_LVM_SEGMENTS, MAX_PARTITIONS};
use crate::kind::Kind;

/// Bytes of the sectors that LVM's numbers count.
const SECTOR: u64 = 512;

/// A physical volume on this disk: its identity, as its label spells it, and where it begins.
struct Physical {
    name: String,
    id: String,
    start: u64,
}

/// The logical volumes of all groups on `disk`, whose physical volumes are among `volumes`.
pub(super) fn volumes(disk: &Extent<'_>, volumes: &[Volume], notes: &mut Notes) -> Vec<Volume> {
    let mut physical = Vec::new();
    let mut groups: Vec<(String, Section)> = Vec::new();
    for volume in volumes {
        let is_one = volume.holds(Kind::PhysicalVolume) && volume.is_contiguous();
        let content = volume.content.as_ref().filter(|_| is_one);
        let Some(id) = content.and_then(|content| content.uuid.clone()) else { continue };
        let name = volume.name.clone();
        physical.push(Physical { name, id, start: volume.start });
        let texts = metadata::texts(&disk.part(volume.start, volume.length));
        if texts.is_empty() {
            notes.add(format!("{}: its LVM metadata is missing or damaged", volume.name));
        }
        for text in texts {
            match Section::parse(&text).as_ref().and_then(group) {
                Some((name, group)) => keep_newest(&mut groups, name, group),
                None => notes.add(format!("{}: its LVM metadata makes no sense", volume.name)),
            }
        }
    }
    let mut found = Vec::new();
    for (name, group) in &groups {
        let Some(logical) = group.section("logical_volumes") else { continue };
        for (volume, section) in logical.sections() {
            let is_visible = list_has(section.list("status"), "VISIBLE");
            if is_visible && found.len() < MAX_PARTITIONS {
                let mut made =
                    logical_volume(&format!("{name}/{volume}"), group, section, &physical);
                made.read_whole = snapshot_of(logical, volume)
                    .map(|own| format!("its snapshot {own} needs blocks that it may call free"));
                found.push(made);
            }
        }
    }
    found
}

/// A snapshot of the logical volume `origin`, if there is one.
fn snapshot_of<'a>(logical: &'a Section, origin: &str) -> Option<&'a str> {
    let is_one = |segment: &Section| {
        segment.text("origin") == Some(origin) || segment.text("external_origin") == Some(origin)
    };
    let mut all = logical.sections();
    all.find(|(_, section)| section.sections().any(|(_, segment)| is_one(segment)))
        .map(|(name, _)| name)
}

/// The group of a text, and its name.
fn group(text: &Section) -> Option<(String, Section)> {
    let is_group = |section: &Section| section.number("extent_size").is_some();
    let found = text.sections().find(|(_, section)| is_group(section));
    found.map(|(name, section)| (name.to_owned(), section.clone()))
}

/// Every physical volume of a group holds a copy of its text; the newest counts.
fn keep_newest(groups: &mut Vec<(String, Section)>, name: String, group: Section) {
    let same = |(_, other): &&mut (String, Section)| other.text("id") == group.text("id");
    match groups.iter_mut().find(same) {
        Some((_, other)) if other.number("seqno") >= group.number("seqno") => {}
        Some(older) => *older = (name, group),
        None => groups.push((name, group)),
    }
}

fn list_has(list: Option<&[Value]>, word: &str) -> bool {
    let is_word = |value: &Value| matches!(value, Value::Text(text) if text == word);
    list.unwrap_or_default().iter().any(is_word)
}

fn logical_volume(name: &str, group: &Section, section: &Section, physical: &[Physical]) -> Volume {
    let extent = group.number("extent_size").and_then(|sectors| sectors.checked_mul(SECTOR));
    let mut volume = Volume::new(name, 0, 0);
    volume.type_name = Some("logical volume".to_owned());
    volume.within = physical_of(group, section, physical);
    volume.partition_uuid = section.text("id").map(str::to_owned);
    let mut segments = Vec::new();
    for (own, segment) in section.sections().filter(|(own, _)| own.starts_with("segment")) {
        let length = segment.number("extent_count").zip(extent);
        let length = length.and_then(|(count, size)| count.checked_mul(size)).unwrap_or(0);
        volume.length = volume.length.saturating_add(length);
        if segments.len() >= MAX_LVM_SEGMENTS {
            volume.unsupported = Some(format!("more than {MAX_LVM_SEGMENTS} segments"));
            break;
        }
        match mapped(group, segment, extent.unwrap_or(0), physical) {
            Ok(segment) => segments.push(segment),
            Err(why) => {
                volume.unsupported.get_or_insert(format!("{own}: {why}"));
            }
        }
    }
    segments.sort_by_key(|segment| segment.start);
    let count = u64::try_from(segments.len()).ok();
    if volume.unsupported.is_none()
        && section.number("segment_count").is_some_and(|all| Some(all) != count)
    {
        volume.unsupported = Some("some of its segments are missing".to_owned());
    }
    if let (None, Some(at)) = (&volume.unsupported, break_in(&segments)) {
        volume.unsupported = Some(format!("its segments overlap or leave a gap at byte {at}"));
    }
    if segments.is_empty() && volume.unsupported.is_none() {
        volume.unsupported = Some("it has no segments".to_owned());
    }
    let first = segments.first().and_then(|segment| segment.places.first());
    volume.start = first.copied().unwrap_or(0);
    if volume.unsupported.is_none() {
        volume.segments = segments;
    }
    volume
}

/// The names of the physical volumes that are here and that the logical one lies on; of all of the
/// group, where it does not say.
fn physical_of(group: &Section, section: &Section, physical: &[Physical]) -> Vec<String> {
    let all = || group.section("physical_volumes").into_iter().flat_map(Section::sections);
    let stripes = section.sections().filter_map(|(_, segment)| segment.list("stripes")).flatten();
    let named: Vec<&str> = stripes
        .filter_map(|value| match value {
            Value::Text(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let is_named = |own: &str| named.contains(&own);
    let ids = |is_meant: &dyn Fn(&str) -> bool| -> Vec<String> {
        let meant = all().filter(|(own, _)| is_meant(own));
        let ids = meant.filter_map(|(_, section)| section.text("id"));
        let here = ids.filter_map(|id| physical.iter().find(|physical| physical.id == id));
        here.map(|physical| physical.name.clone()).collect()
    };
    let own = ids(&is_named);
    if own.is_empty() { ids(&|_| true) } else { own }
}

/// Where sorted segments do not go on where the one before ends.
fn break_in(segments: &[Segment]) -> Option<u64> {
    let mut next = 0_u64;
    for segment in segments {
        if segment.start != next {
            return Some(segment.start);
        }
        next = next.saturating_add(segment.length);
    }
    None
}

/// Where a segment's bytes are, or why nobody knows.
fn mapped(
    group: &Section,
    segment: &Section,
    extent: u64,
    physical: &[Physical],
) -> Result<Segment, String> {
    let kind = segment.text("type").unwrap_or("nothing");
    if !matches!(kind, "striped" | "linear") {
        return Err(format!("segments of type {kind} are not read"));
    }
    let wrong = || "its numbers make no sense".to_owned();
    let bytes = |name: &str| segment.number(name).and_then(|count| count.checked_mul(extent));
    let start = bytes("start_extent").ok_or_else(wrong)?;
    let length = bytes("extent_count").filter(|length| *length > 0).ok_or_else(wrong)?;
    let stripes = segment.list("stripes").ok_or_else(wrong)?;
    let mut places = Vec::new();
    let stripes_count = u64::try_from(stripes.len().div_ceil(2)).unwrap_or(u64::MAX);
    let each = length.checked_div(stripes_count.max(1)).unwrap_or(length);
    for pair in stripes.chunks(2) {
        let [Value::Text(name), Value::Number(at)] = pair else { return Err(wrong()) };
        let volume = group.section("physical_volumes").and_then(|all| all.section(name));
        let volume = volume.ok_or_else(wrong)?;
        let id = volume.text("id").ok_or_else(wrong)?;
        let found = physical.iter().find(|physical| physical.id == id);
        let found = found.ok_or_else(|| {
            let device = volume.text("device").unwrap_or("a disk");
            format!("its physical volume {id} ({device}) is on another disk")
        })?;
        let first = volume.number("pe_start").and_then(|sectors| sectors.checked_mul(SECTOR));
        let at = u64::try_from(*at).ok().and_then(|at| at.checked_mul(extent));
        let most = volume.number("pe_count").and_then(|count| count.checked_mul(extent));
        let end = at.and_then(|at| at.checked_add(each));
        if most.is_some_and(|most| end.is_none_or(|end| end > most)) {
            return Err(format!("it reaches beyond the end of its physical volume {id}"));
        }
        let offset = first.zip(at).and_then(|(first, at)| first.checked_add(at));
        let place = offset.and_then(|offset| offset.checked_add(found.start));
        places.push(place.ok_or_else(wrong)?);
    }
    let stripe = match places.len() {
        0 => return Err(wrong()),
        1 => length,
        _ => {
            let size = segment.number("stripe_size").and_then(|size| size.checked_mul(SECTOR));
            size.filter(|size| *size > 0).ok_or_else(wrong)?
        }
    };
    start.checked_add(length).ok_or_else(wrong)?;
    Ok(Segment { start, length, stripe, places })
}
