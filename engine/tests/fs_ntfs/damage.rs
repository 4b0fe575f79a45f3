//! Damage costs what is damaged, and never a panic or an endless walk.

use std::fs;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use imgx_engine::base::ErrorKind;
use imgx_engine::fs::Protection;
use imgx_fixtures::pattern::{Random, text};
use imgx_fixtures::tool;

use crate::common::is_long;
use crate::everything::{told, use_everything};
use crate::fixture::{Fixture, MIB, contents, many, mixed, open_bytes};
use crate::links::find;
use crate::need_ntfs_3g;

/// One walk of a small volume must end within this, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The byte that the table starts at.
pub fn table(bytes: &[u8]) -> usize {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let cluster = usize::from(bytes[0x0b]) | usize::from(bytes[0x0c]) << 8;
    usize::try_from(number(0x30)).expect("small") * cluster * usize::from(bytes[0x0d])
}

#[test]
fn a_damaged_boot_sector_is_replaced_by_its_copy() {
    need_ntfs_3g!();
    for cluster_size in [512, 4096] {
        let fixture = Fixture::make(24 * MIB, cluster_size);
        let truth = fixture.fill("", |root| many(&root.join("many"), 50));
        let good = fs::read(fixture.image()).expect("read");
        for (start, end) in [(0x0d, 0x0e), (0x30, 0x38), (0, 512), (510, 512), (0, 4096)] {
            let mut bytes = good.clone();
            bytes[start..end].fill(0);
            fs::write(fixture.image(), bytes).expect("written");
            let context = format!("clusters of {cluster_size}: nothing in {start}..{end}");
            let filesystem = fixture.assert_reads_as(&context, &truth);
            let notes = told(filesystem.as_ref());
            assert!(notes.iter().any(|note| note.contains("copy")), "{context}: {notes:?}");
            let free = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
            assert!(free.is_err(), "{context}: free space is not certain");
        }
    }
}

#[test]
fn damaged_first_records_are_replaced_by_their_copies() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    let truth = fixture.fill("", |root| many(&root.join("many"), 50));
    let good = fs::read(fixture.image()).expect("read");
    for record in 0..4 {
        let mut bytes = good.clone();
        let start = table(&good) + record * 1024;
        bytes[start..start + 1024].fill(0x5a);
        fs::write(fixture.image(), bytes).expect("written");
        let filesystem = fixture.assert_reads_as(&format!("record {record}"), &truth);
        let notes = told(filesystem.as_ref()).join(" ");
        assert!(notes.contains(&format!("record {record}")), "{notes}");
    }
}

#[test]
fn a_record_of_another_time_is_damage_and_not_another_files_content() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    fixture.fill("", |root| fs::write(root.join("file"), "content").expect("written"));
    let mut bytes = fs::read(fixture.image()).expect("read");
    let filesystem = open_bytes(bytes.clone()).expect("opened");
    let number = find(filesystem.as_ref(), "file").number & 0xffff_ffff_ffff;
    // Its sequence number, as if the record had been given to another file since.
    let record = table(&bytes) + usize::try_from(number).expect("small") * 1024;
    bytes[record + 0x10] += 1;
    let filesystem = open_bytes(bytes).expect("opened");
    let file = find(filesystem.as_ref(), "file");
    let error = filesystem.metadata(file).expect_err("it is another file's");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("sequence number"), "{error}");
}

/// The byte that the attribute of a file's content starts at.
pub fn data_attribute(bytes: &[u8], name: &str) -> usize {
    let filesystem = open_bytes(bytes.to_vec()).expect("opened");
    let number = find(filesystem.as_ref(), name).number & 0xffff_ffff_ffff;
    let record = table(bytes) + usize::try_from(number).expect("small") * 1024;
    let mut at = record + usize::from(bytes[record + 0x14]);
    while bytes[at] != 0x80 {
        at += usize::from(bytes[at + 4]);
    }
    at
}

#[test]
fn encrypted_files_are_named_as_such() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    fixture.fill("", |root| fs::write(root.join("file"), text(1, 10_000)).expect("written"));
    let mut bytes = fs::read(fixture.image()).expect("read");
    let attribute = data_attribute(&bytes, "file");
    bytes[attribute + 0x0d] |= 0x40;
    let filesystem = open_bytes(bytes).expect("opened");
    let file = find(filesystem.as_ref(), "file");
    let metadata = filesystem.metadata(file).expect("described");
    assert_eq!((metadata.protection, metadata.size), (Protection::Encrypted, 10_000));
    let error = filesystem.open(file).err().expect("there is no key");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("EFS"), "{error}");
}

#[test]
fn what_was_never_written_reads_as_zeros() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    fixture.fill("", |root| fs::write(root.join("file"), text(1, 10_000)).expect("written"));
    let mut bytes = fs::read(fixture.image()).expect("read");
    let attribute = data_attribute(&bytes, "file");
    // ValidDataLength, of which the rest of a cluster is beyond.
    bytes[attribute + 0x38..attribute + 0x40].copy_from_slice(&5000_u64.to_le_bytes());
    fs::write(fixture.image(), &bytes).expect("written");
    let truth = fixture.truth();
    let filesystem = fixture.assert_reads_as("5,000 of 10,000 bytes", &truth);
    let mut content = filesystem.open(find(filesystem.as_ref(), "file")).expect("opened");
    let mut found = vec![1; 10_000];
    content.read_at(0, &mut found).expect("read");
    assert!(found[..5000] == text(1, 10_000)[..5000]);
    assert!(found[5000..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_block_that_was_not_written_whole_costs_its_entries_only() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    fixture.fill("", |root| many(&root.join("many"), 400));
    let mut bytes = fs::read(fixture.image()).expect("read");
    // The end of the first part of a block of the folder.
    let place = bytes.windows(4).rposition(|window| window == b"INDX").expect("a block");
    bytes[place + 510] ^= 0xff;
    let filesystem = open_bytes(bytes).expect("opened");
    let folder = find(filesystem.as_ref(), "many");
    let (mut sound, mut lost) = (0, 0);
    let listed = filesystem.list(folder, &mut |entry| {
        *(if entry.is_ok() { &mut sound } else { &mut lost }) += 1;
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    assert_eq!(lost, 1);
    assert!((300..400).contains(&sound), "{sound} entries are left");
}

/// The bytes of a small volume that has a little of everything.
fn everything() -> Vec<u8> {
    let fixture = Fixture::make(8 * MIB, 512);
    fixture.fill("compression", |root| {
        contents(root);
        many(&root.join("many"), 100);
        std::os::unix::fs::symlink("somewhere", root.join("link")).expect("linked");
        fs::write(root.join("many:stream"), "stream").expect("written");
        let packed = root.join("packed");
        fs::create_dir(&packed).expect("made");
        let path = packed.to_str().expect("plain");
        let flags = ["-n", "system.ntfs_attrib_be", "-v", "0x00000800", path];
        tool::run("setfattr", &flags).expect("setfattr runs");
        fs::write(packed.join("text"), text(1, 100_000)).expect("written");
        mixed(&packed.join("mixed"), 3, 300_000);
    });
    fs::read(fixture.image()).expect("read")
}

#[test]
fn flipped_bytes_cause_no_panic_and_no_endless_walk() {
    need_ntfs_3g!();
    let good = everything();
    // Where records, blocks of folders and the boot sector are.
    let mut used: Vec<usize> = (0..512).collect();
    for place in (0..good.len()).step_by(512) {
        if [&b"FILE"[..], b"INDX"].contains(&&good[place..place + 4]) {
            used.extend((place..place + 1024).filter(|at| good.get(*at).is_some_and(|b| *b != 0)));
        }
    }
    assert!(used.len() > 20_000, "{} bytes are worth changing", used.len());
    let runs = if is_long() { 20_000 } else { 500 };
    let mut random = Random::new(20_261_125);
    let mut broken = 0;
    for run in 0..runs {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(4) {
            let place = used[usize::try_from(random.below(used.len() as u64)).expect("small")];
            bytes[place] = u8::try_from(random.below(256)).expect("a byte");
        }
        let start = Instant::now();
        match open_bytes(bytes) {
            Ok(filesystem) => broken += u64::from(use_everything(filesystem.as_ref()) > 0),
            Err(_) => broken += 1,
        }
        assert!(start.elapsed() < PATIENCE, "run {run}: {:?}", start.elapsed());
    }
    println!("{broken} of {runs} runs met an error");
    assert!(broken > runs / 20, "nothing was damaged");
}

#[test]
fn a_file_table_that_claims_more_than_the_volume_is_not_gone_through() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    fixture.fill("", |root| fs::write(root.join("file"), "content").expect("written"));
    let mut bytes = fs::read(fixture.image()).expect("read");
    let shown = |bytes: &[u8]| {
        let filesystem = open_bytes(bytes.to_vec()).expect("opened");
        assert_eq!(filesystem.metadata(find(filesystem.as_ref(), "file")).expect("there").size, 7);
        let numbered = filesystem.numbered().expect("files have numbers");
        numbered.each_file(None, &mut |_| ControlFlow::Continue(()))
    };
    shown(&bytes).expect("it is sound");
    // A hole behind the table's one run: 32,767 clusters of blank records.
    let record = table(&bytes);
    let mut at = record + usize::from(bytes[record + 0x14]);
    while bytes[at] != 0x80 {
        at += usize::from(bytes[at + 4]);
    }
    let runs = at + usize::from(bytes[at + 0x20]);
    let (count, place) = (usize::from(bytes[runs] & 0xf), usize::from(bytes[runs] >> 4));
    let length = &bytes[runs + 1..runs + 1 + count];
    let clusters = length.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)) + 0x7fff;
    let next = runs + 1 + count + place;
    bytes[next..next + 4].copy_from_slice(&[2, 0xff, 0x7f, 0]);
    bytes[at + 0x18..at + 0x20].copy_from_slice(&(clusters - 1).to_le_bytes());
    for field in [0x28, 0x30, 0x38] {
        bytes[at + field..at + field + 8].copy_from_slice(&(clusters * 4096).to_le_bytes());
    }
    let error = shown(&bytes).expect_err("it is larger than the volume");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
