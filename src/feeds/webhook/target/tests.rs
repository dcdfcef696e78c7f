use super::*;

fn policy(allow_http: bool, networks: &[&str]) -> Policy {
    Policy {
        allow_http,
        allowed_private: networks.iter().map(|n| n.parse().unwrap()).collect(),
    }
}

fn refused(address: &str, special: Special) -> TargetError {
    TargetError::Address(Refused {
        address: address.parse().unwrap(),
        special,
    })
}

#[test]
fn shape() {
    use TargetError::*;
    let plain = Policy::default();
    let http = policy(true, &[]);
    for (text, policy, expected) in [
        ("https://example.com", &plain, Ok("https://example.com/")),
        (
            "https://example.com/a?b=c",
            &plain,
            Ok("https://example.com/a?b=c"),
        ),
        ("https://example.com:1/", &plain, Ok("https://example.com:1/")),
        ("https://EXAMPLE.com:443/", &plain, Ok("https://example.com/")),
        (
            "https://bücher.example/",
            &plain,
            Ok("https://xn--bcher-kva.example/"),
        ),
        ("https://1.1.1.1/", &plain, Ok("https://1.1.1.1/")),
        ("http://example.com/", &plain, Err(NotHttps)),
        ("http://example.com/", &http, Ok("http://example.com/")),
        ("https://example.com/", &http, Ok("https://example.com/")),
        ("ftp://example.com/", &plain, Err(NotHttps)),
        ("ftp://example.com/", &http, Err(NotHttp)),
        ("file:///etc/passwd", &http, Err(NotHttp)),
        ("data:text/plain,x", &http, Err(NotHttp)),
        ("unix:/run/docker.sock", &http, Err(NotHttp)),
        ("https://user@example.com/", &plain, Err(UserInfo)),
        ("https://:pw@example.com/", &plain, Err(UserInfo)),
        ("https://1.1.1.1@127.0.0.1/", &plain, Err(UserInfo)),
        ("https://example.com/#", &plain, Err(Fragment)),
        ("https://example.com/#a", &plain, Err(Fragment)),
        ("", &plain, Err(Malformed)),
        ("example.com/hooks", &plain, Err(Malformed)),
        ("/hooks", &plain, Err(Malformed)),
        ("https://", &plain, Err(Malformed)),
        ("https://example.com:65536/", &plain, Err(Malformed)),
        (" https://example.com/", &plain, Err(Malformed)),
        ("https://exa\tmple.com/", &plain, Err(Malformed)),
        ("https://example.com/a\r\nb", &plain, Err(Malformed)),
        ("https://exa%00mple.com/", &plain, Err(Malformed)),
        ("https://[fe80::1%25eth0]/", &plain, Err(Malformed)),
        ("https://[fe80::1%eth0]/", &plain, Err(Malformed)),
        ("https://1.2.3.4.5/", &plain, Err(Malformed)),
        ("https://256.1.1.1/", &plain, Err(Malformed)),
    ] {
        let parsed = Target::parse(text, policy);
        let expected = expected.map(str::to_owned);
        assert_eq!(parsed.map(|t| t.url().to_string()), expected, "{text}");
    }
}

#[test]
fn length() {
    let of = |n: usize, c: &str| {
        let text = format!("https://example.com/{}", c.repeat(n - 20));
        Target::parse(&text, &Policy::default()).map(|_| ())
    };
    assert_eq!(of(2048, "a"), Ok(()));
    assert_eq!(of(2049, "a"), Err(TargetError::TooLong));
    assert_eq!(of(2048, "🦊"), Err(TargetError::TooLong));
}

#[test]
fn every_spelling_of_an_address_is_checked() {
    use Special::*;
    for (host, address, special) in [
        ("127.0.0.1", "127.0.0.1", Loopback),
        ("127.0.0.1.", "127.0.0.1", Loopback),
        ("127.1", "127.0.0.1", Loopback),
        ("0x7f.1", "127.0.0.1", Loopback),
        ("0X7F.0.0.0x1", "127.0.0.1", Loopback),
        ("0177.0.0.01", "127.0.0.1", Loopback),
        ("2130706433", "127.0.0.1", Loopback),
        ("0x7f000001", "127.0.0.1", Loopback),
        ("017700000001", "127.0.0.1", Loopback),
        ("%31%32%37.0.0.1", "127.0.0.1", Loopback),
        ("127。0。0。1", "127.0.0.1", Loopback),
        ("①②⑦.0.0.1", "127.0.0.1", Loopback),
        ("0", "0.0.0.0", Unspecified),
        ("0xa9fea9fe", "169.254.169.254", Metadata),
        ("10.1", "10.0.0.1", Private),
        ("[::1]", "::1", Loopback),
        ("[0:0:0:0:0:0:0:1]", "::1", Loopback),
        ("[::]", "::", Unspecified),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1", Loopback),
        ("[::ffff:7f00:1]", "::ffff:127.0.0.1", Loopback),
        ("[::127.0.0.1]", "::127.0.0.1", Translated),
        ("[64:ff9b::a9fe:a9fe]", "64:ff9b::a9fe:a9fe", Metadata),
        ("[2002:7f00:1::]", "2002:7f00:1::", Translated),
        ("[fe80::1]", "fe80::1", LinkLocal),
        ("[fd00:ec2::254]", "fd00:ec2::254", Metadata),
    ] {
        let parsed = Target::parse(&format!("https://{host}:8443/"), &Policy::default());
        assert_eq!(parsed, Err(refused(address, special)), "{host}");
    }
}

#[test]
fn allowed_networks() {
    for (networks, address, allowed) in [
        (&[][..], "10.0.0.1", false),
        (&["10.0.0.0/8"], "10.0.0.1", true),
        (&["10.0.0.0/8"], "::ffff:10.0.0.1", true),
        (&["10.0.0.0/8"], "64:ff9b::10.0.0.1", true),
        (&["10.0.0.0/8"], "192.168.0.1", false),
        (&["fd00::/8", "127.0.0.1"], "127.0.0.1", true),
        (&["fd00::/8", "127.0.0.1"], "127.0.0.2", false),
        (&["fd00::/8"], "fd12::1", true),
        (&["fd00::/8"], "fd00:ec2::254", false),
        (&["fd00:ec2::254"], "fd00:ec2::254", true),
        (&["0.0.0.0/0"], "169.254.169.254", false),
        (&["0.0.0.0/0"], "127.0.0.1", true),
        (&["0.0.0.0/0"], "::1", false),
        (&["169.254.169.254/32"], "169.254.169.254", true),
        (&["10.0.0.0/8"], "1.1.1.1", true),
    ] {
        let policy = policy(false, networks);
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(policy.check(address).is_ok(), allowed, "{networks:?} {address}");
    }
}

#[test]
fn a_changed_policy_counts() {
    let lax = policy(true, &["127.0.0.0/8"]);
    let target = Target::parse("http://127.0.0.1/", &lax).unwrap();
    assert_eq!(target.check(&lax), Ok(()));
    assert_eq!(target.check(&Policy::default()), Err(TargetError::NotHttps));
    assert_eq!(
        target.check(&policy(true, &[])),
        Err(refused("127.0.0.1", Special::Loopback))
    );
}

#[test]
fn what_may_be_a_credential_is_not_shown() {
    let target = Target::parse("https://example.com:8443/T0K3N?key=T0K3N", &Policy::default()).unwrap();
    assert_eq!(format!("{target:?}"), "Target(https://example.com:8443)");
}

#[test]
fn errors_say_what_to_do() {
    let error = Target::parse("https://0x7f.1/", &Policy::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "url: its host 127.0.0.1 is a loopback address; only public addresses and networks that the operator allows \
         can be reached"
    );
}
