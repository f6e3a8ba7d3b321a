//! Counting what replicas answered.

/// The replies of the replicas to one request, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    required: u8,
    replicas: u8,
    acked: u8,
    failed: u8,
}

/// What the replies so far allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It depends on those that have not answered.
    Pending,
    /// Enough replicas acked.
    Met,
    /// Too many failed: those that have not answered cannot make up for it.
    Lost,
}

impl Tally {
    /// Nobody has answered. `required` of `replicas` must ack.
    pub fn new(required: u8, replicas: u8) -> Self {
        Self { required, replicas, acked: 0, failed: 0 }
    }

    /// One more replica did it.
    pub fn ack(&mut self) {
        debug_assert!(self.answered() < self.replicas, "a replica answers once");
        self.acked = self.acked.saturating_add(1);
    }

    /// One more replica did not do it, or will not say.
    pub fn fail(&mut self) {
        debug_assert!(self.answered() < self.replicas, "a replica answers once");
        self.failed = self.failed.saturating_add(1);
    }

    /// How many acked.
    pub fn acked(self) -> u8 {
        self.acked
    }

    /// How many failed.
    pub fn failed(self) -> u8 {
        self.failed
    }

    /// How many have not answered.
    pub fn outstanding(self) -> u8 {
        self.replicas.saturating_sub(self.answered())
    }

    /// What the replies so far allow. `Lost` comes as soon as the missing ones cannot save it.
    pub fn outcome(self) -> Outcome {
        if self.required <= self.acked {
            return Outcome::Met;
        }
        if self.replicas.saturating_sub(self.failed) < self.required {
            return Outcome::Lost;
        }
        Outcome::Pending
    }

    fn answered(self) -> u8 {
        self.acked.saturating_add(self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One word a replica: `ack`, `fail`, or `-` for one that has not answered.
    #[track_caller]
    fn check(required: u8, replies: &str, want: Outcome) {
        let replies: Vec<&str> = replies.split_whitespace().collect();
        let mut tally = Tally::new(required, u8::try_from(replies.len()).unwrap());
        for reply in &replies {
            match *reply {
                "ack" => tally.ack(),
                "fail" => tally.fail(),
                _ => {}
            }
        }
        assert_eq!(tally.outcome(), want, "{required} of {replies:?}");
        assert_eq!(usize::from(tally.outstanding()), replies.iter().filter(|reply| **reply == "-").count());
    }

    #[test]
    fn outcomes() {
        check(1, "-", Outcome::Pending);
        check(1, "ack", Outcome::Met);
        check(1, "fail", Outcome::Lost);

        check(2, "-    -    -", Outcome::Pending);
        check(2, "ack  -    -", Outcome::Pending);
        check(2, "fail -    -", Outcome::Pending);
        check(2, "ack  fail -", Outcome::Pending);
        check(2, "ack  ack  -", Outcome::Met);
        check(2, "ack  fail ack", Outcome::Met);
        check(2, "fail fail -", Outcome::Lost);
        check(2, "ack  fail fail", Outcome::Lost);

        check(1, "fail fail -", Outcome::Pending);
        check(1, "ack  fail fail", Outcome::Met);
        check(1, "fail fail fail", Outcome::Lost);

        check(3, "ack  ack  -", Outcome::Pending);
        check(3, "fail -    -", Outcome::Lost);

        check(3, "ack  ack  fail fail -", Outcome::Pending);
        check(3, "ack  fail fail fail -", Outcome::Lost);
    }

    /// For every number of replies: it is pending exactly while the rest could still make it either.
    #[test]
    fn pending_means_that_both_are_possible() {
        for replicas in 1..=7_u8 {
            for (required, acked) in
                (1..=replicas).flat_map(|required| (0..=replicas).map(move |acked| (required, acked)))
            {
                for failed in 0..=replicas - acked {
                    let tally = Tally { required, replicas, acked, failed };
                    let best = acked + tally.outstanding();
                    let want = match (required <= acked, required <= best) {
                        (true, _) => Outcome::Met,
                        (false, false) => Outcome::Lost,
                        (false, true) => Outcome::Pending,
                    };
                    assert_eq!(tally.outcome(), want, "{tally:?}");
                    assert!(tally.outstanding() > 0 || tally.outcome() != Outcome::Pending, "{tally:?}");
                }
            }
        }
    }
}
