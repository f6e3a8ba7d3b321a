//! Protocols without a promise: each write has a stamp, and the newest wins.

use std::cell::Cell;

use super::{ALL, Op, Outcome, Port, Protocol, QUORUM, Replica, Settings, Value, appended};

/// A time and who read it from the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub(crate) struct Stamp(u64, u64);

/// A value with the stamp of its last write.
#[derive(Debug, Default)]
pub(crate) struct Stamped {
    stamp: Stamp,
    value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Read,
    /// Keep this if it is newer.
    Write(Stamp, Value),
    /// Run an update here, under this stamp.
    Run(Stamp, u16),
    /// Run an update if the stamp is `base`; else keep `value` if it is newer.
    Apply {
        base: Stamp,
        stamp: Stamp,
        token: u16,
        value: Value,
    },
}

#[derive(Debug)]
pub(crate) enum Reply {
    Value(Stamp, Value),
    /// What was there before an update, and the value after it.
    Ran(Stamp, Value),
    Kept,
    Newer,
}

impl Replica for Stamped {
    type Request = Request;
    type Reply = Reply;

    fn execute(&mut self, request: &Request) -> Reply {
        match request {
            Request::Read => Reply::Value(self.stamp, self.value.clone()),
            Request::Run(stamp, token) => {
                let base = self.stamp;
                self.value = appended(&self.value, *token);
                self.stamp = *stamp;
                Reply::Ran(base, self.value.clone())
            }
            Request::Apply { base, stamp, token, .. } if *base == self.stamp => {
                self.value = appended(&self.value, *token);
                self.stamp = *stamp;
                Reply::Kept
            }
            Request::Write(stamp, value) | Request::Apply { stamp, value, .. } => self.keep(*stamp, value),
        }
    }
}

impl Stamped {
    fn keep(&mut self, stamp: Stamp, value: &Value) -> Reply {
        if stamp <= self.stamp {
            return Reply::Newer;
        }
        self.stamp = stamp;
        self.value.clone_from(value);
        Reply::Kept
    }
}

/// What differs between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Run on a first replica, apply on the others where the stamp matches, else copy.
    RunAndCopy,
    /// Blind writes by clock; "already newer" counts as an acknowledgement.
    NewerCounts,
    /// Blind writes by clock; a rejected one is tried again with a newer stamp.
    Retry,
    /// Blind writes by clock; a rejected one is an error.
    NoRetry,
    /// The stamp is read from a quorum first (multi-writer ABD).
    Abd,
    /// The same, and reads do not wait until what they saw is on a quorum.
    AbdLate,
}

/// The variants by number: settings are one type for all protocols.
const VARIANTS: [Variant; 6] =
    [Variant::RunAndCopy, Variant::NewerCounts, Variant::Retry, Variant::NoRetry, Variant::Abd, Variant::AbdLate];

impl Variant {
    pub(crate) const fn number(self) -> u32 {
        self as u32
    }
}

pub(crate) struct ByStamp {
    writer: u64,
    variant: Variant,
    last: Cell<u64>,
    /// Where updates run first, until it does not answer.
    first: Cell<usize>,
}

impl Protocol for ByStamp {
    type Replica = Stamped;

    fn new(writer: u64, settings: &Settings) -> Self {
        Self { writer, variant: VARIANTS[settings.variant as usize], last: Cell::new(0), first: Cell::new(0) }
    }

    async fn run(&self, port: &Port<Stamped>, op: Op) -> Outcome {
        match op {
            Op::Read => self.read(port).await,
            Op::Append(token) => self.update(port, token).await,
            Op::Write(token) => match self.variant {
                Variant::Abd | Variant::AbdLate => self.write_after_reading(port, token).await,
                _ => self.write(port, token).await,
            },
        }
    }
}

fn kept(replies: &[Option<Reply>]) -> usize {
    replies.iter().flatten().filter(|reply| matches!(reply, Reply::Kept)).count()
}

impl ByStamp {
    fn stamp(&self, port: &Port<Stamped>) -> Stamp {
        let time = port.proxy.clock_us().max(self.last.get() + 1);
        self.last.set(time);
        Stamp(time, self.writer)
    }

    fn seen(&self, stamp: Stamp) {
        // Clocks of ABD are counters: they begin where the largest seen ends.
        if matches!(self.variant, Variant::Abd | Variant::AbdLate) {
            self.last.set(self.last.get().max(stamp.0));
        }
    }

    /// The newest of a quorum, and whether all of the quorum have it.
    async fn newest(&self, port: &Port<Stamped>) -> Option<(Stamp, Value, bool)> {
        let replies = port.ask_all(Request::Read, QUORUM).await;
        let found: Vec<(Stamp, Value)> = replies
            .into_iter()
            .flatten()
            .filter_map(|reply| if let Reply::Value(stamp, value) = reply { Some((stamp, value)) } else { None })
            .collect();
        if found.len() < QUORUM {
            return None;
        }
        let agreed = found.iter().all(|one| one.0 == found[0].0);
        let (stamp, value) = found.into_iter().max_by_key(|one| one.0)?;
        Some((stamp, value, agreed))
    }

    async fn read(&self, port: &Port<Stamped>) -> Outcome {
        let Some((stamp, value, agreed)) = self.newest(port).await else { return Outcome::Failed };
        self.seen(stamp);
        let write_back = Request::Write(stamp, value.clone());
        if self.variant == Variant::AbdLate && !agreed {
            let port = port.clone();
            port.clone().proxy.spawn(async move {
                port.ask_all(write_back, QUORUM).await;
            });
        } else if !agreed {
            let replies = port.ask_all(write_back, QUORUM).await;
            if replies.iter().flatten().count() < QUORUM {
                return Outcome::Failed;
            }
        }
        Outcome::Answer(value)
    }

    async fn write(&self, port: &Port<Stamped>, token: u16) -> Outcome {
        for round in 0..4 {
            let request = Request::Write(self.stamp(port), vec![token]);
            let counts = |replies: &[Option<Reply>]| match self.variant {
                Variant::NewerCounts => replies.iter().flatten().count(),
                _ => kept(replies),
            };
            let replies = port.ask(&ALL, |_| request.clone(), |replies| counts(replies) >= QUORUM).await;
            if counts(&replies) >= QUORUM {
                return Outcome::Answer(Value::new());
            }
            let refused = replies.iter().flatten().filter(|reply| matches!(reply, Reply::Newer)).count();
            if self.variant == Variant::NoRetry {
                return if refused == ALL.len() { Outcome::Failed } else { Outcome::Unknown };
            }
            port.pause(round).await;
        }
        Outcome::Unknown
    }

    async fn write_after_reading(&self, port: &Port<Stamped>, token: u16) -> Outcome {
        let Some((stamp, _, _)) = self.newest(port).await else { return Outcome::Failed };
        self.last.set(self.last.get().max(stamp.0) + 1);
        let request = Request::Write(Stamp(self.last.get(), self.writer), vec![token]);
        let replies = port.ask_all(request, QUORUM).await;
        if replies.iter().flatten().count() >= QUORUM { Outcome::Answer(Value::new()) } else { Outcome::Unknown }
    }

    async fn update(&self, port: &Port<Stamped>, token: u16) -> Outcome {
        let (first, stamp) = (self.first.get(), self.stamp(port));
        let ran = port.ask(&[first], |_| Request::Run(stamp, token), |_| false).await.pop().flatten();
        let Some(Reply::Ran(base, value)) = ran else {
            self.first.set((first + 1) % ALL.len());
            return Outcome::Unknown;
        };
        let others: Vec<usize> = ALL.into_iter().filter(|store| *store != first).collect();
        let request = Request::Apply { base, stamp, token, value: value.clone() };
        let replies = port.ask(&others, |_| request.clone(), |replies| kept(replies) >= QUORUM - 1).await;
        if kept(&replies) >= QUORUM - 1 { Outcome::Answer(value) } else { Outcome::Unknown }
    }
}
