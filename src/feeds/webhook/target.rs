//! Where webhooks may be sent to: checks an endpoint's URL, and addresses, against what the operator allows.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use reqwest::Url;

use super::address::{self, Special};
use super::network::IpNetwork;

/// Longest URL of an endpoint, in characters.
pub const MAX_URL: usize = 2048;

/// What the operator allows beyond https to public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Plain http, where the network is trusted.
    pub allow_http: bool,
    /// Networks that are allowed although they are not public. A metadata service is allowed only by a network of just
    /// its address.
    pub allowed_private: Vec<IpNetwork>,
}

/// An address that webhooks must not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {special}; only public addresses and networks that the operator allows can be reached")]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    /// Why.
    pub special: Special,
}

impl Policy {
    /// Whether a connection to the address may be made.
    ///
    /// # Errors
    /// [`Refused`] if it is neither public nor in an allowed network.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let Some(special) = address::special(address) else {
            return Ok(());
        };
        let effective = address::effective(address);
        // Whoever allows 100.64.0.0/10 or fd00::/8 hardly means the credentials of the machine.
        let counts = |n: &&IpNetwork| special != Special::Metadata || n.is_single();
        let mut networks = self.allowed_private.iter().filter(counts);
        if networks.any(|network| network.contains(effective)) {
            Ok(())
        } else {
            Err(Refused { address, special })
        }
    }
}

/// The URL of an endpoint, checked. Its path and query may hold the receiver's credentials: they are not shown in
/// `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Url);

/// The URL cannot be that of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("url: it is longer than {MAX_URL} characters; shorten it")]
    TooLong,
    #[error("url: it is not an absolute URL with a host, such as https://example.com/hooks")]
    Malformed,
    #[error("url: it must begin with https://")]
    NotHttps,
    #[error("url: it must begin with https:// or http://")]
    NotHttp,
    #[error("url: leave out the user name and password; receivers verify the signature instead")]
    UserInfo,
    #[error("url: leave out the fragment (`#` and what follows); it is never sent")]
    Fragment,
    #[error("url: its host {0}")]
    Address(#[from] Refused),
}

impl Target {
    /// Reads and checks a URL. The host is checked only if it is an address, in whatever spelling; names are checked
    /// when they are resolved.
    ///
    /// # Errors
    /// [`TargetError`], which says what to change.
    pub fn parse(text: &str, policy: &Policy) -> Result<Self, TargetError> {
        if text.chars().count() > MAX_URL {
            return Err(TargetError::TooLong);
        }
        // A URL parser drops these silently.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(TargetError::Malformed);
        }
        let target = Self(Url::parse(text).map_err(|_| TargetError::Malformed)?);
        target.check(policy)?;
        Ok(target)
    }

    /// Checks the URL again, for the policy may have changed since it was parsed.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn check(&self, policy: &Policy) -> Result<(), TargetError> {
        let url = &self.0;
        match (url.scheme(), policy.allow_http) {
            ("https", _) | ("http", true) => {}
            (_, false) => return Err(TargetError::NotHttps),
            (_, true) => return Err(TargetError::NotHttp),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(TargetError::Fragment);
        }
        // Encoding may have made it longer than what was given.
        if url.as_str().len() > 3 * MAX_URL {
            return Err(TargetError::TooLong);
        }
        let host = url.host_str().ok_or(TargetError::Malformed)?;
        match literal(host) {
            Some(address) => Ok(policy.check(address)?),
            None => Ok(()),
        }
    }

    /// Scheme, host and port, such as `https://example.com`: what may be shown in logs.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// The whole URL, as it is stored and called.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

/// The host's address, if it is one. The URL parser has made `0x7f.1` and its like `127.0.0.1` (WHATWG URL, "IPv4
/// parser") and refused zone ids.
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.origin())
    }
}

#[cfg(test)]
mod tests;
