//! Everything that a filesystem can be asked, for tests of damaged ones.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use imgx_engine::fs::{FileId, FileType, Filesystem};

/// All that is said of a filesystem: notes, and what is wrong with it as a whole.
#[allow(dead_code, reason = "not every filesystem's tests ask")]
pub fn told(filesystem: &dyn Filesystem) -> Vec<String> {
    let notes = filesystem.info().notes.iter().cloned();
    notes.chain(filesystem.doubts().all()).collect()
}

/// Does everything there is to do with every file that can be reached; counts the errors.
pub fn use_everything(filesystem: &dyn Filesystem) -> u64 {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![filesystem.root()];
    let mut errors = 0;
    while let Some(file) = waiting.pop() {
        if seen.len() > 20_000 || !seen.insert(file) {
            continue;
        }
        errors += u64::from(filesystem.xattrs(file).is_err());
        let Ok(metadata) = filesystem.metadata(file) else {
            errors += 1;
            continue;
        };
        errors += match metadata.file_type {
            FileType::Directory => use_folder(filesystem, file, &mut waiting),
            FileType::Symlink => u64::from(filesystem.link_target(file).is_err()),
            FileType::Regular => u64::from(!reads(filesystem, file)),
            _ => 0,
        };
    }
    errors += use_numbers(filesystem);
    errors + u64::from(filesystem.free_space(&mut |_| ControlFlow::Continue(())).is_err())
}

fn use_numbers(filesystem: &dyn Filesystem) -> u64 {
    let Some(numbered) = filesystem.numbered() else { return 0 };
    let mut files = Vec::new();
    let shown = numbered.each_file(None, &mut |one| {
        files.push(one.file);
        if files.len() < 5000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let has_parts = |file: &FileId| {
        let mut parts = 0;
        let visit = &mut |_| {
            parts += 1;
            if parts < 100_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        numbered.parts(*file, visit).and_then(|()| numbered.folders_of(*file)).is_ok()
    };
    let errors = files.iter().filter(|file| !has_parts(file)).count() as u64;
    errors + u64::from(shown.is_err())
}

fn use_folder(filesystem: &dyn Filesystem, folder: FileId, waiting: &mut Vec<FileId>) -> u64 {
    let (mut errors, mut names) = (0, Vec::new());
    let listed = filesystem.list(folder, &mut |entry| {
        match entry {
            Ok(entry) => {
                waiting.push(entry.file);
                names.push(entry.name);
            }
            Err(_) => errors += 1,
        }
        if names.len() < 5000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let lookups = names.iter().step_by(names.len() / 20 + 1);
    errors += lookups.filter(|name| filesystem.lookup(folder, name).is_err()).count() as u64;
    errors + u64::from(listed.is_err())
}

fn reads(filesystem: &dyn Filesystem, file: FileId) -> bool {
    let Ok(mut content) = filesystem.open(file) else { return false };
    let mut extents = 0;
    let mapped = content.extents(&mut |_| {
        extents += 1;
        if extents < 100_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let mut buffer = vec![0; 256 * 1024];
    let size = content.size();
    let places = [0, size / 2, size.saturating_sub(1000)];
    mapped.is_ok() && places.iter().all(|place| content.read_at(*place, &mut buffer).is_ok())
}
