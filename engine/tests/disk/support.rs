//! Loop devices that always detach, content whose every sector is different, and short forms.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use imgx_engine::base::{ByteRange, Observer, Result, Silent};
use imgx_engine::block::{BufferPool, Disk, IoMode, OpenOptions, ReadRequest};
use imgx_engine::sys::Ring;
use tempfile::TempDir;

pub const MIB: usize = 1 << 20;

/// The ways to keep I/O in flight, as far as this machine has them; they must all do the same.
pub fn modes() -> Vec<IoMode> {
    match Ring::probe() {
        Ok(()) => vec![IoMode::Ring, IoMode::Threads],
        Err(error) => {
            println!("skipped in part: no io_uring here ({error})");
            vec![IoMode::Auto, IoMode::Threads]
        }
    }
}

/// The ways to read a disk, which must all give the same.
pub fn ways() -> Vec<OpenOptions> {
    let of = |io| [true, false].map(|direct| OpenOptions { io, direct, ..OpenOptions::default() });
    modes().into_iter().flat_map(of).collect()
}

/// Ends a test that needs root when it has none.
#[macro_export]
macro_rules! need_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: not root");
            return;
        }
    };
}

/// A folder on a filesystem with direct I/O, unlike what `/tmp` often is.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// `length` bytes of which no two aligned 8 are the same.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    for number in 0..length.div_ceil(8) as u64 {
        let mixed = (number + (seed << 40) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A file of `bytes` in `folder`.
pub fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A file of `size` bytes that is all hole.
pub fn sparse_file(folder: &TempDir, name: &str, size: u64) -> PathBuf {
    let path = folder.path().join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// Runs a tool; it must succeed. Returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// An attached loop device.
pub struct LoopDevice {
    pub path: PathBuf,
}

impl LoopDevice {
    pub fn attach(backing: &Path, options: &[&str]) -> Self {
        let mut arguments = vec!["--find", "--show"];
        arguments.extend_from_slice(options);
        arguments.push(backing.to_str().unwrap());
        let path = PathBuf::from(run("losetup", &arguments));
        // The node may be a moment late where udev makes it.
        for _ in 0..100 {
            if path.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { path }
    }

    /// The node of a new partition `number` of 2 MiB from the first MiB on; known to the kernel
    /// only (which need not know any partition table for that).
    pub fn add_partition(&self, number: u32) -> PathBuf {
        run("addpart", &[self.as_str(), &number.to_string(), "2048", "4096"]);
        let path = PathBuf::from(format!("{}p{number}", self.path.display()));
        let name = path.file_name().unwrap().to_str().unwrap();
        for _ in 0..50 {
            if path.exists() {
                return path;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let device = fs::read_to_string(format!("/sys/class/block/{name}/dev")).unwrap();
        let (major, minor) = device.trim().split_once(':').unwrap();
        run("mknod", &[path.to_str().unwrap(), "b", major, minor]);
        path
    }

    pub fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    pub fn as_str(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let shown = format!("/sys/block/{}/loop/backing_file", self.name());
        let backing = fs::read(&shown).ok();
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
        // It detaches only when the last who looks at it, a search for a free one even, is done.
        for _ in 0..100 {
            if backing.is_none() || fs::read(&shown).ok() != backing {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A mounted folder.
pub struct Mounted {
    pub point: PathBuf,
}

impl Mounted {
    pub fn new(arguments: &[&str], point: &Path) -> Self {
        let mut all = arguments.to_vec();
        all.push(point.to_str().unwrap());
        run("mount", &all);
        Self { point: point.to_owned() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A loop device lets go of its file a moment after it was told to.
        for _ in 0..100 {
            let outcome = Command::new("umount").arg(&self.point).output();
            if outcome.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// What a stream of a disk gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Streamed {
    pub bytes: Vec<u8>,
    pub bad: Vec<ByteRange>,
}

/// Reads all of `disk` through its stream.
pub fn read_all(disk: &Disk) -> Streamed {
    read_with(disk, &BufferPool::new(8, MIB).unwrap(), &Silent).unwrap()
}

/// Reads all of `disk` through its stream, with all the rules of a stream checked.
pub fn read_with(disk: &Disk, pool: &BufferPool, observer: &dyn Observer) -> Result<Streamed> {
    let size = disk.info().size.0;
    let request = ReadRequest {
        ranges: vec![ByteRange { start: 0, end: size }],
        chunk: pool.size(),
        depth: 16,
    };
    let chunk_size = pool.size();
    let mut bytes = vec![0xaa; size as usize];
    let mut bad = Vec::new();
    let mut seen = vec![false; bytes.len().div_ceil(chunk_size)];
    disk.stream(&request, pool, observer, &mut |chunk| {
        let index = chunk.index as usize;
        assert_eq!(chunk.offset.0, (index * chunk_size) as u64);
        assert!(!std::mem::replace(&mut seen[index], true), "chunk {index} came twice");
        let oldest = seen.iter().position(|seen| !seen).unwrap_or(seen.len());
        assert!(index < oldest + pool.count(), "chunk {index} came before chunk {oldest}");
        bytes[index * chunk_size..][..chunk.buffer.len()].copy_from_slice(&chunk.buffer);
        bad.extend(chunk.bad);
        Ok(())
    })?;
    assert!(seen.iter().all(|seen| *seen));
    bad.sort_unstable();
    Ok(Streamed { bytes, bad })
}
