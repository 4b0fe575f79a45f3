//! What logical volumes do not use: found through their extents and stripes.

use std::fs;
use std::ops::Range;
use std::path::Path;

use imgx_engine::base::BlockSize;
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::lvm::{self, DATA, EXTENT, Logical, STRIPE, linear, striped};
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

use crate::support::{MIB, Mounted, captured, folder_in_memory, unsound};
use crate::{assert_only_lacks, fill, restored, tree_of};

/// The disk's two physical volumes.
const PARTS: [(u64, u64); 2] = [(1 << 20, 64 << 20), (65 << 20, 64 << 20)];
/// Extents of the logical volumes: of the two linear segments together, and of the stripes.
const LINEAR: [u64; 2] = [4, 5];
const STRIPED: u64 = 12;

/// Where the bytes of a logical volume are on the disk, in order.
type Map = Vec<Range<usize>>;

fn run_of(part: usize, extent: u64, skip: u64, length: u64) -> Range<usize> {
    let start = PARTS[part].0 + DATA + extent * EXTENT + skip;
    let number = |number: u64| usize::try_from(number).expect("small");
    number(start)..number(start + length)
}

/// The two volumes as LVM is told of them, and by our own reckoning.
fn volumes() -> [(Logical, Map); 2] {
    let segments = vec![linear(0, LINEAR[0], (1, 0)), linear(LINEAR[0], LINEAR[1], (0, 1))];
    let map = vec![run_of(1, 0, 0, LINEAR[0] * EXTENT), run_of(0, 1, 0, LINEAR[1] * EXTENT)];
    let stripes = (0..STRIPED * EXTENT / STRIPE).map(|number| {
        let (part, first) = if number % 2 == 0 { (1, 5) } else { (0, 7) };
        run_of(part, first, number / 2 * STRIPE, STRIPE)
    });
    let both = striped(STRIPED, [(1, 5), (0, 7)]);
    [
        (Logical { name: "turned", segments }, map),
        (Logical { name: "striped", segments: vec![both] }, stripes.collect()),
    ]
}

/// Takes a volume's bytes out of a disk into a file.
fn gather(disk: &[u8], map: &Map, path: &Path) {
    let bytes: Vec<&[u8]> = map.iter().map(|run| &disk[run.clone()]).collect();
    fs::write(path, bytes.concat()).expect("written");
}

/// Puts a file's bytes to their places in a disk.
fn scatter(disk: &mut [u8], map: &Map, path: &Path) {
    let bytes = fs::read(path).expect("read");
    let mut rest = bytes.as_slice();
    for run in map {
        let (part, after) = rest.split_at(run.len());
        disk[run.clone()].copy_from_slice(part);
        rest = after;
    }
    assert!(rest.is_empty());
}

#[test]
fn what_logical_volumes_do_not_use_is_left_out() {
    for tool in ["vgcfgrestore", "sfdisk", "mke2fs", "e2fsck"] {
        if !tool::have(tool) {
            println!("skipped: no {tool}");
            return;
        }
    }
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = folder_in_memory();
    let at = |name: &str| folder.path().join(name);
    let path = at("disk");
    fs::write(&path, incompressible(11, 130 * MIB)).expect("written");
    mkfs::sfdisk(&path, "label: gpt\nstart=1M, size=64M\nstart=65M, size=64M\n").expect("made");
    let group = format!("imgxused{}", std::process::id());
    let logical = volumes().map(|(volume, _)| volume);
    let told = lvm::make_group(&path, &PARTS, &group, &logical).expect("LVM's tools run");
    assert!(told.contains("pv1:0-3") && told.contains("pv0:1-5"), "{told}");
    assert!(told.contains("pv1:5-10 pv0:7-12"), "{told}");

    let mut disk = fs::read(&path).expect("read");
    let (part, point) = (at("part"), at("mounted"));
    let plain = part.to_str().expect("plain");
    fs::create_dir(&point).expect("made");
    for (volume, map) in volumes() {
        gather(&disk, &map, &part);
        let label = ["-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard", "-L"];
        tool::run("mke2fs", &[&label[..], &[volume.name, plain]].concat()).expect("made");
        let mounted = Mounted::new(&["-o", "loop,nodiscard", plain], &point);
        fill(&point);
        drop(mounted);
        scatter(&mut disk, &map, &part);
    }
    fs::write(&path, &disk).expect("written");

    for block_size in [16_384, 131_072] {
        let repository = at(&format!("repository {block_size}"));
        let block_size = BlockSize::new(block_size).expect("valid");
        let repository = Repository::create(&repository, block_size).expect("created");
        let report = captured(&repository, &path, "disk");
        let back = restored(&repository, &report, folder.path());
        assert_only_lacks(&back, &disk);
        for (volume, map) in volumes() {
            let name = format!("{group}/{}", volume.name);
            let allocation = &report.manifest.allocation;
            let found = allocation.iter().find(|volume| volume.volume == name);
            let found = found.unwrap_or_else(|| panic!("no {name}: {allocation:?}"));
            assert_eq!(found.doubt, None, "{found:?}");
            // Stripes of 64 KiB hold no whole block of 128 KiB, but beside one another.
            let size: usize = map.iter().map(Range::len).sum();
            assert!(found.unallocated > size as u64 / 2, "{size}: {found:?}");
            gather(&disk, &map, &part);
            let before = tree_of(&["-o", "loop", plain], folder.path());
            assert_eq!(before.len(), 40, "{name}");
            gather(&back, &map, &part);
            tool::run("e2fsck", &["-f", "-n", plain]).expect("it is sound");
            assert!(tree_of(&["-o", "loop,ro", plain], folder.path()) == before, "{name} differs");
        }
        assert_eq!(unsound(&repository), None);
    }
}
