//! Servers that break the protocol: always an error that says so, and never wrong bytes.

use std::time::{Duration, Instant};

use imgx_engine::base::{ByteOffset, ByteRange, ErrorKind, ReadAt, Silent};
use imgx_engine::block::{BufferPool, ExtentKind, ReadRequest};

use crate::server::{
    ACK, Asked, INFO, Misdeeds, Reply, SIZE, Server, answer, bytes_at, chunk, data, described,
    part, read_all,
};

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
