//! What connections promise: nothing of it can be seen from outside until the power fails.

use diesel::{RunQueryDsl, sql_types::Text};

use super::*;

#[derive(diesel::QueryableByName)]
struct Setting {
    #[diesel(sql_type = Text)]
    value: String,
}

fn opened() -> (tempfile::TempDir, Arc<LockedFile>, SqliteConnection) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let opened = super::super::open::open(&path, super::super::Purpose::Stripe, Limits::default()).unwrap();
    (directory, opened.file, opened.writer)
}

async fn settings(pool: &Arc<Pool>) -> Vec<String> {
    let names = ["journal_mode", "synchronous", "fullfsync", "foreign_keys", "busy_timeout", "query_only"];
    let read = move |connection: &mut SqliteConnection| {
        let read = |name: &str| {
            let column = if name == "busy_timeout" { "timeout" } else { name };
            let sql = format!("SELECT CAST({column} AS TEXT) AS value FROM pragma_{name}");
            Ok(format!("{name}={}", diesel::sql_query(sql).get_result::<Setting>(connection)?.value))
        };
        names.into_iter().map(read).collect()
    };
    pool.ask(read).await.unwrap()
}

#[tokio::test]
async fn a_commit_is_on_the_disk_and_readers_cannot_write() {
    let (_directory, file, connection) = opened();
    let writer = Pool::writer(&file, connection, Limits::default());
    let expected =
        ["journal_mode=wal", "synchronous=2", "fullfsync=1", "foreign_keys=1", "busy_timeout=1000", "query_only=0"];
    assert_eq!(settings(&writer).await, expected);
    writer.run(|loan| loan.broken = true).await.unwrap();
    assert_eq!(settings(&writer).await, expected, "on the one that replaces a broken one, too");

    let readers = Pool::readers(&file, Limits::default());
    assert!(settings(&readers).await.contains(&"query_only=1".to_owned()));
    let write = readers.ask(|connection| connection.batch_execute("DELETE FROM tollgate_ledger")).await;
    assert!(write.is_err());
}

#[tokio::test]
async fn a_panic_harms_only_what_was_not_committed() {
    let (_directory, file, connection) = opened();
    let writer = Pool::writer(&file, connection, Limits::default());
    let insert = "INSERT INTO users VALUES ('u', 0)";
    let lost = writer.ask::<()>(move |connection| {
        connection.batch_execute(&format!("BEGIN IMMEDIATE; {insert}"))?;
        panic!("in the middle of a transaction")
    });
    assert_eq!(lost.await, Err(LedgerError::InDoubt), "it might have been at its end");
    writer.ask(move |connection| connection.batch_execute(insert)).await.unwrap();
}

/// A new connection to a file that is gone would find an empty ledger there.
#[tokio::test]
async fn a_file_that_is_gone_is_not_made_anew() {
    let (_directory, file, connection) = opened();
    let readers = Pool::readers(&file, Limits::default());
    drop(connection);
    std::fs::remove_file(file.path()).unwrap();
    assert!(matches!(readers.ask(|_| Ok(())).await, Err(LedgerError::Unavailable(_))));
    assert!(!file.path().exists());
}

/// By the kind that the driver gives, which depends on the features of SQLite that are built in.
#[tokio::test]
async fn constraints_are_refusals_and_everything_else_may_pass() {
    let (_directory, file, connection) = opened();
    let writer = Pool::writer(&file, connection, Limits::default());
    for (sql, refused) in [
        (
            "INSERT INTO entitlement_state (user_id, level, expires_at, version, changed_at) VALUES ('u', 'PRO', NULL, 1, 0)",
            Some("foreign key"),
        ),
        ("INSERT INTO users VALUES ('u', NULL)", Some("not null")),
        ("INSERT INTO users VALUES ('u', 0), ('u', 0)", Some("unique")),
        ("INSERT INTO tollgate_ledger VALUES (2, 'e', 'stripe')", Some("check")),
        // No room.
        ("PRAGMA max_page_count = 1; INSERT INTO users VALUES (hex(zeroblob(1000000)), 0)", None),
    ] {
        let error = writer.ask(move |connection| connection.batch_execute(sql)).await.unwrap_err();
        match (&error, refused) {
            (LedgerError::Refused { sqlstate, .. }, Some(word)) => assert_eq!(sqlstate, word, "{sql}"),
            (LedgerError::Unavailable(_), None) => {}
            _ => panic!("{sql}: {error}"),
        }
    }
}
