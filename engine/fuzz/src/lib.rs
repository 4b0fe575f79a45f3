//! What the fuzz targets share: a sound image with the fuzzer's bytes put over it, and everything
//! that can be done with a filesystem.
//!
//! The sound images are made by `engine/fuzz/run`, which says where they are in `IMGX_FUZZ_SEEDS`.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use imgx_engine::block::ReadAt;
use imgx_engine::fs::{FileId, Filesystem};

/// Files that one run looks at, at most, and entries and extents of each.
const FILES: usize = 300;
const MANY: usize = 2000;

/// A sound image.
pub struct Seed {
    bytes: Vec<u8>,
    /// Places worth changing: where there is something.
    used: Vec<usize>,
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
        Self { bytes, used }
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
        Arc::new(self.patched_bytes(data))
    }

    /// As [`patched`](Self::patched), to be changed further.
    #[must_use]
    pub fn patched_bytes(&self, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let Some((cut, mut rest)) = data.split_first() else { return bytes };
        while let [a, b, c, length, after @ ..] = rest {
            let pick = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
            let place = self.used[pick % self.used.len()];
            let length = (usize::from(*length) % 8 + 1).min(after.len());
            let length = length.min(bytes.len() - place);
            bytes[place..place + length].copy_from_slice(&after[..length]);
            rest = &after[length..];
        }
        if *cut > 240 {
            bytes.truncate(self.bytes.len() / 16 * (usize::from(*cut) - 240));
        }
        bytes
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
    let _ = filesystem.free_space(&mut |range| {
        assert!(range.start < range.end, "free space is of some length");
        ControlFlow::Continue(())
    });
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
