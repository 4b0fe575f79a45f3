//! Files compressed by Windows' overlay filter. Their streams are resources of Windows images that
//! wimlib made, which have the same form.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use imgx_engine::fs::Place;
use imgx_fixtures::pattern::text;
use imgx_fixtures::tool;

use crate::fixture::{Fixture, MIB, noise, open};
use crate::links::{find, reparse_value, set_reparse};
use crate::need_ntfs_3g;

/// Algorithms: name and chunk size for wimlib, and the number in the reparse point.
const ALGORITHMS: [(&str, &str, u8); 4] =
    [("XPRESS", "4096", 0), ("LZX", "32768", 1), ("XPRESS", "8192", 2), ("XPRESS", "16384", 3)];

/// The bytes of a file in a Windows image, compressed as they are there; the image has no other
/// file of that size.
fn resource(image: &[u8], size: u64) -> Vec<u8> {
    let number = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("8 bytes"));
    let place = |at: usize| usize::try_from(number(at)).expect("small");
    // The header of the table of resources: its length and flags, where it is.
    let length = |at: usize| place(at) & 0xff_ffff_ffff_ffff;
    let (start, end) = (place(56), place(56) + length(48));
    let mut entries = (start..end).step_by(50);
    let entry = entries.find(|entry| number(entry + 16) == size).expect("the file is there");
    assert_eq!(image[entry + 7] & 4, 4, "it is compressed");
    image[place(entry + 8)..place(entry + 8) + length(entry)].to_vec()
}

/// Machine code has calls, whose targets LZX translates.
fn code(length: usize) -> Vec<u8> {
    let own = std::env::current_exe().expect("the test is a file");
    let bytes = fs::read(own).expect("read");
    bytes[bytes.len() / 3..][..length].to_vec()
}

fn compress(folder: &Path, bytes: &[u8], (name, chunk, _): (&str, &str, u8)) -> Vec<u8> {
    let source = folder.join("source");
    let image = folder.join("image.wim");
    fs::create_dir_all(&source).expect("made");
    fs::write(source.join("file"), bytes).expect("written");
    let (source, target) = (source.to_str().expect("plain"), image.to_str().expect("plain"));
    let (name, chunk) = (format!("--compress={name}"), format!("--chunk-size={chunk}"));
    let arguments = ["capture", source, target, name.as_str(), chunk.as_str(), "--no-acls"];
    tool::run("wimlib-imagex", &arguments).expect("wimlib-imagex runs");
    let found = resource(&fs::read(&image).expect("read"), bytes.len() as u64);
    fs::remove_file(image).expect("removed");
    found
}

#[test]
fn overlaid_files_read_as_what_wimlib_compressed() {
    need_ntfs_3g!();
    if !tool::have("wimlib-imagex") {
        println!("skipped: no wimlib-imagex");
        return;
    }
    let mut mixed = text(1, 90_000);
    mixed.extend(noise(2, 50_000));
    mixed.extend(vec![0; 70_000]);
    mixed.extend(text(3, 12_345));
    let contents = [
        ("text", text(9, 300_000)),
        ("mixed", mixed),
        ("code", code(700_001)),
        ("small", text(4, 3001)),
    ];
    let fixture = Fixture::make(32 * MIB, 4096);
    let name = |content: &str, algorithm: u8| format!("{content} {algorithm}");
    fixture.fill("", |root| {
        for algorithm in ALGORITHMS {
            for (content, bytes) in &contents {
                let packed = compress(fixture.path(), bytes, algorithm);
                assert!(packed.len() < bytes.len());
                let path = root.join(name(content, algorithm.2));
                let file = File::create(&path).expect("made");
                file.set_len(bytes.len() as u64).expect("sized");
                let stream = root.join(format!("{}:WofCompressedData", name(content, algorithm.2)));
                File::create(stream).expect("made").write_all(&packed).expect("written");
                let numbers = [1, 2, 1, u32::from(algorithm.2)];
                let data: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
                set_reparse(&path, &reparse_value(0x8000_0017, &data));
            }
        }
    });
    let filesystem = open(&fixture.image()).expect("opened");
    for (_, _, algorithm) in ALGORITHMS {
        for (content, bytes) in &contents {
            let name = name(content, algorithm);
            let file = find(filesystem.as_ref(), &name);
            assert_eq!(filesystem.metadata(file).expect("described").size, bytes.len() as u64);
            let mut opened = filesystem.open(file).expect("opened");
            let mut found = vec![0xee; bytes.len() + 10];
            let count = opened.read_at(0, &mut found).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(found[..count] == bytes[..], "{name} differs");
            let mut part = [0; 5000];
            for place in (0..bytes.len()).step_by(40_009).rev() {
                let count = opened.read_at(place as u64, &mut part).expect("read");
                assert!(part[..count] == bytes[place..place + count], "{name} at {place}");
            }
            let mut end = 0;
            let mapped = opened.extents(&mut |extent| {
                assert_eq!(extent.offset, end);
                end += extent.length;
                assert!(matches!(extent.place, Place::Encoded(..)), "{name}: {extent:?}");
                std::ops::ControlFlow::Continue(())
            });
            mapped.expect("mapped");
            assert_eq!(end, bytes.len() as u64);
        }
    }
    // The stream is the file's content, not one besides it.
    let mut streams = 0;
    let listed = filesystem.list(filesystem.root(), &mut |entry| {
        streams += u64::from(entry.expect("sound").file.tree != 0);
        std::ops::ControlFlow::Continue(())
    });
    listed.expect("listed");
    assert_eq!(streams, 0);
}
