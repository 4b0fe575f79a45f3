//! A repository in a directory of a local (or network) filesystem.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, RenameFlags, renameat2};
use nix::sys::statfs::statfs;

use super::local_reader::{LocalReader, damage_or_failure, is_of_medium};
use super::local_writer::LocalWriter;
use super::regular;
use super::{Folder, ObjectInfo, ObjectName, ObjectReader, ObjectWriter, Storage};
use crate::base::{Error, ErrorContext, ErrorKind, Result};

/// Filesystems of disks and memory, which one system has mounted at a time: ext2 to ext4, XFS,
/// btrfs, F2FS, ZFS, bcachefs, FAT, exFAT, NTFS (ntfs3), tmpfs, ramfs and overlayfs. Any other may
/// be another system's as well, or its `flock` may reach no further than this one.
const LOCAL_FILESYSTEMS: [i64; 12] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x4d44,
    0x2011_bab0,
    0x7366_746e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
];

/// Objects as files.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    root: PathBuf,
}

impl LocalStorage {
    /// The objects below `root`, which must be a directory.
    ///
    /// # Errors
    /// `NotFound` when it is none.
    pub fn open(root: &Path) -> Result<Self> {
        if !root.is_dir() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("repository {}: no such directory", root.display()),
            ));
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// Makes `root` and its folders. `root` may exist if it is empty.
    ///
    /// # Errors
    /// `Conflict` when `root` holds anything; `Io`.
    pub fn create(root: &Path) -> Result<Self> {
        let describe = || format!("create repository {}", root.display());
        fs::create_dir_all(root).context(describe)?;
        if fs::read_dir(root).context(describe)?.next().is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{}: not empty, so no repository is created there", root.display()),
            ));
        }
        let storage = Self { root: root.to_path_buf() };
        for folder in [Folder::Images, Folder::Packs, Folder::Locks] {
            fs::create_dir(storage.folder(folder)).context(describe)?;
        }
        storage.sync_folder(Folder::Root)?;
        Ok(storage)
    }

    fn folder(&self, folder: Folder) -> PathBuf {
        self.root.join(folder.path())
    }

    fn path(&self, object: &ObjectName) -> PathBuf {
        self.folder(object.folder).join(&object.name)
    }
}

impl Storage for LocalStorage {
    fn describe(&self) -> String {
        self.root.display().to_string()
    }

    fn local_folder(&self) -> Option<PathBuf> {
        Some(self.root.clone())
    }

    fn list(&self, folder: Folder, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ObjectInfo>> {
        let path = self.folder(folder);
        let describe = || format!("list {}", path.display());
        let mut objects = Vec::new();
        for entry in fs::read_dir(&path).map_err(|error| not_found(error, describe()))? {
            let entry = entry.context(describe)?;
            let name = entry.file_name().into_string().ok().filter(|name| is_wanted(name));
            let Some(name) = name else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == IoErrorKind::NotFound => continue,
                // Whoever opens it hears of it; the others are there.
                Err(error) if is_of_medium(&error) => {
                    objects.push(ObjectInfo { name, size: 0 });
                    continue;
                }
                Err(error) => return Err(Error::io(describe(), error)),
            };
            if metadata.is_file() {
                objects.push(ObjectInfo { name, size: metadata.len() });
            }
        }
        Ok(objects)
    }

    fn create(&self, object: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        let path = self.path(object);
        let describe = format!("create {}", path.display());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| conflict(error, describe))?;
        Ok(Box::new(LocalWriter::new(file, path, 0)?))
    }

    fn reopen(&self, object: &ObjectName, length: u64) -> Result<Box<dyn ObjectWriter>> {
        let path = self.path(object);
        let describe = || format!("reopen {}", path.display());
        let file = regular::open_with(OpenOptions::new().write(true), &path)
            .map_err(|error| not_found(error, describe()))?;
        file.set_len(length).context(describe)?;
        Ok(Box::new(LocalWriter::new(file, path, length)?))
    }

    fn open(&self, object: &ObjectName) -> Result<Box<dyn ObjectReader>> {
        let path = self.path(object);
        let file = regular::open(&path).map_err(|error| not_opened(error, &path))?;
        Ok(Box::new(LocalReader::new(file, path)?))
    }

    fn open_for_bulk(&self, object: &ObjectName) -> Result<Box<dyn ObjectReader>> {
        let path = self.path(object);
        let file = regular::open(&path).map_err(|error| not_opened(error, &path))?;
        Ok(Box::new(LocalReader::new(file, path)?.past_the_cache()))
    }

    fn rename(&self, from: &ObjectName, to: &str) -> Result<()> {
        let (old, new) = (self.path(from), self.folder(from.folder).join(to));
        let describe = || format!("rename {} to {to}", old.display());
        let cwd = nix::fcntl::AT_FDCWD;
        match renameat2(cwd, &old, cwd, &new, RenameFlags::RENAME_NOREPLACE) {
            // Filesystems without RENAME_NOREPLACE: a hard link is exclusive too.
            Err(nix::Error::EINVAL) => {
                fs::hard_link(&old, &new).map_err(|error| conflict(error, describe()))?;
                fs::remove_file(&old).context(describe)
            }
            result => result.map_err(|errno| conflict(errno.into(), describe())),
        }
    }

    fn replace(&self, from: &ObjectName, damaged: &str) -> Result<()> {
        let (old, new) = (self.path(from), self.folder(from.folder).join(damaged));
        let describe = || format!("rename {} to {damaged}", old.display());
        fs::rename(&old, &new).map_err(|error| not_found(error, describe()))
    }

    fn remove(&self, object: &ObjectName) -> Result<()> {
        object.check_removable()?;
        let path = self.path(object);
        fs::remove_file(&path)
            .map_err(|error| not_found(error, format!("remove {}", path.display())))
    }

    fn sync_folder(&self, folder: Folder) -> Result<()> {
        let path = self.folder(folder);
        let describe = || format!("sync {}", path.display());
        File::open(&path).context(describe)?.sync_all().context(describe)
    }

    fn hold(&self, object: &ObjectName, content: &[u8]) -> Result<Box<dyn Send + Sync>> {
        let new = ObjectName::new(object.folder, format!("{}.new", object.name));
        let path = self.path(&new);
        let describe = || format!("lock {}", path.display());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| conflict(error, describe()))?;
        // Locked before it gets its name, so that nobody ever sees it unheld.
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| Error::io(describe(), errno.into()))?;
        let written = file.write_all(content).and_then(|()| file.sync_all()).context(describe);
        if let Err(error) = written.and_then(|()| self.rename(&new, &object.name)) {
            let _left_behind = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Box::new(Held { path: self.path(object), _file: file }))
    }

    fn is_held(&self, object: &ObjectName) -> Result<bool> {
        let path = self.path(object);
        let describe = || format!("lock {}", path.display());
        let file = regular::open(&path).map_err(|error| not_found(error, describe()))?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_unlocked_again_on_drop) => Ok(false),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(true),
            Err((_, errno)) => Err(Error::io(describe(), errno.into())),
        }
    }

    fn is_of_this_system(&self) -> bool {
        statfs(&self.root).is_ok_and(|found| LOCAL_FILESYSTEMS.contains(&found.filesystem_type().0))
    }
}

fn not_found(error: std::io::Error, context: String) -> Error {
    match error.kind() {
        IoErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{context}: not found")),
        _ => Error::io(context, error),
    }
}

fn not_opened(error: std::io::Error, path: &Path) -> Error {
    match error.kind() {
        IoErrorKind::NotFound => not_found(error, format!("open {}", path.display())),
        _ => damage_or_failure(error, &path.display().to_string(), path),
    }
}

fn conflict(error: std::io::Error, context: String) -> Error {
    match error.kind() {
        IoErrorKind::AlreadyExists => {
            Error::new(ErrorKind::Conflict, format!("{context}: exists already"))
        }
        _ => Error::io(context, error),
    }
}

struct Held {
    path: PathBuf,
    _file: Flock<File>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A lock that stays behind is recognised as dead by the next run.
        let _left_behind = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_created_and_renamed_exclusively() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = LocalStorage::create(&folder.path().join("repo")).expect("new");
        let (a, b) = (ObjectName::new(Folder::Packs, "a"), ObjectName::new(Folder::Packs, "b"));
        storage.create(&a).expect("free").append(b"one").expect("written");
        storage.create(&b).expect("free").append(b"two").expect("written");
        assert_eq!(storage.create(&a).err().map(|e| e.kind()), Some(ErrorKind::Conflict));
        assert_eq!(storage.rename(&a, "b").err().map(|e| e.kind()), Some(ErrorKind::Conflict));
        storage.rename(&a, "c").expect("free");
        let c = storage.open(&ObjectName::new(Folder::Packs, "c")).expect("renamed");
        assert_eq!(c.read_all(10).expect("read"), b"one");
        assert_eq!(c.read_all(2).err().map(|e| e.kind()), Some(ErrorKind::Limit));
        assert_eq!(storage.open(&a).err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    }

    #[test]
    fn a_repository_is_never_made_over_files() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("precious"), "x").expect("written");
        let error = LocalStorage::create(folder.path()).expect_err("holds a file");
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }

    #[test]
    fn a_held_object_is_seen_as_held_until_dropped() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = LocalStorage::create(&folder.path().join("repo")).expect("new");
        let lock = ObjectName::new(Folder::Locks, "l");
        let held = storage.hold(&lock, b"me").expect("free");
        assert!(storage.is_held(&lock).expect("there"));
        drop(held);
        assert_eq!(storage.is_held(&lock).err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    }
}
