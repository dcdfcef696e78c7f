//! Nodes of one process on one log, each with read models of its own, that talk to each other over HTTP.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router as Http;
use gatelog::cluster::{Cluster, ClusterConfig, ClusterSecret, Router};
use gatelog::http::internal::{Internal, open_to};
use gatelog::views::Views;
use gatelog::writer::{self, Claims, Command, Idempotency, Options, Owned, Parts, Request, Running};
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::directory::Directory;
use gatelog_events::domain::consent::{ConsentChange, Evidence, LawfulBasis, Method, NoticeRef, SetConsent};
use gatelog_events::domain::tenant::{self, PurposeDefined};
use gatelog_events::domain::user::{self, Origin, Register};
use gatelog_events::domain::{Actor, session};
use gatelog_events::email::Email;
use gatelog_events::ids::{CommitId, Partition, Position, Stream, TenantId, UserId};
use gatelog_events::log::EventLog;
use gatelog_events::log::embedded::{EmbeddedLog, EmbeddedOptions};
use gatelog_events::seal::{MasterKey, SubjectKey};
use gatelog_projections::store::{Store, StoreOptions};
use gatelog_projections::subject_keys::{CacheOptions, NewKey, SubjectKeys};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::world::config;

pub const PARTITIONS: u16 = 8;

static NEXT: AtomicU64 = AtomicU64::new(1);

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn secret(byte: u8) -> ClusterSecret {
    ClusterSecret::parse(hex::encode([byte; 32]).as_bytes()).unwrap()
}

pub fn owned(partitions: impl IntoIterator<Item = u16>) -> Owned {
    partitions.into_iter().map(Partition).collect()
}

/// What all nodes share.
pub struct Shared {
    pub log: Arc<EmbeddedLog>,
    keys: Arc<SubjectKeys>,
    pub directory: Arc<Directory>,
}

impl Shared {
    pub fn new(dir: &Path) -> Self {
        let options = EmbeddedOptions {
            partitions: PARTITIONS,
            ..EmbeddedOptions::default()
        };
        let (master, cache) = (MasterKey::new([7; 32]), CacheOptions::default());
        Self {
            log: EmbeddedLog::open(dir.join("log"), options).unwrap(),
            keys: Arc::new(SubjectKeys::open(&dir.join("keys"), master, cache).unwrap()),
            directory: Arc::new(Directory::new(&[1; 32], &[2; 32])),
        }
    }

    /// Records in the log, over all partitions.
    pub async fn records(&self) -> u64 {
        let mut sum = 0;
        for stream in Stream::ALL {
            for partition in (0..PARTITIONS).map(Partition) {
                sum += self.log.end(stream, partition).await.unwrap();
            }
        }
        sum
    }

    /// Somebody new, whose key is stored; their command and their partition.
    pub fn newcomer(&self, address: &str) -> (Request, Partition) {
        let tenant = TenantId::default();
        let email = Email::parse(address).unwrap();
        let shard = self.directory.shard(&tenant, &email);
        let subject = UserId::new(clock::now(), shard, next().to_be_bytes());
        let key = NewKey {
            tenant,
            subject,
            key: SubjectKey::new([9; 32]),
            nonce: [3; 12],
        };
        self.keys.put(&[key]).unwrap();
        let register = Register {
            email,
            email_verified: false,
            password_hash: None,
            origin: Origin::Api,
            locale: None,
            profile: Default::default(),
            plan: None,
            consents: vec![],
            roles: Default::default(),
            disabled: false,
        };
        let command = Command::User(user::Command::Register(register));
        (
            request(Subject::User(subject), command),
            shard.partition(PARTITIONS),
        )
    }

    /// An address of a partition.
    pub fn address_in(&self, partitions: std::ops::Range<u16>) -> String {
        loop {
            let address = format!("user.{}@example.com", next());
            let email = Email::parse(&address).unwrap();
            let shard = self.directory.shard(&TenantId::default(), &email);
            if partitions.contains(&shard.partition(PARTITIONS).0) {
                return address;
            }
        }
    }
}

pub fn request(subject: Subject, command: Command) -> Request {
    Request {
        tenant: TenantId::default(),
        subject,
        partition: None,
        command,
        actor: Actor::System,
        correlation_id: Uuid::nil(),
        idempotency: None,
        time: None,
        after: None,
    }
}

pub fn keyed(mut request: Request, what: &[u8]) -> Request {
    request.idempotency = Some(Idempotency {
        commit_id: CommitId(Uuid::from_u128(next().into())),
        request: what.into(),
    });
    request
}

pub fn seed() -> Request {
    request(Subject::Tenant, Command::Tenant(tenant::Command::Seed))
}

pub fn purpose(name: &str) -> Request {
    let purpose = PurposeDefined {
        name: name.to_owned(),
        description: "Something new".to_owned(),
    };
    request(
        Subject::Tenant,
        Command::Tenant(tenant::Command::DefinePurpose(purpose)),
    )
}

pub fn consent(subject: Subject, purpose: &str) -> Request {
    let change = ConsentChange {
        purpose: purpose.to_owned(),
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
    let wish = SetConsent {
        granted: true,
        change,
    };
    request(subject, Command::User(user::Command::SetConsent(wish)))
}

/// One node.
pub struct Member {
    pub views: Arc<Views>,
    pub router: Router,
    pub running: Running,
    claims: Claims,
    served: tokio::task::JoinHandle<()>,
}

impl Member {
    /// Starts one that can take `forward` for a command on its way.
    pub async fn start(shared: &Shared, dir: &Path, owned: Owned, forward: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = config(dir);
        config.cluster = Some(ClusterConfig {
            secret: secret(7),
            advertise: Some(url.parse().unwrap()),
            forward_timeout: forward,
            // What is written elsewhere is shown in time, however busy the machine.
            view_wait: Duration::from_secs(20),
        });
        let cluster = Cluster::of_many(&config, String::new()).unwrap();
        let store = Store::open(dir, StoreOptions::default()).unwrap();
        let views = Arc::new(Views::new(store.clone()));
        let parts = Arc::new(Parts {
            taken: tokio::sync::watch::channel(None).0,
            log: shared.log.clone(),
            store,
            keys: shared.keys.clone(),
            directory: shared.directory.clone(),
            views: views.clone(),
            max_record_bytes: 1 << 20,
            erasures: tokio::sync::watch::channel(0).0,
            undestroyed: Default::default(),
            claims: cluster.claims(),
        });
        let options = Options {
            queue: 4096,
            policy: session::Policy::default(),
        };
        let projections = gatelog_projections::all::all(&shared.directory);
        let running = tokio::task::spawn_blocking(move || writer::start(parts, projections, options, owned))
            .await
            .unwrap()
            .unwrap();
        let router = cluster.router(
            running.writer.clone(),
            views.clone(),
            shared.directory.clone(),
            PARTITIONS,
        );
        let http: Http = open_to(Internal {
            gate: cluster.gate().unwrap(),
            here: router.here().clone(),
            keys: shared.keys.clone(),
        });
        let served = tokio::spawn(async move { axum::serve(listener, http).await.unwrap() });
        Self {
            views,
            router,
            running,
            claims: cluster.claims(),
            served,
        }
    }

    /// Lets it believe that somebody else owns everything since `offset`, by claims that nobody made.
    pub fn believe(&self, offset: u64, value: &[u8]) {
        for stream in Stream::ALL {
            for partition in (0..PARTITIONS).map(Partition) {
                let at = Position {
                    stream,
                    partition,
                    offset,
                };
                self.claims.book.learn(at, value);
            }
        }
    }

    pub fn user_exists(&self, request: &Request) -> bool {
        let user = request.subject.user().unwrap();
        self.views.user(&request.tenant, user).unwrap().exists()
    }

    pub fn stop(self) {
        self.served.abort();
        std::thread::spawn(|| self.running.stop()).join().unwrap();
    }
}
