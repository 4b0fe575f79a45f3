//! Each stage of the data path by itself, on data that is in memory.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use imgx_engine::base::bytes::is_zero;
use imgx_engine::base::{BlockCount, BlockIndex, ByteOffset, ReadAt};
use imgx_engine::store::codec::{Compression, Decoder, Encoder};
use imgx_engine::store::frame::{Frame, Member};
use imgx_engine::store::node::Node;
use imgx_engine::store::tree::NodeSink;
use imgx_engine::store::{
    DigestKeys, Entry, FrameKind, PackId, Place, StoredEntry, TakeEntries, TreeBuilder,
};
use imgx_engine::volume::luks::{Header, Opened, VolumeKey};
use imgx_fixtures::pattern::{incompressible, text};

const BLOCK: usize = 128 * 1024;
const CHUNK: usize = 8 * BLOCK;

fn keys() -> DigestKeys {
    DigestKeys::derive(&[7; 32])
}

fn members(chunk: &[u8]) -> Vec<Member> {
    let length = u32::try_from(BLOCK).expect("fits");
    chunk.chunks(BLOCK).map(|block| Member { digest: keys().block(block), length }).collect()
}

fn zero_test(c: &mut Criterion) {
    let mut group = c.benchmark_group("zero test");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let zeros = vec![0; CHUNK];
    group.bench_function("zeros", |b| b.iter(|| is_zero(black_box(&zeros))));
    let data = incompressible(1, CHUNK);
    group.bench_function("data", |b| b.iter(|| is_zero(black_box(&data))));
}

fn digest(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let (keys, block) = (keys(), incompressible(2, BLOCK));
    group.bench_function("block", |b| b.iter(|| keys.block(black_box(&block))));
}

fn compress(c: &mut Criterion) {
    let mut group = c.benchmark_group("compress");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.sample_size(20);
    let settings = (0..Compression::STEPS).map(Compression::Step).chain([Compression::Level(3)]);
    for (kind, chunk) in [("text", text(3, CHUNK)), ("noise", incompressible(3, CHUNK))] {
        let members = members(&chunk);
        for setting in settings.clone() {
            let (mut encoder, mut frame) = (Encoder::new(), Vec::new());
            group.bench_function(format!("{kind} {setting:?}"), |b| {
                b.iter(|| {
                    frame.clear();
                    let content = (FrameKind::Block, members.as_slice());
                    encoder.encode(content, black_box(&chunk), setting, &mut frame)
                });
            });
        }
    }
}

fn decompress(c: &mut Criterion) {
    let mut group = c.benchmark_group("decompress and check");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let chunk = text(4, CHUNK);
    let mut bytes = Vec::new();
    let content = (FrameKind::Block, members(&chunk));
    Encoder::new()
        .encode((content.0, &content.1), &chunk, Compression::Step(0), &mut bytes)
        .expect("within limits");
    let (mut decoder, mut out) = (Decoder::new(keys()), Vec::new());
    group.bench_function("text", |b| {
        b.iter(|| {
            let frame = Frame::open(black_box(&bytes)).expect("sound");
            decoder.decode_blocks(&frame, &[], &mut out)
        });
    });
}

/// Takes nodes and only counts their digests.
struct Count;

impl NodeSink for Count {
    fn put_node(
        &mut self,
        node: &Node,
        _first: BlockIndex,
    ) -> imgx_engine::base::Result<StoredEntry> {
        Ok(StoredEntry { digest: node.digest(&keys()), place: place(0) })
    }
}

fn place(offset: u32) -> Place {
    Place { pack: PackId([1; 16]), offset, length: 64, member: 0 }
}

fn tree(c: &mut Criterion) {
    let mut group = c.benchmark_group("tree");
    let blocks = 8192_u32;
    group.throughput(Throughput::Bytes(u64::from(blocks) * BLOCK as u64));
    let entries: Vec<Entry> = (0..blocks)
        .map(|number| {
            let digest = keys().block(&number.to_le_bytes());
            Entry::Stored(StoredEntry { digest, place: place(number) })
        })
        .collect();
    group.bench_function("of stored blocks", |b| {
        b.iter_batched(
            || TreeBuilder::new(BlockCount(u64::from(blocks))),
            |mut tree| {
                for entry in &entries {
                    tree.push(entry, 1, &mut Count).expect("within the disk");
                }
                tree.finish(&mut Count)
            },
            BatchSize::SmallInput,
        );
    });
}

/// A LUKS1 volume: `cipher-mode` and the payload behind a header without keyslots.
fn luks(mode: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096 + payload.len()];
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    bytes[8..11].copy_from_slice(b"aes");
    bytes[40..40 + mode.len()].copy_from_slice(mode);
    bytes[72..78].copy_from_slice(b"sha256");
    bytes[107] = 8; // payload-offset, sectors
    for slot in 0..8 {
        bytes[208 + slot * 48..212 + slot * 48].copy_from_slice(&[0, 0, 0xde, 0xad]);
    }
    bytes[4096..].copy_from_slice(payload);
    bytes
}

fn decrypt(c: &mut Criterion) {
    let mut group = c.benchmark_group("decrypt");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    for (mode, key) in [("xts-plain64", 64), ("xts-plain64", 32), ("cbc-essiv:sha256", 32)] {
        let disk = luks(mode.as_bytes(), &incompressible(5, CHUNK));
        let header = Header::read(&disk).expect("sound").expect("there is one");
        let volume = Opened::new(Arc::new(disk), &header, &VolumeKey::new(incompressible(6, key)));
        let (volume, mut buffer) = (volume.expect("known"), vec![0; CHUNK]);
        group.bench_function(format!("aes-{mode}, key of {key} bytes"), |b| {
            b.iter(|| volume.read_exact_at(ByteOffset(0), black_box(&mut buffer)));
        });
    }
}

criterion_group!(stages, zero_test, digest, compress, decompress, decrypt, tree);
criterion_main!(stages);
