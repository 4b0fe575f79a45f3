//! What a tracker says of itself in an image's manifest: why its map may be believed.

use serde::{Deserialize, Serialize};

use super::page::Sectors;
use super::verdict::Verdict;
use crate::base::ByteCount;
use crate::sys::identity::FileState;

/// A checkpoint's evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The random id of the tracking, from its start to its stop.
    pub tracker: String,
    /// The boot in which it ran.
    pub boot_id: String,
    /// The disk's device number, `major:minor`.
    pub device: String,
    /// The disk's sequence number, which no other disk had since boot.
    pub disk_sequence: u64,
    /// The disk's size.
    pub size: ByteCount,
    /// What the disk is made of ([`crate::sys::identity`]); empty where nobody asked yet.
    #[serde(default)]
    pub identity: String,
    /// The file behind a loop device, as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<FileState>,
    /// Bytes of a granule of the map.
    pub granule: u64,
    /// The id of the image from which the map starts, in hexadecimal digits; none if none was
    /// stored since tracking began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The first epoch that the map covers.
    pub since: u64,
    /// The last.
    pub epoch: u64,
    /// `exact`, `carried` or `tainted`.
    pub verdict: String,
    /// Why it is tainted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Sectors that the kernel counted since the last image.
    pub kernel: Sectors,
    /// Sectors that the programs saw completed since tracking began.
    pub completed: Sectors,
    /// Sectors that they saw queued since tracking began.
    pub queued: Sectors,
    /// How often programs were not run since tracking began.
    pub misses: u64,
}

impl Evidence {
    /// Whether a map with this evidence says all that changed since the image `id` whose evidence
    /// is `parent`.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn follows(&self, id: &str, parent: &Self) -> Result<(), String> {
        if self.boot_id != parent.boot_id {
            return Err("the machine was booted since the parent was captured".to_owned());
        }
        if self.tracker != parent.tracker {
            return Err("tracking was started anew since the parent was captured".to_owned());
        }
        self.check_disk(parent)?;
        match &self.image {
            None => Err("the tracker was not told that the parent was stored".to_owned()),
            Some(image) if image != id => Err(format!(
                "the map starts from image {}, not from the parent: that was captured into \
                 another history, or the machine was set back to an earlier state",
                image.get(..12).unwrap_or(image)
            )),
            Some(_) if self.since != parent.epoch.saturating_add(1) => {
                Err("the map starts from another checkpoint than the parent's".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether it is of the same disk as `parent`, made of the same, and no file behind it was
    /// changed past it as far as that can be told.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check_disk(&self, parent: &Self) -> Result<(), String> {
        let of_disk = |one: &Self| (one.device.clone(), one.disk_sequence, one.size, one.granule);
        if of_disk(self) != of_disk(parent) {
            return Err("the parent was captured from another disk".to_owned());
        }
        if self.identity != parent.identity {
            return Err("what the disk is made of, or shows, was exchanged or moved since the \
                        parent was captured"
                .to_owned());
        }
        self.check_backing(parent)
    }

    /// Whether the file behind a loop device can be as it was but for what was written by way of
    /// that.
    fn check_backing(&self, parent: &Self) -> Result<(), String> {
        let (Some(now), Some(before)) = (self.backing, parent.backing) else { return Ok(()) };
        if now.size != before.size {
            return Err(
                "the file behind the loop device was cut or has grown since the parent was \
                        captured"
                    .to_owned(),
            );
        }
        // Writes by way of the loop device change its times too.
        let is_unwritten = (self.completed, self.queued) == (parent.completed, parent.queued);
        if is_unwritten && now != before {
            return Err("the file behind the loop device was changed since the parent was \
                        captured, past the device"
                .to_owned());
        }
        Ok(())
    }

    pub(super) fn judge(verdict: &Verdict) -> (String, Option<String>) {
        match verdict {
            Verdict::Exact => ("exact".to_owned(), None),
            Verdict::Carried => ("carried".to_owned(), None),
            Verdict::Tainted(reason) => ("tainted".to_owned(), Some(reason.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(since: u64, epoch: u64) -> Evidence {
        Evidence {
            tracker: "a".to_owned(),
            boot_id: "b".to_owned(),
            device: "7:0".to_owned(),
            disk_sequence: 3,
            size: ByteCount(1 << 20),
            identity: "file 1:2".to_owned(),
            backing: Some(FileState { size: 1 << 20, modified: 5, changed: 5 }),
            granule: 4096,
            image: Some("image".to_owned()),
            since,
            epoch,
            verdict: "exact".to_owned(),
            reason: None,
            kernel: Sectors::default(),
            completed: Sectors::default(),
            queued: Sectors::default(),
            misses: 0,
        }
    }

    #[test]
    fn a_map_follows_only_an_image_of_the_same_disk_and_tracking() {
        let parent = evidence(1, 4);
        for (since, epoch) in [(5, 5), (5, 9)] {
            assert_eq!(evidence(since, epoch).follows("image", &parent), Ok(()));
        }
        for (since, epoch) in [(6, 7), (1, 4), (2, 3), (3, 6), (1, 5)] {
            let told = evidence(since, epoch);
            assert!(told.follows("image", &parent).is_err(), "{since} to {epoch}");
        }
        assert!(evidence(5, 5).follows("another", &parent).is_err());
        let unstored = Evidence { image: None, ..evidence(5, 5) };
        assert!(unstored.follows("image", &parent).is_err());
        let next = evidence(5, 5);
        for other in [
            Evidence { tracker: "c".to_owned(), ..parent.clone() },
            Evidence { boot_id: "c".to_owned(), ..parent.clone() },
            Evidence { disk_sequence: 4, ..parent.clone() },
            Evidence { size: ByteCount(1 << 21), ..parent.clone() },
            Evidence { granule: 8192, ..parent.clone() },
            Evidence { device: "7:1".to_owned(), ..parent.clone() },
            Evidence { identity: "file 1:3".to_owned(), ..parent.clone() },
            Evidence { identity: String::new(), ..parent.clone() },
            Evidence {
                backing: Some(FileState { size: 1 << 20, modified: 5, changed: 6 }),
                ..parent.clone()
            },
        ] {
            assert!(next.follows("image", &other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_file_behind_a_loop_device_changes_only_as_it_was_written_to() {
        let parent = evidence(1, 4);
        let state = |size, time| Some(FileState { size, modified: time, changed: time });
        let completed = Sectors { written: 8, discarded: 0 };
        let written = Evidence { completed, backing: state(1 << 20, 9), ..evidence(5, 5) };
        assert!(written.check_backing(&parent).is_ok());
        let cut = Evidence { backing: state(1 << 19, 9), ..written.clone() };
        assert!(cut.check_backing(&parent).is_err());
        let silent = Evidence { completed: parent.completed, ..written.clone() };
        assert!(silent.check_backing(&parent).is_err());
        let unknown = Evidence { backing: None, ..silent };
        assert!(unknown.check_backing(&parent).is_ok());
    }

    #[test]
    fn evidence_reads_back_from_json() {
        let evidence = evidence(1, 2);
        let text = serde_json::to_string(&evidence).expect("plain");
        assert_eq!(serde_json::from_str::<Evidence>(&text).expect("its own"), evidence);
    }
}
