//! A node and the commands that tests give it directly, without HTTP.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatelog::auth::keys::SigningAlgorithm;
use gatelog::auth::policy::Policy;
use gatelog::auth::pool::PoolConfig;
use gatelog::auth::throttle::Limits;
use gatelog::config::{Config, HEADER_TIMEOUT};
use gatelog::node::Node;
use gatelog::writer::{Command, Idempotency, Outcome, Request, WriteError};
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::domain::consent::{ConsentChange, Evidence, LawfulBasis, Method, NoticeRef, SetConsent};
use gatelog_events::domain::user::{self, Origin, Register};
use gatelog_events::domain::{Actor, session};
use gatelog_events::email::Email;
use gatelog_events::ids::{TenantId, UserId};
use gatelog_events::seal::SubjectKey;
use gatelog_projections::logins::LoginRow;
use gatelog_projections::subject_keys::NewKey;
use uuid::Uuid;

pub fn config(dir: &Path) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: dir.to_owned(),
        issuer: "http://localhost:8080".to_owned(),
        audience: "http://localhost:8080".to_owned(),
        partitions: 8,
        tenant: TenantId::default(),
        bootstrap_api_key: None,
        trusted_proxies: vec![],
        webhooks: Default::default(),
        access_token_lifetime: Duration::from_secs(900),
        signing_algorithm: SigningAlgorithm::default(),
        session: session::Policy::default(),
        password_policy: Policy::NIST_4,
        pool: PoolConfig::default(),
        account_limits: Limits::ACCOUNT,
        network_limits: Limits::NETWORK,
        queue: 4096,
        header_timeout: HEADER_TIMEOUT,
        // What is read after it was written is there at last, however busy the machine.
        min_position_wait: Duration::from_secs(25),
        max_lag: 10_000,
        max_body_bytes: 65_536,
        cache_bytes: 16 << 20,
        memtable_bytes: 16 << 20,
        compaction_delay: Duration::from_secs(3600),
        cluster: None,
        kafka: None,
        spool: None,
    }
}

pub struct World {
    pub node: Arc<Node>,
    pub tenant: TenantId,
}

impl World {
    pub fn new(node: &Arc<Node>) -> Self {
        Self {
            node: node.clone(),
            tenant: TenantId::default(),
        }
    }

    pub async fn submit(&self, subject: Subject, command: Command) -> Result<Outcome, WriteError> {
        self.submit_keyed(subject, command, None).await
    }

    pub async fn submit_keyed(
        &self,
        subject: Subject,
        command: Command,
        idempotency: Option<Idempotency>,
    ) -> Result<Outcome, WriteError> {
        self.node
            .writer
            .submit(Request {
                tenant: self.tenant.clone(),
                subject,
                partition: None,
                command,
                actor: Actor::System,
                correlation_id: Uuid::nil(),
                idempotency,
                time: None,
                after: None,
            })
            .await
    }

    pub async fn register(&self, address: &str) -> Result<UserId, WriteError> {
        let email = Email::parse(address).unwrap();
        let shard = self.node.directory.shard(&self.tenant, &email);
        let random = |n: usize| {
            let mut bytes = vec![0; n];
            aws_lc_rs::rand::fill(&mut bytes).unwrap();
            bytes
        };
        let id = UserId::new(clock::now(), shard, random(8).try_into().unwrap());
        self.node
            .keys
            .put(&[NewKey {
                tenant: self.tenant.clone(),
                subject: id,
                key: SubjectKey::new(random(32).try_into().unwrap()),
                nonce: random(12).try_into().unwrap(),
            }])
            .unwrap();
        let command = user::Command::Register(Register {
            origin: Origin::Api,
            email,
            password_hash: None,
            email_verified: false,
            locale: Some("en".to_owned()),
            profile: serde_json::from_str(r#"{"given_name":"Somebody"}"#).unwrap(),
            plan: None,
            roles: Default::default(),
            consents: vec![],
            disabled: false,
        });
        self.submit(Subject::User(id), Command::User(command))
            .await
            .map(|_| id)
    }

    pub async fn consent(&self, user: UserId, granted: bool) -> Result<Outcome, WriteError> {
        let change = ConsentChange {
            purpose: "newsletter".to_owned(),
            channel: "email".to_owned(),
            notice: NoticeRef {
                id: "n".to_owned(),
                version: "1".to_owned(),
                language: "en".to_owned(),
            },
            lawful_basis: LawfulBasis::Consent,
            method: Method::SelfService,
            personal: Evidence::default().into(),
        };
        let command = user::Command::SetConsent(SetConsent { granted, change });
        self.submit(Subject::User(user), Command::User(command)).await
    }

    pub async fn erase(&self, user: UserId) -> Result<Outcome, WriteError> {
        let command = user::Command::Erase { reason: None };
        self.submit(Subject::User(user), Command::User(command)).await
    }

    pub fn login_of(&self, address: &str) -> Option<LoginRow> {
        let email = Email::parse(address).unwrap();
        let digest = self.node.directory.digest(&self.tenant, &email);
        self.node.views.login(&self.tenant, digest).unwrap()
    }
}
