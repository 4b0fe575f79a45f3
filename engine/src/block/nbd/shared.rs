//! What the connections to one export share: the queue of requests, and what was agreed on.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::connection::Request;
use super::handshake::{self, Agreement};
use super::socket::{Line, Stop, TICK};
use super::uri::NbdUri;
use crate::base::{Error, ErrorContext, Result};

/// What the names of dirty bitmaps begin with that are of interest.
pub const BITMAPS: &str = "imgx-";
/// How long it may take to connect, and to agree on what is read.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For one more reply, while any is due.
    pub reply: Duration,
    /// For a connection, after one was lost.
    pub outage: Duration,
}

impl Default for Patience {
    /// A minute each.
    fn default() -> Self {
        Self { reply: Duration::from_secs(60), outage: Duration::from_secs(60) }
    }
}

/// What an export's connections share.
pub struct Shared {
    pub uri: NbdUri,
    pub agreement: Agreement,
    pub patience: Patience,
    pub stop: Stop,
    /// A request, or the word to end for one connection.
    inbox: Sender<Option<Request>>,
    queue: Receiver<Option<Request>>,
    /// Whether a lost connection can be made again.
    is_lasting: AtomicBool,
    /// Connections that serve the queue, or are being made again.
    alive: AtomicUsize,
    /// Why nothing can be had any more: kind and text only, no number that might pass for a disk's
    /// error.
    failure: OnceLock<(io::ErrorKind, String)>,
    /// Connections that were made again.
    renewed: AtomicUsize,
}

impl Shared {
    pub fn new(uri: NbdUri, agreement: Agreement, patience: Patience, stop: Stop) -> Self {
        let (inbox, queue) = unbounded();
        Self {
            uri,
            agreement,
            patience,
            stop,
            inbox,
            queue,
            is_lasting: AtomicBool::new(true),
            alive: AtomicUsize::new(0),
            failure: OnceLock::new(),
            renewed: AtomicUsize::new(0),
        }
    }

    /// Asks for something; whoever is free takes it.
    pub fn send(&self, request: Request) {
        // There is a receiver: ours.
        let _ = self.inbox.send(Some(request));
    }

    /// Ends one connection, when it has nothing else to do.
    pub fn end_one(&self) {
        let _ = self.inbox.send(None);
    }

    /// The next request; none when this connection is to end. Fails requests itself once nothing
    /// can be had any more.
    pub fn next(&self) -> Option<Request> {
        loop {
            let request = self.queue.recv().ok().flatten()?;
            match self.failure() {
                None => return Some(request),
                Some(error) => request.fail(error),
            }
        }
    }

    /// The next request, if there is one now.
    pub fn try_next(&self) -> Option<Option<Request>> {
        self.queue.try_recv().ok()
    }

    /// Why nothing can be had any more, if that is so.
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.get().map(|(kind, text)| io::Error::new(*kind, text.clone()))
    }

    /// Counts a connection that begins to serve.
    pub fn begin(&self) {
        self.alive.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes leave of a connection that is lost; returns whether others are left.
    pub fn leave(&self) -> bool {
        self.alive.fetch_sub(1, Ordering::Relaxed) > 1
    }

    /// Nothing can be had any more, because of `error`.
    pub fn fail(&self, error: &io::Error) {
        let _ = self.failure.set((error.kind(), error.to_string()));
    }

    /// The server ends with its last client: who loses it does not find it again.
    pub fn set_fleeting(&self) {
        self.is_lasting.store(false, Ordering::Relaxed);
    }

    /// Whether a lost connection can be made again.
    pub fn is_lasting(&self) -> bool {
        self.is_lasting.load(Ordering::Relaxed)
    }

    /// How often a lost connection was made again.
    pub fn renewed(&self) -> usize {
        self.renewed.load(Ordering::Relaxed)
    }

    /// Connects once more.
    ///
    /// # Errors
    /// `InvalidData` where the export is no longer the same; others may pass by.
    pub fn connect_again(&self) -> io::Result<(Line, Agreement)> {
        let connected = connected(&self.uri, CONNECT_LIMIT, &self.stop);
        let (line, agreement) = connected.map_err(|error| io::Error::other(error.to_string()))?;
        if let Some(difference) = self.agreement.difference(&agreement) {
            let context = format!("it is another export since it was lost: {difference}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, context));
        }
        self.renewed.fetch_add(1, Ordering::Relaxed);
        Ok((line, agreement))
    }

    /// Waits, unless nobody waits for the export any more.
    pub fn pause(&self, mut wait: Duration) -> io::Result<()> {
        while !wait.is_zero() {
            self.stop.check()?;
            sleep(wait.min(TICK));
            wait = wait.saturating_sub(TICK);
        }
        self.stop.check()
    }

    /// What comes from `inbox`, unless nobody waits for it any more.
    pub fn await_on<T>(&self, inbox: &Receiver<T>) -> io::Result<T> {
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(outcome) => return Ok(outcome),
                Err(error) if error.is_timeout() => self.stop.check()?,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

/// A connection on which all is agreed.
///
/// # Errors
/// `Cancelled` when nobody waits for it any more; those of the negotiation.
pub fn connected(uri: &NbdUri, limit: Duration, stop: &Stop) -> Result<(Line, Agreement)> {
    let connect = || {
        let line = Line::connect(&uri.server, limit, stop);
        let line = line.context(|| format!("connect to {uri}"))?;
        let agreement = handshake::negotiate(&line, uri, BITMAPS)?;
        Ok((line, agreement))
    };
    connect().map_err(|error| if stop.is_set() { Error::cancelled() } else { error })
}
