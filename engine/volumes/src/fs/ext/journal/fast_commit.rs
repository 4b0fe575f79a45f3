//! Fast commits: what happened since the last transaction, written behind the journal's ring as
//! changes to files rather than as blocks.
//!
//! Kernel documentation, `filesystems/ext4/journal.rst`, "Fast Commits"; the tags are those of
//! `fs/ext4/fast_commit.h`, all little-endian. A fast commit counts once its `TAIL` is there, with
//! the transaction that it belongs to and the checksum of all since the `TAIL` before.

use super::super::changes::{Change, InodeChange};
use super::super::checksum::Checksum;
use super::super::map::{Run, RunPlace};
use super::super::units::{BlockNumber, FileBlock, InodeNumber, join};
use super::log::Log;
use crate::base::fields::{le16, le32, slice};
use crate::base::{Error, ErrorKind, Result, limits};

/// `fc_tag`.
mod tag {
    pub(super) const ADD_RANGE: u16 = 0x1;
    pub(super) const DEL_RANGE: u16 = 0x2;
    pub(super) const CREAT: u16 = 0x3;
    pub(super) const LINK: u16 = 0x4;
    pub(super) const UNLINK: u16 = 0x5;
    pub(super) const INODE: u16 = 0x6;
    pub(super) const PAD: u16 = 0x7;
    pub(super) const TAIL: u16 = 0x8;
    pub(super) const HEAD: u16 = 0x9;
}
/// Bytes of `ext4_fc_tl`, which each value follows.
const TAG_SIZE: usize = 4;
/// Bytes of a `TAIL` that its checksum covers: the tag and `fc_tid`.
const COVERED_TAIL: usize = 8;
/// Bytes of a name at most.
const MAX_NAME: usize = 255;
/// An `ee_len` above this many blocks is that much more than an unwritten extent's.
const MAX_WRITTEN: u16 = 32768;

/// The fast commits that follow a journal's last whole transaction.
#[derive(Default)]
pub(super) struct FastCommits {
    /// How many are whole.
    pub count: u64,
    /// What they change, in order.
    pub changes: Vec<Change>,
    /// What damage ended them, if it did.
    pub damage: Option<String>,
}

/// Reads the fast commits that belong to transaction `tid`, the next one.
///
/// # Errors
/// `Unsupported` for features that are not known; `Limit` if there is too much; the volume's own.
pub(super) fn read(log: &Log<'_>, tid: u32) -> Result<FastCommits> {
    let superblock = &log.superblock;
    // An empty journal is not replayed, whatever follows its ring.
    if superblock.fast_commit_blocks == 0 || superblock.s_start == 0 {
        return Ok(FastCommits::default());
    }
    let mut area = Area::new(tid, log.inode_size());
    // jbd2 leaves the first block after the ring out.
    for number in superblock.ring_end().saturating_add(1)..superblock.s_maxlen {
        let block = log.read(number)?;
        area.bytes = area.bytes.saturating_add(block.len());
        if area.bytes > limits::MAX_FAST_COMMIT_BYTES {
            let context = format!("fast commits of more than {} bytes", area.bytes);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        if !area.block(&block)? {
            break;
        }
    }
    Ok(area.found)
}

/// The area in the reading.
struct Area {
    tid: u32,
    inode_size: usize,
    bytes: usize,
    /// The checksum since the last `TAIL`.
    sum: Checksum,
    /// What counts only if a `TAIL` follows.
    pending: Vec<Change>,
    has_head: bool,
    found: FastCommits,
}

impl Area {
    fn new(tid: u32, inode_size: u16) -> Self {
        let sum = Checksum::from_seed(0);
        let inode_size = usize::from(inode_size);
        let found = FastCommits::default();
        Self { tid, inode_size, bytes: 0, sum, pending: Vec::new(), has_head: false, found }
    }

    /// A block of the area; returns whether the next one goes on.
    fn block(&mut self, block: &[u8]) -> Result<bool> {
        let mut at = 0_usize;
        while let Some(header) = slice(block, at, TAG_SIZE) {
            let tag = le16(header, 0).unwrap_or_default();
            let length = usize::from(le16(header, 2).unwrap_or_default());
            let end = at.saturating_add(TAG_SIZE).saturating_add(length);
            let Some(record) = block.get(at..end) else { return Ok(false) };
            let value = record.get(TAG_SIZE..).unwrap_or_default();
            // Whatever lies there from before ends the area: it has no `HEAD` of this transaction.
            if !self.has_head && tag != tag::HEAD {
                return Ok(false);
            }
            let goes_on = match tag {
                tag::HEAD => self.head(value)?,
                tag::TAIL => self.tail(record),
                tag::PAD => true,
                _ => {
                    let change = self.change(tag, value);
                    let is_known = change.is_some();
                    self.pending.extend(change);
                    is_known
                }
            };
            if !goes_on {
                return Ok(false);
            }
            if tag != tag::TAIL {
                self.sum = self.sum.add(record);
            }
            at = end;
        }
        Ok(true)
    }

    fn head(&mut self, value: &[u8]) -> Result<bool> {
        let (features, tid) = (le32(value, 0x0), le32(value, 0x4));
        if value.len() != 8 || tid != Some(self.tid) {
            return Ok(false);
        }
        if features != Some(0) {
            let features = features.unwrap_or_default();
            let context = format!("fast commits with features that are not known: {features:#x}");
            return Err(Error::newer(context));
        }
        self.has_head = true;
        Ok(true)
    }

    /// The end of a fast commit, which its value pads to the end of the block.
    fn tail(&mut self, record: &[u8]) -> bool {
        if le32(record, 4) != Some(self.tid) {
            return false;
        }
        let sum = self.sum.add(record.get(..COVERED_TAIL).unwrap_or_default());
        self.sum = Checksum::from_seed(0);
        if le32(record, 8) != Some(sum.value()) {
            let number = self.found.count.saturating_add(1);
            self.found.damage = Some(format!(
                "Fast commit {number} of the journal is damaged: neither it nor what follows is seen."
            ));
            return false;
        }
        self.found.changes.append(&mut self.pending);
        self.found.count = self.found.count.saturating_add(1);
        true
    }

    /// The change that a tag stands for; `None` if it makes no sense, as what an older use of the
    /// area left does not.
    fn change(&self, tag: u16, value: &[u8]) -> Option<Change> {
        let first = le32(value, 0x0)?;
        let inode = InodeNumber(first);
        match tag {
            tag::ADD_RANGE if value.len() == 16 => {
                let run = run_of_extent(value.get(4..)?)?;
                Some(Change::Map(inode, run))
            }
            tag::DEL_RANGE if value.len() == 12 => {
                let (fc_lblk, fc_len) = (le32(value, 0x4)?, le32(value, 0x8)?);
                let first = FileBlock(u64::from(fc_lblk));
                let run = Run { first, count: u64::from(fc_len), place: RunPlace::Hole };
                Some(Change::Map(inode, run))
            }
            tag::INODE => {
                let raw = value.get(4..).filter(|raw| raw.len() <= self.inode_size)?;
                Some(Change::Inode(inode, InodeChange::parse(raw)?))
            }
            tag::CREAT | tag::LINK | tag::UNLINK => {
                let child = InodeNumber(le32(value, 0x4)?);
                let name = value.get(8..).filter(|name| (1..=MAX_NAME).contains(&name.len()))?;
                let name = name.to_vec();
                Some(match tag {
                    tag::CREAT => Change::Create { folder: inode, name, inode: child },
                    tag::LINK => Change::Link { folder: inode, name, inode: child },
                    _ => Change::Unlink { folder: inode, name },
                })
            }
            _ => None,
        }
    }
}

/// The run of an `ext4_extent`.
fn run_of_extent(extent: &[u8]) -> Option<Run> {
    let (ee_block, ee_len) = (le32(extent, 0x0)?, le16(extent, 0x4)?);
    let (ee_start_hi, ee_start_lo) = (le16(extent, 0x6)?, le32(extent, 0x8)?);
    let is_unwritten = ee_len > MAX_WRITTEN;
    let count = if is_unwritten { ee_len.wrapping_sub(MAX_WRITTEN) } else { ee_len };
    let start = BlockNumber(join(ee_start_lo, u32::from(ee_start_hi)));
    let place = if is_unwritten { RunPlace::Unwritten(start) } else { RunPlace::At(start) };
    Some(Run { first: FileBlock(u64::from(ee_block)), count: u64::from(count), place })
}
