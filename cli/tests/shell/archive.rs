//! `extract --tar`, judged by GNU tar's archive of the same filesystem as the kernel mounts it: in
//! what it lists and in what it, and bsdtar, unpack.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::{mkfs, tool};

use crate::support::Shell;

const XATTRS: [&str; 4] = ["--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner"];

/// Why such tests cannot run here, if they cannot.
fn unavailable() -> Option<String> {
    let tools = ["mke2fs", "tar", "bsdtar", "setfacl", "getfacl", "setfattr", "getfattr"];
    if let Some(missing) = tools.into_iter().find(|tool| !tool::have(tool)) {
        return Some(format!("no {missing}"));
    }
    match tool::is_root() {
        true => LoopDevice::unavailable().map(|reason| reason.to_string()),
        false => Some("mounting needs root".to_owned()),
    }
}

/// Has `work` work in the filesystem on `disk`, as the kernel mounts it.
fn mounted<T>(shell: &Shell, disk: &Path, work: impl FnOnce(&Path) -> T) -> T {
    let point = shell.path(&format!("{}.mounted", disk.display()));
    fs::create_dir_all(&point).expect("made");
    let words = [disk, &point].map(|path| path.to_str().expect("plain"));
    tool::run("mount", &["-o", "loop", words[0], words[1]]).expect("mounted");
    let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&point)));
    tool::run("umount", &[words[1]]).expect("unmounted");
    worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A new filesystem, by the words that make it.
fn blank(shell: &Shell, name: &str, words: &[&str]) -> PathBuf {
    let disk = shell.path(name);
    mkfs::blank(&disk, 400 << 20).expect("made");
    let (tool, options) = words.split_first().expect("a tool");
    tool::run(tool, &[options, &[disk.to_str().expect("plain")]].concat()).expect("made");
    disk
}

/// Runs a line of the shell in `folder`.
#[track_caller]
fn sh(folder: &Path, line: &str) -> String {
    let ended = Command::new("sh").args(["-ec", line]).current_dir(folder).output();
    let ended = ended.expect("the shell runs");
    assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// Files with all that an archive has to keep.
fn fill(root: &Path) {
    let long = "long-".repeat(18);
    let lines = [
        "echo hi > list; setfacl -m u:4242:rw,g:4343:r list",
        "mkdir -m 2750 folder; setfacl -d -m u:4242:rwx folder; setfacl -m g:4343:rx folder",
        "mkdir default; setfacl -d -m u:4242:rwx default",
        "echo a > attributes; setfattr -n user.bin -v 0x000a3d00 attributes",
        "setfattr -n user.a=b -v equal attributes; setfattr -n user.p%q -v percent attributes",
        "setfattr -n user.a%3Db -v encoded attributes; setfattr -n user.empty attributes",
        "setfattr -n trusted.t -v trusted attributes",
        "setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 attributes",
        "ln -s nowhere link; setfattr -h -n trusted.link -v of-a-link link",
        "mkfifo -m 620 pipe; setfattr -n trusted.pipe -v of-a-pipe pipe",
        "mknod -m 600 block b 259 200000; mknod character c 1 3; chmod 4711 character",
        "truncate -s 12G huge; printf end | dd of=huge bs=1 seek=11000000000 conv=notrunc 2>&1",
        "truncate -s 5000001 hole; printf x | dd of=hole-last bs=1 seek=3000000 2>&1",
        "printf first > hole-behind; truncate -s 2000000 hole-behind",
        "touch -d '2300-01-01 00:00:00.25 UTC' future; touch -d '1950-01-01 00:00:00.5 UTC' past",
        "touch -d '1969-12-31 23:59:59 UTC' before; touch -d '2001-01-01 UTC' whole",
        "echo ids > ids; chown 3000000000:4000000000 ids; echo two > linked-1; ln linked-1 linked-2",
        "printf nl > 'new\nline'; printf back > 'back\\slash'; printf space > ' space '",
    ];
    lines.iter().for_each(|line| drop(sh(root, line)));
    let deep = root.join(&long).join(&long);
    fs::create_dir_all(&deep).expect("made");
    let (linked, sparse) = (format!("{long}linked"), format!("{long}sparse"));
    fs::write(deep.join(&linked), "deep").expect("written");
    fs::hard_link(deep.join(&linked), root.join("linked")).expect("linked");
    symlink(deep.strip_prefix(root).expect("below").join(&sparse), root.join("far")).expect("made");
    let sparse = File::create(deep.join(sparse)).expect("made");
    for at in [0, 100_000, 1 << 20, 3 << 20] {
        sparse.write_all_at(b"data", at).expect("written");
    }
    let raw = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"raw\xff\xfe");
    fs::write(root.join(raw), "raw").expect("written");
    drop(UnixListener::bind(root.join("socket")).expect("bound"));
    // GNU tar takes what was not written to the disk yet for holes.
    sh(root, "find . -exec touch -h -a -d '2001-09-09 UTC' {} +; sync -f .");
}

/// Has GNU tar list an archive: a group of lines for each entry, in the order of their names.
fn listed(archive: &Path) -> Vec<String> {
    let mut tar = Command::new("tar");
    tar.args(["-tvv", "--full-time", "--quoting-style=escape", "-f"]).arg(archive).args(XATTRS);
    let ended = tar.output().expect("tar runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let mut entries: Vec<String> = Vec::new();
    for line in String::from_utf8_lossy(&ended.stdout).lines() {
        match entries.last_mut() {
            Some(entry) if line.starts_with("  ") => entry.push_str(line),
            // Columns are as wide as what came before.
            _ => entries.push(line.split_whitespace().collect::<Vec<_>>().join(" ")),
        }
    }
    for entry in &mut entries {
        *entry = entry.replace(" ./", " ").replace("  ", " ");
    }
    entries.sort();
    entries
}

/// Whether an entry is of the folder itself, which `imgx` spreads out where it is unpacked.
fn is_root(entry: &str) -> bool {
    entry.starts_with('d') && entry.split_whitespace().nth(5).is_none()
}

/// What is in a folder, in all that can be asked.
fn facts(folder: &Path) -> String {
    let facts = [
        "find . -mindepth 1 -printf '%P|%y|%m|%U|%G|%s|%l|%n|%T@\\0' | sort -z | tr '\\0' '\\n'",
        "getfacl -R -n -P . 2>/dev/null",
        "find . -mindepth 1 -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex",
        "find . -type f -size -100M -print0 | sort -z | xargs -0 md5sum",
        "tail -c +10999999990 huge | head -c 1000 | od -c",
    ];
    facts.iter().map(|line| sh(folder, line)).collect::<Vec<_>>().join("\n==\n")
}

#[track_caller]
fn assert_same_lines(one: &str, other: &str) {
    let [ours, theirs] = [one, other].map(|text| text.lines().collect::<Vec<_>>());
    let only = |some: &[&str], others: &[&str]| -> Vec<String> {
        some.iter().filter(|line| !others.contains(line)).map(|line| (*line).to_owned()).collect()
    };
    assert!(one == other, "{:#?}\n{:#?}", only(&ours, &theirs), only(&theirs, &ours));
}

#[test]
fn an_archive_is_gnu_tars_of_the_kernels_mount() {
    if let Some(reason) = unavailable() {
        println!("skipped: {reason}");
        return;
    }
    for words in [
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "ea_inode"].as_slice(),
        &["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"],
        &["mkfs.xfs", "-q", "-f"],
        &["mkfs.btrfs", "-q", "-f"],
    ] {
        match tool::have(words[0]) {
            true => assert_like_gnu_tar(words),
            false => println!("skipped: no {}", words[0]),
        }
    }
}

/// Holds an archive of a filesystem that is made by these words against GNU tar's.
fn assert_like_gnu_tar(words: &[&str]) {
    let shell = Shell::new();
    let disk = blank(&shell, "disk.img", words);
    let (own, gnu) = (shell.path("own.tar"), shell.path("gnu.tar"));
    mounted(&shell, &disk, |root| {
        fill(root);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(root).args(["--format=pax", "-S", "-cf"]).arg(&gnu).args(XATTRS);
        // XFS shows access control lists under names of its own besides.
        let ended = tar.args(["--xattrs-exclude=trusted.SGI*", "."]).output().expect("tar runs");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && told.contains("socket ignored"), "{told}");
    });
    let mut imgx = shell.command("extract ./disk.img / --tar");
    let ended = imgx.stdout(File::create(&own).expect("made")).output().expect("runs");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(7), "{told}");
    assert!(told.contains("disk:socket: socket left out"), "{told}");
    assert!(fs::metadata(&own).expect("there").len() < 1 << 20, "holes were written out");

    let without_root: Vec<String> =
        listed(&gnu).into_iter().filter(|entry| !is_root(entry)).collect();
    // Which of a file's names comes first is the order's.
    let is_plain = |entry: &&String| !entry.contains("linked");
    let [ours, theirs] = [listed(&own), without_root]
        .map(|all| all.iter().filter(is_plain).cloned().collect::<Vec<_>>().join("\n"));
    assert_same_lines(&ours, &theirs);

    let target = blank(&shell, "target.img", &["mke2fs", "-q", "-F", "-t", "ext4"]);
    mounted(&shell, &target, |root| {
        let unpacked = |tool: &str, archive: &Path, more: &[&str]| {
            let to = root.join(archive.file_name().expect("named")).with_extension(tool);
            fs::create_dir(&to).expect("made");
            let mut unpack = Command::new(tool);
            unpack.arg("-C").arg(&to).args(["--acls", "--xattrs", "-Sxpf"]).arg(archive);
            let ended = unpack.args(more).output().expect("it runs");
            assert!(ended.status.success(), "{tool}: {}", String::from_utf8_lossy(&ended.stderr));
            assert!(fs::metadata(to.join("huge")).is_ok_and(|huge| blocks(&huge) < 64));
            facts(&to)
        };
        let more = ["--xattrs-include=*", "--numeric-owner"];
        let expected = unpacked("tar", &gnu, &more);
        assert_same_lines(&unpacked("tar", &own, &more), &expected);
        // bsdtar knows no encoded names, and takes a time before 1970 for a second more.
        let known = |facts: &str| {
            let is_known = |line: &&str| !line.contains("user.a") && !line.starts_with("past|");
            facts.lines().filter(is_known).collect::<Vec<_>>().join("\n")
        };
        let bsd = unpacked("bsdtar", &own, &["--numeric-owner"]);
        assert_same_lines(&known(&bsd), &known(&expected));
    });
}

fn blocks(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata)
}

#[test]
fn what_has_no_mode_gets_one_alike_in_archives_and_folders() {
    if let Some(missing) = ["mkfs.vfat", "mmd", "mcopy", "tar"].into_iter().find(|t| !tool::have(t))
    {
        println!("skipped: no {missing}");
        return;
    }
    let shell = Shell::new();
    let disk = shell.path("disk.img");
    mkfs::blank(&disk, 16 << 20).expect("made");
    let file = shell.write("file", b"file");
    let [disk, file] = [disk, file].map(|path| path.to_str().expect("plain").to_owned());
    tool::run("mkfs.vfat", &["-F", "16", &disk]).expect("made");
    tool::run("mmd", &["-i", &disk, "::folder"]).expect("made");
    tool::run("mcopy", &["-i", &disk, &file, "::folder/file"]).expect("copied");
    shell.imgx("extract ./disk.img /folder --to own").exits(0);
    let mut imgx = shell.command("extract ./disk.img /folder --tar");
    let tar = File::create(shell.path("tar")).expect("made");
    assert!(imgx.stdout(tar).status().expect("imgx runs").success());
    fs::create_dir(shell.path("unpacked")).expect("made");
    sh(&shell.path("unpacked"), "tar -xpf ../tar");
    let modes = ["own", "unpacked"]
        .map(|folder| sh(&shell.path(folder), "find folder -printf '%p %m %T@\\n' | sort"));
    assert_eq!(modes[0], modes[1]);
    assert!(modes[0].contains("folder 700 ") && modes[0].contains("file 600 "), "{}", modes[0]);
}

#[test]
fn whoever_closes_the_pipe_has_had_enough() {
    if !tool::have("mke2fs") {
        println!("skipped: no mke2fs");
        return;
    }
    let shell = Shell::new();
    fs::create_dir(shell.path("content")).expect("made");
    fs::write(shell.path("content/large"), vec![7; 9 << 20]).expect("written");
    for number in 0..3000 {
        fs::write(shell.path(&format!("content/{number}-{}", "n".repeat(200))), "").expect("made");
    }
    let [disk, content] = ["disk.img", "content"].map(|name| shell.path(name));
    let words = [content, disk].map(|path| path.to_str().expect("plain").to_owned());
    tool::run("mke2fs", &["-q", "-F", "-d", &words[0], &words[1], "64M"]).expect("made");
    let lines = [
        "extract ./disk.img / --tar",
        "cat ./disk.img /large",
        "ls -R ./disk.img",
        "--json ls -R ./disk.img",
        "find ./disk.img *",
        "show ./disk.img",
    ];
    for line in lines {
        let mut imgx = shell.command(line);
        let child = imgx.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("imgx runs");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), told.as_ref()), (Some(0), ""), "{line}");
    }
    let full = File::options().write(true).open("/dev/full").expect("there");
    let mut imgx = shell.command("extract ./disk.img / --tar");
    let ended = imgx.stdout(full).output().expect("imgx runs");
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("No space left"));
}
