//! What is done to a tree between two images.

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use imgx_fixtures::pattern::{Random, incompressible, text};
use nix::fcntl::{FallocateFlags, fallocate};

/// Folders of the tree; one has many files.
const FOLDERS: [&str; 6] = ["a", "a/b", "a/b/c", "many", "log", "log/old"];
const MANY: u64 = 2500;
/// Bytes of files: empty, within an inode, a block, some, and more than one of an image's blocks.
const LENGTHS: [usize; 8] = [0, 10, 150, 3000, 5000, 9000, 40_000, 300_000];

pub fn pick<'a, T>(random: &mut Random, choices: &'a [T]) -> &'a T {
    let chosen = random.below(choices.len() as u64);
    &choices[usize::try_from(chosen).expect("few")]
}

/// Fills an empty filesystem.
pub fn fill(root: &Path, seed: u64) {
    let mut random = Random::new(seed);
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder)).expect("made");
    }
    for number in 0..MANY {
        fs::write(root.join(format!("many/file{number}")), number.to_string()).expect("written");
    }
    for number in 0..150 {
        let folder = *pick(&mut random, &FOLDERS);
        let path = root.join(folder).join(format!("f{number}"));
        let length = *pick(&mut random, &LENGTHS);
        let content = match random.below(2) {
            0 => text(random.next_u64(), length),
            _ => incompressible(random.next_u64(), length),
        };
        fs::write(&path, content).expect("written");
        if random.below(9) == 0 {
            symlink("../target", path.with_extension("link")).expect("linked");
        }
        if random.below(9) == 0 {
            fs::hard_link(&path, path.with_extension("hard")).expect("linked");
        }
    }
}

/// The files and folders below `root`.
pub fn listed(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut folders, mut next) = (Vec::new(), Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = next.pop() {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.expect("listed");
            (entry.path(), entry.file_type().expect("known"))
        };
        let mut entries: Vec<_> = fs::read_dir(&folder).expect("listed").map(entry).collect();
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        for (path, file_type) in entries {
            if file_type.is_dir() && !path.ends_with("lost+found") {
                folders.push(path.clone());
                next.push(path);
            } else if file_type.is_file() {
                files.push(path);
            }
        }
    }
    (files, folders)
}

/// The times of `path`, to be put back.
pub fn times(path: &Path) -> FileTimes {
    let metadata = fs::metadata(path).expect("there");
    FileTimes::new()
        .set_modified(metadata.modified().expect("known"))
        .set_accessed(metadata.accessed().expect("known"))
}

pub fn writable(path: &Path) -> File {
    File::options().write(true).open(path).expect("opened")
}

/// Does `count` things by chance.
pub fn change(root: &Path, seed: u64, count: u64) {
    let mut random = Random::new(seed);
    for number in 0..count {
        let (files, folders) = listed(root);
        let file = pick(&mut random, &files);
        let folder = pick(&mut random, &folders);
        let new = folder.join(format!("new{seed}-{number}"));
        one(&mut random, file, folder, &new);
    }
}

fn one(random: &mut Random, file: &Path, folder: &Path, new: &Path) {
    match random.below(16) {
        0 => fs::write(new, text(random.next_u64(), 7000)).expect("written"),
        1 => fs::remove_file(file).expect("removed"),
        2 => fs::rename(file, new).expect("renamed"),
        3 => {
            let target = folder.with_extension(format!("r{}", random.below(1000)));
            // Not over a folder that is there already.
            if !target.exists() {
                fs::rename(folder, target).expect("renamed");
            }
        }
        4 => fs::hard_link(file, new).expect("linked"),
        5 => fs::set_permissions(file, Permissions::from_mode(0o600)).expect("set"),
        6 => chown(file, Some(1234), None).expect("set"),
        7 => {
            let length = fs::metadata(file).expect("there").len();
            writable(file).set_len(random.below(length + 5000)).expect("cut");
        }
        8 | 9 => {
            // In place, and as if nothing had happened.
            let (length, before) = (fs::metadata(file).expect("there").len(), times(file));
            let at = random.below(length.max(1));
            let open = writable(file);
            open.write_all_at(b"!", at.min(length.saturating_sub(1))).expect("written");
            open.set_times(before).expect("set");
        }
        10 => {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Not all filesystems punch files that lie within their inodes.
            let _ = fallocate(writable(file), flags, 0, 8192);
        }
        11 => {
            let _ = xattr::set(file, "user.note", &random.next_u64().to_le_bytes());
        }
        12 => {
            fs::remove_file(file).expect("removed");
            symlink("elsewhere", file).expect("linked");
        }
        13 => {
            // The next file gets the number of the last.
            fs::remove_file(file).expect("removed");
            fs::write(new, "reused").expect("written");
        }
        14 => {
            let content = fs::read(file).expect("read");
            let before = times(file);
            fs::remove_file(file).expect("removed");
            fs::write(file, content).expect("written");
            if random.below(2) == 0 {
                writable(file).set_times(before).expect("set");
            }
        }
        15 => {
            let inner = new.join("inner");
            fs::create_dir_all(&inner).expect("made");
            fs::rename(file, inner.join("moved")).expect("renamed");
        }
        _ => {}
    }
}
