//! The whole shop as a newcomer finds it: the real program without settings, its demo page and its sandbox, in a real browser.

use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::harness::{
    PATIENCE,
    browser::{Browser, Screen},
    ports::free_port,
    server::TestServer,
    shop::Shop,
    until_ok,
};

const GOOD_CARD: &str = "4242 4242 4242 4242";

/// What the strip shows of one purchase with a card, among what comes of the subscription.
const PURCHASE: [&str; 5] = [
    "Session created: the pay page is open",
    "Paid on the pay page",
    "Applied: ",
    "Cache written: readers see PRO, version ",
    "Stripe delivered checkout.session.completed → 200",
];

/// A shop, and somebody at its page.
struct Visit {
    shop: Shop,
    server: TestServer,
    browser: Browser,
}

impl Visit {
    /// Opens a shop of its own, and its page.
    async fn start() -> Self {
        let shop = Shop::new();
        let opened = until_ok(PATIENCE, "the shop opens on ports that it can come back on", || async {
            let [public, sandbox] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
            shop.serve_with(&[("TOLLGATE_BIND", &public), ("TOLLGATE_SANDBOX_BIND", &sandbox)]).await
        });
        let (server, browser) = tokio::join!(opened, Browser::start());
        let visit = Self { shop, server, browser };
        visit.go_home().await;
        visit
    }

    async fn go_home(&self) {
        self.browser.goto(&self.server.url("/")).await;
    }

    /// Starts a killed server again where it was.
    async fn restart(&mut self) {
        let public = self.server.public.to_string();
        let sandbox = self.server.sandbox.expect("a shop has a sandbox").to_string();
        self.server.ended().await;
        let settings = [("TOLLGATE_BIND", public.as_str()), ("TOLLGATE_SANDBOX_BIND", &sandbox)];
        self.server = self.shop.serve_with(&settings).await.unwrap_or_else(|log| panic!("no restart:\n{log}"));
    }

    /// Waits until the page shows this level as the user's own.
    async fn is(&self, level: &str) {
        self.browser.holds(&format!("document.getElementById('level')?.innerText === '{level}'")).await;
    }

    /// Orders Pro; ends on the pay page.
    async fn order(&self) {
        self.browser.click("Buy Pro").await;
        self.browser.reads("no real money").await;
    }

    async fn pay_with(&self, card: &str) {
        self.browser.fill("Card number", card).await;
        self.browser.fill("Expiry", "12 / 34").await;
        self.browser.fill("Security code", "123").await;
        self.browser.click("Pay $29.00").await;
    }

    /// What the strip shows, oldest first.
    async fn steps(&self) -> Vec<String> {
        let rows = "[...document.querySelectorAll('[data-steps] > li')].filter((row) => row.checkVisibility())";
        let steps = format!("{rows}.map((row) => row.querySelector('.words > p').innerText).reverse()");
        serde_json::from_value(self.browser.evaluate(&steps).await).expect("a list of texts")
    }

    /// Waits until the strip shows so many of a step.
    async fn shows(&self, count: usize, step: &str) {
        until_ok(PATIENCE, &format!("the strip shows {step:?} {count} times"), || async {
            let steps = self.steps().await;
            let found = steps.iter().filter(|shown| shown.contains(step)).count();
            if found == count { Ok(()) } else { Err(format!("{steps:#?}")) }
        })
        .await;
    }

    /// Waits until the strip shows a step at least once.
    async fn shows_some(&self, step: &str) {
        until_ok(PATIENCE, &format!("the strip shows {step:?}"), || async {
            let steps = self.steps().await;
            if steps.iter().any(|shown| shown.contains(step)) { Ok(()) } else { Err(format!("{steps:#?}")) }
        })
        .await;
    }

    /// Asserts that the browser has complained about nothing, and that this page is made of what the shop serves.
    async fn assert_sound(&self) {
        self.browser.assert_no_complaints().await;
        let asked = self.browser.evaluate("performance.getEntries().map(({ name }) => name)").await;
        let asked = asked.as_array().expect("a list").iter().filter_map(Value::as_str);
        let own =
            [Some(self.server.public), self.server.sandbox].map(|own| format!("http://{}/", own.expect("a shop")));
        let others: Vec<_> =
            asked.filter(|url| url.contains("://") && !own.iter().any(|own| url.starts_with(own))).collect();
        assert_eq!(others, [""; 0]);
    }
}

#[tokio::test]
async fn pro_is_bought_delivered_again_and_kept_when_the_server_is_killed() {
    let mut visit = Visit::start().await;
    visit.is("FREE").await;
    visit.browser.holds("document.querySelector('[data-live]').innerText === 'live'").await;
    visit.assert_sound().await;
    visit.order().await;
    visit.assert_sound().await;
    visit.pay_with(GOOD_CARD).await;

    visit.browser.reads("You are PRO").await;
    visit.shows(1, "Stripe delivered checkout.session.completed → 200").await;
    for step in PURCHASE {
        visit.shows_some(step).await;
    }
    assert_eq!(
        visit.browser.evaluate("performance.getEntriesByType('navigation').map(({ type }) => type)").await,
        json!(["navigate"]),
        "the page shows it by itself"
    );
    visit.assert_sound().await;

    visit.browser.click("Back to the shop").await;
    visit.is("PRO").await;
    visit.browser.click("Deliver it again").await;
    visit.browser.reads(r#"200 {"ok":true,"idempotent":true}"#).await;
    visit.shows(1, "Duplicate skipped").await;
    visit.shows(1, "→ 200, idempotent: true").await;
    visit.assert_sound().await;

    visit.server.signal("KILL").await;
    visit.browser.reads("connecting").await;
    visit.restart().await;
    visit.browser.holds("document.querySelector('[data-live]').innerText === 'live'").await;
    visit.browser.holds("document.getElementById('problem').hidden").await;
    visit.is("PRO").await;
    // That the server was gone for a moment is complained about, rightly.
    visit.browser.complaints().await;
    visit.go_home().await;
    visit.is("PRO").await;
    // The page may have asked Stripe before the webhook came: then the event has moved the time, and granted nothing more.
    visit.browser.holds("Number(document.getElementById('version').innerText) >= 1").await;
    visit.assert_sound().await;
}

#[tokio::test]
async fn a_declined_card_and_a_change_of_mind_buy_nothing_and_hinder_nothing() {
    let visit = Visit::start().await;
    visit.order().await;
    visit.pay_with("4000 0000 0000 0002").await;
    visit.browser.reads("Your card was declined. Try another card.").await;
    // Its answer is a 402, which a browser writes down.
    let complaints = visit.browser.complaints().await;
    assert!(complaints.iter().all(|complaint| complaint.contains("402")), "{complaints:#?}");

    visit.browser.click("Back").await;
    visit.browser.reads("Nothing was bought").await;
    visit.assert_sound().await;
    visit.browser.click("Back to the shop").await;
    visit.is("FREE").await;
    visit.shows(1, "The payment was declined").await;
    assert_eq!(visit.steps().await.len(), 2, "a session was created, and that is all");

    visit.order().await;
    visit.pay_with("4000 0000 0000 0002").await;
    visit.browser.reads("Your card was declined. Try another card.").await;
    visit.browser.complaints().await;
    visit.pay_with(GOOD_CARD).await;
    visit.browser.reads("You are PRO").await;
    visit.browser.client().back().await.expect("a page before");
    visit.browser.reads("This is already paid").await;
    visit.browser.click("Go to the shop").await;
    visit.browser.reads("You are PRO").await;
    visit.assert_sound().await;
}

#[tokio::test]
async fn a_late_payment_is_waited_for_and_its_failure_has_a_way_out() {
    let visit = Visit::start().await;
    for (arrives, settled) in [(false, "The payment failed"), (true, "This is already paid")] {
        visit.order().await;
        visit.browser.click("Bank transfer").await;
        visit.browser.click("Pay $29.00").await;
        visit.browser.reads("The bank transfer is on its way").await;
        visit.shows(1, "Ordered: the bank transfer is on its way").await;
        visit.assert_sound().await;
        let success = visit.browser.client().current_url().await.expect("an address").to_string();

        visit.browser.click("Back to the shop").await;
        visit.is("FREE").await;
        visit.browser.goto(&success).await;
        visit.browser.click("Decide whether it arrives").await;
        // The page that waits is open in another tab, and is told by nobody but the stream.
        let paying = visit.browser.client().window().await.expect("a tab");
        let waiting = visit.browser.client().new_window(true).await.expect("a tab").handle;
        visit.browser.client().switch_to_window(waiting).await.expect("it was opened");
        visit.browser.goto(&success).await;
        visit.browser.reads("The bank transfer is on its way").await;
        visit.browser.client().switch_to_window(paying.clone()).await.expect("it is open");
        visit.browser.click(if arrives { "Let the payment arrive" } else { "Let it fail" }).await;
        visit.browser.reads(settled).await;
        visit.assert_sound().await;
        visit.browser.client().close_window().await.expect("another one is open");
        let [left] = &visit.browser.client().windows().await.expect("tabs")[..] else { panic!("one tab is left") };
        visit.browser.client().switch_to_window(left.clone()).await.expect("it is open");
        if !arrives {
            visit.browser.reads("This session has ended").await;
            visit.browser.click("Back to the shop").await;
            visit.is("FREE").await;
            visit.browser.click("New user").await;
        }
    }
    visit.browser.reads("You are PRO").await;
    visit.assert_sound().await;
    visit.browser.click("Back to the shop").await;
    visit.is("PRO").await;
}

#[tokio::test]
async fn what_stripe_delivers_twice_or_late_is_applied_once() {
    let visit = Visit::start().await;
    visit.browser.click("Deliver every event twice").await;
    visit.order().await;
    visit.pay_with(GOOD_CARD).await;
    visit.browser.reads("You are PRO").await;
    visit.shows(2, "Stripe delivered checkout.session.completed → 200").await;
    visit.shows_some("Duplicate skipped").await;
    visit.shows_some("Applied").await;
    visit.shows(0, "attempt").await;
    visit.browser.click("Back to the shop").await;
    visit.is("PRO").await;
    visit.browser.holds("Number(document.getElementById('version').innerText) >= 1").await;
    visit.shows(0, "customer.created").await;
    visit.browser.click("Show everything").await;
    visit.shows(1, "Noted: customer.created changes nothing here").await;

    visit.browser.click("New user").await;
    visit.is("FREE").await;
    visit.browser.click("Deliver every event twice").await;
    visit.browser.click("Hold deliveries back").await;
    visit.order().await;
    visit.pay_with(GOOD_CARD).await;
    visit.browser.reads("You are PRO").await;
    visit.shows(1, "Held back: checkout.session.completed").await;
    visit.shows(0, "Applied").await;
    visit.browser.click("Let deliveries go").await;
    visit.browser.reads("You are PRO").await;
    visit.shows_some("Applied").await;
    visit.assert_sound().await;
}

#[tokio::test]
async fn months_pass_cards_fail_and_a_subscription_ends_at_the_press_of_buttons() {
    let visit = Visit::start().await;
    let browser = &visit.browser;
    browser.click("Renewal fails").await;
    browser.reads("There is no subscription: buy one first").await;
    // Its answer is a 409, which a browser writes down.
    browser.complaints().await;
    visit.order().await;
    visit.pay_with(GOOD_CARD).await;
    browser.reads("You are PRO").await;
    browser.click("Back to the shop").await;
    visit.is("PRO").await;
    let time = "document.getElementById('life-time').innerText";
    browser.holds(&format!("{time} !== '…'")).await;
    let before = browser.evaluate(time).await;
    browser.click("A month passes").await;
    browser.holds(&format!("{time} !== {before}")).await;
    visit.shows_some("Stripe delivered customer.subscription.updated → 200").await;
    visit.is("PRO").await;

    browser.click("Manage (portal)").await;
    browser.reads("Paid with the card that ends in 4242").await;
    browser.screenshot("portal").await;
    browser.assert_legible("the portal").await;
    browser.click("Cancel at the end of the period").await;
    browser.reads("Ends soon").await;
    browser.click("Keep the subscription").await;
    browser.reads("Active").await;
    visit.assert_sound().await;
    browser.click("Back to the shop").await;
    visit.is("PRO").await;

    browser.click("Cancel at period end").await;
    visit.shows_some("Applied: customer.subscription.updated").await;
    browser.click("A month passes").await;
    visit.shows_some("Applied: customer.subscription.deleted").await;
    visit.is("FREE").await;
    browser.screenshot("demo-life").await;
    visit.assert_sound().await;
}

#[tokio::test]
async fn every_button_of_a_year_shows_its_effect_without_the_page_being_asked_for_again() {
    let visit = Visit::start().await;
    let browser = &visit.browser;
    visit.order().await;
    visit.pay_with(GOOD_CARD).await;
    browser.reads("You are PRO").await;
    browser.click("Back to the shop").await;
    visit.is("PRO").await;
    browser.holds("(window.stayed = true)").await;
    for (button, level) in [
        ("Renewal fails", "FREE"),
        ("Card mended", "PRO"),
        ("Refund", "FREE"),
        ("A month passes", "PRO"),
        ("Dispute", "FREE"),
        ("Dispute won", "PRO"),
        ("A month passes", "PRO"),
        ("Dispute", "FREE"),
        ("Dispute lost", "FREE"),
        ("A month passes", "PRO"),
    ] {
        // Buttons are busy until what was pressed last has happened.
        browser.holds("!document.querySelector('#life [aria-disabled=true]')").await;
        browser.click(button).await;
        visit.is(level).await;
        browser.holds("document.getElementById('life-problem').hidden").await;
    }
    visit.shows_some("charge.dispute.closed").await;
    browser.holds("window.stayed === true").await;
    visit.assert_sound().await;
}

#[tokio::test]
async fn whoever_one_is_stays_chosen_and_all_of_it_goes_by_keyboard() {
    let visit = Visit::start().await;
    let browser = &visit.browser;
    visit.is("FREE").await;
    browser.press(Key::Tab).await;
    browser.holds("document.activeElement.innerText === 'Skip to content'").await;
    tab_to(browser, "New user").await;
    browser.press(Key::Enter).await;
    browser.holds("document.getElementById('user').selectedOptions[0].text.startsWith('Guest')").await;
    let guest = browser.evaluate("document.getElementById('user').selectedOptions[0].text").await;

    visit.go_home().await;
    browser.reads(&format!("What {} may do now", guest.as_str().expect("a name"))).await;
    browser.press(Key::Tab).await;
    browser.press(Key::Enter).await;
    browser.holds("document.activeElement.id === 'main'").await;
    tab_to(browser, "Buy Pro").await;
    browser.press(Key::Enter).await;

    browser.reads("no real money").await;
    tab_to(browser, "Card number").await;
    browser.type_keys("4242424242424242").await;
    tab_to(browser, "Expiry").await;
    browser.type_keys("1234").await;
    tab_to(browser, "Security code").await;
    browser.type_keys("123").await;
    browser.press(Key::Enter).await;
    browser.reads("You are PRO").await;
    tab_to(browser, "Back to the shop").await;
    browser.press(Key::Enter).await;
    visit.is("PRO").await;

    browser.evaluate("document.getElementById('user').focus()").await;
    browser.type_keys("Ben").await;
    browser.reads("What Ben may do now").await;
    visit.is("FREE").await;
    browser.reads("Nothing yet").await;
    visit.assert_sound().await;
}

/// Moves the focus on until it is on what has this name, and asserts on the way that one always sees where it is.
async fn tab_to(browser: &Browser, name: &str) {
    const STOPS_MAX: usize = 40;
    for _ in 0..STOPS_MAX {
        browser.press(Key::Tab).await;
        let focus = browser
            .evaluate(
                "(({ innerText, labels }, { outlineStyle, outlineWidth }) => \
                 [labels?.[0]?.innerText ?? innerText, outlineStyle, parseFloat(outlineWidth)]) \
                 (document.activeElement, getComputedStyle(document.activeElement))",
            )
            .await;
        let (text, style, width) = (focus[0].as_str().unwrap(), focus[1].as_str().unwrap(), focus[2].as_f64().unwrap());
        assert!(style != "none" && width >= 2.0, "the focus is not to be seen: {focus}");
        if text.contains(name) {
            return;
        }
    }
    panic!("{name} is not reached");
}

#[tokio::test]
async fn every_page_is_legible_and_named_on_every_screen() {
    let visit = Visit::start().await;
    let browser = &visit.browser;
    visit.order().await;
    let pay_page = browser.client().current_url().await.expect("an address").to_string();
    browser.screenshot("pay-page").await;
    visit.pay_with(GOOD_CARD).await;
    browser.reads("You are PRO").await;
    let success = browser.client().current_url().await.expect("an address").to_string();
    visit.shows(1, "Stripe delivered checkout.session.completed → 200").await;
    browser.show_on(&Screen::DESKTOP.high(1180)).await;
    browser.screenshot("success").await;

    let (home, cancel) = (visit.server.url("/"), visit.server.url("/checkout/cancel"));
    for (screen, picture) in [
        (Screen::DESKTOP.high(900), "demo-home"),
        (Screen::DESKTOP.high(900).dark(), "demo-home-dark"),
        (Screen::PHONE, "demo-phone"),
        (Screen { width: 360, ..Screen::PHONE }.dark(), "demo-phone-dark"),
    ] {
        browser.show_on(&screen).await;
        for (page, ready) in [
            (home.as_str(), "Cache written"),
            (&success, "You are PRO"),
            (&cancel, "Nothing was bought"),
            (&pay_page, "This is already paid"),
        ] {
            browser.goto(page).await;
            browser.reads(ready).await;
            let place = format!("{page} for {picture}");
            browser.assert_legible(&place).await;
            assert_named(browser, &place).await;
            visit.assert_sound().await;
            if page == home {
                visit.is("PRO").await;
                if picture == "demo-home" {
                    browser.click("Deliver it again").await;
                    browser.reads(r#"{"ok":true,"idempotent":true}"#).await;
                    visit.shows(1, "→ 200, idempotent: true").await;
                }
                browser.screenshot(picture).await;
            }
        }
    }
}

/// Asserts that who hears a page instead of seeing it finds the way: a language, one first heading, landmarks, and a name for whatever
/// can be used.
async fn assert_named(browser: &Browser, place: &str) {
    let count =
        async |selector: &str| browser.evaluate(&format!("document.querySelectorAll('{selector}').length")).await;
    for selector in ["html[lang=en]", "h1", "main"] {
        assert_eq!(count(selector).await, 1, "{selector} on {place}");
    }
    if browser.evaluate("document.querySelector('script[type=module]') !== null").await == true {
        assert_eq!(count("[role=status]").await, 1, "who does not see a change on {place} is told");
    }
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().expect("a tree").iter().filter(|node| node["ignored"] == false);
    let usable = nodes.filter(|node| {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        ["button", "link", "checkbox", "radio", "textbox", "combobox", "region"].contains(&role)
    });
    let names: Vec<_> = usable.map(|node| node["name"]["value"].as_str().unwrap_or_default()).collect();
    assert!(!names.is_empty() && !names.contains(&""), "{place}: {names:?}");
}
