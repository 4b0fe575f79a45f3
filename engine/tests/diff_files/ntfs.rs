//! Streams of NTFS, with a known answer.

use std::fs::{self, File};
use std::path::Path;

use crate::fixture::{Fixture, NTFS, compare_disks};
use crate::operations::{self, times};
use crate::{need, truth};

/// What is done to a stream, whose path is that of its file and what is added to that.
type Change = fn(&dyn Fn(&str) -> String);

fn write(path: impl AsRef<Path>, content: &str) {
    fs::write(path, content).expect("written");
}

/// Each change, and what is told of each name of the file.
const CASES: [(Change, &[&str]); 3] = [
    // It is as long as before, and stays the first.
    (
        |stream| {
            fs::remove_file(stream(":a")).expect("removed");
            write(stream(":A2"), "a");
        },
        &["Added {}:A2 []", "Removed {}:a []"],
    ),
    (|stream| write(stream(":b"), "c"), &["Changed {}:b [Content]"]),
    // The others come after it.
    (|stream| write(stream(":0"), "new"), &["Added {}:0 []"]),
];

#[test]
fn streams_are_told_under_each_name_of_a_file_that_is_the_same_besides() {
    need!(&NTFS);
    let fixture = Fixture::new(&NTFS);
    let mut before = fixture.change(|root| {
        operations::fill(root, 21);
        let file = root.join("a/b/file");
        write(&file, "content");
        fs::hard_link(&file, root.join("log/other")).expect("linked");
        for stream in ["a", "b"] {
            write(format!("{}:{stream}", file.display()), stream);
        }
    });
    fixture.capture();
    for (change, told_of_each) in CASES {
        fs::copy(fixture.disk(), fixture.path("old")).expect("copied");
        let after = fixture.change(|root| {
            let file = root.join("a/b/file");
            let before = times(&file);
            change(&|stream| format!("{}{stream}", file.display()));
            File::open(&file).and_then(|open| open.set_times(before)).expect("set");
        });
        fixture.capture();
        let told = fixture.compare();
        truth::assert_is_difference("streams", &before, &after, &told.changes);
        let of = |name: &str| -> Vec<String> {
            told_of_each.iter().map(|line| line.replace("{}", name)).collect()
        };
        let (mut lines, mut expected) = (told.lines(), of("/a/b/file"));
        expected.extend(of("/log/other"));
        lines.sort();
        expected.sort();
        assert_eq!((lines, &told.lost), (expected, &vec![]));
        assert_eq!(told, compare_disks([&fixture.path("old"), &fixture.disk()]));
        before = after;
    }
}

#[test]
fn a_stream_of_another_name_is_told_where_only_its_record_says_so() {
    need!(&NTFS);
    let fixture = Fixture::new(&NTFS);
    fixture.change(|root| {
        operations::fill(root, 22);
        write(root.join("a/b/file"), "content");
        write(root.join("a/b/file:uniquely named 1"), "stream");
    });
    fixture.capture();
    // As a driver would that writes to folders what it knows of their files only later.
    let mut bytes = fs::read(fixture.disk()).expect("read");
    let name: Vec<u8> = "uniquely named 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let places = bytes.windows(name.len()).enumerate().filter(|(_, window)| *window == name);
    let places: Vec<usize> = places.map(|(place, _)| place + name.len() - 2).collect();
    places.into_iter().for_each(|place| bytes[place] = b'2');
    fs::write(fixture.disk(), bytes).expect("written");
    fixture.capture();
    let told = fixture.compare();
    let lines = ["Removed /a/b/file:uniquely named 1 []", "Added /a/b/file:uniquely named 2 []"];
    assert_eq!(told.lines(), lines);
}
