//! A disk with two logical volumes, one of two pieces and one striped, on two physical ones: where
//! their bytes are is reckoned here, by nothing of LVM's or the engine's.

use std::fs;
use std::ops::Range;
use std::path::Path;

use imgx_fixtures::lvm::{self, DATA, EXTENT, Logical, STRIPE, linear, striped};
use imgx_fixtures::mkfs;
use imgx_fixtures::pattern::incompressible;

const MIB: usize = 1 << 20;
/// The disk's two physical volumes.
pub const PARTS: [(u64, u64); 2] = [(1 << 20, 64 << 20), (65 << 20, 64 << 20)];
/// Extents of the logical volumes: of the two linear segments together, and of the stripes.
const LINEAR: [u64; 2] = [4, 5];
const STRIPED: u64 = 12;

/// Where the bytes of a logical volume are on the disk, in order.
pub type Map = Vec<Range<usize>>;

fn run_of(part: usize, extent: u64, skip: u64, length: u64) -> Range<usize> {
    let start = PARTS[part].0 + DATA + extent * EXTENT + skip;
    let number = |number: u64| usize::try_from(number).expect("small");
    number(start)..number(start + length)
}

/// The two volumes as LVM is told of them, and by our own reckoning.
pub fn volumes() -> [(Logical, Map); 2] {
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
pub fn gather(disk: &[u8], map: &Map, path: &Path) {
    let bytes: Vec<&[u8]> = map.iter().map(|run| &disk[run.clone()]).collect();
    fs::write(path, bytes.concat()).expect("written");
}

/// Puts a file's bytes to their places in a disk.
pub fn scatter(disk: &mut [u8], map: &Map, path: &Path) {
    let bytes = fs::read(path).expect("read");
    let mut rest = bytes.as_slice();
    for run in map {
        let (part, after) = rest.split_at(run.len());
        disk[run.clone()].copy_from_slice(part);
        rest = after;
    }
    assert!(rest.is_empty());
}

/// Makes the disk `path`, full of noise, with the group `name`.
pub fn make_disk(path: &Path, name: &str) {
    fs::write(path, incompressible(11, 130 * MIB)).expect("written");
    mkfs::sfdisk(path, "label: gpt\nstart=1M, size=64M\nstart=65M, size=64M\n").expect("made");
    let logical = volumes().map(|(volume, _)| volume);
    let told = lvm::make_group(path, &PARTS, name, &logical).expect("LVM's tools run");
    assert!(told.contains("pv1:0-3") && told.contains("pv0:1-5"), "{told}");
    assert!(told.contains("pv1:5-10 pv0:7-12"), "{told}");
}
