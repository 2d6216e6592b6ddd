//! Random runs against a plain model of the books.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use proptest::prelude::*;

use super::tests::s;
use super::*;

/// What the random runs do next. Numbers are picked out of what exists.
#[derive(Debug, Clone)]
enum Op {
    Lease(u8),
    GiveBack(usize),
    Want(u8, u64),
    Ask,
    Land(u64),
    GiveUp,
    Gone(usize),
    Wait(u64),
    Adapt(usize, u64),
    Unadapt(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..4).prop_map(Op::Lease),
        5 => any::<usize>().prop_map(Op::GiveBack),
        4 => ((0u8..4), (1u64..14)).prop_map(|(name, need)| Op::Want(name, need)),
        6 => Just(Op::Ask),
        4 => prop_oneof![3 => Just(0), 1 => 1u64..4].prop_map(Op::Land),
        1 => Just(Op::GiveUp),
        5 => any::<usize>().prop_map(Op::Gone),
        3 => (0u64..8).prop_map(Op::Wait),
        3 => (any::<usize>(), 1u64..5).prop_map(|(pick, bytes)| Op::Adapt(pick, bytes)),
        2 => any::<usize>().prop_map(Op::Unadapt),
    ]
}

const BUDGET: u64 = 12;
const KEEP_ALIVE: u64 = 10;
const MAX_READY: usize = 3;

/// One model, as the world outside sees it.
#[derive(Debug)]
struct Book {
    id: Id,
    name: String,
    /// With its adapters.
    bytes: u64,
    adapters: Vec<u64>,
    leases: usize,
    last_used: u64,
    is_leaving: bool,
}

#[derive(Debug)]
struct World {
    shelf: Shelf<Id>,
    now: u64,
    books: Vec<Book>,
    /// The load in progress, and whether it was promised its room.
    load: Option<(String, u64, bool)>,
    /// By how much models were larger than estimated, all of them.
    excess: u64,
}

impl World {
    fn new() -> Self {
        let limits =
            Limits { max_ready: MAX_READY, budget: Some(BUDGET), keep_alive: Some(s(KEEP_ALIVE)) };
        let shelf = Shelf::new(limits);
        Self { shelf, now: 0, books: Vec::new(), load: None, excess: 0 }
    }

    fn book(&mut self, id: Id) -> &mut Book {
        self.books.iter_mut().find(|book| book.id == id).unwrap()
    }

    fn pick(&self, pick: usize, wanted: impl Fn(&Book) -> bool) -> Option<Id> {
        let all: Vec<Id> =
            self.books.iter().filter(|book| wanted(book)).map(|book| book.id).collect();
        all.get(pick % all.len().max(1)).copied()
    }

    fn idle(&self) -> impl Iterator<Item = &Book> {
        self.books.iter().filter(|book| book.leases == 0 && !book.is_leaving)
    }

    fn released(&mut self, released: Vec<Released<Id>>) -> Vec<Id> {
        let ids: Vec<Id> = released.iter().map(|released| released.id).collect();
        for id in &ids {
            let book = self.book(*id);
            assert_eq!((book.leases, book.is_leaving), (0, false), "{book:?}");
            book.is_leaving = true;
        }
        ids
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Lease(name) => self.lease(&format!("m{name}")),
            Op::GiveBack(pick) => {
                if let Some(id) = self.pick(*pick, |book| book.leases > 0) {
                    self.give_back(id);
                }
            }
            Op::Want(name, need) if self.load.is_none() => {
                self.load = Some((format!("m{name}"), *need, false));
            }
            Op::Want(..) => {}
            Op::Ask => self.ask(),
            Op::Land(excess) => self.land(*excess),
            Op::GiveUp => {
                self.shelf.give_up();
                self.load = None;
            }
            Op::Gone(pick) => {
                if let Some(id) = self.pick(*pick, |book| book.is_leaving) {
                    self.gone(id);
                }
            }
            Op::Adapt(pick, bytes) => {
                if let Some(id) = self.pick(*pick, |book| book.leases > 0) {
                    self.adapt(id, *bytes);
                }
            }
            Op::Unadapt(pick) => {
                if let Some(id) = self.pick(*pick, |book| !book.adapters.is_empty()) {
                    self.unadapt(id);
                }
            }
            Op::Wait(seconds) => {
                self.now += seconds;
                self.expire();
            }
        }
        self.check();
    }

    fn lease(&mut self, name: &str) {
        let Some((id, model, released)) = self.shelf.lease(s(self.now), name, 1) else { return };
        assert_eq!(id, model);
        self.released(released);
        let now = self.now;
        let book = self.book(id);
        assert!(book.name == name && !book.is_leaving, "{book:?}");
        book.leases += 1;
        book.last_used = now;
    }

    fn give_back(&mut self, id: Id) {
        let released = self.shelf.give_back(s(self.now), id);
        let now = self.now;
        let book = self.book(id);
        book.leases -= 1;
        book.last_used = now;
        self.released(released);
    }

    /// Loads an adapter if there is room for it, or else makes room.
    fn adapt(&mut self, id: Id, bytes: u64) {
        let before = self.shelf.used();
        if self.shelf.add_adapter(id, bytes) {
            assert!(before + bytes <= BUDGET);
            let book = self.book(id);
            book.bytes += bytes;
            book.adapters.push(bytes);
            return;
        }
        assert!(before + bytes > BUDGET);
        let (is_enough, released) = self.shelf.make_adapter_room(bytes);
        let ids = self.released(released);
        assert!(is_enough || ids.is_empty(), "nothing goes for nothing");
        let stays: u64 =
            self.books.iter().filter(|book| !book.is_leaving).map(|book| book.bytes).sum();
        let is_room = stays + self.promised() + bytes <= BUDGET;
        assert_eq!(is_enough, is_room, "{self:?}");
    }

    fn unadapt(&mut self, id: Id) {
        let book = self.book(id);
        let Some(bytes) = book.adapters.pop() else { return };
        book.bytes -= bytes;
        self.shelf.remove_adapter(id, bytes);
    }

    fn promised(&self) -> u64 {
        self.load.as_ref().map_or(0, |(_, need, promised)| if *promised { *need } else { 0 })
    }

    fn gone(&mut self, id: Id) {
        self.shelf.gone(id);
        self.books.retain(|book| book.id != id);
    }

    fn ask(&mut self) {
        let Some((name, need, false)) = self.load.clone() else { return };
        let loaded: u64 =
            self.books.iter().filter(|book| !book.is_leaving).map(|book| book.bytes).sum();
        let (room, released) = self.shelf.make_room(&name, need);
        let ids = self.released(released);
        assert!(ids.is_empty() || loaded + need > BUDGET, "nothing goes without need");
        // By age, and the one of the same name before that.
        let age = |book: &Book| (book.name != name, book.last_used);
        let gone = self.books.iter().filter(|book| ids.contains(&book.id)).map(age).max();
        let stays = self.idle().map(age).min();
        assert!(gone.zip(stays).is_none_or(|(gone, stays)| gone <= stays), "{gone:?} {stays:?}");
        assert_eq!(room == Room::Never, need > BUDGET);
        match room {
            Room::Promised => {
                assert!(self.shelf.used() <= BUDGET);
                self.load = Some((name, need, true));
            }
            Room::Later => assert!(self.shelf.used() + need > BUDGET),
            Room::Never => self.load = None,
        }
    }

    fn land(&mut self, excess: u64) {
        let Some((name, need, true)) = self.load.clone() else { return };
        self.load = None;
        let bytes = need + excess;
        self.excess += excess;
        let model = self.shelf.next_id;
        let (id, released) = self.shelf.admit(s(self.now), &name, 1, bytes, model);
        self.books.push(Book {
            id,
            name,
            bytes,
            adapters: Vec::new(),
            leases: 1,
            last_used: self.now,
            is_leaving: false,
        });
        self.released(released);
    }

    fn expire(&mut self) {
        let released = self.shelf.expire(s(self.now));
        let ids = self.released(released);
        let is_due = |book: &Book| self.now - book.last_used >= KEEP_ALIVE;
        assert!(self.books.iter().filter(|book| ids.contains(&book.id)).all(is_due));
        assert!(!self.idle().any(is_due));
        let next = self.idle().map(|book| s(book.last_used + KEEP_ALIVE)).min();
        assert_eq!(self.shelf.next_expiry(), next);
    }

    fn check(&self) {
        let promised = self.promised();
        let booked: u64 = self.books.iter().map(|book| book.bytes).sum();
        assert_eq!(self.shelf.used(), booked + promised);
        assert!(booked + promised <= BUDGET + self.excess);
        let loaded = self.books.iter().filter(|book| !book.is_leaving);
        assert_eq!(self.shelf.entries.len(), loaded.count());
        for entry in &self.shelf.entries {
            // What waits to go is in use, or it would have gone.
            assert!(entry.leases > 0 || !(entry.is_retired || entry.is_closed), "{entry:?}");
        }
        let ready = self.shelf.entries.iter().filter(|entry| !entry.is_retired);
        assert!(ready.count() <= MAX_READY);
    }

    /// Every job ends and every model that goes is freed: then there is room.
    fn end(&mut self) {
        while let Some(id) = self.books.iter().find(|book| book.leases > 0).map(|book| book.id) {
            self.give_back(id);
        }
        self.ask();
        while let Some(id) = self.books.iter().find(|book| book.is_leaving).map(|book| book.id) {
            self.gone(id);
        }
        self.ask();
        assert!(self.load.as_ref().is_none_or(|(_, _, promised)| *promised), "{self:?}");
        self.check();
    }
}

proptest! {
    #[test]
    fn the_books_are_right(ops in proptest::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.end();
    }
}
