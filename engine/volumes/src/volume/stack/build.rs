//! Building a stack, round by round: what one round opens, the next one looks into.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::keys::Keys;
use super::{Below, Inner, Node, Opened, Stretch, Stretches, arrays, logical, nested, unlocked};
use crate::base::bytes::to_hex;
use crate::base::limits::{MAX_PARTITIONS, MAX_UNUSED_PIECES, MAX_VOLUME_DEPTH};
use crate::base::{ByteRange, Error, ErrorKind, ReadAt, Result};
use crate::kind::Kind;
use crate::volume::layout::{DiskLayout, Notes, Volume};
use crate::volume::verdict::{self, Asked};

/// What a volume is to those that it lies in: what is found again in a later round is known by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// The disk's own.
    Own,
    /// An array, by its identifier.
    Array([u8; 16]),
    /// A logical volume, by those of its group and its own name.
    Logical(String, String),
    /// A partition within a volume: its number, and the partition's name.
    Nested(usize, String),
    /// What a volume holds in encrypted form: its number.
    Unlocked(usize),
}

/// A volume that was found in others.
pub(super) struct Found {
    pub volume: Volume,
    pub identity: Identity,
    pub opened: Result<Opened>,
}

/// A stack that is being built.
pub(super) struct Building<'a> {
    pub sector_size: u32,
    pub keys: &'a Keys,
    pub volumes: Vec<Volume>,
    pub nodes: Vec<Node>,
    pub identities: Vec<Identity>,
    pub notes: Notes,
    /// Volumes that were not looked into yet.
    fresh: Vec<usize>,
    /// How many volumes of a kind that only together say something there were when they were last
    /// asked.
    asked: [usize; 2],
}

pub(super) fn build(disk: &Arc<dyn ReadAt>, layout: DiskLayout, keys: &Keys) -> Result<Inner> {
    let DiskLayout { table, sector_size, disk_id, volumes, notes } = layout;
    let mut building = Building {
        sector_size,
        keys,
        volumes: Vec::new(),
        nodes: Vec::new(),
        identities: Vec::new(),
        notes: Notes::default(),
        fresh: Vec::new(),
        asked: [0; 2],
    };
    for volume in volumes.into_iter().filter(|volume| !volume.is_stacked()) {
        let (of, start, length) = (Arc::clone(disk), volume.start, volume.length);
        let bytes: Arc<dyn ReadAt> = Arc::new(Stretch { of, start, length });
        building.nodes.push(Node { below: Below::Disk(start), bytes: Ok(bytes) });
        building.identities.push(Identity::Own);
        building.fresh.push(building.volumes.len());
        building.volumes.push(volume);
    }
    building.run()?;
    let Building { volumes, nodes, notes: own, .. } = building;
    let mut notes = notes;
    for sentence in own.into_sentences() {
        if !notes.contains(&sentence) {
            notes.push(sentence);
        }
    }
    let layout = DiskLayout { table, sector_size, disk_id, volumes, notes };
    let mut inner = Inner { layout, nodes };
    for number in 0..inner.nodes.len() {
        let (start, mapping) = (inner.start(number), inner.mapping(number));
        if let Some(volume) = inner.layout.volumes.get_mut(number) {
            (volume.start, volume.mapping) = (start, mapping);
        }
    }
    Ok(inner)
}

impl Building<'_> {
    fn run(&mut self) -> Result<()> {
        for _ in 0..MAX_VOLUME_DEPTH {
            if self.has_more(Kind::MdMember, 0) {
                arrays::find(self).into_iter().for_each(|found| self.take(found));
            }
            if self.has_more(Kind::PhysicalVolume, 1) {
                logical::find(self).into_iter().for_each(|found| self.take(found));
            }
            for number in std::mem::take(&mut self.fresh) {
                nested::find(self, number).into_iter().for_each(|found| self.take(found));
                let unlocked = unlocked::find(self, number)?;
                unlocked.into_iter().for_each(|found| self.take(found));
            }
            let counts =
                [Kind::MdMember, Kind::PhysicalVolume].map(|kind| self.holding(kind).count());
            if self.fresh.is_empty() && counts == self.asked {
                return Ok(());
            }
        }
        let most = MAX_VOLUME_DEPTH;
        self.notes.add(format!("volumes within volumes deeper than {most} are not looked for"));
        Ok(())
    }

    /// Whether there are more readable volumes of a kind than when that was asked last.
    fn has_more(&mut self, kind: Kind, place: usize) -> bool {
        let count = self.holding(kind).count();
        let Some(asked) = self.asked.get_mut(place) else { return false };
        std::mem::replace(asked, count) != count
    }

    /// The volumes that hold `kind`, and whose bytes can be had: number, volume, bytes.
    pub(super) fn holding(
        &self,
        kind: Kind,
    ) -> impl Iterator<Item = (usize, &Volume, &Arc<dyn ReadAt>)> {
        let all = self.volumes.iter().zip(&self.nodes).enumerate();
        all.filter_map(move |(number, (volume, node))| {
            let bytes = node.bytes.as_ref().ok().filter(|_| volume.holds(kind))?;
            Some((number, volume, bytes))
        })
    }

    /// Adds a volume, and says what it holds. One that is there already stays as it is, unless it
    /// could not be read before.
    fn take(&mut self, found: Found) {
        let Found { mut volume, identity, opened } = found;
        let known = self.identities.iter().position(|own| *own == identity);
        let is_read = |number: usize| self.nodes.get(number).is_some_and(|node| node.bytes.is_ok());
        if known.is_some_and(is_read) || (known.is_none() && self.volumes.len() >= MAX_PARTITIONS) {
            return;
        }
        let doubtful = self.volumes.iter().find(|below| {
            below.read_whole.is_some()
                && below.holds_volumes()
                && volume.within.contains(&below.name)
        });
        if let Some(below) = doubtful {
            let name = &below.name;
            let why = format!("it lies in {name}, of which it is not certain what it holds");
            volume.read_whole.get_or_insert(why);
        }
        let node = match opened {
            Ok((below, bytes)) => {
                volume.length = bytes.size().0;
                let sector_size = self.sector_size;
                let has_outer_table = matches!(below, Below::Part { start: 0, .. });
                let asked = Asked { volume: &volume, sector_size, has_outer_table };
                let verdict = verdict::of(&bytes, asked, &mut self.notes);
                volume.found(verdict);
                Node { below, bytes: Ok(bytes) }
            }
            Err(error) => {
                volume.unsupported = Some(error.to_string());
                Node { below: Below::Unknown, bytes: Err((error.kind(), error.to_string())) }
            }
        };
        self.fresh.push(known.unwrap_or(self.volumes.len()));
        match known {
            Some(number) => {
                let places = (self.volumes.get_mut(number), self.nodes.get_mut(number));
                if let (Some(own), Some(own_node)) = places {
                    (*own, *own_node) = (volume, node);
                }
            }
            None => {
                self.volumes.push(volume);
                self.nodes.push(node);
                self.identities.push(identity);
            }
        }
    }

    /// The names of these volumes.
    pub(super) fn names(&self, numbers: &[usize]) -> Vec<String> {
        let named = numbers.iter().filter_map(|number| self.volumes.get(*number));
        named.map(|volume| volume.name.clone()).collect()
    }

    /// What the names of volumes in the volumes `numbers` begin with: that of the innermost
    /// encrypted volume, partition of a volume or virtual machine's disk that all of them lie in, so
    /// that a machine's own names are not taken for those of a machine within it.
    pub(super) fn prefix(&self, numbers: &[usize]) -> String {
        let mut chains = numbers.iter().map(|number| self.enclosures(*number, 0));
        let Some(first) = chains.next() else { return String::new() };
        let rest: Vec<Vec<usize>> = chains.collect();
        let common = first.into_iter().find(|one| rest.iter().all(|chain| chain.contains(one)));
        let volume = common.and_then(|number| self.volumes.get(number));
        volume.map_or_else(String::new, |volume| format!("{}/", volume.name))
    }

    /// The volumes around and including `number` that names tell of, the innermost first.
    fn enclosures(&self, number: usize, depth: usize) -> Vec<usize> {
        let deeper = depth.saturating_add(1);
        if depth > MAX_VOLUME_DEPTH {
            return Vec::new();
        }
        let around = |of: usize| self.enclosures(of, deeper);
        match (self.identities.get(number), self.nodes.get(number).map(|node| &node.below)) {
            (Some(Identity::Nested(of, _)), _) => [vec![number, *of], around(*of)].concat(),
            (Some(Identity::Unlocked(of)), _) => [vec![number], around(*of)].concat(),
            (_, Some(Below::Layer { of, .. })) => {
                let mut chains = of.iter().map(|below| around(*below));
                let first = chains.next().unwrap_or_default();
                let rest: Vec<Vec<usize>> = chains.collect();
                first.into_iter().filter(|one| rest.iter().all(|c| c.contains(one))).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Inner {
    /// See [`Volume::start`].
    fn start(&self, number: usize) -> u64 {
        let mut place = None;
        let first = ByteRange { start: 0, end: 1 };
        // What serves others too is there all the same.
        let _shared = self.each_place((number, Stretches::Any), first, &mut |found| {
            place.get_or_insert(found.start);
        });
        place.unwrap_or(0)
    }

    /// See [`Volume::mapping`].
    fn mapping(&self, number: usize) -> Option<String> {
        let volume = self.volume(number).filter(|volume| volume.is_stacked())?;
        let (mut digest, mut pieces) = (Sha256::new(), 0_usize);
        let whole = ByteRange { start: 0, end: volume.length };
        let exact = self.each_place((number, Stretches::Any), whole, &mut |place| {
            pieces = pieces.saturating_add(1);
            if pieces <= MAX_UNUSED_PIECES {
                digest.update(place.start.to_le_bytes());
                digest.update(place.end.to_le_bytes());
            }
        });
        let digest: [u8; 32] = digest.finalize().into();
        let digest = digest.first_chunk::<16>().filter(|_| pieces <= MAX_UNUSED_PIECES)?;
        exact.is_ok().then(|| to_hex(digest))
    }
}

/// Why something is not opened.
pub(super) fn unsupported(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, why.into())
}
