//! Disks that are tracked in the kernel: how captures and restores come by what changed there.

use std::path::Path;

use serde_json::Value;

use super::capture::{ChangeTracker, Findings};
use super::restore::Known;
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::block::{Disk, OpenOptions};
use crate::store::repository::Images;
use crate::track::{Evidence, Tracker, Tracking, Verdict};

/// The eBPF tracker as a capture uses it.
pub struct Ebpf {
    tracker: Tracker,
    epoch: Option<u64>,
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
        Ok(tracker.map(|tracker| Self { tracker, epoch: None }))
    }
}

impl ChangeTracker for Ebpf {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn checkpoint(&mut self, parent: Option<&Value>) -> Result<Findings> {
        let told = self.tracker.checkpoint()?;
        self.epoch = Some(told.evidence.epoch);
        let follows = match parent.map(|parent| serde_json::from_value::<Evidence>(parent.clone()))
        {
            Some(Ok(parent)) => told.evidence.follows(&parent),
            Some(Err(_)) => Err("the parent's evidence is another tracker's".to_owned()),
            None => Err("the parent was captured before tracking began".to_owned()),
        };
        let (changes, recent) = match told.verdict {
            Verdict::Tainted(reason) => (Err(reason.clone()), Err(reason)),
            Verdict::Exact | Verdict::Carried => (follows.map(|()| told.changes), told.recent),
        };
        let evidence = serde_json::to_value(&told.evidence).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("a tracker's evidence: {error}"))
        })?;
        Ok(Findings { changes, recent, evidence })
    }

    fn is_written_since(&self, ranges: &[ByteRange]) -> Result<bool> {
        self.tracker.is_marked(ranges)
    }

    fn commit(&mut self) -> Result<()> {
        self.epoch.take().map_or(Ok(()), |epoch| self.tracker.commit(epoch))
    }

    fn distrust(&mut self) -> Result<()> {
        self.tracker.distrust()
    }
}

/// What the disk `target` is known to hold, by its tracker: the newest of `images` that its map
/// can follow, and what was written since. None if it is not tracked, or its map is in doubt.
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
    let evidence_of = |value: &Value| serde_json::from_value::<Evidence>(value.clone()).ok();
    let followed = images.images.iter().find(|image| {
        let tracking = image.manifest.tracking.as_ref().and_then(evidence_of);
        tracking.is_some_and(|parent| told.evidence.follows(&parent).is_ok())
    });
    let changes = told.changes;
    Ok(followed.map(|image| Known { image: image.clone(), changes }))
}
