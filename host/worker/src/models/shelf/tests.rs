//! Single rules; random runs are in `model_test`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use super::*;

pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A shelf for so many models, of any size and age.
fn shelf(max_ready: usize) -> Shelf<&'static str> {
    Shelf::new(Limits { max_ready, budget: None, keep_alive: None })
}

/// A shelf for many models of so many bytes together.
fn within(budget: u64) -> Shelf<&'static str> {
    Shelf::new(Limits { max_ready: 64, budget: Some(budget), keep_alive: None })
}

/// The models of what is to be freed, which are gone at once.
fn freed<M: Clone>(shelf: &mut Shelf<M>, released: Vec<Released<M>>) -> Vec<M> {
    let free = |Released { id, model }| {
        shelf.gone(id);
        model
    };
    released.into_iter().map(free).collect()
}

/// Adds a model that nobody uses; returns what is freed.
fn add(
    shelf: &mut Shelf<&'static str>,
    at: u64,
    name: &str,
    n_ctx: u32,
    model: &'static str,
) -> Vec<&'static str> {
    let (id, mut released) = shelf.admit(s(at), name, n_ctx, 10, model);
    released.extend(shelf.give_back(s(at), id));
    freed(shelf, released)
}

/// Leases a model that must be there and frees nothing.
#[track_caller]
fn lease(shelf: &mut Shelf<&'static str>, at: u64, name: &str, n_ctx: u32) -> Id {
    let (id, _, released) = shelf.lease(s(at), name, n_ctx).unwrap();
    assert!(released.is_empty());
    id
}

fn give_back(shelf: &mut Shelf<&'static str>, at: u64, id: Id) -> Vec<&'static str> {
    let released = shelf.give_back(s(at), id);
    freed(shelf, released)
}

/// Asks for room; what is to be freed for it is gone at once.
fn make_room(shelf: &mut Shelf<&'static str>, name: &str, need: u64) -> (Room, Vec<&'static str>) {
    let (room, released) = shelf.make_room(name, need);
    let freed = freed(shelf, released);
    // What has gone since may be all that was missing.
    let room = if room == Room::Later { shelf.make_room(name, need).0 } else { room };
    (room, freed)
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_context_that_is_large_enough_is_used() {
    let mut shelf = shelf(1);
    assert!(shelf.lease(s(0), "a", 1).is_none());
    assert_eq!(add(&mut shelf, 0, "a", 4096, "a4096"), NOTHING);
    assert!(shelf.lease(s(0), "a", 4097).is_none());
    assert!(shelf.lease(s(0), "b", 1).is_none());
    let (_, model, _) = shelf.lease(s(0), "a", 4096).unwrap();
    assert_eq!(model, "a4096");
}

#[test]
fn a_replaced_model_is_freed_with_its_last_lease() {
    let mut shelf = shelf(1);
    add(&mut shelf, 0, "a", 1, "a");
    let (one, two) = (lease(&mut shelf, 1, "a", 1), lease(&mut shelf, 2, "a", 1));
    assert_eq!(add(&mut shelf, 3, "b", 1, "b"), NOTHING);
    assert_eq!(give_back(&mut shelf, 4, one), NOTHING);
    assert_eq!(give_back(&mut shelf, 5, two), ["a"]);
    assert_eq!(shelf.get("a"), None);
    assert_eq!(shelf.get("b"), Some("b"));
}

#[test]
fn an_unused_model_is_freed_at_once_when_replaced() {
    let mut shelf = shelf(1);
    add(&mut shelf, 0, "a", 1, "a");
    let id = lease(&mut shelf, 1, "a", 1);
    assert_eq!(give_back(&mut shelf, 1, id), NOTHING);
    assert_eq!(add(&mut shelf, 2, "b", 1, "b"), ["a"]);
}

#[test]
fn the_one_used_longest_ago_goes_first() {
    let mut shelf = shelf(2);
    add(&mut shelf, 0, "a", 1, "a");
    add(&mut shelf, 1, "b", 1, "b");
    let id = lease(&mut shelf, 2, "a", 1);
    give_back(&mut shelf, 2, id);
    assert_eq!(add(&mut shelf, 3, "c", 1, "c"), ["b"]);
    assert!(shelf.get("a").is_some() && shelf.get("c").is_some());
}

#[test]
fn a_larger_context_replaces_the_smaller_one_of_the_same_model() {
    let mut shelf = shelf(4);
    add(&mut shelf, 0, "a", 10, "small");
    let id = lease(&mut shelf, 1, "a", 10);
    assert_eq!(add(&mut shelf, 2, "a", 20, "large"), NOTHING);
    // Hooks of either job find the vocabulary, which is the same.
    assert_eq!(shelf.get("a"), Some("large"));
    // New jobs use the one that stays.
    assert_eq!(shelf.lease(s(3), "a", 10).unwrap().1, "large");
    assert_eq!(give_back(&mut shelf, 4, id), ["small"]);
}

#[test]
fn a_retired_model_is_taken_back_into_use() {
    let mut shelf = shelf(1);
    add(&mut shelf, 0, "a", 1, "a");
    let first = lease(&mut shelf, 1, "a", 1);
    add(&mut shelf, 2, "b", 1, "b");
    // While its job runs, another one wants it: now b is the one too many.
    let (second, model, released) = shelf.lease(s(3), "a", 1).unwrap();
    assert_eq!((model, freed(&mut shelf, released)), ("a", vec!["b"]));
    assert_eq!(give_back(&mut shelf, 4, first), NOTHING);
    assert_eq!(give_back(&mut shelf, 5, second), NOTHING);
    assert_eq!(shelf.get("a"), Some("a"));
}

#[test]
fn at_the_end_everything_is_freed() {
    let mut shelf = shelf(2);
    add(&mut shelf, 0, "a", 1, "a");
    add(&mut shelf, 0, "b", 1, "b");
    let id = lease(&mut shelf, 1, "b", 1);
    let released = shelf.retire_all();
    assert_eq!(freed(&mut shelf, released), ["a"]);
    assert_eq!(give_back(&mut shelf, 2, id), ["b"]);
    assert_eq!(shelf.used(), 0);
}

#[test]
fn models_expire_after_their_last_use() {
    let mut shelf = Shelf::new(Limits { max_ready: 2, budget: None, keep_alive: Some(s(100)) });
    let expired = |shelf: &mut Shelf<&'static str>, at| {
        let released = shelf.expire(s(at));
        freed(shelf, released)
    };
    assert_eq!(shelf.next_expiry(), None);
    add(&mut shelf, 0, "a", 1, "a");
    add(&mut shelf, 10, "b", 1, "b");
    assert_eq!(shelf.next_expiry(), Some(s(100)));
    // In use at the time, and used from then on until 150.
    let id = lease(&mut shelf, 50, "a", 1);
    assert_eq!(shelf.next_expiry(), Some(s(110)));
    assert_eq!(expired(&mut shelf, 109), NOTHING);
    assert_eq!(expired(&mut shelf, 110), ["b"]);
    assert_eq!((shelf.next_expiry(), expired(&mut shelf, 1000)), (None, vec![]));
    assert_eq!(give_back(&mut shelf, 1050, id), NOTHING);
    assert_eq!(shelf.next_expiry(), Some(s(1150)));
    assert_eq!(expired(&mut shelf, 1149), NOTHING);
    assert_eq!(expired(&mut shelf, 1150), ["a"]);
    assert_eq!(shelf.get("a"), None);
}

#[test]
fn without_a_time_nothing_expires() {
    let mut shelf = shelf(1);
    add(&mut shelf, 0, "a", 1, "a");
    assert_eq!((shelf.next_expiry(), shelf.expire(s(1 << 40))), (None, vec![]));
}

#[test]
fn models_make_room_by_age() {
    let mut shelf = within(35);
    for (at, name) in [(0, "a"), (1, "b"), (2, "c")] {
        assert_eq!(make_room(&mut shelf, name, 10), (Room::Promised, vec![]));
        assert_eq!(add(&mut shelf, at, name, 1, name), NOTHING);
    }
    let id = lease(&mut shelf, 3, "a", 1);
    give_back(&mut shelf, 3, id);
    assert_eq!(make_room(&mut shelf, "d", 12), (Room::Promised, vec!["b"]));
    assert_eq!(shelf.used(), 32);
    // A promise that is given up costs nothing more.
    shelf.give_up();
    assert_eq!(shelf.used(), 20);
    assert_eq!(make_room(&mut shelf, "d", 36), (Room::Never, vec![]));
    assert_eq!(make_room(&mut shelf, "d", 35), (Room::Promised, vec!["a", "c"]));
}

#[test]
fn the_model_that_is_replaced_anyway_makes_room_first() {
    let mut shelf = within(25);
    add(&mut shelf, 0, "a", 1, "a");
    add(&mut shelf, 1, "b", 1, "small");
    assert_eq!(make_room(&mut shelf, "b", 15), (Room::Promised, vec!["small"]));
}

#[test]
fn a_load_waits_for_jobs_that_run_and_not_for_those_that_come() {
    let mut shelf = within(25);
    add(&mut shelf, 0, "a", 1, "a");
    add(&mut shelf, 1, "b", 1, "b");
    let (a, b) = (lease(&mut shelf, 2, "a", 1), lease(&mut shelf, 3, "b", 1));
    assert_eq!(make_room(&mut shelf, "c", 10), (Room::Later, vec![]));
    // One of the two is enough: a was used longest ago.
    assert!(shelf.lease(s(4), "a", 1).is_none());
    let other = lease(&mut shelf, 4, "b", 1);
    // It stays the one, whatever is used meanwhile.
    assert_eq!(give_back(&mut shelf, 5, other), NOTHING);
    assert_eq!(give_back(&mut shelf, 6, b), NOTHING);
    assert_eq!(make_room(&mut shelf, "c", 10).0, Room::Promised, "b has become free");
    assert_eq!(shelf.get("b"), None);
    // a need not go any more.
    assert_eq!(give_back(&mut shelf, 7, a), NOTHING);
    assert_eq!(shelf.get("a"), Some("a"));
}

#[test]
fn a_wait_that_is_given_up_leaves_everything_as_it_was() {
    let mut shelf = within(15);
    add(&mut shelf, 0, "a", 1, "a");
    let id = lease(&mut shelf, 1, "a", 1);
    assert_eq!(make_room(&mut shelf, "b", 10), (Room::Later, vec![]));
    assert!(shelf.lease(s(2), "a", 1).is_none());
    shelf.give_up();
    let other = lease(&mut shelf, 3, "a", 1);
    assert_eq!(give_back(&mut shelf, 4, id), NOTHING);
    assert_eq!(give_back(&mut shelf, 5, other), NOTHING);
    assert_eq!(shelf.get("a"), Some("a"));
}

#[test]
fn a_replaced_model_counts_until_it_is_freed() {
    let mut shelf = within(30);
    add(&mut shelf, 0, "a", 1, "small");
    let id = lease(&mut shelf, 1, "a", 1);
    assert_eq!(make_room(&mut shelf, "a", 10).0, Room::Promised);
    add(&mut shelf, 2, "a", 2, "large");
    lease(&mut shelf, 2, "a", 2);
    assert_eq!(shelf.used(), 20);
    assert_eq!(make_room(&mut shelf, "b", 20), (Room::Later, vec![]));
    let released = shelf.give_back(s(3), id);
    assert_eq!(released.len(), 1);
    assert_eq!((shelf.used(), make_room(&mut shelf, "b", 20).0), (20, Room::Later));
    assert_eq!(freed(&mut shelf, released), ["small"]);
    assert_eq!((shelf.used(), make_room(&mut shelf, "b", 20).0), (10, Room::Promised));
    assert_eq!(shelf.used(), 30);
}

#[test]
fn a_model_that_is_larger_than_estimated_drives_others_out() {
    let mut shelf = within(30);
    add(&mut shelf, 0, "a", 1, "a");
    add(&mut shelf, 1, "b", 1, "b");
    assert_eq!(make_room(&mut shelf, "c", 10).0, Room::Promised);
    let (id, released) = shelf.admit(s(2), "c", 1, 15, "c");
    assert_eq!(freed(&mut shelf, released), ["a"]);
    assert_eq!(shelf.used(), 25);
    // It stays itself, however large it is.
    assert_eq!(give_back(&mut shelf, 3, id), NOTHING);
    assert_eq!(make_room(&mut shelf, "d", 10).0, Room::Promised);
    let (_, released) = shelf.admit(s(4), "d", 1, 99, "d");
    assert_eq!(freed(&mut shelf, released), ["c"]);
    assert_eq!(shelf.get("d"), Some("d"));
}

#[test]
fn adapters_count_as_parts_of_their_model() {
    let mut shelf = within(30);
    add(&mut shelf, 0, "a", 1, "a");
    let id = lease(&mut shelf, 1, "a", 1);
    assert!(shelf.add_adapter(id, 15));
    assert_eq!(shelf.used(), 25);
    assert!(!shelf.add_adapter(id, 6), "beyond the budget");
    // The model goes with its adapters, and counts as long as they do.
    assert_eq!(make_room(&mut shelf, "b", 10), (Room::Later, vec![]));
    let released = shelf.give_back(s(2), id);
    assert_eq!(shelf.used(), 25);
    shelf.remove_adapter(id, 15);
    assert_eq!(shelf.used(), 10);
    assert_eq!(freed(&mut shelf, released), ["a"]);
    assert_eq!(shelf.used(), 0);
    // One that is freed later than its model is off the books already.
    shelf.remove_adapter(id, 15);
    assert_eq!(shelf.used(), 0);
}

#[test]
fn unused_models_make_room_for_an_adapter() {
    let mut shelf = within(40);
    for (at, name) in [(0, "a"), (1, "b"), (2, "c")] {
        add(&mut shelf, at, name, 1, name);
    }
    let id = lease(&mut shelf, 3, "a", 1);
    let (is_enough, released) = shelf.make_adapter_room(31);
    assert!(!is_enough && released.is_empty(), "the model itself stays");
    let (is_enough, released) = shelf.make_adapter_room(15);
    assert!(is_enough);
    assert!(!shelf.add_adapter(id, 15), "it is not gone yet");
    assert_eq!(freed(&mut shelf, released), ["b"]);
    assert!(shelf.add_adapter(id, 15));
    // What is promised to a load is not given away.
    assert_eq!(make_room(&mut shelf, "d", 5).0, Room::Promised);
    assert!(!shelf.make_adapter_room(11).0);
    assert!(shelf.make_adapter_room(10).0);
}

#[test]
fn without_a_budget_there_is_room_for_every_adapter() {
    let mut shelf = shelf(1);
    add(&mut shelf, 0, "a", 1, "a");
    let id = lease(&mut shelf, 1, "a", 1);
    assert!(shelf.add_adapter(id, u64::MAX) && shelf.add_adapter(id, u64::MAX));
}
