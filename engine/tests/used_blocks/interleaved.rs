//! Captures beside each other, of which one is found to lack something: the other, which may use
//! its packs by then, loses nothing.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use imgx_engine::base::{ByteRange, Event, Observer, Silent};
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport, Salvage};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::tool;

use super::support::{MIB, differs, unsound};
use super::{PARTS, Stage};

type Work<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Does something when the disk was read and the proof of its image begins.
struct Between<'a> {
    is_read: AtomicBool,
    work: Mutex<Option<Work<'a>>>,
}

impl Observer for Between<'_> {
    fn event(&self, event: &Event<'_>) {
        if let Event::Progress(progress) = event {
            self.is_read.store(progress.done == progress.total, Ordering::SeqCst);
        }
    }

    fn cancelled(&self) -> bool {
        if self.is_read.load(Ordering::SeqCst) {
            let work = self.work.lock().expect("no panic").take();
            if let Some(work) = work {
                work();
            }
        }
        false
    }
}

#[test]
fn a_proof_that_fails_takes_nothing_from_another_capture() {
    if LoopDevice::unavailable().is_some() || !tool::have("mkfs.exfat") {
        println!("skipped: no loop devices or tools");
        return;
    }
    let stage = Stage::new(16_384);
    stage.fill();
    let base = (PARTS[0].0 * MIB) as u64;
    let mut place = 0;
    stage.in_part(0, |part| {
        let request = "bmap \"/folder 1/noise\" 40";
        let said = tool::run("debugfs", &["-R", request, part]).expect("debugfs runs");
        place = base + said.trim().parse::<u64>().expect("a block") * 1024;
    });
    let used = ByteRange::new(place / 16_384 * 16_384, 16_384);
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
            is_read: AtomicBool::default(),
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
        let first = plan.expect("planned").leaving_out(vec![used]).run(&between);
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
        assert!(found.images.iter().all(|image| image.is_listed), "{:?}", first.err());
    }
}
