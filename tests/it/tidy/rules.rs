//! The rules themselves. To change the architecture, change a row and say why.

/// A top module of `src/`, with all its files, and the other rooms it may use. Arrows follow the flow of an event;
/// nothing points back.
pub(super) struct Room {
    pub(super) name: &'static str,
    pub(super) may_use: MayUse,
    pub(super) why: &'static str,
}

pub(super) enum MayUse {
    Everything,
    Only(&'static [&'static str]),
}

const fn free(name: &'static str, why: &'static str) -> Room {
    let may_use = MayUse::Everything;
    Room { name, may_use, why }
}

const fn room(name: &'static str, may_use: &'static [&'static str], why: &'static str) -> Room {
    let may_use = MayUse::Only(may_use);
    Room { name, may_use, why }
}

pub(super) const ROOMS: &[Room] = &[
    free("main", "it starts everything"),
    free("lib", "it lists the modules"),
    free("app", "it is the composition root"),
    free("cli", "each command drives the whole"),
    room(
        "http",
        &[
            "activity",
            "auth",
            "intake",
            "billing",
            "actor",
            "operators",
            "reader",
            "watch",
            "domain",
            "config",
            "fail_point",
            "metrics",
            "telemetry",
            "trial",
        ],
        "it turns bytes into calls and results into statuses; who gets wired to it is app's business",
    ),
    room(
        "billing",
        &["actor", "clock", "config", "domain", "intake", "ledger", "recent", "fail_point"],
        "it calls Stripe on behalf of others and answers nobody's request itself; what Stripe answers goes the way of an event",
    ),
    room("intake", &["domain"], "what an event means depends on its bytes alone, so that a replay means the same"),
    room(
        "operators",
        &["actor", "domain", "ledger", "metrics", "trial"],
        "what is tried again goes the way of a delivery, through the user's actor; who may ask is http's business",
    ),
    room("reader", &["clock", "domain", "ledger", "cache", "metrics", "fail_point"], "a read never touches an actor"),
    room(
        "watch",
        &["cache", "clock", "domain", "ledger", "metrics", "reader", "fail_point"],
        "it passes on hints: what is shown is read like anything else, and whoever shows a state tells it",
    ),
    room(
        "actor",
        &["activity", "clock", "domain", "ledger", "cache", "metrics", "recent", "watch", "watchdog", "fail_point"],
        "it orders commands per user and knows neither Stripe's JSON nor HTTP",
    ),
    room(
        "upkeep",
        &["actor", "cache", "clock", "domain", "fetch", "intake", "ledger", "fail_point", "trial"],
        "it does beside requests what requests began: it uses the rooms, and none uses it",
    ),
    room(
        "fetch",
        &["actor", "domain", "intake", "ledger", "fail_point"],
        "what Stripe answers goes the way of an event; what is to be asked, the ledger knows",
    ),
    room(
        "trial",
        &["actor", "clock", "domain", "intake", "ledger", "metrics", "recent", "fail_point"],
        "whatever tries an event does it here, so that one that panics or kills is known however it comes",
    ),
    room(
        "ledger",
        &["clock", "domain", "metrics", "fail_point"],
        "the truth depends on nothing that may be absent or stale",
    ),
    room(
        "cache",
        &["clock", "domain", "metrics", "recent", "fail_point"],
        "a hint never asks the truth; whoever uses both decides",
    ),
    room("auth", &["domain", "config", "recent"], "whose request it is does not depend on what they own"),
    room("config", &["domain"], "settings are read before anything exists"),
    room("activity", &["domain"], "everybody tells it, so it may lean on nobody"),
    room(
        "sandbox",
        &["activity", "domain", "intake", "metrics"],
        "it is Stripe's side of the wire: the service reaches it over HTTP only; it borrows the signing of webhooks",
    ),
    room(
        "demo",
        &["activity", "domain", "http", "sandbox"],
        "its page is a frontend like any other: what it shows comes over the wire; it borrows http's bodies and refusals",
    ),
    room("telemetry", &["config"], "it is set up before anything exists"),
    room("clock", &[], "everybody asks it what time it is"),
    room("fail_point", &[], "a test may stop anything anywhere"),
    room("recent", &[], "a container knows nothing of what it holds"),
    room("watchdog", &[], "a thread is held up whatever it does"),
    room("metrics", &[], "everybody counts, so it may lean on nobody"),
    room("domain", &[], "it is pure: it cannot fail for reasons outside its arguments"),
];

/// A crate that only some rooms may name.
pub(super) struct Owned {
    pub(super) crate_name: &'static str,
    pub(super) rooms: &'static [&'static str],
    pub(super) why: &'static str,
}

const fn owned(crate_name: &'static str, rooms: &'static [&'static str], why: &'static str) -> Owned {
    Owned { crate_name, rooms, why }
}

const SQL: &str = "SQL lives in one room; the sandbox keeps Stripe's side in a file of its own";

pub(super) const OWNED_CRATES: &[Owned] = &[
    owned(
        "actix_web",
        &["http", "sandbox", "demo", "app"],
        "only http knows requests and status codes; the sandbox is a server too, and the demo has pages",
    ),
    owned("actix", &["actor", "app"], "only actor knows mailboxes"),
    owned("diesel", &["ledger", "sandbox"], SQL),
    owned("diesel_async", &["ledger"], SQL),
    owned("diesel_migrations", &["ledger"], SQL),
    owned("indicatif", &["cli"], "only commands have a terminal before them"),
    owned("redis", &["cache"], "only cache knows keys and times to live"),
    owned("stripe_gateway", &["billing", "fetch", "app"], "only billing and fetch call Stripe"),
];

/// A sequence of tokens that some rooms, or all, may not hold.
pub(super) struct Forbidden {
    /// Empty: every room.
    pub(super) rooms: &'static [&'static str],
    pub(super) tokens: &'static [&'static str],
    pub(super) why: &'static str,
}

const fn impure(tokens: &'static [&'static str]) -> Forbidden {
    let why = "domain is pure: no I/O, nothing async";
    Forbidden { rooms: &["domain"], tokens, why }
}

const fn clock(tokens: &'static [&'static str]) -> Forbidden {
    let why = "domain has no clock: now is an argument, so that a replay gives the same answer";
    Forbidden { rooms: &["domain"], tokens, why }
}

/// Rooms whose code runs on threads that others share.
const fn blocking(tokens: &'static [&'static str]) -> Forbidden {
    const SHARED: &[&str] = &[
        "activity",
        "actor",
        "auth",
        "billing",
        "cache",
        "demo",
        "fetch",
        "http",
        "intake",
        "operators",
        "reader",
        "recent",
        "upkeep",
        "watch",
    ];
    let why = "it holds up all others of its thread: await, or have it done by spawn_blocking in a room of its own";
    Forbidden { rooms: SHARED, tokens, why }
}

const fn nowhere(tokens: &'static [&'static str], why: &'static str) -> Forbidden {
    Forbidden { rooms: &[], tokens, why }
}

const NO_PANIC: &str = "a panic kills an actor with its mailbox: return the error";

pub(super) const FORBIDDEN: &[Forbidden] = &[
    impure(&["tokio", "::"]),
    impure(&["futures", "::"]),
    impure(&["reqwest", "::"]),
    impure(&["std", "::", "fs"]),
    impure(&["std", "::", "net"]),
    impure(&["std", "::", "env"]),
    impure(&["std", "::", "thread"]),
    impure(&["async"]),
    impure(&["await"]),
    clock(&["Utc", "::", "now"]),
    clock(&["Local", "::", "now"]),
    clock(&["SystemTime", "::", "now"]),
    clock(&["Instant", "::", "now"]),
    Forbidden {
        rooms: &["actor", "billing", "cache", "fetch", "ledger", "reader", "upkeep", "watch"],
        tokens: &["Utc", "::", "now"],
        why: "whether a level is over is told by the process's time: clock::now()",
    },
    blocking(&["std", "::", "fs"]),
    blocking(&["std", "::", "process"]),
    blocking(&["std", "::", "net", "::", "TcpStream"]),
    blocking(&["std", "::", "sync", "::", "mpsc"]),
    blocking(&["block_on", "("]),
    blocking(&["blocking_recv", "("]),
    blocking(&["blocking_send", "("]),
    nowhere(
        &["do_send", "("],
        "it ignores a full mailbox and drops the message when the actor is gone: use try_send or send",
    ),
    nowhere(&[".", "unwrap", "("], NO_PANIC),
    nowhere(&[".", "expect", "("], NO_PANIC),
];

pub(super) const LINES_MAX: usize = 500;

/// Start of an absolute path that means something on one machine only. In two parts, or this file would hold it.
pub(super) const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];
