//! Logical volumes and RAID arrays: found where LVM2's and mdadm's own tools say they are.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imgx_engine::base::{ByteOffset, ReadAt};
use imgx_engine::block::{Disk, OpenOptions};
use imgx_engine::volume::{Keys, Stack, Volume};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::lvm::{self, Logical, linear, striped};
use imgx_fixtures::md::{Metadata, Plan};
use imgx_fixtures::{mkfs, tool};

const MIB: u64 = 1 << 20;
/// Where the disk's two partitions are.
const PARTITIONS: [(u64, u64); 2] = [(MIB, 40 * MIB), (41 * MIB, 40 * MIB)];

fn open(path: &Path) -> Stack {
    let disk = Disk::open(path, &OpenOptions::default()).expect("the disk opens");
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    Stack::open(&disk, 512, &Keys::default()).expect("it is opened")
}

fn find<'a>(stack: &'a Stack, name: &str) -> &'a Volume {
    let layout = stack.layout();
    layout.find(name).unwrap_or_else(|error| panic!("{error}: {layout:#?}"))
}

fn content(stack: &Stack, name: &str) -> Vec<u8> {
    let volume = stack.bytes(find(stack, name)).expect("it opens");
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

    let stack = open(&path);
    assert!(content(&stack, &format!("{group}/turned")) == bytes, "turned differs");
    assert!(content(&stack, &format!("{group}/striped")) == stripes, "striped differs");
    let by_label = find(&stack, "LABEL=within");
    assert_eq!(by_label.name, format!("{group}/turned"));
    let broken = find(&stack, &format!("{group}/broken"));
    let why = stack.bytes(broken).err().expect("it is not read").to_string();
    assert!(why.contains("type error"), "{why}");
    stack.layout().find("nothing/there").expect_err("there is none");

    // One physical volume alone.
    let alone = folder.path().join("alone");
    let (start, length) = PARTITIONS[0];
    let whole = fs::read(&path).expect("read");
    let start = usize::try_from(start).expect("small");
    let end = start + usize::try_from(length).expect("small");
    fs::write(&alone, &whole[start..end]).expect("written");
    let stack = open(&alone);
    let half = find(&stack, &format!("{group}/turned"));
    let why = stack.bytes(half).err().expect("half of it is missing").to_string();
    assert!(why.contains("on another disk"), "{why}");
}

/// Where the test's two members are, each of so many bytes.
const MEMBERS: [u64; 2] = [MIB, 21 * MIB];
const MEMBER: u64 = 20 * MIB;

/// Puts superblocks onto the members of a mirror: each an events count, a feature map, and the
/// roles of both devices.
fn sign(path: &Path, metadata: Metadata, said: [(u64, u32, [u16; 2]); 2]) {
    let file = fs::File::options().write(true).open(path).expect("opened");
    for ((number, start), (events, features, roles)) in (0..).zip(MEMBERS).zip(said) {
        let data = vec![16 * MIB; 2];
        let plan = Plan { metadata, events, features, members: data, ..Plan::new(1, 0, 4096, 2) };
        let mut bytes = vec![0; usize::try_from(MEMBER).expect("small")];
        // What it holds says which member it is.
        let start_of_data = usize::try_from(plan.data_start()).expect("small");
        bytes[start_of_data..start_of_data + (16 << 20)].fill(number + 1);
        plan.sign(&mut bytes, number.into(), number.into(), &roles);
        file.write_all_at(&bytes, start).expect("written");
    }
}

/// The last byte of the one array there is, or why it is not read.
fn read_mirror(path: &Path, name: &str) -> Result<u8, String> {
    let stack = open(path);
    let arrays = stack.layout().volumes.iter().filter(|volume| volume.name.starts_with("md/"));
    assert_eq!(arrays.map(|volume| volume.name.as_str()).collect::<Vec<_>>(), [name]);
    let array = stack.bytes(find(&stack, name)).map_err(|error| error.to_string())?;
    assert_eq!(array.size().0, 16 * MIB);
    let mut bytes = [0];
    array.read_exact_at(ByteOffset(16 * MIB - 1), &mut bytes).expect("read");
    Ok(bytes[0])
}

#[test]
fn a_mirror_is_read_from_a_member_that_is_sound() {
    if !tool::have("sfdisk") {
        println!("skipped: no sfdisk");
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    mkfs::blank(&path, 42 * MIB).expect("made");
    mkfs::sfdisk(&path, "label: gpt\nstart=1M, size=20M\nstart=21M, size=20M\n").expect("made");
    let both = [0, 1];
    for metadata in [Metadata::V1Behind, Metadata::V1Start, Metadata::V1End, Metadata::V0] {
        let name = if metadata == Metadata::V0 { "md/7" } else { "md/fixture" };
        let read = |said| {
            sign(&path, metadata, said);
            read_mirror(&path, name)
        };
        assert_eq!(read([(20, 0, both), (20, 0, both)]), Ok(1), "{metadata:?}");
        assert_eq!(read([(20, 0, both), (10, 0, both)]), Ok(1), "{metadata:?}");
        assert_eq!(read([(10, 0, both), (20, 0, both)]), Ok(2), "{metadata:?}");
        // A spare's count does not count.
        let spare = [0xffff, 1];
        assert_eq!(read([(30, 0, spare), (20, 0, spare)]), Ok(2), "{metadata:?}");
        let failed = read([(20, 0, [0xfffe, 0xffff]), (20, 0, [0xfffe, 0xffff])]);
        assert!(failed.is_err_and(|why| why.contains("no active member")), "{metadata:?}");
        if metadata != Metadata::V0 {
            assert_eq!(read([(20, 2, both), (20, 0, both)]), Ok(2), "one is being rebuilt");
            let none = read([(20, 2, both), (20, 2, both)]).expect_err("neither is whole");
            assert!(none.contains("lacks 2"), "{none}");
        }
    }
}

#[test]
fn an_array_of_another_level_is_listed_and_not_read() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    let plan = Plan::new(5, 2, 64 * 1024, 3);
    let content = vec![1; usize::try_from(plan.size()).expect("small")];
    fs::write(&path, &plan.write(&content)[0]).expect("written");
    let stack = open(&path);
    let array = find(&stack, "md/fixture");
    let why = stack.bytes(array).err().expect("it is not read").to_string();
    assert!(why.contains("RAID5"), "{why}");
}
