//! Change tracking by programs in the kernel: which parts of a disk were written since its last
//! image, with no module, agent or running process, and with a proof that nothing was missed.
//!
//! A write is marked when it is queued and again before its completion is reported. An epoch's
//! bitmap is replaced, never cleared, and read only after that, so that a write that was in
//! flight meanwhile is marked in a later epoch too. The programs' count of completed sectors must
//! equal the kernel's own ([`verdict`]), or the map is not believed.
//!
//! An epoch ends with a checkpoint and is given up once its image is stored
//! ([`Tracker::commit`]); until then the next checkpoint tells its changes again. The map that
//! starts there is good for that image only, whose id it keeps: a machine that was set back to an
//! earlier state, its memory and the maps with it, is noticed so.

mod bitmap;
mod epochs;
mod evidence;
mod installation;
mod layout;
mod page;
mod programs;
mod tracker;
mod verdict;

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use self::bitmap::Bitmap;
use self::epochs::{Epochs, pins_of};
use self::installation::{Installation, remove_all};
use self::layout::{BitmapShape, DiskEntry};
use self::page::{Own, Record, VERSION};
use self::programs::Hook;
use self::verdict::Judge;
use crate::base::limits::{MAX_TRACKED_DISKS, MAX_TRACKER_WAIT};
use crate::base::{ByteCount, Error, ErrorContext, ErrorKind, Granule, Result, fields};
use crate::sys::Holders;
use crate::sys::bpf::{BpfFolder, FoundFolder};
use crate::sys::device::{DeviceFacts, DiskQueue, name_of};

pub use evidence::Evidence;
pub use page::Sectors;
pub use tracker::{Checkpoint, Tracker};
pub use verdict::Verdict;

/// Where the usual installation is pinned in bpffs.
const FOLDER: &str = "imgx";

/// An installation of programs, which may be there or not.
#[derive(Debug, Clone)]
pub struct Tracking {
    folder: String,
}

impl Default for Tracking {
    fn default() -> Self {
        Self::named(FOLDER)
    }
}

/// How a tracked disk is doing.
#[derive(Debug, Clone)]
pub struct Status {
    /// The kernel's name of the disk; none if it is gone.
    pub name: Option<String>,
    /// Its device number, `major:minor`.
    pub device: String,
    /// Its size.
    pub size: ByteCount,
    /// The granule of its map.
    pub granule: Granule,
    /// Bytes of the kernel's memory that its maps take now.
    pub memory: u64,
    /// The running epoch.
    pub epoch: u64,
    /// Epochs whose image was not stored yet, the running one among them.
    pub open_epochs: usize,
    /// What a map would be worth now.
    pub verdict: Verdict,
    /// Sectors that the programs saw completed since tracking began.
    pub completed: Sectors,
    /// Sectors that the kernel counted since then.
    pub kernel: Sectors,
}

impl Tracking {
    /// The installation that is pinned in `folder` of bpffs.
    #[must_use]
    pub fn named(folder: impl Into<String>) -> Self {
        Self { folder: folder.into() }
    }

    /// Starts tracking the disk `device`, in granules of its size's usual length unless one is
    /// given. Says whether it was not tracked already; what its tracking was started with stays.
    ///
    /// # Errors
    /// `Invalid` for what is no whole disk; `Unsupported` for a disk that cannot be tracked, or
    /// saying what the kernel lacks; `Limit` for too many disks.
    pub fn start(&self, device: &Path, granule: Option<Granule>) -> Result<bool> {
        let disk = WholeDisk::open(device)?;
        let queue = DiskQueue::of(&disk.facts.name);
        disk.check(&queue)?;
        disk.check_holders(device)?;
        if let FoundFolder::Open(foreign) = BpfFolder::existing(&self.folder)? {
            // Nothing in there is believed, and this name is the installation's.
            foreign.remove()?;
        }
        let folder = BpfFolder::create(&self.folder)?;
        let _lock = folder.lock(MAX_TRACKER_WAIT)?;
        let installation = match Installation::existing(&folder) {
            Ok(Some(found)) => found,
            Ok(None) => Installation::create(&folder)?,
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                // What is left of it tracks nothing any more.
                remove_all(&folder);
                Installation::create(&folder)?
            }
            Err(error) => return Err(error),
        };
        if let Some(slot) = disk.slot(&installation) {
            if disk.is_of(&installation, slot) {
                return Ok(false);
            }
            clear(&installation, slot)?;
        }
        let mut free =
            (0..MAX_TRACKED_DISKS).filter(|slot| !installation.page(*slot).is(Own::Version));
        let slot = free.next().ok_or_else(|| {
            let context = format!("{MAX_TRACKED_DISKS} disks are tracked already");
            Error::new(ErrorKind::Limit, context)
        })?;
        let granule = granule.unwrap_or_else(|| Granule::for_disk(disk.size));
        let started = disk.begin(&installation, slot, granule, queue);
        started.inspect_err(|_failed| {
            let _reported = clear(&installation, slot);
        })?;
        Ok(true)
    }

    /// Stops tracking the disk `device`; the last one takes the programs with it. Says whether
    /// it was tracked. What is left of a broken installation goes whole.
    ///
    /// # Errors
    /// `NotFound` for no such device; the kernel's.
    pub fn stop(&self, device: &Path) -> Result<bool> {
        let disk = WholeDisk::open(device)?;
        let folder = match BpfFolder::existing(&self.folder)? {
            FoundFolder::Missing => return Ok(false),
            FoundFolder::Closed(folder) => folder,
            FoundFolder::Open(foreign) => {
                foreign.remove()?;
                return Ok(true);
            }
        };
        let _lock = folder.lock(MAX_TRACKER_WAIT)?;
        let installation = match Installation::existing(&folder) {
            Ok(Some(installation)) => installation,
            Ok(None) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                remove_all(&folder);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let Some(slot) = disk.slot(&installation) else { return Ok(false) };
        clear(&installation, slot)?;
        if installation.slots().next().is_none() {
            remove_all(&folder);
        }
        Ok(true)
    }

    /// How all tracked disks are doing.
    ///
    /// # Errors
    /// `Unsupported` when tracking was broken off; the kernel's.
    pub fn status(&self) -> Result<Vec<Status>> {
        let folder = BpfFolder::existing(&self.folder)?.closed()?;
        let Some(folder) = folder else { return Ok(Vec::new()) };
        let _lock = folder.lock(MAX_TRACKER_WAIT)?;
        let Some(installation) = Installation::existing(&folder)? else { return Ok(Vec::new()) };
        installation.slots().map(|slot| status_of(&installation, slot)).collect()
    }

    /// The tracker of the disk `device`; none if that is no whole disk, or is not tracked.
    ///
    /// # Errors
    /// `Unsupported` when tracking was broken off, or is another disk's by now, or others write
    /// past the disk; the kernel's.
    pub fn open(&self, device: &Path) -> Result<Option<Tracker>> {
        let Ok(disk) = WholeDisk::open(device) else { return Ok(None) };
        let folder = BpfFolder::existing(&self.folder)?.closed()?;
        let Some(folder) = folder else { return Ok(None) };
        let _lock = folder.lock(MAX_TRACKER_WAIT)?;
        let Some(installation) = Installation::existing(&folder)? else { return Ok(None) };
        let Some(slot) = disk.slot(&installation) else { return Ok(None) };
        if !disk.is_of(&installation, slot) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{} was exchanged, attached again or resized since its tracking began; stop \
                     it and start it again",
                    device.display()
                ),
            ));
        }
        disk.check_holders(device)?;
        let id = id_of(&installation, slot);
        let last = installation.page(slot).get(Own::Epoch).saturating_sub(1);
        Ok(Some(Tracker::new(self.folder.clone(), disk.facts, disk.size, slot, id, last)))
    }
}

/// A disk that is to be tracked.
struct WholeDisk {
    facts: DeviceFacts,
    size: ByteCount,
    number: u32,
    sequence: u64,
}

impl WholeDisk {
    fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).context(|| format!("open {shown}"))?;
        let metadata = file.metadata().context(|| format!("stat {shown}"))?;
        if !metadata.file_type().is_block_device() {
            let context = format!("{shown}: not a block device; only those can be tracked");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let facts = DeviceFacts::of(&file).map_err(|error| error.within(path.display()))?;
        if let Some(disk) = &facts.parent_disk {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{shown} is a partition: track its disk, {disk}, whole"),
            ));
        }
        let invalid = || Error::new(ErrorKind::Invalid, format!("{shown}: no device number"));
        let (major, minor) = facts.number.split_once(':').ok_or_else(invalid)?;
        let number = major.parse::<u32>().ok().zip(minor.parse::<u32>().ok());
        let number = number.map(|(major, minor)| major << 20 | minor).ok_or_else(invalid)?;
        let sequence = facts.disk_sequence.ok_or_else(|| {
            let context = format!("{shown} has no sequence number: that takes Linux 5.15");
            Error::new(ErrorKind::Unsupported, context)
        })?;
        // The kernel serves whole sectors only.
        let sector = u64::from(facts.logical_sector_size);
        let size = ByteCount(facts.size.0 / sector * sector);
        Ok(Self { facts, size, number, sequence })
    }

    /// Refuses what cannot be tracked.
    fn check(&self, queue: &DiskQueue) -> Result<()> {
        let name = &self.facts.name;
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::Unsupported, format!("{name} cannot be tracked: {why}")))
        };
        if self.size.0 == 0 {
            return refuse("it has no size");
        }
        if queue.is_zoned {
            return refuse("it is zoned, and where appends went is known only when they are done");
        }
        if !queue.is_counted {
            return refuse(&format!(
                "the kernel does not count its sectors; `echo 1 > /sys/block/{name}/queue/iostats` \
                 has it count"
            ));
        }
        Ok(())
    }

    /// Refuses a disk that is written past its device, unseen by the programs.
    fn check_holders(&self, path: &Path) -> Result<()> {
        let holders = Holders::of(path)?;
        let Some(past) = holders.iter().find(|holder| holder.is_past) else { return Ok(()) };
        let name = &self.facts.name;
        let context = format!("{name} cannot be tracked: {past}, and what that writes is not seen");
        Err(Error::new(ErrorKind::Unsupported, context))
    }

    fn slot(&self, installation: &Installation) -> Option<u32> {
        let device = u64::from(self.number);
        installation.slots().find(|slot| installation.page(*slot).get(Own::Device) == device)
    }

    /// Whether the slot's tracking is of this very disk.
    fn is_of(&self, installation: &Installation, slot: u32) -> bool {
        let page = installation.page(slot);
        page.get(Own::Version) == VERSION
            && page.get(Own::Sequence) == self.sequence
            && page.get(Own::Size) == self.size.0
    }

    fn begin(
        &self,
        installation: &Installation,
        slot: u32,
        granule: Granule,
        queue: DiskQueue,
    ) -> Result<()> {
        const FIRST_EPOCH: u64 = 1;
        if queue.is_bio_based {
            installation.attach(Hook::Bio)?;
        }
        let page = installation.page(slot);
        page.clear();
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::new(ErrorKind::Io, format!("random numbers: {error}")))?;
        let half = |at| fields::le64(&id, at).unwrap_or(0);
        page.set(Own::Device, self.number.into());
        page.set(Own::Size, self.size.0);
        page.set(Own::Granule, granule.bytes());
        page.set(Own::Sequence, self.sequence);
        page.set(Own::IdHigh, half(0));
        page.set(Own::IdLow, half(8));
        page.set(Own::BioBased, queue.is_bio_based.into());
        page.set(Own::EpochsMap, installation.epochs_id()?.into());
        Epochs::of(installation, slot)?.begin(FIRST_EPOCH)?;
        page.set(Own::Version, VERSION);
        let entry = DiskEntry {
            slot,
            // Sectors of 512 bytes.
            shift: granule.exponent().saturating_sub(9),
            sequence: self.sequence,
            coarse: BitmapShape::new(granule.count(self.size)).coarse,
            is_bio_based: queue.is_bio_based,
        };
        installation.watch(self.number, &entry)?;
        let misses = installation.misses()?;
        let is_bio_based = queue.is_bio_based;
        let end = Judge { name: &self.facts.name, page, misses, is_bio_based }.begin()?;
        // What comes is judged by that, as if an image had been stored of what came before.
        page.put_record(&Record { first: 0, last: 0, map: 0, end: Some(end), image: None });
        Ok(())
    }
}

/// Ends the tracking of a slot's disk.
fn clear(installation: &Installation, slot: u32) -> Result<()> {
    let page = installation.page(slot);
    if let Ok(device) = u32::try_from(page.get(Own::Device)) {
        installation.forget(device)?;
    }
    for name in pins_of(installation.folder(), slot)? {
        installation.folder().unpin(&name)?;
    }
    page.clear();
    Ok(())
}

fn id_of(installation: &Installation, slot: u32) -> String {
    let page = installation.page(slot);
    format!("{:016x}{:016x}", page.get(Own::IdHigh), page.get(Own::IdLow))
}

fn status_of(installation: &Installation, slot: u32) -> Result<Status> {
    let page = installation.page(slot);
    let number = page.get(Own::Device);
    let device = format!("{}:{}", number >> 20, number & 0xf_ffff);
    let size = ByteCount(page.get(Own::Size));
    let granule = Granule::new(page.get(Own::Granule))?;
    let pins = pins_of(installation.folder(), slot)?;
    let epochs = Epochs::of(installation, slot)?;
    let (committed, running) = (page.get(Own::Committed), page.get(Own::Epoch));
    let name = name_of(&device);
    let is_same = || {
        let path = crate::sys::device::node(name.as_ref()?);
        Some(WholeDisk::open(&path).is_ok_and(|disk| disk.is_of(installation, slot)))
    };
    let gone = "the disk was removed, exchanged or resized; stop it and start it again";
    let (verdict, kernel) = match &name {
        Some(name) if is_same() == Some(true) => {
            let misses = installation.misses()?;
            let is_bio_based = page.is(Own::BioBased);
            let judge = Judge { name, page, misses, is_bio_based };
            let judgement = judge.judge(&epochs.start(None))?;
            let verdict = match epochs.gap(committed, running)? {
                Some(why) => Verdict::Tainted(why.to_owned()),
                None => judgement.verdict,
            };
            (verdict, judgement.kernel)
        }
        _ => (Verdict::Tainted(gone.to_owned()), Sectors::default()),
    };
    Ok(Status {
        name,
        device,
        size,
        granule,
        memory: Bitmap::memory(size, granule) * pins.len() as u64,
        epoch: running,
        open_epochs: epochs.open(committed, running).len(),
        verdict,
        completed: page.completed(),
        kernel,
    })
}
