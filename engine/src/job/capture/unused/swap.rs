//! Files whose content nobody needs after a restart: Windows' paging and hibernation files, and
//! the swap files that a Linux system's own fstab names. What of them was written is left out of
//! an image if that is asked for; in any doubt about a file nothing of it is.
//!
//! Windows makes the contents of its own anew: it fills the beginning of a hibernation file with
//! zeros itself once it has resumed. Where it has not, the volume is in doubt altogether, and
//! nothing of it is left out, nor is this asked.

use std::ops::ControlFlow;

use super::fstab::{Root, swap_files};
use crate::base::limits::{MAX_FSTAB, MAX_SWAP_FILES, MAX_UNUSED_PIECES};
use crate::base::ranges::joined;
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::fs::{FileId, FileType, Filesystem, Place, Protection};
use crate::job::files::{LastLink, list_sorted, resolve};
use crate::volume::Placed;

/// What Windows calls them, in the root folder.
const WINDOWS: [&str; 3] = ["pagefile.sys", "swapfile.sys", "hiberfil.sys"];
/// Swap space begins with its header: a page, of up to 64 KiB, and room for a boot loader.
pub const SWAP_HEADER: u64 = 64 * 1024;
/// What stands at the end of that page.
const SIGNATURE: &[u8] = b"SWAPSPACE2";

/// Such a file.
#[derive(Debug)]
pub struct SwapFile {
    /// Its path.
    pub path: String,
    /// The file.
    pub file: FileId,
    /// Where on the disk what is not needed of it lies: sorted and apart.
    pub pieces: Vec<ByteRange>,
    /// Why that is nothing.
    pub note: Option<String>,
}

/// The rule by which a file is taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Its name, all of it.
    Windows,
    /// Its header, which is kept.
    Linux,
}

/// The files of `filesystem`, which `volume` holds, whose content need not be kept.
#[must_use]
pub fn find(filesystem: &dyn Filesystem, volume: &Placed) -> Vec<SwapFile> {
    let (named, rule) = match filesystem.info().kind {
        "ntfs" => (of_windows(filesystem), Rule::Windows),
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => (of_linux(filesystem), Rule::Linux),
        _ => return Vec::new(),
    };
    let mut found: Vec<SwapFile> = Vec::new();
    for (path, file) in named {
        if found.len() >= MAX_SWAP_FILES || found.iter().any(|known| known.file == file) {
            continue;
        }
        let mut swap = SwapFile { path, file, pieces: Vec::new(), note: None };
        if let Err(error) = swap.look(filesystem, volume, rule) {
            swap.pieces.clear();
            swap.note = Some(format!("its content is kept: {error}"));
        }
        found.push(swap);
    }
    found
}

fn of_windows(filesystem: &dyn Filesystem) -> Vec<(String, FileId)> {
    let root = filesystem.root();
    let named = WINDOWS.iter().filter_map(|name| filesystem.lookup(root, name.as_bytes()).ok()?);
    let named: Vec<FileId> = named.collect();
    let Ok((entries, _)) = list_sorted(filesystem, root) else { return Vec::new() };
    let path = |name: Vec<u8>| String::from_utf8(name).ok().map(|name| format!("/{name}"));
    let entries = entries.into_iter().filter(|entry| named.contains(&entry.file));
    let files = entries.filter_map(|entry| Some((path(entry.name)?, entry.file)));
    files.filter(|(_, file)| is_file(filesystem, *file)).collect()
}

fn of_linux(filesystem: &dyn Filesystem) -> Vec<(String, FileId)> {
    let mut roots = vec![Vec::new()];
    if filesystem.info().kind == "btrfs"
        && let Ok((entries, _)) = list_sorted(filesystem, filesystem.root())
    {
        // The subvolume that is mounted as `/` mostly is one of these.
        let below = entries.into_iter().take(MAX_SWAP_FILES);
        roots.extend(below.map(|entry| [b"/".as_slice(), &entry.name].concat()));
    }
    let mut found = Vec::new();
    for prefix in &roots {
        let Ok(Some(text)) = fstab(filesystem, prefix) else { continue };
        let root = Root { prefix, uuid: filesystem.info().uuid.as_deref() };
        for path in swap_files(&text, &root).into_iter().take(MAX_SWAP_FILES) {
            let file = resolve(filesystem, &path, LastLink::Keep).ok();
            let file = file.filter(|found| found.metadata.file_type == FileType::Regular);
            found.extend(
                file.and_then(|file| Some((String::from_utf8(file.path).ok()?, file.file))),
            );
        }
    }
    found
}

fn is_file(filesystem: &dyn Filesystem, file: FileId) -> bool {
    let metadata = filesystem.metadata(file);
    metadata.is_ok_and(|metadata| metadata.file_type == FileType::Regular)
}

/// What the fstab of the system below `prefix` says, if there is one.
fn fstab(filesystem: &dyn Filesystem, prefix: &[u8]) -> Result<Option<Vec<u8>>> {
    let found = resolve(filesystem, &[prefix, b"/etc/fstab"].concat(), LastLink::Keep)?;
    let size = usize::try_from(found.metadata.size).unwrap_or(usize::MAX);
    if found.metadata.file_type != FileType::Regular || size > MAX_FSTAB {
        return Ok(None);
    }
    let mut text = vec![0; size];
    let read = filesystem.open(found.file)?.read_at(0, &mut text)?;
    text.truncate(read);
    Ok(Some(text))
}

impl SwapFile {
    /// Finds out what of the file need not be kept.
    fn look(&mut self, filesystem: &dyn Filesystem, volume: &Placed, rule: Rule) -> Result<()> {
        if filesystem.metadata(self.file)?.protection != Protection::None {
            return Err(Error::new(ErrorKind::Unsupported, "it is protected"));
        }
        if filesystem.may_share(self.file)? {
            let context = "its blocks may be another file's too";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let mut content = filesystem.open(self.file)?;
        let mut start = vec![0; usize::try_from(SWAP_HEADER).unwrap_or(0)];
        let read = content.read_at(0, &mut start)?;
        start.truncate(read);
        let kept = match rule {
            Rule::Windows => 0,
            Rule::Linux if has_signature(&start) => SWAP_HEADER,
            Rule::Linux => {
                let context = "it does not begin as swap space does";
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
        };
        let (mut is_plain, mut shared) = (true, None);
        content.extents(&mut |extent| {
            let place = match extent.place {
                // The system writes its blocks itself, whatever the map says of them.
                Place::At(place) | Place::Unwritten(Some(place)) => place,
                Place::Hole | Place::Inline | Place::Unwritten(None) => {
                    return ControlFlow::Continue(());
                }
                Place::Encoded(..) => {
                    is_plain = false;
                    return ControlFlow::Break(());
                }
            };
            let skipped = kept.saturating_sub(extent.offset).min(extent.length);
            let range = ByteRange::new(place.saturating_add(skipped), extent.length - skipped);
            let taken = volume.each_own_place(range, &mut |place| self.pieces.push(place));
            shared = taken.err();
            is_plain = self.pieces.len() <= MAX_UNUSED_PIECES;
            if is_plain && shared.is_none() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = shared {
            return Err(error);
        }
        if !is_plain {
            let context = "it is compressed, or in too many pieces";
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        self.pieces = joined(std::mem::take(&mut self.pieces));
        Ok(())
    }
}

/// Whether a page of any size that `start` begins with is the header of swap space.
fn has_signature(start: &[u8]) -> bool {
    let pages = (12..=16).map(|bits| 1_usize << bits);
    pages.into_iter().any(|page| {
        let end = start.get(..page).unwrap_or_default();
        end.ends_with(SIGNATURE)
    })
}
