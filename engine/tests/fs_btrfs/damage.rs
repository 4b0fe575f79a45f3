//! Damage costs what is damaged, a second copy stands in for the first, and nothing ever panics or
//! walks for ever.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use imgx_engine::base::{ByteCount, ByteOffset, ErrorKind, ReadAt, Result};
use imgx_engine::fs::Place;
use imgx_fixtures::pattern::{Random, incompressible};

use crate::basics;
use crate::common::is_long;
use crate::everything::{told, use_everything};
use crate::fill;
use crate::fixture::{Fixture, MIB, content, find, open_bytes};
use crate::need_mounts;
use crate::sums::{blocks, fix};

/// One walk of a small image must end within this, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn contents(root: &Path) {
    basics::contents(&basics::folder(root, "contents"));
    basics::names(&basics::folder(root, "names"), 300);
    fs::write(root.join("large"), incompressible(9, 1 << 20)).expect("written");
}

#[test]
fn a_damaged_superblock_is_replaced_by_a_copy() {
    need_mounts!();
    let fixture = Fixture::make(128 * MIB, &[]);
    let truth = fixture.fill("noatime", contents);
    let good = fs::read(fixture.image()).expect("read");
    // A wrong field; the magic number too; the whole start.
    for (start, end) in [(0x1_0048, 0x1_004a), (0x1_0000, 0x1_1000), (0, 1 << 20)] {
        let mut bytes = good.clone();
        bytes[start..end].fill(0xa5);
        fs::write(fixture.image(), bytes).expect("written");
        let context = format!("garbage in {start}..{end}");
        let filesystem = fixture.assert_reads_as(&context, &truth);
        let notes = told(filesystem.as_ref());
        assert!(notes.iter().any(|note| note.contains("a copy is used")), "{context}: {notes:?}");
        let free = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
        assert!(free.is_err(), "{context}: free space is not certain");
    }
}

#[test]
fn every_first_copy_of_metadata_may_be_damaged() {
    need_mounts!();
    let fixture = Fixture::make(256 * MIB, &["-m", "dup", "-d", "dup"]);
    let truth = fixture.fill("noatime", contents);
    let mut bytes = fs::read(fixture.image()).expect("read");
    let mut seen = BTreeSet::new();
    let nodes = blocks(&bytes, 16 << 10);
    let mut damaged = 0;
    for (place, length) in nodes.into_iter().filter(|(_, length)| *length > 4096) {
        // Copies are the same to the last byte; old versions are other ones.
        if seen.insert(bytes[place..place + length].to_vec()) {
            bytes[place + 200] ^= 0x10;
            damaged += 1;
        }
    }
    assert!(damaged > 10, "{damaged}");
    fs::write(fixture.image(), bytes).expect("written");
    fixture.assert_reads_as("the first copies damaged", &truth);
}

#[test]
fn damaged_data_are_an_error_with_their_place_unless_there_is_a_copy() {
    need_mounts!();
    for (data, copies) in [("single", 1), ("dup", 2)] {
        let kinds = ["crc32c", "xxhash", "sha256", "blake2"];
        for kind in &kinds[..if copies == 1 { 4 } else { 1 }] {
            let fixture = Fixture::make(256 * MIB, &["-d", data, "--csum", kind]);
            fixture.fill("noatime", contents);
            let mut bytes = fs::read(fixture.image()).expect("read");
            let filesystem = fixture.open().expect("opened");
            let mut first = None;
            let mut large = filesystem.open(find(filesystem.as_ref(), "large")).expect("opened");
            let visit = large.extents(&mut |extent| {
                first = Some(extent.place);
                ControlFlow::Break(())
            });
            visit.expect("it has extents");
            let Some(Place::At(place)) = first else { panic!("it is on blocks: {first:?}") };
            let place = usize::try_from(place).expect("small");
            let expected = incompressible(9, 1 << 20);
            assert_eq!(bytes[place..place + 4096], expected[..4096], "its place");
            bytes[place + 5000] ^= 1;
            let filesystem = open_bytes(bytes).expect("opened");
            let read = content(filesystem.as_ref(), "large");
            if copies == 2 {
                assert_eq!(read.expect("read"), expected, "{kind}");
                continue;
            }
            let error = read.expect_err("it is damaged");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(&format!("byte {}", place + 4096)), "{error}");
            let mut large = filesystem.open(find(filesystem.as_ref(), "large")).expect("opened");
            let mut start = [0; 4000];
            large.read_at(0, &mut start).expect("what is before it is sound");
            assert_eq!(start, expected[..4000]);
        }
    }
}

#[test]
fn a_damaged_node_of_a_folder_costs_its_entries_only() {
    need_mounts!();
    let fixture = Fixture::make(256 * MIB, &["-m", "single", "-n", "4096"]);
    fixture.fill("noatime", |root| basics::names(&basics::folder(root, "many"), 400));
    let bytes = fs::read(fixture.image()).expect("read");
    let mut losses = 0;
    for (place, _) in blocks(&bytes, 4096) {
        if !bytes[place + 101..place + 4096].windows(9).any(|window| window == b"150-nnnnn") {
            continue;
        }
        let mut bytes = bytes.clone();
        bytes[place + 300] ^= 1;
        let Ok(filesystem) = open_bytes(bytes) else { continue };
        let Ok(Some(many)) = filesystem.lookup(filesystem.root(), b"many") else { continue };
        let (mut sound, mut lost) = (0, 0);
        let listed = filesystem.list(many, &mut |entry| {
            *(if entry.is_ok() { &mut sound } else { &mut lost }) += 1;
            ControlFlow::Continue(())
        });
        if listed.is_ok() && lost > 0 {
            assert!(sound > 300, "{sound} entries are left");
            losses += 1;
        }
    }
    assert!(losses > 0, "no node of the folder was found");
}

fn small(root: &Path) {
    basics::everything_small(root);
    fill::subvolumes(root);
    fill::compressed(&basics::folder(root, "compressed"));
}

/// Leaves the filesystem as a crash does, with a tree log.
fn leave_log(fixture: &Fixture) {
    let copy = fixture.path().join("crashed");
    {
        let mount = fixture.mount("noatime,commit=300");
        let root = mount.root();
        fs::rename(root.join("content"), root.join("renamed")).expect("renamed");
        fs::remove_file(root.join("names/5-nnnnn")).expect("removed");
        fs::write(root.join("names/new"), incompressible(1, 50_000)).expect("written");
        for path in ["names/new", "renamed", "names"] {
            fs::File::open(root.join(path)).expect("opened").sync_all().expect("synced");
        }
        fs::copy(fixture.image(), &copy).expect("copied");
    }
    fs::copy(&copy, fixture.image()).expect("copied");
    let filesystem = fixture.open().expect("opened");
    assert!(!filesystem.info().notes.is_empty(), "it has a log");
}

/// Flips in superblocks and nodes, with their checksums made right again in most rounds, so that
/// what is behind the checksums is tried.
#[test]
fn flipped_bytes_cause_no_panic_and_no_endless_walk() {
    need_mounts!();
    for (arguments, has_log) in [
        (["-m", "single", "-n", "4096"], true),
        (["-m", "single", "-n", "4096"], false),
        (["-m", "dup", "-n", "16384"], false),
    ] {
        let fixture = Fixture::make(120 * MIB, &arguments);
        fixture.fill("compress-force=lzo", small);
        if has_log {
            leave_log(&fixture);
        }
        let bytes = fs::read(fixture.image()).expect("read");
        let nodesize = arguments[3].parse().expect("a number");
        let blocks = blocks(&bytes, nodesize);
        let mut random = Random::new(77);
        let mut below = |limit: usize| usize::try_from(random.next_u64()).expect("64 bits") % limit;
        let rounds = if is_long() { 3000 } else { 120 };
        let mut errors = 0;
        let shared = Arc::new(Shared(RwLock::new(bytes)));
        let volume: Arc<dyn ReadAt> = shared.clone();
        for round in 0..rounds {
            let mut before = Vec::new();
            {
                let mut bytes = shared.0.write().expect("no one panicked");
                for _ in 0..=round % 4 {
                    let (place, length) = blocks[below(blocks.len())];
                    before.push((place, bytes[place..place + length].to_vec()));
                    // Headers and what is first, or anything.
                    let used = if round % 3 == 0 { 400 } else { length };
                    bytes[place + 0x20 + below(used - 0x20)] ^= 1 << below(8);
                    if round % 8 != 0 {
                        fix(&mut bytes, &[(place, length)]);
                    }
                }
            }
            let start = Instant::now();
            errors += imgx_engine::fs::open(&volume)
                .map_or(1, |filesystem| use_everything(filesystem.as_ref()));
            assert!(start.elapsed() < PATIENCE, "{arguments:?} round {round}");
            let mut bytes = shared.0.write().expect("no one panicked");
            for (place, block) in before.into_iter().rev() {
                bytes[place..place + block.len()].copy_from_slice(&block);
            }
        }
        assert!(errors > 0, "{arguments:?}: no flip was ever noticed");
    }
}

/// Bytes that are changed between two uses.
struct Shared(RwLock<Vec<u8>>);

impl ReadAt for Shared {
    fn size(&self) -> ByteCount {
        self.0.read().expect("no one panicked").size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.0.read().expect("no one panicked").read_exact_at(offset, buffer)
    }
}

#[test]
fn a_filesystem_that_is_cut_short_still_opens() {
    need_mounts!();
    let fixture = Fixture::make(120 * MIB, &[]);
    fixture.fill("noatime", contents);
    let bytes = fs::read(fixture.image()).expect("read");
    for length in [0, 1000, 0x1_0040, 0x1_1000, 5 << 20, 20 << 20, 60 << 20, 119 << 20] {
        if let Ok(filesystem) = open_bytes(bytes[..length].to_vec()) {
            use_everything(filesystem.as_ref());
        }
    }
    let filesystem = open_bytes(bytes).expect("opened");
    assert_eq!(use_everything(filesystem.as_ref()), 0);
}
