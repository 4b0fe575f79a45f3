//! Damage to stored bytes: each flipped bit, cut, missing or exchanged object is found and named,
//! by the quick check too, and never comes back as data.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, ByteRange, ErrorKind, Silent};
use imgx_engine::job::{
    Restore, RestoreOptions, RestoreReport, Salvage, VerifyOptions, VerifyReport, verify,
};
use imgx_engine::store::pack::read_table;
use imgx_engine::store::storage::{Folder, ObjectName};
use imgx_engine::store::{FrameKind, ImageId, LocalStorage, Repository, Storage};
use imgx_fixtures::pattern::Random;

use support::{
    KIB, Listener, captured, differs, file, folder_in_memory, image_named, is_long, read_pieces,
    small_disk,
};

const NAMES: [&str; 2] = ["one", "two"];

/// A repository on disk with two images in several packs.
struct Scene {
    folder: tempfile::TempDir,
    root: PathBuf,
    disks: [Vec<u8>; 2],
}

impl Scene {
    fn new() -> Self {
        let folder = folder_in_memory();
        let root = folder.path().join("repository");
        let first = small_disk(11, 900 * KIB + 300);
        let mut second = first.clone();
        second[200 * KIB..500 * KIB].copy_from_slice(&small_disk(12, 300 * KIB));
        second.extend(small_disk(13, 600 * KIB + 77));
        let scene = Self { folder, root, disks: [first, second] };
        let block_size = BlockSize::new(16 * 1024).expect("valid");
        Repository::create(&scene.root, block_size).expect("created");
        for (name, disk) in NAMES.iter().zip(&scene.disks) {
            let path = file(scene.folder.path(), "disk", disk);
            captured(&scene.open().with_pack_size(256 * KIB as u64), &path, name);
        }
        assert!(scene.objects("packs").len() > 3, "too few packs");
        scene
    }

    fn open(&self) -> Repository {
        Repository::open(&self.root).expect("opens")
    }

    /// The files of a folder, sorted.
    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(folder)).expect("listed");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("read").path()).collect();
        paths.sort();
        paths
    }

    /// What verification finds, and everything that it says.
    fn verify(&self, quick: bool) -> (VerifyReport, String) {
        let listener = Listener::default();
        let options = VerifyOptions { quick, threads: Some(1), ..VerifyOptions::default() };
        let report = verify(&self.open(), &options, &listener).expect("damage is no error");
        (report, listener.damage().join("\n"))
    }

    /// Asserts that both ways of verifying find damage and name `object`.
    fn assert_found(&self, object: &Path, case: &str) {
        for quick in [false, true] {
            let (report, said) = self.verify(quick);
            assert!(report.damage > 0, "{case}: not noticed (quick: {quick})");
            let name = object.file_name().and_then(|name| name.to_str()).expect("a plain name");
            let id = name.split('.').next().expect("not empty");
            assert!(said.contains(id), "{case}: {name} is not named in: {said}");
        }
    }

    /// Asserts that whatever can still be read or restored is right.
    fn assert_never_wrong(&self, case: &str) {
        let repository = self.open();
        for (name, disk) in NAMES.iter().zip(&self.disks) {
            let Some(image) = image_named(&repository, name) else { continue };
            let mut damaged = 0;
            for (start, piece) in read_pieces(&repository.reader(&image), 16 * KIB) {
                match piece {
                    Ok(bytes) => {
                        let right = bytes == disk[start..start + bytes.len()];
                        assert!(right, "{case}: image {name} has wrong bytes from {start}");
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}: {error}");
                        damaged += (16 * KIB).min(disk.len() - start);
                    }
                }
            }
            self.assert_restores(&repository, (name, disk), damaged, case);
        }
    }

    fn assert_restores(
        &self,
        repository: &Repository,
        (name, disk): (&str, &[u8]),
        damaged: usize,
        case: &str,
    ) {
        let image = image_named(repository, name).expect("just seen");
        let target = self.folder.path().join("target");
        let plan = Restore::plan(repository, &image, &target, RestoreOptions::default());
        let report: RestoreReport = plan.expect("planned").run(&Silent).expect("restored");
        assert_eq!(report.damaged, damaged as u64, "{case}: image {name}");
        let restored = fs::read(&target).expect("read");
        fs::remove_file(&target).expect("removed");
        assert_eq!(restored.len(), disk.len(), "{case}: image {name}");
        let blocks = restored.chunks(16 * KIB).zip(disk.chunks(16 * KIB));
        let wrong: Vec<&[u8]> = blocks.filter(|(a, b)| a != b).map(|(a, _)| a).collect();
        assert!(wrong.iter().all(|block| block.iter().all(|byte| *byte == 0)), "{case}: garbage");
        let zeroed: usize = wrong.iter().map(|block| block.len()).sum();
        assert!(zeroed <= damaged, "{case}: {zeroed} wrong bytes, {damaged} reported");
    }

    /// Runs `check` on the damaged repository, then undoes the damage.
    fn damaged(&self, object: &Path, damage: impl FnOnce(&mut Vec<u8>), check: impl FnOnce()) {
        let original = fs::read(object).expect("read");
        let mut bytes = original.clone();
        damage(&mut bytes);
        fs::write(object, bytes).expect("written");
        check();
        fs::write(object, original).expect("written");
    }

    fn assert_sound(&self) {
        for quick in [false, true] {
            let (report, said) = self.verify(quick);
            assert_eq!((report.damage, report.images), (0, 2), "{said}");
        }
        for (name, disk) in NAMES.iter().zip(&self.disks) {
            let image = image_named(&self.open(), name).expect("listed");
            assert_eq!(differs(&self.open(), &image, disk), None);
        }
    }
}

#[test]
fn every_flipped_bit_is_found_named_and_never_returned_as_data() {
    let scene = Scene::new();
    let objects = [scene.objects("packs"), scene.objects("images")].concat();
    let sizes: Vec<u64> =
        objects.iter().map(|path| fs::metadata(path).expect("there").len()).collect();
    let mut random = Random::new(0x1f1f);
    for number in 0..if is_long() { 20_000 } else { 1_000 } {
        // Every fifth flip hits a manifest or the last KiB of a pack, which are small targets.
        let (mut object, mut place) = (0, random.below(sizes.iter().sum()));
        while place >= sizes[object] {
            place -= sizes[object];
            object += 1;
        }
        if number % 5 == 0 {
            object = usize::try_from(random.below(objects.len() as u64)).expect("few");
            place = sizes[object] - 1 - random.below(sizes[object].min(1024));
        }
        let bit = random.below(8);
        let case = format!("flip {number}: {} byte {place} bit {bit}", objects[object].display());
        let flip = |bytes: &mut Vec<u8>| {
            bytes[usize::try_from(place).expect("small")] ^= 1 << bit;
        };
        scene.damaged(&objects[object], flip, || {
            scene.assert_found(&objects[object], &case);
            if number % 10 == 0 {
                scene.assert_never_wrong(&case);
            }
        });
    }
    scene.assert_sound();
}

/// What images cannot be read any more, by their own readers.
fn unreadable(repository: &Repository, ids: &[ImageId]) -> Vec<(String, ByteRange)> {
    let mut lost: Vec<(String, ByteRange)> = Vec::new();
    for id in ids {
        let image = repository.image(*id).expect("listed");
        for (start, piece) in read_pieces(&repository.reader(&image), 16 * KIB) {
            let (image, start) = (id.to_string(), start as u64);
            match (piece, lost.last_mut()) {
                (Ok(_), _) => {}
                (Err(_), Some((last, range))) if *last == image && range.end == start => {
                    range.end = start + 16 * KIB as u64;
                }
                (Err(_), _) => lost.push((image, ByteRange::new(start, 16 * KIB as u64))),
            }
        }
    }
    lost
}

#[test]
fn a_damaged_base_or_delta_costs_each_image_just_what_it_cannot_read() {
    let folder = folder_in_memory();
    let root = folder.path().join("repository");
    let block_size = BlockSize::new(16 * 1024).expect("valid");
    let repository = Repository::create(&root, block_size).expect("created");
    let mut random = Random::new(0xde17a);
    let mut disk = imgx_fixtures::pattern::incompressible(5, 512 * KIB);
    let mut base = None;
    let ids: [ImageId; 8] = std::array::from_fn(|_| {
        let report = captured(&repository, &file(folder.path(), "disk", &disk), "disk");
        let packs = || fs::read_dir(root.join("packs")).expect("listed").flatten();
        let _first = base.get_or_insert_with(|| packs().next().expect("a pack").path()).as_path();
        for _ in 0..8 {
            let place = usize::try_from(random.below(512)).expect("small") * KIB;
            disk[place..place + 16].copy_from_slice(b"differs a little");
            disk[place..place + 8].copy_from_slice(&random.below(u64::MAX).to_le_bytes());
        }
        report.id
    });
    let base = base.expect("captured");
    let packs: Vec<PathBuf> = fs::read_dir(root.join("packs"))
        .expect("listed")
        .map(|p| p.expect("read").path())
        .collect();
    let mut costly = 0;
    for number in 0..if is_long() { 4000 } else { 100 } {
        let any = usize::try_from(random.below(packs.len() as u64)).expect("few");
        let pack = if number % 2 == 0 { &base } else { &packs[any] };
        let sound = fs::read(pack).expect("read");
        let (place, bit) = (random.below(sound.len() as u64), random.below(8));
        let mut flipped = sound.clone();
        flipped[usize::try_from(place).expect("small")] ^= 1 << bit;
        fs::write(pack, flipped).expect("written");
        let expected = unreadable(&repository, &ids);
        costly += usize::from(expected.len() >= ids.len());
        for quick in [false, true] {
            let options = VerifyOptions { quick, threads: Some(3), ..VerifyOptions::default() };
            let report = verify(&repository, &options, &Silent).expect("damage is no error");
            let mut told: Vec<(String, ByteRange)> =
                report.lost.into_iter().map(|lost| (lost.image, lost.range)).collect();
            let of_image = |image: &str| ids.iter().position(|id| id.to_string() == image);
            told.sort_by_key(|(image, range)| (of_image(image), range.start));
            let case = format!("{} byte {place} bit {bit} (quick: {quick})", pack.display());
            assert!(report.damage > 0, "{case}: not noticed");
            assert_eq!(told, expected, "{case}");
        }
        fs::write(pack, sound).expect("written");
    }
    assert!(costly > 25, "only {costly} flips cost every image something");
}

#[test]
fn every_flipped_bit_of_the_config_keeps_the_repository_closed() {
    let scene = Scene::new();
    let config = scene.root.join("config");
    for bit in 0..fs::metadata(&config).expect("there").len() * 8 {
        let place = usize::try_from(bit / 8).expect("small");
        scene.damaged(
            &config,
            |bytes| bytes[place] ^= 1 << (bit % 8),
            || {
                let error = Repository::open(&scene.root).err().expect("damaged");
                let is_damage = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported);
                assert!(is_damage, "bit {bit}: {error}");
                assert!(error.to_string().contains("config"), "bit {bit}: {error}");
            },
        );
    }
}

#[test]
fn a_pack_that_is_cut_short_grown_empty_or_missing_is_found() {
    let scene = Scene::new();
    for pack in scene.objects("packs") {
        let length = fs::metadata(&pack).expect("there").len();
        for cut in [1, 47, 48, 49, length / 2, length - 49, length - 1, length] {
            let left = usize::try_from(length - cut).expect("small");
            let case = format!("{} cut to {left} bytes", pack.display());
            scene.damaged(
                &pack,
                |bytes| bytes.truncate(left),
                || {
                    scene.assert_found(&pack, &case);
                    scene.assert_never_wrong(&case);
                },
            );
        }
        scene.damaged(&pack, |bytes| bytes.push(0), || scene.assert_found(&pack, "grown"));
        let away = scene.folder.path().join("away");
        fs::rename(&pack, &away).expect("moved");
        scene.assert_found(&pack, "missing pack");
        scene.assert_never_wrong("missing pack");
        fs::rename(&away, &pack).expect("moved back");
    }
    scene.assert_sound();
}

#[test]
fn packs_in_each_others_place_are_found() {
    let scene = Scene::new();
    let packs = scene.objects("packs");
    let exchange = |one: &Path, other: &Path| {
        let away = scene.folder.path().join("away");
        fs::rename(one, &away).expect("moved");
        fs::rename(other, one).expect("moved");
        fs::rename(&away, other).expect("moved");
    };
    exchange(&packs[0], &packs[1]);
    scene.assert_found(&packs[0], "exchanged packs");
    scene.assert_found(&packs[1], "exchanged packs");
    scene.assert_never_wrong("exchanged packs");
    exchange(&packs[0], &packs[1]);
    scene.assert_sound();
}

#[test]
fn another_repositorys_objects_are_not_taken_for_this_ones() {
    let (scene, other) = (Scene::new(), Scene::new());
    let (pack, foreign) = (&scene.objects("packs")[0], &other.objects("packs")[0]);
    scene.damaged(
        pack,
        |bytes| *bytes = fs::read(foreign).expect("read"),
        || {
            scene.assert_found(pack, "another repository's pack");
            scene.assert_never_wrong("another repository's pack");
        },
    );
    let manifest = &other.objects("images")[0];
    let here = scene.root.join("images").join(manifest.file_name().expect("named"));
    fs::copy(manifest, &here).expect("copied");
    scene.assert_found(&here, "another repository's manifest");
    scene.assert_never_wrong("another repository's manifest");
    fs::remove_file(here).expect("removed");
    scene.assert_sound();
}

#[test]
fn sound_frames_in_each_others_place_are_found() {
    let scene = Scene::new();
    let storage = LocalStorage::open(&scene.root).expect("opens");
    let mut exchanged = 0;
    for pack in scene.objects("packs") {
        let name = pack.file_name().and_then(|name| name.to_str()).expect("plain");
        let object = storage.open(&ObjectName::new(Folder::Packs, name)).expect("opens");
        let table = read_table(&*object).expect("sound");
        let firsts: Vec<_> = table.iter().filter(|entry| entry.member == 0).collect();
        for pair in firsts.windows(2) {
            // Another's content, itself sound, as a misdirected write leaves it: shortened to fit.
            if pair[0].kind != FrameKind::Block || pair[0].length < pair[1].length {
                continue;
            }
            let (to, from, length) =
                (pair[0].offset as usize, pair[1].offset as usize, pair[1].length as usize);
            exchanged += 1;
            let case = format!("{name}: frame at {from} written at {to}");
            scene.damaged(
                &pack,
                |bytes| bytes.copy_within(from..from + length, to),
                || {
                    scene.assert_found(&pack, &case);
                    scene.assert_never_wrong(&case);
                },
            );
        }
    }
    assert!(exchanged > 0, "no pack has two frames of which the first is the longer");
}

#[test]
fn a_frame_of_the_same_length_in_anothers_place_is_found() {
    let folder = folder_in_memory();
    let root = folder.path().join("repository");
    let repository = Repository::create(&root, BlockSize::DEFAULT).expect("created");
    let disk = imgx_fixtures::pattern::incompressible(3, 3 << 20);
    let image = captured(&repository, &file(folder.path(), "disk", &disk), "disk").id;
    let pack = fs::read_dir(root.join("packs")).expect("listed").next().expect("one");
    let pack = pack.expect("read").path();
    let mut bytes = fs::read(&pack).expect("read");
    let frame = 32 + 8 * 36 + (1 << 20);
    let (first, second) = (48..48 + frame, 48 + frame..48 + 2 * frame);
    assert_eq!(
        (&bytes[first.clone()][..4], &bytes[second.clone()][..4]),
        (&b"IMGF"[..], &b"IMGF"[..])
    );
    bytes.copy_within(second, first.start);
    fs::write(&pack, bytes).expect("written");
    for quick in [false, true] {
        let options = VerifyOptions { quick, ..VerifyOptions::default() };
        let report = verify(&repository, &options, &Silent).expect("verified");
        assert!(report.damage > 0, "not noticed (quick: {quick})");
        let lost: Vec<_> =
            report.lost.iter().map(|lost| (lost.range.start, lost.range.end)).collect();
        assert_eq!(lost, [(0, 1 << 20)]);
    }
    let reader = repository.reader(&repository.image(image).expect("listed"));
    let pieces = read_pieces(&reader, 1 << 20);
    assert!(pieces[0].1.is_err() && pieces[1].1.is_ok() && pieces[2].1.is_ok());
}

#[test]
fn missing_and_damaged_manifests_are_found_in_the_packs_and_put_back() {
    let scene = Scene::new();
    let manifests = scene.objects("images");
    let damaged = fs::read(&manifests[0]).expect("read");
    fs::write(&manifests[0], &damaged[..damaged.len() / 2]).expect("written");
    fs::remove_file(&manifests[1]).expect("removed");
    let repository = scene.open();
    assert!(repository.images().expect("listed").images.is_empty());
    let salvage = Salvage::new(&repository, &Silent);
    let report = salvage.look().expect("packs are read");
    assert_eq!(report.damage, 0);
    for (name, disk) in NAMES.iter().zip(&scene.disks) {
        let found = report.images.iter().find(|image| image.manifest.name == *name);
        let found = found.expect("its manifest is in a pack");
        assert_eq!((found.is_listed, found.lost), (false, 0));
        assert_eq!(found.reachable, disk.len() as u64);
    }
    assert_eq!(salvage.restore_manifests(&report).expect("written"), 2);
    scene.assert_sound();
}

#[test]
fn capturing_again_after_a_pack_was_lost_makes_a_whole_image() {
    for lost in 0..Scene::new().objects("packs").len() {
        let scene = Scene::new();
        fs::remove_file(&scene.objects("packs")[lost]).expect("removed");
        let path = file(scene.folder.path(), "disk", &scene.disks[1]);
        let report = captured(&scene.open(), &path, "two");
        let image = scene.open().image(report.id).expect("committed");
        assert_eq!(differs(&scene.open(), &image, &scene.disks[1]), None, "pack {lost}");
    }
}
