//! QEMU's dirty bitmaps as a tracker of changes.
//!
//! A bitmap marks what was written since it was made or cleared, and whoever runs the backup makes
//! it. So its *name* says where it starts: `imgx-` and the id of an image means that it was made at
//! the very instant that this image shows, and never cleared since. Only the bitmap that is named
//! after the parent is believed, and only if it covers as many bytes. An id is a digest of its
//! image, so no bitmap of another image, disk or repository can have the name by chance; a capture
//! that failed leaves the parent's bitmap the right one. QEMU refuses to serve a bitmap that it
//! knows to be inconsistent. Whatever does not fit, the disk is read and compared.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::capture::{ChangeTracker, Copied, Findings, Since};
use crate::base::{ByteCount, ByteRange, Error, ErrorKind, Result};
use crate::block::NbdExport;
use crate::store::{ImageId, Manifest};

/// The dirty bitmaps of an export as a capture uses them.
pub struct Bitmaps {
    export: Arc<NbdExport>,
    /// The bitmap that starts from the parent.
    wanted: Option<String>,
}

/// What a manifest keeps of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Evidence {
    /// The export.
    export: String,
    /// Its bytes.
    size: ByteCount,
    /// The bitmap that starts from the parent.
    bitmap: Option<String>,
    /// The bitmaps that were there.
    offered: Vec<String>,
}

impl Bitmaps {
    /// The name of this way of finding changes.
    pub const NAME: &str = "qemu";

    /// Those of `export`, for a capture after `parent`.
    #[must_use]
    pub fn new(export: Arc<NbdExport>, parent: Option<ImageId>) -> Self {
        Self { export, wanted: parent.map(name_after) }
    }

    fn evidence(&self) -> Result<Value> {
        let evidence = Evidence {
            export: self.export.uri().to_string(),
            size: self.export.info().size,
            bitmap: self.wanted.clone(),
            offered: self.export.bitmaps().map(str::to_owned).collect(),
        };
        serde_json::to_value(evidence).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("a tracker's evidence: {error}"))
        })
    }
}

impl ChangeTracker for Bitmaps {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn checkpoint(&mut self, _since: Since<'_>) -> Result<Findings> {
        let changes = match &self.wanted {
            None => Err("there is no image to start from".to_owned()),
            Some(wanted) if self.export.bitmaps().any(|name| name == wanted) => {
                self.export.dirty(wanted).map_err(|error| error.to_string())
            }
            Some(wanted) => Err(format!("the export offers no bitmap {wanted}")),
        };
        Ok(Findings { changes, evidence: self.evidence()? })
    }

    fn is_written_since(&self, ranges: &[ByteRange]) -> Result<bool> {
        let mut is_marked = false;
        if let Some(wanted) = &self.wanted {
            for range in ranges {
                self.export.dirty_within(wanted, *range, &mut |_marked| is_marked = true)?;
            }
        }
        Ok(is_marked)
    }

    /// The next bitmap is made by whoever runs the backup.
    fn commit(&mut self, _copied: &Copied, _image: ImageId) -> Result<()> {
        Ok(())
    }

    /// The image that is being made has another id, which no bitmap so far is named after.
    fn distrust(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The name of the bitmap that the next capture believes, if the image `id` was captured where
/// there could be one.
#[must_use]
pub fn next_bitmap(id: ImageId, manifest: &Manifest) -> Option<String> {
    let evidence = manifest.tracking.clone()?;
    serde_json::from_value::<Evidence>(evidence).ok().map(|_| name_after(id))
}

fn name_after(id: ImageId) -> String {
    format!("imgx-{id}")
}
