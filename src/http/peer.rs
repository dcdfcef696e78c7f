//! From where a request comes: the peer's address, or what a trusted proxy says it is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::HeaderMap;
use axum::http::request::Parts;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address. `X-Forwarded-For` counts only from trusted proxies.
pub fn client_ip(parts: &Parts, trusted: &[IpAddr]) -> IpAddr {
    let peer = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(a)| {
            a.ip().to_canonical()
        });
    resolve(peer, &parts.headers, trusted)
}

/// Each proxy adds the address it saw at the right. So, from the right, the first that is not a proxy of ours is the
/// client; what stands left of it anybody may have written.
fn resolve(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    let mut client = peer;
    if trusted.is_empty() {
        return client;
    }
    let values: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
    let hops = values
        .iter()
        .rev()
        .flat_map(|v| v.to_str().unwrap_or("?").rsplit(','));
    for hop in hops {
        if !trusted.contains(&client) {
            break;
        }
        match parse(hop.trim()) {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client
}

/// An address, with or without port, in brackets or not.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for f in forwarded {
            headers.append(FORWARDED_FOR, f.parse().unwrap());
        }
        let trusted: Vec<IpAddr> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        resolve(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn the_header_counts_only_from_trusted_proxies() {
        for (peer, forwarded, trusted, expected) in [
            ("192.0.2.9", &["203.0.113.1"][..], &[][..], "192.0.2.9"),
            ("192.0.2.9", &["203.0.113.1"], &["10.0.0.1"], "192.0.2.9"),
            ("10.0.0.1", &["203.0.113.1"], &["10.0.0.1"], "203.0.113.1"),
            (
                "10.0.0.1",
                &["6.6.6.6, 203.0.113.1"],
                &["10.0.0.1"],
                "203.0.113.1",
            ),
            (
                "10.0.0.1",
                &["6.6.6.6, 203.0.113.1, 10.0.0.2"],
                &["10.0.0.1", "10.0.0.2"],
                "203.0.113.1",
            ),
            (
                "10.0.0.1",
                &["6.6.6.6", "203.0.113.1"],
                &["10.0.0.1"],
                "203.0.113.1",
            ),
            ("10.0.0.1", &["nonsense"], &["10.0.0.1"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1, nonsense"], &["10.0.0.1"], "10.0.0.1"),
            ("10.0.0.1", &[], &["10.0.0.1"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1:4711"], &["10.0.0.1"], "203.0.113.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], &["10.0.0.1"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], &["10.0.0.1"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:203.0.113.1"], &["10.0.0.1"], "203.0.113.1"),
        ] {
            assert_eq!(client(peer, forwarded, trusted), expected, "{peer} {forwarded:?}");
        }
    }
}
