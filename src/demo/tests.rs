//! The demo's answers, and above all its refusals.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    App,
    body::{BoxBody, MessageBody, to_bytes},
    dev::ServiceResponse,
    http::Method,
    test::{TestRequest, call_service, init_service},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::*;
use crate::{
    activity::Step,
    auth::{self, SessionVerifier},
    http::RequestId,
    sandbox::{Delivery, Happening, SandboxError, Switches},
};

const JWT_SECRET: &str = "0123456789abcdef0123456789abcdef";
const USER: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";
const REPLAY: &str = r#"{"ok":true,"idempotent":true}"#;
const JSON: (&str, &str) = ("content-type", "application/json");

/// Stripe's side: knows one event, and keeps the switches.
#[derive(Default)]
struct OneEvent(Mutex<Switches>);

#[async_trait]
impl Deliveries for OneEvent {
    async fn redeliver(&self, event: &str) -> Result<Delivery, SandboxError> {
        match event {
            "evt_1" => Ok(Delivery { status: 200, body: REPLAY.to_owned() }),
            "evt_lost" => Err(SandboxError::Undelivered("connection refused by 10.0.0.1".to_owned())),
            _ => Err(SandboxError::UnknownEvent),
        }
    }

    async fn happen(&self, user: UserId, _happening: Happening) -> Result<(), SandboxError> {
        if user.to_string() == USER { Ok(()) } else { Err(SandboxError::Impossible("There is no subscription")) }
    }

    async fn open_portal(&self, _user: UserId, return_url: &str) -> Result<String, SandboxError> {
        Ok(format!("http://127.0.0.1:3002/p/session/bps_1?back={return_url}"))
    }

    fn now(&self) -> i64 {
        1_800_000_000
    }

    fn switches(&self) -> Switches {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_switches(&self, switches: Switches) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = switches;
    }
}

fn demo() -> Demo {
    demo_of("http://localhost:3000")
}

/// The demo of a service that sends buyers back to `app`.
fn demo_of(app: &str) -> Demo {
    let issue = |user| {
        let now = chrono::Utc::now().timestamp();
        auth::issue(&JWT_SECRET.into(), None, user, Duration::from_secs(60), now)
    };
    let (deliveries, activity) = (Arc::<OneEvent>::default(), Activity::watched());
    let app = Url::parse(app).unwrap();
    Demo::new(Parts { issue_token: Arc::new(issue), deliveries, activity, app })
}

/// What a browser on this machine sends.
fn request(method: Method, path: &str) -> TestRequest {
    TestRequest::default()
        .method(method)
        .uri(path)
        .peer_addr("127.0.0.1:50000".parse().unwrap())
        .insert_header(("host", "localhost:3000"))
}

async fn answer(demo: &Demo, request: TestRequest) -> ServiceResponse {
    let app = init_service(App::new().configure(routes(demo.clone())).wrap(RequestId::default())).await;
    call_service(&app, request.to_request()).await.map_into_boxed_body()
}

async fn get(demo: &Demo, path: &str) -> ServiceResponse {
    answer(demo, request(Method::GET, path)).await
}

async fn post(demo: &Demo, path: &str, body: &str) -> ServiceResponse {
    answer(demo, request(Method::POST, path).insert_header(JSON).set_payload(body.to_owned())).await
}

async fn text(response: ServiceResponse) -> String {
    String::from_utf8(to_bytes(response.into_body()).await.unwrap().into()).unwrap()
}

async fn body(response: ServiceResponse) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// Status and code of a refusal.
async fn refusal(response: ServiceResponse) -> (u16, String) {
    let status = response.status().as_u16();
    let body = body(response).await;
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
    assert!(!body["error"].as_str().unwrap().is_empty());
    (status, body["code"].as_str().unwrap().to_owned())
}

fn header<'a>(response: &'a ServiceResponse, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[actix_web::test]
async fn only_this_machine_under_its_own_name_is_answered() {
    let demo = demo();
    for good in ["localhost", "localhost:3000", "LOCALHOST:3000", "127.0.0.1:3000", "127.0.0.2", "[::1]", "[::1]:3000"]
    {
        let request = request(Method::GET, "/demo/users").insert_header(("host", good));
        assert_eq!(answer(&demo, request).await.status(), 200, "{good}");
    }
    for wrong in [
        "",
        "demo.example",
        "demo.example:3000",
        "localhost.demo.example",
        "127.0.0.1.demo.example",
        "localhost@demo.example",
        "demo.example#localhost",
        "localhost/",
        "192.168.1.7:3000",
        "[::ffff:7f00:1]:3000",
        "0.0.0.0:3000",
    ] {
        let request = request(Method::GET, "/demo/users").insert_header(("host", wrong));
        assert_eq!(refusal(answer(&demo, request).await).await, (403, "FORBIDDEN".to_owned()), "{wrong}");
    }
    let twice = request(Method::GET, "/").append_header(("host", "localhost:3000"));
    assert_eq!(answer(&demo, twice).await.status(), 403);
    let nameless = TestRequest::get().uri("/").peer_addr("127.0.0.1:50000".parse().unwrap());
    assert_eq!(answer(&demo, nameless).await.status(), 403);
    for (peer, status) in [("[::1]:50000", 200), ("[::ffff:127.0.0.1]:50000", 200), ("192.168.1.7:50000", 403)] {
        let request = request(Method::GET, "/").peer_addr(peer.parse().unwrap());
        assert_eq!(answer(&demo, request).await.status(), status, "{peer}");
    }
}

#[actix_web::test]
async fn nobody_may_show_it_to_others() {
    let demo = demo();
    for name in ["forwarded", "x-forwarded-for", "x-forwarded-host", "X-Forwarded-Proto", "x-real-ip", "via"] {
        for path in ["/", "/demo/assets/demo.css", "/demo/users", "/demo/activity", "/checkout/success"] {
            let request = request(Method::GET, path).insert_header((name, "203.0.113.9"));
            assert_eq!(refusal(answer(&demo, request).await).await, (403, "FORBIDDEN".to_owned()), "{name} {path}");
        }
    }
}

#[actix_web::test]
async fn pages_of_others_cannot_post() {
    let demo = demo();
    let wish = json!({ "userId": USER }).to_string();
    for (origins, status) in [
        (&["http://localhost:3000"][..], 200),
        (&["HTTP://LOCALHOST:3000"], 200),
        (&["http://localhost:3001"], 403),
        (&["http://127.0.0.1:3000"], 403),
        (&["https://localhost:3000"], 403),
        (&["https://demo.example"], 403),
        (&["null"], 403),
        (&[""], 403),
        (&["http://localhost:3000", "https://demo.example"], 403),
    ] {
        let request = request(Method::POST, "/demo/session").insert_header(JSON).set_payload(wish.clone());
        let request = origins.iter().fold(request, |request, origin| request.append_header(("origin", *origin)));
        assert_eq!(answer(&demo, request).await.status(), status, "{origins:?}");
    }
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        for path in ["/demo/session", "/demo/deliver-again", "/demo/switches"] {
            let request = request(Method::POST, path).insert_header(("content-type", content_type));
            let answer = answer(&demo, request.set_payload(wish.clone())).await;
            assert_eq!(refusal(answer).await, (415, "UNSUPPORTED_MEDIA_TYPE".to_owned()), "{content_type} {path}");
        }
    }
}

#[actix_web::test]
async fn every_answer_trusts_nobody() {
    let demo = demo();
    let elsewhere = request(Method::GET, "/").insert_header(("host", "demo.example"));
    let answers = [
        get(&demo, "/").await,
        get(&demo, "/checkout/success?session_id=cs_1").await,
        get(&demo, "/checkout/cancel").await,
        get(&demo, "/demo/assets/home.js").await,
        get(&demo, "/demo/assets/nothing.js").await,
        get(&demo, "/demo/activity").await,
        post(&demo, "/demo/session", "{}").await,
        answer(&demo, request(Method::PUT, "/")).await,
        answer(&demo, elsewhere).await,
    ];
    for answer in answers {
        let path = answer.request().path();
        let policy = header(&answer, "content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.split("; ").any(|told| told == part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer");
        assert!(["no-store", "no-cache"].contains(&header(&answer, "cache-control")), "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), "");
    }
}

#[actix_web::test]
async fn pages_are_made_of_what_is_served_here_alone() {
    let demo = demo();
    let mut wanted = vec![];
    for path in ["/", "/checkout/success", "/checkout/cancel"] {
        let page = get(&demo, path).await;
        assert_eq!(
            (page.status().as_u16(), header(&page, "content-type")),
            (200, "text/html; charset=utf-8"),
            "{path}"
        );
        let page = text(page).await;
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="), "{path}");
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count(), "{path}");
        assert!(!page.contains("//"), "{path} names another site");
        wanted
            .extend(page.split("\"/demo/assets/").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    let mut seen = vec![];
    while let Some(name) = wanted.pop() {
        if seen.contains(&name) {
            continue;
        }
        let file = get(&demo, &format!("/demo/assets/{name}")).await;
        assert_eq!(file.status(), 200, "{name}");
        let (expected, script) = match name.rsplit('.').next() {
            Some("js") => ("text/javascript; charset=utf-8", true),
            Some("css") => ("text/css; charset=utf-8", false),
            _ => ("image/svg+xml", false),
        };
        assert_eq!(header(&file, "content-type"), expected, "{name}");
        let file = text(file).await;
        if script {
            assert!(!file.contains("innerHTML") && !file.contains("insertAdjacentHTML"), "{name}");
            wanted.extend(file.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
        seen.push(name);
    }
    assert_eq!(seen.len(), pages::ASSETS.len(), "a file that no page uses: {seen:?}");
}

#[actix_web::test]
async fn an_unchanged_file_is_not_sent_twice() {
    let demo = demo();
    let path = "/demo/assets/demo.css";
    let first = get(&demo, path).await;
    let tag = header(&first, "etag").to_owned();
    let asking = |tag: &str| request(Method::GET, path).insert_header(("if-none-match", tag.to_owned()));
    let second = answer(&demo, asking(&format!("\"other\", {tag}"))).await;
    assert_eq!((second.status().as_u16(), header(&second, "etag")), (304, tag.as_str()));
    assert_eq!(text(second).await, "");
    assert_eq!(answer(&demo, asking("\"other\"")).await.status(), 200);
    assert_ne!(header(&get(&demo, "/").await, "etag"), tag);
}

#[actix_web::test]
async fn other_methods_are_told_which_there_are() {
    let demo = demo();
    for (method, path, allow) in [
        (Method::PUT, "/", "GET, HEAD"),
        (Method::DELETE, "/demo/users", "GET, HEAD"),
        (Method::GET, "/demo/session", "POST"),
        (Method::GET, "/demo/deliver-again", "POST"),
        (Method::PUT, "/demo/switches", "GET, HEAD, POST"),
    ] {
        let answer = answer(&demo, request(method, path)).await;
        assert_eq!(header(&answer, "allow"), allow, "{path}");
        assert_eq!(refusal(answer).await, (405, "METHOD_NOT_ALLOWED".to_owned()), "{path}");
    }
    assert_eq!(refusal(get(&demo, "/demo/assets/mod.rs").await).await, (404, "NOT_FOUND".to_owned()));
}

#[actix_web::test]
async fn three_people_are_there_and_the_first_is_the_readmes() {
    let users = body(get(&demo(), "/demo/users").await).await;
    let users = users["users"].as_array().unwrap();
    let mut ids: Vec<_> = users.iter().map(|user| UserId::parse(user["userId"].as_str().unwrap()).unwrap()).collect();
    assert_eq!(ids[0].to_string(), USER);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert!(users.iter().all(|user| !user["name"].as_str().unwrap().is_empty()));
}

#[actix_web::test]
async fn a_session_token_is_good_for_its_user() {
    let demo = demo();
    let answer = body(post(&demo, "/demo/session", &json!({ "userId": USER.to_uppercase() }).to_string()).await).await;
    assert_eq!(answer["userId"], USER);
    let now = chrono::Utc::now().timestamp();
    let session =
        SessionVerifier::new(&JWT_SECRET.into(), None).verify(answer["token"].as_str().unwrap(), now).unwrap();
    assert_eq!(session.user.to_string(), USER);
    for wrong in ["", "[]", "{}", r#"{"userId":7}"#, r#"{"userId":"Ada"}"#, &format!(r#"{{"userId":"{USER}","x":1}}"#)]
    {
        let answer = post(&demo, "/demo/session", wrong).await;
        assert_eq!(refusal(answer).await, (400, "INVALID_REQUEST".to_owned()), "{wrong}");
    }
    let long = post(&demo, "/demo/session", &" ".repeat(4 * 1024 + 1)).await;
    assert_eq!(refusal(long).await, (413, "PAYLOAD_TOO_LARGE".to_owned()));
}

#[actix_web::test]
async fn an_event_is_delivered_again_and_the_answer_shown() {
    let demo = demo();
    let again = async |event: &str| post(&demo, "/demo/deliver-again", &json!({ "event": event }).to_string()).await;
    assert_eq!(body(again("evt_1").await).await, json!({ "status": 200, "body": REPLAY }));
    assert_eq!(refusal(again("evt_2").await).await, (404, "NOT_FOUND".to_owned()));
    assert_eq!(refusal(again("cs_1").await).await, (400, "INVALID_REQUEST".to_owned()));
    let lost = again("evt_lost").await;
    assert_eq!(lost.status(), 502);
    assert!(!text(lost).await.contains("10.0.0.1"));
}

#[actix_web::test]
async fn switches_stay_as_they_are_set() {
    let demo = demo();
    let kept = json!({ "copies": 1, "reorder": false, "withhold": false });
    assert_eq!(body(get(&demo, "/demo/switches").await).await, kept);
    let wanted = json!({ "copies": 2, "reorder": true, "withhold": true });
    assert_eq!(body(post(&demo, "/demo/switches", &wanted.to_string()).await).await, wanted);
    assert_eq!(body(get(&demo, "/demo/switches").await).await, wanted);
    for wrong in ["{}", r#"{"copies":-1,"reorder":false,"withhold":false}"#, r#"{"withhold":true}"#] {
        let answer = post(&demo, "/demo/switches", wrong).await;
        assert_eq!(refusal(answer).await, (400, "INVALID_REQUEST".to_owned()), "{wrong}");
    }
}

/// Who had opened the page as `localhost` came back from paying to `127.0.0.1`, where nobody was chosen: "Nothing to see here".
#[actix_web::test]
async fn the_page_is_opened_under_the_name_that_buyers_come_back_to() {
    for (host, app, leads_to) in [
        ("localhost:3000", "http://127.0.0.1:3000", "http://127.0.0.1:3000/"),
        ("127.0.0.1:3000", "http://localhost:3000/shop", "http://localhost:3000/"),
        ("localhost", "http://[::1]", "http://[::1]/"),
        ("127.0.0.1:3000", "http://127.0.0.1:3000", ""),
        ("LOCALHOST:3000", "http://localhost:3000", ""),
        // Another program's, or not on this machine.
        ("localhost:3000", "http://127.0.0.1:8080", ""),
        ("localhost:3000", "https://127.0.0.1:3000", ""),
        ("localhost:3000", "http://shop.example:3000", ""),
    ] {
        let answer = answer(&demo_of(app), request(Method::GET, "/").insert_header(("host", host))).await;
        assert_eq!(answer.status(), if leads_to.is_empty() { 200 } else { 307 }, "{host} {app}");
        assert_eq!(header(&answer, "location"), leads_to, "{host} {app}");
    }
}

/// The next piece of a stream; `None` at its end.
async fn piece(body: &mut BoxBody) -> Option<String> {
    let piece = poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await?;
    Some(String::from_utf8(piece.unwrap().into()).unwrap())
}

async fn watch_after(demo: &Demo, last: Option<&str>) -> BoxBody {
    let request = request(Method::GET, "/demo/activity");
    let request = last.into_iter().fold(request, |request, last| request.insert_header(("last-event-id", last)));
    let answer = answer(demo, request).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, "text/event-stream"));
    let mut body = answer.into_body();
    assert_eq!(piece(&mut body).await.as_deref(), Some("retry: 1000\n\n"));
    body
}

fn skip(demo: &Demo, number: u32) {
    demo.0.parts.activity.tell(None, || Step::DuplicateSkipped { event: format!("evt_{number}") });
}

/// Ids and events of the next piece.
async fn steps(body: &mut BoxBody) -> Vec<(u64, String)> {
    let piece = piece(body).await.unwrap();
    let (told, end) = piece.rsplit_once("\n\n").unwrap();
    assert_eq!(end, "");
    let step = |told: &str| {
        let (id, data) = told.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!((data["step"].as_str(), data["user"].is_null()), (Some("duplicateSkipped"), true));
        (id.strip_prefix("id: ").unwrap().parse().unwrap(), data["event"].as_str().unwrap().to_owned())
    };
    told.split("\n\n").map(step).collect()
}

#[actix_web::test]
async fn a_stream_has_what_was_and_then_what_happens() {
    let demo = demo();
    skip(&demo, 1);
    skip(&demo, 2);
    let mut body = watch_after(&demo, None).await;
    assert_eq!(steps(&mut body).await, [(1, "evt_1".to_owned()), (2, "evt_2".to_owned())]);
    skip(&demo, 3);
    assert_eq!(steps(&mut body).await, [(3, "evt_3".to_owned())]);
}

#[actix_web::test]
async fn who_comes_back_gets_what_was_missed() {
    let demo = demo();
    for number in 1..=3 {
        skip(&demo, number);
    }
    // The third is of a run before this one, the rest are no ids.
    for (last, first) in [("0", 1), ("2", 3), ("4", 1), ("-1", 1), ("x", 1), ("", 1)] {
        let mut body = watch_after(&demo, Some(last)).await;
        assert_eq!(steps(&mut body).await[0].0, first, "{last}");
    }
    let mut body = watch_after(&demo, Some("3")).await;
    skip(&demo, 4);
    assert_eq!(steps(&mut body).await, [(4, "evt_4".to_owned())]);
}

#[actix_web::test]
async fn a_stop_ends_every_stream() {
    let demo = demo();
    let mut body = watch_after(&demo, None).await;
    skip(&demo, 1);
    demo.stop();
    assert_eq!(piece(&mut body).await, None);
    assert_eq!(piece(&mut watch_after(&demo, None).await).await, None, "one that comes later");
}

#[actix_web::test]
async fn so_many_may_watch_and_one_who_leaves_makes_room() {
    let demo = demo();
    let mut watching = vec![];
    for _ in 0..STREAMS_MAX {
        watching.push(watch_after(&demo, None).await);
    }
    let refused = get(&demo, "/demo/activity").await;
    assert_eq!(header(&refused, "retry-after"), "5");
    assert_eq!(refusal(refused).await, (503, "UNAVAILABLE".to_owned()));
    watching.pop();
    watching.push(watch_after(&demo, None).await);
    assert_eq!(get(&demo, "/demo/activity").await.status(), 503);
}

#[actix_web::test]
async fn things_happen_to_whom_they_can_happen() {
    let demo = demo();
    assert_eq!(body(get(&demo, "/demo/life").await).await, json!({ "now": 1_800_000_000 }));
    let of = |user: &str, happening: &str| json!({ "userId": user, "happening": happening }).to_string();
    let done = post(&demo, "/demo/life", &of(USER, "monthPasses")).await;
    assert_eq!(body(done).await, json!({ "now": 1_800_000_000 }));
    let other = "1c9d5b7e-84f2-4a36-b0d8-63e7a2f4c592";
    let refused = refusal(post(&demo, "/demo/life", &of(other, "refund")).await).await;
    assert_eq!(refused, (409, "IMPOSSIBLE".to_owned()));
    for wrong in [of(USER, "miracle"), of("x", "refund"), "{}".to_owned()] {
        assert_eq!(refusal(post(&demo, "/demo/life", &wrong).await).await.0, 400, "{wrong}");
    }
    let portal = body(post(&demo, "/demo/portal", &json!({ "userId": USER }).to_string()).await).await;
    assert_eq!(portal["url"], "http://127.0.0.1:3002/p/session/bps_1?back=http://localhost:3000/");
}
