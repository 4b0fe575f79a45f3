//! What NTFS has besides: streams, and files that are compressed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imgx_fixtures::pattern::{Random, incompressible, text};

use crate::operations::{listed, pick, times, writable};

/// Names of streams, in which some come before others.
const NAMES: [&str; 5] = ["a", "m", "Zone.Identifier", "note", "z"];
/// Bytes of streams: within the record, on a cluster, on some.
const LENGTHS: [usize; 5] = [0, 60, 700, 5000, 70_000];

/// Adds to what was filled.
pub fn fill(root: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let packed = root.join("packed");
    fs::create_dir(&packed).expect("made");
    // FILE_ATTRIBUTE_COMPRESSED: what is made within is compressed.
    xattr::set(&packed, "system.ntfs_attrib_be", &[0, 0, 8, 0]).expect("set");
    for number in 0..8 {
        let content = text(number, 30_000 * usize::try_from(number).expect("small"));
        fs::write(packed.join(format!("text{number}")), content).expect("written");
        let sparse = root.join("a").join(format!("sparse{number}"));
        writable_new(&sparse).write_all_at(b"end", number << 20).expect("written");
    }
    let paths = all(root);
    for _ in 0..60 {
        add(&paths, &mut random);
    }
}

fn writable_new(path: &Path) -> fs::File {
    fs::write(path, []).expect("made");
    writable(path)
}

fn add(paths: &[PathBuf], random: &mut Random) {
    let name = *pick(random, &NAMES);
    let file: &PathBuf = pick(random, paths);
    let path = stream_of(file, name.as_bytes());
    let length = *pick(random, &LENGTHS);
    fs::write(path, incompressible(random.next_u64(), length)).expect("written");
}

/// All files and folders; the folders several times, the root too.
fn all(root: &Path) -> Vec<PathBuf> {
    let (files, mut folders) = listed(root);
    folders.push(root.to_owned());
    let many = folders.iter().cycle().take(files.len() / 4).cloned();
    files.iter().cloned().chain(many).collect()
}

/// Does `count` things to streams by chance.
pub fn change(root: &Path, seed: u64, count: u64) {
    let mut random = Random::new(seed);
    let paths = all(root);
    let with = paths.iter().filter(|path| !streams_of(path).is_empty());
    let with: Vec<&PathBuf> = with.collect();
    for _ in 0..count {
        let file = pick(&mut random, &with);
        match streams_of(file).as_slice() {
            [] => add(&paths, &mut random),
            names => {
                let name = pick(&mut random, names).clone();
                one(&paths, &mut random, file, &name);
            }
        }
    }
}

fn one(paths: &[PathBuf], random: &mut Random, file: &Path, name: &[u8]) {
    let path = stream_of(file, name);
    let before = times(file);
    match random.below(5) {
        0 => add(paths, random),
        1 => fs::remove_file(path).expect("removed"),
        2 => {
            // It keeps its place among the others, or not.
            let content = fs::read(&path).expect("read");
            fs::remove_file(path).expect("removed");
            let other = *pick(random, &["b", "n", "y"]);
            fs::write(stream_of(file, other.as_bytes()), content).expect("written");
        }
        3 => {
            let length = fs::metadata(&path).expect("there").len();
            writable(&path).write_all_at(b"!", random.below(length.max(1))).expect("written");
        }
        // Folders have one name only.
        _ => fs::hard_link(file, pick(random, paths).with_extension("also")).unwrap_or(()),
    }
    if random.below(2) == 0 {
        fs::File::open(file).and_then(|open| open.set_times(before)).expect("set");
    }
}

/// The names of the streams of an NTFS's file.
pub fn streams_of(at: &Path) -> Vec<Vec<u8>> {
    let list = xattr::get(at, "ntfs.streams.list").ok().flatten().unwrap_or_default();
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(<[u8]>::to_vec).collect()
}

/// The path of a stream of the file at `at`.
pub fn stream_of(at: &Path, name: &[u8]) -> PathBuf {
    let path = [at.as_os_str().as_bytes(), b":", name].concat();
    PathBuf::from(OsString::from_vec(path))
}
