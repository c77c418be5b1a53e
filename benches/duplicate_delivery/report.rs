//! What was measured, as a table for people and as JSON for programs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{Mode, proc::Used};

/// A number that a phase is held against: the mean of one measurement before the phase and one after it.
#[derive(Debug, Clone)]
pub(crate) struct Ceiling {
    pub(crate) name: &'static str,
    pub(crate) before: f64,
    pub(crate) after: f64,
}

impl Ceiling {
    fn mean(&self) -> f64 {
        f64::midpoint(self.before, self.after)
    }

    /// How far the two are apart, as a part of their mean. What a ratio is worth cannot be better than that.
    fn spread(&self) -> f64 {
        (self.before - self.after).abs() / self.mean()
    }
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Only to be looked at.
    None,
}

impl Target {
    fn verdict(self, value: f64) -> &'static str {
        match self {
            Self::AtLeast(least) if value >= least => "ok",
            Self::AtMost(most) if value <= most => "ok",
            Self::AtLeast(_) | Self::AtMost(_) => "MISSED",
            Self::None => "-",
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
            Self::None => "-".to_owned(),
        }
    }
}

/// Latencies in milliseconds at the usual percentiles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
}

impl Latency {
    pub(crate) fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |percent: usize| {
            let place = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            latencies.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
        };
        Self { p50: at(50), p95: at(95), p99: at(99) }
    }
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) phase: &'static str,
    /// Per second.
    pub(crate) rate: f64,
    pub(crate) latency: Latency,
    /// What is compared: the rate, or for a lone event the median in milliseconds.
    pub(crate) compared: f64,
    pub(crate) ceiling: Ceiling,
    pub(crate) target: Target,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.compared / self.ceiling.mean()
    }
}

/// Who used the processors during a phase, warm-up included.
struct Usage {
    phase: &'static str,
    answers: usize,
    used: Used,
}

/// A memory figure.
struct Memory {
    what: &'static str,
    value: f64,
    unit: &'static str,
    target: Target,
}

/// Everything there is to say.
#[derive(Default)]
pub(crate) struct Report {
    modes: Vec<Measured>,
    notes: Vec<String>,
    violations: Vec<String>,
}

/// What was measured in one mode.
struct Measured {
    mode: Mode,
    rows: Vec<Row>,
    usages: Vec<Usage>,
    memory: Vec<Memory>,
}

impl Report {
    /// What follows was measured in this mode.
    pub(crate) fn mode(&mut self, mode: Mode) {
        self.modes.push(Measured { mode, rows: Vec::new(), usages: Vec::new(), memory: Vec::new() });
    }

    pub(crate) fn row(&mut self, row: Row) {
        self.current().rows.push(row);
    }

    pub(crate) fn usage(&mut self, phase: &'static str, answers: usize, used: Option<Used>) {
        self.current().usages.extend(used.map(|used| Usage { phase, answers, used }));
    }

    pub(crate) fn memory(&mut self, what: &'static str, value: f64, unit: &'static str, target: Target) {
        self.current().memory.push(Memory { what, value, unit, target });
    }

    fn current(&mut self) -> &mut Measured {
        self.modes.last_mut().expect("a mode was begun")
    }

    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Something that must not be: the run fails.
    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(crate) fn is_good(&self) -> bool {
        self.violations.is_empty()
    }

    pub(crate) fn print(&self) {
        self.modes.iter().for_each(Measured::print);
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        for violation in &self.violations {
            println!("WRONG: {violation}");
        }
        println!("{}", if self.is_good() { "correct: every check passed" } else { "NOT CORRECT" });
    }

    pub(crate) fn json(&self, settings: Value) -> Value {
        json!({
            "settings": settings, "modes": self.modes.iter().map(Measured::json).collect::<Vec<_>>(),
            "notes": self.notes, "violations": self.violations,
        })
    }
}

impl Measured {
    fn print(&self) {
        println!("\n{:?} mode", self.mode);
        if !self.rows.is_empty() {
            println!(
                "\n{:<22}{:>10}{:>9}{:>9}{:>9}  {:<26}{:>10}{:>8}{:>8}{:>9}",
                "phase", "per s", "p50 ms", "p95 ms", "p99 ms", "ceiling", "", "ratio", "target", ""
            );
        }
        for row in &self.rows {
            let ceiling = row.ceiling.mean();
            let digits = if ceiling < 100.0 { 3 } else { 0 };
            println!(
                "{:<22}{:>10.0}{:>9.2}{:>9.2}{:>9.2}  {:<26}{:>10}{:>8.2}{:>8}{:>9}",
                row.phase,
                row.rate,
                row.latency.p50,
                row.latency.p95,
                row.latency.p99,
                row.ceiling.name,
                format!("{ceiling:.digits$}±{:.0}%", row.ceiling.spread() * 50.0),
                row.ratio(),
                row.target.text(),
                row.target.verdict(row.ratio()),
            );
        }
        if !self.usages.is_empty() {
            println!(
                "\n{:<22}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>16}",
                "processor seconds",
                "clock",
                "server",
                "postgres",
                "redis",
                "driver",
                "others",
                "answers",
                "server us each"
            );
        }
        for Usage { phase, answers, used } in &self.usages {
            println!(
                "{phase:<22}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{answers:>9}{:>16.1}",
                used.clock,
                used.servers,
                used.postgres,
                used.redis,
                used.driver,
                used.others,
                used.servers * 1e6 / *answers as f64,
            );
        }
        if !self.memory.is_empty() {
            println!("\nmemory");
        }
        for memory in &self.memory {
            let Memory { what, value, unit, target } = memory;
            println!("  {what:<46}{value:>10.2} {unit:<6}{:>10}{:>9}", target.text(), target.verdict(*value));
        }
    }

    fn json(&self) -> Value {
        let Self { mode, rows, usages, memory } = self;
        let memory: Vec<Value> = memory
            .iter()
            .map(|memory| {
                json!({
                    "what": memory.what, "value": memory.value, "unit": memory.unit,
                    "target": memory.target.text(), "verdict": memory.target.verdict(memory.value),
                })
            })
            .collect();
        json!({
            "mode": format!("{mode:?}").to_lowercase(),
            "phases": rows.iter().map(row_json).collect::<Vec<_>>(),
            "processor": usages.iter().map(usage_json).collect::<Vec<_>>(),
            "memory": memory,
        })
    }
}

fn row_json(row: &Row) -> Value {
    json!({
        "phase": row.phase, "per_second": row.rate,
        "p50_ms": row.latency.p50, "p95_ms": row.latency.p95, "p99_ms": row.latency.p99,
        "ceiling": { "name": row.ceiling.name, "before": row.ceiling.before, "after": row.ceiling.after },
        "ratio": row.ratio(), "target": row.target.text(), "verdict": row.target.verdict(row.ratio()),
    })
}

fn usage_json(Usage { phase, answers, used }: &Usage) -> Value {
    json!({
        "phase": phase, "answers": answers, "clock": used.clock, "server": used.servers, "postgres": used.postgres,
        "redis": used.redis, "driver": used.driver, "others": used.others,
    })
}
