//! A volume in a file, made by mkntfs and filled through ntfs-3g's mount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_engine::base::{ByteCount, ByteOffset, ErrorContext, ReadAt, Result};
use imgx_engine::fs::{self as engine_fs, Filesystem};
use imgx_fixtures::pattern::{Random, text};
use imgx_fixtures::{mkfs, tool};

use crate::common::folder_in_memory;
use crate::ntfs_3g::Mount;
use crate::truth::{self, Tree};

pub const MIB: u64 = 1 << 20;

/// Ends a test that needs what is not here, saying so.
#[macro_export]
macro_rules! need_ntfs_3g {
    () => {
        if let Some(reason) = $crate::ntfs_3g::missing() {
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

/// A folder with a volume's file in it, gone when dropped.
pub struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    /// Makes an empty volume of `size` bytes with clusters of `cluster_size`.
    pub fn make(size: u64, cluster_size: u64) -> Self {
        let fixture = Self { folder: folder_in_memory() };
        let image = fixture.image();
        mkfs::blank(&image, size).expect("made");
        let clusters = cluster_size.to_string();
        let image = image.to_str().expect("plain");
        let arguments = ["-q", "-F", "-Q", "-L", "label", "-c", &clusters, image];
        tool::run("mkfs.ntfs", &arguments).expect("mkfs.ntfs runs");
        fixture
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The volume's file.
    pub fn image(&self) -> PathBuf {
        self.path().join("image")
    }

    /// Mounts the volume with `options`.
    pub fn mount(&self, options: &str) -> Mount {
        let options = format!("{options},streams_interface=windows");
        Mount::new(&self.image(), &self.path().join("mnt"), &options)
    }

    /// Fills the volume through ntfs-3g; returns the truth of it, from a mount of its own.
    pub fn fill(&self, options: &str, fill: impl FnOnce(&Path)) -> Tree {
        fill(self.mount(options).root());
        self.truth()
    }

    /// The truth of the volume, from a mount of its own.
    pub fn truth(&self) -> Tree {
        let mount = self.mount("ro");
        truth::of_mount(mount.root())
    }

    /// Asserts that the engine sees what ntfs-3g saw.
    pub fn assert_reads_as(&self, context: &str, expected: &Tree) -> Box<dyn Filesystem> {
        let filesystem = open(&self.image()).unwrap_or_else(|error| panic!("{context}: {error}"));
        truth::assert_same(context, &truth::of_engine(filesystem.as_ref()), expected);
        filesystem
    }
}

/// Noise that no compression makes smaller.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Random::new(seed).fill(&mut bytes);
    bytes
}

/// A file of content that is there in part: text, holes and noise, in stretches of 20 to 200 KiB.
pub fn mixed(path: &Path, seed: u64, length: u64) {
    let file = File::create(path).expect("made");
    let (mut at, mut number) = (0, seed);
    while at < length {
        let stretch = (20_000 + number * 7919 % 180_000).min(length - at);
        let size = usize::try_from(stretch).expect("small");
        match number % 4 {
            0 => file.write_all_at(&noise(number, size), at).expect("written"),
            1 | 2 => file.write_all_at(&text(number, size), at).expect("written"),
            _ => {}
        }
        at += stretch;
        number += 1;
    }
    file.set_len(length).expect("sized");
}

/// Files of all sizes, folders, names and times that are awkward.
pub fn contents(root: &Path) {
    for size in [0, 1, 100, 511, 700, 1024, 4096, 4097, 65_536, 300_001] {
        fs::write(root.join(format!("file of {size}")), noise(size as u64, size)).expect("written");
    }
    let folder = root.join("Folder/inner/Größe Ω");
    fs::create_dir_all(&folder).expect("made");
    for name in ["名前.txt", "UPPER", "lower", "a name of more than twelve letters.text", "ß", "😀"]
    {
        fs::write(folder.join(name), name).expect("written");
    }
    let long = "n".repeat(255);
    fs::write(folder.join(long), "long").expect("written");
    mixed(&root.join("mixed"), 1, 900_000);
    let sparse = File::create(root.join("sparse")).expect("made");
    sparse.write_all_at(b"the end", 20 << 20).expect("written");
    fs::hard_link(root.join("file of 700"), root.join("Folder/second name")).expect("linked");
    for (name, time) in [("old", "1931-05-06 07:08:09 UTC"), ("new", "2200-01-01 UTC")] {
        let path = root.join(name);
        fs::write(&path, name).expect("written");
        tool::run("touch", &["-d", time, path.to_str().expect("plain")]).expect("touched");
    }
}

/// `count` small files with names of some length.
pub fn many(folder: &Path, count: usize) {
    fs::create_dir_all(folder).expect("made");
    for number in 0..count {
        let name = format!("a file with the number {number:06}");
        fs::write(folder.join(name), number.to_string()).expect("written");
    }
}

#[test]
fn volumes_of_every_cluster_size_read_as_ntfs_3g_wrote_them() {
    need_ntfs_3g!();
    for (cluster_size, size) in [(512, 64), (4096, 64), (65_536, 96), (2 << 20, 512)] {
        let fixture = Fixture::make(size * MIB, cluster_size);
        let truth = fixture.fill("", |root| {
            contents(root);
            many(&root.join("many"), 300);
            fs::remove_file(root.join("many/a file with the number 000123")).expect("removed");
        });
        let context = format!("clusters of {cluster_size}");
        let filesystem = fixture.assert_reads_as(&context, &truth);
        let info = filesystem.info();
        let known = mkfs::blkid(&fixture.image()).expect("blkid runs");
        assert_eq!(info.kind, "ntfs");
        assert_eq!(u64::from(info.block_size), cluster_size);
        assert_eq!(info.label.as_ref(), known.get("LABEL"), "{context}");
        assert_eq!(info.uuid.as_ref(), known.get("UUID"), "{context}");
        assert_eq!(info.size, size * MIB, "{context}");
        assert!(info.notes.is_empty(), "{context}: {:?}", info.notes);
    }
}

#[test]
fn compressed_files_read_as_ntfs_3g_wrote_them() {
    need_ntfs_3g!();
    for cluster_size in [512, 4096] {
        let fixture = Fixture::make(96 * MIB, cluster_size);
        let truth = fixture.fill("compression", |root| {
            let packed = root.join("packed");
            fs::create_dir(&packed).expect("made");
            let path = packed.to_str().expect("plain");
            // FILE_ATTRIBUTE_COMPRESSED: what is made within is compressed.
            let flags = ["-n", "system.ntfs_attrib_be", "-v", "0x00000800", path];
            tool::run("setfattr", &flags).expect("setfattr runs");
            for (number, size) in [100, 3000, 70_000, 65_536, 1_000_003].into_iter().enumerate() {
                let path = packed.join(format!("text {size}"));
                fs::write(path, text(number as u64, size)).expect("written");
            }
            fs::write(packed.join("noise"), noise(7, 3 << 16)).expect("written");
            mixed(&packed.join("mixed"), 3, 3_000_000);
            let grown = packed.join("grown");
            fs::write(&grown, text(5, 100_000)).expect("written");
            File::options().write(true).open(&grown).expect("opened").set_len(1 << 20).expect("ok");
        });
        let context = format!("clusters of {cluster_size}");
        let filesystem = fixture.assert_reads_as(&context, &truth);
        let is_packed = |name: &[u8]| {
            let folder = filesystem.lookup(filesystem.root(), b"packed").expect("searched");
            let file = filesystem.lookup(folder.expect("found"), name).expect("searched");
            let mut content = filesystem.open(file.expect("found")).expect("opened");
            let mut packed = false;
            let extents = content.extents(&mut |extent| {
                packed |= matches!(extent.place, engine_fs::Place::Encoded(..));
                std::ops::ControlFlow::Continue(())
            });
            extents.expect("mapped");
            packed
        };
        assert!(is_packed(b"text 1000003"), "{context}: nothing was compressed");
        assert!(!is_packed(b"noise"), "{context}");
    }
}
