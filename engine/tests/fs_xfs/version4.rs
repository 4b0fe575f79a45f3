//! Version 4, which kernels no longer mount: mkfs.xfs itself fills it, as a prototype tells it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use imgx_fixtures::pattern::incompressible;

use crate::common::folder_in_memory;
use crate::fixture::{Fixture, MIB, xfs_db};
use crate::need_mounts;
use crate::truth::{self, Tree};

/// Files as a prototype says them, with contents that lie in `sources`.
struct Prototype<'a> {
    sources: &'a Path,
    text: String,
    /// What of each file there is to compare.
    expected: BTreeMap<Vec<u8>, Expected>,
}

#[derive(Debug, PartialEq, Eq)]
struct Expected {
    file_type: &'static str,
    mode: u32,
    owner: (u32, u32),
    content: Option<blake3::Hash>,
    target: Option<Vec<u8>>,
    device: Option<(u64, u64)>,
}

impl<'a> Prototype<'a> {
    fn new(sources: &'a Path) -> Self {
        let text = "/no-boot-block\n0 0\nd--755 0 0\n".to_owned();
        Self { sources, text, expected: BTreeMap::new() }
    }

    fn add(&mut self, folder: &str, name: &str, line: &str, expected: Expected) {
        writeln!(self.text, "{name} {line}").expect("written");
        self.expected.insert(format!("{folder}/{name}").into_bytes(), expected);
    }

    fn file(&mut self, folder: &str, name: &str, content: &[u8]) {
        let source = self.sources.join(name);
        fs::write(&source, content).expect("written");
        let line = format!("---640 7 70000 {}", source.display());
        let mut expected = expected("file", 0o640, (7, 70_000));
        expected.content = Some(blake3::hash(content));
        self.add(folder, name, &line, expected);
    }

    /// Folders of each form.
    fn folders(&mut self) {
        for count in [3, 60, 400, 5000] {
            let name = format!("of-{count}");
            self.add("", &name, "d-g750 1 2", expected("dir", 0o2750, (1, 2)));
            let folder = format!("/{name}");
            for number in 0..count {
                let name = format!("{number}-{}", "n".repeat(number % 90));
                self.add(&folder, &name, "p--600 0 0", expected("fifo", 0o600, (0, 0)));
            }
            self.text.push_str("$\n");
        }
    }

    fn others(&mut self) {
        for size in [0, 1, 511, 512, 513, 40_000, 3_000_000] {
            self.file("", &format!("bytes-{size}"), &incompressible(4, size));
        }
        for length in [1, 155, 156, 157, 300, 1000] {
            let target = "t".repeat(length);
            let mut link = expected("symlink", 0o777, (0, 0));
            link.target = Some(target.clone().into_bytes());
            self.add("", &format!("link-{length}"), &format!("l--777 0 0 {target}"), link);
        }
        let mut device = expected("block", 0o600, (0, 6));
        device.device = Some((8, 1));
        self.add("", "disk", "b--600 0 6 8 1", device);
    }
}

fn expected(file_type: &'static str, mode: u32, owner: (u32, u32)) -> Expected {
    Expected { file_type, mode, owner, content: None, target: None, device: None }
}

fn told(tree: Tree) -> BTreeMap<Vec<u8>, Expected> {
    let told = tree.into_iter().map(|(path, found)| {
        let expected = Expected {
            file_type: found.file_type,
            mode: found.mode,
            owner: found.owner,
            content: found.content,
            target: found.target,
            device: found.device,
        };
        (path, expected)
    });
    told.collect()
}

#[test]
fn version_4_reads_as_its_prototype_says() {
    need_mounts!();
    let sources = folder_in_memory();
    for arguments in [
        ["-m", "crc=0", "-n", "ftype=1"].as_slice(),
        &["-m", "crc=0", "-n", "ftype=0", "-b", "size=512"],
        &["-m", "crc=0", "-n", "ftype=0,size=65536", "-b", "size=1024", "-i", "attr=1"],
        &["-m", "crc=0", "-i", "size=1024,projid32bit=0", "-l", "lazy-count=0,version=1"],
    ] {
        let mut prototype = Prototype::new(sources.path());
        prototype.folders();
        prototype.others();
        prototype.text.push_str("$\n");
        let path = sources.path().join("prototype");
        fs::write(&path, &prototype.text).expect("written");
        let path = path.to_str().expect("plain");
        let fixture = Fixture::make(300 * MIB, &[arguments, &["-p", path]].concat());
        let context = arguments.join(" ");
        let filesystem = crate::fixture::open(&fixture.image())
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        let found = told(truth::of_engine(filesystem.as_ref()));
        for (path, expected) in &prototype.expected {
            let name = String::from_utf8_lossy(path);
            assert_eq!(found.get(path), Some(expected), "{context}: {name}");
        }
        assert_eq!(found.len(), prototype.expected.len(), "{context}");
    }
}

/// Names that are one but for case, in both versions.
#[test]
fn names_without_case_are_found_in_any() {
    need_mounts!();
    let sources = folder_in_memory();
    for version in ["crc=0", "crc=1"] {
        let path = sources.path().join("prototype");
        let mut text = "/no-boot-block\n0 0\nd--755 0 0\n".to_owned();
        for number in 0..500 {
            writeln!(text, "Some-Name-{number} p--600 0 0").expect("written");
        }
        fs::write(&path, text + "$\n").expect("written");
        let path = path.to_str().expect("plain");
        let arguments = ["-m", version, "-n", "version=ci", "-p", path];
        let fixture = Fixture::make(300 * MIB, &arguments);
        let filesystem = crate::fixture::open(&fixture.image()).expect("opened");
        let find = |name: &str| filesystem.lookup(filesystem.root(), name.as_bytes());
        for number in 0..500 {
            let exact = find(&format!("Some-Name-{number}")).expect("searched");
            assert!(exact.is_some(), "{version}: {number}");
            assert_eq!(find(&format!("sOME-nAME-{number}")).expect("searched"), exact);
        }
        assert_eq!(find("Some-Name-500").expect("searched"), None);
    }
}

#[test]
fn version_4_has_attributes_in_every_place() {
    need_mounts!();
    let fixture = Fixture::make(300 * MIB, &["-m", "crc=0"]);
    let root = xfs_db(&fixture.image(), false, &["sb 0", "print rootino"]);
    let root = root.trim().rsplit(' ').next().expect("a number").to_owned();
    let inode = format!("inode {root}");
    let mut known = BTreeMap::new();
    // In the inode, in a leaf, in many; the last with a value in blocks of its own.
    for count in [2, 30, 400] {
        for number in 0..count {
            let (name, size) = (format!("attribute-{count}-{number}"), 1 + number % 60);
            xfs_db(&fixture.image(), true, &[&inode, &format!("attr_set -u -v {size} {name}")]);
            known.insert(format!("user.{name}").into_bytes(), vec![b'v'; size]);
            if count == 400 && number > 200 {
                break;
            }
        }
        let large = format!("attr_set -r -v 20000 large-{count}");
        xfs_db(&fixture.image(), true, &[&inode, &large]);
        known.insert(format!("trusted.large-{count}").into_bytes(), vec![b'v'; 20_000]);
        let filesystem = crate::fixture::open(&fixture.image()).expect("opened");
        let found = filesystem.xattrs(filesystem.root()).expect("read");
        let found: BTreeMap<_, _> =
            found.into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
        assert!(found == known, "{count}: {} of {}", found.len(), known.len());
    }
}
