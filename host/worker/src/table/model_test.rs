//! Random runs of the table against a plain model of the rules.
//!
//! The model keeps complete, unordered lists and works everything out anew at
//! each step; it shares no data structure with the table.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What the test does next. Numbers are picked out of what exists.
#[derive(Debug, Clone)]
enum Op {
    Predict(u8, u8),
    Interrupt(u8, bool, bool),
    /// Of an open question, or of another worker's.
    Elsewhere(Option<usize>, u8, bool),
    Alone(usize),
    Generated(usize),
    Ended(usize),
    Drain(u16),
    Wait(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => ((0u8..5), (0u8..3)).prop_map(|(job, tenant)| Op::Predict(job, tenant)),
        4 => ((0u8..5), any::<bool>(), any::<bool>())
            .prop_map(|(job, mark, is_peer)| Op::Interrupt(job, mark, is_peer)),
        2 => (any::<Option<usize>>(), (0u8..5), any::<bool>())
            .prop_map(|(index, job, ended)| Op::Elsewhere(index, job, ended)),
        1 => any::<usize>().prop_map(Op::Alone),
        3 => any::<usize>().prop_map(Op::Generated),
        6 => any::<usize>().prop_map(Op::Ended),
        1 => (0u16..3000).prop_map(Op::Drain),
        4 => (0u16..3000).prop_map(Op::Wait),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelState {
    Waiting,
    Running,
    Cancelled,
    Closing,
    Gone,
}

#[derive(Debug)]
struct ModelJob {
    name: String,
    tenant: u8,
    state: ModelState,
    ended_at: Option<Time>,
}

/// An interrupt about which the other workers were asked.
#[derive(Debug)]
struct ModelQuestion {
    job: String,
    asked: Time,
    is_claimed: bool,
}

impl ModelQuestion {
    fn found(&self) -> Found {
        if self.is_claimed { Found::Yes } else { Found::No }
    }
}

#[derive(Debug, Default)]
struct Model {
    now: Time,
    jobs: BTreeMap<u64, ModelJob>,
    marks: Vec<(String, Time)>,
    /// Interrupts without an answer: jobs waited for, deadline.
    pending: BTreeMap<u64, (Vec<u64>, Time)>,
    questions: BTreeMap<u64, ModelQuestion>,
    drain_deadline: Option<Time>,
    drained: bool,
    /// Arrival order of admitted jobs that have not started or been refused.
    fifo: Vec<u64>,
}

impl Model {
    fn count(&self, states: &[ModelState]) -> usize {
        let jobs = self.jobs.values();
        jobs.filter(|job| states.contains(&job.state)).count()
    }

    fn running(&self) -> usize {
        self.count(&[ModelState::Running, ModelState::Cancelled])
    }

    fn of_tenant(&self, tenant: u8, states: &[ModelState]) -> usize {
        let jobs = self.jobs.values();
        jobs.filter(|job| job.tenant == tenant && states.contains(&job.state)).count()
    }

    /// Who starts next: nobody who waits has fewer running jobs, and nobody with as
    /// few has waited longer.
    fn next_to_start(&self) -> Option<u64> {
        let active = [ModelState::Running, ModelState::Cancelled];
        let load = |ticket: &u64| self.of_tenant(self.jobs[ticket].tenant, &active);
        let least = self.fifo.iter().map(load).min()?;
        self.fifo.iter().copied().find(|ticket| load(ticket) == least)
    }

    /// Who loses a place to `tenant` when there is none left.
    fn next_to_go(&self, tenant: u8) -> Option<u64> {
        let waiting = |tenant| self.of_tenant(tenant, &[ModelState::Waiting]);
        let last_of = |tenant| {
            let own = |ticket: &&u64| self.jobs[*ticket].tenant == tenant;
            self.fifo.iter().rfind(own).copied()
        };
        let most = (0..3).map(waiting).max()?;
        if most < waiting(tenant) + 2 {
            return None;
        }
        (0..3).filter(|tenant| waiting(*tenant) == most).filter_map(last_of).max()
    }

    fn pick(&self, states: &[ModelState], index: usize) -> Option<u64> {
        let tickets: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| states.contains(&job.state))
            .map(|(ticket, _)| *ticket)
            .collect();
        (!tickets.is_empty()).then(|| tickets[index % tickets.len()])
    }

    fn pick_question(&self, index: usize) -> Option<u64> {
        let count = self.questions.len();
        self.questions.keys().nth(index.checked_rem(count)?).copied()
    }

    fn is_marked(&self, name: &str) -> bool {
        self.marks
            .iter()
            .any(|(marked, at)| marked == name && self.now < *at + Duration::from_secs(5))
    }

    fn ended_lately(&self, name: &str) -> bool {
        self.jobs.values().any(|job| {
            job.name == name
                && job.ended_at.is_some_and(|at| self.now < at + Duration::from_secs(30))
        })
    }
}

/// One run: the table, the model, and what must hold for every action.
struct Run {
    table: JobTable,
    model: Model,
    slots: usize,
    queue: usize,
    peers_wait: Duration,
    next: u64,
}

/// Most questions at once in these runs.
const QUESTIONS: usize = 2;

impl Run {
    fn step(&mut self, event: Event) -> Vec<Action> {
        self.table.step(self.model.now, event)
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Predict(job, tenant) => self.predict(format!("job{job}"), tenant),
            Op::Interrupt(job, mark, is_peer) => self.interrupt(format!("job{job}"), mark, is_peer),
            Op::Elsewhere(index, job, ended) => self.elsewhere(index, format!("job{job}"), ended),
            Op::Alone(index) => self.alone(index),
            Op::Generated(index) => {
                let running = [ModelState::Running, ModelState::Cancelled];
                let Some(ticket) = self.model.pick(&running, index) else {
                    return Ok(());
                };
                self.set(ticket, ModelState::Closing);
                let actions = self.step(Event::Generated(Ticket(ticket)));
                self.follow(&actions)
            }
            Op::Ended(index) => {
                let alive = [ModelState::Running, ModelState::Cancelled, ModelState::Closing];
                let Some(ticket) = self.model.pick(&alive, index) else {
                    return Ok(());
                };
                self.set(ticket, ModelState::Gone);
                let now = self.model.now;
                if let Some(job) = self.model.jobs.get_mut(&ticket) {
                    job.ended_at = Some(now);
                }
                let actions = self.step(Event::Ended(Ticket(ticket)));
                self.follow(&actions)
            }
            Op::Drain(grace) => {
                let grace = Duration::from_millis(grace.into());
                let first = self.model.drain_deadline.is_none();
                if first {
                    self.model.drain_deadline = Some(self.model.now + grace);
                }
                let actions = self.step(Event::Drain { grace });
                if first {
                    // Everything that waited is refused in this very step.
                    let refused: Vec<u64> = refused(&actions, Refusal::ShuttingDown);
                    prop_assert_eq!(&refused, &self.model.fifo);
                }
                self.follow(&actions)
            }
            Op::Wait(millis) => {
                self.model.now += Duration::from_millis(millis.into());
                let actions = self.step(Event::Tick);
                self.follow(&actions)
            }
        }
    }

    fn set(&mut self, ticket: u64, state: ModelState) {
        if let Some(job) = self.model.jobs.get_mut(&ticket) {
            job.state = state;
        }
    }

    fn predict(&mut self, name: String, tenant: u8) -> Result<(), TestCaseError> {
        self.next += 1;
        let ticket = self.next;
        let mut evicted = Vec::new();
        let expected = if self.model.drain_deadline.is_some() {
            Some(Refusal::ShuttingDown)
        } else if self.model.is_marked(&name) {
            Some(Refusal::Interrupted)
        } else if self.model.running() < self.slots || self.model.fifo.len() < self.queue {
            None
        } else if let Some(gone) = self.model.next_to_go(tenant) {
            evicted.push(gone);
            None
        } else {
            Some(Refusal::Busy)
        };
        let actions = self.step(Event::Predict {
            job: name.as_str().into(),
            ticket: Ticket(ticket),
            tenant: format!("tenant{tenant}").into(),
        });
        let mut busy = refused(&actions, Refusal::Busy);
        busy.retain(|refused| *refused != ticket);
        prop_assert_eq!(busy, evicted);
        let got = actions.iter().find_map(|action| match action {
            Action::Refuse(Ticket(refused), refusal) if *refused == ticket => Some(*refusal),
            _ => None,
        });
        prop_assert_eq!(got, expected);
        let (state, ended_at) = match expected {
            None => {
                self.model.fifo.push(ticket);
                (ModelState::Waiting, None)
            }
            Some(Refusal::Interrupted) => (ModelState::Gone, Some(self.model.now)),
            Some(_) => (ModelState::Gone, None),
        };
        let job = ModelJob { name, tenant, state, ended_at };
        self.model.jobs.insert(ticket, job);
        let own_refusal =
            |action: &Action| matches!(action, Action::Refuse(Ticket(t), _) if *t == ticket);
        let rest: Vec<Action> = actions.into_iter().filter(|action| !own_refusal(action)).collect();
        self.follow(&rest)
    }

    fn interrupt(&mut self, name: String, mark: bool, is_peer: bool) -> Result<(), TestCaseError> {
        self.next += 1;
        let id = self.next;
        let hit: Vec<u64> = self
            .model
            .jobs
            .iter()
            .filter(|(_, job)| job.name == name && job.state != ModelState::Gone)
            .map(|(ticket, _)| *ticket)
            .collect();
        let known = self.model.ended_lately(&name);
        let event = Event::Interrupt {
            job: name.as_str().into(),
            id: InterruptId(id),
            mark: if mark { Mark::Leave } else { Mark::Omit },
            asker: if is_peer { Asker::Peer } else { Asker::Client },
        };
        let mut actions = self.step(event);
        if hit.is_empty() {
            let own = if known {
                Action::Answer(InterruptId(id), Found::Yes)
            } else {
                self.not_here(id, name, mark, is_peer)
            };
            prop_assert!(take(&mut actions, own), "{own:?}");
        } else {
            let deadline = self.model.now + Duration::from_millis(500);
            for ticket in &hit {
                let state = self.model.jobs[ticket].state;
                let refused = Action::Refuse(Ticket(*ticket), Refusal::Interrupted);
                let cancelled = Action::Cancel(Ticket(*ticket));
                prop_assert_eq!(actions.contains(&refused), state == ModelState::Waiting);
                prop_assert_eq!(actions.contains(&cancelled), state == ModelState::Running);
            }
            self.model.pending.insert(id, (hit, deadline));
            prop_assert_eq!(take(&mut actions, Action::Claim(InterruptId(id))), is_peer);
        }
        self.follow(&actions)
    }

    /// What must be done about an interrupt without a job.
    fn not_here(&mut self, id: u64, job: String, mark: bool, is_peer: bool) -> Action {
        let asked = self.model.now;
        if mark {
            self.model.marks.push((job.clone(), asked));
        }
        let may_ask = !self.peers_wait.is_zero()
            && self.model.questions.len() < QUESTIONS
            && !self.model.drained;
        if is_peer || !may_ask {
            return Action::Answer(InterruptId(id), Found::No);
        }
        let question = ModelQuestion { job, asked, is_claimed: false };
        self.model.questions.insert(id, question);
        Action::Ask(InterruptId(id), if mark { Mark::Leave } else { Mark::Omit })
    }

    fn elsewhere(
        &mut self,
        index: Option<usize>,
        job: String,
        ended: bool,
    ) -> Result<(), TestCaseError> {
        let id = index.and_then(|index| self.model.pick_question(index));
        let job = id.map_or(job, |id| self.model.questions[&id].job.clone());
        self.model.marks.retain(|(marked, _)| *marked != job);
        let event = Event::Elsewhere { job: job.as_str().into(), id: id.map(InterruptId), ended };
        let mut actions = self.step(event);
        if let Some(id) = id {
            if ended {
                self.model.questions.remove(&id);
                let own = Action::Answer(InterruptId(id), Found::Yes);
                prop_assert!(take(&mut actions, own), "{own:?}");
            } else if let Some(question) = self.model.questions.get_mut(&id) {
                question.is_claimed = true;
            }
        }
        self.follow(&actions)
    }

    fn alone(&mut self, index: usize) -> Result<(), TestCaseError> {
        let Some(id) = self.model.pick_question(index) else {
            return Ok(());
        };
        let mut actions = self.step(Event::Alone(InterruptId(id)));
        let found = self.model.questions.remove(&id).map(|question| question.found());
        let own = found.map(|found| Action::Answer(InterruptId(id), found));
        prop_assert!(own.is_some_and(|own| take(&mut actions, own)), "{own:?}");
        self.follow(&actions)
    }

    /// When a question is answered without anybody having said anything.
    fn deadline(&self, question: &ModelQuestion) -> Time {
        let claimed = Duration::from_millis(500);
        question.asked + if question.is_claimed { claimed } else { self.peers_wait }
    }

    /// Carries actions into the model, checking each.
    fn follow(&mut self, actions: &[Action]) -> Result<(), TestCaseError> {
        let mut seen = Vec::new();
        for action in actions {
            prop_assert!(!seen.contains(action), "{action:?} twice in one step");
            seen.push(*action);
            match *action {
                Action::Start(Ticket(ticket)) => {
                    prop_assert_eq!(self.model.next_to_start(), Some(ticket));
                    prop_assert!(self.model.drain_deadline.is_none());
                    self.model.fifo.retain(|waiting| *waiting != ticket);
                    self.set(ticket, ModelState::Running);
                }
                Action::Refuse(Ticket(ticket), _) => {
                    // Only waiting jobs; so a started or refused one never again.
                    prop_assert_eq!(self.model.jobs[&ticket].state, ModelState::Waiting);
                    self.model.fifo.retain(|waiting| *waiting != ticket);
                    self.set(ticket, ModelState::Closing);
                }
                Action::Cancel(Ticket(ticket)) => {
                    prop_assert_eq!(self.model.jobs[&ticket].state, ModelState::Running);
                    self.set(ticket, ModelState::Cancelled);
                }
                Action::Ask(..) | Action::Claim(_) => {
                    return Err(TestCaseError::fail(format!("{action:?} without an interrupt")));
                }
                Action::Answer(InterruptId(id), found) => {
                    if let Some(question) = self.model.questions.remove(&id) {
                        let is_end = |action: &Action| matches!(action, Action::Drained(_));
                        let ends = actions.iter().any(is_end);
                        prop_assert!(ends || self.deadline(&question) <= self.model.now);
                        prop_assert_eq!(found, question.found());
                        continue;
                    }
                    prop_assert_eq!(found, Found::Yes);
                    let Some((jobs, deadline)) = self.model.pending.remove(&id) else {
                        return Err(TestCaseError::fail(format!("{id} answered twice")));
                    };
                    let all_gone =
                        jobs.iter().all(|ticket| self.model.jobs[ticket].state == ModelState::Gone);
                    prop_assert!(all_gone || deadline <= self.model.now);
                }
                Action::Drained(how) => {
                    prop_assert!(!self.model.drained);
                    self.model.drained = true;
                    let deadline = self.model.drain_deadline.unwrap_or(Time::MAX);
                    if how == Drained::GraceRanOut {
                        prop_assert!(deadline <= self.model.now);
                    } else {
                        prop_assert_eq!(self.alive(), 0);
                    }
                }
            }
        }
        self.invariants()
    }

    fn alive(&self) -> usize {
        self.model.count(&[
            ModelState::Waiting,
            ModelState::Running,
            ModelState::Cancelled,
            ModelState::Closing,
        ])
    }

    fn invariants(&self) -> Result<(), TestCaseError> {
        let model = &self.model;
        prop_assert!(model.running() <= self.slots);
        prop_assert!(model.fifo.len() <= self.queue);
        prop_assert_eq!(self.table.running(), model.running());
        prop_assert_eq!(self.table.waiting(), model.fifo.len());
        // No slot is free while somebody waits.
        prop_assert!(model.fifo.is_empty() || model.running() == self.slots);
        // No interrupt is overdue or waits for nothing.
        for (jobs, deadline) in model.pending.values() {
            prop_assert!(model.now < *deadline);
            prop_assert!(jobs.iter().any(|ticket| model.jobs[ticket].state != ModelState::Gone));
        }
        prop_assert!(model.questions.len() <= QUESTIONS);
        for question in model.questions.values() {
            prop_assert!(model.now < self.deadline(question));
            prop_assert!(!model.drained);
        }
        if model.drain_deadline.is_some() && self.alive() == 0 {
            prop_assert!(model.drained);
        }
        if model.drain_deadline.is_some_and(|deadline| deadline <= model.now) {
            prop_assert_eq!(model.count(&[ModelState::Running]), 0);
        }
        if let Some(deadline) = self.table.next_deadline() {
            prop_assert!(model.now < deadline);
        }
        Ok(())
    }
}

/// Takes an action out of them. False if it was not there.
fn take(actions: &mut Vec<Action>, own: Action) -> bool {
    let at = actions.iter().position(|action| *action == own);
    at.is_some_and(|at| actions.remove(at) == own)
}

fn refused(actions: &[Action], why: Refusal) -> Vec<u64> {
    let refused = actions.iter().filter_map(|action| match action {
        Action::Refuse(Ticket(ticket), refusal) if *refusal == why => Some(*ticket),
        _ => None,
    });
    refused.collect()
}

proptest! {
    #[test]
    fn the_table_does_what_the_model_says(
        slots in 1usize..4,
        queue in 0usize..4,
        peers_wait in prop_oneof![Just(0u64), 1u64..800],
        ops in proptest::collection::vec(op(), 0..120),
    ) {
        let peers_wait = Duration::from_millis(peers_wait);
        let limits = Limits { peers_wait, questions: QUESTIONS, ..Limits::new(slots, queue) };
        let mut run = Run {
            table: JobTable::new(limits),
            model: Model::default(),
            slots,
            queue,
            peers_wait,
            next: 0,
        };
        for op in ops {
            run.apply(op)?;
        }
        // Whatever happened: once all jobs have ended, nothing is owed to anyone.
        while let Some(ticket) = run.model.pick(
            &[ModelState::Running, ModelState::Cancelled, ModelState::Closing],
            0,
        ) {
            run.apply(Op::Ended(0))?;
            prop_assert_eq!(run.model.jobs[&ticket].state, ModelState::Gone);
        }
        prop_assert_eq!(run.alive(), 0);
        prop_assert!(run.model.pending.is_empty());
        run.apply(Op::Wait(800))?;
        prop_assert!(run.model.questions.is_empty());
    }

    #[test]
    fn memory_is_bounded_by_the_limits(names in proptest::collection::vec(0u32..1000, 0..400)) {
        let peers_wait = Duration::from_millis(300);
        let limits =
            Limits { remembered: 16, interrupts: 4, questions: 4, peers_wait, ..Limits::new(1, 1) };
        let mut table = JobTable::new(limits);
        for (index, name) in names.iter().enumerate() {
            let index = index as u64;
            let job: JobName = name.to_string().into();
            table.step(Duration::from_millis(index), Event::Predict { job: job.clone(), ticket: Ticket(index), tenant: "t".into() });
            table.step(Duration::from_millis(index), Event::Interrupt { job, id: InterruptId(index), mark: Mark::Leave, asker: Asker::Client });
            if index.is_multiple_of(3) {
                table.step(Duration::from_millis(index), Event::Ended(Ticket(index)));
            }
            prop_assert!(table.marks.len() <= 16 && table.ended.len() <= 16);
            prop_assert!(table.interrupts.len() <= 4 && table.questions.len() <= 4);
        }
    }
}
