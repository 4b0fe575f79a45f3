//! Files in each layout that there is, each in a folder of its own beside one that stays as it is,
//! and what is changed of each.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use imgx_fixtures::pattern::text;
use imgx_fixtures::tool;

use crate::fixture::{many, noise};
use crate::links::{point, reparse_value, set_reparse};

/// A layout.
pub struct Case {
    pub make: fn(&Path),
    change: fn(&Path),
    /// What has other parts then, from the folder on.
    pub changed: &'static [&'static str],
    /// Whether the last of these has others besides its first record.
    pub is_beyond: bool,
}

/// Makes all of them.
pub fn fill(root: &Path) {
    for (name, case) in CASES {
        let folder = root.join(name);
        fs::create_dir(&folder).expect("made");
        (case.make)(&folder);
        fs::write(folder.join("untouched"), noise(1, 10_000)).expect("written");
        fs::write(folder.join("untouched:stream"), noise(2, 900)).expect("written");
    }
}

/// Changes all of them.
pub fn change(root: &Path) {
    CASES.iter().for_each(|(name, case)| (case.change)(&root.join(name)));
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
}

/// Changes some bytes, and puts the times back.
fn poke(path: &Path, at: u64) {
    let text = path.to_str().expect("plain");
    // The times of a stream are its file's.
    let own = Path::new(text.split(':').next().expect("a path"));
    let metadata = fs::metadata(own).expect("there");
    let times = FileTimes::new()
        .set_modified(metadata.modified().expect("known"))
        .set_accessed(metadata.accessed().expect("known"));
    let file = File::options().write(true).open(path).expect("opened");
    file.write_all_at(b"poked", at).expect("written");
    drop(file);
    File::open(own).and_then(|file| file.set_times(times)).expect("set");
}

fn set(path: &Path, name: &str, value: &[u8]) {
    xattr::set(path, name, value).expect("set");
}

/// Extended attributes: one of `length` bytes, and a mode.
fn attributes(mode: u8, length: usize) -> Vec<u8> {
    let mut list = attribute(b"X", &vec![7; length]);
    list.extend(attribute(b"$LXMOD", &[mode, 0x81, 0, 0]));
    list
}

fn attribute(name: &[u8], value: &[u8]) -> Vec<u8> {
    let size = (8 + name.len() + 1 + value.len()).next_multiple_of(4);
    let [name_length, value_length, next] = [name.len(), value.len(), size];
    let mut attribute = u32::try_from(next).expect("short").to_le_bytes().to_vec();
    attribute.extend([0, u8::try_from(name_length).expect("short")]);
    attribute.extend(u16::try_from(value_length).expect("short").to_le_bytes());
    attribute.extend([name, &[0], value].concat());
    attribute.resize(size, 0);
    attribute
}

/// Makes a file one that Windows' overlay filter compressed.
fn overlay(path: &Path) {
    let numbers: Vec<u8> = [1_u32, 2, 1, 0].into_iter().flat_map(u32::to_le_bytes).collect();
    set_reparse(path, &reparse_value(WOF, &numbers));
}

const JUNCTION: u32 = 0xa000_0003;
const SYMLINK: u32 = 0xa000_000c;
const WOF: u32 = 0x8000_0017;

pub const CASES: &[(&str, Case)] = &[
    (
        "in its record",
        Case {
            make: |at| write(&at.join("file"), b"some bytes"),
            change: |at| poke(&at.join("file"), 2),
            changed: &["file"],
            is_beyond: false,
        },
    ),
    (
        "on clusters",
        Case {
            make: |at| write(&at.join("file"), &noise(1, 50_000)),
            change: |at| poke(&at.join("file"), 40_000),
            changed: &["file"],
            is_beyond: true,
        },
    ),
    (
        "out of its record",
        Case {
            make: |at| write(&at.join("file"), b"small"),
            change: |at| write(&at.join("file"), &noise(3, 3000)),
            changed: &["file"],
            is_beyond: true,
        },
    ),
    (
        "sparse",
        Case {
            make: |at| {
                let file = File::create(at.join("file")).expect("made");
                file.write_all_at(b"end", 5 << 20).expect("written");
            },
            change: |at| poke(&at.join("file"), 3 << 20),
            changed: &["file"],
            is_beyond: true,
        },
    ),
    (
        "compressed",
        Case {
            make: |at| {
                set(at, "system.ntfs_attrib_be", &[0, 0, 8, 0]);
                write(&at.join("file"), &text(4, 300_000));
            },
            change: |at| poke(&at.join("file"), 200_000),
            changed: &["file"],
            is_beyond: true,
        },
    ),
    (
        "in pieces",
        Case {
            make: |at| {
                let file = File::create(at.join("file")).expect("made");
                for number in 0..2000 {
                    file.write_all_at(b"piece", number << 13).expect("written");
                }
            },
            change: |at| poke(&at.join("file"), 1900 << 13),
            changed: &["file"],
            is_beyond: true,
        },
    ),
    (
        "of many streams",
        Case {
            make: |at| {
                write(&at.join("file"), &noise(5, 9000));
                for number in 0..60 {
                    write(&at.join(format!("file:stream {number}")), &noise(number, 400));
                }
            },
            change: |at| poke(&at.join("file:stream 37"), 100),
            changed: &["file", "file:stream 37"],
            is_beyond: true,
        },
    ),
    (
        "of many names",
        Case {
            make: |at| {
                write(&at.join("file"), b"content");
                for number in 0..40 {
                    let name = at.join(format!("a longer name, number {number}"));
                    fs::hard_link(at.join("file"), name).expect("linked");
                }
            },
            change: |at| poke(&at.join("file"), 1),
            changed: &["file"],
            is_beyond: false,
        },
    ),
    (
        "a stream on clusters",
        Case {
            make: |at| {
                write(&at.join("file"), b"content");
                write(&at.join("file:stream"), &noise(7, 20_000));
            },
            change: |at| poke(&at.join("file:stream"), 15_000),
            changed: &["file", "file:stream"],
            is_beyond: true,
        },
    ),
    (
        "a stream of a folder",
        Case {
            make: |at| {
                fs::create_dir(at.join("folder")).expect("made");
                write(&at.join("folder:stream"), b"stream");
            },
            change: |at| write(&at.join("folder:another"), b"stream"),
            changed: &["folder", "folder:stream"],
            is_beyond: false,
        },
    ),
    (
        "times",
        Case {
            make: |at| write(&at.join("file"), &noise(8, 9000)),
            change: |at| {
                let path = at.join("file");
                let arguments = ["-d", "2001-02-03 UTC", path.to_str().expect("plain")];
                tool::run("touch", &arguments).expect("touched");
            },
            changed: &["file"],
            is_beyond: false,
        },
    ),
    (
        "attributes in the record",
        Case {
            make: |at| {
                write(&at.join("file"), b"content");
                set(&at.join("file"), "system.ntfs_ea", &attributes(0xa4, 10));
            },
            change: |at| set(&at.join("file"), "system.ntfs_ea", &attributes(0xff, 10)),
            changed: &["file"],
            is_beyond: false,
        },
    ),
    (
        "attributes on clusters",
        Case {
            make: |at| {
                write(&at.join("file"), b"content");
                set(&at.join("file"), "system.ntfs_ea", &attributes(0xa4, 9000));
            },
            change: |at| set(&at.join("file"), "system.ntfs_ea", &attributes(0xff, 9000)),
            changed: &["file"],
            is_beyond: true,
        },
    ),
    (
        "a reparse point",
        Case {
            make: |at| {
                write(&at.join("link"), b"");
                set_reparse(&at.join("link"), &point(SYMLINK, Some(1), r"..\one"));
            },
            change: |at| set_reparse(&at.join("link"), &point(SYMLINK, Some(1), r"..\two")),
            changed: &["link"],
            is_beyond: false,
        },
    ),
    (
        "a reparse point on clusters",
        Case {
            make: |at| {
                write(&at.join("link"), b"");
                set_reparse(&at.join("link"), &point(SYMLINK, Some(1), &r"..\one".repeat(500)));
            },
            change: |at| {
                let target = r"..\one".repeat(499) + r"..\two";
                set_reparse(&at.join("link"), &point(SYMLINK, Some(1), &target));
            },
            changed: &["link"],
            is_beyond: true,
        },
    ),
    (
        "overlaid",
        Case {
            make: |at| {
                File::create(at.join("file")).expect("made").set_len(90_000).expect("sized");
                write(&at.join("file:WofCompressedData"), &noise(9, 30_000));
                overlay(&at.join("file"));
            },
            change: |at| {
                // ntfs-3g has nothing to write through a reparse point that it does not know.
                let arguments = ["-h", "-x", "system.ntfs_reparse_data"];
                let file = at.join("file");
                let arguments = [&arguments[..], &[file.to_str().expect("plain")]].concat();
                tool::run("setfattr", &arguments).expect("setfattr runs");
                // Until then the kernel takes it for a link.
                std::thread::sleep(Duration::from_millis(1100));
                poke(&at.join("file:WofCompressedData"), 20_000);
                overlay(&file);
            },
            changed: &["file"],
            is_beyond: true,
        },
    ),
    (
        "a way that appears",
        Case {
            make: |at| {
                fs::create_dir_all(at.join("folder/inner")).expect("made");
                fs::create_dir_all(at.join("far/away")).expect("made");
                let link = at.join("far/away/link");
                fs::create_dir(&link).expect("made");
                let target = r"\??\C:\a way that appears\folder\inner\new";
                set_reparse(&link, &point(JUNCTION, None, target));
            },
            change: |at| fs::create_dir(at.join("folder/inner/new")).expect("made"),
            changed: &["folder/inner", "far/away/link"],
            is_beyond: true,
        },
    ),
    (
        "a link that moves",
        Case {
            make: |at| {
                fs::create_dir_all(at.join("far/away/from")).expect("made");
                let link = at.join("far/away/from/link");
                fs::create_dir(&link).expect("made");
                set_reparse(&link, &point(JUNCTION, None, r"\??\C:\in its record"));
            },
            change: |at| fs::rename(at.join("far/away"), at.join("away")).expect("renamed"),
            changed: &["far", "far/away", "far/away/from/link"],
            is_beyond: true,
        },
    ),
    (
        "a small folder",
        Case {
            make: |at| {
                fs::create_dir(at.join("folder")).expect("made");
                write(&at.join("folder/file1"), b"file");
            },
            change: |at| {
                fs::rename(at.join("folder/file1"), at.join("folder/file2")).expect("renamed");
            },
            changed: &["folder", "folder/file1"],
            is_beyond: false,
        },
    ),
    (
        "a large folder",
        Case {
            make: |at| many(&at.join("folder"), 300),
            change: |at| write(&at.join("folder/a file with the number 000123 and more"), b"new"),
            changed: &["folder"],
            is_beyond: true,
        },
    ),
    (
        "a folder with attributes",
        Case {
            make: |at| {
                fs::create_dir(at.join("folder")).expect("made");
                set(&at.join("folder"), "system.ntfs_ea", &attributes(0xed, 9000));
            },
            change: |at| write(&at.join("folder/new"), b"new"),
            changed: &["folder"],
            is_beyond: false,
        },
    ),
];
