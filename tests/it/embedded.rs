//! The embedded mode: the real binary without settings is a whole shop, and a small deployment that keeps what it acknowledged.

use std::{process::Command, sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{Answer, JWT_SECRET, STRIPE_KEY, TestServer, WEBHOOK_SECRET, client},
    shop::Shop,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a buyer types into the pay page.
const CARD: [(&str, &str); 4] =
    [("method", "card"), ("card_number", "4242 4242 4242 4242"), ("expiry", "12 / 40"), ("cvc", "123")];

/// Buys a level as a browser would: checkout, the pay page's form, and back. Gives the session.
async fn buy(server: &TestServer, user: Uuid, level: &str, form: &[(&str, &str)]) -> Value {
    let session = server.checkout(user, level, None).await;
    assert_eq!(session.status, 200, "{}", session.text);
    let page = session.json["url"].as_str().unwrap();
    assert!(page.starts_with(&format!("http://{}/c/pay/cs_test_", server.sandbox.unwrap())), "{page}");
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
    let form = serde_urlencoded::to_string(form).unwrap();
    let paid = browser.post(page).header("Content-Type", "application/x-www-form-urlencoded").body(form).send();
    let paid = paid.await.unwrap();
    let back = paid.headers().get("location").map(|location| location.to_str().unwrap().to_owned());
    let id = session.json["sessionId"].as_str().unwrap();
    let shop = format!("http://{}/checkout/success?session_id={id}", server.public);
    assert_eq!((paid.status().as_u16(), back), (303, Some(shop)));
    session.json
}

async fn becomes(server: &TestServer, user: Uuid, level: &str) {
    eventually(PATIENCE, "the purchase is applied", || async {
        server.read(user).await.json["entitlementLevel"] == level
    })
    .await;
}

/// Runs a command of the binary with the shop's settings.
fn tollgate(shop: &Shop, settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["--data", shop.data().to_str().unwrap()])
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied())
        .current_dir(shop.data())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn without_settings_it_sells_and_remembers() {
    let (shop, user) = (Shop::new(), Uuid::new_v4());
    let server = shop.serve().await;
    assert_eq!(Answer::of(client().get(server.url("/health/ready"))).await.json["status"], "ready");
    let session = buy(&server, user, "PRO", &CARD).await;
    becomes(&server, user, "PRO").await;
    let granted = server.url(&format!("/api/checkout/session/{}", session["sessionId"].as_str().unwrap()));
    let granted = Answer::of(client().get(granted).bearer_auth(server.token(user))).await;
    assert_eq!((&granted.json["state"], &granted.json["granted"]), (&json!("complete"), &json!(true)));
    let before = server.read(user).await.json;
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0, "{}", server.log());

    let server = shop.serve().await;
    let after = server.read(user).await.json;
    for field in ["entitlementLevel", "expiresAt", "version"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(server.checkout(user, "PRO", None).await.json["code"], "ALREADY_ENTITLED");
}

#[tokio::test]
async fn the_banner_says_what_was_chosen_and_why() {
    let shop = Shop::new();
    let server = shop.serve().await;
    let log = server.log();
    for text in [
        &format!("SQLite, {}", shop.data().join("ledger.sqlite3").display()),
        "DATABASE_URL is not set",
        "REDIS_URL is not set",
        &format!("sandbox, http://{}", server.sandbox.unwrap()),
        "SUPABASE_JWT_SECRET is not set",
        &format!("Open     http://{}/ ", server.public),
        "For production set DATABASE_URL, REDIS_URL and STRIPE_SECRET_KEY",
    ] {
        assert!(log.contains(text), "{text} in\n{log}");
    }
    let chosen = server.log_lines().into_iter().find(|line| line["fields"]["message"] == "chosen").unwrap();
    assert!(chosen["fields"]["cache"].as_str().unwrap().contains("in this process"), "{chosen}");
}

#[tokio::test]
async fn tokens_and_triggers_work_beside_a_running_shop() {
    let (shop, user) = (Shop::new(), Uuid::new_v4());
    let server = shop.serve().await;
    let (code, token, told) = tollgate(&shop, &[], &["token", "--user", &user.to_string()]);
    assert_eq!((code, told.as_str()), (Some(0), ""));
    let own = client().get(server.url("/api/entitlements")).bearer_auth(token.trim());
    assert_eq!(Answer::of(own).await.json["entitlementLevel"], "FREE");
    let url = format!("http://{}", server.public);
    let arguments =
        ["trigger", "checkout.session.completed", "--user", &user.to_string(), "--url", &url, "--times", "2"];
    let (code, told, error) = tollgate(&shop, &[], &arguments);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(told.lines().nth(1).unwrap().ends_with(r#"{"ok":true,"idempotent":true}"#), "{told}");
    becomes(&server, user, "PRO").await;
    for (kind, level) in
        [("checkout.session.completed", "PRO"), ("charge.dispute.created", "FREE"), ("charge.refunded", "FREE")]
    {
        let other = Uuid::from_u128(1).to_string();
        let arguments = ["trigger", kind, "--user", &other, "--url", &url, "--session", "cs_test_7Ab"];
        assert_eq!(tollgate(&shop, &[], &arguments).0, Some(0), "{kind}");
        becomes(&server, Uuid::from_u128(1), level).await;
    }
    // What writes belongs to the server while it runs.
    let (code, _, told) = tollgate(&shop, &[], &["migrate"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("ledger.sqlite3"), "{told}");
}

#[tokio::test]
async fn commands_without_a_shop_say_how_to_make_one() {
    let shop = Shop::new();
    let (code, _, told) = tollgate(&shop, &[], &["token", "--user", &Uuid::new_v4().to_string()]);
    assert_eq!(code, Some(2));
    assert!(told.contains("SUPABASE_JWT_SECRET: expected") && told.contains("start `tollgate serve` once"), "{told}");
}

#[tokio::test]
async fn a_second_server_is_told_what_is_in_its_way() {
    let shop = Shop::new();
    let server = shop.serve().await;
    let port = server.public.to_string();
    let refused = shop.serve_with(&[("TOLLGATE_BIND", &port)]).await.err().unwrap();
    let way_out = "for example TOLLGATE_BIND=127.0.0.1:0 for any free port";
    assert!(refused.contains(&format!("TOLLGATE_BIND: {port} is taken")) && refused.contains(way_out), "{refused}");

    let fresh = Shop::new();
    for (setting, address) in [
        ("TOLLGATE_ADMIN_BIND", server.admin.to_string()),
        ("TOLLGATE_SANDBOX_BIND", server.sandbox.unwrap().to_string()),
    ] {
        let refused = fresh.serve_with(&[(setting, &address)]).await.err().unwrap();
        assert!(refused.contains(&format!("{setting}: {address} is taken")), "{refused}");
    }
    assert_eq!(fresh.data().read_dir().unwrap().count(), 0, "nothing was touched");

    let refused = shop.serve_with(&[]).await.err().unwrap();
    let ledger = shop.data().join("ledger.sqlite3");
    assert!(refused.contains(ledger.to_str().unwrap()) && refused.contains("TOLLGATE_LEDGER"), "{refused}");
    assert_eq!(server.read(Uuid::new_v4()).await.status, 200, "the first one goes on");
}

/// What was bought with play money must never be worth anything beside a real key.
#[tokio::test]
async fn the_sandboxs_ledger_is_refused_beside_a_stripe_key_and_the_other_way_round() {
    let shop = Shop::new();
    drop(shop.serve().await);
    let sandboxed = format!("sqlite:{}", shop.data().join("ledger.sqlite3").display());
    let own = format!("sqlite:{}", shop.data().join("own.sqlite3").display());
    let real = |ledger| {
        [
            ("STRIPE_SECRET_KEY", STRIPE_KEY),
            ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET),
            ("SUPABASE_JWT_SECRET", JWT_SECRET),
            ("TOLLGATE_LEDGER", ledger),
        ]
    };
    let refused = shop.serve_with(&real(sandboxed.as_str())).await.err().unwrap();
    assert!(refused.contains("ledger.sqlite3") && refused.contains("sandbox"), "{refused}");

    // A small deployment: a real account, SQLite by name.
    let server = shop.serve_with(&real(own.as_str())).await.unwrap();
    let event = SessionEvent::paid(Uuid::new_v4());
    assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
    assert_eq!(server.deliver(&event.json()).await.json["idempotent"], true);
    assert_eq!(server.read(event.user).await.json["source"], "cache");
    assert_eq!(server.sandbox, None);
    assert_eq!(Answer::of(client().get(server.url("/"))).await.status, 404, "and no demo");
    drop(server);
    let refused = shop.serve_with(&[("TOLLGATE_SANDBOX", "true"), ("TOLLGATE_LEDGER", &own)]).await.err().unwrap();
    assert!(refused.contains("own.sqlite3"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_under_load_loses_nothing_that_was_acknowledged() {
    const CLIENTS: usize = 16;
    const ENOUGH: usize = 200;
    let shop = Shop::new();
    let server = Arc::new(shop.serve_with(&[("TOLLGATE_LOG", "info")]).await.unwrap());
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
    let clients = (0..CLIENTS).map(|_| {
        let (server, acknowledged) = (Arc::clone(&server), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            loop {
                let event = SessionEvent::paid(Uuid::new_v4());
                let body = serde_json::to_vec(&event.json()).unwrap();
                let request = client().post(server.url("/api/webhooks/stripe"));
                let request = request.header("Stripe-Signature", server.sign(&body)).body(body);
                match Answer::try_of(request).await {
                    Ok(answer) if answer.status == 200 => acknowledged.lock().unwrap().push(event),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    eventually(PATIENCE, "the load runs", || async { acknowledged.lock().unwrap().len() > ENOUGH }).await;
    server.signal("KILL").await;
    for client in join_all(clients).await {
        client.unwrap();
    }
    let server = shop.serve().await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    for event in &acknowledged {
        assert_eq!(server.read(event.user).await.json["entitlementLevel"], "PRO", "{}", event.id);
        assert_eq!(server.deliver(&event.json()).await.json["idempotent"], true, "{}", event.id);
        assert_eq!(server.read(event.user).await.json["version"], 1, "{}", event.id);
    }
}

#[tokio::test]
async fn a_renewal_is_followed_where_only_checkouts_are_told_of() {
    let (shop, user) = (Shop::new(), Uuid::new_v4());
    let server = shop.serve().await;
    let keys = std::fs::read_to_string(shop.data().join("sandbox-keys.json")).unwrap();
    let key = serde_json::from_str::<Value>(&keys).unwrap()["stripeKey"].as_str().unwrap().to_owned();
    let sandbox = |method, path: &str| {
        client().request(method, format!("http://{}{path}", server.sandbox.unwrap())).bearer_auth(&key)
    };
    let endpoints = Answer::of(sandbox(reqwest::Method::GET, "/v1/webhook_endpoints")).await;
    let endpoint = format!("/v1/webhook_endpoints/{}", endpoints.json["data"][0]["id"].as_str().unwrap());
    let only = serde_urlencoded::to_string([("enabled_events[0]", "checkout.session.completed")]).unwrap();
    let request = sandbox(reqwest::Method::POST, &endpoint);
    let narrowed = Answer::of(request.header("Content-Type", "application/x-www-form-urlencoded").body(only)).await;
    assert_eq!(narrowed.status, 200, "{}", narrowed.text);

    buy(&server, user, "PRO", &CARD).await;
    becomes(&server, user, "PRO").await;
    let before = server.read(user).await.json["expiresAt"].as_str().unwrap().to_owned();
    // A month and its grace, whichever month.
    let on = json!({ "by": 34 * 86_400 });
    assert_eq!(Answer::of(sandbox(reqwest::Method::POST, "/sandbox/clock").json(&on)).await.status, 200);
    eventually(PATIENCE, "the renewal is known", || async {
        let now = server.read(user).await.json;
        now["entitlementLevel"] == "PRO" && now["expiresAt"].as_str() > Some(before.as_str())
    })
    .await;
}
