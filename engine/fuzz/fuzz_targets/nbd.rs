//! What an NBD server says: its greeting, its answers, and its replies to reads and questions.
#![no_main]

use std::sync::LazyLock;
use std::sync::mpsc::Sender;
use std::time::Duration;

use imgx_engine::base::{ByteOffset, ReadAt};
use imgx_engine::block::{Disk, OpenOptions, Patience};
use imgx_fixtures::nbd::{BITMAP, SIZE, Session, serve};
use imgx_fuzz::Seed;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// The client's cookies are multiples of this.
const STEP: u64 = 64;

struct Server {
    _folder: TempDir,
    uri: String,
    scripts: Sender<Vec<u8>>,
}

static SEED: LazyLock<Seed> = LazyLock::new(|| {
    let Session { bytes, content } = Session::sound(STEP);
    let is_said = |at: &usize| !content.iter().any(|range| range.contains(at));
    let said = (0..bytes.len()).filter(is_said).collect();
    Seed::of(bytes, said)
});

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("s");
    let uri = format!("nbd+unix:///x?socket={}", socket.display());
    let scripts = serve(&socket).expect("served");
    Server { _folder: folder, uri, scripts }
});

fuzz_target!(|data: &[u8]| {
    SERVER.scripts.send(SEED.patched_bytes(data)).expect("it listens");
    let patience = Patience { reply: Duration::from_secs(60), outage: Duration::ZERO };
    let options = OpenOptions { patience, ..OpenOptions::default() };
    let Ok(disk) = Disk::open(SERVER.uri.as_ref(), &options) else { return };
    let extents = disk.extents().expect("what is not known is data");
    let end = extents.iter().fold(0, |end, extent| {
        assert_eq!(extent.range.start, end, "extents leave no gap");
        extent.range.end
    });
    assert_eq!(end, disk.size().0, "extents end with the disk");
    let _ = disk.export().expect("it is one").dirty(BITMAP);
    let half = SIZE / 2;
    let mut buffer = vec![0; half as usize];
    for start in [0, half] {
        let _ = disk.read_exact_at(ByteOffset(start.into()), &mut buffer);
    }
});
