//! What a volume holds is called what blkid calls it, with its label and identifier: filesystems
//! that imgx reads in all their variants, and those that it only names.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imgx_fixtures::mkfs::{blank, blkid};
use imgx_fixtures::tool::{have, run};
use imgx_volumes::base::{ByteCount, ByteOffset, Error, ReadAt, Result};
use imgx_volumes::fs;
use imgx_volumes::volume::{Content, Kind, probe};

const MIB: u64 = 1 << 20;

/// A disk in a file.
struct Disk(File);

impl ReadAt for Disk {
    fn size(&self) -> ByteCount {
        ByteCount(self.0.metadata().expect("it has a size").len())
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset.0).map_err(|source| Error::io("read the disk", source))
    }
}

fn disk(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(Disk(File::open(path).expect("the file opens")))
}

/// What imgx says that the file holds.
fn content(path: &Path) -> Option<Content> {
    let layout = probe(&disk(path), 512).expect("the probe runs");
    layout.volume("disk").and_then(|volume| volume.content.clone())
}

/// What blkid calls a kind of imgx's.
fn blkid_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Fat12 | Kind::Fat16 | Kind::Fat32 => "vfat",
        Kind::ExtJournal => "jbd",
        Kind::XfsLog => "xfs_external_log",
        kind => kind.name(),
    }
}

/// Kind, label and identifier equal blkid's, and those of the filesystem that is opened.
fn equals_blkid(path: &Path, what: &str) -> Content {
    let expected = blkid(path).expect("blkid runs");
    let found = content(path).unwrap_or_else(|| panic!("{what}: nothing, but {expected:?}"));
    let value = |key: &str| expected.get(key).cloned();
    assert_eq!(Some(blkid_type(found.kind).to_owned()), value("TYPE"), "{what}");
    assert_eq!((&found.label, &found.uuid), (&value("LABEL"), &value("UUID")), "{what}");
    if found.kind.nature() == imgx_volumes::volume::Nature::Read {
        let opened = fs::open(&disk(path)).unwrap_or_else(|error| panic!("{what}: {error}"));
        let info = opened.info();
        assert_eq!((info.kind, &info.label), (found.kind.name(), &found.label), "{what}");
        assert_eq!(info.uuid, found.uuid, "{what}");
    }
    found
}

fn make(path: &Path, size: u64, tool: &str, arguments: &[&str]) -> bool {
    if !have(tool) || !have("blkid") {
        println!("skipped: no {tool}");
        return false;
    }
    blank(path, size).expect("made");
    let arguments: Vec<&str> =
        arguments.iter().copied().chain([path.to_str().expect("plain")]).collect();
    run(tool, &arguments).unwrap_or_else(|error| panic!("{tool} {arguments:?}: {error}"));
    true
}

fn write(path: &Path, place: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).expect("opened");
    file.write_all_at(bytes, place).expect("written");
}

#[test]
fn an_ext_is_of_the_kind_that_its_features_make_it() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("ext");
    for (arguments, kind) in [
        ("-t ext2", Kind::Ext2),
        ("-t ext2 -O ^filetype,^large_file", Kind::Ext2),
        ("-t ext2 -O extents", Kind::Ext4),
        ("-t ext2 -O 64bit,extents -L wide", Kind::Ext4),
        ("-t ext2 -O huge_file", Kind::Ext4),
        ("-t ext2 -O meta_bg,^resize_inode", Kind::Ext2),
        ("-t ext3 -L three", Kind::Ext3),
        ("-t ext3 -O flex_bg", Kind::Ext4),
        ("-t ext4 -b 1024", Kind::Ext4),
        ("-t ext4 -O ^has_journal", Kind::Ext4),
        ("-t ext4 -L sixteen-letters-", Kind::Ext4),
        ("-O journal_dev -b 4096 -L journal", Kind::ExtJournal),
    ] {
        let options: Vec<&str> = ["-q", "-F"].into_iter().chain(arguments.split(' ')).collect();
        if !make(&path, 16 * MIB, "mke2fs", &options) {
            return;
        }
        assert_eq!(equals_blkid(&path, arguments).kind, kind, "{arguments}");
    }
}

#[test]
fn a_journal_to_recover_that_is_not_there_makes_no_ext2() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("ext");
    if !make(&path, 16 * MIB, "mke2fs", &["-q", "-F", "-t", "ext2"]) {
        return;
    }
    // s_feature_incompat: needs_recovery, which no driver of ext2 takes.
    write(&path, 1024 + 0x60, &[0x6]);
    let found = content(&path).expect("ext");
    assert_eq!(found.kind, Kind::Ext4);
    assert_eq!(fs::open(&disk(&path)).expect("opened").info().kind, "ext4");
}

#[test]
fn a_serial_number_of_zero_is_none() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("volume");
    if make(&path, 16 * MIB, "mkfs.ntfs", &["-q", "-F", "-Q", "-L", "W\u{f6}rter"]) {
        let before = equals_blkid(&path, "NTFS");
        assert!(before.uuid.is_some_and(|uuid| uuid.len() == 16));
        assert_eq!(before.label.as_deref(), Some("W\u{f6}rter"));
        write(&path, 0x48, &[0; 8]);
        assert_eq!(equals_blkid(&path, "NTFS without a serial number").uuid, None);
    }
    // FAT and exFAT as well; blkid prints zeros of neither.
    if make(&path, 64 * MIB, "mkfs.vfat", &["-F", "32", "-i", "00000000", "-n", "ZERO"]) {
        assert_eq!(equals_blkid(&path, "FAT32 without a serial number").uuid, None);
    }
}

#[test]
fn a_label_is_the_root_directorys() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("volume");
    for (width, size) in [("12", 2), ("16", 32), ("32", 64)] {
        for label in ["-nLABEL", "-nA b", "-v"] {
            if !make(&path, size * MIB, "mkfs.vfat", &["-F", width, label]) {
                return;
            }
            equals_blkid(&path, &format!("FAT{width} {label}"));
        }
    }
    if make(&path, 16 * MIB, "mkfs.exfat", &["-L", "Gr\u{f6}\u{df}e"]) {
        equals_blkid(&path, "exFAT");
    }
    if make(&path, 16 * MIB, "mkfs.exfat", &[]) {
        assert_eq!(equals_blkid(&path, "exFAT without a label").label, None);
    }
}

#[test]
fn a_damaged_filesystem_is_told_of_all_the_same() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("volume");
    // Tables that cannot be where the boot sector says, and no signature at its end.
    if make(&path, 16 * MIB, "mkfs.ntfs", &["-q", "-F", "-Q", "-L", "label"]) {
        let sound = content(&path).expect("NTFS");
        write(&path, 0x30, &[0xff; 8]);
        let damaged = content(&path).expect("still NTFS");
        assert_eq!((damaged.kind, &damaged.uuid), (Kind::Ntfs, &sound.uuid));
        // The copy of the record tells.
        assert_eq!(damaged.label, sound.label);
        write(&path, 510, &[0; 2]);
        assert_eq!(content(&path).map(|content| content.kind), Some(Kind::Ntfs));
    }
    // A checksum that is wrong, and one of a type that nobody knows.
    if make(&path, 128 * MIB, "mkfs.btrfs", &["-q", "-L", "label"]) {
        let sound = equals_blkid(&path, "btrfs");
        for (place, bytes) in [(65536 + 0x12b, &b"L"[..]), (65536 + 0xc4, &[9])] {
            write(&path, place, bytes);
            let damaged = content(&path).expect("still btrfs");
            assert_eq!((damaged.kind, damaged.uuid), (Kind::Btrfs, sound.uuid.clone()));
            assert_eq!(damaged.label.as_deref(), Some("Label"));
        }
    }
    // Features that nobody knows.
    if make(&path, 16 * MIB, "mke2fs", &["-q", "-F", "-t", "ext4", "-L", "label"]) {
        write(&path, 1024 + 0x60, &[0xff; 4]);
        let unknown = content(&path).expect("still ext");
        // One of these bits is that of an external journal.
        assert_eq!(unknown.kind, Kind::ExtJournal);
        write(&path, 1024 + 0x60, &[0xc2, 0x02, 0, 0x80]);
        let unknown = content(&path).expect("still ext");
        assert_eq!((unknown.kind, unknown.label.as_deref()), (Kind::Ext4, Some("label")));
    }
    if make(&path, 400 * MIB, "mkfs.xfs", &["-q", "-L", "label"]) {
        let sound = equals_blkid(&path, "XFS");
        // sb_agcount, and with it the checksum.
        write(&path, 0x58, &[0; 4]);
        assert_eq!(content(&path), Some(sound));
    }
}

/// A folder with a file in it.
fn source(folder: &Path) -> String {
    let source = folder.join("source");
    std::fs::create_dir_all(&source).expect("made");
    std::fs::write(source.join("file"), "content").expect("written");
    source.to_str().expect("plain").to_owned()
}

/// Runs a tool that makes an image of a folder.
fn image(path: &Path, tool: &str, arguments: &[&str]) -> bool {
    if !have(tool) || !have("blkid") {
        println!("skipped: no {tool}");
        return false;
    }
    let _ = std::fs::remove_file(path);
    run(tool, arguments).unwrap_or_else(|error| panic!("{tool} {arguments:?}: {error}"));
    true
}

#[test]
fn compressed_images_equal_blkid() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("image");
    let (source, target) = (source(folder.path()), path.to_str().expect("plain"));
    if image(&path, "mksquashfs", &[&source, target, "-quiet", "-no-progress"]) {
        let found = equals_blkid(&path, "squashfs");
        // It has neither: a time is no identifier.
        assert_eq!((found.kind, found.label, found.uuid), (Kind::Squashfs, None, None));
    }
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    if image(&path, "mkfs.erofs", &["-U", id, target, &source]) {
        assert_eq!(equals_blkid(&path, "EROFS").uuid.as_deref(), Some(id));
        // Not every version of the tool writes a label, which the checksum covers.
        write(&path, 1024 + 64, b"erofs label\0\0\0\0\0");
        let found = content(&path).expect("EROFS");
        assert_eq!((found.kind, found.label.as_deref()), (Kind::Erofs, Some("erofs label")));
    }
}

#[test]
fn discs_equal_blkid() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("image");
    let (source, target) = (source(folder.path()), path.to_str().expect("plain"));
    let genisoimage: [&[&str]; 4] = [
        &["-V", "PLAIN"],
        &["-J", "-V", "Joliet"],
        &["-J", "-R", "-V", "WITH A LABEL OF 26 LETTERS"],
        &[],
    ];
    for options in genisoimage {
        let all = [&["-quiet"], options, &["-o", target, &source]].concat();
        if !image(&path, "genisoimage", &all) {
            break;
        }
        assert_eq!(equals_blkid(&path, &format!("{options:?}")).kind, Kind::Iso9660);
    }
    // Both views of one disc.
    if image(&path, "genisoimage", &["-quiet", "-udf", "-V", "BRIDGE", "-o", target, &source]) {
        assert_eq!(equals_blkid(&path, "bridge").kind, Kind::Udf);
    }
    let date = "--modification-date=2024013112000059";
    let all = ["-as", "mkisofs", "-quiet", "-V", "DATED", date, "-o", target, &source];
    if image(&path, "xorriso", &all) {
        let found = equals_blkid(&path, "dated");
        assert_eq!(found.uuid.as_deref(), Some("2024-01-31-12-00-00-59"));
    }
}

#[test]
fn udf_equals_blkid_in_every_form() {
    let folder = tempfile::tempdir().expect("made");
    let path = folder.path().join("udf");
    let mut labels = BTreeMap::new();
    for block in ["512", "1024", "2048", "4096"] {
        for (revision, label) in
            [("1.02", "plain"), ("1.50", "Gr\u{f6}\u{df}e"), ("2.01", "snow \u{2603} man")]
        {
            let block = format!("--blocksize={block}");
            let (revision, label) = (format!("--udfrev={revision}"), format!("--lvid={label}"));
            let all = ["--media-type=hd", &block, &revision, &label];
            if !make(&path, 20 * MIB, "mkudffs", &all) {
                return;
            }
            let found = equals_blkid(&path, &format!("{all:?}"));
            assert_eq!(found.kind, Kind::Udf);
            *labels.entry(found.label.expect("a label")).or_insert(0) += 1;
        }
    }
    assert_eq!(labels.values().copied().collect::<Vec<_>>(), [4, 4, 4], "{labels:?}");
    let fixed = ["--media-type=cdr", "--uuid=0123456789abcdef", "--lvid=cdr"];
    assert!(make(&path, 20 * MIB, "mkudffs", &fixed));
    assert_eq!(equals_blkid(&path, "cdr").uuid.as_deref(), Some("0123456789abcdef"));
    // What describes the volume is gone, the volume is not.
    write(&path, 256 * 2048, &[0; 2048]);
    let found = content(&path).expect("UDF");
    assert_eq!((found.kind, found.label), (Kind::Udf, None));
}
