//! Opening what is named as an object: only a regular file is one. A pipe would wait for a writer,
//! a device may do anything, and a link leads out of the repository; like listings, opening takes
//! them for nothing.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{ELOOP, ENXIO, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};

/// Opens the file at `path` as `options` say. Only its last name must be no link.
///
/// # Errors
/// `NotFound` also for what is no regular file; the system's.
pub fn open_with(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let opened = options.custom_flags(O_NONBLOCK | O_NOFOLLOW | O_NOCTTY).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A link; a pipe or socket that is to be written.
        Some(ELOOP | ENXIO) => no_file(path),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file(path)) }
}

/// Opens the file at `path` to read.
///
/// # Errors
/// As [`open_with`].
pub fn open(path: &Path) -> Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

fn no_file(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} is no regular file", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "x").expect("written");
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        std::fs::create_dir(at("folder")).expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
        for (name, target) in [("link", "file"), ("loop", "loop"), ("device", "/dev/zero")] {
            symlink(target, at(name)).expect("made");
        }
        assert!(open(&at("file")).is_ok());
        for name in ["pipe", "folder", "socket", "link", "loop", "device", "none"] {
            let error = open(&at(name)).expect_err("no regular file");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{name}: {error}");
            let error = open_with(OpenOptions::new().write(true), &at(name)).map(|_| ());
            assert!(error.is_err(), "{name} was opened to write");
        }
        symlink(folder.path(), at("here")).expect("made");
        assert!(open(&at("here/file")).is_ok(), "a folder may be a link");
    }
}
