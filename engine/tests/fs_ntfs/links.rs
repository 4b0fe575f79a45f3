//! Links and special files, in each of the forms that Windows and its subsystems have for them.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use imgx_engine::base::ErrorKind;
use imgx_engine::fs::{FileId, FileType, Filesystem, Protection};
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

/// The value of an alias of a program, as Windows' store makes them.
fn alias(version: u32, target: &str) -> String {
    let texts = ["Some.Package_8wekyb3d8bbwe", "Some.Package_8wekyb3d8bbwe!App", target, "0"];
    let units = texts.iter().flat_map(|text| text.encode_utf16().chain([0]));
    let mut data = version.to_le_bytes().to_vec();
    data.extend(units.flat_map(u16::to_le_bytes));
    reparse_value(0x8000_001b, &data)
}

#[test]
fn aliases_of_programs_lead_to_them() {
    need_ntfs_3g!();
    let fixture = Fixture::make(16 * MIB, 4096);
    let cases = [
        (
            "Apps/here.exe",
            r"C:\Program Files\WindowsApps\Some\here.exe",
            "../Program Files/WindowsApps/Some/here.exe",
        ),
        (
            "Apps/gone.exe",
            r"C:\Program Files\WindowsApps\Some\gone.exe",
            "C:/Program Files/WindowsApps/Some/gone.exe",
        ),
    ];
    fixture.fill("", |root| {
        fs::create_dir_all(root.join("Apps")).expect("made");
        fs::create_dir_all(root.join("Program Files/WindowsApps/Some")).expect("made");
        fs::write(root.join("Program Files/WindowsApps/Some/here.exe"), "MZ").expect("written");
        for (path, target, _) in cases {
            File::create(root.join(path)).expect("made");
            set_reparse(&root.join(path), &alias(3, target));
        }
        // Of a version that nobody described: what is left is an empty file.
        File::create(root.join("Apps/later.exe")).expect("made");
        set_reparse(&root.join("Apps/later.exe"), &alias(4, "x"));
        File::create(root.join("Apps/cut.exe")).expect("made");
        set_reparse(&root.join("Apps/cut.exe"), &reparse_value(0x8000_001b, &[3, 0, 0, 0, 65, 0]));
    });
    let filesystem = open(&fixture.image()).expect("opened");
    for (path, _, expected) in cases {
        let file = find(filesystem.as_ref(), path);
        let found = filesystem.link_target(file).expect("a target");
        assert_eq!(String::from_utf8_lossy(&found), expected, "{path}");
        let metadata = filesystem.metadata(file).expect("described");
        assert_eq!(metadata.file_type, FileType::Symlink, "{path}");
    }
    for path in ["Apps/later.exe", "Apps/cut.exe"] {
        let file = find(filesystem.as_ref(), path);
        let metadata = filesystem.metadata(file).expect("described");
        assert_eq!((metadata.file_type, metadata.size), (FileType::Regular, 0), "{path}");
        assert_eq!(filesystem.open(file).expect("it is empty").size(), 0, "{path}");
    }
}

#[test]
fn special_files_of_windows_nfs_server_are_what_they_stand_for() {
    need_ntfs_3g!();
    let text_of = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let device = [5_u32.to_le_bytes(), 300_u32.to_le_bytes()].concat();
    let cases = [
        ("link", *b"LNK\x01\0\0\0\0", text_of("../to/größe"), FileType::Symlink),
        ("char", *b"CHR\0\0\0\0\0", device.clone(), FileType::CharDevice),
        ("block", *b"BLK\0\0\0\0\0", device, FileType::BlockDevice),
        ("pipe", *b"FIFO\0\0\0\0", Vec::new(), FileType::Fifo),
        ("socket", *b"SOCK\0\0\0\0", Vec::new(), FileType::Socket),
    ];
    let fixture = Fixture::make(16 * MIB, 4096);
    fixture.fill("", |root| {
        for (name, kind, data, _) in &cases {
            File::create(root.join(name)).expect("made");
            let value = reparse_value(0x8000_0014, &[kind.as_slice(), data].concat());
            set_reparse(&root.join(name), &value);
        }
    });
    let filesystem = open(&fixture.image()).expect("opened");
    for (name, _, _, file_type) in cases {
        let file = find(filesystem.as_ref(), name);
        let metadata = filesystem.metadata(file).expect("described");
        assert_eq!(metadata.file_type, file_type, "{name}");
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        assert_eq!(metadata.device, is_device.then_some((5, 300)), "{name}");
    }
    let target = filesystem.link_target(find(filesystem.as_ref(), "link")).expect("a target");
    assert_eq!(String::from_utf8_lossy(&target), "../to/größe");
}

#[test]
fn what_is_not_here_is_refused_and_shown_and_all_else_is_what_is_on_the_disk() {
    need_ntfs_3g!();
    const OFFLINE: &str = "0x00001420";
    let cases = [
        ("deduplicated", 0x8000_0013, None, Some("deduplication")),
        ("projected", 0x9000_001c, None, Some("projected")),
        ("online", 0x9000_001a, None, None),
        ("offline", 0x9000_701a, Some(OFFLINE), Some("cloud storage")),
        ("of somebody's", 0x8000_4711, None, None),
        ("of somebody's, offline", 0x8000_4711, Some(OFFLINE), Some("not known (0x80004711)")),
        ("of somebody's, with holes", 0x8000_4711, None, Some("not known")),
    ];
    let size_of = |name: &str| if name.contains("holes") { MIB } else { 12 };
    let fixture = Fixture::make(16 * MIB, 4096);
    fixture.fill("", |root| {
        for (name, tag, attributes, _) in cases {
            let path = root.join(name);
            fs::write(&path, "what is left").expect("written");
            let file = File::options().write(true).open(&path).expect("opened");
            file.set_len(size_of(name)).expect("set");
            set_reparse(&path, &reparse_value(tag, &[0; 32]));
            if let Some(attributes) = attributes {
                let words = ["-n", "system.ntfs_attrib_be", "-v", attributes, text(&path)];
                tool::run("setfattr", &words).expect("setfattr runs");
            }
        }
    });
    let filesystem = open(&fixture.image()).expect("opened");
    for (name, _, _, elsewhere) in cases {
        let file = find(filesystem.as_ref(), name);
        let metadata = filesystem.metadata(file).expect("described");
        assert_eq!(
            (metadata.file_type, metadata.size),
            (FileType::Regular, size_of(name)),
            "{name}"
        );
        let is_elsewhere = metadata.protection == Protection::Elsewhere;
        assert_eq!(is_elsewhere, elsewhere.is_some(), "{name}");
        match (filesystem.open(file), elsewhere) {
            (Ok(content), None) => assert_eq!(content.size(), 12, "{name}"),
            (Err(error), Some(place)) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
                assert!(error.to_string().contains(place), "{name}: {error}");
            }
            (opened, _) => panic!("{name}: {:?}", opened.map(|content| content.size())),
        }
    }
}
