//! What a lane says in the log, while it goes on.

use futures::FutureExt;
use futures::future::BoxFuture;
use gatelog_events::clock;
use gatelog_events::domain::feed::{Command, HandedOver, Handover, MAX_HANDED_OVER};
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
    /// Which withdrawals the receiver was told, and after them how far the lane has come.
    Report(Vec<HandedOver>, Option<Place>),
    /// That a dead letter of this subject was taken.
    Redelivered(UserId),
    /// That a record of this subject was given up.
    DeadLettered(UserId),
    /// That dead letters that were to be sent again cannot be.
    Lost,
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
            (What::Report(_, at), Ok(())) => {
                self.reporting = false;
                self.said = at.unwrap_or(self.said);
                if self.due {
                    self.report();
                }
            }
            (What::Report(told, at), Err(e)) => {
                self.reporting = false;
                self.told.extend(told);
                self.delivered |= at.is_some();
                self.complain("it cannot be said what was told and how far the lane is", &e);
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
            (What::Lost, said) => {
                self.burying = false;
                if let Err(e) = said {
                    self.complain("it cannot be said that a dead letter's event is gone", &e);
                }
            }
            // It is tried again: nothing is lost in silence.
            (What::DeadLettered(user), Err(e)) => {
                self.complain("a dead letter cannot be written", &e);
                self.queue.again(user, clock::monotonic() + SAY);
            }
        }
        self.pass();
    }

    /// Says what the receiver was told, and how far the lane has come where that is due: only after the withdrawals on the
    /// way there. A receiver that answers 2xx was told and has acknowledged.
    pub(super) fn report(&mut self) {
        if self.reporting {
            return;
        }
        let mut commands = Vec::new();
        let feed = &self.endpoint.feed;
        // As many as fit into a record. The next report has the rest, and only the last how far the lane is.
        let some = self.told.len().min(MAX_HANDED_OVER);
        let told: Vec<_> = self.told.drain(..some).collect();
        if !told.is_empty() {
            let handover = Handover {
                feed: feed.clone(),
                withdrawals: told.clone(),
            };
            commands.push(Command::WithdrawalsDelivered(handover.clone()));
            commands.push(Command::WithdrawalsAcknowledged(handover));
        }
        let all_told = self.told.is_empty();
        let at = (all_told && std::mem::take(&mut self.due) && self.is_news()).then_some(self.passed);
        if let Some(at) = at {
            self.delivered = false;
            let progress = progress(feed, &self.endpoint.name, self.webhook.generation, at);
            commands.push(Command::Progressed(progress));
        }
        if !commands.is_empty() {
            self.reporting = true;
            self.say(What::Report(told, at), commands);
        }
    }

    /// Whether it is worth saying how far the lane has come.
    fn is_news(&self) -> bool {
        let (now, said) = (self.passed, self.said);
        now != said && (self.delivered || far(said, now) || now.snapshot != said.snapshot)
    }
}
