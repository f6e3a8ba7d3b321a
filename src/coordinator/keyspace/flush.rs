//! `FLUSHALL` and `FLUSHDB`: everything goes.
//!
//! A node with the only copy of its keys is told so. Where keys have several replicas each is deleted like any other: a
//! store that is away would bring back what was not (`docs/decisions/2026-11-23-all-keys.md`).

use std::rc::Rc;
use std::time::Duration;

use super::cursor::Position;
use super::walk::{FENCE_PAUSE, Wanted};
use super::{End, Job, PAGE_COUNT, Trouble};
use crate::backend::redis::Node;
use crate::command::reply;
use crate::coordinator::gather::{Gather, Miss};
use crate::protocol::resp::write_request;

impl Job {
    pub(super) async fn flush(&self, words: &[Vec<u8>]) -> Result<Vec<u8>, End> {
        let verb = words.first().map(|word| String::from_utf8_lossy(word).to_ascii_uppercase()).unwrap_or_default();
        let mut spent = Duration::ZERO;
        while let Err(trouble) = self.check_stores() {
            // Stores whose fences this worker has not seen yet may vote soon.
            if !(0..self.walk.stops.len()).any(|stop| self.walk.may_vote_soon(stop, spent)) {
                return Err(trouble.into());
            }
            tokio::time::sleep(FENCE_PAUSE).await;
            spent += FENCE_PAUSE;
        }
        self.flush_nodes(&verb, words).await?;
        self.delete_all(&verb).await?;
        let mut out = Vec::new();
        reply::ok(&mut out);
        Ok(out)
    }

    /// Tells all nodes with the only copy of their keys; an error names those that did not say they have done it.
    async fn flush_nodes(&self, verb: &str, words: &[Vec<u8>]) -> Result<(), End> {
        let gather = Gather::new(self.walk.origin);
        let nodes: Vec<&Rc<Node>> =
            self.walk.stops.iter().filter(|stop| stop.group.is_none()).map(|stop| &stop.node).collect();
        for node in &nodes {
            gather.ask(node, 1, &mut |out| write_request(out, words.iter().map(Vec::as_slice)));
        }
        let mut failures = Vec::new();
        for (node, answer) in nodes.iter().zip(gather.all().await) {
            let label = &node.options().label;
            match answer {
                Ok(reply) if reply == b"+OK\r\n" => {}
                Ok(reply) => {
                    let text =
                        String::from_utf8_lossy(reply.strip_prefix(b"-").unwrap_or(&reply)).trim_end().to_owned();
                    failures.push(format!("node {label}: {text}"));
                }
                Err(Miss::Failed(failure)) => failures.push(format!("node {label}: {}", failure.cause)),
                Err(Miss::TooLong) => failures.push(format!("node {label}: an answer too long")),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(incomplete(verb, &failures.join("; "))) }
    }

    /// Whether at most one store of each pool is away: with more some keys could not be deleted, and which would be chance.
    fn check_stores(&self) -> Result<(), Trouble> {
        let stops = || self.walk.stops.iter().enumerate().filter(|(_, stop)| stop.group.is_some());
        let away = || stops().filter(|(at, _)| !self.walk.is_usable(*at));
        for (_, stop) in away() {
            let labels = away().filter(|(_, other)| other.pool == stop.pool);
            let labels: Vec<&str> = labels.map(|(_, other)| other.node.options().label.as_ref()).collect();
            if labels.len() > 1 {
                return Err(Trouble::TooFew(format!("{} are away", labels.join(", "))));
            }
        }
        Ok(())
    }

    /// Deletes every key of the pools with several replicas. All copies are looked at, since the store that should report
    /// a key may lack it; what was deleted by way of another store is gone by then.
    async fn delete_all(&self, verb: &str) -> Result<(), End> {
        let wanted = Wanted { count: PAGE_COUNT, copies: true, ..Wanted::default() };
        let mut position = Position::default();
        let (mut failed, mut first) = (0, None);
        while let Some(stop) = self.walk.stops.get(position.stop) {
            if stop.group.is_none() {
                self.walk.advance(&mut position);
                continue;
            }
            self.may_go_on(verb)?;
            let page = match self.walk.step(&mut position, &wanted).await {
                Ok(page) => page,
                Err(trouble) => return Err(incomplete(verb, &trouble.to_string())),
            };
            let Some(group) = self.walk.stops.iter().find(|it| it.pool == page.pool).and_then(|it| it.group.clone())
            else {
                continue;
            };
            let level = self.walk.level_of(page.pool);
            for reply in self.walk.each(&group, page.pool, b"UNLINK", &page.keys, level).await {
                if reply.first() == Some(&b'-') {
                    failed += 1;
                    first.get_or_insert(reply);
                }
            }
        }
        let Some(first) = first else { return Ok(()) };
        let first = String::from_utf8_lossy(&first).trim_start_matches('-').trim_end().to_owned();
        Err(incomplete(verb, &format!("{failed} keys could not be deleted, the first of them: {first}")))
    }
}

fn incomplete(verb: &str, why: &str) -> End {
    let mut out = Vec::new();
    reply::incomplete(&mut out, verb, why);
    End::Reply(out)
}
