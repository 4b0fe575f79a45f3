//! Stopped runs: exit code 130, and nothing half-done.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use imgx_fixtures::pattern::text;

use crate::support::{Shell, assert_same};

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
