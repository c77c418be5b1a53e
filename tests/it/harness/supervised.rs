//! A server process that cannot outlive the test process, not even when that is killed with SIGKILL: between the two
//! stands `supervisor.sh`, which reads requests from a pipe and cleans up when the pipe closes.
//!
//! Everything that talks to the supervisor runs on tokio's blocking threads, so that the code under test goes on.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::wait::eventually;

/// Longer than any start or stop takes on a busy two-core machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a supervised server is.
pub(crate) struct Kind {
    /// Part of the directory's name.
    pub(crate) name: &'static str,
    /// Ends the server at once, with whatever it has started.
    pub(crate) last_signal: &'static str,
    /// PostgreSQL refuses to run as root.
    pub(crate) never_as_root: bool,
}

/// A directory with a server in it, running or not.
pub(crate) struct Supervised {
    directory: PathBuf,
    supervisor: Arc<Mutex<Supervisor>>,
    process: Mutex<Option<Process>>,
}

#[derive(Clone, Copy)]
struct Process {
    pid: u32,
    /// Where in the log this process's own lines begin.
    log_start: usize,
}

/// Why a server did not come up.
pub(crate) enum StartError {
    /// Another process was quicker to take the port.
    PortInUse,
    /// Anything else, with what the server wrote.
    Failed(String),
}

impl Supervised {
    /// Makes the directory and its supervisor; starts no server yet.
    pub(crate) fn new(kind: &Kind) -> Self {
        Self::create(kind, None)
    }

    /// As [`Self::new`], with a disk of so many megabytes of its own at `data`, which goes away with the last process that uses it. `None`,
    /// said aloud, where nobody may make one.
    pub(crate) fn with_small_disk(kind: &Kind, megabytes: u32) -> Option<Self> {
        let ours = tempfile::tempdir().expect("a directory");
        let mut trial = Command::new("unshare");
        trial.args(["--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]);
        if let Some((uid, gid)) = user(kind, ours.path()) {
            trial.uid(uid).gid(gid);
        }
        match trial.output() {
            Ok(output) if output.status.success() => Some(Self::create(kind, Some(megabytes))),
            refused => {
                eprintln!("SKIPPED: no small disk can be made here: {refused:?}");
                None
            }
        }
    }

    fn create(kind: &Kind, disk_megabytes: Option<u32>) -> Self {
        // Not the TMPDIR: its path may be too long for a unix socket, or closed to the user that the server runs as.
        let directory = tempfile::Builder::new()
            .prefix(&format!("tollgate-{}-", kind.name))
            .tempdir_in("/tmp")
            .expect("a directory in /tmp");
        let user = user(kind, directory.path());

        let mut command = match disk_megabytes {
            None => Command::new("sh"),
            Some(megabytes) => {
                let disk = directory.path().join("data");
                std::fs::create_dir(&disk).expect("our own directory");
                let metadata = disk.metadata().expect("our own directory");
                let (uid, gid) = user.unwrap_or((metadata.uid(), metadata.gid()));
                chown(&disk, Some(uid), Some(gid)).expect("root may give files away");
                // Root in a namespace may mount, and then is who it was before: PostgreSQL asks.
                let mount = format!("mount -t tmpfs -o size={megabytes}m,mode=700 tmpfs \"$0\"");
                let user = format!("unshare --user --map-user={uid} --map-group={gid} sh \"$@\"");
                let mut command = Command::new("unshare");
                command
                    .args(["--map-root-user", "--mount", "sh", "-c"])
                    .arg(format!("{mount} && exec {user}"))
                    .arg(disk);
                command
            }
        };
        command
            .arg("-c")
            .arg(include_str!("supervisor.sh"))
            .arg("tollgate-test-supervisor")
            .arg(directory.path())
            .arg(kind.last_signal)
            .current_dir(directory.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the test process; the supervisor notices its end.
            .process_group(0);
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid)).expect("root may give files away");
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().expect("sh starts");
        let requests = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));

        // Nobody can remove a directory that is mounted upon.
        let mountpoint = disk_megabytes.map(|_| directory.path().to_owned());
        Self {
            // From here on the supervisor is the one that removes it.
            directory: directory.keep(),
            supervisor: Arc::new(Mutex::new(Supervisor { child, requests: Some(requests), answers, mountpoint })),
            process: Mutex::new(None),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Everything the server and its tools have written.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs a program to its end; panics with the log if it fails.
    pub(crate) async fn run(&self, program: &Path, arguments: &[&str]) {
        let answer = self.request("run", program, arguments).await;
        assert_eq!(answer, "0", "{} failed:\n{}", program.display(), self.log());
    }

    /// Starts the server and waits until `is_ready` says so of its process id.
    pub(crate) async fn start<F>(&self, program: &Path, arguments: &[&str], is_ready: F) -> Result<(), StartError>
    where
        F: AsyncFn(u32) -> bool,
    {
        assert!(!self.is_running(), "the server is running already");
        let log_start = self.log().len();
        let answer = self.request("start", program, arguments).await;
        let pid = answer.parse().unwrap_or_else(|_| panic!("no process id: {answer}"));
        *lock(&self.process) = Some(Process { pid, log_start });

        let is_ready = &is_ready;
        eventually(
            PATIENCE,
            "the server accepts connections",
            || async move { !self.is_running() || is_ready(pid).await },
        )
        .await;
        if self.is_running() {
            return Ok(());
        }
        let log = self.log();
        let written = log.get(log_start..).unwrap_or_default();
        // PostgreSQL, then Redis on Linux and macOS.
        if written.contains("ddress already in use") || written.contains("Failed listening on port") {
            Err(StartError::PortInUse)
        } else {
            Err(StartError::Failed(written.to_owned()))
        }
    }

    /// Whether the server's process has been started and has not ended; a paused one counts as running.
    pub(crate) fn is_running(&self) -> bool {
        lock(&self.process).is_some() && !self.directory.join("exited").exists()
    }

    /// The running server's process id.
    pub(crate) fn pid(&self) -> u32 {
        assert!(self.is_running(), "the server is not running:\n{}", self.log_tail());
        lock(&self.process).expect("it was started").pid
    }

    /// Sends a signal to processes of this server. One that has ended meanwhile is no error.
    pub(crate) async fn signal(&self, signal: &str, pids: &[u32]) {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let arguments: Vec<&str> = pids.iter().map(String::as_str).collect();
        self.request("signal", Path::new(signal), &arguments).await;
    }

    /// Waits until the server's process has ended.
    pub(crate) async fn ended(&self) {
        eventually(PATIENCE, "the server ends", || async { !self.is_running() }).await;
    }

    /// What the running, or last, process has written.
    fn log_tail(&self) -> String {
        let start = lock(&self.process).map_or(0, |process| process.log_start);
        self.log().get(start..).unwrap_or_default().to_owned()
    }

    async fn request(&self, verb: &str, first: &Path, arguments: &[&str]) -> String {
        let first = first.to_str().expect("a path in UTF-8");
        let mut request = String::new();
        for line in [verb, first].iter().chain(arguments) {
            assert!(!line.is_empty() && !line.contains('\n'), "{line:?} would end the request");
            request.push_str(line);
            request.push('\n');
        }
        request.push('\n');
        let supervisor = Arc::clone(&self.supervisor);
        tokio::task::spawn_blocking(move || lock(&supervisor).ask(&request)).await.expect("the supervisor answers")
    }
}

struct Supervisor {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// What the supervisor leaves behind.
    mountpoint: Option<PathBuf>,
}

impl Supervisor {
    fn ask(&mut self, request: &str) -> String {
        let pipe = self.requests.as_mut().expect("open until it is dropped");
        pipe.write_all(request.as_bytes()).expect("the supervisor listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the supervisor answers");
        answer.trim_end().to_owned()
    }
}

impl Drop for Supervisor {
    /// Closes the pipe and waits until all is cleaned up. For a server in a static this never runs, nor after
    /// SIGKILL: then the kernel closes the pipe.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Err(error) = self.child.wait() {
            eprintln!("the supervisor of a test server cannot be waited for: {error}");
        }
        if let Some(Err(error)) = self.mountpoint.take().map(std::fs::remove_dir_all) {
            eprintln!("the directory of a test server is left: {error}");
        }
    }
}

/// A panic in one test must not be answered with a second one in the clean-up.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whom a server has to run as, who is root otherwise.
fn user(kind: &Kind, directory: &Path) -> Option<(u32, u32)> {
    let owner = directory.metadata().expect("a directory").uid();
    (kind.never_as_root && owner == 0).then(unprivileged_user)
}

/// User and group id of an account without rights, for tests that run as root.
fn unprivileged_user() -> (u32, u32) {
    let accounts = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| {
            accounts.lines().find_map(|line| {
                let mut fields = line.split(':');
                if fields.next() != Some(name) {
                    return None;
                }
                Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
            })
        })
        .expect("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
}
