//! A map in letters: what it shows needs no colours, which only help.

use super::{Look, Picture};
use crate::output::{Colour, Console, exact_size, size, table};

/// Cells in a row where nothing else is wished: with the places before them, 76 columns.
pub const WIDTH: u16 = 64;
/// Rows at most, but for those that a section's end cuts short.
pub const ROWS: u16 = 24;
/// Columns of the place before a row.
const PLACE: usize = 10;

/// Prints the map, a section after the other, then what the signs mean.
pub fn draw(picture: &Picture<'_>, console: &Console) {
    console.line(&picture.title());
    picture.comparison().iter().for_each(|line| console.line(line));
    console.line(&picture.scale());
    let map = &picture.map;
    for section in &map.sections {
        console.line("");
        console.line(&picture.heading(section));
        let width = usize::from(picture.width);
        for (row, cells) in section.cells.chunks(width).enumerate() {
            let place = size(map.range(section, row * width).start);
            let mut parts = vec![(Colour::Plain, format!("{place:>PLACE$}  "))];
            for look in cells.iter().map(Look::of) {
                match parts.last_mut() {
                    Some((same, text)) if *same == colour(look) => text.push(sign(look)),
                    _ => parts.push((colour(look), sign(look).to_string())),
                }
            }
            console.coloured_line(&parts);
        }
    }
    console.line("");
    legend(picture).iter().for_each(|line| console.line(line));
}

fn sign(look: Look) -> char {
    match look {
        Look::Free => '·',
        Look::Stored(1) => '░',
        Look::Stored(2) => '▒',
        Look::Stored(3) => '▓',
        Look::Stored(_) => '█',
        Look::Changed(1) => '+',
        Look::Changed(_) => '#',
        Look::Unreadable => '!',
    }
}

fn colour(look: Look) -> Colour {
    match look {
        Look::Free => Colour::Plain,
        Look::Stored(_) => Colour::Blue,
        Look::Changed(_) => Colour::Yellow,
        Look::Unreadable => Colour::Red,
    }
}

fn legend(picture: &Picture<'_>) -> Vec<String> {
    let total = &picture.map.total;
    let free = total.zero + total.unallocated;
    let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![
        row(["░▒▓█", "stored", &size(total.stored), "of the cell: up to ¼, ½, ¾, more"]),
        row([
            "·",
            "free",
            &size(free),
            &format!("of which unallocated {}", size(total.unallocated)),
        ]),
    ];
    if picture.before.is_some() {
        let meaning = "since the earlier image, of the cell: up to ½, more";
        rows.push(row(["+#", "changed", &size(total.changed), meaning]));
    }
    rows.push(row(["!", "unreadable", &exact_unreadable(total.unreadable), "at capture"]));
    let mut lines = table(&rows, &[2]);
    lines.extend(notes(picture));
    lines
}

/// Few bytes matter here.
fn exact_unreadable(bytes: u64) -> String {
    if bytes == 0 { "none".to_owned() } else { exact_size(bytes) }
}

/// What the map does not show.
fn notes(picture: &Picture<'_>) -> Vec<String> {
    let map = &picture.map;
    let mut notes = Vec::new();
    if map.layout.is_none() {
        notes.push("what it holds was described by another version".to_owned());
    }
    if map.gone.0 > 0 {
        notes.push(format!("the earlier disk was larger by {}", exact_size(map.gone.0)));
    }
    let unseen = picture.unseen();
    if !unseen.is_empty() {
        notes.push(format!("beyond the disk's end, or inside others: {}", unseen.join(", ")));
    }
    notes
}
