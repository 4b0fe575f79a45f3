//! The ext reader; every other run on pending fast commits.
#![no_main]

use std::sync::{Arc, LazyLock};

use imgx_engine::base::ReadAt;
use imgx_fixtures::fast_commit;
use imgx_fuzz::{Seed, use_everything};
use libfuzzer_sys::fuzz_target;

static SEED: LazyLock<Seed> = LazyLock::new(|| Seed::load("ext"));
static FAST: LazyLock<(Seed, usize)> = LazyLock::new(|| {
    Seed::load_from("ext-fast", |image| fast_commit::area(image, BLOCK).expect("it has some"))
});
/// Bytes of that seed's blocks.
const BLOCK: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let volume: Arc<dyn ReadAt> = if data.first().is_some_and(|byte| byte & 1 == 1) {
        let (seed, area) = &*FAST;
        let mut bytes = seed.patched_bytes(data);
        fast_commit::mend(&mut bytes, *area, BLOCK);
        Arc::new(bytes)
    } else {
        SEED.patched(data)
    };
    if let Ok(filesystem) = imgx_engine::fs::open(&volume) {
        use_everything(filesystem.as_ref());
    }
});
