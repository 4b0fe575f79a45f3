//! From what somebody calls a volume to the volume.

use super::layout::{DiskLayout, Volume};
use crate::base::{Error, ErrorKind, Result};

impl DiskLayout {
    /// The volume that `selector` means: a name, or its end where no other has the same, or
    /// `LABEL=`, `UUID=`, `PARTLABEL=` or `PARTUUID=` and what `show` says of it.
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
        let all = |is_meant: fn(&Volume, &str) -> bool| -> Vec<&Volume> {
            self.volumes.iter().filter(|volume| is_meant(volume, selector)).collect()
        };
        match all(is_meant) {
            found if found.is_empty() => match all(ends_with) {
                found if found.is_empty() => Err(self.none(selector)),
                found => Ok(found),
            },
            found => Ok(found),
        }
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

/// Whether the last parts of its name are these: `root`, or `vg0/root`, of `p3/luks/vg0/root`.
fn ends_with(volume: &Volume, selector: &str) -> bool {
    let before = volume.name.strip_suffix(selector).filter(|_| !selector.is_empty());
    before.is_some_and(|before| before.ends_with('/'))
}

pub(super) fn is_meant(volume: &Volume, selector: &str) -> bool {
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
