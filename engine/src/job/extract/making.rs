//! The phases of an extraction.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::iter;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};

use super::copy::copy;
use super::handle::Handle;
use super::names;
use super::pieces::cut;
use super::plan::Item;
use super::report::GivenName;
use super::run::Run;
use super::spot::{Draft, MadeFolder, Spot};
use super::tree::{Folder, Moment, Standing};
use super::trouble::{Made, Trouble};
use crate::base::limits::MAX_IO_SIZE;
use crate::base::{Error, ErrorContext, ErrorKind};
use crate::fs::FileType;
use crate::sys::threads;

/// Files beyond this are copied by all threads together.
const LARGE: u64 = 16 * 1024 * 1024;
/// The list of given names, in the target folder.
const NAMES_FILE: &str = "imgx-names";
/// Lists of earlier extractions that may be there already.
const MAX_NAMES_FILES: usize = 1000;

/// What was made, still open.
enum New {
    File(File),
    Unopened(OwnedFd),
}

impl New {
    fn handle(&self) -> Handle<'_> {
        match self {
            Self::File(file) => Handle::Open(file),
            Self::Unopened(place) => Handle::Place(place),
        }
    }
}

/// Makes a file that has its name when this returns.
type MakeFile<'m, 'a> = &'m mut dyn FnMut(usize, &'a Item, &Spot<'_>) -> Made<New>;

impl<'a> Run<'a> {
    pub(super) fn make_folders(&self) {
        for index in self.items(|item| item.file_type == FileType::Directory) {
            if self.is_stopped() {
                return;
            }
            if self.is_missing(self.item(index).and_then(|item| item.parent)) {
                self.note_beneath(index);
                continue;
            }
            let made = self.make(index, &mut |item, spot| {
                let made = spot.make_folder()?;
                self.check_folder(item, &made, spot)?;
                self.folders.note(index, made, &spot.folder)
            });
            match made {
                Ok(()) => self.with_report(|report| report.folders += 1),
                Err(trouble) => self.note(index, trouble),
            }
        }
    }

    /// A folder of root's that another user may have put there is used only if it is just what is
    /// to be there: it may hold what others are not to see, or let others see what is put into it.
    fn check_folder(&self, item: &Item, made: &MadeFolder, spot: &Spot<'_>) -> Made<()> {
        let Some(handle) = made.handle.as_ref().filter(|_| made.standing.is_doubtful) else {
            return Ok(());
        };
        let shown = spot.shown.display();
        let stat = Handle::Place(handle).stat().context(|| format!("look at {shown}"));
        if self.attributes.are_given(item.file, &stat.map_err(Trouble::target)?)? {
            return Ok(());
        }
        let context = format!("{shown}: left alone, as another user may have put it there");
        Err(Trouble::Target(Error::new(ErrorKind::Conflict, context)))
    }

    /// Small files side by side, then each large one by all threads.
    pub(super) fn make_contents(&self) {
        let is_content =
            |item: &Item| item.file_type == FileType::Regular && item.link_of.is_none();
        let mut files = self.items(is_content);
        files.sort_by_key(|index| self.item(*index).map(|item| item.place));
        // Which of them gets the name that the target takes for that of both is to be the same
        // each time.
        let alike = self.alike();
        let mut first: Vec<usize> =
            files.iter().copied().filter(|index| alike.contains(index)).collect();
        first.sort_unstable();
        files.retain(|index| !alike.contains(index));
        let is_large = |index: &usize| self.item(*index).is_some_and(|item| item.size > LARGE);
        let (large, small): (Vec<_>, Vec<_>) = files.into_iter().partition(is_large);
        for index in first {
            self.make_content(index, &mut vec![0; MAX_IO_SIZE]);
        }
        let next = AtomicUsize::new(0);
        self.in_threads(&|| {
            let mut buffer = vec![0; MAX_IO_SIZE];
            while let Some(index) = small.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.make_content(*index, &mut buffer);
                if self.is_stopped() {
                    break;
                }
            }
        });
        for index in large {
            self.make_content(index, &mut []);
        }
    }

    /// Items whose names differ from others' in their folder by case alone, where names may be
    /// given.
    fn alike(&self) -> HashSet<usize> {
        let mut alike = HashSet::new();
        if !self.options.shorten_names {
            return alike;
        }
        let mut seen: HashMap<(Option<u32>, String), usize> = HashMap::new();
        for (index, item) in self.plan.items.iter().enumerate() {
            let name = String::from_utf8_lossy(&item.name).to_lowercase();
            if let Some(other) = seen.insert((item.parent, name), index) {
                alike.extend([other, index]);
            }
        }
        alike
    }

    fn in_threads(&self, work: &(dyn Fn() + Sync)) {
        thread::scope(|scope| {
            threads::crew(scope, self.options.threads.get() - 1, || work);
            work();
        });
    }

    /// Makes a regular file; a large one where `buffer` is empty.
    fn make_content(&self, index: usize, buffer: &mut [u8]) {
        self.make_file(index, &mut |name, item, spot| {
            let (file, draft) = spot.make_file()?;
            let context = || format!("write {}", spot.shown.display());
            file.set_len(item.size).context(context).map_err(Trouble::target)?;
            if buffer.is_empty() || item.size > LARGE {
                self.large(item, spot, &file)?;
            } else {
                self.small(item, spot, &file, buffer)?;
            }
            let missing = self.attributes.give(item.file, Handle::Open(&file), true)?;
            draft.settle()?;
            self.note_missing(name, missing);
            Ok(New::File(file))
        });
    }

    pub(super) fn small(
        &self,
        item: &Item,
        spot: &Spot<'_>,
        file: &File,
        buffer: &mut [u8],
    ) -> Made<()> {
        let content = self.plan.filesystem.open(item.file);
        let mut content = content.map_err(Trouble::image)?;
        let mut pieces = Vec::new();
        let cut = cut(content.as_mut(), self.plan.volume, &|| self.is_stopped(), &mut |piece| {
            pieces.push(piece);
            ControlFlow::Continue(())
        });
        cut.map_err(Trouble::image)?;
        for piece in &pieces {
            copy(content.as_mut(), *piece, (file, &spot.shown), buffer)?;
            self.written(piece.len())?;
        }
        self.tell(item.size);
        Ok(())
    }

    /// Makes file `index` and its further names. If the target cannot have it under one name, it
    /// gets it under the next.
    fn make_file(&self, index: usize, make: MakeFile<'_, 'a>) {
        let mut new: Option<New> = None;
        let mut is_lost = false;
        let further = u32::try_from(index).ok().and_then(|index| self.links.get(&index));
        for name in iter::once(index).chain(further.into_iter().flatten().copied()) {
            if self.is_stopped() {
                return;
            }
            if is_lost || self.is_missing(self.item(name).and_then(|item| item.parent)) {
                self.note_beneath(name);
                continue;
            }
            let made = match &new {
                Some(new) => self.make(name, &mut |_, spot| spot.make_name_of(new.handle())),
                None => self.make(name, &mut |item, spot| {
                    new = Some(make(name, item, spot)?);
                    Ok(())
                }),
            };
            match made {
                Ok(()) => self.with_report(|report| report.files += 1),
                Err(trouble) => {
                    is_lost = matches!(trouble, Trouble::Image(_)) && new.is_none();
                    self.note(name, trouble);
                }
            }
        }
    }

    /// Symbolic links, devices, pipes and sockets.
    pub(super) fn make_others(&self) {
        let is_other = |item: &Item| {
            item.link_of.is_none()
                && !matches!(item.file_type, FileType::Directory | FileType::Regular)
        };
        for index in self.items(is_other) {
            let Some(item) = self.item(index) else { continue };
            let is_device = matches!(item.file_type, FileType::CharDevice | FileType::BlockDevice);
            if is_device && !self.options.privileged {
                self.with_report(|report| report.devices_left_out += 1);
                continue;
            }
            self.make_file(index, &mut |name, item, spot| {
                let (place, draft) = self.make_other(item, spot)?;
                let missing = self.attributes.give(item.file, Handle::Place(&place), true)?;
                draft.settle()?;
                self.note_missing(name, missing);
                Ok(New::Unopened(place))
            });
        }
    }

    fn make_other<'s>(&self, item: &Item, spot: &'s Spot<'_>) -> Made<(OwnedFd, Draft<'s>)> {
        let kind = match item.file_type {
            FileType::Symlink => {
                let target = self.plan.filesystem.link_target(item.file);
                return spot.make_link(&target.map_err(Trouble::image)?);
            }
            FileType::CharDevice => SFlag::S_IFCHR,
            FileType::BlockDevice => SFlag::S_IFBLK,
            FileType::Socket => SFlag::S_IFSOCK,
            FileType::Fifo | FileType::Regular | FileType::Directory => SFlag::S_IFIFO,
        };
        let metadata = self.plan.filesystem.metadata(item.file).map_err(Trouble::image)?;
        spot.make_node(kind, metadata.device.unwrap_or_default())
    }

    /// Innermost folders first: giving a folder its times and rights comes after all that is
    /// made in it. Folders that were there keep their own, unless things may be replaced.
    pub(super) fn give_folder_attributes(&self) {
        let folders = self.items(|item| item.file_type == FileType::Directory);
        for index in folders.into_iter().rev() {
            let Some(standing) = self.folders.standing(index) else { continue };
            if !standing.is_new && !self.options.overwrite {
                self.with_report(|report| report.folders_kept += 1);
                continue;
            }
            if let Err(trouble) = self.give_to_folder(index, standing) {
                self.note(index, trouble);
            }
        }
    }

    fn give_to_folder(&self, index: usize, standing: Standing) -> Made<()> {
        const READABLE: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
        let Some(item) = self.item(index) else { return Ok(()) };
        let opened = self.folders.open(u32::try_from(index).ok(), &self.tree)?;
        self.tree.at(Moment::Giving);
        let is_new = standing.is_new;
        if standing.is_doubtful {
            // It has them already.
            return Ok(());
        }
        if !is_new && self.tree.is_made_itself(&opened)? {
            return Err(self.exchanged(index));
        }
        let Folder { handle, .. } = opened;
        let missing = match openat(&*handle, ".", READABLE, Mode::empty()) {
            Ok(open) => self.attributes.give(item.file, Handle::Open(&File::from(open)), is_new)?,
            // Its owner may not read it.
            Err(_) => self.attributes.give(item.file, Handle::Place(&handle), is_new)?,
        };
        self.note_missing(index, missing);
        Ok(())
    }

    fn exchanged(&self, index: usize) -> Trouble {
        let shown = self.tree.shown(&self.folders.path(index));
        let context = format!("{}: somebody else exchanged it", shown.display());
        Trouble::Target(Error::new(ErrorKind::Conflict, context))
    }

    /// Writes the list of given names into the target folder.
    pub(super) fn list_names(&self) {
        let given = |index: usize| GivenName {
            path: self.plan.path(index),
            given: self.folders.path(index),
        };
        let names: Vec<GivenName> = self.folders.renamed().into_iter().map(given).collect();
        if names.is_empty() {
            return;
        }
        match self.write_names(&names) {
            Ok(file) => self.with_report(|report| report.names_file = Some(file)),
            Err(trouble) => self.with_report(|report| {
                report.note(NAMES_FILE.as_bytes().to_vec(), trouble);
            }),
        }
        self.with_report(|report| report.names = names);
    }

    fn write_names(&self, names: &[GivenName]) -> Made<String> {
        let table = names::table(names);
        let mut number = 1;
        loop {
            let name = match number {
                1 => format!("{NAMES_FILE}.tsv"),
                _ => format!("{NAMES_FILE}-{number}.tsv"),
            };
            match self.write_list(&name, &table) {
                Err(Trouble::Target(error))
                    if error.kind() == ErrorKind::Conflict && number < MAX_NAMES_FILES =>
                {
                    number += 1;
                }
                Err(trouble) => return Err(trouble),
                Ok(()) => return Ok(name),
            }
        }
    }

    /// Writes one that is not there yet, whatever else may be replaced.
    fn write_list(&self, name: &str, table: &str) -> Made<()> {
        let spot = Spot {
            tree: &self.tree,
            item: usize::MAX,
            parent: None,
            folder: self.tree.root.clone(),
            name: OsStr::new(name),
            shown: self.tree.shown(name.as_bytes()),
            is_lending: false,
        };
        if spot.is_taken() {
            return Err(spot.exists());
        }
        let (file, draft) = spot.make_file()?;
        let written = file.write_all_at(table.as_bytes(), 0);
        written.context(|| format!("write {}", spot.shown.display())).map_err(Trouble::target)?;
        draft.settle()
    }
}
