//! Every command, rejection and error, by chance.

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{
    self, ConsentChange, Evidence, LawfulBasis, Method, NoticeRef, SetConsent,
};
use gatelog_events::domain::plan::{self, ChangePlan, Intent};
use gatelog_events::domain::profile::{Profile, ProfileField, ProfilePatch};
use gatelog_events::domain::session::{self, Client, EndReason, FailureReason, LoginMethod};
use gatelog_events::domain::tenant::{self, ApiKeyCreated, NoticePublished, PlanDefined, PurposeDefined};
use gatelog_events::domain::user::{self, Origin, PasswordReason, Register, Verification};
use gatelog_events::email::Email;
use gatelog_events::ids::ApiKeyId;

use super::super::*;

/// Makes values of bytes that a property test draws. Commands cannot be drawn themselves: they have no `Debug`.
pub struct Dice<'a>(pub std::slice::Iter<'a, u8>);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn yes(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    pub fn some<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| make(self))
    }

    pub fn few<T, C: FromIterator<T>>(&mut self, make: impl Fn(&mut Self) -> T) -> C {
        (0..self.byte() % 3).map(|_| make(self)).collect()
    }

    fn text(&mut self) -> String {
        let letters = [
            'a', 'B', '7', ' ', '"', '\\', '\n', '\0', 'é', '\u{2028}', '漢', '😀', '{', '\u{7f}',
        ];
        (0..self.byte() % 12).map(|_| self.one(&letters)).collect()
    }

    fn maybe(&mut self) -> Option<String> {
        self.some(Self::text)
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_bytes(self.bytes())
    }

    fn time(&mut self) -> Timestamp {
        Timestamp::from_millis(i64::from(self.number()) * 997)
    }

    pub fn position(&mut self) -> Position {
        Position {
            stream: self.one(&Stream::ALL),
            partition: Partition(u16::from_be_bytes(self.bytes())),
            offset: u64::from_be_bytes(self.bytes()),
        }
    }

    fn email(&mut self) -> Email {
        let who = self.one(&["Ada", "grace+x", "ädä", "o'neil"]);
        Email::parse(&format!("{who}{}@X{}.test", self.byte(), self.byte())).unwrap()
    }

    fn client(&mut self) -> Client {
        Client {
            ip: self.maybe(),
            user_agent: self.maybe(),
        }
    }

    fn field(&mut self) -> ProfileField {
        self.one(&[
            ProfileField::GivenName,
            ProfileField::Country,
            ProfileField::PhoneNumber,
        ])
    }

    fn wish(&mut self) -> SetConsent {
        use LawfulBasis as L;
        let basis = [
            L::Consent,
            L::Contract,
            L::LegalObligation,
            L::VitalInterests,
            L::PublicTask,
            L::LegitimateInterests,
        ];
        let evidence = Evidence {
            ip: self.maybe(),
            user_agent: self.maybe(),
            note: self.maybe(),
        };
        SetConsent {
            granted: self.yes(),
            change: ConsentChange {
                purpose: self.text(),
                channel: self.text(),
                notice: NoticeRef {
                    id: self.text(),
                    version: self.text(),
                    language: self.text(),
                },
                lawful_basis: self.one(&basis),
                method: self.one(&[
                    Method::RegistrationForm,
                    Method::SelfService,
                    Method::Recorded,
                    Method::Import,
                ]),
                personal: evidence.into(),
            },
        }
    }

    fn register(&mut self) -> Register {
        Register {
            origin: self.one(&[Origin::SelfService, Origin::Api, Origin::Import]),
            email: self.email(),
            password_hash: self.maybe(),
            email_verified: self.yes(),
            locale: self.maybe(),
            profile: Profile(self.few(|d| (d.field(), d.text()))),
            plan: self.maybe(),
            roles: self.few(Self::text),
            consents: self.few(Self::wish),
            disabled: self.yes(),
        }
    }

    fn user(&mut self) -> user::Command {
        use user::Command as C;
        let reasons = [
            PasswordReason::Registered,
            PasswordReason::Imported,
            PasswordReason::Changed,
            PasswordReason::Reset,
            PasswordReason::Rehashed,
        ];
        match self.byte() % 12 {
            0 => C::Register(self.register()),
            1 => C::SetPassword {
                hash: self.text(),
                reason: self.one(&reasons),
                instead_of: self.some(Self::number),
            },
            2 => C::ChangeEmail { email: self.email() },
            3 => C::VerifyEmail {
                method: self.one(&[Verification::Mail, Verification::Asserted]),
            },
            4 => C::ChangeProfile {
                locale: self.maybe(),
                changes: ProfilePatch(self.few(|d| (d.field(), d.maybe()))),
            },
            5 => C::SetConsent(self.wish()),
            6 => C::ChangePlan(ChangePlan {
                to: self.text(),
                intent: self.some(|d| d.one(&[Intent::Cancel, Intent::Renew])),
                effective_at: self.some(Self::time),
                source: self.text(),
                reason: self.maybe(),
            }),
            7 => C::GrantRole { role: self.text() },
            8 => C::RevokeRole { role: self.text() },
            9 => C::Disable { reason: self.maybe() },
            10 => C::Enable { reason: self.maybe() },
            _ => C::Erase { reason: self.maybe() },
        }
    }

    fn session(&mut self) -> session::Command {
        use session::Command as C;
        let method = LoginMethod::Password;
        let failures = [
            FailureReason::WrongPassword,
            FailureReason::UnknownIdentifier,
            FailureReason::NoPassword,
            FailureReason::Disabled,
        ];
        let session_id = SessionId(self.uuid());
        match self.byte() % 5 {
            0 => C::Login {
                session_id,
                method,
                client: self.client(),
                credential_version: self.number(),
            },
            1 => C::FailLogin {
                reason: self.one(&failures),
                method,
                client: self.client(),
            },
            2 => C::Refresh {
                session_id,
                generation: self.number(),
            },
            3 => C::End {
                session_id,
                reason: self.one(&[
                    EndReason::LoggedOut,
                    EndReason::RefreshTokenReused,
                    EndReason::Revoked,
                ]),
            },
            _ => C::Unlock { reason: self.maybe() },
        }
    }

    fn tenant(&mut self) -> tenant::Command {
        use tenant::Command as C;
        match self.byte() % 6 {
            0 => C::Seed,
            1 => C::DefinePlan(PlanDefined {
                name: self.text(),
                rank: self.number(),
                entitlements: self.few(Self::text),
            }),
            2 => C::DefinePurpose(PurposeDefined {
                name: self.text(),
                description: self.text(),
            }),
            3 => C::PublishNotice(NoticePublished {
                id: self.text(),
                version: self.text(),
                language: self.text(),
                url: self.maybe(),
                text: self.maybe(),
            }),
            4 => C::CreateApiKey(ApiKeyCreated {
                key_id: ApiKeyId(self.uuid()),
                name: self.text(),
                scopes: self.few(Self::text),
                secret_sha256: self.text(),
            }),
            _ => C::RevokeApiKey {
                key_id: ApiKeyId(self.uuid()),
            },
        }
    }

    pub fn request(&mut self) -> Request {
        let id = UserId(self.uuid());
        let key = ApiKeyId(self.uuid());
        let actors = [Actor::Visitor, Actor::System, Actor::User(id), Actor::ApiKey(key)];
        Request {
            tenant: TenantId::new(self.one(&["default", "a", "7-x"])).unwrap(),
            subject: self.one(&[Subject::User(id), Subject::Tenant, Subject::Nobody]),
            partition: self.some(|d| Partition(u16::from_be_bytes(d.bytes()))),
            command: match self.byte() % 8 {
                0 => Command::Claim(self.email()),
                1 | 2 => Command::Tenant(self.tenant()),
                3 | 4 => Command::Session(self.session()),
                _ => Command::User(self.user()),
            },
            actor: actors[usize::from(self.byte() % 4)].clone(),
            correlation_id: self.uuid(),
            idempotency: self.some(|d| Idempotency {
                commit_id: CommitId(d.uuid()),
                request: d.few::<_, Vec<u8>>(Self::byte).into(),
            }),
            time: self.some(Self::time),
            after: self.some(Self::position),
        }
    }

    fn rejection(&mut self) -> Rejection {
        use user::Rejection as U;
        use {
            consent::Rejection as C, plan::Rejection as P, session::Rejection as S, tenant::Rejection as T,
        };
        let (id, version, language) = (self.text(), self.text(), self.text());
        match self.byte() % 19 {
            0 => U::AddressTaken.into(),
            1 => U::NotFound.into(),
            2 => U::AlreadyExists.into(),
            3 => U::Disabled.into(),
            4 => C::UnknownPurpose(id).into(),
            5 => C::UnknownNotice {
                id,
                version,
                language,
            }
            .into(),
            6 => P::UnknownPlan(id).into(),
            7 => P::NotYetEffective.into(),
            8 => P::NotACancellation(id).into(),
            9 => P::NotARenewal(id).into(),
            10 => S::NotFound.into(),
            11 => S::Ended.into(),
            12 => S::NotAllowed.into(),
            13 => S::CredentialChanged.into(),
            14 => S::Locked(self.time()).into(),
            15 => T::NoticeChanged {
                id,
                version,
                language,
            }
            .into(),
            16 => T::ApiKeyExists.into(),
            17 => U::CredentialChanged.into(),
            _ => T::ApiKeyNotFound.into(),
        }
    }

    pub fn failure(&mut self) -> WriteError {
        match self.byte() % 10 {
            0 => WriteError::KeyReused,
            1 => WriteError::Overloaded {
                retry_after: Duration::from_millis(self.number().into()),
            },
            2 => WriteError::Unavailable { reason: self.text() },
            3 => WriteError::NotOwner {
                stream: self.one(&Stream::ALL),
                partition: Partition(u16::from_be_bytes(self.bytes())),
            },
            4 => WriteError::TooLarge {
                size: self.number() as usize,
                limit: self.number() as usize,
            },
            5 => WriteError::Internal(self.text()),
            _ => self.rejection().into(),
        }
    }

    pub fn outcome(&mut self) -> Outcome {
        let at = self.position();
        Outcome {
            answer: Answer {
                stream: at.stream.code(),
                partition: at.partition,
                offset: at.offset,
                user: self.some(|d| UserId(d.uuid())),
                session: self.some(|d| SessionId(d.uuid())),
                generation: self.number(),
                time: self.time(),
                tag: self.bytes(),
            },
            commit: None,
            replayed: self.yes(),
        }
    }
}
