//! The `tollgate` binary: see [`tollgate`] for everything it does.

use std::process::ExitCode;

/// Many small allocations on few threads, freed on others: what the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tollgate::cli::run()
}
