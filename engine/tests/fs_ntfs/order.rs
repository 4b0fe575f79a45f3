//! What is searched is checked before it is believed; what can be read of damaged volumes, is.

use std::fs;
use std::ops::ControlFlow;

use imgx_engine::base::ErrorKind;
use imgx_fixtures::{mkfs, tool};

use crate::damage::{data_attribute, table};
use crate::fixture::{Fixture, MIB, contents, many, open_bytes};
use crate::links::find;
use crate::need_ntfs_3g;
use crate::ntfs_3g::Mount;
use crate::truth;

#[test]
fn a_table_whose_first_record_is_not_marked_as_in_use_is_read() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    let truth = fixture.fill("", |root| many(&root.join("many"), 50));
    let good = fs::read(fixture.image()).expect("read");
    let first = table(&good);
    let number = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().expect("8 bytes"));
    let mirror = usize::try_from(number(0x38)).expect("small") * 4096;
    // The bit in the record, in its copy as well, and a record whose attributes are damaged.
    let cases: [(&str, &[(usize, u8)]); 4] = [
        ("the record", &[(first + 0x16, 0)]),
        ("the record and its copy", &[(first + 0x16, 0), (mirror + 0x16, 0)]),
        ("the first attribute's length", &[(first + 0x38 + 4, 3)]),
        ("where the first attribute is", &[(first + 0x14, 0xff)]),
    ];
    for (what, changes) in cases {
        let mut bytes = good.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let filesystem = open_bytes(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        truth::assert_same(what, &truth::of_engine(filesystem.as_ref()), &truth);
        let doubts = filesystem.doubts().all();
        assert!(doubts.iter().any(|doubt| doubt.contains("record 0")), "{what}: {doubts:?}");
        let free = filesystem.free_space(&mut |_| panic!("nothing is certain"));
        assert!(free.is_err(), "{what}");
    }
}

#[test]
fn sectors_of_256_bytes_are_read() {
    need_ntfs_3g!();
    let fixture = Fixture::make(8 * MIB, 4096);
    let image = fixture.image();
    mkfs::blank(&image, 24 * MIB).expect("made");
    let path = image.to_str().expect("plain");
    let arguments = ["-q", "-F", "-Q", "-s", "256", "-c", "4096", path];
    tool::run("mkfs.ntfs", &arguments).expect("mkfs.ntfs runs");
    {
        let mount = Mount::new(&image, &fixture.path().join("mnt"), "streams_interface=windows");
        contents(mount.root());
        many(&mount.root().join("many"), 120);
    }
    let truth = fixture.truth();
    let filesystem = fixture.assert_reads_as("sectors of 256 bytes", &truth);
    assert_eq!(filesystem.doubts().all(), [""; 0]);
}

#[test]
fn names_out_of_order_are_found_all_the_same() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    fixture.fill("", |root| many(&root.join("many"), 400));
    let mut bytes = fs::read(fixture.image()).expect("read");
    let blocks: Vec<usize> = (0..bytes.len())
        .step_by(4096)
        .filter(|place| bytes[*place..].starts_with(b"INDX"))
        .collect();
    let mut changed = 0;
    for block in blocks {
        // Two entries of one length that follow one another are exchanged.
        let mut at = block
            + 0x18
            + usize::from(u16::from_le_bytes([bytes[block + 0x18], bytes[block + 0x19]]));
        for _ in 0..8 {
            let length =
                |at: usize| usize::from(u16::from_le_bytes([bytes[at + 8], bytes[at + 9]]));
            let (own, next) = (length(at), at + length(at));
            // Away from where the update sequence takes the place of bytes.
            let is_plain = (at % 512) + 2 * own < 510;
            if is_plain && own == length(next) && bytes[at + 0xc] == 0 && bytes[next + 0xc] == 0 {
                for byte in 0..own {
                    bytes.swap(at + byte, next + byte);
                }
                changed += 1;
                break;
            }
            at = next;
        }
    }
    assert!(changed > 2, "{changed} blocks");
    let filesystem = open_bytes(bytes).expect("opened");
    let folder = find(filesystem.as_ref(), "many");
    let mut names = Vec::new();
    let listed = filesystem.list(folder, &mut |entry| {
        names.push(entry.expect("sound").name);
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    assert_eq!(names.len(), 400);
    for name in names {
        let found = filesystem.lookup(folder, &name).expect("searched");
        assert!(found.is_some(), "{}", String::from_utf8_lossy(&name));
    }
}

#[test]
fn attributes_out_of_order_or_over_one_another_are_damage() {
    need_ntfs_3g!();
    let fixture = Fixture::make(24 * MIB, 4096);
    fixture.fill("", |root| {
        fs::write(root.join("file"), "content").expect("written");
        fs::write(root.join("large"), vec![7; 20_000]).expect("written");
    });
    let good = fs::read(fixture.image()).expect("read");
    let (small, large) = (data_attribute(&good, "file"), data_attribute(&good, "large"));
    let cases: [(&str, &str, usize, u8); 4] = [
        // A kind that is less than those before it.
        ("file", "a kind out of order", small, 0x20),
        ("file", "a value over its header", small + 0x14, 0x08),
        ("large", "runs over the header", large + 0x20, 0x30),
        ("large", "a run out of the volume", large + 0x40 + 2, 0xff),
    ];
    for (name, what, at, byte) in cases {
        let mut bytes = good.clone();
        assert_ne!(bytes[at], byte, "{what}");
        bytes[at] = byte;
        if what.starts_with("a run ") {
            bytes[at + 1] = 0x7f;
        }
        let filesystem = open_bytes(bytes).expect("opened");
        let file = filesystem.lookup(filesystem.root(), name.as_bytes()).expect("searched");
        let file = file.expect("there");
        let read = filesystem.open(file).and_then(|mut content| {
            let mut bytes = vec![0; usize::try_from(content.size()).expect("small")];
            content.read_at(0, &mut bytes).map(|_| bytes)
        });
        let error = read.map(|bytes| bytes.len()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    }
}
