//! Files of an image: listed, printed, found and extracted as they went in.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

use crate::support::{Shell, assert_same, overwrite};

/// Bytes of the test's disks.
const SIZE: &str = "64M";

/// Ends a test that needs a tool which is not here, saying so.
macro_rules! need {
    ($($tool:literal),+) => {
        $(if !tool::have($tool) {
            println!("skipped: no {}", $tool);
            return;
        })+
    };
}

/// A disk's file with an ext4 filesystem that holds what is in `content`.
fn disk_of(shell: &Shell, name: &str, content: &Path, options: &[&str]) -> PathBuf {
    let disk = shell.path(name);
    let words = [disk.to_str().expect("plain"), content.to_str().expect("plain")];
    let mut line = vec!["-q", "-F", "-d", words[1]];
    line.extend_from_slice(options);
    line.extend([words[0], SIZE]);
    tool::run("mke2fs", &line).expect("mke2fs runs");
    disk
}

/// A folder with files of most sorts, all with times in whole seconds.
fn content(shell: &Shell) -> PathBuf {
    let root = shell.path("content");
    fs::create_dir_all(root.join("etc/deep/er")).expect("made");
    fs::write(root.join("etc/fstab"), "/dev/sda1 / ext4\n").expect("written");
    fs::write(root.join("etc/deep/er/empty"), "").expect("written");
    let noise: Vec<u8> =
        (0..3_000_000_u32).map(|at| (at.wrapping_mul(at) / 7 % 251) as u8).collect();
    fs::write(root.join("noise"), &noise).expect("written");
    let sparse = File::create(root.join("sparse")).expect("made");
    sparse.write_all_at(b"start", 0).expect("written");
    sparse.write_all_at(b"end", 40 << 20).expect("written");
    fs::hard_link(root.join("noise"), root.join("etc/noise-too")).expect("linked");
    symlink("../etc/fstab", root.join("etc/link")).expect("linked");
    symlink("/etc/link", root.join("absolute")).expect("linked");
    symlink("loop", root.join("loop")).expect("linked");
    let strange = std::ffi::OsString::from("new\nline \u{1b}[31mred");
    fs::write(root.join(strange), "strange").expect("written");
    let raw = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"raw\xff\xfe");
    fs::write(root.join(raw), "raw").expect("written");
    fs::write(root.join("suid"), "#!/bin/sh\n").expect("written");
    fs::set_permissions(root.join("suid"), PermissionsExt::from_mode(0o4755)).expect("set");
    fs::set_permissions(root.join("etc/fstab"), PermissionsExt::from_mode(0o640)).expect("set");
    fs::set_permissions(root.join("etc/deep"), PermissionsExt::from_mode(0o750)).expect("set");
    settle(&root);
    root
}

/// Gives everything below `folder` a time of its own, in whole seconds.
fn settle(folder: &Path) {
    for (number, entry) in (1..).zip(fs::read_dir(folder).expect("listed")) {
        let path = entry.expect("listed").path();
        let kind = fs::symlink_metadata(&path).expect("there").file_type();
        if kind.is_dir() {
            settle(&path);
        }
        if !kind.is_symlink() {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + number * 1000);
            let times = FileTimes::new().set_modified(time).set_accessed(time);
            File::open(&path).expect("opened").set_times(times).expect("set");
        }
    }
}

/// What `find` says of everything below a folder, in order.
fn facts(folder: &Path, format: &str) -> Vec<String> {
    let mut find = Command::new("find");
    find.arg(folder).args(["-mindepth", "1", "-printf", format]);
    let found = find.output().expect("find runs").stdout;
    let text = String::from_utf8_lossy(&found);
    let mut lines: Vec<String> = text.split('\u{2}').map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Everything but set-id bits: `PRIVILEGED` is for those.
const PLAIN: &str = "%P %y %U %G %s %l %n\u{2}";
const PRIVILEGED: &str = "%P %y %m %U %G %s %l %n\u{2}";

fn assert_same_tree(one: &Path, other: &Path, format: &str) {
    assert_eq!(facts(one, format), facts(other, format));
    let times = "%P %T@\u{2}";
    let is_file = |line: &String| !line.contains("link") && !line.contains("loop");
    let is_timed = |line: &String| is_file(line) && !line.contains("absolute");
    let [one_times, other_times] = [one, other]
        .map(|folder| facts(folder, times).into_iter().filter(is_timed).collect::<Vec<_>>());
    assert_eq!(one_times, other_times);
    let same = Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).output();
    let same = same.expect("diff runs");
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
}

#[test]
fn a_file_comes_out_of_an_image_and_of_a_disk_alike() {
    need!("mke2fs");
    let shell = Shell::with_repository();
    disk_of(&shell, "disk.img", &content(&shell), &[]);
    shell.imgx("capture disk.img --name disk").exits(0);
    for image in ["latest", "disk", "./disk.img"] {
        shell.imgx(&format!("ls {image}")).exits(0).shows(&["etc", "noise", "sparse"]);
        for path in ["/etc/fstab", "etc/fstab", "disk:/etc/fstab", "/absolute", "/etc/../etc/link"]
        {
            let ended = shell.imgx(&format!("cat {image} {path}")).exits(0);
            assert_eq!(ended.out, "/dev/sda1 / ext4\n", "{path}");
        }
        let noise = shell.command(&format!("cat {image} /noise")).output().expect("runs").stdout;
        assert!(noise == fs::read(shell.path("content/noise")).expect("read"));
        let found = shell.imgx(&format!("find {image} *stab")).exits(0);
        assert_eq!(found.out, "disk:/etc/fstab\n");
    }
    shell.imgx("cat latest /etc/nothing").exits(1).complains(&["there is no 'nothing'", "/etc"]);
    shell.imgx("cat latest /etc").exits(2).complains(&["is a folder"]);
    shell.imgx("cat latest /loop").exits(1).complains(&["more than 40 links"]);
    shell.imgx("cat latest /noise/x").exits(1).complains(&["is no folder"]);
    shell.imgx("cat latest p7:/x").exits(1).complains(&["no volume p7", "disk"]);
}

#[test]
fn listings_show_what_is_there() {
    need!("mke2fs");
    let shell = Shell::new();
    disk_of(&shell, "disk.img", &content(&shell), &["-L", "root"]);
    let all = shell.imgx("--json ls -R ./disk.img LABEL=root:/").exits(0).events();
    let row = |path: &str| {
        all.iter().find(|row| row["path"] == path).unwrap_or_else(|| panic!("no {path}")).clone()
    };
    let fstab = row("/etc/fstab");
    assert_eq!((&fstab["type"], &fstab["size"]), (&"file".into(), &17.into()));
    assert_eq!(fstab["mode"], 0o640);
    let uid = fs::metadata(shell.path("content")).expect("there").uid();
    assert_eq!(fstab["uid"], uid);
    assert_eq!(row("/etc/link")["target"], "../etc/fstab");
    assert_eq!(row("/noise")["nlink"], 2);
    let raw = all.iter().find(|row| row["path_b64"] == "L3Jhd//+").expect("raw bytes survive");
    assert_eq!(raw["path"], "/raw\u{fffd}\u{fffd}");
    row("/new\nline \u{1b}[31mred");
    let shown = shell.imgx("ls -l ./disk.img /").exits(0);
    let shown = shown.shows(&["-rwsr-xr-x", "new\\nline \\u{1b}[31mred", "raw\\xff\\xfe"]);
    assert!(!shown.out.contains('\u{1b}'), "an escape reaches the terminal");
    assert!(shown.out.contains("absolute -> /etc/link"));
}

#[test]
fn find_looks_at_names_types_sizes_and_times() {
    need!("mke2fs");
    let shell = Shell::new();
    disk_of(&shell, "disk.img", &content(&shell), &[]);
    let find = |words: &str| {
        let ended = shell.imgx(&format!("find ./disk.img {words}")).exits(0);
        ended.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(find("NOISE*"), [""; 0]);
    assert_eq!(find("NOISE* -i"), ["disk:/etc/noise-too", "disk:/noise"]);
    assert_eq!(
        find("/etc/*"),
        ["deep", "fstab", "link", "noise-too"].map(|n| format!("disk:/etc/{n}"))
    );
    assert_eq!(find("/etc/**/empty"), ["disk:/etc/deep/er/empty"]);
    assert_eq!(find("disk:/e*/f* --type f"), ["disk:/etc/fstab"]);
    assert_eq!(find("e* --type d"), ["disk:/etc", "disk:/etc/deep/er"]);
    assert_eq!(find("* --size +30M"), ["disk:/sparse"]);
    assert_eq!(find("* --size 17 --type f"), ["disk:/etc/fstab"]);
    assert_eq!(find("fstab --older 2001-09-01T00:00:00Z"), [""; 0]);
    assert_eq!(find("fstab --newer 2001-09-01T00:00:00Z --older 2002-01-01"), ["disk:/etc/fstab"]);
    shell.imgx("find ./disk.img [").exits(2).complains(&["pattern"]);
}

#[test]
fn a_tree_comes_back_as_it_was() {
    need!("mke2fs", "diff", "find");
    let shell = Shell::with_repository();
    let content = content(&shell);
    disk_of(&shell, "disk.img", &content, &[]);
    shell.imgx("capture disk.img").exits(0);
    let done = shell.imgx("extract latest / --to out").exits(0);
    done.shows(&["1 file without its set-id bits"]);
    fs::remove_dir_all(shell.path("out/lost+found")).expect("mke2fs made it");
    assert_same_tree(&content, &shell.path("out"), PLAIN);
    let out = |name: &str| fs::metadata(shell.path("out").join(name)).expect("there");
    assert_eq!(out("suid").mode() & 0o7777, 0o755);
    assert_eq!(out("etc/deep").mode() & 0o7777, 0o750);
    assert_eq!(out("noise").ino(), out("etc/noise-too").ino());
    assert!(out("sparse").blocks() * 512 < 1 << 20, "its hole was filled");

    shell.imgx("extract latest / --to out").exits(1).complains(&["exists already", "--overwrite"]);
    fs::write(shell.path("out/etc/fstab"), "changed").expect("written");
    shell.imgx("extract latest / --to out --overwrite --privileged").exits(0);
    fs::remove_dir_all(shell.path("out/lost+found")).expect("made again");
    assert_same_tree(&content, &shell.path("out"), PRIVILEGED);

    let done = shell.imgx("--json extract latest /etc/fstab /etc/deep --to some").exits(0);
    let last = done.events().pop().expect("a result");
    assert_eq!((&last["files"], &last["folders"]), (&2.into(), &2.into()));
    assert!(shell.path("some/fstab").is_file() && shell.path("some/deep/er/empty").is_file());
    shell.imgx("extract latest /etc/fstab /etc/fstab --to other").exits(2);
    shell.imgx("extract latest /etc/fstab /nothing --to other").exits(1);
    assert!(!shell.path("other").exists(), "something was written before all was found");
}

/// Fills a mounted folder with small files and removes every other one, so that what is written
/// later lies in many pieces.
fn litter(folder: &Path) {
    let name = |number: u64| folder.join(format!("litter {number}"));
    let full =
        (0..).find(|number| fs::write(name(*number), incompressible(*number, 20_000)).is_err());
    for number in (0..full.expect("it gets full")).step_by(2) {
        fs::remove_file(name(number)).expect("removed");
    }
}

/// Writes a file in many pieces, of which the first 20 MiB have holes, and says what it holds.
fn write_fragmented(path: &Path) -> Vec<u8> {
    let file = File::create(path).expect("made");
    let mut content = Vec::new();
    for number in 0..700_u64 {
        let piece = incompressible(number, 28 * 1024 + usize::try_from(number).expect("small"));
        let place = match number < 420 {
            true => number * 48 * 1024 + number % 3 * 512,
            false => content.len() as u64,
        };
        content.resize(usize::try_from(place).expect("small"), 0);
        content.extend_from_slice(&piece);
        file.write_all_at(&piece, place).expect("written");
    }
    file.sync_all().expect("synced");
    let told = tool::run("filefrag", &[path.to_str().expect("plain")]).expect("filefrag runs");
    let extents = told.split(": ").nth(1).and_then(|rest| rest.split(' ').next());
    let extents: u64 = extents.and_then(|count| count.parse().ok()).expect("a count");
    assert!(extents > 300, "{told}");
    content
}

/// Has `work` write to the ext4 filesystem on `disk`.
fn mounted<T>(shell: &Shell, disk: &Path, work: impl FnOnce(&Path) -> T) -> T {
    let point = shell.path("mounted");
    fs::create_dir_all(&point).expect("made");
    let words = [disk, &point].map(|path| path.to_str().expect("plain"));
    tool::run("mount", &["-t", "ext4", "-o", "loop", words[0], words[1]]).expect("mounted");
    let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&point)));
    tool::run("umount", &[words[1]]).expect("unmounted");
    worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn a_large_file_in_many_pieces_and_with_holes_comes_out_as_it_was() {
    need!("mke2fs", "filefrag");
    if !tool::is_root() || LoopDevice::unavailable().is_some() {
        println!("skipped: mounting needs root and loop devices");
        return;
    }
    for features in ["extent", "^extent,^64bit"] {
        let shell = Shell::with_repository();
        let disk = shell.path("disk.img");
        mkfs::blank(&disk, 64 << 20).expect("made");
        let path = disk.to_str().expect("plain");
        let made = ["-q", "-F", "-t", "ext4", "-b", "1024", "-O", features, path];
        tool::run("mke2fs", &made).expect("mke2fs runs");
        let content = mounted(&shell, &disk, |root| {
            litter(root);
            let content = write_fragmented(&root.join("large"));
            assert!(fs::read(root.join("large")).expect("read") == content);
            content
        });
        assert!(content.len() > 24 << 20, "no file that is cut in parts");
        shell.imgx("capture disk.img").exits(0);
        for (image, folder) in [("latest", "from-image"), ("./disk.img", "from-disk")] {
            shell.imgx(&format!("extract {image} /large --to {folder}")).exits(0);
            let large = shell.path(folder).join("large");
            assert!(fs::read(&large).expect("read") == content, "{features}: {image}");
            let held = fs::metadata(&large).expect("there").blocks() * 512;
            assert!(held + (4 << 20) < content.len() as u64, "{features}: {held} bytes: holes");
        }
    }
}

#[test]
fn a_large_file_goes_to_a_filesystem_that_is_unmounted_at_once_or_full() {
    need!("mke2fs");
    if !tool::is_root() || LoopDevice::unavailable().is_some() {
        println!("skipped: mounting needs root and loop devices");
        return;
    }
    let shell = Shell::with_repository();
    fs::create_dir(shell.path("content")).expect("made");
    let content = incompressible(1, (24 << 20) + 777);
    fs::write(shell.path("content/large"), &content).expect("written");
    disk_of(&shell, "disk.img", &shell.path("content"), &[]);
    shell.imgx("capture disk.img").exits(0);
    for (size, fits) in [(40_u64, true), (20, false)] {
        let disk = shell.path(&format!("ext4-{size}.img"));
        mkfs::blank(&disk, size << 20).expect("made");
        let made = ["-q", "-F", "-t", "ext4", disk.to_str().expect("plain")];
        tool::run("mke2fs", &made).expect("mke2fs runs");
        // Unmounting fails where anything still holds the file.
        mounted(&shell, &disk, |_| assert_extracted(&shell, &content, fits));
        let folder = shell.path("mounted");
        let option = format!("size={size}m");
        let folder = folder.to_str().expect("plain");
        let words = ["-t", "tmpfs", "-o", &option, "none", folder];
        tool::run("mount", &words).expect("mounted");
        let ended = std::panic::catch_unwind(|| assert_extracted(&shell, &content, fits));
        tool::run("umount", &[folder]).expect("unmounted");
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// Extracts a file of this content to the folder `mounted`, where it fits or not.
fn assert_extracted(shell: &Shell, content: &[u8], fits: bool) {
    let ended = shell.imgx("extract latest /large --to mounted");
    let large = shell.path("mounted/large");
    if fits {
        ended.exits(0);
        assert!(fs::read(&large).expect("read") == content);
    } else {
        ended.exits(1).complains(&["mounted/large at byte", "No space left"]);
        assert!(!large.exists(), "half a file stayed");
    }
}

#[test]
fn an_archive_unpacks_to_the_same_tree() {
    need!("mke2fs", "tar", "diff", "find");
    let shell = Shell::new();
    let content = content(&shell);
    let long = "long-".repeat(45);
    fs::create_dir_all(content.join(&long)).expect("made");
    fs::write(content.join(&long).join(&long), "deep").expect("written");
    symlink(&long, content.join("far-link")).expect("linked");
    settle(&content);
    disk_of(&shell, "disk.img", &content, &[]);
    let mut imgx = shell.command("extract ./disk.img / --tar").stdout(Stdio::piped()).spawn();
    let archive = imgx.as_mut().expect("runs").stdout.take().expect("piped");
    fs::create_dir(shell.path("out")).expect("made");
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--exclude=lost+found", "-C"]).arg(shell.path("out"));
    let tar = tar.stdin(archive).output().expect("tar runs");
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    assert_eq!(imgx.expect("runs").wait().expect("ended").code(), Some(0));
    assert_same_tree(&content, &shell.path("out"), PRIVILEGED);
}

#[test]
fn a_filesystem_beside_a_partition_table_is_the_whole_disk() {
    need!("mke2fs", "sfdisk");
    let shell = Shell::with_repository();
    let disk = disk_of(&shell, "disk.img", &content(&shell), &[]);
    mkfs::sfdisk(&disk, "label: dos\nstart=2048, size=4096\n").expect("sfdisk runs");
    shell.imgx("capture disk.img").exits(0);
    for image in ["latest", "./disk.img"] {
        let ended = shell.imgx(&format!("cat {image} disk:/etc/fstab")).exits(0);
        assert_eq!(ended.out, "/dev/sda1 / ext4\n");
        shell.imgx(&format!("ls {image} p1:/")).exits(1);
        shell.imgx(&format!("ls {image}")).exits(1).complains(&["p1"]);
    }
}

#[test]
fn devices_are_made_only_on_demand() {
    need!("mke2fs", "debugfs");
    let shell = Shell::new();
    let disk = disk_of(&shell, "disk.img", &content(&shell), &[]);
    let disk = disk.to_str().expect("plain");
    tool::run("debugfs", &["-w", "-R", "mknod null c 1 3", disk]).expect("debugfs runs");
    shell.imgx("extract ./disk.img /null /etc/fstab --to out").exits(0).shows(&["1 device node"]);
    assert!(!shell.path("out/null").exists() && shell.path("out/fstab").exists());
    if !tool::is_root() {
        println!("skipped: making devices needs root");
        return;
    }
    shell.imgx("extract ./disk.img /null --to out --privileged").exits(0);
    let made = fs::metadata(shell.path("out/null")).expect("made");
    assert!(made.file_type().is_char_device());
    assert_eq!(made.rdev(), 0x103);
}

#[test]
fn planted_links_and_names_do_not_lead_out_of_the_folder() {
    need!("mke2fs");
    let shell = Shell::new();
    fs::create_dir_all(shell.path("outside")).expect("made");
    fs::create_dir_all(shell.path("first")).expect("made");
    symlink(shell.path("outside"), shell.path("first/planted")).expect("linked");
    fs::create_dir_all(shell.path("second/planted")).expect("made");
    fs::write(shell.path("second/planted/file"), "escaped").expect("written");
    fs::write(shell.path("second/__up_up_evil"), "escaped").expect("written");
    disk_of(&shell, "first.img", &shell.path("first"), &[]);
    let plain = ["-O", "^metadata_csum,^dir_index"];
    let second = disk_of(&shell, "second.img", &shell.path("second"), &plain);

    shell.imgx("extract ./first.img / --to out").exits(0);
    for more in ["", " --overwrite"] {
        let ended = shell.imgx(&format!("extract ./second.img /planted --to out{more}"));
        assert!(matches!(ended.code, Some(1)), "{ended:?}");
        assert!(fs::read_dir(shell.path("outside")).expect("there").next().is_none());
    }

    let bytes = fs::read(&second).expect("read");
    let name = b"__up_up_evil";
    let place = bytes.windows(name.len()).position(|window| window == name).expect("there");
    overwrite(&second, place as u64, b"../outside/x");
    shell.imgx("ls ./second.img /").exits(3).complains(&["damage", "../outside/x"]);
    shell.imgx("extract ./second.img / --to out2").exits(3).complains(&["../outside/x"]);
    assert!(shell.path("out2/planted/file").exists(), "the rest comes out");
    assert!(fs::read_dir(shell.path("outside")).expect("there").next().is_none());
}

#[test]
fn damage_costs_only_the_file_that_has_it() {
    need!("mke2fs");
    let shell = Shell::with_repository();
    let disk = disk_of(&shell, "disk.img", &content(&shell), &[]);
    let bytes = fs::read(&disk).expect("read");
    let needle = b"/dev/sda1 / ext4\n";
    assert!(bytes.windows(needle.len()).any(|window| window == needle));
    shell.imgx("capture disk.img").exits(0);
    // The largest pack's middle holds the noise.
    let pack = shell.objects("packs").remove(0);
    crate::support::flip(&pack, crate::support::length(&pack) / 2);
    let verified = shell.imgx("verify").exits(3).complains(&["file disk:/noise"]);
    assert!(!verified.err.contains("fstab"), "{}", verified.err);
    let result = shell.imgx("--json verify").exits(3).events().pop().expect("a result");
    let named = result["files"].as_array().expect("a list");
    // One file under two names.
    let paths: Vec<_> = named.iter().map(|file| file["path"].as_str().expect("a path")).collect();
    assert_eq!(paths, ["/etc/noise-too", "/noise"]);
    let ended = shell.imgx("extract latest / --to out").exits(3);
    ended.complains(&["damage"]);
    let whole = fs::read(shell.path("content/noise")).expect("read");
    let partly = fs::read(shell.path("out/noise"));
    assert!(partly.is_err() || partly.is_ok_and(|bytes| bytes == whole), "half a file stayed");
}

#[test]
fn content_that_was_left_out_is_refused_and_said_to_be() {
    need!("mke2fs", "mkswap");
    let shell = Shell::with_repository();
    let root = shell.path("content");
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::write(root.join("etc/fstab"), "/swapfile none swap sw 0 0\n").expect("written");
    fs::write(root.join("swapfile"), incompressible(1, 5 << 20)).expect("written");
    tool::run("mkswap", &[root.join("swapfile").to_str().expect("plain")]).expect("made");
    let disk = disk_of(&shell, "disk", &root, &[]);
    shell.imgx("capture disk --all-blocks --skip-swap").exits(2);
    let kept = "disk:/swapfile: ";
    let ended = shell.imgx("capture disk --skip-swap").exits(0);
    ended.shows(&[kept, "left out by --skip-swap"]);
    let document = shell.imgx("--json show disk").exits(0).document();
    let file = &document["allocation"][0]["skipped"][0];
    assert_eq!(file["path"], "/swapfile");
    assert!(file["bytes"].as_u64().is_some_and(|bytes| bytes > 2 << 20), "{file}");
    shell.imgx("show disk").exits(0).shows(&[kept, "left out by --skip-swap"]);
    let refused = "its content was left out by --skip-swap";
    let ended = shell.imgx("cat disk /swapfile").exits(1).complains(&["disk:/swapfile", refused]);
    assert!(ended.out.is_empty());
    shell.imgx("ls -l disk /swapfile").exits(0).shows(&["5242880"]);
    shell.imgx("extract disk / --to to").exits(4).complains(&["disk:swapfile", refused]);
    assert_same(&root.join("etc/fstab"), &shell.path("to/etc/fstab"));
    shell.imgx("verify").exits(0);
    // The disk itself has it.
    let whole = shell.imgx("extract ./disk /swapfile --to whole").exits(0);
    assert!(whole.err.is_empty(), "{}", whole.err);
    assert_same(&root.join("swapfile"), &shell.path("whole/swapfile"));
    shell.imgx("restore disk restored").exits(0);
    let restored = shell.imgx("extract ./restored /etc --to back").exits(0);
    assert!(restored.err.is_empty(), "{}", restored.err);
    assert_same(&root.join("etc/fstab"), &shell.path("back/etc/fstab"));
    tool::run("e2fsck", &["-f", "-n", shell.path("restored").to_str().expect("plain")])
        .expect("it is sound");
    assert!(disk.is_file());
}
