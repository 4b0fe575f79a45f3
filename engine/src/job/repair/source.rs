//! Where a repair takes from what the repository has lost: a disk that still has the content, or a
//! copy of the repository.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::base::ranges::joined;
use crate::base::{
    ByteRange, Error, ErrorKind, Event, Observer, Phase, Progress, ReadAt, Result, Silent,
};
use crate::block::{Chunk, Disk, ExtentKind, OpenOptions};
use crate::job::pipeline::{Pipeline, worker_threads};
use crate::store::mend::Listed;
use crate::store::repository::Image;
use crate::store::storage::ObjectName;
use crate::store::{Digest, ImageId, PackId, Repository, pack, salvage};

/// Contents by their digests.
pub type Contents = HashMap<Digest, Vec<u8>>;

/// What to repair from.
pub enum Source {
    /// A device, a file or an export.
    Disk(Box<Disk>),
    /// A copy of the repository.
    Copy(Box<Repository>),
}

impl Source {
    /// Opens `path` as a source for `repository`.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for a repository that is no copy of it; `Io`.
    pub fn open(repository: &Repository, path: &Path, observer: &dyn Observer) -> Result<Self> {
        if !path.is_dir() {
            let disk = Disk::open_watched(path, &OpenOptions::default(), observer)?;
            return Ok(Self::Disk(Box::new(disk)));
        }
        let copy = Repository::open(path)?;
        if copy.config() == repository.config() {
            return Ok(Self::Copy(Box::new(copy)));
        }
        let shown = path.display();
        let context = format!(
            "{shown}: no copy of this repository, but another one, whose contents have other \
             digests; restore an image of it and repair from that"
        );
        Err(Error::new(ErrorKind::Unsupported, context))
    }

    /// Those of the contents `wanted` that are on the disk, whole blocks of `repository`.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    pub fn gather(
        &self,
        repository: &Repository,
        wanted: &HashSet<Digest>,
        threads: Option<usize>,
        observer: &dyn Observer,
    ) -> Result<Contents> {
        let mut found = Contents::new();
        let Self::Disk(disk) = self else { return Ok(found) };
        if wanted.is_empty() {
            return Ok(found);
        }
        let (keys, block) = (repository.keys(), repository.config().block_size);
        let ranges = data(disk, block.bytes())?;
        let total = ranges.iter().map(ByteRange::len).sum();
        observer.event(&Event::Started { phase: Phase::Repair, total });
        let make_worker = || {
            let keys = keys.clone();
            move |chunk: &Chunk, _queued| {
                let blocks = chunk.buffer.chunks(block.usize());
                let blocks = blocks.map(|bytes| (keys.block(bytes), bytes));
                let wanted = blocks.filter(|(digest, _)| wanted.contains(digest));
                let wanted: Vec<_> = wanted.map(|(digest, b)| (digest, b.to_vec())).collect();
                Ok((chunk.buffer.len() as u64, wanted))
            }
        };
        let mut progress = Progress { total, ..Progress::default() };
        let pipeline = Pipeline { disk: &**disk, threads: worker_threads(threads), observer };
        pipeline.run(ranges, &make_worker, &mut |(bytes, blocks)| {
            found.extend(blocks);
            progress.done += bytes;
            progress.moved = progress.done;
            observer.event(&Event::Progress(progress));
            Ok(())
        })?;
        Ok(found)
    }

    /// A frame's bytes as a copy has them; nothing where there is none.
    #[must_use]
    pub fn frame(&self, id: PackId, listed: &Listed) -> Option<Vec<u8>> {
        let Self::Copy(copy) = self else { return None };
        let object = copy.storage().open(&pack::object_name(id)).ok()?;
        let mut bytes = vec![0; listed.length as usize];
        object.read_exact_at(u64::from(listed.offset), &mut bytes).ok()?;
        Some(bytes)
    }

    /// A whole pack as a copy has it, if all of it is sound there.
    #[must_use]
    pub fn pack(&self, id: PackId) -> Option<Vec<u8>> {
        let Self::Copy(copy) = self else { return None };
        let state = salvage::inspect(copy, id, &Silent, &mut |_, _| Ok(())).ok()?;
        let is_sound = state.damage == 0;
        let object = copy.storage().open(&pack::object_name(id)).ok().filter(|_| is_sound)?;
        object.read_all(pack::LONGEST).ok()
    }

    /// An image as a copy has it.
    #[must_use]
    pub fn image(&self, name: &ObjectName) -> Option<Image> {
        let Self::Copy(copy) = self else { return None };
        copy.image(ImageId::from_hex(name.name.split('.').next()?)?).ok()
    }
}

/// What may hold data of a disk, widened to whole blocks.
fn data(disk: &Disk, block: u64) -> Result<Vec<ByteRange>> {
    let size = disk.size().0;
    let extents = disk.extents()?.into_iter().filter(|extent| extent.kind != ExtentKind::Hole);
    let outward = |range: ByteRange| ByteRange {
        start: range.start / block * block,
        end: range.end.next_multiple_of(block).min(size),
    };
    Ok(joined(extents.map(|extent| outward(extent.range)).collect()))
}
