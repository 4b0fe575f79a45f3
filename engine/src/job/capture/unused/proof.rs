//! The proof that an image left nothing out that its filesystems use: their metadata is read
//! from the image, and every file's extents are looked up, before the image is committed. Where a
//! filesystem shows all of its files by number, folders need not be walked for it, unless
//! something is found to be missing or damaged, which the walk then names.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Search, holds_volumes, places};
use crate::base::ranges::{joined, touches, without};
use crate::base::{
    BlockIndex, ByteCount, ByteOffset, ByteRange, Error, ErrorKind, Observer, Result,
};
use crate::block::{Cached, ReadAt};
use crate::fs::{self, FileId, FileType, Filesystem, InUse, Part, Place};
use crate::job::files::{Descend, LastLink, Visited, Walk, resolve};
use crate::store::tree::TreeVisitor;
use crate::store::{Entry, ImageReader, TreeRun};
use crate::sys::threads;
use crate::volume::{self, DiskLayout, Volume};

/// Files that are looked up at once, by all threads.
const LOOKED_UP: usize = 32_768;

/// Walks the volumes called `names` of `image`, which is not committed yet. With `skip_swap` it
/// may lack the contents of swap files, and of those only.
///
/// # Errors
/// `Corrupt`, naming volume and file, when something that is used was left out; `Io`;
/// `Cancelled`.
pub fn check(
    image: ImageReader,
    layout: &DiskLayout,
    (names, skip_swap): (&[&str], bool),
    observer: &dyn Observer,
) -> Result<()> {
    let block = image.manifest().block_size;
    let volumes: Vec<&Volume> =
        layout.volumes.iter().filter(|volume| names.contains(&volume.name.as_str())).collect();
    let wanted = joined(volumes.iter().flat_map(|volume| places(volume)).collect());
    let left_out = unallocated(&image, &wanted)?;
    if left_out.is_empty() {
        return Ok(());
    }
    let guard = Guard::new(image, left_out);
    let disk: Arc<dyn ReadAt> = Arc::clone(&guard) as Arc<dyn ReadAt>;
    let search = Search { disk: &disk, layout, block, is_in_use: false, skip_swap };
    let unused = search.run(|volume| names.contains(&volume.name.as_str()));
    if let Some(range) = without(&guard.left_out, &unused.ranges).first() {
        let doubt = unused.volumes.iter().find_map(|volume| volume.doubt.as_deref());
        return Err(lacking(*range, doubt.unwrap_or("the image's own allocation maps differ")));
    }
    volumes.iter().try_for_each(|volume| {
        let skipped = unused.skipped.iter().filter(|(of, _)| *of == volume.name);
        let skipped: Vec<FileId> = skipped.map(|(_, file)| *file).collect();
        look_through((&guard, &skipped), volume, observer)
    })
}

/// Whether a filesystem of `image` keeps anything in `ranges`, besides room for what was never
/// written; also where that cannot be told.
///
/// # Errors
/// `Cancelled`.
pub fn is_reached(
    image: ImageReader,
    layout: &DiskLayout,
    ranges: Vec<ByteRange>,
    observer: &dyn Observer,
) -> Result<bool> {
    let guard = Guard::new(image, ranges);
    let touched = |volume: &&Volume| {
        let is_touched = |place: &ByteRange| touches(&guard.left_out, place);
        // What is in use of those the volumes in them say.
        !holds_volumes(volume) && places(volume).iter().any(is_touched)
    };
    for volume in layout.volumes.iter().filter(touched) {
        match look_through((&guard, &[]), volume, observer) {
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(_found_or_unknown) => return Ok(true),
            Ok(()) => {}
        }
    }
    Ok(false)
}

/// Walks a volume of the guarded image, past the contents of the files `skipped`.
fn look_through(
    (guard, skipped): (&Arc<Guard>, &[FileId]),
    volume: &Volume,
    observer: &dyn Observer,
) -> Result<()> {
    if is_swap(volume) {
        return Ok(());
    }
    let disk: Arc<dyn ReadAt> = Arc::clone(guard) as Arc<dyn ReadAt>;
    let bytes = volume::open(&disk, volume)?;
    let filesystem = fs::open(&bytes)?;
    // Until here others' signatures were looked for anywhere.
    guard.is_armed.store(true, Ordering::Relaxed);
    if !holds_all((guard, skipped), volume, filesystem.as_ref(), observer)? {
        walk((guard, skipped), volume, filesystem.as_ref(), observer)?;
    }
    guard.is_armed.store(false, Ordering::Relaxed);
    Ok(())
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

fn is_swap(volume: &Volume) -> bool {
    volume.content.as_ref().is_some_and(|content| content.kind == "swap")
}

fn lacking(range: ByteRange, why: &str) -> Error {
    let context = format!(
        "the image would lack {range}, which a filesystem uses though it says they are free \
         ({why}); nothing was stored: check the filesystem, or capture with --all-blocks"
    );
    Error::new(ErrorKind::Corrupt, context)
}

/// Whether it is certain, without a walk, that nothing was left out of what a filesystem's files
/// consist of, but for the contents of the files `skipped`.
fn holds_all(
    (guard, skipped): (&Guard, &[FileId]),
    volume: &Volume,
    filesystem: &dyn Filesystem,
    observer: &dyn Observer,
) -> Result<bool> {
    let Some(numbered) = filesystem.numbered().filter(|numbered| numbered.shows_all()) else {
        return Ok(false);
    };
    let mut after = None;
    loop {
        let Ok(files) = numbered.next_files(after, LOOKED_UP) else {
            guard.forget();
            return Ok(false);
        };
        let are_there = threads::all(&files, |InUse { file, .. }| {
            let looked_up = numbered.parts(*file, &mut |part| {
                let is_skipped = matches!(part, Part::Content(_)) && skipped.contains(file);
                if !is_skipped {
                    volume.each_place(part.range(), &mut |place| guard.note(place));
                }
                ControlFlow::Continue(())
            });
            looked_up.is_ok() && !observer.cancelled()
        });
        if observer.cancelled() {
            return Err(Error::cancelled());
        }
        if guard.forget() || !are_there {
            return Ok(false);
        }
        after = files.last().map(|last| last.file);
        if files.len() < LOOKED_UP {
            return Ok(true);
        }
    }
}

/// Looks at everything that a filesystem reaches, but for the contents of the files `skipped`, of
/// which was found to be left out what may be.
fn walk(
    (guard, skipped): (&Guard, &[FileId]),
    volume: &Volume,
    filesystem: &dyn Filesystem,
    observer: &dyn Observer,
) -> Result<()> {
    let start = resolve(filesystem, b"/", LastLink::Keep)?;
    Walk::new(filesystem).run(&start, &mut |visited| {
        if observer.cancelled() {
            return Err(Error::cancelled());
        }
        // What is damaged on the disk itself is no fault of the image's.
        let Visited::File { path, file, metadata, .. } = visited else {
            return guard.check(volume, b"").map(|()| Descend::Past);
        };
        let _damaged = filesystem.xattrs(file);
        match metadata.file_type {
            FileType::Symlink => drop(filesystem.link_target(file)),
            FileType::Regular if skipped.contains(&file) => {}
            FileType::Regular => look_up_extents(guard, volume, filesystem.open(file).ok()),
            _ => {}
        }
        guard.check(volume, path).map(|()| Descend::Into)
    })
}

fn look_up_extents(guard: &Guard, volume: &Volume, content: Option<Box<dyn fs::FileContent + '_>>) {
    let Some(mut content) = content else { return };
    let _damaged = content.extents(&mut |extent| {
        let range = match extent.place {
            Place::At(start) => ByteRange::new(start, extent.length),
            Place::Encoded(start, length) => ByteRange::new(start, length),
            // What was never written is of no use to anybody.
            Place::Inline | Place::Hole | Place::Unwritten(_) => return ControlFlow::Continue(()),
        };
        volume.each_place(range, &mut |place| guard.note(place));
        ControlFlow::Continue(())
    });
}

/// An image that notes when what it lacks is read.
struct Guard {
    image: Cached,
    left_out: Vec<ByteRange>,
    is_armed: AtomicBool,
    missing: Mutex<Option<ByteRange>>,
}

impl Guard {
    fn new(image: ImageReader, left_out: Vec<ByteRange>) -> Arc<Self> {
        let image = Cached::new(Arc::new(image));
        let (is_armed, missing) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { image, left_out, is_armed, missing })
    }

    fn note(&self, range: ByteRange) {
        if touches(&self.left_out, &range) {
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.get_or_insert(range);
        }
    }

    /// Whether something was missing; from here on that is forgotten.
    fn forget(&self) -> bool {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    fn check(&self, volume: &Volume, path: &[u8]) -> Result<()> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.map_or(Ok(()), |range| {
            let path = String::from_utf8_lossy(path);
            Err(lacking(range, &format!("{}:{path}", volume.name)))
        })
    }
}

impl ReadAt for Guard {
    fn size(&self) -> ByteCount {
        self.image.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        if self.is_armed.load(Ordering::Relaxed) {
            self.note(ByteRange::new(offset.0, buffer.len() as u64));
        }
        self.image.read_exact_at(offset, buffer)
    }
}
