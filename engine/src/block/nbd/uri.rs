//! Where an export is: the URIs of NBD's `doc/uri.md`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::base::{Error, ErrorKind, Result, limits};

/// The port that IANA gave to NBD.
const PORT: u16 = 10809;

/// An export's place and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    /// Where its server listens.
    pub server: NbdServer,
    /// Its name; the empty one is the server's default.
    pub export: String,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdServer {
    /// Host and port.
    Tcp(String, u16),
    /// A socket in the filesystem.
    Unix(PathBuf),
}

impl NbdUri {
    /// Whether a source names an export rather than a device or file.
    #[must_use]
    pub fn is_one(source: &Path) -> bool {
        let scheme = source.to_str().and_then(|source| source.split_once("://"));
        scheme.is_some_and(|(scheme, _)| {
            let scheme = scheme.to_ascii_lowercase();
            scheme.split('+').next().is_some_and(|first| first == "nbd" || first == "nbds")
        })
    }
}

impl FromStr for NbdUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorKind::Invalid, format!("{text}: {what}"));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("not a URI"))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decoded(path).ok_or_else(|| wrong("the export's name is not UTF-8"))?;
        if export.len() > limits::MAX_NBD_NAME {
            return Err(wrong("the export's name is too long"));
        }
        let server = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => tcp(authority).ok_or_else(|| wrong("expected nbd://HOST[:PORT]/EXPORT"))?,
            "nbd+unix" if authority.is_empty() => {
                let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
                let socket = socket.and_then(decoded).filter(|socket| !socket.is_empty());
                let expected = "expected nbd+unix:///EXPORT?socket=PATH";
                NbdServer::Unix(socket.ok_or_else(|| wrong(expected))?.into())
            }
            "nbd+unix" => return Err(wrong("expected three slashes after nbd+unix:")),
            other => {
                let context = format!("{text}: {other} exports: only nbd and nbd+unix are read");
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
        };
        Ok(Self { server, export })
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            NbdServer::Tcp(host, port) if host.contains(':') => write!(f, "nbd://[{host}]:{port}/"),
            NbdServer::Tcp(host, port) => write!(f, "nbd://{host}:{port}/"),
            NbdServer::Unix(_) => f.write_str("nbd+unix:///"),
        }?;
        f.write_str(&encoded(&self.export))?;
        match &self.server {
            NbdServer::Unix(path) => write!(f, "?socket={}", encoded(&path.to_string_lossy())),
            NbdServer::Tcp(..) => Ok(()),
        }
    }
}

/// `[user@]host[:port]`, where an IPv6 address stands in brackets. A user matters to TLS only.
fn tcp(authority: &str) -> Option<NbdServer> {
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, rest) = match place.strip_prefix('[') {
        Some(address) => address.split_once(']')?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some("") => PORT,
        Some(port) => port.parse().ok()?,
        None if rest.is_empty() => PORT,
        None => return None,
    };
    let host = decoded(host).filter(|host| !host.is_empty())?;
    Some(NbdServer::Tcp(host, port))
}

/// Text with its `%XX` resolved; none if that is not UTF-8 or holds a zero byte.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> NbdUri {
        NbdUri { server: NbdServer::Tcp(host.to_owned(), port), export: export.to_owned() }
    }

    #[test]
    fn the_specifications_uris_are_understood() {
        let unix = |path: &str, export: &str| NbdUri {
            server: NbdServer::Unix(path.into()),
            export: export.to_owned(),
        };
        for (text, expected) in [
            ("nbd://example.com", tcp("example.com", 10809, "")),
            ("nbd://example.com/", tcp("example.com", 10809, "")),
            ("NBD://me@localhost:1234/disk", tcp("localhost", 1234, "disk")),
            ("nbd://[::1]:99//a%20b", tcp("::1", 99, "/a b")),
            ("nbd+unix:///?socket=/run/a.sock", unix("/run/a.sock", "")),
            ("nbd+unix:///vda?x=1&socket=a%3Fb", unix("a?b", "vda")),
        ] {
            let uri: NbdUri = text.parse().expect(text);
            assert_eq!(uri, expected, "{text}");
            assert_eq!(uri.to_string().parse::<NbdUri>().expect("its own form"), uri);
            assert!(NbdUri::is_one(Path::new(text)), "{text}");
        }
        assert!(!NbdUri::is_one(Path::new("/dev/nbd0")));
        assert!(!NbdUri::is_one(Path::new("http://host/nbd")));
    }

    #[test]
    fn wrong_uris_are_refused() {
        for (text, kind) in [
            ("nbd:///export", ErrorKind::Invalid),
            ("nbd://host:port/", ErrorKind::Invalid),
            ("nbd://host/%00", ErrorKind::Invalid),
            ("nbd://host/%f", ErrorKind::Invalid),
            ("nbd+unix:///export", ErrorKind::Invalid),
            ("nbd+unix://host/export?socket=a", ErrorKind::Invalid),
            ("nbds://host/", ErrorKind::Unsupported),
            ("nbd+vsock:///", ErrorKind::Unsupported),
        ] {
            assert_eq!(text.parse::<NbdUri>().expect_err(text).kind(), kind, "{text}");
        }
    }
}
