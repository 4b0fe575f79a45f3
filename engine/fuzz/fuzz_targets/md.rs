//! RAID superblocks of all versions, and arrays put together of what they say.
#![no_main]

use std::sync::{Arc, LazyLock};

use imgx_engine::base::{ByteOffset, ByteRange, ReadAt};
use imgx_engine::volume::Layer;
use imgx_engine::volume::md::{Array, superblock};
use imgx_fixtures::md::{Metadata, Plan, seal};
use imgx_fuzz::Seed;
use libfuzzer_sys::fuzz_target;

/// The members of sound arrays, and where the superblock of each is.
static ARRAYS: LazyLock<Vec<Vec<(Seed, usize)>>> = LazyLock::new(|| {
    use Metadata::{V0, V0Big, V1Behind, V1End, V1Start};
    let kinds = [
        (V1Behind, 0, 1),
        (V1Start, 1, 0),
        (V1End, 5, 2),
        (V1Behind, 6, 8),
        (V1Behind, 10, 0x201),
        (V1Behind, -1, 0),
        (V0, 5, 2),
        (V0Big, 1, 0),
    ];
    kinds.into_iter().map(|(metadata, level, layout)| array(metadata, level, layout)).collect()
});

fn array(metadata: Metadata, level: i32, layout: u32) -> Vec<(Seed, usize)> {
    let members = vec![64 * 1024; 4];
    let plan = Plan { metadata, members, ..Plan::new(level, layout, 4096, 4) };
    let content = vec![7; usize::try_from(plan.size()).expect("small")];
    let seed = |bytes: Vec<u8>| {
        let sectors = bytes.len() / 512;
        let place = match metadata {
            Metadata::V0 | Metadata::V0Big => (sectors & !127) - 128,
            Metadata::V1End => (sectors - 16) & !7,
            Metadata::V1Start => 0,
            Metadata::V1Behind => 8,
        } * 512;
        let used = (place..place + 1024).collect();
        (Seed::of(bytes, used), place)
    };
    plan.write(&content).into_iter().map(seed).collect()
}

/// Makes the checksum right again, or nothing behind it would be tried.
fn mend(bytes: &mut [u8], place: usize) {
    let Some(block) = bytes.get_mut(place..place + 4096) else { return };
    if block[4..8] == [1, 0, 0, 0] {
        let devices = u32::from_le_bytes([block[220], block[221], block[222], block[223]]);
        let length = 256 + 2 * (devices as usize).min(1920);
        seal(&mut block[..length]);
        return;
    }
    block[152..156].fill(0);
    let is_big = block[0] == 0xa9;
    let word =
        |word: &[u8; 4]| if is_big { u32::from_be_bytes(*word) } else { u32::from_le_bytes(*word) };
    let sum: u64 = block.as_chunks::<4>().0.iter().map(|bytes| u64::from(word(bytes))).sum();
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    let sum = if is_big { sum.to_be_bytes() } else { sum.to_le_bytes() };
    block[152..156].copy_from_slice(&sum);
}

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let array = &ARRAYS[usize::from(which >> 1) % ARRAYS.len()];
    let mut members: Vec<(_, Arc<dyn ReadAt>)> = Vec::new();
    for (number, (seed, place)) in array.iter().enumerate() {
        // The same changes on all, or a piece of them on each.
        let piece = if which & 1 == 0 { data } else { data.chunks(64).nth(number).unwrap_or(&[]) };
        let mut bytes = seed.patched_bytes(piece);
        mend(&mut bytes, *place);
        if let Ok(Some(superblock)) = superblock(&bytes) {
            let _ = (superblock.uuid(), superblock.name(), superblock.role());
            members.push((superblock, Arc::new(bytes)));
        }
    }
    let Ok(array) = Array::assemble(&members) else { return };
    let size = array.size().0;
    let mut buffer = vec![0; 20_000];
    for place in [0, size / 2, size.saturating_sub(20_000)] {
        let length = buffer.len().min(usize::try_from(size - place).unwrap_or(usize::MAX));
        let _ = array.read_exact_at(ByteOffset(place), &mut buffer[..length]);
        let _ = array.reach(ByteOffset(place));
    }
    let mut visited = 0_u32;
    let _ = array.each_place(ByteRange::new(size / 2, 1 << 20), &mut |_, _| visited += 1);
});
