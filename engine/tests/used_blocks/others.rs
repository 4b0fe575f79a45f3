//! XFS, btrfs and NTFS: whatever a capture leaves out of them, they come back sound and with all
//! their files; and where it leaves nothing out, byte for byte.

use std::fs;
use std::path::Path;

use imgx_engine::base::BlockSize;
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

use crate::support::{MIB, Mounted, captured, folder_in_memory, unsound};
use crate::{assert_only_lacks, fill, restored, tree_of};

/// A filesystem: its partition in MiB, how it is made, checked and mounted; each command line
/// ends with the file that holds it.
struct Kind {
    name: &'static str,
    part: (usize, usize),
    make: &'static [&'static str],
    check: &'static [&'static str],
    mount: &'static [&'static str],
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "xfs",
        part: (1, 64),
        make: &["mkfs.xfs", "-q", "-K", "--unsupported"],
        check: &["xfs_repair", "-n"],
        mount: &["-t", "xfs", "-o", "loop"],
    },
    Kind {
        name: "btrfs",
        part: (65, 112),
        make: &["mkfs.btrfs", "-q", "-f", "-K", "-m", "single", "-d", "single"],
        check: &["btrfs", "check"],
        mount: &["-t", "btrfs", "-o", "loop"],
    },
    Kind {
        name: "ntfs",
        part: (177, 32),
        make: &["mkntfs", "-q", "-F", "-f"],
        check: &["ntfsresize", "--info", "--force", "--no-progress-bar"],
        mount: &["-t", "ntfs-3g", "-o", "loop"],
    },
];
const DISK: usize = 210;

fn run_on(line: &[&str], path: &Path) {
    let words = [&line[1..], &[path.to_str().expect("plain")]].concat();
    tool::run(line[0], &words).expect("it runs");
}

fn mount_line<'a>(kind: &Kind, path: &'a Path) -> Vec<&'a str>
where
    Kind: 'a,
{
    let mut line = kind.mount.to_vec();
    line.push(path.to_str().expect("plain"));
    line
}

#[test]
fn filesystems_come_back_sound_whether_or_not_they_know_of_free_space() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let tools = KINDS.iter().flat_map(|kind| [kind.make[0], kind.check[0]]);
    for tool in tools.chain(["sfdisk", "ntfs-3g"]) {
        if !tool::have(tool) {
            println!("skipped: no {tool}");
            return;
        }
    }
    let folder = folder_in_memory();
    let (path, part) = (folder.path().join("disk"), folder.path().join("part"));
    let point = folder.path().join("mounted");
    fs::create_dir(&point).expect("made");
    fs::write(&path, incompressible(12, DISK * MIB)).expect("written");
    let line = |kind: &Kind| format!("start={}M, size={}M\n", kind.part.0, kind.part.1);
    let table: String = KINDS.iter().map(line).collect();
    mkfs::sfdisk(&path, &format!("label: gpt\n{table}")).expect("made");
    let mut disk = fs::read(&path).expect("read");
    let range = |kind: &Kind| kind.part.0 * MIB..(kind.part.0 + kind.part.1) * MIB;
    for kind in &KINDS {
        fs::write(&part, &disk[range(kind)]).expect("written");
        run_on(kind.make, &part);
        let mounted = Mounted::new(&mount_line(kind, &part), &point);
        fill(&point);
        drop(mounted);
        disk[range(kind)].copy_from_slice(&fs::read(&part).expect("read"));
    }
    fs::write(&path, &disk).expect("written");

    let repository = folder.path().join("repository");
    let block_size = BlockSize::new(16_384).expect("valid");
    let repository = Repository::create(&repository, block_size).expect("created");
    let report = captured(&repository, &path, "disk");
    let back = restored(&repository, &report, folder.path());
    assert_only_lacks(&back, &disk);
    for (number, kind) in (1..).zip(&KINDS) {
        let name = format!("p{number}");
        let allocation = report.manifest.allocation.iter();
        let left_out: u64 = allocation
            .filter(|volume| volume.volume == name)
            .map(|volume| volume.unallocated)
            .sum();
        let is_same = back[range(kind)] == disk[range(kind)];
        assert_eq!(is_same, left_out == 0, "{}: {left_out} bytes are left out", kind.name);
        fs::write(&part, &disk[range(kind)]).expect("written");
        let before = tree_of(&mount_line(kind, &part), folder.path());
        assert_eq!(before.len(), 40, "{}", kind.name);
        fs::write(&part, &back[range(kind)]).expect("written");
        run_on(kind.check, &part);
        let after = tree_of(&mount_line(kind, &part), folder.path());
        assert!(after == before, "{} differs", kind.name);
    }
    assert_eq!(unsound(&repository), None);
}
