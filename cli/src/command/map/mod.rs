//! `map`: a disk as a grid of cells, drawn in the terminal or as a picture.

mod svg;
mod terminal;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use imgx_engine::base::{Error, ErrorKind, Result};
use imgx_engine::job::{DiskMap, Holding, MapSection};
use imgx_engine::store::repository::Image;
use serde_json::{Value, json};

use super::refuse_paths;
use crate::args::{MapArguments, ReadingArguments};
use crate::files::Files;
use crate::listing::put_path;
use crate::output::{exact_size, local_time, short_id, size};
use crate::progress::Reporter;
use crate::session::{Outcome, Session};
use crate::unlock::UnlockArguments;

/// Letters of a label that are shown.
const LONGEST_LABEL: usize = 24;
/// Letters of a volume's name or content that are shown.
const LONGEST_WORD: usize = 40;

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image; `Conflict` when the picture's file exists; `Corrupt` or `Io`
/// when a tree cannot be read.
pub fn run(arguments: &MapArguments, session: &Session) -> Result<Outcome> {
    let (before, after) = match &arguments.second {
        Some(second) => (Some(&*arguments.first), &**second),
        None => (None, &*arguments.first),
    };
    refuse_paths(before.into_iter().chain([after]))?;
    let repository = session.repository()?;
    let _lock = repository.lock_to_read("map")?;
    let stop = session.stop_on_signals()?;
    let images = repository.images()?;
    let before = before.map(|before| images.resolve(before, session)).transpose()?;
    let after = images.resolve(after, session)?;
    let earlier = before.map(|before| repository.reader(before));
    let console = &session.console;
    let reporter = Reporter::new(console, stop);
    let (width, rows) = shape(arguments);
    let cells = u64::from(width) * u64::from(rows);
    let images = (earlier.as_ref(), &repository.reader(after));
    let map = match arguments.with.as_slice() {
        [] => DiskMap::read(images, cells, &reporter)?,
        with => {
            let image = arguments.second.as_ref().unwrap_or(&arguments.first);
            let files = Files::open(
                image,
                &ReadingArguments::with(with, &UnlockArguments::default()),
                "map",
                session,
            )?;
            let layout = Some(files.disk.layout().clone());
            DiskMap::read_as(layout, images, cells, &reporter)?
        }
    };
    drop(reporter);
    let picture = Picture { map, image: after, before, width };
    if let Some(path) = &arguments.svg {
        write_new(path, &svg::draw(&picture))?;
        console.say(&format!("drew {}", path.display()));
    } else {
        terminal::draw(&picture, console);
    }
    console.document(&describe(&picture, arguments.svg.as_deref()));
    Ok(Outcome::Done)
}

/// Cells in a row, and rows, sections not counted.
fn shape(arguments: &MapArguments) -> (u16, u16) {
    if arguments.svg.is_some() {
        let width = arguments.width.unwrap_or(svg::WIDTH);
        return (width, svg::MOST_CELLS / width);
    }
    (arguments.width.unwrap_or(terminal::WIDTH), terminal::ROWS)
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let context = format!("{} exists: nothing is overwritten", path.display());
            Error::new(ErrorKind::Conflict, context)
        }
        _ => Error::io(format!("write {}", path.display()), error),
    };
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(|error| {
        // Half a picture is none; what went wrong is told already.
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}

/// What is to be drawn.
struct Picture<'a> {
    map: DiskMap,
    image: &'a Image,
    before: Option<&'a Image>,
    /// Cells in a row.
    width: u16,
}

/// How a cell is shown: by the most important thing that it holds, however little of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing is stored.
    Free,
    /// Stored: in quarters of the cell, 1 to 4, rounded up.
    Stored(u8),
    /// Changed: in halves of the cell, 1 or 2, rounded up.
    Changed(u8),
    /// Something could not be read.
    Unreadable,
}

impl Look {
    fn of(cell: &Holding) -> Self {
        match *cell {
            Holding { unreadable: 1.., .. } => Self::Unreadable,
            Holding { changed: 1.., .. } => Self::Changed(parts(cell.changed, cell.length(), 2)),
            Holding { stored: 1.., .. } => Self::Stored(parts(cell.stored, cell.length(), 4)),
            _ => Self::Free,
        }
    }
}

/// How many of `parts` equal parts of a cell of `whole` bytes hold `bytes`, rounded up.
fn parts(bytes: u64, whole: u64, parts: u8) -> u8 {
    let share = (u128::from(bytes) * u128::from(parts)).div_ceil(u128::from(whole.max(1)));
    u8::try_from(share).unwrap_or(parts).min(parts)
}

impl Picture<'_> {
    /// What the picture shows, and of when.
    fn title(&self) -> String {
        let manifest = &self.image.manifest;
        let created = local_time(&manifest.created);
        format!("{} {}, {created}", manifest.name, short_id(self.image.id))
    }

    /// Its scale.
    fn scale(&self) -> String {
        let cell = size(self.map.cell_length.0);
        format!("{}, a cell is {cell}", exact_size(self.map.size.0))
    }

    /// The image that it is compared with.
    fn comparison(&self) -> Option<String> {
        let before = self.before?;
        let (name, created) = (&before.manifest.name, local_time(&before.manifest.created));
        Some(format!("compared with {name} {}, {created}", short_id(before.id)))
    }

    /// A section's volume in a line.
    fn heading(&self, section: &MapSection) -> String {
        let name = match section.volume {
            Some(number) => self.volume_name(number, section.range.start),
            None if self.map.sections.len() == 1 => "disk".to_owned(),
            None => "unpartitioned".to_owned(),
        };
        let total = &section.total;
        let parts = [("changed", total.changed), ("unreadable", total.unreadable)];
        let others = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
        let others: String =
            others.map(|(word, bytes)| format!(", {} {word}", size(bytes))).collect();
        format!("{name}, {}: {} stored{others}", size(section.range.len()), size(total.stored))
    }

    fn volume_name(&self, number: usize, start: u64) -> String {
        let volumes = self.map.layout.as_ref().map(|layout| layout.volumes.as_slice());
        let Some(volume) = volumes.and_then(|volumes| volumes.get(number)) else {
            return String::new();
        };
        let content = volume.content.as_ref();
        let kind = content.map(|content| content.kind.name()).or(volume.type_name.as_deref());
        let label = content.and_then(|content| content.label.as_ref());
        let mut name = cut(&volume.name, LONGEST_WORD);
        if let Some(kind) = kind.or(volume.partition_type.as_deref()) {
            name.push_str(&format!("  {}", cut(kind, LONGEST_WORD)));
        }
        if let Some(label) = label.or(volume.partition_label.as_ref()) {
            name.push_str(&format!(" \"{}\"", cut(label, LONGEST_LABEL)));
        }
        // A volume that another lies inside of has a section before and one behind it.
        if start != volume.start {
            name.push_str(", continued");
        }
        name
    }

    /// The volumes of which no section is left: beyond the disk, or hidden by others.
    fn unseen(&self) -> Vec<String> {
        let volumes = self.map.layout.iter().flat_map(|layout| &layout.volumes).enumerate();
        let is_seen =
            |number| self.map.sections.iter().any(|section| section.volume == Some(number));
        let unseen = volumes.filter(|(number, _)| !is_seen(*number));
        unseen.map(|(_, volume)| cut(&volume.name, LONGEST_WORD)).collect()
    }
}

/// The first `most` letters of `text`, with a sign if there were more.
fn cut(text: &str, most: usize) -> String {
    let mut letters = text.chars();
    let mut short: String = letters.by_ref().take(most).collect();
    if letters.next().is_some() {
        short.push('…');
    }
    short
}

fn describe(picture: &Picture<'_>, svg: Option<&Path>) -> Value {
    let map = &picture.map;
    let volumes = map.layout.as_ref().map(|layout| &layout.volumes);
    let name = |number: usize| volumes.and_then(|volumes| volumes.get(number));
    let section = |section: &MapSection| {
        json!({
            "offset": section.range.start,
            "length": section.range.len(),
            "volume": section.volume.and_then(name).map(|volume| &volume.name),
            "total": section.total,
            "cells": section.cells,
        })
    };
    let mut document = json!({
        "image": picture.image.id,
        "before": picture.before.map(|before| before.id),
        "size": map.size,
        "cell_length": map.cell_length,
        "total": map.total,
        "gone": map.gone,
        "volumes": volumes,
        "sections": map.sections.iter().map(section).collect::<Vec<_>>(),
    });
    if let Some(path) = svg {
        put_path(&mut document, "svg", path);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_share_is_too_small_to_be_seen_and_the_unreadable_is_never_hidden() {
        let cell = Holding { stored: 1 << 40, ..Holding::default() };
        assert_eq!(Look::of(&Holding::default()), Look::Free);
        assert_eq!(Look::of(&cell), Look::Stored(4));
        let stored = [(1, 1), (25, 1), (26, 2), (75, 3), (76, 4), (100, 4)];
        for (stored, quarters) in stored {
            let cell = Holding { stored, zero: 100 - stored, ..Holding::default() };
            assert_eq!(Look::of(&cell), Look::Stored(quarters), "{stored}");
        }
        assert_eq!(Look::of(&Holding { changed: 1, ..cell }), Look::Changed(1));
        assert_eq!(Look::of(&Holding { changed: (1 << 39) + 1, ..cell }), Look::Changed(2));
        assert_eq!(
            Look::of(&Holding { changed: 1 << 40, unreadable: 1, ..cell }),
            Look::Unreadable
        );
    }

    #[test]
    fn long_words_are_cut_between_letters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äöü…");
    }
}
