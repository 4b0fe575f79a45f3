//! What was once found damaged: frames that nothing new may refer to.
//!
//! Whoever meets a damaged frame leaves an empty object beside its pack, whose name says where it
//! is (`packs/ID.OFFSET.bad`), or that nothing of the pack is to be relied on (`packs/ID.bad`). The
//! next capture stores again what lies there. A mark is no promise: one that is missing, because
//! the repository could not be written then, costs what it cost without marks, and one that is
//! wrong a second copy.

use std::collections::{HashMap, HashSet};

use xxhash_rust::xxh3::xxh3_64;

use super::digest::PackId;
use super::frame::Place;
use super::storage::{Folder, ObjectName, Storage};

const SUFFIX: &str = ".bad";
/// Marks of one pack above which all of it is marked.
const MOST_OF_A_PACK: usize = 64;

/// The name of the mark of a frame, or of a whole pack.
#[must_use]
pub fn mark_name(pack: PackId, offset: Option<u32>) -> ObjectName {
    let name = match offset {
        Some(offset) => format!("{pack}.{offset:08x}{SUFFIX}"),
        None => format!("{pack}{SUFFIX}"),
    };
    ObjectName::new(Folder::Packs, name)
}

/// Reads such a name: the pack, and the frame's first byte unless all of it is meant.
#[must_use]
pub fn parse_mark(name: &str) -> Option<(PackId, Option<u32>)> {
    let name = name.strip_suffix(SUFFIX)?;
    match name.split_once('.') {
        None => PackId::from_hex(name).map(|id| (id, None)),
        Some((id, offset)) if offset.len() == 8 => {
            Some((PackId::from_hex(id)?, Some(u32::from_str_radix(offset, 16).ok()?)))
        }
        Some(_) => None,
    }
}

/// Places where something was found damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadPlaces {
    packs: HashMap<PackId, BadPack>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct BadPack {
    is_all: bool,
    offsets: HashSet<u32>,
}

impl BadPlaces {
    /// Adds a frame, or a whole pack. Returns whether that is news.
    pub fn add(&mut self, pack: PackId, offset: Option<u32>) -> bool {
        let bad = self.packs.entry(pack).or_default();
        match offset {
            Some(offset) => !bad.is_all && bad.offsets.insert(offset),
            None => !std::mem::replace(&mut bad.is_all, true),
        }
    }

    /// Whether nothing may refer to `place`.
    #[must_use]
    pub fn holds(&self, place: &Place) -> bool {
        let bad = self.packs.get(&place.pack);
        bad.is_some_and(|bad| bad.is_all || bad.offsets.contains(&place.offset))
    }

    /// Whether anything of `pack` is known to be damaged.
    #[must_use]
    pub fn touches(&self, pack: PackId) -> bool {
        self.packs.contains_key(&pack)
    }

    /// Whether nothing is known to be damaged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// What these are, in short; nothing of none.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        let mut names: Vec<String> = Vec::new();
        for (pack, bad) in &self.packs {
            let offsets = bad.offsets.iter().map(|offset| Some(*offset));
            let places = bad.is_all.then_some(None).into_iter().chain(offsets);
            names.extend(places.map(|offset| mark_name(*pack, offset).name));
        }
        names.sort_unstable();
        let digest = xxh3_64(names.concat().as_bytes());
        (!names.is_empty()).then(|| format!("{digest:016x}"))
    }

    /// Adds a frame, and leaves a mark of it for later runs.
    pub fn mark(&mut self, storage: &dyn Storage, pack: PackId, offset: u32) {
        if !self.add(pack, Some(offset)) {
            return;
        }
        let is_most = self.packs.get(&pack).is_some_and(|bad| bad.offsets.len() > MOST_OF_A_PACK);
        if is_most {
            self.mark_all(storage, pack);
        } else {
            leave(storage, pack, Some(offset));
        }
    }

    /// The packs of which something is marked.
    #[must_use]
    pub fn packs(&self) -> Vec<PackId> {
        self.packs.keys().copied().collect()
    }

    /// Adds a whole pack, and leaves a mark of it.
    pub fn mark_all(&mut self, storage: &dyn Storage, pack: PackId) {
        if self.add(pack, None) {
            leave(storage, pack, None);
        }
    }

    /// Takes away the marks of a pack's frames that `is_sound`, and that of all of it if `is_all`
    /// sound.
    pub fn clear(
        &mut self,
        storage: &dyn Storage,
        pack: PackId,
        is_all: bool,
        is_sound: impl Fn(u32) -> bool,
    ) {
        let Some(bad) = self.packs.get_mut(&pack) else { return };
        let remove = |offset| {
            let _stays_and_costs_a_copy = storage.remove(&mark_name(pack, offset));
        };
        if is_all && std::mem::take(&mut bad.is_all) {
            remove(None);
        }
        for offset in bad.offsets.extract_if(|offset| is_sound(*offset)) {
            remove(Some(offset));
        }
        if *bad == BadPack::default() {
            self.packs.remove(&pack);
        }
    }
}

/// Leaves a mark where that can be done.
fn leave(storage: &dyn Storage, pack: PackId, offset: Option<u32>) {
    // It is there already, or the repository cannot be written: both cost nothing but the mark.
    let _marked = storage.create(&mark_name(pack, offset));
}

/// Whether a place can be a delta's: a frame of its own that takes at most half of its
/// content.
#[must_use]
pub fn may_be_delta(place: &Place, content: u64) -> bool {
    place.member == 0 && u64::from(place.length) <= content / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::storage::simulated::SimulatedStorage;

    fn place(offset: u32) -> Place {
        Place { pack: PackId([7; 16]), offset, length: 100, member: 0 }
    }

    fn found(storage: &SimulatedStorage) -> BadPlaces {
        let mut found = BadPlaces::default();
        for object in storage.list(Folder::Packs, &|_| true).expect("listed") {
            let (pack, offset) = parse_mark(&object.name).expect("a mark");
            found.add(pack, offset);
        }
        found
    }

    #[test]
    fn marks_are_found_again_until_they_are_cleared() {
        let storage = SimulatedStorage::new();
        let mut bad = BadPlaces::default();
        bad.mark(&storage, place(0).pack, 48);
        bad.mark(&storage, place(0).pack, 48);
        bad.mark(&storage, place(0).pack, 0xffff_ffff);
        assert_eq!(found(&storage), bad);
        assert!(bad.holds(&place(48)) && !bad.holds(&place(49)));
        bad.clear(&storage, place(0).pack, true, |offset| offset == 48);
        let left = found(&storage);
        assert!(!left.holds(&place(48)) && left.holds(&place(0xffff_ffff)));
    }

    #[test]
    fn a_pack_with_much_damage_is_marked_as_a_whole() {
        let storage = SimulatedStorage::new();
        let mut bad = BadPlaces::default();
        (0..1000).for_each(|offset| bad.mark(&storage, place(0).pack, offset));
        assert!(
            storage.list(Folder::Packs, &|_| true).expect("listed").len() <= MOST_OF_A_PACK + 1
        );
        assert!(found(&storage).holds(&place(5000)));
        bad.clear(&storage, place(0).pack, true, |_| true);
        assert!(found(&storage).is_empty());
    }

    #[test]
    fn other_names_are_no_marks() {
        let id = PackId([1; 16]);
        for name in [format!("{id}.pack"), format!("{id}.12.bad"), "x.bad".to_owned()] {
            assert_eq!(parse_mark(&name), None, "{name}");
        }
    }
}
