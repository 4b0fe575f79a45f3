//! The target folder's path. Root follows no other user's link on the way to it: that user could
//! have it lead anywhere, at any time.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::geteuid;

use super::tree::FOLDER;
use crate::base::limits::MAX_LINKS_FOLLOWED;
use crate::base::{Error, ErrorContext, ErrorKind, Result};

const ANYTHING: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// Who owns the files of users that a user namespace does not know (`overflowuid`).
const NOBODY: u32 = 65534;

/// The target folder, open.
pub(super) struct Opened {
    pub(super) folder: OwnedFd,
    /// It was made just now.
    pub(super) is_new: bool,
}

/// Opens the folder `path`; what of it is not there is made.
pub(super) fn open_target(path: &Path) -> Result<Opened> {
    let open = |name: &str| openat(AT_FDCWD, name, FOLDER, Mode::empty());
    let context = || format!("open {}", path.display());
    let text = path.as_os_str().as_bytes();
    let start = if text.starts_with(b"/") { "/" } else { "." };
    let mut folder = open(start).context(context)?;
    let mut names = VecDeque::new();
    put_before(&mut names, text);
    let (mut links, mut is_new) = (0, false);
    while let Some(name) = names.pop_front() {
        let name = name.as_os_str();
        is_new = false;
        let opened = match openat(&folder, name, FOLDER, Mode::empty()) {
            Err(Errno::ENOENT) => {
                match mkdirat(&folder, name, Mode::from_bits_truncate(0o777)) {
                    Ok(()) => is_new = true,
                    Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(failed("create", path, errno)),
                }
                openat(&folder, name, FOLDER, Mode::empty())
            }
            opened => opened,
        };
        match opened {
            Ok(opened) => folder = opened,
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                links += 1;
                if links > MAX_LINKS_FOLLOWED {
                    return Err(failed("open", path, Errno::ELOOP));
                }
                let target = link_target(&folder, name, path)?;
                if target.as_bytes().starts_with(b"/") {
                    folder = open("/").context(context)?;
                }
                put_before(&mut names, target.as_bytes());
            }
            Err(errno) => return Err(failed("open", path, errno)),
        }
    }
    Ok(Opened { folder, is_new })
}

fn failed(what: &str, path: &Path, errno: Errno) -> Error {
    Error::io(format!("{what} {}", path.display()), errno.into())
}

fn put_before(names: &mut VecDeque<OsString>, path: &[u8]) {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    for part in parts.rev() {
        names.push_front(OsStr::from_bytes(part).to_owned());
    }
}

/// What the link `name` says, if it may be followed.
fn link_target(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<OsString> {
    let link = openat(folder, name, ANYTHING, Mode::empty());
    let link = link.map_err(|errno| failed("open", path, errno))?;
    let stat = fstat(&link).map_err(|errno| failed("open", path, errno))?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
        return Err(failed("open", path, Errno::ENOTDIR));
    }
    if geteuid().is_root() && !is_trusted(stat.st_uid) {
        let (shown, link, owner) = (path.display(), name.display(), stat.st_uid);
        let context = format!(
            "{shown}: '{link}' is a link of another user ({owner}): name the folder it leads to"
        );
        return Err(Error::new(ErrorKind::Conflict, context));
    }
    readlinkat(&link, "").map_err(|errno| failed("open", path, errno))
}

/// Whether a link of this user's may lead root somewhere. In a user namespace the real root is
/// nobody; who else is cannot be told, but root there has no rights over others' files.
fn is_trusted(owner: u32) -> bool {
    owner == 0 || (owner == NOBODY && !maps_all_users())
}

fn maps_all_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut numbers = map.split_whitespace();
    (numbers.next(), numbers.next(), numbers.next()) == (Some("0"), Some("0"), Some("4294967295"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, lchown, symlink};

    use super::*;

    fn identity(opened: &Opened) -> (u64, u64) {
        let stat = fstat(&opened.folder).expect("open");
        (stat.st_dev, stat.st_ino)
    }

    #[test]
    fn a_path_is_gone_through_links_and_made_where_it_is_not_there() {
        let temporary = tempfile::tempdir().expect("made");
        let root = temporary.path().canonicalize().expect("there");
        fs::create_dir_all(root.join("real/deep")).expect("made");
        symlink("real/../real", root.join("relative")).expect("linked");
        symlink(root.join("relative"), root.join("absolute")).expect("linked");
        symlink("loop", root.join("loop")).expect("linked");
        fs::write(root.join("file"), "").expect("written");
        for path in ["real/deep", "absolute/deep", "relative/./deep/new/../new/er", "real/"] {
            let opened = open_target(&root.join(path)).expect("opened");
            let found = fs::metadata(root.join(path)).expect("there");
            assert_eq!(identity(&opened), (found.dev(), found.ino()), "{path}");
            assert_eq!(opened.is_new, path.ends_with("/er"), "{path}");
        }
        for path in ["loop", "file", "file/x"] {
            let error = open_target(&root.join(path)).err().expect(path);
            assert!(error.raw_os_error().is_some(), "{path}: {error}");
        }
    }

    #[test]
    fn root_follows_no_link_of_another_user() {
        if !geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let temporary = tempfile::tempdir().expect("made");
        fs::create_dir(temporary.path().join("elsewhere")).expect("made");
        let link = temporary.path().join("back");
        symlink("elsewhere", &link).expect("linked");
        open_target(&link).expect("root's own link");
        lchown(&link, Some(1000), None).expect("given away");
        for path in [link.clone(), link.join("new")] {
            let error = open_target(&path).err().expect("another's link");
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        }
        assert!(!temporary.path().join("elsewhere/new").exists());
    }
}
