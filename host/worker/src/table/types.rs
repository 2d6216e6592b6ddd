//! What goes into the table and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

/// A moment, as the time since the worker's start.
pub type Time = Duration;

/// A client's name of a job. Several jobs may share one.
pub type JobName = Arc<str>;

/// An account, or a connection where accounts are not known. Slots and places are
/// shared evenly between tenants.
pub type Tenant = Arc<str>;

/// The worker's own number of one predict; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The worker's own number of one interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterruptId(pub u64);

/// Bounds and times of the table.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs that run at once.
    pub slots: usize,
    /// Jobs that may wait.
    pub queue: usize,
    /// How long an interrupt waits for its jobs to end; protocol.md 6: 500 ms,
    /// because the Go client gives up after one second.
    pub interrupt_wait: Duration,
    /// How long a job that ended is still known to interrupts: 30 s.
    pub ended_for: Duration,
    /// How long an interrupt without a job is remembered: 5 s.
    pub mark_for: Duration,
    /// How long jobs may take to stop once the grace is over.
    pub cancel_allowance: Duration,
    /// Most ended jobs, and most marks, that are remembered; the oldest go
    /// first. With names of at most 1 KiB this bounds both to 4 MiB.
    pub remembered: usize,
    /// Most interrupts that wait; a further one is answered at once.
    pub interrupts: usize,
    /// How long the other workers have to claim a job that is not here; nothing:
    /// they are not asked.
    pub peers_wait: Duration,
    /// Most interrupts about which the other workers are being asked; for a
    /// further one they are not.
    pub questions: usize,
}

impl Limits {
    /// The times of the protocol with these numbers of jobs, for a worker that asks
    /// no others.
    pub fn new(slots: usize, queue: usize) -> Self {
        Self {
            slots,
            queue,
            interrupt_wait: Duration::from_millis(500),
            ended_for: Duration::from_secs(30),
            mark_for: Duration::from_secs(5),
            cancel_allowance: Duration::from_secs(2),
            remembered: 4096,
            interrupts: 1024,
            peers_wait: Duration::ZERO,
            questions: 64,
        }
    }
}

/// Whether an interrupt that finds no job leaves a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It may have overtaken its predict.
    Leave,
    /// Its predict is in the same message and must not be hit by it.
    Omit,
}

/// Who wants an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client.
    Client,
    /// Another worker, for its client. It asks all workers, so this one need not.
    Peer,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A predict arrived, or another command that is a job.
    Predict {
        /// The client's name of it.
        job: JobName,
        /// The worker's number of it.
        ticket: Ticket,
        /// Whose it is.
        tenant: Tenant,
    },
    /// An interrupt arrived.
    Interrupt {
        /// The jobs it means.
        job: JobName,
        /// The worker's number of it.
        id: InterruptId,
        /// What to do if there is no such job.
        mark: Mark,
        /// Who wants it.
        asker: Asker,
    },
    /// Another worker has said that it has this job.
    Elsewhere {
        /// The job.
        job: JobName,
        /// The interrupt about which this worker had asked, if it was this one.
        id: Option<InterruptId>,
        /// Whether the job has ended; if not, that will be said as well.
        ended: bool,
    },
    /// There is no other worker that could be asked about this interrupt.
    Alone(InterruptId),
    /// Nothing is computed for this job any more, but messages may be on their
    /// way.
    Generated(Ticket),
    /// The job's last message has left. For refused jobs too.
    Ended(Ticket),
    /// The worker was told to stop; running jobs get this much time.
    Drain {
        /// From now to the cancelling of what still runs.
        grace: Duration,
    },
    /// Nothing but time has passed.
    Tick,
}

/// Why a job is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No slot and no place in the queue.
    Busy,
    /// The worker is stopping.
    ShuttingDown,
    /// An interrupt came before it ran.
    Interrupted,
}

/// What an interrupt is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its jobs have ended, or have been told to.
    Yes,
    /// There is no such job.
    No,
}

/// How the last jobs ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// By themselves.
    InGrace,
    /// Some had to be cancelled.
    GraceRanOut,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run this job.
    Start(Ticket),
    /// Send this job its error, then report [`Event::Ended`].
    Refuse(Ticket, Refusal),
    /// Stop this running job; it ends with the error of an interruption.
    Cancel(Ticket),
    /// Ask the other workers about this interrupt.
    Ask(InterruptId, Mark),
    /// Tell the worker that wants this interrupt that its job is here. The answer
    /// follows.
    Claim(InterruptId),
    /// Answer this interrupt.
    Answer(InterruptId, Found),
    /// No job is left and none will come.
    Drained(Drained),
}
