//! Opening: which superblocks are to be believed, which devices belong together, and what is to be
//! said about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use super::checksum::name_hash;
use super::chunk::{Chunk, ChunkMap, first_chunk_key};
use super::device::{Device, Devices, Name, missing};
use super::dir::DirItem;
use super::features::{compat_ro, describe, flags};
use super::log;
use super::node::{NodeForm, Pointer};
use super::pool::Pool;
use super::root::RootItem;
use super::superblock::{DevItem, PLACES, SUPERBLOCK_SIZE, Superblock, has_magic};
use super::tree::Tree;
use super::units::{Key, Logical, index, kinds, objects};
use super::{Btrfs, TOP};
use crate::base::bytes::to_uuid;
use crate::base::{ByteOffset, Error, ErrorKind, ReadAt, Result};
use crate::content::Content;
use crate::fs::{DeviceOf, Doubts, FileId, Filesystem, FilesystemInfo};

/// What one volume says.
struct Found {
    volume: Arc<dyn ReadAt>,
    /// Sound superblocks, the one to believe first.
    sound: Vec<Superblock>,
    /// The first one's damage, if none is sound.
    failure: Option<Error>,
    has_first: bool,
}

impl Found {
    /// The superblocks of `volume`: of the copies that are sound, those of the same filesystem as
    /// the first sound one, the youngest first.
    fn read(volume: &Arc<dyn ReadAt>) -> Self {
        let mut found =
            Self { volume: Arc::clone(volume), sound: Vec::new(), failure: None, has_first: false };
        for place in PLACES {
            let mut block = vec![0; SUPERBLOCK_SIZE];
            let end = place.saturating_add(4096);
            // What is behind the filesystem's end is none of its own.
            let first = found.sound.first();
            let is_behind = first.is_some_and(|first| end >= first.dev_item.total_bytes);
            if is_behind || end > volume.size().0 {
                break;
            }
            let read = volume.read_exact_at(ByteOffset(place), &mut block);
            let is_first = Some(&place) == PLACES.first();
            match read.and_then(|()| Superblock::read(&block, place)) {
                Ok(superblock) => {
                    found.has_first |= is_first;
                    let same =
                        found.sound.first().is_none_or(|first| first.is_of_same(&superblock));
                    if same {
                        found.sound.push(superblock);
                    }
                }
                Err(error) => {
                    found.has_first |= is_first && has_magic(&block);
                    // A first one that uses what is not known has no better copies.
                    let is_final = is_first && error.kind() == ErrorKind::Unsupported;
                    found.failure.get_or_insert(error);
                    if is_final {
                        break;
                    }
                }
            }
        }
        // A stable sort: of equals, the first one counts.
        found.sound.sort_by_key(|superblock| std::cmp::Reverse(superblock.generation));
        found
    }
}

/// Opens the btrfs of `volume`, one device of it at least; `None` if no superblock is where the
/// first one belongs.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open(volume: &Arc<dyn ReadAt>) -> Result<Option<Box<dyn Filesystem>>> {
    let found = Found::read(volume);
    if !found.has_first {
        return Ok(None);
    }
    Ok(Some(Box::new(assemble(vec![found])?)))
}

/// As [`open`], where the first superblock is gone altogether. A copy may be left of a filesystem
/// that something else took the place of, so this is for volumes that nothing else knows.
///
/// # Errors
/// See [`Filesystem`].
pub(in crate::fs) fn open_by_backup(
    volume: &Arc<dyn ReadAt>,
) -> Result<Option<Box<dyn Filesystem>>> {
    let found = Found::read(volume);
    if found.has_first || found.sound.is_empty() {
        return Ok(None);
    }
    Ok(Some(Box::new(assemble(vec![found])?)))
}

/// What the superblock says that a volume with these first bytes is a device of, and how large that
/// is; `None` where there is none.
pub(crate) fn identify(head: &[u8]) -> Option<Content> {
    let [place, ..] = PLACES;
    Superblock::identify(head.get(usize::try_from(place).ok()?..)?, place)
}

/// Which device of which btrfs `volume` is, by the best of its superblocks; `None` if none is
/// sound.
#[must_use]
pub fn device_of(volume: &Arc<dyn ReadAt>) -> Option<DeviceOf> {
    let found = Found::read(volume);
    let superblock = found.sound.first()?;
    Some(DeviceOf {
        filesystem: to_uuid(&superblock.fsid),
        device: to_uuid(&superblock.dev_item.uuid),
        devices: superblock.num_devices,
        seeds: seeds_of(&found, superblock),
    })
}

/// The UUIDs of the devices of other filesystems that the one of `superblock` grew from, as far as
/// its own device says.
fn seeds_of(found: &Found, superblock: &Superblock) -> Vec<String> {
    if superblock.num_devices < 2 {
        return Vec::new();
    }
    let (volume, item) = (Arc::clone(&found.volume), superblock.dev_item.clone());
    let devices = Devices(vec![Device { volume, item, start: 0, is_stale: false }]);
    let own = [superblock.fsid, superblock.block_fsid()];
    let Ok((_, items)) = read_all_chunks(superblock, devices, own.to_vec()) else {
        return Vec::new();
    };
    let seeds = items.iter().filter(|item| !own.contains(&item.fsid));
    seeds.map(|item| to_uuid(&item.uuid)).collect()
}

/// The form of the nodes of the filesystem of `superblock`, which carry one of `fsids`.
fn node_form(superblock: &Superblock, fsids: Vec<[u8; 16]>) -> NodeForm {
    NodeForm { size: index(superblock.nodesize), checksum: superblock.checksum, fsids }
}

/// All chunks, and the devices that there should be, by way of the chunks of the superblock.
fn read_all_chunks(
    superblock: &Superblock,
    devices: Devices,
    fsids: Vec<[u8; 16]>,
) -> Result<(ChunkMap, Vec<DevItem>)> {
    let sectorsize = superblock.sectorsize;
    let system = ChunkMap::of_system(&superblock.sys_chunk_array, sectorsize)?;
    let bootstrap = Pool::new(devices, system, node_form(superblock, fsids));
    let root = Pointer {
        at: superblock.chunk_root,
        level: superblock.chunk_root_level,
        generation: superblock.chunk_root_generation,
    };
    read_chunks(&bootstrap, Tree { root }, sectorsize)
        .map_err(|error| lacking(error, superblock, &bootstrap))
}

/// Opens a btrfs that lies on several volumes, all of those that are at hand, in any order. What
/// is said of places is said of all their bytes, one volume behind the other in the order given;
/// what is said of free space, of the first. A volume that was a device of the filesystem once is
/// not looked at, unless it is the first.
///
/// # Errors
/// `Unsupported` when no volume is a device of btrfs; `Invalid` when they are of different ones;
/// `NotFound`, naming them, when too many devices are missing; see [`Filesystem`].
pub fn open_many(volumes: &[Arc<dyn ReadAt>]) -> Result<Box<dyn Filesystem>> {
    let mut found: Vec<Found> = volumes.iter().map(Found::read).collect();
    for (number, found) in found.iter_mut().enumerate() {
        // One that cannot be told for a device would else be taken for missing.
        if let Some(error) = found.failure.take_if(|_| found.sound.is_empty()) {
            return Err(error.within(format!("volume {number}")));
        }
    }
    Ok(Box::new(assemble(found)?))
}

/// Opens by the youngest superblock of all with which that succeeds.
fn assemble(mut found: Vec<Found>) -> Result<Btrfs> {
    let mut candidates: Vec<Superblock> =
        found.iter().flat_map(|found| found.sound.iter().cloned()).collect();
    // Those of seeds are older than what grew from them.
    candidates.sort_by_key(|superblock| std::cmp::Reverse(superblock.generation));
    let damaged = found.iter_mut().find_map(|found| found.failure.take());
    let (newest, failure) = first_that_opens(&candidates, &found)?;
    let failure = damaged.or(failure);
    if let Some(mut btrfs) = newest {
        if let Some(error) = failure {
            btrfs.doubts.add(match Some(&btrfs.superblock.place) == PLACES.first() {
                true => format!("A copy of the superblock is damaged ({error})."),
                false => format!("The superblock is damaged ({error}); a copy is used."),
            });
            btrfs.doubt("a superblock is damaged");
        }
        return Ok(btrfs);
    }
    let failure = failure.unwrap_or_else(|| Error::new(ErrorKind::Unsupported, "no btrfs is here"));
    // A device that is missing is no damage, and gives nothing older.
    if failure.kind() != ErrorKind::Corrupt && failure.kind() != ErrorKind::Io {
        return Err(failure);
    }
    let earlier: Vec<Superblock> = candidates.iter().flat_map(Superblock::earlier).collect();
    let Some(mut btrfs) = first_that_opens(&earlier, &found)?.0 else { return Err(failure) };
    let generation = btrfs.superblock.generation;
    btrfs.doubts.add(format!(
        "The newest state cannot be read ({failure}); an older one, generation {generation}, is."
    ));
    btrfs.doubt("its newest state cannot be read");
    Ok(btrfs)
}

/// Opens by the first of `candidates` with which that succeeds; with the first failure, if there
/// was one.
fn first_that_opens(
    candidates: &[Superblock],
    found: &[Found],
) -> Result<(Option<Btrfs>, Option<Error>)> {
    let mut failure = None;
    let mut seen = Vec::new();
    for candidate in candidates {
        let tried = (candidate.generation, candidate.root, candidate.chunk_root);
        if seen.contains(&tried) {
            continue;
        }
        seen.push(tried);
        match with_superblock(candidate.clone(), found) {
            Ok(btrfs) => return Ok((Some(btrfs), failure)),
            // Another superblock makes no other devices of them.
            Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Ok((None, failure))
}

fn with_superblock(superblock: Superblock, found: &[Found]) -> Result<Btrfs> {
    let mut end = 0_u64;
    let device = |found: &Found| {
        let start = end;
        end = end.saturating_add(found.volume.size().0);
        let own = found.sound.first()?;
        let is_stale = own.generation != superblock.generation && own.is_of_same(&superblock);
        let (volume, item) = (Arc::clone(&found.volume), own.dev_item.clone());
        Some(Device { volume, item, start, is_stale })
    };
    let mut devices = Devices(found.iter().filter_map(device).collect());
    let mut fsids = vec![superblock.block_fsid()];
    for seed in found.iter().filter_map(|found| found.sound.first()) {
        if !seed.is_of_same(&superblock) {
            fsids.push(seed.block_fsid());
        }
    }
    let form = node_form(&superblock, fsids.clone());
    let (chunks, items) = read_all_chunks(&superblock, devices.clone(), fsids)?;
    let gone = leave_out_gone(&mut devices, &items, &superblock)?;
    let missing = missing_devices(&devices, &items);
    let pool = Pool::new(devices, chunks, form);
    let mut btrfs = unreplayed(superblock, pool)?;
    for name in missing {
        btrfs.tell(format!("It has {} devices, and {name} is missing.", items.len()));
    }
    for name in gone {
        btrfs.tell(format!("A volume was {name} of it once, and is none any more."));
    }
    if items.len() > 1 {
        btrfs.doubt("it lies on several devices");
    }
    for stale in btrfs.pool.devices.0.iter().filter(|device| device.is_stale) {
        let note = format!("Device {} is of another state than the others.", stale.item.devid);
        btrfs.info.notes.push(note);
    }
    btrfs.replay();
    btrfs.name_default();
    Ok(btrfs)
}

/// All chunks, and the devices that there should be.
fn read_chunks(pool: &Pool, tree: Tree, sectorsize: u32) -> Result<(ChunkMap, Vec<DevItem>)> {
    let (mut chunks, mut devices) = (ChunkMap::default(), Vec::new());
    let first = Key::new(objects::DEV_ITEMS, kinds::DEV_ITEM, 0);
    let mut cursor = tree.from(pool, first);
    while let Some(item) = cursor.next()? {
        if item.key.is_of(first.objectid, first.kind) {
            let short = || item.corrupt("a device", format!("{} bytes", item.data().len()));
            devices.push(DevItem::parse(item.data()).ok_or_else(short)?);
        } else if item.key.is_of(first_chunk_key().objectid, kinds::CHUNK_ITEM) {
            chunks.add(Chunk::parse(item.key, item.data(), sectorsize)?)?;
        }
    }
    Ok((chunks, devices))
}

/// Leaves out devices that were taken out of the filesystem, and names them.
///
/// # Errors
/// `Invalid` when there is one that never was of the filesystem, or the first was taken out.
fn leave_out_gone(
    devices: &mut Devices,
    items: &[DevItem],
    superblock: &Superblock,
) -> Result<Vec<String>> {
    let is_here = |device: &Device| items.iter().any(|item| item.uuid == device.item.uuid);
    let is_foreign =
        |device: &&Device| !is_here(device) && device.item.fsid != superblock.block_fsid();
    let first = devices.0.first().filter(|first| !is_here(first));
    if let Some(device) = first.or_else(|| devices.0.iter().find(is_foreign)) {
        let context = format!("a device of another btrfs, {}", to_uuid(&device.item.uuid));
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    let gone = devices.0.iter().filter(|device| !is_here(device)).map(|device| name(&device.item));
    let gone = gone.collect();
    devices.0.retain(is_here);
    Ok(gone)
}

/// The names of the devices that are missing.
fn missing_devices(devices: &Devices, items: &[DevItem]) -> Vec<String> {
    let is_missing = |item: &&DevItem| !devices.0.iter().any(|has| has.item.uuid == item.uuid);
    items.iter().filter(is_missing).map(name).collect()
}

fn name(item: &DevItem) -> String {
    format!("device {} ({})", item.devid, to_uuid(&item.uuid))
}

/// Says of all devices on which chunks lie that are missing, if one is missing.
fn lacking(error: Error, superblock: &Superblock, pool: &Pool) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let stripes = pool.chunks.all().iter().flat_map(|chunk| &chunk.stripes);
    let names = stripes.filter(|stripe| pool.devices.rank(stripe) > 1);
    let names: BTreeSet<String> = names.map(|stripe| Name(stripe).to_string()).collect();
    let (uuid, all) = (to_uuid(&superblock.fsid), superblock.num_devices);
    let names: Vec<String> = names.into_iter().collect();
    missing(&names).within(format!("btrfs {uuid} of {all} devices"))
}

fn unreplayed(superblock: Superblock, pool: Pool) -> Result<Btrfs> {
    let (level, generation) = (superblock.root_level, superblock.generation);
    let root_tree = Tree { root: Pointer { at: superblock.root, level, generation } };
    let found = RootItem::find(&pool, root_tree, TOP);
    let found =
        found.and_then(|top| Ok((top, RootItem::find(&pool, root_tree, objects::CSUM_TREE)?)));
    let (top, csum_tree) = found.map_err(|error| lacking(error, &superblock, &pool))?;
    let none = || Error::corrupt("root tree", "the top-level subvolume", "none");
    let top = top.ok_or_else(none)?;
    let info = info(&superblock, &pool);
    let mut btrfs = Btrfs {
        root: FileId { tree: TOP, number: top.root_dirid },
        root_tree,
        csum_tree: csum_tree.map(|root| root.tree),
        replays: BTreeMap::new(),
        subvolumes: Mutex::new(HashMap::new()),
        superblock,
        pool,
        info,
        doubts: Doubts::default(),
        doubt: None,
    };
    let unknown = btrfs.superblock.unknown_compat_ro();
    if unknown != 0 {
        let names = describe(unknown, &[(compat_ro::BLOCK_GROUP_TREE, "block_group_tree")]);
        btrfs.doubt(&format!("features that are not known: {names}"));
    }
    if btrfs.superblock.flags & flags::ERROR != 0 {
        btrfs.tell("The kernel has noted errors in it.".to_owned());
        btrfs.doubt("the kernel has noted errors in it");
    }
    if btrfs.superblock.flags & flags::METADUMP != 0 {
        btrfs.tell("It is a dump of metadata: what files hold is not in it.".to_owned());
        btrfs.doubt("it is a dump of metadata");
    }
    if btrfs.superblock.flags & flags::SEEDING != 0 {
        btrfs.tell("It is a seed for other filesystems.".to_owned());
        btrfs.doubt("other filesystems may grow from it");
    }
    Ok(btrfs)
}

fn info(superblock: &Superblock, pool: &Pool) -> FilesystemInfo {
    let mut notes = Vec::new();
    let first = pool.devices.0.first();
    let size = first.map_or(0, |first| first.item.total_bytes);
    if let Some(has) = first.map(|first| first.volume.size().0).filter(|has| *has < size) {
        notes.push(format!("It spans {size} bytes, but the volume has {has} only."));
    }
    let Content { kind, label, uuid, .. } = superblock.content();
    FilesystemInfo {
        kind: kind.name(),
        label,
        uuid,
        size,
        block_size: superblock.sectorsize,
        notes,
    }
}

impl Btrfs {
    fn tell(&mut self, note: String) {
        self.info.notes.push(note);
    }

    fn doubt(&mut self, why: &str) {
        self.doubt.get_or_insert_with(|| why.to_owned());
    }

    /// Lays the tree log over what was committed.
    fn replay(&mut self) {
        if self.superblock.log_root == Logical(0) {
            return;
        }
        match log::replay(&self.pool, &self.superblock, self.root_tree) {
            Ok(replays) => {
                self.replays = replays;
                self.tell("Its tree log was replayed in memory.".to_owned());
            }
            // The kernel would not mount it; what was committed is sound all the same.
            Err(error) => self.doubts.add(format!(
                "Its tree log cannot be replayed, so what was synced last is missing: {error}."
            )),
        }
        self.doubt("it has a tree log");
    }

    /// Tells which subvolume is mounted by default, if that is not the top-level one.
    fn name_default(&mut self) {
        let key = Key::new(objects::ROOT_TREE_DIR, kinds::DIR_ITEM, name_hash(b"default"));
        let Ok(Some(item)) = self.root_tree.find(&self.pool, key) else { return };
        let Ok(entries) = DirItem::all(&item) else { return };
        let default = entries.iter().find(|entry| entry.name == b"default");
        if let Some(id) = default.map(|entry| entry.location.objectid).filter(|id| *id != TOP) {
            let path = self.subvolume_path(id);
            let path = path.map_or(String::new(), |path| format!("/{path}, "));
            self.tell(format!("The subvolume that is mounted by default is {path}id {id}."));
        }
    }
}
