//! How files are listed: a name or a long line for people, a JSON object a line for programs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use imgx_engine::base::{Result, path};
use imgx_engine::fs::{FileType, Metadata, Protection};
use serde_json::{Map, Value, json};

use crate::output::{Console, harmless, is_harmful};
use crate::zone::Zone;

/// Bytes that are gathered before they are printed.
const GATHERED: usize = 64 * 1024;

/// A file that is to be listed.
pub struct Row<'a> {
    /// Its volume's name.
    pub volume: &'a str,
    /// Its path on the volume.
    pub path: &'a [u8],
    /// What people see of the path.
    pub shown: &'a [u8],
    /// Its attributes.
    pub metadata: &'a Metadata,
    /// What it says, if it is a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// Prints rows, many at a time.
pub struct Listing<'a> {
    console: &'a Console,
    is_long: bool,
    zone: Zone,
    gathered: String,
}

impl<'a> Listing<'a> {
    /// A listing on `console`, with times of `zone`.
    pub fn new(console: &'a Console, is_long: bool, zone: Zone) -> Self {
        Self { console, is_long, zone, gathered: String::new() }
    }

    /// Whether links' targets are shown.
    pub fn has_targets(&self) -> bool {
        self.is_long || self.console.is_json()
    }

    /// Adds a row.
    ///
    /// # Errors
    /// `Io` when standard output takes no more.
    pub fn add(&mut self, row: &Row<'_>) -> Result<()> {
        if self.console.is_json() {
            self.gathered.push_str(&json_row(row).to_string());
        } else {
            if self.is_long {
                self.gathered.push_str(&self.long(row.metadata));
            }
            match std::str::from_utf8(row.shown) {
                Ok(plain) if !plain.contains(is_harmful) => self.gathered.push_str(plain),
                _ => self.gathered.push_str(&harmless(&printable(row.shown))),
            }
            if let Some(target) = row.target.as_ref().filter(|_| self.is_long) {
                self.gathered.push_str(" -> ");
                self.gathered.push_str(&harmless(&printable(target)));
            }
        }
        self.gathered.push('\n');
        if self.gathered.len() >= GATHERED {
            self.flush();
        }
        self.console.check()
    }

    /// Prints what was gathered.
    pub fn flush(&mut self) {
        self.console.lines(&self.gathered);
        self.gathered.clear();
    }

    fn long(&self, metadata: &Metadata) -> String {
        let size = match metadata.device {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => metadata.size.to_string(),
        };
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let time = metadata.modified.map_or_else(|| "-".to_owned(), |time| self.zone.shown(time));
        let (uid, gid) = (id(metadata.uid), id(metadata.gid));
        let (mode, links) = (mode(metadata), metadata.links);
        let special = special(metadata.protection);
        format!("{mode}{special}{links:>3} {uid:>5} {gid:>5} {size:>12} {time:>19} ")
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The name of a type in JSON.
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

/// Bytes for people: what is no UTF-8 stands as `\x..`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// A path as a member of a JSON document.
pub fn put_path(document: &mut Value, key: &str, path: &Path) {
    if let Value::Object(object) = document {
        path::put(object, key, path.as_os_str());
    }
}

/// Bytes in JSON: as text, and where they are no UTF-8, exactly in base64 beside it.
pub fn put_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    path::put(object, key, OsStr::from_bytes(bytes));
}

fn json_row(row: &Row<'_>) -> Value {
    let metadata = row.metadata;
    let mut object = Map::new();
    put_bytes(&mut object, "path", row.path);
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("volume", row.volume.into());
    put("type", type_name(metadata.file_type).into());
    put("size", metadata.size.into());
    put("mode", metadata.mode.into());
    put("uid", metadata.uid.into());
    put("gid", metadata.gid.into());
    put("nlink", metadata.links.into());
    put("mtime", metadata.modified.map(|time| time.seconds).into());
    put("mtime_ns", metadata.modified.map(|time| time.nanoseconds).into());
    if let Some((major, minor)) = metadata.device {
        put("device", json!([major, minor]));
    }
    match metadata.protection {
        Protection::None => {}
        Protection::Encrypted => drop(put("encrypted", true.into())),
        Protection::Elsewhere => drop(put("elsewhere", true.into())),
        Protection::Verity => drop(put("verity", true.into())),
        Protection::Casefold => drop(put("casefold", true.into())),
    }
    if let Some(target) = &row.target {
        put_bytes(&mut object, "target", target);
    }
    object.into()
}

/// The letter that `lsattr` has for what is special about a file, or Windows' `attrib` (offline).
fn special(protection: Protection) -> char {
    match protection {
        Protection::None => ' ',
        Protection::Encrypted => 'E',
        Protection::Elsewhere => 'O',
        Protection::Verity => 'V',
        Protection::Casefold => 'F',
    }
}

/// Type and mode as `ls` spells them. A filesystem without modes has dashes.
fn mode(metadata: &Metadata) -> String {
    let kind = match metadata.file_type {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    };
    let bits = metadata.mode.unwrap_or(0);
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let of_class = bits >> shift;
        text.push(if of_class & 4 != 0 { 'r' } else { '-' });
        text.push(if of_class & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, of_class & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_survive() {
        let mut object = Map::new();
        put_bytes(&mut object, "path", b"/a\xffb");
        assert_eq!(object["path"], "/a\u{fffd}b");
        assert_eq!(object["path_b64"], "L2H/Yg==");
        assert_eq!(printable(b"/a\xff\x80b"), "/a\\xff\\x80b");
    }
}
