//! What a receiver does not take after all attempts, and sending it again.

use gatelog_events::domain::feed::Command;
use gatelog_events::domain::webhook::{DeadLetter, DeadLetterRef, Told};
use gatelog_events::ids::Stream;
use gatelog_projections::changes;
use gatelog_projections::store::StoreError;
use gatelog_projections::webhooks::Dead;
use uuid::Uuid;

use super::Lane;
use super::saying::What;
use crate::feeds::engine::Item;
use crate::feeds::push::queue::Job;

/// Dead letters that are taken up again at once.
const REDRIVEN: usize = 64;
/// Why a letter stays one. To say that it was sent again and taken would not be true.
const LOST: &str = "its event is not in the log any more, so that it cannot be sent again";

impl Lane {
    pub(super) fn letters(&self, record: Uuid) -> DeadLetterRef {
        DeadLetterRef {
            feed: self.endpoint.feed.clone(),
            webhook: self.endpoint.name.clone(),
            records: vec![record],
        }
    }

    /// Gives up, and says so.
    pub(super) fn bury(&mut self, job: &Job, record: Uuid, status: Option<u16>, reason: String) {
        let user = job.item.user();
        let letter = DeadLetter {
            feed: self.endpoint.feed.clone(),
            webhook: self.endpoint.name.clone(),
            // One that was sent again stays the letter that it was, whatever its record says now.
            record: job.redriven.unwrap_or(record),
            user,
            told: told(&job.item),
            attempts: job.attempts + 1,
            status,
            reason,
        };
        self.say(What::DeadLettered(user), vec![Command::DeadLettered(letter)]);
    }

    pub(super) fn take_redriven(&mut self) {
        let found = self.node.views.redriven(self.hook(), self.partition, REDRIVEN);
        let letters = match found {
            Ok(letters) => letters,
            Err(e) => return self.complain("dead letters cannot be read", &e),
        };
        let mut lost = Vec::new();
        for dead in letters {
            let record = dead.letter.record;
            // Before looking: what is folded in between would be taken for lost.
            let is_folded = self.is_folded(dead.letter.told);
            match self.item(&dead) {
                Ok(Some(item)) => self.queue.redrive(item, record),
                Ok(None) if is_folded => lost.push(dead.letter),
                Ok(None) => self.complain("a dead letter's event is not folded yet", &record),
                Err(e) => self.complain("a dead letter's event cannot be read", &e),
            }
        }
        self.bury_lost(lost);
    }

    /// Puts letters on the list again of whose events nothing is left, so that they keep no others from being sent.
    fn bury_lost(&mut self, letters: Vec<DeadLetter>) {
        // They stay among those that are to be sent until it is said.
        if letters.is_empty() || self.burying {
            return;
        }
        self.burying = true;
        let again = letters.into_iter().map(|letter| DeadLetter {
            reason: LOST.to_owned(),
            ..letter
        });
        self.say(What::Lost, again.map(Command::DeadLettered).collect());
    }

    /// Whether this node has folded what a dead letter was to tell, if it is in the log at all.
    fn is_folded(&self, told: Told) -> bool {
        let (stream, offset) = match told {
            Told::State => return true,
            Told::Happened { stream, offset, .. } => (stream, offset),
            Told::Withdrawn { offset, .. } => (Stream::Identity, offset),
        };
        let next = self.node.views.next(changes::NAME, stream, self.partition);
        next.is_some_and(|next| next > offset)
    }

    /// What a dead letter was to tell.
    fn item(&self, dead: &Dead) -> Result<Option<Item>, StoreError> {
        let (views, tenant) = (&self.node.views, &self.node.config.tenant);
        match dead.letter.told {
            Told::State => Ok(Some(Item::State {
                user: dead.letter.user,
            })),
            Told::Happened {
                stream,
                offset,
                event_id,
                as_state,
            } => {
                let rows = views.changes(tenant, stream, self.partition, offset, 1)?;
                let change = rows.into_iter().find(|(at, _)| *at == offset);
                let events = change.map(|(_, c)| c.events).unwrap_or_default();
                let event = events.into_iter().find(|e| e.id == event_id);
                Ok(event.map(|event| Item::Happened {
                    user: dead.letter.user,
                    stream,
                    offset,
                    event,
                    as_state,
                }))
            }
            Told::Withdrawn { offset, event_id } => {
                let rows =
                    views.withdrawals(tenant, self.partition, offset, gatelog_events::codec::MAX_EVENTS)?;
                let found = rows.into_iter().find(|(at, w)| *at == offset && w.id == event_id);
                Ok(found.map(|(offset, withdrawal)| Item::Withdrawn {
                    partition: self.partition,
                    offset,
                    withdrawal,
                }))
            }
        }
    }
}

fn told(item: &Item) -> Told {
    match item {
        Item::State { .. } => Told::State,
        Item::Happened {
            stream,
            offset,
            event,
            as_state,
            ..
        } => Told::Happened {
            stream: *stream,
            offset: *offset,
            event_id: event.id,
            as_state: *as_state,
        },
        Item::Withdrawn {
            offset, withdrawal, ..
        } => Told::Withdrawn {
            offset: *offset,
            event_id: withdrawal.id,
        },
    }
}
