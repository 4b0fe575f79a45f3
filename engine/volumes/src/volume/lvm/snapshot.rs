//! Snapshots that keep what was changed since in a store of their own.
//!
//! Source: Linux, `drivers/md/dm-snap-persistent.c` and
//! `Documentation/admin-guide/device-mapper/snapshot.rst`. A store has chunks: the first is the
//! header, behind it are areas, each a chunk that lists exceptions (the number of an old chunk, and
//! where in the store its content is) and the chunks that these lead to.

use std::sync::Arc;

use super::layers::{length_of, not_alone, take};
use crate::base::fields::{has, le32, le64};
use crate::base::limits::MAX_SNAPSHOT_EXCEPTIONS;
use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, check_range,
};
use crate::volume::layer::Layer;

const MAGIC: &[u8] = b"SnAp";
/// Bytes of a header that are used, and of one exception.
const HEADER: usize = 16;
const EXCEPTION: usize = 16;
/// Bytes of a chunk at most: more than device mapper's own limit for what LVM makes, 512 KiB.
const MAX_CHUNK: u64 = 16 << 20;

/// Chunks that follow one another in both the volume and the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    old: u64,
    new: u64,
    count: u64,
}

/// A volume as it was, and as it was changed under its own name.
pub(super) struct Snapshot {
    origin: Arc<dyn Layer>,
    store: Arc<dyn Layer>,
    length: u64,
    chunk: u64,
    /// By old chunks; none overlaps another.
    runs: Vec<Run>,
}

impl Snapshot {
    /// The snapshot of `length` bytes of `origin`, whose changes are in `store`, in chunks of
    /// `chunk` bytes unless the store itself says otherwise.
    ///
    /// # Errors
    /// `Unsupported` if the store is out of use; `Corrupt` if it makes no sense.
    pub(super) fn open(
        origin: Arc<dyn Layer>,
        store: Arc<dyn Layer>,
        length: u64,
        chunk: u64,
    ) -> Result<Self> {
        let mut header = [0; HEADER];
        store.read_exact_at(ByteOffset(0), &mut header)?;
        let (chunk, runs) = match chunk_of(&header)? {
            Some(chunk) => (chunk, runs(store.as_ref(), chunk)?),
            None => {
                // Nothing was written to origin or snapshot since this one was made.
                let mut start = vec![0; usize::try_from(chunk.min(4096)).unwrap_or(HEADER)];
                store.read_exact_at(ByteOffset(0), &mut start)?;
                if start.iter().any(|byte| *byte != 0) {
                    return Err(Error::corrupt("snapshot's store", "a header", "none"));
                }
                (chunk, Vec::new())
            }
        };
        Ok(Self { origin, store, length, chunk, runs })
    }

    /// Calls `visit` for each piece of `wanted` with the layer that holds it, and where.
    fn each(
        &self,
        wanted: ByteRange,
        visit: &mut dyn FnMut(&dyn Layer, ByteRange) -> Result<()>,
    ) -> Result<()> {
        let mut at = wanted.start;
        let number = at.checked_div(self.chunk).unwrap_or(0);
        let first = self.runs.partition_point(|run| run.old.saturating_add(run.count) <= number);
        let mut runs = self.runs.iter().skip(first);
        while at < wanted.end {
            let run = runs.next().map(|run| {
                let start = run.old.saturating_mul(self.chunk);
                (start, run.count.saturating_mul(self.chunk), run.new.saturating_mul(self.chunk))
            });
            let changed = run.map_or(wanted.end, |(start, _, _)| start.min(wanted.end));
            if at < changed {
                visit(self.origin.as_ref(), ByteRange { start: at, end: changed })?;
                at = changed;
            }
            if let Some((start, length, place)) = run.filter(|_| at < wanted.end) {
                let within = at.saturating_sub(start);
                let left = wanted.end.saturating_sub(at).min(length.saturating_sub(within));
                visit(self.store.as_ref(), ByteRange::new(place.saturating_add(within), left))?;
                at = at.saturating_add(left);
            }
        }
        Ok(())
    }
}

impl ReadAt for Snapshot {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let wanted = ByteRange::new(offset.0, length_of(buffer));
        let mut rest = buffer;
        self.each(wanted, &mut |layer, place| {
            layer.read_exact_at(ByteOffset(place.start), take(&mut rest, place.len()))
        })
    }
}

impl Layer for Snapshot {
    fn each_place(&self, _: ByteRange, _: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        Err(not_alone("a snapshot shares its blocks with its origin"))
    }
}

/// disk_header: magic 0, whether it is valid 4, version 8, sectors of a chunk 12. The bytes of a
/// chunk; `None` if no header was written yet.
fn chunk_of(header: &[u8]) -> Result<Option<u64>> {
    let place = "snapshot's store";
    if header.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if !has(header, 0, MAGIC) {
        let found = format!("{:02x?}", header.get(..4).unwrap_or_default());
        return Err(Error::corrupt(place, "magic SnAp", found));
    }
    let field = |at| le32(header, at).unwrap_or_default();
    if field(8) != 1 {
        return Err(Error::newer(format!("{place} has version {}", field(8))));
    }
    if field(4) != 1 {
        let why = "the snapshot is invalid: its store overflowed or failed";
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let chunk = u64::from(field(12)).saturating_mul(512);
    if !chunk.is_power_of_two() || chunk > MAX_CHUNK {
        return Err(Error::corrupt(place, "chunks of a power of two", format!("{chunk} bytes")));
    }
    Ok(Some(chunk))
}

/// All exceptions of a store.
fn runs(store: &dyn Layer, chunk: u64) -> Result<Vec<Run>> {
    let chunks = store.size().0.checked_div(chunk).unwrap_or(0);
    let mut area = vec![0; usize::try_from(chunk).unwrap_or(EXCEPTION)];
    let stride = u64::try_from(area.len() / EXCEPTION).unwrap_or(u64::MAX).saturating_add(1);
    let (mut runs, mut place): (Vec<Run>, u64) = (Vec::new(), 1);
    'areas: while place < chunks {
        store.read_exact_at(ByteOffset(place.saturating_mul(chunk)), &mut area)?;
        for exception in area.as_chunks::<EXCEPTION>().0 {
            let field = |at| le64(exception, at).unwrap_or_default();
            let (old, new) = (field(0), field(8));
            // No content can be where the header is: that is the end.
            if new == 0 {
                break 'areas;
            }
            if new >= chunks || old.checked_mul(chunk).is_none() {
                let expected = format!("an exception within {chunks} chunks");
                let found = format!("chunk {old} at {new}");
                let at = place.saturating_mul(chunk);
                return Err(Error::corrupt(format!("store's byte {at}"), expected, found));
            }
            add(&mut runs, old, new)?;
        }
        place = place.saturating_add(stride);
    }
    runs.sort_by_key(|run| run.old);
    let twice = runs
        .iter()
        .zip(runs.iter().skip(1))
        .find(|(one, next)| one.old.checked_add(one.count).is_none_or(|end| end > next.old));
    match twice {
        Some((_, next)) => {
            let found = format!("two for chunk {}", next.old);
            Err(Error::corrupt("snapshot's store", "one exception for each chunk", found))
        }
        None => Ok(runs),
    }
}

fn add(runs: &mut Vec<Run>, old: u64, new: u64) -> Result<()> {
    if let Some(last) = runs.last_mut()
        && last.old.checked_add(last.count) == Some(old)
        && last.new.checked_add(last.count) == Some(new)
    {
        last.count = last.count.saturating_add(1);
        return Ok(());
    }
    if runs.len() >= MAX_SNAPSHOT_EXCEPTIONS {
        let why = format!("a snapshot of more than {MAX_SNAPSHOT_EXCEPTIONS} changed stretches");
        return Err(Error::new(ErrorKind::Limit, why));
    }
    runs.push(Run { old, new, count: 1 });
    Ok(())
}
