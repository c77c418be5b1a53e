//! Metrics and the alerts made of them: the list, the sources, docs/OPERATIONS.md and docs/alerts.yml say the same, and a fault raises its
//! alert.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use serde_json::Value;
use tollgate::telemetry::{Kind, METERS, Meter};

use crate::{
    harness::{
        eventually,
        server::{Answer, TestServer, World, client},
    },
    tidy::rust_files,
};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn meter(name: &str) -> Option<&'static Meter> {
    METERS.iter().find(|meter| meter.name == name)
}

/// Every metric that the sources touch, with what they take it for.
fn touched() -> BTreeSet<(String, &'static str)> {
    let mut touched = BTreeSet::new();
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let source = std::fs::read_to_string(file).unwrap();
        for kind in ["counter", "gauge", "histogram"] {
            for (at, _) in source.match_indices(&format!("{kind}!(")) {
                let rest = source[at + kind.len() + 2..].trim_start();
                if let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    touched.insert((name.to_owned(), kind));
                }
            }
        }
    }
    touched
}

#[test]
fn every_metric_is_listed_described_and_named_as_prometheus_has_it() {
    let listed: BTreeSet<(String, &str)> = METERS
        .iter()
        .map(|meter| {
            let kind = match meter.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            (meter.name.to_owned(), kind)
        })
        .collect();
    assert_eq!(listed, touched(), "src/telemetry/meters.rs and the sources");
    for Meter { name, kind, help, .. } in METERS {
        assert_eq!(
            *kind == Kind::Counter,
            name.ends_with("_total"),
            "{name}: counters end in _total, nothing else does"
        );
        assert!(!name.ends_with("_age") && !name.ends_with("_ms"), "{name}: base units, and said");
        assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
    }
    assert!(METERS.is_sorted_by_key(|meter| meter.name), "by name");
    let operations = read("docs/OPERATIONS.md");
    let first_columns = operations.lines().filter(|line| line.starts_with("| `tollgate_"));
    let told: BTreeSet<&str> = first_columns
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|column| column.split('`').skip(1).step_by(2))
        .collect();
    let names: BTreeSet<&str> = METERS.iter().map(|meter| meter.name).collect();
    assert_eq!(told, names, "the table of docs/OPERATIONS.md and src/telemetry/meters.rs");
}

/// The alerts, by name, with what each is raised by.
fn alerts() -> BTreeMap<String, Value> {
    let rules: Value = serde_yaml_ng::from_str(&read("docs/alerts.yml")).expect("docs/alerts.yml is YAML");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    let named: BTreeMap<_, _> =
        rules.iter().map(|rule| (rule["alert"].as_str().expect("a name").to_owned(), rule.clone())).collect();
    assert_eq!(named.len(), rules.len(), "no name twice");
    named
}

/// As GitHub makes anchors of headings.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")).collect()
}

#[test]
fn alerts_ask_for_what_there_is_and_lead_to_what_to_do() {
    let anchors = anchors(&read("docs/OPERATIONS.md"));
    for (name, rule) in alerts() {
        let expression = rule["expr"].as_str().expect("an expression");
        let mut found = 0;
        for (at, _) in expression.match_indices("tollgate_") {
            let rest = &expression[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let metric = &rest[..end];
            let meter = meter(metric).unwrap_or_else(|| panic!("{name}: there is no {metric}"));
            found += 1;
            let Some((labels, _)) = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
                continue;
            };
            for label in labels.split(',').filter_map(|label| label.split(['=', '!']).next()) {
                assert!(meter.labels.contains(&label), "{name}: {metric} has no label {label}");
            }
            assert_eq!(
                expression.contains(&format!("increase({metric}")),
                meter.kind == Kind::Counter,
                "{name}: of counters the increase counts"
            );
        }
        assert!(found > 0, "{name}: {expression} asks for nothing of ours");
        let runbook = rule["annotations"]["runbook"].as_str().expect("what to do");
        let anchor = runbook.strip_prefix("docs/OPERATIONS.md#").expect("in OPERATIONS.md");
        assert!(anchors.contains(anchor), "{name}: {runbook} leads nowhere");
        assert!(["page", "ticket"].iter().any(|severity| rule["labels"]["severity"] == *severity), "{name}");
        assert!(rule["annotations"]["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name}");
    }
}

/// All series of a server, as scraped.
async fn scrape(server: &TestServer) -> BTreeMap<String, f64> {
    let text = Answer::of(client().get(server.admin_url("/metrics"))).await.text;
    let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    series.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

/// Whether an expression of the shape `f(metric{label="x"}[5m]) > 0` holds; none if it is of another shape. Increases are those between two
/// scrapes, however long ago the first was.
fn holds(expression: &str, before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> Option<bool> {
    let (question, limit) = expression.rsplit_once(['>', '='])?;
    let limit: f64 = limit.trim().parse().ok()?;
    let is_above = expression.contains('>');
    let names = question.matches("tollgate_").count();
    if names != 1 || question.contains("absent") || question.contains("=~") {
        return None;
    }
    let at = question.find("tollgate_")?;
    let wanted = &question[at..];
    let end = wanted.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(wanted.len());
    let (metric, rest) = wanted.split_at(end);
    let (key, value, excluded) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((label, _)) => {
            let (key, value) = label.split_once("=\"")?;
            (Some(key.trim_end_matches('!')), value.trim_end_matches('"'), key.ends_with('!'))
        }
        None => (None, "", false),
    };
    let fits = |series: &str| {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        name == metric && key.is_none_or(|key| labels.contains(&format!("{key}=\"{value}\"")) != excluded)
    };
    let values = now.iter().filter(|(series, _)| fits(series)).map(|(series, value)| {
        if question.contains("increase(") { value - before.get(series).copied().unwrap_or(0.0) } else { *value }
    });
    let most = values.fold(f64::NEG_INFINITY, f64::max);
    #[expect(clippy::float_cmp, reason = "gauges that are told to be 0 or 1")]
    let equal = most == limit;
    Some(if is_above { most > limit } else { equal })
}

/// The alerts that a server raises, of those that can be told from two scrapes.
fn raised(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> Vec<String> {
    let alerts = alerts();
    let told: Vec<_> =
        alerts.iter().filter_map(|(name, rule)| Some((name, holds(rule["expr"].as_str()?, before, now)?))).collect();
    assert!(told.len() >= 10, "most alerts can be told: {told:?}");
    told.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name.clone()).collect()
}

#[tokio::test]
async fn an_outage_raises_its_alert_and_a_healthy_server_none() {
    let world = World::new().await;
    let server = world.serve().await;
    let healthy = scrape(&server).await;
    assert_eq!(raised(&healthy, &healthy), [""; 0], "nothing is wrong");
    world.redis.stop().await;
    eventually(Duration::from_secs(30), "the outage of Redis raises its alert", || async {
        let _an_answer_from_the_ledger = server.read(uuid::Uuid::new_v4()).await;
        raised(&healthy, &scrape(&server).await) == ["TollgateCacheOut"]
    })
    .await;
    world.redis.start_again().await;
    eventually(Duration::from_secs(30), "and when it is back there is none", || async {
        raised(&scrape(&server).await, &scrape(&server).await).is_empty()
    })
    .await;
}
