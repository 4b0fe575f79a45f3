//! Targets that are refused, with the exit code of what is wrong, and hints that are true.

use std::fs;

use imgx_fixtures::tool;

use crate::support::{Shell, assert_same, length};

fn shell_with_image() -> Shell {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 3_000_000);
    shell.imgx("capture disk.raw").exits(0);
    shell
}

#[test]
fn what_is_no_target_is_told_by_exit_code_and_nothing_is_made() {
    let shell = shell_with_image();
    fs::create_dir(shell.path("folder")).expect("made");
    tool::run("mkfifo", &[shell.path("pipe").to_str().expect("plain")]).expect("made");
    for (target, code, words) in [
        ("folder", 2, "is a directory"),
        ("pipe", 2, "is a pipe"),
        ("/dev/null", 2, "is a character device"),
        ("-", 2, "standard output"),
        ("/dev/imgx-no-such-disk", 1, "no such device"),
        ("none/new.raw", 1, "its folder does not exist"),
        ("repo/config", 1, "the repository itself"),
        ("repo/packs/new", 1, "the repository itself"),
    ] {
        let ended = shell.imgx(&format!("restore latest {target} --yes")).exits(code);
        assert!(!ended.err.contains("loop"), "{}", ended.err);
        assert!(!ended.err.contains("incomplete"), "{}", ended.err);
        assert_eq!(ended.out, "", "there is no plan");
        ended.complains(&[words, "nothing was written"]);
    }
    for never in ["-", "/dev/imgx-no-such-disk", "none", "repo/packs/new"] {
        assert!(!shell.path(never).exists(), "{never}");
    }
    shell.imgx("verify").exits(0);
    // A file may have that name all the same.
    shell.imgx("restore latest ./-").exits(0);
    assert_same(&shell.path("-"), &shell.path("disk.raw"));
}

#[test]
fn a_target_that_cannot_be_made_is_not_incomplete() {
    let shell = shell_with_image();
    let name = "n".repeat(300);
    let ended = shell.imgx(&format!("restore latest {name}")).exits(1);
    assert!(!ended.err.contains("incomplete"), "{}", ended.err);
    ended.complains(&["nothing was written"]);
}

#[test]
fn the_plan_says_what_becomes_of_a_longer_file() {
    let shell = shell_with_image();
    let target = shell.write("target.raw", &[7; 5_000_000]);
    shell.imgx("restore latest target.raw").exits(1).complains(&["--yes", "nothing was written"]);
    assert_eq!(length(&target), 5_000_000);
    let ended = shell.imgx("restore latest target.raw --yes --verify").exits(0);
    ended.shows(&["cut", "2000000 bytes"]);
    assert_same(&target, &shell.path("disk.raw"));
}

#[test]
fn an_empty_source_gives_no_image() {
    let shell = shell_with_image();
    shell.write("empty.raw", b"");
    shell.imgx("capture empty.raw").exits(1).complains(&["is empty"]);
    let images = shell.imgx("images").exits(0);
    assert!(!images.out.contains("empty.raw"), "{}", images.out);
}
