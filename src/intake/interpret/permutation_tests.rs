//! All orders of what can happen, with each event delivered once or twice, from signed bytes to what a user may do: one end for all orders of a
//! script, and the one that a model gives which is written from the contract, knows the history and shares no code with the service.
//!
//! A further kind of event needs an entry in `scripts_tests.rs`, what it comes to in `model_tests.rs`, and nothing here.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod model_tests;
mod money_tests;
mod scripts_tests;

use std::collections::BTreeMap;

use self::scripts_tests::{NEVER_SEEN, ROBIN, SASHA, Script, scripts};
use super::{
    Interpreter, Meaning,
    subscription::tests::by_id,
    tests::{at, signed},
};
use crate::domain::{
    change::{Account, Decision, Effect, Owner, Subject},
    entitlement::fold,
    grant::{Grant, SourceKind},
    id::UserId,
    money::{Objects, Report},
    plan::Catalogue,
};

/// What the ledger keeps, as far as order can matter: accounts, and the events that wait for an owner.
struct Book<'a> {
    catalogue: &'a Catalogue,
    now: i64,
    accounts: BTreeMap<UserId, Account>,
    money: Objects,
    waiting: Vec<&'a Meaning>,
}

impl<'a> Book<'a> {
    fn deliver(&mut self, meaning: &'a Meaning) {
        if !self.apply(meaning) {
            self.waiting.push(meaning);
            return;
        }
        // What waits is tried again whenever anything has changed.
        while let Some(place) = (0..self.waiting.len()).find(|place| self.apply(self.waiting[*place])) {
            self.waiting.remove(place);
        }
    }

    /// Whether it has had its effect, or another one had it before.
    fn apply(&mut self, meaning: &Meaning) -> bool {
        let (user, effect) = match meaning {
            Meaning::Change(change) => (change.user, &change.effect),
            Meaning::Unowned(unowned) => match self.owner(&unowned.subject) {
                Owner::User(user) | Owner::Likely(user) => (user, &unowned.effect),
                Owner::Nobody | Owner::Several => return false,
            },
            Meaning::Report(report) => {
                self.learn(report);
                return true;
            }
            Meaning::Note(note) => panic!("a script of what is understood: {note:?}"),
        };
        if self.is_foreign(user, effect) {
            return false;
        }
        let account = self.accounts.entry(user).or_default();
        let before = account.clone();
        let decision = account.apply(effect, &self.money, self.catalogue, at(self.now));
        assert_eq!(decision == Decision::Superseded, *account == before);
        true
    }

    fn learn(&mut self, report: &Report) {
        for fact in &report.facts {
            self.money.learn(fact);
        }
        for account in self.accounts.values_mut() {
            account.weigh(&self.money, self.catalogue, at(self.now));
        }
    }

    fn grants(&self) -> impl Iterator<Item = (UserId, &Grant)> {
        self.accounts.iter().flat_map(|(user, account)| account.grants.iter().map(|grant| (*user, grant)))
    }

    fn owner(&self, subject: &Subject) -> Owner {
        let of_subscription = |grant: &Grant| {
            grant.source.kind == SourceKind::Subscription && &*grant.source.id == subject.subscription.as_str()
        };
        Owner::of(self.grants().filter_map(|(user, grant)| {
            let is_certain = of_subscription(grant);
            (is_certain || subject.customer.is_some() && grant.customer == subject.customer)
                .then_some((is_certain, user))
        }))
    }

    fn is_foreign(&self, user: UserId, effect: &Effect) -> bool {
        let Effect::Purchase(report) = effect else { return false };
        self.grants().any(|(owner, grant)| owner != user && grant.source == report.source)
    }

    /// What must not depend on the order: everything but the versions, which count what was applied.
    fn end(self) -> (BTreeMap<UserId, Vec<Grant>>, usize) {
        let grants = |mut account: Account| {
            let (level, expires_at, _) = fold(&account.grants, self.catalogue, at(self.now));
            assert_eq!((account.entitlement.level, account.entitlement.expires_at), (level, expires_at));
            account.grants.sort_by(|one, other| one.source.cmp(&other.source));
            account.grants
        };
        (self.accounts.into_iter().map(|(user, account)| (user, grants(account))).collect(), self.waiting.len())
    }
}

/// The next arrangement in the order of dictionaries; equal numbers are not told apart.
fn advance(order: &mut [usize]) -> bool {
    let Some(place) = (1..order.len()).rev().find(|place| order[place - 1] < order[*place]) else { return false };
    let swap = (place..order.len()).rev().find(|other| order[place - 1] < order[*other]).unwrap();
    order.swap(place - 1, swap);
    order[place..].reverse();
    true
}

/// Delivers a script in all orders, once each and with each event once more. Gives how many orders that were.
fn run(script: &Script) -> usize {
    let catalogue = by_id();
    let interpreter = Interpreter::new(catalogue.clone(), Some(false));
    let bytes: Vec<Vec<u8>> = script.events.iter().map(|event| serde_json::to_vec(event).unwrap()).collect();
    let read = || -> Vec<Meaning> { bytes.iter().map(|bytes| interpreter.read(&signed(bytes)).unwrap()).collect() };
    let meanings = read();
    assert_eq!(meanings, read(), "{}: read again, it means the same", script.name);

    let count = meanings.len();
    let now = script.moments[0];
    let (mut orders, mut end) = (0, None);
    for twice in std::iter::once(None).chain((0..count).map(Some)) {
        let mut order: Vec<usize> = (0..count).chain(twice).collect();
        order.sort_unstable();
        loop {
            let mut book = Book {
                catalogue: &catalogue,
                now,
                accounts: BTreeMap::new(),
                money: Objects::default(),
                waiting: Vec::new(),
            };
            order.iter().for_each(|place| book.deliver(&meanings[*place]));
            let found = book.end();
            let expected = end.get_or_insert_with(|| found.clone());
            assert_eq!(found, *expected, "{}: in the order {order:?}", script.name);
            orders += 1;
            if !advance(&mut order) {
                break;
            }
        }
    }
    let (grants, waiting) = end.unwrap();
    assert_eq!(waiting, 0, "{}: everything finds its owner", script.name);
    for now in script.moments {
        for user in script.users {
            let of_user = grants.get(&UserId::parse(user).unwrap()).map_or(&[][..], Vec::as_slice);
            let (level, expires_at, _) = fold(of_user, &catalogue, at(*now));
            let found = (level.to_string(), expires_at.map(|end| end.timestamp()));
            assert_eq!(found, model_tests::state(&script.events, user, *now), "{}: {user} at {now}", script.name);
        }
    }
    orders
}

#[test]
fn every_order_of_every_script_ends_as_the_model_says() {
    let scripts = scripts();
    let factorial = |count: usize| (1..=count).product::<usize>();
    let mut orders = 0;
    for script in &scripts {
        let count = script.events.len();
        assert!((1..=6).contains(&count), "{}: {count} events", script.name);
        let ran = run(script);
        // Each event once; and with one of them twice, where the two cannot be told apart.
        assert_eq!(ran, factorial(count) + count * factorial(count + 1) / 2, "{}", script.name);
        orders += ran;
    }
    println!("permutations: {} scripts, {orders} orders", scripts.len());
}

/// Without this, scripts that give nobody anything would hold as well.
#[test]
fn every_level_is_given_and_taken_away() {
    let scripts = scripts();
    let states = |user: &str| -> Vec<String> {
        let of_script = |script: &Script| {
            script.moments.iter().map(|now| model_tests::state(&script.events, user, *now).0).collect::<Vec<_>>()
        };
        scripts.iter().flat_map(of_script).collect()
    };
    for (user, levels) in [(ROBIN, &["FREE", "TRIAL", "PRO", "TEAM"][..]), (SASHA, &["FREE", "PRO"])] {
        let states = states(user);
        assert!(levels.iter().all(|level| states.iter().any(|state| state == level)), "{user}");
    }
    assert!(states(NEVER_SEEN).iter().all(|level| level == "FREE"));
}
