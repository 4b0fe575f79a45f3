//! Times that a disk keeps as a wall clock showed them. mtools, and `date`, say what they mean.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use imgx_fixtures::{mkfs, tool};

use crate::support::Shell;

/// Times in UTC at which clocks in Berlin show noon.
const SUMMER: &str = "2026-07-15T10:00:00Z";
const WINTER: &str = "2026-01-15T11:00:00Z";

fn unavailable() -> Option<&'static str> {
    let tools = ["mkfs.vfat", "mcopy", "touch", "date"];
    tools.into_iter().find(|tool| !tool::have(tool)).or_else(|| {
        let zones = PathBuf::from("/usr/share/zoneinfo/Europe/Berlin");
        (!zones.exists()).then_some("zoneinfo")
    })
}

/// A FAT that was written in Berlin.
fn fat(shell: &Shell, name: &str) {
    let disk = shell.path(name);
    mkfs::blank(&disk, 16 << 20).expect("made");
    let disk = disk.to_str().expect("plain");
    tool::run("mkfs.vfat", &["-F", "16", disk]).expect("made");
    for (name, time) in [("summer", SUMMER), ("winter", WINTER)] {
        let file = shell.write(name, name.as_bytes());
        let file = file.to_str().expect("plain");
        tool::run("touch", &["-d", time, file]).expect("touched");
        let mut copy = Command::new("mcopy");
        copy.args(["-m", "-i", disk, file, "::"]).env("TZ", "Europe/Berlin");
        assert!(copy.status().expect("mcopy runs").success());
    }
}

fn seconds(time: &str) -> i64 {
    let told = tool::run("date", &["-d", time, "+%s"]).expect("date runs");
    told.trim().parse().expect("seconds")
}

#[test]
fn times_of_fat_are_those_of_a_zone() {
    if let Some(missing) = unavailable() {
        println!("skipped: no {missing}");
        return;
    }
    let shell = Shell::with_repository();
    fat(&shell, "disk.img");
    shell.imgx("capture disk.img --name disk").exits(0);
    let berlin = [seconds(SUMMER), seconds(WINTER)];
    let noon = [seconds("2026-07-15T12:00:00Z"), seconds("2026-01-15T12:00:00Z")];
    let later = noon.map(|time| time + 3 * 3600 + 1800);
    let zones = [
        ("--tz Europe/Berlin", "UTC", berlin),
        ("--tz CET-1CEST,M3.5.0,M10.5.0/3", "UTC", berlin),
        ("--tz +02:00", "UTC", noon.map(|time| time - 7200)),
        ("--tz=-0330", "UTC", later),
        ("--tz UTC", "Europe/Berlin", noon),
        ("", "Europe/Berlin", berlin),
        ("", "UTC", noon),
    ];
    for (option, machine, expected) in zones {
        let run = |line: &str| {
            let line = format!("{line} {option}");
            let mut imgx = shell.command(line.trim());
            let ended = imgx.env("TZ", machine).output().expect("imgx runs");
            assert!(ended.status.success(), "{line}: {ended:?}");
            String::from_utf8(ended.stdout).expect("text")
        };
        for image in ["disk", "./disk.img"] {
            let listed = run(&format!("--json ls {image} disk:/"));
            let times: Vec<i64> = listed
                .lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
                .map(|row| row["mtime"].as_i64().expect("a time"))
                .collect();
            assert_eq!(times, expected, "{option} at {machine}");
        }
        // What the clock showed, wherever it is shown.
        let listed = run("ls -l disk disk:/");
        assert!(listed.contains("2026-07-15 12:00:00 summer"), "{option}: {listed}");
        assert!(listed.contains("2026-01-15 12:00:00 winter"), "{option}: {listed}");
        assert_eq!(run("find disk * --newer 2026-07-15T12:00"), "disk:/summer\n", "{option}");
        assert_eq!(run("find disk * --newer 2026-07-15T12:00:01"), "", "{option}");
        run("extract disk /summer --to out --overwrite");
        let out = fs::metadata(shell.path("out/summer")).expect("there");
        assert_eq!(out.mtime(), expected[0], "{option} at {machine}");
    }
    shell.imgx("cat disk /winter --tz Asia/Tokyo").exits(0).shows(&["winter"]);
    for wrong in ["Europe/Atlantis", "+30:00", "noon"] {
        let ended = shell.imgx(&format!("ls disk --tz {wrong}")).exits(2);
        ended.complains(&["--tz", "Europe/Berlin", "+02:00"]);
    }
}

#[test]
fn comparisons_take_a_zone_too() {
    if let Some(missing) = unavailable() {
        println!("skipped: no {missing}");
        return;
    }
    let shell = Shell::with_repository();
    for (name, zone) in [("one.img", "Europe/Berlin"), ("two.img", "Asia/Tokyo")] {
        let disk = shell.path(name);
        mkfs::blank(&disk, 16 << 20).expect("made");
        let disk = disk.to_str().expect("plain");
        tool::run("mkfs.vfat", &["-F", "16", "-i", "12345678", disk]).expect("made");
        let file = shell.write("file", b"file");
        tool::run("touch", &["-d", SUMMER, file.to_str().expect("plain")]).expect("touched");
        let mut copy = Command::new("mcopy");
        copy.args(["-m", "-i", disk]).arg(&file).arg("::").env("TZ", zone);
        assert!(copy.status().expect("mcopy runs").success());
        shell.imgx(&format!("capture {name} --name disk")).exits(0);
    }
    for images in ["disk~1 disk", "./one.img ./two.img"] {
        let ended = shell.imgx(&format!("diff --files {images} --tz +01:00")).exits(0);
        ended.shows(&["M  disk:/file", "mtime"]);
    }
    shell.imgx("diff disk~1 disk --tz UTC").exits(2).complains(&["--files"]);
}
