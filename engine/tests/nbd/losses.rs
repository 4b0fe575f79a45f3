//! Servers that go away, come back, or keep us waiting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use imgx_engine::base::{
    ByteOffset, ByteRange, ErrorKind, Event, Observer, ReadAt, Result, Silent,
};
use imgx_engine::block::{BufferPool, Disk, OpenOptions, ReadRequest};

use crate::server::{Misdeeds, SIZE, Server, bytes_at, read_all};

/// `NBD_FLAG_HAS_FLAGS`, and that with `NBD_FLAG_CAN_MULTI_CONN`.
const PLAIN: u16 = 1;
const SHARED: u16 = 1 | 1 << 8;
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);

fn expected() -> Vec<u8> {
    bytes_at(0, u32::try_from(SIZE).expect("small"))
}

/// Reads all of `disk` many times over, several reads at once, as a capture does.
fn stream(disk: &Disk, observer: &dyn Observer) -> Result<()> {
    let pool = BufferPool::new(8, 1 << 16).expect("memory");
    let expected = expected();
    let ranges = vec![ByteRange { start: 0, end: SIZE }];
    let request = ReadRequest { ranges, chunk: 1 << 16, depth: 8 };
    let mut count = 0;
    for _ in 0..4 {
        disk.stream(&request, &pool, observer, &mut |chunk| {
            let place = usize::try_from(chunk.offset.0).expect("small");
            assert!(*chunk.buffer == expected[place..place + chunk.buffer.len()], "at {place}");
            count += chunk.buffer.len() as u64;
            Ok(())
        })?;
    }
    assert_eq!(count, 4 * SIZE);
    Ok(())
}

#[test]
fn a_lost_connection_is_made_again_and_all_of_the_data_comes() {
    for flags in [PLAIN, SHARED] {
        let export = Some((SIZE, flags));
        let server =
            Server::start(Misdeeds { export, hangs_up_after: Some(7), ..Misdeeds::default() });
        let disk = server.open_with(LONG, LONG).expect("opened");
        assert!(read_all(&disk).expect("read") == expected());
        stream(&disk, &Silent).expect("read");
        let renewed = disk.export().expect("an export").renewed();
        assert!(renewed >= 4 * 16 / 7 - 4, "it was lost more often than {renewed} times");
        assert!(server.connections() >= renewed, "there were {}", server.connections());
    }
}

#[test]
fn another_export_in_the_place_of_a_lost_one_is_refused() {
    for (later, difference) in [
        ((2 * SIZE, PLAIN), "a size of 1048576 before and 2097152 now"),
        ((SIZE, SHARED), "flags of 1 before and 257 now"),
    ] {
        let server = Server::start_each(move |number| {
            let export = Some(if number == 0 { (SIZE, PLAIN) } else { later });
            Some(Misdeeds { export, hangs_up_after: Some(1), ..Misdeeds::default() })
        });
        let disk = server.open_with(LONG, LONG).expect("opened");
        let error = read_all(&disk).expect_err("it is another").to_string();
        assert!(error.contains("another export") && error.contains(difference), "{error}");
    }
}

#[test]
fn a_server_that_is_gone_for_good_is_given_up_in_time() {
    let server = Server::start_each(|number| {
        (number < 2).then(|| Misdeeds { hangs_up_after: Some(1), ..Misdeeds::default() })
    });
    let disk = server.open_with(LONG, Duration::from_secs(1)).expect("opened");
    let clock = Instant::now();
    for _ in 0..3 {
        let error = read_all(&disk).expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Io);
        let said = error.to_string();
        assert!(said.contains("closed the connection; then: "), "{said}");
    }
    assert!(clock.elapsed() < Duration::from_secs(4), "it took {:?}", clock.elapsed());
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_server_that_loses_every_connection_at_once_is_given_up_too() {
    let server = Server::start(Misdeeds { hangs_up_after: Some(2), ..Misdeeds::default() });
    let disk = server.open_with(LONG, Duration::from_secs(1)).expect("opened");
    // A read of four requests never gets all of its replies.
    let error = read_all(&disk).expect_err("it never comes").to_string();
    assert!(error.contains("closed the connection"), "{error}");
    assert!(server.connections() < 20, "{} connections", server.connections());
}

#[test]
fn what_a_connection_that_is_lost_for_good_was_asked_for_comes_over_the_others() {
    let server = Server::start_each(|number| {
        let sound = Misdeeds { export: Some((SIZE, SHARED)), ..Misdeeds::default() };
        match number {
            0 | 2 => Some(sound),
            1 | 3 => Some(Misdeeds { hangs_up_after: Some(0), ..sound }),
            _ => None,
        }
    });
    let disk = server.open_with(LONG, SHORT).expect("opened");
    stream(&disk, &Silent).expect("read");
    assert_eq!(server.connections(), 4);
}

#[test]
fn there_are_several_connections_only_where_they_see_the_same() {
    for (flags, count) in [(PLAIN, 1), (SHARED, 4)] {
        let export = Some((SIZE, flags));
        let server = Server::start(Misdeeds { export, ..Misdeeds::default() });
        stream(&server.open().expect("opened"), &Silent).expect("read");
        assert_eq!(server.connections(), count);
    }
}

#[test]
fn a_server_that_answers_late_or_byte_by_byte_is_given_up() {
    // As long as this test at least.
    let silent = |_asked| {
        sleep(LONG);
        vec![0; 16]
    };
    let silent = Misdeeds { read: Some(silent), ..Misdeeds::default() };
    let dripping = Misdeeds { drips: Some(SHORT / 8), ..Misdeeds::default() };
    for misdeeds in [silent, dripping] {
        let server = Server::start(misdeeds);
        let disk = server.open_with(SHORT, LONG).expect("opened");
        let clock = Instant::now();
        let error = read_all(&disk).expect_err("it takes too long").to_string();
        assert!(error.contains("did not answer within 0.4 s"), "{error}");
        assert!(clock.elapsed() < Duration::from_secs(8), "it took {:?}", clock.elapsed());
        // It got a second chance, on a new connection.
        assert_eq!(server.connections(), 2);
    }
}

#[test]
fn a_slow_server_that_goes_on_answering_is_waited_for() {
    let slow = |asked| {
        sleep(SHORT * 5 / 8);
        crate::server::data(asked)
    };
    let server = Server::start(Misdeeds { read: Some(slow), ..Misdeeds::default() });
    let disk = server.open_with(SHORT * 2, Duration::ZERO).expect("opened");
    // Four requests, of which the last is answered after more than the limit.
    assert!(read_all(&disk).expect("read") == expected());
    assert_eq!(server.connections(), 1);
}

/// Wants to stop when it is told.
#[derive(Default)]
struct Stopping(AtomicBool);

impl Observer for Stopping {
    fn event(&self, _event: &Event<'_>) {}

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn waiting_for_a_server_ends_when_the_run_is_to_stop() {
    let silent = |_asked| {
        sleep(LONG);
        Vec::new()
    };
    let silent = Misdeeds { read: Some(silent), status: Some(silent), ..Misdeeds::default() };
    let gone = Misdeeds { hangs_up_after: Some(0), ..Misdeeds::default() };
    let reads: [fn(&Disk, &Stopping) -> ErrorKind; 3] = [
        |disk, stopping| stream(disk, stopping).expect_err("stopped").kind(),
        |disk, stopping| {
            let read = || disk.read_exact_at(ByteOffset(7), &mut [0; 9]);
            disk.watched(stopping, read).expect_err("stopped").kind()
        },
        |disk, stopping| {
            let extents = disk.watched(stopping, || disk.extents()).expect("extents");
            assert_eq!(extents.len(), 1, "what is not known is data");
            ErrorKind::Cancelled
        },
    ];
    for misdeeds in [silent, gone] {
        for read in reads {
            let server = Server::start(misdeeds.clone());
            let disk = server.open_with(LONG, LONG).expect("opened");
            let stopping = Stopping::default();
            let clock = Instant::now();
            scope(|scope| {
                scope.spawn(|| {
                    sleep(Duration::from_millis(150));
                    stopping.0.store(true, Ordering::Relaxed);
                });
                let kind = read(&disk, &stopping);
                assert!(stopping.cancelled(), "it ended by itself");
                assert_eq!(kind, ErrorKind::Cancelled);
            });
            drop(disk);
            assert!(clock.elapsed() < Duration::from_secs(2), "it took {:?}", clock.elapsed());
        }
    }
}

#[test]
fn connecting_to_a_server_that_says_nothing_ends_when_the_run_is_to_stop() {
    let mute = Misdeeds { greeting: Some(Vec::new()), ..Misdeeds::default() };
    let server = Server::start(mute);
    let stopping = Stopping(AtomicBool::new(true));
    let clock = Instant::now();
    let opened = Disk::open_watched(&server.uri(), &OpenOptions::default(), &stopping);
    assert_eq!(opened.expect_err("stopped").kind(), ErrorKind::Cancelled);
    assert!(clock.elapsed() < Duration::from_secs(2), "it took {:?}", clock.elapsed());
}
