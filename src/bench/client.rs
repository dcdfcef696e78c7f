//! A client that costs little: fixed requests over connections that stay open, answers read by `Content-Length`.
//!
//! It runs as a process of its own, so that its processor time is not the server's.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gatelog_events::clock;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::measure::Series;
use super::{BenchError, machine};

/// How requests follow one another.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Load {
    /// Each connection sends its next request when the answer to the last one is there.
    Closed,
    /// So many arrive per second at random moments, whatever became of those before; what waits for a connection
    /// waits on the clock.
    Open { per_second: f64 },
}

/// What a client shall do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub address: String,
    /// Whole HTTP/1.1 requests; each connection takes its own share of them in turn.
    pub requests: Vec<String>,
    pub connections: usize,
    pub load: Load,
    pub time: Duration,
}

/// What came of it. Latencies are in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Done {
    /// Answers of status 200.
    pub answers: u64,
    /// Answers of any other status.
    pub refused: u64,
    pub wall: f64,
    /// Processor time of the client.
    pub cpu: f64,
    pub p50: f64,
    pub p99: f64,
}

impl Job {
    /// Runs it in a child process.
    pub async fn run(&self) -> Result<Done, BenchError> {
        let job = self.clone();
        let done = tokio::task::spawn_blocking(move || job.run_child())
            .await
            .map_err(|e| BenchError::Ended(e.to_string()))??;
        if done.refused > 0 {
            return Err(BenchError::Ended(format!(
                "{} requests were refused",
                done.refused
            )));
        }
        Ok(done)
    }

    fn run_child(&self) -> Result<Done, BenchError> {
        let failed = || BenchError::io("the client");
        let program = std::env::current_exe().map_err(failed())?;
        let mut child = std::process::Command::new(program)
            .args(["bench", "--client"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed())?;
        let job = serde_json::to_vec(self).map_err(|e| BenchError::Ended(e.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&job).map_err(failed())?;
        }
        let output = child.wait_with_output().map_err(failed())?;
        serde_json::from_slice(&output.stdout)
            .map_err(|e| BenchError::Ended(format!("the client said nothing of use: {e}")))
    }
}

/// The child's side: a job from standard input, what came of it to standard output.
pub async fn serve_job() -> Result<(), BenchError> {
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .map_err(BenchError::io("standard input"))?;
    let job: Job = serde_json::from_slice(&text).map_err(|e| BenchError::Ended(e.to_string()))?;
    let done = work(job).await?;
    println!(
        "{}",
        serde_json::to_string(&done).map_err(|e| BenchError::Ended(e.to_string()))?
    );
    Ok(())
}

async fn work(job: Job) -> Result<Done, BenchError> {
    let job = std::sync::Arc::new(job);
    let arrivals = std::sync::Arc::new(arrivals(&job));
    let mut connections = Vec::with_capacity(job.connections);
    for _ in 0..job.connections {
        connections.push(Connection::open(&job.address).await?);
    }
    let cpu = machine::cpu_seconds("self");
    let begun = clock::monotonic();
    let mut tasks = tokio::task::JoinSet::new();
    for (n, connection) in connections.into_iter().enumerate() {
        let (job, arrivals) = (job.clone(), arrivals.clone());
        tasks.spawn(async move { each(connection, n, &job, &arrivals, begun).await });
    }
    let (mut latencies, mut refused) = (Vec::new(), 0);
    while let Some(task) = tasks.join_next().await {
        let (some, no) = task.map_err(|e| BenchError::Ended(e.to_string()))??;
        latencies.extend(some);
        refused += no;
    }
    let wall = begun.elapsed().as_secs_f64();
    let answers = latencies.len() as u64;
    let series: Series = latencies.into_iter().collect();
    Ok(Done {
        answers,
        refused,
        wall,
        cpu: machine::cpu_seconds("self") - cpu,
        p50: series.quantile(0.5),
        p99: series.quantile(0.99),
    })
}

/// Moments of arrival after the start, in seconds: a Poisson process, the same in every run.
fn arrivals(job: &Job) -> Vec<f64> {
    let Load::Open { per_second } = job.load else {
        return Vec::new();
    };
    let (mut at, mut state, mut all) = (0.0, 0x9E37_79B9_7F4A_7C15_u64, Vec::new());
    loop {
        // xorshift64 (Marsaglia)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let uniform = ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        at -= uniform.ln() / per_second;
        if at >= job.time.as_secs_f64() {
            return all;
        }
        all.push(at);
    }
}

/// One connection's share: the latencies of what was answered, and how many were refused.
async fn each(
    mut connection: Connection,
    n: usize,
    job: &Job,
    arrivals: &[f64],
    begun: Instant,
) -> Result<(Vec<f64>, u64), BenchError> {
    let own: Vec<&str> = job
        .requests
        .iter()
        .skip(n % job.requests.len().max(1))
        .step_by(job.connections)
        .map(String::as_str)
        .collect();
    let mut due = arrivals.iter().skip(n).step_by(job.connections);
    let (mut latencies, mut refused) = (Vec::new(), 0);
    for request in own.iter().cycle() {
        let mut start = clock::monotonic();
        match job.load {
            Load::Closed if begun.elapsed() >= job.time => break,
            Load::Closed => {}
            Load::Open { .. } => {
                let Some(at) = due.next() else { break };
                let at = begun + Duration::from_secs_f64(*at);
                if start < at {
                    tokio::time::sleep_until(at.into()).await;
                    // The timer may be a millisecond late, which is not the server's.
                    start = clock::monotonic();
                } else {
                    start = at;
                }
            }
        }
        if connection.ask(request).await? {
            latencies.push(start.elapsed().as_secs_f64());
        } else {
            refused += 1;
        }
    }
    Ok((latencies, refused))
}

/// A connection that stays open.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the last answer's body begins.
    body: usize,
}

impl Connection {
    pub async fn open(address: &str) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(BenchError::io(address))?;
        stream.set_nodelay(true).map_err(BenchError::io(address))?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 << 10),
            body: 0,
        })
    }

    /// Sends a request and reads the answer. Whether its status is 200.
    pub async fn ask(&mut self, request: &str) -> Result<bool, BenchError> {
        let failed = || BenchError::io("the server");
        self.stream
            .write_all(request.as_bytes())
            .await
            .map_err(failed())?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|length| self.buffer.len() < length) {
            let read = self.stream.read_buf(&mut self.buffer).await.map_err(failed())?;
            if read == 0 {
                return Err(BenchError::Ended("the server closed a connection".to_owned()));
            }
            if whole.is_none()
                && let Some((body, length)) = head(&self.buffer)
            {
                self.body = body;
                whole = Some(body + length);
            }
        }
        Ok(self.buffer.starts_with(b"HTTP/1.1 200"))
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body..]
    }
}

/// Where the body begins and how long it is, once the whole head is there.
fn head(buffer: &[u8]) -> Option<(usize, usize)> {
    const LENGTH: &[u8] = b"content-length:";
    let end = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let length = buffer[..end].split(|b| *b == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH)
            .then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
    });
    Some((end, length.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_how_long_the_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y\r\n\r\n{";
        assert_eq!(head(answer), Some((answer.len() - 1, 12)));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n"), None);
        assert_eq!(head(b"HTTP/1.1 204 No\r\n\r\n"), Some((19, 0)));
    }

    #[test]
    fn arrivals_come_at_the_rate_that_was_asked_for() {
        let job = Job {
            address: String::new(),
            requests: vec![],
            connections: 1,
            load: Load::Open { per_second: 500.0 },
            time: Duration::from_secs(20),
        };
        let all = arrivals(&job);
        assert!((9_500..10_500).contains(&all.len()), "{}", all.len());
        assert!(all.is_sorted());
    }
}
