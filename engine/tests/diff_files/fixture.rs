//! Filesystems in files, mounted by the kernel or ntfs-3g, and comparisons of their images.

use std::fs;
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, Result, Silent};
use imgx_engine::block::Disk;
use imgx_engine::job::diff_files::{FileChange, Told, VolumeState};
use imgx_engine::job::{DiffFiles, FileDisk};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::{mkfs, tool};

use crate::common::{Mounted, capture, folder_in_memory};
use crate::ntfs_3g;
use crate::truth::{self, Tree};

/// How a filesystem is made and mounted.
pub struct Kind {
    pub name: &'static str,
    pub size: u64,
    pub make: &'static [&'static str],
    pub options: &'static str,
}

pub const EXT4: Kind = Kind {
    name: "ext4",
    size: 96 << 20,
    make: &["mke2fs", "-q", "-F", "-t", "ext4", "-I", "256"],
    options: "noatime",
};
pub const EXT4_INLINE: Kind = Kind {
    name: "ext4",
    size: 64 << 20,
    make: &["mke2fs", "-q", "-F", "-t", "ext4", "-O", "inline_data", "-I", "256"],
    options: "noatime",
};
pub const XFS: Kind = Kind {
    name: "xfs",
    size: 320 << 20,
    make: &["mkfs.xfs", "-q", "-f"],
    options: "noatime,nouuid",
};
pub const XFS_SMALL: Kind =
    Kind { make: &["mkfs.xfs", "-q", "-f", "-b", "size=1024", "-n", "size=4096"], ..XFS };
pub const BTRFS: Kind =
    Kind { name: "btrfs", size: 160 << 20, make: &["mkfs.btrfs", "-q", "-f"], options: "noatime" };
pub const BTRFS_PACKED: Kind = Kind { options: "noatime,compress-force=zstd", ..BTRFS };

pub const NTFS: Kind = Kind {
    name: "ntfs",
    size: 96 << 20,
    make: &["mkfs.ntfs", "-q", "-F", "-Q", "-c", "4096"],
    options: "noatime,streams_interface=windows",
};
pub const NTFS_SMALL_CLUSTERS: Kind =
    Kind { make: &["mkfs.ntfs", "-q", "-F", "-Q", "-c", "512"], ..NTFS };

impl Kind {
    /// Whether ntfs-3g mounts it.
    pub fn is_ntfs(&self) -> bool {
        self.name == "ntfs"
    }

    /// Why it cannot be had here.
    pub fn missing(&self) -> Option<String> {
        if self.is_ntfs() {
            return ntfs_3g::missing().map(str::to_owned);
        }
        let kernel = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let unknown = || (!kernel.contains(self.name)).then(|| format!("no {}", self.name));
        let maker = self.make[0];
        let tool = || (!tool::have(maker)).then(|| format!("no {maker}"));
        LoopDevice::unavailable().map(str::to_owned).or_else(tool).or_else(unknown)
    }
}

/// Ends a test that needs what is not here, saying so.
#[macro_export]
macro_rules! need {
    ($kind:expr) => {
        if let Some(reason) = $kind.missing() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// A filesystem's file and a repository.
pub struct Fixture {
    folder: tempfile::TempDir,
    kind: &'static Kind,
    pub repository: Repository,
}

/// A mounted filesystem.
pub struct Mount {
    _held: Held,
    pub root: PathBuf,
}

/// What ends a mount when it is dropped, in that order.
#[expect(dead_code, reason = "it is held and not used")]
enum Held {
    ByKernel(Mounted, LoopDevice),
    ByDriver(ntfs_3g::Mount),
}

/// What a comparison told.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    pub changes: Vec<FileChange>,
    pub lost: Vec<String>,
    pub states: Vec<(String, VolumeState)>,
}

impl Fixture {
    pub fn new(kind: &'static Kind) -> Self {
        let folder = folder_in_memory();
        let repository =
            Repository::create(&folder.path().join("repo"), BlockSize::DEFAULT).expect("made");
        let fixture = Self { folder, kind, repository };
        mkfs::blank(&fixture.disk(), kind.size).expect("made");
        let disk = fixture.disk();
        let line = [&kind.make[1..], &[disk.to_str().expect("plain")]].concat();
        tool::run(kind.make[0], &line).expect("made");
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    pub fn mount(&self, more: &str) -> Mount {
        let root = self.path("mnt");
        let options = format!("{}{more}", self.kind.options);
        if self.kind.is_ntfs() {
            let mounted = ntfs_3g::Mount::new(&self.disk(), &root, &options);
            let root = mounted.root().to_owned();
            return Mount { _held: Held::ByDriver(mounted), root };
        }
        fs::create_dir_all(&root).expect("made");
        let device = LoopDevice::attach(&self.disk()).expect("attached");
        let path = device.path().to_str().expect("plain").to_owned();
        let mounted = Mounted::new(&["-t", self.kind.name, "-o", &options, &path], &root);
        Mount { _held: Held::ByKernel(mounted, device), root }
    }

    /// Changes the filesystem, and says what it holds then.
    pub fn change(&self, change: impl FnOnce(&Path)) -> Tree {
        change(&self.mount("").root);
        truth::of_mount(&self.mount(",ro").root)
    }

    /// Captures the disk.
    pub fn capture(&self) {
        capture(&self.repository, &self.disk(), "d", &Silent).expect("captured");
    }

    /// Compares the last two images.
    pub fn compare(&self) -> Report {
        compare_images(&self.repository)
    }
}

/// Compares a repository's last two images.
pub fn compare_images(repository: &Repository) -> Report {
    let images = repository.images().expect("listed");
    let readers =
        ["d~1", "d"].map(|name| repository.reader(images.resolve(name, &Silent).expect("there")));
    report(DiffFiles::of_images(readers, &Silent))
}

/// Compares two raw files.
pub fn compare_disks(disks: [&Path; 2]) -> Report {
    let [before, after] =
        disks.map(|path| Disk::open_to_browse(path).and_then(FileDisk::of_disk).expect("opened"));
    report(Ok(DiffFiles::of_disks([before, after])))
}

pub fn report(job: Result<DiffFiles>) -> Report {
    let mut report = Report::default();
    let told = job.expect("planned").run(&Silent, &mut |told| {
        match told {
            Told::Change { change, .. } => report.changes.push(change.clone()),
            Told::Lost { path, error, .. } => {
                report.lost.push(format!("{}: {error}", String::from_utf8_lossy(path)));
            }
            Told::Volume { volume, state } => report.states.push((volume.name.clone(), state)),
        }
        Ok(())
    });
    told.expect("compared");
    report
}

impl Report {
    /// Changes as short lines.
    pub fn lines(&self) -> Vec<String> {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let line = |change: &FileChange| {
            let old = change.old_path.as_deref().map(|old| format!("{} -> ", text(old)));
            let aspects: Vec<_> = change.aspects.iter().collect();
            let path = text(&change.path);
            format!("{:?} {}{path} {aspects:?}", change.kind, old.unwrap_or_default())
        };
        self.changes.iter().map(line).collect()
    }
}
