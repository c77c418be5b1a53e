//! The pay page's requests: what a buyer does becomes what happens to the session.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{CONTENT_SECURITY_POLICY, ContentType, HOST, LOCATION, ORIGIN},
    },
    web::{Bytes, Data, Path},
};
use url::{Url, form_urlencoded};

use super::{
    checkout::{self, Payment},
    disk::NotKept,
    objects::{Delayed, Payer, Recurring, Session, Status},
    pay_page::{
        self, Card, CardOutcome, DeclineReason, FieldError, FieldErrors, KeptFields, Method, PayState, PayView, render,
    },
    server::Site,
};

/// `GET /c/pay/{id}`
pub(super) async fn show(id: Path<String>, site: Data<Site>) -> HttpResponse {
    match find(&site, &id).await {
        Ok((session, email)) => page(StatusCode::OK, render(&view(&session, email))),
        Err(refusal) => refusal,
    }
}

/// `POST /c/pay/{id}`: the buyer pays. However often it comes, the session is paid once.
pub(super) async fn submit(request: HttpRequest, id: Path<String>, body: Bytes, site: Data<Site>) -> HttpResponse {
    if !is_same_origin(&request) {
        return foreign();
    }
    let (session, email) = match find(&site, &id).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    if session.status != Status::Open {
        return after(&session, email);
    }
    let fields: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let kept = KeptFields::of(&fields);
    let payment = match pay_page::read(&fields, chrono::Utc::now()) {
        Ok(Method::Card(CardOutcome::Approved(Card::FailsLater))) if session.amount() > 0 => {
            return declined(&site, DeclineReason::Generic, kept, &session, email);
        }
        Ok(Method::Card(CardOutcome::Approved(card))) => Payment::Now(card),
        Ok(Method::Card(CardOutcome::Declined(reason))) => return declined(&site, reason, kept, &session, email),
        Ok(Method::Delayed) => Payment::Later,
        Ok(Method::Free) if session.amount() == 0 => Payment::Now(Card::Pays),
        Ok(Method::Free) => {
            let errors = FieldErrors { method: Some(FieldError::NoMethod), ..FieldErrors::default() };
            return unusable(errors, kept, &session, email);
        }
        Err((errors, kept)) => {
            return unusable(errors, kept, &session, email);
        }
    };
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    let payer = Payer { email: said(kept.email), name: said(kept.name) };
    // `false` means that another click was quicker: all of them are answered alike.
    let (_is_first, receipt) = site.shared.change(|state| {
        let now = state.caught_up();
        checkout::complete(state, &id, payment, payer, now)
    });
    if let Err(error) = receipt.kept().await {
        return not_kept(&error);
    }
    match find(&site, &id).await {
        Ok((session, email)) => after(&session, email),
        Err(refusal) => refusal,
    }
}

/// The form says nothing that could be done: the buyer may correct it.
fn unusable(errors: FieldErrors, kept: KeptFields, session: &Session, email: Option<String>) -> HttpResponse {
    page(StatusCode::UNPROCESSABLE_ENTITY, render(&PayView { errors, kept, ..view(session, email) }))
}

/// The card did not pay: the buyer may try another one.
fn declined(
    site: &Site,
    reason: DeclineReason,
    kept: KeptFields,
    session: &Session,
    email: Option<String>,
) -> HttpResponse {
    checkout::decline(&site.shared.look(), &session.id);
    let state = PayState::Declined(reason.sentence().to_owned());
    page(StatusCode::PAYMENT_REQUIRED, render(&PayView { state, kept, ..view(session, email) }))
}

/// `POST /c/pay/{id}/settle`: the delayed payment arrives, or fails.
pub(super) async fn settle(request: HttpRequest, id: Path<String>, body: Bytes, site: Data<Site>) -> HttpResponse {
    if !is_same_origin(&request) {
        return foreign();
    }
    let outcome = form_urlencoded::parse(&body).find(|(name, _)| name == "outcome").map(|(_, value)| value);
    let succeeded = match outcome.as_deref() {
        Some("succeeded") => true,
        Some("failed") => false,
        _ => return sentence(StatusCode::BAD_REQUEST, "outcome must be succeeded or failed."),
    };
    // `false` means that it was settled before, which the page shows.
    let (_is_first, receipt) = site.shared.change(|state| {
        let now = state.caught_up();
        checkout::settle(state, &id, succeeded, now)
    });
    if let Err(error) = receipt.kept().await {
        return not_kept(&error);
    }
    match find(&site, &id).await {
        Ok((session, _)) => see(&format!("/c/pay/{}", session.id)),
        Err(refusal) => refusal,
    }
}

/// `GET /c/pay/{id}/cancel`: back to the shop. The session stays open, as Stripe's does.
pub(super) async fn cancel(id: Path<String>, site: Data<Site>) -> HttpResponse {
    match find(&site, &id).await {
        Ok((session, _)) => see(&cancel_url(&session)),
        Err(refusal) => refusal,
    }
}

/// `GET /c/assets/{path}`
pub(super) async fn asset(path: Path<String>) -> HttpResponse {
    match pay_page::asset(&path) {
        Some((kind, body)) => HttpResponse::Ok().content_type(kind).body(body),
        None => sentence(StatusCode::NOT_FOUND, "There is no such file."),
    }
}

/// A session as the file has it, and where its buyer can be written to, as far as that is known.
async fn find(site: &Site, id: &str) -> Result<(Session, Option<String>), HttpResponse> {
    let (found, receipt) = site.shared.change(|state| {
        // The timer may be late.
        state.caught_up();
        let session = state.sessions.get(id)?.clone();
        let email = checkout::known_email(state, &session);
        Some((session, email))
    });
    receipt.kept().await.map_err(|error| not_kept(&error))?;
    found.ok_or_else(|| sentence(StatusCode::NOT_FOUND, "There is no such payment page."))
}

/// Where a buyer goes whose session is no longer open.
fn after(session: &Session, email: Option<String>) -> HttpResponse {
    match (session.status, session.delayed) {
        (Status::Complete, None | Some(Delayed::Waiting | Delayed::Arrived)) => see(&session.success_url()),
        _ => page(StatusCode::OK, render(&view(session, email))),
    }
}

fn view(session: &Session, email: Option<String>) -> PayView {
    let (first, more) = match session.lines.as_slice() {
        [] => (None, 0),
        [first, more @ ..] => (Some(first), more.len()),
    };
    let name = first.map(|line| line.name.clone()).unwrap_or_default();
    let recurring = session.lines.iter().find_map(|line| line.recurring.as_ref());
    let name = match first.map_or(1, |line| line.quantity) {
        1 => name,
        quantity => format!("{quantity} × {name}"),
    };
    let name = if more == 0 { name } else { format!("{name} and {more} more") };
    let every = recurring.map(interval);
    let (name, every) = match (session.trial_days, every) {
        (Some(days), Some(every)) => {
            let price = pay_page::money(session.price(), &session.currency);
            (format!("{name}, {days} days free, then {price} per {every}"), None)
        }
        (_, every) => (name, every),
    };
    PayView {
        session_id: session.id.clone(),
        plan_name: name,
        amount_minor: session.amount(),
        currency: session.currency.clone(),
        interval: every,
        email,
        success_url: session.success_url(),
        cancel_url: cancel_url(session),
        state: state(session),
        errors: FieldErrors::default(),
        kept: KeptFields::default(),
    }
}

fn state(session: &Session) -> PayState {
    match (session.status, session.delayed) {
        (Status::Open, _) => PayState::Open,
        (Status::Expired, _) => PayState::Expired,
        (Status::Complete, None | Some(Delayed::Arrived)) => PayState::Paid,
        (Status::Complete, Some(Delayed::Waiting)) => PayState::Pending,
        (Status::Complete, Some(Delayed::Failed)) => PayState::Failed,
    }
}

pub(super) fn interval(recurring: &Recurring) -> String {
    match recurring.interval_count {
        1 => recurring.interval.clone(),
        count => format!("{count} {}s", recurring.interval),
    }
}

/// Where a shop has said nothing, there is nowhere to go back to but the page itself.
fn cancel_url(session: &Session) -> String {
    session.cancel_url.clone().unwrap_or_else(|| format!("/c/pay/{}", session.id))
}

/// Forms of other sites are not the buyer's will. A browser says where a form comes from; programs need not.
pub(super) fn is_same_origin(request: &HttpRequest) -> bool {
    let Some(origin) = request.headers().get(ORIGIN) else { return true };
    let host = request.headers().get(HOST).map(|host| [b"http://", host.as_bytes()].concat());
    host.is_some_and(|own| own == origin.as_bytes())
}

/// A page for a browser.
pub(super) fn page(status: StatusCode, html: String) -> HttpResponse {
    HttpResponse::build(status)
        .content_type(ContentType::html())
        .insert_header((CONTENT_SECURITY_POLICY, pay_page::CONTENT_SECURITY_POLICY))
        .body(html)
}

/// Sends the browser on.
pub(super) fn see(address: &str) -> HttpResponse {
    // As a header can hold it; an address on this site is no whole URL.
    let address = Url::parse(address).map_or_else(|_| address.to_owned(), String::from);
    HttpResponse::SeeOther().insert_header((LOCATION, address)).finish()
}

pub(super) fn not_kept(error: &NotKept) -> HttpResponse {
    sentence(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
}

pub(super) fn foreign() -> HttpResponse {
    sentence(StatusCode::FORBIDDEN, "This form was not sent from the payment page.")
}

pub(super) fn sentence(status: StatusCode, text: &str) -> HttpResponse {
    HttpResponse::build(status).content_type(ContentType::plaintext()).body(text.to_owned())
}
