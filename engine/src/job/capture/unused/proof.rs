//! The proof that an image left nothing out that its filesystems use: their metadata is read
//! from the image, and every file's extents are looked up, before the image is committed. Where a
//! filesystem's tables show all of its files, folders need not be walked for it, unless something is
//! found to be missing, which the walk then names.
//!
//! A filesystem that is damaged cannot show all that it uses, so what is damaged on the way leaves
//! its volume [`Unproven`], as does anything that is missing.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Search, places};
use crate::base::ranges::{common, joined, touches, without};
use crate::base::{
    BlockIndex, ByteCount, ByteOffset, ByteRange, Error, ErrorKind, Observer, ReadAt, Result,
};
use crate::block::Cached;
use crate::fs::{self, FileId, FileType, Filesystem, Part, Place, ReadOptions};
use crate::job::files::{Descend, Found, LastLink, Visited, Walk, list_sorted, resolve};
use crate::store::tree::TreeVisitor;
use crate::store::{Entry, ImageReader, TreeRun};
use crate::sys::threads;
use crate::volume::{Kind, Placed, Stack, Volume};

/// A volume of which it is not certain that an image left nothing out that it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    /// Its name.
    pub volume: String,
    /// Why it is not.
    pub why: String,
}

/// What an image is said to lack nothing of.
pub struct Claim<'a> {
    /// The names of volumes.
    pub names: &'a [&'a str],
    /// Where they lie on the disk: sorted and apart.
    pub places: Vec<ByteRange>,
    /// Whether it may lack the contents of swap files, and of those only.
    pub skip_swap: bool,
}

/// Walks the claimed volumes of `image`, which is not committed yet, and says which of them may use
/// what was left out. `open` opens what is on a disk.
///
/// # Errors
/// `Corrupt` or `Io` when the image cannot be read back from the repository; `Cancelled`.
pub fn check(
    image: ImageReader,
    open: impl Fn(&Arc<dyn ReadAt>) -> Result<Stack>,
    Claim { names, places: wanted, skip_swap }: Claim<'_>,
    observer: &dyn Observer,
) -> Result<Vec<Unproven>> {
    let block = image.manifest().block_size;
    let left_out = unallocated(&image, &wanted)?;
    if left_out.is_empty() {
        return Ok(Vec::new());
    }
    let guard = Guard::new(image, left_out);
    let disk: Arc<dyn ReadAt> = Arc::clone(&guard) as Arc<dyn ReadAt>;
    let stack = open(&disk)?;
    let (size, is_in_use) = (disk.size(), false);
    let is_meant = |volume: &Volume| names.contains(&volume.name.as_str());
    let unused = Search { stack: &stack, size, block, is_in_use, skip_swap }.run(is_meant);
    guard.check_readable()?;
    let unexplained = without(&guard.left_out, &unused.ranges);
    let mut unproven = Vec::new();
    for name in names.iter().filter(|name| stack.layout().volume(name).is_none()) {
        let why = "the image does not show what it lies in".to_owned();
        unproven.push(Unproven { volume: (*name).to_owned(), why });
    }
    for placed in stack.volumes().filter(|placed| is_meant(placed.volume())) {
        let volume = placed.volume();
        let places = places(&stack, volume);
        if common(&guard.left_out, &places).is_empty() {
            continue;
        }
        let outcome = match common(&unexplained, &places).first() {
            Some(range) => Err(in_use(*range, unused.doubt_of(volume))),
            None => {
                let skipped = unused.skipped.iter().filter(|(of, _)| *of == volume.name);
                let skipped: Vec<FileId> = skipped.map(|(_, file)| *file).collect();
                look_through((&guard, &skipped), &placed, observer)
            }
        };
        guard.check_readable()?;
        match outcome {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => {
                let (volume, why) = (volume.name.clone(), error.to_string());
                unproven.push(Unproven { volume, why });
            }
        }
    }
    Ok(unproven)
}

/// Whether a filesystem of `image` keeps anything in `ranges`, besides room for what was never
/// written; also where that cannot be told. `open` opens what is on a disk.
///
/// # Errors
/// `Cancelled`.
pub fn is_reached(
    image: ImageReader,
    open: impl Fn(&Arc<dyn ReadAt>) -> Result<Stack>,
    ranges: Vec<ByteRange>,
    observer: &dyn Observer,
) -> Result<bool> {
    let guard = Guard::new(image, ranges);
    let disk: Arc<dyn ReadAt> = Arc::clone(&guard) as Arc<dyn ReadAt>;
    let stack = open(&disk)?;
    let touched = |placed: &Placed| {
        let volume = placed.volume();
        let is_touched = |place: &ByteRange| touches(&guard.left_out, place);
        // What is in use of those the volumes in them say.
        !volume.holds_volumes() && places(&stack, volume).iter().any(is_touched)
    };
    for placed in stack.volumes().filter(touched) {
        match look_through((&guard, &[]), &placed, observer) {
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(_found_or_unknown) => return Ok(true),
            Ok(()) => {}
        }
    }
    Ok(false)
}

/// Walks a volume of the guarded image, past the contents of the files `skipped`.
///
/// # Errors
/// What it reaches and is missing; what is damaged, so that it may reach more; `Cancelled`.
fn look_through(
    (guard, skipped): (&Arc<Guard>, &[FileId]),
    volume: &Placed,
    observer: &dyn Observer,
) -> Result<()> {
    if volume.volume().holds(Kind::Swap) {
        return Ok(());
    }
    let held = volume.volume().kind();
    let filesystem = fs::open_with(&volume.bytes()?, held, &ReadOptions::default())?;
    // Until here others' signatures were looked for anywhere.
    guard.take_missing();
    guard.is_armed.store(true, Ordering::Relaxed);
    let outcome = check_root(filesystem.as_ref()).and_then(|start| {
        let surveyed = survey((guard, skipped), volume, filesystem.as_ref(), observer)?;
        let lacking = match surveyed {
            Surveyed::HoldsAll => return Ok(()),
            Surveyed::Lacks(range) => Some(range),
            Surveyed::Nothing => None,
        };
        // The walk says which file it is, if a folder leads to it.
        walk((guard, skipped), (volume, &start), filesystem.as_ref(), observer)?;
        lacking.map_or(Ok(()), |range| Err(in_use(range, &volume.volume().name)))
    });
    guard.is_armed.store(false, Ordering::Relaxed);
    outcome
}

/// The root folder, which can be listed: a filesystem that lost it is damaged, whatever its tables
/// of files say.
fn check_root(filesystem: &dyn Filesystem) -> Result<Found> {
    let root = resolve(filesystem, b"/", LastLink::Keep)?;
    if root.metadata.file_type != FileType::Directory {
        return Err(Error::corrupt("root", "a folder", "another file"));
    }
    let (_entries, errors) = list_sorted(filesystem, root.file)?;
    errors.into_iter().next().map_or(Ok(root), Err)
}

/// What an image says is unallocated of some ranges of its disk: sorted and apart.
///
/// # Errors
/// `Corrupt` when its tree is damaged; `Io`.
pub fn unallocated(image: &ImageReader, ranges: &[ByteRange]) -> Result<Vec<ByteRange>> {
    let block = image.manifest().block_size.bytes();
    let mut found = Unallocated { image, ranges: Vec::new() };
    for range in ranges {
        let (first, end) = (range.start / block, range.end.div_ceil(block));
        image.walk(Some((BlockIndex(first), end - first)), &mut found)?;
    }
    Ok(joined(found.ranges))
}

/// Gathers what is unallocated.
struct Unallocated<'a> {
    image: &'a ImageReader,
    ranges: Vec<ByteRange>,
}

impl TreeVisitor for Unallocated<'_> {
    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        if *run.entry == Entry::Unallocated {
            self.ranges.push(self.image.manifest().bytes_of(run.first, run.count));
        }
        Ok(())
    }
}

fn in_use(range: ByteRange, why: &str) -> Error {
    let context = format!("{range} are said to be free, and are in use ({why})");
    Error::new(ErrorKind::Corrupt, context)
}

/// What a filesystem's tables say of what an image left out.
enum Surveyed {
    /// Nothing of it is needed.
    HoldsAll,
    /// This is.
    Lacks(ByteRange),
    /// They do not say.
    Nothing,
}

/// Looks through a filesystem's tables for what was left out of what its files consist of, past the
/// contents of the files `skipped`.
///
/// # Errors
/// What is damaged of the files; `Cancelled`.
fn survey(
    (guard, skipped): (&Guard, &[FileId]),
    volume: &Placed,
    filesystem: &dyn Filesystem,
    observer: &dyn Observer,
) -> Result<Surveyed> {
    // Whether a content may be that of a skipped file, or not.
    let is_open = AtomicBool::new(false);
    let shared = Mutex::new(None);
    let show = |file: Option<FileId>, part: Part| {
        let is_content = matches!(part, Part::Content(_));
        if is_content && file.is_some_and(|file| skipped.contains(&file)) {
            return;
        }
        let may_be_skipped = is_content && file.is_none() && !skipped.is_empty();
        let looked_up = volume.each_place(part.range(), &mut |place| match may_be_skipped {
            true if touches(&guard.left_out, &place) => is_open.store(true, Ordering::Relaxed),
            true => {}
            false => guard.note(place),
        });
        if let Err(error) = looked_up {
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    };
    let looked_through = filesystem.survey().and_then(|survey| {
        let Some(survey) = survey else { return Ok(false) };
        let damage = Mutex::new(None);
        let shares: Vec<usize> = (0..survey.shares()).collect();
        let is_sound = threads::all(&shares, |share| {
            let outcome = match observer.cancelled() {
                true => Err(Error::cancelled()),
                false => survey.each_part(*share, &mut |file, part| show(file, part)),
            };
            let mut damage = damage.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.map_err(|error| damage.get_or_insert(error)).is_ok()
        });
        let damage = damage.into_inner().unwrap_or_else(PoisonError::into_inner);
        damage.filter(|_| !is_sound).map_or(Ok(true), Err)
    });
    if let Some(error) = shared.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let says_all = match looked_through {
        Ok(says_all) => says_all && !is_open.into_inner(),
        // Folders may lead to it in a way that can be read.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Limit) => false,
        Err(damaged) => return Err(damaged),
    };
    Ok(match guard.take_missing() {
        Some(missing) => Surveyed::Lacks(missing),
        None if says_all => Surveyed::HoldsAll,
        None => Surveyed::Nothing,
    })
}

/// Looks at everything that a filesystem reaches, but for the contents of the files `skipped`, of
/// which was found to be left out what may be.
///
/// # Errors
/// The first that is missing; the first that is damaged; `Cancelled`.
fn walk(
    (guard, skipped): (&Guard, &[FileId]),
    (volume, start): (&Placed, &Found),
    filesystem: &dyn Filesystem,
    observer: &dyn Observer,
) -> Result<()> {
    let mut damage = Damage(None);
    Walk::new(filesystem).run(start, &mut |visited| {
        if observer.cancelled() {
            return Err(Error::cancelled());
        }
        match visited {
            Visited::Lost { path, error } => {
                damage.note::<()>(path, Err(error));
                guard.check(volume.volume(), b"").map(|()| Descend::Past)
            }
            Visited::File { path, file, metadata, .. } => {
                damage.note(path, filesystem.xattrs(file));
                match metadata.file_type {
                    FileType::Symlink => damage.note(path, filesystem.link_target(file)),
                    FileType::Regular if skipped.contains(&file) => {}
                    FileType::Regular => match filesystem.open(file) {
                        Ok(content) => {
                            let mut shared = Ok(());
                            damage.note(path, look_up((guard, volume), content, &mut shared));
                            shared?;
                        }
                        Err(error) => damage.note::<()>(path, Err(error)),
                    },
                    _ => {}
                }
                guard.check(volume.volume(), path).map(|()| Descend::Into)
            }
        }
    })?;
    damage.0.map_or(Ok(()), Err)
}

/// The first that a walk found damaged.
struct Damage(Option<Error>);

impl Damage {
    fn note<T>(&mut self, path: &[u8], outcome: Result<T>) {
        if let Err(error) = outcome
            && error.kind() != ErrorKind::Unsupported
        {
            self.0.get_or_insert_with(|| error.within(String::from_utf8_lossy(path)));
        }
    }
}

/// Notes where a file's content lies; in `shared` why that is not all there is to it.
fn look_up(
    (guard, volume): (&Guard, &Placed),
    mut file: Box<dyn fs::FileContent + '_>,
    shared: &mut Result<()>,
) -> Result<()> {
    file.extents(&mut |extent| {
        let range = match extent.place {
            Place::At(start) => ByteRange::new(start, extent.length),
            Place::Encoded(start, length) => ByteRange::new(start, length),
            // What was never written is of no use to anybody.
            Place::Inline | Place::Hole | Place::Unwritten(_) => return ControlFlow::Continue(()),
        };
        *shared = volume.each_place(range, &mut |place| guard.note(place));
        if shared.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}

/// An image that notes when what it lacks is read.
struct Guard {
    image: Cached,
    left_out: Vec<ByteRange>,
    is_armed: AtomicBool,
    missing: Mutex<Option<ByteRange>>,
    /// What could not be read on the disk itself.
    unreadable: Vec<ByteRange>,
    /// Why something else of the image cannot be read.
    fault: Mutex<Option<Error>>,
}

impl Guard {
    fn new(image: ImageReader, left_out: Vec<ByteRange>) -> Arc<Self> {
        let unreadable = image.manifest().unreadable_ranges();
        let image = Cached::new(Arc::new(image));
        let (is_armed, missing, fault) =
            (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Arc::new(Self { image, left_out, is_armed, missing, unreadable, fault })
    }

    /// Fails if what the disk had there could not be read back: that is no fault of the disk's.
    fn check_readable(&self) -> Result<()> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        fault.map_or(Ok(()), |fault| Err(fault.within("the image, read back")))
    }

    fn note(&self, range: ByteRange) {
        if touches(&self.left_out, &range) {
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.get_or_insert(range);
        }
    }

    /// What was missing; from here on that is forgotten.
    fn take_missing(&self) -> Option<ByteRange> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn check(&self, volume: &Volume, path: &[u8]) -> Result<()> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.map_or(Ok(()), |range| {
            let path = String::from_utf8_lossy(path);
            Err(in_use(range, &format!("{}:{path}", volume.name)))
        })
    }
}

impl ReadAt for Guard {
    fn size(&self) -> ByteCount {
        self.image.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset.0, buffer.len() as u64);
        if self.is_armed.load(Ordering::Relaxed) {
            self.note(range);
        }
        self.image.read_exact_at(offset, buffer).inspect_err(|error| {
            // A filesystem that leads beyond its disk is damaged, and no more.
            let is_of_disk =
                error.kind() == ErrorKind::Invalid || touches(&self.unreadable, &range);
            if !is_of_disk {
                let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
                fault.get_or_insert_with(|| Error::new(error.kind(), error.to_string()));
            }
        })
    }
}
