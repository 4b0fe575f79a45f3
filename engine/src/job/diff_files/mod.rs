//! Which files differ between two disks: images of one repository, devices, raw files.
//!
//! Volumes are paired; one whose blocks are all the same is not even opened. Of the others both
//! trees are walked at once, by metadata alone, the second image by way of the first where their
//! blocks are the same. Of two states of one filesystem that knows its files by number, the walk
//! goes only where something differs, see `scope`. A path that both have is compared: attributes,
//! extended attributes, and of a content what may differ, see `content`. Paths of one side only
//! are added, removed or, where they are one file, renamed, see `renames`.
//!
//! A path that both disks have is compared whatever inode it leads to: a file that was written
//! anew under its name is changed, and not removed and added. Hard links are paths, each told by
//! itself. What cannot be read is told as lost; nothing is said to be gone from a folder that
//! cannot be read whole.
//!
//! Memory: some 150 bytes and the path for each path of one side only and each change; 16 bytes
//! for each folder of each side, and the paths of those that wait; nothing for files that are the
//! same.

mod change;
mod compare;
mod content;
mod ground;
mod joint;
mod names;
mod renames;
mod scope;
mod suspects;
mod volumes;

use std::sync::Arc;

pub use change::{Aspect, Aspects, Brief, ChangeKind, FileChange, Side};

use self::compare::Comparer;
use self::content::Contents;
use self::ground::{Ground, VolumeGround, count_by_reading};
use self::joint::{Joint, TellLost};
use self::renames::matched;
use self::scope::Scope;
use self::suspects::States;
use self::volumes::pairs;
use super::files::{FileDisk, OpenVolume};
use crate::base::limits::COMPARED_PIECES;
use crate::base::{Error, ErrorKind, Observer, ReadAt, Result};
use crate::block::Cached;
use crate::fs::ReadOptions;
use crate::store::ImageReader;
use crate::volume::{Keys, Volume};

/// What became of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeState {
    /// Only the second disk has it.
    Added,
    /// Only the first disk has it.
    Removed,
    /// All of its blocks are the same.
    Same,
    /// Its files were compared, and all that is not the same was told before.
    Compared {
        /// Encrypted files of which the sizes and attributes are the same; what their contents
        /// are cannot be known.
        sealed: u64,
    },
    /// It holds no files that can be read.
    Unread {
        /// Bytes in which it differs, in blocks; `None` if its bytes cannot be had.
        changed: Option<u64>,
    },
}

/// What a comparison comes across.
#[derive(Debug)]
pub enum Told<'a> {
    /// A file that is not the same.
    Change {
        /// Its volume's name on the second disk.
        volume: &'a str,
        /// What is not the same.
        change: &'a FileChange,
    },
    /// Something that cannot be read, so that nothing is said of it.
    Lost {
        /// The volume's name on that disk.
        volume: &'a str,
        /// Which disk.
        side: Side,
        /// The path on it; empty for the volume itself.
        path: &'a [u8],
        /// Why.
        error: Error,
    },
    /// A volume, after its files.
    Volume {
        /// Its name, on the second disk if it is there.
        volume: &'a Volume,
        /// What became of it.
        state: VolumeState,
    },
}

/// Takes what is told.
pub type Tell<'a> = &'a mut dyn FnMut(Told<'_>) -> Result<()>;

/// A comparison of two disks' files.
pub struct DiffFiles {
    disks: [FileDisk; 2],
    ground: Ground,
}

impl DiffFiles {
    /// Of two images of one repository, which reads what their trees do not say already.
    ///
    /// # Errors
    /// `Corrupt` or `Io` when an image cannot be read; `Cancelled`.
    pub fn of_images(images: [ImageReader; 2], observer: &dyn Observer) -> Result<Self> {
        let [before, after] = images.map(Arc::new);
        let ground = Ground::of_images([&before, &after], observer)?;
        let first: Arc<dyn ReadAt> =
            Arc::new(Cached::holding(Arc::clone(&before) as Arc<dyn ReadAt>, COMPARED_PIECES));
        let second = Arc::new(Cached::new(Arc::clone(&after) as Arc<dyn ReadAt>));
        let second = ground.shared([Arc::clone(&first), second]);
        let disks =
            [FileDisk::of_image_on(&before, first)?, FileDisk::of_image_on(&after, second)?];
        Ok(Self { disks, ground })
    }

    /// Of two disks of which nothing is known: all contents are read.
    #[must_use]
    pub fn of_disks(disks: [FileDisk; 2]) -> Self {
        Self { disks, ground: Ground::unknown() }
    }

    /// The same with filesystems read as `options` say.
    #[must_use]
    pub fn with_options(self, options: &ReadOptions) -> Self {
        let disks = self.disks.map(|disk| disk.with_options(options));
        Self { disks, ..self }
    }

    /// The same with what `keys` open.
    ///
    /// # Errors
    /// Those of [`FileDisk::unlocked`].
    pub fn unlocked(self, keys: &Arc<Keys>) -> Result<Self> {
        let [before, after] = self.disks;
        Ok(Self { disks: [before.unlocked(keys)?, after.unlocked(keys)?], ..self })
    }

    /// Compares them, volume by volume; changes in the order of their paths.
    ///
    /// # Errors
    /// `Cancelled`; `Limit` for too many differences; those of `tell`. Damage is told.
    pub fn run(&self, observer: &dyn Observer, tell: Tell<'_>) -> Result<()> {
        let [before, after] = [0, 1].map(|side: usize| &self.disks[side].layout().volumes);
        // What lies on several volumes is compared with the first of them that differs.
        let mut compared = Vec::new();
        for pair in pairs(before, after) {
            let (volume, state) = match (pair.0.map(|at| &before[at]), pair.1.map(|at| &after[at]))
            {
                (Some(_), Some(other)) if compared.contains(&other.name) => continue,
                (Some(one), Some(other)) => {
                    (other, self.volume([one, other], observer, tell, &mut compared)?)
                }
                (None, Some(other)) => (other, VolumeState::Added),
                (Some(one), None) => (one, VolumeState::Removed),
                (None, None) => continue,
            };
            tell(Told::Volume { volume, state })?;
        }
        Ok(())
    }

    fn volume(
        &self,
        volumes: [&Volume; 2],
        observer: &dyn Observer,
        tell: Tell<'_>,
        compared: &mut Vec<String>,
    ) -> Result<VolumeState> {
        let places = [0, 1].map(|side| self.disks[side].placed(volumes[side]));
        let places = match &places {
            [Some(before), Some(after)] => Some([before, after]),
            _ => None,
        };
        if places.is_some_and(|places| self.ground.is_same(places)) {
            return Ok(VolumeState::Same);
        }
        let [before, after] = [0, 1].map(|side| self.disks[side].open_volume(volumes[side]));
        match (before, after) {
            (Ok(before), Ok(after)) => {
                compared.extend(after.parts.iter().map(|part| part.volume().name.clone()));
                let sealed = self.files(volumes, [&before, &after], observer, tell)?;
                Ok(VolumeState::Compared { sealed })
            }
            (before, after) => {
                let errors = [before.err(), after.err()];
                let known = places.and_then(|places| self.ground.count(places));
                self.unread(volumes, (errors, known), observer, tell)
            }
        }
    }

    /// Says in how much a volume differs whose files cannot be compared.
    fn unread(
        &self,
        volumes: [&Volume; 2],
        (errors, known): ([Option<Error>; 2], Option<u64>),
        observer: &dyn Observer,
        tell: Tell<'_>,
    ) -> Result<VolumeState> {
        for (side, error) in Side::BOTH.into_iter().zip(errors) {
            let Some(error) = error else { continue };
            let volume = volumes[side.index()];
            if error.kind() != ErrorKind::Unsupported || volume.holds_filesystem() {
                tell(Told::Lost { volume: &volume.name, side, path: b"", error })?;
            }
        }
        let changed = match known {
            Some(bytes) => Some(bytes),
            None => {
                let [before, after] = [0, 1].map(|side| self.disks[side].bytes_of(volumes[side]));
                let (Ok(before), Ok(after)) = (before, after) else {
                    return Ok(VolumeState::Unread { changed: None });
                };
                match count_by_reading([before.as_ref(), after.as_ref()], observer) {
                    Ok(bytes) => Some(bytes),
                    Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                    Err(error) => {
                        let (volume, side) = (volumes[1].name.as_str(), Side::After);
                        tell(Told::Lost { volume, side, path: b"", error })?;
                        None
                    }
                }
            }
        };
        Ok(VolumeState::Unread { changed })
    }

    /// Compares the files of a volume; returns how many could not be looked into.
    fn files(
        &self,
        volumes: [&Volume; 2],
        open: [&OpenVolume; 2],
        observer: &dyn Observer,
        tell: Tell<'_>,
    ) -> Result<u64> {
        let filesystems = open.map(|volume| volume.filesystem.as_ref());
        let [before, after] = filesystems.map(|filesystem| filesystem.info());
        let is_same_filesystem = (before.kind, &before.uuid) == (after.kind, &after.uuid);
        let replayed = filesystems.map(|filesystem| filesystem.replayed());
        let parts = open.map(|volume| volume.parts.as_slice());
        let ground = VolumeGround::new(&self.ground, parts, replayed);
        let contents = Contents { filesystems, ground: &ground, observer };
        let comparer = Comparer { contents, is_same_filesystem };
        let bytes = open.map(|volume| volume.bytes.as_ref());
        let scoped = match scope_of(&comparer, bytes)? {
            Some(scope) => walked_within(&comparer, &scope)?,
            None => None,
        };
        let Walked { mut changes, sealed } = match scoped {
            Some(walked) => walked,
            None => walked_through(&comparer, &mut |side: Side, path: &[u8], error: Error| {
                let volume = &volumes[side.index()].name;
                tell(Told::Lost { volume, side, path, error })
            })?,
        };
        changes.sort_by(|one, other| (&one.path, one.kind).cmp(&(&other.path, other.kind)));
        for (side, filesystem) in Side::BOTH.into_iter().zip(filesystems) {
            for doubt in filesystem.doubts().all() {
                let (volume, error) = (&volumes[side.index()].name, damage(doubt));
                tell(Told::Lost { volume, side, path: b"", error })?;
            }
        }
        let volume = volumes[1].name.as_str();
        changes.iter().try_for_each(|change| tell(Told::Change { volume, change }))?;
        Ok(sealed)
    }
}

/// What is wrong with a filesystem as a whole, as an error.
fn damage(doubt: String) -> Error {
    Error::new(ErrorKind::Corrupt, doubt)
}

/// What came of a walk.
struct Walked {
    changes: Vec<FileChange>,
    sealed: u64,
}

/// Where the walk has to go, if it need not go everywhere.
fn scope_of(comparer: &Comparer<'_>, bytes: [&dyn ReadAt; 2]) -> Result<Option<Scope>> {
    let contents = &comparer.contents;
    // What stands in for something damaged may show files that no folder names.
    if contents.filesystems.iter().any(|filesystem| filesystem.doubts().first().is_some()) {
        return Ok(None);
    }
    let [before, after] = contents.filesystems.map(|filesystem| filesystem.numbered());
    let (Some(before), Some(after)) = (before, after) else { return Ok(None) };
    let is_one = comparer.is_same_filesystem && before.basis() == after.basis();
    if !is_one || !contents.ground.is_known() {
        return Ok(None);
    }
    Scope::find(States { comparer, numbered: [before, after], bytes })
}

/// Walks within `scope`; `None` if that does not lead to all that is expected, or to damage.
fn walked_within(comparer: &Comparer<'_>, scope: &Scope) -> Result<Option<Walked>> {
    let mut is_whole = true;
    let mut lost = |_: Side, _: &[u8], _: Error| {
        is_whole = false;
        Ok(())
    };
    let mut joint = Joint::new(comparer, Some(scope), &mut lost);
    let Walked { changes, sealed } = finished(&mut joint)?;
    let is_met = joint.has_met_all();
    let sealed = sealed + scope.sealed;
    Ok((is_whole && is_met).then_some(Walked { changes, sealed }))
}

/// Walks everything.
fn walked_through(comparer: &Comparer<'_>, lost: TellLost<'_>) -> Result<Walked> {
    finished(&mut Joint::new(comparer, None, lost))
}

fn finished(joint: &mut Joint<'_, '_>) -> Result<Walked> {
    joint.run()?;
    let orphans = std::mem::take(&mut joint.orphans);
    let comparer = joint.comparer();
    let found = matched(comparer.contents.filesystems, orphans, comparer.is_same_filesystem);
    found.pairs().into_iter().try_for_each(|pair| joint.add(pair))?;
    joint.compare_gathered()?;
    let mut changes = std::mem::take(&mut joint.changes);
    changes.extend(found.one_sided());
    Ok(Walked { changes, sealed: joint.sealed })
}
