//! A disk of a running machine, by the recipe in `tests/qemu-backup`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use imgx_fixtures::pattern::incompressible;
use serde_json::{Value, json};

use crate::nbd::{Running, have, wait_for};
use crate::support::{Shell, assert_same, overwrite};

const SIZE: u64 = 16 << 20;

/// A machine that never runs, whose disk is written to by its monitor.
struct Machine {
    monitor: BufReader<UnixStream>,
    _process: Running,
}

impl Machine {
    fn start(shell: &Shell) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command.current_dir(shell.path("")).args(["-S", "-nodefaults", "-display", "none"]);
        for name in ["qmp", "recipe"] {
            command.arg("-qmp").arg(format!("unix:{name},server=on,wait=off"));
        }
        let disk = "driver=qcow2,node-name=vda,file.driver=file,file.filename=disk.qcow2";
        command.args(["-blockdev", disk, "-device", "ide-hd,drive=vda,id=disk"]);
        let connect = || UnixStream::connect(shell.path("qmp"));
        let process = Running::start(&mut command).until(|| connect().is_ok());
        let monitor = BufReader::new(connect().expect("the monitor listens"));
        let mut machine = Self { monitor, _process: process };
        machine.answer();
        machine.run(&json!({"execute": "qmp_capabilities"}));
        machine
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.read_line(&mut line).expect("read");
        serde_json::from_str(&line).expect("JSON")
    }

    fn run(&mut self, command: &Value) -> Value {
        let line = format!("{command}\n");
        self.monitor.get_mut().write_all(line.as_bytes()).expect("written");
        loop {
            let answer = self.answer();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(result) = answer.get("return") {
                return result.clone();
            }
        }
    }

    /// Writes as the guest would, and to `expected`, the disk's bytes as they should be.
    fn write(&mut self, offset: u64, pattern: u8, expected: &Path) {
        let line = format!("qemu-io -d disk \"write -P {pattern} {offset} 65536\"");
        let arguments = json!({"command-line": line});
        let command = json!({"execute": "human-monitor-command", "arguments": arguments});
        let said = self.run(&command);
        assert!(!said.to_string().contains("rror"), "{said}");
        overwrite(expected, offset, &[pattern; 65_536]);
    }
}

/// Runs the recipe; returns what it printed last, if it ended well.
fn back_up(shell: &Shell, program: &Path) -> Option<Value> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/qemu-backup");
    let mut command = Command::new(recipe);
    command.args(["recipe", "vda", "--audit", "1M"]).current_dir(shell.path(""));
    command.env("IMGX", program).env("IMGX_REPO", "repo").env("IMGX_CACHE_DIR", "cache");
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    let printed = String::from_utf8(output.stdout).expect("text");
    output.status.success().then(|| serde_json::from_str(&printed).expect("JSON"))
}

#[track_caller]
fn assert_image_is(shell: &Shell, image: &Value, expected: &Path) {
    let id = image["id"].as_str().expect("an id");
    let _ = fs::remove_file(shell.path("out.raw"));
    shell.imgx(&format!("restore {id} out.raw")).exits(0);
    assert_same(&shell.path("out.raw"), expected);
}

#[test]
fn a_running_machines_disk_is_captured_at_one_instant_by_its_bitmap() {
    if !have(&["qemu-system-x86_64", "qemu-img", "python3"]) {
        return;
    }
    let shell = Shell::with_repository();
    let now = shell.write("now.raw", &incompressible(5, 16 << 20));
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "now.raw", "disk.qcow2"];
    let made = Command::new("qemu-img").args(convert).current_dir(shell.path("")).status();
    assert!(made.expect("run").success());
    let imgx = Path::new(env!("CARGO_BIN_EXE_imgx"));
    let mut machine = Machine::start(&shell);

    let first = back_up(&shell, imgx).expect("captured");
    assert_eq!((&first["name"], &first["size"]), (&"vda".into(), &SIZE.into()));
    assert_image_is(&shell, &first, &now);

    machine.write(1 << 20, 1, &now);
    let then = shell.path("then.raw");
    fs::copy(&now, &then).expect("copied");
    // The guest goes on while imgx reads: that is not in this image, but in the next.
    let script = format!(
        "#!/bin/sh\ntouch waits\nwhile [ ! -e go ]; do sleep 0.01; done\nexec {} \"$@\"\n",
        imgx.display()
    );
    let slow = shell.write("slow", script.as_bytes());
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("set");
    let second = std::thread::scope(|scope| {
        let recipe = scope.spawn(|| back_up(&shell, &slow));
        wait_for(|| shell.path("waits").exists());
        machine.write(8 << 20, 2, &now);
        shell.write("go", b"");
        recipe.join().expect("no panic").expect("captured")
    });
    assert_eq!((&second["tracker"], &second["parent"]), (&"qemu".into(), &first["id"]));
    assert_eq!(second["cost"]["read"], 128 * 1024);
    assert_image_is(&shell, &second, &then);

    // A run that fails leaves the last image's bitmap in force.
    machine.write(4 << 20, 3, &now);
    assert_eq!(back_up(&shell, Path::new("false")), None);
    machine.write(12 << 20, 4, &now);
    let third = back_up(&shell, imgx).expect("captured");
    assert_eq!((&third["tracker"], &third["parent"]), (&"qemu".into(), &second["id"]));
    assert_eq!(third["cost"]["read"], 3 * 128 * 1024);
    assert_image_is(&shell, &third, &now);
}
