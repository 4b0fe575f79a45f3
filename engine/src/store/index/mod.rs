//! Where a digest is stored: derived from the packs' tables, local, and always rebuildable.
//!
//! Entries of finished packs go to sorted segment files in a cache folder; the heap keeps a
//! filter and fences of each (9 bits a block: 9 MiB for a TiB of 128 KiB blocks) and the entries
//! of the last few packs. Segments are checked page by page when they are used, and what is
//! damaged there counts as unknown: then a block is stored twice, never lost.

mod merge;
mod segment;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use self::segment::{Record, Segment};
use super::damage::BadPlaces;
use super::digest::{Digest, PackId, RepositoryId, random_bytes};
use super::frame::Place;
use super::pack::TableEntry;
use crate::base::Result;
use crate::base::bytes::to_hex;
use crate::base::limits::{INDEX_HEAP_ENTRIES, INDEX_SEGMENTS};

/// The index of one repository.
pub struct Index {
    repository: RepositoryId,
    folder: Option<PathBuf>,
    /// Where segments go when there is no folder to keep them in; removed with the index.
    scratch: OnceLock<Option<PathBuf>>,
    segments: RwLock<Vec<Arc<Segment>>>,
    recent: RwLock<HashMap<Digest, Place>>,
    finished: Mutex<Vec<(PackId, u64)>>,
    /// The packs that were there when it was last brought up to them.
    packs: RwLock<HashSet<PackId>>,
    /// Places that nothing is found at any more.
    bad: RwLock<BadPlaces>,
}

impl Index {
    /// The index of `repository`, with the segments found in `folder`. Without a folder, or
    /// where it cannot be used, the index lasts as long as the process, and what the heap should
    /// not hold goes to the system's temporary folder.
    #[must_use]
    pub fn open(repository: RepositoryId, folder: Option<&Path>) -> Self {
        let folder = folder.filter(|folder| fs::create_dir_all(folder).is_ok());
        let mut segments = Vec::new();
        for entry in folder.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten() {
            let Ok(entry) = entry else { continue };
            match Segment::open(&entry.path(), repository) {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(_damaged_or_foreign) => segment::discard(&entry.path()),
            }
        }
        Self {
            repository,
            folder: folder.map(Path::to_path_buf),
            scratch: OnceLock::new(),
            segments: RwLock::new(segments),
            recent: RwLock::default(),
            finished: Mutex::default(),
            packs: RwLock::default(),
            bad: RwLock::default(),
        }
    }

    /// Whether `pack` was there when the index was brought up to the packs, and so not written by
    /// this run.
    #[must_use]
    pub fn had_pack(&self, pack: PackId) -> bool {
        read(&self.packs).contains(&pack)
    }

    /// Has nothing be found any more where something was found damaged.
    pub fn distrust_all(&self, bad: BadPlaces) {
        *write(&self.bad) = bad;
    }

    /// Has nothing be found at `place` any more.
    pub fn distrust(&self, place: &Place) {
        write(&self.bad).add(place.pack, Some(place.offset));
    }

    /// What [was found](Self::distrust) damaged.
    pub fn bad(&self) -> impl std::ops::Deref<Target = BadPlaces> {
        read(&self.bad)
    }

    /// Forgets every segment that names a pack which is no longer there with that size, and
    /// returns the packs that no segment covers.
    pub fn reconcile(&self, packs: &HashMap<PackId, u64>) -> Vec<PackId> {
        *write(&self.packs) = packs.keys().copied().collect();
        let mut segments = write(&self.segments);
        segments.retain(|segment| {
            let whole = segment.packs().iter().all(|(id, size)| packs.get(id) == Some(size));
            if !whole {
                segment.remove();
            }
            whole
        });
        let mut covered = HashSet::new();
        for segment in segments.iter() {
            covered.extend(segment.packs().iter().map(|(id, _)| *id));
        }
        packs.keys().filter(|id| !covered.contains(*id)).copied().collect()
    }

    /// Where the content with this digest is stored.
    #[must_use]
    pub fn lookup(&self, digest: &Digest) -> Option<Place> {
        let is_good = |place: &Place| !read(&self.bad).holds(place);
        if let Some(place) = read(&self.recent).get(digest).filter(|place| is_good(place)) {
            return Some(*place);
        }
        let segments = read(&self.segments);
        let mut found = segments.iter().filter_map(|segment| segment.lookup(digest));
        found.find(is_good)
    }

    /// Notes a frame of a pack that is not finished yet.
    pub fn note(&self, digest: Digest, place: Place) {
        write(&self.recent).insert(digest, place);
    }

    /// Notes that a pack, whose frames were noted, is finished and synced, `size` bytes long.
    ///
    /// # Errors
    /// `Io` when a segment cannot be written; the index goes on without its entries.
    pub fn finish_pack(&self, pack: PackId, size: u64) -> Result<()> {
        lock(&self.finished).push((pack, size));
        if read(&self.recent).len() <= INDEX_HEAP_ENTRIES {
            return Ok(());
        }
        match self.folder.as_ref().or(self.scratch.get_or_init(make_scratch).as_ref()) {
            Some(folder) => self.write_segment(folder),
            None => Ok(()),
        }
    }

    /// Notes a finished pack's whole table.
    ///
    /// # Errors
    /// As [`finish_pack`](Self::finish_pack).
    pub fn add_pack(&self, pack: PackId, size: u64, entries: &[TableEntry]) -> Result<()> {
        let (mut recent, bad) = (write(&self.recent), read(&self.bad));
        let places = entries.iter().map(|entry| (entry.digest, entry.place(pack)));
        for (digest, place) in places.filter(|(_, place)| !bad.holds(place)) {
            recent.entry(digest).or_insert(place);
        }
        drop((recent, bad));
        self.finish_pack(pack, size)
    }

    /// Keeps the finished packs' entries for later runs, if there is a folder for them.
    ///
    /// # Errors
    /// `Io` when that fails; the entries are then forgotten, to bound the heap.
    pub fn flush(&self) -> Result<()> {
        match &self.folder {
            Some(folder) => self.write_segment(folder),
            None => Ok(()),
        }
    }

    fn write_segment(&self, folder: &Path) -> Result<()> {
        let packs = std::mem::take(&mut *lock(&self.finished));
        if packs.is_empty() {
            return Ok(());
        }
        let numbers: HashMap<PackId, u32> = packs.iter().map(|(id, _)| *id).zip(0..).collect();
        let mut records = Vec::new();
        for (digest, place) in read(&self.recent).iter() {
            if let Some(number) = numbers.get(&place.pack) {
                let Place { offset, length, member, .. } = *place;
                records.push(Record { digest: *digest, pack: *number, offset, length, member });
            }
        }
        let written = segment::write(folder, self.repository, records, &packs);
        if let Ok(segment) = &written {
            write(&self.segments).push(Arc::clone(segment));
        }
        write(&self.recent).retain(|_, place| !numbers.contains_key(&place.pack));
        written?;
        self.merge(folder)
    }

    fn merge(&self, folder: &Path) -> Result<()> {
        let mut segments = read(&self.segments).clone();
        if segments.len() <= INDEX_SEGMENTS {
            return Ok(());
        }
        segments.sort_by_key(|segment| segment.records());
        segments.truncate(segments.len() - INDEX_SEGMENTS / 2);
        let merged = merge::merge(folder, self.repository, &segments, &read(&self.bad))?;
        let mut current = write(&self.segments);
        current.retain(|segment| !segments.iter().any(|old| Arc::ptr_eq(old, segment)));
        current.push(merged);
        segments.iter().for_each(|old| old.remove());
        Ok(())
    }

    /// Bytes of heap that the index holds, near enough.
    #[must_use]
    pub fn heap(&self) -> usize {
        let entry = size_of::<Digest>() + size_of::<Place>() + 1;
        let segments = read(&self.segments);
        read(&self.recent).capacity() * entry
            + segments.iter().map(|segment| segment.heap()).sum::<usize>()
    }

    /// Entries of segments and heap together.
    #[must_use]
    pub fn len(&self) -> u64 {
        let segments = read(&self.segments);
        read(&self.recent).len() as u64
            + segments.iter().map(|segment| segment.records()).sum::<u64>()
    }

    /// Whether it knows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Some(Some(scratch)) = self.scratch.get() {
            // What stays in the temporary folder costs room there, and nothing else.
            let _left_behind = fs::remove_dir_all(scratch);
        }
    }
}

/// A folder of this process's own; none where even that cannot be had, and the heap must do.
fn make_scratch() -> Option<PathBuf> {
    let name = format!("imgx-index-{}", to_hex(&random_bytes::<8>().ok()?));
    let folder = std::env::temp_dir().join(name);
    fs::DirBuilder::new().mode(0o700).create(&folder).ok().map(|()| folder)
}

// A thread that panicked while it held one of these locks left a whole map behind.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn lock<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        Digest(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn pack(number: u64) -> PackId {
        let mut id = [7; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        PackId(id)
    }

    fn fill(index: &Index, packs: std::ops::Range<u64>, frames: u64) {
        for number in packs {
            for frame in 0..frames {
                let offset = frame as u32 * 100;
                let place = Place { pack: pack(number), offset, length: 100, member: 7 };
                index.note(digest(number * frames + frame), place);
            }
            index.finish_pack(pack(number), 5000).expect("written");
        }
    }

    fn check(index: &Index, packs: u64, frames: u64) {
        for number in 0..packs * frames {
            let place = index.lookup(&digest(number)).expect("known");
            assert_eq!(place.pack, pack(number / frames));
            assert_eq!(u64::from(place.offset), number % frames * 100);
        }
        for number in packs * frames..packs * frames + 1000 {
            assert_eq!(index.lookup(&digest(number)), None);
        }
    }

    #[test]
    fn what_was_noted_is_found_again_also_after_merging_and_reopening() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let id = RepositoryId([3; 16]);
        let index = Index::open(id, Some(folder.path()));
        for round in 0..20 {
            fill(&index, round * 5..round * 5 + 5, 30);
            index.flush().expect("written");
            assert!(read(&index.segments).len() <= INDEX_SEGMENTS);
        }
        check(&index, 100, 30);
        let reopened = Index::open(id, Some(folder.path()));
        check(&reopened, 100, 30);
        let packs: HashMap<PackId, u64> = (0..100).map(|number| (pack(number), 5000)).collect();
        assert!(reopened.reconcile(&packs).is_empty());
    }

    #[test]
    fn without_a_folder_the_heap_is_bounded_all_the_same() {
        let index = Index::open(RepositoryId([3; 16]), None);
        let packs = (INDEX_HEAP_ENTRIES / 1000) as u64 + 20;
        fill(&index, 0..packs, 1000);
        assert!(read(&index.recent).len() <= INDEX_HEAP_ENTRIES);
        let scratch = index.scratch.get().cloned().flatten().expect("one was needed");
        check(&index, packs, 1000);
        drop(index);
        assert!(!scratch.exists());
    }

    #[test]
    fn a_pack_that_vanished_or_changed_is_not_believed_in() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let index = Index::open(RepositoryId([3; 16]), Some(folder.path()));
        fill(&index, 0..2, 10);
        index.flush().expect("written");
        fill(&index, 2..3, 10);
        index.flush().expect("written");
        let mut packs: HashMap<PackId, u64> = (0..3).map(|number| (pack(number), 5000)).collect();
        packs.insert(pack(1), 4999);
        let mut unknown = index.reconcile(&packs);
        unknown.sort();
        let mut expected = vec![pack(0), pack(1)];
        expected.sort();
        assert_eq!(unknown, expected);
        assert_eq!(index.lookup(&digest(5)), None);
        assert!(index.lookup(&digest(25)).is_some());
    }

    #[test]
    fn a_damaged_segment_counts_as_unknown_and_never_misleads() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let id = RepositoryId([3; 16]);
        let index = Index::open(id, Some(folder.path()));
        fill(&index, 0..10, 100);
        index.flush().expect("written");
        drop(index);
        let path = fs::read_dir(folder.path()).expect("listed").next().expect("one").expect("read");
        let original = fs::read(path.path()).expect("read");
        for place in (0..original.len()).step_by(97) {
            let mut damaged = original.clone();
            damaged[place] ^= 0x10;
            fs::write(path.path(), &damaged).expect("written");
            let index = Index::open(id, Some(folder.path()));
            for number in 0..1000 {
                if let Some(found) = index.lookup(&digest(number)) {
                    assert_eq!(found.pack, pack(number / 100), "byte {place}");
                    assert_eq!(u64::from(found.offset), number % 100 * 100, "byte {place}");
                }
            }
        }
    }

    #[test]
    fn a_tib_of_blocks_takes_less_than_64_mib_of_heap() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let index = Index::open(RepositoryId([3; 16]), Some(folder.path()));
        let blocks = 400_000;
        fill(&index, 0..40, blocks / 40);
        index.flush().expect("written");
        let segments: usize = read(&index.segments).iter().map(|segment| segment.heap()).sum();
        let per_block = segments as f64 / blocks as f64;
        let blocks_of_a_tib = (1_u64 << 40) as f64 / 131_072.0;
        let heap_of_a_tib = per_block * blocks_of_a_tib + 16.0 * 1_048_576.0;
        assert!(heap_of_a_tib < 64.0 * 1_048_576.0, "{per_block} bytes a block");
        assert!(read(&index.recent).capacity() < 2 * INDEX_HEAP_ENTRIES + 2);
    }
}
