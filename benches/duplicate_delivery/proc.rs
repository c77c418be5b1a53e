//! Who used how much processor time and memory, read from `/proc`. Where there is none nothing is known, and it says so.

use std::{fs, ops::Range, time::Instant};

/// Processor time in `/proc` is counted in hundredths of a second, whatever the kernel's own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// Whose processor time is told apart. The driver is this process itself.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    /// Release servers, or the ceiling server.
    pub(crate) servers: Vec<u32>,
    /// Its first process; all others are its children.
    pub(crate) postgres: u32,
    pub(crate) redis: u32,
}

/// Seconds of processor time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) servers: f64,
    pub(crate) postgres: f64,
    pub(crate) redis: f64,
    pub(crate) driver: f64,
    /// The rest of the machine: the kernel's own threads and whatever else runs here.
    pub(crate) others: f64,
    /// Seconds by the clock.
    pub(crate) clock: f64,
}

/// Measures from its making on.
pub(crate) struct Meter {
    groups: Groups,
    start: Instant,
    before: Option<Used>,
}

impl Meter {
    pub(crate) fn start(groups: Groups) -> Self {
        let before = groups.total();
        Self { groups, start: Instant::now(), before }
    }

    /// What has been used meanwhile; `None` where there is no `/proc`.
    pub(crate) fn stop(self) -> Option<Used> {
        let (before, after) = (self.before?, self.groups.total()?);
        Some(Used {
            servers: after.servers - before.servers,
            postgres: after.postgres - before.postgres,
            redis: after.redis - before.redis,
            driver: after.driver - before.driver,
            others: (after.others - before.others).max(0.0),
            clock: self.start.elapsed().as_secs_f64(),
        })
    }
}

impl Groups {
    /// What has been used since the processes were started, and by others since the machine was.
    fn total(&self) -> Option<Used> {
        let servers = self.servers.iter().filter_map(|pid| own_seconds(*pid)).sum();
        let (postgres, redis, driver) =
            (family_seconds(self.postgres)?, own_seconds(self.redis)?, own_seconds(std::process::id())?);
        let others = machine_busy()? - servers - postgres - redis - driver;
        Some(Used { servers, postgres, redis, driver, others, clock: 0.0 })
    }
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The file system that a path is on, as `/proc/mounts` calls it.
pub(crate) fn file_system(path: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.nth(1)?, fields.next()?))
        })
        .filter(|(point, _)| path == *point || path.starts_with(&format!("{}/", point.trim_end_matches('/'))))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
}

/// Fields of `/proc/<pid>/stat` from the state on: the name before it may hold anything.
fn stat(pid: &str) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

/// User and system time of a process.
fn own_seconds(pid: u32) -> Option<f64> {
    seconds(&stat(&pid.to_string())?, 11..13)
}

/// The same with that of its children, those included that have ended.
fn family_seconds(pid: u32) -> Option<f64> {
    let of_parent = seconds(&stat(&pid.to_string())?, 11..15)?;
    let parent = pid.to_string();
    let of_children: f64 = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| {
            stat(entry.file_name().to_str().filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))?)
        })
        .filter(|fields| fields.get(1) == Some(&parent))
        .filter_map(|fields| seconds(&fields, 11..13))
        .sum();
    Some(of_parent + of_children)
}

fn seconds(fields: &[String], range: Range<usize>) -> Option<f64> {
    let ticks = fields.get(range)?.iter().map(|field| field.parse::<f64>().ok()).sum::<Option<f64>>()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// Seconds that all cores together were not idle: user, nice, system, irq, softirq and steal.
fn machine_busy() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let idle = fields.get(3)? + fields.get(4)?;
    Some((fields.iter().take(8).sum::<f64>() - idle) / TICKS_PER_SECOND)
}
