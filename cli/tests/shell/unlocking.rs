//! Encrypted volumes: what is said of them, and the ways to open them.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use imgx_fixtures::luks::{DATA, PASSPHRASE, Sealed};
use imgx_fixtures::pattern::{MIB, incompressible};
use imgx_fixtures::{mkfs, tool};

use crate::support::Shell;

/// A disk `disk` that is all LUKS, with an ext4 in it, and a key file `key`; nothing if tools are
/// missing.
fn sealed() -> Option<Shell> {
    for name in ["cryptsetup", "mke2fs"] {
        if !tool::have(name) {
            println!("skipped: no {name}");
            return None;
        }
    }
    let shell = Shell::with_repository();
    let (tree, inner) = (shell.path("tree"), shell.path("inner"));
    fs::create_dir(&tree).expect("made");
    fs::write(tree.join("file"), b"inside\n").expect("written");
    fs::write(tree.join("large"), incompressible(1, 1 << 20)).expect("written");
    mkfs::blank(&inner, 24 * MIB).expect("made");
    let words = [&tree, &inner].map(|path| path.to_str().expect("plain"));
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", words[0], words[1]]).expect("made");
    let disk = shell.path("disk");
    mkfs::blank(&disk, DATA + 24 * MIB).expect("made");
    let volume = Sealed::format(&disk, 512).expect("made");
    volume.write(&disk, &fs::read(&inner).expect("read")).expect("written");
    shell.write("key", PASSPHRASE.as_bytes());
    Some(shell)
}

#[test]
fn a_closed_volume_is_named_with_what_opens_it() {
    let Some(shell) = sealed() else { return };
    let found = shell.imgx("find ./disk *").exits(1);
    assert!(found.err.contains("--unlock disk=FILE"), "{}", found.err);
    shell.imgx("cat ./disk /file").exits(1);
    shell.imgx("cat ./disk disk/luks:/file").exits(1);
    let shown = shell.imgx("show ./disk").exits(0);
    assert!(!shown.out.contains("disk/luks"), "{}", shown.out);
}

#[test]
fn a_key_file_opens_disks_and_images() {
    let Some(shell) = sealed() else { return };
    for reference in ["./disk", "disk"] {
        if reference == "disk" {
            shell.imgx("capture ./disk --name disk").exits(0);
        }
        let with_key = |line: &str| shell.imgx(&format!("{line} --unlock disk=key"));
        let read = with_key(&format!("cat {reference} disk/luks:/file")).exits(0);
        assert_eq!(read.out, "inside\n");
        assert_eq!(with_key(&format!("cat {reference} /file")).exits(0).out, "inside\n");
        let listed = with_key(&format!("ls {reference} luks:/")).exits(0);
        assert!(listed.out.contains("large"), "{}", listed.out);
        let found = with_key(&format!("find {reference} file")).exits(0);
        assert!(found.out.contains("disk/luks:/file"), "{}", found.out);
        let shown = with_key(&format!("show {reference}")).exits(0);
        assert!(shown.out.contains("disk/luks"), "{}", shown.out);
        let to = format!("out{}", reference.len());
        with_key(&format!("extract {reference} / --to {to}")).exits(0);
        let (one, other) = (shell.path("tree/large"), shell.path(&to).join("large"));
        assert!(fs::read(one).expect("read") == fs::read(other).expect("read"));
    }
    let same = shell.imgx("diff disk ./disk --files --unlock disk=key").exits(0);
    assert!(!same.out.contains("large") && !same.err.contains("error"), "{same:?}");
    shell.imgx("diff disk disk --unlock disk=key").exits(2);
}

#[test]
fn a_passphrase_is_read_from_the_input_or_a_command() {
    let Some(shell) = sealed() else { return };
    let typed = |passphrase: &str| {
        let mut command = shell.command("cat ./disk /file --unlock disk");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().expect("it starts");
        let mut input = running.stdin.take().expect("a pipe");
        input.write_all(format!("{passphrase}\n").as_bytes()).expect("written");
        drop(input);
        running.wait_with_output().expect("it ends")
    };
    assert_eq!(typed(PASSPHRASE).stdout, b"inside\n");
    let wrong = typed("wrong");
    assert_eq!(wrong.status.code(), Some(1));
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(told.contains("volume disk") && told.contains("opens no keyslot"), "{told}");

    let printed = |command: &str| {
        let mut run = shell.command("cat ./disk /file --unlock-command");
        run.arg(command).output().expect("it ends")
    };
    let asked = printed("test \"$IMGX_VOLUME\" = disk && test -n \"$IMGX_UUID\" && cat key");
    assert_eq!(asked.stdout, b"inside\n", "{}", String::from_utf8_lossy(&asked.stderr));
    let failed = printed("exit 3");
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("--unlock-command"));
}

#[test]
fn keys_for_what_is_not_there_are_refused() {
    let Some(shell) = sealed() else { return };
    let missing = shell.imgx("ls ./disk / --unlock p7=key").exits(1);
    assert!(missing.err.contains("no volume p7 to unlock"), "{}", missing.err);
    let plain = shell.imgx("ls ./inner / --unlock disk=key").exits(2);
    assert!(plain.err.contains("not encrypted"), "{}", plain.err);
    shell.imgx("ls ./disk / --unlock disk=nothing").exits(1);
    shell.imgx("capture ./disk --unlock p7=key").exits(1);
}

#[test]
fn free_space_within_is_left_out_with_the_key_and_the_disk_comes_back() {
    let Some(shell) = sealed() else { return };
    let capture = shell.imgx("--json capture ./disk --name disk --unlock disk=key").exits(0);
    assert!(capture.out.contains("disk/luks"), "{}", capture.out);
    shell.imgx("restore disk back").exits(0);
    shell.imgx("extract ./back / --unlock disk=key --to out").exits(0);
    let [one, other] = ["tree/large", "out/large"].map(|name| fs::read(shell.path(name)));
    assert!(one.expect("read") == other.expect("read"));
    let kept = fs::read(shell.path("back")).expect("read");
    let disk = fs::read(shell.path("disk")).expect("read");
    assert!(kept.len() == disk.len() && kept != disk, "nothing was left out");
    let shown = shell.imgx("show disk").exits(0);
    assert!(shown.out.contains("disk/luks"), "{}", shown.out);
}
