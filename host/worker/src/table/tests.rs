//! Single situations, one check each.

use super::*;

const fn ms(millis: u64) -> Time {
    Duration::from_millis(millis)
}

fn table(slots: usize, queue: usize) -> JobTable {
    JobTable::new(Limits::new(slots, queue))
}

fn predict(job: &str, ticket: u64) -> Event {
    predict_of("tenant", job, ticket)
}

fn predict_of(tenant: &str, job: &str, ticket: u64) -> Event {
    Event::Predict { job: job.into(), ticket: Ticket(ticket), tenant: tenant.into() }
}

/// A worker that asks others and waits 300 ms for them.
fn with_peers(slots: usize, queue: usize) -> JobTable {
    JobTable::new(Limits { peers_wait: ms(300), ..Limits::new(slots, queue) })
}

fn interrupt(job: &str, id: u64) -> Event {
    let (job, id) = (job.into(), InterruptId(id));
    Event::Interrupt { job, id, mark: Mark::Leave, asker: Asker::Client }
}

fn interrupt_of_peer(job: &str, id: u64) -> Event {
    let (job, id) = (job.into(), InterruptId(id));
    Event::Interrupt { job, id, mark: Mark::Leave, asker: Asker::Peer }
}

fn elsewhere(job: &str, id: Option<u64>, ended: bool) -> Event {
    Event::Elsewhere { job: job.into(), id: id.map(InterruptId), ended }
}

fn start(ticket: u64) -> Action {
    Action::Start(Ticket(ticket))
}

fn refuse(ticket: u64, refusal: Refusal) -> Action {
    Action::Refuse(Ticket(ticket), refusal)
}

fn cancel(ticket: u64) -> Action {
    Action::Cancel(Ticket(ticket))
}

fn ask(id: u64) -> Action {
    Action::Ask(InterruptId(id), Mark::Leave)
}

fn claim(id: u64) -> Action {
    Action::Claim(InterruptId(id))
}

fn answer(id: u64, found: Found) -> Action {
    Action::Answer(InterruptId(id), found)
}

/// Runs events at their times and compares the actions of each step.
#[track_caller]
fn check(table: &mut JobTable, steps: &[(u64, Event, &[Action])]) {
    for (at, event, expected) in steps {
        let actions = table.step(ms(*at), event.clone());
        assert_eq!(actions, *expected, "{event:?} at {at} ms");
    }
}

#[test]
fn jobs_run_in_order_and_the_queue_is_bounded() {
    check(
        &mut table(1, 2),
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, predict("b", 2), &[]),
            (0, predict("c", 3), &[]),
            (0, predict("d", 4), &[refuse(4, Refusal::Busy)]),
            (1, Event::Ended(Ticket(1)), &[start(2)]),
            (1, predict("e", 5), &[]),
            (2, Event::Ended(Ticket(2)), &[start(3)]),
            (3, Event::Ended(Ticket(3)), &[start(5)]),
        ],
    );
}

#[test]
fn a_tenant_with_many_jobs_keeps_nobody_out() {
    check(
        &mut table(2, 3),
        &[
            (0, predict_of("many", "a", 1), &[start(1)]),
            (0, predict_of("many", "b", 2), &[start(2)]),
            (0, predict_of("many", "c", 3), &[]),
            (0, predict_of("many", "d", 4), &[]),
            (0, predict_of("many", "e", 5), &[]),
            (0, predict_of("many", "f", 6), &[refuse(6, Refusal::Busy)]),
            // It takes the last of their places, and the next slot.
            (1, predict_of("one", "g", 7), &[refuse(5, Refusal::Busy)]),
            (1, predict_of("one", "h", 8), &[refuse(8, Refusal::Busy)]),
            (2, Event::Ended(Ticket(5)), &[]),
            (3, Event::Ended(Ticket(1)), &[start(7)]),
            (4, Event::Ended(Ticket(7)), &[start(3)]),
        ],
    );
}

#[test]
fn a_job_frees_its_slot_before_its_last_message_is_out() {
    let mut table = table(1, 1);
    check(
        &mut table,
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, predict("b", 2), &[]),
            (1, Event::Generated(Ticket(1)), &[start(2)]),
            (1, Event::Generated(Ticket(1)), &[]),
            (2, Event::Ended(Ticket(1)), &[]),
            (3, Event::Ended(Ticket(2)), &[]),
        ],
    );
    assert_eq!((table.running(), table.waiting()), (0, 0));
}

#[test]
fn no_queue_at_all() {
    check(
        &mut table(2, 0),
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, predict("b", 2), &[start(2)]),
            (0, predict("c", 3), &[refuse(3, Refusal::Busy)]),
        ],
    );
}

#[test]
fn an_interrupt_meets_every_job_of_its_name() {
    check(
        &mut table(1, 4),
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, predict("b", 2), &[]),
            (0, predict("a", 3), &[]),
            (10, interrupt("a", 1), &[cancel(1), refuse(3, Refusal::Interrupted)]),
            (11, Event::Ended(Ticket(3)), &[]),
            // A second interrupt cancels nothing twice and waits as well.
            (12, interrupt("a", 2), &[]),
            (
                13,
                Event::Ended(Ticket(1)),
                &[answer(1, Found::Yes), answer(2, Found::Yes), start(2)],
            ),
        ],
    );
}

#[test]
fn an_interrupt_is_answered_in_time_even_if_the_job_does_not_stop() {
    let mut table = table(1, 0);
    check(
        &mut table,
        &[
            (0, predict("a", 1), &[start(1)]),
            (100, interrupt("a", 1), &[cancel(1)]),
            (599, Event::Tick, &[]),
        ],
    );
    assert_eq!(table.next_deadline(), Some(ms(600)));
    check(
        &mut table,
        &[(600, Event::Tick, &[answer(1, Found::Yes)]), (700, Event::Ended(Ticket(1)), &[])],
    );
}

#[test]
fn an_ended_job_is_known_for_30_seconds() {
    check(
        &mut table(1, 0),
        &[
            (0, predict("a", 1), &[start(1)]),
            (1000, Event::Ended(Ticket(1)), &[]),
            (30_999, interrupt("a", 1), &[answer(1, Found::Yes)]),
            (31_000, interrupt("a", 2), &[answer(2, Found::No)]),
        ],
    );
}

#[test]
fn an_interrupt_that_overtakes_its_predict_stops_it() {
    check(
        &mut table(1, 0),
        &[
            (0, interrupt("a", 1), &[answer(1, Found::No)]),
            (4999, predict("a", 1), &[refuse(1, Refusal::Interrupted)]),
            (5000, predict("a", 2), &[start(2)]),
        ],
    );
}

#[test]
fn an_interrupt_of_a_combined_request_leaves_no_mark() {
    let event = Event::Interrupt {
        job: "a".into(),
        id: InterruptId(1),
        mark: Mark::Omit,
        asker: Asker::Client,
    };
    check(
        &mut table(1, 0),
        &[(0, event.clone(), &[answer(1, Found::No)]), (0, predict("a", 1), &[start(1)])],
    );
    // The others are told to leave none either.
    let asked = [Action::Ask(InterruptId(1), Mark::Omit)];
    check(&mut with_peers(1, 0), &[(0, event, &asked), (0, predict("a", 1), &[start(1)])]);
}

#[test]
fn a_job_of_another_worker_is_found_when_that_one_says_so() {
    let mut table = with_peers(1, 0);
    check(&mut table, &[(0, interrupt("a", 1), &[ask(1)])]);
    assert_eq!(table.next_deadline(), Some(ms(300)));
    check(&mut table, &[(299, elsewhere("a", Some(1), false), &[])]);
    // Once it is claimed there is as much time as for a job of one's own.
    assert_eq!(table.next_deadline(), Some(ms(500)));
    check(
        &mut table,
        &[
            (400, elsewhere("a", Some(1), true), &[answer(1, Found::Yes)]),
            (410, elsewhere("a", Some(1), true), &[]),
            // A job that had ended already is not claimed first.
            (420, interrupt("b", 2), &[ask(2)]),
            (430, elsewhere("b", Some(2), true), &[answer(2, Found::Yes)]),
            // One whose worker falls silent has been told to stop.
            (500, interrupt("c", 3), &[ask(3)]),
            (600, elsewhere("c", Some(3), false), &[]),
            (999, Event::Tick, &[]),
            (1000, Event::Tick, &[answer(3, Found::Yes)]),
        ],
    );
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn a_job_that_no_worker_claims_is_not_found() {
    check(
        &mut with_peers(1, 0),
        &[
            (0, interrupt("a", 1), &[ask(1)]),
            (0, interrupt("b", 2), &[ask(2)]),
            // There are no others: the server knows that at once.
            (1, Event::Alone(InterruptId(2)), &[answer(2, Found::No)]),
            (299, Event::Tick, &[]),
            (300, Event::Tick, &[answer(1, Found::No)]),
            // Too late, or about something that nobody has asked.
            (301, elsewhere("a", Some(1), false), &[]),
            (301, elsewhere("a", Some(7), true), &[]),
            (301, Event::Alone(InterruptId(1)), &[]),
        ],
    );
}

#[test]
fn jobs_of_this_worker_are_no_question() {
    check(
        &mut with_peers(1, 0),
        &[
            (0, predict("a", 1), &[start(1)]),
            (1, interrupt("a", 1), &[cancel(1)]),
            (2, Event::Ended(Ticket(1)), &[answer(1, Found::Yes)]),
            (3, interrupt("a", 2), &[answer(2, Found::Yes)]),
        ],
    );
}

#[test]
fn an_interrupt_of_a_peer_is_claimed_at_once_and_answered_in_the_end() {
    check(
        &mut with_peers(1, 1),
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, predict("b", 2), &[]),
            (1, interrupt_of_peer("a", 1), &[cancel(1), claim(1)]),
            (2, Event::Ended(Ticket(1)), &[answer(1, Found::Yes), start(2)]),
            (3, interrupt_of_peer("a", 2), &[answer(2, Found::Yes)]),
            // Whoever wants it asks all workers; this one does not.
            (4, interrupt_of_peer("c", 3), &[answer(3, Found::No)]),
        ],
    );
}

#[test]
fn a_mark_for_a_peer_lasts_until_another_one_has_the_job() {
    check(
        &mut with_peers(9, 0),
        &[
            (0, interrupt_of_peer("a", 1), &[answer(1, Found::No)]),
            (1, predict("a", 1), &[refuse(1, Refusal::Interrupted)]),
            (2, interrupt_of_peer("b", 2), &[answer(2, Found::No)]),
            // The answer is for the one that has asked, and heard by all.
            (3, elsewhere("b", None, false), &[]),
            (4, predict("b", 2), &[start(2)]),
            (5, interrupt("c", 3), &[ask(3)]),
            (6, elsewhere("c", Some(3), false), &[]),
            (7, predict("c", 3), &[start(3)]),
        ],
    );
}

#[test]
fn questions_under_way_are_bounded() {
    let limits = Limits { peers_wait: ms(300), questions: 2, ..Limits::new(1, 0) };
    check(
        &mut JobTable::new(limits),
        &[
            (0, interrupt("a", 1), &[ask(1)]),
            (0, interrupt("b", 2), &[ask(2)]),
            (0, interrupt("c", 3), &[answer(3, Found::No)]),
            (1, Event::Alone(InterruptId(1)), &[answer(1, Found::No)]),
            (1, interrupt("d", 4), &[ask(4)]),
        ],
    );
}

#[test]
fn a_worker_that_ends_answers_what_it_has_asked() {
    let grace = ms(1000);
    check(
        &mut with_peers(1, 0),
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, Event::Drain { grace }, &[]),
            (10, interrupt("b", 1), &[ask(1)]),
            (10, interrupt("c", 2), &[ask(2)]),
            (11, elsewhere("b", Some(1), false), &[]),
            (
                12,
                Event::Ended(Ticket(1)),
                &[answer(1, Found::Yes), answer(2, Found::No), Action::Drained(Drained::InGrace)],
            ),
            (13, interrupt("d", 3), &[answer(3, Found::No)]),
        ],
    );
}

#[test]
fn draining_refuses_what_waits_and_lets_run_what_runs() {
    let grace = ms(1000);
    check(
        &mut table(1, 2),
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, predict("b", 2), &[]),
            (10, Event::Drain { grace }, &[refuse(2, Refusal::ShuttingDown)]),
            (20, predict("c", 3), &[refuse(3, Refusal::ShuttingDown)]),
            (30, Event::Ended(Ticket(2)), &[]),
            (40, Event::Ended(Ticket(1)), &[Action::Drained(Drained::InGrace)]),
            (50, predict("d", 4), &[refuse(4, Refusal::ShuttingDown)]),
        ],
    );
}

#[test]
fn draining_an_idle_worker_is_done_at_once() {
    let grace = ms(1000);
    check(&mut table(1, 2), &[(0, Event::Drain { grace }, &[Action::Drained(Drained::InGrace)])]);
}

#[test]
fn when_the_grace_is_over_jobs_are_cancelled() {
    let grace = ms(1000);
    let mut table = table(2, 0);
    check(
        &mut table,
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, predict("b", 2), &[start(2)]),
            (0, Event::Drain { grace }, &[]),
            // A second signal of the same kind does not move the deadline.
            (500, Event::Drain { grace }, &[]),
        ],
    );
    assert_eq!(table.next_deadline(), Some(ms(1000)));
    check(
        &mut table,
        &[
            (1000, Event::Tick, &[cancel(1), cancel(2)]),
            (1010, Event::Ended(Ticket(1)), &[]),
            (1020, Event::Ended(Ticket(2)), &[Action::Drained(Drained::GraceRanOut)]),
        ],
    );
}

#[test]
fn a_job_that_does_not_stop_cannot_keep_the_worker() {
    let grace = ms(1000);
    check(
        &mut table(1, 0),
        &[
            (0, predict("a", 1), &[start(1)]),
            (0, Event::Drain { grace }, &[]),
            (1000, Event::Tick, &[cancel(1)]),
            (2999, Event::Tick, &[]),
            (3000, Event::Tick, &[Action::Drained(Drained::GraceRanOut)]),
        ],
    );
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut table = JobTable::new(Limits { remembered: 2, interrupts: 1, ..Limits::new(1, 0) });
    check(
        &mut table,
        &[
            (0, interrupt("x", 1), &[answer(1, Found::No)]),
            (0, interrupt("y", 2), &[answer(2, Found::No)]),
            (0, interrupt("z", 3), &[answer(3, Found::No)]),
            // The mark of x had to go, that of z is there.
            (1, predict("z", 1), &[refuse(1, Refusal::Interrupted)]),
            (1, predict("x", 2), &[start(2)]),
            (2, interrupt("x", 4), &[cancel(2)]),
            (3, interrupt("x", 5), &[answer(5, Found::Yes)]),
        ],
    );
}
