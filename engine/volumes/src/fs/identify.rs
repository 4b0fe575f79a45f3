//! What the superblocks and boot sectors of filesystems say that a volume is, whether or not it can
//! be opened: a signature is no filesystem.
//!
//! Each is asked with a volume's first bytes, as many as reach past its superblock, and those whose
//! label is elsewhere with the volume itself too.

use super::{exfat, fat, ntfs};
use crate::base::{Error, ErrorKind, Result};
use crate::content::Content;

pub(crate) use super::btrfs::identify as btrfs;
pub(crate) use super::exfat::identify as exfat;
pub(crate) use super::ext::identify as ext;
pub(crate) use super::fat::identify as fat;
pub(crate) use super::ntfs::identify as ntfs;
pub(crate) use super::xfs::identify as xfs;

/// What a boot sector says that a volume is.
pub(crate) struct Identified {
    /// What it is.
    pub content: Content,
    /// Why the label could not be read, if that was no damage.
    pub unread: Option<Error>,
}

impl Identified {
    /// `content` with the label that was found. Where that is damaged, there is none.
    pub(in crate::fs) fn with_label(content: Content, label: Result<Option<String>>) -> Self {
        match label {
            Ok(label) => Self { content: Content { label, ..content }, unread: None },
            Err(error) if error.kind() == ErrorKind::Corrupt => Self { content, unread: None },
            Err(error) => Self { content, unread: Some(error) },
        }
    }
}

/// Whether a disk's first sector is a filesystem's and no partition table, though both end in
/// 55 AA.
pub(crate) fn is_boot_sector(sector: &[u8]) -> bool {
    fat::is_boot_sector(sector) || ntfs::is_boot_sector(sector) || exfat::is_boot_sector(sector)
}
