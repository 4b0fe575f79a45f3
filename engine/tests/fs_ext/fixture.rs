//! A filesystem in a file, made by mke2fs and filled through the kernel's mount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_engine::base::{ByteCount, ByteOffset, ErrorContext, ReadAt, Result};
use imgx_engine::fs::{self as engine_fs, Filesystem};
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
        let missing = imgx_fixtures::tool::have("mke2fs").then_some(()).ok_or("no mke2fs");
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

/// Opens the filesystem in the file `path`.
pub fn open(path: &Path) -> Result<Box<dyn Filesystem>> {
    let volume: Arc<dyn ReadAt> = Arc::new(RawFile(File::open(path).expect("the image opens")));
    engine_fs::open(&volume)
}

pub fn open_bytes(bytes: Vec<u8>) -> Result<Box<dyn Filesystem>> {
    let volume: Arc<dyn ReadAt> = Arc::new(bytes);
    engine_fs::open(&volume)
}

/// A folder with a filesystem's file in it, gone when dropped.
pub struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    /// Makes an empty filesystem of `size` bytes.
    pub fn make(size: u64, arguments: &[&str]) -> Self {
        let fixture = Self { folder: folder_in_memory() };
        mkfs::blank(&fixture.image(), size).expect("made");
        let image = fixture.image();
        let image = image.to_str().expect("plain");
        tool::run("mke2fs", &[&["-q", "-F"], arguments, &[image]].concat()).expect("mke2fs runs");
        fixture
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The filesystem's file.
    pub fn image(&self) -> PathBuf {
        self.path().join("image")
    }

    /// Mounts the file `image`; with other options, read-only perhaps.
    pub fn mount(&self, image: &Path, options: &str) -> MountPoint {
        let point = self.path().join("mnt");
        fs::create_dir_all(&point).expect("made");
        let device = LoopDevice::attach(image).expect("attached");
        let device_path = device.path().to_str().expect("plain").to_owned();
        let arguments = ["-o", options, device_path.as_str()];
        MountPoint { _mounted: Mounted::new(&arguments, &point), _device: device, point }
    }

    /// Whether the kernel mounts the file `image`; it is unmounted at once.
    pub fn try_mount(&self, image: &Path, options: &str) -> bool {
        let point = self.path().join("mnt");
        fs::create_dir_all(&point).expect("made");
        let device = LoopDevice::attach(image).expect("attached");
        let path = device.path().to_str().expect("plain");
        let point = point.to_str().expect("plain");
        let mounted = tool::run("mount", &["-o", options, path, point]).is_ok();
        if mounted {
            tool::run("umount", &[point]).expect("unmounted");
        }
        mounted
    }

    /// Fills the filesystem through the kernel; returns the truth of it.
    pub fn fill(&self, fill: impl FnOnce(&Path)) -> Tree {
        let mount = self.mount(&self.image(), "noatime");
        fill(mount.root());
        truth::of_mount(mount.root())
    }

    /// Asserts that the engine sees what the kernel saw.
    pub fn assert_reads_as(&self, context: &str, expected: &Tree) -> Box<dyn Filesystem> {
        let filesystem = open(&self.image()).unwrap_or_else(|error| panic!("{context}: {error}"));
        truth::assert_same(context, &truth::of_engine(filesystem.as_ref()), expected);
        filesystem
    }
}

/// A mounted filesystem, unmounted and its device detached when dropped.
pub struct MountPoint {
    _mounted: Mounted,
    _device: LoopDevice,
    point: PathBuf,
}

impl MountPoint {
    pub fn root(&self) -> &Path {
        &self.point
    }
}
