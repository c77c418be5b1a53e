//! Where the servers' programs are.

use std::path::{Path, PathBuf};

/// Where packages put programs that are not on the PATH: parent, start of the versioned directory's name, what follows
/// below it. The same places as in scripts/setup.
const PLACES: &[(&str, &str, &str)] = &[
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/lib", "postgresql", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/opt/homebrew/opt", "redis", "bin"),
    ("/usr/local/opt", "redis", "bin"),
    ("/opt", "homebrew", "bin"),
    ("/usr", "local", "bin"),
];

/// The full path of a program.
pub(crate) fn find(program: &str) -> PathBuf {
    find_any(&[program]).unwrap_or_else(|| panic!("{program} is not on this machine: run scripts/setup"))
}

/// The full path of the first of these programs that is there.
pub(crate) fn find_any(programs: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(PLACES.iter().flat_map(expand)).collect();
    programs.iter().find_map(|program| dirs.iter().map(|dir| dir.join(program)).find(|file| file.is_file()))
}

/// The library that gives a program another clock, in the directory of its own that packages put it into: one per kind of processor on
/// Debian.
pub(crate) fn find_faketime() -> PathBuf {
    let parents = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
    let below = parents.iter().flat_map(|parent| expand(&(parent, "", "faketime")));
    let beside = parents.iter().map(|parent| Path::new(parent).join("faketime"));
    below
        .chain(beside)
        .map(|dir| dir.join("libfaketimeMT.so.1"))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("libfaketime is not on this machine: run scripts/setup"))
}

/// The directories `<parent>/<prefix>*/<below>`, newest version first.
fn expand((parent, prefix, below): &(&str, &str, &str)) -> Vec<PathBuf> {
    let Ok(entries) = Path::new(parent).read_dir() else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(below))
        .filter(|dir| dir.is_dir())
        .collect();
    found.sort();
    found.reverse();
    found
}
