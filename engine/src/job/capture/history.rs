//! A disk's history: the name that its images share, and which of them is the parent of the next.

use std::path::PathBuf;

use jiff::Timestamp;

use super::ParentChoice;
use crate::base::{Error, ErrorKind, Observer, Result};
use crate::block::{NbdUri, SourceInfo, SourceKind};
use crate::store::lock::host_name;
use crate::store::repository::{Image, Images};
use crate::volume::DiskLayout;

/// A name, which must not be mistaken for an image's number, path or id.
///
/// # Errors
/// `Invalid` if it would be.
pub fn checked_name(name: &str) -> Result<String> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '/' | '~');
    let sound = !name.is_empty() && name.len() <= 255 && name.chars().all(is_plain);
    if sound && name != "latest" {
        return Ok(name.to_owned());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("name '{name}': expected up to 255 bytes without '/', '~' or spaces, not 'latest'"),
    ))
}

/// The name of a disk's history where none is given: the host and the disk's serial number, the
/// file's name, or the export's.
#[must_use]
pub fn default_name(info: &SourceInfo) -> String {
    let file = match info.kind {
        SourceKind::Nbd => export_name(info).filter(|name| !name.is_empty()).map(PathBuf::from),
        SourceKind::Device | SourceKind::File => info.path.file_name().map(PathBuf::from),
    };
    let file = file.unwrap_or(PathBuf::from("disk"));
    let file = file.to_string_lossy();
    let name = match (&info.device_number, &info.serial) {
        (None, _) => file.into_owned(),
        (Some(_), Some(serial)) => format!("{}-{serial}", host_name()),
        (Some(_), None) => format!("{}-{file}", host_name()),
    };
    let plain =
        |c: char| if c.is_control() || c.is_whitespace() || "/~".contains(c) { '_' } else { c };
    let name: String = name.chars().map(plain).take(200).collect();
    if name == "latest" { "latest_".to_owned() } else { name }
}

fn export_name(info: &SourceInfo) -> Option<String> {
    info.path.to_str()?.parse().ok().map(|uri: NbdUri| uri.export)
}

/// The image that the disk is compared with; `observer` is told if damage may make it another.
///
/// # Errors
/// `NotFound` or `Invalid` for a wrong reference.
pub fn find_parent(
    images: &Images,
    name: &str,
    choice: &ParentChoice,
    observer: &dyn Observer,
) -> Result<Option<Image>> {
    match choice {
        ParentChoice::None => Ok(None),
        ParentChoice::Image(reference) => images.resolve(reference, observer).cloned().map(Some),
        ParentChoice::Auto => Ok(images.newest(name, observer).cloned()),
    }
}

/// What is odd about the time `now`: a clock that goes on from the newest image of the name, and
/// from the parent, is not behind theirs.
#[must_use]
pub fn odd_clock(
    now: Timestamp,
    images: &Images,
    name: &str,
    parent: Option<&Image>,
) -> Option<String> {
    let made = |image: &Image| image.manifest.created.parse::<Timestamp>().ok();
    let earlier = images.of_name(name).take(1).chain(parent);
    let (image, then) = earlier
        .filter_map(|image| Some((image, made(image)?)))
        .filter(|(_, then)| *then > now)
        .max_by_key(|(_, then)| *then)?;
    let (name, id) = (&image.manifest.name, image.id);
    Some(format!(
        "the clock says {now:.0}, but image {name} {id} was made at {then:.0}: one of them is \
         wrong; the new image comes after it all the same"
    ))
}

/// In which ways the disk is not the parent's: each in a line. None of them ends a history.
#[must_use]
pub fn changes_of_disk(info: &SourceInfo, layout: &DiskLayout, parent: &Image) -> Vec<String> {
    let before = &parent.manifest;
    let mut lines = Vec::new();
    if info.size != before.size {
        let verb = if info.size > before.size { "grew" } else { "shrank" };
        lines.push(format!("the disk {verb} from {} to {} bytes", before.size, info.size));
    }
    let known = |field: &str| before.source.get(field).and_then(serde_json::Value::as_str);
    for (what, now, then) in [
        ("serial number", info.serial.as_deref(), known("serial")),
        ("model", info.model.as_deref(), known("model")),
    ] {
        if let (Some(now), Some(then)) = (now, then)
            && now != then
        {
            lines.push(format!("another disk than the parent's: {what} {now}, was {then}"));
        }
    }
    if let Ok(then) = serde_json::from_value::<DiskLayout>(before.layout.clone())
        && places(&then) != places(layout)
    {
        lines.push("the partition table changed".to_owned());
    }
    lines
}

/// Which partitions a disk has, and where.
fn places(layout: &DiskLayout) -> Vec<(&str, u64, u64)> {
    let volumes = layout.volumes.iter().filter(|_| layout.table.is_some());
    volumes.map(|volume| (volume.name.as_str(), volume.start, volume.length)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_mistaken_for_something_else_are_refused() {
        assert!(checked_name("web-01_sda").is_ok());
        for wrong in ["", "latest", "a/b", "a~1", "two words", "new\nline"] {
            assert!(checked_name(wrong).is_err(), "{wrong} was accepted");
        }
    }
}
