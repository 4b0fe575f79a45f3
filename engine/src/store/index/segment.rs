//! A segment of the index: records sorted by digest in pages, with a filter and fences.
//!
//! A file of 4 KiB pages. Page 0: magic, version, counts, repository, XXH3. Record pages: 85
//! records of 48 bytes, zero-filled, the page's XXH3 in its last 8 bytes. Then the tail: the
//! first digest's leading 8 bytes of each page (fences), the filter's words, the packs (id and
//! size), and the XXH3 of all that. Derived data of one machine: no part of the normative format.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Whence, lseek};
use xxhash_rust::xxh3::xxh3_64;

use super::super::digest::{Digest, PackId, RepositoryId, random_bytes};
use super::super::frame::Place;
use super::super::storage::regular;
use crate::base::bytes::{FieldReader, to_hex};
use crate::base::{Error, ErrorContext, Result};
use crate::sys::threads;

const PAGE: usize = 4096;
const RECORD: usize = 48;
/// Records of a page.
pub const RECORDS_OF_A_PAGE: usize = (PAGE - 8) / RECORD;
const MAGIC: [u8; 8] = *b"IMGXINDX";
const VERSION: u32 = 1;
/// Filter bits for each record; with five probes about 1 in 40 unknown digests costs a read.
const FILTER_BITS: u64 = 8;
const PROBES: u32 = 5;

/// One content's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Its digest.
    pub digest: Digest,
    /// Its pack's number in the segment's list.
    pub pack: u32,
    /// Its frame's first byte.
    pub offset: u32,
    /// Its frame's length.
    pub length: u32,
    /// Its number in its frame.
    pub member: u8,
}

impl Record {
    /// Its place in `pack`.
    #[must_use]
    pub fn place(&self, pack: PackId) -> Place {
        let Self { offset, length, member, .. } = *self;
        Place { pack, offset, length, member }
    }

    fn encode(&self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.digest.0);
        out[32..36].copy_from_slice(&self.pack.to_le_bytes());
        out[36..40].copy_from_slice(&self.offset.to_le_bytes());
        out[40..44].copy_from_slice(&self.length.to_le_bytes());
        out[44] = self.member;
    }

    fn decode(fields: &mut FieldReader<'_>) -> Result<Self> {
        let digest = Digest(fields.array()?);
        let (pack, offset, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let [member, ..] = fields.array::<4>()?;
        Ok(Self { digest, pack, offset, length, member })
    }
}

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: File,
    records: u64,
    fences: Vec<u64>,
    filter: Filter,
    packs: Vec<(PackId, u64)>,
}

impl Segment {
    /// Opens a segment of `repository` and checks all but its record pages.
    ///
    /// # Errors
    /// `Corrupt` or `Io`; the file is of no use then.
    pub fn open(path: &Path, repository: RepositoryId) -> Result<Self> {
        let describe = || format!("index segment {}", path.display());
        let file = regular::open(path).context(describe)?;
        let size = file.metadata().context(describe)?.len();
        let mut page = vec![0; PAGE];
        file.read_exact_at(&mut page, 0).context(describe)?;
        check_page(&page)?;
        let mut fields = FieldReader::new("index header", &page);
        let (magic, version) = (fields.array::<8>()?, fields.u32()?);
        let (packs, records, words) = (fields.u32()?, fields.u64()?, fields.u64()?);
        let owner = RepositoryId(fields.array()?);
        if magic != MAGIC || version != VERSION || owner != repository {
            return Err(Error::corrupt(describe(), "this repository's", "another's"));
        }
        let pages = records.div_ceil(RECORDS_OF_A_PAGE as u64);
        let tail_at = (pages + 1).saturating_mul(PAGE as u64);
        let tail_length = pages
            .saturating_mul(8)
            .saturating_add(words.saturating_mul(8))
            .saturating_add(u64::from(packs) * 24)
            .saturating_add(8);
        if tail_at.checked_add(tail_length) != Some(size) {
            return Err(Error::corrupt(describe(), "its own length", size));
        }
        let tail = read_tail(&file, tail_at, tail_length).context(describe)?;
        let body = tail.len() - 8;
        let mut fields = FieldReader::new("index tail", &tail);
        let fences = words_of(fields.take(usize::try_from(pages).unwrap_or(0) * 8)?);
        let filter = Filter(words_of(fields.take(usize::try_from(words).unwrap_or(0) * 8)?));
        let mut pack_list = Vec::new();
        for _ in 0..packs {
            pack_list.push((PackId(fields.array()?), fields.u64()?));
        }
        if fields.u64()? != xxh3_64(&tail[..body]) {
            return Err(Error::corrupt(describe(), "its tail's XXH3", "another"));
        }
        Ok(Self { path: path.to_path_buf(), file, records, fences, filter, packs: pack_list })
    }

    /// Its packs, with their sizes.
    #[must_use]
    pub fn packs(&self) -> &[(PackId, u64)] {
        &self.packs
    }

    /// How many records it has.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of heap it holds.
    #[must_use]
    pub fn heap(&self) -> usize {
        self.fences.capacity() * 8 + self.filter.0.capacity() * 8 + self.packs.capacity() * 24
    }

    /// The place of a digest; `None` when it is unknown here, or its page is damaged.
    #[must_use]
    pub fn lookup(&self, digest: &Digest) -> Option<Place> {
        if !self.filter.may_hold(digest) {
            return None;
        }
        let key = leading(digest);
        // Equal leading bytes may straddle pages, so every page that may hold the key is read.
        let mut number = self.fences.partition_point(|fence| *fence < key).saturating_sub(1);
        while self.fences.get(number).is_some_and(|fence| *fence <= key) {
            let records = self.page(number).ok()?;
            if let Ok(found) = records.binary_search_by(|record| record.digest.cmp(digest)) {
                let record = &records[found];
                let (pack, _) = self.packs.get(record.pack as usize)?;
                return Some(record.place(*pack));
            }
            number += 1;
        }
        None
    }

    /// Pages of records.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.fences.len()
    }

    /// The records of a page.
    ///
    /// # Errors
    /// `Corrupt` when its checksum differs; `Io`.
    pub fn page(&self, number: usize) -> Result<Vec<Record>> {
        let mut page = vec![0; PAGE];
        let offset = (number as u64 + 1) * PAGE as u64;
        self.file
            .read_exact_at(&mut page, offset)
            .context(|| format!("index segment {}", self.path.display()))?;
        check_page(&page)?;
        let before = number * RECORDS_OF_A_PAGE;
        let left = usize::try_from(self.records).unwrap_or(usize::MAX).saturating_sub(before);
        let mut fields = FieldReader::new("index page", &page);
        (0..left.min(RECORDS_OF_A_PAGE)).map(|_| Record::decode(&mut fields)).collect()
    }

    /// Removes its file; the segment itself can still be read.
    pub fn remove(&self) {
        discard(&self.path);
    }
}

/// Removes a segment's file; that it stays is harmless, because it is checked when opened.
pub fn discard(path: &Path) {
    let _harmless = fs::remove_file(path);
}

/// Writes `records` of `packs` as a new segment.
///
/// # Errors
/// `Io`; nothing is left behind then.
pub fn write(
    folder: &Path,
    repository: RepositoryId,
    mut records: Vec<Record>,
    packs: &[(PackId, u64)],
) -> Result<Arc<Segment>> {
    threads::sort(&mut records);
    let mut writer = SegmentWriter::create(folder, records.len() as u64)?;
    for record in &records {
        writer.push(record)?;
    }
    writer.finish(repository, packs)
}

/// Writes a segment from records in order.
pub struct SegmentWriter {
    path: PathBuf,
    file: BufWriter<File>,
    page: Vec<u8>,
    filled: usize,
    records: u64,
    fences: Vec<u64>,
    filter: Filter,
    finished: bool,
}

impl SegmentWriter {
    /// Begins a segment of at most `records` records.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(folder: &Path, records: u64) -> Result<Self> {
        let path = folder.join(format!("{}.segment", to_hex(&random_bytes::<8>()?)));
        let describe = || format!("write index segment {}", path.display());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .context(describe)?;
        let mut file = BufWriter::with_capacity(1 << 18, file);
        file.write_all(&[0; PAGE]).context(describe)?;
        Ok(Self {
            path,
            file,
            page: vec![0; PAGE],
            filled: 0,
            records: 0,
            fences: Vec::new(),
            filter: Filter::for_records(records),
            finished: false,
        })
    }

    /// Adds the next record.
    ///
    /// # Errors
    /// `Io`.
    pub fn push(&mut self, record: &Record) -> Result<()> {
        if self.filled == 0 {
            self.fences.push(leading(&record.digest));
        }
        let at = self.filled * RECORD;
        record.encode(&mut self.page[at..at + RECORD]);
        self.filter.add(&record.digest);
        self.filled += 1;
        self.records += 1;
        if self.filled == RECORDS_OF_A_PAGE { self.write_page() } else { Ok(()) }
    }

    fn write_page(&mut self) -> Result<()> {
        seal_page(&mut self.page);
        self.file.write_all(&self.page).context(|| self.describe())?;
        self.page.fill(0);
        self.filled = 0;
        Ok(())
    }

    fn describe(&self) -> String {
        format!("write index segment {}", self.path.display())
    }

    /// Completes the segment and opens it.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(
        mut self,
        repository: RepositoryId,
        packs: &[(PackId, u64)],
    ) -> Result<Arc<Segment>> {
        if self.filled > 0 {
            self.write_page()?;
        }
        let mut tail = Vec::new();
        for word in self.fences.iter().chain(&self.filter.0) {
            tail.extend_from_slice(&word.to_le_bytes());
        }
        for (id, size) in packs {
            tail.extend_from_slice(&id.0);
            tail.extend_from_slice(&size.to_le_bytes());
        }
        let checksum = xxh3_64(&tail);
        tail.extend_from_slice(&checksum.to_le_bytes());
        let mut header = vec![0; PAGE];
        let count = u32::try_from(packs.len()).expect("packs of a repository fit 32 bits");
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&count.to_le_bytes());
        header[16..24].copy_from_slice(&self.records.to_le_bytes());
        header[24..32].copy_from_slice(&(self.filter.0.len() as u64).to_le_bytes());
        header[32..48].copy_from_slice(&repository.0);
        seal_page(&mut header);
        let path = self.path.clone();
        let describe = || format!("write index segment {}", path.display());
        self.file.write_all(&tail).context(describe)?;
        self.file.seek(SeekFrom::Start(0)).context(describe)?;
        self.file.write_all(&header).context(describe)?;
        self.file.flush().context(describe)?;
        self.finished = true;
        Segment::open(&self.path, repository).map(Arc::new)
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.finished {
            discard(&self.path);
        }
    }
}

/// Reads the tail, of `length` bytes from `at` to the end. What is written has no holes, so one
/// that has some is not read: it would take more memory than the file takes room.
fn read_tail(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let start = i64::try_from(at).map_err(io::Error::other)?;
    let has_hole = match lseek(file, start, Whence::SeekHole) {
        Ok(hole) => u64::try_from(hole).ok() != at.checked_add(length),
        // No filesystem has to know.
        Err(_) => false,
    };
    if has_hole {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it has holes"));
    }
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut tail = Vec::new();
    tail.try_reserve_exact(length).map_err(io::Error::other)?;
    tail.resize(length, 0);
    file.read_exact_at(&mut tail, at)?;
    Ok(tail)
}

fn seal_page(page: &mut [u8]) {
    let checksum = xxh3_64(&page[..PAGE - 8]);
    page[PAGE - 8..].copy_from_slice(&checksum.to_le_bytes());
}

fn check_page(page: &[u8]) -> Result<()> {
    let stored = words_of(&page[PAGE - 8..]);
    if stored == [xxh3_64(&page[..PAGE - 8])] {
        return Ok(());
    }
    Err(Error::corrupt("index page", "its XXH3", "another"))
}

fn leading(digest: &Digest) -> u64 {
    // Big-endian, so that numbers sort as digests do.
    u64::from_be_bytes(eight(digest, 0))
}

fn eight(digest: &Digest, at: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.0[at..at + 8]);
    bytes
}

fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// A Bloom filter whose probes for one digest share a cache line of 512 bits.
#[derive(Debug)]
struct Filter(Vec<u64>);

impl Filter {
    fn for_records(records: u64) -> Self {
        let lines = records.saturating_mul(FILTER_BITS).div_ceil(512).max(1);
        Self(vec![0; usize::try_from(lines * 8).unwrap_or(8)])
    }

    fn probes(&self, digest: &Digest) -> impl Iterator<Item = (usize, u64)> + use<> {
        let lines = (self.0.len() / 8) as u128;
        let line = (u128::from(u64::from_le_bytes(eight(digest, 8))) * lines) >> 64;
        let line = usize::try_from(line).unwrap_or(0) * 8;
        let bits = u64::from_le_bytes(eight(digest, 16));
        (0..PROBES).map(move |probe| {
            let bit = (bits >> (probe * 9)) & 511;
            (line + (bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn add(&mut self, digest: &Digest) {
        for (word, bit) in self.probes(digest) {
            self.0[word] |= bit;
        }
    }

    fn may_hold(&self, digest: &Digest) -> bool {
        self.0.len() >= 8 && self.probes(digest).all(|(word, bit)| self.0[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_read_if_all_of_it_was_written() {
        let file = tempfile::tempfile().expect("a temporary file");
        let bytes = vec![7; 1 << 20];
        file.write_all_at(&bytes, 3 * PAGE as u64).expect("written");
        let read = |at: u64, length: u64| {
            let read = read_tail(&file, at, length);
            read.map_err(|error| error.kind())
        };
        assert_eq!(read(3 * PAGE as u64, 1 << 20), Ok(bytes.clone()), "a hole before is not its");
        file.set_len(1 << 40).expect("made longer");
        let rest = (1 << 40) - 3 * PAGE as u64;
        assert_eq!(read(3 * PAGE as u64, rest), Err(io::ErrorKind::InvalidData));
        assert_eq!(read(1 << 30, (1 << 40) - (1 << 30)), Err(io::ErrorKind::InvalidData));
    }
}
