//! What the tests of whole jobs share: small disks, jobs in one line, listeners, comparisons.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use imgx_engine::base::{ByteOffset, Event, Observer, ReadAt, Result, Silent};
use imgx_engine::job::{
    Capture, CaptureOptions, CaptureReport, Effort, VerifyOptions, VerifyReport, verify,
};
use imgx_engine::store::repository::Image;
use imgx_engine::store::{ImageReader, Repository};
use imgx_fixtures::pattern::{incompressible, text};
use imgx_fixtures::tool;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// Whether the long profile is wanted: `IMGX_LONG=1`.
pub fn is_long() -> bool {
    std::env::var_os("IMGX_LONG").is_some_and(|value| value == "1")
}

/// A temporary folder in memory where there is such a place: nothing there waits for a disk.
pub fn folder_in_memory() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    folder.expect("a temporary folder can be made")
}

/// A mounted folder.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Runs `mount` with `arguments` and `point`.
    pub fn new(arguments: &[&str], point: &Path) -> Self {
        let all = [arguments, &[point.to_str().expect("plain")]].concat();
        tool::run("mount", &all).expect("mounted");
        Self(point.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Rings and loop devices let go of their files a moment after they were told to.
        for _ in 0..200 {
            if tool::run("umount", &[self.0.to_str().unwrap_or_default()]).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A disk of `length` bytes with text, noise, zeros and repetitions, changing every 192 KiB.
pub fn small_disk(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    for number in 0_u64.. {
        let left = length - bytes.len();
        let piece = left.min(192 * KIB);
        match number % 5 {
            _ if left == 0 => break,
            0 | 3 => bytes.extend(incompressible(seed << 20 | number, piece)),
            1 => bytes.extend(text(seed << 20 | number, piece)),
            2 => bytes.resize(bytes.len() + piece, 0),
            _ => bytes.extend(incompressible(seed ^ 0xd0d0, piece)),
        }
    }
    bytes
}

/// Captures the file or device `disk` as `name`, by one thread, the same each time.
pub fn capture(
    repository: &Repository,
    disk: &Path,
    name: &str,
    observer: &dyn Observer,
) -> Result<CaptureReport> {
    let options = CaptureOptions {
        name: Some(name.to_owned()),
        threads: Some(1),
        effort: Effort::Level(1),
        ..CaptureOptions::default()
    };
    Capture::plan(repository, disk, options, observer)?.run(observer)
}

/// Verifies everything.
pub fn verify_all(repository: &Repository, observer: &dyn Observer) -> Result<VerifyReport> {
    verify(repository, &VerifyOptions::default(), observer)
}

/// Everything that was told.
#[derive(Default)]
pub struct Listener(Mutex<Vec<String>>);

impl Listener {
    /// What damage was reported.
    pub fn damage(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Listener {
    fn event(&self, event: &Event<'_>) {
        if let Event::Damage { report } = event {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*report).to_owned());
        }
    }
}

/// What was warned of.
#[derive(Default)]
pub struct Warnings(pub Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { message } | Event::Doubt { message } = event {
            self.0.lock().expect("no panic").push((*message).to_owned());
        }
    }
}

/// Reads a whole image in pieces; each is its bytes or an error.
pub fn read_pieces(reader: &ImageReader, piece: usize) -> Vec<(usize, Result<Vec<u8>>)> {
    let size = usize::try_from(reader.size().0).expect("a small image");
    let read = |start: usize| {
        let mut bytes = vec![0xaa; piece.min(size - start)];
        reader.read_exact_at(ByteOffset(start as u64), &mut bytes).map(|()| bytes)
    };
    (0..size).step_by(piece).map(|start| (start, read(start))).collect()
}

/// What is wrong with an image that should be sound and hold `expected`.
pub fn differs(repository: &Repository, image: &Image, expected: &[u8]) -> Option<String> {
    if image.manifest.size.0 != expected.len() as u64 {
        return Some(format!("image of {} bytes", image.manifest.size));
    }
    for (start, piece) in read_pieces(&repository.reader(image), MIB) {
        match piece {
            Err(error) => return Some(format!("byte {start}: {error}")),
            Ok(bytes) if bytes != expected[start..start + bytes.len()] => {
                return Some(format!("wrong bytes from {start}"));
            }
            Ok(_) => {}
        }
    }
    None
}

/// What is wrong with a repository that should be sound.
pub fn unsound(repository: &Repository) -> Option<String> {
    let listener = Listener::default();
    match verify_all(repository, &listener) {
        Err(error) => Some(format!("verify: {error}")),
        Ok(report) if report.damage > 0 => {
            Some(format!("verify: {report:?}: {:?}", listener.damage()))
        }
        Ok(_) => None,
    }
}

/// The image of this name that a repository holds, if any.
pub fn image_named(repository: &Repository, name: &str) -> Option<Image> {
    let found = repository.images().expect("images are listed");
    found.images.into_iter().find(|image| image.manifest.name == name)
}

/// Writes `bytes` to a new file of `folder`.
pub fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a temporary file can be written");
    path
}

/// Captures where nobody listens and nothing may fail.
pub fn captured(repository: &Repository, disk: &Path, name: &str) -> CaptureReport {
    capture(repository, disk, name, &Silent).expect("captured")
}
