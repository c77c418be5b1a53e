//! A clock that steps while programs run by it: libfaketime, loaded before the system's library, reads from a file how far it is from the
//! machine's clock.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::programs;

/// The time of the programs that are started with its settings. Timers are not touched: waiting is as long as ever.
pub(crate) struct SteppingClock {
    directory: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
}

impl SteppingClock {
    /// So many seconds ahead of the machine's clock; behind, if negative. `None`, said aloud, where no library can be loaded before the
    /// system's.
    pub(crate) fn ahead(seconds: i64) -> Option<Self> {
        if !cfg!(target_os = "linux") {
            eprintln!("SKIPPED: clocks can be stepped on Linux only");
            return None;
        }
        // Not the TMPDIR: PostgreSQL runs as another user, who must be able to read it.
        let directory = tempfile::Builder::new().prefix("tollgate-clock-").tempdir_in("/tmp").expect("a directory");
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("our own directory");
        let path = |path: PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
        let settings = [
            ("LD_PRELOAD", path(programs::find_faketime())),
            ("FAKETIME_TIMESTAMP_FILE", path(directory.path().join("ahead"))),
            // Read at each look at the clock.
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            // Files are as old as they are.
            ("NO_FAKE_STAT", "1".into()),
        ];
        let clock = Self { directory, settings: settings.into() };
        clock.step(seconds);
        Some(clock)
    }

    /// Steps to so many seconds ahead of the machine's clock.
    pub(crate) fn step(&self, seconds: i64) {
        // Nobody may read half of it.
        let next = self.directory.path().join("next");
        std::fs::write(&next, format!("{seconds:+}\n")).expect("our own file");
        std::fs::rename(next, self.directory.path().join("ahead")).expect("our own file");
    }

    /// What a program's environment must hold.
    pub(crate) fn settings(&self) -> Vec<(&'static str, &str)> {
        self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}
