//! Both databases, given the same batches: whatever happens, in whatever order, the answers are the same and so is what is kept.

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tollgate::{
    domain::{
        change::{Cause, Change, Effect, Subject},
        event::{IgnoreReason, ParkReason},
        grant::GrantStatus,
        id::{CustomerId, PaymentIntentId, SessionId, SubscriptionId, UserId},
        money::{DisputeStatus, RefundStatus},
        subscription::SubscriptionStatus,
    },
    ledger::{Entry, LedgerError, Note, Verdict},
};
use uuid::Uuid;

use super::{
    cases::{
        by_hand::{gift, taking},
        money,
        subscription::snapshot,
    },
    commit, event, purchase_of, seconds,
};
use crate::harness::ledger::{InAFile, OnPostgres, TestLedger};

/// Few users, sessions and events, so that they meet: strangers at one session, bodies under one id, retries of what never came.
struct Script {
    random: StdRng,
    users: Vec<UserId>,
    /// Events of one day are of one second.
    began: DateTime<Utc>,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let users = (0..3).map(|_| Uuid::from_u128(random.random()).into()).collect();
        Self { random, users, began: seconds(Utc::now().timestamp()) }
    }

    fn batch(&mut self) -> Vec<Entry> {
        (0..self.random.random_range(1..12)).map(|_| self.entry()).collect()
    }

    fn entry(&mut self) -> Entry {
        let random = &mut self.random;
        let id = format!("evt_{}", random.random_range(0..60));
        let session = format!("cs_{}", random.random_range(0..9));
        let user = *self.users.choose(random).unwrap();
        let kind = random.random_range(0..37);
        if kind >= 27 {
            return self.report(&id);
        }
        if kind < 3 {
            let verdict = match kind {
                0 => Verdict::Ignored(IgnoreReason::UnhandledType),
                _ => Verdict::Parked(ParkReason::UnknownLevel),
            };
            return Entry::Note(Note { event: event(&id), verdict, user: (kind == 2).then_some(user) });
        }
        if kind >= 24 {
            let (id, until) = (random.random_range(0..4), self.began + TimeDelta::days(random.random_range(1..9)));
            return if kind == 24 { taking(user, id) } else { gift(user, id, until) };
        }
        // Trials that are over, and ones that are not for days: no end comes while the test runs.
        let at = Utc::now() - TimeDelta::days(random.random_range(0..14) * 5 + 1);
        let level = if random.random() { "PRO" } else { "TRIAL" };
        let Entry::Change(mut change) = purchase_of(user, &id, &session, level, at) else { unreachable!() };
        if let Effect::Purchase(grant) = &mut change.effect
            && random.random()
        {
            grant.payment_intent = PaymentIntentId::parse(&format!("pi_{}", random.random_range(0..5))).ok();
            grant.customer = CustomerId::parse(&format!("cus_{}", random.random_range(1..8))).ok();
        }
        match (&mut change.effect, kind) {
            (Effect::Purchase(grant), 3..10) => {
                grant.status = if kind < 7 { GrantStatus::Pending } else { GrantStatus::Revoked };
            }
            (effect, 10) => *effect = Effect::SessionExpired(SessionId::parse(&session).unwrap()),
            (effect, 12..16) => {
                use SubscriptionStatus::{Active, Canceled, Incomplete, PastDue, Trialing, Unpaid};
                let mut status = || *[Active, Canceled, Incomplete, PastDue, Trialing, Unpaid].choose(random).unwrap();
                let states = (status(), (kind < 14).then(status));
                let source = format!("sub_{}", random.random_range(0..4));
                let at = self.began - TimeDelta::days(random.random_range(1..4));
                let Entry::Change(snapshot) = snapshot(user, &id, &source, states, at) else { unreachable!() };
                *effect = snapshot.effect;
                change.found_by = (kind == 15).then(|| Subject {
                    subscription: SubscriptionId::parse(&source).unwrap(),
                    customer: CustomerId::parse("cus_1").ok(),
                });
            }
            (effect, 11) => {
                *effect = Effect::Lapse { version: random.random_range(0..4) };
                change.cause = Cause::Time;
            }
            _ => {}
        }
        match change.cause {
            Cause::Delivery(record) if random.random_ratio(1, 6) => {
                Entry::Change(Change { cause: Cause::Retry(record), ..change })
            }
            cause => Entry::Change(Change { cause, ..change }),
        }
    }

    /// Few payments, invoices and subscriptions, so that purchases depend on them.
    fn report(&mut self, id: &str) -> Entry {
        use DisputeStatus::{Lost, NeedsResponse, WarningNeedsResponse, Won};
        use RefundStatus::{Canceled, Failed, Pending, Succeeded};
        let random = &mut self.random;
        let payment = format!("pi_{}", random.random_range(0..5));
        let invoice = format!("in_{}", random.random_range(0..6));
        let second = random.random_range(1..9);
        match random.random_range(0..12) {
            0..2 => money::refunded(id, &payment, [0, 500, 2900][random.random_range(0..3)], second),
            2..4 => {
                let status = *[Pending, Succeeded, Canceled, Failed].choose(random).unwrap();
                money::refund(id, &payment, "re_1", status, second)
            }
            4..6 => {
                let status = *[Lost, NeedsResponse, WarningNeedsResponse, Won].choose(random).unwrap();
                money::disputed(id, &payment, status, second)
            }
            6..8 => money::tie(id, &payment, &invoice, None),
            8..11 => {
                let subscription = format!("sub_{}", random.random_range(0..4));
                let end = random.random_bool(0.8).then(|| 1_900_000_000 + random.random_range(0..3));
                money::tie(id, &invoice, &subscription, end)
            }
            _ => money::deleted(id, &format!("cus_{}", random.random_range(4..30))),
        }
    }
}

async fn kept(on: &dyn TestLedger, users: &[UserId]) -> (Vec<String>, Vec<String>) {
    let mut states = Vec::new();
    for user in users {
        let mut grants = on.ledger().grants(*user).await.unwrap();
        grants.sort_by(|one, other| one.source.cmp(&other.source));
        let mut history = on.ledger().history(*user, None, 1000).await.unwrap();
        history.iter_mut().for_each(|entry| entry.changed_at = DateTime::UNIX_EPOCH);
        states.push(format!("{:?} {grants:?} {history:?}", on.ledger().entitlement(*user).await.unwrap()));
    }
    let inbox = "SELECT id || ' ' || outcome || ' ' || coalesce(reason, '-') || ' ' || coalesce(payload, '-') || ' ' || attempts \
                 || ' ' || coalesce(object_id, '-') || ' ' || coalesce(CAST(user_id AS text), '-') FROM stripe_events ORDER BY id";
    let objects = "SELECT id || ' ' || coalesce(parent, '-') || ' ' || facts FROM stripe_objects ORDER BY id";
    states.extend(on.column(objects).await);
    let fetches = "SELECT object_id || ' ' || reason FROM stripe_fetches ORDER BY object_id, reason";
    states.extend(on.column(fetches).await);
    (states, on.column(inbox).await)
}

#[tokio::test]
async fn the_same_batches_give_the_same_answers_and_the_same_rows_on_both() {
    for seed in 0..6 {
        let (postgres, file) = (OnPostgres::new().await, InAFile::new().await);
        let (mut one, mut other) = (postgres.ledger().lane(), file.ledger().lane());
        let mut script = Script::new(seed);
        for round in 0..25 {
            let batch = script.batch();
            let expected = commit(&mut *one, batch.clone()).await;
            let found = commit(&mut *other, batch.clone()).await;
            let is_answer = |result: &Result<_, _>| matches!(result, Ok(_) | Err(LedgerError::OwnerChanged));
            assert!(expected.iter().all(is_answer), "seed {seed}, round {round}: {expected:?}");
            assert_eq!(found, expected, "seed {seed}, round {round}: {batch:#?}");
        }
        assert_eq!(kept(&file, &script.users).await, kept(&postgres, &script.users).await, "seed {seed}");
    }
}
