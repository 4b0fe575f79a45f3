//! LUKS headers of both versions, with checksums that are right, and what they say is encrypted.
//! No key derivation runs.
#![no_main]

use std::sync::{Arc, LazyLock};

use imgx_engine::base::{ByteCount, ByteOffset, ByteRange, ReadAt, Result};
use imgx_engine::volume::Layer;
use imgx_engine::volume::luks::{Header, Opened, VolumeKey};
use imgx_fuzz::{Seed, seal_luks2};
use libfuzzer_sys::fuzz_target;

static SEEDS: LazyLock<[Seed; 2]> = LazyLock::new(|| ["luks1", "luks2"].map(Seed::load));

/// Headers, and behind them as many zeros as a payload needs.
struct Device(Vec<u8>);

impl ReadAt for Device {
    fn size(&self) -> ByteCount {
        ByteCount(20 << 20)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        imgx_engine::base::check_range(self.size(), offset, buffer.len())?;
        let start = usize::try_from(offset.0).expect("within 20 MiB");
        let behind = self.0.iter().skip(start).chain(std::iter::repeat(&0));
        buffer.iter_mut().zip(behind).for_each(|(byte, found)| *byte = *found);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let mut bytes = SEEDS[usize::from(which % 2)].patched_bytes(data);
    seal_luks2(&mut bytes, which & 2 == 0, which & 4 == 0);
    let device = Device(bytes);
    let Ok(Some(header)) = Header::read(&device) else { return };
    assert!(header.bytes().start <= header.bytes().end);
    assert!(header.keyslots().count() <= 32);
    let key = VolumeKey::new(vec![7; header.key_size().unwrap_or(64)]);
    let data: Arc<dyn ReadAt> = Arc::new(device);
    let Ok(volume) = Opened::new(Arc::clone(&data), &header, &key) else { return };
    let size = volume.size().0;
    for (start, length) in [(0, 4096), (size / 2, 777), (size.saturating_sub(5000), 5000)] {
        let length = length.min(size.saturating_sub(start));
        let mut buffer = vec![0; usize::try_from(length).expect("small")];
        volume.read_exact_at(ByteOffset(start), &mut buffer).expect("it is within");
        let within = ByteRange::new(start, length);
        let mut seen = 0;
        let mut visit = |_, place: ByteRange| {
            assert!(place.end <= data.size().0, "{place}");
            seen += place.len();
        };
        volume.each_place(within, &mut visit).expect("all of it is below");
        assert!(seen >= length);
    }
});
