//! What a disk or file is, in a form that manifests keep.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::ByteCount;
use crate::sys::DeviceFacts;

/// Whether it is a real disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A block device.
    Device,
    /// A regular file with a disk's bytes.
    File,
    /// An export of an NBD server.
    Nbd,
}

/// The identity and shape of a disk or of a file that stands for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// The path or URI that it was opened by.
    #[serde(flatten, with = "crate::base::path")]
    pub path: PathBuf,
    /// Device, file or export.
    pub kind: SourceKind,
    /// Size; of a device, what its whole sectors hold.
    pub size: ByteCount,
    /// Bytes of a logical sector; 512 for a file or export.
    pub logical_sector_size: u32,
    /// Bytes of a physical sector; 512 for a file or export.
    pub physical_sector_size: u32,
    /// Model, as the disk reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Serial number, as the disk reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World-wide id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwid: Option<String>,
    /// The kernel's sequence number of the disk, unique since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_sequence: Option<u64>,
    /// Device number as `major:minor`; `None` for all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_number: Option<String>,
}

impl SourceInfo {
    pub(super) fn of_file(path: &Path, size: u64) -> Self {
        Self {
            path: path.to_owned(),
            kind: SourceKind::File,
            size: ByteCount(size),
            logical_sector_size: 512,
            physical_sector_size: 512,
            model: None,
            serial: None,
            wwid: None,
            disk_sequence: None,
            device_number: None,
        }
    }

    pub(super) fn of_export(uri: &Path, size: u64) -> Self {
        Self { kind: SourceKind::Nbd, ..Self::of_file(uri, size) }
    }

    pub(super) fn of_device(path: &Path, facts: &DeviceFacts) -> Self {
        Self {
            path: path.to_owned(),
            kind: SourceKind::Device,
            // The kernel serves no sector in part, though some devices' sizes end in one.
            size: ByteCount(facts.size.0 - facts.size.0 % u64::from(facts.logical_sector_size)),
            logical_sector_size: facts.logical_sector_size,
            physical_sector_size: facts.physical_sector_size,
            model: facts.model.clone(),
            serial: facts.serial.clone(),
            wwid: facts.wwid.clone(),
            disk_sequence: facts.disk_sequence,
            device_number: Some(facts.number.clone()),
        }
    }
}
