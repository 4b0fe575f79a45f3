//! The layouts of real disk images equal what other readers say of them.
//!
//! The images lie beside the checkout in `../shared/corpus`, or where `IMGX_CORPUS` says. Their
//! oracles are sfdisk and mmls for partitions, and the kernel and others for filesystems.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use imgx_engine::base::bytes::is_zero;
use imgx_engine::base::{ByteCount, ByteOffset, ReadAt, Result};
use imgx_engine::volume::{DiskLayout, Volume, probe};
use rayon::prelude::*;

/// Images of more bytes than this are left out: they would take the test's minute.
const MOST: u64 = 1_700_000_000;
/// One probe must end within this, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(5);
const CHUNK: usize = 256 * 1024;

/// An unpacked image in memory, without its zeros.
struct Sparse {
    size: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    fn unpack(path: &Path) -> Self {
        let packed = File::open(path).expect("the packed image opens");
        let mut stream = zstd::stream::read::Decoder::new(packed).expect("zstd starts");
        stream.window_log_max(31).expect("the widest window is allowed");
        let mut sparse = Self { size: 0, chunks: BTreeMap::new() };
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut filled = 0;
            while filled < CHUNK {
                match stream.read(&mut buffer[filled..]).expect("the image unpacks") {
                    0 => break,
                    count => filled += count,
                }
            }
            if !is_zero(&buffer[..filled]) {
                let mut chunk = buffer.clone();
                chunk[filled..].fill(0);
                sparse.chunks.insert(sparse.size / CHUNK as u64, chunk);
            }
            sparse.size += filled as u64;
            if filled < CHUNK {
                return sparse;
            }
        }
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> ByteCount {
        ByteCount(self.size)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        assert!(offset.0 + buffer.len() as u64 <= self.size, "a read beyond the end");
        buffer.fill(0);
        let mut done = 0;
        while done < buffer.len() {
            let place = offset.0 + done as u64;
            let within = usize::try_from(place % CHUNK as u64).expect("a chunk fits memory");
            let count = (CHUNK - within).min(buffer.len() - done);
            if let Some(chunk) = self.chunks.get(&(place / CHUNK as u64)) {
                buffer[done..done + count].copy_from_slice(&chunk[within..within + count]);
            }
            done += count;
        }
        Ok(())
    }
}

/// An image as the manifest describes it.
struct Image {
    name: String,
    kind: String,
    filesystem: String,
    table: String,
    file: String,
}

fn images(corpus: &Path) -> Option<Vec<Image>> {
    let manifest = std::fs::read_to_string(corpus.join("MANIFEST.tsv")).ok()?;
    let mut lines = manifest.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next()?;
    let column = |name: &str| header.iter().position(|each| *each == name);
    let (name, kind, filesystem, table) =
        (column("image")?, column("kind")?, column("fs")?, column("ptable")?);
    let (size, file) = (column("size")?, column("file")?);
    let small = |row: &Vec<&str>| row[size].parse().is_ok_and(|size: u64| size <= MOST);
    let image = |row: Vec<&str>| Image {
        name: row[name].to_owned(),
        kind: row[kind].to_owned(),
        filesystem: row[filesystem].to_owned(),
        table: row[table].to_owned(),
        file: row[file].to_owned(),
    };
    Some(lines.filter(small).map(image).collect())
}

fn oracle(corpus: &Path, image: &str) -> Vec<serde_json::Value> {
    let plain = corpus.join(format!("{image}.oracle.jsonl"));
    let text = match std::fs::read_to_string(&plain) {
        Ok(text) => text,
        Err(_) => {
            let Ok(packed) = File::open(plain.with_extension("jsonl.zst")) else {
                return Vec::new();
            };
            let bytes = zstd::decode_all(packed).expect("the oracle unpacks");
            String::from_utf8(bytes).expect("the oracle is text")
        }
    };
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// What came of comparing the images.
#[derive(Default)]
struct Tally {
    images: u32,
    tables: u32,
    partitions: u32,
    contents: u32,
    others: u32,
    unnamed: Vec<String>,
    failures: Vec<String>,
}

#[test]
fn layouts_equal_the_corpus() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = std::env::var_os("IMGX_CORPUS").map_or(beside, PathBuf::from);
    let Some(images) = images(&corpus) else {
        println!("skipped: no corpus");
        return;
    };
    let tally = Mutex::new(Tally::default());
    images.par_iter().for_each(|image| {
        let disk: Arc<dyn ReadAt> = Arc::new(Sparse::unpack(&corpus.join(&image.file)));
        let start = Instant::now();
        let layout = probe(&disk, 512).expect("bad content is never an error");
        let took = start.elapsed();
        let mut tally = tally.lock().expect("no thread panicked");
        tally.images += 1;
        if took > PATIENCE {
            tally.failures.push(format!("{}: the probe took {took:?}", image.name));
        }
        let entries = oracle(&corpus, &image.name);
        compare_partitions(image, &layout, &entries, &mut tally);
        compare_contents(image, &layout, &entries, &mut tally);
    });
    let tally = tally.into_inner().expect("no thread panicked");
    println!(
        "{} images: {} tables with {} partitions equal, {} filesystems and {} other contents \
         equal, {} kinds not named: {}",
        tally.images,
        tally.tables,
        tally.partitions,
        tally.contents,
        tally.others,
        tally.unnamed.len(),
        tally.unnamed.join(", ")
    );
    assert_eq!(tally.failures, [""; 0], "{}", tally.failures.join("\n"));
}

fn compare_partitions(
    image: &Image,
    layout: &DiskLayout,
    entries: &[serde_json::Value],
    tally: &mut Tally,
) {
    let is_extended = |entry: &serde_json::Value| {
        entry["scheme"] == "mbr" && ["5", "f", "85"].iter().any(|kind| entry["ptype"] == **kind)
    };
    let expected: Vec<_> = entries
        .iter()
        .filter(|entry| entry["type"] == "partition" && !is_extended(entry))
        .map(|entry| {
            let kind = entry["ptype"].as_str().unwrap_or_default().to_lowercase();
            let is_gpt = entry["scheme"] == "gpt";
            (
                format!("p{}", entry["part"]),
                entry["offset"].as_u64(),
                entry["size"].as_u64(),
                if is_gpt { kind } else { format!("0x{kind:0>2}") },
                entry["uuid"].as_str().map(str::to_lowercase),
                entry["name"].as_str().map(str::to_owned),
                entry["bootable"] == true && !is_gpt,
                entry["sector"].as_u64(),
            )
        })
        .collect();
    // Arrays and logical volumes are none; their names have a slash.
    let is_partition = |volume: &&Volume| volume.name != "disk" && !volume.name.contains('/');
    if expected.is_empty() {
        // An odd image may be a disk with a table and a rest of a filesystem at once.
        let known = ["dos", "gpt"].contains(&image.table.as_str());
        if !known
            && image.kind != "odd"
            && layout.volumes.iter().any(|volume| is_partition(&volume))
        {
            tally.failures.push(format!("{}: partitions, but {:?}", image.name, image.table));
        }
        return;
    }
    let found: Vec<_> = layout
        .volumes
        .iter()
        .filter(is_partition)
        .map(|volume| {
            let kind = volume.partition_type.clone().unwrap_or_default();
            let is_gpt = !kind.starts_with("0x");
            (
                volume.name.clone(),
                Some(volume.start),
                Some(volume.length),
                kind,
                volume.partition_uuid.clone().filter(|_| is_gpt),
                volume.partition_label.clone(),
                volume.active && !is_gpt,
                Some(u64::from(layout.sector_size)),
            )
        })
        .collect();
    if found == expected {
        tally.tables += 1;
        tally.partitions += u32::try_from(found.len()).unwrap_or(0);
    } else {
        tally.failures.push(format!("{}: {found:?}, expected {expected:?}", image.name));
    }
}

/// What imgx calls the content that the corpus, like blkid, calls `kind`; `None` where it has
/// no name for it.
fn name_of(kind: &str) -> Option<&str> {
    Some(match kind {
        "lvm2" => "lvm2 physical volume",
        "crypto_LUKS" => "luks",
        "linux_raid_member" => "md raid member",
        "zfs_member" => "zfs member",
        "BitLocker" => "bitlocker",
        "jbd" => "ext journal",
        "xfs_external_log" => "xfs log",
        "swsuspend" => "hibernation image",
        "squashfs3" => "squashfs",
        "isw_raid_member" => "intel raid member",
        "ddf_raid_member" => "ddf raid member",
        "lsi_mega_raid_member" => "lsi raid member",
        "nvidia_raid_member" => "nvidia raid member",
        "VMFS" => "vmfs",
        "VMFS_volume_member" => "vmfs member",
        "ceph_bluestore" => "ceph bluestore",
        "hfsplus" => "hfs+",
        "befs" => "beos fs",
        "bfs" => "sco bfs",
        "foreign" | "" => return None,
        kind if kind.starts_with("drbd") || kind.ends_with("_raid_member") => return None,
        "hpfs" | "mpool" | "nss" | "vxfs" => return None,
        same => same,
    })
}

fn compare_contents(
    image: &Image,
    layout: &DiskLayout,
    entries: &[serde_json::Value],
    tally: &mut Tally,
) {
    let kind_of = |name: &str| {
        let content = layout.volume(name).and_then(|volume| volume.content.as_ref());
        content.map_or("nothing", |content| content.kind.name())
    };
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry["type"] != "partition") {
        let volume = entry["part"].as_u64().map_or("disk".to_owned(), |part| format!("p{part}"));
        let kind = if entry["lv"].is_string() {
            Some("lvm2 physical volume")
        } else {
            entry["fs"].as_str()
        };
        wanted.insert(volume, kind.unwrap_or_default().to_owned());
    }
    if wanted.is_empty() {
        let Some(kind) = name_of(&image.filesystem) else {
            let found = kind_of("disk");
            tally.unnamed.push(format!("{} ({}): {found}", image.name, image.filesystem));
            return;
        };
        let volume = if image.table == "dos" || image.table == "gpt" { "p1" } else { "disk" };
        wanted.insert(volume.to_owned(), kind.to_owned());
    }
    for (volume, kind) in wanted {
        let found = kind_of(&volume);
        let told = format!("a superblock of {kind} is beside the partition table");
        if found != kind && !layout.notes.contains(&told) {
            let (name, notes) = (&image.name, &layout.notes);
            tally.failures.push(format!("{name} {volume}: {found}, expected {kind}; {notes:?}"));
        } else if image.kind == "foreign" {
            tally.others += 1;
        } else {
            tally.contents += 1;
        }
    }
}
