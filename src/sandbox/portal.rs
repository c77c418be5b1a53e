//! The customer portal: a page on which a customer ends or keeps a subscription, changes its price and the card that pays. It is reached by
//! an address that only its customer was given, and takes no form that another site sends.

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Bytes, Data, Path},
};
use maud::{Markup, html};
use url::form_urlencoded;

use super::{
    billing,
    changes::{self, End, NewItem, Proration},
    happenings::{Cause, happen},
    objects::{Item, Method, Portal, Price, Standing, Subscription},
    pay::{foreign, interval, is_same_origin, not_kept, page, see, sentence},
    pay_page::{Card, document, money},
    server::Site,
    state::State,
};

/// What the page shows.
struct View {
    portal: Portal,
    card: Option<Card>,
    subscriptions: Vec<Subscription>,
    prices: Vec<Price>,
}

/// `GET /p/session/{id}`
pub(super) async fn show(id: Path<String>, site: Data<Site>) -> HttpResponse {
    let view = view(&site.shared.look(), &id);
    match view {
        Some(view) => page(StatusCode::OK, render(&view)),
        None => gone(),
    }
}

/// `POST /p/session/{id}`: what the customer wishes, in `wish`, for `subscription`.
pub(super) async fn submit(request: HttpRequest, id: Path<String>, body: Bytes, site: Data<Site>) -> HttpResponse {
    if !is_same_origin(&request) {
        return foreign();
    }
    let field = |name: &str| {
        let found = form_urlencoded::parse(&body).find(|(found, _)| found == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let (wish, subscription, price) = (field("wish"), field("subscription"), field("price"));
    let (done, receipt) = site.shared.change(|state| grant(state, &id, &wish, &subscription, &price));
    if let Err(error) = receipt.kept().await {
        return not_kept(&error);
    }
    match done {
        Some(true) => see(&format!("/p/session/{id}")),
        Some(false) => sentence(StatusCode::BAD_REQUEST, "This cannot be done now: look again."),
        None => gone(),
    }
}

fn gone() -> HttpResponse {
    sentence(StatusCode::NOT_FOUND, "There is no such portal page.")
}

fn view(state: &State, id: &str) -> Option<View> {
    let portal = state.portals.get(id)?.clone();
    let customer = state.customers.get(&portal.customer).filter(|customer| !customer.deleted)?;
    let of_customer = |subscription: &&Subscription| subscription.customer == customer.id;
    Some(View {
        card: customer.method.as_ref().map(|method| method.card),
        subscriptions: state.subscriptions.iter().rev().filter(of_customer).cloned().collect(),
        prices: changes::prices(state),
        portal,
    })
}

/// Does it. `false`: it cannot be done; `None`: there is no such page.
fn grant(state: &mut State, id: &str, wish: &str, subscription: &str, price: &str) -> Option<bool> {
    let now = state.caught_up();
    let View { portal, subscriptions, prices, .. } = view(state, id)?;
    let cause = Cause::at(state.time_of(Some(&portal.customer), now));
    let card = match wish {
        "pay_with_good_card" => Some(Card::Pays),
        "pay_with_failing_card" => Some(Card::FailsLater),
        _ => None,
    };
    if let Some(card) = card {
        billing::use_card(state, &portal.customer, &Method::new(card), &cause);
        return Some(true);
    }
    let own = subscriptions.into_iter().find(|own| own.id == subscription && !own.is_over());
    let Some(mut subscription) = own else { return Some(false) };
    match wish {
        "cancel" => changes::set_end(&mut subscription, End::Period, cause.now),
        "keep" => changes::set_end(&mut subscription, End::Never, cause.now),
        "change_price" => {
            let price = prices.into_iter().find(|known| known.id == price);
            let (Some(price), Some(item)) = (price, subscription.items.first()) else { return Some(false) };
            let items = vec![NewItem { id: Some(item.id.clone()), price, quantity: item.quantity }];
            changes::apply(state, subscription, items, Proration::AtOnce, false, &cause);
            return Some(true);
        }
        _ => return Some(false),
    }
    happen(state, "customer.subscription.updated", subscription, &cause);
    Some(true)
}

fn render(view: &View) -> String {
    let main = html! {
        section.side.summary aria-labelledby="what" {
            div.column {
                @if let Some(url) = &view.portal.return_url {
                    a.back href=(url) { span aria-hidden="true" { "← " } "Back to the shop" }
                }
                h1 #what { "Your subscriptions" }
                @if view.subscriptions.is_empty() { p { "There are none." } }
                @for subscription in &view.subscriptions { (facts(subscription)) }
            }
        }
        section.side.pay aria-labelledby="what-to-do" {
            div.column {
                h2 #what-to-do { "What you can change" }
                @for subscription in &view.subscriptions { (choices(view, subscription)) }
                (cards(view))
            }
        }
    };
    document("Your subscriptions (sandbox)", &main)
}

fn facts(subscription: &Subscription) -> Markup {
    html! {
        dl.lines {
            @for item in &subscription.items {
                div { dt { (item.price.name) } dd { (price(&item.price)) } }
            }
            div.total { dt { (standing(subscription)) } dd { (until(subscription)) } }
        }
    }
}

fn price(price: &Price) -> String {
    let every = price.recurring.as_ref().map(|recurring| format!(" per {}", interval(recurring)));
    format!("{}{}", money(price.unit_amount, &price.currency), every.unwrap_or_default())
}

fn standing(subscription: &Subscription) -> &'static str {
    match subscription.status {
        Standing::Trialing => "On trial",
        Standing::Active if subscription.cancel_at.is_some() => "Ends soon",
        Standing::Active => "Active",
        Standing::Incomplete => "Waits for its first payment",
        Standing::PastDue => "Payment overdue",
        Standing::Unpaid => "Not paid",
        Standing::Paused => "Paused",
        Standing::Canceled | Standing::IncompleteExpired => "Ended",
    }
}

fn until(subscription: &Subscription) -> String {
    let at = subscription.ended_at.or(subscription.cancel_at).unwrap_or(subscription.period_end);
    let day = chrono::DateTime::from_timestamp(at, 0).map(|at| at.format("%-d %B %Y").to_string());
    format!("until {}", day.unwrap_or_default())
}

fn choices(view: &View, subscription: &Subscription) -> Markup {
    let others = view.prices.iter().filter(|price| {
        let is_current = |of: &Item| changes::is_same(&of.price, price);
        price.currency == subscription.currency() && !subscription.items.iter().any(is_current)
    });
    html! {
        @if !subscription.is_over() {
            form.settle method="post" action={ "/p/session/" (view.portal.id) } {
                input type="hidden" name="subscription" value=(subscription.id);
                @if subscription.cancel_at.is_some() {
                    button.button name="wish" value="keep" { "Keep the subscription" }
                } @else {
                    button.button.quiet name="wish" value="cancel" { "Cancel at the end of the period" }
                }
            }
            @for other in others {
                form.settle method="post" action={ "/p/session/" (view.portal.id) } {
                    input type="hidden" name="subscription" value=(subscription.id);
                    input type="hidden" name="price" value=(other.id);
                    button.button.quiet name="wish" value="change_price" { "Change to " (other.name) ", " (price(other)) }
                }
            }
        }
    }
}

fn cards(view: &View) -> Markup {
    html! {
        form.settle method="post" action={ "/p/session/" (view.portal.id) } {
            @match view.card {
                Some(card) => p { "Paid with the card that ends in " code { (card.last4()) } "." },
                None => p { "There is no card yet." },
            }
            @if view.card == Some(Card::FailsLater) {
                button.button name="wish" value="pay_with_good_card" { "Pay with a card that works" }
            } @else {
                button.button.quiet name="wish" value="pay_with_failing_card" { "Pay with a card that fails" }
            }
        }
    }
}
