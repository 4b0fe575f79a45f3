//! Bad sectors, as a loop device has where its file was cut off: reads there fail with `EIO`.

use std::sync::Mutex;

use imgx_engine::base::{ByteOffset, ByteRange, Event, Observer, ReadAt, Silent};
use imgx_engine::block::{BufferPool, Disk};

use crate::need_root;
use crate::support::{LoopDevice, MIB, content, file, folder, read_with, ways};

#[derive(Default)]
struct Listener {
    unreadable: Mutex<Vec<(ByteRange, String)>>,
}

impl Observer for Listener {
    fn event(&self, event: &Event<'_>) {
        if let Event::Unreadable { range, reason } = event {
            self.unreadable.lock().unwrap().push((*range, (*reason).to_owned()));
        }
    }
}

#[test]
fn bad_sectors_are_zeroed_and_listed_and_all_around_them_is_read() {
    need_root!();
    let folder = folder();
    for (sector, cut) in [("512", 2 * MIB + 300 * 1024 + 512 * 3), ("4096", 2 * MIB + 300 * 1024)] {
        for options in ways().into_iter().filter(|options| options.direct) {
            let expected = content(1, 4 * MIB);
            let path = file(&folder, "disk.raw", &expected);
            let device = LoopDevice::attach(&path, &["-b", sector]);
            let whole = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            whole.set_len(cut as u64).unwrap();
            let disk = Disk::open(&device.path, &options).unwrap();
            assert_eq!(disk.extents().unwrap().len(), 1, "a lost part is no hole");
            let listener = Listener::default();
            let pool = BufferPool::new(4, MIB).unwrap();
            let found = read_with(&disk, &pool, &listener).unwrap();

            let bad: u64 = found.bad.iter().map(ByteRange::len).sum();
            assert_eq!(found.bad[0].start, cut as u64, "{:?}", found.bad);
            assert_eq!(bad as usize, 4 * MIB - cut);
            assert_eq!(found.bad.len(), 2, "one for each chunk: {:?}", found.bad);
            assert!(found.bytes[..cut] == expected[..cut]);
            assert!(found.bytes[cut..].iter().all(|byte| *byte == 0));
            let mut told = listener.unreadable.into_inner().unwrap();
            told.sort();
            assert_eq!(told.iter().map(|(range, _)| *range).collect::<Vec<_>>(), found.bad);
            assert!(told[0].1.contains("os error 5"), "{told:?}");

            let error = disk.read_exact_at(ByteOffset(cut as u64), &mut [0; 10]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5));
        }
    }
}

#[test]
fn a_device_that_is_gone_is_an_error_and_not_unreadable_sectors() {
    need_root!();
    let folder = folder();
    for options in ways().into_iter().filter(|options| options.direct) {
        let path = file(&folder, "disk.raw", &content(2, 2 * MIB));
        let device = LoopDevice::attach(&path, &[]);
        let disk = Disk::open(&device.path, &options).unwrap();
        // Shrunk by its owner while it is read.
        let whole = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        whole.set_len(MIB as u64).unwrap();
        crate::support::run("losetup", &["-c", device.as_str()]);
        let pool = BufferPool::new(4, MIB).unwrap();
        let error = read_with(&disk, &pool, &Silent).unwrap_err();
        assert!(error.to_string().contains("byte 1048576"), "{error}");
    }
}
