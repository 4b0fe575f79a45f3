//! Captures without the contents of swap, paging and hibernation files: nothing else is missing,
//! and no image passes zeros off for them.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use imgx_engine::base::{BlockSize, ByteCount, ByteRange, ErrorKind, Observer, Result};
use imgx_engine::job::files::{FileDisk, LastLink, resolve};
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport, DiffFiles, diff_files};
use imgx_engine::store::Repository;
use imgx_engine::store::manifest::SkippedFile;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;

use crate::support::{MIB, Mounted, Warnings, folder_in_memory, unsound};
use crate::{Told, assert_only_lacks, restored, tree_of};

const PAGE: usize = 4096;

/// Ends a test that needs what is not here, saying so.
macro_rules! need {
    ($($tool:literal),+) => {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
        $(if !tool::have($tool) {
            println!("skipped: no {}", $tool);
            return;
        })+
    };
}

/// A disk full of noise with one filesystem on it, and a tracker that knows what changed.
struct Stage {
    folder: tempfile::TempDir,
    repository: Repository,
    disk: PathBuf,
    mount: &'static [&'static str],
    told: Arc<Mutex<Vec<ByteRange>>>,
}

impl Stage {
    fn new(block: u32, size: usize, make: &[&str], mount: &'static [&'static str]) -> Self {
        let folder = folder_in_memory();
        let disk = folder.path().join("disk");
        fs::write(&disk, incompressible(77, size)).expect("written");
        let arguments = [&make[1..], &[disk.to_str().expect("plain")]].concat();
        tool::run(make[0], &arguments).expect("made");
        let repository = folder.path().join("repository");
        let block = BlockSize::new(block).expect("valid");
        let repository = Repository::create(&repository, block).expect("created");
        Self { folder, repository, disk, mount, told: Arc::default() }
    }

    fn ntfs(block: u32) -> Self {
        Self::new(block, 40 * MIB, &["mkntfs", "-q", "-F", "-f"], &["-t", "ntfs-3g", "-o", "loop"])
    }

    fn ext(block: u32) -> Self {
        let make = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", "nodiscard"];
        Self::new(block, 64 * MIB, &make, &["-o", "loop,nodiscard"])
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.disk).expect("read")
    }

    /// Has `work` change the filesystem.
    fn change(&self, work: impl FnOnce(&Path)) {
        let before = self.bytes();
        let point = self.folder.path().join("mounted");
        fs::create_dir_all(&point).expect("made");
        let mounted = Mounted::new(&self.line(&self.disk), &point);
        work(&point);
        drop(mounted);
        let after = self.bytes();
        let pages = before.chunks(PAGE).zip(after.chunks(PAGE)).enumerate();
        let changed = pages.filter(|(_, (old, new))| old != new);
        let ranges = changed.map(|(at, _)| ByteRange::new((at * PAGE) as u64, PAGE as u64));
        self.told.lock().expect("no panic").extend(ranges);
    }

    fn line<'a>(&'a self, disk: &'a Path) -> Vec<&'a str> {
        [self.mount, &[disk.to_str().expect("plain")]].concat()
    }

    /// Captures; the whole disk is audited, but for what is read.
    fn try_capture(&self, skip_swap: bool, left_out: Vec<ByteRange>) -> Result<CaptureReport> {
        self.capture_told(skip_swap, left_out, &Warnings::default())
    }

    fn capture_told(
        &self,
        skip_swap: bool,
        left_out: Vec<ByteRange>,
        observer: &dyn Observer,
    ) -> Result<CaptureReport> {
        let size = ByteCount(self.bytes().len() as u64);
        let options =
            CaptureOptions { audit: Some(size.0), skip_swap, ..CaptureOptions::default() };
        Capture::plan(&self.repository, &self.disk, options, observer)?
            .leaving_out(left_out)
            .with_tracker(Box::new(Told(Arc::clone(&self.told), size)))
            .run(observer)
    }

    fn capture(&self, skip_swap: bool) -> CaptureReport {
        self.try_capture(skip_swap, Vec::new()).expect("captured")
    }

    fn restored(&self, report: &CaptureReport) -> Vec<u8> {
        restored(&self.repository, report, self.folder.path())
    }

    /// What an image says of a file's content.
    fn read(&self, report: &CaptureReport, path: &str) -> Result<Vec<u8>> {
        let image = self.repository.image(report.id).expect("committed");
        let volume = FileDisk::of_image(self.repository.reader(&image))?.open(None)?;
        let found = resolve(volume.filesystem.as_ref(), path.as_bytes(), LastLink::Keep)?;
        let mut content = volume.filesystem.open(found.file)?;
        let mut bytes = vec![0; usize::try_from(content.size()).expect("small")];
        content.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// The image has all of the disk but what is free and `swap`, of which it has at most `most`
    /// pages; where that is not free, it is the disk's.
    fn check(&self, report: &CaptureReport, swap: &HashSet<Vec<u8>>, most: usize) {
        let (disk, restored) = (self.bytes(), self.restored(report));
        assert_only_lacks(&restored, &disk);
        let pages = || disk.chunks(PAGE).zip(restored.chunks(PAGE));
        let kept = pages().filter(|(page, back)| swap.contains(*page) && page == back);
        assert!(kept.count() <= most, "swap is left out");
        let all = self.other_files(&self.disk);
        let back = self.folder.path().join("back");
        fs::write(&back, &restored).expect("written");
        assert!(self.other_files(&back) == all, "the files are all there");
        assert_eq!(unsound(&self.repository), None);
    }

    /// All files with their contents, of those for swap only the length.
    fn other_files(&self, disk: &Path) -> Vec<(String, Vec<u8>)> {
        let mut line = self.line(disk);
        let options = format!("{},ro", line[line.len() - 2]);
        let at = line.len() - 2;
        line[at] = &options;
        let mut tree = tree_of(&line, self.folder.path());
        for (name, content) in &mut tree {
            let lower = name.to_lowercase();
            if !name.contains("kept") && (lower.contains("swap") || lower.ends_with(".sys")) {
                *content = content.len().to_le_bytes().to_vec();
            }
        }
        tree
    }
}

/// The pages of `content`.
fn pages(content: &[u8]) -> HashSet<Vec<u8>> {
    content.chunks(PAGE).map(<[u8]>::to_vec).collect()
}

fn skipped(report: &CaptureReport) -> Vec<SkippedFile> {
    let volumes = report.manifest.allocation.iter();
    volumes.flat_map(|volume| volume.skipped.iter().cloned()).collect()
}

fn write(path: &Path, content: &[u8]) {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.expect("opened");
    file.write_all_at(content, 0).expect("written");
    file.sync_all().expect("synced");
}

/// Asserts that `path` of an image is refused, as what it lacks.
fn assert_refused(outcome: Result<Vec<u8>>) {
    let error = outcome.expect_err("its content is not there");
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("--skip-swap"), "{error}");
}

#[test]
fn paging_files_of_windows_are_left_out_and_nothing_else() {
    need!("mkntfs", "ntfs-3g", "ntfsfix");
    for block in [16_384, 131_072] {
        let stage = Stage::ntfs(block);
        let (paging, hibernation) = (incompressible(1, 12 * MIB), incompressible(2, 6 * MIB));
        stage.change(|root| {
            fs::create_dir(root.join("Windows")).expect("made");
            write(&root.join("Windows/pagefile.sys.kept"), &incompressible(3, 2 * MIB));
            write(&root.join("PageFile.SYS"), &paging);
            write(&root.join("hiberfil.sys"), &hibernation);
            write(&root.join("other"), &incompressible(4, 3 * MIB));
        });
        let (whole, without) = (stage.capture(false), stage.capture(true));
        assert!(skipped(&whole).is_empty());
        let swap: HashSet<_> = &pages(&paging) | &pages(&hibernation);
        // What a block has in common with other data, at both ends of each file.
        let edges = 8 * block as usize / PAGE;
        stage.check(&whole, &HashSet::new(), 0);
        // Nothing was written in between, so nothing is read and left out either.
        assert_eq!(stage.read(&without, "PageFile.SYS").expect("it is all there"), paging);

        let anew = stage.capture_anew();
        stage.check(&anew, &swap, edges);
        let names: Vec<_> = skipped(&anew).into_iter().map(|file| file.path).collect();
        assert_eq!(names, ["/PageFile.SYS", "/hiberfil.sys"]);
        assert!(skipped(&anew).iter().all(|file| file.bytes > 5 << 20));
        for name in names {
            assert_refused(stage.read(&anew, &name));
        }
        stage.read(&anew, "Windows/pagefile.sys.kept").expect("another folder's");
        let back = stage.folder.path().join("back");
        tool::run("ntfsfix", &["-n", back.to_str().expect("plain")]).expect("it is sound");
        let (plain, without) = (stage.restored(&whole), stage.restored(&anew));
        let pairs = plain.chunks(PAGE).zip(without.chunks(PAGE));
        let missing = pairs.filter(|(page, back)| page != back && !swap.contains(*page));
        // Free space that has a block in common with swap.
        assert!(missing.count() <= edges, "only swap is missing");
    }
}

impl Stage {
    /// A capture without a parent, without swap.
    fn capture_anew(&self) -> CaptureReport {
        let options = CaptureOptions {
            parent: imgx_engine::job::ParentChoice::None,
            skip_swap: true,
            ..CaptureOptions::default()
        };
        let capture = Capture::plan(&self.repository, &self.disk, options, &Warnings::default());
        capture.expect("planned").run(&Warnings::default()).expect("captured")
    }
}

#[test]
fn incremental_images_leave_swap_out_and_bring_it_back_as_is_asked() {
    need!("mkntfs", "ntfs-3g");
    let stage = Stage::ntfs(16_384);
    // Whether each capture is without swap; each comes after another of either sort.
    for (round, skip) in (10..).zip([true, true, false, false, true]) {
        let paging = incompressible(round, 10 * MIB);
        stage.change(|root| {
            write(&root.join("pagefile.sys"), &paging);
            write(&root.join("new"), &incompressible(round + 100, MIB));
        });
        let report = stage.capture(skip);
        assert_eq!(report.alarm, None, "{round}");
        let tracker = if round == 10 { "compare" } else { "told" };
        assert_eq!(report.manifest.tracker, tracker, "{:?}", report.manifest.tracker_doubt);
        if !skip {
            stage.check(&report, &HashSet::new(), 0);
            assert!(stage.read(&report, "pagefile.sys").expect("read") == paging);
            assert!(skipped(&report).is_empty());
            continue;
        }
        stage.check(&report, &pages(&paging), 64);
        assert_refused(stage.read(&report, "pagefile.sys"));
        let read = report.manifest.cost.read;
        assert!(round == 10 || read < 3 << 20, "{round}: {read} bytes are read");
    }
    // Nothing is written, and all the same it is wanted now, and then no more.
    let whole = stage.capture(false);
    assert!(stage.read(&whole, "pagefile.sys").expect("read") == incompressible(14, 10 * MIB));
    let after = stage.capture(true);
    assert_eq!(after.manifest.cost.read, 0);
    assert!(stage.read(&after, "pagefile.sys").is_ok(), "it was there, and costs nothing");
}

#[test]
fn of_a_volume_that_windows_sleeps_on_nothing_is_left_out() {
    need!("mkntfs", "ntfs-3g");
    let stage = Stage::ntfs(16_384);
    let mut session = incompressible(2, 9 * MIB);
    session[..4].copy_from_slice(b"HIBR");
    stage.change(|root| {
        write(&root.join("pagefile.sys"), &incompressible(3, 9 * MIB));
        write(&root.join("hiberfil.sys"), &session);
    });
    let warnings = Warnings::default();
    let report = stage.capture_told(true, Vec::new(), &warnings).expect("captured");
    let told = warnings.0.into_inner().expect("no panic");
    let is_told = |line: &String| line.contains("nothing is left out") && line.contains("hiberfil");
    assert!(told.iter().any(is_told), "{told:?}");
    assert!(stage.restored(&report) == stage.bytes());
    assert!(stage.read(&report, "hiberfil.sys").expect("read") == session);
}

/// Makes swap space of `content`.
fn swap_of(path: &Path, content: &[u8]) {
    write(path, content);
    tool::run("chmod", &["600", path.to_str().expect("plain")]).expect("changed");
    tool::run("mkswap", &[path.to_str().expect("plain")]).expect("made");
}

#[test]
fn swap_files_that_fstab_names_keep_their_header_only() {
    need!("mke2fs", "mkswap", "filefrag", "fallocate", "e2fsck", "dumpe2fs");
    let stage = Stage::ext(16_384);
    let noise = |seed| incompressible(seed, 8 * MIB);
    let mut reserved = Vec::new();
    stage.change(|root| {
        fs::create_dir(root.join("etc")).expect("made");
        let fstab = "UUID=1 / ext4 defaults 0 1\n/swapfile none swap sw 0 0\n\
            /reserved\\040swap none swap sw 0 0\n/kept-no-swap none swap sw 0 0\n\
            /missing-swap none swap sw 0 0\nUUID=2 /home ext4\n/home/kept none swap sw 0 0\n";
        fs::write(root.join("etc/fstab"), fstab).expect("written");
        swap_of(&root.join("swapfile"), &noise(1));
        reserved = reserve(&root.join("reserved swap"), "ext4");
        // Neither is: no header, not named by fstab, hidden by what is mounted there.
        write(&root.join("kept-no-swap"), &noise(2));
        swap_of(&root.join("kept-not-named"), &noise(3));
        fs::create_dir(root.join("home")).expect("made");
        swap_of(&root.join("home/kept"), &noise(4));
    });
    assert!(!reserved.is_empty());
    let (whole, report) = (stage.capture(false), stage.capture_anew());
    let named: Vec<_> = skipped(&report).into_iter().map(|file| (file.path, file.bytes)).collect();
    assert_eq!(named.len(), 3, "{named:?}");
    assert_eq!((named[2].0.as_str(), named[2].1), ("/kept-no-swap", 0));
    let swap = pages(&noise(1)[64 << 10..]);
    stage.check(&report, &swap, 64);
    let back = stage.folder.path().join("back");
    tool::run("e2fsck", &["-f", "-n", back.to_str().expect("plain")]).expect("it is sound");
    for path in ["/swapfile", "/reserved swap"] {
        assert_refused(stage.read(&report, path));
    }
    // The kernel's own map of what was reserved: noise before, and nothing now.
    let (plain, without) = (stage.restored(&whole), stage.restored(&report));
    let is_reserved = |page: usize| reserved.iter().any(|range| range.contains(&page));
    // Blocks that swap and free space have in common are left out too.
    let disk = stage.disk.to_str().expect("plain");
    let free = free_pages(&tool::run("dumpe2fs", &[disk]).expect("dumpe2fs runs"));
    let (mut lost, mut left) = (0, 0);
    for (number, (page, back)) in plain.chunks(PAGE).zip(without.chunks(PAGE)).enumerate() {
        let is_swap = swap.contains(page) || is_reserved(number) || free.contains(&number);
        assert!(page == back || is_swap, "page {number} is missing");
        lost += usize::from(is_reserved(number) && page != back);
        left += usize::from(is_reserved(number) && page == back);
    }
    assert!(lost > 900 && left < 64, "{lost} pages lost, {left} left");
    let header = |disk: &[u8]| {
        let first = reserved[0].start * PAGE;
        disk[first..first + PAGE].to_vec()
    };
    assert!(header(&without).ends_with(b"SWAPSPACE2"));
    assert_eq!(header(&plain), header(&without));
}

/// Makes swap space of blocks that are reserved and not written; returns the pages of the disk that
/// these are, if the kernel tells.
fn reserve(path: &Path, kind: &str) -> Vec<std::ops::Range<usize>> {
    let plain = path.to_str().expect("plain");
    if kind == "btrfs" {
        write(path, &[]);
        tool::run("chattr", &["+C", plain]).expect("changed");
    }
    tool::run("fallocate", &["-l", "4M", plain]).expect("made");
    tool::run("chmod", &["600", plain]).expect("changed");
    tool::run("mkswap", &[plain]).expect("made");
    File::open(path).expect("opened").sync_all().expect("synced");
    let said = tool::run("filefrag", &["-v", "-b4096", plain]).expect("filefrag runs");
    // Those of btrfs are logical addresses.
    if kind == "btrfs" { Vec::new() } else { extents_of(&said) }
}

/// The blocks that `dumpe2fs` calls free.
fn free_pages(said: &str) -> HashSet<usize> {
    let listed = said.lines().filter_map(|line| line.trim().strip_prefix("Free blocks: "));
    let ranges = listed.flat_map(|list| list.split(',')).filter_map(|range| {
        let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
        Some(first.parse().ok()?..=last.parse::<usize>().ok()?)
    });
    ranges.flatten().collect()
}

/// The pages of the disk that `filefrag` names.
fn extents_of(said: &str) -> Vec<std::ops::Range<usize>> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        let (first, last) = fields.get(2)?.split_once("..")?;
        Some(first.trim().parse().ok()?..last.trim().parse::<usize>().ok()? + 1)
    };
    said.lines().filter_map(line).collect()
}

#[test]
fn what_is_missing_besides_swap_is_read_with_all_of_its_volume() {
    need!("mke2fs", "mkswap", "filefrag");
    let stage = Stage::ext(16_384);
    let mut places = Vec::new();
    stage.change(|root| {
        fs::create_dir(root.join("etc")).expect("made");
        fs::write(root.join("etc/fstab"), "/swapfile none swap sw\n").expect("written");
        swap_of(&root.join("swapfile"), &incompressible(1, 8 * MIB));
        write(&root.join("other"), &incompressible(2, MIB));
        for name in ["swapfile", "other"] {
            let path = root.join(name);
            let plain = path.to_str().expect("plain");
            let said = tool::run("filefrag", &["-v", "-b4096", plain]).expect("filefrag runs");
            places.push(extents_of(&said)[0].start * PAGE);
        }
    });
    for place in places {
        // The header of swap space is as much a part of the disk as another file.
        let range = ByteRange::new(place as u64 / 16_384 * 16_384, 16_384);
        let report = stage.try_capture(true, vec![range]).expect("captured");
        let [volume] = report.manifest.allocation.as_slice() else { panic!("{report:?}") };
        let doubt = volume.doubt.as_deref().unwrap_or_default();
        assert!(doubt.contains("are in use"), "{volume:?}");
        assert!(volume.unallocated == 0 && volume.skipped.is_empty(), "{volume:?}");
        assert!(stage.restored(&report) == stage.bytes(), "all of it is there, swap as well");
        let manifest = format!("repository/images/{}.json", report.id);
        fs::remove_file(stage.folder.path().join(manifest)).expect("removed");
    }
    let report = stage.capture(true);
    assert!(!skipped(&report).is_empty());
}

#[test]
fn blocks_that_another_file_may_have_too_are_kept() {
    need!("mkfs.xfs", "mkfs.btrfs", "btrfs", "mkswap", "filefrag", "fallocate");
    let make = ["mkfs.xfs", "-q", "-f", "-K", "--unsupported"];
    let xfs = Stage::new(65_536, 64 * MIB, &make, &["-o", "loop,nouuid"]);
    let make = ["mkfs.btrfs", "-q", "-f", "-K", "-m", "single"];
    let btrfs = Stage::new(65_536, 128 * MIB, &make, &["-o", "loop"]);
    for (stage, kind) in [(&xfs, "xfs"), (&btrfs, "btrfs")] {
        let noise = incompressible(1, 8 * MIB);
        let mut reserved = Vec::new();
        stage.change(|root| {
            let root = system(root, kind);
            fs::create_dir(root.join("etc")).expect("made");
            let fstab = "LABEL=x / btrfs subvol=@\nLABEL=x /swap btrfs subvol=/@swap\n\
                /swap/file none swap sw\n/reserved-swap none swap sw\n";
            let of_xfs = "/swapfile none swap sw\n/reserved-swap none swap sw\n";
            let fstab = if kind == "xfs" { of_xfs } else { fstab };
            fs::write(root.join("etc/fstab"), fstab).expect("written");
            let path = swap_path(&root, kind);
            write(&path, &[]);
            if kind == "btrfs" {
                tool::run("chattr", &["+C", path.to_str().expect("plain")]).expect("changed");
            }
            swap_of(&path, &noise);
            reserved = reserve(&root.join("reserved-swap"), kind);
        });
        let alone = stage.capture(true);
        let swap = pages(&noise[64 << 10..]);
        stage.check(&alone, &swap, 64);
        let files = skipped(&alone);
        assert!(files.len() == 2 && files[0].bytes > 7 << 20, "{kind}: {files:?}");
        assert!(files[1].bytes > 3 << 20, "{kind}: {files:?}");
        assert_refused(stage.read(&alone, &files[0].path));
        let restored = stage.restored(&alone);
        let of_map = |range: &std::ops::Range<usize>| {
            let bytes = &restored[range.start * PAGE..range.end * PAGE];
            bytes.chunks(PAGE).filter(|page| page.iter().any(|byte| *byte != 0)).count()
        };
        let left: usize = reserved.iter().map(of_map).sum();
        assert!(left <= 48, "{kind}: {left} pages of what is reserved are left");

        stage.change(|root| {
            let (path, copy) = (swap_path(&system(root, kind), kind), root.join("copy-kept"));
            let [path, copy] = [&path, &copy].map(|path| path.to_str().expect("plain"));
            match kind {
                "xfs" => tool::run("cp", &["--reflink=always", path, copy]).expect("copied"),
                _ => {
                    let subvolume = path.strip_suffix("/file").expect("it is in one");
                    let line = ["subvolume", "snapshot", "-r", subvolume, copy];
                    tool::run("btrfs", &line).expect("taken")
                }
            };
        });
        let shared = stage.capture(true);
        let files = skipped(&shared);
        let note = files[0].note.as_ref().expect("a reason");
        assert!(files[0].bytes == 0 && note.contains("another file's"), "{kind}: {files:?}");
        let content = stage.read(&shared, &files[0].path).expect("all of it is kept");
        assert!(content[64 << 10..] == noise[64 << 10..]);
    }
}

/// The folder that is mounted as `/`.
fn system(root: &Path, kind: &str) -> PathBuf {
    if kind == "xfs" {
        return root.to_owned();
    }
    for name in ["@", "@swap"] {
        let path = root.join(name);
        if !path.exists() {
            let line = ["subvolume", "create", path.to_str().expect("plain")];
            tool::run("btrfs", &line).expect("made");
        }
    }
    root.join("@")
}

fn swap_path(system: &Path, kind: &str) -> PathBuf {
    match kind {
        "xfs" => system.join("swapfile"),
        _ => system.with_file_name("@swap").join("file"),
    }
}

/// The changed paths and the lost ones between two images.
fn compared(stage: &Stage, images: [&CaptureReport; 2]) -> [Vec<String>; 2] {
    let readers = images.map(|report| {
        let image = stage.repository.image(report.id).expect("committed");
        stage.repository.reader(&image)
    });
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let [mut changed, mut lost] = [Vec::new(), Vec::new()];
    let job = DiffFiles::of_images(readers, &Warnings::default()).expect("planned");
    let told = job.run(&Warnings::default(), &mut |told| {
        match told {
            diff_files::Told::Change { change, .. } => changed.push(text(&change.path)),
            diff_files::Told::Lost { path, error, .. } => {
                assert!(error.to_string().contains("--skip-swap"), "{error}");
                lost.push(text(path));
            }
            diff_files::Told::Volume { .. } => {}
        }
        Ok(())
    });
    told.expect("compared");
    [changed, lost]
}

#[test]
fn comparisons_tell_of_swap_files_only_where_an_image_may_have_another_content() {
    need!("mke2fs", "mkswap", "debugfs");
    let stage = Stage::ext(16_384);
    let noise = incompressible(1, 8 * MIB);
    stage.change(|root| {
        fs::create_dir(root.join("etc")).expect("made");
        fs::write(root.join("etc/fstab"), "/swapfile none swap sw 0 0\n").expect("written");
        swap_of(&root.join("swapfile"), &noise);
        // No block of the image has some of both.
        write(&root.join("between"), &incompressible(3, MIB));
        write(&root.join("file"), &incompressible(2, MIB));
    });
    let (whole, first) = (stage.capture(false), stage.capture_anew());
    // What the kernel swaps out changes no time of the file.
    let mut disk = stage.bytes();
    let page = &noise[100 * PAGE..101 * PAGE];
    let at = disk.windows(PAGE).position(|window| window == page).expect("it is on the disk");
    disk[at..at + PAGE].fill(7);
    fs::write(&stage.disk, disk).expect("written");
    stage.change(|root| write(&root.join("file"), b"changed"));
    let second = stage.capture_anew();
    let [file, swap] = ["/file", "/swapfile"].map(|path| vec![path.to_owned()]);
    assert_eq!(compared(&stage, [&first, &second]), [file.clone(), vec![]]);
    assert_eq!(compared(&stage, [&whole, &second]), [file, swap]);
}
