//! Fail points: the list, the places in the sources and the table of docs/FAULTS.md are the same.

use std::path::Path;

use tollgate::fail_point::Point;

use super::rust_files;

/// How often a source passes a point.
fn passes(source: &str, point: &str) -> usize {
    let place = format!("Point::{point}");
    source
        .match_indices(&place)
        .filter(|(at, _)| !source[at + place.len()..].starts_with(char::is_alphanumeric))
        .count()
}

/// The points that the table of a document names, in its order.
fn listed(text: &str) -> Vec<&str> {
    let (_, table) = text.split_once("| point | after a death there | test |\n").expect("the table is there");
    let (table, _) = table.split_once("\n\n").expect("the table ends");
    let first_column = table.lines().filter_map(|row| row.split('|').nth(1));
    first_column.flat_map(|names| names.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn each_fail_point_has_one_place_and_is_in_the_table_of_faults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = root.join("src/fail_point");
    let files = rust_files(&root.join("src")).into_iter().filter(|file| !file.with_extension("").starts_with(&list));
    let sources: Vec<String> = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    for point in Point::ALL {
        let places: usize = sources.iter().map(|source| passes(source, &format!("{point:?}"))).sum();
        // Whatever is read again is read by somebody else.
        let expected = if *point == Point::Meaning { 4 } else { 1 };
        assert_eq!(places, expected, "{point} has its place");
    }
    let mut names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
    let faults = std::fs::read_to_string(root.join("docs/FAULTS.md")).unwrap();
    let mut listed = listed(&faults);
    names.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, names, "docs/FAULTS.md lists them");
}

#[test]
fn a_point_is_not_taken_for_one_whose_name_goes_on() {
    assert_eq!(passes("pass(Point::Beaten, x); pass(Point::Beat, y)", "Beat"), 1);
    let text = "| point | after a death there | test |\n|---|---|---|\n| `a.b`, `c` | `no` | `x::y` |\n\n| `d` |";
    assert_eq!(listed(text), ["a.b", "c"]);
}
