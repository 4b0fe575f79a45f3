//! What the fuzz targets share: a sound image (or what a server says) with the fuzzer's bytes put
//! over it, and everything that can be done with a filesystem.
//!
//! The sound images are made by `engine/fuzz/run`, which says where they are in `IMGX_FUZZ_SEEDS`.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use imgx_engine::base::{ByteCount, ByteOffset, Error, ErrorKind, ReadAt, Result};
use imgx_engine::fs::{FileId, Filesystem};
use sha2::{Digest, Sha256};

/// Files that one run looks at, at most, and entries and extents of each.
const FILES: usize = 300;
const MANY: usize = 2000;

/// A sound image.
pub struct Seed {
    bytes: Arc<Vec<u8>>,
    /// Places worth changing: where there is something.
    used: Vec<usize>,
    /// Blocks, by place and length, whose first four bytes are the CRC32C of what comes behind
    /// the first 32, and are made so again.
    summed: Vec<(usize, usize)>,
}

impl Seed {
    /// The image called `name`.
    ///
    /// # Panics
    /// When `engine/fuzz/run` did not make it.
    #[must_use]
    pub fn load(name: &str) -> Self {
        let folder = env::var_os("IMGX_FUZZ_SEEDS").expect("run this by engine/fuzz/run");
        let bytes = fs::read(PathBuf::from(folder).join(name)).expect("the seed was made");
        let used = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        Self { bytes: Arc::new(bytes), used, summed: Vec::new() }
    }

    /// These bytes, of which those at `used` are worth changing.
    #[must_use]
    pub fn of(bytes: Vec<u8>, used: Vec<usize>) -> Self {
        Self { bytes: Arc::new(bytes), used, summed: Vec::new() }
    }

    /// The same, whose superblocks and nodes, of `nodesize` bytes, are those of btrfs: their
    /// checksums are right however they are changed, or nothing behind these would be tried.
    #[must_use]
    pub fn with_btrfs_sums(mut self, nodesize: usize) -> Self {
        for place in (0..self.bytes.len()).step_by(4096) {
            for length in [4096, nodesize] {
                let block = self.bytes.get(place..place + length);
                if block.is_some_and(|block| block[..4] == sum(block)) {
                    self.summed.push((place, length));
                    break;
                }
            }
        }
        assert!(!self.summed.is_empty(), "it has checksums");
        self
    }

    /// The image called `name`, of which only what is behind `start(image)` is changed.
    ///
    /// # Panics
    /// As [`load`](Self::load).
    #[must_use]
    pub fn load_from(name: &str, start: impl FnOnce(&[u8]) -> usize) -> (Self, usize) {
        let mut seed = Self::load(name);
        let start = start(&seed.bytes);
        seed.used.retain(|at| *at >= start);
        (seed, start)
    }

    /// The image with `data` put over it: records of a place (three bytes), a length (one to
    /// eight) and as many bytes. The first byte may cut off the image's end.
    #[must_use]
    pub fn patched(&self, data: &[u8]) -> Arc<dyn ReadAt> {
        Arc::new(self.patch(data))
    }

    /// As [`patched`](Self::patched), to be changed further.
    #[must_use]
    pub fn patched_bytes(&self, data: &[u8]) -> Vec<u8> {
        let patched = self.patch(data);
        let mut bytes = vec![0; patched.size];
        patched.read(0, &mut bytes);
        bytes
    }

    fn patch(&self, data: &[u8]) -> Patched {
        let base = Arc::clone(&self.bytes);
        let mut patched = Patched { size: base.len(), base, patches: Vec::new() };
        let Some((cut, mut rest)) = data.split_first() else { return patched };
        while let [a, b, c, length, after @ ..] = rest {
            let pick = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
            let place = self.used[pick % self.used.len()];
            let length = (usize::from(*length) % 8 + 1).min(after.len());
            let length = length.min(self.bytes.len() - place);
            patched.patches.push((place, after[..length].to_vec()));
            let summed = self.summed.partition_point(|(start, _)| *start <= place);
            if let Some((start, length)) = self.summed[..summed].last().filter(|_| *cut % 8 != 0) {
                let mut block = vec![0; *length];
                patched.read(*start, &mut block);
                patched.patches.push((*start, sum(&block).to_vec()));
            }
            rest = &after[length..];
        }
        if *cut > 240 {
            patched.size = self.bytes.len() / 16 * (usize::from(*cut) - 240);
        }
        patched
    }
}

/// A sound image under patches, of which the later ones count.
struct Patched {
    base: Arc<Vec<u8>>,
    size: usize,
    patches: Vec<(usize, Vec<u8>)>,
}

impl Patched {
    fn read(&self, start: usize, buffer: &mut [u8]) {
        let end = start + buffer.len();
        buffer.copy_from_slice(&self.base[start..end]);
        for (place, bytes) in &self.patches {
            let (from, to) = (start.max(*place), end.min(place + bytes.len()));
            if from < to {
                buffer[from - start..to - start].copy_from_slice(&bytes[from - place..to - place]);
            }
        }
    }
}

impl ReadAt for Patched {
    fn size(&self) -> ByteCount {
        ByteCount(self.size as u64)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset.0).unwrap_or(usize::MAX);
        if start.checked_add(buffer.len()).is_none_or(|end| end > self.size) {
            return Err(Error::new(ErrorKind::Invalid, "beyond the end"));
        }
        self.read(start, buffer);
        Ok(())
    }
}

/// The checksum of a block of btrfs.
fn sum(block: &[u8]) -> [u8; 4] {
    crc32c::crc32c(&block[32..]).to_le_bytes()
}

/// Makes the checksums of the two copies of a LUKS2 header right, of 16 KiB each, where that is
/// meant, or nothing behind them would be tried.
pub fn seal_luks2(head: &mut [u8], first: bool, second: bool) {
    for copy in
        head.chunks_mut(0x4000).zip([first, second]).filter_map(|(copy, is)| is.then_some(copy))
    {
        if let Some(sum) = copy.get_mut(448..512) {
            sum.fill(0);
            let digest = Sha256::digest(&*copy);
            copy[448..480].copy_from_slice(&digest);
        }
    }
}

/// Does everything there is to do with every file that can be reached.
pub fn use_everything(filesystem: &dyn Filesystem) {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![filesystem.root()]);
    while let Some(file) = waiting.pop() {
        if seen.len() < FILES && seen.insert(file) {
            use_file(filesystem, file, &mut waiting);
        }
    }
    use_numbers(filesystem);
    let _ = filesystem.free_space(&mut |range| {
        assert!(range.start < range.end, "free space is of some length");
        ControlFlow::Continue(())
    });
}

fn use_numbers(filesystem: &dyn Filesystem) {
    let Some(numbered) = filesystem.numbered() else { return };
    let mut files = Vec::new();
    let _ = numbered.each_file(None, &mut |one| {
        let order = |file: &FileId| numbered.order(*file);
        assert!(files.last().is_none_or(|last| order(last) < order(&one.file)), "in order");
        files.push(one.file);
        if files.len() < FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    for file in files {
        let mut count = 0;
        let _ = numbered.parts(file, &mut |_| {
            count += 1;
            if count < MANY { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let _ = numbered.folders_of(file);
    }
}

fn use_file(filesystem: &dyn Filesystem, file: FileId, waiting: &mut Vec<FileId>) {
    let _ = filesystem.metadata(file);
    let _ = filesystem.xattrs(file);
    let _ = filesystem.link_target(file);
    let (mut count, mut names) = (0, Vec::new());
    let _ = filesystem.list(file, &mut |entry| {
        count += 1;
        if let Ok(entry) = entry {
            assert!(!entry.name.is_empty(), "every entry has a name");
            waiting.push(entry.file);
            names.push(entry.name);
        }
        if count < MANY { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    for name in names.iter().step_by(names.len() / 4 + 1) {
        let _ = filesystem.lookup(file, name);
    }
    let Ok(mut content) = filesystem.open(file) else { return };
    let mut buffer = vec![0; 64 * 1024];
    let size = content.size();
    for place in [0, size / 2, size.saturating_sub(100), size, u64::MAX] {
        if let Ok(count) = content.read_at(place, &mut buffer) {
            let left = size.saturating_sub(place);
            assert!(count as u64 <= left, "no more is read than there is");
        }
    }
    let (mut extents, mut at) = (0, 0);
    let _ = content.extents(&mut |extent| {
        assert_eq!(extent.offset, at, "extents leave no gap");
        at += extent.length;
        assert!(at <= size, "extents end with the file");
        extents += 1;
        if extents < MANY { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
}
