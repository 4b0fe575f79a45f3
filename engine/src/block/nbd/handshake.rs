//! What is agreed on before the first request: NBD's fixed newstyle negotiation.

use std::fmt::Display;
use std::io;

use super::socket::Line;
use super::uri::NbdUri;
use super::wire::{self, ALLOCATION, DIRTY_BITMAP, be16, violation};
use crate::base::fields::{be32, be64};
use crate::base::{Error, ErrorContext, ErrorKind, Result, limits};

/// What a server that says nothing of it takes at most, and has to.
const LARGEST_REQUEST: u32 = 32 << 20;
/// The least that a server's largest request may be.
const LEAST_MAXIMUM: u32 = 4096;
/// The most that a server's smallest request may be.
const MOST_MINIMUM: u32 = 64 * 1024;

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The export's bytes.
    pub size: u64,
    /// Its transmission flags.
    pub flags: u16,
    /// What offsets and lengths must be multiples of.
    pub minimum: u32,
    /// Bytes of a request at most.
    pub maximum: u32,
    /// Whether replies come in chunks.
    pub is_structured: bool,
    /// What it can be asked about.
    pub contexts: Vec<Context>,
}

/// Something that blocks can be asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// Its number on one connection.
    pub id: u32,
}

/// Agrees with the server at the end of `line` on reading an export. Every dirty bitmap whose name
/// begins with `bitmaps` is asked for.
///
/// # Errors
/// `Io`; `NotFound` for an unknown export; `Unsupported` for what is needed and not to be had.
pub fn negotiate(line: &Line, uri: &NbdUri, bitmaps: &str) -> Result<Agreement> {
    let this = Negotiation { io: line, uri };
    this.greet()?;
    let is_structured = this.ask_for_structure()?;
    let mut contexts = Vec::new();
    if is_structured {
        let query = format!("{DIRTY_BITMAP}{bitmaps}");
        // Some servers take the question for all of a kind only.
        let offered = this.contexts(wire::OPT_LIST_META_CONTEXT, &[DIRTY_BITMAP.to_owned()])?;
        let offered = offered.into_iter().map(|context| context.name);
        let offered = offered.filter(|name| name.starts_with(&query));
        let mut wanted = vec![ALLOCATION.to_owned()];
        wanted.extend(offered.take(limits::MAX_NBD_CONTEXTS - 1));
        contexts = this.contexts(wire::OPT_SET_META_CONTEXT, &wanted)?;
        contexts.retain(|context| wanted.contains(&context.name));
    }
    let mut agreement = this.go()?;
    (agreement.is_structured, agreement.contexts) = (is_structured, contexts);
    agreement.check().context(|| format!("{uri}"))?;
    Ok(agreement)
}

impl Agreement {
    /// Whether several connections see the same.
    pub fn allows_more_connections(&self) -> bool {
        self.flags & wire::EXPORT_CAN_MULTI_CONN != 0
    }

    /// What is not the same as in `other`, if anything is but the contexts' numbers, which hold on
    /// one connection only.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let names = |agreement: &Self| -> Vec<String> {
            agreement.contexts.iter().map(|context| context.name.clone()).collect()
        };
        let requests = |agreement: &Self| format!("{} to {}", agreement.minimum, agreement.maximum);
        let differ = |what: &str, one: &dyn Display, two: &dyn Display| {
            let (one, two) = (one.to_string(), two.to_string());
            (one != two).then(|| format!("{what} {one} before and {two} now"))
        };
        differ("a size of", &self.size, &other.size)
            .or_else(|| differ("flags of", &self.flags, &other.flags))
            .or_else(|| differ("requests of", &requests(self), &requests(other)))
            .or_else(|| differ("chunks:", &self.is_structured, &other.is_structured))
            .or_else(|| differ("contexts", &names(self).join(","), &names(other).join(",")))
    }

    fn check(&self) -> io::Result<()> {
        if self.flags & wire::EXPORT_HAS_FLAGS == 0 {
            return Err(violation(format!("flags {:#x} of the export", self.flags)));
        }
        let (minimum, maximum) = (self.minimum, self.maximum);
        let sound = minimum.is_power_of_two()
            && minimum <= MOST_MINIMUM
            && maximum >= LEAST_MAXIMUM.max(minimum)
            && maximum.is_multiple_of(minimum);
        match sound {
            true => Ok(()),
            false => Err(violation(format!("requests of {minimum} to {maximum} bytes"))),
        }
    }
}

struct Negotiation<'a> {
    io: &'a Line,
    uri: &'a NbdUri,
}

/// A server's answer to an option.
struct Reply {
    kind: u32,
    bytes: Vec<u8>,
}

impl Negotiation<'_> {
    fn greet(&self) -> Result<()> {
        let what = || format!("greet {}", self.uri);
        let magic = u64::from_be_bytes(self.io.array().context(what)?);
        if magic != wire::INIT_MAGIC {
            return Err(violation(format!("it begins with {magic:#x}"))).context(what);
        }
        let style = u64::from_be_bytes(self.io.array().context(what)?);
        let flags = u16::from_be_bytes(self.io.array().context(what)?);
        if style != wire::OPTION_MAGIC || flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
            let context = format!("{}: a server of the old kind (no fixed newstyle)", self.uri);
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let known = flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        self.io.write(&u32::from(known).to_be_bytes()).context(what)
    }

    fn ask_for_structure(&self) -> Result<bool> {
        self.send(wire::OPT_STRUCTURED_REPLY, &[])?;
        let reply = self.reply(wire::OPT_STRUCTURED_REPLY)?;
        match reply.kind {
            wire::REP_ACK => Ok(true),
            wire::REP_ERR_TLS_REQD => Err(self.refused(&reply)),
            kind if kind & wire::REP_ERROR != 0 => Ok(false),
            kind => Err(self.unexpected(kind)),
        }
    }

    /// The contexts that `queries` come to: those that are offered, or those that are set.
    fn contexts(&self, option: u32, queries: &[String]) -> Result<Vec<Context>> {
        let mut request = Vec::new();
        wire::put_string(&mut request, &self.uri.export);
        request.extend(u32::try_from(queries.len()).unwrap_or(u32::MAX).to_be_bytes());
        queries.iter().for_each(|query| wire::put_string(&mut request, query));
        self.send(option, &request)?;
        let mut found = Vec::new();
        for _ in 0..limits::MAX_NBD_OPTION_REPLIES {
            let reply = self.reply(option)?;
            match reply.kind {
                wire::REP_ACK => return Ok(found),
                wire::REP_META_CONTEXT => {
                    let id = be32(&reply.bytes, 0);
                    let name = reply.bytes.get(4..).map(<[u8]>::to_vec);
                    let name = name.and_then(|name| String::from_utf8(name).ok());
                    let (Some(id), Some(name)) = (id, name) else {
                        return Err(self.unexpected(reply.kind));
                    };
                    found.push(Context { name, id });
                }
                // The export is asked for later, and its errors are told then.
                kind if kind & wire::REP_ERROR != 0 => return Ok(Vec::new()),
                kind => return Err(self.unexpected(kind)),
            }
        }
        Err(self.endless())
    }

    fn go(&self) -> Result<Agreement> {
        let mut request = Vec::new();
        wire::put_string(&mut request, &self.uri.export);
        request.extend(1_u16.to_be_bytes());
        request.extend(wire::INFO_BLOCK_SIZE.to_be_bytes());
        self.send(wire::OPT_GO, &request)?;
        let mut export = None;
        let (mut minimum, mut maximum) = (1, LARGEST_REQUEST);
        for _ in 0..limits::MAX_NBD_OPTION_REPLIES {
            let reply = self.reply(wire::OPT_GO)?;
            let bytes = &reply.bytes;
            match (reply.kind, be16(bytes, 0)) {
                (wire::REP_ACK, _) => {
                    let (size, flags) = export.ok_or_else(|| self.unexpected(wire::REP_ACK))?;
                    let contexts = Vec::new();
                    let is_structured = false;
                    return Ok(Agreement {
                        size,
                        flags,
                        minimum,
                        maximum,
                        is_structured,
                        contexts,
                    });
                }
                (wire::REP_INFO, Some(wire::INFO_EXPORT)) => {
                    let found = be64(bytes, 2).zip(be16(bytes, 10));
                    export = Some(found.ok_or_else(|| self.unexpected(reply.kind))?);
                }
                (wire::REP_INFO, Some(wire::INFO_BLOCK_SIZE)) => {
                    let sizes = be32(bytes, 2).zip(be32(bytes, 10));
                    let (least, most) = sizes.ok_or_else(|| self.unexpected(reply.kind))?;
                    minimum = least;
                    // Where there is no limit, it is the largest number, and no multiple.
                    maximum = most.min(LARGEST_REQUEST);
                }
                // Names and descriptions.
                (wire::REP_INFO, Some(_)) => {}
                (kind, _) if kind & wire::REP_ERROR != 0 => return Err(self.refused(&reply)),
                (kind, _) => return Err(self.unexpected(kind)),
            }
        }
        Err(self.endless())
    }

    /// Sends an option: magic, number, length, data.
    fn send(&self, option: u32, data: &[u8]) -> Result<()> {
        let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(data);
        self.io.write(&bytes).context(|| format!("negotiate with {}", self.uri))
    }

    /// The next answer: magic (8 bytes), option (4), type (4), length (4), data.
    fn reply(&self, option: u32) -> Result<Reply> {
        let what = || format!("negotiate with {}", self.uri);
        let header: [u8; 20] = self.io.array().context(what)?;
        let magic = be64(&header, 0).unwrap_or_default();
        let [answered, kind, length] = [8, 12, 16].map(|at| be32(&header, at).unwrap_or_default());
        if magic != wire::OPTION_REPLY_MAGIC || answered != option {
            let found = format!("answer {magic:#x} to option {answered}, asked was {option}");
            return Err(violation(found)).context(what);
        }
        if length > limits::MAX_NBD_OPTION_REPLY {
            return Err(violation(format!("an answer of {length} bytes"))).context(what);
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.io.read_exact(&mut bytes).context(what)?;
        Ok(Reply { kind, bytes })
    }

    /// Why the export cannot be had. The server is told goodbye.
    fn refused(&self, reply: &Reply) -> Error {
        let _ = self.send(wire::OPT_ABORT, &[]);
        let text = String::from_utf8_lossy(&reply.bytes);
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        let text = if text.is_empty() { text } else { format!(" ({text})") };
        let (kind, what) = match reply.kind {
            wire::REP_ERR_UNKNOWN => (ErrorKind::NotFound, "there is no such export"),
            wire::REP_ERR_TLS_REQD => (ErrorKind::Unsupported, "the server demands TLS"),
            wire::REP_ERR_UNSUP => {
                (ErrorKind::Unsupported, "the server is too old (no NBD_OPT_GO)")
            }
            wire::REP_ERR_POLICY => (ErrorKind::Io, "the server does not allow it"),
            _ => (ErrorKind::Io, "the server refuses"),
        };
        Error::new(kind, format!("{}: {what}{text}", self.uri))
    }

    fn unexpected(&self, kind: u32) -> Error {
        let error = violation(format!("an unexpected or short answer of type {kind:#x}"));
        Error::io(format!("negotiate with {}", self.uri), error)
    }

    fn endless(&self) -> Error {
        Error::io(format!("negotiate with {}", self.uri), violation("answers without end"))
    }
}
