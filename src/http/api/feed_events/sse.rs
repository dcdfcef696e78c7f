//! A feed as server-sent events (WHATWG HTML, section 9.2).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};

use super::Follower;
use crate::error::Problem;
use crate::feeds::engine::Item;
use crate::feeds::record::Envelope;

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The answer, which goes on for ever. `is_lost`: the consumer must be told first where it begins.
pub(super) fn answer(follower: Follower, is_lost: bool) -> Response {
    let events = Events {
        envelope: follower.envelope(),
        left: VecDeque::new(),
        is_lost,
        follower,
    };
    Sse::new(infallible(stream::unfold(events, Events::next)))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

fn infallible(events: impl Stream<Item = Event>) -> impl Stream<Item = Result<Event, Infallible>> {
    events.map(Ok)
}

/// Server-sent events of one consumer. What a record says, and whether it is told at all, is decided only when it leaves: who
/// reads slowly must not be told what held when the batch was made.
struct Events {
    follower: Follower,
    envelope: Envelope,
    /// What of the batch has not left yet.
    left: VecDeque<Item>,
    /// Whether the consumer does not know where it is.
    is_lost: bool,
}

impl Events {
    /// The next event; nothing once the caller may not follow any more, or the node stops or is cut off. The consumer comes
    /// back then, and hears why.
    async fn next(mut self) -> Option<(Event, Self)> {
        // Cut off before anything happens, who asked from now on would come back with a later now.
        if std::mem::take(&mut self.is_lost) {
            let event = Event::default().id(self.follower.sealed().ok()?);
            return Some((event, self));
        }
        loop {
            while let Some(item) = self.left.pop_front() {
                if let Some(event) = self.event(&item).ok()? {
                    return Some((event, self));
                }
            }
            self.left = self.follower.next_batch().await?.into();
            if self.left.is_empty() {
                let event = Event::default().id(self.follower.sealed().ok()?);
                return Some((event, self));
            }
        }
    }

    /// One server-sent event per record. Only the last of a batch has an id: who is cut off before it gets all of them again.
    /// Where that one is not told any more, an id alone moves the consumer's place.
    fn event(&self, item: &Item) -> Result<Option<Event>, Problem> {
        let record = self.follower.leaving(item)?;
        let is_last = self.left.is_empty();
        let mut event = Event::default();
        match &record {
            Some(record) => {
                let told = event.json_data(self.envelope.event(record));
                event = told.map_err(|e| Problem::internal(&e))?;
            }
            None if !is_last => return Ok(None),
            None => {}
        }
        if is_last {
            event = event.id(self.follower.sealed()?);
        }
        Ok(Some(event))
    }
}
