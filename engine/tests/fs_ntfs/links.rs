//! Links and special files, in each of the forms that Windows and its subsystems have for them.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use imgx_engine::base::ErrorKind;
use imgx_engine::fs::{FileId, FileType, Filesystem};
use imgx_fixtures::tool;

use crate::fixture::{Fixture, MIB, open};
use crate::need_ntfs_3g;

fn text(path: &Path) -> &str {
    path.to_str().expect("plain")
}

/// Links, devices, pipes and sockets, as ntfs-3g makes them.
fn specials(root: &Path) {
    fs::write(root.join("file"), "content").expect("written");
    symlink("file", root.join("link")).expect("linked");
    symlink("/a/long/way/to/größe", root.join("away")).expect("linked");
    for arguments in [["char", "c", "5", "300"], ["block", "b", "259", "70000"]] {
        let [name, kind, major, minor] = arguments;
        let path = root.join(name);
        tool::run("mknod", &[text(&path), kind, major, minor]).expect("mknod runs");
    }
    tool::run("mkfifo", &[text(&root.join("pipe"))]).expect("mkfifo runs");
    UnixListener::bind(root.join("socket")).expect("bound");
    assert!(fs::metadata(root.join("pipe")).expect("made").file_type().is_fifo());
}

#[test]
fn special_files_are_what_interix_and_linux_made_them() {
    need_ntfs_3g!();
    for form in ["special_files=interix", "special_files=wsl"] {
        let fixture = Fixture::make(16 * MIB, 4096);
        let truth = fixture.fill(form, specials);
        let found = truth.values().map(|file| file.file_type).collect::<Vec<_>>();
        for kind in ["symlink", "char", "block", "fifo", "socket"] {
            assert!(found.contains(&kind), "{form}: ntfs-3g made no {kind}");
        }
        fixture.assert_reads_as(form, &truth);
    }
}

/// The value of a reparse point with a target, as `setfattr` takes it.
pub fn point(tag: u32, flags: Option<u32>, target: &str) -> String {
    let name: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = u16::try_from(name.len()).expect("short");
    let mut data: Vec<u8> = [0, length, length, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
    data.extend(flags.into_iter().flat_map(u32::to_le_bytes));
    data.extend(&name);
    reparse_value(tag, &data)
}

/// The value of a reparse point, as `setfattr` takes it.
pub fn reparse_value(tag: u32, data: &[u8]) -> String {
    let mut value = tag.to_le_bytes().to_vec();
    value.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
    value.extend(data);
    format!("0x{}", value.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Makes `path` a reparse point.
pub fn set_reparse(path: &Path, value: &str) {
    let arguments = ["-h", "-n", "system.ntfs_reparse_data", "-v", value, text(path)];
    tool::run("setfattr", &arguments).expect("setfattr runs");
}

/// The file at `path` from the root on.
pub fn find(filesystem: &dyn Filesystem, path: &str) -> FileId {
    path.split('/').fold(filesystem.root(), |folder, name| {
        let found = filesystem.lookup(folder, name.as_bytes()).expect("searched");
        found.unwrap_or_else(|| panic!("{name} of {path} is missing"))
    })
}

#[test]
fn links_of_windows_lead_where_they_would_there() {
    need_ntfs_3g!();
    const JUNCTION: u32 = 0xa000_0003;
    const SYMLINK: u32 = 0xa000_000c;
    let fixture = Fixture::make(16 * MIB, 4096);
    let cases = [
        ("folder/junction", JUNCTION, None, r"\??\C:\folder\inner", "../folder/inner"),
        ("folder/inner/up", JUNCTION, None, r"\??\D:\FOLDER\", "../../FOLDER"),
        ("to root", JUNCTION, None, r"\??\C:\", "."),
        ("folder/to root", JUNCTION, None, r"\??\C:\", ".."),
        ("gone", JUNCTION, None, r"\??\E:\not\here", "E:/not/here"),
        ("volume", JUNCTION, None, r"\??\Volume{01}\", "Volume{01}/"),
        ("folder/relative", SYMLINK, Some(1), r"..\other\file", "../other/file"),
        ("folder/absolute", SYMLINK, Some(0), r"\??\C:\folder\file", "../folder/file"),
    ];
    fixture.fill("", |root| {
        fs::create_dir_all(root.join("folder/inner")).expect("made");
        fs::write(root.join("folder/file"), "content").expect("written");
        for (path, tag, flags, target, _) in cases {
            let path = root.join(path);
            if tag == JUNCTION {
                fs::create_dir(&path).expect("made");
            } else {
                File::create(&path).expect("made");
            }
            set_reparse(&path, &point(tag, flags, target));
        }
    });
    let filesystem = open(&fixture.image()).expect("opened");
    for (path, _, _, target, expected) in cases {
        let file = find(filesystem.as_ref(), path);
        let found = filesystem.link_target(file).expect("a target");
        assert_eq!(String::from_utf8_lossy(&found), expected, "{path} to {target}");
        let metadata = filesystem.metadata(file).expect("described");
        assert_eq!(metadata.file_type, FileType::Symlink, "{path}");
        assert_eq!(metadata.size, expected.len() as u64, "{path}");
    }
}

#[test]
fn what_is_not_here_or_not_understood_is_refused() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 4096);
    fixture.fill("", |root| {
        for (name, tag) in [("deduplicated", 0x8000_0013), ("online", 0x9000_001a)] {
            let path = root.join(name);
            fs::write(&path, "what is left").expect("written");
            set_reparse(&path, &reparse_value(tag, &[0; 16]));
        }
        let path = root.join("offline");
        fs::write(&path, "what is left").expect("written");
        set_reparse(&path, &reparse_value(0x9000_701a, &[0; 16]));
        let arguments = ["-n", "system.ntfs_attrib_be", "-v", "0x00001420", text(&path)];
        tool::run("setfattr", &arguments).expect("setfattr runs");
    });
    let filesystem = open(&fixture.image()).expect("opened");
    let opened =
        |name| filesystem.open(find(filesystem.as_ref(), name)).map(|content| content.size());
    assert_eq!(opened("online").expect("its content is here"), 12);
    for name in ["deduplicated", "offline"] {
        assert_eq!(opened(name).expect_err("refused").kind(), ErrorKind::Unsupported, "{name}");
    }
}
