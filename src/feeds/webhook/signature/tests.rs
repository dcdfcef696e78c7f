use super::*;

/// The example secret of the published libraries' own tests.
const KNOWN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const KNOWN_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";

fn secret(byte: u8, length: usize) -> Secret {
    Secret::new(vec![byte; length]).unwrap()
}

fn sign(signer: &Signer, id: &str, seconds: i64, body: &str) -> Vec<String> {
    let at = Timestamp::from_millis(seconds * 1000 + 999);
    signer
        .sign(&id.parse().unwrap(), at, body.as_bytes())
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect()
}

#[test]
fn known_signature() {
    let signer = Signer::new(&KNOWN.parse().unwrap(), &[]);
    assert_eq!(
        sign(&signer, KNOWN_ID, 1_614_265_330, "{\"test\": 2432232314}"),
        [
            "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp: 1614265330",
            "webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ]
    );
}

#[test]
fn each_part_is_signed() {
    let signer = Signer::new(&secret(1, 32), &[]);
    let original = sign(&signer, "a", 1, "body").pop();
    for (id, seconds, body) in [("b", 1, "body"), ("a", 2, "body"), ("a", 1, "bodY"), ("a", 1, "")] {
        assert_ne!(
            sign(&signer, id, seconds, body).pop(),
            original,
            "{id} {seconds} {body}"
        );
    }
    assert_eq!(sign(&signer, "a", 1, "body").pop(), original);
}

#[test]
fn during_a_rotation_each_secret_signs_and_the_newest_comes_first() {
    let (new, old) = (secret(1, 24), secret(2, 64));
    let one = |s: &Secret| {
        let header = sign(&Signer::new(s, &[]), "a", 1, "x").pop().unwrap();
        header.replace("webhook-signature: ", "")
    };
    let both = sign(&Signer::new(&new, std::slice::from_ref(&old)), "a", 1, "x");
    assert_eq!(both[2], format!("webhook-signature: {} {}", one(&new), one(&old)));
}

#[test]
fn secrets_have_24_to_64_bytes() {
    for (length, fits) in [
        (0, false),
        (23, false),
        (24, true),
        (64, true),
        (65, false),
        (1000, false),
    ] {
        let made = Secret::new(vec![7; length]);
        let expected = if fits {
            Ok(())
        } else {
            Err(InvalidSecret::Length(length))
        };
        assert_eq!(made.map(|_| ()), expected, "{length}");
    }
}

#[test]
fn a_secret_is_read_as_it_is_revealed() {
    for length in Secret::MIN..=Secret::MAX {
        let original = secret(0xfb, length);
        let read: Secret = original.reveal().parse().unwrap();
        assert_eq!(read.expose(), original.expose());
    }
    assert_eq!(*KNOWN.parse::<Secret>().unwrap().reveal(), KNOWN);
}

#[test]
fn other_texts_are_no_secrets() {
    use InvalidSecret::{Form, Length};
    let long = format!("whsec_{}", "A".repeat(92));
    let sixty_six = format!("whsec_{}", "A".repeat(88));
    for (text, error) in [
        ("", Form),
        ("whsec_", Length(0)),
        ("whsec_AAAA", Length(3)),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Form),
        ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Form),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", Form),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_", Form),
        (" whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Form),
        (long.as_str(), Form),
        (sixty_six.as_str(), Length(66)),
    ] {
        assert_eq!(text.parse::<Secret>().map(|_| ()), Err(error), "{text}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let secret: Secret = KNOWN.parse().unwrap();
    assert_eq!(format!("{secret:?}"), "Secret");
    let signer = Signer::new(&secret, &[]);
    assert_eq!(format!("{signer:?}"), "Signer(1 secrets)");
    let error = KNOWN[..20].parse::<Secret>().unwrap_err().to_string();
    assert!(!error.contains("MfKQ"), "{error}");
}

#[test]
fn ids_have_no_full_stop() {
    let longest = "x".repeat(128);
    let longer = "x".repeat(129);
    for (text, fits) in [
        ("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", true),
        ("01890a5d-ac96-774b-bcce-b302099a8057", true),
        (longest.as_str(), true),
        (longer.as_str(), false),
        ("", false),
        ("a.b", false),
        ("a b", false),
        ("a\r\nb", false),
        ("ä", false),
    ] {
        assert_eq!(text.parse::<MessageId>().is_ok(), fits, "{text}");
    }
}
