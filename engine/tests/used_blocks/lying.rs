//! Allocation maps that call free what a file uses, though nothing of the file changed since the
//! parent: all sums and counts are right, so only the files themselves can tell. And files that
//! change by chance from image to image.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use imgx_engine::base::{BlockSize, ByteCount, ByteRange, Silent};
use imgx_engine::fs as engine_fs;
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::pattern::{Random, incompressible, text};
use imgx_fixtures::tool;

use crate::support::{MIB, Mounted, captured, folder_in_memory, unsound};
use crate::{Told, assert_only_lacks, fill, restored, sums, tree_of};

/// A filesystem on a disk of its own, whose changes are tracked.
struct Disk {
    folder: tempfile::TempDir,
    path: PathBuf,
    repository: Repository,
    told: Arc<Mutex<Vec<ByteRange>>>,
    kind: &'static Kind,
}

struct Kind {
    name: &'static str,
    size: usize,
    make: &'static [&'static str],
    check: &'static [&'static str],
    mount: &'static [&'static str],
    /// Makes the allocation map call a range free that a file uses.
    lie: fn(&Path, ByteRange),
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "xfs",
        size: 64,
        make: &["mkfs.xfs", "-q", "-K", "-d", "agcount=1", "--unsupported"],
        check: &["xfs_repair", "-n", "-o", "force_geometry"],
        mount: &["-t", "xfs", "-o", "loop,nodiscard"],
        lie: free_in_xfs,
    },
    Kind {
        name: "btrfs",
        size: 144,
        make: &["mkfs.btrfs", "-q", "-f", "-K", "-m", "dup", "-d", "single"],
        check: &["btrfs", "check", "--check-data-csum"],
        mount: &["-t", "btrfs", "-o", "loop,nodiscard"],
        lie: free_in_btrfs,
    },
    Kind {
        name: "ntfs",
        size: 48,
        make: &["mkntfs", "-q", "-Q", "-F"],
        check: &["ntfsfix", "-n"],
        mount: &["-t", "ntfs-3g", "-o", "loop"],
        lie: free_in_ntfs,
    },
];

/// Whether a test of `kind` can run here; says why not.
fn can_run(kind: &Kind) -> bool {
    let tools = [kind.make[0], kind.check[0], "xfs_db", "ntfs-3g"];
    let missing = tools.into_iter().find(|tool| !tool::have(tool)).map(str::to_owned);
    let reason = LoopDevice::unavailable().map(str::to_owned).or(missing);
    if let Some(reason) = &reason {
        println!("skipped {}: {reason}", kind.name);
    }
    reason.is_none()
}

impl Disk {
    fn new(kind: &'static Kind) -> Self {
        let folder = folder_in_memory();
        let path = folder.path().join("disk");
        // What is left out shows, since free space was in use once.
        fs::write(&path, incompressible(5, kind.size * MIB)).expect("written");
        let line = [&kind.make[1..], &[path.to_str().expect("plain")]].concat();
        tool::run(kind.make[0], &line).expect("made");
        let block_size = BlockSize::new(16_384).expect("valid");
        let repository = Repository::create(&folder.path().join("repository"), block_size);
        let repository = repository.expect("created");
        Self { folder, path, repository, told: Arc::default(), kind }
    }

    fn mount_line<'a>(&self, path: &'a Path) -> Vec<&'a str> {
        [self.kind.mount, &[path.to_str().expect("plain")]].concat()
    }

    /// Has `work` change the disk, and the tracker tell of it.
    fn change(&self, work: impl FnOnce(&Path)) {
        let before = fs::read(&self.path).expect("read");
        work(&self.path);
        let after = fs::read(&self.path).expect("read");
        let pieces = before.chunks(4096).zip(after.chunks(4096)).enumerate();
        let changed = pieces.filter(|(_, (one, other))| one != other);
        let ranges = changed.map(|(number, _)| ByteRange::new(number as u64 * 4096, 4096));
        self.told.lock().expect("no panic").extend(ranges);
    }

    fn in_mount(&self, work: impl FnOnce(&Path)) {
        self.change(|path| {
            let point = self.folder.path().join("mounted");
            fs::create_dir_all(&point).expect("made");
            let _mounted = Mounted::new(&self.mount_line(path), &point);
            work(&point);
        });
    }

    fn capture(&self) -> CaptureReport {
        let size = ByteCount((self.kind.size * MIB) as u64);
        let options = CaptureOptions { audit: Some(1 << 24), ..CaptureOptions::default() };
        let plan = Capture::plan(&self.repository, &self.path, options, &Silent);
        let plan =
            plan.expect("planned").with_tracker(Box::new(Told(Arc::clone(&self.told), size)));
        plan.run(&Silent).expect("captured")
    }

    /// What the image restores to is sound, and has the disk's files.
    fn check(&self, report: &CaptureReport) {
        let name = self.kind.name;
        let doubt = report.manifest.allocation.first().and_then(|one| one.doubt.clone());
        assert_eq!(doubt, None, "{name}");
        let disk = fs::read(&self.path).expect("read");
        let back = restored(&self.repository, report, self.folder.path());
        assert_only_lacks(&back, &disk);
        let copies = [("disk again", &disk), ("image", &back)].map(|(what, bytes)| {
            let path = self.folder.path().join(what);
            fs::write(&path, bytes).expect("written");
            path
        });
        let line = [&self.kind.check[1..], &[copies[1].to_str().expect("plain")]].concat();
        tool::run(self.kind.check[0], &line).unwrap_or_else(|error| panic!("{name}: {error}"));
        let [expected, found] =
            copies.map(|path| tree_of(&self.mount_line(&path), self.folder.path()));
        assert!(found == expected, "{name}: other files");
        assert_eq!(unsound(&self.repository), None, "{name}");
    }

    /// Where the content of a file is, by its name: its largest extent.
    fn place_of(&self, path: &str) -> ByteRange {
        let bytes: Arc<dyn imgx_engine::base::ReadAt> =
            Arc::new(fs::read(&self.path).expect("read"));
        let filesystem = engine_fs::open(&bytes).expect("opened");
        let file = path.split('/').fold(filesystem.root(), |folder, name| {
            filesystem.lookup(folder, name.as_bytes()).expect("searched").expect("found")
        });
        let mut places = Vec::new();
        let mut content = filesystem.open(file).expect("opened");
        let shown = content.extents(&mut |extent| {
            if let engine_fs::Place::At(start) = extent.place {
                places.push(ByteRange::new(start, extent.length));
            }
            std::ops::ControlFlow::Continue(())
        });
        shown.expect("shown");
        places.into_iter().max_by_key(ByteRange::len).expect("it has content")
    }
}

/// The numbers that end the lines that `xfs_db` prints.
fn xfs_db(image: &Path, writing: bool, commands: &[String]) -> String {
    let mut line = vec![if writing { "-x" } else { "-r" }];
    commands.iter().for_each(|command| line.extend(["-c", command]));
    line.push(image.to_str().expect("plain"));
    tool::run("xfs_db", &line).expect("xfs_db runs")
}

/// Writes the tree of free blocks anew, in both orders, with more in it, and all counts.
fn free_in_xfs(image: &Path, range: ByteRange) {
    let ask = |commands: &[&str]| {
        let commands: Vec<String> = commands.iter().map(|one| (*one).to_owned()).collect();
        xfs_db(image, false, &commands)
    };
    let number = |text: &str| text.trim().rsplit(' ').next().and_then(|text| text.parse().ok());
    let level: Option<u64> = number(&ask(&["agf 0", "print bnolevel"]));
    assert_eq!(level, Some(1), "one leaf");
    // `1:[first,count] 2:[first,count]`.
    let said = ask(&["agf 0", "addr bnoroot", "print recs"]);
    let pairs =
        said.split('[').filter_map(|piece| piece.split_once(']')).filter_map(|(pair, _)| {
            let (first, count) = pair.split_once(',')?;
            Some((first.parse::<u64>().ok()?, count.parse::<u64>().ok()?))
        });
    let block = 4096;
    let as_range = |(first, count): (u64, u64)| ByteRange::new(first * block, count * block);
    let mut free: Vec<ByteRange> = pairs.map(as_range).collect();
    assert!(!free.is_empty(), "{said}");
    free.push(range);
    let free = imgx_engine::base::ranges::joined(free);
    let mut write = vec!["agf 0".to_owned(), "addr bnoroot".to_owned()];
    write.push(format!("write -d numrecs {}", free.len()));
    for (place, range) in (1..).zip(&free) {
        write.push(format!("write -d recs[{place}].startblock {}", range.start / block));
        write.push(format!("write -d recs[{place}].blockcount {}", range.len() / block));
    }
    let all: u64 = free.iter().map(|range| range.len() / block).sum();
    let longest = free.iter().map(|range| range.len() / block).max().unwrap_or_default();
    write.extend(["agf 0".to_owned(), format!("write -d freeblks {all}")]);
    write.push(format!("write -d longest {longest}"));
    let count: u64 = number(&ask(&["sb 0", "print fdblocks"])).expect("a number");
    let more = range.len() / block;
    write.extend(["sb 0".to_owned(), format!("write -d fdblocks {}", count + more)]);
    xfs_db(image, true, &write);
}

/// Takes an extent out of the tree of extents, and out of the counts of its block group and of the
/// superblock.
fn free_in_btrfs(image: &Path, range: ByteRange) {
    let mut bytes = fs::read(image).expect("read");
    let node = 16 << 10;
    let le64 = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    };
    let logical = logical_of(&bytes, range.start);
    let nodes = sums::blocks(&bytes, node);
    let (mut taken, mut counted) = (0_u64, 0);
    // Stale nodes are changed as well, which harms nothing.
    for pass in [168_u8, 192] {
        for (place, length) in nodes.iter().copied().filter(|(_, length)| *length == node) {
            let block = &mut bytes[place..place + length];
            let count = usize::from(u16::from_le_bytes([block[0x60], block[0x61]]));
            if block[0x64] != 0 {
                continue;
            }
            for item in 0..count {
                let at = 101 + item * 25;
                let (key, kind, offset) = (le64(block, at), block[at + 8], le64(block, at + 9));
                match (pass, kind) {
                    (168, 168) if key == logical => {
                        // Something that no reader knows of, in the same order.
                        (block[at + 8], taken) = (170, offset);
                    }
                    (192, 192) if key <= logical && logical < key + offset => {
                        let data =
                            u32::from_le_bytes(block[at + 17..at + 21].try_into().expect("4"));
                        let data = 101 + data as usize;
                        let used = le64(block, data) - taken;
                        block[data..data + 8].copy_from_slice(&used.to_le_bytes());
                        counted += 1;
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(taken >= range.len() && counted > 0, "{taken} bytes, {counted} groups");
    for place in [64 << 10, 64 << 20] {
        let used = le64(&bytes, place + 0x78) - taken;
        bytes[place + 0x78..place + 0x80].copy_from_slice(&used.to_le_bytes());
    }
    sums::fix(&mut bytes, &nodes);
    fs::write(image, bytes).expect("written");
}

/// The logical address of a byte of the device: by the data chunk that `btrfs` lists.
fn logical_of(bytes: &[u8], place: u64) -> u64 {
    let folder = folder_in_memory();
    let copy = folder.path().join("copy");
    fs::write(&copy, bytes).expect("written");
    let words = ["inspect-internal", "dump-tree", "-t", "chunk", copy.to_str().expect("plain")];
    let said = tool::run("btrfs", &words).expect("btrfs runs");
    let (mut start, mut length, mut found) = (0, 0, None);
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.trim_end_matches(')').parse::<u64>().ok();
        match words.as_slice() {
            ["item", _, "key", _, "CHUNK_ITEM", offset, ..] => start = number(offset).unwrap_or(0),
            ["length", size, ..] => length = number(size).unwrap_or(0),
            ["stripe", _, "devid", _, "offset", at, ..] => {
                let at = number(at).unwrap_or(0);
                if (at..at + length).contains(&place) {
                    found = Some(start + place - at);
                }
            }
            _ => {}
        }
    }
    found.expect("a chunk is there")
}

/// Clears bits of `$Bitmap`.
fn free_in_ntfs(image: &Path, range: ByteRange) {
    let words = ["-f", "-F", "$Bitmap", "-v", image.to_str().expect("plain")];
    let said = tool::run("ntfsinfo", &words).expect("ntfsinfo runs");
    // The first run of its content: `VCN LCN Length`, in hexadecimal.
    let rows = said.split("Runlist:").nth(1).expect("a run list").lines().skip(1);
    let numbers = |line: &str| -> Vec<u64> {
        let words = line.split_whitespace();
        words
            .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
            .collect()
    };
    let first = rows.map(numbers).find(|row| row.len() == 3).expect("a run");
    let cluster = 4096;
    let file = OpenOptions::new().read(true).write(true).open(image).expect("opened");
    for number in range.start / cluster..range.end.div_ceil(cluster) {
        let at = first[1] * cluster + number / 8;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        assert!(byte[0] >> (number % 8) & 1 == 1, "cluster {number} is in use: {said}");
        byte[0] &= !(1 << (number % 8));
        file.write_all_at(&byte, at).expect("written");
    }
}

#[test]
fn what_a_map_calls_free_though_an_unchanged_file_uses_it_is_captured() {
    for kind in KINDS.iter().filter(|kind| can_run(kind)) {
        let disk = Disk::new(kind);
        disk.in_mount(|root| {
            fill(root);
            fs::write(root.join("kept"), incompressible(77, 2 * MIB)).expect("written");
        });
        let sound = disk.capture();
        disk.check(&sound);
        assert!(sound.manifest.cost.unallocated > 8 << 20, "{:?}", sound.manifest.cost);
        let place = disk.place_of("kept");
        assert!(place.len() >= 256 << 10, "{}: {place}", kind.name);
        disk.in_mount(|root| fs::write(root.join("new"), b"something else").expect("written"));
        // What is not written stays as the parent has it, so its bytes change: not by way of the
        // filesystem, which would change the file as well.
        disk.change(|path| {
            (kind.lie)(path, place);
            let noise = incompressible(78, usize::try_from(place.len()).expect("small"));
            let file = OpenOptions::new().write(true).open(path).expect("opened");
            file.write_all_at(&noise, place.start).expect("written");
        });
        let report = disk.capture();
        assert_eq!(report.manifest.tracker, "told", "{}", kind.name);
        let first = Repository::create(
            &disk.folder.path().join("first"),
            BlockSize::new(16_384).expect("valid"),
        );
        let first = first.expect("created");
        for (repository, report) in
            [(&disk.repository, report), (&first, captured(&first, &disk.path, "disk"))]
        {
            let allocation = &report.manifest.allocation[0];
            let doubt = allocation.doubt.as_deref().unwrap_or_default();
            println!("{}: {doubt}", kind.name);
            assert!(doubt.contains("are in use") && doubt.contains("/kept"), "{allocation:?}");
            let back = restored(repository, &report, disk.folder.path());
            let whole = fs::read(&disk.path).expect("read");
            assert!(back == whole, "{}: all of it is there", kind.name);
        }
    }
}

/// One operation by chance on the files of `folder`.
fn operation(root: &Path, random: &mut Random, number: u64) {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(root).expect("listed").flatten() {
        let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        files.extend(inner.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    files.sort();
    let one = files[usize::try_from(random.below(files.len() as u64)).expect("small")].clone();
    let open = || OpenOptions::new().write(true).open(&one).expect("opened");
    let at = random.below(300_000);
    match random.below(8) {
        0 => fs::remove_file(&one).expect("removed"),
        1 => {
            let beside = one.with_extension(format!("{number}"));
            fs::write(beside, text(number, 90_000)).expect("made");
        }
        2 => fs::write(&one, incompressible(number, 200_000)).expect("written"),
        3 => open().write_all_at(&incompressible(number, 30_000), at).expect("written"),
        4 => open().set_len(at).expect("cut"),
        5 => fs::rename(&one, one.with_extension(format!("moved{number}"))).expect("moved"),
        6 => {
            let folder = root.join(format!("new {number}"));
            fs::create_dir(&folder).expect("made");
            (0..20).for_each(|file| {
                fs::write(folder.join(file.to_string()), text(file, 7000)).expect("written");
            });
        }
        // Many small pieces: a map beyond the inode.
        _ => (0..60).for_each(|piece| {
            open().write_all_at(b"piece", piece * 20_000).expect("written");
        }),
    }
}

#[test]
fn files_that_change_by_chance_come_back_from_every_image() {
    for kind in KINDS.iter().filter(|kind| can_run(kind)) {
        let disk = Disk::new(kind);
        let mut random = Random::new(kind.size as u64);
        disk.in_mount(fill);
        disk.check(&disk.capture());
        for generation in 0..3 {
            disk.in_mount(|root| {
                (0..12).for_each(|number| operation(root, &mut random, generation * 100 + number));
            });
            let report = disk.capture();
            assert_eq!(report.manifest.tracker, "told", "{}", kind.name);
            disk.check(&report);
        }
    }
}
