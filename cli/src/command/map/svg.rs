//! A map as a picture: one SVG file that needs nothing else, says in words what it shows, and
//! stays small whatever the disk.

use std::fmt::Write;

use imgx_engine::job::MapSection;

use super::{Look, Picture};
use crate::output::{exact_size, harmless};

/// Cells in a row where nothing else is wished.
pub const WIDTH: u16 = 128;
/// Cells at most, but for one more for each section: 64 rows of 128.
pub const MOST_CELLS: u16 = 64 * WIDTH;

/// From one cell to the next, in the picture's units.
const PITCH: usize = 8;
/// A cell's sides.
const SIDE: usize = 7;
const MARGIN: usize = 16;
/// Height of a line of text.
const LINE: usize = 18;
/// Narrowest picture, so that the headings have room.
const NARROWEST: usize = 640;

/// Every look that a cell may have: its class, its colour and what it means. Neighbours differ in
/// lightness too; what could not be read is also crossed out.
const LOOKS: [(Look, &str, &str, &str); 8] = [
    (Look::Free, "f", "#e8e8e8", "free"),
    (Look::Stored(1), "s1", "#c6dbef", "stored: up to a quarter of the cell"),
    (Look::Stored(2), "s2", "#85bcdb", "stored: up to a half"),
    (Look::Stored(3), "s3", "#3b8bc2", "stored: up to three quarters"),
    (Look::Stored(4), "s4", "#0b559f", "stored: more"),
    (Look::Changed(1), "c1", "#fdae6b", "changed: up to a half of the cell"),
    (Look::Changed(2), "c2", "#d94801", "changed: more"),
    (Look::Unreadable, "u", "#67000d", "unreadable at capture, any of the cell"),
];

/// The picture, as the text of a file.
pub fn draw(picture: &Picture<'_>) -> String {
    let width = usize::from(picture.width);
    let outer = (width * PITCH + 2 * MARGIN).max(NARROWEST);
    let mut body = String::new();
    let mut top = MARGIN;
    let lines = [Some(picture.title()), picture.comparison(), Some(picture.scale())];
    for line in lines.into_iter().flatten() {
        top += LINE;
        text(&mut body, (MARGIN, top), &line);
    }
    for section in &picture.map.sections {
        top = draw_section(&mut body, picture, section, top + LINE);
    }
    top = draw_legend(&mut body, picture, top + LINE);
    let height = top + MARGIN;
    let title = escape(&format!("Disk map of {}", picture.title()));
    let description = escape(&describe(picture));
    let colours: String =
        LOOKS.iter().map(|(_, class, colour, _)| format!(".{class}{{fill:{colour}}}")).collect();
    format!(
        r##"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{outer}" height="{height}" viewBox="0 0 {outer} {height}" role="img" aria-labelledby="title desc">
<title id="title">{title}</title>
<desc id="desc">{description}</desc>
<style>text{{font:12px sans-serif;fill:#111}}{colours}.x{{stroke:#fff;fill:none}}</style>
<rect width="{outer}" height="{height}" fill="#fff"/>
{body}</svg>
"##
    )
}

/// Draws a section below `top`, and says where it ends.
fn draw_section(
    body: &mut String,
    picture: &Picture<'_>,
    section: &MapSection,
    top: usize,
) -> usize {
    let heading = picture.heading(section);
    let _ = writeln!(body, "<g><title>{}, {}</title>", escape(&heading), section.range);
    text(body, (MARGIN, top + LINE), &heading);
    let top = top + LINE + PITCH;
    let width = usize::from(picture.width);
    let mut paths = vec![String::new(); LOOKS.len()];
    let mut crosses = String::new();
    for (number, cell) in section.cells.iter().enumerate() {
        let (x, y) = (MARGIN + number % width * PITCH, top + number / width * PITCH);
        let look = Look::of(cell);
        let known = LOOKS.iter().position(|(known, ..)| *known == look);
        if let Some(path) = known.and_then(|known| paths.get_mut(known)) {
            square(path, (x, y));
        }
        if look == Look::Unreadable {
            cross(&mut crosses, (x, y));
        }
    }
    for ((_, class, ..), path) in LOOKS.iter().zip(&paths) {
        draw_path(body, class, path);
    }
    draw_path(body, "x", &crosses);
    body.push_str("</g>\n");
    top + section.cells.len().div_ceil(width) * PITCH
}

fn draw_legend(body: &mut String, picture: &Picture<'_>, top: usize) -> usize {
    let mut top = top;
    let is_shown = |look: &Look| picture.before.is_some() || !matches!(look, Look::Changed(_));
    for (look, class, _, meaning) in LOOKS.iter().filter(|(look, ..)| is_shown(look)) {
        top += LINE;
        let place = (MARGIN, top - SIDE);
        let mut path = String::new();
        square(&mut path, place);
        draw_path(body, class, &path);
        if *look == Look::Unreadable {
            let mut path = String::new();
            cross(&mut path, place);
            draw_path(body, "x", &path);
        }
        text(body, (MARGIN + 2 * PITCH, top), meaning);
    }
    top += LINE;
    text(body, (MARGIN, top), &describe(picture));
    top
}

/// The totals in a sentence.
fn describe(picture: &Picture<'_>) -> String {
    let total = &picture.map.total;
    let mut words = vec![
        format!("stored {}", exact_size(total.stored)),
        format!("zero {}", exact_size(total.zero)),
        format!("unallocated {}", exact_size(total.unallocated)),
        format!("unreadable {}", exact_size(total.unreadable)),
    ];
    if picture.before.is_some() {
        words.push(format!("changed {}", exact_size(total.changed)));
    }
    words.join(", ")
}

fn text(body: &mut String, (x, y): (usize, usize), line: &str) {
    let _ = writeln!(body, r#"<text x="{x}" y="{y}">{}</text>"#, escape(line));
}

fn square(path: &mut String, (x, y): (usize, usize)) {
    let _ = write!(path, "M{x} {y}h{SIDE}v{SIDE}h-{SIDE}z");
}

fn cross(path: &mut String, (x, y): (usize, usize)) {
    let _ = write!(path, "M{x} {y}l{SIDE} {SIDE}m-{SIDE} 0l{SIDE} -{SIDE}");
}

fn draw_path(body: &mut String, class: &str, path: &str) {
    if !path.is_empty() {
        let _ = writeln!(body, r#"<path class="{class}" d="{path}"/>"#);
    }
}

/// Text as XML takes it: control characters spelled out, and those that no XML may hold replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in harmless(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use imgx_engine::base::{ByteCount, ByteRange};
    use imgx_engine::job::{DiskMap, Holding};
    use imgx_engine::store::manifest::Cost;
    use imgx_engine::store::repository::Image;
    use imgx_engine::store::{ImageId, Manifest};
    use serde_json::json;

    use super::*;

    fn manifest(size: u64) -> Manifest {
        let value = json!({
            "imgx": "image", "format": 1, "repository": "0".repeat(32), "name": "<".repeat(200),
            "created": "2026-01-01T00:00:00Z", "host": "h", "version": "0", "size": size,
            "block_size": 131_072, "content": "0".repeat(64), "tree": {"state": "zero"},
            "parent": null, "tracker": "compare", "source": null, "layout": null,
            "unreadable": [], "cost": Cost::default(),
        });
        serde_json::from_value(value).expect("a manifest")
    }

    #[test]
    fn the_worst_disk_makes_a_picture_of_bounded_size() {
        let (count, length) = (2049_u64, 8_u64);
        let volume = |number: u64| {
            let word = "<".repeat(10_000);
            json!({"name": word, "start": number * length, "length": length,
                "content": {"kind": "lvm2 physical volume", "label": word}})
        };
        let volumes: Vec<_> = (0..count).map(volume).collect();
        let layout = json!({"sector_size": 512, "volumes": volumes});
        let bad = Holding { unreadable: 1, ..Holding::default() };
        let total = Holding { unreadable: length, ..Holding::default() };
        let section = |number: u64| MapSection {
            range: ByteRange::new(number * length, length),
            volume: usize::try_from(number).ok(),
            total,
            cells: vec![bad; usize::from(MOST_CELLS) / 2049 + 1],
        };
        let image = Image { id: ImageId([0; 16]), manifest: manifest(count * length) };
        let map = DiskMap {
            size: ByteCount(count * length),
            cell_length: ByteCount(1),
            layout: serde_json::from_value(layout).expect("a layout"),
            sections: (0..count).map(section).collect(),
            total,
            gone: ByteCount(0),
        };
        let drawn = draw(&Picture { map, image: &image, before: Some(&image), width: 8 });
        assert!(drawn.len() < 6 << 20, "{} bytes", drawn.len());
        assert_eq!(drawn.matches("<text").count(), drawn.matches("</text>").count());
    }

    #[test]
    fn nothing_of_a_label_is_markup() {
        let label = "</text><script>'\"&\u{0}\u{1b}\u{fffe}ä";
        let escaped = escape(label);
        assert_eq!(escaped, "&lt;/text&gt;&lt;script&gt;&apos;&quot;&amp;\\u{0}\\u{1b}\u{fffd}ä");
    }
}
