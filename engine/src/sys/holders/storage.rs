//! What lies on what: disks, partitions, loop devices and what other drivers stack, and the bytes
//! that two of them have in common.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;

use crate::base::ByteRange;
use crate::sys::device::{self, sysfs, text};
use crate::sys::loops::LoopBacking;

/// Where the kernel lists block devices.
const BLOCKS: &str = "/sys/class/block";
/// Devices that are stacked on one another at most; more are taken for a loop.
const MOST_STACKED: usize = 16;

/// Something with bytes: a block device by its number, a partition's too, or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Its `st_rdev`.
    Device(u64),
    /// Its `st_dev` and `st_ino`.
    File { device: u64, inode: u64 },
}

/// Bytes of a whole disk or of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// A whole disk, or a file.
    at: Place,
    range: ByteRange,
    /// Whether another driver distributes what lies above over these bytes.
    is_mapped: bool,
    /// The first byte's place in what the extent is of; unknown where a driver distributes.
    start: Option<u64>,
}

/// What two have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// As bytes of the first; none where that cannot be told.
    pub range: Option<ByteRange>,
}

impl Extent {
    /// Whether, and where, `one` and `other` share bytes. Neighbours within one driver do not.
    pub fn overlap(one: &[Self], other: &[Self]) -> Option<Overlap> {
        let shared = |one: &Self, other: &Self| {
            let is_it = one.at == other.at && !(one.is_mapped && other.is_mapped);
            let common = one.range.intersection(&other.range).filter(|_| is_it)?;
            let start = one.start.map(|start| start + (common.start - one.range.start));
            Some(start.map(|start| ByteRange { start, end: start.saturating_add(common.len()) }))
        };
        let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
        let mut found = pairs.filter_map(|(one, other)| shared(one, other));
        let first = found.next()?;
        let range = found.fold(first, |range, next| range.or(next));
        Some(Overlap { range })
    }
}

/// A block device as sysfs shows it.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// The kernel's name.
    pub name: String,
    /// The number of the disk that it is, or is a partition of.
    pub disk: u64,
    /// Its first byte on that disk.
    pub start: u64,
    /// Its size.
    pub size: u64,
    /// Whether it refuses writes.
    pub is_read_only: bool,
    /// What its driver makes it of.
    pub slaves: Vec<u64>,
    /// What a loop device shows.
    pub backing: Option<Backing>,
}

/// What a loop device shows.
#[derive(Debug, Clone)]
pub struct Backing {
    /// The file or device.
    pub place: Place,
    /// Its path when it was attached.
    pub path: PathBuf,
    /// Its first byte that is shown.
    pub offset: u64,
}

/// The machine's block devices.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    blocks: HashMap<u64, Block>,
    /// What could not be looked at.
    pub unseen: Vec<String>,
}

impl Storage {
    /// As they are now.
    pub fn read() -> Self {
        let mut this = Self::default();
        let entries = fs::read_dir(BLOCKS);
        if entries.is_err() {
            this.unseen.push(format!("which block devices there are ({BLOCKS} is not there)"));
        }
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let folder = sysfs(&name);
            let Some(number) = number_in(&folder) else { continue };
            let count = |file: &str| -> u64 {
                let sectors = text(&folder.join(file)).and_then(|text| text.parse::<u64>().ok());
                // sysfs counts 512-byte units, whatever the sector size.
                sectors.unwrap_or(0).saturating_mul(512)
            };
            let is_partition = folder.join("partition").exists();
            let parent = fs::canonicalize(&folder).ok().and_then(|real| number_in(real.parent()?));
            let disk = if is_partition { parent.unwrap_or(number) } else { number };
            let slaves = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
            let slaves = slaves.filter_map(|entry| number_in(&sysfs(entry.file_name().to_str()?)));
            let (start, size, slaves) = (count("start"), count("size"), slaves.collect());
            let backing = if is_partition { None } else { this.backing(&name) };
            let is_read_only = text(&folder.join("ro")).is_some_and(|flag| flag != "0");
            let block = Block { name, disk, start, size, is_read_only, slaves, backing };
            this.blocks.insert(number, block);
        }
        this
    }

    fn backing(&mut self, name: &str) -> Option<Backing> {
        // Only attached loop devices have it.
        if !sysfs(name).join("loop/backing_file").exists() {
            return None;
        }
        let Some(found) = LoopBacking::of_name(name) else {
            // It may have been detached meanwhile.
            if sysfs(name).join("loop/backing_file").exists() {
                self.unseen.push(format!("what /dev/{name} shows"));
            }
            return None;
        };
        let place = match found.raw_device {
            0 => Place::File { device: found.device, inode: found.inode },
            number => Place::Device(number),
        };
        Some(Backing { place, path: found.path, offset: found.offset })
    }

    /// Devices that are made up: for tests of what this machine's kernel lacks.
    #[cfg(test)]
    pub fn of(blocks: impl IntoIterator<Item = (u64, Block)>) -> Self {
        Self { blocks: blocks.into_iter().collect(), unseen: Vec::new() }
    }

    /// All devices.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, &Block)> {
        self.blocks.iter().map(|(number, block)| (*number, block))
    }

    /// The number of the device that the kernel calls `name`.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.blocks().find(|(_, block)| block.name == name).map(|(number, _)| number)
    }

    /// The device node of the device with the number.
    pub fn node(&self, number: u64) -> PathBuf {
        let name = self.blocks.get(&number).map(|block| block.name.as_str());
        name.map_or_else(|| PathBuf::from(format!("block device {number}")), device::node)
    }

    /// The numbers of the partitions of the disk with the number, in order.
    pub fn partitions(&self, disk: u64) -> Vec<u64> {
        let is_one = |(number, block): &(u64, &Block)| block.disk == disk && *number != disk;
        let mut found: Vec<_> = self.blocks().filter(is_one).collect();
        found.sort_by_key(|(_, block)| block.start);
        found.into_iter().map(|(number, _)| number).collect()
    }

    /// The last parts of the paths of files behind loop devices.
    pub fn backing_names(&self) -> impl Iterator<Item = Vec<u8>> {
        let backings = self.blocks().filter_map(|(_, block)| block.backing.as_ref());
        backings.filter_map(|backing| super::name_of(&backing.path))
    }

    /// The bytes that `place` consists of: its own, and those of all that it lies on.
    pub fn extents(&self, place: Place) -> Vec<Extent> {
        self.extents_within(place, MOST_STACKED)
    }

    fn extents_within(&self, place: Place, depth: usize) -> Vec<Extent> {
        let whole = ByteRange { start: 0, end: u64::MAX };
        let all = |at| Extent { at, range: whole, is_mapped: false, start: Some(0) };
        let Place::Device(number) = place else { return vec![all(place)] };
        let Some(block) = self.blocks.get(&number) else { return vec![all(place)] };
        let (at, start) = (Place::Device(block.disk), block.start);
        let range = ByteRange { start, end: start.saturating_add(block.size) };
        let mut found = vec![Extent { at, range, is_mapped: false, start: Some(0) }];
        let Some(disk) = self.blocks.get(&block.disk).filter(|_| depth > 0) else { return found };
        if let Some(backing) = &disk.backing {
            let below = self.extents_within(backing.place, depth - 1);
            let start = backing.offset.saturating_add(block.start);
            found.extend(below.into_iter().filter_map(|extent| extent.part(start, block.size)));
        }
        for slave in &disk.slaves {
            let below = self.extents_within(Place::Device(*slave), depth - 1);
            found.extend(below.into_iter().map(Extent::mapped));
        }
        found
    }

    /// Whether what is written to `user` changes bytes of `asked` without passing its device; so
    /// it is with a file, which has none.
    pub fn writes_past(&self, asked: Place, user: Place) -> bool {
        let passed = self.chain(user);
        let is_read_only = |disk: &u64| self.blocks.get(disk).is_some_and(|it| it.is_read_only);
        let asked = self.chain(asked);
        !passed.iter().any(is_read_only) && asked.first().is_none_or(|disk| !passed.contains(disk))
    }

    /// The disks that a write to `place` passes, its own first; none for a file.
    pub fn chain(&self, place: Place) -> Vec<u64> {
        let mut chain = Vec::new();
        let mut left = vec![place];
        while let Some(place) = left.pop() {
            let Place::Device(number) = place else { continue };
            let block = self.blocks.get(&number);
            let disk = block.map_or(number, |block| block.disk);
            if chain.contains(&disk) {
                continue;
            }
            chain.push(disk);
            let Some(disk) = self.blocks.get(&disk) else { continue };
            left.extend(disk.backing.as_ref().map(|backing| backing.place));
            left.extend(disk.slaves.iter().map(|slave| Place::Device(*slave)));
        }
        chain
    }

    /// What the loop devices show that a write to `place` passes.
    pub fn backings(&self, place: Place) -> impl Iterator<Item = &Backing> {
        let passed = self.chain(place).into_iter();
        passed.filter_map(|disk| self.blocks.get(&disk)?.backing.as_ref())
    }

    /// `place`, if it is a device, and the devices that loop devices make it show, down to the
    /// first that another driver is asked for.
    pub fn devices_below(&self, place: Place) -> Vec<u64> {
        let mut found = Vec::new();
        let mut next = Some(place);
        while let Some(Place::Device(number)) = next.take() {
            if found.contains(&number) {
                break;
            }
            found.push(number);
            let disk = self.blocks.get(&number).and_then(|block| self.blocks.get(&block.disk));
            next = disk.and_then(|disk| disk.backing.as_ref()).map(|backing| backing.place);
        }
        found
    }
}

impl Extent {
    /// The same, as bytes that another driver distributes what lies above over.
    pub fn mapped(self) -> Self {
        Self { is_mapped: true, start: None, ..self }
    }

    /// The file that it is in, if it is in one.
    pub fn file(&self) -> Option<(u64, u64)> {
        match self.at {
            Place::File { device, inode } => Some((device, inode)),
            Place::Device(_) => None,
        }
    }

    /// Whether it is in a file.
    pub fn is_file(&self) -> bool {
        matches!(self.at, Place::File { .. })
    }

    /// Whether it is in a file with that number.
    pub fn is_inode(&self, number: u64) -> bool {
        matches!(self.at, Place::File { inode, .. } if inode == number)
    }

    /// Whether it is at that file or disk.
    pub fn is_at(&self, place: Place) -> bool {
        self.at == place
    }

    /// The part of what the extent is of that starts at its byte `start` and has `size` bytes, as
    /// an extent of that part; all of it where a driver distributes.
    fn part(self, start: u64, size: u64) -> Option<Self> {
        let Some(own) = self.start else { return Some(self) };
        // In the bytes of what the extent is of, then in those of what it lies at.
        let wanted = ByteRange { start, end: start.saturating_add(size) };
        let whole = ByteRange { start: own, end: own.saturating_add(self.range.len()) };
        let common = wanted.intersection(&whole)?;
        let from = self.range.start.saturating_add(common.start - own);
        let range = ByteRange { start: from, end: from.saturating_add(common.len()) };
        Some(Self { range, start: Some(common.start - start), ..self })
    }
}

/// The number in the `dev` file of a device's folder in sysfs.
fn number_in(folder: &Path) -> Option<u64> {
    parse_number(&text(&folder.join("dev"))?)
}

/// A device number written as `major:minor`.
pub fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The place of the regular file or block device `path`.
pub fn place_of(path: &Path) -> Option<Place> {
    use std::os::unix::fs::FileTypeExt;
    let found = fs::metadata(path).ok()?;
    if found.file_type().is_block_device() {
        return Some(Place::Device(found.rdev()));
    }
    found.is_file().then(|| Place::File { device: found.dev(), inode: found.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(name: &str, number: u64, size: u64) -> (u64, Block) {
        (number, Block { name: name.into(), disk: number, size, ..Block::default() })
    }

    fn partition(name: &str, number: u64, disk: u64, start: u64, size: u64) -> (u64, Block) {
        (number, Block { name: name.into(), disk, start, size, ..Block::default() })
    }

    fn stacked(name: &str, number: u64, size: u64, slaves: &[u64]) -> (u64, Block) {
        let (number, block) = disk(name, number, size);
        (number, Block { slaves: slaves.to_vec(), ..block })
    }

    fn looped(name: &str, number: u64, size: u64, place: Place, offset: u64) -> (u64, Block) {
        let (number, block) = disk(name, number, size);
        let backing = Backing { place, path: PathBuf::new(), offset };
        (number, Block { backing: Some(backing), ..block })
    }

    /// A disk with two partitions; two logical volumes on the second, one of them encrypted; loop
    /// devices over the disk's range of the first, over a file, and over a part of that loop.
    fn machine() -> Storage {
        let file = Place::File { device: 1, inode: 2 };
        Storage::of([
            disk("sda", 10, 100 * MIB),
            partition("sda1", 11, 10, MIB, 9 * MIB),
            partition("sda2", 12, 10, 10 * MIB, 90 * MIB),
            stacked("dm-0", 20, 40 * MIB, &[12]),
            stacked("dm-1", 21, 40 * MIB, &[12]),
            stacked("dm-2", 22, 39 * MIB, &[21]),
            looped("loop0", 30, 4 * MIB, Place::Device(10), 2 * MIB),
            looped("loop1", 31, 100 * MIB, file, 0),
            looped("loop2", 32, 10 * MIB, Place::Device(31), 50 * MIB),
            looped("loop3", 33, 10 * MIB, file, 55 * MIB),
            looped("loop4", 34, 10 * MIB, file, 60 * MIB),
        ])
    }

    fn overlap(storage: &Storage, one: u64, other: u64) -> Option<Option<ByteRange>> {
        let [one, other] = [one, other].map(|number| storage.extents(Place::Device(number)));
        Extent::overlap(&one, &other).map(|overlap| overlap.range)
    }

    #[test]
    fn devices_hold_one_another_where_they_show_the_same_bytes() {
        let storage = machine();
        let range =
            |start: u64, end: u64| Some(Some(ByteRange { start: start * MIB, end: end * MIB }));
        for (one, other, expected) in [
            // Partitions: with their disk, not with one another.
            (10, 11, range(1, 10)),
            (11, 10, range(0, 9)),
            (11, 12, None),
            // A loop over a range of the disk is in the first partition.
            (11, 30, range(1, 5)),
            (30, 11, range(0, 4)),
            (12, 30, None),
            // Logical volumes: not with one another, though with what they lie on.
            (20, 21, None),
            (20, 22, None),
            (21, 22, range(0, 40)),
            (12, 22, range(0, 90)),
            (10, 20, range(10, 100)),
            (11, 20, None),
            (22, 12, Some(None)),
            // Loops over one file, also through another loop.
            (31, 32, range(50, 60)),
            (32, 33, range(5, 10)),
            (33, 32, range(0, 5)),
            (32, 34, None),
            (33, 34, range(5, 10)),
        ] {
            assert_eq!(overlap(&storage, one, other), expected, "{one} and {other}");
        }
    }

    #[test]
    fn a_write_passes_all_that_its_device_lies_on() {
        let storage = machine();
        for (number, expected) in [
            (11, vec![10]),
            (22, vec![22, 21, 10]),
            (30, vec![30, 10]),
            (32, vec![32, 31]),
            (99, vec![99]),
        ] {
            assert_eq!(storage.chain(Place::Device(number)), expected, "{number}");
        }
        assert_eq!(storage.chain(Place::File { device: 1, inode: 2 }), Vec::<u64>::new());
        assert_eq!(storage.devices_below(Place::Device(32)), [32, 31]);
        assert_eq!(storage.devices_below(Place::Device(22)), [22]);
    }

    #[test]
    fn devices_that_lie_on_themselves_end() {
        let storage = Storage::of([
            looped("loop0", 1, MIB, Place::Device(2), 0),
            looped("loop1", 2, MIB, Place::Device(1), 0),
        ]);
        assert!(overlap(&storage, 1, 2).is_some());
        assert_eq!(storage.chain(Place::Device(1)), [1, 2]);
        assert_eq!(storage.devices_below(Place::Device(1)), [1, 2]);
    }
}
