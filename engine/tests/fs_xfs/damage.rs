//! Damage costs what is damaged, and never a panic or an endless walk.

use std::fs;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use imgx_engine::base::ErrorKind;
use imgx_fixtures::pattern::Random;

use crate::common::is_long;
use crate::everything::{told, use_everything};
use crate::fill;
use crate::fixture::{Fixture, MIB, open_bytes};
use crate::need_mounts;
use crate::truth;
use crate::variants::crc32c;

/// One walk of a small image must end within this, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_damaged_superblock_is_replaced_by_a_copy() {
    need_mounts!();
    for (size, arguments) in
        [(300 * MIB, [].as_slice()), (64 * MIB, &["-b", "size=1024", "-d", "agcount=2"])]
    {
        let fixture = Fixture::make(size, arguments);
        let truth = fixture.fill(fill::contents);
        let good = fs::read(fixture.image()).expect("read");
        // A wrong field; another; no superblock at all.
        for (start, end) in [(0x8, 0x10), (0x54, 0x58), (0, 512)] {
            let mut bytes = good.clone();
            bytes[start..end].fill(0xa5);
            let context = format!("{arguments:?}: garbage in {start}..{end}");
            let filesystem = open_bytes(bytes).unwrap_or_else(|error| panic!("{context}: {error}"));
            truth::assert_same(&context, &truth::of_engine(filesystem.as_ref()), &truth);
            let notes = told(filesystem.as_ref());
            assert!(notes.iter().any(|note| note.contains("copy")), "{context}: {notes:?}");
            let free = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
            assert!(free.is_err(), "{context}: free space is not certain");
        }
    }
}

#[test]
fn copies_that_outlive_their_filesystem_are_not_taken_for_it() {
    need_mounts!();
    let fixture = Fixture::make(300 * MIB, &[]);
    let old = fs::read(fixture.image()).expect("read");
    let new = fs::read(Fixture::make(300 * MIB, &["-d", "agcount=3"]).image()).expect("read");
    // A new filesystem whose superblock is damaged, among the copies of an old one.
    let mut bytes = old.clone();
    bytes[..1 << 20].copy_from_slice(&new[..1 << 20]);
    bytes[..512].fill(0);
    assert!(open_bytes(bytes).is_err());
    // The second group by itself is no filesystem.
    let start = old.len() / 4;
    assert_eq!(old[start..start + 4], *b"XFSB");
    let error = open_bytes(old[start..].to_vec()).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn what_belongs_to_another_is_not_believed() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-b", "size=1024"]);
    fixture.fill(|root| {
        for name in ["one", "two"] {
            fill::names(&fill::folder(root, name), 20);
        }
    });
    let mut bytes = fs::read(fixture.image()).expect("read");
    let is_entries = |block: &[u8]| block.starts_with(b"XDB3") || block.starts_with(b"XDD3");
    let blocks = bytes.chunks(1024).enumerate().filter(|(_, block)| is_entries(block));
    let blocks: Vec<usize> = blocks.map(|(number, _)| number * 1024).collect();
    assert!(blocks.len() >= 2, "{} blocks of folders", blocks.len());
    // A sound block in the place of another.
    let (from, to) = (blocks[0], blocks[1]);
    bytes.copy_within(from..from + 1024, to);
    let filesystem = open_bytes(bytes).expect("opened");
    let mut errors = Vec::new();
    for name in ["one", "two"] {
        let folder = filesystem.lookup(filesystem.root(), name.as_bytes()).expect("searched");
        let listed = filesystem.list(folder.expect("found"), &mut |entry| {
            errors.extend(entry.err());
            ControlFlow::Continue(())
        });
        listed.expect("listed");
    }
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].kind(), ErrorKind::Corrupt);
}

#[test]
fn a_damaged_index_costs_no_name() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-b", "size=1024"]);
    let truth = fixture.fill(|root| fill::names(&fill::folder(root, "many"), 900));
    let mut bytes = fs::read(fixture.image()).expect("read");
    let mut damaged = 0;
    for block in bytes.chunks_mut(1024) {
        if matches!(block[8..10], [0x3d, 0xff] | [0x3d, 0xf1] | [0x3e, 0xbe])
            && block[16..18] == [0; 2]
        {
            block[100] ^= 0x10;
            damaged += 1;
        }
    }
    assert!(damaged > 2, "{damaged} blocks of an index");
    let filesystem = open_bytes(bytes).expect("opened");
    truth::assert_same("no index", &truth::of_engine(filesystem.as_ref()), &truth);
}

#[test]
fn what_is_on_the_realtime_device_is_refused_by_name() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &[]);
    fixture.fill(|root| fs::write(root.join("file"), "content").expect("written"));
    let filesystem = crate::fixture::open(&fixture.image()).expect("opened");
    let file = filesystem.lookup(filesystem.root(), b"file").expect("searched").expect("found");
    let inode = format!("inode {}", file.number);
    crate::fixture::xfs_db(&fixture.image(), true, &[&inode, "write -d core.realtime 1"]);
    let filesystem = crate::fixture::open(&fixture.image()).expect("opened");
    let error = filesystem.open(file).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("realtime"), "{error}");
    assert_eq!(filesystem.metadata(file).expect("read").size, 7);
}

/// Flips bytes of `good` among the first `most`; each time, everything is used.
fn flip(context: &str, good: &[u8], most: usize) {
    let used: Vec<usize> = (0..most.min(good.len())).filter(|place| good[*place] != 0).collect();
    let mut random = Random::new(77);
    let rounds = if is_long() { 5000 } else { 120 };
    let mut errors = 0;
    for round in 0..rounds {
        let mut bytes = good.to_vec();
        for _ in 0..=round % 4 {
            let among = if round % 3 == 0 { 4000.min(used.len()) } else { used.len() };
            let place = used[usize::try_from(random.next_u64()).expect("64 bits") % among];
            bytes[place] ^= 1 << (random.next_u64() % 8);
        }
        let start = Instant::now();
        errors += open_bytes(bytes).map_or(1, |filesystem| use_everything(filesystem.as_ref()));
        assert!(start.elapsed() < PATIENCE, "{context} round {round}");
    }
    assert!(errors > 0, "{context}: no flip was ever noticed");
}

#[test]
fn flipped_bytes_cause_no_panic_and_no_endless_walk() {
    need_mounts!();
    let fixture = Fixture::make(24 * MIB, &["-b", "size=1024", "-d", "agcount=1"]);
    fixture.fill(fill::everything_small);
    flip("version 5", &fs::read(fixture.image()).expect("read"), 6 << 20);
    // Without checksums, everything has to hold by itself.
    let prototype = fixture.path().join("prototype");
    let mut text = "/no-boot-block\n0 0\nd--755 0 0\nmany d--755 0 0\n".to_owned();
    for number in 0..400 {
        text.push_str(&format!("some-name-{number} p--600 0 0\n"));
    }
    text.push_str("$\n");
    text.push_str(&format!("link l--777 0 0 {}\n", "t".repeat(700)));
    text.push_str(&format!("content ---600 0 0 {}\n$\n", prototype.display()));
    fs::write(&prototype, text).expect("written");
    let prototype = prototype.to_str().expect("plain").to_owned();
    let arguments = ["-m", "crc=0", "-b", "size=512", "-d", "agcount=1", "-p", &prototype];
    let old = Fixture::make(24 * MIB, &arguments);
    flip("version 4", &fs::read(old.image()).expect("read"), 6 << 20);
}

#[test]
fn flipped_bytes_of_a_dirty_log_cause_no_panic_and_no_endless_walk() {
    need_mounts!();
    let fixture = Fixture::make(24 * MIB, &["-b", "size=1024", "-d", "agcount=1"]);
    {
        let mount = fixture.mount(&fixture.image(), "noatime");
        fill::everything_small(mount.root());
        let root = mount.root().to_str().expect("plain").to_owned();
        imgx_fixtures::tool::run("xfs_io", &["-x", "-c", "shutdown -f", &root]).expect("shut down");
    }
    let good = fs::read(fixture.image()).expect("read");
    flip("dirty", &good, good.len());
    // Records with wrong checksums are not even looked at, so these get right ones.
    let records: Vec<usize> =
        (0..good.len()).step_by(512).filter(|at| is_record(&good, *at)).collect();
    let mut random = Random::new(5);
    let rounds = if is_long() { 5000 } else { 120 };
    for round in 0..rounds {
        let mut bytes = good.clone();
        for _ in 0..=round % 5 {
            let at = records[usize::try_from(random.next_u64()).expect("64 bits") % records.len()];
            let length = 512 + be32(&good, at + 0xc);
            let place = at + usize::try_from(random.next_u64()).expect("64 bits") % length;
            bytes[place] ^= 1 << (random.next_u64() % 8);
            seal(&mut bytes, at);
        }
        let start = Instant::now();
        let _ = open_bytes(bytes).map(|filesystem| use_everything(filesystem.as_ref()));
        assert!(start.elapsed() < PATIENCE, "sealed round {round}");
    }
}

fn be32(bytes: &[u8], at: usize) -> usize {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    usize::try_from(u32::from_be_bytes(field)).expect("it fits")
}

/// Whether a record of the log, with one block of header, starts at `at`.
fn is_record(bytes: &[u8], at: usize) -> bool {
    bytes[at..].starts_with(&[0xfe, 0xed, 0xba, 0xbe])
        && be32(bytes, at + 0x140) <= 32768
        && at + 512 + be32(bytes, at + 0xc) <= bytes.len()
}

/// Gives the record at `at` a right checksum, if there is one still.
fn seal(bytes: &mut [u8], at: usize) {
    if is_record(bytes, at) {
        bytes[at + 0x20..at + 0x24].fill(0);
        let content = at + 512..at + 512 + be32(bytes, at + 0xc);
        let sum = crc32c(&[&bytes[at..at + 328], &bytes[content]].concat());
        bytes[at + 0x20..at + 0x24].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn a_filesystem_that_is_cut_short_still_opens() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-b", "size=1024", "-d", "agcount=2"]);
    fixture.fill(fill::contents);
    let bytes = fs::read(fixture.image()).expect("read");
    for length in [0, 100, 511, 512, 1024, 5000, 100_000, 33 << 20] {
        if let Ok(filesystem) = open_bytes(bytes[..length].to_vec()) {
            let notes = told(filesystem.as_ref());
            assert!(notes.iter().any(|note| note.contains("It spans")), "{length}: {notes:?}");
            use_everything(filesystem.as_ref());
        }
    }
    let cut = open_bytes(bytes[..33 << 20].to_vec()).expect("half of it opens");
    assert!(cut.lookup(cut.root(), b"large").expect("searched").is_some());
}
