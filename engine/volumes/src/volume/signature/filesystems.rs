//! The filesystems that imgx reads: each one's own parser says what it is.

use super::super::layout::Notes;
use super::{Signature, Subject};
use crate::fs::identify::{self, Identified};

/// ext2, ext3, ext4, and their external journals.
pub(super) fn ext(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    Some(Signature { content: identify::ext(subject.head)?, place: 1024 })
}

/// XFS, and its external log.
pub(super) fn xfs(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    Some(Signature { content: identify::xfs(subject.head)?, place: 0 })
}

/// btrfs. The size is that of this device, not of the whole filesystem.
pub(super) fn btrfs(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    Some(Signature { content: identify::btrfs(subject.head)?, place: 65536 })
}

/// NTFS.
pub(super) fn ntfs(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    Some(boot_sector(subject, identify::ntfs(subject.head, subject.volume)?, notes))
}

/// exFAT.
pub(super) fn exfat(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    Some(boot_sector(subject, identify::exfat(subject.head, subject.volume)?, notes))
}

/// FAT of any width.
pub(super) fn fat(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    Some(boot_sector(subject, identify::fat(subject.head, subject.volume)?, notes))
}

fn boot_sector(subject: &Subject<'_>, identified: Identified, notes: &mut Notes) -> Signature {
    if let Some(error) = identified.unread {
        notes.add(format!("{}: a part of it cannot be read: {error}", subject.name));
    }
    Signature { content: identified.content, place: 0 }
}
