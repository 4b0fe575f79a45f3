//! What is searched is checked before it is believed, behind checksums that are right.

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use imgx_engine::base::{ErrorKind, Result};
use imgx_engine::fs::Filesystem;
use imgx_fixtures::pattern::incompressible;

use crate::fill;
use crate::fixture::{Fixture, MIB, open, xfs_db};
use crate::need_mounts;

const BLOCK: usize = 1024;

/// Content of every second block of a file, so that each is an extent of its own.
fn in_pieces(path: &Path, pieces: u64) {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    let file = file.expect("made");
    for piece in 0..pieces {
        let bytes = incompressible(piece, BLOCK);
        file.write_all_at(&bytes, piece * 2 * BLOCK as u64).expect("written");
        if piece % 4 == 0 {
            file.sync_all().expect("synced");
        }
    }
    file.sync_all().expect("synced");
}

fn read(filesystem: &dyn Filesystem, name: &str) -> Result<Vec<u8>> {
    let file = filesystem.lookup(filesystem.root(), name.as_bytes())?.expect("it is there");
    let mut content = filesystem.open(file)?;
    content.extents(&mut |_| ControlFlow::Continue(()))?;
    let mut bytes = vec![0; usize::try_from(content.size()).expect("small")];
    content.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Makes a filesystem with what is changed in the tests; returns the inodes of three files.
fn make() -> (Fixture, [u64; 3]) {
    let fixture = Fixture::make(64 * MIB, &["-b", "size=1024", "-d", "agcount=1"]);
    let mut inodes = [0; 3];
    fixture.fill(|root| {
        in_pieces(&root.join("few"), 5);
        in_pieces(&root.join("many"), 900);
        fs::write(root.join("attributes"), "content").expect("written");
        for number in 0..8 {
            let name = format!("user.attribute-{number}");
            xattr::set(root.join("attributes"), name, &[b'a'; 60]).expect("set");
        }
        fill::names(&fill::folder(root, "folder"), 900);
        inodes = ["few", "many", "attributes"]
            .map(|name| fs::metadata(root.join(name)).expect("there").ino());
    });
    (fixture, inodes)
}

#[test]
fn extents_out_of_order_are_damage() {
    need_mounts!();
    let (fixture, [few, many, _]) = make();
    let good = fs::read(fixture.image()).expect("read");
    let sound = open(&fixture.image()).expect("opened");
    for name in ["few", "many"] {
        assert_eq!(read(sound.as_ref(), name).expect("sound").len() % BLOCK, 0);
    }
    let few = format!("inode {few}");
    let root = format!("inode {many}");
    // The first pointer of the root, which leads to leaves, or to what leads there.
    let level = xfs_db(&fixture.image(), false, &[&root, "print u3.bmbt.level"]);
    let leaf: Vec<&str> = match level.trim().ends_with("= 1") {
        true => vec![&root, "addr u3.bmbt.ptrs[1]"],
        false => vec![&root, "addr u3.bmbt.ptrs[1]", "addr ptrs[1]"],
    };
    for (what, name, place, write) in [
        ("an extent before the one before it", "few", vec![few.as_str()], "u3.bmx[1].startoff 7"),
        ("an extent over the next", "few", vec![&few], "u3.bmx[0].blockcount 4"),
        ("an extent without blocks", "few", vec![&few], "u3.bmx[2].blockcount 0"),
        ("an extent out of the volume", "few", vec![&few], "u3.bmx[2].startblock 99999999"),
        ("a record of a leaf before others", "many", leaf.clone(), "recs[5].startoff 3"),
        ("a record over the next", "many", leaf.clone(), "recs[5].blockcount 9"),
        ("a leaf with fewer records", "many", leaf, "numrecs 7"),
        ("keys out of order", "many", vec![&root], "u3.bmbt.keys[1].startoff 1500"),
    ] {
        fs::write(fixture.image(), &good).expect("written");
        let write = format!("write -d {write}");
        let commands: Vec<&str> = place.into_iter().chain([write.as_str()]).collect();
        let told = xfs_db(&fixture.image(), true, &commands);
        assert_ne!(fs::read(fixture.image()).expect("read"), good, "{what}: {told}");
        let filesystem = open(&fixture.image()).expect("opened");
        let error = read(filesystem.as_ref(), name).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.to_string().contains("inode "), "{what}: {error}");
        let other = if name == "few" { "many" } else { "few" };
        read(filesystem.as_ref(), other).expect("the others are sound");
    }
}

#[test]
fn an_index_of_a_folder_that_is_out_of_order_costs_no_name() {
    need_mounts!();
    let (fixture, _) = make();
    let mut bytes = fs::read(fixture.image()).expect("read");
    let mut damaged = 0;
    for block in bytes.chunks_mut(BLOCK) {
        // Leaves of an index, whose entries begin at 64.
        if !matches!(block[8..10], [0x3d, 0xff] | [0x3d, 0xf1]) || block[16..18] != [0; 2] {
            continue;
        }
        let count = usize::from(u16::from_be_bytes([block[56], block[57]]));
        if count > 20 && 64 + 8 * count <= BLOCK {
            for byte in 0..8 {
                block.swap(64 + 8 * 3 + byte, 64 + 8 * (count - 2) + byte);
            }
            block[12..16].fill(0);
            let sum = crate::variants::crc32c(block).to_le_bytes();
            block[12..16].copy_from_slice(&sum);
            damaged += 1;
        }
    }
    assert!(damaged > 2, "{damaged} leaves");
    let filesystem = crate::fixture::open_bytes(bytes).expect("opened");
    let folder = filesystem.lookup(filesystem.root(), b"folder").expect("searched").expect("there");
    let mut names = Vec::new();
    let listed = filesystem.list(folder, &mut |entry| {
        names.push(entry.expect("sound").name);
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    assert_eq!(names.len(), 900);
    for name in names {
        let found = filesystem.lookup(folder, &name).expect("searched");
        assert!(found.is_some(), "{}", String::from_utf8_lossy(&name));
    }
}

#[test]
fn an_attribute_over_another_costs_itself() {
    need_mounts!();
    let (fixture, [.., attributes]) = make();
    let good = fs::read(fixture.image()).expect("read");
    let leaf = [format!("inode {attributes}"), "ablock 0".to_owned()];
    let count = |filesystem: &dyn Filesystem| {
        let file = filesystem.lookup(filesystem.root(), b"attributes").expect("searched");
        let file = file.expect("there");
        assert_eq!(read(filesystem, "attributes").expect("its content is sound"), b"content");
        let (found, lost) = filesystem.sound_xattrs(file).expect("read");
        (found.len(), lost)
    };
    let (all, lost) = count(open(&fixture.image()).expect("opened").as_ref());
    assert!(all == 8 && lost.is_none(), "{all}: {lost:?}");
    let place = |number: usize| {
        let shown = xfs_db(
            &fixture.image(),
            false,
            &[&leaf[0], &leaf[1], &format!("print entries[{number}].nameidx")],
        );
        let number = shown.rsplit('=').next().and_then(|word| word.trim().parse::<u32>().ok());
        number.unwrap_or_else(|| panic!("{shown}"))
    };
    let over_another = format!("entries[2].nameidx {}", place(3) + 8);
    for (what, write, least) in [
        ("a place among the entries", "entries[2].nameidx 90", 7),
        ("a place beyond the block", "entries[2].nameidx 1022", 7),
        ("a place in another", over_another.as_str(), 5),
        ("hashes out of order", "entries[3].hashval 1", 7),
    ] {
        fs::write(fixture.image(), &good).expect("written");
        let write = format!("write -d {write}");
        let told = xfs_db(&fixture.image(), true, &[&leaf[0], &leaf[1], &write]);
        assert_ne!(fs::read(fixture.image()).expect("read"), good, "{what}: {told}");
        let (found, lost) = count(open(&fixture.image()).expect("opened").as_ref());
        assert!(found >= least && found < 8, "{what}: {found}");
        assert_eq!(lost.expect(what).kind(), ErrorKind::Corrupt, "{what}");
    }
}

#[test]
fn a_log_that_cannot_be_replayed_is_told_and_left_out() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &[]);
    {
        let mount = fixture.mount(&fixture.image(), "noatime");
        fs::write(mount.root().join("file"), "on the volume").expect("written");
        let root = mount.root().to_str().expect("plain").to_owned();
        imgx_fixtures::tool::run("xfs_io", &["-c", "syncfs", &root]).expect("synced");
        imgx_fixtures::tool::run("xfs_io", &["-x", "-c", "shutdown", &root]).expect("shut down");
    }
    let mut bytes = fs::read(fixture.image()).expect("read");
    // Records of another filesystem's.
    let mut damaged = 0;
    for place in (0..bytes.len()).step_by(512) {
        if bytes[place..].starts_with(&[0xfe, 0xed, 0xba, 0xbe]) {
            bytes[place + 0x130] ^= 0xff;
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let filesystem = crate::fixture::open_bytes(bytes).expect("what is on the volume is there");
    let doubts = filesystem.doubts().all();
    assert!(doubts.iter().any(|doubt| doubt.contains("cannot be replayed")), "{doubts:?}");
    assert!(filesystem.free_space(&mut |_| panic!("nothing is certain")).is_err());
    filesystem.list(filesystem.root(), &mut |_| ControlFlow::Continue(())).expect("listed");
}
