//! What the kernel says about a block device: ioctls for what matters, sysfs for the rest.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::ioctl;
use super::loops::LoopBacking;
use super::mounts::{Mount, parse_mounts};
use crate::base::{ByteCount, Error, ErrorContext, ErrorKind, Result};

const DEVICES: &str = "/dev";
const SHARED_MEMORY: &str = "/dev/shm";

/// A block device as the kernel knows it.
#[derive(Debug, Clone)]
pub struct DeviceFacts {
    /// The kernel's name (`sda`, `nvme0n1p2`, `dm-0`).
    pub name: String,
    /// The name of the disk that it is a partition of.
    pub parent_disk: Option<String>,
    /// Where a partition starts on its disk, in bytes; 0 for a disk.
    pub start: u64,
    /// Device number, as `major:minor`.
    pub number: String,
    /// Size.
    pub size: ByteCount,
    /// Bytes of a logical sector.
    pub logical_sector_size: u32,
    /// Bytes of a physical sector.
    pub physical_sector_size: u32,
    /// Model, as the disk reports it.
    pub model: Option<String>,
    /// Serial number, as the disk reports it.
    pub serial: Option<String>,
    /// World-wide id, or the UUID of a device-mapper device.
    pub wwid: Option<String>,
    /// The disk's sequence number; unique since boot (Linux 5.15).
    pub disk_sequence: Option<u64>,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether it spins.
    pub rotational: bool,
    /// What it shows, if it is (a partition of) a loop device.
    pub loop_backing: Option<LoopBacking>,
    /// Bytes that one discard covers at most; 0 if it cannot discard.
    pub discard_max: u64,
    /// Bytes that one offloaded writing of zeros covers at most; 0 if there is no offload.
    pub write_zeroes_max: u64,
}

impl DeviceFacts {
    /// Asks about the open block device `device`.
    ///
    /// # Errors
    /// `Invalid` if it is no block device, `Io` if the kernel does not tell its size.
    pub fn of(device: &File) -> Result<Self> {
        let metadata = device.metadata().context(|| "stat the device")?;
        let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
        let size = ioctl::size(device).context(|| format!("size of block device {number}"))?;
        let folder = fs::canonicalize(format!("/sys/dev/block/{number}"))
            .map_err(|source| Error::io(format!("block device {number} is not in /sys"), source))?;
        let name = file_name(&folder).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("block device {number} has no name"))
        })?;
        let is_partition = folder.join("partition").exists();
        let disk = match folder.parent() {
            Some(parent) if is_partition => parent.to_owned(),
            _ => folder.clone(),
        };
        let disk_name = file_name(&disk).unwrap_or_else(|| name.clone());
        let number_in = |path: &str| text(&disk.join(path)).and_then(|text| text.parse().ok());
        let start = text(&folder.join("start")).and_then(|text| text.parse::<u64>().ok());
        Ok(Self {
            parent_disk: is_partition.then(|| disk_name.clone()),
            // sysfs counts 512-byte units, whatever the sector size.
            start: start.unwrap_or(0).saturating_mul(512),
            number,
            size: ByteCount(size),
            logical_sector_size: ioctl::logical_sector_size(device).unwrap_or(512).max(512),
            physical_sector_size: ioctl::physical_sector_size(device).unwrap_or(512).max(512),
            model: first_text(&disk, &["device/model", "device/name", "dm/name"]),
            serial: serial(&disk),
            wwid: first_text(&disk, &["wwid", "device/wwid", "dm/uuid"]),
            disk_sequence: ioctl::disk_sequence(device).ok().or_else(|| number_in("diskseq")),
            read_only: ioctl::read_only(device).unwrap_or(false),
            rotational: number_in("queue/rotational") == Some(1),
            loop_backing: LoopBacking::of(device, &disk_name),
            discard_max: number_in("queue/discard_max_bytes").unwrap_or(0),
            write_zeroes_max: number_in("queue/write_zeroes_max_bytes").unwrap_or(0),
            name,
        })
    }

    /// The device's partitions, by kernel name; none for a partition.
    #[must_use]
    pub fn partitions(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(sysfs(&self.name)) else { return Vec::new() };
        let folders = entries.flatten().map(|entry| entry.path());
        let mut names: Vec<_> = folders
            .filter(|folder| folder.join("partition").exists())
            .filter_map(|folder| file_name(&folder))
            .collect();
        names.sort();
        names
    }

    /// Why the device can no longer be read at all, if it can't: it was pulled, or put offline.
    #[must_use]
    pub fn gone(&self, device: &File) -> Option<String> {
        let folder = sysfs(&self.name);
        if text(&folder.join("dev")).as_deref() != Some(&self.number) {
            return Some("the device is gone".to_owned());
        }
        match ioctl::size(device) {
            Ok(size) if size == self.size.0 => {}
            Ok(size) => return Some(format!("its size changed from {} to {size}", self.size)),
            Err(errno) => return Some(format!("the device is gone: {}", errno.desc())),
        }
        let disk = self.parent_disk.as_deref().unwrap_or(&self.name);
        match text(&sysfs(disk).join("device/state")).as_deref() {
            Some(state @ ("offline" | "transport-offline" | "dead" | "deleting")) => {
                Some(format!("the device is {state}"))
            }
            _ => None,
        }
    }
}

/// Where the partition that the kernel calls `name` starts on its disk, and its size, in bytes.
#[must_use]
pub fn start_and_size(name: &str) -> Option<(u64, u64)> {
    // sysfs counts 512-byte units, whatever the sector size.
    let bytes = |file: &str| text(&sysfs(name).join(file))?.parse::<u64>().ok()?.checked_mul(512);
    Some((bytes("start")?, bytes("size")?))
}

/// What the kernel counted of a disk since it appeared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Sectors of 512 bytes that were written, zeros without data included.
    pub written: u64,
    /// Sectors that were discarded.
    pub discarded: u64,
    /// Writes in flight now.
    pub in_flight: u64,
}

impl DiskCounters {
    /// Those of the disk that the kernel calls `name` (`/sys/block/NAME/stat`).
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    pub fn of(name: &str) -> Result<Self> {
        let folder = sysfs(name);
        let fields = |file: &str| -> Option<Vec<u64>> {
            let text = text(&folder.join(file))?;
            text.split_whitespace().map(|field| field.parse().ok()).collect()
        };
        let read = || {
            let (stat, in_flight) = (fields("stat")?, fields("inflight")?);
            // Documentation/block/stat.rst: write sectors are the seventh, discard sectors the
            // fourteenth; `inflight` has reads and writes.
            Some(Self {
                written: *stat.get(6)?,
                discarded: stat.get(13).copied().unwrap_or(0),
                in_flight: *in_flight.get(1)?,
            })
        };
        read().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{}: no such disk any more", folder.display()))
        })
    }
}

/// How a disk takes requests, as far as tracking its changes needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskQueue {
    /// It has no request queue (device mapper, md, zram).
    pub is_bio_based: bool,
    /// It is zoned, so that the place of some writes is known only once they are done.
    pub is_zoned: bool,
    /// The kernel counts its sectors.
    pub is_counted: bool,
}

impl DiskQueue {
    /// That of the disk that the kernel calls `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let folder = sysfs(name);
        let zoned = text(&folder.join("queue/zoned"));
        Self {
            is_bio_based: !folder.join("mq").is_dir(),
            is_zoned: zoned.is_some_and(|zoned| zoned != "none"),
            is_counted: text(&folder.join("queue/iostats")).is_none_or(|flag| flag != "0"),
        }
    }
}

/// The kernel's name of the disk with the device number `major:minor`, while there is one.
#[must_use]
pub fn name_of(number: &str) -> Option<String> {
    file_name(&fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?)
}

/// The random id of the machine's running boot.
///
/// # Errors
/// `Io` if the kernel does not tell.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).context(|| format!("read {PATH}"))?;
    Ok(id.trim().to_owned())
}

/// Whether `folder` is where device nodes are: in `/dev`, or elsewhere in the kernel's own
/// filesystem of devices. Shared memory, which is mounted within, is not.
#[must_use]
pub fn is_folder_of_devices(folder: &Path) -> bool {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let device_of = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
    let own = device_of(&folder);
    if folder.starts_with(DEVICES) {
        return !folder.starts_with(SHARED_MEMORY) || own == device_of(Path::new(DEVICES));
    }
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let is_of_devices = |mount: &Mount| {
        let number = own.map(|own| format!("{}:{}", major(own), minor(own)));
        mount.kind == "devtmpfs" && number.as_ref() == Some(&mount.number)
    };
    parse_mounts(&table).iter().any(is_of_devices)
}

/// The device node of the block device that the kernel calls `name`.
#[must_use]
pub fn node(name: &str) -> PathBuf {
    // The kernel writes slashes of names as exclamation marks in sysfs (cciss!c0d0).
    Path::new("/dev").join(name.replace('!', "/"))
}

/// The sysfs folder of the block device that the kernel calls `name`.
#[must_use]
pub fn sysfs(name: &str) -> PathBuf {
    Path::new("/sys/class/block").join(name)
}

/// The trimmed text of a small file; `None` if there is none or nothing in it.
pub(super) fn text(path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn first_text(disk: &Path, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| text(&disk.join(name)))
}

fn serial(disk: &Path) -> Option<String> {
    // virtio has it at the disk, NVMe and MMC at the device, SCSI in vital product data page
    // 0x80 (SPC-4, 7.8.15): a header of 4 bytes, then the text.
    first_text(disk, &["serial", "device/serial"]).or_else(|| {
        let page = fs::read(disk.join("device/vpd_pg80")).ok()?;
        let serial = String::from_utf8_lossy(page.get(4..)?).trim_matches(['\0', ' ']).to_owned();
        (!serial.is_empty()).then_some(serial)
    })
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}
