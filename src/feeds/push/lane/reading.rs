//! Taking into the queue what the log has.

use gatelog_events::domain::feed::Definition;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::webhook::ReplayFrom;
use gatelog_events::ids::{Offset, Stream};
use gatelog_projections::store::StoreError;
use gatelog_projections::webhooks::Hook;
use gatelog_projections::{changes, users};

use super::{Begun, Lane, Unbegun, owing, place};
use crate::feeds::cursor::Cursor;
use crate::feeds::engine::{Batch, Engine, Item, Start};
use crate::feeds::push::endpoint::Endpoint;

/// Records that are taken from the log and not yet by the receiver, at the most. Withdrawals come on top, up to [`CROWD`].
const WINDOW: usize = 512;
/// The same where all of them wait for another attempt, or behind one that does: who is not taken holds up nobody.
const WAITING: usize = 4096;
/// Records, withdrawals too, from which on nothing more is read: what is not read yet is told first all the same.
const CROWD: usize = 8192;
/// Records of a batch: once all of them are taken, the lane is past them.
const BATCH: usize = 64;

impl Lane {
    pub(super) fn hook(&self) -> Hook<'_> {
        Hook {
            tenant: &self.node.config.tenant,
            feed: &self.endpoint.feed,
            webhook: &self.endpoint.name,
        }
    }

    /// Calls what needs the engine; nothing if the feed is not there any more.
    fn with_engine<T>(
        &self,
        f: impl FnOnce(Engine<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let settings = self.node.views.settings(&self.node.config.tenant)?;
        let Some(definition) = live(&settings, &self.endpoint, self.webhook.version) else {
            return Ok(None);
        };
        let engine = Engine::of(
            &self.node,
            &settings,
            &self.endpoint.feed,
            definition,
            self.partition,
        );
        // It reads many rows: those who log in meanwhile shall not wait for the thread.
        tokio::task::block_in_place(|| f(engine)).map(Some)
    }

    /// Where it was left, or where the webhook is to begin.
    pub(super) fn begin(&mut self) -> Result<Begun, Unbegun> {
        let known = self.node.views.webhook_progress(self.hook(), self.partition)?;
        // What stands there of a webhook that was removed is another receiver's.
        let known = known.filter(|p| p.generation >= self.webhook.since);
        let version = self.webhook.version;
        let (cursor, begun) = match known {
            Some(progress) if progress.generation == self.webhook.generation => {
                let cursor = Cursor {
                    version,
                    turn: 0,
                    lanes: vec![place(&progress)],
                };
                (cursor, Begun::AsSaid)
            }
            known => {
                let anew = self.with_engine(|engine| {
                    let begun = match self.webhook.from {
                        ReplayFrom::Snapshot => engine.begin(version, 1, Start::Snapshot),
                        ReplayFrom::Beginning => engine.begin(version, 1, Start::Beginning),
                        ReplayFrom::Time(time) if known.is_some() => engine.since(version, time)?,
                        // All withdrawals are told that there may have been; what was granted again after one comes with the
                        // state.
                        ReplayFrom::Time(_) => engine.begin(version, 1, Start::Snapshot),
                    };
                    owing(&engine, begun, known.as_ref(), self.webhook.set_at)
                })?;
                // It may be live again before this lane is ended, and must not go on from nowhere then.
                (anew.ok_or(Unbegun::NotLive)?, Begun::Anew)
            }
        };
        self.passed = cursor.lanes.first().copied().unwrap_or_default();
        self.said = self.passed;
        self.read = cursor;
        Ok(begun)
    }

    /// Whether there is anything new to read.
    pub(super) fn look(&mut self) {
        let folded = self.folded();
        let fresh = folded != self.folded;
        self.folded = folded;
        self.behind |= fresh;
        self.owing |= fresh;
    }

    /// Takes what is new into the queue: withdrawals always, the rest while there is room.
    pub(super) fn read_on(&mut self) -> Result<(), StoreError> {
        let read = self.read_ahead();
        // Other rows tell of them: they do not wait for what cannot be read.
        let owed = self.read_withdrawals();
        self.pass();
        read.and(owed)
    }

    fn read_ahead(&mut self) -> Result<(), StoreError> {
        while self.behind && self.has_room() {
            let Some(batches) = self.next_batches()? else {
                return Ok(());
            };
            for batch in batches {
                self.behind = batch.more;
                self.take(batch);
            }
        }
        Ok(())
    }

    /// Whether half the window is free, or nothing that is in it may fly.
    fn has_room(&self) -> bool {
        let taken = self.queue.len();
        taken <= WINDOW / 2 || (!self.queue.is_ready() && taken + BATCH <= WAITING)
    }

    /// What comes next, in batches, as much as there is room for; nothing if there is nobody to tell it. In one go: to leave
    /// the thread to others and come back costs as much as to read a batch.
    fn next_batches(&self) -> Result<Option<Vec<Batch<Item>>>, StoreError> {
        if self.read.lanes.is_empty() {
            return Ok(None);
        }
        self.with_engine(|engine| {
            let mut batches = Vec::new();
            let mut from = self.read.clone();
            let mut told = self.queue.len();
            let window = if self.queue.is_ready() { WINDOW } else { WAITING };
            // Where most may not be seen, many batches tell nothing.
            while batches.len() < WINDOW / BATCH && told + BATCH <= window {
                let batch = match engine.items(from, BATCH) {
                    Ok(batch) => batch,
                    // What was read before it is told; the next call says what is wrong.
                    Err(_) if !batches.is_empty() => break,
                    Err(e) => return Err(e),
                };
                from = batch.cursor.clone();
                told += batch.told.len();
                let more = batch.more;
                batches.push(batch);
                if !more {
                    break;
                }
            }
            Ok(batches)
        })
    }

    fn read_withdrawals(&mut self) -> Result<(), StoreError> {
        if self.owing && self.behind && self.queue.len() < CROWD {
            let before = self.read.clone();
            if let Some(batch) = self.with_engine(|engine| engine.withdrawals(before))? {
                self.owing = batch.more;
                self.take(batch);
            }
        }
        Ok(())
    }

    /// Notes how far everything is done.
    pub(super) fn pass(&mut self) {
        if let Some(passed) = self.queue.passed() {
            self.passed = passed;
        }
    }

    fn take(&mut self, batch: Batch<Item>) {
        if batch.cursor != self.read {
            self.read = batch.cursor;
            let then = self.read.lanes.first().copied().unwrap_or_default();
            self.queue.take(batch.told, then);
        }
    }

    /// Up to where the partition is folded, so that it is looked at only where there is something new.
    fn folded(&self) -> [Offset; 3] {
        let next = |projection, stream| {
            self.node
                .views
                .next(projection, stream, self.partition)
                .unwrap_or(0)
        };
        [
            next(changes::NAME, Stream::Identity),
            next(changes::NAME, Stream::Activity),
            next(users::NAME, Stream::Identity),
        ]
    }
}

/// What the webhook is to post, unless the feed is retired or the webhook paused or removed.
pub(super) fn live<'s>(settings: &'s Settings, endpoint: &Endpoint, version: u32) -> Option<&'s Definition> {
    let feed = settings.feeds.get(&endpoint.feed)?;
    let webhook = feed.webhooks.get(&endpoint.name)?;
    let live = feed.retired_at.is_none() && webhook.paused.is_none();
    let version = feed.version(version).filter(|_| live)?;
    Some(&version.definition)
}
