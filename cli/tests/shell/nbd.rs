//! Exports of QEMU's servers, and image files of its formats, against the bytes behind them.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use imgx_fixtures::pattern::{incompressible, text};
use imgx_fixtures::tool;
use serde_json::Value;

use crate::support::{Shell, assert_same, flip, overwrite};

const MIB: u64 = 1 << 20;

/// Whether QEMU's tools are here; says so if not.
pub fn have(tools: &[&str]) -> bool {
    for tool in tools {
        if !tool::have(tool) {
            println!("skipped: there is no {tool}");
            return false;
        }
    }
    true
}

/// Whether somebody listens at `socket`, and is not only about to.
fn listens(socket: &Path) -> bool {
    let table = fs::read_to_string("/proc/net/unix").expect("this is Linux");
    let names = [socket.to_str(), socket.file_name().and_then(|name| name.to_str())];
    // `__SO_ACCEPTCON` among the flags; a relative path is bound as it is.
    let is_it = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(3) == Some(&"00010000") && names.contains(&fields.get(7).copied())
    };
    socket.exists() && table.lines().any(|line| is_it(&line))
}

/// A process that is ended with its test.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }

    /// Waits until `is_ready`.
    pub fn until(mut self, is_ready: impl Fn() -> bool) -> Self {
        wait_for(|| {
            assert!(self.0.try_wait().expect("waited").is_none(), "it ended by itself");
            is_ready()
        });
        self
    }
}

impl Running {
    /// Whether it ends by itself, and without complaint.
    fn ends_well(mut self) -> bool {
        wait_for(|| self.0.try_wait().expect("waited").is_some());
        self.0.wait().expect("waited").success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn wait_for(mut is_ready: impl FnMut() -> bool) {
    let clock = Instant::now();
    while !is_ready() {
        assert!(clock.elapsed() < Duration::from_secs(20), "it takes too long");
        sleep(Duration::from_millis(5));
    }
}

/// `qemu-nbd` with a socket of its own in the shell's folder.
fn serve(shell: &Shell, words: &str) -> Running {
    let socket = shell.path("socket");
    let _ = fs::remove_file(&socket);
    let mut command = Command::new("qemu-nbd");
    command.args(["--persistent", "--shared=0", "--socket"]).arg(&socket);
    command.args(words.split(' ')).current_dir(shell.path(""));
    Running::start(&mut command).until(|| listens(&socket))
}

#[track_caller]
fn run(shell: &Shell, program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).current_dir(shell.path("")).output();
    let output = output.expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
}

/// Captures, and returns the result.
#[track_caller]
pub fn capture(shell: &Shell, words: &str) -> Value {
    let ended = shell.imgx(&format!("--json capture {words}")).exits(0);
    ended.events().pop().expect("a result")
}

#[track_caller]
fn assert_image_is(shell: &Shell, id: &Value, disk: &Path) {
    let out = shell.path("restored.raw");
    let _ = fs::remove_file(&out);
    shell.imgx(&format!("restore {} restored.raw", id.as_str().expect("an id"))).exits(0);
    assert_same(&out, disk);
}

/// 24 MiB: content, a hole of 10 MiB, content.
fn disk_with_a_hole(shell: &Shell) -> PathBuf {
    let disk = shell.write("disk.raw", &incompressible(7, 6 << 20));
    let file = fs::File::options().write(true).open(&disk).expect("opened");
    file.set_len(24 * MIB).expect("grown");
    overwrite(&disk, 16 * MIB, &incompressible(8, 8 << 20));
    disk
}

#[test]
fn exports_are_captured_as_the_disks_behind_them() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let shell = Shell::with_repository();
    let disk = disk_with_a_hole(&shell);
    run(&shell, "qemu-img", &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    for (words, name) in [
        ("--read-only --format=raw --export-name=web disk.raw", "web"),
        ("--read-only --format=qcow2 --export-name=web disk.qcow2", "web"),
        ("--format=raw disk.raw", ""),
    ] {
        let _server = serve(&shell, words);
        let result = capture(&shell, &format!("nbd+unix:///{name}?socket=socket"));
        let expected = if name.is_empty() { "disk" } else { name };
        assert_eq!(result["name"], expected);
        assert_eq!(result["io_engine"], "nbd");
        let read = result["cost"]["read"].as_u64().expect("bytes");
        assert!((14 * MIB..=15 * MIB).contains(&read), "the hole was read: {read}");
        assert_image_is(&shell, &result["id"], &disk);
    }
}

#[test]
fn an_export_over_tcp_is_read_and_an_unknown_one_named() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let shell = Shell::with_repository();
    let disk = shell.mixed_disk("disk.raw", 3 * MIB + 512);
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.expect("a free port").port();
    let port_word = format!("--port={port}");
    let words = ["--read-only", "--persistent", "--bind=127.0.0.1", &port_word, "--format=raw"];
    let mut command = Command::new("qemu-nbd");
    // One client at a time, which may not connect more than once.
    command.args(words).args(["--export-name=a b", "--shared=1"]).arg(&disk);
    let ready = || {
        let lines = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        lines.contains(&format!("0100007F:{port:04X} 00000000:0000 0A"))
    };
    let _server = Running::start(&mut command).until(ready);
    let result = capture(&shell, &format!("nbd://127.0.0.1:{port}/a%20b"));
    assert_eq!(result["name"], "a_b");
    assert_image_is(&shell, &result["id"], &disk);
    shell.imgx(&format!("show nbd://localhost:{port}/a%20b")).exits(0).shows(&["NBD export"]);
    let line = format!("capture nbd://127.0.0.1:{port}/c");
    shell.imgx(&line).exits(1).complains(&["there is no such export"]);
}

#[test]
fn image_files_are_captured_as_the_disks_in_them() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let shell = Shell::with_repository();
    let disk = disk_with_a_hole(&shell);
    for format in ["qcow2", "vmdk", "vhdx", "vdi"] {
        let file = format!("disk,{format}");
        run(&shell, "qemu-img", &["convert", "-O", format, "disk.raw", &file]);
        let result = capture(&shell, &file);
        assert_eq!(result["size"], 24 * MIB, "{format}");
        assert_image_is(&shell, &result["id"], &disk);
    }
    let raw = capture(&shell, "disk,qcow2 --raw");
    assert_image_is(&shell, &raw["id"], &shell.path("disk,qcow2"));
}

#[test]
fn an_image_file_that_refers_to_others_is_refused() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let shell = Shell::with_repository();
    shell.write("secret", &[1; 1 << 20]);
    let overlay = ["create", "-q", "-f", "qcow2", "-b", "secret", "-F", "raw", "over.qcow2"];
    run(&shell, "qemu-img", &overlay);
    let flat = ["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "1M"];
    run(&shell, "qemu-img", &flat);
    for file in ["over.qcow2", "flat.vmdk"] {
        let line = format!("capture {file}");
        shell.imgx(&line).exits(1).complains(&["refers to other files", "qemu-nbd"]);
    }
    let without_tools = shell.command("capture over.qcow2").env("PATH", "").output();
    let said = without_tools.expect("run").stderr;
    assert!(String::from_utf8_lossy(&said).contains("package qemu-utils"));
}

#[test]
fn a_bitmap_that_is_named_after_the_parent_says_what_to_read() {
    if !have(&["qemu-nbd", "qemu-img", "qemu-io"]) {
        return;
    }
    let shell = Shell::with_repository();
    disk_with_a_hole(&shell);
    run(&shell, "qemu-img", &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let raw = shell.path("now.raw");
    let convert = || run(&shell, "qemu-img", &["convert", "-O", "raw", "disk.qcow2", "now.raw"]);
    let next = |result: &Value| result["next_bitmap"].as_str().expect("a name").to_owned();

    let first = capture(&shell, "disk.qcow2");
    run(&shell, "qemu-img", &["bitmap", "--add", "disk.qcow2", &next(&first)]);
    run(&shell, "qemu-io", &["-c", "write -P 7 9M 64k", "-c", "write -z 1M 64k", "disk.qcow2"]);
    let second = capture(&shell, "disk.qcow2 --audit 1M");
    assert_eq!((&second["tracker"], &second["tracker_doubt"]), (&"qemu".into(), &Value::Null));
    // Two blocks of 128 KiB. The audit reads past what it finds.
    assert_eq!(second["cost"]["read"], 256 * 1024);
    convert();
    assert_image_is(&shell, &second["id"], &raw);

    // The first image's bitmap still marks what it should, but no longer since the parent.
    run(&shell, "qemu-io", &["-c", "write -P 9 20M 64k", "disk.qcow2"]);
    let third = capture(&shell, "disk.qcow2 --tracker qemu");
    let doubt = format!("the export offers no bitmap {}", next(&second));
    assert_eq!((&third["tracker"], &third["tracker_doubt"]), (&"compare".into(), &doubt.into()));
    assert_eq!(third["parent"], second["id"]);
    convert();
    assert_image_is(&shell, &third["id"], &raw);

    // A writer that is killed leaves a bitmap that QEMU does not vouch for.
    let name = next(&third);
    run(&shell, "qemu-img", &["bitmap", "--remove", "disk.qcow2", &next(&first)]);
    run(&shell, "qemu-img", &["bitmap", "--add", "disk.qcow2", &name]);
    let writer = serve(&shell, "--format=qcow2 disk.qcow2");
    shell.imgx("show nbd+unix:///?socket=socket").exits(0);
    drop(writer);
    let mut refused = Command::new("qemu-nbd");
    let served = refused.arg(format!("--bitmap={name}")).args(["-r", "-k"]);
    let served = served.arg(shell.path("no")).arg(shell.path("disk.qcow2"));
    let served = Running::start(served);
    assert!(!served.ends_well(), "an inconsistent bitmap was served");
    let fourth = capture(&shell, "disk.qcow2");
    assert_eq!((&fourth["tracker"], &fourth["parent"]), (&"compare".into(), &third["id"]));
    assert_eq!(fourth["cost"]["fresh"], 0);
    assert!(fourth["tracker_doubt"].as_str().is_some_and(|doubt| doubt.contains(&name)));
}

#[test]
fn a_storage_daemons_bitmaps_are_told_apart_by_their_names() {
    if !have(&["qemu-storage-daemon", "qemu-img", "qemu-io"]) {
        return;
    }
    let shell = Shell::with_repository();
    disk_with_a_hole(&shell);
    run(&shell, "qemu-img", &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let first = capture(&shell, "disk.qcow2 --name vda");
    let name = first["next_bitmap"].as_str().expect("a name");
    let other = "imgx-ffffffffffffffffffffffffffffffff";
    run(&shell, "qemu-img", &["bitmap", "--add", "-g", "32768", "disk.qcow2", name]);
    run(&shell, "qemu-io", &["-c", "write -P 7 3M 32k", "disk.qcow2"]);
    run(&shell, "qemu-img", &["bitmap", "--add", "disk.qcow2", other]);
    run(&shell, "qemu-io", &["-c", "write -P 8 20M 32k", "disk.qcow2"]);
    run(&shell, "qemu-img", &["convert", "-O", "raw", "disk.qcow2", "now.raw"]);

    let socket = shell.path("daemon");
    let disk = "driver=qcow2,node-name=vda,file.driver=file,file.filename=disk.qcow2";
    let export = format!("type=nbd,id=e,node-name=vda,bitmaps.0={other},bitmaps.1={name}");
    let mut command = Command::new("qemu-storage-daemon");
    command.current_dir(shell.path("")).args(["--blockdev", &format!("{disk},read-only=on")]);
    command.args(["--nbd-server", "addr.type=unix,addr.path=daemon", "--export", &export]);
    let _daemon = Running::start(&mut command).until(|| listens(&socket));
    let second = capture(&shell, "nbd+unix:///vda?socket=daemon --audit 0 --tracker qemu");
    assert_eq!((&second["tracker"], &second["parent"]), (&"qemu".into(), &first["id"]));
    assert_eq!(second["cost"]["read"], 256 * 1024);
    assert_image_is(&shell, &second["id"], &shell.path("now.raw"));
    let third = capture(&shell, "nbd+unix:///vda?socket=daemon --tracker compare");
    assert_eq!((&third["tracker"], &third["tracker_doubt"]), (&"compare".into(), &Value::Null));
    let shown = shell.imgx("capture disk.raw --tracker qemu").exits(2);
    shown.complains(&["without dirty bitmaps"]);
}

#[test]
fn a_bitmap_that_misses_a_change_is_caught_by_the_audit() {
    if !have(&["qemu-nbd", "qemu-img", "qemu-io"]) {
        return;
    }
    let shell = Shell::with_repository();
    let disk = disk_with_a_hole(&shell);
    run(&shell, "qemu-img", &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let first = capture(&shell, "disk.qcow2");
    let name = first["next_bitmap"].as_str().expect("a name").to_owned();
    // Made too late.
    run(&shell, "qemu-io", &["-c", "write -P 7 9M 64k", "disk.qcow2"]);
    run(&shell, "qemu-img", &["bitmap", "--add", "disk.qcow2", &name]);
    shell.imgx("capture disk.qcow2").exits(3).complains(&["did not notice"]);
    overwrite(&disk, 9 * MIB, &[7; 64 << 10]);
    assert_image_is(&shell, &"latest".into(), &disk);

    // Of another disk: never of the size of the parent.
    run(&shell, "qemu-img", &["resize", "-q", "disk.qcow2", "25M"]);
    let latest = shell.imgx("--json show latest").exits(0).document();
    let name = format!("imgx-{}", latest["id"].as_str().expect("an id"));
    run(&shell, "qemu-img", &["bitmap", "--add", "disk.qcow2", &name]);
    let resized = capture(&shell, "disk.qcow2");
    let doubt = resized["tracker_doubt"].as_str().expect("a doubt");
    assert!(doubt.contains("its map is of"), "{doubt}");
}

#[test]
fn sectors_that_a_server_cannot_read_are_recorded() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let shell = Shell::with_repository();
    let disk = shell.write("disk.raw", &incompressible(3, 4 << 20));
    let events = format!(
        "driver=blkdebug,image.driver=file,image.filename={},inject-error.0.event=read_aio,\
         inject-error.0.errno=5,inject-error.0.sector=2050",
        disk.display()
    );
    let options = format!("driver=raw,file.{}", events.replace(",i", ",file.i"));
    let _server = serve(&shell, &format!("--read-only --image-opts {options}"));
    let line = "capture nbd+unix:///?socket=socket --name web";
    shell.imgx(line).exits(4).complains(&["unreadable: bytes 1049600..1050112"]);
    shell.imgx(&format!("{line} --on-error abort")).exits(1);
    shell.imgx("restore web out.raw").exits(4);
    overwrite(&disk, 2050 * 512, &[0; 512]);
    assert_same(&shell.path("out.raw"), &disk);
}

/// Starts a slow capture of the export, and returns it when it has begun to read.
fn slow_capture(shell: &Shell) -> (Child, Lines<BufReader<ChildStdout>>) {
    let line = "capture nbd+unix:///?socket=socket --name web --compress 9 --threads 1 --json";
    let mut command = shell.command(line);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("imgx can be run");
    let mut events = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let has_begun = events.by_ref().map_while(Result::ok).any(|line| line.contains("\"progress\""));
    assert!(has_begun, "the capture told no progress");
    (child, events)
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.id().to_string()]).status();
    assert!(sent.expect("kill can be run").success());
}

#[test]
fn a_server_that_is_started_again_midway_costs_nothing() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let shell = Shell::with_repository();
    // More than is read ahead of the compression.
    let disk = shell.write("disk.raw", &text(1, 260 << 20));
    let words = "--read-only --format=raw disk.raw";
    let server = serve(&shell, words);
    let (child, events) = slow_capture(&shell);
    drop(server);
    sleep(Duration::from_millis(300));
    let _server = serve(&shell, words);
    let told: Vec<String> = events.map_while(Result::ok).collect();
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(told.iter().any(|line| line.contains("made again")), "{told:?}");
    assert_image_is(&shell, &"web".into(), &disk);
}

#[test]
fn a_capture_of_a_server_that_hangs_is_interrupted_at_once() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let shell = Shell::with_repository();
    shell.write("disk.raw", &text(1, 260 << 20));
    let server = serve(&shell, "--read-only --format=raw disk.raw");
    let (child, events) = slow_capture(&shell);
    signal(&server.0, "STOP");
    let clock = Instant::now();
    signal(&child, "INT");
    let last = events.map_while(Result::ok).last().expect("a last event");
    let ended = child.wait_with_output().expect("it ends");
    let took = clock.elapsed();
    assert_eq!(ended.status.code(), Some(130));
    assert!(last.contains("\"cancelled\""), "{last}");
    // What is being compressed is finished first.
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}

#[test]
fn files_of_an_export_are_listed() {
    if !have(&["qemu-nbd", "mke2fs"]) {
        return;
    }
    let shell = Shell::with_repository();
    let file = shell.write("disk.raw", &[0; 8 << 20]);
    fs::create_dir(shell.path("tree")).expect("made");
    shell.write("tree/hello", b"hello\n");
    run(&shell, "mke2fs", &["-q", "-d", "tree", "disk.raw"]);
    let _server = serve(&shell, "--read-only --format=raw disk.raw");
    shell.imgx("ls nbd+unix:///?socket=socket").exits(0).shows(&["hello"]);
    assert_eq!(shell.imgx("cat nbd+unix:///?socket=socket /hello").exits(0).out, "hello\n");
    flip(&file, 1024 + 56);
    shell.imgx("ls nbd+unix:///?socket=socket").exits(1);
}
