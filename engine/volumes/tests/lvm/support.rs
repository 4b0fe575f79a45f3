//! Disks in memory, and a group on one disk whose bytes are put where LVM says.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::lvm::{self, DATA, EXTENT};
use imgx_fixtures::{mkfs, tool};
use imgx_volumes::base::{ByteCount, ByteOffset, ReadAt, Result, check_range};
use imgx_volumes::volume::Layer;
use imgx_volumes::volume::lvm::Group;
use sha2::{Digest, Sha256};

const PIECE: usize = 64 << 10;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// A disk in memory, mostly zeros.
pub struct Sparse {
    pieces: HashMap<u64, Vec<u8>>,
    size: u64,
}

impl Sparse {
    /// All that `source` has.
    pub fn read(mut source: impl Read) -> Self {
        let (mut pieces, mut size) = (HashMap::new(), 0);
        loop {
            let mut piece = Vec::new();
            let count = source.by_ref().take(PIECE as u64).read_to_end(&mut piece).unwrap();
            if count == 0 {
                return Self { pieces, size };
            }
            let number = size / PIECE as u64;
            size += count as u64;
            if piece != ZEROS[..count] {
                piece.resize(PIECE, 0);
                pieces.insert(number, piece);
            }
        }
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> ByteCount {
        ByteCount(self.size)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        let (mut at, mut rest) = (offset.0, buffer);
        while !rest.is_empty() {
            let within = (at % PIECE as u64) as usize;
            let count = rest.len().min(PIECE - within);
            let (part, after) = rest.split_at_mut(count);
            match self.pieces.get(&(at / PIECE as u64)) {
                Some(piece) => part.copy_from_slice(&piece[within..within + count]),
                None => part.fill(0),
            }
            at += count as u64;
            rest = after;
        }
        Ok(())
    }
}

/// The SHA-256 of a whole volume, read in pieces of odd sizes.
pub fn sum(volume: &dyn ReadAt) -> Result<String> {
    let mut sum = Sha256::new();
    let (mut at, size) = (0, volume.size().0);
    let mut sizes = [1 << 20, 4096, 65_537, 511, 300_000].iter().cycle();
    while at < size {
        let count = (size - at).min(*sizes.next().unwrap());
        let mut piece = vec![0; count as usize];
        volume.read_exact_at(ByteOffset(at), &mut piece)?;
        sum.update(&piece);
        at += count;
    }
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// All bytes of a volume.
pub fn bytes(volume: &dyn ReadAt) -> Result<Vec<u8>> {
    let mut bytes = vec![0; volume.size().0 as usize];
    volume.read_exact_at(ByteOffset(0), &mut bytes)?;
    Ok(bytes)
}

/// Whether these tools and loop devices are there; says so if not.
pub fn have(tools: &[&str]) -> bool {
    if let Some(missing) = tools.iter().find(|name| !tool::have(name)) {
        println!("skipped: no {missing}");
        return false;
    }
    match LoopDevice::unavailable() {
        Some(reason) => {
            println!("skipped: {reason}");
            false
        }
        None => true,
    }
}

/// A disk that is one physical volume.
pub struct Disk {
    folder: tempfile::TempDir,
    name: String,
}

impl Disk {
    /// A disk with room for `extents`, whose group has the `volumes` of this text.
    pub fn make(name: &str, extents: u64, volumes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let size = DATA + extents * EXTENT + EXTENT;
        mkfs::blank(&path, size).unwrap();
        let name = format!("{name}{}", std::process::id());
        lvm::make_group_of(&path, &[(0, size)], &name, volumes).expect("LVM's tools run");
        Self { folder, name }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// A file beside the disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes into extent `extent`, `offset` bytes from its start.
    pub fn write(&self, extent: u64, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, DATA + extent * EXTENT + offset).unwrap();
    }

    /// Writes the file that a tool made to the start of extent `extent`.
    pub fn write_file(&self, extent: u64, file: &Path) {
        self.write(extent, 0, &fs::read(file).unwrap());
    }

    /// The group that is read from it.
    pub fn group(&self) -> Group {
        let disk = Sparse::read(File::open(self.path()).unwrap());
        let disk: Arc<dyn ReadAt> = Arc::new(disk);
        let mut found = Group::read(&[disk]);
        assert!(found.damage.is_empty(), "{:?}", found.damage);
        let group = found.groups.pop().expect("a group");
        assert_eq!(group.name(), self.name);
        group
    }

    /// The volume `name` of it.
    pub fn open(&self, name: &str) -> Result<Arc<dyn Layer>> {
        self.group().open(name)
    }
}

/// Bytes that say where they are: page `first` and those that follow.
pub fn pattern(word: &str, first: u64, pages: u64) -> Vec<u8> {
    let page = |page| format!("{word:<23}{page:08}\n").repeat(128).into_bytes();
    (first..first + pages).flat_map(page).collect()
}
