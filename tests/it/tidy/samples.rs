//! The rules on small samples: a rule that cannot fail is no rule.

use super::rules::{FORBIDDEN, LINES_MAX, MACHINE_PATHS, MayUse, OWNED_CRATES, ROOMS};
use super::{check_machine_paths, check_source};

#[test]
fn rows_of_the_tables_name_rooms_that_the_tables_know() {
    let known = |name: &&str| ROOMS.iter().any(|room| room.name == *name);
    for room in ROOMS {
        if let MayUse::Only(allowed) = room.may_use {
            assert!(allowed.iter().all(known), "{}: {allowed:?}", room.name);
        }
    }
    for owned in OWNED_CRATES {
        assert!(owned.rooms.iter().all(known), "{}", owned.crate_name);
    }
    for rule in FORBIDDEN {
        assert!(rule.rooms.iter().all(known), "{:?}", rule.tokens);
    }
}

/// The lines of the breaches found in a file with a proper header; the sample begins on line 2.
fn lines_of_breaches(file: &str, sample: &str) -> Vec<usize> {
    let breaches = check_source(file, &format!("//! A sample.\n{sample}"));
    let mut lines: Vec<usize> = breaches.iter().map(|breach| breach.line).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn an_arrow_that_points_back_is_found_however_it_is_written() {
    for sample in [
        "use crate::http::error;",
        "use crate::{domain::UserId, http};",
        "use crate::{\ndomain::{a, b::{c, d}},\nhttp::error};",
        "fn f() { crate::http::f() }",
        "use super::super::http::error;",
        "use super::super::{http};",
        "use crate::*;",
        "use crate :: /* sly */ http;",
    ] {
        assert_eq!(lines_of_breaches("ledger/postgres.rs", sample).len(), 1, "{sample}");
    }
    assert_eq!(lines_of_breaches("ledger/postgres.rs", "\n\nuse crate::http;"), [4]);
    assert_eq!(lines_of_breaches("ledger/mod.rs", "use super::http;").len(), 1);
    assert_eq!(lines_of_breaches("metrics.rs", "use super::http;").len(), 1);
}

#[test]
fn an_arrow_with_the_flow_is_fine_and_so_is_what_is_no_arrow() {
    for sample in [
        "use crate::domain::UserId;",
        "use crate::{domain::http, metrics};",
        "use super::http;",
        "use crate::ledger::error;",
        "// use crate::http;\n/* crate::http /* nested crate::http */ */",
        "/// See [`crate::http`].\nconst S: &str = \"crate::http \\\" crate::http\";",
        "const R: &str = r#\"crate::http \"quoted\" crate::http\"#;",
        "const C: char = '\"'; const D: char = '\\''; fn f<'a>(x: &'a str) {} // crate::http \"",
        "#[cfg(test)]\nmod tests { use crate::http; fn f() { x.unwrap() } }",
        "#[cfg(test)]\nuse crate::http;",
    ] {
        assert_eq!(lines_of_breaches("ledger/postgres.rs", sample), [0; 0], "{sample}");
    }
    assert_eq!(lines_of_breaches("app.rs", "use crate::{http, ledger, cache};"), [0; 0]);
}

#[test]
fn what_follows_test_code_is_looked_at_again() {
    let sample = "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::http;";
    assert_eq!(lines_of_breaches("ledger/mod.rs", sample), [4]);
    let sample = "#[cfg(test)]\n#[allow(x)]\nfn f(a: [u8; 2]) -> u8 { 1 }\nuse crate::http;";
    assert_eq!(lines_of_breaches("ledger/mod.rs", sample), [5]);
    let sample = "#[cfg(not(test))]\nuse crate::http;";
    assert_eq!(lines_of_breaches("ledger/mod.rs", sample), [3]);
}

#[test]
fn test_code_in_a_file_of_its_own_is_free_but_must_be_declared_as_such() {
    let sample = "use crate::http; fn f() { x.unwrap() }";
    for file in ["ledger/tests.rs", "ledger/apply_tests.rs"] {
        assert_eq!(lines_of_breaches(file, sample), [0; 0], "{file}");
    }
    assert_eq!(lines_of_breaches("ledger/contests.rs", sample).len(), 2);
    let declared = "#[cfg(test)]\n#[path = \"apply_tests.rs\"]\nmod tests;\n#[cfg(test)]\nmod order_tests;";
    assert_eq!(lines_of_breaches("ledger/mod.rs", declared), [0; 0]);
    assert_eq!(lines_of_breaches("ledger/mod.rs", "mod tests;\nmod order_tests;"), [2, 3]);
}

#[test]
fn a_crate_is_named_only_in_its_own_room() {
    for (sample, own, other) in [
        ("use actix_web::HttpResponse;", "http/webhook.rs", "actor/mod.rs"),
        ("use actix::prelude::*;", "actor/writer.rs", "http/mod.rs"),
        ("use diesel::prelude::*;", "ledger/postgres/load.rs", "reader.rs"),
        ("use diesel_async::RunQueryDsl;", "ledger/mod.rs", "billing/mod.rs"),
        ("fn f() { diesel::table!(); }", "ledger/schema.rs", "cli/migrate.rs"),
        ("use redis as r;", "cache/mod.rs", "ledger/mod.rs"),
        ("use ::redis::Client;", "cache/redis_cache.rs", "reader.rs"),
        ("use {std::fmt, redis::Client};", "cache/mod.rs", "metrics.rs"),
        ("use stripe_gateway::Session;", "billing/session.rs", "http/checkout.rs"),
    ] {
        assert_eq!(lines_of_breaches(own, sample), [0; 0], "{sample}");
        assert_eq!(lines_of_breaches(other, sample), [2], "{sample}");
    }
    assert_eq!(lines_of_breaches("reader.rs", "use crate::cache::redis::Thing; let redis = 1;"), [0; 0]);
    assert_eq!(lines_of_breaches("http/mod.rs", "use actix_rt::spawn;"), [0; 0]);
}

#[test]
fn the_domain_is_pure() {
    for sample in [
        "use tokio::sync::Mutex;",
        "use reqwest::Client;",
        "async fn f() {}",
        "fn f() { g().await }",
        "fn f() { chrono::Utc::now() }",
        "fn f() { SystemTime::now() }",
        "fn f() { std::time::Instant::now() }",
        "use std::fs::File;",
        "use redis::Client;",
        "use crate::config::Config;",
    ] {
        assert_eq!(lines_of_breaches("domain/entitlement.rs", sample), [2], "{sample}");
    }
    assert_eq!(lines_of_breaches("domain/mod.rs", "use chrono::{DateTime, Utc}; fn f(now: DateTime<Utc>) {}"), [0; 0]);
    assert_eq!(lines_of_breaches("config/mod.rs", "fn f() { Utc::now() }"), [0; 0]);
}

#[test]
fn calls_that_lose_messages_or_panic_are_found_everywhere() {
    for sample in ["fn f() { a.do_send(M) }", "fn f() { a\n.unwrap() }", "fn f() { a.expect(\"x\") }"] {
        for file in ["main.rs", "app.rs", "http/mod.rs", "domain/id.rs"] {
            assert_eq!(lines_of_breaches(file, sample).len(), 1, "{file}: {sample}");
        }
    }
    let fine = "#[expect(clippy::x, reason = \"…\")]\nfn f() { a.unwrap_or(1); a.unwrap_or_default(); a.expect_err }";
    assert_eq!(lines_of_breaches("app.rs", fine), [0; 0]);
}

#[test]
fn a_file_has_a_header_a_limit_and_a_room() {
    assert_eq!(check_source("http/mod.rs", "use std::fmt;\n").len(), 1);
    assert_eq!(check_source("http/mod.rs", "").len(), 1);
    assert_eq!(lines_of_breaches("http/mod.rs", &"\n".repeat(LINES_MAX - 1)), [0; 0]);
    assert_eq!(lines_of_breaches("http/mod.rs", &"\n".repeat(LINES_MAX)), [LINES_MAX + 1]);
    assert_eq!(lines_of_breaches("attic/mod.rs", ""), [1]);
}

#[test]
fn a_path_of_one_machine_is_told_from_a_longer_path() {
    for path in MACHINE_PATHS {
        assert_eq!(check_machine_paths("a", &format!("x\ncd {path}main")).len(), 1);
        assert_eq!(check_machine_paths("a", &format!("\"{path}main\"")).len(), 1);
        assert_eq!(check_machine_paths("a", &format!("https://example.com{path}page")), []);
    }
}

#[test]
fn a_breach_says_where_what_and_why() {
    let breaches = check_source("ledger/mod.rs", "//! A sample.\nuse crate::http;");
    let message = breaches[0].to_string();
    assert!(
        message.starts_with(
            "ledger/mod.rs:2: ledger may not use crate::http, only [\"clock\", \"domain\", \"metrics\", \"fail_point\"]"
        ),
        "{message}"
    );
    assert!(message.contains("because the truth depends on nothing"), "{message}");
}
