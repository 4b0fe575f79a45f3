//! What is printed: lines, tables and JSON on standard output, complaints on standard error.
//!
//! Names and labels come from disks that nobody vouches for, so control characters and those that
//! turn text around never reach the terminal. A reader that closes the pipe ends the printing, and a
//! query with it, but no job.

use std::borrow::Cow;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use imgx_engine::base::{Error, Observer, Result};
use imgx_engine::store::ImageId;
use imgx_engine::sys::Output;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::args::Common;

/// Digits of an id where space is short.
const SHORT_ID: usize = 12;

/// How much to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Volubility {
    Quiet,
    Normal,
    Verbose,
}

/// A colour of the terminal's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Blue,
    Yellow,
    Red,
}

impl Colour {
    /// The parameter of "select graphic rendition" (ECMA-48, 8.3.117).
    fn code(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Red => 31,
            Self::Yellow => 33,
            Self::Blue => 34,
        }
    }
}

/// Standard output and error.
#[derive(Debug)]
pub struct Console {
    json: bool,
    volubility: Volubility,
    has_colours: bool,
    /// The first failure of standard output, after which nothing more is printed.
    failure: Mutex<Option<io::Error>>,
}

impl Console {
    /// The console that the options ask for.
    pub fn new(common: &Common) -> Self {
        let volubility = match (common.quiet, common.verbose) {
            (true, _) => Volubility::Quiet,
            (_, true) => Volubility::Verbose,
            _ => Volubility::Normal,
        };
        let has_colours = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { json: common.json, volubility, has_colours, failure: Mutex::new(None) }
    }

    /// Whether standard output is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether only what went wrong is to be told.
    pub fn is_quiet(&self) -> bool {
        self.volubility == Volubility::Quiet
    }

    /// Whether details of the engine are to be told.
    pub fn is_verbose(&self) -> bool {
        self.volubility == Volubility::Verbose
    }

    /// Prints a line that was asked for.
    pub fn line(&self, line: &str) {
        if !self.json {
            self.write(&harmless(line));
        }
    }

    /// Prints a line that was asked for in parts, in colours where the terminal may show them.
    pub fn coloured_line(&self, parts: &[(Colour, String)]) {
        if self.json {
            return;
        }
        let paint = |(colour, text): &(Colour, String)| match (harmless(text), colour) {
            (text, Colour::Plain) => text,
            (text, _) if !self.has_colours => text,
            (text, colour) => format!("\x1b[{}m{text}\x1b[0m", colour.code()),
        };
        self.write(&parts.iter().map(paint).collect::<String>());
    }

    /// Prints a line about what was done, unless the console is quiet.
    pub fn say(&self, line: &str) {
        if !self.is_quiet() {
            self.line(line);
        }
    }

    /// Prints whole lines that are fit to be seen: JSON, or text without control characters.
    pub fn lines(&self, lines: &str) {
        if let Some(lines) = lines.strip_suffix('\n') {
            self.write(lines);
        }
    }

    /// Prints an event as JSON on a line.
    pub fn json(&self, event: &Value) {
        if self.json {
            self.write(&event.to_string());
        }
    }

    /// Prints the one JSON document of a query, for people too.
    pub fn document(&self, value: &Value) {
        if self.json {
            self.write(&format!("{value:#}"));
        }
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// `Io` when standard output takes no more.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut failure = self.failure();
        if failure.is_none() {
            let mut stdout = io::stdout().lock();
            *failure = stdout.write_all(bytes).and_then(|()| stdout.flush()).err();
        }
        drop(failure);
        self.check()
    }

    /// Standard output for an archive, as long as `observer` does not want to stop.
    ///
    /// # Errors
    /// `Io` when there is no standard output.
    pub fn archive<'a>(&'a self, observer: &'a dyn Observer) -> Result<impl Write + 'a> {
        let output = io::stdout().as_fd().try_clone_to_owned();
        let output = output.and_then(|output| Output::new(output, observer));
        let output = output.map_err(|error| Error::io("standard output", error))?;
        Ok(Archive { console: self, output })
    }

    /// Whether what is printed still arrives, so that a query ends when it does not.
    ///
    /// # Errors
    /// `Io` when standard output takes no more.
    pub fn check(&self) -> Result<()> {
        match &*self.failure() {
            Some(error) => {
                let same = error.raw_os_error().map(io::Error::from_raw_os_error);
                let same = same.unwrap_or_else(|| error.kind().into());
                Err(Error::io("standard output", same))
            }
            None => Ok(()),
        }
    }

    /// Whether whoever read standard output has closed it: they have had enough.
    pub fn has_lost_reader(&self) -> bool {
        let failure = self.failure();
        failure.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Prints a line on standard error.
    pub fn complain(&self, line: &str) {
        // Nobody is left to tell when that fails.
        let _ = writeln!(io::stderr(), "imgx: {}", harmless(line));
    }

    /// Flushes standard output and says whether all of it arrived; a closed pipe is no failure.
    ///
    /// # Errors
    /// The first failure of standard output.
    pub fn close(&self) -> io::Result<()> {
        let mut failure = self.failure();
        if failure.is_none() {
            *failure = io::stdout().flush().err();
        }
        match failure.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// Prints lines; in JSON they are all that.
    fn write(&self, lines: &str) {
        let lines = if self.json { harmless_json(lines) } else { Cow::Borrowed(lines) };
        let mut failure = self.failure();
        if failure.is_none() {
            // In whole lines, so that whoever follows events never sees half of one.
            let mut stdout = io::stdout().lock();
            *failure = writeln!(stdout, "{lines}").and_then(|()| stdout.flush()).err();
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard output for an archive, which is written as long as the run is not to stop.
struct Archive<'a> {
    console: &'a Console,
    output: Output<'a>,
}

impl Write for Archive<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes).inspect_err(|error| {
            let same = error.raw_os_error().map(io::Error::from_raw_os_error);
            self.console.failure().get_or_insert(same.unwrap_or_else(|| error.kind().into()));
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// `json` without any character that a terminal obeys, or that turns its text around: JSON itself
/// asks only for those below U+0020 to be escaped.
fn harmless_json(json: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| c != '\n' && is_harmful(c);
    if !json.contains(is_obeyed) {
        return Cow::Borrowed(json);
    }
    // Whatever is not ASCII stands within strings.
    let escape = |c: char| match is_obeyed(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    Cow::Owned(json.chars().map(escape).collect())
}

/// Whether a character does something to a terminal or to the text around it: control characters
/// (C0 and C1), the bidirectional ones of Unicode (UAX #9), which show text in another order than
/// it has, and its separators of lines and paragraphs.
pub fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// `line` with the characters spelled out that are not to reach a terminal.
pub fn harmless(line: &str) -> String {
    let spell = |c: char| -> String {
        if is_harmful(c) { c.escape_default().collect() } else { c.to_string() }
    };
    if !line.contains(is_harmful) {
        return line.to_owned();
    }
    line.chars().map(spell).collect()
}

/// A table in lines: the first row is the heading; columns in `right` are aligned to the right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if right.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Bytes in the unit that leaves three digits or so: `64.0 MiB`.
#[allow(clippy::cast_precision_loss)]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024 belongs to the next unit.
    while number >= 1023.95 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

/// Bytes, also exactly: `64.0 MiB (67108864 bytes)`.
pub fn exact_size(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{} ({bytes} bytes)", size(bytes)) }
}

/// Bytes a second, or `None` when that means nothing.
#[allow(clippy::cast_precision_loss)]
pub fn rate(bytes: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0 && bytes > 0).then(|| bytes as f64 / seconds)
}

/// A rate for people: `812.3 MiB/s`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn speed(rate: f64) -> String {
    format!("{}/s", size(rate.max(0.0) as u64))
}

/// How much smaller compression made it, or `None` when nothing was stored.
#[allow(clippy::cast_precision_loss)]
pub fn ratio(fresh: u64, stored: u64) -> Option<f64> {
    (fresh > 0 && stored > 0).then(|| fresh as f64 / stored as f64)
}

/// A number of things: `1 image`, `2 images`.
pub fn count(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How long something took: `0.4 s`, then like [`clock`].
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.1} s") } else { clock(seconds) }
}

/// Seconds as `0:07`, `3:07` or `2:15:09`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn clock(seconds: f64) -> String {
    let whole = seconds as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours == 0 {
        format!("{minutes}:{seconds:02}")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02}")
    }
}

/// The first digits of an id.
pub fn short_id(id: ImageId) -> String {
    id.to_string()[..SHORT_ID].to_owned()
}

/// A manifest's time (RFC 3339) in the local time zone, to the second.
pub fn local_time(created: &str) -> String {
    let Ok(instant) = created.parse::<Timestamp>() else { return created.to_owned() };
    instant.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_never_1024_of_a_unit() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (64 << 20, "64.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, expected) in sizes {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn control_characters_of_a_label_do_not_reach_the_terminal() {
        let rows = [vec!["a\u{1b}[31m\n".to_owned(), "1".to_owned()]];
        assert_eq!(table(&rows, &[1]), ["a\\u{1b}[31m\\n  1"]);
    }

    #[test]
    fn json_holds_no_character_that_a_terminal_obeys() {
        let name = "a\u{1b}b\u{7f}c\u{9b}31m\u{85}d\u{202e}e\u{2028}f\u{2066}\u{e4}\n";
        for is_pretty in [false, true] {
            let value = serde_json::json!({ "name": name, name: 1 });
            let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
            let text = harmless_json(&text);
            let is_fit = |c: char| c == '\n' || !c.is_control() && c < '\u{2000}';
            assert!(text.chars().all(is_fit), "{text:?}");
            assert_eq!(text.contains('\n'), is_pretty);
            let read: Value = serde_json::from_str(&text).expect("it is JSON");
            assert_eq!(read["name"], name);
            assert_eq!(read[name], 1);
        }
    }

    #[test]
    fn what_turns_text_around_or_drives_a_terminal_is_spelled_out() {
        assert_eq!(harmless("evil\u{202e}gpj.exe"), "evil\\u{202e}gpj.exe");
        let spelled =
            ["\u{61c}", "\u{200e}", "\u{200f}", "\u{2028}", "\u{2029}", "\u{202a}", "\u{2066}"];
        for letter in spelled.iter().chain(&["\u{2069}", "\u{85}", "\u{9b}", "\u{7f}", "\u{0}"]) {
            let shown = harmless(letter);
            assert!(shown.starts_with("\\u{") && shown.is_ascii(), "{shown}");
        }
        for plain in ["漢字", "עברית", "e\u{301}", "a\u{200d}b", "\u{a0}", "\u{2027}"] {
            assert_eq!(harmless(plain), plain);
        }
    }

    #[test]
    fn durations_grow_into_minutes_and_hours() {
        let shown = [0.44, 187.0, 8109.0].map(duration);
        assert_eq!(shown, ["0.4 s", "3:07", "2:15:09"]);
    }
}
