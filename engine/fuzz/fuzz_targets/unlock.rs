//! LUKS volumes of both versions, opened by a key as part of a stack: key derivations, keyslots,
//! and what then lies within, a volume group in one of them.
#![no_main]

use std::sync::{Arc, LazyLock};

use imgx_engine::base::{ByteCount, ByteOffset, ByteRange, ReadAt, Result};
use imgx_engine::volume::luks::Secret;
use imgx_engine::volume::{Keys, Stack};
use imgx_fixtures::luks::{PASSPHRASE, Sealed};
use imgx_fuzz::{Seed, seal_luks2};
use libfuzzer_sys::fuzz_target;

/// Bytes that the fuzzer changes: the headers, without what keyslots keep.
const HEAD: usize = 0x8000;
/// Iterations, passes and KiB of a key derivation that is worth waiting for.
const COST: u32 = 2000;

/// A volume: its headers, the whole of it, and what opens it.
struct Volume {
    head: Seed,
    whole: Arc<Vec<u8>>,
    secret: &'static str,
}

static VOLUMES: LazyLock<[Volume; 3]> = LazyLock::new(|| {
    let of = |whole: Vec<u8>, secret| {
        let head = whole[..HEAD].to_vec();
        let used = (0..HEAD).filter(|at| head[*at] != 0).collect();
        Volume { head: Seed::of(head, used), whole: Arc::new(whole), secret }
    };
    let seed = |name| Seed::load(name).patched_bytes(&[]);
    [of(seed("unlock1"), "secret"), of(seed("unlock2"), "hello\n"), of(group(), PASSPHRASE)]
});

/// A volume group in LUKS2.
fn group() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sealed");
    let plain = Seed::load("lvm-all").patched_bytes(&[]);
    std::fs::write(&file, vec![0; (20 << 20) + plain.len()]).expect("written");
    let sealed = Sealed::format(&file, 512).expect("cryptsetup runs");
    sealed.write(&file, &plain).expect("written");
    std::fs::read(&file).expect("read")
}

/// Changed headers before what they are of.
struct Changed {
    head: Vec<u8>,
    whole: Arc<Vec<u8>>,
}

impl ReadAt for Changed {
    fn size(&self) -> ByteCount {
        ByteCount(self.whole.len() as u64)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.whole.read_exact_at(offset, buffer)?;
        let start = usize::try_from(offset.0).expect("within the whole");
        let changed = self.head.iter().skip(start);
        buffer.iter_mut().zip(changed).for_each(|(byte, changed)| *byte = *changed);
        Ok(())
    }
}

/// Makes key derivations cheap: they may rightly take minutes, which would pass for a hang.
fn cheapen(head: &mut [u8]) {
    if head.get(6..8) == Some(&[0, 1]) {
        for place in std::iter::once(164).chain((0..8).map(|slot| 208 + 48 * slot + 4)) {
            let Some(field) = head.get_mut(place..place + 4) else { return };
            let cost = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&cost.min(COST).to_be_bytes());
        }
        return;
    }
    for (name, digits) in [("\"iterations\"", 4), ("\"time\"", 1), ("\"memory\"", 3)] {
        let mut at = 0;
        while let Some(found) = head[at..].windows(name.len()).position(|w| w == name.as_bytes()) {
            at += found + name.len();
            let is_between = |byte: &u8| byte.is_ascii_whitespace() || *byte == b':';
            at += head[at..].iter().take_while(|byte| is_between(byte)).count();
            let length = head[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            // Spaces behind a number change nothing.
            head[at + length.min(digits)..at + length].fill(b' ');
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let volume = &VOLUMES[usize::from(which % 4) % VOLUMES.len()];
    let mut head = volume.head.patched_bytes(data);
    cheapen(&mut head);
    seal_luks2(&mut head, which & 4 == 0, which & 8 == 0);
    let changed = Changed { head, whole: Arc::clone(&volume.whole) };
    let disk: Arc<dyn ReadAt> = Arc::new(changed);
    let secret = volume.secret;
    let keys = Keys::default().asking(Box::new(move |_| Ok(Some(Secret::new(secret.into())))));
    // A key that opens nothing is an error, all else is told by the volumes.
    let Ok(stack) = Stack::open(&disk, 512, &keys) else { return };
    for volume in stack.volumes() {
        let Ok(bytes) = volume.bytes() else { continue };
        let size = bytes.size().0;
        let mut buffer = vec![0; 5000];
        for place in [0, size / 2, size.saturating_sub(5000)] {
            let length = usize::try_from(size - place).unwrap_or(usize::MAX).min(buffer.len());
            let _ = bytes.read_exact_at(ByteOffset(place), &mut buffer[..length]);
        }
        let within = ByteRange::new(size / 3, (size / 3).min(1 << 20));
        let check = &mut |place: ByteRange| assert!(place.end <= disk.size().0, "{place}");
        let _ = volume.each_place(within, check);
        let _ = volume.each_own_place(within, check);
    }
});
