//! `images` and `show` say what there is; the demo holds.

use imgx_fixtures::demo;

use crate::support::Shell;

#[test]
fn images_are_listed_newest_first() {
    let shell = Shell::with_repository();
    assert_eq!(shell.imgx("images").exits(0).out, "");
    shell.mixed_disk("disk.raw", 3_000_000);
    shell.imgx("capture disk.raw --name monday").exits(0);
    shell.imgx("capture disk.raw --name tuesday").exits(0);
    let listed = shell.imgx("images").exits(0);
    let lines: Vec<&str> = listed.out.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].contains("STORED"), "{lines:?}");
    assert!(lines[1].contains("tuesday") && lines[1].contains("2.9 MiB"), "{lines:?}");
    assert!(lines[2].contains("monday"), "{lines:?}");
    let id = lines[1].split(' ').next().expect("an id");
    assert!(id.len() == 12 && id.chars().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    shell.imgx(&format!("show {id}")).exits(0).shows(&["tuesday"]);
}

#[test]
fn show_tells_what_an_image_and_a_plain_disk_hold() {
    let shell = Shell::with_repository();
    demo::write_disk(&shell.path("disk.raw")).expect("the demo's disk can be written");
    shell.imgx("capture disk.raw").exits(0);
    let held = ["gpt table", "p1", "p2", "BIOS boot", "ext4", demo::LABEL, demo::UUID];
    shell.imgx("show disk.raw").exits(0).shows(&held).shows(&["content", "parent", "stored"]);
    shell.imgx_without_repository("show ./disk.raw").exits(0).shows(&held);
    shell.imgx("show ./missing.raw").exits(1);
    let document = shell.imgx("show ./disk.raw --json").exits(0).document();
    assert_eq!(document["size"], demo::SIZE);
    assert_eq!(document["layout"]["volumes"][1]["content"]["kind"], "ext4");
}

#[test]
fn help_lists_the_commands_and_exit_codes() {
    let shell = Shell::new();
    let commands = [
        "init", "capture", "images", "show", "diff", "map", "verify", "repair", "restore", "bench",
        "demo",
    ];
    let help = shell.imgx("--help").exits(0).shows(&commands).shows(&["130"]);
    assert!(help.out.lines().all(|line| line.chars().count() <= 100), "{}", help.out);
    for command in commands {
        shell.imgx(&format!("help {command}")).exits(0).shows(&["Usage: imgx"]);
    }
}

#[test]
fn the_demo_holds_and_leaves_nothing_behind() {
    let shell = Shell::new();
    let temporary = shell.path("tmp");
    std::fs::create_dir(&temporary).expect("a folder can be made");
    let mut command = shell.command("demo");
    let ended = command.env("TMPDIR", &temporary).output().expect("imgx can be run");
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(0), "{out}");
    assert!(out.contains("$ imgx restore") && out.contains("Proved by"), "{out}");
    let left = std::fs::read_dir(&temporary).expect("it can be listed").count();
    assert_eq!(left, 0, "the demo left something behind");
}

#[test]
fn bench_measures_every_stage() {
    let shell = Shell::new();
    shell.mixed_disk("disk.raw", 8_000_000);
    let before = std::fs::read(shell.path("disk.raw")).expect("it can be read");
    for line in ["bench --size 4M --dir . --json", "bench --size 4M --file disk.raw --json"] {
        let document = shell.imgx(line).exits(0).document();
        let stages = document["stages"].as_array().expect("an array");
        for wanted in ["zero test", "digest", "compress", "read", "write", "capture", "restore"] {
            let is_it = |stage: &&serde_json::Value| {
                stage["stage"].as_str().is_some_and(|name| name.starts_with(wanted))
            };
            let stage = stages.iter().find(is_it).expect(wanted);
            assert!(stage["mb_per_s"].as_f64().expect("a rate") > 0.0, "{stage}");
        }
    }
    assert!(std::fs::read(shell.path("disk.raw")).expect("it can be read") == before);
}
