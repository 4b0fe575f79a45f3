//! From a volume's name to its bytes.

use std::sync::Arc;

use super::layout::{DiskLayout, Volume};
use super::segment::Mapped;
use crate::base::{ByteCount, ByteOffset, Error, ErrorKind, ReadAt, Result};

/// The bytes of `volume`. A table that says more than the disk has is believed: what the disk
/// lacks fails when it is read.
///
/// # Errors
/// `Unsupported`, saying why, when its bytes cannot be had.
pub fn open(disk: &Arc<dyn ReadAt>, volume: &Volume) -> Result<Arc<dyn ReadAt>> {
    if let Some(why) = &volume.unsupported {
        let context = format!("volume {}: {why}", volume.name);
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    let (start, length) = (volume.start, volume.length);
    if !volume.segments.is_empty() {
        let (disk, segments) = (Arc::clone(disk), volume.segments.clone());
        return Ok(Arc::new(Mapped { disk, segments, length }));
    }
    Ok(Arc::new(Stretch { disk: Arc::clone(disk), start, length }))
}

/// `length` bytes of a disk from `start`.
struct Stretch {
    disk: Arc<dyn ReadAt>,
    start: u64,
    length: u64,
}

impl ReadAt for Stretch {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let count = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let is_inside = offset.0.checked_add(count).is_some_and(|end| end <= self.length);
        match self.start.checked_add(offset.0) {
            Some(place) if is_inside => self.disk.read_exact_at(ByteOffset(place), buffer),
            _ => {
                let context = format!("{count} bytes at {offset} of a volume of {}", self.length);
                Err(Error::new(ErrorKind::Invalid, context))
            }
        }
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.disk.reach(ByteOffset(self.start.saturating_add(offset.0)))
    }
}

impl DiskLayout {
    /// The volume that `selector` means: a name, or `LABEL=`, `UUID=`, `PARTLABEL=` or
    /// `PARTUUID=` and what `show` says of it.
    ///
    /// # Errors
    /// `NotFound`, listing the volumes there are; `Invalid` when several are meant.
    pub fn find(&self, selector: &str) -> Result<&Volume> {
        match self.find_all(selector)?.as_slice() {
            [one, other, ..] => Err(Error::new(
                ErrorKind::Invalid,
                format!("{selector} means both {} and {}: say which", one.name, other.name),
            )),
            one => one.first().copied().ok_or_else(|| self.none(selector)),
        }
    }

    /// All volumes that `selector` means, one at least: the devices of one filesystem have its
    /// label and UUID.
    ///
    /// # Errors
    /// `NotFound`, listing the volumes there are.
    pub fn find_all(&self, selector: &str) -> Result<Vec<&Volume>> {
        let found = self.volumes.iter().filter(|volume| is_meant(volume, selector));
        let found: Vec<&Volume> = found.collect();
        if found.is_empty() { Err(self.none(selector)) } else { Ok(found) }
    }

    fn none(&self, selector: &str) -> Error {
        let names: Vec<&str> = self.volumes.iter().map(|each| each.name.as_str()).collect();
        let listed = match names.is_empty() {
            true => "the disk has no volumes".to_owned(),
            false => format!("the volumes are {}", names.join(", ")),
        };
        Error::new(ErrorKind::NotFound, format!("no volume {selector}: {listed}"))
    }
}

fn is_meant(volume: &Volume, selector: &str) -> bool {
    let content = volume.content.as_ref();
    let Some((key, value)) = selector.split_once('=') else { return volume.name == selector };
    let is_value = |said: Option<&String>| said.is_some_and(|said| said.as_str() == value);
    let is_id = |said: Option<&String>| said.is_some_and(|said| said.eq_ignore_ascii_case(value));
    match key {
        "LABEL" => is_value(content.and_then(|content| content.label.as_ref())),
        "UUID" => is_id(content.and_then(|content| content.uuid.as_ref())),
        "PARTLABEL" => is_value(volume.partition_label.as_ref()),
        "PARTUUID" => is_id(volume.partition_uuid.as_ref()),
        _ => volume.name == selector,
    }
}
