//! All settings together: defaults, what is refused and how, what is never printed.

use std::{io::Write, time::Duration};

use secrecy::ExposeSecret;

use super::*;

const CANARY: &str = "cafe0123456789abcdef0123456789abcdef";

/// The least that starts.
fn least() -> HashMap<String, String> {
    [
        ("DATABASE_URL", "postgres://tollgate:pw@127.0.0.1/tollgate"),
        ("REDIS_URL", "redis://127.0.0.1:6379"),
        ("SUPABASE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn with(changes: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let mut variables = least();
    variables.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Config::from_lookup(&|name| variables.get(name).cloned())
}

/// These settings and no others.
fn alone(settings: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::from_lookup(&|name| settings.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
}

fn refusal(changes: &[(&str, &str)]) -> String {
    match with(changes) {
        Ok(_) => panic!("accepted: {changes:?}"),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn defaults() {
    let config = with(&[]).unwrap();
    assert_eq!(config.server.bind.to_string(), "127.0.0.1:3000");
    assert_eq!(config.server.admin_bind.to_string(), "127.0.0.1:3001");
    assert_eq!(config.server.app_url, None);
    assert_eq!(config.server.log, LogConfig::default());
    assert_eq!((config.ledger.lanes, config.ledger.batch_max, config.ledger.pool_size), (None, 256, 8));
    assert_eq!(config.ledger.commit_timeout, Duration::from_secs(3));
    assert_eq!(config.cache.deadline, Duration::from_millis(50));
    assert_eq!((config.actor.mailbox, config.actor.webhooks_in_flight_max), (128, 1024));
    assert_eq!(config.checkout.per_user_per_minute.get(), 10);
    assert_eq!(config.stripe.api_base.as_str(), "https://api.stripe.com/");
    assert!(config.ledger.migrate_on_start && config.stripe.key.is_none() && config.auth.issuer.is_none());
    assert_eq!(config.catalogue.plans().len(), 2);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_default_of_the_table_is_a_right_value() {
    for setting in SETTINGS {
        if let WhenUnset::Value(default) = setting.default {
            with(&[(setting.name, default)]).unwrap();
        }
    }
}

#[test]
fn every_wrong_value_is_refused_by_name_with_an_example() {
    for setting in SETTINGS {
        let wrong = match setting.name {
            "TOLLGATE_LOG" => "tollgate=loud",
            "STRIPE_WEBHOOK_SECRET" => "whsec_0123456789abcdef0,whsec_short",
            "STRIPE_SECRET_KEY" => "pk_test_0123456789",
            "SUPABASE_JWT_SECRET" => "thirty-one-characters-are-few-x",
            "TOLLGATE_MAILBOX" => "63",
            "TOLLGATE_SANDBOX_BIND" => "192.0.2.1:3002",
            "TOLLGATE_DATA" => "a\0b",
            _ => "?!",
        };
        for value in [wrong, "a\u{7}0123456789abcdef0123456789abcdef", "\u{fffd}"] {
            let text = refusal(&[(setting.name, value)]);
            let expected = format!("{}: expected {}, for example {}", setting.name, setting.expected, setting.example);
            assert!(text.contains(&expected), "{text}");
            assert!(!text.contains(value), "{text}");
        }
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let errors = alone(&[("TOLLGATE_BIND", "here"), ("TOLLGATE_SANDBOX", "false")]).unwrap_err();
    let names: Vec<_> = errors.0.iter().map(|error| error.name.as_str()).collect();
    assert_eq!(names, ["TOLLGATE_BIND", "DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"]);
    assert_eq!(errors.to_string().lines().count(), 5);
}

#[test]
fn examples_of_secrets_are_public_and_refused() {
    for setting in SETTINGS.iter().filter(|setting| setting.secret) {
        if !setting.example.contains("://") && setting.name != "STRIPE_SECRET_KEY" {
            assert!(refusal(&[(setting.name, setting.example)]).contains(setting.name));
        }
    }
}

#[test]
fn stripe_keys_tell_their_mode() {
    for (key, mode) in [
        ("sk_test_0123456789", StripeMode::Test),
        ("rk_test_0123456789", StripeMode::Test),
        ("sk_live_0123456789", StripeMode::Live),
        ("rk_live_0123456789", StripeMode::Live),
    ] {
        assert_eq!(with(&[("STRIPE_SECRET_KEY", key)]).unwrap().stripe.mode(), Some(mode));
    }
    for wrong in ["sk_0123456789", "sk_test_", "sk_test_...", "whsec_0123456789abcdef", "sk_prod_0123456789"] {
        assert!(refusal(&[("STRIPE_SECRET_KEY", wrong)]).contains("STRIPE_SECRET_KEY"));
    }
    let mixed = [("STRIPE_SECRET_KEY", "sk_test_0123456789"), ("STRIPE_PUBLISHABLE_KEY", "pk_live_0123456789")];
    assert!(refusal(&mixed).contains("STRIPE_PUBLISHABLE_KEY"));
}

#[test]
fn several_webhook_secrets_for_rotation() {
    let list = with(&[("STRIPE_WEBHOOK_SECRET", " whsec_0123456789abcdef , whsec_fedcba9876543210\n")]).unwrap();
    let secrets: Vec<_> = list.stripe.webhook_secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["whsec_0123456789abcdef", "whsec_fedcba9876543210"]);
    assert!(with(&[("STRIPE_WEBHOOK_SECRET", " ")]).unwrap().stripe.webhook_secrets.is_empty());
    for wrong in ["whsec_", "whsec_0123456789abcdef,", "0123456789abcdef0123456789"] {
        assert!(refusal(&[("STRIPE_WEBHOOK_SECRET", wrong)]).contains("STRIPE_WEBHOOK_SECRET"));
    }
}

#[test]
fn the_api_base_is_https_or_on_this_machine() {
    for good in ["https://stripe.example.com", "http://127.0.0.1:12111", "http://localhost:1", "http://[::1]:1"] {
        with(&[("STRIPE_API_BASE", good)]).unwrap();
    }
    for wrong in ["http://stripe.example.com", "http://localhost.example.com", "https://key@stripe.example.com"] {
        assert!(refusal(&[("STRIPE_API_BASE", wrong)]).contains("STRIPE_API_BASE"));
    }
}

#[test]
fn what_is_missing_says_where_it_is_found() {
    let supabase = ("NEXT_PUBLIC_SUPABASE_URL", "https://abc.supabase.co/");
    assert!(refusal(&[("DATABASE_URL", ""), supabase]).contains("Connection string"));
    assert!(refusal(&[("SUPABASE_JWT_SECRET", ""), supabase]).contains("Legacy JWT secret"));
    assert_eq!(with(&[supabase]).unwrap().auth.issuer.as_deref(), Some("https://abc.supabase.co/auth/v1"));
}

#[test]
fn upstash_is_not_ignored_silently() {
    let upstash = ("UPSTASH_REDIS_REST_URL", "https://eu1.upstash.io");
    assert!(
        refusal(&[("REDIS_URL", ""), upstash])
            .contains("UPSTASH_REDIS_REST_URL: Upstash's REST interface is not supported yet")
    );
    assert_eq!(with(&[upstash]).unwrap().warnings, ["UPSTASH_REDIS_REST_URL is not used: REDIS_URL is"]);
}

#[test]
fn the_anon_key_is_no_service_token() {
    let anon = ("NEXT_PUBLIC_SUPABASE_ANON_KEY", "everybody-has-this-key");
    for name in ["SUPABASE_SERVICE_ROLE_KEY", "TOLLGATE_SERVICE_TOKEN"] {
        assert!(refusal(&[anon, (name, "everybody-has-this-key")]).contains(name));
    }
    let both = [("SUPABASE_SERVICE_ROLE_KEY", "service-role-key-01"), ("TOLLGATE_SERVICE_TOKEN", "service-token-0001")];
    assert_eq!(with(&both).unwrap().auth.service_tokens.len(), 2);
}

#[test]
fn an_admin_listener_off_loopback_needs_a_token() {
    let outside = ("TOLLGATE_ADMIN_BIND", "0.0.0.0:3001");
    assert!(refusal(&[outside]).contains("TOLLGATE_ADMIN_TOKEN"));
    with(&[outside, ("TOLLGATE_ADMIN_TOKEN", "sixteen-letters-")]).unwrap();
    assert!(refusal(&[("TOLLGATE_ADMIN_BIND", "127.0.0.1:3000")]).contains("TOLLGATE_ADMIN_BIND"));
}

#[test]
fn the_delay_of_a_stop_is_a_part_of_its_limit() {
    assert_eq!(with(&[]).unwrap().server.drain_delay, Duration::ZERO);
    let server = with(&[("TOLLGATE_DRAIN_DELAY", "19s")]).unwrap().server;
    assert_eq!((server.drain_delay, server.shutdown_timeout), (Duration::from_secs(19), Duration::from_secs(20)));
    assert!(refusal(&[("TOLLGATE_DRAIN_DELAY", "20s")]).contains("TOLLGATE_DRAIN_DELAY: expected"));
}

#[test]
fn risky_pairs_are_warned_about() {
    let config = with(&[
        ("STRIPE_SECRET_KEY", "sk_live_0123456789"),
        ("STRIPE_API_BASE", "https://stripe.example.com"),
        ("REDIS_URL", "redis://redis.example.com"),
        ("DATABASE_URL", "postgres://u:p@pooler.example.com:6543/postgres"),
        ("TOLLGATE_REPLY_TIMEOUT", "3s"),
        ("TOLLGATE_CONNECTIONS_MAX", "10000"),
    ])
    .unwrap();
    for name in [
        "STRIPE_WEBHOOK_SECRET",
        "STRIPE_API_BASE",
        "REDIS_URL",
        "DATABASE_URL",
        "TOLLGATE_REPLY_TIMEOUT",
        "TOLLGATE_APP_URL",
        "TOLLGATE_STREAMS_MAX",
    ] {
        assert!(config.warnings.iter().any(|warning| warning.starts_with(name)), "{name}: {:?}", config.warnings);
    }
}

#[test]
fn secrets_are_never_printed() {
    let value = |name: &str| match name {
        "STRIPE_SECRET_KEY" => format!("sk_test_{CANARY}"),
        "STRIPE_WEBHOOK_SECRET" => format!("whsec_{CANARY},whsec_{CANARY}2"),
        "DATABASE_URL" => format!("postgres://u:{CANARY}@localhost/db"),
        "REDIS_URL" => format!("redis://u:{CANARY}@localhost"),
        _ => CANARY.to_owned(),
    };
    let right: HashMap<_, _> =
        SETTINGS.iter().filter(|setting| setting.secret).map(|setting| (setting.name, value(setting.name))).collect();
    let config = Config::from_lookup(&|name| right.get(name).cloned()).unwrap();
    assert!(!format!("{config:?} {config:#?}").contains(CANARY));

    // Wrong values, and secrets in the wrong places.
    for setting in SETTINGS {
        let value = format!("{CANARY}\u{7}");
        let text = with(&[(setting.name, &value)]).unwrap_err();
        assert!(!format!("{text} {text:?}").contains(CANARY), "{text}");
    }
}

#[test]
fn misspelt_names_are_refused() {
    let names =
        ["TOLLGATE_BNID", "TOLLGATE_LOG", "TOLLGATE_XYZ", "TOLLGATE_PORT_80_TCP", "TOLLGATE_SERVICE_PORT", "PATH"]
            .map(str::to_owned);
    let errors = unknown(names.iter());
    assert_eq!(errors.len(), 2);
    assert_eq!(
        ConfigErrors(errors).to_string().lines().nth(1).unwrap(),
        "  TOLLGATE_BNID: expected the name of a setting, for example TOLLGATE_BIND"
    );
}

#[test]
fn files_fill_in_what_the_environment_lacks() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "# comment\nA=file\nexport B=\"two words\"\nB=again\n\nC='x$y'\n").unwrap();
    let mut variables = HashMap::from([("A".to_owned(), "process".to_owned())]);
    add_file(&mut variables, file.path()).unwrap();
    let get = |name: &str| variables.get(name).map(String::as_str);
    assert_eq!((get("A"), get("B"), get("C")), (Some("process"), Some("two words"), Some("x$y")));
    add_file(&mut variables, Path::new("/nonexistent/.env")).unwrap();

    writeln!(file, "D={CANARY} {CANARY}").unwrap();
    let error = add_file(&mut variables, file.path()).unwrap_err().to_string();
    assert!(error.contains("see the line after C") && !error.contains(CANARY), "{error}");
}

#[test]
fn the_environment_wins_over_the_local_file_and_that_over_the_common_one() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let load = |changes: &[(&str, &str)]| {
        let mut variables = least();
        variables.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Config::from_environment_and_files(variables, directory.path())
    };
    write(".env", "TOLLGATE_LEDGER_LANES=3\nTOLLGATE_LEDGER_POOL=3\nTOLLGATE_MAILBOX=65\n");
    write(".env.local", "TOLLGATE_LEDGER_LANES=4\nTOLLGATE_LEDGER_POOL=4\n");
    let config = load(&[("TOLLGATE_LEDGER_LANES", "5")]).unwrap();
    assert_eq!((config.ledger.lanes, config.ledger.pool_size, config.actor.mailbox), (Some(5), 4, 65));

    write(".env", "TOLLGATE_MAILBX=65\n");
    write(".env.local", "TOLLGATE_LEDGER_LANES=many\nno assignment\n");
    let errors = load(&[]).unwrap_err();
    let names: Vec<_> = errors.0.iter().map(|error| error.name.as_str()).collect();
    assert!(names.first().unwrap().ends_with(".env.local"));
    assert_eq!(names.get(1..), Some(["TOLLGATE_MAILBX", "TOLLGATE_LEDGER_LANES"].as_slice()));
}

#[test]
fn a_catalogue_with_mistakes_stops_the_start() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[[plan]]\nlevel = \"pro\"").unwrap();
    let path = file.path().to_str().unwrap();
    assert!(refusal(&[("TOLLGATE_CATALOGUE", path)]).contains(&format!("{path}: line 2: expected a level")));
}
