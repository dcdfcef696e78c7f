//! Addresses for those who are told where to listen before they do.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const PORTS: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 on which nobody listens. The system gives none of these to whoever takes any port or connects (from
/// 32768 on, on Linux), so that it is free still when it is bound; and each process begins elsewhere.
pub fn free_port() -> u16 {
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let n = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + n % PORTS).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}
