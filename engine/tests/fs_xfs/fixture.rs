//! A filesystem in a file, made by mkfs.xfs and filled through the kernel's mount.

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
        let missing = ["mkfs.xfs", "xfs_db", "xfs_repair", "xfs_io"].into_iter();
        let missing = missing.into_iter().find(|tool| !imgx_fixtures::tool::have(tool));
        let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let unmountable = (!kernel.contains("xfs")).then_some("no XFS in the kernel");
        let reason = imgx_fixtures::loopdev::LoopDevice::unavailable().or(missing).or(unmountable);
        if let Some(reason) = reason {
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

/// What `xfs_db` prints for `commands`; with `writing`, it may change the image.
pub fn xfs_db(image: &Path, writing: bool, commands: &[&str]) -> String {
    let mut arguments = vec![if writing { "-x" } else { "-r" }];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(image.to_str().expect("plain"));
    tool::run("xfs_db", &arguments).expect("xfs_db runs")
}

/// A folder with a filesystem's file in it, gone when dropped.
pub struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    /// Makes an empty filesystem of `size` bytes, however small.
    pub fn make(size: u64, arguments: &[&str]) -> Self {
        let fixture = Self { folder: folder_in_memory() };
        mkfs::blank(&fixture.image(), size).expect("made");
        let image = fixture.image();
        let image = image.to_str().expect("plain");
        let small: &[&str] = if size < 300 * MIB { &["--unsupported"] } else { &[] };
        let all = [&["-q", "-f"], small, arguments, &[image]].concat();
        tool::run("mkfs.xfs", &all).expect("mkfs.xfs runs");
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
        // Copies of one filesystem have one UUID.
        let options = format!("{options},nouuid");
        let arguments = ["-t", "xfs", "-o", &options, device_path.as_str()];
        MountPoint { _mounted: Mounted::new(&arguments, &point), _device: device, point }
    }

    /// Fills the filesystem through the kernel; returns the truth of it.
    pub fn fill(&self, fill: impl FnOnce(&Path)) -> Tree {
        let mount = self.mount(&self.image(), "noatime");
        fill(mount.root());
        of_mount(mount.root())
    }

    /// Asserts that the engine sees what the kernel saw.
    pub fn assert_reads_as(&self, context: &str, expected: &Tree) -> Box<dyn Filesystem> {
        let filesystem = open(&self.image()).unwrap_or_else(|error| panic!("{context}: {error}"));
        truth::assert_same(context, &truth::of_engine(filesystem.as_ref()), expected);
        filesystem
    }

    /// Asserts that `xfs_repair` would have nothing to do.
    pub fn assert_clean(&self, context: &str) {
        let image = self.image();
        let image = image.to_str().expect("plain");
        let checked = tool::run("xfs_repair", &["-n", "-f", image]);
        checked.unwrap_or_else(|error| panic!("{context}: {error}"));
    }
}

/// What the kernel says of the tree at `root`. It lists ACLs by the disk's names as well.
pub fn of_mount(root: &Path) -> Tree {
    let mut tree = truth::of_mount(root);
    for file in tree.values_mut() {
        file.xattrs.retain(|name, _| !name.starts_with(b"trusted.SGI_ACL_"));
    }
    tree
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
