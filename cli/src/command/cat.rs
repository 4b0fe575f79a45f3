//! `cat`: a file's content, as it is, on standard output.

use std::os::unix::ffi::OsStrExt;

use imgx_engine::base::limits::MAX_IO_SIZE;
use imgx_engine::base::{Error, ErrorKind, Result};
use imgx_engine::job::files::{FilePath, LastLink, resolve};

use super::ls::{place, tell_notes};
use crate::args::CatArguments;
use crate::files::{Files, Losses};
use crate::session::{Outcome, Session};

/// Bytes of the first piece, so that something is there soon.
const FIRST: usize = 64 * 1024;

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image, volume or path; `Invalid` when it is no regular file;
/// `Corrupt`, `Io` or `Unsupported` when it cannot be read.
pub fn run(arguments: &CatArguments, session: &Session) -> Result<Outcome> {
    let mut files = Files::open(&arguments.image, &arguments.reading, "cat", session)?;
    let path = FilePath::parse(arguments.path.as_bytes());
    let volume = files.disk.open(path.volume.as_deref())?;
    let filesystem = volume.filesystem.as_ref();
    tell_notes(&volume.name, filesystem, &session.console);
    let mut losses = Losses::default();
    losses.tell_doubts(&volume.name, filesystem, &session.console);
    let found = resolve(filesystem, &path.path, LastLink::Follow)?;
    let shown = place(&volume.name, &found.path);
    if found.is_folder() {
        return Err(Error::new(ErrorKind::Invalid, format!("{shown} is a folder: see `imgx ls`")));
    }
    let mut content = filesystem.open(found.file).map_err(|error| error.within(&shown))?;
    let mut buffer = vec![0; FIRST];
    let mut at = 0;
    while at < content.size() {
        let count = content.read_at(at, &mut buffer).map_err(|error| error.within(&shown))?;
        if count == 0 {
            let place = format!("{shown}: content at {at}");
            return Err(Error::corrupt(place, "more bytes", "its end"));
        }
        match session.console.bytes(&buffer[..count]) {
            Ok(()) => {}
            // Whoever read has had enough.
            Err(_) if session.console.has_lost_reader() => break,
            Err(error) => return Err(error),
        }
        at += count as u64;
        buffer.resize(MAX_IO_SIZE, 0);
    }
    losses.tell_doubts(&volume.name, filesystem, &session.console);
    Ok(losses.outcome())
}
