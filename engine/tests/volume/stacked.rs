//! Logical volumes and RAID arrays: found where LVM2's and mdadm's own tools say they are.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imgx_engine::base::{ByteOffset, ReadAt};
use imgx_engine::block::{Disk, OpenOptions};
use imgx_engine::volume::{self, DiskLayout, probe};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::lvm::{self, Logical, linear, striped};
use imgx_fixtures::{mkfs, tool};

const MIB: u64 = 1 << 20;
/// Where the disk's two partitions are.
const PARTITIONS: [(u64, u64); 2] = [(MIB, 40 * MIB), (41 * MIB, 40 * MIB)];

fn open(path: &Path) -> (Arc<dyn ReadAt>, DiskLayout) {
    let disk = Disk::open(path, &OpenOptions::default()).expect("the disk opens");
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    let layout = probe(disk.as_ref(), 512).expect("it is probed");
    (disk, layout)
}

fn content(disk: &Arc<dyn ReadAt>, layout: &DiskLayout, name: &str) -> Vec<u8> {
    let found = layout.find(name).unwrap_or_else(|error| panic!("{error}: {layout:#?}"));
    let volume = volume::open(disk, found).expect("it opens");
    let mut bytes = vec![0; usize::try_from(volume.size().0).expect("small")];
    volume.read_exact_at(ByteOffset(0), &mut bytes).expect("it is read");
    bytes
}

/// The volumes that the test has LVM write down: two segments the wrong way round on the disk,
/// stripes over both partitions, and one that cannot be read.
fn logical_volumes() -> [Logical; 3] {
    let broken = "start_extent = 0\nextent_count = 1\ntype = \"error\"";
    [
        Logical { name: "turned", segments: vec![linear(0, 2, (1, 0)), linear(2, 3, (0, 1))] },
        Logical { name: "striped", segments: vec![striped(6, [(1, 5), (0, 4)])] },
        Logical { name: "broken", segments: vec![broken.to_owned()] },
    ]
}

#[test]
fn logical_volumes_are_where_lvm_says() {
    for tool in ["vgcfgrestore", "sfdisk", "mke2fs"] {
        if !tool::have(tool) {
            println!("skipped: no {tool}");
            return;
        }
    }
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    mkfs::blank(&path, 82 * MIB).expect("made");
    mkfs::sfdisk(&path, "label: gpt\nstart=1M, size=40M\nstart=41M, size=40M\n").expect("made");
    let group = format!("imgx{}", std::process::id());
    let told = lvm::make_group(&path, &PARTITIONS, &group, &logical_volumes());
    let told = told.expect("LVM's tools run");
    println!("{told}");
    assert!(told.contains("pv1:0-1"), "LVM reads its own text: {told}");

    // An ext4 filesystem, laid where those numbers say.
    let image = folder.path().join("ext4");
    mkfs::blank(&image, 20 * MIB).expect("made");
    let label = ["-q", "-F", "-L", "within", image.to_str().expect("plain")];
    tool::run("mke2fs", &label).expect("mke2fs runs");
    let bytes = fs::read(&image).expect("read");
    let file = fs::File::options().write(true).open(&path).expect("opened");
    let place = |part: usize, number: u64| PARTITIONS[part].0 + lvm::DATA + number * lvm::EXTENT;
    let cut = usize::try_from(2 * lvm::EXTENT).expect("small");
    file.write_all_at(&bytes[..cut], place(1, 0)).expect("written");
    file.write_all_at(&bytes[cut..], place(0, 1)).expect("written");
    let stripes: Vec<u8> =
        (0..6 * lvm::EXTENT / 4096).flat_map(|page| vec![(page % 251) as u8; 4096]).collect();
    for (number, stripe) in stripes.chunks(64 * 1024).enumerate() {
        let row = (number as u64 / 2) * 64 * 1024;
        let start = if number % 2 == 0 { place(1, 5) } else { place(0, 4) };
        file.write_all_at(stripe, start + row).expect("written");
    }

    let (disk, layout) = open(&path);
    assert!(content(&disk, &layout, &format!("{group}/turned")) == bytes, "turned differs");
    assert!(content(&disk, &layout, &format!("{group}/striped")) == stripes, "striped differs");
    let by_label = layout.find("LABEL=within").expect("its label is known");
    assert_eq!(by_label.name, format!("{group}/turned"));
    let broken = layout.find(&format!("{group}/broken")).expect("it is listed");
    let why = volume::open(&disk, broken).err().expect("it is not read").to_string();
    assert!(why.contains("type error"), "{why}");
    layout.find("nothing/there").expect_err("there is none");

    // One physical volume alone.
    let alone = folder.path().join("alone");
    let (start, length) = PARTITIONS[0];
    let whole = fs::read(&path).expect("read");
    let start = usize::try_from(start).expect("small");
    let end = start + usize::try_from(length).expect("small");
    fs::write(&alone, &whole[start..end]).expect("written");
    let (disk, layout) = open(&alone);
    let half = layout.find(&format!("{group}/turned")).expect("it is listed");
    let why = volume::open(&disk, half).err().expect("half of it is missing").to_string();
    assert!(why.contains("on another disk"), "{why}");
}

/// A superblock of version 1 for a mirror of two, its data from byte 1 MiB.
fn superblock(place: u64, role: u16, events: u64, features: u32) -> Vec<u8> {
    let mut block = vec![0; 260];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(8, &features.to_le_bytes());
    put(16, &[7; 16]);
    put(32, b"host:mirror");
    put(72, &1_u32.to_le_bytes());
    put(80, &(16 * MIB / 512).to_le_bytes());
    put(92, &2_u32.to_le_bytes());
    put(128, &(MIB / 512).to_le_bytes());
    put(136, &(16 * MIB / 512).to_le_bytes());
    put(144, &(place / 512).to_le_bytes());
    put(168, &[9; 16]);
    put(200, &events.to_le_bytes());
    put(208, &u64::MAX.to_le_bytes());
    put(220, &2_u32.to_le_bytes());
    put(256, &role.to_le_bytes());
    put(258, &1_u16.to_le_bytes());
    let words =
        block.chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().expect("4"))));
    let sum: u64 = words.sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    block[216..220].copy_from_slice(&sum.to_le_bytes()[..4]);
    block
}

#[test]
fn an_array_is_read_from_its_newest_sound_member() {
    for tool in ["mdadm", "sfdisk"] {
        if !tool::have(tool) {
            println!("skipped: no {tool}");
            return;
        }
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    mkfs::blank(&path, 42 * MIB).expect("made");
    mkfs::sfdisk(&path, "label: gpt\nstart=1M, size=20M\nstart=21M, size=20M\n").expect("made");
    let file = fs::File::options().write(true).open(&path).expect("opened");
    let starts = [MIB, 21 * MIB];
    for (start, byte) in starts.iter().zip([1_u8, 2]) {
        file.write_all_at(&vec![byte; 16 << 20], start + MIB).expect("written");
    }
    let write = |newer: usize, roles: [u16; 2], features: [u32; 2]| {
        for (number, start) in starts.iter().enumerate() {
            let events = if number == newer { 20 } else { 10 };
            let block = superblock(4096, roles[number], events, features[number]);
            file.write_all_at(&block, start + 4096).expect("written");
        }
        let (disk, layout) = open(&path);
        volume::open(&disk, layout.find("md/mirror").expect("it is listed")).map(|array| {
            let mut bytes = [0; 16];
            array.read_exact_at(ByteOffset(16 * MIB - 16), &mut bytes).expect("read");
            assert_eq!(array.size().0, 16 * MIB);
            bytes[0]
        })
    };
    assert_eq!(write(0, [0, 1], [0, 0]).expect("read"), 1);
    assert_eq!(write(1, [0, 1], [0, 0]).expect("read"), 2);
    assert_eq!(write(1, [0, 0xffff], [0, 0]).expect("the other is a spare"), 1);
    assert_eq!(write(1, [0, 1], [0, 2]).expect("the other is not rebuilt"), 1);
    let none = write(1, [0xfffe, 0xffff], [0, 0]).expect_err("none is fit").to_string();
    assert!(none.contains("spare or faulty"), "{none}");

    // The superblock above is as mdadm would have it.
    let member = folder.path().join("member");
    let mut bytes = vec![0; 20 << 20];
    bytes[4096..4096 + 260].copy_from_slice(&superblock(4096, 0, 10, 0));
    fs::write(&member, bytes).expect("written");
    let told = tool::run("mdadm", &["--examine", member.to_str().expect("plain")]);
    let told = told.expect("mdadm takes it");
    for word in ["host:mirror", "raid1", "- correct", "Version : 1.2"] {
        assert!(told.contains(word), "no '{word}': {told}");
    }
}
