//! Archives of files that are damaged, full of holes, or not wanted any more. What comes out is
//! judged by GNU tar.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imgx_engine::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorContext, ErrorKind, Event, Observer, ReadAt,
    Result, Silent,
};
use imgx_engine::fs::{
    self as engine_fs, DirEntry, Doubts, FileContent, FileId, Filesystem, FilesystemInfo, Metadata,
    Place, Visit, Xattr,
};
use imgx_engine::job::extract::{LeftOut, LeftOutPart, TarReport};
use imgx_engine::job::files::{LastLink, OpenVolume, resolve};
use imgx_engine::job::{Extract, ExtractOptions};
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;
use tempfile::TempDir;

/// A volume in a file of which some bytes cannot be read.
struct Volume {
    file: File,
    bad: Vec<ByteRange>,
}

impl ReadAt for Volume {
    fn size(&self) -> ByteCount {
        ByteCount(self.file.metadata().expect("it is there").len())
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let wanted = ByteRange::new(offset.0, buffer.len() as u64);
        if self.bad.iter().any(|bad| bad.intersection(&wanted).is_some()) {
            return Err(Error::io("read", std::io::Error::from_raw_os_error(5)));
        }
        self.file.read_exact_at(buffer, offset.0).context(|| "read")
    }
}

fn open(disk: &Path, bad: Vec<ByteRange>) -> OpenVolume {
    let bytes: Arc<dyn ReadAt> = Arc::new(Volume { file: File::open(disk).expect("there"), bad });
    let filesystem = engine_fs::open(&bytes).expect("it opens");
    OpenVolume { name: "p1".into(), filesystem, bytes, parts: Vec::new(), left_out: Vec::new() }
}

/// A filesystem of which one file's content, and another's attributes, are damaged.
struct Damaged {
    inner: Box<dyn Filesystem>,
    content: FileId,
    attributes: FileId,
}

impl Filesystem for Damaged {
    fn info(&self) -> &FilesystemInfo {
        self.inner.info()
    }

    fn root(&self) -> FileId {
        self.inner.root()
    }

    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>> {
        self.inner.lookup(folder, name)
    }

    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()> {
        self.inner.list(folder, visit)
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        self.inner.metadata(file)
    }

    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>> {
        match file == self.content {
            true => Err(Error::corrupt("map", "a block", "none")),
            false => self.inner.open(file),
        }
    }

    fn link_target(&self, file: FileId) -> Result<Vec<u8>> {
        self.inner.link_target(file)
    }

    fn doubts(&self) -> &Doubts {
        self.inner.doubts()
    }

    fn each_xattr(&self, file: FileId, visit: Visit<'_, Result<Xattr>>) -> Result<()> {
        if file == self.attributes {
            let _ = visit(Err(Error::corrupt("block", "attributes", "noise")));
        }
        let attributes = [("user.a\0b", ""), ("user.kept", "kept")];
        for (name, value) in attributes.into_iter().filter(|_| file != self.attributes) {
            let _ = visit(Ok(Xattr { name: name.into(), value: value.into() }));
        }
        Ok(())
    }

    fn may_share(&self, file: FileId) -> Result<bool> {
        self.inner.may_share(file)
    }

    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.inner.unused(visit)
    }
}

/// An ext4 of 64 MiB with what `fill` puts into a folder.
fn disk_with(folder: &TempDir, fill: impl FnOnce(&Path)) -> PathBuf {
    let (content, disk) = (folder.path().join("content"), folder.path().join("disk"));
    fs::create_dir(&content).expect("made");
    fill(&content);
    let words = [&content, &disk].map(|path| path.to_str().expect("plain"));
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", words[0], words[1], "64M"])
        .expect("mke2fs runs");
    disk
}

/// The first byte of the volume that holds a file's data from `offset` on.
fn place_of(volume: &OpenVolume, path: &str, offset: u64) -> u64 {
    let found = resolve(volume.filesystem.as_ref(), path.as_bytes(), LastLink::Keep);
    let mut content = volume.filesystem.open(found.expect("there").file).expect("opened");
    let mut place = None;
    content
        .extents(&mut |extent| {
            let range = ByteRange::new(extent.offset, extent.length);
            if let Place::At(start) = extent.place
                && (range.start..range.end).contains(&offset)
            {
                place = Some(start + (offset - range.start));
            }
            std::ops::ControlFlow::Continue(())
        })
        .expect("it has a map");
    place.expect("there is data")
}

fn archive(volume: &OpenVolume, to: &Path, observer: &dyn Observer) -> Result<TarReport> {
    let mut plan = Extract::new(volume);
    let root = resolve(volume.filesystem.as_ref(), b"/", LastLink::Keep).expect("there");
    plan.add(&root, &Silent).expect("planned");
    plan.write_tar(&mut File::create(to).expect("made"), observer)
}

fn unpack(archive: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    let [archive, to] = [archive, to].map(|path| path.to_str().expect("plain"));
    tool::run("tar", &["-C", to, "-xf", archive]).expect("GNU tar unpacks it");
}

fn need_tools() -> bool {
    let missing = ["mke2fs", "tar"].into_iter().find(|tool| !tool::have(tool));
    missing.is_some_and(|tool| {
        println!("skipped: no {tool}");
        true
    })
}

#[test]
fn damage_in_a_contents_middle_costs_its_blocks_and_is_told() {
    if need_tools() {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let noise = incompressible(1, 3 << 20);
    let disk = disk_with(&folder, |content| {
        fs::write(content.join("dense"), &noise).expect("written");
        let sparse = File::create(content.join("sparse")).expect("made");
        sparse.write_all_at(&noise, 20 << 20).expect("written");
        sparse.set_len(50 << 20).expect("set");
        fs::write(content.join("zlast"), "behind").expect("written");
    });
    let sound = open(&disk, Vec::new());
    let places = [("/dense", 1 << 20), ("/sparse", 21 << 20)];
    let bad = places.map(|(path, at)| ByteRange::new(place_of(&sound, path, at), 512));
    let (tar, out) = (folder.path().join("tar"), folder.path().join("out"));
    let report = archive(&open(&disk, bad.to_vec()), &tar, &Silent).expect("written");
    let told: Vec<&[u8]> = report.failures.iter().map(|one| one.path.as_slice()).collect();
    assert_eq!(told, [b"dense".as_slice(), b"sparse"]);
    assert!(report.failures.iter().all(|failure| failure.error.kind() == ErrorKind::Io));
    unpack(&tar, &out);
    let mut expected = noise.clone();
    expected[1 << 20..(1 << 20) + 4096].fill(0);
    assert!(fs::read(out.join("dense")).expect("there") == expected);
    let sparse = fs::read(out.join("sparse")).expect("there");
    assert_eq!(sparse.len(), 50 << 20);
    assert!(sparse[20 << 20..23 << 20] == expected);
    assert_eq!(fs::read(out.join("zlast")).expect("there"), b"behind");
}

#[test]
fn holes_of_a_tebibyte_cost_nothing() {
    if need_tools() {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let disk = disk_with(&folder, |content| {
        let file = File::create(content.join("lastlog")).expect("made");
        file.write_all_at(b"somebody", 700 << 30).expect("written");
        file.set_len((1 << 40) + 5).expect("set");
        File::create(content.join("hole")).expect("made").set_len(1 << 40).expect("set");
    });
    let (tar, out) = (folder.path().join("tar"), folder.path().join("out"));
    let report = archive(&open(&disk, Vec::new()), &tar, &Silent).expect("written");
    assert!(report.failures.is_empty() && report.left_out.is_empty());
    assert!(fs::metadata(&tar).expect("there").len() < 64 << 10);
    unpack(&tar, &out);
    let lastlog = File::open(out.join("lastlog")).expect("there");
    let mut read = [0; 8];
    lastlog.read_exact_at(&mut read, 700 << 30).expect("read");
    assert_eq!(&read, b"somebody");
    let sizes = ["lastlog", "hole"].map(|name| fs::metadata(out.join(name)).expect("there"));
    assert_eq!(
        sizes.map(|one| (one.size(), one.blocks() < 64)),
        [((1 << 40) + 5, true), (1 << 40, true)]
    );
}

#[test]
fn what_is_damaged_costs_no_more_than_itself_and_its_other_names() {
    if need_tools() {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let disk = disk_with(&folder, |content| {
        for name in ["a", "b", "c"] {
            fs::write(content.join(name), name).expect("written");
        }
        fs::hard_link(content.join("a"), content.join("other a")).expect("linked");
        fs::hard_link(content.join("c"), content.join("other c")).expect("linked");
    });
    let sound = open(&disk, Vec::new());
    let find = |name: &[u8]| {
        let found = resolve(sound.filesystem.as_ref(), name, LastLink::Keep);
        found.expect("there").file
    };
    let (content, attributes) = (find(b"/a"), find(b"/b"));
    let inner = open(&disk, Vec::new()).filesystem;
    let damaged =
        OpenVolume { filesystem: Box::new(Damaged { inner, content, attributes }), ..sound };
    let (tar, out) = (folder.path().join("tar"), folder.path().join("out"));
    let report = archive(&damaged, &tar, &Silent).expect("written");
    let told: Vec<&[u8]> = report.failures.iter().map(|one| one.path.as_slice()).collect();
    assert_eq!(told, [b"a".as_slice(), b"b", b"other a"]);
    assert!(report.failures.iter().all(|failure| failure.error.kind() == ErrorKind::Corrupt));
    let what = || LeftOutPart::Attribute(b"user.a\0b".to_vec());
    let left_out =
        [b"c".as_slice(), b"lost+found"].map(|path| LeftOut { path: path.to_vec(), what: what() });
    assert_eq!(report.left_out, left_out);
    // A link to what is not there would fail here.
    unpack(&tar, &out);
    for (name, text) in [("b", "b"), ("c", "c"), ("other c", "c")] {
        assert_eq!(fs::read_to_string(out.join(name)).expect("there"), text);
    }
    assert!(!out.join("a").exists() && !out.join("other a").exists());
    let listed = ["-tvv", "--xattrs", "-f", tar.to_str().expect("plain")];
    let listed = tool::run("tar", &listed).expect("GNU tar lists it");
    assert!(listed.contains("x: 4 user.kept"), "{listed}");
}

/// Stops a run after some events.
struct After(AtomicU64);

impl Observer for After {
    fn event(&self, _event: &Event<'_>) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn an_archive_can_be_stopped_within_a_file() {
    if need_tools() {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let disk = disk_with(&folder, |content| {
        fs::write(content.join("large"), incompressible(2, 24 << 20)).expect("written");
    });
    let tar = folder.path().join("tar");
    // The job's start, and two pieces of its only file.
    let observer = After(AtomicU64::new(3));
    let stopped = archive(&open(&disk, Vec::new()), &tar, &observer).expect_err("stopped");
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
    let written = fs::metadata(&tar).expect("there").len();
    assert!((2 << 20..3 << 20).contains(&written), "{written}");
}

#[test]
fn an_extraction_can_be_stopped_within_a_file() {
    if need_tools() {
        return;
    }
    let folder = tempfile::tempdir().expect("made");
    let disk = disk_with(&folder, |content| {
        fs::write(content.join("large"), incompressible(2, 24 << 20)).expect("written");
    });
    let (volume, to) = (open(&disk, Vec::new()), folder.path().join("out"));
    let mut plan = Extract::new(&volume);
    let file = resolve(volume.filesystem.as_ref(), b"/large", LastLink::Keep).expect("there");
    plan.add(&file, &Silent).expect("planned");
    let options = ExtractOptions {
        overwrite: false,
        privileged: false,
        shorten_names: false,
        threads: NonZeroUsize::MIN,
    };
    let observer = After(AtomicU64::new(3));
    let stopped = plan.run(&to, &options, &observer).expect_err("stopped");
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
    assert!(!to.join("large").exists(), "half a file stayed");
}
