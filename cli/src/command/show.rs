//! `show`: what an image, or a disk that was never captured, holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use imgx_engine::base::{ReadAt, Result};
use imgx_engine::block::{Disk, OpenOptions, SourceInfo, SourceKind};
use imgx_engine::store::repository::Image;
use imgx_engine::volume::{DiskLayout, Kind, Volume, probe};
use serde_json::{Value, json};

use super::capture::{doubt_lines, instant, skipped_lines, tracker, unreadable_lines};
use crate::args::{ReadingArguments, ShowArguments, is_path};
use crate::files::Files;
use crate::output::{Console, duration, exact_size, local_time, ratio, size, table};
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image or path; `Io`.
pub fn run(arguments: &ShowArguments, session: &Session) -> Result<Outcome> {
    let layout = match arguments.with.as_slice() {
        [] if arguments.unlock.is_empty() => None,
        with => {
            let reading = ReadingArguments::with(with, &arguments.unlock);
            let files = Files::open(&arguments.image, &reading, "show", session)?;
            Some(files.disk.layout().clone())
        }
    };
    if is_path(&arguments.image) {
        return show_disk(arguments.image.path(), layout, &session.console);
    }
    let mut image = session.repository()?.resolve(&arguments.image, session)?;
    if let Some(layout) = layout {
        image.manifest.layout = json!(layout);
    }
    show_image(&image, &session.console);
    Ok(Outcome::Done)
}

/// Shows a disk, and what it holds with others beside it, if that is known.
fn show_disk(path: &Path, layout: Option<DiskLayout>, console: &Console) -> Result<Outcome> {
    let disk = Arc::new(Disk::open(path, &OpenOptions::default())?);
    let info = disk.info();
    let bytes: Arc<dyn ReadAt> = disk.clone();
    let layout = layout.map_or_else(|| probe(&bytes, info.logical_sector_size), Ok)?;
    for warning in disk.warnings() {
        console.complain(&format!("warning: {warning}"));
    }
    console.document(&json!({"size": info.size, "source": info, "layout": layout}));
    let mut rows = source_rows(info);
    rows.push(row("size", exact_size(info.size.0)));
    print_rows(&rows, console);
    print_layout(&layout, console);
    Ok(Outcome::Done)
}

fn show_image(image: &Image, console: &Console) {
    let (id, manifest) = (image.id, &image.manifest);
    let mut document = json!({"id": id});
    if let (Value::Object(document), Ok(Value::Object(members))) =
        (&mut document, serde_json::to_value(manifest))
    {
        document.extend(members);
    }
    console.document(&document);
    let mut rows = vec![
        row("image", id.to_string()),
        row("name", manifest.name.clone()),
        row("created", format!("{} on {}", local_time(&manifest.created), manifest.host)),
        row("version", format!("imgx {}", manifest.version)),
    ];
    // A source that a later version described differently is shown with --json.
    if let Ok(info) = serde_json::from_value::<SourceInfo>(manifest.source.clone()) {
        rows.extend(source_rows(&info));
    }
    rows.push(row("size", exact_size(manifest.size.0)));
    rows.push(row("content", manifest.content.to_string()));
    let parent = manifest.parent.map_or("none".to_owned(), |parent| parent.to_string());
    rows.push(row("parent", parent));
    rows.push(row("tracker", tracker(manifest)));
    rows.extend(manifest.live.as_ref().map(|moment| row("instant", instant(moment))));
    rows.extend(manifest.tracking.as_ref().map(|evidence| row("evidence", evidence.to_string())));
    rows.extend(cost_rows(image));
    print_rows(&rows, console);
    for line in doubt_lines(manifest).iter().chain(&skipped_lines(manifest)) {
        console.line(line);
    }
    for line in unreadable_lines(&manifest.unreadable, manifest.cost.unreadable) {
        console.line(&line);
    }
    match serde_json::from_value::<DiskLayout>(manifest.layout.clone()) {
        Ok(layout) => print_layout(&layout, console),
        Err(_) => console.line("what it holds was described by another version (see --json)"),
    }
}

fn source_rows(info: &SourceInfo) -> Vec<Vec<String>> {
    let kind = match info.kind {
        SourceKind::Device => "device",
        SourceKind::File => "file",
        SourceKind::Nbd => "NBD export",
    };
    let mut rows = vec![row("source", format!("{} ({kind})", info.path.display()))];
    let identity = [("model", &info.model), ("serial", &info.serial), ("wwid", &info.wwid)];
    for (name, value) in identity {
        rows.extend(value.iter().map(|value| row(name, value.clone())));
    }
    if info.kind == SourceKind::Device {
        let (logical, physical) = (info.logical_sector_size, info.physical_sector_size);
        rows.push(row("sectors", format!("{logical} bytes logical, {physical} physical")));
    }
    rows
}

fn cost_rows(image: &Image) -> Vec<Vec<String>> {
    let cost = &image.manifest.cost;
    let ratio = ratio(cost.fresh, cost.stored);
    let ratio = ratio.map(|ratio| format!(", ratio {ratio:.2}")).unwrap_or_default();
    #[allow(clippy::cast_precision_loss)]
    let seconds = cost.milliseconds as f64 / 1000.0;
    vec![
        row("read", format!("{} in {}", size(cost.read), duration(seconds))),
        row("unchanged", size(cost.unchanged)),
        row("zero", size(cost.zero)),
        row("duplicate", size(cost.duplicate)),
        row("new", size(cost.fresh)),
        row("stored", format!("{}{ratio}, tree {}", size(cost.stored), size(cost.nodes))),
    ]
}

fn print_rows(rows: &[Vec<String>], console: &Console) {
    table(rows, &[]).iter().for_each(|line| console.line(line));
}

fn print_layout(layout: &DiskLayout, console: &Console) {
    let line = match (&layout.table, &layout.disk_id) {
        (None, _) => "no partition table".to_owned(),
        (Some(table), id) => {
            let id = id.as_ref().map(|id| format!(", disk {id}")).unwrap_or_default();
            format!("{} table, sectors of {} bytes{id}", table.name(), layout.sector_size)
        }
    };
    console.line("");
    console.line(&line);
    if !layout.volumes.is_empty() {
        let heading = ["VOLUME", "START", "SIZE", "TYPE", "HOLDS", "LABEL", "UUID"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(layout.volumes.iter().map(volume_row));
        print_rows_right(&rows, console);
    }
    for volume in &layout.volumes {
        if let Some(why) = &volume.unsupported {
            console.line(&format!("note: {} cannot be read: {why}", volume.name));
        }
        if let Some(why) = &volume.read_whole {
            console.line(&format!("note: all of {} is needed: {why}", volume.name));
        }
    }
    for (uuid, names) in of_several_devices(layout) {
        console.line(&format!("note: {} are of one btrfs, {uuid}", names.join(", ")));
    }
    for note in &layout.notes {
        console.line(&format!("note: {note}"));
    }
}

/// The volumes that are devices of one filesystem, or copies of them, by its UUID.
fn of_several_devices(layout: &DiskLayout) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for volume in &layout.volumes {
        let content = volume.content.as_ref().filter(|content| content.kind == Kind::Btrfs);
        if let Some(uuid) = content.and_then(|content| content.uuid.as_deref()) {
            found.entry(uuid).or_default().push(&volume.name);
        }
    }
    found.retain(|_, names| names.len() > 1);
    found
}

fn print_rows_right(rows: &[Vec<String>], console: &Console) {
    table(rows, &[1, 2]).iter().for_each(|line| console.line(line));
}

fn volume_row(volume: &Volume) -> Vec<String> {
    let dash = || "-".to_owned();
    let kind = volume.type_name.as_ref().or(volume.partition_type.as_ref());
    let mut kind = kind.cloned().unwrap_or_else(dash);
    if volume.active {
        kind.push_str(" (active)");
    }
    let content = volume.content.as_ref();
    let label = content.and_then(|content| content.label.clone());
    vec![
        volume.name.clone(),
        volume.start.to_string(),
        size(volume.length),
        kind,
        content.map_or_else(dash, |content| content.kind.to_string()),
        label.or_else(|| volume.partition_label.clone()).unwrap_or_else(dash),
        content.and_then(|content| content.uuid.clone()).unwrap_or_else(dash),
    ]
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}
