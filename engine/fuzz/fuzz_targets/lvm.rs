//! LVM2: labels, metadata's text, thin pools' trees and snapshots' stores.
#![no_main]

use std::sync::{Arc, LazyLock};

use imgx_engine::base::{ByteOffset, ByteRange, ReadAt};
use imgx_engine::volume::lvm::Group;
use imgx_fuzz::Seed;
use libfuzzer_sys::fuzz_target;

/// Checksums are right however the disk is changed, or nothing behind them would be tried.
static SEED: LazyLock<Seed> = LazyLock::new(|| Seed::load("lvm-all"));

fuzz_target!(|data: &[u8]| {
    let mut disk = SEED.patched_bytes(data);
    mend(&mut disk);
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    for group in Group::read(&[Arc::clone(&disk), disk]).groups {
        for volume in group.volumes() {
            let Ok(layer) = group.open(&volume.name) else { continue };
            let size = layer.size().0;
            let mut buffer = vec![0; 70_000];
            for place in [0, size / 2, size.saturating_sub(70_000)] {
                let count = usize::try_from(size - place).unwrap_or(usize::MAX).min(buffer.len());
                let _ = layer.read_exact_at(ByteOffset(place), &mut buffer[..count]);
            }
            let mut places = 0;
            let within = ByteRange::new(size / 3, 1 << 20);
            let _ = layer.each_place(within, &mut |_, place| places += place.len());
        }
    }
});

/// Makes the checksums of the pool's metadata right: blocks of 4 KiB that begin with theirs.
fn mend(disk: &mut [u8]) {
    let Some(start) = disk.iter().position(|byte| *byte != 0) else { return };
    for block in disk[start / 4096 * 4096..].chunks_exact_mut(4096) {
        let field = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
        let salt = match (field(32), u32::from_le_bytes(block[4..8].try_into().unwrap())) {
            (27_022_010, _) => 160_774,
            (_, 1 | 2) => 121_107,
            _ => continue,
        };
        let sum = !crc32c::crc32c(&block[4..]) ^ salt;
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
}
