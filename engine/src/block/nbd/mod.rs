//! Exports of NBD servers, read as disks are: QEMU's disks, running or not, and any other.
//!
//! Our own small client (NBD's `doc/proto.md`): fixed newstyle, `NBD_OPT_GO`, structured replies,
//! and what blocks can be asked about: `base:allocation`, and QEMU's dirty bitmaps. A server is
//! not trusted: every length, cookie and flag is checked against what was asked for, and each
//! wait has a limit.
//!
//! ```text
//! reads, questions ─▶ one queue ─▶ connections, a thread each, several requests in flight ─▶ back
//! ```

mod connection;
mod handshake;
mod server;
mod socket;
mod status;
mod uri;
mod wire;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::libc::EOVERFLOW;

use self::connection::{Connection, PATIENCE, Request};
use self::handshake::Agreement;
use self::server::LocalServer;
use self::socket::Socket;
use self::wire::LEAST_PIECE;
use super::SourceInfo;
use super::files::index;
use super::window::check_range;
use crate::base::{ByteOffset, Error, ErrorContext, ErrorKind, Result, limits};
use crate::sys::{Buffer, BufferPool, Completion};

pub use server::ImageFormat;
pub use uri::{NbdServer, NbdUri};

/// How long it may take to connect, and to agree on what is read.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The same for connections beyond the first, which are not needed.
const MORE_LIMIT: Duration = Duration::from_secs(2);
/// What the names of dirty bitmaps begin with that are of interest.
const BITMAPS: &str = "imgx-";
/// Bytes that a read for somebody else's memory goes through at a time.
const BOUNCE_SIZE: usize = limits::MAX_IO_SIZE;

/// An open export.
pub struct NbdExport {
    uri: NbdUri,
    info: SourceInfo,
    agreement: Agreement,
    /// Taken on drop, which ends the connections.
    requests: Option<Sender<Request>>,
    queue: Receiver<Request>,
    sockets: Mutex<Vec<Arc<Socket>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    widened: Once,
    bounce: BufferPool,
    /// Ends when nobody is connected any more.
    server: Option<LocalServer>,
}

impl NbdExport {
    /// Connects to the export that a URI names.
    ///
    /// # Errors
    /// `Invalid` for a wrong URI; `NotFound` for an unknown export; `Unsupported` for a server that
    /// demands what is not spoken here; `Io`; `Limit` if it is too large.
    pub(super) fn open(source: &Path) -> Result<Self> {
        let text = source.to_str().unwrap_or_default();
        let uri: NbdUri = text.parse()?;
        Self::connect(uri, |size| SourceInfo::of_export(source, size))
    }

    /// The disk in an image file of QEMU's or somebody else's, by a `qemu-nbd` of our own.
    ///
    /// # Errors
    /// `Unsupported` where there is no `qemu-nbd`, or the file refers to others; what that says.
    pub(super) fn open_image(path: &Path, format: ImageFormat) -> Result<Self> {
        let mut server = LocalServer::start(path, format, BITMAPS)?;
        let export = Self::connect(server.uri(), |size| SourceInfo::of_file(path, size));
        // It listens before it opens the file.
        let mut export = export.map_err(|error| server.failure().unwrap_or(error))?;
        // From here on nobody else is to connect, and nothing is left when we are killed: the
        // server ends with its last client.
        export.widen();
        server.hide();
        export.server = Some(server);
        Ok(export)
    }

    fn connect(uri: NbdUri, describe: impl Fn(u64) -> SourceInfo) -> Result<Self> {
        let (socket, agreement) = connected(&uri, CONNECT_LIMIT)?;
        let minimum = u64::from(agreement.minimum);
        let size = agreement.size - agreement.size % minimum;
        if agreement.size > limits::MAX_DISK_SIZE {
            let context = format!("{uri}: {} bytes are too many", agreement.size);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let (requests, queue) = unbounded();
        let export = Self {
            uri,
            info: describe(size),
            agreement,
            requests: Some(requests),
            queue,
            sockets: Mutex::default(),
            threads: Mutex::default(),
            widened: Once::new(),
            bounce: BufferPool::new(4, BOUNCE_SIZE)?,
            server: None,
        };
        export.start(socket, &export.agreement)?;
        Ok(export)
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &SourceInfo {
        &self.info
    }

    /// Where it is.
    #[must_use]
    pub fn uri(&self) -> &NbdUri {
        &self.uri
    }

    pub(super) fn size(&self) -> u64 {
        self.info.size.0
    }

    /// Bytes that are given up together where reads fail.
    pub(super) fn sector(&self) -> usize {
        self.agreement.minimum.max(512) as usize
    }

    /// What was left out of an export whose size is no multiple of its smallest request.
    pub(super) fn warning(&self) -> Option<String> {
        let (whole, all) = (self.size(), self.agreement.size);
        (whole != all).then(|| {
            format!("{}: has {all} bytes, of which only {whole} can be asked for", self.uri)
        })
    }

    /// Opens more connections, where they are allowed to see the same. Done once.
    pub(super) fn widen(&self) {
        self.widened.call_once(|| {
            if !self.agreement.allows_more_connections() {
                return;
            }
            for _ in 1..limits::NBD_CONNECTIONS {
                // Fewer will do.
                let Ok((socket, agreement)) = connected(&self.uri, MORE_LIMIT) else { return };
                let is_same = agreement.size == self.agreement.size
                    && agreement.minimum == self.agreement.minimum
                    && agreement.is_structured == self.agreement.is_structured
                    && agreement.contexts.iter().map(|context| &context.name).eq(self.contexts());
                if !is_same || self.start(socket, &agreement).is_err() {
                    return;
                }
            }
        });
    }

    /// Has a thread serve a connection.
    fn start(&self, socket: Socket, agreement: &Agreement) -> Result<()> {
        socket.limit(PATIENCE).context(|| format!("set up the connection to {}", self.uri))?;
        let socket = Arc::new(socket);
        let connection = Connection::new(Arc::clone(&socket), agreement);
        let queue = self.queue.clone();
        let thread = std::thread::Builder::new().name("nbd".to_owned());
        let thread = thread.spawn(move || connection.run(&queue));
        let thread = thread.context(|| "start a thread for a connection")?;
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    fn contexts(&self) -> impl Iterator<Item = &String> {
        self.agreement.contexts.iter().map(|context| &context.name)
    }

    /// Whether one request can ask for this.
    fn is_one_request(&self, offset: u64, length: usize) -> bool {
        let minimum = u64::from(self.agreement.minimum);
        length > 0
            && length <= self.agreement.maximum as usize
            && offset.is_multiple_of(minimum)
            && (length as u64).is_multiple_of(minimum)
    }

    /// Begins to fill `buffer`, in its length, from `offset`; the outcome goes to `outbox`.
    pub(super) fn begin(
        &self,
        offset: u64,
        mut buffer: Buffer,
        tag: u64,
        outbox: &Sender<Completion>,
    ) {
        if self.is_one_request(offset, buffer.len()) {
            let outbox = outbox.clone();
            self.send(Request::Read { offset, buffer, tag, outbox });
        } else {
            let result = self.read(offset, &mut buffer);
            let _ = outbox.send(Completion { tag, buffer, result });
        }
    }

    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // We hold a receiver ourselves.
            let _ = requests.send(request);
        }
    }

    /// Fills `memory` from `offset`, both of any alignment.
    pub(super) fn read(&self, offset: u64, memory: &mut [u8]) -> io::Result<usize> {
        let minimum = u64::from(self.agreement.minimum);
        let mut most = BOUNCE_SIZE.min(self.agreement.maximum as usize);
        let mut done = 0;
        while done < memory.len() {
            let at = offset + done as u64;
            let from = at - at % minimum;
            let skip = index(at - from);
            let wanted = (memory.len() - done).min(most - skip);
            let end = (at + wanted as u64).next_multiple_of(minimum);
            let bytes = match self.read_aligned(from, index(end - from)) {
                // Too much for one piece.
                Err(error) if error.raw_os_error() == Some(EOVERFLOW) && most > LEAST_PIECE => {
                    most = LEAST_PIECE;
                    continue;
                }
                bytes => bytes?,
            };
            memory[done..done + wanted].copy_from_slice(&bytes[skip..skip + wanted]);
            done += wanted;
        }
        Ok(done)
    }

    fn read_aligned(&self, offset: u64, length: usize) -> io::Result<Buffer> {
        let buffer = self.bounce.take(&|| false);
        let mut buffer = buffer.map_err(|error| io::Error::other(error.to_string()))?;
        buffer.set_len(length);
        let (outbox, inbox) = crossbeam_channel::bounded(1);
        self.send(Request::Read { offset, buffer, tag: 0, outbox });
        let Completion { buffer, result, .. } = inbox.recv().map_err(io::Error::other)?;
        result.map(|_| buffer)
    }

    /// As [`super::ReadAt::read_exact_at`].
    pub(super) fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.info.size, offset, buffer.len())?;
        let read = self.read(offset.0, buffer);
        read.map(|_| ()).map_err(|error| self.reading(offset.0, error))
    }

    /// The error of a read at `offset`.
    pub(super) fn reading(&self, offset: u64, error: io::Error) -> Error {
        Error::io(format!("read {} at byte {offset}", self.uri), error)
    }
}

impl Drop for NbdExport {
    fn drop(&mut self) {
        self.requests = None;
        for socket in self.sockets.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let goodbye = wire::request((0, wire::CMD_DISC), 0, 0, 0);
            let _ = io::Write::write_all(&mut &**socket, &goodbye);
            socket.shut_down();
        }
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
        self.server = None;
    }
}

impl fmt::Debug for NbdExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NbdExport({}, {} bytes)", self.uri, self.size())
    }
}

/// A connection on which all is agreed.
fn connected(uri: &NbdUri, limit: Duration) -> Result<(Socket, Agreement)> {
    let socket = Socket::connect(&uri.server, limit).context(|| format!("connect to {uri}"))?;
    let agreement = handshake::negotiate(&socket, uri, BITMAPS, limit)?;
    Ok((socket, agreement))
}
