//! Rust source as tokens, just well enough for the rules: words, `::` and single punctuation marks. Comments, strings
//! and characters are left out.

/// A word or a mark, and the line it is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// The tokens of a file without its test code: whatever an attribute `#[cfg(test)]` stands before.
pub(crate) fn tokens_outside_tests(source: &str) -> Vec<Token<'_>> {
    let all = tokens(source);
    let mut kept = Vec::with_capacity(all.len());
    let mut at = 0;
    while at < all.len() {
        if starts_with(&all[at..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = end_of_item(&all, at);
        } else {
            kept.push(all[at]);
            at += 1;
        }
    }
    kept
}

/// Just past the item at `at`: its first `;` or braced block outside other brackets.
fn end_of_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    // `use a::{b};` goes on to its semicolon.
                    return at + usize::from(tokens.get(at).is_some_and(|next| next.text == ";"));
                }
            }
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    at
}

/// Where a sequence of tokens occurs.
pub(crate) fn find<'a>(tokens: &[Token<'a>], wanted: &[&str]) -> Vec<Token<'a>> {
    (0..tokens.len()).filter(|&at| starts_with(&tokens[at..], wanted)).map(|at| tokens[at]).collect()
}

/// The names of the modules that these tokens declare, in other files or in place.
pub(crate) fn declared_modules<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    tokens
        .windows(3)
        .filter(|window| window[0].text == "mod" && matches!(window[2].text, ";" | "{"))
        .map(|window| window[1])
        .collect()
}

/// The names that follow `crate::`, or as many `super::` as the file is deep, also each one of `crate::{a, b::c}`.
pub(crate) fn crate_paths<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<Token<'a>> {
    let way_up = ["super", "::"].repeat(depth);
    let mut names = Vec::new();
    for at in 0..tokens.len() {
        let rest = &tokens[at..];
        let continues_a_path = at > 0 && tokens[at - 1].text == "::";
        let after = if starts_with(rest, &["crate", "::"]) {
            &rest[2..]
        } else if depth > 0 && !continues_a_path && starts_with(rest, &way_up) {
            &rest[way_up.len()..]
        } else {
            continue;
        };
        names.extend(first_names(after));
    }
    names
}

/// `a` of `a::b`, or the first name of each branch of `{a::b, c}`.
fn first_names<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let Some(first) = tokens.first() else {
        return Vec::new();
    };
    if first.text != "{" {
        return vec![*first];
    }
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut branch_begins = false;
    for token in tokens {
        match token.text {
            "{" => {
                depth += 1;
                branch_begins = depth == 1;
            }
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," => branch_begins = depth == 1,
            _ if branch_begins => {
                names.push(*token);
                branch_begins = false;
            }
            _ => {}
        }
    }
    names
}

/// Where a path begins with the name of a crate: `redis::…`, `use redis…`, but not `cache::redis::…`.
pub(crate) fn uses_of_crate<'a>(tokens: &[Token<'a>], name: &str) -> Vec<Token<'a>> {
    let text = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map_or("", |token| token.text);
    (0..tokens.len())
        .filter(|&at| tokens[at].text == name)
        .filter(|&at| {
            let before = text(at.checked_sub(1));
            let leads_a_path = before != "::" || {
                let holder = text(at.checked_sub(2));
                // `::redis` is the crate too, unless a name or `<…>` stands before it.
                matches!(holder, "use" | "") || !(is_word(holder) || holder == ">" || holder == "}")
            };
            let is_imported = matches!(before, "use" | "crate") && text(at.checked_sub(2)) != "::";
            leads_a_path && (text(Some(at + 1)) == "::" || is_imported)
        })
        .map(|at| tokens[at])
        .collect()
}

fn starts_with(tokens: &[Token<'_>], wanted: &[&str]) -> bool {
    tokens.len() >= wanted.len() && tokens.iter().zip(wanted).all(|(token, text)| token.text == *text)
}

fn is_word(text: &str) -> bool {
    text.starts_with(is_word_char)
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (length, is_token) = measure(rest, first);
        let text = &rest[..length];
        if is_token {
            found.push(Token { text, line });
        }
        line += text.matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// Length in bytes of what the source begins with, and whether it counts as a token.
fn measure(rest: &str, first: char) -> (usize, bool) {
    if rest.starts_with("//") {
        (rest.find('\n').unwrap_or(rest.len()), false)
    } else if rest.starts_with("/*") {
        (block_comment(rest), false)
    } else if let Some(length) = string(rest) {
        (length, false)
    } else if let Some(length) = character(rest) {
        (length, false)
    } else if is_word_char(first) {
        (rest.find(|c| !is_word_char(c)).unwrap_or(rest.len()), true)
    } else if rest.starts_with("::") {
        (2, true)
    } else {
        (first.len_utf8(), !first.is_whitespace())
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// A string literal with its prefix: `"…"`, `b"…"`, `c"…"`, `r#"…"#`, `br"…"`.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
    if !["", "b", "c", "r", "br", "cr"].contains(&&rest[..prefix]) {
        return None;
    }
    if rest[..prefix].ends_with('r') {
        let hashes = rest[prefix..].find(|c| c != '#')?;
        let open = prefix + hashes;
        if !rest[open..].starts_with('"') {
            return None;
        }
        let close = format!("\"{}", "#".repeat(hashes));
        let body = &rest[open + 1..];
        return Some(body.find(&close).map_or(rest.len(), |at| open + 1 + at + close.len()));
    }
    rest[prefix..].starts_with('"').then(|| prefix + 1 + until_quote(&rest[prefix + 1..], '"'))
}

/// A character literal; not a lifetime, which has no closing quote.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let mut characters = body.chars();
    let is_literal = match characters.next()? {
        '\\' => true,
        _ => characters.next() == Some('\''),
    };
    is_literal.then(|| 1 + until_quote(body, '\''))
}

/// Length up to and with the closing quote.
fn until_quote(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    body.len()
}
