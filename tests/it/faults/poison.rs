//! Events that panic or end the process whenever they are tried: three times at most, then they are parked, and the others go on.

use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use futures::future::join;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{PATIENCE, assert_reads, deliver, metric, points::arm, until_taken};
use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{Answer, TestServer, World, client, session_token, unix_now},
    shop::Shop,
};

/// Where a server keeps its ledger.
enum Home {
    Postgres(World),
    File(Shop),
}

impl Home {
    /// Starts a server with fail points armed.
    async fn serve(&self, points: &str) -> TestServer {
        let settings = [("FAIL_POINTS", points)];
        match self {
            Self::Postgres(world) => world.serve_with(&settings).await,
            Self::File(shop) => shop.serve_with(&settings).await.unwrap(),
        }
    }

    async fn execute(&self, sql: &str) {
        match self {
            Self::Postgres(world) => world.database.execute(sql).await,
            Self::File(shop) => {
                let file = shop.data().join("ledger.sqlite3");
                SqliteConnection::establish(file.to_str().unwrap()).unwrap().batch_execute(sql).unwrap();
            }
        }
    }
}

/// An event that was made after every process here began, so that none is known to have died of it.
fn fresh() -> SessionEvent {
    SessionEvent { created: unix_now() + 60, ..SessionEvent::paid(Uuid::new_v4()) }
}

fn assert_poison(answer: &Answer) {
    assert_eq!((answer.status, &answer.json["parked"]), (200, &json!(true)), "{}", answer.text);
    assert!(answer.json["message"].as_str().unwrap().contains("fault of ours"), "{}", answer.text);
}

/// Has an event tried again: what came of it, and why it is parked.
async fn replay(server: &TestServer, event: &SessionEvent) -> (Value, Value) {
    let url = server.admin_url(&format!("/api/admin/events/{}/replay", event.id));
    let answer = Answer::of(client().post(url)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    (answer.json["outcome"].clone(), answer.json["reason"].clone())
}

/// A delivery that may never be answered.
fn delivery(server: &TestServer, event: &SessionEvent) -> reqwest::RequestBuilder {
    let body = serde_json::to_vec(&event.json()).unwrap();
    let request = client().post(server.url("/api/webhooks/stripe"));
    request.header("Stripe-Signature", server.sign(&body)).body(body)
}

/// How often each point was passed.
async fn hits(server: &TestServer) -> Value {
    Answer::of(client().get(server.admin_url("/api/admin/fail-points"))).await.json
}

/// Why an event is parked.
async fn reason(server: &TestServer, event: &SessionEvent) -> Value {
    let url = server.admin_url(&format!("/api/admin/events/{}", event.id));
    Answer::of(client().get(url)).await.json["reason"].clone()
}

#[tokio::test]
async fn what_panics_is_tried_three_times_and_parked_on_postgres() {
    what_panics_is_tried_three_times_and_parked(&Home::Postgres(World::new().await)).await;
}

#[tokio::test]
async fn what_panics_is_tried_three_times_and_parked_in_a_file() {
    what_panics_is_tried_three_times_and_parked(&Home::File(Shop::new())).await;
}

async fn what_panics_is_tried_three_times_and_parked(home: &Home) {
    let commit = match home {
        Home::Postgres(_) => "ledger.commit",
        Home::File(_) => "file.commit",
    };
    let points = ["intake.meaning", "actor.apply", "ledger.decide", commit];
    let server = home.serve("").await;
    let poison = points.map(|point| (point, fresh()));
    let armed: Vec<String> = poison.iter().map(|(point, event)| format!("{point}=panic*3@{}", event.id)).collect();
    arm(&server, &armed.join(";")).await;
    for (point, event) in &poison {
        for expected in [500, 500, 200] {
            // A batch that is halved passes the last point more than once.
            let (body, other) = (event.json(), fresh());
            let answer = server.deliver(&body);
            let answer = if *point == commit {
                let answer = answer.await;
                deliver(&server, &other).await;
                answer
            } else {
                join(answer, deliver(&server, &other)).await.0
            };
            assert_eq!(answer.status, expected, "at {point}: {}", answer.text);
            if expected == 200 {
                assert_poison(&answer);
            }
        }
        assert_eq!(until_taken(&server, event).await.json["idempotent"], true, "{point}");
        assert_eq!(hits(&server).await[point], 3);
    }
    assert!(metric(&server, "tollgate_event_panics_total").await >= 12.0);
    assert!(metric(&server, "tollgate_events_poisoned_total").await >= 4.0);

    let (_, first) = &poison[0];
    arm(&server, &format!("intake.meaning=panic@{}", first.id)).await;
    assert_eq!(replay(&server, first).await, (json!("parked"), json!("poison")));
    arm(&server, "").await;
    for (_, event) in &poison {
        assert_reads(&server.read(event.user).await, "FREE", 0);
        assert_eq!(replay(&server, event).await, (json!("applied"), Value::Null));
        assert_reads(&server.read_at_least(event.user, 1).await, "PRO", 1);
    }
}

#[tokio::test]
async fn what_ends_the_process_is_tried_three_times_and_parked_on_postgres() {
    let world = World::new().await;
    what_ends_the_process_is_tried_three_times_and_parked(&Home::Postgres(world), "intake.meaning").await;
}

#[tokio::test]
async fn what_ends_the_process_is_tried_three_times_and_parked_in_a_file() {
    what_ends_the_process_is_tried_three_times_and_parked(&Home::File(Shop::new()), "ledger.decide").await;
}

async fn what_ends_the_process_is_tried_three_times_and_parked(home: &Home, point: &str) {
    let (poison, innocent) = (SessionEvent::paid(Uuid::new_v4()), SessionEvent::paid(Uuid::new_v4()));
    let armed = format!("actor.apply=hold*1@{};{point}=abort@{}", innocent.id, poison.id);
    let mut deaths = 0;
    let server = loop {
        let server = home.serve(&armed).await;
        if deaths == 0 {
            eventually(PATIENCE, "nobody died before", || async { server.log().contains("no process has died") }).await;
        }
        let under_way = async {
            if deaths == 1 {
                assert!(Answer::try_of(delivery(&server, &innocent)).await.is_err(), "it was under way");
            }
        };
        let killed = async {
            if deaths == 1 {
                eventually(PATIENCE, "another is under way", || async { hits(&server).await["actor.apply"] == 1 })
                    .await;
            } else if deaths > 1 {
                arm(&server, &format!("{point}=abort@{}", poison.id)).await;
                until_taken(&server, &innocent).await;
            }
            Answer::try_of(delivery(&server, &poison)).await
        };
        if let Ok(answer) = join(killed, under_way).await.0 {
            // The last try might still be under way in another process.
            answer.assert_error(503, "UNAVAILABLE");
            break server;
        }
        server.ended().await;
        deaths += 1;
    };
    assert_eq!(deaths, 3);
    assert_reads(&server.read(innocent.user).await, "PRO", 1);
    if let Home::Postgres(world) = home {
        let counted = world.database.value("SELECT string_agg(event_id, ' ') FROM stripe_tries").await;
        assert_eq!(counted, poison.id, "nothing is held against who was only there");
    }
    home.execute("UPDATE stripe_tries SET begun_at = NULL").await;
    assert_poison(&server.deliver(&poison.json()).await);
    deliver(&server, &SessionEvent::paid(Uuid::new_v4())).await;
    drop(server);

    let server = home.serve("").await;
    assert_eq!(replay(&server, &poison).await, (json!("applied"), Value::Null));
    assert_reads(&server.read_at_least(poison.user, 1).await, "PRO", 1);
}

#[tokio::test]
async fn replicas_count_the_tries_of_an_event_together() {
    let world = World::new().await;
    let (one, two) = (world.serve().await, world.serve().await);
    let event = fresh();
    for server in [&one, &two] {
        arm(server, &format!("actor.apply=panic@{}", event.id)).await;
        server.deliver(&event.json()).await.assert_error(500, "INTERNAL");
    }
    assert_poison(&one.deliver(&event.json()).await);
    assert_eq!(until_taken(&two, &event).await.json["idempotent"], true);
    assert_eq!(world.database.value("SELECT reason FROM stripe_events").await, "poison");
    arm(&two, "").await;
    assert_eq!(replay(&two, &event).await, (json!("applied"), Value::Null));
    assert_eq!(world.database.value("SELECT count(*) FROM stripe_tries").await, "0");
}

/// A parked event that can be tried again only by the sweep, which does so now.
async fn park(server: &TestServer) -> SessionEvent {
    let event = SessionEvent { level: "GOLD".into(), ..SessionEvent::paid(Uuid::new_v4()) };
    assert_eq!(server.deliver(&event.json()).await.json["parked"], true);
    event
}

const ALL_ARE_DUE: &str = "UPDATE stripe_events SET processed_at = to_timestamp(0) WHERE outcome = 'parked'";

#[tokio::test]
async fn a_parked_event_that_panics_is_left_to_people_and_the_sweep_goes_on() {
    let home = Home::Postgres(World::new().await);
    let server = home.serve("").await;
    let (poison, other) = (park(&server).await, park(&server).await);
    arm(&server, &format!("intake.meaning=panic@{}", poison.id)).await;
    eventually(PATIENCE, "the sweep leaves it", || async {
        home.execute(ALL_ARE_DUE).await;
        reason(&server, &poison).await == "poison"
    })
    .await;
    assert_eq!(reason(&server, &other).await, "unknown_level");
    arm(&server, "").await;
    assert_eq!(replay(&server, &poison).await, (json!("parked"), json!("unknown_level")));
    assert_eq!(reason(&server, &poison).await, "unknown_level", "the sweep looks after it again");
    assert_eq!(metric(&server, "tollgate_upkeep_panics_total").await.to_bits(), 0);
}

#[tokio::test]
async fn a_parked_event_that_ends_the_process_is_left_to_people() {
    let home = Home::Postgres(World::new().await);
    let server = home.serve("").await;
    let poison = park(&server).await;
    drop(server);
    let armed = format!("intake.meaning=abort@{}", poison.id);
    for _ in 0..2 {
        home.execute(ALL_ARE_DUE).await;
        home.serve(&armed).await.ended().await;
    }
    let server = home.serve(&armed).await;
    home.execute("UPDATE stripe_tries SET begun_at = NULL").await;
    eventually(PATIENCE, "the sweep leaves it", || async {
        home.execute(ALL_ARE_DUE).await;
        reason(&server, &poison).await == "poison"
    })
    .await;
    deliver(&server, &SessionEvent::paid(Uuid::new_v4())).await;
}

#[tokio::test]
async fn a_page_is_answered_although_what_stripe_says_panics() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let session = server.checkout(user, "TRIAL", None).await.json["sessionId"].as_str().unwrap().to_owned();
    world.stripe.change_session(&session, &json!({ "status": "complete", "payment_status": "paid" }));
    arm(&server, &format!("intake.meaning=panic@{session}")).await;
    let url = server.url(&format!("/api/checkout/session/{session}"));
    let answer = Answer::of(client().get(url).bearer_auth(session_token(user))).await;
    assert_eq!((answer.status, &answer.json["state"]), (200, &json!("pending")), "{}", answer.text);
}
