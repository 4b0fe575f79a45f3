//! Volumes within volumes: RAID arrays in partitions, logical volumes in either, and partitions of
//! a virtual machine's disk in any of them, to a limited depth.

use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::segment::{Mapped, Segment, each_piece};
use super::verdict::{self, Verdict};
use super::{lvm, md, probe};
use crate::base::ReadAt;
use crate::base::limits::{MAX_LVM_SEGMENTS, MAX_PARTITIONS, MAX_VOLUME_DEPTH};

/// The volumes that lie within `volumes` of `disk`, which may be several disks joined: those of the
/// first disk first, which so go before copies of them.
#[must_use]
pub fn stacked(disk: &dyn ReadAt, sector_size: u32, volumes: &[Volume]) -> Vec<Volume> {
    let mut all = volumes.to_vec();
    add(disk, sector_size, &mut all, &mut Notes::default());
    all.split_off(volumes.len())
}

/// Adds what lies within `volumes` to them, and says what it holds.
pub(super) fn add(
    disk: &dyn ReadAt,
    sector_size: u32,
    volumes: &mut Vec<Volume>,
    notes: &mut Notes,
) {
    let whole = Extent::whole(disk);
    let mut looked_at = 0;
    for _ in 0..MAX_VOLUME_DEPTH {
        let before = volumes.len();
        let arrays = md::volumes(&whole, volumes, notes);
        take(disk, sector_size, (volumes, arrays), notes);
        let logical = lvm::volumes(disk, volumes, notes);
        take(disk, sector_size, (volumes, logical), notes);
        let fresh = volumes.get(looked_at..).unwrap_or_default().to_vec();
        looked_at = volumes.len();
        for volume in fresh.iter().filter(|volume| volume.holds_table()) {
            let nested = partitions(disk, sector_size, volume, notes);
            take(disk, sector_size, (volumes, nested), notes);
        }
        if volumes.len() == before {
            return;
        }
    }
    notes.add(format!("volumes within volumes deeper than {MAX_VOLUME_DEPTH} are not looked for"));
}

/// Adds those of `found` that are not there yet, with what they hold.
fn take(
    disk: &dyn ReadAt,
    sector_size: u32,
    (volumes, found): (&mut Vec<Volume>, Vec<Volume>),
    notes: &mut Notes,
) {
    for mut volume in found {
        let is_there = volumes.iter().any(|other| {
            other.name == volume.name && other.start == volume.start && other.is_stacked()
        });
        if is_there || volumes.len() >= MAX_PARTITIONS {
            continue;
        }
        let doubtful = volumes.iter().find(|below| {
            below.read_whole.is_some()
                && below.holds_volumes()
                && volume.within.contains(&below.name)
        });
        if let Some(below) = doubtful {
            let why =
                format!("it lies in {}, of which it is not certain what it holds", below.name);
            volume.read_whole.get_or_insert(why);
        }
        if volume.unsupported.is_none() {
            let verdict = look(disk, sector_size, &volume, notes);
            volume.found(verdict);
        }
        volumes.push(volume);
    }
}

fn look(disk: &dyn ReadAt, sector_size: u32, volume: &Volume, notes: &mut Notes) -> Verdict {
    let of = |extent, notes: &mut Notes| verdict::of(extent, (&volume.name, sector_size), notes);
    if volume.segments.is_empty() {
        return of(Extent::whole(disk).part(volume.start, volume.length), notes);
    }
    let (segments, length) = (volume.segments.clone(), volume.length);
    of(Extent::whole(&Mapped { disk, segments, length }), notes)
}

/// The partitions of the table that `volume` holds, by its name and theirs.
fn partitions(
    disk: &dyn ReadAt,
    sector_size: u32,
    volume: &Volume,
    notes: &mut Notes,
) -> Vec<Volume> {
    let mut own = Notes::default();
    let listed = |extent: Extent<'_>, own: &mut Notes| {
        probe::listed(&extent, sector_size, own).map(|layout| layout.volumes).unwrap_or_default()
    };
    let mut found = match volume.segments.is_empty() {
        true => listed(Extent::whole(disk).part(volume.start, volume.length), &mut own),
        false => {
            let (segments, length) = (volume.segments.clone(), volume.length);
            listed(Extent::whole(&Mapped { disk, segments, length }), &mut own)
        }
    };
    for sentence in own.into_sentences() {
        notes.add(format!("{}: {sentence}", volume.name));
    }
    for partition in &mut found {
        partition.name = format!("{}/{}", volume.name, partition.name);
        partition.within = vec![volume.name.clone()];
        if let Err(why) = place(partition, volume) {
            partition.unsupported = Some(why);
        }
    }
    found
}

/// Says where on the disk a partition within `volume` lies.
fn place(partition: &mut Volume, volume: &Volume) -> Result<(), String> {
    let range = partition.range();
    if range.end > volume.length {
        return Err(format!("it ends beyond {}", volume.name));
    }
    if volume.segments.is_empty() {
        partition.start = partition.start.saturating_add(volume.start);
        return Ok(());
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut start = 0_u64;
    let mut add = |place: u64, length: u64| {
        match segments.last_mut() {
            Some(last)
                if last.places.first().map(|first| first.saturating_add(last.length))
                    == Some(place) =>
            {
                last.length = last.length.saturating_add(length);
                last.stripe = last.length;
            }
            _ => segments.push(Segment { start, length, stripe: length, places: vec![place] }),
        }
        start = start.saturating_add(length);
    };
    let mut count = 0_usize;
    let most = MAX_LVM_SEGMENTS;
    let pieces = each_piece(&volume.segments, range, &mut |place, length| {
        count = count.saturating_add(1);
        if count > most {
            let context = format!("it lies on more than {most} pieces of the disk");
            return Err(crate::base::Error::new(crate::base::ErrorKind::Limit, context));
        }
        add(place, length);
        Ok(())
    });
    pieces.map_err(|error| error.to_string())?;
    partition.start = segments.first().and_then(|first| first.places.first()).copied().unwrap_or(0);
    partition.segments = segments;
    Ok(())
}
