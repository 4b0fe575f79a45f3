//! Where the log's history ends, and where what is not yet on the disk begins.
//!
//! As the kernel's `xlog_find_head`, `xlog_verify_head` and `xlog_find_tail`
//! (`fs/xfs/xfs_log_recover.c`) have it: turns around the ring are counted in every block, so the
//! end is found by halving; before it, what was in flight may be missing.

use super::ring::{BLOCK, Record, Ring, cycle_of};
use crate::base::fields::{be32, u8_at};
use crate::base::{Error, Result};

/// Blocks that may be in flight at once: eight records of 256 KiB.
const IN_FLIGHT: u64 = 4096;
/// Records that may be in flight at once.
const RECORDS_IN_FLIGHT: usize = 8;
/// Bit of `oh_flags`: the filesystem was unmounted.
const UNMOUNT: u8 = 0x20;

/// What there is to replay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dirty {
    /// The block of the first record.
    pub tail: u64,
    /// The block after the last record.
    pub head: u64,
    /// Whether records after it were left out, as if in flight, because they are damaged.
    pub is_torn: bool,
}

/// The part of the log that is to be replayed; `None` if the filesystem was unmounted.
///
/// # Errors
/// `Corrupt` when the log makes no sense; the volume's own.
pub(super) fn find(ring: &Ring) -> Result<Option<Dirty>> {
    if ring.cycle(0)? == 0 {
        // Never used.
        return Ok(None);
    }
    let mut head = head_by_cycles(ring)?;
    let mut last = record_before(ring, head)?;
    // A record that is not whole ends the history; the one before it is, or ends it again.
    for _ in 0..RECORDS_IN_FLIGHT {
        if ring.after(last.at, last.blocks()) == head {
            break;
        }
        head = last.at;
        last = record_before(ring, head)?;
    }
    let torn = first_torn(ring, last)?;
    if let Some(torn) = torn {
        head = torn;
        last = record_before(ring, head)?;
    }
    if is_unmount(ring, &last)? {
        return Ok(None);
    }
    Ok(Some(Dirty { tail: last.h_tail_lsn.block(), head, is_torn: torn.is_some() }))
}

/// Where the newest turn ends, as far as the blocks themselves say.
fn head_by_cycles(ring: &Ring) -> Result<u64> {
    let end = ring.blocks;
    let (first, last) = (ring.cycle(0)?, ring.cycle(end.saturating_sub(1))?);
    let is_newest = |at: u64| Ok::<bool, Error>(ring.cycle(at)? == first);
    if first == last {
        // The turn was just finished, or what was in flight at its end is missing.
        let old = last.wrapping_sub(1);
        return Ok(first_of_cycle(ring, end.saturating_sub(IN_FLIGHT), end, old)?.unwrap_or(0));
    }
    let (mut low, mut high) = (0, end.saturating_sub(1));
    // `low` is of the newest turn, `high` is not.
    while high.saturating_sub(low) > 1 {
        let middle = low.midpoint(high);
        if is_newest(middle)? { low = middle } else { high = middle }
    }
    if high < IN_FLIGHT && last != 0 {
        // What was in flight may have begun before the ring's end, in the turn before.
        let from = end.saturating_sub(IN_FLIGHT.saturating_sub(high));
        if let Some(gap) = first_of_cycle(ring, from.max(high), end, last.wrapping_sub(1))? {
            return Ok(gap);
        }
    }
    let gap = first_of_cycle(ring, high.saturating_sub(IN_FLIGHT), high, last)?;
    Ok(gap.unwrap_or(high))
}

/// The first block from `from` to `to` that was written in the turn `cycle`.
fn first_of_cycle(ring: &Ring, from: u64, to: u64, cycle: u32) -> Result<Option<u64>> {
    let bytes = ring.read(from, to.saturating_sub(from))?;
    let found = bytes.chunks(BLOCK).zip(from..).find(|(block, _)| cycle_of(block) == cycle);
    Ok(found.map(|(_, at)| at))
}

/// The last record that starts before `at`.
fn record_before(ring: &Ring, at: u64) -> Result<Record> {
    for distance in 1..=IN_FLIGHT.min(ring.blocks) {
        if let Some(record) = ring.record(ring.before(at, distance))? {
            return Ok(record);
        }
    }
    Err(Error::corrupt(format!("block {at}"), "a record before it", "none"))
}

/// The first record with a wrong checksum among the last ones, `last` included: it was in flight.
fn first_torn(ring: &Ring, last: Record) -> Result<Option<u64>> {
    let mut records = vec![last];
    let tail = last.h_tail_lsn.block();
    while let Some(first) = records.last().copied() {
        if records.len() >= RECORDS_IN_FLIGHT || first.at == tail {
            break;
        }
        // What is before the tail may be overwritten, and need not be read.
        match record_before(ring, first.at) {
            Ok(record) if record.h_lsn < first.h_lsn => records.push(record),
            _ => break,
        }
    }
    let torn = records.iter().rev().find(|record| ring.content(record, true).is_err());
    Ok(torn.map(|record| record.at))
}

/// Whether `record` says that the filesystem was unmounted, and nothing else.
fn is_unmount(ring: &Ring, record: &Record) -> Result<bool> {
    if record.h_num_logops != 1 {
        return Ok(false);
    }
    let content = ring.content(record, true)?;
    let is_there = be32(&content, 0).is_some();
    Ok(is_there && u8_at(&content, 9).is_some_and(|flags| flags & UNMOUNT != 0))
}
