//! Files extracted to targets that cannot keep all of them: what that costs, and what is said.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

use crate::support::{Ended, Shell, flip, length};

#[path = "../../../engine/tests/support/ntfs_3g.rs"]
mod ntfs_3g;

/// A mounted filesystem, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// A new filesystem of `kind` in a file of `size` MiB, mounted as `name`.
    fn new(shell: &Shell, name: &str, kind: &[&str], size: u64) -> Self {
        let disk = shell.path(&format!("{name}.img"));
        mkfs::blank(&disk, size << 20).expect("made");
        let made = ["-q", "-F"].iter().chain(kind).copied();
        let line: Vec<&str> = made.chain([disk.to_str().expect("plain")]).collect();
        tool::run("mke2fs", &line).expect("mke2fs runs");
        Self::of(shell, name, &["-t", "ext4", "-o", "loop", disk.to_str().expect("plain")])
    }

    fn of(shell: &Shell, name: &str, words: &[&str]) -> Self {
        let point = shell.path(name);
        fs::create_dir_all(&point).expect("made");
        let mut line = words.to_vec();
        line.push(point.to_str().expect("plain"));
        tool::run("mount", &line).expect("mounted");
        Self(point)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let point = self.0.to_str().unwrap_or_default();
        if let Err(error) = tool::run("umount", &[point]) {
            eprintln!("not unmounted: {error}");
        }
    }
}

/// Whether filesystems can be made and mounted here, and `tools` are there.
fn can_mount(tools: &[&str]) -> bool {
    let is_possible = tool::is_root()
        && LoopDevice::unavailable().is_none()
        && tools.iter().chain(&["mke2fs"]).all(|name| tool::have(name));
    if !is_possible {
        println!("skipped: needs root, loop devices and {tools:?}");
    }
    is_possible
}

fn run(tool: &str, words: &str) -> String {
    tool::run(tool, &words.split(' ').collect::<Vec<_>>()).expect(words)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").mode() & 0o7777
}

/// The result of a run with `--json`.
fn result(ended: &Ended) -> serde_json::Value {
    ended.events().pop().expect("a result")
}

fn not_kept(result: &serde_json::Value) -> Vec<String> {
    let list = result["not_kept"].as_array().expect("a list");
    let said =
        |one: &serde_json::Value| format!("{}: {}", one["path"], one["what"]).replace('"', "");
    let mut said: Vec<String> = list.iter().map(said).collect();
    said.sort();
    said
}

/// A disk with files whose attributes are much to ask for.
fn demanding_disk(shell: &Shell) {
    let disk = Mounted::new(shell, "disk", &["-t", "ext4", "-O", "ea_inode"], 32);
    fs::create_dir(disk.path("folder")).expect("made");
    for name in ["large", "lent", "plain", "setuid", "folder/inner"] {
        fs::write(disk.path(name), name).expect("written");
    }
    xattr::set(disk.path("large"), "user.large", &incompressible(1, 40_000)).expect("set");
    xattr::set(disk.path("large"), "user.small", b"small").expect("set");
    set_mode(&disk.path("large"), 0o640);
    chown(disk.path("large"), Some(1000), Some(1001)).expect("given");
    set_mode(&disk.path("lent"), 0o640);
    let lent = disk.path("lent");
    run("setfacl", &format!("-m u:1234:rw,g::-,o::- {}", lent.display()));
    chown(disk.path("setuid"), Some(1000), None).expect("given");
    set_mode(&disk.path("setuid"), 0o4755);
    xattr::set(disk.path("folder"), "user.large", &incompressible(2, 40_000)).expect("set");
    set_mode(&disk.path("folder"), 0o751);
}

#[test]
fn an_attribute_that_the_target_has_no_room_for_costs_itself() {
    if !can_mount(&["setfacl"]) {
        return;
    }
    let shell = Shell::new();
    demanding_disk(&shell);
    let target = Mounted::new(&shell, "target", &["-t", "ext4", "-b", "1024"], 16);
    let ended = shell.imgx("extract ./disk.img / --to target/out --privileged").exits(7);
    ended.shows(&["extracted 5 files and 2 folders", "2 files without some attributes"]);
    let out = |name: &str| target.path("out").join(name);
    assert_eq!(fs::read(out("large")).expect("read"), b"large");
    let found = fs::metadata(out("large")).expect("there");
    assert_eq!((mode(&out("large")), found.uid(), found.gid()), (0o640, 1000, 1001));
    assert_eq!(xattr::get(out("large"), "user.small").expect("read"), Some(b"small".to_vec()));
    assert_eq!(xattr::get(out("large"), "user.large").expect("read"), None);
    assert_eq!((mode(&out("folder")), mode(&out("setuid"))), (0o751, 0o4755));
    let ended = shell.imgx("--json extract ./disk.img / --to target/again").exits(7);
    let ended = ended.complains(&["not kept: disk:large: attribute user.large: No space left"]);
    let lost = ["folder: attribute user.large", "large: attribute user.large"];
    assert_eq!(not_kept(&result(&ended)), lost);
    assert_eq!(result(&ended)["failed"].as_array().map(Vec::len), Some(0));
    // The measure: `cp -a` goes on in the same way, and keeps as much.
    let disk = Mounted::of(&shell, "disk", &["-o", "loop,ro", &shell_path(&shell, "disk.img")]);
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(disk.path(".")).arg(target.path("copied"));
    copy.output().expect("cp runs");
    for name in ["large", "folder/inner", "plain", "lent"] {
        assert_eq!(mode(&out(name)), mode(&target.path("copied").join(name)), "{name}");
    }
}

fn shell_path(shell: &Shell, name: &str) -> String {
    shell.path(name).to_str().expect("plain").to_owned()
}

#[test]
fn whom_a_user_namespace_does_not_know_costs_the_owner_and_lends_nobody_anything() {
    if !can_mount(&["setfacl", "unshare"]) {
        return;
    }
    let shell = Shell::new();
    demanding_disk(&shell);
    let line = shell.command("--json extract ./disk.img / --to out --privileged");
    let mut unshared = Command::new("unshare");
    unshared.args(["-U", "-r"]).arg(line.get_program()).args(line.get_args());
    let output = unshared.current_dir(shell.path(".")).output().expect("unshare runs");
    if output.stdout.is_empty() {
        println!("skipped: no user namespaces: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let out = |name: &str| shell.path("out").join(name);
    for name in ["large", "lent", "plain", "setuid", "folder/inner"] {
        let inner = name.rsplit('/').next().expect("a name");
        let expected = if name.contains('/') { name } else { inner };
        assert_eq!(fs::read_to_string(out(name)).expect("there"), expected);
    }
    let text = String::from_utf8(output.stdout).expect("text");
    let last = serde_json::from_str(text.lines().last().expect("a result")).expect("JSON");
    let lost = not_kept(&last);
    for expected in ["large: owner", "setuid: owner", "lent: access control list"] {
        assert!(lost.iter().any(|one| one == expected), "{expected}: {lost:?}");
    }
    assert_eq!(last["rights_left_out"], 1);
    // Its list says that its group may do nothing; another's set-user-id bit would be ours.
    assert_eq!((mode(&out("lent")), mode(&out("setuid"))), (0o600, 0o755));
}

#[test]
fn links_pipes_devices_and_sockets_keep_what_the_kernel_lets_them_have() {
    if !can_mount(&["setfacl", "getfacl", "getfattr"]) {
        return;
    }
    let shell = Shell::new();
    let names = ["link", "pipe", "device", "socket", "zzz-link", "zzz-pipe"];
    let source = Mounted::new(&shell, "disk", &["-t", "ext4"], 16);
    symlink("nowhere", source.path("link")).expect("linked");
    run("mkfifo", &format!("-m 640 {}", source.path("pipe").display()));
    run("mknod", &format!("-m 600 {} b 7 3", source.path("device").display()));
    drop(std::os::unix::net::UnixListener::bind(source.path("socket")).expect("bound"));
    for name in ["pipe", "device", "socket"] {
        run("setfacl", &format!("-m u:1234:rw {}", source.path(name).display()));
    }
    for name in ["link", "pipe", "device", "socket"] {
        xattr::set(source.path(name), "trusted.mark", name.as_bytes()).expect("set");
        lchown(source.path(name), Some(1000), Some(1001)).expect("given");
    }
    fs::hard_link(source.path("link"), source.path("zzz-link")).expect("linked");
    fs::hard_link(source.path("pipe"), source.path("zzz-pipe")).expect("linked");
    let facts = |folder: &Path| -> Vec<String> {
        let facts = |name: &&str| {
            let path = folder.join(name);
            let shown = path.display();
            let found = fs::symlink_metadata(&path).expect("there");
            let numbers = (found.mode(), found.uid(), found.gid(), found.nlink(), found.rdev());
            let attributes = run("getfattr", &format!("-h -d -m - --absolute-names {shown}"));
            let lists = match *name {
                "link" | "zzz-link" => String::new(),
                _ => run("getfacl", &format!("-n -p {shown}")),
            };
            let text = format!("{numbers:?} {attributes} {lists}");
            text.replace(folder.to_str().expect("plain"), "")
        };
        names.iter().map(facts).collect()
    };
    let expected = facts(&source.0);
    drop(source);
    let ended = shell.imgx("--json extract ./disk.img / --to out --privileged").exits(0);
    assert_eq!(result(&ended)["not_kept"].as_array().map(Vec::len), Some(0));
    assert_eq!(facts(&shell.path("out")), expected);
    assert!(expected[0].contains("trusted.mark") && expected[1].contains("user:1234:rw-"));
    // Without the rights of others, the lists stay all the same.
    let ended = shell.imgx("--json extract ./disk.img /pipe /socket --to plain").exits(0);
    assert_eq!(result(&ended)["rights_left_out"], 2);
    let list = run("getfacl", &format!("-n -p {}", shell.path("plain/pipe").display()));
    assert!(list.contains("user:1234:rw-"), "{list}");
}

#[test]
fn a_full_target_ends_with_the_file_named_and_no_half_of_it() {
    if !can_mount(&[]) {
        return;
    }
    let shell = Shell::new();
    let source = Mounted::new(&shell, "disk", &["-t", "ext4"], 16);
    fs::create_dir(source.path("folder")).expect("made");
    set_mode(&source.path("folder"), 0o751);
    let size = 700_000;
    for number in 0..4_u64 {
        let name = format!("folder/{number}");
        fs::write(source.path(&name), incompressible(number, size)).expect("written");
    }
    drop(source);
    let target = Mounted::of(&shell, "target", &["-t", "tmpfs", "-o", "size=2m", "none"]);
    let ended = shell.imgx("extract ./disk.img / --to target/out --threads 2").exits(1);
    ended.complains(&["target/out/folder/", "No space left"]);
    let out = target.path("out/folder");
    assert_eq!(mode(&out), 0o751, "what was made is not as it should be");
    let mut whole = 0;
    for entry in fs::read_dir(&out).expect("listed") {
        let path = entry.expect("listed").path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("ours");
        assert!(fs::read(&path).expect("read") == incompressible(number, size), "half a file");
        whole += 1;
    }
    assert!((1..4).contains(&whole), "{whole}");
    // A target that takes nothing at all has failed, and no sector was unreadable.
    let options = ["-o", "remount,ro", "none"];
    let line: Vec<&str> = options.into_iter().chain([target.0.to_str().expect("plain")]).collect();
    tool::run("mount", &line).expect("remounted");
    shell.imgx("extract ./disk.img /folder --to target").exits(1).complains(&["Read-only"]);
}

#[test]
fn a_folder_that_was_there_keeps_its_own_attributes_unless_it_may_be_replaced() {
    if !tool::is_root() || !tool::have("mke2fs") || !tool::have("setfacl") {
        println!("skipped: needs root, mke2fs and setfacl");
        return;
    }
    let shell = Shell::new();
    fs::create_dir_all(shell.path("content/mail/deep")).expect("made");
    fs::write(shell.path("content/mail/deep/letter"), "new").expect("written");
    set_mode(&shell.path("content/mail"), 0o755);
    set_mode(&shell.path("content/mail/deep"), 0o700);
    let [content, disk] = ["content", "disk.img"].map(|name| shell_path(&shell, name));
    tool::run("mke2fs", &["-q", "-F", "-d", &content, &disk, "8M"]).expect("mke2fs runs");
    fs::create_dir_all(shell.path("out/mail")).expect("made");
    let mail = shell.path("out/mail");
    chown(&mail, Some(1000), Some(1000)).expect("given");
    set_mode(&mail, 0o710);
    run("setfacl", &format!("-m u:1234:rx -d -m u:1234:rwx {}", mail.display()));
    let facts = || {
        let found = fs::metadata(&mail).expect("there");
        let list = run("getfacl", &format!("-n -p {}", mail.display()));
        (found.mode(), found.uid(), found.gid(), list)
    };
    let before = facts();
    let ended = shell.imgx("--json extract ./disk.img /mail --to out").exits(0);
    assert_eq!(
        (&result(&ended)["folders_kept"], &result(&ended)["folders"]),
        (&1.into(), &2.into())
    );
    assert_eq!(facts(), before);
    assert_eq!(mode(&mail.join("deep")), 0o700);
    let deep = run("getfacl", &format!("-n -p {}", mail.join("deep").display()));
    assert!(!deep.contains("1234"), "the folder's list was inherited: {deep}");
    fs::write(mail.join("deep/letter"), "old").expect("written");
    shell.imgx("extract ./disk.img /mail --to out").exits(1).complains(&["--overwrite"]);
    assert_eq!(fs::read(mail.join("deep/letter")).expect("read"), b"old");
    shell.imgx("extract ./disk.img /mail --to out --overwrite").exits(0);
    assert_eq!(fs::read(mail.join("deep/letter")).expect("read"), b"new");
    let (mode, uid, gid, list) = facts();
    assert_eq!((mode & 0o7777, uid, gid), (0o755, 0, 0));
    assert!(!list.contains("1234"), "{list}");
}

#[test]
fn a_file_that_was_there_stays_where_the_new_one_cannot_be_read() {
    if !tool::have("mke2fs") {
        println!("skipped: no mke2fs");
        return;
    }
    let shell = Shell::with_repository();
    fs::create_dir(shell.path("content")).expect("made");
    fs::write(shell.path("content/file"), incompressible(1, 3 << 20)).expect("written");
    let [content, disk] = ["content", "disk.img"].map(|name| shell_path(&shell, name));
    tool::run("mke2fs", &["-q", "-F", "-d", &content, &disk, "16M"]).expect("mke2fs runs");
    shell.imgx("capture disk.img").exits(0);
    let pack = shell.objects("packs").remove(0);
    flip(&pack, length(&pack) / 2);
    fs::create_dir(shell.path("out")).expect("made");
    fs::write(shell.path("out/file"), "the only copy").expect("written");
    shell.imgx("extract latest /file --to out --overwrite").exits(3).complains(&["damage"]);
    assert_eq!(fs::read(shell.path("out/file")).expect("read"), b"the only copy");
    assert_eq!(fs::read_dir(shell.path("out")).expect("listed").count(), 1, "half a file stayed");
}

/// Paths below a folder, and what is in the files.
fn all_files(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            all_files(&path, found);
        } else {
            let text = fs::read_to_string(&path).expect("read");
            found.insert(path, text);
        }
    }
}

#[test]
fn names_that_are_too_long_are_counted_or_others_given_and_listed() {
    if let Some(reason) = ntfs_3g::missing() {
        println!("skipped: {reason}");
        return;
    }
    let shell = Shell::new();
    let disk = shell.path("disk.img");
    mkfs::blank(&disk, 32 << 20).expect("made");
    run("mkfs.ntfs", &format!("-q -F {}", disk.display()));
    let long = "漢".repeat(86);
    let longest = "字".repeat(251) + ".txt";
    {
        let mounted = ntfs_3g::Mount::new(&disk, &shell.path("ntfs"), "rw");
        let root = mounted.root();
        fs::create_dir_all(root.join(&long).join("deep")).expect("made");
        fs::write(root.join(&long).join("deep/inner"), "inner").expect("written");
        fs::write(root.join(&long).join(&longest), "longest").expect("written");
        fs::write(root.join(&longest), "top").expect("written");
        fs::write(root.join("漢".repeat(85)), "fits").expect("written");
        // The same to begin with, so that shortening alone would make them one.
        fs::write(root.join("字".repeat(250) + "漢.txt"), "other").expect("written");
    }
    let ended = shell.imgx("--json extract ./disk.img / --to out").exits(7);
    let ended = ended.complains(&["not kept: disk:", "name", "--names shorten"]);
    let done = result(&ended);
    // Two files and a folder, and three that are below that one.
    assert_eq!((&done["refused"], &done["beneath"]), (&3.into(), &3.into()), "{done}");
    assert_eq!(not_kept(&done).len(), 3, "{done}");
    assert_eq!(fs::read(shell.path("out").join("漢".repeat(85))).expect("there"), b"fits");

    let mut trees = Vec::new();
    for (to, threads) in [("first", 1), ("second", 4)] {
        let line = format!("--json extract ./disk.img / --to {to} --names shorten");
        let ended = shell.imgx(&format!("{line} --threads {threads}")).exits(0);
        let done = result(&ended);
        assert_eq!((&done["refused"], &done["beneath"]), (&0.into(), &0.into()), "{done}");
        assert_eq!(done["names"].as_array().map(Vec::len), Some(4), "{done}");
        let mut files = BTreeMap::new();
        all_files(&shell.path(to), &mut files);
        let files: BTreeMap<String, String> = files
            .into_iter()
            .map(|(path, text)| {
                let path = path.strip_prefix(shell.path(to)).expect("below");
                (path.to_str().expect("text").to_owned(), text)
            })
            .collect();
        trees.push(files);
    }
    assert_eq!(trees[0], trees[1], "the names depend on something else than the files");
    let list = &trees[0]["imgx-names.tsv"];
    let given: BTreeMap<&str, &str> =
        list.lines().map(|line| line.split_once('\t').expect("two columns")).collect();
    assert_eq!(given.len(), 4);
    let found = |path: &str| trees[0].get(given[path]).map(String::as_str);
    assert_eq!(found(&longest), Some("top"));
    assert_eq!(found(&format!("{long}/{longest}")), Some("longest"));
    assert_eq!(found(&("字".repeat(250) + "漢.txt")), Some("other"));
    assert_eq!(trees[0][&format!("{}/deep/inner", given[long.as_str()])], "inner");
    assert!(given.values().all(|path| path.split('/').all(|name| name.len() <= 255)));
}

#[test]
fn names_that_are_the_same_to_the_target_do_not_replace_one_another() {
    if !can_mount(&["mkfs.exfat", "mount.exfat-fuse"]) || !Path::new("/dev/fuse").exists() {
        return;
    }
    let shell = Shell::new();
    fs::create_dir_all(shell.path("content/Dir")).expect("made");
    fs::create_dir_all(shell.path("content/dir")).expect("made");
    for (name, text) in [
        ("Dir/one", "1"),
        ("dir/two", "2"),
        ("README", "large"),
        ("readme", "small"),
        ("a:b?", "odd"),
    ] {
        fs::write(shell.path("content").join(name), text).expect("written");
    }
    let [content, disk] = ["content", "disk.img"].map(|name| shell_path(&shell, name));
    tool::run("mke2fs", &["-q", "-F", "-d", &content, &disk, "8M"]).expect("mke2fs runs");
    let exfat = shell.path("exfat.img");
    mkfs::blank(&exfat, 32 << 20).expect("made");
    run("mkfs.exfat", exfat.to_str().expect("plain"));
    let device = LoopDevice::attach(&exfat).expect("attached");
    fs::create_dir(shell.path("exfat")).expect("made");
    let words = [device.path(), &shell.path("exfat")].map(|path| path.display().to_string());
    let mounted = Command::new("mount.exfat-fuse").args(&words).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: exfat-fuse does not mount here");
        return;
    }
    let _unmounted = Mounted(shell.path("exfat"));
    // An existing folder, a new one, and one that has all the names.
    fs::create_dir(shell.path("exfat/there")).expect("made");
    for to in ["there", "new", "there --overwrite"] {
        let ended = shell.imgx(&format!("--json extract ./disk.img / --to exfat/{to} --threads 1"));
        let ended = ended.exits(7);
        let lost = ["a:b?: name", "dir: name", "readme: name"];
        assert_eq!(not_kept(&result(&ended)), lost, "{to}");
        let to = shell.path("exfat").join(to.split(' ').next().expect("a word"));
        assert_eq!(fs::read(to.join("README")).expect("read"), b"large", "{}", to.display());
        assert!(!to.join("Dir/two").exists(), "two folders became one");
    }
    let shorten = "extract ./disk.img / --to exfat/all --threads 1 --names shorten";
    shell.imgx(shorten).exits(0).shows(&["3 other names", "imgx-names.tsv"]);
    let mut files = BTreeMap::new();
    all_files(&shell.path("exfat/all"), &mut files);
    let mut texts: Vec<&str> = files.values().map(String::as_str).collect();
    texts.retain(|text| text.len() < 10);
    texts.sort_unstable();
    assert_eq!(texts, ["1", "2", "large", "odd", "small"]);
}

#[test]
fn what_turns_text_around_is_spelled_out_wherever_a_name_is_shown() {
    if !tool::have("mke2fs") {
        println!("skipped: no mke2fs");
        return;
    }
    let shell = Shell::new();
    fs::create_dir(shell.path("content")).expect("made");
    let evil = "evil\u{202e}gpj.exe\u{2066}\u{9b}31m";
    let shown = "evil\\u{202e}gpj.exe\\u{2066}\\u{9b}31m";
    fs::write(shell.path("content").join(evil), "x").expect("written");
    symlink(evil, shell.path("content/link")).expect("linked");
    let [content, disk] = ["content", "disk.img"].map(|name| shell_path(&shell, name));
    tool::run("mke2fs", &["-q", "-F", "-d", &content, &disk, "8M"]).expect("mke2fs runs");
    fs::remove_file(shell.path("content").join(evil)).expect("removed");
    let other = shell_path(&shell, "other.img");
    tool::run("mke2fs", &["-q", "-F", "-d", &content, &other, "8M"]).expect("mke2fs runs");
    let is_plain = |ended: &Ended| {
        let text = format!("{}{}", ended.out, ended.err);
        assert!(text.contains(shown), "{text}");
        assert!(!text.contains(['\u{202e}', '\u{2066}', '\u{9b}']), "{text:?}");
    };
    is_plain(&shell.imgx("ls ./disk.img /"));
    is_plain(&shell.imgx("ls -l ./disk.img /"));
    is_plain(&shell.imgx("find ./disk.img evil*"));
    is_plain(&shell.imgx("diff --files ./disk.img ./other.img"));
    is_plain(&shell.imgx(&format!("cat ./disk.img /{evil}/x")));
    is_plain(&shell.imgx(&format!("cat ./disk.img /not-{evil}")));
    is_plain(&shell.imgx(&format!("extract ./disk.img /not-{evil} --to out")));
    shell.imgx("extract ./disk.img / --to out").exits(0);
    is_plain(&shell.imgx("extract ./disk.img / --to out").exits(1));
    let rows = shell.imgx("--json ls ./disk.img /").exits(0).events();
    assert!(rows.iter().any(|row| row["path"] == format!("/{evil}")), "{rows:?}");
}

#[test]
fn root_is_not_led_to_the_target_by_another_users_link() {
    if !tool::is_root() || !tool::have("mke2fs") {
        println!("skipped: needs root and mke2fs");
        return;
    }
    let shell = Shell::new();
    for name in ["content", "elsewhere"] {
        fs::create_dir(shell.path(name)).expect("made");
    }
    fs::write(shell.path("content/file"), "x").expect("written");
    let [content, disk] = ["content", "disk.img"].map(|name| shell_path(&shell, name));
    tool::run("mke2fs", &["-q", "-F", "-d", &content, &disk, "8M"]).expect("mke2fs runs");
    symlink("elsewhere", shell.path("theirs")).expect("linked");
    symlink("elsewhere", shell.path("ours")).expect("linked");
    lchown(shell.path("theirs"), Some(1000), Some(1000)).expect("given");
    shell.imgx("extract ./disk.img /file --to theirs").exits(1).complains(&["another user"]);
    shell.imgx("extract ./disk.img /file --to theirs/new").exits(1);
    assert_eq!(fs::read_dir(shell.path("elsewhere")).expect("listed").count(), 0);
    shell.imgx("extract ./disk.img /file --to ours").exits(0);
    assert!(shell.path("elsewhere/file").exists());
}

#[test]
fn a_damaged_attribute_costs_itself_and_lends_nobody_anything() {
    if !can_mount(&["debugfs", "setfacl"]) {
        return;
    }
    let shell = Shell::new();
    let source = Mounted::new(&shell, "disk", &["-t", "ext4", "-I", "128"], 16);
    fs::write(source.path("file"), "content").expect("written");
    set_mode(&source.path("file"), 0o640);
    let (path, marker) = (source.path("file"), "marker-of-the-attribute");
    xattr::set(&path, "user.mark", marker.as_bytes()).expect("set");
    run("setfacl", &format!("-m u:1234:rw,g::-,o::- {}", path.display()));
    drop(source);
    let disk = fs::read(shell.path("disk.img")).expect("read");
    let places = disk.windows(marker.len()).enumerate();
    let places: Vec<u64> = places
        .filter(|(_, window)| *window == marker.as_bytes())
        .map(|(place, _)| place as u64)
        .collect();
    assert!(!places.is_empty());
    for place in places {
        flip(&shell.path("disk.img"), place);
    }
    shell.imgx("cat ./disk.img /file").exits(0);
    let ended = shell.imgx("--json extract ./disk.img / --to out").exits(3).complains(&["damage"]);
    assert_eq!(result(&ended)["attributes_lost"][0]["cause"], "image");
    assert_eq!(fs::read(shell.path("out/file")).expect("there"), b"content");
    // Its group's bits are its list's mask, if it has one: that cannot be known.
    assert_eq!(mode(&shell.path("out/file")), 0o600);
}

#[test]
fn folders_that_nothing_can_be_moved_into_are_filled_all_the_same() {
    if !can_mount(&[]) {
        return;
    }
    let shell = Shell::new();
    for name in ["content/mail/new", "out/mail", "elsewhere"] {
        fs::create_dir_all(shell.path(name)).expect("made");
    }
    for name in ["content/mail/letter", "content/mail/new/letter"] {
        fs::write(shell.path(name), "letter").expect("written");
    }
    symlink("letter", shell.path("content/mail/link")).expect("linked");
    fs::hard_link(shell.path("content/mail/letter"), shell.path("content/mail/again"))
        .expect("linked");
    let [content, disk] = ["content", "disk.img"].map(|name| shell_path(&shell, name));
    tool::run("mke2fs", &["-q", "-F", "-d", &content, &disk, "8M"]).expect("mke2fs runs");
    // Other users' folders, and one of them is mounted from elsewhere on the same filesystem.
    for name in ["out", "elsewhere"] {
        chown(shell.path(name), Some(1000), Some(1000)).expect("given");
    }
    let _bound = Mounted::of(&shell, "out/mail", &["--bind", &shell_path(&shell, "elsewhere")]);
    shell.imgx("extract ./disk.img /mail --to out").exits(0);
    let names = |name: &str| {
        let listed = fs::read_dir(shell.path(name)).expect("listed");
        let mut names: Vec<_> = listed.map(|entry| entry.expect("listed").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("elsewhere"), ["again", "letter", "link", "new"]);
    assert_eq!(names("out"), ["mail"]);
    assert_eq!(fs::read(shell.path("elsewhere/new/letter")).expect("read"), b"letter");
    assert_eq!(fs::metadata(shell.path("elsewhere/again")).expect("there").nlink(), 2);
}
