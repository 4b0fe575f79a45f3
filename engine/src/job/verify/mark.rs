//! Walking images' trees: which frames they need, and whether their places agree with the packs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Room;
use crate::base::{BlockIndex, Error, ErrorKind, Event, Observer, Result};
use crate::store::frame::FrameKind;
use crate::store::pack::{TableEntry, read_table};
use crate::store::reader::FrameReader;
use crate::store::repository::Image;
use crate::store::tree::{Below, Subtree, TreeVisitor};
use crate::store::{PackId, Repository, StoredEntry, TreeRun};

/// The frames that images need, by pack and first byte.
#[derive(Debug, Default)]
pub struct Marks {
    packs: HashMap<PackId, Vec<u32>>,
    /// Contents that are not where trees say.
    wrong: HashSet<StoredEntry>,
    /// Damages that were met.
    pub damage: u64,
}

impl Marks {
    fn add(&mut self, pack: PackId, offset: u32) {
        let offsets = self.packs.entry(pack).or_default();
        if offsets.last() == Some(&offset) {
            return;
        }
        if offsets.len() == offsets.capacity() && offsets.len() > 1024 {
            offsets.sort_unstable();
            offsets.dedup();
        }
        offsets.push(offset);
    }

    /// The packs that are needed.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        self.packs.keys().copied()
    }

    /// The first bytes of the frames that are needed of a pack.
    #[must_use]
    pub fn offsets(&self, pack: PackId) -> HashSet<u32> {
        self.packs.get(&pack).into_iter().flatten().copied().collect()
    }

    /// Whether the packs' tables say that something else is there.
    #[must_use]
    pub fn is_wrong(&self, stored: &StoredEntry) -> bool {
        self.wrong.contains(stored)
    }
}

/// Walks images' trees, marks what they need, and reports the damages that it meets. What another
/// image was found to share is not walked again.
///
/// # Errors
/// `Io`; `Cancelled`.
pub fn mark(
    repository: &Repository,
    images: &[Image],
    room: Room,
    observer: &dyn Observer,
) -> Result<Marks> {
    let mut marker = Marker {
        frames: FrameReader::new(Arc::clone(repository.storage()), repository.keys()),
        marks: Marks::default(),
        whole_nodes: HashSet::new(),
        told_nodes: HashSet::new(),
        room,
        places: Vec::new(),
        observer,
        name: String::new(),
    };
    for image in images {
        marker.name = format!("image {} {}", image.manifest.name, image.id);
        marker.told_nodes.clear();
        repository.reader(image).walk(None, &mut marker)?;
    }
    marker.sort_places();
    marker.check_places()?;
    Ok(marker.marks)
}

struct Marker<'a> {
    frames: FrameReader,
    marks: Marks,
    /// With their places: nodes of one digest may lead to different places.
    whole_nodes: HashSet<StoredEntry>,
    /// Nodes of this image below which damage was met and told.
    told_nodes: HashSet<StoredEntry>,
    room: Room,
    /// What was not compared with the packs' tables yet: images that differ a little lead to the
    /// same places again and again, and each to those of many packs.
    places: Vec<(FrameKind, StoredEntry)>,
    observer: &'a dyn Observer,
    name: String,
}

impl Marker<'_> {
    fn report(&mut self, report: &str) {
        self.marks.damage += 1;
        self.observer.event(&Event::Damage { report });
    }

    fn add(&mut self, kind: FrameKind, stored: &StoredEntry) -> Result<()> {
        self.marks.add(stored.place.pack, stored.place.offset);
        if self.places.len() >= self.room.places {
            self.sort_places();
            // So that half of what comes between two sorts is new, at least.
            if self.places.len() > self.room.places / 2 {
                self.check_places()?;
            }
        }
        self.places.push((kind, *stored));
        Ok(())
    }

    fn sort_places(&mut self) {
        let key = |(_, stored): &(FrameKind, StoredEntry)| {
            (stored.place.pack, stored.place.offset, stored.place.member)
        };
        self.places.sort_unstable_by_key(key);
        self.places.dedup();
    }

    /// Compares the places, which are sorted, with the packs' tables, and forgets them.
    fn check_places(&mut self) -> Result<()> {
        let places = std::mem::take(&mut self.places);
        for places in places.chunk_by(|(_, one), (_, next)| one.place.pack == next.place.pack) {
            let Some((_, first)) = places.first() else { continue };
            let table = match self.frames.pack(first.place.pack).and_then(|p| read_table(&*p)) {
                Ok(table) => table,
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                // Reading the pack reports it.
                Err(_) => continue,
            };
            for (kind, stored) in places {
                if !is_listed(&table, *kind, stored) && self.marks.wrong.insert(*stored) {
                    let expected = format!("{} {}", kind.name(), stored.digest);
                    let found = "another, as the pack's table says";
                    self.report(&Error::corrupt(stored.place, expected, found).to_string());
                }
            }
        }
        Ok(())
    }
}

fn is_listed(table: &[TableEntry], kind: FrameKind, stored: &StoredEntry) -> bool {
    let place = stored.place;
    let key = (place.offset, place.member);
    let found = table.binary_search_by_key(&key, |entry| (entry.offset, entry.member));
    found.ok().and_then(|at| table.get(at)).is_some_and(|entry| {
        entry.kind == kind && entry.digest == stored.digest && entry.length == place.length
    })
}

impl TreeVisitor for Marker<'_> {
    fn enter(&mut self, node: &Subtree<'_>) -> Result<Below> {
        let stored = node.stored;
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        self.add(FrameKind::Node, stored)?;
        Ok(match (self.whole_nodes.contains(stored), self.told_nodes.contains(stored)) {
            (true, _) => Below::Known(true),
            (false, true) => Below::Known(false),
            (false, false) => Below::Shown,
        })
    }

    fn leave(&mut self, node: &Subtree<'_>, whole: bool) {
        let nodes = if whole { &mut self.whole_nodes } else { &mut self.told_nodes };
        nodes.insert(*node.stored);
    }

    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        match run.entry.stored() {
            Some(stored) => self.add(FrameKind::Block, stored),
            None => Ok(()),
        }
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Io {
            return Err(error);
        }
        let error = error.within(format!("blocks {first} to {}", first.0 + count));
        self.report(&format!("{}: {error}", self.name));
        Ok(())
    }
}
