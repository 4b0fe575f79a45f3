//! A server in this process that does as it is told, and otherwise as it should.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use imgx_engine::base::{ByteOffset, ReadAt, Result};
use imgx_engine::block::{Disk, OpenOptions, Patience};

pub const SIZE: u64 = 1 << 20;
pub const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
pub const ACK: u32 = 1;
const READ: u16 = 0;
const BLOCK_STATUS: u16 = 7;

/// Makes a reply.
pub type Reply = fn(Asked) -> Vec<u8>;

/// What a server does otherwise than it should.
#[derive(Clone, Default)]
pub struct Misdeeds {
    /// Sent instead of the greeting.
    pub greeting: Option<Vec<u8>>,
    /// Sent instead of the answer to an option.
    pub option: Option<(u32, Vec<u8>)>,
    /// Export's flags, size.
    pub export: Option<(u64, u16)>,
    /// Sent instead of replies to reads.
    pub read: Option<Reply>,
    /// The same for questions after blocks.
    pub status: Option<Reply>,
    /// Replies after which it hangs up.
    pub hangs_up_after: Option<usize>,
    /// How long it takes for each byte of a reply.
    pub drips: Option<Duration>,
}

/// A request.
#[derive(Clone, Copy)]
pub struct Asked {
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

/// A server in this process.
pub struct Server {
    folder: tempfile::TempDir,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// One that does the same on each connection.
    pub fn start(misdeeds: Misdeeds) -> Self {
        Self::start_each(move |_number| Some(misdeeds.clone()))
    }

    /// One that is told by the number of each connection, from zero, what to do there; where
    /// nothing, it is no longer there.
    pub fn start_each(each: impl Fn(usize) -> Option<Misdeeds> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for number in 0.. {
                let Some(misdeeds) = each(number) else { return };
                let Ok((socket, _)) = listener.accept() else { return };
                count.fetch_add(1, Ordering::Relaxed);
                // The client may go away at any time.
                std::thread::spawn(move || serve(socket, &misdeeds));
            }
        });
        Self { folder, connections }
    }

    /// Opens its export, without patience for a connection that is lost.
    pub fn open(&self) -> Result<Disk> {
        self.open_with(Duration::from_secs(30), Duration::ZERO)
    }

    /// Opens its export, waiting so long for a reply, and for a new connection.
    pub fn open_with(&self, reply: Duration, outage: Duration) -> Result<Disk> {
        let patience = Patience { reply, outage };
        Disk::open(&self.uri(), &OpenOptions { patience, ..OpenOptions::default() })
    }

    /// Its export.
    pub fn uri(&self) -> PathBuf {
        let socket = self.folder.path().join("s");
        format!("nbd+unix:///x?socket={}", socket.display()).into()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn serve(mut socket: UnixStream, misdeeds: &Misdeeds) -> std::io::Result<()> {
    let greeting = [b"NBDMAGICIHAVEOPT".as_slice(), &3_u16.to_be_bytes()].concat();
    socket.write_all(misdeeds.greeting.as_ref().unwrap_or(&greeting))?;
    socket.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        socket.read_exact(&mut header)?;
        let option = u32::from_be_bytes(header[8..12].try_into().expect("4 bytes"));
        let length = u32::from_be_bytes(header[12..].try_into().expect("4 bytes"));
        socket.read_exact(&mut vec![0; length as usize])?;
        if let Some((wrong, bytes)) = &misdeeds.option
            && *wrong == option
        {
            socket.write_all(bytes)?;
            // Whoever waits for more waits for ever, but for its own limit.
            continue;
        }
        match option {
            7 => {
                let (size, flags) = misdeeds.export.unwrap_or((SIZE, 1));
                let info = [&0_u16.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()];
                socket.write_all(&answer(option, INFO, &info.concat()))?;
                socket.write_all(&answer(option, ACK, &[]))?;
                break;
            }
            10 => {
                let context = [&9_u32.to_be_bytes()[..], b"base:allocation"].concat();
                socket.write_all(&answer(option, META_CONTEXT, &context))?;
                socket.write_all(&answer(option, ACK, &[]))?;
            }
            _ => socket.write_all(&answer(option, ACK, &[]))?,
        }
    }
    for number in 0.. {
        if misdeeds.hangs_up_after == Some(number) {
            break;
        }
        let mut request = [0; 28];
        socket.read_exact(&mut request)?;
        let command = u16::from_be_bytes(request[6..8].try_into().expect("2 bytes"));
        let asked = Asked {
            cookie: u64::from_be_bytes(request[8..16].try_into().expect("8 bytes")),
            offset: u64::from_be_bytes(request[16..24].try_into().expect("8 bytes")),
            length: u32::from_be_bytes(request[24..].try_into().expect("4 bytes")),
        };
        let reply = match command {
            READ => misdeeds.read.unwrap_or(data)(asked),
            BLOCK_STATUS => misdeeds.status.unwrap_or(all_data)(asked),
            _ => return Ok(()),
        };
        if let Some(pause) = misdeeds.drips {
            for byte in &reply {
                socket.write_all(&[*byte])?;
                std::thread::sleep(pause);
            }
        }
        socket.write_all(&reply)?;
        if reply.len() < 16 || reply.len() == 1000 {
            return Ok(());
        }
    }
    Ok(())
}

pub fn answer(option: u32, kind: u32, bytes: &[u8]) -> Vec<u8> {
    let mut reply = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    for field in [option, kind, u32::try_from(bytes.len()).expect("short")] {
        reply.extend(field.to_be_bytes());
    }
    reply.extend(bytes);
    reply
}

pub fn chunk(asked: Asked, (flags, kind): (u16, u16), bytes: &[u8]) -> Vec<u8> {
    let mut chunk = 0x668e_33ef_u32.to_be_bytes().to_vec();
    chunk.extend(flags.to_be_bytes());
    chunk.extend(kind.to_be_bytes());
    chunk.extend(asked.cookie.to_be_bytes());
    chunk.extend(u32::try_from(bytes.len()).expect("short").to_be_bytes());
    chunk.extend(bytes);
    chunk
}

/// `length` bytes that say where they are.
pub fn bytes_at(offset: u64, length: u32) -> Vec<u8> {
    (offset..offset + u64::from(length)).map(|at| (at % 251) as u8).collect()
}

pub fn part(asked: Asked, flags: u16, from: u32, length: u32) -> Vec<u8> {
    let offset = asked.offset + u64::from(from);
    let bytes = [&offset.to_be_bytes()[..], &bytes_at(offset, length)].concat();
    chunk(asked, (flags, 1), &bytes)
}

/// What a sound server sends.
pub fn data(asked: Asked) -> Vec<u8> {
    part(asked, 1, 0, asked.length)
}

pub fn described(asked: Asked, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let mut bytes = context.to_be_bytes().to_vec();
    for (length, flags) in extents {
        bytes.extend(length.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
    }
    chunk(asked, (1, 5), &bytes)
}

fn all_data(asked: Asked) -> Vec<u8> {
    described(asked, 9, &[(asked.length, 0)])
}

pub fn read_all(disk: &Disk) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(SIZE).expect("small")];
    disk.read_exact_at(ByteOffset(0), &mut bytes)?;
    Ok(bytes)
}
