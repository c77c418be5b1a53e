//! What the command line takes, and that triggered events mean what they should.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::{CommandFactory, error::ErrorKind};

use super::*;

const USER: &str = "3c2b1a90-8f7e-4d6c-9b5a-0e1f2d3c4b5a";

fn parse(line: &str) -> Result<Option<Command>, ErrorKind> {
    let words = std::iter::once("tollgate").chain(line.split_whitespace());
    Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.kind())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_taken() {
    assert!(parse("").unwrap().is_none(), "serve is the default");
    for line in [
        "serve",
        "migrate",
        "migrate --json",
        "openapi",
        "openapi --admin",
        "events list",
        "events list --outcome parked --reason unknown_level --since 2d --limit 1000 --json",
        "events list --since 2026-01-31T10:00:00Z --admin-url http://10.0.0.1:3001",
        "events show evt_1 --json",
        "events replay evt_1 evt_2",
        "events replay --all --reason unknown_level",
        &format!("entitlements get {USER} --json"),
        &format!("entitlements grant --user {USER} --level PRO --for 30d --reason gift --operator robin --json"),
        &format!("entitlements grant --user {USER} --level PRO --until 2027-01-31T10:00:00Z --reason gift --id {USER}"),
        &format!("entitlements revoke --user {USER} --grant {USER} --reason mistake"),
        &format!("entitlements revoke --user {USER} --all-manual --reason mistake"),
        &format!("entitlements history --user {USER} --limit 1000 --before 7 --json"),
        &format!("token --user {USER}"),
        &format!("token --user {} --ttl 15m", USER.to_uppercase()),
        &format!("trigger checkout.session.completed --user {USER}"),
        &format!("trigger checkout.session.expired --user {USER} --session cs_1 --event-id evt_1 --times 3 --json"),
        &format!("trigger checkout.session.async_payment_failed --user {USER} --mode subscription --level GOLD"),
        &format!("trigger checkout.session.completed --user {USER} --payment-status unpaid --url https://a.example/b"),
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn what_is_refused() {
    for line in [
        "frobnicate",
        "token",
        "token --user robin",
        "events",
        "events list --limit 0",
        "events replay",
        "events replay --all evt_1",
        "events replay evt_1 --reason unknown_level",
        "entitlements get robin",
        &format!("entitlements grant --user {USER} --level PRO --for 30d"),
        &format!("entitlements grant --user {USER} --level PRO --reason gift"),
        &format!("entitlements grant --user {USER} --level PRO --for 30d --until 2027-01-31T10:00:00Z --reason gift"),
        &format!("entitlements grant --user {USER} --level pro --for 30d --reason gift"),
        &format!("entitlements grant --user {USER} --level PRO --for soon --reason gift"),
        &format!("entitlements grant --user {USER} --level PRO --for 30d --reason gift --id 7"),
        &format!("entitlements revoke --user {USER} --reason mistake"),
        &format!("entitlements revoke --user {USER} --grant {USER} --all-manual --reason mistake"),
        &format!("entitlements revoke --user {USER} --all-manual"),
        &format!("entitlements history --user {USER} --limit 0"),
        &format!("token --user {USER} --ttl 0s"),
        &format!("trigger --user {USER}"),
        "trigger checkout.session.completed",
        &format!("trigger customer.created --user {USER}"),
        &format!("trigger checkout.session.completed --user {USER} --event-id cs_1"),
        &format!("trigger checkout.session.completed --user {USER} --session evt_1"),
        &format!("trigger checkout.session.completed --user {USER} --times 0"),
        &format!("trigger checkout.session.completed --user {USER} --mode setup"),
        &format!("trigger checkout.session.completed --user {USER} --url ftp://a.example"),
        &format!("trigger checkout.session.completed --user {USER} --secret whsec_never_on_a_command_line"),
    ] {
        let kind = parse(line).unwrap_err();
        assert!(!matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion), "{line}");
    }
}
