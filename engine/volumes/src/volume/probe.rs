//! Finds a disk's partition table, its volumes and what they contain.

use std::sync::Arc;

use crate::base::{Error, ErrorKind, ReadAt, Result};

use super::apm::Map;
use super::extent::Extent;
use super::layout::{DiskLayout, Notes, PartitionTable, Volume};
use super::mbr::BootRecord;
use super::stack::{Keys, Stack, cut};
use super::tables::{Signs, candidates};
use super::verdict::{self, Asked, Verdict};
use super::{gpt, mbr};
use crate::content::Content;
use crate::kind::Kind;
use crate::text::guid;

/// Says what `disk` holds, what is encrypted left aside. `sector_size` is what its device reports,
/// 512 for a file.
///
/// Bad content is never an error: damage, and parts that cannot be read, are told in the
/// layout's notes.
///
/// # Errors
/// `Invalid` when `sector_size` is no power of two from 512 to 65,536.
pub fn probe(disk: &Arc<dyn ReadAt>, sector_size: u32) -> Result<DiskLayout> {
    Ok(Stack::open(disk, sector_size, &Keys::default())?.layout().clone())
}

/// The volumes that are the disk's own, and what each holds.
///
/// # Errors
/// See [`probe`].
pub(super) fn plain(disk: &Arc<dyn ReadAt>, sector_size: u32) -> Result<DiskLayout> {
    check_sector_size(sector_size)?;
    let mut notes = Notes::default();
    let mut layout = find_layout(disk, sector_size, &mut notes);
    check_places(disk.size().0, &layout.volumes, &mut notes);
    layout.notes = notes.into_sentences();
    Ok(layout)
}

pub(super) fn check_sector_size(sector_size: u32) -> Result<()> {
    if sector_size.is_power_of_two() && (512..=65536).contains(&sector_size) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("sector size {sector_size}: expected a power of two from 512 to 65,536"),
    ))
}

/// The table and its volumes, or what lies directly on the disk.
fn find_layout(disk: &Arc<dyn ReadAt>, sector_size: u32, notes: &mut Notes) -> DiskLayout {
    let signs = Signs::read(Extent::whole(disk.as_ref()), sector_size);
    let mut own = Notes::default();
    let verdict = verdict::of_disk(disk, &signs, &mut own);
    let is_beside_table =
        |kind: Kind| BIOS_RAID.contains(&kind) || matches!(kind, Kind::Iso9660 | Kind::Udf);
    let has_table = match verdict.content.as_ref().map(|content| content.kind) {
        None => true,
        // It is in the one volume that there is.
        Some(Kind::BsdDisklabel) => false,
        Some(kind) if kind.is_table() => true,
        Some(kind) => is_beside_table(kind) && signs.may_be_disk(),
    };
    match if has_table { listed_by(disk, &signs, notes) } else { None } {
        Some(layout) => beside(disk, layout, verdict, notes),
        None => {
            notes.append(own);
            direct(disk, sector_size, verdict)
        }
    }
}

/// Firmware's RAIDs: what lies on their members is most often a mirrored disk with its table.
const BIOS_RAID: [Kind; 4] = [Kind::IntelRaid, Kind::DdfRaid, Kind::LsiRaid, Kind::NvidiaRaid];

/// What lies directly on the disk, as the volume `disk`.
fn direct(disk: &Arc<dyn ReadAt>, sector_size: u32, verdict: Verdict) -> DiskLayout {
    let mut volume = Volume::new("disk", 0, disk.size().0);
    volume.found(verdict);
    let volumes = if volume.content.is_some() { vec![volume] } else { Vec::new() };
    DiskLayout { table: None, sector_size, disk_id: None, volumes, notes: Vec::new() }
}

/// A table beside which `verdict` found more. A CD's filesystem spans a disk that has a table as
/// well, as on installation media that boot from either: it is the volume `disk`. Anything else is
/// told, but not listed: it is most often a rest, and its allocation map must not rule the
/// partitions' blocks.
fn beside(
    disk: &Arc<dyn ReadAt>,
    mut layout: DiskLayout,
    verdict: Verdict,
    notes: &mut Notes,
) -> DiskLayout {
    for rest in &verdict.others {
        notes.add(format!("a superblock of {} is beside the partition table", rest.kind));
    }
    let raid = verdict.content.as_ref().filter(|content| BIOS_RAID.contains(&content.kind));
    let raid = raid.map(|content| format!("the whole disk is a {}", content.kind));
    if let Some(doubt) = verdict.doubt.or(raid) {
        notes.add(format!("disk: {doubt}"));
        for volume in &mut layout.volumes {
            volume.read_whole.get_or_insert(doubt.clone());
        }
    }
    let optical = |content: &Content| matches!(content.kind, Kind::Iso9660 | Kind::Udf);
    let all = verdict.content.into_iter().chain(verdict.others);
    if let Some(content) = all.into_iter().find(optical)
        && !layout.volumes.iter().any(|volume| volume.start == 0)
    {
        let mut volume = Volume::new("disk", 0, disk.size().0);
        volume.content = Some(content);
        layout.volumes.push(volume);
    }
    layout
}

/// The partitions that the table in `volume` lists, with what they hold; `None` if there is no
/// table.
pub(super) fn listed(
    volume: &Arc<dyn ReadAt>,
    sector_size: u32,
    notes: &mut Notes,
) -> Option<DiskLayout> {
    let signs = Signs::read(Extent::whole(volume.as_ref()), sector_size);
    listed_by(volume, &signs, notes)
}

/// As [`listed`], where what the first sectors of `disk` say is known.
fn listed_by(disk: &Arc<dyn ReadAt>, signs: &Signs<'_>, notes: &mut Notes) -> Option<DiskLayout> {
    if let Some(error) = &signs.unread {
        notes.add(format!("the first sector cannot be read: {error}"));
    }
    if signs.record.as_ref().is_some_and(BootRecord::is_protective) {
        if let Some(layout) = gpt_layout(disk, signs, notes) {
            if signs.record.as_ref().is_some_and(BootRecord::is_hybrid) {
                notes.add("the protective MBR lists partitions too (hybrid MBR); the GPT was used");
            }
            return Some(layout);
        }
        notes.add("the MBR says that a GPT follows, but no valid one was found");
    }
    let record = signs.table_record();
    if let Some(record) = record.filter(|record| record.is_used()) {
        if !record.is_protective() && signs.gpt_sector().is_some() {
            notes.add("a GPT is there too, but the MBR does not protect it; the MBR was used");
        }
        return Some(mbr_layout(disk, signs.sector_size, record, notes));
    }
    // A backup that is all there is of a GPT is older than a map that took the place of the rest.
    if signs.gpt_sector().is_none()
        && let Some(map) = Map::find(&signs.extent)
    {
        return Some(apm_layout(disk, signs, map, notes));
    }
    if let Some(layout) = gpt_layout(disk, signs, notes) {
        notes.add("the GPT's protective MBR is missing");
        return Some(layout);
    }
    // An MBR that lists nothing is a table all the same.
    record.map(|record| mbr_of(record, signs.sector_size, Vec::new()))
}

fn mbr_of(record: &BootRecord, sector_size: u32, volumes: Vec<Volume>) -> DiskLayout {
    let signature = record.signature;
    DiskLayout {
        table: Some(PartitionTable::Mbr),
        sector_size,
        disk_id: (signature != 0).then(|| format!("{signature:08x}")),
        volumes,
        notes: Vec::new(),
    }
}

/// The volumes of Apple's partition map.
fn apm_layout(
    disk: &Arc<dyn ReadAt>,
    signs: &Signs<'_>,
    map: Map,
    notes: &mut Notes,
) -> DiskLayout {
    let mut volumes = map.volumes(&signs.extent, notes);
    look(disk, signs.sector_size, &mut volumes, notes);
    DiskLayout {
        table: Some(PartitionTable::Apm),
        sector_size: u32::try_from(map.block).unwrap_or(signs.sector_size),
        disk_id: None,
        volumes,
        notes: Vec::new(),
    }
}

/// The GPT, in sectors of whatever size shows one; a first copy goes before a backup.
fn gpt_layout(disk: &Arc<dyn ReadAt>, signs: &Signs<'_>, notes: &mut Notes) -> Option<DiskLayout> {
    let mut found: Option<(gpt::Table, Notes)> = None;
    for (size, first) in signs.copies() {
        let mut own = Notes::default();
        match gpt::find_after(&signs.extent, *size, first, &mut own) {
            Some(table) if table.primary => {
                found = Some((table, own));
                break;
            }
            Some(table) if found.is_none() => found = Some((table, own)),
            Some(_) => {}
            None if found.is_none() => notes.append(own),
            None => {}
        }
    }
    let (table, own) = found?;
    notes.append(own);
    let mut volumes = gpt::volumes(&table, notes);
    look(disk, table.sector_size, &mut volumes, notes);
    Some(DiskLayout {
        table: Some(PartitionTable::Gpt),
        sector_size: table.sector_size,
        disk_id: Some(guid(&table.header.disk)),
        volumes,
        notes: Vec::new(),
    })
}

/// The MBR's volumes. Nothing in an MBR says how large its sectors are: when the first size
/// leads to nothing that can be recognized and another does, the other is right.
fn mbr_layout(
    disk: &Arc<dyn ReadAt>,
    sector_size: u32,
    record: &BootRecord,
    notes: &mut Notes,
) -> DiskLayout {
    // A link of this table's own chain may look like a table, wherever another size leads.
    let is_known = |volume: &Volume| volume.content.is_some() && !volume.holds_table();
    let recognized = |layout: &DiskLayout| layout.volumes.iter().any(is_known);
    let (mut layout, mut own) = mbr_layout_in(disk, sector_size, record);
    for size in candidates(sector_size).skip(1) {
        if recognized(&layout) {
            break;
        }
        let other = mbr_layout_in(disk, size, record);
        if recognized(&other.0) {
            (layout, own) = other;
        }
    }
    notes.append(own);
    layout
}

/// The MBR's volumes and their content, in sectors of `sector_size`.
fn mbr_layout_in(
    disk: &Arc<dyn ReadAt>,
    sector_size: u32,
    record: &BootRecord,
) -> (DiskLayout, Notes) {
    let mut notes = Notes::default();
    let extent = Extent::whole(disk.as_ref());
    let mut volumes = mbr::volumes(&extent, sector_size, record, &mut notes);
    look(disk, sector_size, &mut volumes, &mut notes);
    (mbr_of(record, sector_size, volumes), notes)
}

/// Says what volumes hold.
fn look(disk: &Arc<dyn ReadAt>, sector_size: u32, volumes: &mut [Volume], notes: &mut Notes) {
    for volume in volumes {
        let bytes = cut(disk, volume.start, volume.length);
        let asked = Asked { volume, sector_size, has_outer_table: volume.start == 0 };
        let verdict = verdict::of(&bytes, asked, notes);
        volume.found(verdict);
    }
}

/// Notes volumes that leave their disk of `size` bytes, or share some of it.
pub(super) fn check_places(size: u64, volumes: &[Volume], notes: &mut Notes) {
    for volume in volumes.iter().filter(|volume| volume.range().end > size) {
        let end = volume.range().end;
        notes.add(format!("{} ends at byte {end}, but the disk has only {size}", volume.name));
    }
    let mut sorted: Vec<&Volume> = volumes.iter().filter(|volume| volume.name != "disk").collect();
    sorted.sort_by_key(|volume| volume.start);
    let mut furthest: Option<&Volume> = None;
    for volume in sorted {
        if let Some(before) = furthest
            && before.range().intersection(&volume.range()).is_some()
        {
            notes.add(format!("{} and {} overlap", before.name, volume.name));
        }
        if furthest.is_none_or(|before| before.range().end < volume.range().end) {
            furthest = Some(volume);
        }
    }
}
