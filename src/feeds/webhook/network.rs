//! Networks in CIDR notation (RFC 4632, RFC 4291 section 2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// All addresses that share the first bits of `address`, such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpNetwork {
    address: IpAddr,
    /// How many bits are shared: 0 to 32, or 0 to 128.
    bits: u8,
}

/// The text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// Not an address, or too many bits for it.
    #[error("network: write it in CIDR notation, such as 10.0.0.0/8, fd00::/8 or 192.0.2.7")]
    Form,
    /// Bits are set that the network leaves open, so it is not clear what is meant. Holds what it would be without.
    #[error("network: the address has bits set beyond the first {}; did you mean {}?", .0.bits, .0)]
    HostBits(IpNetwork),
    /// IPv4 written as IPv6 would never match: addresses are compared as IPv4.
    #[error("network: write IPv4 networks as IPv4, such as 10.0.0.0/8, not below ::ffff:0:0/96")]
    Mapped,
}

impl IpNetwork {
    /// For constants: the caller vouches that no bits are set beyond `bits`.
    pub(crate) const fn v4(address: [u8; 4], bits: u8) -> Self {
        let [a, b, c, d] = address;
        Self {
            address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            bits,
        }
    }

    /// As [`IpNetwork::v4`], with the leading 16-bit groups of the address; the others are zero.
    pub(crate) const fn v6(leading: [u16; 4], bits: u8) -> Self {
        let [a, b, c, d] = leading;
        Self {
            address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)),
            bits,
        }
    }

    /// The network of this address alone.
    pub(crate) const fn only(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self { address, bits }
    }

    /// Whether the network is one address.
    pub const fn is_single(&self) -> bool {
        self.bits == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether the address lies in the network. IPv4 written as IPv6 is IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(n), IpAddr::V4(a)) => (n.to_bits() ^ a.to_bits()) & mask4(self.bits) == 0,
            (IpAddr::V6(n), IpAddr::V6(a)) => (n.to_bits() ^ a.to_bits()) & mask6(self.bits) == 0,
            _ => false,
        }
    }

    fn masked(self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & mask4(self.bits)).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & mask6(self.bits)).into(),
        };
        Self { address, ..self }
    }
}

fn mask4(bits: u8) -> u32 {
    !u32::MAX.checked_shr(bits.into()).unwrap_or(0)
}

fn mask6(bits: u8) -> u128 {
    !u128::MAX.checked_shr(bits.into()).unwrap_or(0)
}

impl FromStr for IpNetwork {
    type Err = InvalidNetwork;
    /// A bare address is the network of that address alone.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let whole = Self::only(address.parse().map_err(|_| InvalidNetwork::Form)?);
        let bits = match bits {
            None => whole.bits,
            Some(b) if b.bytes().all(|b| b.is_ascii_digit()) => {
                b.parse().map_err(|_| InvalidNetwork::Form)?
            }
            Some(_) => return Err(InvalidNetwork::Form),
        };
        if bits > whole.bits {
            return Err(InvalidNetwork::Form);
        }
        let network = Self { bits, ..whole };
        if network.address.to_canonical() != network.address {
            Err(InvalidNetwork::Mapped)
        } else if network.masked() != network {
            Err(InvalidNetwork::HostBits(network.masked()))
        } else {
            Ok(network)
        }
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_network() {
        for (network, address, within) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::a00:1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("192.0.2.6/31", "192.0.2.7", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "10.0.0.1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fc00::1", false),
            ("::1", "::1", true),
            ("2001:db8::/33", "2001:db8:8000::", false),
        ] {
            let network: IpNetwork = network.parse().unwrap();
            assert_eq!(
                network.contains(address.parse().unwrap()),
                within,
                "{network} {address}"
            );
        }
    }

    #[test]
    fn what_is_no_network() {
        for (text, remedy) in [
            ("", "CIDR"),
            ("10.0.0.0/", "CIDR"),
            ("10.0.0.0/33", "CIDR"),
            ("10.0.0.0/+8", "CIDR"),
            ("10.0.0.0/256", "CIDR"),
            ("10.0.0/8", "CIDR"),
            ("fe80::1%eth0", "CIDR"),
            ("fd00::/129", "CIDR"),
            ("localhost", "CIDR"),
            ("10.1.0.0/8", "did you mean 10.0.0.0/8?"),
            ("fd00::1/8", "did you mean fd00::/8?"),
            ("::ffff:10.0.0.0/104", "as IPv4"),
        ] {
            let error = text.parse::<IpNetwork>().unwrap_err().to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }
}
