//! Paths in JSON. Linux's are bytes: as text where they are that, and where not, exactly, in
//! base64 in a member of their own beside it, as files' names are.
//!
//! No path is serialized in any other way: serde fails for one that is not UTF-8.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, Error as _};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// What stands beside bytes' text where that is not all of them: base64.
#[must_use]
pub fn exactly(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes))
}

/// The members `path` and, where it is needed, `path_b64`.
#[derive(Serialize, Deserialize)]
struct Members<'a> {
    path: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

/// Serializes a path as members of what holds it: `#[serde(flatten, with = "path")]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let path_b64 = exactly(path.as_os_str().as_bytes());
    Members { path: path.to_string_lossy(), path_b64 }.serialize(serializer)
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// The deserializer's, also for what is no base64.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let Members { path, path_b64 } = Members::deserialize(deserializer)?;
    let Some(exact) = path_b64 else { return Ok(PathBuf::from(path.into_owned())) };
    let bytes = STANDARD.decode(exact).map_err(D::Error::custom)?;
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// Adds a path to a JSON object as the member `name`, and `name` with `_b64` where it is needed.
pub fn put(object: &mut serde_json::Map<String, serde_json::Value>, name: &str, path: &OsStr) {
    object.insert(name.to_owned(), path.to_string_lossy().into());
    if let Some(exact) = exactly(path.as_bytes()) {
        object.insert(format!("{name}_b64"), exact.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        before: u64,
        #[serde(flatten, with = "super")]
        path: PathBuf,
    }

    #[test]
    fn any_path_reads_back_and_plain_ones_are_plain_text() {
        for bytes in [b"/dev/sda".as_slice(), b"/a\xff/\xc3", b"", "/ä\u{202e}".as_bytes()] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let holder = Holder { before: u64::MAX, path };
            let json = serde_json::to_string(&holder).expect("any path can be written");
            let again: Holder = serde_json::from_str(&json).expect("read");
            assert_eq!(again, holder, "{json}");
            let value = serde_json::to_value(&holder).expect("any path can be written");
            assert_eq!(value.get("path_b64").is_some(), std::str::from_utf8(bytes).is_err());
            assert_eq!(serde_json::from_value::<Holder>(value).expect("read"), holder);
        }
        let plain = r#"{"before":1,"path":"/x"}"#;
        let holder: Holder = serde_json::from_str(plain).expect("as earlier versions wrote it");
        assert_eq!(serde_json::to_string(&holder).expect("written"), plain);
        let wild = r#"{"before":1,"path":"/x","path_b64":"!"}"#;
        assert!(serde_json::from_str::<Holder>(wild).is_err());
    }
}
