//! What `map` says of every cell is what a scan of the disks' bytes says.

use std::fs::{self, File};
use std::process::Command;

use imgx_fixtures::gpt::{self, LINUX, Partition};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use serde_json::Value;

use crate::support::{Shell, overwrite};

const BLOCK: usize = 131_072;

/// Bytes of a cell: stored, zero, changed.
type Counts = [u64; 3];

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

/// The bytes of `start..end` by what their whole blocks hold, found by reading them.
fn scan(disk: &[u8], before: &[u8], (start, end): (usize, usize)) -> Counts {
    let mut counts = [0; 3];
    for first in (start / BLOCK * BLOCK..end).step_by(BLOCK) {
        let part =
            |disk: &'_ [u8]| disk[first.min(disk.len())..(first + BLOCK).min(disk.len())].to_vec();
        let bytes = (end.min(first + BLOCK) - start.max(first)) as u64;
        let block = part(disk);
        counts[usize::from(block.iter().all(|byte| *byte == 0))] += bytes;
        counts[2] += if block == part(before) { 0 } else { bytes };
    }
    counts
}

fn told(cell: &Value) -> Counts {
    assert_eq!((number(&cell["unallocated"]), number(&cell["unreadable"])), (0, 0));
    ["stored", "zero", "changed"].map(|state| number(&cell[state]))
}

/// Asserts that every cell of a map is what the disks' bytes say; returns how many cells changed.
fn check(document: &Value, disk: &[u8], before: &[u8]) -> usize {
    let cell_length = usize::try_from(number(&document["cell_length"])).expect("small");
    let mut end = 0;
    let mut changed = 0;
    for section in list(&document["sections"]) {
        let place = |name: &str| usize::try_from(number(&section[name])).expect("small");
        let start = place("offset");
        assert_eq!(start, end, "sections adjoin");
        end = start + place("length");
        let cells = list(&section["cells"]);
        assert_eq!(cells.len(), (end - start).div_ceil(cell_length));
        for (number, cell) in cells.iter().enumerate() {
            let first = start + number * cell_length;
            let expected = scan(disk, before, (first, (first + cell_length).min(end)));
            assert_eq!(told(cell), expected, "cell at {first}");
            changed += usize::from(expected[2] > 0);
        }
        assert_eq!(told(&section["total"]), scan(disk, before, (start, end)));
    }
    assert_eq!(end, disk.len(), "sections cover the disk");
    assert_eq!(told(&document["total"]), scan(disk, before, (0, disk.len())));
    changed
}

#[test]
fn cells_hold_what_the_bytes_of_disks_of_all_sizes_say() {
    let shell = Shell::with_repository();
    let sizes = [90_000_001, 90_000_001, 30_000_000, 131_073, 131_072, 1, 70_000_000];
    let mut disks: Vec<Vec<u8>> = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let disk = shell.mixed_disk("disk.raw", size);
        if number == 1 {
            for place in [0, 131_072, 40_000_000, 67_108_863, 90_000_000] {
                overwrite(&disk, place, &[0x5a]);
            }
            overwrite(&disk, 10_000_000, &vec![0; 3_000_000]);
        }
        disks.push(fs::read(&disk).expect("the disk can be read"));
        shell.imgx("capture disk.raw --name d").exits(0);
    }
    let last = sizes.len() - 1;
    for (number, disk) in disks.iter().enumerate() {
        for width in ["", " --width 8"] {
            let line = format!("map d~{} --json{width}", last - number);
            let document = shell.imgx(&line).exits(0).document();
            assert_eq!(check(&document, disk, disk), 0);
            assert_eq!(document["before"], Value::Null);
        }
    }
    for (before, after) in [(0, 1), (1, 0), (0, 2), (2, 1), (3, 4), (4, 3), (5, 6), (6, 5), (5, 0)]
    {
        let line = format!("map d~{} d~{} --json --width 8", last - before, last - after);
        let document = shell.imgx(&line).exits(0).document();
        let changed = check(&document, &disks[after], &disks[before]);
        // What is shorter by whole blocks has lost those, but what is left is the same.
        let is_start =
            disks[before].starts_with(&disks[after]) && disks[after].len().is_multiple_of(BLOCK);
        assert_eq!(changed > 0, !is_start, "{before} and {after}");
        let gone = disks[before].len().saturating_sub(disks[after].len()) as u64;
        assert_eq!(number(&document["gone"]), gone);
    }
}

/// A disk of 24 MiB and a half, `label` the name of its first partition.
fn partitioned(shell: &Shell, label: &str) -> Vec<Partition> {
    let size = (24 << 20) + (512 << 10);
    let path = shell.mixed_disk("disk.raw", size);
    let partition = |start, length, name: &str| {
        let name = name.to_owned();
        Partition { start, length, kind: LINUX, id: [7; 16], name }
    };
    // Neither begins nor ends where a block does.
    let partitions =
        vec![partition(1 << 20, (5 << 20) + 512, label), partition(9_000_448, 10_000_384, "b")];
    let disk = File::options().read(true).write(true).open(path).expect("it can be opened");
    gpt::write(&disk, size, 512, [9; 16], &partitions).expect("a table can be written");
    partitions
}

#[test]
fn sections_begin_and_end_with_the_volumes() {
    let shell = Shell::with_repository();
    let partitions = partitioned(&shell, "home");
    let disk = fs::read(shell.path("disk.raw")).expect("the disk can be read");
    shell.imgx("capture disk.raw --name d").exits(0);
    let document = shell.imgx("map d --json --width 8").exits(0).document();
    check(&document, &disk, &disk);
    let place = |section: &Value| (number(&section["offset"]), number(&section["length"]));
    let sections = list(&document["sections"]);
    let named = sections.iter().filter(|section| !section["volume"].is_null());
    let named: Vec<(u64, u64)> = named.map(place).collect();
    let expected = partitions.iter().map(|partition| (partition.start, partition.length));
    assert_eq!(named, expected.collect::<Vec<_>>());
    let names: Vec<Option<&str>> =
        sections.iter().map(|section| section["volume"].as_str()).collect();
    assert_eq!(names, [None, Some("p1"), None, Some("p2"), None]);
    let drawn = shell.imgx("map d").exits(0).shows(&["p1 ", "\"home\"", "unpartitioned", "·", "█"]);
    assert!(drawn.out.lines().all(|line| line.chars().count() <= 80), "{}", drawn.out);
    assert!(!drawn.out.contains('\u{1b}'), "{}", drawn.out);
    assert!(!drawn.out.contains("changed"), "{}", drawn.out);
}

#[test]
fn one_changed_block_and_one_unreadable_sector_are_seen() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let shell = Shell::with_repository();
    let size = 64 << 20;
    let disk = shell.write("disk.raw", &incompressible(1, size));
    shell.imgx("capture disk.raw --name d").exits(0);
    overwrite(&disk, 5_000_000, &[1, 2, 3]);
    let device = LoopDevice::attach(&disk).expect("losetup attaches");
    let file = File::options().write(true).open(&disk).expect("it can be opened");
    let cut = size as u64 - 4096;
    file.set_len(cut).expect("it can be cut off");
    shell.imgx(&format!("capture {} --name d", device.path().display())).exits(4);

    let document = shell.imgx("map d~1 d --json --width 8").exits(0).document();
    let total = &document["total"];
    assert_eq!((number(&total["unreadable"]), number(&total["stored"])), (4096, cut));
    let last = list(&document["sections"][0]["cells"]).last().expect("a cell").clone();
    assert_eq!(number(&last["unreadable"]), 4096);
    // What could not be read differs from what could.
    assert_eq!(number(&total["changed"]), 2 * BLOCK as u64);
    let drawn = shell.imgx("map d~1 d --width 8").exits(0).shows(&["4096 bytes", "changed"]);
    let cells: String = drawn.out.lines().filter(|line| line.contains("█")).collect();
    assert_eq!((cells.matches('+').count(), cells.matches('!').count()), (1, 1), "{cells}");
}

const READ_SVG: &str = "
import sys, xml.dom.minidom as dom
svg = dom.parse(sys.argv[1])
names = lambda name: svg.getElementsByTagName(name)
text = lambda node: ''.join(child.data for child in node.childNodes)
root = svg.documentElement
ids = [node.getAttribute('id') for node in names('title') + names('desc')]
assert root.tagName == 'svg' and root.getAttribute('role') == 'img'
assert all(id in ids for id in root.getAttribute('aria-labelledby').split())
assert not names('script') and not names('image') and not names('a')
assert all(child.nodeType == child.TEXT_NODE for node in names('text') for child in node.childNodes)
cells = sum(path.getAttribute('d').count('M') for g in names('g') for path in g.childNodes
            if path.nodeType == path.ELEMENT_NODE and path.tagName == 'path')
print(cells)
print('\\n'.join(text(node) for node in names('text')))
";

#[test]
fn the_picture_is_xml_that_a_label_cannot_break_out_of() {
    let shell = Shell::with_repository();
    partitioned(&shell, "</text><script>&\"'\u{1b}[31m");
    shell.imgx("capture disk.raw --name d").exits(0);
    overwrite(&shell.path("disk.raw"), 2_000_000, &[1]);
    shell.imgx("capture disk.raw --name d").exits(0);
    shell.imgx("map d").exits(0).shows(&["p1"]);
    let document = shell.imgx("map d~1 d --svg d.svg --json").exits(0).document();
    let cells: usize =
        list(&document["sections"]).iter().map(|section| list(&section["cells"]).len()).sum();
    shell.imgx("map d --svg d.svg").exits(1).complains(&["d.svg", "exists"]);
    shell.imgx("map d --svg none/d.svg").exits(1);
    let Ok(read) = Command::new("python3")
        .args(["-c", READ_SVG, "d.svg"])
        .current_dir(shell.path(""))
        .output()
    else {
        println!("skipped: no python3");
        return;
    };
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let said = String::from_utf8(read.stdout).expect("text");
    assert_eq!(said.lines().next(), Some(cells.to_string().as_str()));
    assert!(said.contains("\"</text><script>&\"'"), "{said}");
    assert!(said.contains("128.0 KiB changed"), "{said}");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: no script(1)");
        return;
    }
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 3_000_000);
    shell.imgx("capture disk.raw --name d").exits(0);
    let on_terminal = |no_colour: Option<&str>| {
        let line = format!("{} map d", env!("CARGO_BIN_EXE_imgx"));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(shell.path(""));
        command.env("IMGX_REPO", "repo").env_remove("NO_COLOR");
        command.envs(no_colour.map(|value| ("NO_COLOR", value)));
        let output = command.output().expect("script runs");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(on_terminal(None).contains("\u{1b}[34m"), "{}", on_terminal(None));
    assert!(!on_terminal(Some("1")).contains('\u{1b}'));
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 1_000_000);
    shell.imgx("capture disk.raw --name d").exits(0);
    shell.imgx("map ./disk.raw").exits(2).complains(&["capture it"]);
    shell.imgx("map d ./disk.raw").exits(2).complains(&["capture it"]);
    shell.imgx("map nothing").exits(1).complains(&["nothing"]);
    shell.imgx("map d --width 7").exits(2);
    shell.imgx("map d --width 257").exits(2);
}
