//! Which addresses of the internet webhooks may be sent to, by IANA's registries of special-purpose addresses
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, `…/iana-ipv6-special-registry`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::IpNetwork;

/// Why an address is not a public one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Special {
    #[error("a cloud provider's metadata or control service")]
    Metadata,
    #[error("an unspecified address or one of this host's own network")]
    Unspecified,
    #[error("a loopback address")]
    Loopback,
    #[error("a private address")]
    Private,
    #[error("an address of a carrier's shared network")]
    Shared,
    #[error("a link-local address")]
    LinkLocal,
    #[error("a multicast or broadcast address")]
    Multicast,
    #[error("an address for documentation")]
    Documentation,
    #[error("an address for benchmarks")]
    Benchmark,
    #[error("an address of a tunnel or translator, which hides another address")]
    Translated,
    #[error("a reserved address")]
    Reserved,
}

/// Services that give out credentials, also where their addresses look public or are within common allowances.
const METADATA: [IpNetwork; 8] = [
    IpNetwork::v4([169, 254, 169, 254], 32), // AWS, Azure, Google and most others
    IpNetwork::v4([169, 254, 170, 2], 32),   // AWS: credentials of ECS tasks
    IpNetwork::v4([169, 254, 170, 23], 32),  // AWS: EKS pod identity
    IpNetwork::v4([100, 100, 100, 200], 32), // Alibaba
    IpNetwork::v4([168, 63, 129, 16], 32),   // Azure's control service
    IpNetwork::only(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))), // AWS
    IpNetwork::only(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23))), // AWS: EKS pod identity
    IpNetwork::only(IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254))), // Google
];

const SPECIAL_V4: [(IpNetwork, Special); 16] = [
    (IpNetwork::v4([0, 0, 0, 0], 8), Special::Unspecified),
    (IpNetwork::v4([10, 0, 0, 0], 8), Special::Private),
    (IpNetwork::v4([100, 64, 0, 0], 10), Special::Shared),
    (IpNetwork::v4([127, 0, 0, 0], 8), Special::Loopback),
    (IpNetwork::v4([169, 254, 0, 0], 16), Special::LinkLocal),
    (IpNetwork::v4([172, 16, 0, 0], 12), Special::Private),
    (IpNetwork::v4([192, 0, 0, 0], 24), Special::Reserved),
    (IpNetwork::v4([192, 0, 2, 0], 24), Special::Documentation),
    (IpNetwork::v4([192, 88, 99, 0], 24), Special::Translated),
    (IpNetwork::v4([192, 168, 0, 0], 16), Special::Private),
    (IpNetwork::v4([198, 18, 0, 0], 15), Special::Benchmark),
    (IpNetwork::v4([198, 51, 100, 0], 24), Special::Documentation),
    (IpNetwork::v4([203, 0, 113, 0], 24), Special::Documentation),
    (IpNetwork::v4([224, 0, 0, 0], 4), Special::Multicast),
    (IpNetwork::v4([255, 255, 255, 255], 32), Special::Multicast),
    (IpNetwork::v4([240, 0, 0, 0], 4), Special::Reserved),
];

const SPECIAL_V6: [(IpNetwork, Special); 15] = [
    (
        IpNetwork::only(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        Special::Unspecified,
    ),
    (
        IpNetwork::only(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        Special::Loopback,
    ),
    (IpNetwork::v6([0, 0, 0, 0], 64), Special::Translated), // ::a.b.c.d, ::ffff:0:a.b.c.d
    (IpNetwork::v6([0x64, 0xff9b, 1, 0], 48), Special::Translated), // NAT64 for local use, RFC 8215
    (IpNetwork::v6([0x100, 0, 0, 0], 64), Special::Reserved), // to be discarded, RFC 6666
    (IpNetwork::v6([0x2001, 0, 0, 0], 32), Special::Translated), // Teredo
    (IpNetwork::v6([0x2001, 2, 0, 0], 48), Special::Benchmark),
    (IpNetwork::v6([0x2001, 0, 0, 0], 23), Special::Reserved), // protocol assignments
    (IpNetwork::v6([0x2001, 0xdb8, 0, 0], 32), Special::Documentation),
    (IpNetwork::v6([0x2002, 0, 0, 0], 16), Special::Translated), // 6to4
    (IpNetwork::v6([0x3fff, 0, 0, 0], 20), Special::Documentation), // RFC 9637
    (IpNetwork::v6([0xfc00, 0, 0, 0], 7), Special::Private),     // unique-local
    (IpNetwork::v6([0xfe80, 0, 0, 0], 10), Special::LinkLocal),
    (IpNetwork::v6([0xfec0, 0, 0, 0], 10), Special::Private), // site-local, withdrawn
    (IpNetwork::v6([0xff00, 0, 0, 0], 8), Special::Multicast),
];

/// All IPv6 addresses that are given out for the internet so far lie here (RFC 4291 section 2.4).
const GLOBAL_V6: IpNetwork = IpNetwork::v6([0x2000, 0, 0, 0], 3);
/// NAT64 (RFC 6052): how networks without IPv4 reach IPv4, so it counts as the address in its last 32 bits.
const NAT64: IpNetwork = IpNetwork::v6([0x64, 0xff9b, 0, 0], 96);

/// The address that a packet goes to in the end: IPv4 that is written as IPv6, by mapping or NAT64, is IPv4.
pub fn effective(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if NAT64.contains(v6.into()) => Ipv4Addr::from_bits(v6.to_bits() as u32).into(),
        other => other,
    }
}

/// Why this is no public address; `None` if it is one.
pub fn special(address: IpAddr) -> Option<Special> {
    let address = effective(address);
    if METADATA.iter().any(|network| network.contains(address)) {
        return Some(Special::Metadata);
    }
    let find = |table: &[(IpNetwork, Special)]| {
        table
            .iter()
            .find(|(network, _)| network.contains(address))
            .map(|(_, special)| *special)
    };
    match address {
        IpAddr::V4(_) => find(&SPECIAL_V4),
        IpAddr::V6(_) => {
            find(&SPECIAL_V6).or_else(|| (!GLOBAL_V6.contains(address)).then_some(Special::Reserved))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bits_beyond_the_prefix() {
        let named = SPECIAL_V4.iter().chain(&SPECIAL_V6).map(|(network, _)| network);
        for network in named.chain(&METADATA).chain([&GLOBAL_V6, &NAT64]) {
            assert_eq!(network.to_string().parse(), Ok(*network));
        }
    }

    #[test]
    fn kinds_of_addresses() {
        use Special::*;
        for (address, expected) in [
            ("93.184.215.14", None),
            ("0.0.0.0", Some(Unspecified)),
            ("0.1.2.3", Some(Unspecified)),
            ("1.1.1.1", None),
            ("9.255.255.255", None),
            ("10.0.0.0", Some(Private)),
            ("10.255.255.255", Some(Private)),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(Shared)),
            ("100.127.255.255", Some(Shared)),
            ("100.128.0.0", None),
            ("100.100.100.200", Some(Metadata)),
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("168.63.129.16", Some(Metadata)),
            ("169.254.0.1", Some(LinkLocal)),
            ("169.254.169.254", Some(Metadata)),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Private)),
            ("172.31.255.255", Some(Private)),
            ("172.32.0.0", None),
            ("192.0.0.192", Some(Reserved)),
            ("192.0.2.1", Some(Documentation)),
            ("192.88.99.1", Some(Translated)),
            ("192.168.255.255", Some(Private)),
            ("192.169.0.0", None),
            ("198.17.255.255", None),
            ("198.18.0.0", Some(Benchmark)),
            ("198.19.255.255", Some(Benchmark)),
            ("198.20.0.0", None),
            ("198.51.100.9", Some(Documentation)),
            ("203.0.113.9", Some(Documentation)),
            ("223.255.255.255", None),
            ("224.0.0.1", Some(Multicast)),
            ("239.255.255.255", Some(Multicast)),
            ("240.0.0.1", Some(Reserved)),
            ("255.255.255.255", Some(Multicast)),
            ("2606:4700:4700::1111", None),
            ("2a00:1450::1", None),
            ("::", Some(Unspecified)),
            ("::1", Some(Loopback)),
            ("::2", Some(Translated)),
            ("::7f00:1", Some(Translated)),
            ("::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:1.1.1.1", None),
            ("::ffff:0:127.0.0.1", Some(Translated)),
            ("64:ff9b::1.1.1.1", None),
            ("64:ff9b::10.0.0.1", Some(Private)),
            ("64:ff9b::169.254.169.254", Some(Metadata)),
            ("64:ff9b:0:1::1", Some(Reserved)),
            ("64:ff9b:1::1.1.1.1", Some(Translated)),
            ("100::1", Some(Reserved)),
            ("2001::1", Some(Translated)),
            ("2001:2::1", Some(Benchmark)),
            ("2001:10::1", Some(Reserved)),
            ("2001:1ff::1", Some(Reserved)),
            ("2001:200::1", None),
            ("2001:db8::1", Some(Documentation)),
            ("2002:7f00:1::", Some(Translated)),
            ("2002:101:101::1", Some(Translated)),
            ("3fff::1", Some(Documentation)),
            ("3fff:1000::1", None),
            ("4000::1", Some(Reserved)),
            ("5f00::1", Some(Reserved)),
            ("fc00::1", Some(Private)),
            ("fdff::1", Some(Private)),
            ("fd00:ec2::254", Some(Metadata)),
            ("fe80::1", Some(LinkLocal)),
            ("febf::1", Some(LinkLocal)),
            ("fec0::1", Some(Private)),
            ("ff02::1", Some(Multicast)),
        ] {
            assert_eq!(special(address.parse().unwrap()), expected, "{address}");
        }
    }
}
