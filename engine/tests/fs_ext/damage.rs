//! Damage costs what is damaged, and never a panic or an endless walk.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use imgx_engine::base::ErrorKind;
use imgx_fixtures::pattern::Random;
use imgx_fixtures::tool;

use crate::common::is_long;
use crate::everything::{told, use_everything};
use crate::fill;
use crate::fixture::{Fixture, MIB, open, open_bytes};
use crate::need_mounts;

/// One walk of a small image must end within this, however slow the machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_damaged_superblock_is_replaced_by_a_copy() {
    need_mounts!();
    for (size, block_size) in [(32 * MIB, "1024"), (160 * MIB, "4096")] {
        let fixture = Fixture::make(size, &["-t", "ext4", "-b", block_size]);
        let truth = fixture.fill(fill::contents);
        let good = fs::read(fixture.image()).expect("read");
        // A wrong field; no superblock at all; nor the group descriptors behind it.
        for (start, end) in [(1024 + 0x28, 1024 + 0x2a), (1024, 2048), (0, 2048), (0, 8192)] {
            let mut bytes = good.clone();
            bytes[start..end].fill(0xa5);
            fs::write(fixture.image(), bytes).expect("written");
            let context = format!("{block_size}: garbage in {start}..{end}");
            let filesystem = fixture.assert_reads_as(&context, &truth);
            let notes = told(filesystem.as_ref());
            assert!(notes.iter().any(|note| note.contains("copy")), "{context}: {notes:?}");
            let free = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
            assert!(free.is_err(), "{context}: free space is not certain");
        }
    }
}

#[test]
fn a_damaged_block_of_a_folder_costs_its_entries_only() {
    need_mounts!();
    let fixture = Fixture::make(32 * MIB, &["-t", "ext4", "-b", "1024"]);
    fixture.fill(|root| fill::names(&fill::folder(root, "many"), 400));
    let mut bytes = fs::read(fixture.image()).expect("read");
    let place = bytes.windows(5).position(|window| window == b"150-n").expect("the entry is there");
    bytes[place] = b'X';
    let filesystem = open_bytes(bytes).expect("opened");
    let many = filesystem.lookup(filesystem.root(), b"many").expect("searched").expect("found");
    let (mut sound, mut lost) = (0, 0);
    filesystem
        .list(many, &mut |entry| {
            *(if entry.is_ok() { &mut sound } else { &mut lost }) += 1;
            ControlFlow::Continue(())
        })
        .expect("listed");
    assert_eq!(lost, 1);
    assert!((390..404).contains(&sound), "{sound} entries are left");
}

#[test]
fn flipped_bytes_cause_no_panic_and_no_endless_walk() {
    need_mounts!();
    for arguments in [
        ["-t", "ext4", "-b", "1024", "-O", "inline_data", "-N", "2048"].as_slice(),
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum", "-N", "2048"],
        &["-t", "ext2", "-b", "1024", "-N", "2048"],
    ] {
        let fixture = Fixture::make(12 * MIB, arguments);
        fixture.fill(fill::everything_small);
        let good = fs::read(fixture.image()).expect("read");
        // Metadata lies in the first part; content, which is never looked into, mostly behind it.
        let used: Vec<usize> = (0..3 << 20).filter(|place| good[*place] != 0).collect();
        let mut random = Random::new(77);
        let rounds = if is_long() { 5000 } else { 150 };
        let mut errors = 0;
        for round in 0..rounds {
            let mut bytes = good.clone();
            for _ in 0..=round % 4 {
                let among = if round % 3 == 0 { 4000.min(used.len()) } else { used.len() };
                let place = used[usize::try_from(random.next_u64()).expect("64 bits") % among];
                bytes[place] ^= 1 << (random.next_u64() % 8);
            }
            let start = Instant::now();
            errors += open_bytes(bytes).map_or(1, |filesystem| use_everything(filesystem.as_ref()));
            assert!(start.elapsed() < PATIENCE, "{arguments:?} round {round}");
        }
        assert!(errors > 0, "{arguments:?}: no flip was ever noticed");
    }
}

#[test]
fn a_filesystem_that_is_cut_short_still_opens() {
    need_mounts!();
    let fixture = Fixture::make(32 * MIB, &["-t", "ext4", "-b", "1024"]);
    fixture.fill(fill::contents);
    let bytes = fs::read(fixture.image()).expect("read");
    for length in [0, 1000, 1024, 2047, 2048, 5000, 100_000, 9 << 20] {
        if let Ok(filesystem) = open_bytes(bytes[..length].to_vec()) {
            use_everything(filesystem.as_ref());
        }
    }
    assert!(open(&fixture.image()).is_ok());
}

#[test]
fn a_size_beyond_all_maps_takes_no_time() {
    need_mounts!();
    for features in ["extent", "^extent,^64bit"] {
        let fixture = Fixture::make(16 * MIB, &["-t", "ext4", "-O", features]);
        fixture.fill(|root| fs::write(root.join("file"), "little").expect("written"));
        let image = fixture.image();
        let image = image.to_str().expect("plain");
        let request = format!("sif file size {}", 1_u64 << 50);
        imgx_fixtures::tool::run("debugfs", &["-w", "-R", &request, image]).expect("it runs");
        let filesystem = open(&fixture.image()).expect("opened");
        let found = filesystem.lookup(filesystem.root(), b"file").expect("searched");
        let mut content = filesystem.open(found.expect("found")).expect("opened");
        assert_eq!(content.size(), 1 << 50);
        let start = Instant::now();
        let mut buffer = [1; 6];
        content.read_at(0, &mut buffer).expect("read");
        assert_eq!(&buffer, b"little");
        let _ = content.read_at(1 << 49, &mut buffer);
        let _ = content.extents(&mut |_| ControlFlow::Continue(()));
        assert!(start.elapsed() < PATIENCE, "{features}");
    }
}

#[test]
fn a_name_that_leads_to_no_file_leads_to_damage() {
    need_mounts!();
    let fixture = Fixture::make(32 * MIB, &["-t", "ext4", "-I", "256", "-O", "ea_inode"]);
    let mut freed = 0;
    fixture.fill(|root| {
        fill::attributes(root, 50_000);
        fs::write(root.join("freed"), "once").expect("written");
        freed = fs::metadata(root.join("freed")).expect("there").ino();
        fs::remove_file(root.join("freed")).expect("removed");
    });
    let image = fixture.image();
    let numbers: Vec<u64> = (12..60).collect();
    let is_value = |number: &&u64| {
        let stat = format!("stat <{number}>");
        let found = tool::run("debugfs", &["-R", &stat, image.to_str().expect("plain")]);
        found.is_ok_and(|found| found.contains("Flags: 0x280000"))
    };
    let value = *numbers.iter().find(is_value).expect("an attribute's inode");
    let cases = [("own", 8), ("value", value), ("freed", freed), ("never", 2000)];
    let links = cases.map(|(name, number)| format!("ln <{number}> {name}\n")).concat();
    let arguments = ["-w", "-f", "-", image.to_str().expect("plain")];
    tool::run_with_input("debugfs", &arguments, &links).expect("debugfs runs");
    let mount = fixture.mount(&image, "ro");
    let filesystem = open(&image).expect("opened");
    for (name, number) in cases {
        let file = filesystem.lookup(filesystem.root(), name.as_bytes()).expect("searched");
        let file = file.unwrap_or_else(|| panic!("{name} is there"));
        assert_eq!(file.number, number, "{name}");
        let error = filesystem.metadata(file).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        assert!(
            filesystem.open(file).is_err()
                && filesystem.list(file, &mut |_| ControlFlow::Break(())).is_err()
        );
        assert!(fs::metadata(mount.root().join(name)).is_err(), "the kernel reads {name}");
    }
}

#[test]
fn inode_tables_that_claim_more_than_the_volume_are_not_gone_through() {
    need_mounts!();
    let fixture = Fixture::make(16 * MIB, &["-t", "ext2", "-b", "1024", "-I", "128"]);
    fixture.fill(|root| fs::write(root.join("file"), "little").expect("written"));
    let mut bytes = fs::read(fixture.image()).expect("read");
    // Larger inodes in the same number.
    bytes[1024 + 0x58..1024 + 0x5a].copy_from_slice(&1024_u16.to_le_bytes());
    let count = u32::from_le_bytes(bytes[1024..1028].try_into().expect("four"));
    bytes.resize(usize::try_from(count).expect("small") * 1024 - 1, 0);
    let filesystem = open_bytes(bytes).expect("opened");
    let numbered = filesystem.numbered().expect("files have numbers");
    let shown = numbered.each_file(None, &mut |_| ControlFlow::Continue(()));
    let error = shown.expect_err("there is no room for them").to_string();
    assert!(error.contains("no more than the volume"), "{error}");
}
