//! How commands ask a running server: over its admin listener, so that they work beside it and its locked ledger.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use url::Url;

use crate::config::AdminConfig;

/// Longer than a server may take for one call.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Most rows of one answer of the server's.
const PAGE: u32 = 200;

/// Where the server's admin listener is.
#[derive(Debug, clap::Args)]
pub(super) struct Connection {
    /// Where the server's admin listener answers [default: as TOLLGATE_ADMIN_BIND says, else http://127.0.0.1:3001]
    #[arg(long, value_name = "URL", value_parser = super::server)]
    admin_url: Option<Url>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Asks one server.
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    token: Option<SecretString>,
}

/// What the server refuses something with.
#[derive(Debug, Deserialize, Serialize, thiserror::Error)]
#[error("{error} ({code})")]
pub(super) struct Refusal {
    error: String,
    pub(super) code: String,
}

impl Client {
    pub(super) fn new(connection: &Connection, config: AdminConfig) -> anyhow::Result<Self> {
        let url = connection.admin_url.clone().or(config.url);
        let url = url.context("TOLLGATE_ADMIN_BIND leaves the port open: say --admin-url http://<address>:<port>")?;
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // The token is for the listener alone.
            .no_proxy()
            .build()?;
        Ok(Self { http, url, token: config.token })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<T> {
        let mut url = self.at(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.ask(self.http.get(url)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.ask(self.http.post(self.at(path)).json(body)).await
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/api/admin/{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// # Errors
    /// A [`Refusal`], where it is one.
    async fn ask<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> anyhow::Result<T> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        };
        let answer = request.send().await.with_context(|| {
            format!("no answer from {}; is the server running? --admin-url or TOLLGATE_ADMIN_BIND say where", self.url)
        })?;
        let status = answer.status();
        let body = answer.bytes().await.context("the answer broke off")?;
        if status.is_success()
            && let Ok(answer) = serde_json::from_slice(&body)
        {
            return Ok(answer);
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) if status == reqwest::StatusCode::UNAUTHORIZED => {
                Err(anyhow!(refusal).context("set TOLLGATE_ADMIN_TOKEN to the server's"))
            }
            Ok(Refusal { error, code }) => Err(Refusal { error: plain(&error), code: plain(&code) }.into()),
            Err(_) => bail!("{} is no admin listener of this version: it answered {}", self.url, status.as_u16()),
        }
    }
}

/// Asks for pages until there are `limit` rows, or no more: the rows, and where the next page would begin.
pub(super) async fn pages<Place>(
    limit: u32,
    mut place: Option<Place>,
    page: impl AsyncFn(u32, Option<Place>) -> anyhow::Result<(Vec<Value>, Option<Place>)>,
) -> anyhow::Result<(Vec<Value>, Option<Place>)> {
    let (mut all, mut left) = (Vec::new(), limit);
    loop {
        let (rows, next) = page(left.min(PAGE), place).await?;
        left = left.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        all.extend(rows);
        if next.is_none() || left == 0 {
            return Ok((all, next));
        }
        place = next;
    }
}

/// A text that cannot command a terminal or begin a line: control characters as Rust writes them in a literal.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain
}

/// JSON that cannot either: it need not escape DEL and the C1 controls (U+0080 to U+009F), but terminals obey them.
pub(super) fn json(value: &impl Serialize, pretty: bool) -> anyhow::Result<String> {
    let text = if pretty { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    let is_obeyed = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !text.contains(is_obeyed) {
        return Ok(text);
    }
    let escaped = |c| if is_obeyed(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Ok(text.chars().map(escaped).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const HOSTILE: &str = "a\r\n\u{1b}[31m\u{7f}\u{9b}é";

    #[test]
    fn nothing_commands_a_terminal() {
        assert_eq!(plain(HOSTILE), "a\\r\\n\\u{1b}[31m\\u{7f}\\u{9b}é");
        for pretty in [false, true] {
            let text = json(&HOSTILE, pretty).unwrap();
            assert!(!text.contains(char::is_control), "{text:?}");
            assert_eq!(serde_json::from_str::<String>(&text).unwrap(), HOSTILE);
        }
    }
}
