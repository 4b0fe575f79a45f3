//! The btrfs reader, behind its checksums.
#![no_main]

use std::sync::LazyLock;

use imgx_fuzz::{Seed, use_everything};
use libfuzzer_sys::fuzz_target;

static CLEAN: LazyLock<Seed> = LazyLock::new(|| Seed::load("btrfs").with_btrfs_sums(4096));
static LOGGED: LazyLock<Seed> = LazyLock::new(|| Seed::load("btrfs-log").with_btrfs_sums(4096));

fuzz_target!(|data: &[u8]| {
    let seed = if data.len() % 2 == 0 { &CLEAN } else { &LOGGED };
    if let Ok(filesystem) = imgx_engine::fs::open(&seed.patched(data)) {
        use_everything(filesystem.as_ref());
    }
});
