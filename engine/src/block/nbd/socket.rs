//! A connection's socket, with limits on how long anything may take.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::uri::NbdServer;
use super::wire;
use crate::base::Observer;
use crate::sys::threads;

/// How often a wait looks whether it is still wanted.
pub const TICK: Duration = Duration::from_millis(100);

/// Whether nobody waits for a server any more.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on, and for all.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is so.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if it is so.
    pub fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::Error::other("cancelled")) } else { Ok(()) }
    }

    /// Does `work`, in which it is set when `observer` wants to stop.
    pub fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        let (end, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            // Without it, waits end by their own limits.
            let _watching = threads::start(scope, move || {
                while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                    if observer.cancelled() {
                        self.set();
                    }
                }
            });
            let done = work();
            drop(end);
            done
        })
    }
}

/// A connected socket.
#[derive(Debug)]
enum Socket {
    /// Over a network.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Socket {
    /// Has each read and write wait no longer than until somebody looks whether it is wanted.
    fn set_tick(&self) -> io::Result<()> {
        let tick = Some(TICK);
        match self {
            Self::Tcp(socket) => {
                socket.set_read_timeout(tick).and_then(|()| socket.set_write_timeout(tick))
            }
            Self::Unix(socket) => {
                socket.set_read_timeout(tick).and_then(|()| socket.set_write_timeout(tick))
            }
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => (&*socket).read(buffer),
            Socket::Unix(socket) => (&*socket).read(buffer),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => (&*socket).write(bytes),
            Socket::Unix(socket) => (&*socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect(server: &NbdServer, limit: Duration) -> io::Result<Socket> {
    let (host, port) = match server {
        NbdServer::Unix(path) => return UnixStream::connect(path).map(Socket::Unix),
        NbdServer::Tcp(host, port) => (host.as_str(), *port),
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(Socket::Tcp(socket));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A socket whose reads and writes end when they are late, or nobody wants them any more.
#[derive(Debug)]
pub struct Line {
    socket: Socket,
    stop: Stop,
    limit: Duration,
    since: Cell<Instant>,
}

impl Line {
    /// Connects to `server`. That and all that follows has to be done within `limit`.
    pub fn connect(server: &NbdServer, limit: Duration, stop: &Stop) -> io::Result<Self> {
        let since = Instant::now();
        let server = server.clone();
        // Names that are looked up and sockets whose queue is full know no limit of their own.
        let (outbox, inbox) = mpsc::channel();
        let thread = thread::Builder::new().name("nbd-connect".to_owned()).spawn(move || {
            let _ = outbox.send(connect(&server, limit));
        })?;
        let socket = loop {
            match inbox.recv_timeout(TICK) {
                Ok(socket) => {
                    let _ = thread.join();
                    break socket?;
                }
                Err(_) if since.elapsed() > limit => return Err(late(limit)),
                Err(_) => stop.check()?,
            }
        };
        socket.set_tick()?;
        Ok(Self { socket, stop: stop.clone(), limit, since: Cell::new(since) })
    }

    /// The same, on which from now on `limit` holds between one [`restart`](Self::restart) and the
    /// next.
    pub fn with_limit(self, limit: Duration) -> Self {
        let since = Cell::new(Instant::now());
        Self { limit, since, ..self }
    }

    /// Begins a new wait.
    pub fn restart(&self) {
        self.since.set(Instant::now());
    }

    /// Fills `bytes`.
    pub fn read_exact(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut this = self;
        Read::read_exact(&mut this, bytes).map_err(|error| explained(&error))
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes).map(|()| bytes)
    }

    /// Writes `bytes`.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            done += self.patiently(|mut socket| socket.write(&bytes[done..]))?;
        }
        Ok(())
    }

    /// Tells the server goodbye, as far as it listens.
    pub fn part(&self) {
        let goodbye = wire::request((0, wire::CMD_DISC), 0, 0, 0);
        let _ = (&self.socket).write(&goodbye);
    }

    fn patiently(
        &self,
        mut operation: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let outcome = operation(&self.socket);
            self.stop.check()?;
            if self.since.get().elapsed() > self.limit {
                return Err(late(self.limit));
            }
            match outcome {
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(explained(&error)),
                Ok(count) => return Ok(count),
            }
        }
    }
}

impl Read for &Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|mut socket| socket.read(buffer))
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

/// A wait's share was over, or a signal came.
fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The peer went away.
pub fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
}

/// What a socket's error means. None of them is a disk's, so none keeps a number that might pass
/// for one.
pub fn explained(error: &io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => ended(),
        kind if error.raw_os_error().is_none() => io::Error::new(kind, error.to_string()),
        // A time limit of the kernel's is the loss of a connection, not a late answer.
        io::ErrorKind::TimedOut => io::Error::other(format!("the connection failed: {error}")),
        kind => io::Error::new(kind, format!("the connection failed: {error}")),
    }
}

fn late(limit: Duration) -> io::Error {
    let context = format!("the server did not answer within {} s", limit.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, context)
}
