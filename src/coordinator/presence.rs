//! Whether the stores answer: `PING` where the listener says that it speaks for them, and what must not wait behind a script.
//!
//! A store that runs a long script reads nothing of the connection that brought the script, so that what follows there waits
//! with it; on another connection it says `-BUSY`. A store is therefore asked on the connection that there is, which costs
//! next to nothing, and asked aside if that takes long.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Coordinator;
use super::gather::{Answer, Gather, Miss, ask};
use super::keyspace::names::pools_of;
use crate::backend::redis::Node;
use crate::backend::{Context, Failure};
use crate::config::Listener;
use crate::protocol::resp::Version;
use crate::topology::View;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// How long a store may take before it is asked aside.
const SOON: Duration = Duration::from_millis(50);
/// How many stores a worker asks aside at a time: each question is a connection. Beyond that the first one's answer is
/// waited for.
pub(super) const ASIDE_MAX: usize = 16;

impl Coordinator {
    /// Whether the stores that the clients of a listener can reach answer; an error if so many do not that some keys cannot
    /// be served. What a store that answers says is passed on: it may be busy.
    ///
    /// # Errors
    /// The reply to the client.
    pub async fn presence(self: &Rc<Self>, view: &Rc<View>, listener: &Listener, origin: usize) -> Result<(), Vec<u8>> {
        let nodes = Self::nodes_of(view, listener);
        let spare = spare_nodes(view, listener);
        let gather = Gather::new(origin);
        for node in &nodes {
            let (node, coordinator) = (Rc::clone(node), Rc::clone(self));
            let (gather, tag) = (Rc::clone(&gather), gather.expect());
            self.context.spawn(async move {
                match coordinator.ping(&node, origin).await {
                    Ok(reply) => gather.answer(tag, &reply),
                    Err(Miss::Failed(failure)) => gather.fail(tag, failure),
                    Err(Miss::TooLong) => gather.answer(tag, b"-ERR an answer too long\r\n"),
                }
            });
        }
        let mut troubles: Vec<Vec<u8>> = gather.all().await.into_iter().filter_map(trouble).collect();
        if troubles.len() <= spare {
            return Ok(());
        }
        // That a store is busy says more than that another one is away.
        troubles.sort_by_key(|reply| !reply.starts_with(b"-BUSY"));
        Err(troubles.into_iter().next().unwrap_or_default())
    }

    async fn ping(&self, node: &Rc<Node>, origin: usize) -> Answer {
        let mut write = |out: &mut Vec<u8>| out.extend_from_slice(PING);
        let first = ask(node, origin, 1, &mut write);
        tokio::pin!(first);
        if let Ok(answer) = tokio::time::timeout(SOON, &mut first).await {
            return answer;
        }
        let Ok(_permit) = self.aside.try_acquire() else { return first.await };
        let aside = ask_aside(node, PING, Version::Resp2);
        tokio::select! {
            biased; // The first question's answer is the cheaper one.
            answer = &mut first => answer,
            answer = aside => answer,
        }
    }
}

/// How many stores may be away while every key has its quorum all the same.
fn spare_nodes(view: &View, listener: &Listener) -> usize {
    let pools = &view.topology.config.pools;
    let spare = |pool: usize| pools.get(pool).map_or(0, |pool| pool.replicas.saturating_sub(1) / 2);
    pools_of(listener).into_iter().map(spare).min().map_or(0, |spare| spare as usize)
}

fn trouble(answer: Answer) -> Option<Vec<u8>> {
    match answer {
        Ok(reply) if reply.starts_with(b"-") => Some(reply),
        Ok(_) => None,
        Err(Miss::Failed(failure)) => {
            let mut out = Vec::new();
            let _: crate::metrics::Outcome = super::write_failure(&failure, &mut out);
            Some(out)
        }
        Err(Miss::TooLong) => Some(b"-ERR an answer too long\r\n".to_vec()),
    }
}

/// Asks a store past all that waits for it.
async fn ask_aside(node: &Rc<Node>, frame: &[u8], version: Version) -> Answer {
    let failure = |cause| Miss::Failed(Failure { node: Arc::clone(&node.options().label), cause });
    node.ask_aside(frame, version).await.map_err(failure)
}

/// Asks all these stores so, in their order.
pub(super) async fn ask_all_aside(
    context: &Rc<Context>,
    nodes: &[Rc<Node>],
    frame: &[u8],
    version: Version,
    origin: usize,
) -> Vec<Answer> {
    let gather = Gather::new(origin);
    let frame: Rc<[u8]> = frame.into();
    for node in nodes {
        let (node, frame) = (Rc::clone(node), Rc::clone(&frame));
        let (gather, tag) = (Rc::clone(&gather), gather.expect());
        context.spawn(async move {
            match ask_aside(&node, &frame, version).await {
                Ok(reply) => gather.answer(tag, &reply),
                Err(Miss::Failed(failure)) => gather.fail(tag, failure),
                Err(Miss::TooLong) => {}
            }
        });
    }
    gather.all().await
}
