//! The sandbox's pay page in a real browser: what a buyer can do with it, and that its policy lets the page do it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use actix_web::{
    App, HttpResponse, HttpServer,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ContentType, LOCATION},
    web,
};
use chrono::Utc;
use tollgate::sandbox::pay_page::{
    self, CardOutcome, DeclineReason, FieldErrors, KeptFields, Method, PayState, PayView, asset, read, render,
};

use crate::harness::{
    PATIENCE,
    browser::{Browser, Screen},
    eventually,
    served::Served,
};

/// Serves the page in every state, and a shop on another port. Dropping it stops both.
struct Stand {
    url: String,
    shared: Arc<Shared>,
    _served: Served,
}

struct Shared {
    posts: AtomicUsize,
    shop: OnceLock<String>,
}

impl Stand {
    async fn start() -> Self {
        let shared = Arc::new(Shared { posts: AtomicUsize::new(0), shop: OnceLock::new() });
        let data = web::Data::from(Arc::clone(&shared));
        let served = Served::start(move || {
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(data.clone())
                    .route("/c/assets/{path}", web::get().to(serve_asset))
                    .route("/c/pay/{id}", web::get().to(show))
                    .route("/c/pay/{id}", web::post().to(pay))
                    .route("/shop", web::get().to(|| async { "Welcome back to the shop" }))
                    .route("/favicon.ico", web::get().to(HttpResponse::NoContent))
            })
            .workers(1)
            .disable_signals()
            .bind(("127.0.0.1", 0))
            .and_then(|server| server.bind(("127.0.0.1", 0)))
            .expect("two free ports");
            (server.addrs(), server.run())
        })
        .await;
        let addresses = &served.addresses;
        let [page, shop] = addresses[..] else { panic!("two addresses: {addresses:?}") };
        shared.shop.set(format!("http://{shop}/shop")).expect("set once");
        Self { url: format!("http://{page}"), shared, _served: served }
    }

    fn page(&self, id: &str) -> String {
        format!("{}/c/pay/{id}", self.url)
    }

    fn posts(&self) -> usize {
        self.shared.posts.load(Ordering::SeqCst)
    }
}

fn view(id: &str, shared: &Shared) -> PayView {
    let shop = shared.shop.get().expect("set at the start").clone();
    PayView {
        session_id: id.to_owned(),
        plan_name: "PRO".to_owned(),
        amount_minor: if id == "free" { 0 } else { 2900 },
        currency: "usd".to_owned(),
        interval: (id != "free").then(|| "month".to_owned()),
        email: None,
        success_url: shop.clone(),
        cancel_url: shop,
        state: match id {
            "declined" => PayState::Declined(DeclineReason::Generic.sentence().to_owned()),
            "paid" => PayState::Paid,
            "once" if shared.posts.load(Ordering::SeqCst) > 0 => PayState::Paid,
            "pending" => PayState::Pending,
            "expired" => PayState::Expired,
            "failed" => PayState::Failed,
            _ => PayState::Open,
        },
        errors: FieldErrors::default(),
        kept: KeptFields::default(),
    }
}

fn html(view: &PayView) -> HttpResponse {
    let mut page = render(view);
    if view.session_id == "plain" {
        page = page.replace("<script src=\"/c/assets/pay.js\" defer></script>", "");
        assert!(!page.contains("script"), "a page for browsers without scripts");
    }
    HttpResponse::Ok()
        .insert_header((CONTENT_SECURITY_POLICY, pay_page::CONTENT_SECURITY_POLICY))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(ContentType::html())
        .body(page)
}

async fn serve_asset(path: web::Path<String>) -> HttpResponse {
    match asset(&path) {
        Some((content_type, body)) => HttpResponse::Ok().content_type(content_type).body(body),
        None => HttpResponse::NotFound().finish(),
    }
}

async fn show(id: web::Path<String>, shared: web::Data<Shared>) -> HttpResponse {
    html(&view(&id, &shared))
}

async fn pay(id: web::Path<String>, form: web::Form<Vec<(String, String)>>, shared: web::Data<Shared>) -> HttpResponse {
    shared.posts.fetch_add(1, Ordering::SeqCst);
    if id.as_str() == "busy" {
        // The browser stays on the page that it has.
        return HttpResponse::NoContent().finish();
    }
    let open = view(&id, &shared);
    match read(&form, Utc::now()) {
        Ok(Method::Card(CardOutcome::Declined(reason))) => html(&PayView {
            state: PayState::Declined(reason.sentence().to_owned()),
            kept: KeptFields::of(&form),
            ..open
        }),
        Ok(_) => HttpResponse::SeeOther().insert_header((LOCATION, open.success_url)).finish(),
        Err((errors, kept)) => html(&PayView { errors, kept, ..open }),
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_at_its_field_and_the_first_has_the_focus() {
    let stand = Stand::start().await;
    let browser = Browser::start().await;
    for id in ["open", "plain"] {
        browser.goto(&stand.page(id)).await;
        browser.fill("Email", "nobody").await;
        browser.fill("Card number", "5555 5555 5555 4444").await;
        browser.fill("Expiry", "10 / 20").await;
        browser.fill("Security code", "1").await;
        browser.fill("Name on card", "Jo Buyer").await;
        browser.click("Pay $29.00").await;

        browser.reads("Never type a real card here").await;
        browser.holds("document.activeElement.id === 'email'").await;
        for (label, error) in [
            ("Email", "name@example.com"),
            ("Card number", "only test cards work"),
            ("Expiry", "has passed"),
            ("Security code", "3 or 4 digits"),
        ] {
            let field = browser.field(label).await;
            assert_eq!(field.attr("aria-invalid").await.unwrap().as_deref(), Some("true"), "{label}");
            let described_by = field.attr("aria-describedby").await.unwrap().expect("an error is linked");
            browser.holds(&format!("document.getElementById('{described_by}').innerText.includes('{error}')")).await;
        }
        let mut shown = Vec::new();
        for label in ["Email", "Card number", "Expiry", "Security code", "Name on card"] {
            shown.push(browser.value(label).await);
        }
        assert_eq!(shown, ["nobody", "", "10 / 20", "", "Jo Buyer"]);
        browser.screenshot(&format!("pay-errors-{id}")).await;
        browser.assert_no_complaints().await;
    }
}

#[tokio::test]
async fn a_second_click_sends_nothing() {
    let stand = Stand::start().await;
    let browser = Browser::start().await;
    browser.goto(&stand.page("busy")).await;
    let both = "const pay = document.getElementById('submit'); pay.click(); pay.click()";
    browser.client().execute(both, vec![]).await.expect("two clicks");
    browser.holds("document.getElementById('submit').disabled").await;
    browser.reads("One moment…").await;
    browser.screenshot("pay-busy").await;
    eventually(PATIENCE, "the form is sent", || async { stand.posts() > 0 }).await;

    // What a second click had sent would have come before this.
    browser.goto(&stand.page("open")).await;
    assert_eq!(stand.posts(), 1);
    browser.assert_no_complaints().await;
}

#[tokio::test]
async fn a_card_that_pays_leads_to_the_shop_on_another_port_and_back_to_what_is_paid() {
    let stand = Stand::start().await;
    let browser = Browser::start().await;
    browser.goto(&stand.page("once")).await;
    browser.fill("Card number", "4242424242424242").await;
    assert_eq!(browser.value("Card number").await, "4242 4242 4242 4242");
    browser.fill("Expiry", "12 / 34").await;
    browser.fill("Security code", "123").await;
    browser.click("Pay $29.00").await;
    browser.reads("Welcome back to the shop").await;
    browser.client().back().await.expect("a page before");
    browser.reads("This is already paid").await;
    browser.click("Go to the shop").await;
    browser.reads("Welcome back to the shop").await;
    browser.assert_no_complaints().await;
}

#[tokio::test]
async fn a_declined_card_can_be_followed_by_one_that_pays() {
    let stand = Stand::start().await;
    let browser = Browser::start().await;
    browser.goto(&stand.page("open")).await;
    browser.fill("Email", "jo@example.com").await;
    browser.fill("Card number", "4000 0000 0000 9995").await;
    browser.fill("Expiry", "1234").await;
    browser.fill("Security code", "123").await;
    browser.click("Pay $29.00").await;
    browser.reads("Your card has insufficient funds. Try another card.").await;
    browser.holds("document.activeElement.id === 'card_number'").await;
    assert_eq!(browser.value("Email").await, "jo@example.com");

    browser.click("Fill in the card that pays").await;
    assert_eq!(browser.value("Card number").await, "4242 4242 4242 4242");
    browser.click("Pay $29.00").await;
    browser.reads("Welcome back to the shop").await;
    browser.assert_no_complaints().await;
}

#[tokio::test]
async fn a_delayed_payment_and_a_free_order_ask_for_no_card() {
    let stand = Stand::start().await;
    let browser = Browser::start().await;
    for id in ["open", "plain"] {
        browser.goto(&stand.page(id)).await;
        browser.click("Bank transfer").await;
        browser.holds("document.getElementById('card_number').offsetParent === null").await;
        browser.screenshot(&format!("pay-delayed-{id}")).await;
        browser.click("Pay $29.00").await;
        browser.reads("Welcome back to the shop").await;
    }
    browser.goto(&stand.page("free")).await;
    browser.click("Complete order").await;
    browser.reads("Welcome back to the shop").await;
    browser.assert_no_complaints().await;
}

#[tokio::test]
async fn every_state_is_legible_on_every_screen() {
    let stand = Stand::start().await;
    let browser = Browser::start().await;
    for (screen, name) in [
        (Screen::DESKTOP, "light"),
        (Screen::DESKTOP.dark(), "dark"),
        (Screen::PHONE.high(1480), "phone"),
        (Screen::PHONE.high(1480).dark(), "phone-dark"),
    ] {
        browser.show_on(&screen).await;
        for id in ["open", "declined", "paid", "pending", "expired", "failed", "free"] {
            browser.goto(&stand.page(id)).await;
            browser.reads("no real money").await;
            browser.assert_legible(&format!("{id} on {name}")).await;
            browser.screenshot(&format!("pay-{id}-{name}")).await;
        }
        browser.assert_no_complaints().await;
    }
}
