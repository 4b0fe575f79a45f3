//! Groups: labels, the newest metadata, and what is refused by name.

use std::fs;
use std::sync::Arc;

use imgx_fixtures::lvm::{DATA, EXTENT, linear, logical};
use imgx_volumes::base::{ByteRange, ErrorKind, ReadAt};
use imgx_volumes::volume::lvm::{Group, Kind, Label};

use crate::support::{Disk, bytes, have, pattern};

fn read(disks: &[Vec<u8>]) -> Vec<Arc<dyn ReadAt>> {
    disks.iter().map(|disk| -> Arc<dyn ReadAt> { Arc::new(disk.clone()) }).collect()
}

#[test]
fn a_label_says_which_bytes_are_whose() {
    if !have(&["vgcfgrestore"]) {
        return;
    }
    let disk = Disk::make("imgxlabel", 4, &logical("all", true, &[linear(0, 2, (0, 1))]));
    let whole = fs::read(disk.path()).unwrap();
    let label = Label::parse(&whole[..2048]).expect("a label");
    assert_eq!(label.size, whole.len() as u64);
    assert_eq!(label.data, [ByteRange { start: DATA, end: whole.len() as u64 }]);
    assert_eq!(label.metadata, [ByteRange { start: 4096, end: DATA }]);
    let id = &label.id;
    assert_eq!((id.len(), id.matches('-').count()), (38, 6), "{id}");
    assert!(label.is_metadata(ByteRange::new(0, 512)));
    assert!(label.is_metadata(ByteRange::new(DATA - 1, 2)));
    assert!(!label.is_metadata(ByteRange::new(DATA, 4096)));
    for place in [512, 512 + 16, 512 + 24, 512 + 60] {
        let mut damaged = whole[..2048].to_vec();
        damaged[place] ^= 1;
        assert_eq!(Label::parse(&damaged), None, "byte {place}");
    }
}

#[test]
fn the_newest_description_counts() {
    if !have(&["vgcfgrestore"]) {
        return;
    }
    let disk = Disk::make("imgxnewest", 6, &logical("old", true, &[linear(0, 2, (0, 1))]));
    let content = pattern("old", 0, 2 * EXTENT / 4096);
    disk.write(1, 0, &content);
    let newer = fs::read(disk.path()).unwrap();
    // As it was before: LVM keeps earlier texts in the ring, only the header leads elsewhere.
    let place = newer.windows(8).position(|bytes| bytes == b"seqno = ").unwrap();
    let older_text = String::from_utf8_lossy(&newer[place..place + 20]).into_owned();
    let group = |disks: &[Vec<u8>]| Group::read(&read(disks));
    let found = group(&[newer.clone(), vec![0; 1 << 20], newer.clone()]);
    assert_eq!(found.groups.len(), 1, "{older_text}");
    let volume = found.groups[0].open("old").unwrap();
    assert!(bytes(volume.as_ref()).unwrap() == content);
    let mut places = Vec::new();
    let range = ByteRange::new(4096, 8192);
    volume.each_place(range, &mut |number, range| places.push((number, range))).unwrap();
    assert_eq!(places, [(0, ByteRange::new(DATA + EXTENT + 4096, 8192))]);

    // A text that is damaged is told, and the other one used.
    let mut damaged = newer.clone();
    let live = newer.windows(16).rposition(|bytes| bytes == b"logical_volumes ").unwrap();
    damaged[live] ^= 1;
    let found = group(&[damaged.clone(), newer]);
    assert_eq!((found.groups.len(), found.damage.len()), (1, 1));
    assert_eq!(found.damage[0].0, 0);
    let error = &found.damage[0].1;
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("checksum"));
    assert!(group(&[damaged]).groups.is_empty());
}

#[test]
fn what_is_not_read_is_named() {
    if !have(&["vgcfgrestore"]) {
        return;
    }
    let whole = |kind: &str| format!("start_extent = 0\nextent_count = 1\n{kind}");
    let text = [
        logical("lost", true, &[whole("type = \"error\"")]),
        logical("none", true, &[whole("type = \"zero\"")]),
        logical("stripes", true, &[linear(0, 1, (0, 0)), linear(1, 1, (0, 3))]),
    ];
    let disk = Disk::make("imgxnamed", 6, &text.concat());
    let group = disk.group();
    let volumes = group.volumes();
    let kinds: Vec<&Kind> = volumes.iter().map(|volume| &volume.kind).collect();
    assert_eq!(kinds, [&Kind::Error, &Kind::Zero, &Kind::Linear]);
    let problem = volumes[0].problem.as_ref().expect("refused").to_string();
    assert!(problem.contains("/lost: ") && problem.contains("type error"), "{problem}");
    assert!(bytes(group.open("none").unwrap().as_ref()).unwrap() == vec![0; EXTENT as usize]);
    assert_eq!(group.open("stripes").unwrap().size().0, 2 * EXTENT);
    assert_eq!(group.open("other").err().expect("none").kind(), ErrorKind::NotFound);
}
