//! The ledger in a file: whose it is, who is kept out, what a killed process and a full disk leave behind.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use tollgate::domain::event::Outcome;
use tollgate::ledger::sqlite::{Limits, OpenError, Problem, Purpose, SqliteLedger};
use tollgate::ledger::{Entry, Ledger, LedgerError};

use crate::harness::{ledger::TestFile, until_ok};
use crate::ledger::{built_in, commit, commit_one, purchase, ticket, user};

/// For tests in which nothing may end by a limit of time.
const PATIENT: Limits = Limits {
    busy: Duration::from_secs(60),
    transaction: Duration::from_secs(120),
    readers: 4,
    wal_max: 64 * 1024 * 1024,
};

async fn refusal(path: &Path, purpose: Purpose) -> Problem {
    match SqliteLedger::open(path, purpose, Limits::default(), built_in()).await {
        Ok(_) => panic!("it was opened"),
        Err(OpenError { path: named, problem }) => {
            assert_eq!(named, path, "the file is named as it was asked for");
            problem
        }
    }
}

#[tokio::test]
async fn a_second_opener_is_refused_and_may_come_in_when_the_first_has_gone() {
    let file = TestFile::new();
    let ledger = file.open().await;
    let problem = refusal(&file.path(), Purpose::Stripe).await;
    assert!(matches!(&problem, Problem::Locked(lock) if lock.ends_with("ledger.db.lock")), "{problem}");
    let alias = file.beside("-alias");
    std::os::unix::fs::symlink(file.path(), &alias).unwrap();
    assert!(matches!(refusal(&alias, Purpose::Stripe).await, Problem::Locked(_)), "by another name, too");
    let lane = ledger.lane();
    drop(ledger);
    assert!(matches!(refusal(&file.path(), Purpose::Stripe).await, Problem::Locked(_)), "a lane may still write");
    drop(lane);
    file.open().await;
    assert!(file.beside(".lock").exists(), "removing it would let two in");
}

/// Each name would have a lock and a write-ahead log of its own: two processes would write one file and know nothing of each other.
#[tokio::test]
async fn a_file_with_a_second_hard_link_could_be_opened_twice() {
    let file = TestFile::new();
    let ledger = file.open().await;
    let alias = file.beside("-alias");
    std::fs::hard_link(file.path(), &alias).unwrap();
    assert!(matches!(refusal(&alias, Purpose::Stripe).await, Problem::Linked));
    drop(ledger);
    assert!(matches!(refusal(&file.path(), Purpose::Stripe).await, Problem::Linked));
    std::fs::remove_file(alias).unwrap();
    file.open().await;
}

/// SQLite goes on with a file that has no name any more, and what it acknowledges goes with it.
#[tokio::test]
async fn events_were_acknowledged_into_a_file_that_had_been_moved_away() {
    let file = TestFile::new();
    let ledger = file.open().await;
    let (mut lane, buyer) = (ledger.lane(), user());
    commit_one(&mut *lane, purchase(buyer, "evt_1", "cs_1")).await;
    ledger.entitlement(buyer).await.unwrap();
    let away = file.beside("-away");
    std::fs::rename(file.path(), &away).unwrap();
    for other_in_its_place in [false, true] {
        if other_in_its_place {
            std::fs::copy(&away, file.path()).unwrap();
        }
        let lost = commit(&mut *lane, vec![purchase(buyer, "evt_2", "cs_2")]).await;
        assert!(matches!(lost.as_slice(), [Err(LedgerError::Unavailable(_))]), "{lost:?}");
        let read = ledger.entitlement(buyer).await;
        assert!(matches!(read, Err(LedgerError::Unavailable(_))), "another ledger's, perhaps: {read:?}");
        assert!(ledger.now().await.is_err(), "readiness says so");
    }
    std::fs::rename(away, file.path()).unwrap();
    assert_eq!(commit_one(&mut *lane, purchase(buyer, "evt_2", "cs_2")).await.outcome, Outcome::Applied);
    assert_eq!(ledger.entitlement(buyer).await.unwrap().version, 2);
}

/// Somebody takes it for a left-over: two servers had one ledger, and each believed what it remembered of it.
#[tokio::test]
async fn a_lock_that_was_removed_let_a_second_server_in_beside_the_first() {
    let file = TestFile::new();
    let first = file.open().await;
    let (mut lane, buyer) = (first.lane(), user());
    commit_one(&mut *lane, purchase(buyer, "evt_1", "cs_1")).await;
    std::fs::remove_file(file.beside(".lock")).unwrap();
    let second = file.open().await;
    let kept_out = commit(&mut *lane, vec![purchase(buyer, "evt_2", "cs_2")]).await;
    assert!(matches!(kept_out.as_slice(), [Err(LedgerError::Unavailable(_))]), "{kept_out:?}");
    assert!(first.entitlement(buyer).await.is_err());
    assert!(first.now().await.is_err(), "readiness says so");
    assert_eq!(commit_one(&mut *second.lane(), purchase(buyer, "evt_2", "cs_2")).await.outcome, Outcome::Applied);
}

#[tokio::test]
async fn everything_is_there_when_it_is_opened_again() {
    let file = TestFile::new();
    let (buyer, epoch, before) = {
        let (ledger, report) =
            SqliteLedger::open(&file.path(), Purpose::Stripe, Limits::default(), built_in()).await.unwrap();
        assert!(!report.applied.is_empty() && report.levels_added.is_empty(), "{report:?}");
        let buyer = user();
        let committed = commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await;
        (buyer, ledger.epoch(), committed.entitlement)
    };
    assert!(!file.beside("-wal").exists(), "the log was written back");
    let (ledger, report) =
        SqliteLedger::open(&file.path(), Purpose::Stripe, Limits::default(), built_in()).await.unwrap();
    assert_eq!(report.applied, [""; 0]);
    assert_eq!(ledger.epoch(), epoch);
    assert_eq!(Some(ledger.entitlement(buyer).await.unwrap()), before);
    let again = commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await;
    assert_eq!((again.outcome, again.entitlement), (Outcome::Duplicate, before));
    assert_ne!(TestFile::new().open().await.epoch(), epoch, "another file is another ledger");
}

/// What nobody has paid for must not be served beside a real key, nor what was paid for be lost in a game.
#[tokio::test]
async fn play_money_and_real_money_never_meet() {
    for (made, asked) in [(Purpose::Sandbox, Purpose::Stripe), (Purpose::Stripe, Purpose::Sandbox)] {
        let file = TestFile::new();
        drop(file.try_open(made).await.unwrap());
        let problem = refusal(&file.path(), asked).await;
        assert!(problem.to_string().contains("choose another file"), "{problem}");
        let Problem::WrongPurpose { found, wanted } = problem else { panic!("{problem}") };
        assert_eq!((found, wanted), (made, asked));
        file.try_open(made).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let file = TestFile::new();
    drop(file.open().await);
    file.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000001')");
    let problem = refusal(&file.path(), Purpose::Stripe).await;
    assert!(matches!(&problem, Problem::Newer(version) if version == "29991231000001"), "{problem}");
}

#[tokio::test]
async fn what_is_no_ledger_is_refused_and_left_as_it_is() {
    let file = TestFile::new();
    for text in ["a letter to somebody", "!"] {
        std::fs::write(file.path(), text).unwrap();
        let problem = refusal(&file.path(), Purpose::Stripe).await;
        assert!(matches!(problem, Problem::NotADatabase), "{problem}");
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
    }

    let file = TestFile::new();
    file.execute("CREATE TABLE users (id TEXT)");
    let before = std::fs::read(file.path()).unwrap();
    let problem = refusal(&file.path(), Purpose::Stripe).await;
    assert!(matches!(problem, Problem::AnotherPrograms), "{problem}");
    assert_eq!(std::fs::read(file.path()).unwrap(), before);

    let file = TestFile::new();
    drop(file.open().await);
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[100..4096].fill(0xa5);
    std::fs::write(file.path(), bytes).unwrap();
    let problem = refusal(&file.path(), Purpose::Stripe).await;
    assert!(matches!(problem, Problem::Unusable(_)), "{problem}");
}

#[tokio::test]
async fn what_cannot_be_a_file_is_refused() {
    let file = TestFile::new();
    let directory = file.path().parent().unwrap().to_owned();
    assert!(matches!(refusal(&directory, Purpose::Stripe).await, Problem::NotAFile));
    assert!(matches!(refusal(Path::new("/dev/null"), Purpose::Stripe).await, Problem::NotAFile));
    std::fs::write(file.path(), "").unwrap();
    let below = file.path().join("ledger.db");
    let problem = refusal(&below, Purpose::Stripe).await;
    assert!(matches!(problem, Problem::Inaccessible(_)), "{problem}");
}

/// It holds who bought what.
#[tokio::test]
async fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let place = TestFile::new();
    let directory = place.beside(".d");
    let path = directory.join("deeper").join("odd name?#%41.db");
    let (ledger, _) = SqliteLedger::open(&path, Purpose::Stripe, Limits::default(), built_in()).await.unwrap();
    commit_one(&mut *ledger.lane(), purchase(user(), "evt_1", "cs_1")).await;
    ledger.now().await.unwrap();
    for more in ["", "-wal", "-shm", ".lock"] {
        let file = path.with_file_name(format!("odd name?#%41.db{more}"));
        assert_eq!(mode(&file), 0o600, "{more}");
    }
    assert_eq!(mode(&directory), 0o700);
}

#[tokio::test]
async fn readers_do_not_wait_for_a_writer() {
    let file = TestFile::new();
    let ledger = file.open_with(PATIENT).await;
    let buyer = user();
    commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await;
    let mut shell = file.connect();
    shell.batch_execute("BEGIN IMMEDIATE; UPDATE entitlement_state SET level = 'TRIAL'").unwrap();
    let mut lane = ledger.lane();
    let (waiting, mut answer) = ticket(purchase(buyer, "evt_2", "cs_2"));
    let committing = tokio::spawn(async move { lane.commit(vec![waiting]).await });
    let seen = ledger.entitlement(buyer).await.unwrap();
    assert_eq!((seen.level.as_str(), seen.version), ("PRO", 1), "what was committed last");
    assert!(answer.try_recv().is_err());
    shell.batch_execute("ROLLBACK").unwrap();
    committing.await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().outcome, Outcome::Applied);
}

#[tokio::test]
async fn a_file_that_another_program_keeps_locked_is_unavailable_and_no_longer() {
    let file = TestFile::new();
    let ledger = file.open_with(Limits { busy: Duration::from_millis(10), ..PATIENT }).await;
    let mut lane = ledger.lane();
    let mut shell = file.connect();
    shell.batch_execute("BEGIN IMMEDIATE").unwrap();
    let results = commit(&mut *lane, vec![purchase(user(), "evt_1", "cs_1"), purchase(user(), "evt_2", "cs_2")]).await;
    for result in results {
        assert!(matches!(result, Err(LedgerError::Unavailable(_))), "{result:?}");
    }
    assert!(matches!(ledger.forget_instance(uuid::Uuid::new_v4()).await, Err(LedgerError::Unavailable(_))));
    shell.batch_execute("ROLLBACK").unwrap();
    assert_eq!(commit_one(&mut *lane, purchase(user(), "evt_1", "cs_1")).await.outcome, Outcome::Applied);
}

/// Nobody waits for ever; what was begun is not undone by that, and the redelivery finds out.
#[tokio::test]
async fn a_write_that_does_not_end_in_time_is_in_doubt_and_what_waits_behind_it_is_not() {
    let file = TestFile::new();
    let ledger = file.open_with(Limits { transaction: Duration::from_millis(100), ..PATIENT }).await;
    let (mut lane, mut other) = (ledger.lane(), ledger.lane());
    let buyer = user();
    let mut shell = file.connect();
    shell.batch_execute("BEGIN IMMEDIATE").unwrap();
    let stuck = commit(&mut *lane, vec![purchase(buyer, "evt_1", "cs_1")]).await;
    assert_eq!(stuck, [Err(LedgerError::InDoubt)]);
    let behind = commit(&mut *other, vec![purchase(user(), "evt_2", "cs_2")]).await;
    assert!(matches!(behind.as_slice(), [Err(LedgerError::Unavailable(_))]), "{behind:?}");
    shell.batch_execute("ROLLBACK").unwrap();
    let again = until_ok(Duration::from_secs(60), "the writer is back", async || {
        commit(&mut *ledger.lane(), vec![purchase(buyer, "evt_1", "cs_1")]).await.pop().unwrap()
    })
    .await;
    assert_eq!((again.outcome, again.entitlement.unwrap().version), (Outcome::Duplicate, 1));
}

/// What is not refused before the `COMMIT` may be refused by it.
#[tokio::test]
async fn a_refused_commit_has_written_nothing_and_harms_nobody_else() {
    let file = TestFile::new();
    let ledger = file.open().await;
    let cursed = user();
    file.execute(&format!(
        "CREATE TABLE oath (id TEXT REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED); \
         CREATE TRIGGER broken AFTER INSERT ON users WHEN NEW.id = '{cursed}' BEGIN INSERT INTO oath VALUES ('nobody'); END"
    ));
    let mut lane = ledger.lane();
    let batch: Vec<Entry> = (0..9)
        .map(|n| purchase(if n == 5 { cursed } else { user() }, &format!("evt_{n}"), &format!("cs_{n}")))
        .collect();
    for (n, result) in commit(&mut *lane, batch.clone()).await.into_iter().enumerate() {
        match result {
            Err(LedgerError::Refused { .. }) if n == 5 => {}
            Ok(committed) if n != 5 => assert_eq!(committed.outcome, Outcome::Applied),
            other => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(file.column("SELECT count(*) FROM stripe_events"), ["8"]);
    file.execute("DROP TRIGGER broken");
    assert_eq!(commit_one(&mut *lane, batch[5].clone()).await.outcome, Outcome::Applied, "it claimed nothing");
}

fn wal_bytes(file: &TestFile) -> u64 {
    std::fs::metadata(file.beside("-wal")).map_or(0, |found| found.len())
}

async fn commit_some(ledger: &SqliteLedger, n: usize) {
    let batch = (0..20).map(|i| purchase(user(), &format!("evt_{n}x{i}"), &format!("cs_{n}x{i}"))).collect();
    assert!(commit(&mut *ledger.lane(), batch).await.iter().all(Result::is_ok));
}

/// SQLite begins its log anew when nobody reads it; under load somebody always does.
#[tokio::test]
async fn the_log_stays_short_while_readers_follow_each_other_without_a_pause() {
    let file = TestFile::new();
    let ledger = file.open_with(Limits { wal_max: 512 * 1024, ..PATIENT }).await;
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let ledger = std::sync::Arc::clone(&ledger);
            tokio::spawn(async move {
                loop {
                    ledger.changed_between(chrono::DateTime::UNIX_EPOCH, chrono::Utc::now(), 50).await.unwrap();
                }
            })
        })
        .collect();
    for n in 0..60 {
        commit_some(&ledger, n).await;
        assert!(wal_bytes(&file) <= 512 * 1024, "{}", wal_bytes(&file));
    }
    readers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A backup takes its time: it is not waited for, and the log is cut when it has gone.
#[tokio::test]
async fn a_long_reader_of_another_program_holds_up_nobody() {
    let file = TestFile::new();
    let wal_max = 256 * 1024;
    let ledger = file.open_with(Limits { busy: Duration::from_millis(1), wal_max, ..PATIENT }).await;
    let mut backup = file.connect();
    backup.batch_execute("BEGIN; SELECT count(*) FROM users").unwrap();
    let mut n = 0;
    while wal_bytes(&file) < 4 * wal_max {
        commit_some(&ledger, n).await;
        n += 1;
    }
    backup.batch_execute("ROLLBACK").unwrap();
    for more in n..n + 100 {
        commit_some(&ledger, more).await;
        if wal_bytes(&file) <= wal_max {
            return;
        }
    }
    panic!("the log was never cut: {}", wal_bytes(&file));
}

/// SQLite begins a log anew that has been written back, and keeps its length.
#[tokio::test]
async fn the_log_stayed_as_long_as_a_backup_had_made_it() {
    let file = TestFile::new();
    // Longer than what SQLite writes back by itself.
    let wal_max = 5 * 1024 * 1024;
    let ledger = file.open_with(Limits { busy: Duration::from_millis(1), wal_max, ..PATIENT }).await;
    let mut backup = file.connect();
    backup.batch_execute("BEGIN; SELECT count(*) FROM users").unwrap();
    let mut n = 0;
    while wal_bytes(&file) < 2 * wal_max {
        commit_some(&ledger, n).await;
        n += 1;
    }
    backup.batch_execute("ROLLBACK").unwrap();
    for more in n..n + 3 {
        commit_some(&ledger, more).await;
    }
    assert!(wal_bytes(&file) <= wal_max, "{}", wal_bytes(&file));
}

/// Tells a test that it is a child, and which file to write.
const CHILD: &str = "TOLLGATE_TEST_LEDGER_FILE";

/// Commits batches through two lanes until it is killed or cannot; says of each what came of it, after it was told.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
async fn write_on(path: &str) {
    let (ledger, _) = SqliteLedger::open(Path::new(path), Purpose::Stripe, PATIENT, built_in()).await.unwrap();
    let write = async |lane_no: u32| {
        let mut lane = ledger.lane();
        for n in 0..1000 {
            let id = format!("{}x{lane_no}x{n}", std::process::id());
            let batch = (0..20).map(|i| purchase(user(), &format!("evt_{id}x{i}"), &format!("cs_{id}x{i}"))).collect();
            let results = commit(&mut *lane, batch).await;
            let failed = results.iter().find_map(|result| result.as_ref().err());
            let word = match failed {
                None => "committed",
                Some(error) if error.is_certainly_aborted() => "aborted",
                Some(_) => "doubtful",
            };
            println!("{word} {id}");
            if failed.is_some() {
                return;
            }
        }
    };
    futures::future::join(write(0), write(1)).await;
    ledger.now().await.unwrap();
    println!("readable still");
}

/// This very test, in a process of its own.
fn child(file: &TestFile, test: &str, shell: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, file.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Every batch is there as a whole or not at all, and what was acknowledged is.
fn assert_kept(file: &TestFile, told: &[(String, String)]) {
    let batches = "SELECT substr(id, 5, length(rtrim(id, '0123456789')) - 5) || ' ' || count(*) FROM stripe_events GROUP BY \
                   substr(id, 5, length(rtrim(id, '0123456789')) - 5)";
    let kept: HashSet<String> = file
        .column(batches)
        .into_iter()
        .map(|row| row.strip_suffix(" 20").unwrap_or_else(|| panic!("in part: {row}")).to_owned())
        .collect();
    for (word, id) in told {
        match word.as_str() {
            "committed" => assert!(kept.contains(id), "{id} was acknowledged"),
            "aborted" => assert!(!kept.contains(id), "{id} was said to have failed"),
            _ => {}
        }
    }
    let counts = "SELECT count(*) FROM stripe_events UNION ALL SELECT count(*) FROM user_entitlements \
                  UNION ALL SELECT count(*) FROM entitlement_state WHERE version = 1";
    let counts: HashSet<String> = file.column(counts).into_iter().collect();
    assert_eq!(counts.len(), 1, "an event without its effect: {counts:?}");
    assert_eq!(file.column("SELECT integrity_check FROM pragma_integrity_check"), ["ok"]);
}

fn told(line: &str) -> Option<(String, String)> {
    ["committed", "aborted", "doubtful"].into_iter().find_map(|word| {
        let (_, id) = line.split_once(&format!("{word} "))?;
        Some((word.to_owned(), id.to_owned()))
    })
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_commits_loses_nothing_it_acknowledged() {
    if let Ok(path) = std::env::var(CHILD) {
        return write_on(&path).await;
    }
    let file = TestFile::new();
    let test = "ledger_file::a_process_that_is_killed_while_it_commits_loses_nothing_it_acknowledged";
    let mut all = Vec::new();
    for batches in [1, 7, 40, 100] {
        let mut child = child(&file, test, "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        all.extend(lines.by_ref().filter_map(|line| told(&line)).take(batches));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still managed to say.
        all.extend(lines.filter_map(|line| told(&line)));
        drop(file.open().await);
        assert_kept(&file, &all);
    }
    assert!(all.len() >= 148 && all.iter().all(|(word, _)| word == "committed"), "{}", all.len());
}

#[tokio::test]
async fn a_full_disk_is_an_answer_and_loses_nothing_acknowledged() {
    if let Ok(path) = std::env::var(CHILD) {
        return write_on(&path).await;
    }
    let file = TestFile::new();
    let test = "ledger_file::a_full_disk_is_an_answer_and_loses_nothing_acknowledged";
    // No file may grow beyond some megabytes: writing fails then, as on a full disk.
    let mut child = child(&file, test, "trap '' XFSZ; ulimit -f 4096;");
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    let told: Vec<(String, String)> = lines.iter().filter_map(|line| told(line)).collect();
    assert_eq!(told.iter().filter(|(word, _)| word != "committed").count(), 2, "each lane was told: {told:?}");
    assert!(told.len() > 10, "it did commit before: {told:?}");
    assert!(lines.iter().any(|line| line.contains("readable still")));
    let ledger = file.open().await;
    assert_kept(&file, &told);
    assert_eq!(commit_one(&mut *ledger.lane(), purchase(user(), "evt_1", "cs_1")).await.outcome, Outcome::Applied);
}
