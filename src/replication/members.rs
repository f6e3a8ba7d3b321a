//! The replicas of a key as requests hold them, and where a group keeps those of each place on its ring.
//!
//! Keys of one place have the same replicas, and a ring has far fewer lists of replicas than places. Each list is made
//! once, for the first key that needs it, and shared from then on: a request counts one reference up and down.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use super::{Group, Member};
use crate::backend::Backend;

/// The replicas of a key, in ring order, or of several keys.
pub struct Members<B: Backend>(Option<Rc<[Rc<Member<B>>]>>);

impl<B: Backend> Members<B> {
    /// Whether both are the same members in the same order.
    #[inline]
    pub fn are(&self, others: &Self) -> bool {
        let is_same_list = matches!((&self.0, &others.0), (Some(one), Some(other)) if Rc::ptr_eq(one, other));
        is_same_list
            || self.len() == others.len() && self.iter().zip(others.iter()).all(|(one, other)| Rc::ptr_eq(one, other))
    }

    /// Whether both are the same members, in whatever order: all that a quorum asks of them.
    fn are_in_some_order(&self, others: &Self) -> bool {
        self.len() == others.len() && self.iter().all(|one| others.iter().any(|other| Rc::ptr_eq(one, other)))
    }
}

impl<B: Backend> Group<B> {
    /// Takes the replicas of another key to those of the keys before it; false if they are not the same stores. Which of
    /// them the ring names first may differ: then all keys together have them in the order of the pool, whichever key
    /// stands first in a request, so that writers that meet ask them in one order.
    pub fn join(&self, replicas: &mut Members<B>, others: &Members<B>) -> bool {
        if replicas.are(others) {
            return true;
        }
        if !replicas.are_in_some_order(others) {
            return false;
        }
        *replicas = self.in_own_order(others);
        true
    }

    /// The same replicas in the order of the pool.
    pub(super) fn in_own_order(&self, replicas: &Members<B>) -> Members<B> {
        let holds = |member: &&Rc<Member<B>>| replicas.iter().any(|other| Rc::ptr_eq(member, other));
        self.members.iter().filter(holds).map(Rc::clone).collect()
    }
}

impl<B: Backend> Deref for Members<B> {
    type Target = [Rc<Member<B>>];

    #[inline]
    fn deref(&self) -> &Self::Target {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<B: Backend> Clone for Members<B> {
    #[inline]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Default for Members<B> {
    #[inline]
    fn default() -> Self {
        Self(None)
    }
}

impl<B: Backend> FromIterator<Rc<Member<B>>> for Members<B> {
    fn from_iter<I: IntoIterator<Item = Rc<Member<B>>>>(members: I) -> Self {
        Self(Some(members.into_iter().collect()))
    }
}

/// Where a key is on a ring that has places.
pub type PlaceOf = dyn Fn(&[u8]) -> usize;

/// The places of a ring that has some.
pub struct Places {
    /// How many there are.
    pub count: usize,
    /// Where a key is.
    pub of: Box<PlaceOf>,
}

/// A place whose list was not needed yet.
const UNKNOWN: u32 = u32::MAX;
/// Rings with more places than this have their lists made for each request: a table of them would be too big.
const PLACES_MAX: usize = 1 << 20;

/// The lists of one group.
pub(super) struct Lists<B: Backend> {
    place: Box<PlaceOf>,
    /// The number of each place's list.
    of_place: Box<[Cell<u32>]>,
    made: RefCell<Vec<Members<B>>>,
}

impl<B: Backend> Lists<B> {
    pub(super) fn of(places: Places) -> Option<Self> {
        (places.count <= PLACES_MAX).then(|| Self {
            place: places.of,
            of_place: (0..places.count).map(|_| Cell::new(UNKNOWN)).collect(),
            made: RefCell::default(),
        })
    }

    /// The replicas of a key; `gather` finds them where no key of its place has needed them yet.
    #[inline]
    pub(super) fn get(&self, key: &[u8], gather: impl FnOnce() -> Option<Members<B>>) -> Option<Members<B>> {
        let Some(number) = self.of_place.get((self.place)(key)) else { return gather() };
        let known = self.made.borrow().get(number.get() as usize).cloned();
        known.or_else(|| self.learn(number, gather()?))
    }

    #[cold]
    fn learn(&self, number: &Cell<u32>, members: Members<B>) -> Option<Members<B>> {
        let mut lists = self.made.borrow_mut();
        let at = lists.iter().position(|known| known.are(&members)).unwrap_or(lists.len());
        if at == lists.len() {
            lists.push(members);
        }
        number.set(u32::try_from(at).unwrap_or(UNKNOWN));
        lists.get(at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Stores;

    /// What a list holds is told by its length alone here: members need stores.
    #[test]
    fn each_list_is_made_once() {
        let of = Box::new(|key: &[u8]| key.len());
        let lists: Lists<Stores> = Lists::of(Places { count: 3, of }).expect("few places");
        let made = Cell::new(0);
        let get = |key: &[u8]| {
            lists.get(key, || {
                made.set(made.get() + 1);
                Some(std::iter::empty().collect())
            })
        };
        assert!((0..4).all(|_| get(b"a").is_some_and(|members| members.is_empty())));
        assert_eq!(made.get(), 1);
        assert!(get(b"bb").is_some() && get(b"bb").is_some());
        assert_eq!((made.get(), lists.made.borrow().len()), (2, 1), "an equal list is shared");
        assert!(get(b"beyond").is_some() && get(b"beyond").is_some());
        assert_eq!(made.get(), 4, "no place: each time");
        assert!(lists.get(b"", || None).is_none());
    }
}
