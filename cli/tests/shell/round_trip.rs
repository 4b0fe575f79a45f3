//! What was captured comes back.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use imgx_fixtures::demo;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;

use crate::support::{Shell, assert_same, length, overwrite};

#[test]
fn files_of_any_size_come_back() {
    let shell = Shell::with_repository();
    for size in [1, 511, 131_072, 131_073, 9_000_001] {
        let disk = shell.mixed_disk(&format!("{size}.raw"), size);
        shell.imgx(&format!("capture {size}.raw")).exits(0);
        shell.imgx(&format!("restore {size}.raw {size}.out --verify")).exits(0);
        assert_same(&disk, &shell.path(&format!("{size}.out")));
    }
    shell.imgx("verify").exits(0).shows(&["verified 5 images", "no damage"]);
}

#[test]
fn every_way_to_compress_and_read_gives_the_same_disk() {
    let shell = Shell::with_repository();
    let disk = shell.mixed_disk("disk.raw", 5_000_000);
    let ways = ["--compress off", "--compress fast --io threads", "--compress 19 --threads 1"];
    let mut contents = Vec::new();
    for (number, way) in ways.iter().enumerate() {
        let line = format!("capture disk.raw --parent none {way} --json");
        let events = shell.imgx(&line).exits(0).events();
        contents.push(events.last().expect("a result")["content"].clone());
        let line = format!("restore latest {number}.out --io threads --threads 2");
        shell.imgx(&line).exits(0);
        assert_same(&disk, &shell.path(&format!("{number}.out")));
    }
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "{contents:?}");
}

#[test]
fn references_name_the_image_that_they_mean() {
    let shell = Shell::with_repository();
    let disk = shell.mixed_disk("disk.raw", 3_000_000);
    let mut ids = Vec::new();
    for number in 0..3 {
        overwrite(&disk, 1000, &[number + 1]);
        let events = shell.imgx("capture disk.raw --name web --json").exits(0).events();
        let result = events.last().expect("a result");
        ids.push(result["id"].as_str().expect("an id").to_owned());
    }
    shell.imgx("capture disk.raw --name other").exits(0);
    let means = |reference: &str| {
        let shown = shell.imgx(&format!("show {reference} --json")).exits(0).document();
        shown["id"].as_str().expect("an id").to_owned()
    };
    assert_eq!(means("web"), ids[2]);
    assert_eq!(means("web~1"), ids[1]);
    assert_eq!(means("web~2"), ids[0]);
    assert_eq!(means("latest~1"), ids[2]);
    assert_eq!(means(&ids[1][..8]), ids[1]);
    shell.imgx("restore web~2 first.out").exits(0);
    overwrite(&disk, 1000, &[1]);
    assert_same(&disk, &shell.path("first.out"));
    for wrong in ["web~3", "nobody", &ids[0][..3], "web~x"] {
        let ended = shell.imgx(&format!("show {wrong}"));
        assert!(matches!(ended.code, Some(1 | 2)), "{wrong}: {ended:?}");
    }
}

#[test]
fn only_what_changed_is_stored_and_restored() {
    let shell = Shell::with_repository();
    let disk = shell.mixed_disk("disk.raw", 20_000_000);
    shell.imgx("capture disk.raw").exits(0);
    overwrite(&disk, 7_000_000, &incompressible(9, 4096));
    let events = shell.imgx("capture disk.raw --json").exits(0).events();
    let cost = &events.last().expect("a result")["cost"];
    assert_eq!(cost["fresh"], 131_072, "{cost}");

    std::fs::copy(&disk, shell.path("target.raw")).expect("it can be copied");
    let line = "restore disk.raw~1 target.raw --yes --only-changed --json";
    let events = shell.imgx(line).exits(0).events();
    let result = events.last().expect("a result");
    assert_eq!(result["unchanged"], 20_000_000 - 131_072, "{result}");
    shell.imgx("restore disk.raw~1 whole.raw").exits(0);
    assert_same(&shell.path("target.raw"), &shell.path("whole.raw"));
}

#[test]
fn files_keep_holes_or_reserved_space_as_asked() {
    let shell = Shell::with_repository();
    let file = File::create(shell.path("disk.raw")).expect("a file can be made");
    file.set_len(64 << 20).expect("its size can be set");
    overwrite(&shell.path("disk.raw"), 1 << 20, &incompressible(1, 100_000));
    shell.imgx("capture disk.raw").exits(0);
    let space = |name: &str| {
        let metadata = std::fs::metadata(shell.path(name)).expect("it is there");
        metadata.blocks() * 512
    };
    shell.imgx("restore latest holes.raw --punch").exits(0);
    assert!(space("holes.raw") < 2 << 20);
    shell.imgx("restore latest full.raw --preallocate").exits(0);
    assert!(space("full.raw") >= 64 << 20);
    assert_same(&shell.path("holes.raw"), &shell.path("full.raw"));
}

#[test]
fn on_a_larger_disk_the_gpt_moves_to_the_end_unless_it_is_to_stay() {
    let shell = Shell::with_repository();
    demo::write_disk(&shell.path("disk.raw")).expect("the demo's disk can be written");
    shell.imgx("capture disk.raw").exits(0);
    for name in ["moved.raw", "kept.raw"] {
        let file = File::create(shell.path(name)).expect("a file can be made");
        file.set_len(80 << 20).expect("its size can be set");
    }
    shell.imgx("restore latest moved.raw").exits(0).shows(&["GPT's backup", "16.0 MiB"]);
    let layout = shell.imgx("show ./moved.raw --json").exits(0).document()["layout"].clone();
    assert_eq!(layout["notes"], serde_json::Value::Null, "{layout}");
    shell.imgx("restore latest kept.raw --keep-table").exits(0);
    let kept = shell.imgx("show ./kept.raw --json").exits(0).document()["layout"].clone();
    assert!(kept["notes"].is_array(), "{kept}");
}

#[test]
fn a_device_comes_back_on_another_device() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let shell = Shell::with_repository();
    let disk = shell.mixed_disk("disk.raw", 12 << 20);
    let target = shell.write("target.raw", &vec![0; 12 << 20]);
    let source = LoopDevice::attach(&disk).expect("losetup attaches");
    let device = LoopDevice::attach(&target).expect("losetup attaches");
    shell.imgx(&format!("capture {} --name web", source.path().display())).exits(0);
    let line = format!("restore web {} --verify", device.path().display());
    shell.imgx(&line).exits(0);
    shell.imgx(&line).exits(1).complains(&["holds data"]);
    drop((source, device));
    assert_eq!(length(&target), 12 << 20);
    assert_same(&disk, &target);
}
