//! A filesystem in files, one for each device, made by mkfs.btrfs and filled through the kernel's
//! mount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_engine::base::{ByteCount, ByteOffset, ErrorContext, ReadAt, Result};
use imgx_engine::fs::{self as engine_fs, FileId, Filesystem};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::mkfs;
use imgx_fixtures::tool;

use crate::common::{Mounted, folder_in_memory};
use crate::truth::{self, Tree};

pub const MIB: u64 = 1 << 20;

/// Ends a test that needs what is not here, saying so.
#[macro_export]
macro_rules! need_mounts {
    () => {
        let missing = imgx_fixtures::tool::have("mkfs.btrfs").then_some(()).ok_or("no mkfs.btrfs");
        if let Some(reason) =
            imgx_fixtures::loopdev::LoopDevice::unavailable().or_else(|| missing.err())
        {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// A raw file as a volume.
pub struct RawFile(pub File);

impl ReadAt for RawFile {
    fn size(&self) -> ByteCount {
        ByteCount(self.0.metadata().expect("an open file has metadata").len())
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset.0).context(|| format!("reading at {offset}"))
    }
}

pub fn volume(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(RawFile(File::open(path).expect("the image opens")))
}

/// Opens the filesystem in the file `path`.
pub fn open(path: &Path) -> Result<Box<dyn Filesystem>> {
    engine_fs::open(&volume(path))
}

pub fn open_bytes(bytes: Vec<u8>) -> Result<Box<dyn Filesystem>> {
    let volume: Arc<dyn ReadAt> = Arc::new(bytes);
    engine_fs::open(&volume)
}

/// The file at `path`, whose parts slashes divide.
pub fn find(filesystem: &dyn Filesystem, path: &str) -> FileId {
    path.split('/').fold(filesystem.root(), |folder, name| {
        let found = filesystem.lookup(folder, name.as_bytes()).expect("searched");
        found.unwrap_or_else(|| panic!("{path}: there is no {name}"))
    })
}

/// All of a file's content.
pub fn content(filesystem: &dyn Filesystem, path: &str) -> Result<Vec<u8>> {
    let mut content = filesystem.open(find(filesystem, path))?;
    let mut bytes = vec![0; usize::try_from(content.size()).expect("small")];
    content.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// A folder with a filesystem's files in it, gone when dropped.
pub struct Fixture {
    folder: tempfile::TempDir,
    devices: usize,
}

impl Fixture {
    /// Makes an empty filesystem of one device of `size` bytes.
    pub fn make(size: u64, arguments: &[&str]) -> Self {
        Self::make_many(1, size, arguments)
    }

    /// Makes an empty filesystem of as many `devices` of `size` bytes each.
    pub fn make_many(devices: usize, size: u64, arguments: &[&str]) -> Self {
        let fixture = Self { folder: folder_in_memory(), devices };
        let images = fixture.images();
        for image in &images {
            mkfs::blank(image, size).expect("made");
        }
        let images: Vec<&str> = images.iter().map(|path| path.to_str().expect("plain")).collect();
        tool::run("mkfs.btrfs", &[&["-q"], arguments, &images].concat()).expect("mkfs.btrfs runs");
        fixture
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The only device's file.
    pub fn image(&self) -> PathBuf {
        self.path().join("image-0")
    }

    /// The devices' files.
    pub fn images(&self) -> Vec<PathBuf> {
        (0..self.devices).map(|number| self.path().join(format!("image-{number}"))).collect()
    }

    /// Mounts all devices.
    pub fn mount(&self, options: &str) -> MountPoint {
        self.mount_files(&self.images(), options)
    }

    /// Mounts the filesystem in `files`; with other options, read-only perhaps.
    pub fn mount_files(&self, files: &[PathBuf], options: &str) -> MountPoint {
        let point = self.path().join("mnt");
        fs::create_dir_all(&point).expect("made");
        let attach = |file: &PathBuf| LoopDevice::attach(file).expect("attached");
        let devices: Vec<LoopDevice> = files.iter().map(attach).collect();
        let names: Vec<String> =
            devices.iter().map(|device| device.path().display().to_string()).collect();
        let also = names.iter().skip(1).map(|name| format!(",device={name}"));
        let options = also.fold(options.to_owned(), |options, more| options + &more);
        let arguments = ["-t", "btrfs", "-o", options.as_str(), names[0].as_str()];
        MountPoint { _mounted: Mounted::new(&arguments, &point), _devices: devices, point }
    }

    /// Whether the kernel mounts it and reads the files called `names` in its root.
    pub fn reads(&self, names: &[&str]) -> bool {
        let point = self.path().join("mnt");
        fs::create_dir_all(&point).expect("made");
        let device = LoopDevice::attach(&self.image()).expect("attached");
        let path = device.path().to_str().expect("plain");
        let shown = point.to_str().expect("plain");
        if tool::run("mount", &["-t", "btrfs", "-o", "ro", path, shown]).is_err() {
            return false;
        }
        let read = names.iter().all(|name| fs::read(point.join(name)).is_ok());
        tool::run("umount", &[shown]).expect("unmounted");
        read
    }

    /// Fills the filesystem through the kernel; returns the truth of it.
    pub fn fill(&self, options: &str, fill: impl FnOnce(&Path)) -> Tree {
        {
            let mount = self.mount(&format!("noatime,{options}"));
            fill(mount.root());
        }
        truth::of_mount(self.mount("ro").root())
    }

    /// Opens it, with all its devices.
    pub fn open(&self) -> Result<Box<dyn Filesystem>> {
        match self.images().as_slice() {
            [only] => open(only),
            many => {
                engine_fs::open_btrfs(&many.iter().map(|path| volume(path)).collect::<Vec<_>>())
            }
        }
    }

    /// Asserts that the engine sees what the kernel saw.
    pub fn assert_reads_as(&self, context: &str, expected: &Tree) -> Box<dyn Filesystem> {
        let filesystem = self.open().unwrap_or_else(|error| panic!("{context}: {error}"));
        truth::assert_same(context, &truth::of_engine(filesystem.as_ref()), expected);
        filesystem
    }
}

/// A mounted filesystem, unmounted and its devices detached when dropped.
pub struct MountPoint {
    _mounted: Mounted,
    _devices: Vec<LoopDevice>,
    point: PathBuf,
}

impl MountPoint {
    pub fn root(&self) -> &Path {
        &self.point
    }
}

/// Runs `btrfs`.
pub fn btrfs(arguments: &[&str]) -> String {
    tool::run("btrfs", arguments).expect("btrfs runs")
}
