//! Rules of the house that the compiler does not check: which room may use which, which room alone knows a crate, and
//! what no file may hold. The rules are the tables of `rules.rs`; that they catch what they should is tested too
//! (`samples.rs`).
//!
//! Source is read as tokens (`tokens.rs`), so comments and strings never count, and neither does `#[cfg(test)]` code.

mod documents;
mod fail_points;
mod rules;
mod samples;
mod tokens;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::rules::{FORBIDDEN, Forbidden, LINES_MAX, MACHINE_PATHS, MayUse, OWNED_CRATES, ROOMS, Room};
use self::tokens::{Token, tokens_outside_tests};

/// One breach of one rule.
#[derive(Debug, PartialEq)]
struct Breach {
    file: String,
    line: usize,
    rule: String,
    why: &'static str,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n    because {}", self.file, self.line, self.rule, self.why)
    }
}

/// All breaches of one file of `src/`; `file` is its path below `src/`.
fn check_source(file: &str, source: &str) -> Vec<Breach> {
    let mut breaches = check_shape(file, source);
    if is_test_module(file.rsplit('/').next().unwrap_or(file).trim_end_matches(".rs")) {
        return breaches;
    }
    let tokens = tokens_outside_tests(source);
    breaches.extend(check_test_modules(file, &tokens));
    let room_name = room_of(file);
    match ROOMS.iter().find(|room| room.name == room_name) {
        Some(room) => breaches.extend(check_arrows(room, file, &tokens)),
        None => breaches.push(Breach {
            file: file.to_owned(),
            line: 1,
            rule: format!("the room `{room_name}` has no row in ROOMS of tests/it/tidy/rules.rs"),
            why: "whom a room may use is decided when the room is made",
        }),
    }
    breaches.extend(check_crates(room_name, file, &tokens));
    breaches.extend(check_forbidden(room_name, file, &tokens));
    breaches
}

fn check_shape(file: &str, source: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if !source.starts_with("//!") {
        breaches.push(Breach {
            file: file.to_owned(),
            line: 1,
            rule: "the file does not begin with a `//!` header".to_owned(),
            why: "whoever opens a room must see what it is for",
        });
    }
    let lines = source.lines().count();
    if lines > LINES_MAX {
        breaches.push(Breach {
            file: file.to_owned(),
            line: lines,
            rule: format!("the file has {lines} lines; {LINES_MAX} are the most"),
            why: "a file is one room; a longer one holds two",
        });
    }
    breaches
}

/// Test code in a file of its own is known by its name; that it is compiled for tests only is checked where it is
/// declared.
fn is_test_module(name: &str) -> bool {
    name == "tests" || name.ends_with("_tests")
}

fn check_test_modules(file: &str, tokens: &[Token<'_>]) -> Vec<Breach> {
    tokens::declared_modules(tokens)
        .into_iter()
        .filter(|module| is_test_module(module.text))
        .map(|module| Breach {
            file: file.to_owned(),
            line: module.line,
            rule: format!("`mod {}` is declared without #[cfg(test)]", module.text),
            why: "test code is free of these rules, so it must not be part of the service",
        })
        .collect()
}

fn check_arrows(room: &Room, file: &str, tokens: &[Token<'_>]) -> Vec<Breach> {
    let MayUse::Only(allowed) = &room.may_use else {
        return Vec::new();
    };
    tokens::crate_paths(tokens, depth_of(file))
        .into_iter()
        .filter(|used| used.text != room.name && !allowed.contains(&used.text))
        // `crate::Something` names no room: such a re-export is looked at where it is made.
        .filter(|used| !used.text.starts_with(char::is_uppercase))
        .map(|used| Breach {
            file: file.to_owned(),
            line: used.line,
            rule: format!("{} may not use crate::{}, only {allowed:?}", room.name, used.text),
            why: room.why,
        })
        .collect()
}

fn check_crates(room: &str, file: &str, tokens: &[Token<'_>]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for owned in OWNED_CRATES.iter().filter(|owned| !owned.rooms.contains(&room)) {
        for used in tokens::uses_of_crate(tokens, owned.crate_name) {
            breaches.push(Breach {
                file: file.to_owned(),
                line: used.line,
                rule: format!("{room} may not name {}, only {:?} may", owned.crate_name, owned.rooms),
                why: owned.why,
            });
        }
    }
    breaches
}

fn check_forbidden(room: &str, file: &str, tokens: &[Token<'_>]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let concerns = |rule: &&Forbidden| rule.rooms.is_empty() || rule.rooms.contains(&room);
    for rule in FORBIDDEN.iter().filter(concerns) {
        for found in tokens::find(tokens, rule.tokens) {
            breaches.push(Breach {
                file: file.to_owned(),
                line: found.line,
                rule: format!("`{}` has no place in {room}", rule.tokens.concat()),
                why: rule.why,
            });
        }
    }
    breaches
}

/// `http` for both `http/webhook.rs` and `http.rs`.
fn room_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// How many modules deep a file is: `super` said so many times is the crate.
fn depth_of(file: &str) -> usize {
    match file.strip_suffix(".rs").unwrap_or(file) {
        "lib" | "main" => 0,
        module => module.strip_suffix("/mod").unwrap_or(module).split('/').count(),
    }
}

fn check_machine_paths(file: &str, content: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (index, line) in content.lines().enumerate() {
        for path in MACHINE_PATHS {
            // Inside a longer path or a URL it is somebody's directory name, not the start of an absolute path.
            let starts_a_path = line.match_indices(path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-/}".contains(c))
            });
            if starts_a_path {
                breaches.push(Breach {
                    file: file.to_owned(),
                    line: index + 1,
                    rule: format!("`{path}` is a path of one machine"),
                    why: "what is in the repository works, and reads, the same everywhere",
                });
            }
        }
    }
    breaches
}

pub(crate) fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in directory.read_dir().expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn assert_none(breaches: &[Breach]) {
    let listing: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(
        breaches.is_empty(),
        "{} times the rules of tests/it/tidy/rules.rs are broken:\n{}",
        breaches.len(),
        listing.join("\n")
    );
}

#[test]
fn the_sources_keep_the_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&src);
    assert!(!files.is_empty(), "no source file was looked at");
    let mut breaches = Vec::new();
    for path in files {
        let file = path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
        let source = std::fs::read_to_string(&path).expect("a readable source file");
        breaches.extend(check_source(&file, &source));
    }
    assert_none(&breaches);
}

#[test]
fn nothing_tracked_holds_a_path_of_one_machine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(".git").exists() {
        // A source archive: what it was made from has been checked.
        return;
    }
    let listing = Command::new("git")
        // The checkout may belong to somebody else, as in a container; only names are read.
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .current_dir(root)
        .output()
        .expect("git runs");
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let names = String::from_utf8(listing.stdout).expect("names in UTF-8");
    assert!(names.contains("Cargo.toml"), "no tracked file was looked at");
    let mut breaches = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        // A binary file, or one deleted but not yet committed, holds no text to look at.
        if let Ok(content) = std::fs::read_to_string(root.join(name)) {
            breaches.extend(check_machine_paths(name, &content));
        }
    }
    assert_none(&breaches);
}
