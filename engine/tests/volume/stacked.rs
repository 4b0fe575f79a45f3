//! Logical volumes and RAID arrays: found where LVM2's and mdadm's own tools say they are.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imgx_engine::base::ByteOffset;
use imgx_engine::block::{Disk, OpenOptions, ReadAt};
use imgx_engine::volume::{self, DiskLayout, probe};
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::{mkfs, tool};

const MIB: u64 = 1 << 20;
/// Where the disk's two partitions are.
const PARTITIONS: [(u64, u64); 2] = [(MIB, 40 * MIB), (41 * MIB, 40 * MIB)];
/// LVM without udev, and with nothing but loop devices.
const CONFIG: &str = "devices { filter=[\"a|^/dev/loop|\",\"r|.*|\"] use_devicesfile=0 } \
    activation { udev_sync=0 udev_rules=0 }";

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

fn lvm(command: &str, arguments: &[&str]) -> String {
    let all = [&["--nolocking", "--config", CONFIG], arguments].concat();
    tool::run(command, &all).expect("LVM's tool runs")
}

/// The volumes that the test has LVM write down: two segments the wrong way round on the disk,
/// stripes over both partitions, and one that cannot be read.
fn logical_volumes() -> String {
    let volume = |name: &str, segments: &[String]| {
        let id: String = name.chars().cycle().take(6).collect();
        let mut text = format!(
            "{name} {{\nid = \"{id}-aaaa-bbbb-cccc-dddd-eeee-ffffff\"\n\
             status = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\n\
             segment_count = {}\n",
            segments.len()
        );
        for (number, segment) in (1..).zip(segments) {
            writeln!(text, "segment{number} {{\n{segment}\n}}").expect("written");
        }
        text + "}\n"
    };
    let linear = |start: u32, count: u32, place: &str| {
        format!(
            "start_extent = {start}\nextent_count = {count}\ntype = \"striped\"\n\
             stripe_count = 1\nstripes = [ {place} ]"
        )
    };
    let stripes = "start_extent = 0\nextent_count = 6\ntype = \"striped\"\nstripe_count = 2\n\
        stripe_size = 128\nstripes = [ \"pv1\", 5, \"pv0\", 4 ]";
    let broken = "start_extent = 0\nextent_count = 1\ntype = \"error\"";
    let volumes = [
        volume("turned", &[linear(0, 2, "\"pv1\", 0"), linear(2, 3, "\"pv0\", 1")]),
        volume("striped", &[stripes.to_owned()]),
        volume("broken", &[broken.to_owned()]),
    ];
    volumes.concat()
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
    let parts = PARTITIONS.map(|(start, length)| {
        let options = Options { offset: start, size_limit: Some(length), ..Options::default() };
        LoopDevice::attach_with(&path, options).expect("attached")
    });
    let names = parts.each_ref().map(|part| part.path().to_str().expect("plain").to_owned());
    let group = format!("imgx{}", std::process::id());
    lvm("vgcreate", &["-y", "-s", "4M", &group, &names[0], &names[1]]);
    let backup = folder.path().join("text");
    let backup = backup.to_str().expect("plain");
    lvm("vgcfgbackup", &["-f", backup, &group]);
    let text = fs::read_to_string(backup).expect("read");
    let at = text.rfind('}').expect("the group's end");
    let (before, after) = text.split_at(at);
    let volumes = logical_volumes();
    let text = format!("{before}logical_volumes {{\n{volumes}}}\n{after}");
    fs::write(backup, text).expect("written");
    lvm("vgcfgrestore", &["-f", backup, &group]);
    let columns = "lv_name,seg_start_pe,seg_size_pe,seg_pe_ranges";
    let told = lvm("lvs", &["--segments", "--noheadings", "-o", columns, &group]);
    println!("{told}");
    assert!(told.contains(&format!("{}:0-1", names[1])), "LVM reads its own text: {told}");

    // An ext4 filesystem, laid where those numbers say.
    let image = folder.path().join("ext4");
    mkfs::blank(&image, 20 * MIB).expect("made");
    let label = ["-q", "-F", "-L", "within", image.to_str().expect("plain")];
    tool::run("mke2fs", &label).expect("mke2fs runs");
    let bytes = fs::read(&image).expect("read");
    let file = fs::File::options().write(true).open(&path).expect("opened");
    let extent = 4 * MIB;
    let data = MIB; // pe_start of a physical volume with LVM's usual alignment
    let place = |part: usize, number: u64| PARTITIONS[part].0 + data + number * extent;
    let cut = usize::try_from(2 * extent).expect("small");
    file.write_all_at(&bytes[..cut], place(1, 0)).expect("written");
    file.write_all_at(&bytes[cut..], place(0, 1)).expect("written");
    let stripes: Vec<u8> =
        (0..6 * extent / 4096).flat_map(|page| vec![(page % 251) as u8; 4096]).collect();
    for (number, stripe) in stripes.chunks(64 * 1024).enumerate() {
        let row = (number as u64 / 2) * 64 * 1024;
        let start = if number % 2 == 0 { place(1, 5) } else { place(0, 4) };
        file.write_all_at(stripe, start + row).expect("written");
    }
    drop(parts);

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
