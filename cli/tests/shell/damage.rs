//! Damaged repositories: noticed, named, exit code 3, and never returned as data.

use std::fs;

use imgx_fixtures::pattern::incompressible;

use crate::support::{Shell, assert_same, flip, length, overwrite};

#[test]
fn a_flipped_bit_anywhere_in_a_pack_is_found() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 5_000_000);
    shell.imgx("capture disk.raw").exits(0);
    let pack = shell.objects("packs").remove(0);
    let size = length(&pack);
    for place in (0..24).map(|step| size * step / 24).chain([size - 1]) {
        flip(&pack, place);
        let ended = shell.imgx("verify").exits(3).complains(&["damage: "]);
        assert!(ended.err.contains("pack"), "byte {place}: {}", ended.err);
        flip(&pack, place);
    }
    shell.imgx("verify").exits(0);
}

#[test]
fn lost_bytes_are_named_and_only_they_are_lost() {
    let shell = Shell::with_repository();
    let disk = shell.write("disk.raw", &incompressible(1, 4 << 20));
    shell.imgx("capture disk.raw --name web").exits(0);
    shell.imgx("restore web right.raw").exits(0);
    let pack = shell.objects("packs").remove(0);
    flip(&pack, length(&pack) / 2);

    let events = shell.imgx("verify --json").exits(3).events();
    let result = events.last().expect("a result");
    let lost = &result["lost"][0];
    let place = |member: &str| lost[member].as_u64().expect("a number");
    let (offset, length) = (place("offset"), place("length"));
    assert_eq!(lost["name"], "web");
    assert!(length > 0 && length <= 1 << 20, "{lost}");
    assert!(events.iter().any(|event| event["event"] == "damage"), "{events:?}");
    shell.imgx("verify --quick").exits(3);
    shell.imgx("verify web").exits(3);
    shell.imgx("verify --packs").exits(3).shows(&["web"]);

    shell.imgx("restore web out.raw").exits(3).complains(&["damage: "]);
    overwrite(&disk, offset, &vec![0; usize::try_from(length).expect("a small number")]);
    assert_same(&disk, &shell.path("out.raw"));
}

#[test]
fn a_missing_pack_is_damage() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 5_000_000);
    shell.imgx("capture disk.raw").exits(0);
    shell.imgx("capture disk.raw").exits(0);
    fs::remove_file(shell.objects("packs").remove(0)).expect("it can be removed");
    shell.imgx("verify").exits(3);
    shell.imgx("verify --quick").exits(3);
    shell.imgx("verify --packs").exits(3).shows(&["LOST", "4.8 MiB"]);
    shell.imgx("images").exits(0).shows(&["disk.raw"]);
}

#[test]
fn a_damaged_manifest_is_reported_and_comes_back_from_its_pack() {
    let shell = Shell::with_repository();
    let disk = shell.mixed_disk("disk.raw", 5_000_000);
    shell.imgx("capture disk.raw --name web").exits(0);
    shell.imgx("capture disk.raw --name other").exits(0);
    let before = shell.imgx("images --json").exits(0).document();
    for manifest in shell.objects("images") {
        flip(&manifest, 100);
    }
    let ended = shell.imgx("images --json").exits(3).complains(&["damage: images/"]);
    assert_eq!(ended.document(), serde_json::json!([]));
    shell.imgx("verify").exits(3);
    shell.imgx("verify --packs").exits(0).shows(&["web", "other", "--restore-manifests"]);
    shell.imgx("verify --packs --restore-manifests").exits(0).shows(&["put 2 manifests back"]);
    assert_eq!(shell.imgx("images --json").exits(0).document(), before);
    shell.imgx("verify").exits(0);
    shell.imgx("restore web out.raw").exits(0);
    assert_same(&disk, &shell.path("out.raw"));
}

#[test]
fn a_damaged_config_is_refused() {
    let shell = Shell::with_repository();
    flip(&shell.path("repo/config"), 60);
    shell.imgx("images").exits(3).complains(&["config"]);
}

#[test]
fn a_damaged_pack_is_repaired_from_the_disk_or_from_a_copy() {
    let shell = Shell::with_repository();
    let disk = shell.write("disk.raw", &incompressible(3, 4 << 20));
    shell.imgx("capture disk.raw --name web").exits(0);
    shell.imgx("repair --from disk.raw").exits(0).shows(&["no damage"]);
    let copied = std::process::Command::new("cp")
        .args(["-a", "repo", "copy"])
        .current_dir(shell.path(""))
        .status();
    assert!(copied.expect("cp runs").success());
    let pack = shell.objects("packs").remove(0);
    let before = fs::read(&pack).expect("it can be read");
    for from in ["disk.raw", "copy"] {
        flip(&pack, length(&pack) / 3);
        flip(&pack, length(&pack) - 20);
        shell.imgx("verify").exits(3);
        shell.imgx(&format!("repair --from {from}")).exits(0).shows(&["repaired 2 damages"]);
        assert!(fs::read(&pack).expect("it can be read") == before, "from {from}");
        shell.imgx("verify").exits(0);
    }
    shell.imgx("restore web out.raw").exits(0);
    assert_same(&disk, &shell.path("out.raw"));

    // The content is not there any more: it is said, and stays damage.
    flip(&pack, length(&pack) / 3);
    shell.write("other.raw", &incompressible(4, 4 << 20));
    let ended = shell.imgx("repair --from other.raw --json").exits(3);
    let events = ended.complains(&["not repaired: packs/"]).events();
    let result = events.last().expect("a result");
    assert_eq!(result["repaired"], 0);
    assert_eq!(result["left"].as_array().map(Vec::len), Some(1), "{result}");
    shell.imgx("repair --from missing.raw").exits(1);
    shell.imgx("repair").exits(2);
    shell.imgx_without_repository("--repo elsewhere init").exits(0);
    shell.imgx("repair --from elsewhere").exits(1).complains(&["another"]);
}

#[test]
fn what_is_no_lock_stops_nothing() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 3_000_000);
    for name in ["garbage", "0011223344556677", "8899aabbccddeeff", "0123456789abcdef.new"] {
        shell.write(&format!("repo/locks/{name}"), if name.len() == 16 { b"" } else { b"{" });
    }
    shell.imgx("capture disk.raw --name web").exits(0);
    shell.imgx("verify").exits(0);
    shell.imgx("verify --packs").exits(0);
    shell.imgx("restore web out.raw").exits(0);
    assert!(shell.path("repo/locks/garbage").exists());
}

#[test]
fn a_damaged_newest_manifest_is_told_by_whatever_goes_by_order() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 3_000_000);
    shell.imgx("capture disk.raw --name web").exits(0);
    let sound = shell.objects("images").remove(0);
    shell.imgx("capture disk.raw --name web").exits(0);
    let newest = shell.objects("images").into_iter().find(|path| *path != sound).expect("two");
    let stem = |path: &std::path::Path| path.file_stem().expect("a name").display().to_string();
    let (sound, damaged) = (stem(&sound), stem(&newest));
    flip(&newest, 100);
    let told = ["warning: 1 manifest is damaged", damaged.as_str(), "newest image may be"];
    let lines = [
        ("show latest", 0),
        ("show web", 0),
        ("show web --json", 0),
        ("show web~1", 1),
        ("map web", 0),
        ("diff latest web", 0),
        ("diff latest web --json", 0),
        ("diff --files web latest", 0),
        ("ls web", 1),
        ("find latest *", 1),
        ("cat web /file", 1),
        ("extract web / --to out", 1),
        ("extract web / --tar", 1),
        ("restore latest out.raw", 0),
        ("restore web quiet.raw --quiet", 0),
        ("verify latest", 0),
        ("capture disk.raw --name other --parent web", 0),
        ("capture disk.raw --name web --quiet", 0),
    ];
    for (line, code) in lines {
        let ended = shell.imgx(line).exits(code).complains(&told);
        assert_eq!(ended.err.matches(&damaged).count(), 1, "{line}: {}", ended.err);
    }
    let events = [
        ("restore web again.raw --json", 0),
        ("capture disk.raw --name web --json", 0),
        ("verify web --json", 0),
        ("extract web / --to out --json", 1),
    ];
    for (line, code) in events {
        let events = shell.imgx(line).exits(code).events();
        let warnings = events.iter().filter(|event| event["event"] == "warning");
        let words: Vec<&str> = warnings.filter_map(|event| event["message"].as_str()).collect();
        assert!(words.len() == 1 && words[0].contains(&damaged), "{line}: {events:?}");
    }
    for line in [format!("show {sound}"), format!("restore {sound} exact.raw")] {
        let ended = shell.imgx(&line).exits(0);
        assert_eq!(ended.err, "", "{line}");
    }
    shell.imgx(&format!("show {damaged}")).exits(3).complains(&["error: ", &damaged]);
}
