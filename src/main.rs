//! The `tollgate` binary: see [`tollgate`] for everything it does.

fn main() {}
