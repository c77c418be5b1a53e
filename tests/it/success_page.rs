//! `GET /api/checkout/session/{id}` for the page a buyer comes back to: it does not wait for the webhook, and both together grant once.

use std::time::Instant;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    server::{Answer, TestServer, World, client, session_token},
};

/// A buyer with a session that was opened for him.
struct Buyer {
    user: Uuid,
    session: String,
}

impl Buyer {
    async fn of(server: &TestServer, level: &str) -> Self {
        let user = Uuid::new_v4();
        let session = server.checkout(user, level, None).await.json["sessionId"].as_str().unwrap().to_owned();
        Self { user, session }
    }

    async fn look(&self, server: &TestServer) -> Answer {
        let url = server.url(&format!("/api/checkout/session/{}", self.session));
        Answer::of(client().get(url).bearer_auth(session_token(self.user))).await
    }

    /// State, whether granted, and version.
    async fn stands(&self, server: &TestServer) -> Value {
        let answer = self.look(server).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        json!([answer.json["state"], answer.json["granted"], answer.json["version"]])
    }

    /// The webhook about the session.
    fn event(&self, level: &str) -> SessionEvent {
        SessionEvent { session: self.session.clone(), level: level.into(), ..SessionEvent::paid(self.user) }
    }
}

fn paid() -> Value {
    json!({ "status": "complete", "payment_status": "paid", "customer": "cus_1", "payment_intent": "pi_1" })
}

async fn grants(world: &World) -> String {
    world.database.value("SELECT count(*)::text FROM user_entitlements").await
}

#[tokio::test]
async fn what_was_paid_is_granted_before_the_webhook_came_and_once_in_all() {
    let world = World::new().await;
    let server = world.serve().await;
    let buyer = Buyer::of(&server, "TRIAL").await;
    world.stripe.change_session(&buyer.session, &paid());
    assert_eq!(buyer.stands(&server).await, json!(["complete", true, 1]));
    assert_eq!(server.read_at_least(buyer.user, 1).await.json["entitlementLevel"], "TRIAL");
    assert_eq!(world.database.value("SELECT count(*)::text FROM stripe_events").await, "0", "it is no event");
    let before = server.read(buyer.user).await.json["expiresAt"].clone();

    // The event is older than the answer was: its time holds, and nothing is granted twice.
    let event = SessionEvent { created: buyer.event("TRIAL").created - 60, ..buyer.event("TRIAL") };
    assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
    let after = server.read_at_least(buyer.user, 2).await;
    assert_eq!(after.json["entitlementLevel"], "TRIAL");
    assert!(after.json["expiresAt"].as_str() < before.as_str(), "{before} {}", after.text);
    assert_eq!(server.deliver(&event.json()).await.json["idempotent"], true);
    assert_eq!(grants(&world).await, "1");
    assert_eq!(world.stripe.fetches(), 1);
    assert_eq!(world.stripe.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_subscription_has_one_grant_whichever_told_of_it_first() {
    let world = World::new().await;
    let server = world.serve().await;
    let buyer = Buyer::of(&server, "PRO").await;
    let event = SessionEvent { mode: "subscription", subscription: Some("sub_1".into()), ..buyer.event("PRO") };
    let session = json!({ "status": "complete", "payment_status": "paid", "subscription": "sub_1" });
    world.stripe.change_session(&buyer.session, &session);
    assert_eq!(buyer.stands(&server).await[0], "complete");
    assert_eq!(server.deliver(&event.json()).await.status, 200);
    assert_eq!(server.read(buyer.user).await.json["entitlementLevel"], "PRO");
    assert_eq!(grants(&world).await, "1");
}

#[tokio::test]
async fn stripe_is_not_asked_about_what_is_known() {
    let world = World::new().await;
    let server = world.serve().await;
    let buyer = Buyer::of(&server, "TRIAL").await;
    server.deliver(&buyer.event("TRIAL").json()).await;
    assert_eq!(buyer.stands(&server).await, json!(["complete", true, 1]));
    let expired = Buyer::of(&server, "TRIAL").await;
    let event = SessionEvent { kind: "checkout.session.expired", ..expired.event("TRIAL") };
    server.deliver(&event.json()).await;
    assert_eq!(expired.stands(&server).await[0], "expired");
    let others = Buyer { user: Uuid::new_v4(), session: buyer.session.clone() };
    others.look(&server).await.assert_error(404, "NOT_FOUND");
    let foreign = Buyer { user: buyer.user, session: "cs_test_of_another_program".into() };
    foreign.look(&server).await.assert_error(404, "NOT_FOUND");
    assert_eq!(world.stripe.fetches(), 0);
}

#[tokio::test]
async fn many_looks_are_one_question_in_two_seconds() {
    let world = World::new().await;
    let server = world.serve().await;
    let buyer = Buyer::of(&server, "TRIAL").await;
    let begun = Instant::now();
    for _ in 0..3 {
        let looks = futures::future::join_all((0..5).map(|_| buyer.stands(&server))).await;
        for look in looks {
            // Who comes while another asks is not told that it is open: nobody knows yet.
            assert!(look[0] == "open" || look[0] == "pending", "{look}");
        }
    }
    let turns = 1 + begun.elapsed().as_secs() / 2;
    let fetches = world.stripe.fetches();
    assert!(fetches >= 1 && fetches as u64 <= turns, "{fetches} fetches");
}

#[tokio::test]
async fn how_unpaid_sessions_stand_by_stripes_word() {
    let world = World::new().await;
    let server = world.serve().await;
    for (changes, state, granted) in [
        (json!({}), "open", "0"),
        (json!({ "status": "complete", "payment_status": "unpaid", "payment_intent": "pi_1" }), "pending", "1"),
        (json!({ "status": "expired" }), "expired", "1"),
    ] {
        let buyer = Buyer::of(&server, "TRIAL").await;
        world.stripe.change_session(&buyer.session, &changes);
        assert_eq!(buyer.stands(&server).await[0], state);
        assert_eq!(buyer.stands(&server).await[1], false, "{state}");
        assert_eq!(server.read(buyer.user).await.json["entitlementLevel"], "FREE", "{state}");
        assert_eq!(grants(&world).await, granted, "{state}");
    }
}

#[tokio::test]
async fn without_stripe_the_page_says_what_is_known() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_STRIPE_ATTEMPTS", "1")]).await;
    for status in [500, 429, 401] {
        let buyer = Buyer::of(&server, "TRIAL").await;
        world.stripe.change_session(&buyer.session, &paid());
        world.stripe.fail_next(status, "{}", 1);
        assert_eq!(buyer.stands(&server).await, json!(["pending", false, 0]), "{status}");
        server.deliver(&buyer.event("TRIAL").json()).await;
        assert_eq!(buyer.stands(&server).await, json!(["complete", true, 1]), "{status}");
    }
    let buyer = Buyer::of(&server, "TRIAL").await;
    world.stripe.hang_next(1);
    assert_eq!(buyer.stands(&server).await[0], "pending", "nobody waits for a Stripe that says nothing");
}

/// Stripe's answer is believed no further than an event would be.
#[tokio::test]
async fn answers_that_are_wrong_grant_nothing() {
    let world = World::new().await;
    let server = world.serve().await;
    for (what, changes) in [
        ("the other mode", json!({ "livemode": true })),
        ("another session", json!({ "id": "cs_test_other" })),
        ("another user's", {
            let other = Uuid::new_v4().to_string();
            json!({ "client_reference_id": other, "metadata": { "userId": other, "entitlementLevel": "TRIAL" } })
        }),
        ("a level that is not sold", {
            json!({ "metadata": { "userId": Uuid::new_v4().to_string(), "entitlementLevel": "GOLD" } })
        }),
        ("a status of the future", json!({ "status": "halted" })),
        ("no object", json!({ "payment_intent": 7 })),
    ] {
        let buyer = Buyer::of(&server, "TRIAL").await;
        world.stripe.change_session(&buyer.session, &paid());
        world.stripe.change_session(&buyer.session, &changes);
        assert_eq!(buyer.stands(&server).await, json!(["pending", false, 0]), "{what}");
        assert_eq!(grants(&world).await, "0", "{what}");
    }
}

/// Every replica may be asked, and the webhook may come at the same moment to any of them.
#[tokio::test]
async fn pages_and_webhooks_at_once_on_two_replicas_grant_once() {
    let world = World::new().await;
    let (one, other) = tokio::join!(world.serve(), world.serve());
    for _ in 0..5 {
        let buyer = Buyer::of(&one, "TRIAL").await;
        world.stripe.change_session(&buyer.session, &paid());
        let event = buyer.event("TRIAL");
        let (copy, event) = (event.sibling().json(), event.json());
        tokio::join!(
            buyer.stands(&one),
            buyer.stands(&other),
            one.deliver(&event),
            other.deliver(&event),
            other.deliver(&copy)
        );
        assert_eq!(buyer.stands(&one).await[1], true);
        let sql = format!("SELECT count(*)::text FROM user_entitlements WHERE user_id = '{}'", buyer.user);
        assert_eq!(world.database.value(&sql).await, "1");
    }
}
