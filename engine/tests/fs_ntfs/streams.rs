//! Data streams besides a file's content, and files that need more than one record.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgx_engine::fs::{FileType, Filesystem};
use imgx_fixtures::pattern::text;

use crate::fixture::{Fixture, MIB, noise, open};
use crate::links::find;
use crate::need_ntfs_3g;
use crate::ntfs_3g::Mount;

/// The streams of a folder's files by their names, read whole.
fn streams(filesystem: &dyn Filesystem, path: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = match path {
        "" => filesystem.root(),
        path => find(filesystem, path),
    };
    let mut found = BTreeMap::new();
    let listed = filesystem.list(folder, &mut |entry| {
        let entry = entry.expect("a sound entry");
        if entry.file.tree != 0 {
            assert_eq!(entry.file_type, Some(FileType::Regular));
            let metadata = filesystem.metadata(entry.file).expect("described");
            let mut content = filesystem.open(entry.file).expect("opened");
            let mut bytes = vec![0; usize::try_from(metadata.size).expect("small")];
            assert_eq!(content.read_at(0, &mut bytes).expect("read"), bytes.len());
            let name = String::from_utf8(entry.name).expect("UTF-8");
            let again = filesystem.lookup(folder, name.to_uppercase().as_bytes());
            assert_eq!(again.expect("searched"), Some(entry.file), "{name}");
            found.insert(name, bytes);
        }
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    found
}

#[test]
fn streams_are_files_of_their_own() {
    need_ntfs_3g!();
    for cluster_size in [512, 4096] {
        let fixture = Fixture::make(32 * MIB, cluster_size);
        let mut expected = BTreeMap::new();
        fixture.fill("", |root| {
            fs::create_dir(root.join("folder")).expect("made");
            fs::write(root.join("folder/file"), "content").expect("written");
            fs::create_dir(root.join("folder/inner")).expect("made");
            let large = noise(1, 70_000);
            for (name, bytes) in [
                ("file:small", &b"a little"[..]),
                ("file:empty", b""),
                ("file:Large Ä", &large),
                ("inner:of a folder", b"yes"),
            ] {
                fs::write(root.join("folder").join(name), bytes).expect("written");
                expected.insert(name.to_owned(), bytes.to_vec());
            }
        });
        let filesystem = open(&fixture.image()).expect("opened");
        assert_eq!(streams(filesystem.as_ref(), "folder"), expected, "{cluster_size}");
        assert!(streams(filesystem.as_ref(), "").is_empty());
        let folder = find(filesystem.as_ref(), "folder");
        for name in [&b"file:none"[..], b"none:small", b":small", b"file:", b"file:small:more"] {
            let found = filesystem.lookup(folder, name).expect("searched");
            assert_eq!(found, None, "{}", String::from_utf8_lossy(name));
        }
    }
}

#[test]
fn a_stream_and_a_file_of_one_name_are_told_apart() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 4096);
    fixture.fill("", |root| {
        fs::write(root.join("file"), "content").expect("written");
        fs::write(root.join("file:name"), "stream").expect("written");
    });
    // Without streams, ntfs-3g makes a file of that name.
    let point = fixture.path().join("mnt");
    let mount = Mount::new(&fixture.image(), &point, "streams_interface=none");
    fs::write(mount.root().join("file:name"), "another file").expect("written");
    drop(mount);
    let filesystem = open(&fixture.image()).expect("opened");
    let size = |name| filesystem.metadata(find(filesystem.as_ref(), name)).expect("known").size;
    assert_eq!((size("file:name"), size("file:name:$DATA")), (12, 6));
    let found = streams(filesystem.as_ref(), "");
    assert_eq!(found.get("file:name:$DATA").map(Vec::as_slice), Some(&b"stream"[..]));
    assert_eq!(found.len(), 1);
}

#[test]
fn a_file_of_many_streams_and_names_needs_many_records() {
    need_ntfs_3g!();
    for cluster_size in [512, 4096] {
        let fixture = Fixture::make(32 * MIB, cluster_size);
        let mut expected = BTreeMap::new();
        let truth = fixture.fill("", |root| {
            fs::write(root.join("file"), text(1, 5000)).expect("written");
            for number in 0..60 {
                let name = format!("file:stream with the number {number}");
                let bytes = text(number, usize::try_from(number).expect("small") * 40);
                fs::write(root.join(&name), &bytes).expect("written");
                expected.insert(name, bytes);
            }
            for number in 0..60 {
                let name = format!("another name of the file, number {number}");
                fs::hard_link(root.join("file"), root.join(name)).expect("linked");
            }
        });
        let filesystem = fixture.assert_reads_as(&format!("{cluster_size}"), &truth);
        let found = streams(filesystem.as_ref(), "");
        let own = |(name, _): &(String, Vec<u8>)| name.starts_with("file:");
        assert_eq!(found.into_iter().filter(own).collect::<BTreeMap<_, _>>(), expected);
    }
}

#[test]
fn a_file_in_thousands_of_pieces_reads_as_it_was_written() {
    need_ntfs_3g!();
    for cluster_size in [512, 4096] {
        let fixture = Fixture::make(96 * MIB, cluster_size);
        let truth = fixture.fill("", |root| {
            let file = File::create(root.join("pieces")).expect("made");
            for number in 0..6000 {
                let place = number * cluster_size * 2;
                file.write_all_at(&number.to_le_bytes(), place).expect("written");
            }
            file.set_len(6000 * cluster_size * 2 + 1).expect("sized");
        });
        fixture.assert_reads_as(&format!("clusters of {cluster_size}"), &truth);
    }
}

/// Writes small files to `folder` until the volume is full; returns how many.
fn fill_up(folder: &Path, length: usize) -> usize {
    fs::create_dir(folder).expect("made");
    let write = |number: &usize| {
        let name = format!("file {number}");
        fs::write(folder.join(name), noise(*number as u64, length)).is_ok()
    };
    (0..20_000).take_while(write).count()
}

#[test]
fn a_file_table_in_many_pieces_is_found_whole() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 512);
    let truth = fixture.fill("", |root| {
        let folder = root.join("first");
        for number in (0..fill_up(&folder, 1536)).step_by(2) {
            fs::remove_file(folder.join(format!("file {number}"))).expect("removed");
        }
        assert!(fill_up(&root.join("second"), 10) > 1000);
    });
    let filesystem = fixture.assert_reads_as("a full volume", &truth);
    let table = find(filesystem.as_ref(), "$MFT");
    let mut pieces = 0;
    let mut content = filesystem.open(table).expect("opened");
    let mapped = content.extents(&mut |_| {
        pieces += 1;
        ControlFlow::Continue(())
    });
    mapped.expect("mapped");
    assert!(pieces > 300, "{pieces} pieces need no list of attributes");
}
