//! States of several keys that one command wrote: a replica takes them in one piece, so that whoever asks it about all of
//! these keys at once finds the command in all of them or in none.
//!
//! A proposal over several keys asks each replica about all of them at once. What it finds of another such command on one
//! replica is whole, and so is the newest of what it finds on several. Somebody who is about one of the keys alone may
//! still come between, after the patience of `prepare`.

use std::rc::Rc;

use smallvec::SmallVec;

use super::accept::{Put, State};
use super::proposal::{Ground, Proposal};
use super::repair::Parcel;
use super::round::Round;
use super::wire::{Answer, Cursor};
use super::{Engine, Group, Members};
use crate::backend::Backend;
use crate::protocol::resp::Version;
use crate::version::Record;

impl<B: Backend> Engine<B> {
    /// As [`Engine::put`], for several keys; what came of each.
    pub(super) async fn put_together(
        &self,
        group: &Rc<Group<B>>,
        members: &Members<B>,
        parcels: &[Parcel<'_>],
        to: &[usize],
    ) -> Vec<Put> {
        let mut puts: Vec<Put> = parcels.iter().map(|_| Put::default()).collect();
        let write = |part: usize, call, out: &mut Vec<u8>| {
            let Some(member) = members.get(part) else { return };
            out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
            for parcel in parcels {
                parcel.write(group, member, call, b"P", out);
            }
            out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
        };
        let replies = u32::try_from(parcels.len()).unwrap_or(u32::MAX).saturating_add(2);
        let round = Round::new(self, members, Version::Resp2, 0, &write).of_replies(replies);
        for at in to {
            if members.get(*at).is_some_and(|member| member.belief.get().is_some()) {
                round.ask(*at);
            }
        }
        while let Some((at, said)) = round.next().await {
            let answers = said.as_ref().ok().and_then(|reply| answers_of(reply, parcels.len()));
            for (number, put) in puts.iter_mut().enumerate() {
                match (&said, &answers) {
                    (Err(failure), _) => self.hear_put(group, members, put, at, Err(failure)),
                    (Ok(reply), None) => self.hear_put(group, members, put, at, Ok(Answer::parse(reply))),
                    (Ok(_), Some(answers)) => {
                        let answer = answers.get(number).map_or(Answer::Garbled, |reply| Answer::parse(reply));
                        self.hear_put(group, members, put, at, Ok(answer));
                    }
                }
            }
        }
        for (parcel, put) in parcels.iter().zip(&puts) {
            self.conclude(group, members, parcel.key, put, to);
        }
        puts
    }
}

/// The replies within that to `EXEC`.
fn answers_of(reply: &[u8], count: usize) -> Option<SmallVec<[&[u8]; 4]>> {
    let mut cursor = Cursor::new(reply);
    cursor.array().filter(|elements| *elements == count)?;
    (0..count).map(|_| cursor.value()).collect()
}

impl<B: Backend> Proposal<B> {
    /// Brings the states of several keys to others; whether enough hold each of them, `held` by those that are not asked.
    pub(super) async fn put_all(
        &self,
        engine: &Engine<B>,
        keys: &[usize],
        states: &[State],
        to: &[usize],
        held: usize,
    ) -> bool {
        let parcels: SmallVec<[Parcel<'_>; 2]> = keys
            .iter()
            .zip(states)
            .filter_map(|(key, state)| {
                let key = self.keys.get(*key)?;
                Some(Parcel { key: &key.name, record: &key.record, state })
            })
            .collect();
        let puts = match parcels.as_slice() {
            [] => return true,
            [one] => {
                vec![engine.put(&self.group, &self.members, one.key, one.record, one.state, b"P", to).await]
            }
            several => engine.put_together(&self.group, &self.members, several, to).await,
        };
        if let Some(put) = puts.iter().find(|put| !put.trouble.is_empty()) {
            self.note_trouble(put.trouble.clone());
        }
        puts.iter().all(|put| held + put.held >= self.needed)
    }

    /// A replica that holds the newest states of all written keys, if there are several.
    pub(super) fn holder_of_all(&self, ground: &Ground) -> Option<usize> {
        let written = self.written();
        let holds_all = |member: &usize| written.iter().all(|key| ground.holders(*key).any(|holder| holder == *member));
        ground.promises.iter().map(|promise| promise.member).find(holds_all).filter(|_| written.len() > 1)
    }

    fn written(&self) -> SmallVec<[usize; 4]> {
        (0..self.keys.len()).filter(|key| self.keys.get(*key).is_some_and(|key| key.written)).collect()
    }

    /// Has a quorum hold the newest states of all written keys, as one replica has them, under a new ballot of the term.
    pub(super) async fn level_all(&mut self, engine: &Engine<B>, ground: &mut Ground, source: usize) -> Option<()> {
        let written = self.written();
        let ballot = ground.next_ballot()?;
        let mut states = Vec::with_capacity(written.len());
        for key in &written {
            let mut state = self.fetch(engine, *key, source).await?;
            let record = Record::decode(&state.record).ok()?;
            if Some(record.accepted) != ground.newest.get(*key).map(|newest| newest.accepted) {
                return None;
            }
            let record = Record { promised: None, prior: None, ..record.renewed(ballot) };
            state.record.clear();
            record.encode(&mut state.record);
            if let Some(newest) = ground.newest.get_mut(*key) {
                *newest = record;
            }
            states.push(state);
        }
        let all: SmallVec<[usize; 7]> = (0..self.members.len()).collect();
        self.put_all(engine, &written, &states, &all, 0).await.then_some(())
    }
}
