//! Verify: everything is read back against its digests, from the manifests down.
//!
//! 1. The images' trees are walked: every node is read and checked, every block's place is
//!    compared with its pack's table, and the frames that the images need are marked.
//! 2. The packs are read from end to end: headers, tables and stored bytes against their
//!    checksums, and contents against their digests unless the run is quick. Deltas wait until
//!    they can be checked in the order of what they are against.
//! 3. Where a marked frame is not sound, the trees are walked again, to say which bytes of which
//!    disk are lost, and the filesystems there, to say which files.

mod deltas;
mod files;
mod mark;
mod salvage;
mod scrub;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use self::files::damaged_files;
use self::mark::{Marks, mark};
use crate::base::limits::{
    MAX_LOST_RANGES, MAX_PARTITIONS, MAX_UNUSED_PIECES, WAITING_DELTA_BYTES, WAITING_DELTAS,
    WAITING_PLACES,
};
use crate::base::ranges::touches;
use crate::base::{BlockIndex, ErrorKind, ReadAt};
use crate::base::{ByteRange, Error, Event, Observer, Result};
use crate::block::Cached;
use crate::store::memo::Sums;
use crate::store::repository::Image;
use crate::store::tree::{Below, Subtree, TreeVisitor};
use crate::store::{ImageReader, PackId, Repository, StoredEntry, TreeRun};
use crate::volume::{DiskLayout, Keys, Stack};

pub use files::DamagedFile;
pub use salvage::{Salvage, SalvageReport, SalvagedImage};

/// How to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only these images, as [`Repository::resolve`] understands them; all, and every pack, if
    /// there are none.
    pub images: Vec<String>,
    /// Check stored bytes' checksums only: nothing is decompressed.
    pub quick: bool,
    /// Threads; by default one for each processor.
    pub threads: Option<usize>,
}

/// Bytes of a disk that an image has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRange {
    /// The image's id.
    pub image: String,
    /// The image's name.
    pub name: String,
    /// The bytes.
    pub range: ByteRange,
    /// The volumes that they belong to.
    pub volumes: Vec<String>,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Images whose trees were walked.
    pub images: usize,
    /// Packs that were read.
    pub packs: usize,
    /// Bytes of packs that were read.
    pub read: u64,
    /// Damages, of objects and of images' trees. Zero means that everything is sound.
    pub damage: u64,
    /// What the damage costs.
    pub lost: Vec<DamagedRange>,
    /// The files that this costs, as far as their filesystems can be read.
    pub files: Vec<DamagedFile>,
}

/// Frames that images need and that are not sound, by pack and first byte.
pub type BadFrames = HashMap<PackId, HashSet<u32>>;

/// How much a verification puts off, so that what lies together is looked at once.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Places that wait to be compared with packs' tables.
    places: usize,
    /// Deltas that wait.
    deltas: usize,
    /// Bytes of them that are held, and not read again.
    delta_bytes: usize,
}

impl Room {
    const MOST: Self =
        Self { places: WAITING_PLACES, deltas: WAITING_DELTAS, delta_bytes: WAITING_DELTA_BYTES };
}

/// Verifies a repository, or some of its images.
///
/// # Errors
/// `Conflict` when it is locked; `NotFound` for an unknown image; `Io`; `Cancelled`. Damage is
/// no error: it is reported as events, and in the report.
pub fn verify(
    repository: &Repository,
    options: &VerifyOptions,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    verify_within(Room::MOST, repository, options, observer)
}

/// The packs that images need. Damage is left to others to tell.
///
/// # Errors
/// `Io`; `Cancelled`.
pub(super) fn needed_packs(
    repository: &Repository,
    images: &[Image],
    observer: &dyn Observer,
) -> Result<Vec<PackId>> {
    let marks = mark(repository, images, Room::MOST, &Unheard(observer))?;
    Ok(marks.packs().collect())
}

/// An observer that hears nothing, and may stop the run.
struct Unheard<'a>(&'a dyn Observer);

impl Observer for Unheard<'_> {
    fn event(&self, _event: &Event<'_>) {}

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

fn verify_within(
    room: Room,
    repository: &Repository,
    options: &VerifyOptions,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let lock = repository.lock_to_read("verify")?;
    lock.warn(observer);
    let mut report = VerifyReport::default();
    let images = images(repository, options, &mut report, observer)?;
    let marks = mark(repository, &images, room, observer)?;
    report.damage += marks.damage;
    report.images += images.len();
    let scrub = scrub::Scrub { repository, options, marks: &marks, room, observer };
    let bad = scrub.run(&mut report)?;
    if !bad.is_empty() || report.damage > 0 {
        for image in &images {
            let lost = attribute(repository, image, (&bad, &marks), observer)?;
            if !lost.is_empty() {
                let ranges: Vec<ByteRange> = lost.iter().map(|lost| lost.range).collect();
                let (reader, id) = (repository.reader(image), image.id.to_string());
                report.files.extend(damaged_files(reader, &id, &ranges, observer)?);
            }
            report.lost.extend(lost);
        }
    }
    Ok(report)
}

fn images(
    repository: &Repository,
    options: &VerifyOptions,
    report: &mut VerifyReport,
    observer: &dyn Observer,
) -> Result<Vec<Image>> {
    let found = repository.images()?;
    if !options.images.is_empty() {
        let resolve = |reference: &String| found.resolve(reference, observer).cloned();
        return options.images.iter().map(resolve).collect();
    }
    for (_, error) in &found.damaged {
        report.damage += 1;
        observer.event(&Event::Damage { report: &error.to_string() });
    }
    Ok(found.images)
}

/// Says which bytes of an image's disk are lost with `bad`, with places that are wrong, and with
/// damaged nodes.
fn attribute(
    repository: &Repository,
    image: &Image,
    (bad, marks): (&BadFrames, &Marks),
    observer: &dyn Observer,
) -> Result<Vec<DamagedRange>> {
    let reader = repository.reader(image);
    let mut lost = Lost { image: &reader, bad, marks, ranges: Vec::new(), sums: Sums::new() };
    reader.walk(None, &mut lost)?;
    // A layout that a later version wrote differently only costs the volumes' names.
    let layout: Option<DiskLayout> = serde_json::from_value(image.manifest.layout.clone()).ok();
    let known_volumes = layout.map(|layout| volumes_of(repository.reader(image), layout));
    let known_volumes = known_volumes.transpose()?.unwrap_or_default();
    let mut damaged = Vec::new();
    for range in lost.ranges {
        let is_touched = |places: &Vec<ByteRange>| touches(places, &range);
        let touched = known_volumes.iter().filter(|(_, places)| is_touched(places));
        let volumes: Vec<String> = touched.map(|(name, _)| name.clone()).collect();
        let place = if volumes.is_empty() { "no volume".to_owned() } else { volumes.join(", ") };
        let (name, id) = (&image.manifest.name, image.id);
        let report = format!("image {name} {id}: {range} of the disk are lost (in {place})");
        observer.event(&Event::Damage { report: &report });
        damaged.push(DamagedRange { image: id.to_string(), name: name.clone(), range, volumes });
    }
    Ok(damaged)
}

/// The names of an image's volumes, and where each lies.
///
/// # Errors
/// Those of [`Stack::over`].
fn volumes_of(image: ImageReader, mut layout: DiskLayout) -> Result<Vec<(String, Vec<ByteRange>)>> {
    // A manifest may list more than any table that was probed.
    layout.volumes.truncate(MAX_PARTITIONS);
    let disk: Arc<dyn ReadAt> = Arc::new(Cached::new(Arc::new(image)));
    let stack = Stack::over(&disk, layout, &Keys::default())?;
    let named = stack.volumes().map(|placed| {
        let places = placed.places(MAX_UNUSED_PIECES).unwrap_or_default();
        (placed.volume().name.clone(), places)
    });
    Ok(named.collect())
}

/// Collects what an image has lost.
struct Lost<'a> {
    image: &'a ImageReader,
    bad: &'a BadFrames,
    marks: &'a Marks,
    ranges: Vec<ByteRange>,
    /// Blocks that are lost.
    sums: Sums<u64>,
}

impl Lost<'_> {
    fn is_bad(&self, stored: &StoredEntry) -> bool {
        let place = stored.place;
        self.bad.get(&place.pack).is_some_and(|offsets| offsets.contains(&place.offset))
            || self.marks.is_wrong(stored)
    }

    fn add(&mut self, first: BlockIndex, count: u64) {
        let range = self.image.manifest().bytes_of(first, count);
        let is_full = self.is_full();
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start || is_full => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    fn is_full(&self) -> bool {
        self.ranges.len() >= MAX_LOST_RANGES
    }
}

impl TreeVisitor for Lost<'_> {
    fn enter(&mut self, node: &Subtree<'_>) -> Result<Below> {
        match self.sums.known(node) {
            Some((0, whole)) => return Ok(Below::Known(whole)),
            Some((lost, whole)) if lost == node.count || self.is_full() => {
                self.add(node.first, node.count);
                self.sums.add(lost);
                return Ok(Below::Known(whole));
            }
            _ => {}
        }
        self.sums.enter();
        Ok(Below::Shown)
    }

    fn leave(&mut self, node: &Subtree<'_>, whole: bool) {
        self.sums.leave(node, whole);
    }

    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        if run.entry.stored().is_some_and(|stored| self.is_bad(stored)) {
            self.add(run.first, run.count);
            self.sums.add(run.count);
        }
        Ok(())
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Io {
            return Err(error);
        }
        self.add(first, count);
        self.sums.add(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use imgx_fixtures::pattern::incompressible;

    use super::*;
    use crate::base::{BlockSize, Silent};
    use crate::job::{Capture, CaptureOptions};

    #[test]
    fn how_much_may_wait_changes_nothing_that_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = folder.path().join("repository");
        let block_size = BlockSize::new(16 << 10).expect("valid");
        let repository = Repository::create(&root, block_size).expect("created");
        let (path, mut disk) = (folder.path().join("disk"), incompressible(3, 4 << 20));
        let packs = || fs::read_dir(root.join("packs")).expect("listed").flatten();
        let mut first = None;
        for round in 0..6 {
            fs::write(&path, &disk).expect("written");
            let plan = Capture::plan(&repository, &path, CaptureOptions::default(), &Silent);
            let report = plan.expect("planned").run(&Silent).expect("captured");
            assert!(round == 0 || report.manifest.cost.stored < 100 << 10, "no deltas");
            first = first.or_else(|| Some(packs().next()?.path()));
            for block in 0..40 {
                let place = ((block * 5 + round) % 256) << 14;
                disk[place..place + 512].copy_from_slice(&incompressible(place as u64, 512));
            }
        }
        let base = first.expect("the first image's pack");
        let most = WAITING_DELTAS;
        let rooms = [
            Room::MOST,
            Room { places: 1, deltas: 1, delta_bytes: 0 },
            Room { places: 100, deltas: 30, delta_bytes: 5000 },
            Room { places: 3, deltas: most, delta_bytes: 0 },
        ];
        let found = |quick| {
            let options = VerifyOptions { quick, ..VerifyOptions::default() };
            rooms.map(|room| verify_within(room, &repository, &options, &Silent).expect("read"))
        };
        let sound = fs::read(&base).expect("read");
        for damaged in [None, Some(1000), Some(sound.len() / 2), Some(sound.len() - 60)] {
            let mut bytes = sound.clone();
            damaged.into_iter().for_each(|place: usize| bytes[place] ^= 1);
            fs::write(&base, &bytes).expect("written");
            for quick in [false, true] {
                let [full, rest @ ..] = found(quick);
                assert_eq!(full.damage > 0, damaged.is_some());
                let sizes = packs().map(|pack| pack.metadata().expect("there").len());
                assert_eq!(full.read, sizes.sum::<u64>(), "{damaged:?}");
                rest.iter().for_each(|other| assert_eq!(*other, full, "{damaged:?}"));
                let images = full.lost.iter().map(|lost| &lost.image).collect::<HashSet<_>>();
                let frames = damaged.is_some_and(|place| place < sound.len() - 100);
                assert_eq!(images.len(), if frames { 6 } else { 0 }, "{damaged:?}");
            }
        }
    }
}
