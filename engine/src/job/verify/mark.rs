//! Walking images' trees: which frames they need, and whether their places agree with the packs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::base::{BlockIndex, Error, ErrorKind, Event, Observer, Result};
use crate::store::frame::FrameKind;
use crate::store::pack::{TableEntry, read_table};
use crate::store::reader::FrameReader;
use crate::store::repository::Image;
use crate::store::tree::TreeVisitor;
use crate::store::{PackId, Repository, StoredEntry, TreeRun};

/// Pack tables that are kept in memory, 3 MiB each at most.
const TABLES: usize = 16;

/// The frames that images need, by pack and first byte.
#[derive(Debug, Default)]
pub struct Marks {
    packs: HashMap<PackId, Vec<u32>>,
    /// With their places: nodes of one digest may lead to different places.
    whole_nodes: HashSet<StoredEntry>,
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
}

/// Walks an image's tree, marks what it needs, and returns the damages it met, which it reports.
/// What another image was found to share is not walked again.
///
/// # Errors
/// `Io`; `Cancelled`.
pub fn mark(
    repository: &Repository,
    image: &Image,
    marks: &mut Marks,
    observer: &dyn Observer,
) -> Result<u64> {
    let reader = repository.reader(image);
    let mut marker = Marker {
        frames: reader.frames(),
        marks,
        observer,
        name: format!("image {} {}", image.manifest.name, image.id),
        tables: VecDeque::new(),
        damage: 0,
    };
    reader.walk(None, &mut marker)?;
    Ok(marker.damage)
}

type Table = Option<Arc<Vec<TableEntry>>>;

struct Marker<'a> {
    frames: &'a FrameReader,
    marks: &'a mut Marks,
    observer: &'a dyn Observer,
    name: String,
    tables: VecDeque<(PackId, Table)>,
    damage: u64,
}

impl Marker<'_> {
    fn report(&mut self, error: &Error) {
        self.damage += 1;
        let report = format!("{}: {error}", self.name);
        self.observer.event(&Event::Damage { report: &report });
    }

    /// A pack's table; none where it is damaged, which reading the pack reports.
    fn table(&mut self, id: PackId) -> Result<Table> {
        if let Some((_, table)) = self.tables.iter().find(|(of, _)| *of == id) {
            return Ok(table.clone());
        }
        let table = match self.frames.pack(id).and_then(|pack| read_table(&*pack)) {
            Ok(table) => Some(Arc::new(table)),
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(_) => None,
        };
        self.tables.push_front((id, table.clone()));
        self.tables.truncate(TABLES);
        Ok(table)
    }

    fn check_place(&mut self, kind: FrameKind, stored: &StoredEntry) -> Result<()> {
        self.marks.add(stored.place.pack, stored.place.offset);
        let Some(table) = self.table(stored.place.pack)? else { return Ok(()) };
        let place = stored.place;
        let key = (place.offset, place.member);
        let found = table.binary_search_by_key(&key, |entry| (entry.offset, entry.member));
        let agrees = found.is_ok_and(|at| {
            let entry = &table[at];
            entry.kind == kind && entry.digest == stored.digest && entry.length == place.length
        });
        if !agrees {
            let expected = format!("{} {}", kind.name(), stored.digest);
            self.report(&Error::corrupt(place, expected, "another, as the pack's table says"));
        }
        Ok(())
    }
}

impl TreeVisitor for Marker<'_> {
    fn enter(&mut self, stored: &StoredEntry) -> Result<bool> {
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        self.check_place(FrameKind::Node, stored)?;
        Ok(!self.marks.whole_nodes.contains(stored))
    }

    fn leave(&mut self, stored: &StoredEntry, whole: bool) {
        if whole {
            self.marks.whole_nodes.insert(*stored);
        }
    }

    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        match run.entry.stored() {
            Some(stored) => self.check_place(FrameKind::Block, stored),
            None => Ok(()),
        }
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Io {
            return Err(error);
        }
        self.report(&error.within(format!("blocks {first} to {}", first.0 + count)));
        Ok(())
    }
}
