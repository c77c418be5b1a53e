//! The command line: one file per command.
//!
//! What a command is asked for goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed,
//! 2 asked wrongly (arguments or settings).

mod admin;
mod entitlements;
mod events;
mod migrate;
mod openapi;
mod serve;
mod token;
mod trigger;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use url::Url;

use crate::config::ConfigErrors;

/// The command line as a whole.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about = "Stripe payments in, entitlements out")]
#[command(after_help = "Settings come from the environment, .env.local and .env. Without a command: serve.")]
pub struct Cli {
    /// The folder of the embedded ledger, and of the sandbox's objects and keys [default: tollgate-data]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer requests until told to stop
    Serve,
    /// Bring the database's schema up to date
    Migrate(migrate::Args),
    /// Print a session token of a user, as the sign-in service would issue it
    Token(token::Args),
    /// Send a signed event, as Stripe would, to a running server
    Trigger(trigger::Args),
    /// Look at what arrived and what is parked, and try it again, at a running server
    #[command(subcommand)]
    Events(events::Command),
    /// Look at what users have and had, and give and take by hand, at a running server
    #[command(subcommand)]
    Entitlements(entitlements::Command),
    /// Print the HTTP interface as OpenAPI 3.1
    Openapi(openapi::Args),
}

/// Why a command did not do what was asked.
#[derive(Debug)]
enum Failure {
    /// The settings do not allow it.
    Settings(ConfigErrors),
    /// It was tried.
    Failed(anyhow::Error),
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Settings(errors)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// Tells it on standard error; there is nobody left to tell if that fails.
    fn report(&self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        let (_, code) = match self {
            Self::Settings(errors) => (writeln!(stderr, "tollgate: {errors}"), 2),
            Self::Failed(error) => (writeln!(stderr, "tollgate: {error:#}"), 1),
        };
        ExitCode::from(code)
    }
}

/// Chooses the process's TLS implementation, which both HTTP and Redis over TLS take. Without effect where one was chosen before.
pub fn install_tls() {
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
}

/// Does what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and end well.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    install_tls();
    let data = cli.data.as_deref();
    let done = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(data),
        Command::Migrate(args) => migrate::run(&args, data),
        Command::Token(args) => token::run(&args, data),
        Command::Trigger(args) => trigger::run(&args, data),
        Command::Events(command) => events::run(&command, data),
        Command::Entitlements(command) => entitlements::run(&command, data),
        Command::Openapi(args) => openapi::run(&args),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Runs a command that waits for others. Not for the server, which brings its own threads.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// One line on standard output.
fn print(line: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|error| anyhow::Error::new(error).context("cannot write to standard output"))
}

fn server(text: &str) -> Result<Url, &'static str> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none())
        .ok_or("expected the server's address, for example http://127.0.0.1:3000")
}

#[cfg(test)]
mod tests;
