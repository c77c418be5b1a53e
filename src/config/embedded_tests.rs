//! What is chosen where nobody has chosen, and what is never chosen silently.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{path::Path, time::Duration};

use super::*;

const KEY: (&str, &str) = ("STRIPE_SECRET_KEY", "sk_live_0123456789");
const WEBHOOK: (&str, &str) = ("STRIPE_WEBHOOK_SECRET", "whsec_0123456789abcdef0");
const DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://tollgate:pw@127.0.0.1/tollgate");
const REDIS: (&str, &str) = ("REDIS_URL", "redis://127.0.0.1:6379");
const JWT: (&str, &str) = ("SUPABASE_JWT_SECRET", "0123456789abcdef0123456789abcdef");
const SQLITE: (&str, &str) = ("TOLLGATE_LEDGER", "sqlite:/srv/ledger.db");
const SANDBOX: (&str, &str) = ("TOLLGATE_SANDBOX", "true");
const SUPABASE: (&str, &str) = ("NEXT_PUBLIC_SUPABASE_URL", "https://abc.supabase.co");

fn with(settings: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::from_lookup(&|name| settings.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
}

/// The settings that are wrong or missing.
fn wrong(settings: &[(&str, &str)]) -> Vec<String> {
    match with(settings) {
        Ok(_) => vec![],
        Err(ConfigErrors(errors)) => errors.into_iter().map(|error| error.name).collect(),
    }
}

fn life_in_memory(config: &Config) -> Option<Option<Duration>> {
    match config.cache.store {
        CacheStore::Memory { life_max } => Some(life_max),
        CacheStore::Redis(_) => None,
    }
}

fn sqlite_file(config: &Config) -> Option<&Path> {
    match &config.ledger.store {
        LedgerStore::Sqlite(path) => Some(path),
        LedgerStore::Postgres(_) => None,
    }
}

#[test]
fn without_settings_everything_is_embedded() {
    let config = with(&[]).unwrap();
    assert_eq!(sqlite_file(&config), Some(Path::new("tollgate-data/ledger.sqlite3")));
    assert_eq!(life_in_memory(&config), Some(None), "one process: no other writes");
    assert_eq!(config.sandbox.as_ref().unwrap().bind.to_string(), "127.0.0.1:3002");
    assert!(config.auth.jwt_secret.is_none() && config.warnings.is_empty());

    let moved = with(&[("TOLLGATE_DATA", "/srv/tollgate")]).unwrap();
    assert_eq!(sqlite_file(&moved), Some(Path::new("/srv/tollgate/ledger.sqlite3")));
    assert_eq!(moved.sandbox.unwrap().directory, Path::new("/srv/tollgate"));
}

#[test]
fn one_production_neighbour_is_enough_to_have_no_sandbox_unasked() {
    for (setting, missing) in [
        (KEY, ["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"].as_slice()),
        (WEBHOOK, &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (DATABASE, &["REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (SQLITE, &["SUPABASE_JWT_SECRET"]),
        (REDIS, &["DATABASE_URL", "SUPABASE_JWT_SECRET"]),
        (SUPABASE, &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (("STRIPE_PUBLISHABLE_KEY", "pk_live_0123456789"), &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (("STRIPE_PRO_PRICE_ID", "price_1"), &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (("STRIPE_API_BASE", "https://stripe.example"), &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (("NEXT_PUBLIC_SUPABASE_ANON_KEY", "0123456789abcdef"), &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (("SUPABASE_SERVICE_ROLE_KEY", "0123456789abcdef"), &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
        (("TOLLGATE_BIND", "0.0.0.0:3000"), &["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]),
    ] {
        assert_eq!(wrong(&[setting]), missing, "{}", setting.0);
    }
}

/// Secrets that were not mounted leave behind what is none.
#[test]
fn the_sandbox_started_unasked_where_only_what_is_public_of_production_was_left() {
    for left in [
        ("STRIPE_PUBLISHABLE_KEY", "pk_live_0123456789"),
        ("STRIPE_PRO_PRICE_ID", "price_0123456789"),
        ("NEXT_PUBLIC_SUPABASE_ANON_KEY", "everybody-has-this-key"),
        ("SUPABASE_SERVICE_ROLE_KEY", "service-role-key-01"),
    ] {
        assert_eq!(wrong(&[left]), ["DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"], "{}", left.0);
    }
}

#[test]
fn what_is_missing_says_how_to_get_a_sandbox() {
    for setting in [DATABASE, REDIS] {
        let told = with(&[setting]).unwrap_err().to_string();
        assert!(told.contains("TOLLGATE_SANDBOX=true"), "{told}");
    }
}

#[test]
fn the_sandbox_is_refused_beside_stripe_and_off_loopback() {
    assert_eq!(wrong(&[SANDBOX, KEY, DATABASE, REDIS, JWT]), ["TOLLGATE_SANDBOX"]);
    assert_eq!(wrong(&[SANDBOX, WEBHOOK, DATABASE, REDIS, JWT]), ["TOLLGATE_SANDBOX"]);
    assert_eq!(wrong(&[SANDBOX, ("TOLLGATE_BIND", "0.0.0.0:3000")]), ["TOLLGATE_SANDBOX"]);
    for bind in ["0.0.0.0:3002", "192.0.2.1:3002", "127.0.0.1:3000", "127.0.0.1:3001"] {
        assert_eq!(wrong(&[("TOLLGATE_SANDBOX_BIND", bind)]), ["TOLLGATE_SANDBOX_BIND"], "{bind}");
    }
    assert_eq!(wrong(&[("TOLLGATE_BIND", "[::1]:3000"), ("TOLLGATE_SANDBOX_BIND", "[::1]:0")]), Vec::<String>::new());
}

#[test]
fn rows_are_chosen_each_on_its_own() {
    let postgres = with(&[SANDBOX, DATABASE]).unwrap();
    assert!(sqlite_file(&postgres).is_none() && postgres.auth.jwt_secret.is_none());
    assert_eq!(life_in_memory(&postgres), Some(Some(Duration::from_secs(1))), "another replica may write");
    assert!(postgres.warnings.iter().any(|warning| warning.starts_with("TOLLGATE_SANDBOX")));
    assert!(life_in_memory(&with(&[SANDBOX, REDIS]).unwrap()).is_none());
    let price = with(&[SANDBOX, ("STRIPE_PRO_PRICE_ID", "price_1AbCdEfGhIjKlMnO")]).unwrap();
    assert!(price.warnings.iter().any(|warning| warning.contains("cannot be bought")), "{:?}", price.warnings);
    assert!(with(&[JWT]).unwrap().auth.jwt_secret.is_some());
}

#[test]
fn sqlite_beside_a_live_key_is_chosen_by_name_only() {
    assert_eq!(wrong(&[KEY, WEBHOOK, JWT]), ["DATABASE_URL", "REDIS_URL"]);
    let small = with(&[KEY, WEBHOOK, JWT, SQLITE]).unwrap();
    assert_eq!(sqlite_file(&small), Some(Path::new("/srv/ledger.db")));
    assert_eq!((life_in_memory(&small), small.sandbox), (Some(None), None));
    assert_eq!(wrong(&[KEY, WEBHOOK, JWT, SQLITE, DATABASE, REDIS]), ["TOLLGATE_LEDGER"]);
    for path in ["sqlite:", "sqlite", "/srv/ledger.db", "mysql:/srv/ledger.db"] {
        assert_eq!(wrong(&[KEY, WEBHOOK, JWT, REDIS, ("TOLLGATE_LEDGER", path)]), ["TOLLGATE_LEDGER"], "{path}");
    }
}

#[test]
fn a_supabase_project_means_its_database() {
    assert_eq!(wrong(&[SUPABASE, SANDBOX]), ["DATABASE_URL"]);
}

#[test]
fn memory_instead_of_redis_beside_postgres_is_chosen_by_name_only() {
    assert_eq!(wrong(&[DATABASE, JWT]), ["REDIS_URL"]);
    let memory = ("TOLLGATE_CACHE", "memory");
    assert_eq!(life_in_memory(&with(&[DATABASE, JWT, memory]).unwrap()), Some(Some(Duration::from_secs(1))));
    assert_eq!(wrong(&[DATABASE, JWT, memory, REDIS]), ["TOLLGATE_CACHE"]);
    let upstash = ("UPSTASH_REDIS_REST_URL", "https://eu1.upstash.io");
    let warnings = with(&[DATABASE, JWT, memory, upstash]).unwrap().warnings;
    assert_eq!(warnings, ["UPSTASH_REDIS_REST_URL is not used: TOLLGATE_CACHE is"]);
}
