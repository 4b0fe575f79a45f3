//! Sectors that cannot be read, as a loop device has where its file was cut off.

use std::fs::File;

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;

use crate::support::{Shell, assert_same};

#[test]
fn unreadable_sectors_are_recorded_and_exit_with_4() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let shell = Shell::with_repository();
    let disk = shell.write("disk.raw", &incompressible(1, 4 << 20));
    let device = LoopDevice::attach(&disk).expect("losetup attaches");
    let cut = (2 << 20) + 300 * 1024;
    let file = File::options().write(true).open(&disk).expect("it can be opened");
    file.set_len(cut).expect("it can be cut off");
    let source = device.path().display();

    shell.imgx(&format!("capture {source} --name web --on-error abort")).exits(1);
    assert_eq!(shell.imgx("images").exits(0).out, "");

    let range = format!("bytes {cut}..{}", 4 << 20);
    let line = format!("capture {source} --name web");
    shell.imgx(&line).exits(4).shows(&["unreadable: 1.7 MiB"]).complains(&["unreadable: bytes"]);
    shell.imgx("show web").exits(0).shows(&["unreadable: 1.7 MiB", &range]);
    shell.imgx("images").exits(0).shows(&["unreadable"]);
    let document = shell.imgx("show web --json").exits(0).document();
    assert_eq!(document["cost"]["unreadable"], (4 << 20) - cut);
    shell.imgx("verify").exits(0);

    shell.imgx("restore web out.raw").exits(4).shows(&["could not be read", "unreadable"]);
    drop(device);
    file.set_len(4 << 20).expect("it can be made longer");
    assert_same(&disk, &shell.path("out.raw"));
}
