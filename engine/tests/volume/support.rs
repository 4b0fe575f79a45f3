//! Disks for tests, and layouts as the tools print them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imgx_engine::base::{ByteCount, ByteOffset, ByteRange, Error, ReadAt, Result};
use imgx_engine::volume::{DiskLayout, Volume};

/// A disk in a file.
pub struct FileDisk(File, u64);

impl FileDisk {
    pub fn open(path: &Path) -> Self {
        let file = File::open(path).expect("the disk file opens");
        let size = file.metadata().expect("it has a size").len();
        Self(file, size)
    }
}

impl ReadAt for FileDisk {
    fn size(&self) -> ByteCount {
        ByteCount(self.1)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset.0).map_err(|source| Error::io("read the disk", source))
    }
}

/// A disk that several hold.
pub fn shared(disk: impl ReadAt + 'static) -> Arc<dyn ReadAt> {
    Arc::new(disk)
}

/// A disk in memory.
#[derive(Clone)]
pub struct Memory(pub Vec<u8>);

impl Memory {
    pub fn load(path: &Path) -> Self {
        Self(std::fs::read(path).expect("the disk file can be read"))
    }
}

impl ReadAt for Memory {
    fn size(&self) -> ByteCount {
        ByteCount(self.0.len() as u64)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset.0).expect("offsets fit memory");
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
}

/// A disk with sectors that cannot be read.
#[derive(Clone)]
pub struct Failing<D>(pub D, pub Vec<ByteRange>);

impl<D: ReadAt> ReadAt for Failing<D> {
    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let wanted = ByteRange::new(offset.0, buffer.len() as u64);
        match self.1.iter().find(|bad| bad.intersection(&wanted).is_some()) {
            Some(_) => Err(Error::io("read the disk", io::Error::from_raw_os_error(5))),
            None => self.0.read_exact_at(offset, buffer),
        }
    }
}

/// A partition as both sides must say it: number, start, length, type, identifier, name, active.
pub type Row = (u64, u64, u64, String, Option<String>, Option<String>, bool);

/// The layout's partitions.
pub fn rows(layout: &DiskLayout) -> Vec<Row> {
    layout.volumes.iter().filter(|volume| volume.name != "disk").map(row).collect()
}

fn row(volume: &Volume) -> Row {
    let number = volume.name.trim_start_matches('p').parse().expect("a partition has a number");
    (
        number,
        volume.start,
        volume.length,
        volume.partition_type.clone().unwrap_or_default(),
        volume.partition_uuid.clone(),
        volume.partition_label.clone(),
        volume.active,
    )
}

/// The partitions that `sfdisk --json` lists, without the containers of logical ones.
pub fn sfdisk_rows(path: &Path) -> Vec<Row> {
    let printed = imgx_fixtures::mkfs::sfdisk_json(path).expect("sfdisk reads the table");
    let json: serde_json::Value = serde_json::from_str(&printed).expect("sfdisk prints JSON");
    let table = &json["partitiontable"];
    let sector = table["sectorsize"].as_u64().expect("sfdisk says the sector size");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let is_gpt = table["label"] == "gpt";
    let signature = text(&table["id"]).expect("sfdisk says the identifier");
    let mut rows = Vec::new();
    for part in table["partitions"].as_array().expect("sfdisk lists partitions") {
        let node = text(&part["node"]).expect("a partition has a node");
        let number: u64 = node
            .rsplit(|letter: char| !letter.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .expect("a node ends in a number");
        let kind = text(&part["type"]).expect("a partition has a type").to_lowercase();
        if ["5", "f", "85"].contains(&kind.as_str()) {
            continue;
        }
        let place = |field: &str| part[field].as_u64().expect("sfdisk says places") * sector;
        let attributes = text(&part["attrs"]).unwrap_or_default();
        rows.push((
            number,
            place("start"),
            place("size"),
            if is_gpt { kind } else { format!("0x{kind:0>2}") },
            match is_gpt {
                true => text(&part["uuid"]).map(|id| id.to_lowercase()),
                false => Some(format!("{}-{number:02x}", &signature[2..])),
            },
            text(&part["name"]),
            part["bootable"] == true || attributes.contains("LegacyBIOSBootable"),
        ));
    }
    rows
}

/// A folder of this test's own, removed with everything in it.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// Says why a test does nothing, where something is missing.
pub fn skip_without(tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| !imgx_fixtures::tool::have(tool));
    if let Some(tool) = missing {
        println!("skipped: no {tool}");
    }
    missing.is_some()
}
