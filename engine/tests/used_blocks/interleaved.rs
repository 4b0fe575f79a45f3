//! Captures beside each other, of which one is stopped while it is proven: the other, which may use
//! its packs by then, loses nothing.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use imgx_engine::base::{ErrorKind, Event, Observer, Silent};
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport, Salvage};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::tool;

use super::Stage;
use super::support::{differs, unsound};

type Work<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Does something when the proof of an image begins, and stops that then: the end of the disk, which holds data, was
/// told with its last chunk, and again when all was stored.
struct Between<'a> {
    ends: AtomicUsize,
    work: Mutex<Option<Work<'a>>>,
}

impl Observer for Between<'_> {
    fn event(&self, event: &Event<'_>) {
        if let Event::Progress(progress) = event {
            let is_end = progress.done == progress.total;
            self.ends.fetch_add(usize::from(is_end), Ordering::SeqCst);
        }
    }

    fn cancelled(&self) -> bool {
        if self.ends.load(Ordering::SeqCst) >= 2 {
            let work = self.work.lock().expect("no panic").take();
            if let Some(work) = work {
                work();
            }
            return true;
        }
        false
    }
}

#[test]
fn a_proof_that_is_stopped_takes_nothing_from_another_capture() {
    if LoopDevice::unavailable().is_some() || !tool::have("mkfs.exfat") {
        println!("skipped: no loop devices or tools");
        return;
    }
    let stage = Stage::new(16_384);
    stage.fill();
    // Packs of one size, so that most are finished before the proof; and one for all.
    for pack_size in [4 << 20, u64::MAX] {
        let open = || {
            let path = stage.folder.path().join("repository");
            Repository::open(&path).expect("opens").with_pack_size(pack_size)
        };
        let second: Mutex<Option<CaptureReport>> = Mutex::default();
        let options = |name: &str, all_blocks: bool| CaptureOptions {
            name: Some(format!("{name} {pack_size}").replace(' ', "-")),
            all_blocks,
            ..CaptureOptions::default()
        };
        let between = Between {
            ends: AtomicUsize::default(),
            work: Mutex::new(Some(Box::new(|| {
                let repository = open();
                let plan =
                    Capture::plan(&repository, &stage.disk, options("second", true), &Silent);
                let report = plan.expect("planned").run(&Silent).expect("captured");
                *second.lock().expect("no panic") = Some(report);
            }))),
        };
        let repository = open();
        let plan = Capture::plan(&repository, &stage.disk, options("first", false), &between);
        let stopped = plan.expect("planned").run(&between).expect_err("it was stopped");
        assert_eq!(stopped.kind(), ErrorKind::Cancelled, "{stopped}");
        let second = second.lock().expect("no panic").take().expect("captured in between");
        if pack_size < u64::MAX {
            assert!(second.manifest.cost.duplicate > 16 << 20, "it used no packs of the first");
        }
        assert_eq!(unsound(&open()), None);
        let image = repository.image(second.id).expect("listed");
        let disk = fs::read(&stage.disk).expect("read");
        assert_eq!(differs(&open(), &image, &disk), None);
        // What was not proven is nowhere offered.
        let found = Salvage::new(&open(), &Silent).look().expect("looked through");
        assert!(found.images.iter().all(|image| image.is_listed));
    }
}
