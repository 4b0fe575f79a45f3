//! Kinds, labels and identifiers equal blkid's.

use imgx_engine::base::ByteRange;
use imgx_engine::volume::{Content, Kind, PartitionTable, probe};
use imgx_fixtures::mkfs::{MAKERS, blank, blkid, sfdisk};
use imgx_fixtures::pattern::MIB;
use imgx_fixtures::{demo, tool};

use crate::support::{Failing, FileDisk, Memory, folder, shared, skip_without};

/// The type that blkid gives to what imgx calls `kind`.
fn blkid_type(kind: &str) -> &str {
    match kind {
        "fat12" | "fat16" | "fat32" => "vfat",
        other => other,
    }
}

#[test]
fn every_filesystem_equals_blkid() {
    if skip_without(&["blkid"]) {
        return;
    }
    let folder = folder();
    let mut made = 0;
    for maker in MAKERS {
        let path = folder.path().join("filesystem");
        let _ = std::fs::remove_file(&path);
        if maker.make(&path).expect("the tool makes the filesystem").is_none() {
            println!("skipped: no {}", maker.tool);
            continue;
        }
        let layout = probe(&shared(FileDisk::open(&path)), 512).expect("the probe runs");
        let expected = blkid(&path).expect("blkid runs");
        let [volume] = layout.volumes.as_slice() else {
            panic!("{maker:?}: {layout:?}");
        };
        let content = volume.content.clone().expect("a listed volume has content");
        assert_eq!(volume.name, "disk");
        assert_eq!(content.kind.name(), maker.kind);
        assert_eq!(Some(blkid_type(content.kind.name())), expected.get("TYPE").map(String::as_str));
        if let Some(version) = expected.get("VERSION").filter(|text| text.starts_with("FAT")) {
            assert_eq!(content.kind.name(), version.to_lowercase());
        }
        assert_eq!(content.label.as_ref(), expected.get("LABEL"), "{maker:?}");
        assert_eq!(content.uuid.as_ref(), expected.get("UUID"), "{maker:?}");
        let size = std::fs::metadata(&path).expect("the file is there").len();
        let said = content.size.expect("every one of them says its size");
        assert!(said <= size && said > size / 2, "{maker:?}: {said} of {size}");
        assert_eq!(layout.notes, [""; 0], "{maker:?}");
        made += 1;
    }
    println!("{made} filesystems equal blkid");
}

#[test]
fn a_raid_member_is_no_filesystem() {
    // A RAID 1 member of version 1.0 shows its filesystem at the start, and must not be taken
    // for it.
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let disk = Memory::load(&path);
    let start = usize::try_from(demo::partitions()[1].start).expect("a small number");
    let mut member = Memory(disk.0[start..start + (32 << 20)].to_vec());
    let place = (32 << 20) - 8192;
    member.0[place..place + 8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
    member.0[place + 16..place + 32].copy_from_slice(b"0123456789abcdef");
    member.0[place + 32..place + 38].copy_from_slice(b"host:0");
    let sector = (place as u64 / 512).to_le_bytes();
    member.0[place + 144..place + 152].copy_from_slice(&sector);
    let layout = probe(&shared(member.clone()), 512).expect("the probe runs");
    let content = layout.volumes[0].content.clone().expect("it has content");
    let expected = Content {
        kind: Kind::MdMember,
        label: Some("host:0".into()),
        uuid: Some("30313233-3435-3637-3839-616263646566".into()),
        size: None,
    };
    assert_eq!(content, expected);
}

#[test]
fn a_boot_sector_is_told_from_a_partition_table() {
    if skip_without(&["mkfs.vfat", "mkfs.ntfs", "sfdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    let node = tool::text(&path).expect("a plain path");
    // dosfstools can add a partition table that covers the filesystem itself.
    for mbr in ["n", "y"] {
        blank(&path, 32 * MIB).expect("a file can be made");
        let option = format!("--mbr={mbr}");
        tool::run("mkfs.vfat", &["-F", "16", &option, node]).expect("mkfs.vfat runs");
        let layout = probe(&shared(FileDisk::open(&path)), 512).expect("the probe runs");
        assert_eq!(layout.table, None);
        assert_eq!(layout.volumes[0].name, "disk");
    }
    // And a real table stays one, though its first partition holds such a boot sector.
    blank(&path, 32 * MIB).expect("a file can be made");
    sfdisk(&path, "label: dos\nsize=16MiB, type=c\n").expect("sfdisk writes the table");
    tool::run("mkfs.vfat", &["-F", "16", "--offset=2048", node, "16384"]).expect("mkfs.vfat runs");
    let layout = probe(&shared(FileDisk::open(&path)), 512).expect("the probe runs");
    assert_eq!(layout.table, Some(PartitionTable::Mbr));
    let content = layout.volumes[0].content.clone().expect("p1 has content");
    assert_eq!(content.kind, Kind::Fat16);
}

#[test]
fn unreadable_sectors_cost_their_part_only() {
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let start = demo::partitions()[1].start;
    let boot = demo::partitions()[0].start;
    // In the boot partition, and in the filesystem beside its superblock.
    let bad = vec![ByteRange::new(boot, 512), ByteRange::new(start + 65536, 512)];
    let layout = probe(&shared(Failing(Memory::load(&path), bad)), 512).expect("the probe runs");
    let kind = layout.volume("p2").and_then(|p2| p2.content.clone()).map(|content| content.kind);
    assert_eq!(kind, Some(Kind::Ext4));
    assert_eq!(layout.notes.len(), 2, "{:?}", layout.notes);
    assert!(layout.notes[0].starts_with("p1: its first bytes cannot all be read"));
    assert!(layout.notes[1].starts_with("p2: its first bytes cannot all be read"));
}
