//! A tree's node: what it says of up to 512 children, as runs.
//!
//! Encoding, little-endian (FORMAT.md, "Node"): level `u8`, zero `u8`, packs `u16`, runs `u32`,
//! then the packs' ids (16 each), then the runs. A run: state `u8`, children `u16`; for *stored*
//! and *partial* ones a digest (32), pack number `u16`, offset `u32`, length `u32`, member `u8`; for
//! *partial* ones also a count `u16` and as many pairs of first sector `u16`, sectors `u16` (of 512 bytes).
//!
//! A node's digest covers level, states, counts and digests, but no places: the same disk
//! content has the same digest wherever it is stored.

use super::digest::{Digest, DigestKeys, PackId};
use super::frame::Place;
use crate::base::Result;
use crate::base::bytes::FieldReader;
use crate::base::limits::{MAX_BLOCK_SIZE, MAX_TREE_LEVEL, NODE_FANOUT};

/// The unit of unreadable ranges inside a block, bytes.
pub const SECTOR: u64 = 512;

/// A content in the store: what it is and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoredEntry {
    /// The digest of the content.
    pub digest: Digest,
    /// Where its frame is.
    pub place: Place,
}

/// Sectors inside a block that could not be read: the first, and how many (of 512 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSectors {
    /// The first, counted from the block's start.
    pub first: u16,
    /// How many.
    pub count: u16,
}

/// What a tree says of a block, or of a child node's whole span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Reads as zeros.
    Zero,
    /// Not used by its filesystem; reads as zeros.
    Unallocated,
    /// The source failed here; reads fail.
    Unreadable,
    /// A block's content, or a child node.
    Stored(StoredEntry),
    /// A block of which some sectors could not be read: those fail, the rest is stored, with
    /// zeros in their place.
    Partial(StoredEntry, Vec<BadSectors>),
}

impl Entry {
    fn code(&self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::Unallocated => 1,
            Self::Unreadable => 2,
            Self::Stored(_) => 3,
            Self::Partial(..) => 4,
        }
    }

    /// Whether it says the same of every block below, without a content.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        matches!(self, Self::Zero | Self::Unallocated | Self::Unreadable)
    }

    /// The stored content, if it has one.
    #[must_use]
    pub fn stored(&self) -> Option<&StoredEntry> {
        match self {
            Self::Stored(stored) | Self::Partial(stored, _) => Some(stored),
            _ => None,
        }
    }

    /// Whether both say the same of the disk, wherever it is stored.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stored(a), Self::Stored(b)) => a.digest == b.digest,
            (Self::Partial(a, bad), Self::Partial(b, also)) => a.digest == b.digest && bad == also,
            _ => self.code() == other.code(),
        }
    }

    /// Appends what a digest covers: state and content, not place.
    pub fn canonical(&self, out: &mut Vec<u8>) {
        out.push(self.code());
        if let Some(stored) = self.stored() {
            out.extend_from_slice(&stored.digest.0);
        }
        if let Self::Partial(_, bad) = self {
            encode_bad(bad, out);
        }
    }
}

/// Neighbouring children of which a node says the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// How many children; 1 to 512.
    pub count: u16,
    /// What it says of each.
    pub entry: Entry,
}

/// A node, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Zero for a leaf, whose children are blocks.
    pub level: u8,
    runs: Vec<Run>,
    children: u16,
}

impl Node {
    /// A node of `level` with no children yet.
    #[must_use]
    pub fn new(level: u8) -> Self {
        Self { level, runs: Vec::new(), children: 0 }
    }

    /// Its runs, in the disk's order.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many children it has.
    #[must_use]
    pub fn children(&self) -> u16 {
        self.children
    }

    /// How many more children it can take.
    #[must_use]
    pub fn room(&self) -> u16 {
        NODE_FANOUT - self.children
    }

    /// Adds `count` children, for which it must have room.
    pub fn push(&mut self, entry: Entry, count: u16) {
        assert!(count > 0 && count <= self.room(), "a node was overfilled");
        self.children += count;
        match self.runs.last_mut() {
            Some(last) if last.entry == entry => last.count += count,
            _ => self.runs.push(Run { count, entry }),
        }
    }

    /// The entry of child `number`.
    #[must_use]
    pub fn child(&self, number: u16) -> Option<&Entry> {
        let mut first = 0;
        self.runs.iter().find_map(|run| {
            first += run.count;
            (number < first).then_some(&run.entry)
        })
    }

    /// The entry that stands for the whole node, if all its children are alike and need none.
    #[must_use]
    pub fn uniform(&self) -> Option<Entry> {
        match self.runs.as_slice() {
            [run] if run.entry.is_uniform() => Some(run.entry.clone()),
            _ => None,
        }
    }

    /// The node's digest.
    #[must_use]
    pub fn digest(&self, keys: &DigestKeys) -> Digest {
        let mut canonical = vec![self.level];
        let mut runs = self.runs.iter().peekable();
        while let Some(run) = runs.next() {
            let mut count = run.count;
            while let Some(next) = runs.next_if(|next| next.entry.same_content(&run.entry)) {
                count += next.count;
            }
            canonical.extend_from_slice(&count.to_le_bytes());
            run.entry.canonical(&mut canonical);
        }
        keys.node(&canonical)
    }

    /// The node's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut packs: Vec<PackId> = Vec::new();
        let mut runs = Vec::new();
        for run in &self.runs {
            runs.push(run.entry.code());
            runs.extend_from_slice(&run.count.to_le_bytes());
            if let Some(stored) = run.entry.stored() {
                let pack = stored.place.pack;
                let known = packs.iter().position(|known| *known == pack);
                let number = known.unwrap_or_else(|| {
                    packs.push(pack);
                    packs.len() - 1
                });
                runs.extend_from_slice(&stored.digest.0);
                runs.extend_from_slice(&u16_field(number).to_le_bytes());
                runs.extend_from_slice(&stored.place.offset.to_le_bytes());
                runs.extend_from_slice(&stored.place.length.to_le_bytes());
                runs.push(stored.place.member);
            }
            if let Entry::Partial(_, bad) = &run.entry {
                encode_bad(bad, &mut runs);
            }
        }
        let mut bytes = vec![self.level, 0];
        bytes.extend_from_slice(&u16_field(packs.len()).to_le_bytes());
        bytes.extend_from_slice(&u32::from(u16_field(self.runs.len())).to_le_bytes());
        packs.iter().for_each(|pack| bytes.extend_from_slice(&pack.0));
        bytes.extend_from_slice(&runs);
        bytes
    }

    /// Reads a node and checks every field.
    ///
    /// # Errors
    /// `Corrupt` with the position of what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = FieldReader::new("tree node", bytes);
        let (level, zero) = (fields.u8()?, fields.u8()?);
        if level > MAX_TREE_LEVEL || zero != 0 {
            return Err(fields.corrupt(format!("a level up to {MAX_TREE_LEVEL}"), level));
        }
        let (pack_count, run_count) = (fields.u16()?, fields.u32()?);
        let mut packs = Vec::new();
        for _ in 0..pack_count {
            packs.push(PackId(fields.array()?));
        }
        let mut node = Self::new(level);
        for _ in 0..run_count {
            let (code, count) = (fields.u8()?, fields.u16()?);
            if count == 0 || count > node.room() {
                return Err(fields.corrupt(format!("1 to {} children", node.room()), count));
            }
            let entry = decode_entry(code, &packs, &mut fields)?;
            if level > 0 && matches!(entry, Entry::Partial(..)) {
                return Err(fields.corrupt("a partial block in a leaf only", level));
            }
            node.children += count;
            node.runs.push(Run { count, entry });
        }
        fields.finish()?;
        Ok(node)
    }
}

fn decode_entry(code: u8, packs: &[PackId], fields: &mut FieldReader<'_>) -> Result<Entry> {
    match code {
        0 => Ok(Entry::Zero),
        1 => Ok(Entry::Unallocated),
        2 => Ok(Entry::Unreadable),
        3 | 4 => {
            let digest = Digest(fields.array()?);
            let number = fields.u16()?;
            let Some(pack) = packs.get(usize::from(number)).copied() else {
                return Err(fields.corrupt(format!("one of {} packs", packs.len()), number));
            };
            let (offset, length, member) = (fields.u32()?, fields.u32()?, fields.u8()?);
            let place = Place { pack, offset, length, member };
            let stored = StoredEntry { digest, place };
            if code == 3 {
                return Ok(Entry::Stored(stored));
            }
            Ok(Entry::Partial(stored, decode_bad(fields)?))
        }
        _ => Err(fields.corrupt("a state from 0 to 4", code)),
    }
}

fn encode_bad(bad: &[BadSectors], out: &mut Vec<u8>) {
    out.extend_from_slice(&u16_field(bad.len()).to_le_bytes());
    for sectors in bad {
        out.extend_from_slice(&sectors.first.to_le_bytes());
        out.extend_from_slice(&sectors.count.to_le_bytes());
    }
}

fn decode_bad(fields: &mut FieldReader<'_>) -> Result<Vec<BadSectors>> {
    let sectors_of_a_block = u64::from(MAX_BLOCK_SIZE) / SECTOR;
    let mut bad = Vec::new();
    let mut end = 0;
    for _ in 0..fields.u16()? {
        let sectors = BadSectors { first: fields.u16()?, count: fields.u16()? };
        let next = u64::from(sectors.first) + u64::from(sectors.count);
        if u64::from(sectors.first) < end || sectors.count == 0 || next > sectors_of_a_block {
            return Err(fields.corrupt("sorted sectors of one block", sectors.first));
        }
        end = next;
        bad.push(sectors);
    }
    Ok(bad)
}

fn u16_field(value: usize) -> u16 {
    u16::try_from(value).expect("a node has at most 512 runs and packs, a block 2048 sectors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(byte: u8, pack: u8) -> Entry {
        Entry::Stored(StoredEntry {
            digest: Digest([byte; 32]),
            place: Place { pack: PackId([pack; 16]), offset: 48, length: 100, member: 0 },
        })
    }

    fn sample() -> Node {
        let mut node = Node::new(0);
        node.push(Entry::Zero, 3);
        node.push(stored(1, 1), 1);
        node.push(stored(1, 2), 1);
        node.push(stored(2, 1), 2);
        node.push(Entry::Unallocated, 1);
        node.push(Entry::Unreadable, 1);
        let Entry::Stored(content) = stored(3, 1) else { panic!("stored") };
        node.push(Entry::Partial(content, vec![BadSectors { first: 3, count: 2 }]), 1);
        node
    }

    #[test]
    fn a_node_reads_back() {
        let node = sample();
        assert_eq!(Node::decode(&node.encode()).expect("valid"), node);
        assert_eq!(node.child(2), Some(&Entry::Zero));
        assert_eq!(node.child(6), Some(&stored(2, 1)));
        assert_eq!(node.child(10), None);
    }

    #[test]
    fn a_digest_covers_content_and_states_but_no_places() {
        let keys = DigestKeys::derive(&[0; 32]);
        let digest = |entries: &[Entry]| {
            let mut node = Node::new(0);
            entries.iter().for_each(|entry| node.push(entry.clone(), 1));
            node.digest(&keys)
        };
        let same = digest(&[stored(1, 1), stored(1, 1)]);
        assert_eq!(same, digest(&[stored(1, 7), stored(1, 9)]));
        assert_ne!(same, digest(&[stored(1, 1)]));
        assert_ne!(same, digest(&[stored(1, 1), stored(2, 1)]));
        assert_ne!(digest(&[Entry::Zero]), digest(&[Entry::Unallocated]));
        assert_ne!(digest(&[Entry::Zero]), digest(&[Entry::Unreadable]));
    }

    #[test]
    fn truncated_or_wild_nodes_are_refused() {
        let bytes = sample().encode();
        for length in 0..bytes.len() {
            assert!(Node::decode(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
        for place in 0..bytes.len() {
            let mut wild = bytes.clone();
            wild[place] ^= 0xff;
            // Must not panic; a digest check follows every decoding.
            let _outcome = Node::decode(&wild);
        }
    }
}
