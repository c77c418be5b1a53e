//! The log: one line per event, on standard output, written by a thread of its own so that no request waits for it.
//!
//! JSON for machines, a coloured line for people. Whatever a field holds, it cannot begin a line or command a terminal:
//! control characters come out escaped in both. When more is logged than can be written, lines are dropped and counted.

mod meters;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::{self, Write as _},
    io::{self, BufWriter, IsTerminal},
    panic::PanicHookInfo,
    sync::mpsc,
    thread,
    time::Duration,
};

use tracing::Dispatch;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::MakeExt,
    fmt::{MakeWriter, format::debug_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub(crate) use self::meters::describe;
pub use self::meters::{Kind, METERS, Meter};
use crate::config::{LogConfig, LogFormat};

/// Most lines that wait to be written.
const LINES_WAITING_MAX: usize = 32_768;

/// What is written to the output at once under load.
const OUTPUT_BUFFER_BYTES: usize = 64 * 1024;

/// What is still waiting at the end may take so long to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Keeps the log going; dropping it writes what is still waiting, for a second at most.
#[must_use = "dropping it ends the log"]
#[derive(Debug)]
pub struct Telemetry {
    dropped: ErrorCounter,
    guard: Option<WorkerGuard>,
}

impl Drop for Telemetry {
    /// In a thread of its own: where nobody reads the output, the guard's own end writes to it, and waits for ever.
    fn drop(&mut self) {
        let guard = self.guard.take();
        let (end, ended) = mpsc::channel();
        let ending = thread::Builder::new().name("log's end".into()).spawn(move || {
            drop(guard);
            end.send(())
        });
        if ending.is_ok() {
            let _given_up = ended.recv_timeout(LAST_LINES);
        }
    }
}

impl Telemetry {
    /// How many lines were dropped so far, because the output was too slow.
    #[must_use]
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("TOLLGATE_LOG")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else has set one up before.
    #[error("the log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the process's log and has panics logged. `output` is standard output for a server, standard error for a command
/// whose own output others read.
///
/// # Errors
/// A wrong filter, or a second call.
pub fn init(
    config: &LogConfig,
    output: impl io::Write + IsTerminal + Send + 'static,
) -> Result<Telemetry, TelemetryError> {
    let automatic = if output.is_terminal() { LogFormat::Pretty } else { LogFormat::Json };
    let colours = output.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .thread_name("log")
        .finish(BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, output));
    let dropped = writer.error_counter();
    dispatch(&config.filter, config.format.unwrap_or(automatic), colours, writer)?.try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry { dropped, guard: Some(guard) })
}

/// Formats events into `writer`. Thread, file and line are left out: they cost more than they tell.
fn dispatch<W>(filter: &str, format: LogFormat, colours: bool, writer: W) -> Result<Dispatch, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter)?;
    let layer = tracing_subscriber::fmt::layer();
    let layer = match format {
        // Fields stay in an object of their own: one of ours may be called `level` or `target`.
        LogFormat::Json => layer.json().with_span_list(false).with_writer(EscapeJson(writer)).boxed(),
        LogFormat::Pretty => {
            let fields = debug_fn(|writer, field, value| match field.name() {
                "message" => write!(EscapeControl(writer), "{value:?}"),
                // Where a line of the `log` crate comes from: its target stands at the front already.
                name if name.starts_with("log.") => Ok(()),
                name => write!(EscapeControl(writer), "{name}={value:?}"),
            });
            layer.with_ansi(colours).fmt_fields(fields.delimited(" ")).with_writer(writer).boxed()
        }
    };
    Ok(tracing_subscriber::registry().with(filter).with(layer).into())
}

/// One line for a panic, with a backtrace where `RUST_BACKTRACE` asks for one.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    tracing::error!(
        panic.message = info.payload_as_str().unwrap_or("not a text"),
        panic.location = info.location().map(tracing::field::display),
        panic.thread = thread.name(),
        panic.backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace)),
        "a thread panicked"
    );
}

/// Writes text with its control characters as Rust would write them in a literal: `\n`, `\u{1b}`.
struct EscapeControl<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for EscapeControl<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            let plain = part.trim_end_matches(char::is_control);
            self.0.write_str(plain)?;
            part.chars().filter(|c| c.is_control()).try_for_each(|c| write!(self.0, "{}", c.escape_default()))?;
        }
        Ok(())
    }
}

/// JSON need not escape DEL and the C1 controls (U+0080 to U+009F), but terminals obey them: a second pass over each line.
struct EscapeJson<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for EscapeJson<W> {
    type Writer = EscapeJson<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapeJson(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for EscapeJson<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_suspect = |byte: &u8| matches!(byte, 0x7f | 0xc2);
        match std::str::from_utf8(line) {
            Ok(text) if line.iter().any(is_suspect) => {
                let mut escaped = String::with_capacity(line.len() + 16);
                for c in text.chars() {
                    // The line's own end is the only control character that serde_json leaves below.
                    let _ = match c {
                        '\u{7f}'..='\u{9f}' => write!(escaped, "\\u{:04x}", u32::from(c)),
                        c => escaped.write_char(c),
                    };
                }
                self.0.write_all(escaped.as_bytes())?;
            }
            _ => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {

    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(filter: &str, format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let dispatch = dispatch(filter, format, false, move || writer.clone()).unwrap();
        tracing::dispatcher::with_default(&dispatch, log);
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        text.split_terminator('\n').map(str::to_owned).collect()
    }

    const HOSTILE: &str = "a\r\nb\u{1b}[31m\u{7f}\u{85}\u{9b}\0\"}\n{\"level\":\"ERROR\"} é 💶";

    fn log_hostile() {
        let span = tracing::info_span!("request", path = %HOSTILE, agent = HOSTILE);
        span.in_scope(|| {
            tracing::info!(event.id = HOSTILE, shown = %HOSTILE, debugged = ?HOSTILE, "text {HOSTILE}");
        });
    }

    #[test]
    fn json_is_one_object_per_line_whatever_the_fields_hold() {
        let lines = capture("info", LogFormat::Json, log_hostile);
        assert_eq!(lines.len(), 1);
        assert!(!lines[0].contains(char::is_control), "{}", lines[0].escape_debug());
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"INFO".into(), &"tollgate::telemetry::tests".into()));
        assert_eq!((&line["fields"]["event.id"], &line["fields"]["shown"]), (&HOSTILE.into(), &HOSTILE.into()));
        assert_eq!(line["fields"]["message"], format!("text {HOSTILE}"));
        assert_eq!((&line["span"]["name"], &line["span"]["path"]), (&"request".into(), &HOSTILE.into()));
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn pretty_is_one_line_whatever_the_fields_hold() {
        let lines = capture("info", LogFormat::Pretty, log_hostile);
        assert_eq!(lines.len(), 1);
        assert!(!lines[0].contains(char::is_control), "{}", lines[0].escape_debug());
        assert!(lines[0].contains("text a\\r\\nb\\u{1b}[31m\\u{7f}\\u{85}\\u{9b}\\u{0}\"}\\n{"), "{}", lines[0]);
        assert!(lines[0].contains("é 💶"));
    }

    #[test]
    fn a_field_called_level_does_not_replace_the_level() {
        let lines = capture("info", LogFormat::Json, || tracing::warn!(level = "PRO", "granted"));
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["level"], &line["fields"]["level"]), (&"WARN".into(), &"PRO".into()));
    }

    #[test]
    fn the_filter_decides() {
        let log = || {
            tracing::debug!("quiet");
            tracing::info!("loud");
        };
        assert_eq!(capture("info", LogFormat::Pretty, log).len(), 1);
        assert_eq!(capture("off,tollgate=debug", LogFormat::Pretty, log).len(), 2);
        assert_eq!(capture("warn", LogFormat::Json, log).len(), 0);
        assert!(dispatch("tollgate=loud", LogFormat::Json, false, io::sink).is_err());
    }

    #[test]
    fn a_panic_is_one_line() {
        // The hook belongs to the whole process: a child runs it, so that other tests keep their own output.
        let Ok(child) = std::env::var("TOLLGATE_TEST_PANIC") else {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "telemetry::tests::a_panic_is_one_line", "--nocapture"])
                .env("TOLLGATE_TEST_PANIC", "canary\u{1b}")
                .env("RUST_BACKTRACE", "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines: Vec<_> = text.lines().filter(|line| line.contains("canary")).collect();
            let [line] = lines.as_slice() else { panic!("{text}") };
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["level"], &line["fields"]["message"]), (&"ERROR".into(), &"a thread panicked".into()));
            assert_eq!(line["fields"]["panic.message"], "line one\ncanary\u{1b}");
            assert_eq!(line["fields"]["panic.thread"], "worker");
            assert!(line["fields"]["panic.location"].as_str().unwrap().contains("telemetry.rs:"));
            assert!(line["fields"]["panic.backtrace"].as_str().unwrap().contains("telemetry"));
            return;
        };
        let telemetry = init(&LogConfig::default(), io::stderr()).unwrap();
        assert!(init(&LogConfig::default(), io::stderr()).is_err());
        let worker = thread::Builder::new().name("worker".into()).spawn(move || panic!("line one\n{child}"));
        assert!(worker.unwrap().join().is_err());
        assert_eq!(telemetry.dropped_lines(), 0);
    }
}
