//! What a volume says of itself, whether or not all of it can be opened.

use std::sync::Arc;

use super::attribute::{Form, kind};
use super::boot::Boot;
use super::mft::read_record;
use super::space::Space;
use super::units::{RecordNumber, bytes};
use crate::base::{ReadAt, Result};
use crate::content::Content;
use crate::fs::identify::Identified;
use crate::kind::Kind;
use crate::text::label_utf16;

/// The record of `$Volume`, of which there is a copy.
pub(super) const VOLUME: u64 = 3;

/// What the boot sector says that `volume`, with these first bytes, is; `None` where there is none
/// that makes sense. The size is that of all sectors but the last, which is the copy.
pub(crate) fn identify(head: &[u8], volume: &Arc<dyn ReadAt>) -> Option<Identified> {
    let boot = Boot::identify(head)?;
    let space = Space::new(Arc::clone(volume), &boot);
    let label = label(&space, &boot);
    let content = Content { uuid: boot.uuid(), size: Some(boot.size), ..Content::new(Kind::Ntfs) };
    Some(Identified::with_label(content, label))
}

/// The label (`$VOLUME_NAME`, always resident), by the record of `$Volume` or the copy of that.
///
/// # Errors
/// `Corrupt` when both are damaged; the volume's own.
pub(super) fn label(space: &Space, boot: &Boot) -> Result<Option<String>> {
    let at = |table| {
        let before = VOLUME.saturating_mul(bytes(boot.record_size));
        let place = space.offset(table).saturating_add(before);
        let record = read_record(space, place, boot.record_size, RecordNumber(VOLUME))?;
        for attribute in record.attributes() {
            let attribute = attribute?;
            if let (kind::VOLUME_NAME, Form::Resident(name)) = (attribute.kind, attribute.form) {
                return Ok(label_utf16(name));
            }
        }
        Ok(None)
    };
    at(boot.mft).or_else(|error| at(boot.mirror).map_err(|_| error))
}
