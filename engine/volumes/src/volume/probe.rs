//! Finds a disk's partition table, its volumes and what they contain.

use crate::base::{Error, ErrorKind, ReadAt, Result};

use super::extent::Extent;
use super::layout::{DiskLayout, Notes, PartitionTable, Volume};
use super::mbr::BootRecord;
use super::signature;
use super::stacked;
use super::text::guid;
use super::{gpt, mbr};

/// Sector sizes that are tried after the disk's own: an image file of a 4096-byte-sector disk
/// does not say that it is one.
const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// Says what `disk` holds. `sector_size` is what its device reports, 512 for a file.
///
/// Bad content is never an error: damage, and parts that cannot be read, are told in the
/// layout's notes.
///
/// # Errors
/// `Invalid` when `sector_size` is no power of two from 512 to 65,536.
pub fn probe(disk: &dyn ReadAt, sector_size: u32) -> Result<DiskLayout> {
    check_sector_size(sector_size)?;
    let whole = Extent::whole(disk);
    let mut notes = Notes::default();
    let mut layout = find_layout(&whole, sector_size, &mut notes);
    check_places(&whole, &layout.volumes, &mut notes);
    stacked::add(disk, &mut layout.volumes, &mut notes);
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

/// The table and its volumes, or the filesystem directly on the disk.
fn find_layout(disk: &Extent<'_>, sector_size: u32, notes: &mut Notes) -> DiskLayout {
    let (sector, error) = disk.head(512);
    if let Some(error) = error {
        notes.add(format!("the disk's first sector cannot be read: {error}"));
    }
    let record = BootRecord::parse(&sector);
    let is_boot_sector = signature::is_boot_sector(&sector);
    if record.as_ref().is_some_and(BootRecord::is_protective) {
        if let Some(layout) = gpt_layout(disk, sector_size, notes) {
            if record.as_ref().is_some_and(BootRecord::is_hybrid) {
                notes.add("the protective MBR lists partitions too (hybrid MBR); the GPT was used");
            }
            return hybrid_content(disk, layout, notes);
        }
        notes.add("the MBR says that a GPT follows, but no valid one was found");
    }
    if is_boot_sector && let Some(layout) = direct(disk, sector_size, notes) {
        if record.is_some_and(|record| {
            record.entries.iter().any(|each| each.start != 0 && each.sectors != 0)
        }) {
            notes.add("the boot sector of the filesystem also looks like a partition table");
        }
        return layout;
    }
    match record {
        Some(record) if record.is_used() => {
            if !record.is_protective() && gpt::read_copy(disk, sector_size, 1).is_ok() {
                notes.add("a GPT is there too, but the MBR does not protect it; the MBR was used");
            }
            let layout = mbr_layout(disk, sector_size, &record, notes);
            hybrid_content(disk, layout, notes)
        }
        empty => without_entries(disk, sector_size, empty.as_ref(), notes),
    }
}

/// A disk whose first sector lists no partitions: a GPT without its MBR, a filesystem, nothing.
fn without_entries(
    disk: &Extent<'_>,
    sector_size: u32,
    record: Option<&BootRecord>,
    notes: &mut Notes,
) -> DiskLayout {
    let mut gpt_notes = Notes::default();
    let table = gpt_layout(disk, sector_size, &mut gpt_notes);
    let at_start = candidates(sector_size).any(|size| gpt::read_copy(disk, size, 1).is_ok());
    // A backup alone may be a rest of earlier times: a filesystem goes before it.
    let direct = if at_start { None } else { direct(disk, sector_size, notes) };
    match (table, direct, record) {
        (_, Some(layout), _) => layout,
        (Some(layout), None, _) => {
            notes.append(gpt_notes);
            notes.add("the GPT's protective MBR is missing");
            layout
        }
        (None, None, record) => {
            notes.append(gpt_notes);
            DiskLayout {
                table: record.map(|_| PartitionTable::Mbr),
                sector_size,
                disk_id: record.and_then(disk_signature),
                volumes: Vec::new(),
                notes: Vec::new(),
            }
        }
    }
}

/// The filesystem directly on the disk, as the volume `disk`.
fn direct(disk: &Extent<'_>, sector_size: u32, notes: &mut Notes) -> Option<DiskLayout> {
    let mut volume = Volume::new("disk", 0, disk.length());
    volume.content = Some(signature::detect(*disk, "disk", notes)?);
    let volumes = vec![volume];
    Some(DiskLayout { table: None, sector_size, disk_id: None, volumes, notes: Vec::new() })
}

/// Adds the volume `disk` where a CD's filesystem spans a disk that has a table as well, as on
/// installation media that boot from either. Any other filesystem there is told, but not
/// listed: it is most often a rest, and its allocation map must not rule the partitions' blocks.
fn hybrid_content(disk: &Extent<'_>, mut layout: DiskLayout, notes: &mut Notes) -> DiskLayout {
    if let Some(content) = signature::detect_beside_table(*disk, &mut Notes::default()) {
        notes.add(format!("a superblock of {} is beside the partition table", content.kind));
    }
    let content = signature::detect_optical(*disk, "disk", notes);
    if content.is_some() && !layout.volumes.iter().any(|volume| volume.start == 0) {
        let mut volume = Volume::new("disk", 0, disk.length());
        volume.content = content;
        layout.volumes.push(volume);
    }
    layout
}

fn candidates(sector_size: u32) -> impl Iterator<Item = u32> {
    let others = SECTOR_SIZES.into_iter().filter(move |size| *size != sector_size);
    std::iter::once(sector_size).chain(others)
}

/// The GPT, in sectors of whatever size shows one; a first copy goes before a backup.
fn gpt_layout(disk: &Extent<'_>, sector_size: u32, notes: &mut Notes) -> Option<DiskLayout> {
    let mut found: Option<(gpt::Table, Notes)> = None;
    for size in candidates(sector_size) {
        let mut own = Notes::default();
        match gpt::find(disk, size, &mut own) {
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
    for volume in &mut volumes {
        let extent = disk.part(volume.start, volume.length);
        volume.content = signature::detect(extent, &volume.name, notes);
    }
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
    disk: &Extent<'_>,
    sector_size: u32,
    record: &BootRecord,
    notes: &mut Notes,
) -> DiskLayout {
    let recognized =
        |layout: &DiskLayout| layout.volumes.iter().any(|volume| volume.content.is_some());
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
fn mbr_layout_in(disk: &Extent<'_>, sector_size: u32, record: &BootRecord) -> (DiskLayout, Notes) {
    let mut notes = Notes::default();
    let mut volumes = mbr::volumes(disk, sector_size, record, &mut notes);
    for volume in &mut volumes {
        let extent = disk.part(volume.start, volume.length);
        volume.content = signature::detect(extent, &volume.name, &mut notes);
    }
    let layout = DiskLayout {
        table: Some(PartitionTable::Mbr),
        sector_size,
        disk_id: disk_signature(record),
        volumes,
        notes: Vec::new(),
    };
    (layout, notes)
}

fn disk_signature(record: &BootRecord) -> Option<String> {
    (record.signature != 0).then(|| format!("{:08x}", record.signature))
}

/// Notes volumes that leave the disk or share bytes.
fn check_places(disk: &Extent<'_>, volumes: &[Volume], notes: &mut Notes) {
    let size = disk.length();
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
