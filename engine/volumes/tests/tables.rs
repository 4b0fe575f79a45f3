//! Apple's partition map, BSD disklabels and Windows' dynamic disks: listed as the system's own
//! tools and Linux list them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::mkfs::{blank, sfdisk};
use imgx_fixtures::tool::{self, have, run};
use imgx_volumes::base::{ByteCount, ByteOffset, ReadAt, Result, check_range};
use imgx_volumes::fs;
use imgx_volumes::volume::{DiskLayout, Keys, Kind, PartitionTable, Stack, Volume, probe};

const MIB: u64 = 1 << 20;

/// A disk in memory.
struct Memory(Vec<u8>);

impl ReadAt for Memory {
    fn size(&self) -> ByteCount {
        ByteCount(self.0.len() as u64)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let start = usize::try_from(offset.0).expect("small");
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
}

fn layout_of(bytes: Vec<u8>) -> DiskLayout {
    let disk: Arc<dyn ReadAt> = Arc::new(Memory(bytes));
    probe(&disk, 512).expect("the probe runs")
}

fn layout(path: &Path) -> DiskLayout {
    layout_of(std::fs::read(path).expect("read"))
}

fn skip_without(tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| !have(tool));
    if let Some(tool) = missing {
        println!("skipped: no {tool}");
    }
    missing.is_some()
}

fn text(path: &Path) -> &str {
    tool::text(path).expect("plain")
}

fn parted(path: &Path, commands: &str) {
    let all: Vec<&str> = ["-s", text(path)].into_iter().chain(commands.split(' ')).collect();
    run("parted", &all).expect("parted runs");
}

/// Start and length of each partition, as `partx` reads them, in bytes.
fn partx(path: &Path) -> Vec<(u64, u64)> {
    let options = ["--show", "--noheadings", "--output", "START,SECTORS", text(path)];
    let printed = run("partx", &options).expect("partx runs");
    let pair = |line: &str| {
        let (start, sectors) = line.trim().split_once(char::is_whitespace).expect("two numbers");
        let bytes = |number: &str| number.trim().parse::<u64>().expect("a number") * 512;
        (bytes(start), bytes(sectors))
    };
    printed.lines().filter(|line| !line.trim().is_empty()).map(pair).collect()
}

fn places<'a>(volumes: impl Iterator<Item = &'a Volume>) -> Vec<(u64, u64)> {
    volumes.map(|volume| (volume.start, volume.length)).collect()
}

/// Makes a filesystem of a stretch of the disk, with a file in it.
fn ext4(path: &Path, (start, length): (u64, u64), label: &str) {
    let folder = tempfile::tempdir().expect("made");
    std::fs::write(folder.path().join("file"), label).expect("written");
    let offset = format!("offset={start}");
    let count = format!("{}k", length / 1024);
    let all = ["-q", "-F", "-t", "ext4", "-L", label, "-E", &offset, "-d", text(folder.path())];
    run("mke2fs", &[&all[..], &[text(path), &count]].concat()).expect("mke2fs runs");
}

/// The content of `file` in the filesystem of a volume.
fn file_in(path: &Path, name: &str) -> Vec<u8> {
    let disk: Arc<dyn ReadAt> = Arc::new(Memory(std::fs::read(path).expect("read")));
    let stack = Stack::open(&disk, 512, &Keys::default()).expect("opened");
    let volume = stack.layout().volume(name).expect("it is there");
    let bytes = stack.bytes(volume).expect("it has bytes");
    let filesystem = fs::open(&bytes).expect("a filesystem");
    let file = filesystem.lookup(filesystem.root(), b"file").expect("found").expect("there");
    let mut content = filesystem.open(file).expect("opened");
    let mut buffer = vec![0; usize::try_from(content.size()).expect("small")];
    content.read_at(0, &mut buffer).expect("read");
    buffer
}

#[test]
fn apples_partition_map_equals_partx() {
    if skip_without(&["parted", "partx", "mke2fs"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    blank(&path, 64 * MIB).expect("made");
    parted(&path, "mklabel mac mkpart root ext2 1MiB 20MiB mkpart data hfs+ 20MiB 40MiB");
    parted(&path, "name 2 root");
    ext4(&path, (MIB, 19 * MIB), "on-a-mac");
    let found = layout(&path);
    assert_eq!((found.table, found.sector_size), (Some(PartitionTable::Apm), 512));
    assert_eq!(places(found.volumes.iter()), partx(&path), "{found:#?}");
    assert_eq!(found.notes, [""; 0]);
    let p2 = found.volume("p2").expect("there");
    assert_eq!(p2.partition_label.as_deref(), Some("root"));
    assert_eq!(p2.partition_type.as_deref(), Some("Apple_UNIX_SVR2"));
    assert_eq!(p2.type_name.as_deref(), Some("UNIX"));
    assert!(p2.holds(Kind::Ext4) && p2.read_whole.is_none(), "{p2:?}");
    let types: Vec<_> = found.volumes.iter().filter_map(|each| each.type_name.as_deref()).collect();
    assert_eq!(types, ["partition map", "UNIX", "HFS / HFS+", "free space", "free space"]);
    assert_eq!(file_in(&path, "p2"), b"on-a-mac");
    let json = serde_json::to_value(&found).expect("JSON");
    assert_eq!(json["table"], "apm");
    assert_eq!(serde_json::from_value::<DiskLayout>(json).ok(), Some(found));

    // In blocks of 2 KiB, as on discs, the same stretches.
    let mut discs = std::fs::read(&path).expect("read");
    let map: Vec<u8> = discs[512..6 * 512].to_vec();
    discs[512..6 * 2048].fill(0);
    discs[2..4].copy_from_slice(&2048_u16.to_be_bytes());
    for (number, entry) in map.chunks(512).enumerate() {
        let place = (number + 1) * 2048;
        discs[place..place + 512].copy_from_slice(entry);
        for at in [8, 12] {
            let field = &mut discs[place + at..place + at + 4];
            let sectors = u32::from_be_bytes(field.try_into().expect("four"));
            field.copy_from_slice(&sectors.div_ceil(4).to_be_bytes());
        }
    }
    std::fs::write(&path, &discs).expect("written");
    let found = layout(&path);
    assert_eq!((found.table, found.sector_size), (Some(PartitionTable::Apm), 2048));
    assert_eq!(places(found.volumes.iter()), partx(&path));
    assert!(found.volume("p2").is_some_and(|p2| p2.holds(Kind::Ext4)));
}

/// A descriptor and a map of so many entries: type, first block, blocks.
fn apm(count: u32, entries: &[(&str, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(16 * MIB).expect("small")];
    bytes[..4].copy_from_slice(&[b'E', b'R', 2, 0]);
    for (number, (kind, start, length)) in entries.iter().enumerate() {
        let entry = &mut bytes[(number + 1) * 512..(number + 2) * 512];
        entry[..2].copy_from_slice(b"PM");
        entry[4..8].copy_from_slice(&count.to_be_bytes());
        entry[8..12].copy_from_slice(&start.to_be_bytes());
        entry[12..16].copy_from_slice(&length.to_be_bytes());
        entry[48..48 + kind.len()].copy_from_slice(kind.as_bytes());
    }
    bytes
}

#[test]
fn a_hostile_partition_map_is_told_and_does_no_harm() {
    let entries = [
        ("Apple_partition_map", 1, 63),
        ("Apple_HFS", 32, 1 << 20),
        ("Apple_HFS", u32::MAX, u32::MAX),
        ("Apple_Free", 0, 0),
    ];
    let found = layout_of(apm(u32::MAX, &entries));
    assert_eq!(found.table, Some(PartitionTable::Apm));
    let names: Vec<_> = found.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["p1", "p2", "p3"]);
    let told = |what: &str| assert!(found.notes.iter().any(|note| note.contains(what)), "{what}");
    told("4294967295 entries; 256 were read at most");
    told("ends before its entry 5");
    told("p2 ends at byte 536887296, but the disk has only 16777216");
    told("p1 and p2 overlap");
    // A size of blocks that there is not, and no map behind the descriptor.
    for (at, bytes) in [(2, [0, 0]), (2, [0x20, 0]), (512, [0, 0])] {
        let mut damaged = apm(1, &entries);
        damaged[at..at + 2].copy_from_slice(&bytes);
        let found = layout_of(damaged);
        assert_eq!((found.table, found.volumes.len()), (None, 0), "{found:?}");
    }
}

#[test]
fn a_hybrid_disc_is_read_by_its_other_table() {
    if skip_without(&["sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    for (script, table) in [
        ("label: dos\nstart=4096, size=8192, type=83\n", PartitionTable::Mbr),
        (
            "label: gpt\nfirst-lba: 4096\ntable-length: 4\nstart=8192, size=8192\n",
            PartitionTable::Gpt,
        ),
    ] {
        std::fs::write(&path, apm(0, &[])).expect("written");
        sfdisk(&path, script).expect("sfdisk runs");
        let mut bytes = std::fs::read(&path).expect("read");
        // The map in blocks of 2 KiB goes beside either.
        bytes[..4].copy_from_slice(&[b'E', b'R', 8, 0]);
        let map = apm(2, &[("Apple_partition_map", 1, 1), ("Apple_HFS", 1024, 16)]);
        bytes[2048..2560].copy_from_slice(&map[512..1024]);
        bytes[4096..4608].copy_from_slice(&map[1024..1536]);
        let found = layout_of(bytes);
        assert_eq!(found.table, Some(table));
        assert_eq!(found.volumes.len(), 1, "{found:?}");
    }
}

#[test]
fn a_disc_with_a_partition_map_is_both() {
    if skip_without(&["xorriso", "partx"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let (source, path) = (folder.path().join("source"), folder.path().join("disc"));
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("file"), vec![1; 4 << 20]).expect("written");
    for options in [&["-hfsplus"][..], &["-hfsplus", "-part_like_isohybrid"]] {
        let _ = std::fs::remove_file(&path);
        let all = ["-as", "mkisofs", "-quiet", "-V", "HYBRID"];
        let all = [&all[..], options, &["-o", text(&path), text(&source)]].concat();
        run("xorriso", &all).expect("xorriso runs");
        let found = layout(&path);
        assert_eq!(found.table, Some(PartitionTable::Apm), "{options:?}");
        let (disc, partitions): (Vec<_>, Vec<_>) =
            found.volumes.iter().partition(|volume| volume.name == "disk");
        assert_eq!(places(partitions.iter().copied()), partx(&path), "{options:?}");
        assert!(partitions.iter().any(|volume| volume.holds(Kind::HfsPlus)), "{found:?}");
        assert!(disc[0].holds(Kind::Iso9660));
    }
}

#[test]
fn damage_anywhere_in_a_table_does_no_harm() {
    let mut map = apm(3, &[("Apple_partition_map", 1, 63), ("Apple_HFS", 64, 512), ("a", 9, 99)]);
    map.truncate(1 << 20);
    let mut label = vec![0; 1 << 20];
    label[512..1024].copy_from_slice(&disklabel(&[(0, 512, 7), (600, 9, 1), (0, 2048, 0)]));
    let mut state = 1_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(state >> 33).expect("small") % below
    };
    let mut listed = 0;
    for sound in [map, label] {
        for _ in 0..400 {
            let mut damaged = sound.clone();
            for _ in 0..=next(3) {
                damaged[next(2048)] = u8::try_from(next(256)).expect("a byte");
            }
            let found = layout_of(damaged);
            assert!(found.notes.len() <= 65 && found.volumes.len() <= 257);
            listed += usize::from(!found.volumes.is_empty());
        }
    }
    assert!(listed > 400, "only {listed} were still tables");
}

/// A disklabel: what counts from where, and partitions (first sector, sectors, type).
fn disklabel(partitions: &[(u32, u32, u8)]) -> Vec<u8> {
    let mut label = vec![0; 512];
    label[..4].copy_from_slice(&0x8256_4557_u32.to_le_bytes());
    label[40..44].copy_from_slice(&512_u32.to_le_bytes());
    label[132..136].copy_from_slice(&0x8256_4557_u32.to_le_bytes());
    label[138..140].copy_from_slice(&u16::try_from(partitions.len()).expect("few").to_le_bytes());
    for (number, (start, sectors, kind)) in partitions.iter().enumerate() {
        let entry = &mut label[148 + number * 16..164 + number * 16];
        entry[..4].copy_from_slice(&sectors.to_le_bytes());
        entry[4..8].copy_from_slice(&start.to_le_bytes());
        entry[12] = *kind;
    }
    let words = label.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word));
    let sum = words.fold(0, |sum, word| sum ^ word);
    label[136..138].copy_from_slice(&sum.to_le_bytes());
    label
}

/// Where the slice is, in sectors.
const SLICE: (u32, u32) = (2048, 65536);

/// A disk with a slice of this type, and in it a label.
fn slice_disk(path: &Path, kind: &str, partitions: &[(u32, u32, u8)]) {
    blank(path, 48 * MIB).expect("made");
    let (start, sectors) = SLICE;
    let script = format!("label: dos\nstart={start}, size={sectors}, type={kind}\n");
    sfdisk(path, &script).expect("sfdisk runs");
    let file = File::options().write(true).open(path).expect("opened");
    file.write_all_at(&disklabel(partitions), (u64::from(start) + 1) * 512).expect("written");
}

/// What Linux makes of the disk, by the start and length of each partition but the slice.
fn linux(path: &Path) -> Vec<(u64, u64)> {
    let device = LoopDevice::attach_with(path, Options::default()).expect("attached");
    let mut found = partx(device.path());
    found.remove(0);
    found
}

#[test]
fn partitions_of_a_bsd_equal_partx() {
    if skip_without(&["sfdisk", "partx", "mke2fs"]) {
        return;
    }
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    let (start, all) = SLICE;
    // a: the first half, b: swap, c: all of it, d: unused, e: the rest.
    let parts = |base: u32, whole: (u32, u32)| {
        let half = all / 2;
        vec![
            (base + 16, half - 16, 7),
            (base + half, 2048, 1),
            (whole.0, whole.1, 0),
            (base + half, 4096, 0),
            (base + half + 2048, all - half - 2048, 17),
        ]
    };
    for (kind, partitions) in [
        ("a5", parts(0, (0, all))),
        ("a5", parts(start, (start, all))),
        ("a6", parts(start, (0, 98_304))),
        ("a9", parts(start, (start, all))),
    ] {
        slice_disk(&path, kind, &partitions);
        let last = u64::from(start + all / 2 + 2048) * 512;
        ext4(&path, (last, 15 * MIB), "on-a-bsd");
        let found = layout(&path);
        assert_eq!(found.table, Some(PartitionTable::Mbr));
        let names: Vec<_> = found.volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["p1", "p1/a", "p1/b", "p1/e"], "{kind}: {found:#?}");
        let nested = found.volumes.iter().filter(|volume| volume.is_stacked());
        assert_eq!(places(nested), linux(&path), "{kind}");
        let p1 = found.volume("p1").expect("there");
        assert!(p1.holds(Kind::BsdDisklabel) && p1.read_whole.is_none(), "{p1:?}");
        let types: Vec<_> = found.volumes[1..].iter().map(|each| each.type_name.clone()).collect();
        let named = ["4.2BSD", "swap", "Linux ext2"].map(|name| Some(name.to_owned()));
        assert_eq!(types, named);
        assert_eq!(file_in(&path, "p1/e"), b"on-a-bsd");
        assert_eq!(found.notes, [""; 0], "{kind}");
    }
}

#[test]
fn a_label_of_a_whole_disk_lists_its_partitions() {
    if skip_without(&["parted", "partx", "mke2fs"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    blank(&path, 64 * MIB).expect("made");
    parted(&path, "mklabel bsd mkpart ext2 1MiB 20MiB mkpart linux-swap 20MiB 40MiB");
    ext4(&path, (MIB, 19 * MIB), "dedicated");
    let found = layout(&path);
    let disk = found.volume("disk").expect("there");
    assert!(disk.holds(Kind::BsdDisklabel) && found.table.is_none(), "{found:?}");
    let nested: Vec<&Volume> = found.volumes.iter().filter(|each| each.is_stacked()).collect();
    assert_eq!(places(nested.iter().copied()), partx(&path), "{found:#?}");
    assert_eq!(nested[0].name, "disk/a");
    assert!(nested[0].holds(Kind::Ext4));
    assert_eq!(found.notes, [""; 0]);
    assert_eq!(file_in(&path, "disk/a"), b"dedicated");

    // In the second sector, where BSDs have it; the record there makes no sense, as FreeBSD's own.
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[..512].fill(0);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[494..510]
        .copy_from_slice(&[0x80, 0, 1, 0, 0xa5, 255, 255, 255, 0, 0, 0, 0, 80, 195, 0, 0]);
    let whole = u32::try_from(64 * MIB / 512).expect("small");
    bytes[512..1024].copy_from_slice(&disklabel(&[(2048, 38_912, 7), (0, 0, 0), (0, whole, 0)]));
    std::fs::write(&path, &bytes).expect("written");
    let found = layout(&path);
    let names: Vec<_> = found.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!((names, found.table), (vec!["disk", "disk/a"], None), "{found:?}");
    assert_eq!(file_in(&path, "disk/a"), b"dedicated");
}

#[test]
fn a_hostile_label_is_told_and_does_no_harm() {
    if skip_without(&["sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    let (start, all) = SLICE;
    let partitions = [
        (start, all / 2, 7),
        (start + 8, all / 2, 7),
        (0, u32::MAX, 0),
        (start + all - 8, 16, 7),
        (0, 16, 7),
        (u32::MAX, u32::MAX, 7),
    ];
    slice_disk(&path, "a9", &partitions);
    let mut bytes = std::fs::read(&path).expect("read");
    let label = (usize::try_from(start).expect("small") + 1) * 512;
    bytes[label + 138..label + 140].copy_from_slice(&u16::MAX.to_le_bytes());
    let found = layout_of(bytes.clone());
    let names: Vec<_> = found.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["p1", "p1/a", "p1/b"], "{found:#?}");
    let told = |what: &str| assert!(found.notes.iter().any(|note| note.contains(what)), "{what}");
    told("p1: the checksum of the disklabel, of 65535 partitions, is wrong");
    told("p1: a and b overlap");
    for letter in ["d", "e", "f"] {
        told(&format!("p1: partition {letter} of the disklabel lies outside of it"));
    }
    // Without its second magic number it is none.
    bytes[label + 132] ^= 1;
    assert_eq!(layout_of(bytes).volume("p1").and_then(Volume::kind), None);
}

#[test]
fn a_dynamic_disk_is_named_and_its_bytes_are_nobodys_files() {
    if skip_without(&["sfdisk", "mke2fs"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("disk");
    let metadata = "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3";
    let data = "AF9B60A0-1431-4F62-BC68-3311714A69AD";
    for script in [
        "label: dos\nstart=2048, size=40960, type=42\nstart=43008, size=8192, type=42\n".to_owned(),
        format!(
            "label: gpt\nstart=2048, size=40960, type={data}\nstart=43008, size=8192, type={metadata}\n"
        ),
    ] {
        blank(&path, 48 * MIB).expect("made");
        sfdisk(&path, &script).expect("sfdisk runs");
        // What was there before the disk became dynamic, or lies on several disks since.
        ext4(&path, (MIB, 20 * MIB), "old");
        let found = layout(&path);
        for name in ["p1", "p2"] {
            let volume = found.volume(name).expect("there");
            assert_eq!(volume.kind(), Some(Kind::Ldm), "{volume:?}");
            assert!(volume.holds_volumes() && !volume.holds_filesystem());
            assert!(volume.type_name.as_deref().is_some_and(|name| name.contains("LDM")));
        }
    }
    // The same as a virtual machine's disk.
    let machine = std::fs::read(&path).expect("read");
    blank(&path, 64 * MIB).expect("made");
    sfdisk(&path, "label: dos\nstart=2048, type=83\n").expect("sfdisk runs");
    let file = File::options().write(true).open(&path).expect("opened");
    file.write_all_at(&machine, MIB).expect("written");
    let found = layout(&path);
    assert_eq!(found.volume("p1/p1").and_then(Volume::kind), Some(Kind::Ldm), "{found:#?}");
}
