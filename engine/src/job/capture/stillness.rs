//! Whether a source was written to while it was read, where no tracker follows it: by the kernel's
//! own counts of written sectors, of the disk and of each partition, or by a file's times.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::base::ByteRange;
use crate::block::{Disk, SourceKind};
use crate::sys::device::{DeviceFacts, DiskCounters, DiskQueue, start_and_size};

/// What a source was like when its reading began.
pub enum Stillness {
    /// Counts of a block device.
    Counted { whole: Counter, partitions: Vec<Counter> },
    /// Times and size of a file, and how many bytes of it are the source.
    Stamped { path: PathBuf, stamp: Option<Stamp>, size: u64 },
    /// Nothing says so: an export, or a device whose sectors are not counted.
    Unknown,
}

/// A device's count, and which bytes of the source it is of.
pub struct Counter {
    name: String,
    place: ByteRange,
    before: Option<DiskCounters>,
}

/// What changes of a file whenever it is written to: modification, change (seconds and
/// nanoseconds), size.
type Stamp = (i64, i64, i64, i64, u64);

/// What is known of writes to the source since.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// There were none.
    Nowhere,
    /// There were, somewhere in these bytes.
    Within(Vec<ByteRange>),
    /// Nothing says so.
    Unknown,
}

impl Stillness {
    /// Looks at the source `disk`.
    #[must_use]
    pub fn begin(disk: &Disk) -> Self {
        let info = disk.info();
        match (disk.facts(), info.kind) {
            (Some(facts), _) => Self::of_device(facts),
            (None, SourceKind::File) => {
                let path = info.path.clone();
                let stamp = stamp(&path);
                Self::Stamped { path, stamp, size: info.size.0 }
            }
            (None, _) => Self::Unknown,
        }
    }

    fn of_device(facts: &DeviceFacts) -> Self {
        let disk = facts.parent_disk.as_deref().unwrap_or(&facts.name);
        if !DiskQueue::of(disk).is_counted {
            return Self::Unknown;
        }
        let counter = |name: String, place| {
            let before = DiskCounters::of(&name).ok();
            Counter { name, place, before }
        };
        let partition = |name: String| {
            let (start, size) = start_and_size(&name)?;
            Some(counter(name, ByteRange::new(start, size)))
        };
        // The disk's last: what is written meanwhile is counted by the disk at least.
        let partitions = facts.partitions().into_iter().filter_map(partition).collect();
        let whole = counter(facts.name.clone(), ByteRange { start: 0, end: facts.size.0 });
        Self::Counted { whole, partitions }
    }

    /// What was written to the source since.
    #[must_use]
    pub fn written(&self) -> Written {
        match self {
            Self::Unknown => Written::Unknown,
            Self::Stamped { path, stamp: before, size } => {
                if before.is_some() && stamp(path) == *before {
                    return Written::Nowhere;
                }
                Written::Within(vec![ByteRange { start: 0, end: *size }])
            }
            Self::Counted { whole, partitions } => {
                let Some(grown) = whole.growth() else { return whole.everywhere() };
                let parts = partitions.iter().map(|part| (part, part.growth()));
                let moved: Vec<_> = parts.filter(|(_, growth)| *growth != Some(0)).collect();
                let sum = moved.iter().try_fold(0, |sum, (_, growth)| Some(sum + (*growth)?));
                match sum {
                    _ if grown == 0 => Written::Nowhere,
                    Some(sum) if sum == grown => {
                        Written::Within(moved.iter().map(|(part, _)| part.place).collect())
                    }
                    _ => whole.everywhere(),
                }
            }
        }
    }
}

impl Counter {
    /// Sectors that were written or discarded since; nothing if that is not known, or if writes
    /// are in flight, which may have reached the medium.
    fn growth(&self) -> Option<u64> {
        let (before, now) = (self.before?, DiskCounters::of(&self.name).ok()?);
        let grown = now.written.checked_sub(before.written)?;
        let discarded = now.discarded.checked_sub(before.discarded)?;
        (now.in_flight == 0).then_some(grown + discarded)
    }

    fn everywhere(&self) -> Written {
        Written::Within(vec![self.place])
    }
}

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let (mtime, ctime) = (found.mtime(), found.ctime());
    Some((mtime, found.mtime_nsec(), ctime, found.ctime_nsec(), found.size()))
}
