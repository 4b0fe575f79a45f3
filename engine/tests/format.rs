//! FORMAT.md's examples are what the code writes and reads.

use std::fmt::Write;
use std::path::Path;

use imgx_engine::base::bytes::to_hex;
use imgx_engine::store::codec::{Compression, Decoder, Encoder};
use imgx_engine::store::content::Base;
use imgx_engine::store::frame::{Frame, Member};
use imgx_engine::store::node::Node;
use imgx_engine::store::pack::{TableEntry, check_header, encode_end, encode_header};
use imgx_engine::store::{DigestKeys, Entry, FrameKind, PackId, Place, RepositoryId, StoredEntry};

const REPOSITORY: RepositoryId = RepositoryId([1; 16]);
const PACK: PackId = PackId([2; 16]);
const BLOCKS: &[u8; 32] = b"first block 16 Bsecond block 16B";

fn keys() -> DigestKeys {
    DigestKeys::derive(&[7; 32])
}

fn frame() -> Vec<u8> {
    let members: Vec<Member> =
        BLOCKS.chunks(16).map(|block| Member { digest: keys().block(block), length: 16 }).collect();
    let mut bytes = Vec::new();
    Encoder::new()
        .encode((FrameKind::Block, &members), BLOCKS, Compression::Off, &mut bytes)
        .expect("within limits");
    bytes
}

fn pack() -> Vec<u8> {
    let mut bytes = encode_header(REPOSITORY, PACK).to_vec();
    let frame = frame();
    let parts = Frame::open(&frame).expect("sound");
    let entries: Vec<TableEntry> = TableEntry::of_frame(&parts, 48).collect();
    bytes.extend_from_slice(&frame);
    let end = encode_end(&entries, bytes.len() as u64);
    bytes.extend_from_slice(&end);
    bytes
}

fn node() -> Node {
    let length = u32::try_from(frame().len()).expect("small");
    let place = Place { pack: PACK, offset: 48, length, member: 1 };
    let mut node = Node::new(0);
    node.push(Entry::Zero, 3);
    node.push(Entry::Stored(StoredEntry { digest: keys().block(&BLOCKS[16..]), place }), 1);
    node
}

/// Sixteen bytes a line, offset first.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes.chunks(16).enumerate() {
        writeln!(text, "{:04x}  {}", number * 16, to_hex(line)).expect("strings take all");
    }
    text
}

/// The dump that follows the fence of `name` in FORMAT.md.
fn documented(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../FORMAT.md");
    let text = std::fs::read_to_string(path).expect("FORMAT.md stands at the top");
    let (_, rest) = text.split_once(&format!("```hex {name}\n")).expect("the example stands there");
    rest.split_once("```").expect("its fence is closed").0.to_owned()
}

#[test]
fn the_frame_of_the_format_text_is_what_is_written_and_read() {
    assert_eq!(documented("frame"), dump(&frame()), "write this:\n{}", dump(&frame()));
    let bytes = frame();
    let mut content = Vec::new();
    let parts = Frame::open(&bytes).expect("sound");
    Decoder::new(keys()).decode_blocks(&parts, &[], &mut content).expect("sound");
    assert_eq!(content, BLOCKS);
}

#[test]
fn the_pack_of_the_format_text_is_what_is_written_and_read() {
    assert_eq!(documented("pack"), dump(&pack()), "write this:\n{}", dump(&pack()));
    check_header(&pack(), REPOSITORY, PACK).expect("sound");
}

#[test]
fn the_node_of_the_format_text_is_what_is_written_and_read() {
    let bytes = node().encode();
    assert_eq!(documented("node"), dump(&bytes), "write this:\n{}", dump(&bytes));
    assert_eq!(Node::decode(&bytes).expect("sound"), node());
}

/// A block of 512 bytes that repeats the second block of the frame.
fn repeated() -> Vec<u8> {
    BLOCKS[16..].repeat(32)
}

fn delta() -> Vec<u8> {
    let content = repeated();
    let member = Member { digest: keys().block(&content), length: 512 };
    let length = u32::try_from(frame().len()).expect("small");
    let place = Place { pack: PACK, offset: 48, length, member: 1 };
    let stored = StoredEntry { digest: keys().block(&BLOCKS[16..]), place };
    let base = Base { stored, content: &BLOCKS[16..], grown: 0 };
    let mut bytes = Vec::new();
    let kind = (FrameKind::Block, member);
    assert!(Encoder::new().encode_delta(kind, &content, &base, &mut bytes).expect("within limits"));
    bytes
}

#[test]
fn the_delta_of_the_format_text_is_what_is_written_and_read() {
    assert_eq!(documented("delta"), dump(&delta()), "write this:\n{}", dump(&delta()));
    let bytes = delta();
    let parts = Frame::open(&bytes).expect("sound");
    assert_eq!(parts.base.map(|base| base.digest), Some(keys().block(&BLOCKS[16..])));
    let mut content = Vec::new();
    Decoder::new(keys()).decode_blocks(&parts, &BLOCKS[16..], &mut content).expect("sound");
    assert_eq!(content, repeated());
}
