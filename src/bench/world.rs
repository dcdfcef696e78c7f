//! A node of the benchmark's own, in a new folder, and commands for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::directory::Digest;
use gatelog_events::domain::Actor;
use gatelog_events::domain::consent::{ConsentChange, Evidence, LawfulBasis, Method, NoticeRef, SetConsent};
use gatelog_events::domain::plan::ChangePlan;
use gatelog_events::domain::profile::{Profile, ProfileField};
use gatelog_events::domain::session::{self, Client, LoginMethod};
use gatelog_events::domain::tenant;
use gatelog_events::domain::user::{self, Origin, Register};
use gatelog_events::email::Email;
use gatelog_events::ids::{SessionId, TenantId, UserId};
use gatelog_events::seal::SubjectKey;
use gatelog_projections::subject_keys::NewKey;
use uuid::Uuid;

use super::BenchError;
use crate::auth::keys::SigningAlgorithm;
use crate::auth::policy::Policy;
use crate::auth::pool::PoolConfig;
use crate::auth::random;
use crate::auth::throttle::Limits;
use crate::config::{Config, HEADER_TIMEOUT};
use crate::feeds::webhook::WebhookConfig;
use crate::node::{Node, Started};
use crate::writer::{Command, Outcome, Request, WriteError};

/// A hash of the default cost, for users who do not log in here.
pub const PASSWORD_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IGhlcmU$mPTB6hQvKGfxyGFWTpWfIGOrCS3nW2hNg5yFCqhDmNA";

/// A folder that is removed with everything in it when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder under `parent`.
    pub fn new(parent: &Path) -> Result<Self, BenchError> {
        let name = format!("gatelog-bench-{}", Uuid::from_bytes(random()?).simple());
        let path = parent.join(name);
        std::fs::create_dir_all(&path).map_err(BenchError::io(path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A new folder in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf, BenchError> {
        let path = self.0.join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(BenchError::io(path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node's configuration as it is by default, but for its place.
pub fn config(data_dir: &Path) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: data_dir.to_owned(),
        issuer: "http://localhost:8080".to_owned(),
        audience: "http://localhost:8080".to_owned(),
        partitions: 8,
        tenant: TenantId::default(),
        bootstrap_api_key: None,
        trusted_proxies: vec![],
        webhooks: WebhookConfig::default(),
        access_token_lifetime: Duration::from_secs(900),
        signing_algorithm: SigningAlgorithm::default(),
        session: session::Policy::default(),
        password_policy: Policy::NIST_4,
        pool: PoolConfig::default(),
        account_limits: Limits::ACCOUNT,
        network_limits: Limits::NETWORK,
        queue: 4096,
        header_timeout: HEADER_TIMEOUT,
        min_position_wait: Duration::from_secs(5),
        max_lag: 10_000,
        max_body_bytes: 65_536,
        cache_bytes: 128 << 20,
        memtable_bytes: 96 << 20,
        cluster: None,
        kafka: None,
        spool: None,
        compaction_delay: Duration::from_secs(3600),
    }
}

/// Commands for a node, in process.
pub struct World {
    pub node: Arc<Node>,
    tenant: TenantId,
}

impl World {
    pub fn new(started: &Started) -> Arc<Self> {
        Arc::new(Self {
            node: started.node.clone(),
            tenant: started.node.config.tenant.clone(),
        })
    }

    /// The digest of user `n`'s address.
    pub fn digest(&self, n: usize) -> Result<Digest, BenchError> {
        Ok(self.node.directory.digest(&self.tenant, &email(n)?))
    }

    async fn submit(&self, user: UserId, command: Command) -> Result<Outcome, WriteError> {
        let request = Request {
            tenant: self.tenant.clone(),
            subject: Subject::User(user),
            partition: None,
            command,
            actor: Actor::User(user),
            correlation_id: Uuid::from_u128(0x0193_e0a1_7c5a_7000_8000_0000_0000_002a),
            idempotency: None,
            time: None,
            after: None,
        };
        self.node.router.submit_patiently(request).await
    }

    /// Changes the tenant's settings.
    pub async fn settings(&self, command: tenant::Command) -> Result<(), BenchError> {
        let request = Request {
            tenant: self.tenant.clone(),
            subject: Subject::Tenant,
            partition: None,
            command: Command::Tenant(command),
            actor: Actor::System,
            correlation_id: Uuid::nil(),
            idempotency: None,
            time: None,
            after: None,
        };
        self.node.router.submit(request).await?;
        Ok(())
    }

    /// Registers users `numbers`, many at once.
    pub async fn register_all(
        self: &Arc<Self>,
        numbers: std::ops::Range<usize>,
        password_hash: &str,
    ) -> Result<Vec<UserId>, BenchError> {
        const AT_ONCE: usize = 512;
        let mut users = Vec::with_capacity(numbers.len());
        let numbers: Vec<usize> = numbers.collect();
        for some in numbers.chunks(AT_ONCE) {
            let mut keys = Vec::with_capacity(some.len());
            let mut registers = Vec::with_capacity(some.len());
            for n in some {
                let register = registration(*n, password_hash)?;
                let shard = self.node.directory.shard(&self.tenant, &register.email);
                let subject = UserId::new(clock::now(), shard, random()?);
                keys.push(NewKey {
                    tenant: self.tenant.clone(),
                    subject,
                    key: SubjectKey::new(random()?),
                    nonce: random()?,
                });
                registers.push((subject, register));
            }
            self.node.keys.put(&keys)?;
            let answers = registers.into_iter().map(|(subject, register)| async move {
                let command = Command::User(user::Command::Register(register));
                self.submit(subject, command).await.map(|_| subject)
            });
            for answer in futures::future::join_all(answers).await {
                users.push(answer?);
            }
        }
        Ok(users)
    }

    /// Grants or withdraws the newsletter.
    pub async fn consent(&self, user: UserId, granted: bool) -> Result<Outcome, WriteError> {
        let change = consent_change();
        let command = user::Command::SetConsent(SetConsent { granted, change });
        self.submit(user, Command::User(command)).await
    }

    /// Moves to another plan.
    pub async fn plan(&self, user: UserId, plan: &str) -> Result<Outcome, WriteError> {
        let command = user::Command::ChangePlan(ChangePlan {
            to: plan.to_owned(),
            intent: None,
            effective_at: None,
            source: "api".to_owned(),
            reason: None,
        });
        self.submit(user, Command::User(command)).await
    }

    /// A login whose password was found right.
    pub async fn login(&self, user: UserId, credential_version: u32) -> Result<Outcome, BenchError> {
        let command = session::Command::Login {
            session_id: SessionId::new(clock::now(), user.shard(), random()?),
            method: LoginMethod::Password,
            credential_version,
            client: client(),
        };
        Ok(self.submit(user, Command::Session(command)).await?)
    }
}

/// The address of user `n`.
pub fn address(n: usize) -> String {
    format!("user.{n}@mail.example.com")
}

fn email(n: usize) -> Result<Email, BenchError> {
    Email::parse(&address(n)).map_err(|e| BenchError::Ended(e.to_string()))
}

fn client() -> Client {
    Client {
        ip: Some("203.0.113.77".to_owned()),
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".to_owned()),
    }
}

fn consent_change() -> ConsentChange {
    ConsentChange {
        purpose: "newsletter".to_owned(),
        channel: "email".to_owned(),
        notice: NoticeRef {
            id: "newsletter".to_owned(),
            version: "1".to_owned(),
            language: "en".to_owned(),
        },
        lawful_basis: LawfulBasis::Consent,
        method: Method::SelfService,
        personal: Evidence {
            ip: client().ip,
            user_agent: client().user_agent,
            note: None,
        }
        .into(),
    }
}

fn registration(n: usize, password_hash: &str) -> Result<Register, BenchError> {
    let profile = [
        (ProfileField::GivenName, format!("Given{n}")),
        (ProfileField::FamilyName, format!("Family{n}")),
    ];
    Ok(Register {
        origin: Origin::Api,
        email: email(n)?,
        password_hash: Some(password_hash.to_owned()),
        email_verified: false,
        locale: Some("en".to_owned()),
        profile: Profile(profile.into()),
        plan: None,
        roles: Default::default(),
        consents: vec![SetConsent {
            granted: true,
            change: consent_change(),
        }],
        disabled: false,
    })
}
