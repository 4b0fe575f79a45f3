//! Rules that lints cannot hold: layers, sizes, what may stand where. Run by `tests/tidy`.
//!
//! Each rule is a function from text to complaints, tested below on text that breaks it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LONGEST_FILE: usize = 800;
const TOP_LEVEL: [&str; 18] = [
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "FORMAT.md",
    "LICENSE",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "bench",
    "cli",
    "clippy.toml",
    "engine",
    "fixtures",
    "rustfmt.toml",
    "tests",
];

/// The engine's layers, each a folder, and which each may import. What lies below them are crates:
/// `base`, and in one crate `fs` and `volume`, which asks `fs` what a superblock says.
const LAYERS: [(&str, &[&str]); 11] = [
    ("sys", &["base"]),
    ("block", &["base", "sys"]),
    ("track", &["base", "sys", "block"]),
    ("store", &["base", "sys", "block"]),
    ("export", &["base", "sys", "block", "track", "store", "volume", "fs"]),
    ("job", &["base", "sys", "block", "track", "store", "volume", "fs", "export"]),
    ("kind", &[]),
    ("text", &["base"]),
    ("content", &["kind"]),
    ("fs", &["base", "kind", "text", "content"]),
    ("volume", &["base", "kind", "text", "content", "fs"]),
];

/// Where they are.
const LAYERED: [&str; 2] = ["engine/src/", "engine/volumes/src/"];

/// The folders of the engine's code: its crates'.
const ENGINE: [&str; 3] = ["engine/src/", "engine/base/src/", "engine/volumes/src/"];

fn root() -> PathBuf {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    engine.parent().expect("the engine is a folder of the workspace").to_owned()
}

/// The project's files, as paths from its root: those that git tracks or would, or, without git,
/// all but what is built.
fn files() -> Vec<String> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git").args(arguments).current_dir(root()).output();
    let mut found: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
        }
        _ => {
            let mut found = Vec::new();
            walk(&root(), &mut found);
            found
        }
    };
    found.retain(|path| root().join(path).is_file());
    assert!(found.len() > 100, "only {} files: this checks nothing", found.len());
    found
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("listed").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            walk(&path, found);
        } else if path.is_file() {
            let path = path.strip_prefix(root()).expect("below the root");
            found.push(path.to_string_lossy().into_owned());
        }
    }
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    let mut files = files();
    files.retain(|path| path.starts_with(folder) && path.ends_with(".rs"));
    assert!(!files.is_empty(), "{folder}: no Rust files");
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).expect("a source file is text");
        (path, text)
    };
    files.into_iter().map(read).collect()
}

/// Source without its comments and its unit tests, which come last.
fn code(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    let lines = code.lines().map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line.split(" // ").next().unwrap_or(line),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether `word` stands in `line` by itself.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// The modules of the crate's root that a source names.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let word = |text: &str| -> String {
        text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (place, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ if start && !letter.is_whitespace() => {
                    found.push(word(&group[place..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn wrong_imports(path: &str, text: &str) -> Vec<String> {
    let inside = LAYERED.iter().find_map(|folder| path.strip_prefix(folder)).unwrap_or(path);
    let layer = inside.split(['/', '.']).next().unwrap_or_default();
    if layer == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{path}: {layer} is no layer")];
    };
    let imported = imports(&code(text));
    let wrong = imported.iter().filter(|name| *name != layer && !allowed.contains(&name.as_str()));
    wrong.map(|name| format!("{path}: {layer} must not import {name}")).collect()
}

fn prints(path: &str, text: &str) -> Vec<String> {
    let words = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    lines_with(path, &code(text), |line| words.iter().any(|word| has_word_before(line, word)))
}

/// As [`has_word`], for a word that ends in a sign.
fn has_word_before(line: &str, word: &str) -> bool {
    let name = word.trim_end_matches('!');
    has_word(line, name) && line.contains(word)
}

fn unwraps(path: &str, text: &str) -> Vec<String> {
    lines_with(path, &code(text), |line| line.contains(".unwrap()"))
}

/// Threads that panic, or end the process, where the system refuses them.
fn unasked_threads(path: &str, text: &str) -> Vec<String> {
    let words = ["scope.spawn(", "thread::spawn(", "rayon::", "par_iter"];
    if path == "engine/src/sys/threads.rs" {
        return Vec::new();
    }
    lines_with(path, &code(text), |line| words.iter().any(|word| line.contains(word)))
}

fn lines_with(path: &str, code: &str, is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = code.lines().enumerate().filter(|(_, line)| is_wrong(line));
    lines.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect()
}

fn unsafe_outside_sys(path: &str, text: &str) -> Vec<String> {
    if path.starts_with("engine/src/sys/") {
        return Vec::new();
    }
    lines_with(path, &code(text), |line| has_word(line, "unsafe"))
}

/// Unsafe code, also of tests, without its reason right above.
fn unexplained_unsafe(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if !has_word(code, "unsafe") {
            continue;
        }
        let above = lines[..number].iter().rev().take_while(|line| !line.trim().is_empty());
        let explains = |line: &&str| {
            line.trim_start().starts_with("//")
                && (line.contains("SAFETY") || line.contains("# Safety"))
        };
        if !above.take(12).any(explains) {
            complaints.push(format!("{path}:{}: {}", number + 1, line.trim()));
        }
    }
    complaints
}

fn too_long(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let complaint = format!("{path}: {lines} lines, {LONGEST_FILE} at most");
    if lines > LONGEST_FILE { vec![complaint] } else { Vec::new() }
}

fn machine_paths(path: &str, text: &str) -> Vec<String> {
    // Put together here, so that this file does not hold them.
    let folders = [["/wo", "rk/"], ["/Us", "ers/"]].map(|parts| parts.concat());
    lines_with(path, text, |line| folders.iter().any(|folder| line.contains(folder.as_str())))
}

fn unknown_top_level(paths: &[String]) -> Vec<String> {
    let mut names: Vec<&str> = paths.iter().filter_map(|path| path.split('/').next()).collect();
    names.sort_unstable();
    names.dedup();
    let unknown = names.into_iter().filter(|name| !TOP_LEVEL.contains(name));
    unknown.map(|name| format!("{name}: not a known name of the top level")).collect()
}

/// Asserts that a rule has nothing to say of any Rust file below `folder`.
fn hold(folder: &str, rule: fn(&str, &str) -> Vec<String>) {
    let complaints: Vec<String> =
        rust_files(folder).iter().flat_map(|(path, text)| rule(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn layers_import_only_those_below() {
    LAYERED.iter().for_each(|folder| hold(folder, wrong_imports));
}

#[test]
fn the_engine_prints_nothing() {
    ENGINE.iter().for_each(|folder| hold(folder, prints));
}

#[test]
fn only_the_command_line_knows_arguments() {
    for crate_name in ["engine", "engine/base", "engine/volumes", "fixtures", "bench"] {
        let path = root().join(crate_name).join("Cargo.toml");
        let manifest = fs::read_to_string(path).expect("read");
        assert!(!has_word(&manifest, "clap"), "{crate_name} depends on clap");
    }
}

#[test]
fn unsafe_code_is_in_sys_alone_and_explained() {
    for folder in ENGINE.into_iter().chain(["cli/", "fixtures/", "bench/"]) {
        hold(folder, unsafe_outside_sys);
    }
    hold("engine/src/sys/", unexplained_unsafe);
}

#[test]
fn nothing_but_tests_unwraps() {
    for folder in ENGINE.into_iter().chain(["cli/src/", "fixtures/src/"]) {
        hold(folder, unwraps);
    }
}

#[test]
fn threads_are_started_where_a_refusal_has_an_answer() {
    for folder in ENGINE.into_iter().chain(["cli/src/"]) {
        hold(folder, unasked_threads);
    }
}

#[test]
fn no_file_is_too_long() {
    hold("", too_long);
}

#[test]
fn fixtures_never_import_the_engine() {
    let manifest = fs::read_to_string(root().join("fixtures/Cargo.toml")).expect("read");
    assert!(!manifest.contains("imgx-engine"), "fixtures depend on the engine");
    for (path, text) in rust_files("fixtures/") {
        assert!(!code(&text).contains("imgx_engine"), "{path} names the engine");
    }
}

#[test]
fn the_top_level_holds_what_it_should() {
    let complaints = unknown_top_level(&files());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    let mut complaints = Vec::new();
    for path in files() {
        // Binary files hold no paths that anybody wrote.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        complaints.extend(machine_paths(&path, &text));
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn each_rule_finds_what_it_is_for() {
    let wrong =
        wrong_imports("engine/src/store/a.rs", "use crate::base::Error;\nuse crate::volume::X;");
    assert_eq!(wrong, ["engine/src/store/a.rs: store must not import volume"]);
    let wrong = wrong_imports("engine/src/sys/a.rs", "use crate::{base::{A, B}, store, job::C};");
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    let wrong = wrong_imports("engine/volumes/src/fs/a.rs", "use crate::volume::Volume;");
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(wrong_imports("engine/src/sys/a.rs", "// crate::job\nfn f() {}"), [""; 0]);
    assert_eq!(wrong_imports("engine/src/new/a.rs", "").len(), 1);
    assert_eq!(wrong_imports("engine/src/job/mod.rs", "use crate::store::S;"), [""; 0]);

    assert_eq!(prints("a.rs", "fn f() {\n    println!(\"x\");\n}"), ["a.rs:2: println!(\"x\");"]);
    assert_eq!(
        prints("a.rs", "// println!\nlet imprint = 1;\n#[cfg(test)]\nmod tests {\nprintln!()"),
        [""; 0]
    );
    assert_eq!(unwraps("a.rs", "x.unwrap();\ny.unwrap_or(0);"), ["a.rs:1: x.unwrap();"]);
    assert_eq!(unwraps("a.rs", "\n#[cfg(test)]\nmod tests {\nx.unwrap();"), [""; 0]);

    assert_eq!(unsafe_outside_sys("engine/src/job/a.rs", "let x = unsafe { y };").len(), 1);
    assert_eq!(unsafe_outside_sys("a.rs", "#![forbid(unsafe_code)]"), [""; 0]);
    assert_eq!(unsafe_outside_sys("engine/src/sys/a.rs", "unsafe { y }"), [""; 0]);
    assert_eq!(unexplained_unsafe("a.rs", "fn f() {\n    unsafe { y }\n}").len(), 1);
    assert_eq!(unexplained_unsafe("a.rs", "// SAFETY: of this one.\n\nunsafe { y }").len(), 1);
    assert_eq!(unexplained_unsafe("a.rs", "// SAFETY: why.\nlet x =\n    unsafe { y };"), [""; 0]);

    assert_eq!(unasked_threads("a.rs", "scope.spawn(work);\nuse rayon::prelude::*;").len(), 2);
    assert_eq!(unasked_threads("engine/src/sys/threads.rs", "scope.spawn(work);"), [""; 0]);

    assert_eq!(too_long("a.rs", &"\n".repeat(LONGEST_FILE + 1)).len(), 1);
    assert_eq!(unasked_threads("a.rs", "scope.spawn(work);\nuse rayon::prelude::*;").len(), 2);
    assert_eq!(unasked_threads("engine/src/sys/threads.rs", "scope.spawn(work);"), [""; 0]);

    assert_eq!(too_long("a.rs", &"\n".repeat(LONGEST_FILE)), [""; 0]);
    assert_eq!(machine_paths("a", &["see /wo", "rk/x"].concat()).len(), 1);
    assert_eq!(unknown_top_level(&["engine/a".to_owned(), "util/b".to_owned()]).len(), 1);
}
