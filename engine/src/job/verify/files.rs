//! Which files an image's damage costs.

use std::ops::ControlFlow;

use crate::base::limits::{MAX_DAMAGED_FILES, MAX_IO_SIZE};
use crate::base::{ByteOffset, ByteRange, Error, ErrorKind, Event, Observer, ReadAt, Result};
use crate::fs::{Extent, FileId, FileType, Place};
use crate::job::files::{Descend, FileDisk, LastLink, OpenVolume, Visited, Walk, resolve};
use crate::store::ImageReader;

/// A file of an image that cannot be read whole any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// The image's id.
    pub image: String,
    /// The volume.
    pub volume: String,
    /// The path on it.
    pub path: Vec<u8>,
}

/// Finds the files of `image` that have content in `lost`, which is ascending, or that cannot be
/// read at all; tells of each.
///
/// # Errors
/// `Cancelled`. What cannot be looked into is told as damage.
pub(super) fn damaged_files(
    image: ImageReader,
    id: &str,
    lost: &[ByteRange],
    observer: &dyn Observer,
) -> Result<Vec<DamagedFile>> {
    let mut found = Vec::new();
    let tell = |report: &str| observer.event(&Event::Damage { report });
    let disk = match FileDisk::of_image(image) {
        Ok(disk) => disk,
        Err(error) => {
            tell(&format!("image {id}: its files cannot be named: {error}"));
            return Ok(found);
        }
    };
    for (volume, opened) in disk.open_all() {
        match opened {
            Ok(opened) => {
                let mut search = Search { volume: &opened, id, lost, observer };
                search.run(&mut found)?;
            }
            // A filesystem that is not read yet is no damage.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => tell(&format!("image {id}: {}: {error}", volume.name)),
        }
    }
    Ok(found)
}

/// Whether a file could not be read either if nothing were lost: it is in a form that is not read,
/// or on a device that is on another disk.
fn is_no_loss(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound)
}

/// The search of one volume.
struct Search<'a> {
    volume: &'a OpenVolume,
    id: &'a str,
    lost: &'a [ByteRange],
    observer: &'a dyn Observer,
}

impl Search<'_> {
    fn run(&mut self, found: &mut Vec<DamagedFile>) -> Result<()> {
        let filesystem = self.volume.filesystem.as_ref();
        let root = match resolve(filesystem, b"/", LastLink::Keep) {
            Ok(root) => root,
            Err(error) => {
                self.add(b"/", &error.to_string(), found);
                return Ok(());
            }
        };
        Walk::new(filesystem).run(&root, &mut |visited| {
            if self.observer.cancelled() {
                return Err(Error::cancelled());
            }
            match visited {
                Visited::File { path, file, metadata, .. }
                    if metadata.file_type == FileType::Regular =>
                {
                    match self.lies_in_lost(file) {
                        Ok(false) => {}
                        Ok(true) => self.add(path, "a part of its content is lost", found),
                        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                        Err(error) => self.add(path, &error.to_string(), found),
                    }
                }
                Visited::File { .. } => {}
                Visited::Lost { error, .. } if is_no_loss(&error) => {}
                Visited::Lost { path, error } => self.add(path, &error.to_string(), found),
            }
            Ok(Descend::Into)
        })
    }

    fn add(&self, path: &[u8], why: &str, found: &mut Vec<DamagedFile>) {
        let (volume, id) = (self.volume.name.clone(), self.id);
        let shown = String::from_utf8_lossy(path);
        match found.len() {
            MAX_DAMAGED_FILES => {
                let report = format!("image {id}: more files than are named here");
                self.observer.event(&Event::Damage { report: &report });
            }
            more if more > MAX_DAMAGED_FILES => return,
            _ => {
                let report = format!("image {id}: file {volume}:{shown}: {why}");
                self.observer.event(&Event::Damage { report: &report });
            }
        }
        found.push(DamagedFile { image: id.to_owned(), volume, path: path.to_vec() });
    }

    /// Whether any of a file's content is among what is lost.
    fn lies_in_lost(&self, file: FileId) -> Result<bool> {
        if self.volume.left_out.contains(&file) {
            return Ok(false);
        }
        let mut content = match self.volume.filesystem.open(file) {
            Ok(content) => content,
            Err(error) if is_no_loss(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let (mut is_hit, mut is_stopped) = (false, false);
        content.extents(&mut |extent: Extent| {
            is_stopped = self.observer.cancelled();
            let place = match extent.place {
                Place::At(start) => ByteRange::new(start, extent.length),
                Place::Encoded(start, length) => ByteRange::new(start, length),
                Place::Inline | Place::Hole | Place::Unwritten(_) => ByteRange::new(0, 0),
            };
            let looked_up = self.volume.each_place(place, &mut |place| {
                is_hit |= self.is_lost(place);
            });
            // Where that is not all there is to its bytes, only reading them tells.
            is_hit |= looked_up.is_err() && !self.is_readable(place);
            match is_hit || is_stopped {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if is_stopped { Err(Error::cancelled()) } else { Ok(is_hit) }
    }

    fn is_readable(&self, place: ByteRange) -> bool {
        let mut buffer = vec![0; MAX_IO_SIZE];
        let mut at = place.start;
        while at < place.end && !self.observer.cancelled() {
            let count = usize::try_from(place.end - at).unwrap_or(usize::MAX).min(buffer.len());
            if self.volume.bytes.read_exact_at(ByteOffset(at), &mut buffer[..count]).is_err() {
                return false;
            }
            at += count as u64;
        }
        true
    }

    fn is_lost(&self, place: ByteRange) -> bool {
        let next = self.lost.partition_point(|lost| lost.end <= place.start);
        self.lost.get(next).is_some_and(|lost| lost.start < place.end)
    }
}
