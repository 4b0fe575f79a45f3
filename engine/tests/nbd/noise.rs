//! What a server says, with some of it changed, cut off or put in at random: an error or the right
//! bytes.

use std::time::{Duration, Instant};

use imgx_engine::base::{ByteOffset, ReadAt, Result};
use imgx_engine::block::{Disk, OpenOptions, Patience};
use imgx_fixtures::nbd::{BITMAP, SIZE, Session, serve};
use imgx_fixtures::pattern::Random;

/// The client's cookies are multiples of this.
const STEP: u64 = 64;
const HALF: usize = SIZE as usize / 2;

/// How far a session came, and what was read then.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    opened: bool,
    marked: Option<u64>,
    halves: [Option<Vec<u8>>; 2],
}

fn take_part(uri: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let patience = Patience { reply: Duration::from_secs(20), outage: Duration::ZERO };
    let options = OpenOptions { patience, ..OpenOptions::default() };
    let Ok(disk) = Disk::open(uri.as_ref(), &options) else { return outcome };
    outcome.opened = true;
    let extents = disk.extents().expect("what is not known is data");
    let end = extents.iter().fold(0, |end, extent| {
        assert_eq!(extent.range.start, end, "{extents:?}");
        extent.range.end
    });
    assert_eq!(end, disk.size().0, "{extents:?}");
    let export = disk.export().expect("it is one");
    outcome.marked = export.dirty(BITMAP).ok().map(|map| map.changed_bytes().0);
    outcome.halves = [0, HALF].map(|start| read(&disk, start).ok());
    outcome
}

fn read(disk: &Disk, start: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0xaa; HALF];
    disk.read_exact_at(ByteOffset(start as u64), &mut bytes)?;
    Ok(bytes)
}

/// The session with some of what is not the disk's own bytes changed.
fn changed(session: &Session, random: &mut Random) -> Vec<u8> {
    let mut bytes = session.bytes.clone();
    let mut below = |limit: usize| usize::try_from(random.below(limit as u64)).expect("fits");
    let is_content = |at: usize| session.content.iter().any(|range| range.contains(&at));
    let places: Vec<usize> = (0..bytes.len()).filter(|at| !is_content(*at)).collect();
    for _ in 0..=below(3) {
        let at = places[below(places.len())];
        match below(8) {
            0 => bytes[at] = 0xff,
            1 => bytes[at] = 0,
            _ => bytes[at] ^= 1 << below(8),
        }
    }
    // Behind that, places are no longer the same.
    let at = places[below(places.len())];
    match below(6) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..(at + 1 + below(40)).min(session.bytes.len()))),
        // In the last reply, it would be as if the disk held it.
        2 if at < session.content[1].end => {
            let again = bytes[at..(at + 1 + below(40)).min(session.bytes.len())].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {}
    }
    bytes
}

#[test]
fn noise_in_what_a_server_says_is_an_error_and_never_other_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("s");
    let scripts = serve(&socket).expect("served");
    let uri = format!("nbd+unix:///x?socket={}", socket.display());
    let session = Session::sound(STEP);
    let disk = Session::disk();
    scripts.send(session.bytes.clone()).expect("it listens");
    let sound = take_part(&uri);
    let halves = [0, HALF].map(|start| Some(disk[start..start + HALF].to_vec()));
    assert_eq!(sound, Outcome { opened: true, marked: Some(u64::from(SIZE) / 2), halves });
    let mut random = Random::new(17);
    let mut ends = [0; 4];
    for number in 0..3000 {
        scripts.send(changed(&session, &mut random)).expect("it listens");
        let clock = Instant::now();
        let outcome = take_part(&uri);
        assert!(clock.elapsed() < Duration::from_secs(5), "session {number} hangs");
        let pairs = outcome.halves.iter().zip(&sound.halves);
        for (half, expected) in pairs.clone() {
            assert!(half.is_none() || half == expected, "session {number}: wrong bytes");
        }
        let whole = pairs.filter(|(half, _)| half.is_some()).count();
        ends[if outcome.opened { 1 + whole } else { 0 }] += 1;
    }
    // Each way for a session to end was tried.
    assert!(ends.iter().all(|count| *count > 20), "{ends:?}");
}
