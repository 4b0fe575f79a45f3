//! Programs in the running kernel: they see what happens, and go on when their maker is gone.

use std::fs::OpenOptions;
use std::io::Write;

use imgx_engine::base::{ErrorKind, Result};
use imgx_engine::sys::bpf::{
    Assembler, BpfFolder, Helper, KernelTypes, Map, MapKind, Program, Register, Width,
};
use imgx_fixtures::loopdev::LoopDevice;

const COUNTS: MapKind = MapKind::Array { value: 8 };

/// A program for `block_bio_queue` that counts writes in the first word of `counts`.
fn counter(types: &KernelTypes, counts: &Map) -> Result<Program> {
    use std::os::fd::AsRawFd;
    let mut code = Assembler::default();
    let (write, end) = (code.label(), code.label());
    code.load(Width::Double, Register::R6, Register::R1, 0);
    code.load(Width::Word, Register::R7, Register::R6, types.offset("bio", "bi_opf")?);
    code.jump_if_bits(Register::R7, 1, write);
    code.jump(end);
    code.place(write);
    code.set(Register::R2, 0);
    code.store(Width::Word, Register::R10, -4, Register::R2);
    code.copy(Register::R2, Register::R10);
    code.add(Register::R2, -4);
    code.load_map(Register::R1, counts.descriptor().as_raw_fd());
    code.call(Helper::Lookup);
    code.jump_if_equal(Register::R0, 0, end);
    code.set(Register::R1, 1);
    code.atomic_add(Register::R0, 0, Register::R1);
    code.place(end);
    code.set(Register::R0, 0);
    code.exit();
    Program::load("imgx_count", &code.finish()?, types.tracepoint("block_bio_queue")?)
}

/// Takes the folder's pins away, whatever becomes of the test.
struct Pins(BpfFolder, String);

impl Drop for Pins {
    fn drop(&mut self) {
        for name in self.0.names().unwrap_or_default() {
            let _best_effort = self.0.unpin(&name);
        }
        let _best_effort = std::fs::remove_dir(format!("/sys/fs/bpf/{}", self.1));
    }
}

fn write_once(device: &LoopDevice) {
    let mut file = OpenOptions::new().write(true).open(device.path()).expect("opened");
    file.write_all(&[7; 4096]).expect("written");
    file.sync_all().expect("synced");
}

fn count_while_nobody_holds_it() -> Result<()> {
    let image = tempfile::NamedTempFile::new().expect("temporary file");
    image.as_file().set_len(1 << 20).expect("sized");
    if let Some(why) = LoopDevice::unavailable() {
        println!("skipped: {why}");
        return Ok(());
    }
    let device = LoopDevice::attach(image.path()).expect("attached");
    let name = format!("imgx-test-{}", std::process::id());
    let pins = Pins(BpfFolder::create(&name)?, name);
    let counts = Map::create(COUNTS, 1, "imgx_counts")?;
    let program = counter(&KernelTypes::of_running_kernel()?, &counts)?;
    let link = program.attach()?;
    let seen = counts.words(1)?;
    let before = seen.load(0);
    write_once(&device);
    assert!(seen.load(0) > before, "a write was not seen");
    pins.0.pin("counts", counts.descriptor())?;
    pins.0.pin("link", link.descriptor())?;
    drop((seen, counts, program, link));

    let adopted = Map::adopt(pins.0.get("counts")?, COUNTS).words(1)?;
    let before = adopted.load(0);
    write_once(&device);
    assert!(adopted.load(0) > before, "a write was not seen once the maker was gone");
    pins.0.unpin("link")?;
    assert_eq!(pins.0.get("link").map_err(|error| error.kind()).err(), Some(ErrorKind::NotFound));
    Ok(())
}

#[test]
fn a_pinned_program_goes_on_counting_when_its_maker_is_gone() {
    match count_while_nobody_holds_it() {
        Err(error) if error.kind() == ErrorKind::Unsupported => println!("skipped: {error}"),
        outcome => outcome.expect("counted"),
    }
}

#[test]
fn what_the_kernel_refuses_is_told_with_its_reason() {
    let types = match KernelTypes::of_running_kernel() {
        Ok(types) => types,
        Err(error) => return println!("skipped: {error}"),
    };
    assert!(types.offset("bio", "no_such_field").is_err());
    assert!(types.tracepoint("no_such_event").is_err());
    let mut code = Assembler::default();
    code.exit();
    let tracepoint = types.tracepoint("block_bio_queue").expect("every kernel has it");
    let refused = Program::load("imgx_wrong", &code.finish().expect("one instruction"), tracepoint);
    let error = refused.expect_err("R0 is not set");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("R0") || error.to_string().contains("permitted"), "{error}");
}
