//! The rights that docs/OPERATIONS.md gives the service in PostgreSQL and Redis: all of it works with them, and whoever has stolen them can do
//! no more. The scripts are read from the document, so that it cannot say anything else.

use serde_json::{Value, json};
use tokio_postgres::NoTls;
use tollgate::{config::catalogue, ledger::postgres::PostgresLedger};
use uuid::Uuid;

use crate::{
    harness::{
        PATIENCE, PostgresServer,
        event::SessionEvent,
        eventually,
        server::{Answer, TestServer, World, client, session_token, unix_now},
    },
    stream::Stream,
};

const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");
const ORIGINAL: &str = include_str!("../fixtures/original_schema.sql");

/// The first block of the document that holds these words, with other names and passwords.
fn block(words: &str, changes: &[(&str, &str)]) -> String {
    let block = OPERATIONS.split("```").skip(1).step_by(2).find(|block| block.contains(words)).expect("it is there");
    let (_language, text) = block.split_once('\n').expect("a line of its own");
    changes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// In a database with Supabase's roles and row-level security, and tables of somebody else's.
#[tokio::test]
async fn the_whole_service_works_with_the_least_rights_and_they_are_good_for_nothing_else() {
    let world = World::new().await;
    world.database.execute(ORIGINAL).await;
    let all_levels = catalogue::parse(catalogue::BUILT_IN).unwrap();
    PostgresLedger::migrate(&world.database.url(), &all_levels).await.unwrap();
    // Roles belong to the whole cluster, which other tests share.
    let role = format!("tollgate_service_{}", Uuid::new_v4().simple());
    let script = block("CREATE ROLE tollgate_service", &[("tollgate_service", &role)]);
    world.database.execute(&script).await;
    let (_role_is_there, again) = script.split_once(';').unwrap();
    world.database.execute(again).await;
    let acl = block("ACL SETUSER tollgate", &[("a-long-random-password", "redis-pw")]);
    world.redis.command::<()>(&acl.split_whitespace().collect::<Vec<_>>()).await;

    let database_url = world.database.url().replace("postgres@", &format!("{role}@"));
    let redis_url = world.redis.url().replace("redis://", "redis://tollgate:redis-pw@");
    let settings =
        [("DATABASE_URL", database_url.as_str()), ("REDIS_URL", redis_url.as_str()), ("TOLLGATE_MIGRATE", "false")];
    let server = world.serve_with(&settings).await;
    everything_is_done(&world, &server).await;
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0);
    assert_eq!(world.database.value("SELECT count(*) FROM instances").await, "0");
    let denied: Vec<redis::Value> = world.redis.command(&["ACL", "LOG"]).await;
    assert_eq!(denied, [], "Redis has refused nothing");
    let name = world.database.url().rsplit('/').next().unwrap().to_owned();
    let log = PostgresServer::shared().await.log();
    let denied: Vec<&str> =
        log.lines().filter(|line| line.contains(&name) && line.contains("permission denied")).collect();
    assert_eq!(denied, [""; 0], "PostgreSQL has refused nothing");

    postgres_refuses_the_rest(&world, &database_url, &role).await;
    redis_refuses_the_rest(&redis_url).await;
}

/// Each table and each kind of key is read and written, by requests and beside them.
async fn everything_is_done(world: &World, server: &TestServer) {
    let appear = async |user: Uuid| {
        let sql = format!("INSERT INTO auth.users VALUES ('{user}', '{user}@example.com')");
        world.database.execute(&sql).await;
    };
    let level = async |user: Uuid| server.read(user).await.json["entitlementLevel"].as_str().unwrap().to_owned();
    let (trier, buyer, refunded) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    appear(trier).await;
    appear(refunded).await;
    // What takes its time is begun first, and waited for last.
    let ends_soon =
        SessionEvent { level: "TRIAL".into(), created: unix_now() - 7 * 86_400 + 3, ..SessionEvent::paid(trier) };
    let bought = SessionEvent::paid(refunded);
    for event in [&ends_soon, &bought] {
        assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
    }
    assert_eq!(server.deliver(&refund_of_all(world, &bought)).await.status, 200);
    let early = SessionEvent::paid(buyer);
    assert_eq!(server.deliver(&early.json()).await.json["parked"], true, "nobody knows the buyer");
    appear(buyer).await;

    let mut watcher = Stream::open(server, refunded).await;
    assert_eq!(watcher.next().await.unwrap().version_and_level().1, "PRO");
    eventually(PATIENCE, "it listens", || async {
        let listeners: (String, usize) = world.redis.command(&["PUBSUB", "NUMSUB", "entitlements:changed"]).await;
        listeners.1 == 1
    })
    .await;
    eventually(PATIENCE, "what was parked is applied", || async { level(buyer).await == "PRO" }).await;
    assert_eq!(world.redis.get(&format!("entitlements:{buyer}")).await.as_deref(), Some("PRO"));
    assert_eq!(server.deliver(&early.json()).await.json["idempotent"], true);
    let old = SessionEvent { created: unix_now() - 60, ..early.sibling() };
    assert_eq!(server.deliver(&old.json()).await.status, 200, "old enough for Redis to be asked for its mark");

    let opened = server.checkout(buyer, "PRO", Some("click")).await;
    assert_eq!(opened.status, 200, "{}", opened.text);
    let session = opened.json["sessionId"].as_str().unwrap();
    let look = client().get(server.url(&format!("/api/checkout/session/{session}")));
    assert_eq!(Answer::of(look.bearer_auth(session_token(buyer))).await.status, 200);
    let admin = |path: &str| server.admin_url(&format!("/api/admin/{path}"));
    let until = "2099-01-01T00:00:00Z";
    let gift =
        json!({ "id": Uuid::new_v4(), "level": "PRO", "until": until, "operator": "robin", "reason": "a prize" });
    let given = Answer::of(client().post(admin(&format!("entitlements/{buyer}/grants"))).json(&gift)).await;
    assert_eq!(given.status, 200, "{}", given.text);
    for path in ["events", "summary", &format!("entitlements/{buyer}"), &format!("entitlements/{buyer}/history")] {
        assert_eq!(Answer::of(client().get(admin(path))).await.status, 200, "{path}");
    }
    // Events have some seconds to tell it first.
    world.database.execute("UPDATE stripe_fetches SET due_at = now()").await;
    assert_eq!(watcher.next().await.unwrap().version_and_level().1, "FREE", "Stripe was asked how much was given back");
    eventually(PATIENCE, "nothing is left to ask", || async {
        world.database.value("SELECT count(*) FROM stripe_fetches").await == "0"
    })
    .await;
    eventually(PATIENCE, "the trial's end is a change", || async {
        world.redis.get(&format!("entitlements:{trier}")).await.as_deref() == Some("FREE")
    })
    .await;
    assert_eq!(Answer::of(client().get(server.url("/health/ready"))).await.json["status"], "ready");
}

/// A refund of which Stripe has to be asked how much of the payment it is.
fn refund_of_all(world: &World, bought: &SessionEvent) -> Value {
    let payment = bought.session.replace("cs_test_", "pi_");
    let charge = json!({ "id": "ch_1", "object": "charge", "payment_intent": payment, "amount_captured": 2900, "amount_refunded": 2900 });
    let known = json!({ "id": payment, "object": "payment_intent", "latest_charge": charge });
    world.stripe.have(&format!("payment_intents/{payment}"), &known);
    let refund = json!({
        "id": "re_1", "object": "refund", "status": "succeeded", "payment_intent": payment, "amount": 2900, "created": unix_now(),
    });
    json!({
        "id": format!("evt_{}", Uuid::new_v4().simple()), "object": "event", "type": "refund.created", "livemode": false,
        "created": unix_now(), "api_version": "2026-10-28.endive", "data": { "object": refund },
    })
}

async fn postgres_refuses_the_rest(world: &World, url: &str, role: &str) {
    let (thief, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    for sql in [
        "SELECT * FROM auth.users",
        "SELECT email FROM users",
        "UPDATE users SET email = 'thief@example.com'",
        "DELETE FROM users",
        "DELETE FROM user_entitlements",
        "DELETE FROM stripe_events",
        "TRUNCATE entitlement_state",
        "UPDATE entitlement_history SET reason = 'none'",
        "UPDATE tollgate_ledger SET epoch = gen_random_uuid()",
        "SELECT * FROM __diesel_schema_migrations",
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "DROP TABLE stripe_events",
        "ALTER TABLE stripe_events DISABLE ROW LEVEL SECURITY",
        "ALTER TYPE user_entitlement_level ADD VALUE 'GOD'",
        "CREATE ROLE thief",
        "SET ROLE postgres",
        "COPY stripe_events TO PROGRAM 'cat'",
        "COPY stripe_events TO '/tmp/stolen'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    ] {
        let refused = thief.batch_execute(sql).await.expect_err(sql);
        assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("42501"), "{sql}: {refused}");
    }
    // A table that a migration has added must be in the script, too.
    let forgotten = format!(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' \
         AND relname NOT IN ('users', '__diesel_schema_migrations') AND NOT has_table_privilege('{role}', oid, 'SELECT')"
    );
    assert_eq!(world.database.query(&forgotten).await, Vec::<Vec<Option<String>>>::new());
}

async fn redis_refuses_the_rest(url: &str) {
    let mut thief = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    for words in [
        "KEYS *",
        "SCAN 0",
        "CONFIG GET *",
        "FLUSHALL",
        "FLUSHDB",
        "ACL LIST",
        "INFO",
        "MONITOR",
        "SHUTDOWN",
        "SCRIPT FLUSH",
        "EVAL return 0",
        "CLIENT KILL TYPE normal",
        "REPLICAOF NO ONE",
        "GET sessions:1",
        "SET sessions:1 x",
        "DEL sessions:1",
        "SET webhook:other x",
        "PUBLISH news x",
        "PSUBSCRIBE *",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let (name, arguments) = words.split_first().unwrap();
        let refused = redis::cmd(name).arg(arguments).query_async::<redis::Value>(&mut thief).await.expect_err(name);
        assert_eq!(refused.code(), Some("NOPERM"), "{words:?}: {refused}");
    }
}
