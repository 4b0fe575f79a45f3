//! Owner, mode, times and extended attributes of what was extracted.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, geteuid};
use xattr::FileExt;

use super::tree::Spot;
use crate::base::{Error, Result};
use crate::fs::{FileId, FileType, Filesystem, Metadata, Timestamp, Xattr};

/// Bits that lend the rights of a file's owner or group to whoever runs it.
const SET_ID: u16 = 0o6000;
/// The mode of what has none of its own, less what the user's mask takes.
const MODE_WITHOUT: u16 = 0o600;
const FOLDER_MODE_WITHOUT: u16 = 0o700;

/// Gives files their attributes.
pub(super) struct Attributes<'a> {
    filesystem: &'a dyn Filesystem,
    privileged: bool,
    is_root: bool,
}

/// What of a file's attributes was left out.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// Set-user-id or set-group-id bits, or attributes that lend rights.
    pub rights: bool,
    /// Extended attributes that the target's filesystem cannot keep.
    pub attributes: bool,
    /// Why some are lost: they are damaged.
    pub lost: Option<Error>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(filesystem: &'a dyn Filesystem, privileged: bool) -> Self {
        Self { filesystem, privileged, is_root: geteuid().is_root() }
    }

    /// Gives an open file or folder the attributes of `file`.
    pub(super) fn give(&self, file: FileId, to: &File, shown: &Spot<'_>) -> Result<Withheld> {
        let metadata = self.filesystem.metadata(file)?;
        let mut withheld = Withheld::default();
        if self.is_root {
            let (uid, gid) = owner(&metadata);
            fchown(to, uid, gid).map_err(|errno| shown.failed("set the owner of", errno))?;
        }
        let (attributes, lost) = self.filesystem.sound_xattrs(file)?;
        withheld.lost = lost;
        for attribute in attributes {
            if self.may_have(&attribute) {
                withheld.attributes |= !give_attribute(to, &attribute, shown)?;
            } else {
                withheld.rights = true;
            }
        }
        // After the owner and the access control lists, which change the mode.
        let mode = self.mode(&metadata, &mut withheld);
        fchmod(to, mode).map_err(|errno| shown.failed("set the mode of", errno))?;
        if let Some([accessed, modified]) = times(&metadata) {
            futimens(to.as_fd(), &accessed, &modified)
                .map_err(|errno| shown.failed("set the times of", errno))?;
        }
        Ok(withheld)
    }

    /// Gives a link, device or pipe at `spot` the attributes of `file`, without opening it.
    pub(super) fn give_unopened(&self, file: FileId, spot: &Spot<'_>, is_link: bool) -> Result<()> {
        let metadata = self.filesystem.metadata(file)?;
        let (folder, name) = (&spot.folder, spot.name);
        if self.is_root {
            let (uid, gid) = owner(&metadata);
            fchownat(folder, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|errno| spot.failed("set the owner of", errno))?;
        }
        if !is_link {
            // What was just made here is no link; nobody else may write to a folder that is
            // still private.
            let mode = self.mode(&metadata, &mut Withheld::default());
            fchmodat(folder, name, mode, FchmodatFlags::FollowSymlink)
                .map_err(|errno| spot.failed("set the mode of", errno))?;
        }
        if let Some([accessed, modified]) = times(&metadata) {
            utimensat(folder, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
                .map_err(|errno| spot.failed("set the times of", errno))?;
        }
        Ok(())
    }

    fn mode(&self, metadata: &Metadata, withheld: &mut Withheld) -> Mode {
        let is_folder = metadata.file_type == FileType::Directory;
        let mode = mode_or_private(metadata);
        // A folder's set-group-id bit lends nothing; it has its files inherit the group.
        let is_lent = mode & SET_ID != 0 && !is_folder && !self.privileged;
        withheld.rights |= is_lent;
        let kept = if is_lent { mode & !SET_ID } else { mode };
        Mode::from_bits_truncate(kept.into())
    }

    fn may_have(&self, attribute: &Xattr) -> bool {
        const HARMLESS: [&[u8]; 3] =
            [b"user.", b"system.posix_acl_access", b"system.posix_acl_default"];
        self.privileged || HARMLESS.iter().any(|start| attribute.name.starts_with(start))
    }
}

/// A file's mode; where its filesystem has none, one for the owner alone.
pub(super) fn mode_or_private(metadata: &Metadata) -> u16 {
    let is_folder = metadata.file_type == FileType::Directory;
    metadata.mode.unwrap_or(if is_folder { FOLDER_MODE_WITHOUT } else { MODE_WITHOUT })
}

fn owner(metadata: &Metadata) -> (Option<Uid>, Option<Gid>) {
    (metadata.uid.map(Uid::from_raw), metadata.gid.map(Gid::from_raw))
}

/// When it was read and written last; what is not known is left as it is.
fn times(metadata: &Metadata) -> Option<[TimeSpec; 2]> {
    let spec = |time: Option<Timestamp>| match time {
        Some(time) => TimeSpec::new(time.seconds, time.nanoseconds.into()),
        None => TimeSpec::UTIME_OMIT,
    };
    let is_known = metadata.accessed.is_some() || metadata.modified.is_some();
    is_known.then(|| [spec(metadata.accessed), spec(metadata.modified)])
}

/// Returns whether the target's filesystem can keep such attributes.
fn give_attribute(to: &File, attribute: &Xattr, shown: &Spot<'_>) -> Result<bool> {
    let name = OsStr::from_bytes(&attribute.name);
    let Err(error) = to.set_xattr(name, &attribute.value) else { return Ok(true) };
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    if errno == Errno::EOPNOTSUPP {
        return Ok(false);
    }
    Err(shown.failed(&format!("set the attribute {} of", name.display()), errno))
}

/// Whether an error is of a single file, so that others may still do: the target as a whole can
/// take no more when it is full, read-only or broken.
pub(super) fn costs_one_file(error: &Error) -> bool {
    let fatal = [Errno::ENOSPC, Errno::EDQUOT, Errno::EROFS, Errno::EMFILE, Errno::ENFILE];
    !error.raw_os_error().is_some_and(|number| fatal.contains(&Errno::from_raw(number)))
}
