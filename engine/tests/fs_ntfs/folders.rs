//! Folders: large ones, what is left over in them, and names that are nearly the same.

use std::fs;
use std::ops::ControlFlow;

use imgx_fixtures::tool;

use crate::fixture::{Fixture, MIB, many, open};
use crate::links::find;
use crate::need_ntfs_3g;

#[test]
fn what_was_removed_from_a_large_folder_is_not_listed() {
    need_ntfs_3g!();
    for cluster_size in [512, 4096, 65_536] {
        let fixture = Fixture::make(64 * MIB, cluster_size);
        let truth = fixture.fill("", |root| {
            let folder = root.join("folder");
            many(&folder, 2000);
            for number in (0..2000).filter(|number| number % 100 != 7) {
                let name = format!("a file with the number {number:06}");
                fs::remove_file(folder.join(name)).expect("removed");
            }
        });
        assert_eq!(truth.len(), 21);
        fixture.assert_reads_as(&format!("clusters of {cluster_size}"), &truth);
        // The names are still on the volume, and nothing says so.
        let bytes = fs::read(fixture.image()).expect("read");
        let name: Vec<u8> = "number 001500".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(bytes.windows(name.len()).any(|window| window == name), "{cluster_size}");
    }
}

#[test]
fn case_is_ignored_unless_it_tells_names_apart() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 4096);
    fixture.fill("", |root| {
        for name in ["Same", "same", "SAME", "Größe", "ALONE"] {
            fs::write(root.join(name), name).expect("written");
        }
    });
    let filesystem = open(&fixture.image()).expect("opened");
    let content = |name: &str| {
        let mut content = filesystem.open(find(filesystem.as_ref(), name)).expect("opened");
        let mut bytes = vec![0; 100];
        let count = content.read_at(0, &mut bytes).expect("read");
        String::from_utf8(bytes[..count].to_vec()).expect("text")
    };
    for name in ["Same", "same", "SAME", "Größe"] {
        assert_eq!(content(name), name);
    }
    assert_eq!(content("gRÖSSE".replace("SS", "ß").as_str()), "Größe");
    assert_eq!(content("alone"), "ALONE");
    assert_eq!(content("sAmE").to_lowercase(), "same");
}

#[test]
fn short_names_are_found_and_not_listed() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 4096);
    let mut truth = fixture.fill("", |root| {
        let path = root.join("a long name.text");
        fs::write(&path, "content").expect("written");
        let path = path.to_str().expect("plain");
        let arguments = ["-n", "system.ntfs_dos_name", "-v", "SHORT~1.TXT", path];
        tool::run("setfattr", &arguments).expect("setfattr runs");
    });
    // ntfs-3g counts the short name, though it does not list it.
    let file = truth.values_mut().next().expect("a file");
    assert_eq!(std::mem::replace(&mut file.links, 1), 2);
    let filesystem = fixture.assert_reads_as("short names", &truth);
    let short = find(filesystem.as_ref(), "short~1.txt");
    assert_eq!(short, find(filesystem.as_ref(), "a long name.text"));
}

#[test]
fn the_filesystems_own_files_are_found_and_not_listed() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 4096);
    let filesystem = open(&fixture.image()).expect("opened");
    let mut listed = 0;
    let root = filesystem.root();
    let result = filesystem.list(root, &mut |_| {
        listed += 1;
        ControlFlow::Continue(())
    });
    result.expect("listed");
    assert_eq!(listed, 0);
    let table = find(filesystem.as_ref(), "$MFT");
    assert!(filesystem.metadata(table).expect("described").size > 16 * 1024);
    assert_eq!(filesystem.lookup(root, b"$NONE").expect("searched"), None);
}
