//! Keys of rows. Each kind of row has two frozen bytes in front; integers are big-endian so that order is natural.

use bytes::Bytes;
use gatelog_events::ids::TenantId;

/// The kinds of rows. A kind's bytes are never changed and never given to another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// How far a projection has come.
    Checkpoint,
    /// Which column family serves a projection.
    Active,
    /// A user.
    User,
    /// A user who was erased, also in read models that have purged their rows.
    Erased,
    /// What a login needs, by digest of the identifier.
    Login,
    /// The digest under which a user logs in.
    LoginOf,
    /// Who holds an identifier, by its digest.
    Holding,
    /// The digests that a user ever held.
    HoldingOf,
    /// A user's activity.
    Activity,
    /// A session of a user.
    Session,
    /// A tenant's settings.
    Settings,
    /// The answer to a request with an idempotency key.
    Answer,
    /// An entry of the consent ledger.
    Consent,
    /// An entry of a user's timeline.
    Timeline,
    /// A counter of a day.
    Counter,
    /// That a user was active on a day.
    ActiveOn,
    /// What a user counts for in the running totals.
    Counted,
    /// What happened to a user, in the log's order.
    Change,
    /// What ended somebody's consent or account, in the log's order.
    Withdrawal,
    /// When a feed's consumer was told of a withdrawal.
    Handover,
    /// A withdrawal that a consumer was told of and has not acknowledged.
    Unacknowledged,
    /// How far a webhook has come.
    WebhookProgress,
    /// What a webhook's receiver did not take.
    DeadLetter,
    /// A dead letter that is to be sent again.
    Redrive,
    /// The purposes to which a user has consented, for withdrawals.
    Granted,
    /// What streams of security events tell, in the log's order.
    Signal,
    /// The addresses of a user's changes of address, for streams of security events.
    SignalAddresses,
    /// Up to where a stream of security events has told everything.
    SignalsTold,
    /// What it has told beyond.
    SignalsBeyond,
    /// A verification event that a stream is to send.
    Verification,
    /// When a verification event was asked for last.
    VerifiedAt,
    /// Of which change of its status a stream's receiver knows.
    StreamNoticed,
}

impl KeyKind {
    pub const ALL: [KeyKind; 32] = [
        KeyKind::Checkpoint,
        KeyKind::Active,
        KeyKind::User,
        KeyKind::Erased,
        KeyKind::Login,
        KeyKind::LoginOf,
        KeyKind::Holding,
        KeyKind::HoldingOf,
        KeyKind::Activity,
        KeyKind::Session,
        KeyKind::Settings,
        KeyKind::Answer,
        KeyKind::Consent,
        KeyKind::Timeline,
        KeyKind::Counter,
        KeyKind::ActiveOn,
        KeyKind::Counted,
        KeyKind::Change,
        KeyKind::Withdrawal,
        KeyKind::Handover,
        KeyKind::Unacknowledged,
        KeyKind::WebhookProgress,
        KeyKind::DeadLetter,
        KeyKind::Redrive,
        KeyKind::Granted,
        KeyKind::Signal,
        KeyKind::SignalAddresses,
        KeyKind::SignalsTold,
        KeyKind::SignalsBeyond,
        KeyKind::Verification,
        KeyKind::VerifiedAt,
        KeyKind::StreamNoticed,
    ];

    pub const fn bytes(self) -> [u8; 2] {
        *match self {
            KeyKind::Checkpoint => b"CK",
            KeyKind::Active => b"AV",
            KeyKind::User => b"US",
            KeyKind::Erased => b"UE",
            KeyKind::Login => b"LD",
            KeyKind::LoginOf => b"LU",
            KeyKind::Holding => b"ID",
            KeyKind::HoldingOf => b"IU",
            KeyKind::Activity => b"SA",
            KeyKind::Session => b"SE",
            KeyKind::Settings => b"TS",
            KeyKind::Answer => b"IK",
            KeyKind::Consent => b"CL",
            KeyKind::Timeline => b"TL",
            KeyKind::Counter => b"SC",
            KeyKind::ActiveOn => b"SD",
            KeyKind::Counted => b"SU",
            KeyKind::Change => b"FC",
            KeyKind::Withdrawal => b"FW",
            KeyKind::Handover => b"FH",
            KeyKind::Unacknowledged => b"FU",
            KeyKind::WebhookProgress => b"FP",
            KeyKind::DeadLetter => b"FD",
            KeyKind::Redrive => b"FR",
            KeyKind::Granted => b"FG",
            KeyKind::Signal => b"GS",
            KeyKind::SignalAddresses => b"GA",
            KeyKind::SignalsTold => b"GT",
            KeyKind::SignalsBeyond => b"GB",
            KeyKind::Verification => b"GV",
            KeyKind::VerifiedAt => b"GW",
            KeyKind::StreamNoticed => b"GN",
        }
    }
}

/// Builds one key, part by part.
#[derive(Debug)]
pub struct KeyBuilder(Vec<u8>);

/// Starts a key of a kind that belongs to a tenant.
pub fn key(kind: KeyKind, tenant: &TenantId) -> KeyBuilder {
    let name = tenant.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&kind.bytes());
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name);
    KeyBuilder(bytes)
}

/// Starts a key of a kind that belongs to no tenant.
pub fn global(kind: KeyKind) -> KeyBuilder {
    KeyBuilder(kind.bytes().to_vec())
}

impl KeyBuilder {
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u16(self, n: u16) -> Self {
        self.fixed(&n.to_be_bytes())
    }

    pub fn u32(self, n: u32) -> Self {
        self.fixed(&n.to_be_bytes())
    }

    pub fn u64(self, n: u64) -> Self {
        self.fixed(&n.to_be_bytes())
    }

    /// A text, ended by a zero byte so that none is the beginning of another.
    pub fn text(mut self, s: &str) -> Self {
        for part in s.split('\0') {
            self.0.extend_from_slice(part.as_bytes());
        }
        self.0.push(0);
        self
    }

    pub fn done(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_kinds_are_frozen_and_distinct() {
        let all: Vec<_> = KeyKind::ALL.iter().map(|k| k.bytes()).collect();
        assert_eq!(
            all.concat(),
            b"CKAVUSUELDLUIDIUSASETSIKCLTLSCSDSUFCFWFHFUFPFDFRFGGSGAGTGBGVGWGN",
            "the bytes of a kind never change; a new kind gets new bytes at the end"
        );
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }
}
