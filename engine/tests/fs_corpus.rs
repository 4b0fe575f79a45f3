//! Real images of other projects read as the kernel and other readers read them, and images of
//! every sort of damage and of other filesystems cause no panic and no endless walk.
//!
//! The images lie beside the checkout in `../shared/corpus`, or where `IMGX_CORPUS` says.

#[path = "support/survey.rs"]
mod surveyed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imgx_engine::base::bytes::{is_zero, to_hex};
use imgx_engine::base::{
    ByteCount, ByteOffset, ByteRange, ErrorContext, ErrorKind, ReadAt, Result, Window,
};
use imgx_engine::fs::{FileId, FileType, Filesystem, Protection};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Images of more bytes than this when unpacked are left out: they would take the test's minute.
const MOST: u64 = 1_700_000_000;
/// Those of XFS are few, and hold little.
const MOST_OF_XFS: u64 = 11_000_000_000;
/// Using one damaged image must end within this, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// An image called valid of which a part is lost all the same, and has to be told: entries whose
/// checksum is wrong.
const LOSING: [&str; 1] = ["LeavaTail__exfat-rawtools/tests__sample__error__error.img"];

struct RawFile(File);

impl ReadAt for RawFile {
    fn size(&self) -> ByteCount {
        ByteCount(self.0.metadata().expect("an open file has metadata").len())
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset.0).context(|| format!("reading at {offset}"))
    }
}

/// Unpacks an image, or a tar archive with one in it, into a sparse file without a name.
fn unpack(path: &Path) -> RawFile {
    let packed = File::open(path).expect("the packed image opens");
    let mut stream = zstd::stream::read::Decoder::new(packed).expect("zstd starts");
    stream.window_log_max(31).expect("the widest window is allowed");
    if !path.to_string_lossy().ends_with(".tar.zst") {
        return spread(stream);
    }
    let mut archive = tar::Archive::new(stream);
    let mut entries = archive.entries().expect("the archive opens");
    spread(entries.next().expect("an image").expect("is in it"))
}

fn spread(mut stream: impl Read) -> RawFile {
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = stream.read(&mut buffer).expect("the image unpacks");
        if count == 0 {
            break;
        }
        size += count as u64;
        if is_zero(&buffer[..count]) {
            file.seek(SeekFrom::Start(size)).expect("moved");
        } else {
            file.write_all(&buffer[..count]).expect("written");
        }
    }
    file.set_len(size).expect("sized");
    RawFile(file)
}

struct Image {
    name: String,
    kind: String,
    filesystem: String,
    file: String,
    /// All devices of a filesystem that lies on several.
    members: Vec<String>,
}

fn corpus() -> Option<(PathBuf, Vec<Image>)> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("IMGX_CORPUS").map_or(beside, PathBuf::from);
    let manifest = fs::read_to_string(corpus.join("MANIFEST.tsv")).ok()?;
    let mut lines = manifest.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next()?;
    let column = |name: &str| header.iter().position(|each| *each == name);
    let (name, kind, filesystem) = (column("image")?, column("kind")?, column("fs")?);
    let (size, file, members) = (column("size")?, column("file")?, column("members")?);
    let small = |row: &Vec<&str>| {
        let most = if row[filesystem] == "xfs" { MOST_OF_XFS } else { MOST };
        row[size].parse().is_ok_and(|size: u64| size <= most)
    };
    let image = |row: Vec<&str>| Image {
        name: row[name].to_owned(),
        kind: row[kind].to_owned(),
        filesystem: row[filesystem].to_owned(),
        file: row[file].to_owned(),
        members: row[members]
            .split(';')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    let images: Vec<Image> = lines.filter(small).map(image).collect();
    Some((corpus, images))
}

fn oracle(corpus: &Path, image: &str) -> Vec<Value> {
    let plain = corpus.join(format!("{image}.oracle.jsonl"));
    let text = fs::read_to_string(&plain).unwrap_or_else(|_| {
        let Ok(packed) = File::open(plain.with_extension("jsonl.zst")) else {
            return String::new();
        };
        let bytes = zstd::decode_all(packed).expect("the oracle unpacks");
        String::from_utf8(bytes).expect("the oracle is text")
    });
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[test]
fn ext_images_read_as_the_kernel_reads_them() {
    compare_all(|filesystem| filesystem.starts_with("ext"));
}

#[test]
fn fat_and_exfat_images_read_as_other_readers_read_them() {
    compare_all(|filesystem| filesystem.starts_with("fat") || filesystem == "exfat");
}

#[test]
fn xfs_images_read_as_the_kernel_and_other_readers_read_them() {
    compare_all(|filesystem| filesystem == "xfs");
}

#[test]
fn ntfs_images_read_as_ntfs_3g_reads_them() {
    compare_all(|filesystem| filesystem == "ntfs");
}

#[test]
fn btrfs_images_read_as_the_kernel_reads_them() {
    compare_all(|filesystem| filesystem == "btrfs");
}

#[test]
fn btrfs_on_several_devices_reads_as_the_kernel_reads_it() {
    let Some((corpus, images)) = corpus() else {
        println!("skipped: no corpus");
        return;
    };
    let mut failures = Vec::new();
    for image in images.iter().filter(|image| !image.members.is_empty()) {
        let member = |name: &String| {
            let member = images.iter().find(|each| each.name == *name).expect("it is listed");
            Arc::new(unpack(&corpus.join(&member.file))) as Arc<dyn ReadAt>
        };
        let volumes: Vec<_> = image.members.iter().map(member).collect();
        let entries = oracle(&corpus, &image.name);
        let wrong = match imgx_engine::fs::open_btrfs(&volumes) {
            Ok(filesystem) => compare_opened(filesystem.as_ref(), &entries),
            Err(error) => vec![format!("it does not open: {error}")],
        };
        println!("{} of {}: {} files, {wrong:.5?}", image.name, volumes.len(), entries.len());
        failures.extend(wrong.iter().map(|what| format!("{}: {what}", image.name)));
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn compare_all(is_wanted: impl Fn(&str) -> bool) {
    let Some((corpus, images)) = corpus() else {
        println!("skipped: no corpus");
        return;
    };
    let (mut compared, mut soft) = (0, 0);
    let mut failures = Vec::new();
    let kinds = ["valid", "odd", "dirty"];
    let is_ours =
        |image: &&Image| is_wanted(&image.filesystem) && kinds.contains(&image.kind.as_str());
    for image in images.iter().filter(is_ours) {
        let disk = Arc::new(unpack(&corpus.join(&image.file)));
        let mut by_offset: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for entry in oracle(&corpus, &image.name) {
            let is_file = entry["type"] != "partition";
            if let Some(offset) = entry["offset"].as_u64().filter(|_| is_file) {
                by_offset.entry(offset).or_default().push(entry);
            }
        }
        for (offset, entries) in by_offset {
            let range = ByteRange { start: offset, end: disk.size().0 };
            let window = Window::new(Arc::clone(&disk), range).expect("a partition is inside");
            let volume: Arc<dyn ReadAt> = Arc::new(window);
            let wrong = compare(&volume, &entries);
            if image.kind == "valid" && wrong.is_empty() {
                failures
                    .extend(survey_fault(&volume).map(|what| format!("{}: {what}", image.name)));
            }
            match image.kind.as_str() {
                "valid" if LOSING.contains(&image.name.as_str()) => {
                    assert!(!wrong.is_empty(), "{}: nothing is told of its loss", image.name);
                }
                "valid" => {
                    failures.extend(wrong.iter().map(|what| format!("{}: {what}", image.name)));
                }
                _ => soft += wrong.len(),
            }
            println!("{} ({}): {} files, {wrong:.5?}", image.name, image.kind, entries.len());
            compared += entries.len();
        }
    }
    println!("{compared} files were compared; {soft} differ in images that are not sound");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 0, "nothing was compared");
}

/// What a survey of a sound filesystem objects to, where it is certain what is free.
fn survey_fault(volume: &Arc<dyn ReadAt>) -> Option<String> {
    let filesystem = imgx_engine::fs::open(volume).ok()?;
    filesystem.free_space(&mut |_| ControlFlow::Continue(())).ok()?;
    let shown = surveyed::shown(filesystem.as_ref());
    let error = shown.err().filter(|error| error.kind() != ErrorKind::Unsupported)?;
    Some(format!("its survey: {error}"))
}

/// What of a filesystem differs from what the oracle says.
fn compare(volume: &Arc<dyn ReadAt>, entries: &[Value]) -> Vec<String> {
    match imgx_engine::fs::open(volume) {
        Ok(filesystem) => compare_opened(filesystem.as_ref(), entries),
        Err(error) => vec![format!("it does not open: {error}")],
    }
}

fn compare_opened(filesystem: &dyn Filesystem, entries: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut files = BTreeMap::new();
    walk(filesystem, &mut files, &mut wrong);
    let mut named = BTreeSet::new();
    for entry in entries {
        let path = entry["path"].as_str().unwrap_or_default().to_owned();
        let path = (path, entry["type"] == "stream");
        match files.get(&path) {
            Some(file) => {
                for (what, found) in differences(filesystem, *file, entry) {
                    let path = &path.0;
                    wrong.push(format!("{path}: {what} is {found}, expected {}", entry[what]));
                }
            }
            None if entry["path_b64"].is_string() => {}
            None => wrong.push(format!("{} is missing", path.0)),
        }
        named.insert(path);
    }
    let unnamed = files.keys().filter(|path| !named.contains(*path));
    wrong.extend(unnamed.map(|path| format!("{} is in no oracle", path.0)));
    wrong
}

/// A path, and whether it is a file's stream, which may be called as another file is.
type Named = (String, bool);

/// Every file by its path; but what is in encrypted folders, whose names mean nothing.
fn walk(filesystem: &dyn Filesystem, files: &mut BTreeMap<Named, FileId>, wrong: &mut Vec<String>) {
    let mut waiting = vec![(String::new(), filesystem.root())];
    let mut seen = BTreeSet::new();
    let is_ntfs = filesystem.info().kind == "ntfs";
    while let Some((path, folder)) = waiting.pop() {
        if !seen.insert(folder) {
            wrong.push(format!("{path} is there twice"));
            continue;
        }
        let is_hidden =
            |found: &imgx_engine::fs::Metadata| found.protection == Protection::Encrypted;
        if filesystem.metadata(folder).is_ok_and(|found| is_hidden(&found)) {
            continue;
        }
        let listed = filesystem.list(folder, &mut |entry| {
            match entry {
                Ok(entry) => {
                    let name = String::from_utf8_lossy(&entry.name);
                    let path = format!("{path}{}{name}", if path.is_empty() { "" } else { "/" });
                    let is_stream = is_ntfs && entry.file.tree != 0;
                    let plain = path.strip_suffix(":$DATA").filter(|_| is_stream);
                    files.insert((plain.unwrap_or(&path).to_owned(), is_stream), entry.file);
                    let kind = filesystem.metadata(entry.file).map(|found| found.file_type);
                    if kind.is_ok_and(|kind| kind == FileType::Directory) {
                        waiting.push((path, entry.file));
                    }
                }
                Err(error) => wrong.push(format!("{path}: {error}")),
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = listed {
            wrong.push(format!("{path}: {error}"));
        }
    }
}

/// The oracle's fields that a file differs in, with what was found.
fn differences(
    filesystem: &dyn Filesystem,
    file: FileId,
    entry: &Value,
) -> Vec<(&'static str, Value)> {
    let found = match filesystem.metadata(file) {
        Ok(found) => found,
        Err(error) => return vec![("type", error.to_string().into())],
    };
    let kind = match found.file_type {
        FileType::Regular if entry["type"] == "stream" => "stream",
        FileType::Regular => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    };
    let mut fields = vec![
        ("type", kind.into()),
        ("mode", found.mode.into()),
        ("uid", found.uid.into()),
        ("gid", found.gid.into()),
        ("nlink", found.links.into()),
    ];
    if let Some(modified) = found.modified {
        fields.push(("mtime", modified.seconds.into()));
        fields.push(("mtime_ns", modified.nanoseconds.into()));
    }
    if found.file_type != FileType::Directory {
        fields.push(("size", found.size.into()));
    }
    if filesystem.info().kind == "exfat" {
        // The oracle took no notice of zones, nor of hundredths.
        let apart = found.modified.zip(entry["mtime"].as_i64());
        let apart = apart.map_or(0, |(found, expected)| found.seconds - expected);
        let is_zone = apart.rem_euclid(900) <= 1 && apart.abs() <= 16 * 3600;
        fields.retain(|(what, _)| !is_zone || !what.starts_with("mtime"));
    }
    if let Some((major, minor)) = found.device {
        fields.push(("rdev", vec![major, minor].into()));
    }
    if found.file_type == FileType::Symlink {
        let target = filesystem.link_target(file).unwrap_or_default();
        fields.push(("target", String::from_utf8_lossy(&target).into()));
    }
    if found.file_type == FileType::Regular && entry["sha256"].is_string() {
        fields.push(("sha256", digest(filesystem, file).into()));
    }
    let xattrs: serde_json::Map<String, Value> = filesystem
        .xattrs(file)
        .unwrap_or_default()
        .into_iter()
        // The oracle leaves ACLs out; the tests in `fs_ext` compare them with the kernel's.
        .filter(|xattr| !xattr.name.starts_with(b"system.posix_acl_"))
        .map(|xattr| {
            let value = to_hex(&Sha256::digest(&xattr.value)[..8]);
            (String::from_utf8_lossy(&xattr.name).into_owned(), value.into())
        })
        .collect();
    fields.push(("xattrs", xattrs.into()));
    fields.retain(|(what, value)| !entry[what].is_null() && entry[what] != *value);
    fields
}

fn digest(filesystem: &dyn Filesystem, file: FileId) -> String {
    let read = || -> Result<String> {
        let mut content = filesystem.open(file)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut place = 0;
        loop {
            match content.read_at(place, &mut buffer)? {
                0 => return Ok(to_hex(&hasher.finalize())),
                count => {
                    hasher.update(&buffer[..count]);
                    place += count as u64;
                }
            }
        }
    };
    read().unwrap_or_else(|error| error.to_string())
}

#[test]
fn damaged_and_foreign_images_cause_no_panic_and_no_endless_walk() {
    let Some((corpus, images)) = corpus() else {
        println!("skipped: no corpus");
        return;
    };
    let (mut opened, mut refused) = (0, 0);
    let kinds = ["corrupt", "foreign", "nofs"];
    for image in images.iter().filter(|image| kinds.contains(&image.kind.as_str())) {
        let volume: Arc<dyn ReadAt> = Arc::new(unpack(&corpus.join(&image.file)));
        let start = Instant::now();
        match imgx_engine::fs::open(&volume) {
            Ok(filesystem) => {
                walk(filesystem.as_ref(), &mut BTreeMap::new(), &mut Vec::new());
                let _ = filesystem.free_space(&mut |_| ControlFlow::Continue(()));
                println!("{} opens as {}", image.name, filesystem.info().kind);
                opened += 1;
            }
            Err(_) => refused += 1,
        }
        let took = start.elapsed();
        assert!(took < PATIENCE, "{}: {took:?}", image.name);
    }
    println!("{opened} images were walked, {refused} refused");
    assert!(opened + refused > 0, "nothing was tried");
}
