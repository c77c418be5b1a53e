//! The process dies, panics or fails at each named point of a webhook's way; the redelivery has its effect once.

use tollgate::fail_point::Point;
use uuid::Uuid;

use super::{assert_reads, until_shown, until_taken};
use crate::harness::{
    event::SessionEvent,
    server::{Answer, TestServer, World, client},
};

/// Arms fail points of a running server.
pub(super) async fn arm(server: &TestServer, text: &str) {
    let answer = Answer::of(client().post(server.admin_url("/api/admin/fail-points")).body(text.to_owned())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a_process_that_dies_at_any_point_loses_nothing_and_does_nothing_twice() {
    let world = World::new().await;
    for point in Point::ALL {
        let server = world.serve().await;
        let event = SessionEvent::paid(Uuid::new_v4());
        arm(&server, &format!("{point}=abort")).await;
        let body = serde_json::to_vec(&event.json()).unwrap();
        let request = client().post(server.url("/api/webhooks/stripe"));
        let request = request.header("Stripe-Signature", server.sign(&body)).body(body);
        assert!(Answer::try_of(request).await.is_err(), "it died at {point} before it had answered");
        server.ended().await;
        let next = world.serve().await;
        until_taken(&next, &event).await;
        assert_reads(&next.read(event.user).await, "PRO", 1);
        until_shown(&world.redis, event.user, 1).await;
        let grants = format!("SELECT count(*) FROM user_entitlements WHERE user_id = '{}'", event.user);
        assert_eq!(world.database.value(&grants).await, "1", "after a death at {point}");
    }
}
