//! Tests that documents name as proof: each must exist, or the proof is none.
//!
//! Names are those that `cargo test` lists, shortened for the eye: `…` stands for anything, `{a,b}` for each of these.

use std::path::Path;

use super::rust_files;

/// A function, and the module it is in.
struct Function {
    modules: Vec<String>,
    name: String,
}

/// All functions of a file; `file` is its path below the root of its crate.
fn functions(file: &Path, source: &str) -> Vec<Function> {
    let path = file.with_extension("");
    let modules: Vec<String> =
        path.iter().filter_map(|part| part.to_str()).filter(|part| *part != "mod").map(str::to_owned).collect();
    let names = source.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
    names.map(|name| Function { modules: modules.clone(), name: name.to_owned() }).collect()
}

/// The names in a text that stand between backticks and have a path.
fn names(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2).filter(|name| name.contains("::"));
    quoted.filter(|name| name.chars().all(|c| c.is_alphanumeric() || "_:{},…".contains(c))).collect()
}

/// Each name that `{a,b}` stands for.
fn each(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else { return vec![name.to_owned()] };
    let (either, after) = rest.split_once('}').expect("a brace is closed");
    either.split(',').flat_map(|one| each(&format!("{before}{one}{after}"))).collect()
}

/// Whether a text is what a shortened name stands for.
fn stands_for(short: &str, text: &str) -> bool {
    match short.split_once('…') {
        None => short == text,
        Some((before, after)) => text
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).filter_map(|at| rest.get(at..)).any(|rest| stands_for(after, rest))),
    }
}

/// Whether a function is meant. Modules within a file, and those that macros make for each database, have no file of their own.
fn is_meant(path: &[&str], name: &str, function: &Function) -> bool {
    let has_file = |module: &&&str| !["…", "tests", "redis", "memory", "postgres", "sqlite"].contains(module);
    let mut found = function.modules.iter();
    stands_for(name, &function.name) && path.iter().filter(has_file).all(|module| found.any(|of| of == module))
}

/// The names of a text that no function, and no module of tests, has.
fn missing(text: &str, functions: &[Function]) -> Vec<String> {
    let all = names(text).into_iter().flat_map(each);
    all.filter(|name| {
        let parts: Vec<&str> = name.split("::").collect();
        let (last, path) = parts.split_last().expect("a name");
        let is_module = functions.iter().any(|function| function.modules.iter().eq(&parts));
        !is_module && !functions.iter().any(|function| is_meant(path, last, function))
    })
    .collect()
}

#[test]
fn the_tests_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for folder in ["src", "tests/it"] {
        for file in rust_files(&root.join(folder)) {
            let source = std::fs::read_to_string(&file).unwrap();
            all.extend(functions(file.strip_prefix(root.join(folder)).unwrap(), &source));
        }
    }
    let events = std::fs::read_to_string(root.join("docs/EVENTS.md")).unwrap();
    let architecture = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).unwrap();
    let (_, table) = architecture.split_once("| what always holds | where | shown by |").expect("the table is there");
    let (table, _) = table.split_once("\n\n").expect("the table ends");
    let last_column =
        |text: &str| -> String { text.lines().filter_map(|row| row.rsplit('|').nth(1)).collect::<Vec<_>>().join("\n") };
    let shown = last_column(table);
    assert!(names(&events).len() > 30 && names(&shown).len() > 60, "the names are found");
    let faults = last_column(&std::fs::read_to_string(root.join("docs/FAULTS.md")).unwrap());
    let security = std::fs::read_to_string(root.join("docs/SECURITY.md")).unwrap();
    let documents =
        [("EVENTS.md", &events), ("ARCHITECTURE.md", &shown), ("FAULTS.md", &faults), ("SECURITY.md", &security)];
    for (document, text) in documents {
        assert_eq!(missing(text, &all), [""; 0], "docs/{document} names tests that are not there");
    }
}

#[test]
fn names_are_told_from_what_nobody_tests() {
    let functions = functions(Path::new("ledger/cases/mod.rs"), "async fn a_level_ends_in_a_file(ledger: &L) {}");
    for known in
        ["ledger::…::a_level_ends_in_a_file", "ledger::sqlite::a_level_…", "ledger::cases::a_level_ends_{in_a_file}"]
    {
        assert_eq!(missing(&format!("shown by `{known}`, `no_name`"), &functions), [""; 0]);
    }
    let unknown = "`ledger::a_level_ends` `cache::a_level_ends_in_a_file` `ledger::a_level_ends_in_{a_file,postgres}`";
    assert_eq!(
        missing(unknown, &functions),
        ["ledger::a_level_ends", "cache::a_level_ends_in_a_file", "ledger::a_level_ends_in_postgres"]
    );
}
