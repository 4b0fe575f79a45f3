//! Exit codes, and refusals that change nothing.

use std::process::Stdio;

use imgx_fixtures::tool;

use crate::support::{Shell, assert_same, length, overwrite};

#[test]
fn wrong_usage_exits_with_2() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 1000);
    let wrong = [
        "nonsense",
        "init --block-size 100K",
        "init --block-size 2M",
        "init --block-size many",
        "capture",
        "capture disk.raw --compress 20",
        "capture disk.raw --tracker guess",
        "capture disk.raw --name a/b",
        "capture disk.raw --threads 0",
        "restore latest",
        "restore latest x --preallocate --punch",
        "verify --restore-manifests",
        "images -q -v",
    ];
    for line in wrong {
        shell.imgx(line).exits(2);
    }
    for line in ["images", "init", "capture disk.raw", "verify", "restore latest x"] {
        shell.imgx_without_repository(line).exits(2).complains(&["--repo", "IMGX_REPO"]);
    }
    shell.imgx("images").exits(0);
}

#[test]
fn what_is_not_there_exits_with_1() {
    let shell = Shell::with_repository();
    shell.imgx("capture missing.raw").exits(1).complains(&["missing.raw"]);
    shell.imgx("show nobody").exits(1).complains(&["nobody"]);
    shell.imgx("restore nobody x.raw").exits(1);
    shell.imgx("--repo nowhere images").exits(1).complains(&["nowhere"]);
    assert!(!shell.path("x.raw").exists());
}

#[test]
fn a_repository_is_never_made_over_something_else() {
    let shell = Shell::with_repository();
    shell.imgx("init").exits(1).complains(&["not empty"]);
    shell.imgx("init --repo other --block-size 64K").exits(0).shows(&["64.0 KiB"]);
}

#[test]
fn a_target_that_would_lose_data_is_refused_and_untouched() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 3_000_000);
    shell.imgx("capture disk.raw").exits(0);
    let full = shell.write("full.raw", &[7; 3_000_000]);
    let copy = shell.write("copy.raw", &[7; 3_000_000]);
    shell.imgx("restore latest full.raw").exits(1).complains(&["--yes", "nothing was written"]);
    assert_same(&full, &copy);
    let small = shell.write("small.raw", &[0; 2_999_999]);
    for line in ["restore latest small.raw", "restore latest small.raw --yes"] {
        shell.imgx(line).exits(1).complains(&["2999999", "3000000"]);
    }
    assert_eq!(length(&small), 2_999_999);
    shell.imgx("restore latest full.raw --yes").exits(0);
    assert_same(&full, &shell.path("disk.raw"));
}

#[test]
fn quiet_says_nothing_and_verbose_says_more() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 3_000_000);
    let quiet = ["-q capture disk.raw", "capture disk.raw -q", "verify -q", "restore latest o -q"];
    for line in quiet {
        let ended = shell.imgx(line).exits(0);
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""), "{line}");
    }
    shell.imgx("images -q").exits(0).shows(&["disk.raw"]);
    shell.imgx("show latest -q").exits(0).shows(&["content"]);
    shell.imgx("capture disk.raw -v --io threads").exits(0).shows(&["threads"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 3_000_000);
    for line in ["capture disk.raw", "images", "show latest", "verify --json"] {
        let mut command = shell.command(line);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("imgx can be run");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), Some(0), "{line}");
        assert!(ended.stderr.is_empty(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[test]
fn only_what_a_newer_version_may_know_is_said_to_need_one() {
    let shell = Shell::with_repository();
    let newer = "hint: a newer imgx may know this";
    let refused = shell.imgx("ls nbds://localhost/x").exits(1).complains(&["nbds"]);
    assert!(!refused.err.contains("newer"), "{}", refused.err);
    shell.mixed_disk("disk.raw", 3_000_000);
    let refused = shell.imgx("ls ./disk.raw disk:/").exits(1);
    assert!(!refused.err.contains("newer"), "{}", refused.err);
    if tool::have("mke2fs") {
        let disk = shell.write("disk.img", &vec![0; 8 << 20]);
        let words = ["-q", "-F", "-O", "^metadata_csum", disk.to_str().expect("plain")];
        tool::run("mke2fs", &words).expect("made");
        // The highest bit of s_feature_incompat.
        overwrite(&disk, 1024 + 0x63, &[0x80]);
        shell.imgx("ls ./disk.img disk:/").exits(1).complains(&["features", newer]);
    }
}
