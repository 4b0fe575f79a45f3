//! Seeded damage to real tables and superblocks: whatever the bytes are, the probe ends soon and
//! never panics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use imgx_engine::base::{ByteCount, ReadAt};
use imgx_engine::volume::{plan_gpt_move, probe};
use imgx_fixtures::demo;
use imgx_fixtures::mkfs::{MAKERS, blank, sfdisk};
use imgx_fixtures::pattern::{MIB, Random};

use crate::support::{Memory, folder, skip_without};

/// One probe must end within this, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Damages `disk` near `places` in `rounds` ways, looks at it each time, and mends it again.
fn torment(disk: &mut Memory, places: &[usize], rounds: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut number = |limit: usize| usize::try_from(random.below(limit as u64)).unwrap_or(0);
    for _ in 0..rounds {
        let sector = places[number(places.len())].min(disk.0.len().saturating_sub(512)) & !511;
        let before = disk.0[sector..sector + 512].to_vec();
        match number(4) {
            0 => {
                for byte in &mut disk.0[sector..sector + 512] {
                    *byte = u8::try_from(number(256)).unwrap_or(0);
                }
            }
            1 => {
                // A whole field of extremes.
                let at = sector + number(126) * 4;
                let value = [0, 0xff, 0x7f, 0x80][number(4)];
                disk.0[at..at + 8].fill(value);
            }
            _ => {
                for _ in 0..=number(8) {
                    disk.0[sector + number(512)] ^= 1 << number(8);
                }
            }
        }
        look_at(disk, if number(3) == 0 { 4096 } else { 512 });
        disk.0[sector..sector + 512].copy_from_slice(&before);
    }
}

fn look_at(disk: &mut Memory, sector_size: u32) {
    let start = Instant::now();
    let taken = Arc::new(Memory(std::mem::take(&mut disk.0)));
    let bytes: Arc<dyn ReadAt> = taken.clone();
    let layout = probe(&bytes, sector_size).expect("bad content is never an error");
    drop(bytes);
    *disk = Arc::into_inner(taken).expect("nothing holds it any more");
    assert!(layout.notes.len() <= 65 && layout.volumes.len() <= 1025);
    let larger = ByteCount(disk.0.len() as u64 + MIB);
    if let Ok(Some(plan)) = plan_gpt_move(disk, sector_size, larger) {
        assert!(plan.writes.iter().all(|(place, bytes)| place.0 + bytes.len() as u64 <= larger.0));
    }
    assert!(start.elapsed() < PATIENCE, "a probe took {:?}", start.elapsed());
}

#[test]
fn damaged_gpt_disks_do_no_harm() {
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let mut disk = Memory::load(&path);
    let end = disk.0.len();
    let ext4 = 4 << 20;
    torment(&mut disk, &[0, 512, 512, 1024, 1024, end - 512, end - 512 * 33, ext4 + 1024], 600, 1);
    // Checksums made right again let the damage through to what lies behind them.
    let mut random = Random::new(2);
    for _ in 0..600 {
        let before = disk.0[512..512 + 92].to_vec();
        let at = 512 + 8 + usize::try_from(random.below(84)).unwrap_or(0);
        let byte = random.next_u64().to_le_bytes()[0];
        disk.0[at] = byte;
        disk.0[528..532].fill(0);
        let size = u32::from_le_bytes(disk.0[524..528].try_into().expect("four bytes"));
        let size = usize::try_from(size).unwrap_or(0).min(512);
        let sum = crc32fast::hash(&disk.0[512..512 + size]);
        disk.0[528..532].copy_from_slice(&sum.to_le_bytes());
        look_at(&mut disk, 512);
        disk.0[512..512 + 92].copy_from_slice(&before);
    }
}

#[test]
fn entries_of_any_bytes_do_no_harm() {
    let folder = folder();
    let path = folder.path().join("disk");
    demo::write_disk(&path).expect("the demo disk can be written");
    let mut disk = Memory::load(&path);
    let mut random = Random::new(5);
    for _ in 0..20 {
        random.fill(&mut disk.0[1024..1024 + 16384]);
        let sum = crc32fast::hash(&disk.0[1024..1024 + 16384]);
        disk.0[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
        disk.0[528..532].fill(0);
        let sum = crc32fast::hash(&disk.0[512..512 + 92]);
        disk.0[528..532].copy_from_slice(&sum.to_le_bytes());
        look_at(&mut disk, 512);
    }
}

#[test]
fn damaged_mbr_disks_do_no_harm() {
    if skip_without(&["sfdisk"]) {
        return;
    }
    let folder = folder();
    let path = folder.path().join("disk");
    blank(&path, 24 * MIB).expect("a file can be made");
    sfdisk(&path, crate::tables::MBR).expect("sfdisk writes the table");
    let mut disk = Memory::load(&path);
    let signatures = |disk: &Memory| -> Vec<usize> {
        let sectors = disk.0.chunks(512).enumerate();
        sectors
            .filter(|(_, sector)| sector.ends_with(&[0x55, 0xaa]))
            .map(|(n, _)| n * 512)
            .collect()
    };
    let places = signatures(&disk);
    assert!(places.len() >= 4);
    torment(&mut disk, &places, 600, 3);
}

#[test]
fn damaged_filesystems_do_no_harm() {
    let folder = folder();
    let path = folder.path().join("filesystem");
    for (seed, maker) in (10..).zip(MAKERS.iter().filter(|maker| maker.size <= 64 * MIB)) {
        let _ = std::fs::remove_file(&path);
        if maker.make(&path).expect("the tool makes the filesystem").is_none() {
            println!("skipped: no {}", maker.tool);
            continue;
        }
        let mut disk = Memory::load(&path);
        // The superblocks, and what probing for labels reads: every sector with content early on.
        let places: Vec<usize> = disk
            .0
            .chunks(512)
            .enumerate()
            .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
            .map(|(number, _)| number * 512)
            .take(40)
            .collect();
        torment(&mut disk, &places, 150, seed);
        torment(&mut disk, &[0, 1024], 150, seed);
    }
}

#[test]
fn noise_is_nothing() {
    let mut random = Random::new(4);
    for round in 0..200_usize {
        let mut bytes = vec![0; 4096 * (round % 40) + round];
        random.fill(&mut bytes);
        if bytes.len() >= 512 && round % 2 == 0 {
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        }
        look_at(&mut Memory(bytes), 512);
    }
}
