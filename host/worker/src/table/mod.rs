//! The job table: which job runs, waits, is refused, is cancelled, and when an
//! interrupt is answered.
//!
//! It is a plain value. [`JobTable::step`] takes one event with the time at
//! which it happened and gives back what is to be done; it knows no NATS, starts
//! no task and reads no clock. One task owns it ([`crate::dispatch`]), carries
//! the actions out and reports what became of them as further events. What a job
//! does while it runs is [`crate::job`]'s business.
//!
//! ```text
//!                                   Predict
//!                                      │
//!          ┌──────────────┬────────────┴──┬───────────────────┐
//!    no room│  draining or │     a slot is │        a place is │
//!          │  overtaken by│     free      │        free       │
//!          │  interrupt   │               │                   ▼
//!          ▼              ▼               │              ┌─────────┐
//!     Refuse(Busy)  Refuse(ShuttingDown,  │   Start      │ Waiting │
//!                      Interrupted)       │◀─────────────┤  FIFO   │
//!                                         ▼  a slot is   └────┬────┘
//!                                   ┌─────────┐ free          │ Interrupt: Refuse(Interrupted)
//!    Interrupt, end of the grace:   │ Running │               │ Drain:     Refuse(ShuttingDown)
//!    Cancel, the state stays ──────▶│ (slots) │               │
//!                                   └────┬────┘               │
//!                             Generated  │                    │
//!                             (slot free)▼                    ▼
//!                                   ┌─────────────────────────────┐   Ended    gone, remembered
//!                                   │ Closing: last message is on │──────────▶ for 30 s
//!                                   │ its way                     │
//!                                   └─────────────────────────────┘
//!
//!    Serving ──Drain──▶ Draining ──grace over──▶ Expired
//!                          └──── no job left ───────┴──▶ Drained
//! ```
//!
//! Slots and places are shared between tenants: a free slot goes to the tenant with
//! the fewest running jobs, and among equals to the job that has waited longest. When
//! all places are taken, a tenant with clearly fewer waiting jobs than another one
//! takes the place of that one's last job.
//!
//! The happy way: `Predict` starts a job or lets it wait, `Generated` frees its
//! slot as soon as nothing is computed for it any more, `Ended` says that its
//! last message has left. `Ended` alone, without `Generated`, is as good.
//!
//! An interrupt meets every job of its id. It is answered when the last of them
//! has ended, so that the client has the job's error before the interrupt's
//! answer, and at the latest after [`Limits::interrupt_wait`]. One that meets no
//! job may have overtaken its predict, so it leaves a mark. Where there are other
//! workers they are asked, all at once ([`crate::peers`]):
//!
//! ```text
//!    of a client ──Ask──▶ Open ──claimed elsewhere──▶ Claimed ──ended, or its time is over──▶ found
//!                          └── nobody is there, or peers_wait is over──▶ not found
//!
//!    of a peer ──Claim, if the job is here──▶ as a client's interrupt
//!       └── the job is not here: a mark, and silence
//! ```
//!
//! A mark is taken back when some worker turns out to have the job, as if the
//! interrupt had met it in the first place.

mod recent;
mod types;

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use recent::Recent;
pub use types::{
    Action, Asker, Drained, Event, Found, InterruptId, JobName, Limits, Mark, Refusal, Tenant,
    Ticket, Time,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running { cancelled: bool },
    Closing,
}

#[derive(Debug)]
struct Entry {
    job: JobName,
    tenant: Tenant,
    state: State,
}

#[derive(Debug)]
struct PendingInterrupt {
    id: InterruptId,
    /// Jobs whose end is waited for.
    tickets: BTreeSet<Ticket>,
    deadline: Time,
}

/// An interrupt about which the other workers are being asked.
#[derive(Debug)]
struct Question {
    asked: Time,
    /// Whether one of them has the job.
    is_claimed: bool,
}

impl Question {
    fn deadline(&self, limits: &Limits) -> Time {
        self.asked + if self.is_claimed { limits.interrupt_wait } else { limits.peers_wait }
    }

    /// The answer if nothing more is heard.
    fn found(&self) -> Found {
        if self.is_claimed { Found::Yes } else { Found::No }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { deadline: Time },
    Expired { give_up: Time },
    Drained,
}

/// All jobs of a worker. See the module's head.
#[derive(Debug)]
pub struct JobTable {
    limits: Limits,
    phase: Phase,
    entries: BTreeMap<Ticket, Entry>,
    waiting: VecDeque<Ticket>,
    running: usize,
    interrupts: VecDeque<PendingInterrupt>,
    questions: BTreeMap<InterruptId, Question>,
    ended: Recent,
    marks: Recent,
}

impl JobTable {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Serving,
            entries: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: 0,
            interrupts: VecDeque::new(),
            questions: BTreeMap::new(),
            ended: Recent::new(limits.ended_for, limits.remembered),
            marks: Recent::new(limits.mark_for, limits.remembered),
        }
    }

    /// How many jobs run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many jobs wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When [`Event::Tick`] is due at the latest, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Time> {
        let phase = match self.phase {
            Phase::Draining { deadline } => Some(deadline),
            Phase::Expired { give_up } => Some(give_up),
            Phase::Serving | Phase::Drained => None,
        };
        // Interrupts all wait for the same time, so the first is the next.
        let interrupt = self.interrupts.front().map(|pending| pending.deadline);
        let questions = self.questions.values().map(|question| question.deadline(&self.limits));
        phase.into_iter().chain(interrupt).chain(questions).min()
    }

    /// Takes one event and says what follows from it. `now` never goes back.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.ended.expire(now);
        self.marks.expire(now);
        match event {
            Event::Predict { job, ticket, tenant } => {
                self.predict(now, job, ticket, tenant, &mut actions);
            }
            Event::Interrupt { job, id, mark, asker } => {
                self.interrupt(now, job, id, mark, asker, &mut actions);
            }
            Event::Elsewhere { job, id, ended } => self.elsewhere(&job, id, ended, &mut actions),
            Event::Alone(id) => self.alone(id, &mut actions),
            Event::Generated(ticket) => self.generated(ticket),
            Event::Ended(ticket) => self.end(now, ticket, &mut actions),
            Event::Drain { grace } => self.drain(now, grace, &mut actions),
            Event::Tick => {}
        }
        self.overdue(now, &mut actions);
        self.fill_slots(&mut actions);
        self.check_drained(&mut actions);
        actions
    }

    fn predict(
        &mut self,
        now: Time,
        job: JobName,
        ticket: Ticket,
        tenant: Tenant,
        actions: &mut Vec<Action>,
    ) {
        if self.phase != Phase::Serving {
            actions.push(Action::Refuse(ticket, Refusal::ShuttingDown));
        } else if self.marks.contains(&job) {
            actions.push(Action::Refuse(ticket, Refusal::Interrupted));
            self.ended.insert(now, job);
        } else if self.running < self.limits.slots
            || self.waiting.len() < self.limits.queue
            || self.make_room_for(&tenant, actions)
        {
            // A job for a free slot passes through the queue as well: it is
            // empty then, and `fill_slots` takes the job out at once.
            let state = State::Waiting;
            self.entries.insert(ticket, Entry { job, tenant, state });
            self.waiting.push_back(ticket);
        } else {
            actions.push(Action::Refuse(ticket, Refusal::Busy));
        }
    }

    /// Sends away the last waiting job of the tenant that has most, if `tenant` has
    /// clearly fewer.
    fn make_room_for(&mut self, tenant: &Tenant, actions: &mut Vec<Action>) -> bool {
        let mut waiting: BTreeMap<&Tenant, (usize, Ticket)> = BTreeMap::new();
        for ticket in &self.waiting {
            if let Some(entry) = self.entries.get(ticket) {
                let (n, last) = waiting.entry(&entry.tenant).or_insert((0, *ticket));
                *n += 1;
                *last = *ticket;
            }
        }
        let own = waiting.get(tenant).map_or(0, |(n, _)| *n);
        let Some((most, last)) = waiting.into_values().max() else {
            return false;
        };
        // One more is not clearly more: the two would send each other's jobs away in
        // turns.
        if most <= own + 1 {
            return false;
        }
        self.waiting.retain(|ticket| *ticket != last);
        if let Some(entry) = self.entries.get_mut(&last) {
            entry.state = State::Closing;
        }
        actions.push(Action::Refuse(last, Refusal::Busy));
        true
    }

    /// The waiting job that gets the next free slot, by its place in the queue.
    fn next_waiting(&self) -> Option<usize> {
        let mut running: BTreeMap<&Tenant, usize> = BTreeMap::new();
        for entry in self.entries.values() {
            if matches!(entry.state, State::Running { .. }) {
                *running.entry(&entry.tenant).or_default() += 1;
            }
        }
        let of_tenant = |ticket| {
            let entry = self.entries.get(ticket)?;
            Some(running.get(&entry.tenant).copied().unwrap_or(0))
        };
        // The first of equals.
        self.waiting.iter().enumerate().min_by_key(|(_, ticket)| of_tenant(ticket)).map(|(n, _)| n)
    }

    fn interrupt(
        &mut self,
        now: Time,
        job: JobName,
        id: InterruptId,
        mark: Mark,
        asker: Asker,
        actions: &mut Vec<Action>,
    ) {
        let mut tickets = BTreeSet::new();
        for (ticket, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.job == job) {
            tickets.insert(*ticket);
            match &mut entry.state {
                State::Waiting => {
                    entry.state = State::Closing;
                    actions.push(Action::Refuse(*ticket, Refusal::Interrupted));
                }
                State::Running { cancelled } => {
                    if !std::mem::replace(cancelled, true) {
                        actions.push(Action::Cancel(*ticket));
                    }
                }
                State::Closing => {}
            }
        }
        self.waiting.retain(|ticket| !tickets.contains(ticket));

        if tickets.is_empty() {
            if self.ended.contains(&job) {
                actions.push(Action::Answer(id, Found::Yes));
            } else {
                self.not_here(now, job, id, mark, asker, actions);
            }
            return;
        }
        if asker == Asker::Peer {
            actions.push(Action::Claim(id));
        }
        if self.interrupts.len() < self.limits.interrupts {
            self.interrupts.push_back(PendingInterrupt {
                id,
                tickets,
                deadline: now + self.limits.interrupt_wait,
            });
        } else {
            actions.push(Action::Answer(id, Found::Yes));
        }
    }

    /// An interrupt that this worker has no job for.
    fn not_here(
        &mut self,
        now: Time,
        job: JobName,
        id: InterruptId,
        mark: Mark,
        asker: Asker,
        actions: &mut Vec<Action>,
    ) {
        if mark == Mark::Leave {
            self.marks.insert(now, job);
        }
        if asker == Asker::Client && self.may_ask() {
            self.questions.insert(id, Question { asked: now, is_claimed: false });
            actions.push(Action::Ask(id, mark));
        } else {
            actions.push(Action::Answer(id, Found::No));
        }
    }

    fn may_ask(&self) -> bool {
        // Once drained, nobody carries out what the answers would lead to.
        !self.limits.peers_wait.is_zero()
            && self.questions.len() < self.limits.questions
            && self.phase != Phase::Drained
    }

    fn elsewhere(
        &mut self,
        job: &str,
        id: Option<InterruptId>,
        ended: bool,
        actions: &mut Vec<Action>,
    ) {
        // No predict was overtaken: it has arrived there.
        self.marks.remove(job);
        let Some(id) = id else { return };
        if ended {
            if self.questions.remove(&id).is_some() {
                actions.push(Action::Answer(id, Found::Yes));
            }
        } else if let Some(question) = self.questions.get_mut(&id) {
            question.is_claimed = true;
        }
    }

    fn alone(&mut self, id: InterruptId, actions: &mut Vec<Action>) {
        if let Some(question) = self.questions.remove(&id) {
            actions.push(Action::Answer(id, question.found()));
        }
    }

    fn generated(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket)
            && let State::Running { .. } = entry.state
        {
            entry.state = State::Closing;
            self.running -= 1;
        }
    }

    fn end(&mut self, now: Time, ticket: Ticket, actions: &mut Vec<Action>) {
        // Refused jobs that were never let in are not known here.
        let Some(entry) = self.entries.remove(&ticket) else {
            return;
        };
        match entry.state {
            State::Running { .. } => self.running -= 1,
            // Not reported for a waiting job, but harmless.
            State::Waiting => self.waiting.retain(|waiting| *waiting != ticket),
            State::Closing => {}
        }
        self.ended.insert(now, entry.job);
        self.interrupts.retain_mut(|pending| {
            if pending.tickets.remove(&ticket) && pending.tickets.is_empty() {
                actions.push(Action::Answer(pending.id, Found::Yes));
                return false;
            }
            true
        });
    }

    fn drain(&mut self, now: Time, grace: Duration, actions: &mut Vec<Action>) {
        if self.phase != Phase::Serving {
            return;
        }
        self.phase = Phase::Draining { deadline: now + grace };
        for ticket in self.waiting.drain(..) {
            if let Some(entry) = self.entries.get_mut(&ticket) {
                entry.state = State::Closing;
            }
            actions.push(Action::Refuse(ticket, Refusal::ShuttingDown));
        }
    }

    /// What only time brings about.
    fn overdue(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some(pending) = self.interrupts.front()
            && pending.deadline <= now
        {
            actions.push(Action::Answer(pending.id, Found::Yes));
            self.interrupts.pop_front();
        }
        let limits = self.limits;
        self.questions.retain(|id, question| {
            let is_open = now < question.deadline(&limits);
            if !is_open {
                actions.push(Action::Answer(*id, question.found()));
            }
            is_open
        });
        if let Phase::Draining { deadline } = self.phase
            && deadline <= now
            && !self.entries.is_empty()
        {
            self.phase = Phase::Expired { give_up: now + self.limits.cancel_allowance };
            for (ticket, entry) in &mut self.entries {
                if let State::Running { cancelled } = &mut entry.state
                    && !std::mem::replace(cancelled, true)
                {
                    actions.push(Action::Cancel(*ticket));
                }
            }
        }
        if let Phase::Expired { give_up } = self.phase
            && give_up <= now
            && !self.entries.is_empty()
        {
            self.drained(Drained::GraceRanOut, actions);
        }
    }

    fn fill_slots(&mut self, actions: &mut Vec<Action>) {
        while self.running < self.limits.slots
            && let Some(ticket) = self.next_waiting().and_then(|n| self.waiting.remove(n))
        {
            if let Some(entry) = self.entries.get_mut(&ticket) {
                entry.state = State::Running { cancelled: false };
                self.running += 1;
                actions.push(Action::Start(ticket));
            }
        }
    }

    fn check_drained(&mut self, actions: &mut Vec<Action>) {
        if !self.entries.is_empty() {
            return;
        }
        let drained = match self.phase {
            Phase::Draining { .. } => Drained::InGrace,
            Phase::Expired { .. } => Drained::GraceRanOut,
            Phase::Serving | Phase::Drained => return,
        };
        self.drained(drained, actions);
    }

    fn drained(&mut self, how: Drained, actions: &mut Vec<Action>) {
        self.phase = Phase::Drained;
        // The worker ends now and hears no more answers.
        for (id, question) in std::mem::take(&mut self.questions) {
            actions.push(Action::Answer(id, question.found()));
        }
        actions.push(Action::Drained(how));
    }
}
