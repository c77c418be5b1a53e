//! Users who are deleted by whoever owns them, while they buy.

use super::{commit_one, purchase, user};
use crate::harness::ledger::TestLedger;

/// Whoever deleted a user met a deadlock with what was being written for that user: one of them waited a second, and had to begin anew.
pub(in super::super) async fn a_user_deleted_while_he_buys_is_gone_or_begins_anew(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (mut lane, mut new) = (ledger.lane(), 0);
    for round in 0..200 {
        let user = user();
        commit_one(&mut *lane, purchase(user, &format!("evt_a{round}"), &format!("cs_a{round}"))).await;
        // One is a head start for the other, of some length.
        let after = async |moments: u32| {
            for _ in 0..moments {
                tokio::task::yield_now().await;
            }
        };
        let buying = async {
            after(if round % 2 == 0 { 0 } else { round * 5 }).await;
            commit_one(&mut *lane, purchase(user, &format!("evt_b{round}"), &format!("cs_b{round}"))).await
        };
        let deleting = async {
            after(round % 10).await;
            on.delete_user(user).await;
        };
        let (bought, ()) = tokio::join!(buying, deleting);
        let version = bought.entitlement.unwrap().version;
        let left = ledger.entitlement(user).await.unwrap();
        match version {
            1 => assert_eq!((left.level.as_str(), left.version), ("PRO", 1), "the purchase begins a new user"),
            _ => assert_eq!((left.level.as_str(), left.version), ("FREE", 0), "all of the user is gone"),
        }
        new += u64::from(version == 1);
    }
    for table in ["users", "user_entitlements", "entitlement_state", "entitlement_history"] {
        assert_eq!(on.value(&format!("SELECT count(*) FROM {table}")).await, new.to_string(), "{table}");
    }
}
