//! What people do by hand is signed: who did it, and why.

use std::{fmt, sync::Arc};

/// Longest line, in characters.
pub const LINE_CHARS_MAX: usize = 200;

/// A line that a person wrote: not empty, at most [`LINE_CHARS_MAX`] characters, and nothing in it that could begin another line, command a
/// terminal or turn the direction of writing, in a log or a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Line(Arc<str>);

impl Line {
    /// Reads a line, without the blanks around it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches(' ');
        let is_good = !text.is_empty() && text.chars().count() <= LINE_CHARS_MAX && !text.chars().any(commands);
        is_good.then(|| Self(text.into()))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Controls, separators of lines and paragraphs, and what turns the direction of writing.
fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whose doing something is that was done by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The person's name, as the person says.
    pub operator: Line,
    /// Why.
    pub reason: Line,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(
            Line::parse(" Prize of the “Größe” draw, 2026 ").unwrap().as_str(),
            "Prize of the “Größe” draw, 2026"
        );
        assert!(Line::parse(&"é".repeat(LINE_CHARS_MAX)).is_some());
        let long = "é".repeat(LINE_CHARS_MAX + 1);
        for wrong in [
            "",
            "  ",
            "a\nb",
            "a\r",
            "\ta",
            "\u{1b}[2J",
            "a\u{7f}",
            "a\u{9b}b",
            "a\u{2028}b",
            "a\u{202e}b",
            "\0",
            &long,
        ] {
            assert_eq!(Line::parse(wrong), None, "{wrong:?}");
        }
    }
}
