//! Writes what a RAID array holds to standard output, from its members: `array MEMBER...`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use imgx_volumes::base::{ByteCount, ByteOffset, Error, ReadAt, Result};
use imgx_volumes::volume::md::{Array, superblock};

/// A member in a file or on a device.
struct Member(File, u64);

impl ReadAt for Member {
    fn size(&self) -> ByteCount {
        ByteCount(self.1)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset.0).map_err(|error| Error::io("read a member", error))
    }
}

fn open(path: &str) -> io::Result<Member> {
    let mut file = File::open(path)?;
    let size = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
    Ok(Member(file, size))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut members: Vec<(_, Arc<dyn ReadAt>)> = Vec::new();
    for path in std::env::args().skip(1) {
        let member = open(&path)?;
        match superblock(&member)? {
            Some(superblock) => members.push((superblock, Arc::new(member))),
            None => return Err(format!("{path} is no member of an array").into()),
        }
    }
    let array = Array::assemble(&members)?;
    for refused in array.refused() {
        eprintln!("member {} is not used: {}", refused.member, refused.why);
    }
    let mut buffer = vec![0; 1 << 20];
    let (mut at, mut output) = (0, io::stdout().lock());
    while at < array.size().0 {
        let left = usize::try_from(array.size().0 - at).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let piece = &mut buffer[..length];
        array.read_exact_at(ByteOffset(at), piece)?;
        output.write_all(piece)?;
        at += length as u64;
    }
    Ok(())
}
