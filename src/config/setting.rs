//! Every setting there is, in one table: error texts, `.env.example` and the table for people all come from it.

use std::fmt::Write;

use WhenUnset::{Computed, Off, Value};

/// What is known about one environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The heading it stands under.
    pub section: &'static str,
    /// The variable.
    pub name: &'static str,
    /// What happens without it.
    pub default: WhenUnset,
    /// What it decides.
    pub what: &'static str,
    /// What a right value is; follows the word "expected".
    pub expected: &'static str,
    /// A right value, invented.
    pub example: &'static str,
    /// Whether its value must never be shown.
    pub secret: bool,
}

/// What a setting is when nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnset {
    /// What it is for is off.
    Off,
    /// This value.
    Value(&'static str),
    /// Worked out; the text says how.
    Computed(&'static str),
}

macro_rules! settings {
    ($($section:literal { $($kind:ident $id:ident = $name:literal, $default:expr, $what:literal, $expected:literal, $example:literal;)+ })+) => {
        $($(pub(super) const $id: Setting = Setting {
            section: $section,
            name: $name,
            default: $default,
            what: $what,
            expected: $expected,
            example: $example,
            secret: settings!(@$kind),
        };)+)+

        /// All settings, in the order in which people meet them.
        pub const SETTINGS: &[Setting] = &[$($($id),+),+];
    };
    (@open) => { false };
    (@secret) => { true };
}

settings! {
    "Stripe" {
        secret STRIPE_SECRET_KEY = "STRIPE_SECRET_KEY", Off, "The account's API key; its prefix says whether money is real. Without it there is no checkout, or only the sandbox's.",
            "a secret or restricted key that starts with sk_test_, sk_live_, rk_test_ or rk_live_", "sk_test_51AbCdEfGhIjKlMn";
        secret STRIPE_WEBHOOK_SECRET = "STRIPE_WEBHOOK_SECRET", Off, "The webhook endpoint's signing secret; while it is rolled, the new and the old one. Without it deliveries are answered 500.",
            "signing secrets that start with whsec_ and go on for at least 16 letters and digits, separated by commas", "whsec_0123456789abcdef0123456789abcdef";
        open STRIPE_PUBLISHABLE_KEY = "STRIPE_PUBLISHABLE_KEY", Off, "The frontend's key; only checked to be of the same mode as the secret key.",
            "a publishable key of the same mode as STRIPE_SECRET_KEY", "pk_test_51AbCdEfGhIjKlMn";
        open STRIPE_PRO_PRICE_ID = "STRIPE_PRO_PRICE_ID", Off, "A price kept at Stripe that replaces the catalogue's inline price of PRO.",
            "a price id that starts with price_", "price_1AbCdEfGhIjKlMnO";
        open STRIPE_API_BASE = "STRIPE_API_BASE", Value("https://api.stripe.com"), "Where Stripe's API is; another place only for tests.",
            "an https URL, or an http URL on this machine", "http://127.0.0.1:12111";
        open SANDBOX = "TOLLGATE_SANDBOX", Computed("on where no setting names Stripe, a database, Redis or a Supabase project, and TOLLGATE_BIND is on loopback"), "Whether a local Stripe look-alike takes Stripe's place, with a pay page and a demo page. No money is real; refused beside Stripe's own settings.",
            "true or false, with TOLLGATE_BIND on loopback and without STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET", "true";
        open SANDBOX_BIND = "TOLLGATE_SANDBOX_BIND", Value("127.0.0.1:3002"), "Where the sandbox's API and pay pages answer.",
            "an IP address of this machine alone and a port, other than TOLLGATE_BIND and TOLLGATE_ADMIN_BIND", "127.0.0.1:3012";
    }
    "Ledger" {
        secret DATABASE_URL = "DATABASE_URL", Computed("a SQLite file beside the sandbox, else required"), "The PostgreSQL database that decides who may have what.",
            "a PostgreSQL connection URL", "postgres://tollgate:password@127.0.0.1:5432/tollgate";
        open LEDGER = "TOLLGATE_LEDGER", Computed("PostgreSQL at DATABASE_URL"), "A SQLite file instead of PostgreSQL: for a small service of one process.",
            "sqlite: and the path of a file, and no DATABASE_URL", "sqlite:/var/lib/tollgate/ledger.sqlite3";
        open DATA = "TOLLGATE_DATA", Value("tollgate-data"), "The folder of the embedded ledger, and of the sandbox's objects and keys. The same as `--data`.",
            "the path of a folder", "/var/lib/tollgate";
        open MIGRATE = "TOLLGATE_MIGRATE", Value("true"), "Whether the start brings PostgreSQL's schema up to date; a SQLite file's always is.",
            "true or false", "false";
        open LEDGER_LANES = "TOLLGATE_LEDGER_LANES", Computed("one per actor thread; one beside SQLite"), "How many batches are committed side by side.",
            "a number from 1 to 64", "4";
        open LEDGER_BATCH_MAX = "TOLLGATE_LEDGER_BATCH_MAX", Value("256"), "Most changes that share one transaction.",
            "a number from 1 to 10000", "512";
        open LEDGER_POOL = "TOLLGATE_LEDGER_POOL", Value("8"), "Connections for reading; each lane has one of its own besides.",
            "a number from 1 to 1000", "16";
        open LEDGER_STATEMENT_TIMEOUT = "TOLLGATE_LEDGER_STATEMENT_TIMEOUT", Value("2s"), "When the database gives up one statement.",
            "a duration from 10ms to 1m", "5s";
        open LEDGER_LOCK_TIMEOUT = "TOLLGATE_LEDGER_LOCK_TIMEOUT", Value("1s"), "When the database gives up waiting for a lock.",
            "a duration from 10ms to 1m", "500ms";
        open LEDGER_COMMIT_TIMEOUT = "TOLLGATE_LEDGER_COMMIT_TIMEOUT", Value("3s"), "When a whole batch is given up as of unknown outcome.",
            "a duration from 100ms to 1m", "5s";
    }
    "Cache" {
        secret REDIS_URL = "REDIS_URL", Computed("in this process beside SQLite or the sandbox, else required"), "The Redis that applications read levels from.",
            "a redis:// or rediss:// URL", "redis://127.0.0.1:6379/0";
        open CACHE = "TOLLGATE_CACHE", Computed("Redis at REDIS_URL"), "Keeps levels in this process, where no application reads them from Redis. Beside PostgreSQL for a second at most: another replica may know better.",
            "memory, and no REDIS_URL", "memory";
        open REDIS_DEADLINE_MS = "TOLLGATE_REDIS_DEADLINE_MS", Value("50"), "How many milliseconds of one request Redis may use up in all.",
            "a number from 1 to 1000", "25";
    }
    "Sign-in" {
        open SUPABASE_URL = "NEXT_PUBLIC_SUPABASE_URL", Off, "The Supabase project; session tokens must then be issued by it.",
            "the project's http or https URL", "https://abcdefghijklmnop.supabase.co";
        secret SUPABASE_JWT_SECRET = "SUPABASE_JWT_SECRET", Computed("a key of the sandbox's own beside the sandbox, else required"), "The key that session tokens are signed with (HS256): Supabase's legacy JWT secret, or one of your own.",
            "at least 32 characters", "a-key-of-your-own-with-32-characters-or-more";
        open SUPABASE_ANON_KEY = "NEXT_PUBLIC_SUPABASE_ANON_KEY", Off, "Supabase's public key; only checked to be no service token.",
            "at least 16 visible characters", "eyJhbGciOiJIUzI1NiJ9.anon.key";
        secret SUPABASE_SERVICE_ROLE_KEY = "SUPABASE_SERVICE_ROLE_KEY", Off, "Lets application servers read anybody's entitlements.",
            "at least 16 visible characters, and not the anon key, which everybody has", "eyJhbGciOiJIUzI1NiJ9.service.key";
        secret SERVICE_TOKEN = "TOLLGATE_SERVICE_TOKEN", Off, "The same without Supabase; both may be set.",
            "at least 16 visible characters, and not the anon key, which everybody has", "a-long-random-service-token";
        secret ADMIN_TOKEN = "TOLLGATE_ADMIN_TOKEN", Off, "Opens the admin listener; required where that is not on loopback.",
            "at least 16 visible characters", "a-long-random-admin-token";
    }
    "Server" {
        open BIND = "TOLLGATE_BIND", Value("127.0.0.1:3000"), "Where the public listener answers.",
            "an IP address and a port", "0.0.0.0:3000";
        open ADMIN_BIND = "TOLLGATE_ADMIN_BIND", Value("127.0.0.1:3001"), "Where metrics and the operators' listener answer.",
            "an IP address and a port, other than TOLLGATE_BIND", "127.0.0.1:9090";
        open APP_URL = "TOLLGATE_APP_URL", Computed("`http://` and TOLLGATE_BIND"), "The application that Stripe sends buyers back to.",
            "an http or https URL without user name, query or fragment", "https://app.example.com";
        open CORS_ORIGINS = "TOLLGATE_CORS_ORIGINS", Computed("the origin of TOLLGATE_APP_URL where that is set, else none"), "The sites whose pages may call the API from a browser. Exact: no wildcards, no subdomains.",
            "origins such as https://app.example.com, without a path, separated by commas", "https://app.example.com,https://www.example.com";
        open TRUSTED_PROXIES = "TOLLGATE_TRUSTED_PROXIES", Off, "The proxies before the public listener: from these alone X-Forwarded-For is believed.",
            "IP addresses or networks, separated by commas", "10.0.0.0/8,2001:db8::/32";
        open CATALOGUE = "TOLLGATE_CATALOGUE", Computed("`./tollgate.toml` where there is one, else TRIAL and PRO"), "The file that says what is sold; SIGHUP has it read again.",
            "the path of a readable TOML file", "/etc/tollgate/tollgate.toml";
        open HTTP_WORKERS = "TOLLGATE_HTTP_WORKERS", Computed("one per core"), "Threads that answer HTTP.",
            "a number from 1 to 256", "4";
        open HEAD_TIMEOUT = "TOLLGATE_HEAD_TIMEOUT", Value("5s"), "How long a client may take to send the head of a request.",
            "a duration from 100ms to 1m", "3s";
        open BODY_TIMEOUT = "TOLLGATE_BODY_TIMEOUT", Value("10s"), "How long a client may take to send the body.",
            "a duration from 100ms to 1m", "5s";
        open BODIES_MIB = "TOLLGATE_BODIES_MIB", Value("64"), "How many MiB the bodies of all requests under way may take together; more are answered 503. Long ones get half of it.",
            "a number from 4 to 65536", "256";
        open UNREAD_TIMEOUT = "TOLLGATE_UNREAD_TIMEOUT", Value("30s"), "After how long a connection ends whose client takes nothing of what it is sent (on Linux).",
            "a duration from 100ms to 10m", "10s";
        open CONNECTIONS_MAX = "TOLLGATE_CONNECTIONS_MAX", Value("20000"), "Most connections of the public listener, streams among them; more are closed as they come.",
            "a number from 1 to 1000000", "50000";
        open STREAMS_MAX = "TOLLGATE_STREAMS_MAX", Value("10000"), "Most streams of entitlements open at once; more are answered 503.",
            "a number from 1 to 1000000", "50000";
        open SHUTDOWN_TIMEOUT = "TOLLGATE_SHUTDOWN_TIMEOUT", Value("20s"), "How long a stop waits for requests under way.",
            "a duration from 1s to 10m", "30s";
        open DRAIN_DELAY = "TOLLGATE_DRAIN_DELAY", Value("0s"), "How long a stop goes on answering with readiness red, so that a balancer leads requests elsewhere first. A part of TOLLGATE_SHUTDOWN_TIMEOUT.",
            "a duration from 0s to 5m, at least a second shorter than TOLLGATE_SHUTDOWN_TIMEOUT", "5s";
        open LOG = "TOLLGATE_LOG", Value("info,actix_server=warn"), "Which log lines are written.",
            "a level, or levels by module", "info,tollgate=debug";
        open LOG_FORMAT = "TOLLGATE_LOG_FORMAT", Computed("`pretty` on a terminal, else `json`"), "How log lines look.",
            "json or pretty", "json";
    }
    "Actors" {
        open ACTOR_THREADS = "TOLLGATE_ACTOR_THREADS", Computed("one per two cores"), "Threads that users' actors live on.",
            "a number from 1 to 256", "4";
        open ACTOR_IDLE = "TOLLGATE_ACTOR_IDLE", Value("60s"), "After how long without work a user's actor ends.",
            "a duration from 1s to 1d", "5m";
        open ACTORS_MAX = "TOLLGATE_ACTORS_MAX", Value("250000"), "Most users with a live actor; more are answered 503.",
            "a number from 1 to 10000000", "100000";
        open MAILBOX = "TOLLGATE_MAILBOX", Value("128"), "How many changes of one user may wait.",
            "a number from 64 to 65536", "256";
        open REPLY_TIMEOUT = "TOLLGATE_REPLY_TIMEOUT", Value("4s"), "How long a webhook waits for its change to be durable.",
            "a duration from 100ms to 1m", "8s";
        open WEBHOOKS_IN_FLIGHT = "TOLLGATE_WEBHOOKS_IN_FLIGHT", Value("1024"), "Most webhooks under way at once; more are answered 503.",
            "a number from 1 to 1000000", "4096";
    }
    "Checkout" {
        open CHECKOUT_PER_MINUTE = "TOLLGATE_CHECKOUT_PER_MINUTE", Value("10"), "How many checkout sessions a user may create in a minute.",
            "a number from 1 to 10000", "30";
        open CHECKOUT_PER_ADDRESS = "TOLLGATE_CHECKOUT_PER_ADDRESS", Value("60"), "How many checkout sessions an address may ask for in a minute. Addresses of private networks are not limited.",
            "a number from 1 to 10000", "300";
        open STRIPE_TIMEOUT = "TOLLGATE_STRIPE_TIMEOUT", Value("5s"), "How long one request may wait for Stripe, all attempts together.",
            "a duration from 100ms to 1m", "3s";
        open STRIPE_ATTEMPTS = "TOLLGATE_STRIPE_ATTEMPTS", Value("2"), "How often a call to Stripe is tried.",
            "a number from 1 to 10", "3";
    }
}

/// The text of `.env.example`: every setting, commented out where nothing has to be done.
#[must_use]
pub fn env_example() -> String {
    let mut text = String::from(
        "# Every setting of Tollgate. Copy to .env or .env.local; the process environment wins over .env.local, that over .env.\n\
         # Generated from src/config/setting.rs: a test keeps it so.\n",
    );
    by_section(
        &mut text,
        |text, section| writeln!(text, "\n## {section}"),
        |text, setting| {
            writeln!(text, "# {}", setting.what)?;
            match setting.default {
                Off => writeln!(text, "#{}={}", setting.name, setting.example),
                Value(value) => writeln!(text, "#{}={value}", setting.name),
                Computed(how) => writeln!(text, "# Default: {how}.\n#{}={}", setting.name, setting.example),
            }
        },
    );
    text
}

/// The same as Markdown tables, one for each section.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::new();
    by_section(
        &mut text,
        |text, section| writeln!(text, "\n**{section}**\n\n| variable | default | what it decides |\n|---|---|---|"),
        |text, setting| {
            let default = match setting.default {
                Off => "–".into(),
                Value(value) => format!("`{value}`"),
                Computed(how) => how.into(),
            };
            writeln!(text, "| `{}` | {default} | {} |", setting.name, setting.what)
        },
    );
    text
}

/// Writes a heading wherever a new section begins. Writing to a `String` cannot fail, so its result is dropped here.
fn by_section(
    text: &mut String,
    heading: impl Fn(&mut String, &str) -> std::fmt::Result,
    line: impl Fn(&mut String, &Setting) -> std::fmt::Result,
) {
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            let _ = heading(text, section);
        }
        let _ = line(text, setting);
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn env_example_is_generated() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, env_example()).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap();
        assert!(file == env_example(), ".env.example is stale: run this test once with UPDATE_GENERATED=1");
    }

    #[test]
    fn the_readmes_tables_are_generated() {
        const BEGIN: &str = "<!-- settings: generated by tollgate::config::markdown, from src/config/setting.rs -->\n";
        const END: &str = "\n<!-- settings: end -->";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let file = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = file.split_once(BEGIN).unwrap();
        let (tables, after) = rest.split_once(END).unwrap();
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, [before, BEGIN, &markdown(), END, after].concat()).unwrap();
        } else {
            assert!(tables == markdown(), "README.md is stale: run this test once with UPDATE_GENERATED=1");
        }
    }

    #[test]
    fn names_are_unique_and_every_setting_is_documented() {
        let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair.first() != pair.last()));
        for setting in SETTINGS {
            assert!(setting.what.ends_with('.') && !setting.expected.is_empty() && !setting.example.is_empty());
            assert!(markdown().contains(setting.name));
        }
    }
}
