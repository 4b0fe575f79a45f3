//! A connection's socket, with limits on how long anything may take.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::uri::NbdServer;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Over a network.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Socket {
    /// Connects to `server`, or gives up after `limit`.
    pub fn connect(server: &NbdServer, limit: Duration) -> io::Result<Self> {
        let server = server.clone();
        // Names that are looked up and sockets whose queue is full know no limit of their own.
        let (outbox, inbox) = mpsc::channel();
        thread::Builder::new().name("nbd-connect".to_owned()).spawn(move || {
            let _ = outbox.send(connect(&server, limit));
        })?;
        inbox.recv_timeout(limit).unwrap_or_else(|_| Err(late(limit)))
    }

    /// Limits each read and write from now on.
    pub fn limit(&self, limit: Duration) -> io::Result<()> {
        let limit = Some(limit);
        match self {
            Self::Tcp(socket) => {
                socket.set_read_timeout(limit).and_then(|()| socket.set_write_timeout(limit))
            }
            Self::Unix(socket) => {
                socket.set_read_timeout(limit).and_then(|()| socket.set_write_timeout(limit))
            }
        }
    }

    /// Ends it for both sides.
    pub fn shut_down(&self) {
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
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

/// A socket that is read up to a certain time.
pub struct Deadline<'a> {
    socket: &'a Socket,
    start: Instant,
    limit: Duration,
}

impl<'a> Deadline<'a> {
    /// Reads and writes until `limit` from now.
    pub fn new(socket: &'a Socket, limit: Duration) -> Self {
        Self { socket, start: Instant::now(), limit }
    }

    /// Fills `bytes`.
    pub fn read(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut socket = self.socket;
        let mut done = 0;
        while done < bytes.len() {
            self.set_limit()?;
            match socket.read(&mut bytes[done..]) {
                Ok(0) => return Err(ended()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(explained(&error, self.limit)),
            }
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes).map(|()| bytes)
    }

    /// Writes `bytes`.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.set_limit()?;
        let mut socket = self.socket;
        socket.write_all(bytes).map_err(|error| explained(&error, self.limit))
    }

    fn set_limit(&self) -> io::Result<()> {
        let left = self.limit.saturating_sub(self.start.elapsed());
        if left.is_zero() { Err(late(self.limit)) } else { self.socket.limit(left) }
    }
}

/// The peer went away.
pub fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
}

/// What a socket's error means. None of them is a disk's, so none keeps a number that might pass
/// for one.
pub fn explained(error: &io::Error, limit: Duration) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => late(limit),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => ended(),
        kind => io::Error::new(kind, format!("the connection failed: {error}")),
    }
}

fn late(limit: Duration) -> io::Error {
    let context = format!("the server did not answer within {} s", limit.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, context)
}
