//! What a node lets in at the path for other nodes, over real HTTP.

use gatelog::cluster::auth::{ANSWER, ClusterKeys, Sent};
use gatelog::cluster::wire::{self, Refused, Reply};
use gatelog::cluster::{COMMANDS, ClusterConfig, MAX_COMMAND_BYTES, NodeId};
use gatelog::writer::{Command, WriteError};
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::commit::Subject;
use gatelog_events::domain::{Rejection, user};
use gatelog_events::ids::{Partition, Stream, UserId};
use gatelog_events::log::EventLog;
use reqwest::Client;
use std::time::Duration;

use super::pair::{request, secret};
use crate::support::process::{BOOTSTRAP, gatelog};
use crate::support::server::Server;

struct Door {
    client: Client,
    url: String,
    keys: ClusterKeys,
    to: NodeId,
}

struct Heard {
    status: u16,
    signed: bool,
    body: Vec<u8>,
}

impl Heard {
    #[track_caller]
    fn refused(&self, status: u16, refused: Refused) {
        assert_eq!(self.status, status);
        assert!(self.signed);
        assert!(matches!(wire::decode_reply(&self.body), Ok(Reply::Refused(r)) if r == refused));
    }

    /// As if there were nothing.
    #[track_caller]
    fn nothing(&self, status: u16) {
        assert_eq!(self.status, status);
        assert!(!self.signed);
        let text = String::from_utf8_lossy(&self.body);
        assert!(text.contains("urn:gatelog:problem:"), "{text}");
    }
}

impl Door {
    fn new(url: String, to: NodeId) -> Self {
        Self {
            client: Client::new(),
            url: format!("{url}{COMMANDS}"),
            keys: ClusterKeys::new(&secret(7)),
            to,
        }
    }

    fn sign(&self, body: &[u8], at: Timestamp) -> (String, Sent) {
        self.keys.sign(self.to, "POST", COMMANDS, body, at).unwrap()
    }

    async fn post(&self, header: Option<&str>, sent: Option<&Sent>, body: &[u8]) -> Heard {
        let mut call = self.client.post(&self.url).body(body.to_vec());
        if let Some(header) = header {
            call = call.header("authorization", header);
        }
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        let mac = answer
            .headers()
            .get(ANSWER)
            .map(|v| v.to_str().unwrap().to_owned());
        let body = answer.bytes().await.unwrap().to_vec();
        let signed = sent.is_some_and(|sent| self.keys.is_answer(sent, status, mac.as_deref(), &body));
        Heard { status, signed, body }
    }

    async fn say(&self, body: &[u8]) -> Heard {
        let (header, sent) = self.sign(body, clock::now());
        self.post(Some(&header), Some(&sent), body).await
    }
}

async fn ends(log: &dyn EventLog) -> Vec<u64> {
    let mut ends = Vec::new();
    for stream in Stream::ALL {
        for partition in (0..log.partitions()).map(Partition) {
            ends.push(log.end(stream, partition).await.unwrap());
        }
    }
    ends
}

async fn server() -> Server {
    Server::start_with(|config| {
        config.cluster = Some(ClusterConfig {
            secret: secret(7),
            advertise: None,
            forward_timeout: Duration::from_secs(5),
            view_wait: Duration::from_secs(2),
        });
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_node_signed_gets_in_and_only_once() {
    let server = server().await;
    let node = server.started.node.clone();
    let id: UserId = server.register("ada@example.com").await.parse().unwrap();
    let door = Door::new(server.url().to_owned(), node.gate.as_ref().unwrap().me());
    let role = |role: &str| {
        let role = role.to_owned();
        let command = Command::User(user::Command::GrantRole { role });
        wire::encode_command(&request(Subject::User(id), command), &[]).unwrap()
    };

    let admin = role("admin");
    let (header, sent) = door.sign(&admin, clock::now());
    let heard = door.post(Some(&header), Some(&sent), &admin).await;
    assert_eq!((heard.status, heard.signed), (200, true));
    let Ok(Reply::Done(outcome)) = wire::decode_reply(&heard.body) else {
        panic!("not done");
    };
    assert_eq!(outcome.answer.user, Some(id));
    assert!(
        node.views
            .user(&node.config.tenant, id)
            .unwrap()
            .roles
            .contains("admin")
    );

    let before = ends(node.log.as_ref()).await;
    // Replayed, with the same body or another.
    door.post(Some(&header), Some(&sent), &admin)
        .await
        .refused(401, Refused::Replayed);
    let body = role("root");
    door.post(Some(&header), Some(&sent), &body).await.nothing(404);
    // Forged: unsigned, with the keys of clients, with another cluster's secret, altered on the way.
    door.post(None, None, &body).await.nothing(404);
    door.post(Some(&format!("Bearer {BOOTSTRAP}")), None, &body)
        .await
        .nothing(404);
    let strange = ClusterKeys::new(&secret(8));
    let (header, _) = strange
        .sign(door.to, "POST", COMMANDS, &body, clock::now())
        .unwrap();
    door.post(Some(&header), None, &body).await.nothing(404);
    let (header, sent) = door.sign(&body, clock::now());
    door.post(Some(&header), Some(&sent), &role("boss"))
        .await
        .nothing(404);
    let (header, _) = door
        .keys
        .sign(door.to, "PUT", COMMANDS, &body, clock::now())
        .unwrap();
    door.post(Some(&header), None, &body).await.nothing(404);
    // Expired, and not yet: so far ahead that a slow request does not come into the time in which it is good.
    for off in [-31_000, 90_000] {
        let at = Timestamp::from_millis(clock::now().millis() + off);
        let (header, sent) = door.sign(&body, at);
        door.post(Some(&header), Some(&sent), &body)
            .await
            .refused(401, Refused::Stale);
    }
    // For another run.
    let elsewhere = Door::new(server.url().to_owned(), NodeId::random().unwrap());
    elsewhere.say(&body).await.refused(404, Refused::NotAddressed);
    // Of a newer node, or no command at all.
    let newer = [b"\x02", &body[1..]].concat();
    door.say(&newer).await.refused(400, Refused::UnknownForm);
    let text = String::from_utf8(body.clone()).unwrap();
    let unknown = text.replace("grant_role", "grant_wish");
    door.say(unknown.as_bytes())
        .await
        .refused(400, Refused::UnknownCommand);
    door.say(&body[..body.len() - 1])
        .await
        .refused(400, Refused::Malformed);
    door.say(b"").await.refused(400, Refused::UnknownForm);
    // Too large, however it is signed.
    door.say(&vec![b' '; MAX_COMMAND_BYTES + 1]).await.nothing(413);
    assert_eq!(ends(node.log.as_ref()).await, before);

    // Larger than what the public API takes.
    let padded = [body.as_slice(), &vec![b' '; 200_000]].concat();
    assert_eq!(door.say(&padded).await.status, 200);
    // A rejection comes as it is, and writes nothing.
    let before = ends(node.log.as_ref()).await;
    let nobody = UserId::new(clock::now(), id.shard(), [9; 8]);
    let erase = Command::User(user::Command::Erase { reason: None });
    let body = wire::encode_command(&request(Subject::User(nobody), erase), &[]).unwrap();
    let heard = door.say(&body).await;
    let expected = Rejection::User(user::Rejection::NotFound);
    assert!(heard.signed);
    assert!(matches!(
        wire::decode_reply(&heard.body),
        Ok(Reply::Failed(WriteError::Rejected(r))) if r == expected
    ));
    assert_eq!(ends(node.log.as_ref()).await, before);
    drop((door, elsewhere));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_comes_after_is_waited_for_and_not_for_ever() {
    let server = server().await;
    let node = server.started.node.clone();
    let id: UserId = server.register("ada@example.com").await.parse().unwrap();
    let door = Door::new(server.url().to_owned(), node.gate.as_ref().unwrap().me());
    let command = Command::User(user::Command::GrantRole { role: "x".to_owned() });
    let mut request = request(Subject::User(id), command);
    request.after = Some("identity:1:1000000".parse().unwrap());
    let before = ends(node.log.as_ref()).await;
    let heard = door.say(&wire::encode_command(&request, &[]).unwrap()).await;
    assert!(heard.signed);
    assert!(matches!(
        wire::decode_reply(&heard.body),
        Ok(Reply::Failed(WriteError::Unavailable { .. }))
    ));
    assert_eq!(ends(node.log.as_ref()).await, before);
    drop(door);
    server.stop().await;
}

/// The program itself, with the secret from its environment.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_has_the_door_only_with_a_secret() {
    use crate::support::process::Process;
    let dir = tempfile::tempdir().unwrap();
    let body = wire::encode_command(&super::pair::seed(), &[]).unwrap();
    let process = Process::start(dir.path(), None).await.unwrap();
    let door = Door::new(process.url.clone(), NodeId::random().unwrap());
    door.say(&body).await.nothing(404);
    assert!(process.stop().success());

    let secret = hex::encode([7; 32]);
    let environment = [("GATELOG_CLUSTER_SECRET", secret.as_str())];
    let process = Process::start_with(dir.path(), "127.0.0.1:0", &environment)
        .await
        .unwrap();
    let door = Door::new(process.url.clone(), NodeId::random().unwrap());
    // Its answer is signed: it knows the secret. Who it is in this run only its claims say.
    door.say(&body).await.refused(404, Refused::NotAddressed);
    door.post(None, None, &body).await.nothing(404);
    assert!(process.stop().success());

    let shown = gatelog(&["config"])
        .env("GATELOG_CLUSTER_SECRET", &secret)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("# cluster_secret is set") && !shown.contains(&secret),
        "{shown}"
    );
    let refused = gatelog(&["serve", "--node-advertise", "http://gatelog-1:8080"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--cluster-secret-file"), "{said}");
}
