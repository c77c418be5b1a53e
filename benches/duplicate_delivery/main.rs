//! `cargo bench --bench duplicate_delivery`: release servers under concurrent deliveries, with PostgreSQL (fsync on) and Redis
//! on the same machine. Prints rates and latencies beside the ceilings of the same run, and fails if any event was not
//! applied exactly once. See `benches/README.md`.
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench ends by panicking, and what it measures it prints"
)]

mod ceilings;
mod check;
mod deliveries;
mod driver;
#[allow(dead_code, unused_imports, reason = "the tests' harness; a bench needs only a part of it")]
#[path = "../../tests/it/harness/mod.rs"]
mod harness;
mod phases;
mod proc;
mod report;
mod world;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use serde_json::json;

use self::{report::Report, world::Bench};

/// As in the server that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Drives concurrent duplicate deliveries at release servers and holds the rates against ceilings of the same run.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench duplicate_delivery --")]
struct Options {
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    connections: usize,
    /// Most different events of a phase.
    #[arg(long, default_value_t = 50_000, value_parser = at_least_one)]
    events: usize,
    /// Duplicates of each event.
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    duplicates: usize,
    /// Longest time of a phase after its warm-up, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Release servers that share PostgreSQL and Redis.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    servers: usize,
    /// Users of the memory phase.
    #[arg(long, default_value_t = 100_000, value_parser = at_least_one)]
    users: usize,
    /// Modes to be measured; both if none is named.
    #[arg(long, value_delimiter = ',')]
    mode: Vec<Mode>,
    /// Phases to be run; all of them if none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Phase>,
    /// A setting of the release servers, `NAME=value`; may be given several times.
    #[arg(long, value_parser = setting)]
    set: Vec<(String, String)>,
    /// A setting of PostgreSQL, `name=value`; may be given several times.
    #[arg(long, value_parser = setting)]
    postgres: Vec<(String, String)>,
    /// Also writes the numbers to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Said by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phase {
    Unique,
    Lone,
    Duplicates,
    Mixed,
    Reads,
    Overload,
    Memory,
}

/// What stands beside the release servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// PostgreSQL and Redis.
    Production,
    /// Nothing: SQLite and the cache are in the one server's process.
    Embedded,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number from 1".to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "expected NAME=value".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == ceilings::SERVER_FLAG) {
        return match ceilings::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the ceiling server: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let options = Options::parse();
    // One thread: a load generator that moves between the cores takes more of them than it needs.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(run(&options));
    report.print();
    if let Some(path) = &options.json {
        let settings = json!({
            "connections": options.connections, "events": options.events, "duplicates": options.duplicates,
            "seconds": options.seconds, "servers": options.servers, "users": options.users,
        });
        let text = serde_json::to_string_pretty(&report.json(settings)).expect("numbers and texts");
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(options: &Options) -> Report {
    let mut report = Report::default();
    let mut bench = Bench::start(options).await;
    introduce(&bench, options).await;
    for mode in chosen(&options.mode) {
        report.mode(mode);
        bench.serve_in(mode, options).await;
        measure(&mut bench, options, &mut report).await;
    }
    report
}

/// What the command line names; everything if it names nothing.
fn chosen<T: ValueEnum + PartialEq>(named: &[T]) -> Vec<T> {
    T::value_variants().iter().filter(|one| named.is_empty() || named.contains(one)).cloned().collect()
}

/// All phases in the bench's mode, and whether everything was done exactly once.
async fn measure(bench: &mut Bench, options: &Options, report: &mut Report) {
    for phase in chosen(&options.only) {
        eprintln!("{:?}, {phase:?} …", bench.mode);
        match phase {
            Phase::Unique => phases::unique(bench, options, report).await,
            Phase::Lone => phases::lone(bench, options, report).await,
            Phase::Duplicates => phases::duplicates(bench, options, report).await,
            Phase::Mixed => phases::mixed(bench, options, report).await,
            Phase::Reads => phases::read(bench, options, report).await,
            Phase::Overload => phases::overload(bench, options, report).await,
            Phase::Memory => phases::memory(bench, options, report).await,
        }
    }
    match bench.mode {
        Mode::Production => check::exactly_once(bench, report).await,
        Mode::Embedded => check::exactly_once_by_http(bench, report).await,
    }
}

/// What is measured, and on what.
async fn introduce(bench: &Bench, options: &Options) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let data = bench.postgres.directory().display().to_string();
    let files = proc::file_system(&data).unwrap_or_else(|| "unknown".to_owned());
    let database = &bench.world.database;
    println!(
        "{} release server(s) (embedded: one) with default settings{}, log at its default level into a file; {} connections; {cores} core(s) \
         for servers, PostgreSQL, Redis and driver together",
        options.servers,
        but(&options.set),
        options.connections
    );
    println!(
        "PostgreSQL {}: fsync {}, synchronous_commit {}{}; its data, and SQLite's file (synchronous=FULL), on {files}{}; bodies of {} bytes",
        database.value("SHOW server_version").await,
        database.value("SHOW fsync").await,
        database.value("SHOW synchronous_commit").await,
        but(&options.postgres),
        if files == "tmpfs" { " (in memory: commits cost nothing there)" } else { "" },
        deliveries::body_bytes(),
    );
}

/// Settings that differ, for people.
fn but(settings: &[(String, String)]) -> String {
    settings.iter().map(|(name, value)| format!(", but {name}={value}")).collect()
}
