//! From which address somebody asks, and how often.
//!
//! Behind a proxy every request comes from the proxy. What it says of the client (`X-Forwarded-For`) is believed of proxies that
//! are named in the settings alone: anybody else may write what he likes.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use actix_web::{
    HttpRequest,
    http::header::{HeaderMap, HeaderName},
};
use ipnet::IpNet;

use crate::billing::{CheckoutError, limit::Limit};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Knows clients by their addresses, and how often they had Stripe asked.
pub struct Clients {
    proxies: Vec<IpNet>,
    checkouts: Limit<IpAddr>,
    portals: Limit<IpAddr>,
    lookups: Limit<IpAddr>,
}

impl Clients {
    /// Believes these proxies, and lets one address open so many sessions, and as many portals.
    #[must_use]
    pub fn new(proxies: &[IpNet], per_minute: NonZeroU32) -> Self {
        Self {
            proxies: proxies.to_vec(),
            checkouts: Limit::per_minute(per_minute),
            portals: Limit::per_minute(per_minute),
            lookups: Limit::of_lookups(per_minute),
        }
    }

    /// Lets a client open a session who has not opened too many.
    ///
    /// # Errors
    /// Too often.
    pub(super) fn may_check_out(&self, request: &HttpRequest) -> Result<(), CheckoutError> {
        self.check(request, &self.checkouts)
    }

    /// The same for the portal.
    ///
    /// # Errors
    /// Too often.
    pub(super) fn may_open_portal(&self, request: &HttpRequest) -> Result<(), CheckoutError> {
        self.check(request, &self.portals)
    }

    /// The same for asking Stripe how a session stands.
    ///
    /// # Errors
    /// Too often.
    pub(super) fn may_look_up(&self, request: &HttpRequest) -> Result<(), CheckoutError> {
        self.check(request, &self.lookups)
    }

    fn check(&self, request: &HttpRequest, limit: &Limit<IpAddr>) -> Result<(), CheckoutError> {
        let peer = request.peer_addr().map(|peer| peer.ip());
        let Some(site) = peer.and_then(|peer| site_of(self.client(peer, request.headers()))) else { return Ok(()) };
        limit.check(site).inspect_err(|_| {
            let passed_on = request.headers().contains_key(X_FORWARDED_FOR);
            tracing::warn!(peer = peer.map(tracing::field::display), passed_on, "an address asks too often");
        })
    }

    /// The nearest address that is no proxy of ours: what stands further to the left was written by whoever is there.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        let lines: Vec<_> = headers.get_all(X_FORWARDED_FOR).map(|line| line.to_str().unwrap_or_default()).collect();
        for word in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            if !self.proxies.iter().any(|proxy| proxy.contains(&nearest)) {
                break;
            }
            match word.trim().parse::<IpAddr>() {
                Ok(address) => nearest = address.to_canonical(),
                Err(_) => break,
            }
        }
        nearest
    }
}

/// What counts as one: of IPv6 the network that a household has. `None` for addresses of private networks: a proxy that is not
/// named or a server of ours, behind which there may be anybody.
fn site_of(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() || v4.is_private() || v4.is_link_local() => None,
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() => None,
        IpAddr::V4(v4) => Some(v4.into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_named_proxies_are_believed() {
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let clients = Clients::new(&proxies, NonZeroU32::MIN);
        for (peer, forwarded, client) in [
            ("203.0.113.9", vec![], "203.0.113.9"),
            ("203.0.113.9", vec!["198.51.100.1"], "203.0.113.9"),
            ("10.0.0.1", vec!["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", vec!["::ffff:198.51.100.1"], "198.51.100.1"),
            ("2001:db8::1", vec!["2001:db9::7"], "2001:db9::7"),
            // What the client wrote himself stands further to the left.
            ("10.0.0.1", vec!["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", vec!["1.1.1.1", "198.51.100.1 , 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", vec!["10.0.0.3,10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", vec!["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", vec!["1.1.1.1, 198.51.100.1:80"], "10.0.0.1"),
            ("10.0.0.1", vec![""], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in &forwarded {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(clients.client(address(peer), &headers), address(client), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn what_counts_as_one() {
        for private in ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.1.1", "::1", "fd00::1", "fe80::1"] {
            assert_eq!(site_of(address(private)), None, "{private}");
        }
        assert_eq!(site_of(address("203.0.113.9")), Some(address("203.0.113.9")));
        assert_eq!(site_of(address("2001:db8:1:2:3:4:5:6")), Some(address("2001:db8:1:2::")));
    }
}
