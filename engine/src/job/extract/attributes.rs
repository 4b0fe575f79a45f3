//! Owner, mode, times and extended attributes of what was extracted. What the target cannot keep
//! costs itself: the rest is given, and what is missing is named.

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, getegid, geteuid};

use super::acl;
use super::handle::Handle;
use super::report::Property;
use super::trouble::{Made, Trouble};
use crate::base::Error;
use crate::fs::{FileId, FileType, Filesystem, Metadata, Timestamp, Xattr};

/// Bits that lend the rights of a file's owner and of its group to whoever runs it.
const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
/// The mode of what has none of its own, less what the user's mask takes.
const MODE_WITHOUT: u16 = 0o600;
const FOLDER_MODE_WITHOUT: u16 = 0o700;
/// Times that any filesystem has room for: 32 bits with a sign, from 1970 on.
const ALWAYS_KEPT: std::ops::Range<i64> = 0..1 << 31;

/// Gives files their attributes.
pub(super) struct Attributes<'a> {
    filesystem: &'a dyn Filesystem,
    privileged: bool,
    is_root: bool,
}

/// What of a file's attributes is missing.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// Set-user-id or set-group-id bits, or attributes that lend rights, were left out.
    pub rights: bool,
    /// What the target could not keep, and why.
    pub not_kept: Vec<(Property, Error)>,
    /// Why extended attributes cannot be read from the image: some are damaged.
    pub unread: Option<Error>,
    /// How the target failed, rather than what it cannot keep.
    pub failed: Option<Error>,
}

/// Failures of a target that say nothing of what it can keep: broken, gone, made read-only.
const BROKEN: [Errno; 6] =
    [Errno::EIO, Errno::EROFS, Errno::ENOTCONN, Errno::ESTALE, Errno::ENODEV, Errno::ENXIO];

impl Missing {
    fn note(&mut self, property: Property, done: nix::Result<()>) -> bool {
        let Err(errno) = done else { return true };
        let what = match &property {
            Property::Owner => "set the owner".to_owned(),
            Property::Mode => "set the mode".to_owned(),
            Property::Times => "set the times".to_owned(),
            Property::AccessList => "set the access control list".to_owned(),
            Property::Attribute(name) => {
                format!("set the attribute {}", String::from_utf8_lossy(name))
            }
            Property::Name | Property::Kind => "make it".to_owned(),
        };
        let error = Error::io(what, errno.into());
        if BROKEN.contains(&errno) {
            self.failed.get_or_insert(error);
        } else {
            self.not_kept.push((property, error));
        }
        false
    }
}

/// Whose a file is now, compared with what the image says.
#[derive(Clone, Copy)]
struct Ownership {
    user: bool,
    group: bool,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(filesystem: &'a dyn Filesystem, privileged: bool) -> Self {
        Self { filesystem, privileged, is_root: geteuid().is_root() }
    }

    /// Whether `file` is to lend the rights of its owner or group.
    pub(super) fn lends(&self, file: FileId) -> bool {
        let mode = || self.filesystem.metadata(file).ok().and_then(|metadata| metadata.mode);
        self.privileged && mode().is_some_and(|mode| mode & (SET_UID | SET_GID) != 0)
    }

    /// Gives what was made the attributes of `file`. What was there before loses access control
    /// lists that `file` does not have.
    pub(super) fn give(&self, file: FileId, to: Handle<'_>, is_new: bool) -> Made<Missing> {
        let metadata = self.filesystem.metadata(file).map_err(Trouble::image)?;
        let mut missing = Missing::default();
        let ownership = self.give_owner(&metadata, to, &mut missing);
        let attributes = match self.filesystem.sound_xattrs(file) {
            Ok((attributes, lost)) => {
                missing.unread = lost;
                attributes
            }
            Err(error) => match Trouble::image(error) {
                Trouble::Image(error) => {
                    missing.unread = Some(error);
                    Vec::new()
                }
                end => return Err(end),
            },
        };
        let has_list = attributes.iter().any(|one| one.name == acl::ACCESS.as_bytes());
        if !is_new {
            self.remove_lists(&attributes, to, &mut missing);
        }
        let mut lost_list = None;
        for attribute in &attributes {
            let is_kept = self.give_attribute(attribute, to, &mut missing);
            if !is_kept && attribute.name == acl::ACCESS.as_bytes() {
                lost_list = Some(attribute.value.as_slice());
            }
        }
        // After the owner and the access control lists, which change the mode.
        if metadata.file_type != FileType::Symlink {
            // A list that cannot be read may have been among those that are lost.
            let lost_list = match missing.unread {
                Some(_) if !has_list => Some(&[][..]),
                _ => lost_list,
            };
            let mode = self.mode(&metadata, ownership, lost_list, &mut missing);
            missing.note(Property::Mode, to.set_mode(mode));
        }
        give_times(&metadata, to, &mut missing);
        Ok(missing)
    }

    /// Whether a folder that was there has the owner and mode of `file` already.
    pub(super) fn are_given(&self, file: FileId, folder: &FileStat) -> Made<bool> {
        let metadata = self.filesystem.metadata(file).map_err(Trouble::image)?;
        let mode = metadata.mode.unwrap_or(FOLDER_MODE_WITHOUT);
        Ok(metadata.uid.is_none_or(|uid| uid == folder.st_uid)
            && metadata.gid.is_none_or(|gid| gid == folder.st_gid)
            && u32::from(mode) == folder.st_mode & 0o7777)
    }

    fn give_owner(&self, metadata: &Metadata, to: Handle<'_>, missing: &mut Missing) -> Ownership {
        let (uid, gid) = (metadata.uid.map(Uid::from_raw), metadata.gid.map(Gid::from_raw));
        if !self.is_root {
            // Files are one's own, as with any other program.
            return Ownership { user: uid == Some(geteuid()), group: gid == Some(getegid()) };
        }
        let both = to.set_owner(uid, gid);
        if both.is_ok() {
            return Ownership { user: uid.is_some(), group: gid.is_some() };
        }
        // Perhaps only one of them is unknown here.
        let user = uid.is_some() && to.set_owner(uid, None).is_ok();
        let group = gid.is_some() && to.set_owner(None, gid).is_ok();
        missing.note(Property::Owner, both);
        Ownership { user, group }
    }

    /// Returns false if it was to be given and the target could not keep it.
    fn give_attribute(&self, attribute: &Xattr, to: Handle<'_>, missing: &mut Missing) -> bool {
        if !self.may_have(attribute) {
            missing.rights = true;
            return true;
        }
        let name = &attribute.name;
        let is_list = [acl::ACCESS, acl::DEFAULT].iter().any(|list| *name == list.as_bytes());
        let property =
            if is_list { Property::AccessList } else { Property::Attribute(name.clone()) };
        missing.note(property, to.set_attribute(name, &attribute.value))
    }

    fn remove_lists(&self, attributes: &[Xattr], to: Handle<'_>, missing: &mut Missing) {
        if missing.unread.is_some() {
            return;
        }
        for list in [acl::ACCESS, acl::DEFAULT] {
            if attributes.iter().all(|attribute| attribute.name != list.as_bytes()) {
                missing.note(Property::AccessList, to.remove_attribute(list));
            }
        }
    }

    /// The mode that it gets, if its access control list `lost_list` could not be kept.
    fn mode(
        &self,
        metadata: &Metadata,
        ownership: Ownership,
        lost_list: Option<&[u8]>,
        missing: &mut Missing,
    ) -> Mode {
        let is_folder = metadata.file_type == FileType::Directory;
        let mut mode = mode_or_private(metadata);
        // A folder's set-group-id bit lends nothing; it has its files inherit the group.
        if !is_folder {
            // Those of another than the image means are never lent.
            let keeps = |is_same: bool| self.privileged && is_same;
            let mut lent = 0;
            lent |= if keeps(ownership.user) { 0 } else { SET_UID };
            lent |= if keeps(ownership.group) { 0 } else { SET_GID };
            missing.rights |= mode & lent != 0;
            mode &= !lent;
        }
        mode = match lost_list {
            Some(list) => acl::mode_without(list, mode),
            None => mode,
        };
        Mode::from_bits_truncate(mode.into())
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

/// When it was read and written last; what is not known is left as it is.
fn give_times(metadata: &Metadata, to: Handle<'_>, missing: &mut Missing) {
    let spec = |time: Option<Timestamp>| match time {
        Some(time) => TimeSpec::new(time.seconds, time.nanoseconds.into()),
        None => TimeSpec::UTIME_OMIT,
    };
    let times = [metadata.accessed, metadata.modified];
    if times.iter().all(Option::is_none) {
        return;
    }
    let [accessed, modified] = times.map(spec);
    if !missing.note(Property::Times, to.set_times(&accessed, &modified)) {
        return;
    }
    // Filesystems put the nearest time that they have in the place of others, and say nothing.
    if times.iter().flatten().any(|time| !ALWAYS_KEPT.contains(&time.seconds)) {
        let is_kept = to.stat().map(|stat| {
            let found = [stat.st_atime, stat.st_mtime];
            times.iter().zip(found).all(|(time, at)| time.is_none_or(|time| time.seconds == at))
        });
        match is_kept {
            Ok(true) => {}
            Ok(false) => drop(missing.note(Property::Times, Err(Errno::EOVERFLOW))),
            Err(errno) => drop(missing.note(Property::Times, Err(errno))),
        }
    }
}
