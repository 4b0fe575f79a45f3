//! `--json`: queries print one document, jobs one event a line, and the last says how it ended.

use serde_json::Value;

use crate::support::Shell;

#[test]
fn jobs_print_events_and_end_with_the_result() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 8_000_000);
    let jobs = [
        ("capture disk.raw --json", "capture", "capture"),
        ("--json verify", "verify", "scrub"),
        ("--json restore latest out.raw --verify", "restore", "read-back"),
        ("verify --packs --json", "verify", "scrub"),
    ];
    for (line, command, phase) in jobs {
        let events = shell.imgx(line).exits(0).events();
        let last = events.last().expect("a result");
        assert_eq!((&last["event"], &last["command"]), (&"result".into(), &command.into()));
        let started: Vec<&Value> =
            events.iter().filter(|event| event["event"] == "started").collect();
        let is_there = |event: &&Value| event["phase"] == phase || event["phase"] == command;
        assert!(started.iter().any(is_there), "{line}: {started:?}");
        for event in events.iter().filter(|event| event["event"] == "progress") {
            let number = |member: &str| event[member].as_u64().expect("a number");
            assert!(number("done") <= number("total"), "{event}");
        }
    }
}

#[test]
fn a_capture_accounts_for_every_byte() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 8_000_001);
    let events = shell.imgx("capture disk.raw --json").exits(0).events();
    let result = events.last().expect("a result");
    let cost = |member: &str| result["cost"][member].as_u64().expect("a number");
    let parts = cost("zero") + cost("duplicate") + cost("fresh") + cost("unreadable");
    assert_eq!((parts, &result["size"]), (8_000_001, &8_000_001.into()));
    assert!(result["ratio"].as_f64().expect("a ratio") > 1.0, "{result}");
}

#[test]
fn a_restore_prints_its_plan_first() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 8_000_000);
    shell.imgx("capture disk.raw").exits(0);
    let events = shell.imgx("restore latest out.raw --json").exits(0).events();
    let (plan, result) = (&events[0], events.last().expect("a result"));
    assert_eq!((&plan["event"], &plan["creates"]), (&"plan".into(), &true.into()));
    assert_eq!(plan["target"], "out.raw");
    let number = |event: &Value, member: &str| event[member].as_u64().expect("a number");
    assert_eq!(number(plan, "content") + number(plan, "zero"), 8_000_000);
    assert_eq!(number(plan, "content"), number(result, "written"));
}

#[test]
fn errors_are_the_last_event_and_a_line_on_standard_error() {
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 1000);
    shell.imgx("capture disk.raw").exits(0);
    shell.write("full.raw", &[1; 1000]);
    let failures = [
        ("show nobody --json", 1, "notfound"),
        ("restore latest full.raw --json", 1, "conflict"),
        ("capture disk.raw --name latest --json", 2, "invalid"),
    ];
    for (line, code, kind) in failures {
        let ended = shell.imgx(line).exits(code).complains(&["error: "]);
        let events = ended.events();
        let last = events.last().expect("an event");
        assert_eq!((&last["event"], &last["kind"]), (&"error".into(), &kind.into()), "{line}");
        assert!(ended.err.contains(last["message"].as_str().expect("a message")));
    }
}

#[test]
fn queries_print_one_document() {
    let shell = Shell::new();
    let made = shell.imgx("init --block-size 64K --json").exits(0).document();
    assert_eq!(made["block_size"], 65536);
    assert_eq!(shell.imgx("images --json").exits(0).document(), serde_json::json!([]));
    shell.mixed_disk("disk.raw", 1_000_000);
    shell.imgx("capture disk.raw --name a").exits(0);
    shell.imgx("capture disk.raw --name b --parent a").exits(0);
    let images = shell.imgx("images --json").exits(0).document();
    let names: Vec<&Value> =
        images.as_array().expect("an array").iter().map(|image| &image["name"]).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(images[0]["parent"], images[1]["id"]);
    assert_eq!(images[0]["content"], images[1]["content"]);
    let shown = shell.imgx("show b --json").exits(0).document();
    assert_eq!(shown["id"], images[0]["id"]);
    for member in ["source", "layout", "tree", "cost", "size", "unreadable", "host", "version"] {
        assert!(!shown[member].is_null(), "{member}: {shown}");
    }
}
