//! A wait for keys with several copies: the plain verb is asked again whenever there may be something.
//!
//! What is taken is taken by a proposal like any other, so that nobody else gets it, whichever proxy they ask.

use std::time::Duration;

use super::turns::{Spot, Turn};
use super::{End, Job, Spot as Place, Unblock, WAS_BLOCKED, Wish};
use crate::backend::Tag;
use crate::command::blocking::{self, Shape, is_nothing};
use crate::command::{self, Handling, KeyIndexes, reply};
use crate::coordinator::exchange::Exchange;
use crate::coordinator::replicated::Own;
use crate::coordinator::{Request, Verdict};

/// The pauses between two looks at keys that other proxies may have written to: each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// So many who wait on one worker make the longest pause twice as long, so that looking never is most of its work.
const LOOKING_MAX: usize = 64;

/// What one look at the keys led to.
enum Found {
    Nothing,
    /// The reply, or an error.
    Answer(Vec<u8>),
}

/// How a look is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The first: what is wrong with the keys is told.
    First,
    /// A later one: a key of another type is as good as none.
    Later,
    /// The same, and somebody is known to have written.
    AfterSign,
}

impl Job {
    /// Waits until the plain verb has something.
    pub(super) async fn wait_for_replicas(&mut self) -> End {
        if let Some(refusal) = self.refusal().await {
            self.answer(&refusal);
            return End::Over;
        }
        if let Err(refusal) = self.fix_last_ids().await {
            self.answer(&refusal);
            return End::Over;
        }
        let spots = self.spots();
        let shares = matches!(self.plain.shape, Shape::Read | Shape::ReadGroup);
        let turns = &self.coordinator.turns;
        let turn = turns.join(&self.coordinator.context, spots.clone(), shares);
        let mut seen = Vec::new();
        let mut look = Look::First;
        let mut pause = PAUSE_MIN;
        loop {
            if let Found::Answer(reply) = self.look(&turn, &spots, look, &mut seen).await {
                self.answer(&reply);
                return End::Over;
            }
            self.block.count();
            match self.pause(&turn, pause).await {
                Some(Next::Look) => {
                    look = Look::Later;
                    pause = (pause * 2).min(self.pause_max());
                }
                Some(Next::LookSoon) => {
                    look = Look::AfterSign;
                    pause = PAUSE_MIN;
                }
                Some(Next::End(end)) => return end,
                None => {
                    self.answer_timed_out();
                    return End::Over;
                }
            }
        }
    }

    fn pause_max(&self) -> Duration {
        let crowd = self.coordinator.turns.waiting() / LOOKING_MAX;
        PAUSE_MAX * u32::try_from(1 + crowd).unwrap_or(u32::MAX)
    }

    /// What the servers would object to at once.
    async fn refusal(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let args = self.args();
        // `BLMOVE` looks at its directions before the time, all others at the time before the rest.
        if self.plain.shape == Shape::Move && self.plain.is_malformed(&args) {
            reply::syntax_error(&mut out);
            return Some(out);
        }
        if let Err(fault) = blocking::timeout_ms(self.row, &args) {
            fault.write(&mut out);
            return Some(out);
        }
        if self.keys().is_none() || self.plain.is_malformed(&args) {
            return Some(self.ask(&self.plain.whole(self.row, &args)).await);
        }
        None
    }

    /// The keys that are waited for: those that something is taken from.
    fn waited_for(&self) -> Vec<&[u8]> {
        let args = self.args();
        let keys = self.keys().unwrap_or_default();
        let count = if self.plain.shape == Shape::Move { 1 } else { keys.len() };
        keys.iter().take(count).filter_map(|at| args.get(*at as usize)).collect()
    }

    fn spots(&self) -> Vec<Spot> {
        let topology = &self.view.topology;
        let listener = topology.listener(self.client.listener);
        let spot = |key: &[u8]| match (listener, listener.and_then(|listener| listener.route(key))) {
            (_, Some(route)) => Spot::new(route.pool, self.plain.type_name, &route.rewritten(key)),
            (listener, None) => Spot::new(listener.map_or(0, |listener| listener.pool), self.plain.type_name, key),
        };
        self.waited_for().into_iter().map(spot).collect()
    }

    /// Sends a plain request on the way of every request, and waits for the reply or for what is told in its place.
    async fn ask(&self, words: &[&[u8]]) -> Vec<u8> {
        let mut own = Own::default();
        own.begin(words.len());
        for word in words {
            own.push(word);
        }
        let args = command::Args::new(&own.frame, &own.bounds);
        let mut out = Vec::new();
        let (Ok(row), Some(listener)) = (command::resolve(&args), self.view.topology.listener(self.client.listener))
        else {
            reply::syntax_error(&mut out);
            return out;
        };
        if !matches!(row.handling, Handling::Forward | Handling::SameNode | Handling::Split(_)) {
            reply::syntax_error(&mut out); // An option that is there twice.
            return out;
        }
        let request = Request { frame: &own.frame, args, row, version: self.version, level: self.level };
        let exchange = Exchange::new(self.sink.origin());
        let sink = exchange.sink();
        let verdict = self.coordinator.dispatch(&self.view, listener, &request, &sink, Tag::default().slot, &mut out);
        drop(sink);
        match verdict {
            Verdict::Answered(_) => out,
            Verdict::Sent => exchange.answer().await.unwrap_or_else(|refusal| refusal),
        }
    }

    /// One look at the keys.
    async fn look(&self, turn: &Turn, spots: &[Spot], look: Look, seen: &mut Vec<Vec<u8>>) -> Found {
        match self.plain.shape {
            Shape::Element | Shape::Member | Shape::Several | Shape::Move => {
                for (key, spot) in self.waited_for().into_iter().zip(spots) {
                    if let Found::Answer(reply) = self.take(turn, key, *spot, look).await {
                        return Found::Answer(reply);
                    }
                }
                Found::Nothing
            }
            Shape::Read => self.read().await,
            Shape::ReadGroup => self.read_as_group(turn, spots, look, seen).await,
        }
    }

    async fn read_as_group(&self, turn: &Turn, spots: &[Spot], look: Look, seen: &mut Vec<Vec<u8>>) -> Found {
        let hold = spots.first().and_then(|spot| turn.hold(*spot));
        if hold.is_none() && look != Look::First {
            return Found::Nothing;
        }
        let last = self.last_ids().await;
        // A new entry is behind all others; and where the stream or the group has gone, the store says so.
        if look == Look::Later && *seen == last {
            return Found::Nothing;
        }
        *seen = last;
        self.read().await
    }

    async fn read(&self) -> Found {
        let reply = self.ask(&self.plain.whole(self.row, &self.args())).await;
        if is_nothing(&reply) { Found::Nothing } else { Found::Answer(reply) }
    }

    /// Takes from one key, if it is this client's turn and there is something.
    async fn take(&self, turn: &Turn, key: &[u8], spot: Spot, look: Look) -> Found {
        let is_first = turn.is_first(spot);
        if look != Look::First && !is_first {
            return Found::Nothing;
        }
        // Held until it has taken, or seen that there is nothing.
        let hold = if is_first { turn.hold(spot) } else { None };
        if look != Look::First && hold.is_none() {
            return Found::Nothing;
        }
        let kind = self.ask(&[b"TYPE", key]).await;
        let is_wanted =
            kind.get(1..).and_then(|kind| kind.strip_suffix(b"\r\n")) == Some(self.plain.type_name.as_bytes());
        match (kind.first(), look) {
            // It is for who has waited for longer, or is about to take it.
            _ if is_wanted && hold.is_none() => return Found::Nothing,
            _ if is_wanted => {}
            (Some(b'+'), _) if kind == b"+none\r\n" => return Found::Nothing,
            (Some(b'+'), Look::First) => {}
            (Some(b'+'), Look::Later | Look::AfterSign) => return Found::Nothing,
            _ => return Found::Answer(kind),
        }
        let args = self.args();
        let reply = match self.plain.shape {
            Shape::Move => self.ask(&self.plain.whole(self.row, &args)).await,
            _ => self.ask(&self.plain.of_key(&args, key)).await,
        };
        // It was of another type by then. That of a move's destination is for its client to know.
        if look != Look::First && self.plain.shape != Shape::Move && reply.starts_with(b"-WRONGTYPE") {
            return Found::Nothing;
        }
        self.plain.shaped(key, &reply).map_or(Found::Nothing, Found::Answer)
    }

    /// Of each stream what its last entry is: as the replicas say it, or their error.
    async fn last_ids(&self) -> Vec<Vec<u8>> {
        let mut ids = Vec::new();
        for key in self.waited_for() {
            ids.push(self.ask(&[b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"]).await);
        }
        ids
    }

    /// Writes the id that `$` stands for in its place: what comes from now on is waited for, however often it is asked.
    /// That of the last entry will do: an id that is greater and was given has no entry.
    async fn fix_last_ids(&mut self) -> Result<(), Vec<u8>> {
        let keys = match self.plain.shape {
            Shape::Read => self.keys().unwrap_or_default(),
            _ => KeyIndexes::new(),
        };
        let mut fixed: Vec<(usize, Vec<u8>)> = Vec::new();
        for at in &keys {
            let (key_at, id_at) = (*at as usize, *at as usize + keys.len());
            let args = self.args();
            if args.get(id_at) != Some(b"$".as_slice()) {
                continue;
            }
            let key = args.get(key_at).unwrap_or_default();
            let last = self.ask(&[b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"]).await;
            if last.first() == Some(&b'-') {
                return Err(last);
            }
            fixed.push((id_at, first_id(&last).unwrap_or(b"0-0").to_vec()));
        }
        if !fixed.is_empty() {
            let mut own = Own::default();
            own.begin(self.args().len());
            for (at, word) in self.args().iter().enumerate() {
                own.push(fixed.iter().find(|(place, _)| *place == at).map_or(word, |(_, id)| id));
            }
            self.words = own;
        }
        Ok(())
    }

    /// Waits for something to do; none when the time is up.
    async fn pause(&self, turn: &Turn, pause: Duration) -> Option<Next> {
        loop {
            if turn.took_sign() {
                return Some(Next::LookSoon);
            }
            let left = self.left();
            if left.is_some_and(|left| left.is_zero()) && self.block.has_no_wish() {
                return None;
            }
            // Who is not first anywhere is told when it is.
            let looks = turn.is_first_anywhere();
            // Not all at the same time.
            let jittered = pause.mul_f64(0.75 + fastrand::f64() / 2.0);
            let span = match (looks.then_some(jittered), left) {
                (Some(pause), Some(left)) => Some(pause.min(left)),
                (Some(pause), None) => Some(pause),
                (None, left) => left,
            };
            let slept = async {
                match span {
                    Some(span) => tokio::time::sleep(span).await,
                    None => std::future::pending().await,
                }
            };
            let wish = tokio::select! {
                biased; // Who ends the wait from outside need not wait for a look.
                wish = self.block.wished() => wish,
                () = turn.sign() => continue,
                () = slept => {
                    if self.left().is_some_and(|left| left.is_zero()) {
                        return None;
                    }
                    return Some(Next::Look);
                }
            };
            if let Some(end) = self.heed(wish) {
                return Some(Next::End(end));
            }
        }
    }

    fn heed(&self, wish: Wish) -> Option<End> {
        match wish {
            Wish::Abandon => {}
            Wish::Leave => (self.client.close)(),
            Wish::Drain => self.answer_unblocked(),
            Wish::Unblock(how, asker) => {
                match how {
                    Unblock::Timeout => self.answer_timed_out(),
                    Unblock::Error => self.answer_unblocked(),
                }
                // Who asked may have gone.
                drop(asker.send(WAS_BLOCKED.to_vec()));
            }
            Wish::Look if matches!(self.spot(&(self.client.view)()), Ok(Place::Replicas)) => return None,
            Wish::Look => return Some(End::Moved),
        }
        Some(End::Over)
    }
}

/// What comes after a pause.
enum Next {
    /// A look, and then a longer pause.
    Look,
    /// A look, for there is a sign.
    LookSoon,
    End(End),
}

/// The id of the first entry of a reply to `XREVRANGE`.
fn first_id(reply: &[u8]) -> Option<&[u8]> {
    let id = reply.strip_prefix(b"*1\r\n*2\r\n$")?;
    let at = id.iter().position(|byte| *byte == b'\n')? + 1;
    let id = id.get(at..)?;
    id.get(..id.iter().position(|byte| *byte == b'\r')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_id_is_found_in_what_the_store_says() {
        assert_eq!(first_id(b"*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n"), Some(b"5-1".as_slice()));
        assert_eq!(first_id(b"*0\r\n"), None);
        assert_eq!(first_id(b"-ERR no\r\n"), None);
    }
}
