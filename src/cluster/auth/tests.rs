use uuid::Uuid;

use super::*;
use crate::cluster::COMMANDS;

const ME: NodeId = NodeId(Uuid::from_u128(1));
const BODY: &[u8] = b"\x01{}";
const NOON: Timestamp = Timestamp::from_millis(1_795_000_000_000);

fn secret(byte: u8) -> ClusterSecret {
    ClusterSecret::parse(hex::encode([byte; 32]).as_bytes()).unwrap()
}

fn gate() -> Gate {
    Gate::new(ME, &secret(7))
}

fn signed(to: NodeId, at: Timestamp) -> (String, Sent) {
    let keys = ClusterKeys::new(&secret(7));
    keys.sign(to, "POST", COMMANDS, BODY, at).unwrap()
}

fn check(gate: &Gate, header: &str, now: Timestamp) -> Result<Result<(), Refused>, NotANode> {
    gate.check("POST", COMMANDS, Some(header), BODY, now)
        .map(|(_, verdict)| verdict)
}

fn seconds(n: i64) -> Timestamp {
    Timestamp::from_millis(NOON.millis() + 1000 * n)
}

#[test]
fn what_a_node_signs_is_taken_once() {
    let gate = gate();
    let (header, _) = signed(ME, NOON);
    assert_eq!(check(&gate, &header, NOON), Ok(Ok(())));
    for later in [0, 1, 29, 30] {
        assert_eq!(check(&gate, &header, seconds(later)), Ok(Err(Refused::Replayed)));
    }
    assert_eq!(check(&gate, &signed(ME, NOON).0, NOON), Ok(Ok(())));
}

#[test]
fn what_is_not_as_it_was_signed_is_forged() {
    let gate = gate();
    let (header, _) = signed(ME, NOON);
    let forged = |method, path, header: &str, body| {
        let checked = gate.check(method, path, Some(header), body, NOON);
        assert_eq!(checked.err(), Some(NotANode::Forged), "{method} {path} {header}");
    };
    forged("PUT", COMMANDS, &header, BODY);
    forged("POST", "/internal/v1/other", &header, BODY);
    forged("POST", COMMANDS, &header, b"\x01{ }");
    forged("POST", COMMANDS, &header, b"");
    forged("POST", COMMANDS, &header.replace("at=17", "at=18"), BODY);
    let other = NodeId(Uuid::from_u128(2));
    forged(
        "POST",
        COMMANDS,
        &header.replace(&ME.to_string(), &other.to_string()),
        BODY,
    );
    let (nonce, mac) = (
        header.find("nonce=").unwrap() + 6,
        header.find("mac=").unwrap() + 4,
    );
    for at in [nonce, mac] {
        let mut changed = header.clone();
        let digit = if &header[at..=at] == "0" { "1" } else { "0" };
        changed.replace_range(at..=at, digit);
        forged("POST", COMMANDS, &changed, BODY);
    }
    // Cut short, a MAC is none.
    forged("POST", COMMANDS, &header[..mac + 2], BODY);
    forged("POST", COMMANDS, &header[..mac], BODY);
    let keys = ClusterKeys::new(&secret(8));
    let (strange, _) = keys.sign(ME, "POST", COMMANDS, BODY, NOON).unwrap();
    forged("POST", COMMANDS, &strange, BODY);
    // None of these used up the nonce.
    assert_eq!(check(&gate, &header, NOON), Ok(Ok(())));
}

#[test]
fn what_is_not_a_signature_is_told_apart() {
    let gate = gate();
    let (header, _) = signed(ME, NOON);
    let missing = gate.check("POST", COMMANDS, None, BODY, NOON);
    assert_eq!(missing.err(), Some(NotANode::Missing));
    for text in [
        "",
        "Bearer gk_x",
        "Gatelog-Node",
        "Gatelog-Node v=1",
        &header.replace("v=1", "v=2"),
        &header.replace(", at=", " at="),
        &header.replace("mac=", "mac=zz"),
        &header.replace("nonce=", "nonce=00"),
        &format!("{header}, more=1"),
        &header.to_lowercase(),
    ] {
        assert_eq!(check(&gate, text, NOON), Err(NotANode::Malformed), "{text}");
    }
}

#[test]
fn clocks_may_differ_by_thirty_seconds() {
    for (at, taken) in [(-31, false), (-30, true), (0, true), (30, true), (31, false)] {
        let expected = if taken { Ok(()) } else { Err(Refused::Stale) };
        assert_eq!(
            check(&gate(), &signed(ME, seconds(at)).0, NOON),
            Ok(expected),
            "{at}"
        );
    }
    let far = signed(ME, Timestamp::from_millis(i64::MIN)).0;
    assert_eq!(check(&gate(), &far, NOON), Ok(Err(Refused::Stale)));
}

#[test]
fn another_node_or_run_is_not_meant() {
    let (header, _) = signed(NodeId(Uuid::from_u128(2)), NOON);
    assert_eq!(check(&gate(), &header, NOON), Ok(Err(Refused::NotAddressed)));
}

#[test]
fn no_moment_lets_a_replay_through() {
    // The stamp is as far ahead as it may be, so that it is taken for the longest time.
    for first in [0, 1, 59, 60, 61, 119] {
        let gate = gate();
        // Begins a period.
        assert_eq!(check(&gate, &signed(ME, NOON).0, NOON), Ok(Ok(())));
        let (header, _) = signed(ME, seconds(first + 30));
        assert_eq!(check(&gate, &header, seconds(first)), Ok(Ok(())));
        for later in first..first + 200 {
            let filler = check(&gate, &signed(ME, seconds(later)).0, seconds(later));
            assert_eq!(filler, Ok(Ok(())));
            let again = check(&gate, &header, seconds(later)).unwrap();
            assert!(
                matches!(again, Err(Refused::Replayed | Refused::Stale)),
                "{first} {later}"
            );
        }
        // Nor does a clock that is set back.
        assert_eq!(check(&gate, &header, seconds(first)), Ok(Err(Refused::Stale)));
    }
}

#[test]
fn a_clock_that_was_ahead_for_a_moment_keeps_nobody_out_afterwards() {
    let gate = gate();
    let (header, _) = signed(ME, NOON);
    assert_eq!(check(&gate, &header, NOON), Ok(Ok(())));
    let ahead = check(&gate, &signed(ME, seconds(1)).0, seconds(3600));
    assert_eq!(ahead, Ok(Err(Refused::Stale)));
    for later in 2..200 {
        let (next, _) = signed(ME, seconds(later));
        assert_eq!(check(&gate, &next, seconds(later)), Ok(Ok(())), "{later}");
        let again = check(&gate, &header, seconds(later)).unwrap();
        assert!(again.is_err(), "{later}");
    }
}

#[test]
fn nonces_are_bounded_and_forgotten() {
    let gate = Gate { limit: 3, ..gate() };
    let at = |n| check(&gate, &signed(ME, seconds(n)).0, seconds(n)).unwrap();
    assert_eq!([at(0), at(1), at(2)], [Ok(()); 3]);
    assert_eq!(at(3), Err(Refused::Busy));
    assert_eq!(at(61), Ok(()));
    assert_eq!(gate.nonces.lock().previous.nonces.len(), 3);
    assert_eq!(at(122), Ok(()));
    assert_eq!(gate.nonces.lock().previous.nonces.len(), 1);
}

#[test]
fn an_answer_is_its_request_s_and_as_it_was_sent() {
    let (gate, keys) = (gate(), ClusterKeys::new(&secret(7)));
    let (header, sent) = signed(ME, NOON);
    let Ok((ticket, Ok(()))) = gate.check("POST", COMMANDS, Some(&header), BODY, NOON) else {
        panic!("not taken");
    };
    let mac = gate.sign(&ticket, 200, b"done");
    assert!(keys.is_answer(&sent, 200, Some(&mac), b"done"));
    assert!(!keys.is_answer(&sent, 201, Some(&mac), b"done"));
    assert!(!keys.is_answer(&sent, 200, Some(&mac), b"not done"));
    assert!(!keys.is_answer(&sent, 200, None, b"done"));
    assert!(!keys.is_answer(&sent, 200, Some(&mac[2..]), b"done"));
    let (_, other) = signed(ME, NOON);
    assert!(!keys.is_answer(&other, 200, Some(&mac), b"done"));
    assert!(!ClusterKeys::new(&secret(8)).is_answer(&sent, 200, Some(&mac), b"done"));
    // The request's own MAC is no answer: the keys differ.
    let own = hex::encode(sent.mac.as_ref());
    assert!(!keys.is_answer(&sent, 200, Some(&own), b"done"));
}

#[test]
fn secrets_are_long_and_never_shown() {
    assert!(ClusterSecret::parse(format!("{}\n", STANDARD.encode([9; 48])).as_bytes()).is_ok());
    assert_eq!(format!("{:?}", secret(7)), "ClusterSecret");
    for text in [
        "",
        "hunter2hunter2hunter2hunter2hunter2",
        &"ab".repeat(31),
        &STANDARD.encode([1; 31]),
    ] {
        let error = ClusterSecret::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(
            error.contains("32 bytes") && (text.is_empty() || !error.contains(text)),
            "{error}"
        );
    }
}
