//! RAID arrays of every level, put together of members that an independent writer made.

use std::io;
use std::sync::Arc;

use imgx_fixtures::md::{Metadata, Plan, identity, seal};
use imgx_fixtures::pattern::{Random, incompressible};
use imgx_fixtures::tool;
use imgx_volumes::base::{ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result};
use imgx_volumes::volume::Layer;
use imgx_volumes::volume::md::{Array, Level, Role, Superblock, Version, superblock};

const KIB: u64 = 1024;

type Member = (Superblock, Arc<dyn ReadAt>);

/// Members in memory, those of the roles `missing` left out.
fn members(bytes: &[Vec<u8>], missing: &[usize]) -> Vec<Member> {
    let there = bytes.iter().enumerate().filter(|(role, _)| !missing.contains(role));
    there.map(|(_, bytes)| member(bytes.clone())).collect()
}

fn member(bytes: impl ReadAt + 'static) -> Member {
    let superblock = superblock(&bytes).expect("it is read").expect("it is there");
    (superblock, Arc::new(bytes))
}

fn content(plan: &Plan) -> Vec<u8> {
    incompressible(plan.size() + 7, size(plan.size()))
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

/// Why these members are no array.
fn refusal(members: &[Member]) -> (ErrorKind, String) {
    let error = Array::assemble(members).err().expect("it is refused");
    (error.kind(), error.to_string())
}

/// Reads all of `array`, and pieces of it by chance.
fn check(array: &Array, expected: &[u8], what: &str) {
    assert_eq!(array.size().0, expected.len() as u64, "{what}");
    let mut found = vec![0; expected.len()];
    let read = array.read_exact_at(ByteOffset(0), &mut found);
    read.unwrap_or_else(|error| panic!("{what}: {error}"));
    if found != expected {
        let at = found.iter().zip(expected).position(|(one, other)| one != other);
        panic!("{what}: byte {at:?} of {} is wrong", found.len());
    }
    let mut random = Random::new(expected.len() as u64);
    for _ in 0..20 {
        let start = size(random.below(array.size().0));
        let most = (expected.len() - start).min(100_000) as u64;
        let length = size(random.below(most) + 1);
        let mut piece = vec![0; length];
        array.read_exact_at(ByteOffset(start as u64), &mut piece).expect("it is read");
        assert!(piece == expected[start..start + length], "{what}: {length} bytes at {start}");
    }
    let beyond = array.read_exact_at(ByteOffset(array.size().0), &mut [0]);
    assert_eq!(beyond.expect_err("beyond the end").kind(), ErrorKind::Invalid, "{what}");
}

/// All ways to miss up to `most` members.
fn losses(plan: &Plan, most: usize) -> Vec<Vec<usize>> {
    let count = plan.members.len();
    let mut losses = vec![Vec::new()];
    if most >= 1 {
        losses.extend((0..count).map(|role| vec![role]));
    }
    if most >= 2 {
        let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| vec![one, other]));
        losses.extend(pairs);
    }
    losses
}

fn try_losses(plan: &Plan, most: usize) {
    let expected = content(plan);
    let bytes = plan.write(&expected);
    for missing in losses(plan, most) {
        let members = members(&bytes, &missing);
        let what = format!(
            "level {} layout {:#x}, {} of {} without {missing:?}",
            plan.level,
            plan.layout,
            plan.chunk,
            plan.members.len()
        );
        let array = Array::assemble(&members).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(array.is_degraded(), !missing.is_empty(), "{what}");
        check(&array, &expected, &what);
    }
}

#[test]
fn parity_arrays_are_read_without_as_many_members_as_they_can_lack() {
    for chunk in [4 * KIB, 64 * KIB] {
        for layout in 0..6 {
            try_losses(&Plan::new(5, layout, chunk, 4), 1);
        }
        try_losses(&Plan::new(5, 2, chunk, 2), 1);
        try_losses(&Plan::new(4, 0, chunk, 3), 1);
    }
    for layout in [0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20] {
        try_losses(&Plan::new(6, layout, 16 * KIB, 5), 2);
    }
    try_losses(&Plan::new(6, 2, 4 * KIB, 4), 2);
    try_losses(&Plan::new(6, 2, 1024 * KIB, 4), 1);
    try_losses(&Plan::new(5, 2, 1024 * KIB, 3), 1);
}

#[test]
fn striped_and_mirrored_arrays_are_read() {
    for chunk in [4 * KIB, 64 * KIB, 1024 * KIB] {
        try_losses(&Plan::new(0, 0, chunk, 3), 0);
        try_losses(&Plan::new(-1, 0, chunk, 3), 0);
        try_losses(&Plan::new(1, 0, chunk, 3), 2);
    }
    // Near, far, offset, and far in sets, on numbers of members that do and do not fit.
    for layout in [0x102, 0x103, 0x201, 0x301, 0x10201, 0x20201, 0x40201, 0x30201] {
        for count in [3, 4, 5, 6] {
            let copies = (layout & 255) * (layout >> 8 & 255);
            let is_in_sets = layout >> 17 > 0;
            if is_in_sets && count < 2 * size(copies.into()) {
                continue;
            }
            try_losses(&Plan::new(10, layout, 4 * KIB, count), 1);
        }
        try_losses(&Plan::new(10, layout, 256 * KIB, 4), 1);
    }
}

#[test]
fn members_of_raid0_may_be_of_any_size() {
    let sizes = [1024 * KIB, 300 * KIB, 700 * KIB, 300 * KIB, 2000 * KIB + 512];
    for layout in [1, 2] {
        let plan = Plan { members: sizes.to_vec(), ..Plan::new(0, layout, 64 * KIB, 5) };
        try_losses(&plan, 0);
        let linear = Plan { members: sizes.to_vec(), ..Plan::new(-1, 0, 64 * KIB, 5) };
        try_losses(&linear, 0);
    }
    // With one member in the second zone both layouts are the same; with two they are not.
    let plan = Plan::new(0, 0, 64 * KIB, 2);
    try_losses(&Plan { members: vec![300 * KIB, 900 * KIB], ..plan.clone() }, 0);
    let plan = Plan { members: vec![300 * KIB, 900 * KIB, 900 * KIB], ..plan };
    let (kind, why) = refusal(&members(&plan.write(&content(&plan)), &[]));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(why.contains("raid0.default_layout"), "{why}");
}

#[test]
fn every_version_of_the_metadata_is_read() {
    use Metadata::{V0, V0Big, V1Behind, V1End, V1Start};
    let folder = tempfile::tempdir().expect("made");
    for (metadata, version) in [
        (V0, Version::V0_90),
        (V0Big, Version::V0_90),
        (V1End, Version::V1_0),
        (V1Start, Version::V1_1),
        (V1Behind, Version::V1_2),
    ] {
        for (level, name) in [(1, "raid1"), (5, "raid5"), (0, "raid0")] {
            let plan = Plan::new(level, 0, 64 * KIB, 3);
            // 0.90 says nothing of a member's own size.
            let room = plan.members.iter().map(|size| size / 65536 * 65536).collect();
            let plan = Plan { metadata, members: room, ..plan };
            try_losses(&plan, usize::from(level > 0));
            let bytes = plan.write(&content(&plan));
            let found = superblock(&bytes[1]).expect("it is read").expect("it is there");
            assert_eq!((found.version, found.role()), (version, Role::Active(1)));
            assert_eq!((found.array, found.events), (identity(), 17));
            let is_old = version == Version::V0_90;
            assert_eq!(found.name(), if is_old { "7" } else { "fixture" });
            // mdadm takes no superblocks of machines of the other order.
            if metadata == V0Big || !tool::have("mdadm") {
                println!("skipped: mdadm --examine of {metadata:?}");
                continue;
            }
            let path = folder.path().join("member");
            std::fs::write(&path, &bytes[1]).expect("written");
            let told = tool::run("mdadm", &["--examine", path.to_str().expect("plain")]);
            let told = told.unwrap_or_else(|error| panic!("{metadata:?} {name}: {error}"));
            for word in [name, "- correct", "Events : 17"] {
                assert!(told.contains(word), "{metadata:?}: no '{word}': {told}");
            }
        }
    }
}

#[test]
fn too_few_members_are_refused_by_name() {
    let lost = [(0, 0, 2, &[1][..]), (-1, 0, 3, &[0]), (5, 2, 3, &[0, 2]), (6, 2, 5, &[0, 1, 2])];
    for (level, layout, count, missing) in lost {
        let plan = Plan::new(level, layout, 64 * KIB, count);
        let bytes = plan.write(&content(&plan));
        let (kind, why) = refusal(&members(&bytes, missing));
        assert_eq!(kind, ErrorKind::NotFound, "{why}");
        assert!(why.contains("array fixture"), "{why}");
    }
    // Two of four mirrors: it counts which.
    let plan = Plan::new(10, 0x102, 64 * KIB, 4);
    let expected = content(&plan);
    let bytes = plan.write(&expected);
    let array = Array::assemble(&members(&bytes, &[0, 3])).expect("one of each pair is left");
    check(&array, &expected, "half of RAID10");
    let (kind, why) = refusal(&members(&bytes, &[2, 3]));
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(why.contains("none of roles 2, 3 is left"), "{why}");
    assert_eq!(refusal(&[]).0, ErrorKind::NotFound);
}

/// What a member says: an events count and all devices' roles.
type Said<'a> = (u64, &'a [u16]);

/// A plan's members with other superblocks.
fn signed(plan: &Plan, said: &[Said<'_>]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let expected = content(plan);
    let mut bytes = plan.write(&expected);
    for ((number, member), (events, roles)) in (0..).zip(&mut bytes).zip(said) {
        let plan = Plan { events: *events, ..plan.clone() };
        plan.sign(member, number, number, roles);
    }
    (expected, bytes)
}

#[test]
fn stale_failed_and_parted_members_are_not_used() {
    for metadata in [Metadata::V1Behind, Metadata::V0] {
        let plan = Plan { metadata, ..Plan::new(5, 2, 64 * KIB, 3) };
        let plan = Plan { members: vec![1024 * KIB; 3], ..plan };
        let all: &[u16] = &[0, 1, 2];
        let without_2: &[u16] = &[0, 1, 0xfffe];
        let cases: [(&[Said<'_>], Option<&str>); 5] = [
            // One behind: the machine went down between two writes.
            (&[(18, all), (17, all), (18, all)], None),
            (&[(19, without_2), (19, without_2), (17, all)], Some("stale")),
            (&[(18, without_2), (18, without_2), (17, all)], Some("failed or removed")),
            (&[(18, all), (18, &[0xfffe, 1, 2]), (18, all)], Some("went on without")),
            (&[(18, all), (18, all), (18, without_2)], Some("marked as failed")),
        ];
        for (said, why) in cases {
            let (expected, mut bytes) = signed(&plan, said);
            let array = Array::assemble(&members(&bytes, &[])).expect("one may be missing");
            let refused: Vec<&str> = array.refused().iter().map(|one| one.why.as_str()).collect();
            assert_eq!(refused.len(), usize::from(why.is_some()), "{refused:?}");
            for (refused, why) in refused.iter().zip(why) {
                assert!(refused.contains(why), "{refused}: {why}");
            }
            check(&array, &expected, "the others");
            // What is refused is not read.
            for refused in array.refused() {
                bytes[refused.member][128 << 10..256 << 10].fill(0);
            }
            let array = Array::assemble(&members(&bytes, &[])).expect("as before");
            check(&array, &expected, "without what is refused");
        }
        // Two that are stale are too many, and the error says why.
        let said: [Said<'_>; 3] = [(30, all), (17, all), (18, all)];
        let (_, bytes) = signed(&plan, &said);
        let (kind, why) = refusal(&members(&bytes, &[]));
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(why.contains("device 1 (role 1) is stale") && why.contains("13 times"), "{why}");
    }
}

#[test]
fn a_member_that_is_there_twice_counts_once() {
    let plan = Plan::new(1, 0, 64 * KIB, 2);
    let expected = content(&plan);
    let bytes = plan.write(&expected);
    let twice = [bytes.clone(), bytes].concat();
    let array = Array::assemble(&members(&twice, &[])).expect("it is whole");
    assert_eq!(array.used().collect::<Vec<_>>(), [0, 1]);
    let whys: Vec<&str> = array.refused().iter().map(|one| one.why.as_str()).collect();
    assert!(whys.len() == 2 && whys[0].contains("there twice"), "{whys:?}");
    check(&array, &expected, "RAID1");
    let mut other = plan.write(&expected).remove(0);
    other[4096 + 16] ^= 1;
    seal(&mut other[4096..4096 + 260]);
    let mut mixed = members(&twice, &[]);
    mixed.push(member(other));
    assert_eq!(refusal(&mixed).0, ErrorKind::Invalid);
}

#[test]
fn what_was_not_shut_down_is_read_only_where_nothing_has_to_be_computed() {
    for level in [4, 5, 6] {
        let plan = Plan { is_clean: false, ..Plan::new(level, 2, 64 * KIB, 4) };
        let expected = content(&plan);
        let bytes = plan.write(&expected);
        let array = Array::assemble(&members(&bytes, &[])).expect("all members are there");
        check(&array, &expected, "dirty");
        let (kind, why) = refusal(&members(&bytes, &[1]));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(why.contains("dirty degraded"), "{why}");
        // Sectors that cannot be read are an error, where their parity may be wrong.
        let all = ByteRange::new(plan.data_start(), plan.members[1]);
        let array = Array::assemble(&failing(&bytes, 1, all)).expect("its superblock is there");
        let mut found = vec![0; expected.len()];
        array.read_exact_at(ByteOffset(0), &mut found).expect_err("it cannot be computed");
    }
    let plan = Plan { is_clean: false, ..Plan::new(1, 0, 64 * KIB, 2) };
    try_losses(&plan, 1);
    let plan = Plan { is_clean: false, ..Plan::new(10, 0x102, 64 * KIB, 4) };
    try_losses(&plan, 1);
}

/// A member with sectors that cannot be read.
struct Failing(Vec<u8>, ByteRange);

impl ReadAt for Failing {
    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        match self.1.intersection(&ByteRange::new(offset.0, buffer.len() as u64)) {
            Some(_) => Err(Error::io("read", io::Error::from_raw_os_error(5))),
            None => self.0.read_exact_at(offset, buffer),
        }
    }
}

fn failing(bytes: &[Vec<u8>], role: usize, range: ByteRange) -> Vec<Member> {
    let mut members = members(bytes, &[]);
    members[role] = member(Failing(bytes[role].clone(), range));
    members
}

#[test]
fn a_sector_that_cannot_be_read_is_computed_or_read_elsewhere() {
    let levels = [(1, 0, 2), (4, 0, 3), (5, 2, 4), (6, 2, 5), (10, 0x102, 3), (10, 0x201, 4)];
    for (level, layout, count) in levels {
        let plan = Plan::new(level, layout, 16 * KIB, count);
        let expected = content(&plan);
        let bytes = plan.write(&expected);
        for role in 0..count {
            for start in [0, 16 * KIB - 512, 500_000 / 512 * 512] {
                let bad = ByteRange::new(plan.data_start() + start, 1024);
                let mut members = failing(&bytes, role, bad);
                let array = Array::assemble(&members).expect("all are there");
                let what = format!("level {level} role {role} at {start}");
                check(&array, &expected, &what);
                if level == 6 {
                    // One more that is missing.
                    members.remove((role + 1) % count);
                    let array = Array::assemble(&members).expect("one may be missing");
                    check(&array, &expected, &what);
                }
            }
        }
    }
    // Where nothing else holds it, it fails, and the rest is read.
    let plan = Plan::new(0, 0, 16 * KIB, 2);
    let expected = content(&plan);
    let bad = failing(&plan.write(&expected), 0, ByteRange::new(plan.data_start() + 4096, 512));
    let array = Array::assemble(&bad).expect("all are there");
    let mut found = vec![0; 4096];
    array.read_exact_at(ByteOffset(0), &mut found).expect("it is read");
    assert!(found == expected[..4096]);
    let error = array.read_exact_at(ByteOffset(4096), &mut found).expect_err("it cannot be read");
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
}

/// Changes the superblock (metadata 1.2) of a member and makes its checksum right.
fn change(bytes: &mut [u8], roles: usize, at: usize, value: &[u8]) {
    bytes[4096 + at..4096 + at + value.len()].copy_from_slice(value);
    seal(&mut bytes[4096..4096 + 256 + 2 * roles]);
}

#[test]
fn a_member_that_is_being_rebuilt_counts_up_to_where_it_is() {
    for (level, layout, count) in [(1, 0, 2), (5, 2, 3), (10, 0x102, 4)] {
        let plan = Plan::new(level, layout, 16 * KIB, count);
        let expected = content(&plan);
        let mut bytes = plan.write(&expected);
        let (rebuilt, start) = (400 * KIB, plan.data_start());
        change(&mut bytes[1], count, 8, &2_u32.to_le_bytes());
        change(&mut bytes[1], count, 152, &(rebuilt / 512).to_le_bytes());
        bytes[1][size(start + rebuilt)..size(start + plan.members[1])].fill(0xee);
        let array = Array::assemble(&members(&bytes, &[])).expect("one may be missing");
        assert!(array.is_degraded());
        check(&array, &expected, &format!("level {level}"));
        if level == 1 {
            let (kind, why) = refusal(&members(&bytes, &[0]));
            assert_eq!(kind, ErrorKind::NotFound, "{why}");
            // It is read for as far as it is right.
            bytes[1][size(start)] ^= 1;
            let broken = failing(&bytes, 0, ByteRange::new(start, 512));
            let mut found = [0];
            let array = Array::assemble(&broken).expect("as before");
            array.read_exact_at(ByteOffset(0), &mut found).expect("the other has it");
            assert_eq!(found[0], expected[0] ^ 1);
        }
    }
}

#[test]
fn bad_blocks_are_not_believed() {
    for (level, count) in [(1, 2), (5, 3), (0, 2)] {
        let plan = Plan::new(level, 0, 16 * KIB, count);
        let expected = content(&plan);
        let mut bytes = plan.write(&expected);
        // Eight sectors from 20 KiB on of the data, in a list of one sector, 8 KiB behind the
        // superblock.
        let first = (plan.data_start() + 20 * KIB) / 512;
        let list = 4096 + 8192;
        bytes[1][list..list + 512].fill(0xff);
        bytes[1][list..list + 8].copy_from_slice(&(first << 10 | 8).to_le_bytes());
        change(&mut bytes[1], count, 8, &8_u32.to_le_bytes());
        change(&mut bytes[1], count, 186, &1_u16.to_le_bytes());
        change(&mut bytes[1], count, 188, &16_u32.to_le_bytes());
        let at = size(first * 512);
        bytes[1][at..at + 4096].fill(0xee);
        let array = Array::assemble(&members(&bytes, &[])).expect("all are there");
        if level == 0 {
            let mut all = vec![0; expected.len()];
            let error = array.read_exact_at(ByteOffset(0), &mut all).expect_err("it is lost");
            assert!(error.to_string().contains("never written"), "{error}");
        } else {
            check(&array, &expected, &format!("level {level}"));
        }
    }
}

#[test]
fn what_cannot_be_read_right_is_refused_by_name() {
    let plan = Plan::new(5, 2, 64 * KIB, 3);
    let cases: [(usize, &[u8], &str); 7] = [
        (8, &4_u32.to_le_bytes(), "being reshaped"),
        (8, &0x200_u32.to_le_bytes(), "write journal"),
        (8, &0x8000_u32.to_le_bytes(), "features 0x8000"),
        (224, &[1], "features 0x0"),
        (72, &(-4_i32).to_le_bytes(), "multipath"),
        (76, &7_u32.to_le_bytes(), "layout 7"),
        (88, &24_u32.to_le_bytes(), "power of two"),
    ];
    for (at, value, why) in cases {
        let mut bytes = plan.write(&content(&plan));
        bytes.iter_mut().for_each(|member| change(member, 3, at, value));
        let (_, found) = refusal(&members(&bytes, &[]));
        assert!(found.contains(why), "{found}: no '{why}'");
    }
    // One member alone that says something else is one that is missing.
    let mut bytes = plan.write(&content(&plan));
    change(&mut bytes[2], 3, 76, &0_u32.to_le_bytes());
    let array = Array::assemble(&members(&bytes, &[])).expect("two are enough");
    assert!(array.refused()[0].why.contains("shape"), "{:?}", array.refused());
    // A member that was cut off.
    let mut cut = members(&bytes, &[0, 2]);
    cut.push(member(bytes[0][..900 << 10].to_vec()));
    let (kind, why) = refusal(&cut);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(why.contains("its data are"), "{why}");
    // A superblock that is damaged is told.
    bytes[0][4096 + 73] ^= 1;
    assert_eq!(superblock(&bytes[0]).expect_err("it is damaged").kind(), ErrorKind::Corrupt);
    assert_eq!(superblock(&vec![0; 1 << 20]).expect("there is none"), None);
    assert_eq!(superblock(&vec![0; 100]).expect("there is none"), None);
}

#[test]
fn of_two_superblocks_the_newer_one_counts() {
    let plan = Plan::new(1, 0, 64 * KIB, 2);
    let mut bytes = plan.write(&content(&plan)).remove(0);
    let older = Plan { metadata: Metadata::V1End, ..Plan::new(5, 2, 4096, 2) };
    older.sign(&mut bytes, 1, 1, &[0, 1]);
    let level = |bytes: &Vec<u8>| superblock(bytes).expect("read").map(|found| found.level);
    assert_eq!(level(&bytes), Some(Level::Raid1));
    bytes[4096 + 64..4096 + 72].copy_from_slice(&1_500_000_000_u64.to_le_bytes());
    seal(&mut bytes[4096..4096 + 260]);
    assert_eq!(level(&bytes), Some(Level::Raid5));
}

#[test]
fn each_place_names_every_copy_and_nothing_else() {
    let sizes = vec![300 * KIB, 700 * KIB, 500 * KIB, 500 * KIB];
    let zones = Plan { members: sizes.clone(), ..Plan::new(0, 1, 16 * KIB, 4) };
    let linear = Plan { members: sizes, ..Plan::new(-1, 0, 16 * KIB, 4) };
    let mirrors = [0x102, 0x201, 0x10201, 0x20201].map(|layout| Plan::new(10, layout, 16 * KIB, 5));
    let plans = [zones, linear, Plan::new(1, 0, 4096, 3)].into_iter().chain(mirrors);
    for plan in plans {
        let copies = match plan.level {
            1 => 3,
            10 => 2,
            _ => 1,
        };
        let expected = content(&plan);
        let bytes = plan.write(&expected);
        let array = Array::assemble(&members(&bytes, &[])).expect("all are there");
        let mut random = Random::new(3);
        for _ in 0..8 {
            let start = random.below(array.size().0);
            let end = start + random.below(array.size().0 - start) + 1;
            let within = ByteRange { start, end };
            let mut changed = bytes.clone();
            let mut visited = 0;
            let visit = &mut |index: usize, range: ByteRange| {
                visited += range.len();
                let range = size(range.start)..size(range.end);
                changed[index][range].iter_mut().for_each(|byte| *byte ^= 0xff);
            };
            array.each_place(within, visit).expect("there is no parity");
            assert_eq!(visited, (end - start) * copies, "level {}", plan.level);
            // Exactly these bytes of the array have changed, in every copy.
            let mut turned = expected.clone();
            turned[size(start)..size(end)].iter_mut().for_each(|byte| *byte ^= 0xff);
            for missing in losses(&plan, usize::from(copies > 1)) {
                let array = Array::assemble(&members(&changed, &missing)).expect("enough");
                let mut found = vec![0; expected.len()];
                array.read_exact_at(ByteOffset(0), &mut found).expect("read");
                assert!(found == turned, "level {} {:#x}: {within}", plan.level, plan.layout);
            }
        }
    }
    let plan = Plan::new(5, 2, 16 * KIB, 3);
    let array = Array::assemble(&members(&plan.write(&content(&plan)), &[])).expect("whole");
    let error = array.each_place(ByteRange::new(0, 1), &mut |_, _| panic!("none")).err();
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Unsupported));
}

#[test]
fn nothing_that_a_superblock_says_ends_in_a_panic() {
    let mut random = Random::new(9);
    let plans = [(0, 1), (1, 0), (5, 2), (6, 8), (10, 0x201), (-1, 0)];
    for (level, layout) in plans {
        let plan = Plan::new(level, layout, 4096, 4);
        let sound = plan.write(&content(&plan));
        let rounds = if std::env::var_os("IMGX_LONG").is_some() { 20_000 } else { 100 };
        for _ in 0..rounds {
            let mut bytes = sound.clone();
            for member in &mut bytes {
                let at = 8 + size(random.below(248));
                let value = random.next_u64().to_le_bytes();
                let length = size(random.below(8)) + 1;
                change(member, 4, at, &value[..length]);
            }
            let read = |bytes: Vec<u8>| {
                let found = superblock(&bytes).ok().flatten()?;
                Some((found, Arc::new(bytes) as Arc<dyn ReadAt>))
            };
            let members: Vec<Member> = bytes.into_iter().filter_map(read).collect();
            let Ok(array) = Array::assemble(&members) else { continue };
            let mut buffer = vec![0; 9000];
            for place in [0, array.size().0 / 2, array.size().0.saturating_sub(9000)] {
                let _ = array.read_exact_at(ByteOffset(place), &mut buffer);
            }
            let _ = array.each_place(ByteRange::new(0, 1 << 20), &mut |_, _| {});
        }
    }
}
