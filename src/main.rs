//! The `tollgate` binary: see [`tollgate`] for everything it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    tollgate::cli::run()
}
