//! A wire between two that can be cut: a TCP proxy.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Whole,
    /// What is sent stays under way. Nobody is told; when the wire is whole again, it arrives.
    Silent,
    /// Every connection ends, and so does each new one at once.
    Torn,
}

/// One end, where somebody may be told to connect to before it is known what is at the other.
pub struct End(TcpListener);

impl End {
    pub async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Leads to `target` from now on.
    pub fn to(self, target: SocketAddr) -> Wire {
        let (state, watched) = watch::channel(State::Whole);
        tokio::spawn(accept(self.0, target, watched));
        Wire(state)
    }
}

/// Gone when it is dropped, with all its connections.
pub struct Wire(watch::Sender<State>);

impl Wire {
    pub fn set(&self, state: State) {
        self.0.send_replace(state);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mut state: watch::Receiver<State>) {
    let mut gone = state.clone();
    loop {
        let near = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = gone.wait_for(|_| false) => return,
        };
        if *state.borrow_and_update() != State::Torn {
            tokio::spawn(carry_both(near, target, state.clone()));
        }
    }
}

async fn carry_both(near: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    if !is_whole(&mut state).await {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    for end in [&near, &far] {
        end.set_nodelay(true).unwrap();
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = carry(near_in, far_out, state.clone()) => {}
        () = carry(far_in, near_out, state) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 16 << 10];
    while is_whole(&mut state).await {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = state.changed() => continue,
        };
        // It may have been cut while nothing was under way.
        if read == 0 || !is_whole(&mut state).await || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Waits while the wire is silent. `false`: it is torn, or gone.
async fn is_whole(state: &mut watch::Receiver<State>) -> bool {
    let is = state.wait_for(|s| *s != State::Silent).await;
    is.is_ok_and(|s| *s == State::Whole)
}
