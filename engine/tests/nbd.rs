//! NBD servers that break the protocol: always an error that says so, never wrong bytes, and
//! never a hang.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use imgx_engine::base::{ByteOffset, ByteRange, ErrorKind, Result, Silent};
use imgx_engine::block::{BufferPool, Disk, ExtentKind, OpenOptions, ReadAt, ReadRequest};

const SIZE: u64 = 1 << 20;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const ACK: u32 = 1;
const READ: u16 = 0;
const BLOCK_STATUS: u16 = 7;

/// Makes a reply.
type Reply = fn(Asked) -> Vec<u8>;

/// What a server does otherwise than it should.
#[derive(Clone, Default)]
struct Misdeeds {
    /// Sent instead of the greeting.
    greeting: Option<Vec<u8>>,
    /// Sent instead of the answer to an option.
    option: Option<(u32, Vec<u8>)>,
    /// Export's flags, size.
    export: Option<(u64, u16)>,
    /// Sent instead of replies to reads.
    read: Option<Reply>,
    /// The same for questions after blocks.
    status: Option<Reply>,
}

/// A request.
#[derive(Clone, Copy)]
struct Asked {
    cookie: u64,
    offset: u64,
    length: u32,
}

/// A server in this process, for one connection.
struct Server {
    folder: tempfile::TempDir,
    _thread: JoinHandle<()>,
}

impl Server {
    fn start(misdeeds: Misdeeds) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("bound");
        let thread = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a client");
            // The client may go away at any time.
            let _ = serve(socket, &misdeeds);
        });
        Self { folder, _thread: thread }
    }

    fn open(&self) -> Result<Disk> {
        let socket = self.folder.path().join("s");
        let uri = format!("nbd+unix:///x?socket={}", socket.display());
        Disk::open(&PathBuf::from(uri), &OpenOptions::default())
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
    loop {
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
        socket.write_all(&reply)?;
        if reply.len() < 16 || reply.len() == 1000 {
            return Ok(());
        }
    }
}

fn answer(option: u32, kind: u32, bytes: &[u8]) -> Vec<u8> {
    let mut reply = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    for field in [option, kind, u32::try_from(bytes.len()).expect("short")] {
        reply.extend(field.to_be_bytes());
    }
    reply.extend(bytes);
    reply
}

fn chunk(asked: Asked, (flags, kind): (u16, u16), bytes: &[u8]) -> Vec<u8> {
    let mut chunk = 0x668e_33ef_u32.to_be_bytes().to_vec();
    chunk.extend(flags.to_be_bytes());
    chunk.extend(kind.to_be_bytes());
    chunk.extend(asked.cookie.to_be_bytes());
    chunk.extend(u32::try_from(bytes.len()).expect("short").to_be_bytes());
    chunk.extend(bytes);
    chunk
}

/// `length` bytes that say where they are.
fn bytes_at(offset: u64, length: u32) -> Vec<u8> {
    (offset..offset + u64::from(length)).map(|at| (at % 251) as u8).collect()
}

fn part(asked: Asked, flags: u16, from: u32, length: u32) -> Vec<u8> {
    let offset = asked.offset + u64::from(from);
    let bytes = [&offset.to_be_bytes()[..], &bytes_at(offset, length)].concat();
    chunk(asked, (flags, 1), &bytes)
}

/// What a sound server sends.
fn data(asked: Asked) -> Vec<u8> {
    part(asked, 1, 0, asked.length)
}

fn described(asked: Asked, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
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

fn read_all(disk: &Disk) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(SIZE).expect("small")];
    disk.read_exact_at(ByteOffset(0), &mut bytes)?;
    Ok(bytes)
}

#[test]
fn data_in_any_order_is_put_where_it_belongs() {
    let read = |asked: Asked| {
        let half = asked.length / 2;
        let place = (asked.offset + 4096).to_be_bytes();
        let hole = [place.as_slice(), &64_u32.to_be_bytes()];
        let parts = [
            part(asked, 0, half, asked.length - half),
            part(asked, 0, 0, 4096),
            chunk(asked, (0, 2), &hole.concat()),
            part(asked, 0, 4160, half - 4160),
            chunk(asked, (1, 0), &[]),
        ];
        parts.concat()
    };
    let disk = Server::start(Misdeeds { read: Some(read), ..Misdeeds::default() });
    let disk = disk.open().expect("opened");
    let mut expected = bytes_at(0, u32::try_from(SIZE).expect("small"));
    // A read is divided into requests of 256 KiB.
    expected.chunks_mut(1 << 18).for_each(|part| part[4096..4160].fill(0));
    assert!(read_all(&disk).expect("read") == expected);
    let pool = BufferPool::new(4, 1 << 16).expect("memory");
    let range = ByteRange { start: 100_000, end: 300_000 };
    let request = ReadRequest { ranges: vec![range], chunk: 1 << 16, depth: 4 };
    let mut count = 0;
    let read = disk.stream(&request, &pool, &Silent, &mut |chunk| {
        let length = u32::try_from(chunk.buffer.len()).expect("small");
        let mut expected = bytes_at(chunk.offset.0, length);
        expected[4096..4160].fill(0);
        assert!(*chunk.buffer == expected[..], "wrong bytes at {}", chunk.offset);
        count += chunk.buffer.len();
        Ok(())
    });
    read.expect("read");
    assert_eq!(count, 200_000);
}

#[test]
fn replies_that_break_the_protocol_are_errors() {
    let wrong: [(&str, Reply); 16] = [
        ("begins with", |_| vec![0xff; 64]),
        ("not open", |asked| data(Asked { cookie: asked.cookie + 1000, ..asked })),
        ("without all", |asked| part(asked, 1, 0, asked.length - 1)),
        ("without all", |asked| part(asked, 1, 1, asked.length - 1)),
        ("without all", |asked| chunk(asked, (1, 0), &[])),
        ("unasked", |asked| part(asked, 1, 1, asked.length)),
        ("unasked", |asked| part(Asked { offset: asked.offset + SIZE, ..asked }, 1, 0, 512)),
        ("second time", |asked| [part(asked, 0, 0, 512), part(asked, 1, 511, 512)].concat()),
        ("second time", |asked| [part(asked, 0, 512, 512), part(asked, 1, 0, 513)].concat()),
        ("a chunk of type", |asked| chunk(asked, (1, 77), &[0; 8])),
        ("flags", |asked| chunk(asked, (3, 0), &[])),
        ("without number", |asked| chunk(asked, (1, 0x8001), &[0; 6])),
        ("where data is due", |asked| described(asked, 9, &[(512, 0)])),
        ("closed the connection", |_| Vec::new()),
        ("closed the connection", |asked| data(asked)[..1000].to_vec()),
        // A simple reply, though structured ones were agreed on.
        ("structured one is due", |asked| {
            let header = [0x6744_6698_u32.to_be_bytes(), [0; 4]].concat();
            [&header[..], &asked.cookie.to_be_bytes()].concat()
        }),
    ];
    for (expected, read) in wrong {
        let server = Server::start(Misdeeds { read: Some(read), ..Misdeeds::default() });
        let disk = server.open().expect("opened");
        let error = read_all(&disk).expect_err(expected);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(error.kind(), ErrorKind::Io);
        let pool = BufferPool::new(2, 1 << 20).expect("memory");
        let request = ReadRequest::new(vec![ByteRange { start: 0, end: SIZE }]);
        let streamed = disk.stream(&request, &pool, &Silent, &mut |_chunk| Ok(()));
        assert!(streamed.is_err(), "{expected}: the stream goes on");
    }
}

#[test]
fn a_reply_of_a_huge_length_takes_no_memory() {
    let read = |asked: Asked| {
        let mut bytes = chunk(asked, (1, 1), &asked.offset.to_be_bytes());
        bytes[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        bytes
    };
    let server = Server::start(Misdeeds { read: Some(read), ..Misdeeds::default() });
    let error = read_all(&server.open().expect("opened")).expect_err("refused");
    assert!(error.to_string().contains("unasked"), "{error}");
}

#[test]
fn a_disconnect_midway_fails_what_comes_later() {
    let read = |asked: Asked| if asked.offset == 0 { data(asked) } else { Vec::new() };
    let server = Server::start(Misdeeds { read: Some(read), ..Misdeeds::default() });
    let disk = server.open().expect("opened");
    let mut bytes = [0; 512];
    disk.read_exact_at(ByteOffset(0), &mut bytes).expect("the first is served");
    for _ in 0..3 {
        let error = disk.read_exact_at(ByteOffset(512), &mut bytes).expect_err("it is gone");
        assert!(error.to_string().contains("connection"), "{error}");
    }
}

#[test]
fn what_is_said_of_blocks_is_believed_only_where_it_makes_sense() {
    let sound: Reply = |asked| described(asked, 9, &[(65_536, 0), (u32::MAX, 3)]);
    let wrong: [Reply; 5] = [
        |asked| described(asked, 9, &[(0, 3)]),
        |asked| described(asked, 8, &[(asked.length, 3)]),
        |asked| described(asked, 9, &[]),
        |asked| chunk(asked, (1, 5), &[0, 0, 0, 9, 0, 0]),
        |asked| chunk(asked, (1, 0), &[]),
    ];
    for (is_sound, status) in
        std::iter::once((true, sound)).chain(wrong.into_iter().map(|wrong| (false, wrong)))
    {
        let server = Server::start(Misdeeds { status: Some(status), ..Misdeeds::default() });
        let extents = server.open().expect("opened").extents().expect("extents");
        let data = extents.iter().filter(|extent| extent.kind == ExtentKind::Data);
        let data: u64 = data.map(|extent| extent.range.len()).sum();
        assert_eq!(data, if is_sound { 65_536 } else { SIZE });
    }
}

#[test]
fn greetings_and_answers_that_make_no_sense_are_refused() {
    let old =
        [b"NBDMAGIC".as_slice(), &0x0000_4202_8186_1253_u64.to_be_bytes(), &[0; 200]].concat();
    let huge = {
        let mut bytes = answer(7, INFO, &[]);
        bytes[16..].copy_from_slice(&u32::MAX.to_be_bytes());
        bytes
    };
    let sizes = [3_u16.to_be_bytes().as_slice(), &[0, 0, 0, 3], &[0; 4], &[0, 0, 0, 9]].concat();
    let export = [&[0; 2][..], &SIZE.to_be_bytes(), &1_u16.to_be_bytes()].concat();
    let odd = [answer(7, INFO, &export), answer(7, INFO, &sizes), answer(7, ACK, &[])].concat();
    let option = |bytes: Vec<u8>| Misdeeds { option: Some((7, bytes)), ..Misdeeds::default() };
    let greeting = |bytes: Vec<u8>| Misdeeds { greeting: Some(bytes), ..Misdeeds::default() };
    let exports = |export| Misdeeds { export: Some(export), ..Misdeeds::default() };
    let refusal = |kind: u32| option(answer(7, 1 << 31 | kind, b"no\nway"));
    for (misdeeds, kind, expected) in [
        (greeting(b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec()), ErrorKind::Io, "begins with"),
        (greeting(old), ErrorKind::Unsupported, "old kind"),
        (option(answer(8, ACK, &[])), ErrorKind::Io, "option 8"),
        (option(huge), ErrorKind::Io, "answer of 4294967295 bytes"),
        (option(answer(7, ACK, &[])), ErrorKind::Io, "unexpected"),
        (option(answer(7, INFO, &[0; 5])), ErrorKind::Io, "unexpected"),
        (option(answer(7, INFO, &[])), ErrorKind::Io, "unexpected"),
        (option(odd), ErrorKind::Io, "requests of 3 to 9 bytes"),
        (option(answer(7, INFO, &[9; 2]).repeat(5000)), ErrorKind::Io, "without end"),
        (refusal(1), ErrorKind::Unsupported, "too old"),
        (refusal(5), ErrorKind::Unsupported, "TLS"),
        (refusal(6), ErrorKind::NotFound, "no such export (noway)"),
        (exports((SIZE, 0)), ErrorKind::Io, "flags 0x0"),
        (exports((u64::MAX, 1)), ErrorKind::Limit, "too many"),
    ] {
        let clock = Instant::now();
        let error = Server::start(misdeeds).open().expect_err(expected);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(clock.elapsed() < Duration::from_secs(5), "{expected}: slow");
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let clock = Instant::now();
    let error = Server::start(Misdeeds { greeting: Some(Vec::new()), ..Misdeeds::default() })
        .open()
        .expect_err("nobody answers");
    assert!(error.to_string().contains("did not answer"), "{error}");
    assert!(clock.elapsed() < Duration::from_secs(15));
}
