//! Speed against fio, by hand: `cargo test --release --test disk -- --ignored --nocapture speed`.

use std::time::Instant;

use imgx_engine::base::{ByteOffset, ByteRange, Silent};
use imgx_engine::block::{
    BufferPool, Disk, IoMode, OpenOptions, ReadRequest, Target, TargetWriter,
};

use crate::need_root;
use crate::support::{LoopDevice, MIB, content, folder, run};

const SIZE: usize = 2048 * MIB;
const ROUNDS: usize = 9;

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn fio(device: &LoopDevice, way: &str) -> f64 {
    let file = format!("--filename={}", device.as_str());
    let rw = format!("--rw={way}");
    let size = format!("--size={SIZE}");
    let common = "--name=a --direct=1 --bs=1M --iodepth=16 --ioengine=io_uring --minimal";
    let mut arguments: Vec<&str> = common.split(' ').collect();
    arguments.extend([file.as_str(), rw.as_str(), size.as_str()]);
    let line = run("fio", &arguments);
    // Field 7 is the read bandwidth, field 48 the write bandwidth, in KiB/s.
    let field = if way == "read" { 6 } else { 47 };
    line.split(';').nth(field).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn read(device: &LoopDevice, io: IoMode) -> f64 {
    let disk = Disk::open(&device.path, &OpenOptions { io, ..OpenOptions::default() }).unwrap();
    let pool = BufferPool::new(32, MIB).unwrap();
    let request = ReadRequest::new(vec![ByteRange { start: 0, end: SIZE as u64 }]);
    let started = Instant::now();
    disk.stream(&request, &pool, &Silent, &mut |_| Ok(())).unwrap();
    2048.0 / started.elapsed().as_secs_f64()
}

fn write(device: &LoopDevice, io: IoMode) -> f64 {
    let target = Target::open_device(&device.path).unwrap();
    let pool = BufferPool::new(32, MIB).unwrap();
    let bytes = content(1, MIB);
    for mut buffer in std::iter::from_fn(|| pool.try_take()).collect::<Vec<_>>() {
        buffer.copy_from_slice(&bytes);
    }
    let started = Instant::now();
    let mut writer = TargetWriter::new(&target, &pool, 16, io).unwrap();
    for index in 0..2048 {
        writer.write(ByteOffset(index * MIB as u64), pool.take(&|| false).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    2048.0 / started.elapsed().as_secs_f64()
}

#[test]
#[ignore = "measures; takes minutes"]
fn speed_against_fio() {
    need_root!();
    let folder = folder();
    let path = folder.path().join("disk.raw");
    run("fallocate", &["-l", &SIZE.to_string(), path.to_str().unwrap()]);
    for options in [&["--direct-io=on"][..], &[]] {
        let device = LoopDevice::attach(&path, options);
        println!("loop {options:?}, MiB/s, medians of {ROUNDS}: fio, io_uring, threads");
        // Once to place the file's blocks, which writing to them does not count.
        write(&device, IoMode::Ring);
        for way in ["write", "read"] {
            let mut figures = [vec![], vec![], vec![]];
            for _ in 0..ROUNDS {
                let ours = if way == "read" { read } else { write };
                figures[0].push(fio(&device, way));
                figures[1].push(ours(&device, IoMode::Ring));
                figures[2].push(ours(&device, IoMode::Threads));
            }
            let [fio, ring, threads] = figures.map(median);
            println!("{way:5} {fio:8.0} {ring:8.0} {threads:8.0}, ratio {:.2}", ring / fio);
        }
    }
}
