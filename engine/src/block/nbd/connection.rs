//! A connection at work: a thread that sends requests and takes replies in, several in flight.
//!
//! Requests come from one queue that all connections of an export take from, and each goes back
//! with its buffer to whoever asked. A connection that is lost is made again, and what was in
//! flight is asked for once more. After a violation of the protocol nothing on the wire can be
//! understood any more: what is in flight fails, and so does all that comes later.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::handshake::{Agreement, Context};
use super::shared::Shared;
use super::socket::{Line, explained};
use super::wire::{self, ChunkHeader, SimpleReply, be16, error_of, violation};
use crate::base::fields::{be32, be64};
use crate::base::limits;
use crate::block::files::index;
use crate::sys::{Buffer, Completion};

/// Reads in flight on one connection at most: their requests fit any socket's buffer, so that
/// sending never waits for a server that is sending itself.
const IN_FLIGHT: usize = 16;
/// Requests that one read is divided into at most.
const MAX_PARTS: u64 = 64;
/// Bytes of such a request, where that is enough: servers take a buffer for each, and fill and
/// send those much faster that fit the processor's caches (measured: 2.5 against 1.3 GiB/s).
const PART: usize = 256 * 1024;
/// How long a lost connection is left alone before it is made again; twice as long each further
/// time that comes to nothing, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of an error's text at most.
const MAX_TEXT: usize = 4096;

/// Something that an export is asked for.
pub enum Request {
    /// To fill `buffer` from `offset`.
    Read {
        /// Where.
        offset: u64,
        /// With its length set; not empty.
        buffer: Buffer,
        /// What the completion is known by.
        tag: u64,
        /// Who waits for it.
        outbox: Sender<Completion>,
    },
    /// To describe blocks.
    Status {
        /// From here.
        offset: u64,
        /// So many bytes.
        length: u32,
        /// The number of the context among those agreed on.
        context: usize,
        /// Who waits for it.
        outbox: Sender<io::Result<Vec<(u32, u32)>>>,
    },
}

/// A connection's thread.
pub struct Connection {
    shared: Arc<Shared>,
    input: BufReader<Line>,
    contexts: Vec<Context>,
    is_structured: bool,
    read_flags: u16,
    /// The number of the last read or question. Its requests' cookies are that times
    /// [`MAX_PARTS`], and the part.
    last: u64,
    pending: HashMap<u64, Pending>,
    outage: Option<Outage>,
}

/// The time since a connection was lost in which nothing that was asked for came as a whole.
struct Outage {
    since: Instant,
    pause: Duration,
}

/// What was asked for, and what came of it so far.
struct Pending {
    request: Request,
    /// A bit for each part whose reply is not complete.
    open: u64,
    /// The parts of a read's buffer that were filled: sorted, disjoint.
    filled: Vec<(usize, usize)>,
    extents: Option<Vec<(u32, u32)>>,
    error: Option<io::Error>,
    /// Chunks of the reply so far.
    chunks: usize,
}

impl Connection {
    /// A connection over `line`, on which all was agreed.
    pub fn new(shared: &Arc<Shared>, line: Line, agreement: &Agreement) -> Self {
        let (contexts, is_structured) = (agreement.contexts.clone(), agreement.is_structured);
        // QEMU gives the connection up where it fails to read for a reply that may come in pieces;
        // where it may not, it sends the error.
        let in_one = is_structured && agreement.flags & wire::EXPORT_SEND_DF != 0;
        let read_flags = if in_one { wire::FLAG_DF } else { 0 };
        let (shared, input) = (Arc::clone(shared), input(shared, line));
        let (last, pending, outage) = (0, HashMap::new(), None);
        Self { shared, input, contexts, is_structured, read_flags, last, pending, outage }
    }

    /// Serves requests until it is told to end.
    pub fn run(mut self) {
        self.shared.begin();
        loop {
            let Err(lost) = self.serve() else {
                self.input.get_ref().part();
                return;
            };
            let Err(error) = self.renew(lost) else { continue };
            // Others may still have theirs.
            let passes_on = is_loss(&error) && !self.shared.stop.is_set();
            if self.shared.leave() && passes_on {
                let pending = self.pending.into_values();
                pending.for_each(|pending| self.shared.send(pending.request));
                return;
            }
            self.shared.fail(&error);
            for pending in self.pending.into_values() {
                pending.request.fail(self.shared.failure().unwrap_or_else(super::socket::ended));
            }
            // It fails all that comes.
            let _ended = self.shared.next();
            return;
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            while self.pending.len() < IN_FLIGHT {
                let next = match self.pending.is_empty() {
                    true => Some(self.shared.next()),
                    false => self.shared.try_next(),
                };
                match next {
                    Some(Some(request)) => self.send(request)?,
                    // Whoever ends it does not wait for what is in flight.
                    Some(None) => return Ok(()),
                    None => break,
                }
            }
            self.receive().map_err(|error| explained(&error))?;
        }
    }

    /// Makes the connection again that ended with `lost`, and asks for all that is pending.
    ///
    /// # Errors
    /// Why that is not possible.
    fn renew(&mut self, lost: io::Error) -> io::Result<()> {
        let is_late = lost.kind() == io::ErrorKind::TimedOut;
        // One that is made again and kept waiting again would be for ever.
        if !is_loss(&lost) || !self.shared.is_lasting() || is_late && self.outage.is_some() {
            return Err(lost);
        }
        let mut last = None;
        loop {
            let start = Outage { since: Instant::now(), pause: FIRST_PAUSE };
            let outage = self.outage.get_or_insert(start);
            if outage.since.elapsed() + outage.pause > self.shared.patience.outage {
                return Err(match last {
                    Some(last) => io::Error::new(lost.kind(), format!("{lost}; then: {last}")),
                    None => lost,
                });
            }
            let pause = outage.pause;
            outage.pause = (pause * 2).min(LAST_PAUSE);
            self.shared.pause(pause)?;
            match self.shared.connect_again() {
                Ok((line, agreement)) => {
                    self.input = input(&self.shared, line);
                    self.contexts = agreement.contexts;
                    match self.send_again() {
                        Ok(()) => return Ok(()),
                        Err(error) => last = Some(error),
                    }
                }
                Err(error) if !is_loss(&error) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
    }

    /// Asks for all that is pending, as if nothing of it had come.
    fn send_again(&mut self) -> io::Result<()> {
        let mut requests: Vec<_> = self.pending.drain().collect();
        requests.sort_unstable_by_key(|(number, _)| *number);
        let mut outcome = Ok(());
        for (_, pending) in requests {
            let sent = self.send(pending.request);
            outcome = outcome.and(sent);
        }
        outcome
    }

    fn send(&mut self, request: Request) -> io::Result<()> {
        // Never the same twice, so that an answer that comes too late is noticed.
        self.last += 1;
        let cookie = self.last * MAX_PARTS;
        let (mut bytes, mut open) = (Vec::new(), 1);
        match &request {
            Request::Read { offset, buffer, .. } => {
                let size = part_size(buffer.len());
                open = 0;
                for (part, place) in (0_u64..).zip((0..buffer.len()).step_by(size)) {
                    let length = size.min(buffer.len() - place);
                    let length = u32::try_from(length).unwrap_or(u32::MAX);
                    let command = (self.read_flags, wire::CMD_READ);
                    let offset = offset + place as u64;
                    bytes.extend(wire::request(command, cookie + part, offset, length));
                    open |= 1 << part;
                }
            }
            Request::Status { offset, length, .. } => {
                let command = (0, wire::CMD_BLOCK_STATUS);
                bytes.extend(wire::request(command, cookie, *offset, *length));
            }
        }
        let (filled, extents, error, chunks) = (Vec::new(), None, None, 0);
        let pending = Pending { request, open, filled, extents, error, chunks };
        if self.pending.is_empty() {
            self.input.get_ref().restart();
        }
        self.pending.insert(self.last, pending);
        self.input.get_ref().write(&bytes)
    }

    /// Takes in one simple reply, or one chunk of a structured one.
    fn receive(&mut self) -> io::Result<()> {
        let magic = u32::from_be_bytes(self.array()?);
        match magic {
            wire::SIMPLE_REPLY_MAGIC => {
                let reply = SimpleReply::parse(&self.array()?);
                self.simple(reply)
            }
            wire::CHUNK_MAGIC if self.is_structured => {
                let header = ChunkHeader::parse(&self.array()?);
                self.chunk(header)
            }
            other => Err(violation(format!("a reply begins with {other:#x}"))),
        }
    }

    fn simple(&mut self, reply: SimpleReply) -> io::Result<()> {
        let mut pending = self.take(reply.cookie)?;
        let taken = self.simple_of(&mut pending, reply);
        self.put_back(pending, reply.cookie, taken.is_ok());
        taken
    }

    fn simple_of(&mut self, pending: &mut Pending, reply: SimpleReply) -> io::Result<()> {
        if reply.error != 0 {
            pending.error.get_or_insert(error_of(reply.error, ""));
            return Ok(());
        }
        let Request::Read { offset, buffer, .. } = &pending.request else {
            return Err(violation("a simple reply where a structured one is due"));
        };
        if self.is_structured {
            return Err(violation("a simple reply where a structured one is due"));
        }
        let size = part_size(buffer.len());
        let place = index(reply.cookie % MAX_PARTS) * size;
        let length = u32::try_from(size.min(buffer.len() - place)).unwrap_or(u32::MAX);
        let offset = *offset + place as u64;
        self.input.read_exact(pending.claim(offset, length)?)
    }

    fn chunk(&mut self, header: ChunkHeader) -> io::Result<()> {
        let mut pending = self.take(header.cookie)?;
        pending.chunks += 1;
        let taken = self.chunk_of(&mut pending, header);
        let is_last = taken.is_ok() && header.flags & wire::CHUNK_DONE != 0;
        self.put_back(pending, header.cookie, is_last);
        taken
    }

    /// Goes on waiting, unless this was the last that was missing.
    fn put_back(&mut self, mut pending: Pending, cookie: u64, is_last: bool) {
        if is_last {
            pending.open &= !(1 << (cookie % MAX_PARTS));
            // While replies come, however slowly, there is hope.
            self.input.get_ref().restart();
        }
        if pending.open == 0 {
            self.outage = None;
            pending.end();
        } else {
            self.pending.insert(cookie / MAX_PARTS, pending);
        }
    }

    fn chunk_of(&mut self, pending: &mut Pending, header: ChunkHeader) -> io::Result<()> {
        let ChunkHeader { flags, kind, length, .. } = header;
        if pending.chunks > limits::MAX_NBD_CHUNKS {
            return Err(violation("a reply without end"));
        }
        if flags & !wire::CHUNK_DONE != 0 {
            return Err(violation(format!("a chunk with flags {flags:#x}")));
        }
        match kind {
            wire::CHUNK_NONE if length == 0 && flags & wire::CHUNK_DONE != 0 => Ok(()),
            wire::CHUNK_OFFSET_DATA if length > 8 => {
                let offset = u64::from_be_bytes(self.array()?);
                let place = pending.claim(offset, length - 8)?;
                self.input.read_exact(place)
            }
            wire::CHUNK_OFFSET_HOLE if length == 12 => {
                let bytes: [u8; 12] = self.array()?;
                let offset = be64(&bytes, 0).unwrap_or_default();
                pending.claim(offset, be32(&bytes, 8).unwrap_or_default())?.fill(0);
                Ok(())
            }
            wire::CHUNK_BLOCK_STATUS if length <= limits::MAX_NBD_STATUS => {
                let bytes = self.bytes(length)?;
                self.describe(pending, &bytes)
            }
            kind if kind & wire::CHUNK_ERROR != 0 && length as usize <= MAX_TEXT + 14 => {
                let bytes = self.bytes(length)?;
                pending.fail(&bytes)
            }
            kind => Err(violation(format!("a chunk of type {kind:#x} and {length} bytes"))),
        }
    }

    /// Takes in what is said of blocks: the context's number, then extents.
    fn describe(&self, pending: &mut Pending, bytes: &[u8]) -> io::Result<()> {
        let Request::Status { context, .. } = &pending.request else {
            return Err(violation("a description of blocks where data is due"));
        };
        let id = be32(bytes, 0).ok_or_else(|| violation("an empty description of blocks"))?;
        if !self.contexts.iter().any(|known| known.id == id) {
            return Err(violation(format!("blocks are described in context {id}")));
        }
        if self.contexts.get(*context).is_none_or(|wanted| wanted.id != id) {
            return Ok(());
        }
        let extents = bytes.get(4..).unwrap_or_default();
        let pair = |pair: &[u8]| Some((be32(pair, 0)?, be32(pair, 4)?));
        let extents: Option<Vec<_>> = extents.chunks(8).map(pair).collect();
        let sound = extents
            .filter(|extents| !extents.is_empty() && extents.iter().all(|(length, _)| *length > 0));
        let extents = sound.ok_or_else(|| violation("an empty extent of blocks"))?;
        match pending.extents.replace(extents) {
            None => Ok(()),
            Some(_) => Err(violation("blocks are described twice")),
        }
    }

    /// What a reply belongs to. It must be put back, or nobody hears of it any more.
    fn take(&mut self, cookie: u64) -> io::Result<Pending> {
        let number = cookie / MAX_PARTS;
        let is_open = |pending: &Pending| pending.open >> (cookie % MAX_PARTS) & 1 == 1;
        let found = self.pending.get(&number).filter(|pending| is_open(pending));
        let pending = found.is_some().then(|| self.pending.remove(&number)).flatten();
        pending.ok_or_else(|| violation(format!("a reply to request {cookie}, which is not open")))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map(|()| bytes)
    }

    fn bytes(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map(|()| bytes)
    }
}

impl Pending {
    /// The part of a read's buffer that `length` bytes from `offset` belong to, for the first time.
    fn claim(&mut self, offset: u64, length: u32) -> io::Result<&mut [u8]> {
        let Request::Read { offset: start, buffer, .. } = &mut self.request else {
            return Err(violation("data where a description of blocks is due"));
        };
        let from = offset.checked_sub(*start).and_then(|from| usize::try_from(from).ok());
        let range = from.and_then(|from| Some((from, from.checked_add(length as usize)?)));
        let range = range.filter(|(from, to)| from < to && *to <= buffer.len());
        let (from, to) =
            range.ok_or_else(|| violation(format!("{length} bytes at {offset} unasked")))?;
        let pieces = self.filled.len();
        let at = self.filled.partition_point(|(start, _)| *start < from);
        let overlaps_next = self.filled.get(at).is_some_and(|(start, _)| *start < to);
        match self.filled[..at].last_mut() {
            Some((_, end)) if *end > from || overlaps_next => overlapping(offset, length)?,
            None if overlaps_next => overlapping(offset, length)?,
            Some((_, end)) if *end == from => *end = to,
            _ if pieces < limits::MAX_NBD_PIECES => self.filled.insert(at, (from, to)),
            _ => return Err(violation("data in too many pieces")),
        }
        Ok(&mut buffer[from..to])
    }

    /// Takes in an error: its number (4 bytes), a text's length (2), the text.
    fn fail(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = be32(bytes, 0).filter(|number| *number != 0);
        let text = be16(bytes, 4).and_then(|length| bytes.get(6..)?.get(..usize::from(length)));
        let (Some(number), Some(text)) = (number, text) else {
            return Err(violation("an error without number or text"));
        };
        let text = String::from_utf8_lossy(text);
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        self.error.get_or_insert(error_of(number, &text));
        Ok(())
    }

    /// The reply is complete.
    fn end(mut self) {
        let result = match self.error.take() {
            Some(error) => Err(error),
            None => self.whole(),
        };
        self.request.end(result, self.extents.unwrap_or_default());
    }

    /// Fails unless all came that was asked for.
    fn whole(&self) -> io::Result<()> {
        let mut at = 0;
        match &self.request {
            Request::Read { buffer, .. } => {
                let joins = |(from, to): &(usize, usize)| {
                    let does = *from == at;
                    at = *to;
                    does
                };
                let is_whole = self.filled.iter().all(joins) && at == buffer.len();
                if is_whole { Ok(()) } else { Err(violation("a reply without all of the data")) }
            }
            Request::Status { .. } if self.extents.is_some() => Ok(()),
            Request::Status { .. } => Err(violation("a reply that describes no blocks")),
        }
    }
}

/// Small, so that all but the first bytes of data go straight to where they belong.
fn input(shared: &Shared, line: Line) -> BufReader<Line> {
    BufReader::with_capacity(512, line.with_limit(shared.patience.reply))
}

/// Whether a connection ended without any fault in what was said on it.
fn is_loss(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::InvalidData
}

/// Bytes of each request but the last that a read of `length` bytes is divided into.
fn part_size(length: usize) -> usize {
    length.div_ceil(index(MAX_PARTS)).next_multiple_of(PART)
}

fn overlapping(offset: u64, length: u32) -> io::Result<()> {
    Err(violation(format!("{length} bytes at {offset} a second time")))
}

impl Request {
    /// It cannot be had.
    pub fn fail(self, error: io::Error) {
        self.end(Err(error), Vec::new());
    }

    /// Gives the outcome to whoever asked, if it still listens.
    fn end(self, result: io::Result<()>, extents: Vec<(u32, u32)>) {
        match self {
            Self::Read { buffer, tag, outbox, .. } => {
                let result = result.map(|()| buffer.len());
                let _ = outbox.send(Completion { tag, buffer, result });
            }
            Self::Status { outbox, .. } => {
                let _ = outbox.send(result.map(|()| extents));
            }
        }
    }
}
