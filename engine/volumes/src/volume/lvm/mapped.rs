//! Logical volumes that are stretches of one disk: linear and striped ones.

use std::collections::HashMap;

use super::description::{Description, Logical, Physical};
use super::group::describe;
use super::label::Label;
use super::metadata;
use super::segment::{Area, SegmentText};
use crate::base::limits::MAX_PARTITIONS;
use crate::base::{ByteRange, ReadAt, Result, Window};
use crate::kind::Kind;
use crate::volume::layout::{Notes, Volume};
use crate::volume::segment::Segment;

/// The logical volumes of all groups on `disk`, whose physical volumes are among `volumes`.
pub(in crate::volume) fn volumes(
    disk: &dyn ReadAt,
    volumes: &[Volume],
    notes: &mut Notes,
) -> Vec<Volume> {
    let mut physical: Physicals = HashMap::new();
    let mut groups: Vec<Description> = Vec::new();
    for volume in volumes {
        if !volume.holds(Kind::PhysicalVolume) || !volume.is_contiguous() {
            continue;
        }
        let end = volume.range().end.min(disk.size().0);
        let range = ByteRange { start: volume.start.min(end), end };
        let Ok(Some((label, texts))) = read(disk, range) else { continue };
        physical.entry(label.id).or_insert_with(|| (volume.name.clone(), volume.start));
        for text in texts {
            match text.and_then(|text| text.as_deref().map(describe).transpose()) {
                Ok(Some(group)) => keep_newest(&mut groups, group),
                Ok(None) => {}
                Err(error) => notes.add(format!("{}: {error}", volume.name)),
            }
        }
    }
    let mut found = Vec::new();
    for group in &groups {
        for logical in group.logical.iter().filter(|logical| logical.is_visible) {
            if found.len() < MAX_PARTITIONS {
                found.push(logical_volume(group, logical, &physical));
            }
        }
    }
    found
}

/// The name of each physical volume and where it begins, by its identity.
type Physicals = HashMap<String, (String, u64)>;

type Texts = Vec<Result<Option<String>>>;

fn read(disk: &dyn ReadAt, range: ByteRange) -> Result<Option<(Label, Texts)>> {
    let volume = Window::new(disk, range)?;
    let label = Label::read(&volume)?;
    Ok(label.map(|label| {
        let texts = metadata::texts(&volume, &label);
        (label, texts)
    }))
}

fn keep_newest(groups: &mut Vec<Description>, group: Description) {
    match groups.iter_mut().find(|other| other.is_of(&group)) {
        Some(other) if other.seqno >= group.seqno => {}
        Some(older) => *older = group,
        None => groups.push(group),
    }
}

fn logical_volume(group: &Description, logical: &Logical, physical: &Physicals) -> Volume {
    let mut volume = Volume::new(format!("{}/{}", group.name, logical.name), 0, logical.length);
    volume.type_name = Some("logical volume".to_owned());
    volume.partition_uuid.clone_from(&logical.id);
    volume.within = physical_of(group, logical, physical);
    volume.read_whole = snapshot_of(group, &logical.name)
        .map(|own| format!("its snapshot {own} needs blocks that it may call free"));
    let mapped = || {
        if group.snapshots.contains_key(&logical.name) {
            return Err("segments of type snapshot are not read".to_owned());
        }
        let mut start = 0_u64;
        let mut segments = Vec::new();
        for (number, segment) in (1_u32..).zip(logical.segments.as_ref()?) {
            let segment = mapped(group, segment, start, physical);
            let segment = segment.map_err(|why| format!("segment{number}: {why}"))?;
            start = start.saturating_add(segment.length);
            segments.push(segment);
        }
        Ok::<_, String>(segments)
    };
    match mapped() {
        Ok(segments) => {
            let first = segments.first().and_then(|segment| segment.places.first());
            volume.start = first.copied().unwrap_or(0);
            volume.segments = segments;
        }
        Err(why) => volume.unsupported = Some(why),
    }
    volume
}

/// A snapshot of the logical volume `origin`, if there is one.
fn snapshot_of<'a>(group: &'a Description, origin: &str) -> Option<&'a str> {
    let mut classic = group.snapshots.iter().filter(|(_, snapshot)| snapshot.origin == origin);
    let is_thin = |logical: &&Logical| {
        logical.segments.iter().flatten().any(|segment| {
            matches!(segment, SegmentText::Thin { external: Some(name), .. } if name == origin)
        })
    };
    let thin = || group.logical.iter().find(is_thin).map(|logical| logical.name.as_str());
    classic.next().map(|(name, _)| name.as_str()).or_else(thin)
}

/// The names of the physical volumes that are here and that the logical one lies on; of all of the
/// group, where it lies on other logical ones.
fn physical_of(group: &Description, logical: &Logical, physical: &Physicals) -> Vec<String> {
    let areas = logical.segments.iter().flatten().filter_map(|segment| match segment {
        SegmentText::Striped { areas, .. } => Some(areas),
        _ => None,
    });
    let named: Vec<&str> = areas.flatten().map(|area| area.name.as_str()).collect();
    let of = |is_meant: &dyn Fn(&str) -> bool| -> Vec<String> {
        let meant = group.physical.iter().filter(|(own, _)| is_meant(own));
        let here = meant.filter_map(|(_, one)| physical.get(&one.id));
        let mut names: Vec<String> = here.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    };
    let own = of(&|name| named.contains(&name));
    if own.is_empty() { of(&|_| true) } else { own }
}

/// Where a segment's bytes are, or why nobody knows.
fn mapped(
    group: &Description,
    segment: &SegmentText,
    start: u64,
    physical: &Physicals,
) -> Result<Segment, String> {
    let SegmentText::Striped { length, stripe, areas } = segment else {
        return Err(format!("segments of type {} are not read", segment.kind().name()));
    };
    let count = u64::try_from(areas.len()).unwrap_or(u64::MAX).max(1);
    let each = length.checked_div(count).unwrap_or(*length);
    let places = areas.iter().map(|area| place(group, area, each, physical));
    let places = places.collect::<Result<Vec<u64>, String>>()?;
    let stripe = if count == 1 { *length } else { *stripe };
    if stripe == 0 || start.checked_add(*length).is_none() {
        return Err(WRONG.to_owned());
    }
    Ok(Segment { start, length: *length, stripe, places })
}

const WRONG: &str = "its numbers make no sense";

/// Where `length` bytes at `area` are on the disk.
fn place(
    group: &Description,
    area: &Area,
    length: u64,
    physical: &Physicals,
) -> Result<u64, String> {
    let Physical { id, device, start, length: most, .. } =
        group.physical.get(&area.name).ok_or(WRONG)?;
    let device = device.as_deref().unwrap_or("a disk");
    let (_, on) = physical
        .get(id)
        .ok_or_else(|| format!("its physical volume {id} ({device}) is on another disk"))?;
    let end = area.start.checked_add(length);
    if most.is_some_and(|most| end.is_none_or(|end| end > most)) {
        return Err(format!("it reaches beyond the end of its physical volume {id}"));
    }
    let place = on.checked_add(*start).and_then(|first| first.checked_add(area.start));
    place.ok_or_else(|| WRONG.to_owned())
}
