use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::feeds::webhook::address::Special;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
const SHORT: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    total: Duration::from_secs(5),
};
const HASTY: Timeouts = Timeouts {
    connect: Duration::from_millis(200),
    total: Duration::from_millis(400),
};

/// A server on this machine.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What a server does after it has read a request.
#[derive(Clone)]
enum Does {
    Say(String),
    /// Says this, and then the same again and again.
    Repeat(String, String),
    /// As `Repeat`, one piece each 20 ms.
    Drip(String, String),
    /// Says this, and nothing more for a minute.
    Stall(String),
}

impl Server {
    async fn start(ip: &str, does: Does) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (server.connections.clone(), server.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, does.clone(), requests.clone()));
            }
        });
        server
    }

    async fn saying(text: &str) -> Self {
        Self::start("127.0.0.1", Does::Say(text.to_owned())).await
    }

    fn url(&self) -> String {
        format!("http://{}/hooks?key=T0K3N", self.address)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, does: Does, requests: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"END") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    requests.lock().unwrap().push(String::from_utf8(request).unwrap());
    let (first, then, pause) = match does {
        Does::Say(text) => (text, None, 0),
        Does::Repeat(head, text) => (head, Some(text), 0),
        Does::Drip(head, text) => (head, Some(text), 20),
        Does::Stall(text) => (text, Some(String::new()), 60_000),
    };
    let mut sent = stream.write_all(first.as_bytes()).await;
    while let (Ok(()), Some(text)) = (&sent, &then) {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        sent = stream.write_all(text.as_bytes()).await;
    }
}

fn policy(networks: &[&str]) -> Policy {
    Policy {
        allow_http: true,
        allowed_private: networks.iter().map(|n| n.parse().unwrap()).collect(),
    }
}

fn lax() -> Policy {
    policy(&["127.0.0.0/8"])
}

/// Posts with a client of this policy to a URL that was let in by a lax one.
async fn post(url: &str, policy: Policy, timeouts: Timeouts) -> Result<Reply, DeliveryError> {
    let target = Target::parse(url, &lax()).unwrap();
    let client = WebhookClient::new(policy, timeouts).unwrap();
    client.post(&target, &[], "END", Timestamp::default()).await
}

async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(seconds);
    tokio::time::timeout(limit, future).await.unwrap()
}

fn shown(result: Result<Reply, DeliveryError>) -> String {
    let error = result.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("T0K3N") && !text.contains("/hooks"), "{text}");
    }
    error.to_string()
}

#[tokio::test]
async fn a_message_is_posted_as_it_is() {
    let server = Server::saying(OK).await;
    let target = Target::parse(&server.url(), &lax()).unwrap();
    let client = WebhookClient::new(lax(), SHORT).unwrap();
    let headers = [("webhook-id", "msg_1"), ("content-type", "application/json")];
    let reply = client
        .post(&target, &headers, "{} END", Timestamp::default())
        .await;
    let expected = Reply {
        status: 200,
        retry_after: None,
        discarded: 5,
    };
    assert_eq!(reply, Ok(expected));
    let request = server.requests.lock().unwrap().pop().unwrap();
    assert!(
        request.starts_with("POST /hooks?key=T0K3N HTTP/1.1\r\n"),
        "{request}"
    );
    for line in [
        "\r\nwebhook-id: msg_1\r\n",
        "\r\ncontent-type: application/json\r\n",
        "\r\ncontent-length: 6\r\n",
        "\r\nuser-agent: gatelog/",
        "\r\n\r\n{} END",
    ] {
        assert!(request.contains(line), "{line} in {request}");
    }
}

#[tokio::test]
async fn what_the_policy_does_not_allow_is_not_connected_to() {
    let server = Server::saying(OK).await;
    let named = format!("http://localhost:{}/hooks", server.address.port());
    let mapped = format!("http://[::ffff:127.0.0.1]:{}/hooks", server.address.port());
    let numeric = format!("http://2130706433:{}/hooks", server.address.port());

    for networks in [&[][..], &["10.0.0.0/8"]] {
        for url in [&server.url(), &mapped, &numeric] {
            let refused = post(url, policy(networks), SHORT).await;
            let is_it = matches!(refused, Err(DeliveryError::Target(TargetError::Address(_))));
            assert!(is_it, "{url} {refused:?}");
        }
        let refused = post(&named, policy(networks), SHORT).await;
        let Err(DeliveryError::NameRefused(Refused { special, .. })) = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(*special, Special::Loopback);
        assert!(!shown(refused).contains("127."));
    }
    let https_only = Policy {
        allow_http: false,
        ..lax()
    };
    let refused = post(&server.url(), https_only, SHORT).await;
    assert_eq!(refused, Err(DeliveryError::Target(TargetError::NotHttps)));
    assert_eq!(server.connections(), 0);

    for url in [&server.url(), &mapped, &numeric, &named] {
        let reply = post(url, policy(&["127.0.0.1"]), SHORT).await;
        assert_eq!(reply.map(|r| r.status), Ok(200), "{url}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    for ip in ["127.0.0.1", "127.0.0.2"] {
        let inside = Server::start(ip, Does::Say(OK.to_owned())).await;
        for status in [301, 302, 303, 307, 308] {
            let server = Server::saying(&format!(
                "HTTP/1.1 {status} Moved\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
                inside.url()
            ))
            .await;
            let reply = post(&server.url(), policy(&["127.0.0.1"]), SHORT).await;
            assert_eq!(reply.map(|r| r.status), Ok(status));
        }
        assert_eq!(inside.connections(), 0);
    }
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    let piece = "x".repeat(10_000);
    let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
    for (head, text) in [
        ("HTTP/1.1 200 OK\r\n\r\n", &piece),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", &piece),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &chunk),
    ] {
        let server = Server::start("127.0.0.1", Does::Repeat(head.to_owned(), text.clone())).await;
        let reply = within(3, post(&server.url(), lax(), SHORT)).await.unwrap();
        assert_eq!((reply.status, reply.discarded), (200, MAX_REPLY), "{head}");
    }
}

#[tokio::test]
async fn slow_servers_time_out() {
    for does in [
        Does::Stall(String::new()),
        Does::Stall("HTTP/1.1 200 OK\r\n".to_owned()),
        Does::Drip("HTTP/1.1 200 OK\r\n".to_owned(), "X: y\r\n".to_owned()),
    ] {
        let server = Server::start("127.0.0.1", does).await;
        let result = within(3, post(&server.url(), lax(), HASTY)).await;
        assert_eq!(result, Err(DeliveryError::TimedOut));
    }
}

#[tokio::test]
async fn a_status_counts_even_if_the_body_does_not_end() {
    // The status must come in time, however busy the machine.
    let patient = Timeouts {
        connect: Duration::from_secs(2),
        total: Duration::from_secs(3),
    };
    for (does, discarded) in [
        (Does::Stall("HTTP/1.1 204 No Content\r\n\r\n".to_owned()), 0),
        (
            Does::Stall("HTTP/1.1 204 OK\r\nContent-Length: 9\r\n\r\n".to_owned()),
            0,
        ),
        (
            Does::Stall("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_owned()),
            3,
        ),
        (
            Does::Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_owned()),
            3,
        ),
        (
            Does::Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense".to_owned()),
            0,
        ),
    ] {
        let server = Server::start("127.0.0.1", does).await;
        let reply = within(20, post(&server.url(), lax(), patient)).await.unwrap();
        assert!(reply.status / 100 == 2, "{reply:?}");
        assert_eq!(reply.discarded, discarded);
    }
}

#[tokio::test]
async fn garbage_is_a_clean_error() {
    let endless = "X: y\r\n".repeat(200_000);
    for text in [
        "",
        "garbage\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        &format!("HTTP/1.1 200 OK\r\n{endless}\r\n"),
        &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2_000_000)),
    ] {
        let server = Server::saying(text).await;
        let result = post(&server.url(), lax(), SHORT).await;
        let begin: String = text.chars().take(40).collect();
        assert!(
            matches!(result, Err(DeliveryError::Broken(_))),
            "{begin}: {result:?}"
        );
        shown(result);
    }
}

#[tokio::test]
async fn receivers_that_are_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let plain = Server::saying("not TLS").await;
    for url in [
        format!("http://{closed}/hooks"),
        "http://127.0.0.1:0/hooks".to_owned(),
        // The server waits for END, which a TLS handshake does not have.
        format!("https://{}/hooks", plain.address),
    ] {
        let result = post(&url, lax(), HASTY).await;
        let fits = matches!(
            result,
            Err(DeliveryError::Unconnected(_) | DeliveryError::TimedOut)
        );
        assert!(fits, "{url}: {result:?}");
        shown(result);
    }
}

#[tokio::test]
async fn a_name_that_is_not_known() {
    let lookup: Lookup = Arc::new(|_| Box::pin(async { Err(std::io::Error::other("no such name")) }));
    let client = WebhookClient::with_lookup(lax(), SHORT, lookup).unwrap();
    let target = Target::parse("http://unknown.example/", &lax()).unwrap();
    let result = client.post(&target, &[], "END", Timestamp::default()).await;
    assert_eq!(result, Err(DeliveryError::Unresolved("no such name".to_owned())));
}

#[tokio::test]
async fn https_to_something_else_is_a_clean_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/hooks", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(OK.as_bytes()).await;
        }
    });
    let result = post(&url, lax(), SHORT).await;
    assert!(matches!(result, Err(DeliveryError::Unconnected(_))), "{result:?}");
    shown(result);
}

#[tokio::test]
async fn headers_are_checked() {
    let server = Server::saying(OK).await;
    let target = Target::parse(&server.url(), &lax()).unwrap();
    let client = WebhookClient::new(lax(), SHORT).unwrap();
    for header in [("x", "a\r\nHost: b"), ("a b", "x"), ("", "x"), ("x", "\0")] {
        let result = client.post(&target, &[header], "END", Timestamp::default()).await;
        assert_eq!(result, Err(DeliveryError::Headers), "{header:?}");
    }
    assert_eq!(server.connections(), 0);
}

/// A client whose names resolve to these addresses, one answer after the other, and the number of look-ups.
fn scripted(policy: Policy, answers: &[&[&str]]) -> (WebhookClient, Arc<AtomicUsize>) {
    let answers: Vec<Vec<SocketAddr>> = answers
        .iter()
        .map(|ips| {
            ips.iter()
                .map(|ip| (ip.parse::<IpAddr>().unwrap(), 0).into())
                .collect()
        })
        .collect();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let lookup: Lookup = Arc::new(move |_| {
        let nth = counter.fetch_add(1, Ordering::SeqCst);
        let answer = answers[nth.min(answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer) })
    });
    (WebhookClient::with_lookup(policy, SHORT, lookup).unwrap(), count)
}

#[tokio::test]
async fn a_dns_answer_that_flips_leads_nowhere() {
    let good = Server::saying(OK).await;
    let port = good.address.port();
    let listener = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let (client, lookups) = scripted(
        policy(&["127.0.0.1"]),
        &[
            &["127.0.0.2", "127.0.0.1"],
            &["127.0.0.2"],
            &["::ffff:127.0.0.2"],
            &[],
        ],
    );
    let target = Target::parse(&format!("http://flips.example:{port}/"), &lax()).unwrap();
    let post = || client.post(&target, &[], "END", Timestamp::default());

    // Of both addresses only the allowed one is tried, and the name is looked up once for the one connection.
    assert_eq!(post().await.map(|r| r.status), Ok(200));
    assert_eq!((lookups.load(Ordering::SeqCst), good.connections()), (1, 1));
    for address in ["127.0.0.2", "::ffff:127.0.0.2"] {
        let refused = Refused {
            address: address.parse().unwrap(),
            special: Special::Loopback,
        };
        assert_eq!(post().await, Err(DeliveryError::NameRefused(refused)));
    }
    assert!(matches!(post().await, Err(DeliveryError::Unresolved(_))));
    let touched = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(touched.is_err(), "the refused address was connected to");
}

#[tokio::test]
async fn a_look_up_that_hangs_times_out() {
    let lookup: Lookup = Arc::new(|_| Box::pin(std::future::pending()));
    let timeouts = Timeouts {
        total: Duration::from_secs(60),
        ..HASTY
    };
    let client = WebhookClient::with_lookup(lax(), timeouts, lookup).unwrap();
    let target = Target::parse("http://hangs.example/", &lax()).unwrap();
    let result = within(3, client.post(&target, &[], "END", Timestamp::default())).await;
    assert_eq!(result, Err(DeliveryError::TimedOut));
}

/// Runs another of these tests in a process whose environment names a proxy.
#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let proxy = Server::saying(OK).await;
    let url = format!("http://{}", proxy.address);
    let mut child = tokio::task::spawn_blocking(std::env::current_exe)
        .await
        .unwrap()
        .map(std::process::Command::new)
        .unwrap();
    child.args([
        "--exact",
        "feeds::webhook::client::tests::a_message_is_posted_as_it_is",
    ]);
    for variable in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        child.env(variable, &url);
    }
    let output = tokio::task::spawn_blocking(move || child.output())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn retry_after_comes_with_the_reply() {
    let server = Server::saying("HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n").await;
    let reply = post(&server.url(), lax(), SHORT).await.unwrap();
    assert_eq!(
        (reply.status, reply.retry_after),
        (429, Some(Duration::from_secs(7)))
    );
}

#[test]
fn retry_after_in_seconds_or_as_a_date() {
    // Sun, 06 Nov 1994 08:49:37 GMT
    let now = Timestamp::from_millis(784_111_777_000);
    for (text, seconds) in [
        ("0", Some(0)),
        ("120", Some(120)),
        (" 120 ", Some(120)),
        ("99999999999999999999", Some(u64::MAX)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
        ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
        ("Mon, 07 Nov 1994 08:49:37 GMT", Some(86_400)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("Mon, 06 Nov 1994 08:51:37 GMT", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("soon", None),
        ("1994-11-06T08:51:37Z", None),
    ] {
        assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
    }
}
