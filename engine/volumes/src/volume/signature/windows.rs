//! ReFS and BitLocker.
//!
//! BitLocker: libbde's "BitLocker Drive Encryption format".

use super::super::layout::Notes;
use super::{Signature, Subject};
use crate::base::fields::has;
use crate::kind::Kind;

/// BitLocker, by the OEM name of its boot sector (from Windows 7 on, and "to go").
pub(super) fn bitlocker(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let to_go = [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a];
    let known = has(subject.head, 3, b"-FVE-FS-")
        || (has(subject.head, 3, b"MSWIN4.1") && has(subject.head, 424, &to_go));
    known.then(|| Signature::new(Kind::BitLocker, 0))
}

/// ReFS.
pub(super) fn refs(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    has(subject.head, 3, b"ReFS\0\0\0\0").then(|| Signature::new(Kind::Refs, 0))
}
