//! What a lane says in the log, while it goes on.

use futures::FutureExt;
use futures::future::BoxFuture;
use gatelog_events::clock;
use gatelog_events::domain::feed::{Command, HandedOver, Handover};
use gatelog_events::ids::UserId;

use super::{Lane, SAY, far, progress};
use crate::feeds::cursor::Lane as Place;
use crate::feeds::observed::Outcome as Seen;
use crate::feeds::push::say::say;
use crate::writer::WriteError;

/// Something that was said, or could not be.
pub(super) struct Said {
    what: What,
    result: Result<(), WriteError>,
}

/// What there was to say.
pub(super) enum What {
    /// Which withdrawals the receiver was told.
    Told(Vec<HandedOver>),
    /// How far the lane has come.
    Progress(Place),
    /// That a dead letter of this subject was taken.
    Redelivered(UserId),
    /// That a record of this subject was given up.
    DeadLettered(UserId),
}

impl Lane {
    /// Says it while the lane goes on: what came of it [comes back](Self::was_said).
    pub(super) fn say(&mut self, what: What, commands: Vec<Command>) {
        let (node, partition) = (self.node.clone(), self.partition);
        let saying: BoxFuture<'static, Said> = async move {
            let mut result = Ok(());
            for command in commands {
                result = say(&node, partition, command).await;
                if result.is_err() {
                    break;
                }
            }
            Said { what, result }
        }
        .boxed();
        self.saying.push(saying);
    }

    pub(super) fn was_said(&mut self, said: Said) {
        let Said { what, result } = said;
        match (what, result) {
            (What::Told(_), Ok(())) => self.telling = false,
            (What::Told(told), Err(e)) => {
                self.telling = false;
                self.told.extend(told);
                self.complain("it cannot be said which withdrawals were told", &e);
            }
            (What::Progress(place), Ok(())) => {
                (self.said, self.progressing) = (place, false);
            }
            (What::Progress(_), Err(e)) => {
                (self.delivered, self.progressing) = (true, false);
                self.complain("it cannot be said how far it has come", &e);
            }
            (What::Redelivered(user), said) => {
                if let Err(e) = said {
                    self.complain("it cannot be said that a dead letter was taken", &e);
                }
                self.queue.done(user);
            }
            (What::DeadLettered(user), Ok(())) => {
                self.delivered = true;
                self.endpoint.meter.count(Seen::DeadLettered, 1);
                self.queue.done(user);
            }
            // It is tried again: nothing is lost in silence.
            (What::DeadLettered(user), Err(e)) => {
                self.complain("a dead letter cannot be written", &e);
                self.queue.again(user, clock::monotonic() + SAY);
            }
        }
        self.pass();
    }

    /// A receiver that answers 2xx was told and has acknowledged.
    pub(super) fn say_told(&mut self) {
        if self.told.is_empty() || self.telling {
            return;
        }
        self.telling = true;
        let told = std::mem::take(&mut self.told);
        let handover = Handover {
            feed: self.endpoint.feed.clone(),
            withdrawals: told.clone(),
        };
        let commands = vec![
            Command::WithdrawalsDelivered(handover.clone()),
            Command::WithdrawalsAcknowledged(handover),
        ];
        self.say(What::Told(told), commands);
    }

    /// Only after the withdrawals that were told on the way.
    pub(super) fn say_progress(&mut self) {
        let (now, said) = (self.passed, self.said);
        let first = now.snapshot != said.snapshot;
        let worth = now != said && (self.delivered || far(said, now) || first);
        if !worth || self.progressing || self.telling || !self.told.is_empty() {
            return;
        }
        (self.progressing, self.delivered) = (true, false);
        let generation = self.webhook.generation;
        let progress = progress(&self.endpoint.feed, &self.endpoint.name, generation, now);
        self.say(What::Progress(now), vec![Command::Progressed(progress)]);
    }
}
