//! The journal's whole transactions, oldest first, and what they leave to be written.

use std::collections::{BTreeMap, HashMap};

use super::super::units::BlockNumber;
use super::crc::BigEndianCrc;
use super::header::{BlockType, block_header};
use super::log::Log;
use super::overlay::Copy;
use super::tags::{Tag, revoked, tags};
use crate::base::fields::{be32, u8_at};
use crate::base::{ErrorKind, Result};

/// What a journal holds.
pub(super) struct Found {
    /// For each block, where in the journal its newest sound content is.
    pub copies: BTreeMap<BlockNumber, Copy>,
    /// The transaction that comes after the last whole one.
    pub next_sequence: u32,
    /// Where damage ended the replay or left a copy out, in sentences.
    pub damage: Vec<String>,
}

/// One content of a block, and the transaction that has it.
struct Version {
    copy: Copy,
    sequence: u32,
    tag: Tag,
}

/// A transaction in the reading: nothing of it counts before its commit block.
struct Transaction {
    copies: Vec<(Tag, u32)>,
    revoked: Vec<BlockNumber>,
    /// CRC32 of descriptors and contents, for checksums of version 1.
    sum: BigEndianCrc,
    is_damaged: bool,
}

impl Transaction {
    fn new() -> Self {
        let sum = BigEndianCrc::new();
        Self { copies: Vec::new(), revoked: Vec::new(), sum, is_damaged: false }
    }
}

/// Reads the journal from its start to the end of its last whole transaction. Damage ends it, and
/// what came before counts, as in the kernel's `do_one_pass`.
///
/// # Errors
/// The run's being stopped.
pub(super) fn scan(log: &Log<'_>) -> Result<Found> {
    let mut state = State::new(log);
    if log.superblock.s_start != 0
        && let Err(error) = state.go_round()
    {
        if error.kind() == ErrorKind::Cancelled {
            return Err(error);
        }
        let sequence = state.sequence;
        state.note(format!(
            "Transaction {sequence} of the journal cannot be read: neither it nor what follows is \
             seen ({error})."
        ));
    }
    Ok(state.finish())
}

/// A scan on its way.
struct State<'a> {
    log: &'a Log<'a>,
    sequence: u32,
    transaction: Transaction,
    /// For each block, its contents, the newest last.
    versions: HashMap<BlockNumber, Vec<Version>>,
    /// For each block, the last transaction that revoked it.
    revoked: HashMap<BlockNumber, u32>,
    damage: Vec<String>,
}

impl<'a> State<'a> {
    fn new(log: &'a Log<'a>) -> Self {
        Self {
            log,
            sequence: log.superblock.s_sequence,
            transaction: Transaction::new(),
            versions: HashMap::new(),
            revoked: HashMap::new(),
            damage: Vec::new(),
        }
    }

    /// Goes from transaction to transaction, once round the ring at the most.
    fn go_round(&mut self) -> Result<()> {
        let log = self.log;
        let mut number = log.superblock.s_start;
        let mut left = log.length();
        while left > 0 {
            let block = log.read(number)?;
            let Some((kind, sequence)) = block_header(&block) else { break };
            if sequence != self.sequence {
                break;
            }
            let used = match kind {
                BlockType::Descriptor => self.descriptor(&block, number)?,
                BlockType::Revoke => self.revoke(&block)?,
                BlockType::Commit => match self.commit(&block)? {
                    true => 1,
                    false => break,
                },
            };
            left = left.saturating_sub(used);
            for _ in 0..used.min(log.length()) {
                number = log.after(number);
            }
        }
        Ok(())
    }

    /// A descriptor block; returns how many blocks it and what it describes take.
    fn descriptor(&mut self, block: &[u8], number: u32) -> Result<u32> {
        self.transaction.is_damaged |= !self.log.superblock.tail_is_right(block);
        let sums = self.log.superblock.has_commit_sums();
        if sums {
            self.transaction.sum.add(block);
        }
        let mut used = 1_u32;
        let mut place = number;
        for tag in tags(&self.log.superblock, block) {
            place = self.log.after(place);
            used = used.saturating_add(1);
            if sums {
                self.transaction.sum.add(&self.log.read(place)?);
            }
            self.transaction.copies.push((tag, place));
            if used > self.log.length() {
                break;
            }
        }
        Ok(used)
    }

    fn revoke(&mut self, block: &[u8]) -> Result<u32> {
        let is_right = self.log.superblock.tail_is_right(block);
        match revoked(&self.log.superblock, block) {
            Ok(blocks) if is_right => self.transaction.revoked.extend(blocks),
            _ => self.transaction.is_damaged = true,
        }
        Ok(1)
    }

    /// A commit block; returns whether its transaction is whole.
    fn commit(&mut self, block: &[u8]) -> Result<bool> {
        let transaction = std::mem::replace(&mut self.transaction, Transaction::new());
        let superblock = &self.log.superblock;
        let is_right = superblock.commit_is_right(block)
            && (!superblock.has_commit_sums() || commit_sum_is_right(block, &transaction));
        if !is_right || transaction.is_damaged {
            // With asynchronous commits, an unfinished transaction is nothing unusual.
            if !superblock.is_async() {
                self.note(format!(
                    "Transaction {} of the journal is damaged: neither it nor what follows is seen.",
                    self.sequence
                ));
            }
            return Ok(false);
        }
        for (tag, number) in transaction.copies {
            if tag.block.0 >= self.log.filesystem_blocks() {
                let (block, sequence) = (tag.block, self.sequence);
                self.note(format!(
                    "Transaction {sequence} of the journal has {block}, beyond the filesystem's end."
                ));
                continue;
            }
            let copy = Copy { offset: self.log.place(number)?, escaped: tag.escaped };
            let version = Version { copy, sequence: self.sequence, tag };
            self.versions.entry(tag.block).or_default().push(version);
        }
        for block in transaction.revoked {
            self.revoked.insert(block, self.sequence);
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(true)
    }

    fn note(&mut self, damage: String) {
        self.damage.push(damage);
    }

    /// Leaves out what was revoked in the same transaction or later. Where the newest content is
    /// damaged, the one before it counts, which is what the kernel leaves on the disk before it
    /// refuses to go on.
    fn finish(mut self) -> Found {
        let mut copies = BTreeMap::new();
        for (block, versions) in std::mem::take(&mut self.versions) {
            let revoked = self.revoked.get(&block).copied();
            for version in versions.into_iter().rev() {
                // Transactions are numbered in a ring too.
                let is_past = |last: u32| last.wrapping_sub(version.sequence).cast_signed() >= 0;
                if revoked.is_some_and(is_past) {
                    break;
                }
                if self.content_is_right(&version) {
                    copies.insert(block, version.copy);
                    break;
                }
                self.note(format!(
                    "The content of {block} in transaction {} of the journal is damaged: what was \
                     there before is read.",
                    version.sequence
                ));
            }
        }
        self.damage.sort();
        Found { copies, next_sequence: self.sequence, damage: self.damage }
    }

    fn content_is_right(&self, Version { copy, sequence, tag }: &Version) -> bool {
        let superblock = &self.log.superblock;
        if !superblock.has_checksums() {
            return true;
        }
        let Ok(content) = self.log.read_at(copy.offset) else { return false };
        let sum = superblock.seed.add(&sequence.to_be_bytes()).add(&content);
        match superblock.has_checksums_v3() {
            true => sum.value() == tag.checksum,
            false => u32::from(sum.low()) == tag.checksum,
        }
    }
}

/// Whether the checksum of version 1 in a commit block is right; it may have been left out.
fn commit_sum_is_right(block: &[u8], transaction: &Transaction) -> bool {
    let (kind, size, found) = (u8_at(block, 0xc), u8_at(block, 0xd), be32(block, 0x10));
    let is_absent = (kind, size, found) == (Some(0), Some(0), Some(0));
    is_absent || (kind, size, found) == (Some(1), Some(4), Some(transaction.sum.value()))
}
