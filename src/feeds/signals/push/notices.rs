//! What a receiver is to hear of its stream itself: verification events, and that somebody else changed its status. It
//! waits for nothing else.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::domain::feed::Command;
use gatelog_events::domain::signals::{SignalStream, StreamNoticesTaken};
use gatelog_events::ids::{Offset, Partition, Stream};
use gatelog_projections::signals;
use tokio_util::sync::CancellationToken;

use super::endpoint::{Endpoint, Outcome};
use crate::feeds::signals::reader::{Notice, Reader};
use crate::feeds::signals::say_and_see;
use crate::node::Node;

/// How long to wait after a failure: the first time, and at the most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

pub(super) struct Notices {
    pub node: Arc<Node>,
    pub endpoint: Arc<Endpoint>,
    pub stream: Arc<SignalStream>,
    /// The stream's home.
    pub partition: Partition,
}

impl Notices {
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.tell() => {}
        }
    }

    async fn tell(&self) {
        let mut pause = PAUSE;
        loop {
            let folded = self.folded();
            if self.tell_all().await {
                pause = PAUSE;
                self.moved_from(folded).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST);
            }
        }
    }

    /// Up to where is folded what is asked of the stream. A change of its status begins this work anew.
    fn folded(&self) -> Option<Offset> {
        self.node
            .views
            .next(signals::NAME, Stream::Activity, self.partition)
    }

    /// Waits until more is folded than this.
    async fn moved_from(&self, before: Option<Offset>) {
        loop {
            // Before looking, so that nothing in between is missed.
            let moved = self.node.views.moved(signals::NAME);
            if self.folded() != before {
                return;
            }
            // The projection may not serve yet.
            let _ = tokio::time::timeout(PAUSE, moved).await;
        }
    }

    /// Whether everything there was is told, and that is on record.
    async fn tell_all(&self) -> bool {
        let reader = Reader {
            node: &self.node,
            stream_id: self.endpoint.stream_id,
            stream: &self.stream,
        };
        let notices = match reader.notices() {
            Ok(notices) => notices,
            Err(e) => {
                self.complain(&e);
                return false;
            }
        };
        for notice in &notices {
            let token = || {
                let settings = self.node.views.settings(&self.node.config.tenant).ok()?;
                let keys = &self.node.signal_keys;
                let signer = keys.signer(&self.node.config.tenant, &settings.signals, clock::now())?;
                signer.sign(&reader.notice(notice).claims).ok()
            };
            let sent = self
                .endpoint
                .send(|| token().map(Some).ok_or("the key that signs is not to be had"))
                .await;
            match sent {
                Ok(Some(Outcome::Taken)) => {}
                // It was told, and does not want to hear it again.
                Ok(Some(Outcome::Rejected(code))) => self.complain(&code),
                Ok(None) => return false,
                Ok(Some(Outcome::Failed { reason, .. })) => {
                    self.complain(&reason);
                    return false;
                }
                Err(e) => {
                    self.complain(&e);
                    return false;
                }
            }
            let command = taken(&reader, std::slice::from_ref(notice));
            if let Err(e) = say_and_see(&self.node, self.partition, command).await {
                self.complain(&e);
                return false;
            }
        }
        true
    }

    fn complain(&self, e: &dyn std::fmt::Display) {
        let stream = self.endpoint.stream_id;
        tracing::warn!(%stream, error = %e, "a receiver was not told of its stream");
    }
}

/// That the receiver has these.
pub fn taken(reader: &Reader<'_>, notices: &[Notice]) -> Command {
    let mut taken = StreamNoticesTaken {
        stream_id: reader.stream_id,
        verifications: Vec::new(),
        status: None,
    };
    for notice in notices {
        match notice {
            Notice::Verification(id, _) => taken.verifications.push(*id),
            Notice::Status(notice) => taken.status = Some(notice.number),
        }
    }
    Command::StreamNoticesTaken(taken)
}
