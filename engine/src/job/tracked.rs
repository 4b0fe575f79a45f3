//! Disks that are tracked in the kernel: how captures and restores come by what changed there.

use std::path::Path;

use serde_json::Value;

use super::capture::{ChangeTracker, Copied, Findings, Since};
use super::restore::Known;
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::block::{Disk, OpenOptions};
use crate::store::ImageId;
use crate::store::repository::Images;
use crate::track::{Evidence, Tracker, Tracking, Verdict};

/// The eBPF tracker as a capture uses it.
pub struct Ebpf {
    tracker: Tracker,
}

impl Ebpf {
    /// The name of this way of finding changes.
    pub const NAME: &str = "ebpf";

    /// The tracker of the disk `device`; none if that is not tracked.
    ///
    /// # Errors
    /// `Unsupported` when its tracking was broken off; the kernel's.
    pub fn open(device: &Path) -> Result<Option<Self>> {
        let tracker = Tracking::default().open(device)?;
        Ok(tracker.map(|tracker| Self { tracker }))
    }
}

impl ChangeTracker for Ebpf {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn checkpoint(&mut self, since: Since<'_>) -> Result<Findings> {
        let told = match since {
            Since::Nothing | Since::Image { .. } => self.tracker.checkpoint()?,
            Since::Copied(copied) => {
                let evidence = read_evidence(copied.evidence())?;
                self.tracker.checkpoint_since(evidence.epoch)?
            }
        };
        let follows = match since {
            Since::Copied(_) => Ok(()),
            Since::Image { id, evidence: Some(evidence) } => match read_evidence(evidence) {
                Ok(parent) => told.evidence.follows(&id.to_string(), &parent),
                Err(_) => Err("the parent's evidence is another tracker's".to_owned()),
            },
            Since::Nothing | Since::Image { evidence: None, .. } => {
                Err("the parent was captured before tracking began".to_owned())
            }
        };
        let changes = match told.verdict {
            Verdict::Tainted(reason) => Err(reason),
            Verdict::Exact | Verdict::Carried => follows.map(|()| told.changes),
        };
        let evidence = serde_json::to_value(&told.evidence).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("a tracker's evidence: {error}"))
        })?;
        Ok(Findings { changes, evidence })
    }

    fn is_written_since(&self, ranges: &[ByteRange]) -> Result<bool> {
        self.tracker.is_marked(ranges)
    }

    fn commit(&mut self, copied: &Copied, image: ImageId) -> Result<()> {
        self.tracker.commit(read_evidence(copied.evidence())?.epoch, image.0)
    }

    fn distrust(&mut self) -> Result<()> {
        self.tracker.distrust()
    }
}

fn read_evidence(evidence: &Value) -> Result<Evidence> {
    serde_json::from_value(evidence.clone())
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("a tracker's evidence: {error}")))
}

/// Has the tracker of the disk `target`, if it has one, not be believed any more: what it told was
/// not so.
///
/// # Errors
/// The kernel's.
pub(super) fn distrust(target: &Path) -> Result<()> {
    let tracker = Tracking::default().open(target)?;
    tracker.map_or(Ok(()), |mut tracker| tracker.distrust())
}

/// What the disk `target` is known to hold, by its tracker: the one of `images` that its map
/// starts from, and what was written since. None if it is not tracked, or its map is in doubt.
///
/// # Errors
/// `Io` of the target; the kernel's.
pub fn known_content(images: &Images, target: &Path) -> Result<Option<Known>> {
    let Some(mut tracker) = Tracking::default().open(target)? else { return Ok(None) };
    // Opening it has whatever is cached of it written, so that it is in the map.
    let _disk = Disk::open(target, &OpenOptions::default())?;
    let told = tracker.checkpoint()?;
    if matches!(told.verdict, Verdict::Tainted(_)) {
        return Ok(None);
    }
    let evidence_of = |value: &Value| read_evidence(value).ok();
    let followed = images.images.iter().find(|image| {
        let tracking = image.manifest.tracking.as_ref().and_then(evidence_of);
        let id = image.id.to_string();
        tracking.is_some_and(|parent| told.evidence.follows(&id, &parent).is_ok())
    });
    let changes = told.changes;
    Ok(followed.map(|image| Known { image: image.clone(), changes }))
}
