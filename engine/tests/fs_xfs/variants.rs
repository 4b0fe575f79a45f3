//! Each form that mkfs.xfs can give a filesystem reads as the kernel reads it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::fill;
use crate::fixture::{Fixture, MIB, open};
use crate::need_mounts;

fn check(size: u64, arguments: &[&str]) {
    need_mounts!();
    let context = arguments.join(" ");
    let fixture = Fixture::make(size, arguments);
    let truth = fixture.fill(fill::everything);
    let filesystem = fixture.assert_reads_as(&context, &truth);
    assert_eq!(filesystem.info().notes, [""; 0], "{context}");
}

#[test]
fn any_block_size() {
    check(300 * MIB, &[]);
    for size in ["1024", "2048", "16384", "65536"] {
        check(300 * MIB, &["-b", &format!("size={size}")]);
    }
}

#[test]
fn any_block_size_of_folders() {
    check(300 * MIB, &["-b", "size=1024", "-n", "size=65536"]);
    check(300 * MIB, &["-n", "size=8192"]);
}

#[test]
fn any_sector_and_inode_size() {
    check(300 * MIB, &["-s", "size=4096"]);
    check(300 * MIB, &["-b", "size=1024", "-i", "size=512"]);
    check(300 * MIB, &["-i", "size=2048"]);
}

#[test]
fn any_features() {
    check(300 * MIB, &["-m", "rmapbt=1,reflink=1,inobtcount=1,bigtime=1", "-i", "nrext64=1"]);
    check(300 * MIB, &["-m", "finobt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0"]);
    check(299 * MIB, &["-i", "sparse=1,nrext64=0", "-b", "size=1024", "-d", "agcount=8"]);
}

/// The bits `exchrange` and `parent`, which newer tools set by themselves.
#[test]
fn features_of_newer_tools() {
    need_mounts!();
    let fixture = Fixture::make(300 * MIB, &["-m", "reflink=1,rmapbt=1"]);
    let file = OpenOptions::new().read(true).write(true).open(fixture.image()).expect("opened");
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).expect("read");
    sector[0xdb] |= 0xc0;
    sector[0xe0..0xe4].fill(0);
    let sum = crc32c(&sector);
    sector[0xe0..0xe4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&sector, 0).expect("written");
    let truth = fixture.fill(fill::everything);
    fixture.assert_reads_as("exchrange, parent", &truth);
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| match sum & 1 {
            1 => sum >> 1 ^ 0x82f6_3b78,
            _ => sum >> 1,
        })
    })
}

#[test]
fn times_of_access_and_birth() {
    need_mounts!();
    for arguments in [["-m", "bigtime=1"], ["-m", "bigtime=0"]] {
        let fixture = Fixture::make(300 * MIB, &arguments);
        let mount = fixture.mount(&fixture.image(), "noatime");
        fill::times(mount.root());
        let mut expected = Vec::new();
        for entry in fs::read_dir(mount.root()).expect("listed") {
            let entry = entry.expect("listed");
            let found = entry.metadata().expect("there");
            let born = found.created().expect("XFS keeps births");
            let born = born.duration_since(std::time::UNIX_EPOCH).expect("now is after 1970");
            let born = (i64::try_from(born.as_secs()).expect("small"), born.subsec_nanos());
            expected.push((entry.file_name(), (found.atime(), found.atime_nsec()), born));
        }
        drop(mount);
        let filesystem = open(&fixture.image()).expect("opened");
        for (name, accessed, born) in expected {
            let file = filesystem.lookup(filesystem.root(), name.as_encoded_bytes());
            let file = file.expect("searched").expect("found");
            let found = filesystem.metadata(file).expect("read");
            let time = found.accessed.expect("kept");
            assert_eq!((time.seconds, i64::from(time.nanoseconds)), accessed, "{name:?}");
            let time = found.created.expect("kept");
            assert_eq!((time.seconds, time.nanoseconds), born, "{name:?}");
        }
    }
}

#[test]
fn what_blkid_says_of_it() {
    need_mounts!();
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    let uuid = format!("uuid={id}");
    let fixture = Fixture::make(300 * MIB, &["-L", "a label", "-m", &uuid]);
    let filesystem = open(&fixture.image()).expect("opened");
    let info = filesystem.info();
    assert_eq!((info.kind, info.size, info.block_size), ("xfs", 300 * MIB, 4096));
    assert_eq!((info.label.as_deref(), info.uuid.as_deref()), (Some("a label"), Some(id)));
    assert_eq!(info.notes, [""; 0]);
}
