//! Stopped runs: exit code 130, and nothing half-done.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use imgx_fixtures::pattern::text;
use imgx_fixtures::tool;

use crate::support::{Shell, assert_same};

#[test]
fn an_archive_that_nobody_reads_any_more_is_interrupted() {
    if !tool::have("mke2fs") {
        println!("skipped: no mke2fs");
        return;
    }
    let shell = Shell::new();
    std::fs::create_dir(shell.path("content")).expect("made");
    shell.write("content/large", &text(1, 24 << 20));
    let [disk, content] = ["disk.img", "content"].map(|name| shell.path(name));
    let words = [content, disk].map(|path| path.to_str().expect("plain").to_owned());
    tool::run("mke2fs", &["-q", "-F", "-d", &words[0], &words[1], "64M"]).expect("made");
    for signal in ["INT", "TERM"] {
        let mut command = shell.command("extract ./disk.img /large --tar");
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("imgx can be run");
        let mut archive = child.stdout.take().expect("it is piped");
        archive.read_exact(&mut [0; 512]).expect("it begins");
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success());
        // The pipe stays open, and full.
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), Some(130), "SIG{signal}");
        drop(archive);
    }
}

#[test]
fn a_capture_that_is_interrupted_leaves_no_image() {
    for signal in ["INT", "TERM"] {
        let shell = Shell::with_repository();
        let disk = shell.write("disk.raw", &text(1, 96 << 20));
        // Slow enough to be stopped in the middle.
        let mut command = shell.command("capture disk.raw --compress 19 --threads 1 --json");
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("imgx can be run");
        let mut events = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let is_running = |line: &String| line.contains("\"progress\"");
        let running = events.by_ref().map_while(Result::ok).any(|line| is_running(&line));
        assert!(running, "the capture told no progress");
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success());
        let clock = Instant::now();
        let last = events.map_while(Result::ok).last().expect("a last event");
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), Some(130), "SIG{signal}");
        assert!(clock.elapsed() < Duration::from_secs(20), "it took {:?}", clock.elapsed());
        assert!(last.contains("\"cancelled\""), "{last}");

        assert_eq!(shell.imgx("images").exits(0).out, "");
        shell.imgx("verify").exits(0);
        shell.imgx("capture disk.raw --compress fast").exits(0);
        shell.imgx("restore latest out.raw").exits(0);
        assert_same(&disk, &shell.path("out.raw"));
    }
}
