//! On which devices a file's bytes lie, from its filesystem down: through partitions, logical
//! volumes, arrays and encryption, and through the files behind loop devices.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::device::{self, DeviceFacts, name_of, sysfs, text};
use super::loops::LoopBacking;
use super::mounts::{Mount, parse_mounts};

/// Filesystems and devices that are gone through at most.
const MOST: usize = 4096;

/// What bytes lie on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Layer {
    /// A block device, by the kernel's name.
    Device(String),
    /// A file behind a loop device: its filesystem's device number and its inode.
    File(u64, u64),
}

/// Whether what is written to the file or folder `path` changes the disk `disk`: says where the
/// filesystem is mounted that holds it.
#[must_use]
pub fn lies_on(path: &Path, disk: &DeviceFacts) -> Option<PathBuf> {
    let mount = mount_of(&File::open(path).ok()?)?;
    let mut wanted: HashSet<Layer> =
        disk.partitions().into_iter().chain([disk.name.clone()]).map(Layer::Device).collect();
    // Other loop devices over the same file show the same bytes.
    let backing = disk.loop_backing.as_ref();
    wanted.extend(backing.map(|file| Layer::File(file.device, file.inode)));
    below(&mount).iter().any(|layer| wanted.contains(layer)).then_some(mount.point)
}

/// The mount by which an open file was reached (proc_pid_fdinfo(5)). A device number would not do:
/// btrfs has several.
fn mount_of(file: &File) -> Option<Mount> {
    let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let id = said.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = parse_mounts(&fs::read("/proc/self/mountinfo").ok()?);
    mounts.into_iter().find(|mount| mount.id == id)
}

/// All that the filesystem lies on, from its devices down to disks.
fn below(mount: &Mount) -> HashSet<Layer> {
    let mut found = HashSet::new();
    let mut waiting: Vec<Layer> = devices_of(mount).into_iter().map(Layer::Device).collect();
    while let Some(layer) = waiting.pop() {
        if found.len() >= MOST || !found.insert(layer.clone()) {
            continue;
        }
        let Layer::Device(name) = layer else { continue };
        waiting.extend(parts_of(&name).into_iter().map(Layer::Device));
        let Some(path) = text(&sysfs(&name).join("loop/backing_file")) else { continue };
        let backing = File::open(device::node(&name)).ok();
        let backing = backing.and_then(|device| LoopBacking::of(&device, &name));
        waiting.extend(backing.map(|file| Layer::File(file.device, file.inode)));
        let mount = File::open(path).ok().and_then(|file| mount_of(&file));
        waiting.extend(mount.iter().flat_map(devices_of).map(Layer::Device));
    }
    found
}

/// The devices right below the device `name`: the disk of a partition, what dm and md are made of.
fn parts_of(name: &str) -> Vec<String> {
    let folder = sysfs(name);
    let mut parts: Vec<String> = names_in(&folder.join("slaves"));
    if folder.join("partition").exists()
        && let Ok(real) = fs::canonicalize(&folder)
        && let Some(disk) = real.parent().and_then(Path::file_name)
    {
        parts.push(disk.to_string_lossy().into_owned());
    }
    parts
}

/// The devices that a filesystem is made of.
fn devices_of(mount: &Mount) -> Vec<String> {
    if let Some(name) = name_of(&mount.number) {
        return vec![name];
    }
    // Numbers of their own: the source says it, with colons between several.
    let sources = mount.source.to_string_lossy().into_owned();
    let named: Vec<String> =
        sources.split(':').filter_map(|source| device_at(Path::new(source))).collect();
    match mount.kind.as_str() {
        "btrfs" => all_of_btrfs(named),
        "overlay" => upper_layer(mount).iter().flat_map(devices_of).collect(),
        _ => named,
    }
}

/// The name of the block device at `path`.
fn device_at(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
    name_of(&format!("{}:{}", major(found.rdev()), minor(found.rdev())))
}

/// Of a btrfs with these devices, all devices, since only one is named where it is mounted.
fn all_of_btrfs(named: Vec<String>) -> Vec<String> {
    let filesystems = names_in(Path::new("/sys/fs/btrfs"));
    let of = |id: &String| names_in(&Path::new("/sys/fs/btrfs").join(id).join("devices"));
    let mut all = filesystems.iter().map(of);
    let is_it = |devices: &Vec<String>| named.iter().any(|name| devices.contains(name));
    all.find(is_it).unwrap_or(named)
}

/// Where an overlay keeps what is written to it.
fn upper_layer(mount: &Mount) -> Option<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().find(|line| line.split(' ').next() == Some(&mount.id))?;
    let options = line.rsplit(' ').next()?;
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    let upper = mount_of(&File::open(upper).ok()?)?;
    // One within another would never end.
    (upper.kind != "overlay").then_some(upper)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
