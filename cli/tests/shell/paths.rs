//! Paths that are not UTF-8, wherever one can be given.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::Shell;

/// `name` with a byte in it that no text has.
fn odd(name: &str) -> OsString {
    OsString::from_vec([name.as_bytes(), b"\xff"].concat())
}

fn with(mut command: Command, more: &[&OsStr]) -> crate::support::Ended {
    command.args(more);
    crate::support::end("with an odd path", &mut command)
}

/// What a member that is beside `name` says exactly.
fn exact(document: &Value, name: &str) -> OsString {
    let text = document[format!("{name}_b64")].as_str();
    let text = text.unwrap_or_else(|| panic!("no {name}_b64 in {document}"));
    assert!(document[name].as_str().is_some_and(|text| text.contains('\u{fffd}')), "{document}");
    OsString::from_vec(STANDARD.decode(text).expect("base64"))
}

#[test]
fn every_command_takes_paths_that_are_not_utf_8_and_tells_them_exactly() {
    let shell = Shell::new();
    let at = |name: &OsStr| shell.path(".").join(name);
    let (repository, source) = (odd("repository"), odd("disk"));
    let run = |line: &str, more: &[&OsStr]| {
        let mut command = shell.command(line);
        command.env("IMGX_REPO", &repository);
        with(command, more)
    };
    let mut typed = shell.command("--json init --repo");
    typed.env_remove("IMGX_REPO");
    let created = with(typed, &[&repository]).exits(0).document();
    assert_eq!(exact(&created, "path"), repository);
    run("init", &[]).exits(1).complains(&["repository"]);

    shell.mixed_disk("plain", 3 << 20);
    fs::rename(shell.path("plain"), at(&source)).expect("renamed");
    let events = run("--json capture --name odd", &[&source]).exits(0).events();
    assert_eq!(events.last().expect("a result")["name"], "odd");
    run("capture", &[&source]).exits(0).shows(&["image"]);
    run("capture", &[&odd("none")]).exits(1).complains(&["none"]);
    let shown = run("--json show odd", &[]).exits(0).document();
    assert_eq!(exact(&shown["source"], "path"), source);
    for line in ["show odd", "images", "verify", "map odd", "diff odd odd", "ls odd"] {
        let ended = run(line, &[]);
        assert!(!ended.err.contains("panicked"), "{line}: {}", ended.err);
    }
    let listed = run("--json images", &[]).exits(0).document();
    assert!(listed.to_string().contains("path_b64"), "{listed}");

    let target = odd("target");
    let events = run("--json restore odd", &[&target]).exits(0).events();
    assert_eq!(exact(&events[0], "target"), target);
    assert_eq!(exact(events.last().expect("a result"), "target"), target);
    crate::support::assert_same(&at(&source), &at(&target));
    run("restore --yes --verify odd", &[&target]).exits(0);
    let plan = run("--json restore --yes odd", &[&target]).exits(0).events().remove(0);
    assert_eq!(exact(&plan["target_info"], "path"), target);

    let picture = odd("picture");
    let map = run("--json map odd --svg", &[&picture]).exits(0).document();
    assert_eq!(exact(&map, "svg"), picture);
    run("map odd --svg", &[&picture]).exits(1).complains(&["exists"]);
    assert!(fs::metadata(at(&picture)).expect("drawn").len() > 100);
    for command in ["start", "stop", "status"] {
        let ended = run(&format!("track {command}"), &[&odd("/dev/none")]);
        assert_eq!(ended.code, Some(1), "{}", ended.err);
    }
}

#[test]
fn files_come_out_to_folders_whose_names_are_not_utf_8() {
    let shell = Shell::with_repository();
    if !imgx_fixtures::tool::have("mke2fs") {
        println!("skipped: no mke2fs");
        return;
    }
    let path = shell.path("disk");
    fs::write(&path, vec![0; 2 << 20]).expect("written");
    let folder = shell.path("content");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join(odd("letter")), "dear").expect("written");
    let words = ["-q", "-F", "-t", "ext2", "-d", "content", "disk"];
    let made = Command::new("mke2fs").args(words).current_dir(shell.path(".")).status();
    assert!(made.expect("mke2fs runs").success());
    let odd_disk = odd("odd disk");
    fs::rename(&path, shell.path(".").join(&odd_disk)).expect("renamed");
    with(shell.command("capture --name odd"), &[&odd_disk]).exits(0);
    let to = odd("to");
    with(shell.command("extract odd / --to"), &[&to]).exits(0);
    let letter = shell.path(".").join(&to).join(odd("letter"));
    assert_eq!(fs::read(letter).expect("extracted"), b"dear");
    with(shell.command("--json extract odd / --overwrite --to"), &[&to]).exits(0);
    let raw = OsString::from_vec([b"./", odd_disk.as_bytes()].concat());
    for (line, after) in [
        ("show", None),
        ("--json show", None),
        ("ls", Some(OsStr::new("/"))),
        ("find", Some(OsStr::new("*"))),
        ("cat", Some(&*odd("/letter"))),
        ("diff --files odd", None),
        ("extract --to other", Some(OsStr::new("/"))),
    ] {
        let more: Vec<&OsStr> = [Some(&*raw), after].into_iter().flatten().collect();
        let ended = with(shell.command(line), &more).exits(0);
        assert!(line != "cat" || ended.out == "dear");
    }
    with(shell.command("ls odd --with"), &[&raw]).exits(0);
    let image = odd("no-such-image");
    for line in ["show", "ls", "diff odd", "map", "verify", "restore", "cat"] {
        let more: &[&OsStr] =
            if matches!(line, "restore" | "cat") { &[&image, &to] } else { &[&image] };
        let ended = with(shell.command(line), more);
        assert!(matches!(ended.code, Some(1 | 2)), "{line}: {:?} {}", ended.code, ended.err);
    }
}
