//! `ls`: the files of a folder, or of everything below it.

use std::os::unix::ffi::OsStrExt;

use imgx_engine::base::Result;
use imgx_engine::fs::{FileType, Filesystem};
use imgx_engine::job::files::{Descend, FilePath, LastLink, Visited, Walk, resolve};

use crate::args::LsArguments;
use crate::files::{Files, Losses};
use crate::listing::{Listing, Row, printable};
use crate::output::Console;
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image, volume or path; `Corrupt`, `Io` or `Unsupported` when the
/// folder cannot be read at all.
pub fn run(arguments: &LsArguments, session: &Session) -> Result<Outcome> {
    let mut files = Files::open(&arguments.image, &arguments.reading, "ls", session)?;
    let typed = arguments.path.as_deref().unwrap_or_default();
    let path = FilePath::parse(typed.as_bytes());
    let volume = files.disk.open(path.volume.as_deref())?;
    let filesystem = volume.filesystem.as_ref();
    let console = &session.console;
    tell_notes(&volume.name, filesystem, console);
    let mut losses = Losses::default();
    losses.tell_doubts(&volume.name, filesystem, console);
    let start = resolve(filesystem, &path.path, LastLink::Keep)?;
    let mut listing = Listing::new(console, arguments.long, arguments.reading.zone());
    let is_folder = start.is_folder();
    Walk::new(filesystem).run(&start, &mut |visited| {
        match visited {
            Visited::File { depth: 0, .. } if is_folder => return Ok(Descend::Into),
            Visited::File { path, file, metadata, .. } => {
                let has_target = metadata.file_type == FileType::Symlink && listing.has_targets();
                let target = match has_target.then(|| filesystem.link_target(file)).transpose() {
                    Ok(target) => target,
                    Err(error) => {
                        losses.tell(&place(&volume.name, path), &error, console);
                        None
                    }
                };
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let shown = if arguments.recursive { path } else { name };
                let (volume, metadata) = (volume.name.as_str(), &metadata);
                listing.add(&Row { volume, path, shown, metadata, target })?;
            }
            Visited::Lost { path, error } => {
                losses.tell(&place(&volume.name, path), &error, console);
            }
        }
        Ok(if arguments.recursive { Descend::Into } else { Descend::Past })
    })?;
    listing.flush();
    losses.tell_doubts(&volume.name, filesystem, console);
    Ok(losses.outcome())
}

/// A file in words.
pub fn place(volume: &str, path: &[u8]) -> String {
    format!("{volume}:{}", printable(path))
}

/// Says what was noticed when a filesystem was opened, to whoever wants to hear it.
pub fn tell_notes(volume: &str, filesystem: &dyn Filesystem, console: &Console) {
    if console.is_verbose() {
        for note in &filesystem.info().notes {
            console.complain(&format!("note: {volume}: {note}"));
        }
    }
}
