//! Exports of NBD servers, read as disks are: QEMU's disks, running or not, and any other.
//!
//! Our own small client (NBD's `doc/proto.md`): fixed newstyle, `NBD_OPT_GO`, structured replies,
//! and what blocks can be asked about: `base:allocation`, and QEMU's dirty bitmaps. A server is
//! not trusted: every length, cookie and flag is checked against what was asked for, and each
//! wait has a limit and ends when the run is to stop. Reads change nothing, so a connection that
//! is lost is made again, and they are asked for once more.
//!
//! ```text
//! reads, questions ─▶ one queue ─▶ connections, a thread each, several requests in flight ─▶ back
//! ```

mod connection;
mod handshake;
mod server;
mod shared;
mod socket;
mod status;
mod uri;
mod wire;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::Sender;
use nix::libc::EOVERFLOW;

use self::connection::{Connection, Request};
use self::handshake::Agreement;
use self::server::LocalServer;
use self::shared::{BITMAPS, CONNECT_LIMIT, Shared, connected};
use self::socket::{Line, Stop};
use self::wire::LEAST_PIECE;
use super::SourceInfo;
use super::files::index;
use crate::base::check_range;
use crate::base::{ByteOffset, Error, ErrorContext, ErrorKind, Observer, Result, limits};
use crate::sys::{Buffer, BufferPool, Completion};

pub use server::ImageFormat;
pub use shared::Patience;
pub use uri::{NbdServer, NbdUri};

/// How long connections beyond the first may take, which are not needed.
const MORE_LIMIT: Duration = Duration::from_secs(2);
/// Bytes that a read for somebody else's memory goes through at a time.
const BOUNCE_SIZE: usize = limits::MAX_IO_SIZE;

/// An open export.
pub struct NbdExport {
    info: SourceInfo,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    widened: Once,
    bounce: BufferPool,
    /// Ends when nobody is connected any more.
    server: Option<LocalServer>,
}

impl NbdExport {
    /// Connects to the export that a URI names, unless `observer` wants to stop.
    ///
    /// # Errors
    /// `Invalid` for a wrong URI; `NotFound` for an unknown export; `Unsupported` for a server that
    /// demands what is not spoken here; `Io`; `Limit` if it is too large; `Cancelled`.
    pub(super) fn open(source: &Path, patience: Patience, observer: &dyn Observer) -> Result<Self> {
        let text = source.to_str().unwrap_or_default();
        let uri: NbdUri = text.parse()?;
        let stop = Stop::default();
        stop.watched(observer, || {
            Self::connect(uri, (patience, &stop), |size| SourceInfo::of_export(source, size))
        })
    }

    /// The disk in an image file of QEMU's or somebody else's, by a `qemu-nbd` of our own.
    ///
    /// # Errors
    /// `Unsupported` where there is no `qemu-nbd`, or the file refers to others; what that says;
    /// `Cancelled`.
    pub(super) fn open_image(
        (path, format): (&Path, ImageFormat),
        patience: Patience,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let mut server = LocalServer::start(path, format, BITMAPS)?;
        let describe = |size| SourceInfo::of_file(path, size);
        let stop = Stop::default();
        let export =
            stop.watched(observer, || Self::connect(server.uri(), (patience, &stop), describe));
        // It listens before it opens the file.
        let mut export = export.map_err(|error| server.failure().unwrap_or(error))?;
        // From here on nobody else is to connect, and nothing is left when we are killed: the
        // server ends with its last client.
        export.widen();
        export.shared.set_fleeting();
        server.hide();
        export.server = Some(server);
        Ok(export)
    }

    fn connect(
        uri: NbdUri,
        (patience, stop): (Patience, &Stop),
        describe: impl Fn(u64) -> SourceInfo,
    ) -> Result<Self> {
        let (line, agreement) = connected(&uri, CONNECT_LIMIT, stop)?;
        let minimum = u64::from(agreement.minimum);
        let size = agreement.size - agreement.size % minimum;
        if agreement.size > limits::MAX_DISK_SIZE {
            let context = format!("{uri}: {} bytes are too many", agreement.size);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let export = Self {
            info: describe(size),
            shared: Arc::new(Shared::new(uri, agreement, patience, stop.clone())),
            threads: Mutex::default(),
            widened: Once::new(),
            bounce: BufferPool::new(4, BOUNCE_SIZE)?,
            server: None,
        };
        export.start(line, &export.shared.agreement)?;
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
        &self.shared.uri
    }

    /// How often a connection that was lost was made again.
    #[must_use]
    pub fn renewed(&self) -> usize {
        self.shared.renewed()
    }

    /// Does `work`, in which no wait for the server goes on when `observer` wants to stop.
    pub fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        self.shared.stop.watched(observer, work)
    }

    pub(super) fn size(&self) -> u64 {
        self.info.size.0
    }

    /// Bytes that are given up together where reads fail.
    pub(super) fn sector(&self) -> usize {
        self.shared.agreement.minimum.max(512) as usize
    }

    /// What was left out of an export whose size is no multiple of its smallest request.
    pub(super) fn warning(&self) -> Option<String> {
        let (whole, all) = (self.size(), self.shared.agreement.size);
        (whole != all).then(|| {
            format!("{}: has {all} bytes, of which only {whole} can be asked for", self.uri())
        })
    }

    /// Opens more connections, where they are allowed to see the same. Done once.
    pub(super) fn widen(&self) {
        let Shared { uri, agreement, stop, .. } = &*self.shared;
        self.widened.call_once(|| {
            if !agreement.allows_more_connections() {
                return;
            }
            for _ in 1..limits::NBD_CONNECTIONS {
                // Fewer will do.
                let Ok((line, found)) = connected(uri, MORE_LIMIT, stop) else { return };
                if agreement.difference(&found).is_some() || self.start(line, &found).is_err() {
                    return;
                }
            }
        });
    }

    /// Has a thread serve a connection.
    fn start(&self, line: Line, agreement: &Agreement) -> Result<()> {
        let connection = Connection::new(&self.shared, line, agreement);
        let thread = thread::Builder::new().name("nbd".to_owned());
        let thread = thread.spawn(move || connection.run());
        let thread = thread.context(|| "start a thread for a connection")?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    fn contexts(&self) -> impl Iterator<Item = &String> {
        self.shared.agreement.contexts.iter().map(|context| &context.name)
    }

    /// Whether one request can ask for this.
    fn is_one_request(&self, offset: u64, length: usize) -> bool {
        let minimum = u64::from(self.shared.agreement.minimum);
        length > 0
            && length <= self.shared.agreement.maximum as usize
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
            self.shared.send(Request::Read { offset, buffer, tag, outbox });
        } else {
            let result = self.read(offset, &mut buffer);
            let _ = outbox.send(Completion { tag, buffer, result });
        }
    }

    /// Fills `memory` from `offset`, both of any alignment.
    pub(super) fn read(&self, offset: u64, memory: &mut [u8]) -> io::Result<usize> {
        let minimum = u64::from(self.shared.agreement.minimum);
        let mut most = BOUNCE_SIZE.min(self.shared.agreement.maximum as usize);
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
        self.shared.send(Request::Read { offset, buffer, tag: 0, outbox });
        let Completion { buffer, result, .. } = self.shared.await_on(&inbox)?;
        result.map(|_| buffer)
    }

    /// As [`crate::base::ReadAt::read_exact_at`].
    pub(super) fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.info.size, offset, buffer.len())?;
        let read = self.read(offset.0, buffer);
        read.map(|_| ()).map_err(|error| self.reading(offset.0, error))
    }

    /// The error of a read at `offset`.
    pub(super) fn reading(&self, offset: u64, error: io::Error) -> Error {
        self.failed(|| format!("read {} at byte {offset}", self.uri()), error)
    }

    /// The error of what was asked for, which the user may have wanted to stop.
    fn failed(&self, describe: impl FnOnce() -> String, error: io::Error) -> Error {
        match self.shared.stop.is_set() {
            true => Error::cancelled(),
            false => Error::io(describe(), error),
        }
    }

    /// Fails once nobody waits for the server any more.
    pub(super) fn check(&self) -> Result<()> {
        self.shared.stop.check().map_err(|_| Error::cancelled())
    }
}

impl Drop for NbdExport {
    fn drop(&mut self) {
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        threads.iter().for_each(|_| self.shared.end_one());
        // For those that wait for what nobody wants any more.
        self.shared.stop.set();
        threads.drain(..).for_each(|thread| drop(thread.join()));
        self.server = None;
    }
}

impl fmt::Debug for NbdExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NbdExport({}, {} bytes)", self.uri(), self.size())
    }
}
