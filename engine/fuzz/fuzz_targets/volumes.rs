//! Partition tables, RAID superblocks, LVM2's metadata and signatures.
#![no_main]

use std::sync::LazyLock;

use imgx_engine::base::ByteOffset;
use imgx_engine::volume::{Keys, Stack};
use imgx_fuzz::Seed;
use libfuzzer_sys::fuzz_target;

static SEEDS: LazyLock<[Seed; 2]> = LazyLock::new(|| ["gpt", "lvm"].map(Seed::load));

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let disk = SEEDS[usize::from(which % 2)].patched(data);
    let stack = Stack::open(&disk, 512, &Keys::default()).expect("bad content is no error");
    for volume in stack.volumes() {
        if let Ok(bytes) = volume.bytes() {
            let mut buffer = vec![0; 4096];
            let size = bytes.size().0;
            for place in [0, size / 2, size.saturating_sub(4096)] {
                let _ = bytes.read_exact_at(ByteOffset(place), &mut buffer);
            }
        }
    }
});
