//! A log in memory in which everything that can go wrong with a real one does, by seed.
//!
//! Time passes in steps. What a producer appends goes on its *wire*, first in, first out for each partition; a step
//! takes one record from one wire into the log, or makes what a partition has taken durable. Acknowledgements get lost,
//! records are taken twice, offsets are skipped, a dead producer's records arrive late, the log crashes. The same seed
//! and the same calls give the same course.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::channel::oneshot;
use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{AppendError, Entry, EntryIter, EventLog, LogError, Record};
use crate::ids::{Offset, Partition, Position, Stream};

/// How likely what goes wrong, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedOptions {
    /// All that is left to chance follows from this.
    pub seed: u64,
    /// Partitions of each stream.
    pub partitions: u16,
    /// Largest value in bytes.
    pub max_record_bytes: usize,
    /// An append is durable and its caller told `Unknown`.
    pub lost_acknowledgement: u8,
    /// A record is taken twice.
    pub duplicate: u8,
    /// An offset is skipped before a record.
    pub gap: u8,
    /// What is left on a dead producer's wire is lost, whenever it is its turn; otherwise it arrives.
    pub lost_late: u8,
}

impl Default for SimulatedOptions {
    /// Delays only.
    fn default() -> Self {
        Self {
            seed: 0,
            partitions: 8,
            max_record_bytes: 1 << 20,
            lost_acknowledgement: 0,
            duplicate: 0,
            gap: 0,
            lost_late: 0,
        }
    }
}

/// Who makes time pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// Only [`SimulatedLog::step`] and [`SimulatedLog::run_until_idle`].
    Steps,
    /// Waiting for an append makes steps until it is answered.
    Appends,
}

/// The log itself. Append through a [`SimulatedProducer`].
#[derive(Clone)]
pub struct SimulatedLog {
    world: Arc<Mutex<World>>,
    /// Per slot: the offset after the last durable record.
    ends: Arc<Vec<watch::Receiver<Offset>>>,
    partitions: u16,
}

/// One process that appends. Its records keep their order for each partition.
pub struct SimulatedProducer {
    log: SimulatedLog,
    id: u64,
    drive: Drive,
}

type Answer = Result<Position, AppendError>;

/// A record on the wire.
struct Sent {
    record: Record,
    done: Option<oneshot::Sender<Answer>>,
}

/// One partition of a stream.
struct Slot {
    stream: Stream,
    partition: Partition,
    entries: Vec<Entry>,
    /// How many of the entries are durable.
    durable: usize,
    next: Offset,
    /// Answers due when all entries are durable.
    due: Vec<(Position, oneshot::Sender<Answer>)>,
    /// `None` once the log is closed.
    end: Option<watch::Sender<Offset>>,
}

struct World {
    options: SimulatedOptions,
    chance: Chance,
    slots: Vec<Slot>,
    wires: BTreeMap<(u64, usize), VecDeque<Sent>>,
    dead: Vec<u64>,
    producers: u64,
    closed: bool,
}

/// Random numbers (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn percent(&mut self, p: u8) -> bool {
        self.below(100) < usize::from(p)
    }
}

/// What one step may do.
#[derive(Clone, Copy)]
enum Action {
    Take(u64, usize),
    Sync(usize),
}

impl SimulatedLog {
    /// An empty log.
    pub fn new(options: SimulatedOptions) -> Self {
        let places = Stream::ALL
            .iter()
            .flat_map(|s| (0..options.partitions).map(|p| (*s, Partition(p))));
        let (slots, ends): (Vec<_>, Vec<_>) = places
            .map(|(stream, partition)| {
                let (end, seen) = watch::channel(0);
                let slot = Slot {
                    stream,
                    partition,
                    entries: Vec::new(),
                    durable: 0,
                    next: 0,
                    due: Vec::new(),
                    end: Some(end),
                };
                (slot, seen)
            })
            .unzip();
        let world = World {
            options,
            chance: Chance(options.seed),
            slots,
            wires: BTreeMap::new(),
            dead: Vec::new(),
            producers: 0,
            closed: false,
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            ends: Arc::new(ends),
            partitions: options.partitions,
        }
    }

    /// A new process that appends.
    pub fn producer(&self, drive: Drive) -> Arc<SimulatedProducer> {
        let mut world = self.world.lock();
        world.producers += 1;
        Arc::new(SimulatedProducer {
            log: self.clone(),
            id: world.producers,
            drive,
        })
    }

    /// Lets one thing happen. `false`: there was nothing to do.
    pub fn step(&self) -> bool {
        self.world.lock().step()
    }

    /// Lets things happen until there is nothing left to do.
    pub fn run_until_idle(&self) {
        while self.step() {}
    }

    /// The log stops and starts again: what was taken and is not durable is gone, its callers are told `Unknown`.
    /// What is on the wires still arrives.
    pub fn crash(&self) {
        for slot in &mut self.world.lock().slots {
            slot.entries.truncate(slot.durable);
            slot.next = slot.entries.last().map_or(0, |e| e.position.offset + 1);
            slot.due.clear();
        }
    }

    /// Shuts the log down. What was not acknowledged is dropped.
    pub fn close(&self) {
        self.crash();
        let mut world = self.world.lock();
        world.closed = true;
        world.wires.clear();
        world.slots.iter_mut().for_each(|s| s.end = None);
    }

    /// The durable records of a partition.
    pub fn durable(&self, stream: Stream, partition: Partition) -> Vec<Entry> {
        let slot = self.slot(stream, partition);
        slot.map_or_else(|_| Vec::new(), |slot| self.world.lock().slots[slot].since(0))
    }

    fn slot(&self, stream: Stream, partition: Partition) -> Result<usize, LogError> {
        let n = usize::from(self.partitions);
        let known = Stream::ALL
            .iter()
            .position(|s| *s == stream)
            .filter(|_| partition.0 < self.partitions);
        known
            .map(|s| s * n + usize::from(partition.0))
            .ok_or_else(|| LogError::Mismatch {
                place: "memory".into(),
                what: format!("it has {n} partitions, none for {stream}:{partition}"),
            })
    }
}

impl World {
    fn step(&mut self) -> bool {
        let takes = self
            .wires
            .keys()
            .map(|(producer, slot)| Action::Take(*producer, *slot));
        let syncs = (0..self.slots.len()).filter(|s| self.slots[*s].durable < self.slots[*s].entries.len());
        let actions: Vec<_> = takes.chain(syncs.map(Action::Sync)).collect();
        if actions.is_empty() {
            return false;
        }
        match actions[self.chance.below(actions.len())] {
            Action::Take(producer, slot) => self.take(producer, slot),
            Action::Sync(slot) => self.sync(slot),
        }
        true
    }

    /// Takes the next record from a wire into the log.
    fn take(&mut self, producer: u64, slot: usize) {
        let lost = self.dead.contains(&producer) && self.chance.percent(self.options.lost_late);
        let Some(wire) = self.wires.get_mut(&(producer, slot)) else {
            return;
        };
        let sent = if lost { None } else { wire.pop_front() };
        if lost || wire.is_empty() {
            self.wires.remove(&(producer, slot));
        }
        let Some(sent) = sent else { return };
        let slot = &mut self.slots[slot];
        // Not before the first: that would be a beginning which retention has cut off.
        slot.next += u64::from(slot.next > 0 && self.chance.percent(self.options.gap));
        let position = slot.push(&sent.record);
        if self.chance.percent(self.options.duplicate) {
            slot.push(&sent.record);
        }
        slot.due.extend(sent.done.map(|done| (position, done)));
    }

    /// Makes what a partition has taken durable, and answers.
    fn sync(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.durable = slot.entries.len();
        if let Some(end) = &slot.end {
            end.send_replace(slot.next);
        }
        for (position, done) in slot.due.drain(..) {
            let lost = self.chance.percent(self.options.lost_acknowledgement);
            let unknown = || Err(AppendError::Unknown("the acknowledgement was lost".into()));
            let _ = done.send(if lost { unknown() } else { Ok(position) });
        }
    }
}

impl Slot {
    fn push(&mut self, record: &Record) -> Position {
        let position = Position {
            stream: self.stream,
            partition: self.partition,
            offset: self.next,
        };
        self.entries.push(Entry {
            position,
            record: record.clone(),
        });
        self.next += 1;
        position
    }

    /// The durable records at `from` and above.
    fn since(&self, from: Offset) -> Vec<Entry> {
        let durable = &self.entries[..self.durable];
        durable[durable.partition_point(|e| e.position.offset < from)..].to_vec()
    }
}

impl SimulatedProducer {
    /// The process dies. Nobody hears its answers any more; what it sent may arrive late or never.
    pub fn kill(&self) {
        let mut world = self.log.world.lock();
        world.dead.push(self.id);
        let own = world
            .wires
            .iter_mut()
            .filter(|((producer, _), _)| *producer == self.id);
        own.flat_map(|(_, wire)| wire).for_each(|sent| sent.done = None);
    }
}

impl EventLog for SimulatedProducer {
    fn partitions(&self) -> u16 {
        self.log.partitions
    }

    fn append(&self, stream: Stream, partition: Partition, record: Record) -> BoxFuture<'static, Answer> {
        let (done, mut answer) = oneshot::channel();
        {
            let mut world = self.log.world.lock();
            let (size, limit) = (record.value.len(), world.options.max_record_bytes);
            if size > limit {
                return future::ready(Err(AppendError::TooLarge { size, limit })).boxed();
            }
            let Some(slot) = self.log.slot(stream, partition).ok().filter(|_| !world.closed) else {
                return future::ready(Err(AppendError::Closed)).boxed();
            };
            world.wires.entry((self.id, slot)).or_default().push_back(Sent {
                record,
                done: Some(done),
            });
        }
        let (log, drive) = (self.log.clone(), self.drive);
        async move {
            if drive == Drive::Appends {
                loop {
                    match answer.try_recv() {
                        Ok(Some(answer)) => return answer,
                        Ok(None) if log.step() => {}
                        Ok(None) | Err(_) => break,
                    }
                }
            }
            answer
                .await
                .unwrap_or_else(|_| Err(AppendError::Unknown("the connection was lost".into())))
        }
        .boxed()
    }

    fn read(
        &self,
        stream: Stream,
        partition: Partition,
        from: Offset,
    ) -> BoxStream<'static, Result<Entry, LogError>> {
        let slot = match self.log.slot(stream, partition) {
            Ok(slot) => slot,
            Err(e) => return stream::iter([Err(e)]).boxed(),
        };
        let (world, end) = (self.log.world.clone(), self.log.ends[slot].clone());
        stream::unfold(Some((end, from)), move |reading| {
            let world = world.clone();
            async move {
                let (mut end, from) = reading?;
                if end.wait_for(|end| *end > from).await.is_err() {
                    return Some((vec![Err(LogError::Closed)], None));
                }
                let next = *end.borrow();
                let entries = world.lock().slots[slot].since(from);
                let next = entries.last().map_or(next, |e| e.position.offset + 1);
                Some((entries.into_iter().map(Ok).collect(), Some((end, next))))
            }
        })
        .flat_map(|entries: Vec<_>| stream::iter(entries))
        .boxed()
    }

    fn read_to_end(&self, from: &[Position]) -> Result<EntryIter, LogError> {
        let mut entries = Vec::new();
        for stream in Stream::ALL {
            for partition in (0..self.log.partitions).map(Partition) {
                let first = from
                    .iter()
                    .find(|p| (p.stream, p.partition) == (stream, partition))
                    .map_or(0, |p| p.offset);
                let slot = self.log.slot(stream, partition)?;
                entries.extend(self.log.world.lock().slots[slot].since(first).into_iter().map(Ok));
            }
        }
        Ok(Box::new(entries.into_iter()))
    }

    fn end(&self, stream: Stream, partition: Partition) -> BoxFuture<'static, Result<Offset, LogError>> {
        future::ready(
            self.log
                .slot(stream, partition)
                .map(|slot| *self.log.ends[slot].borrow()),
        )
        .boxed()
    }
}

#[cfg(test)]
mod tests;
