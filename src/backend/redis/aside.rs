//! One question on a connection of its own, past all that waits for the store.
//!
//! A store that runs a long script answers nothing else, does not read the connection that brought it, and so may have
//! tripped its breaker. What ends the script has to come another way.

use std::rc::Rc;
use std::sync::Arc;

use super::handshake::{connect, read_replies, write_sign_in};
use super::{Node, handshake::Refusal};
use crate::backend::Cause;
use crate::protocol::resp::Version;

impl Node {
    /// Asks the store something that has a short answer, whatever it does and whether or not it is believed to answer. A store
    /// that runs a script reads nothing at all before that has taken `busy-reply-threshold`, so the answer has as long as any.
    ///
    /// # Errors
    /// It cannot be connected to, or does not answer in time.
    pub async fn ask_aside(self: &Rc<Self>, request: &[u8], version: Version) -> Result<Vec<u8>, Cause> {
        let mut last_good = self.last_good.take();
        let connecting = connect(&self.options.address, self.options.tls.as_ref(), &mut last_good);
        let connected = tokio::time::timeout(self.options.connect_timeout, connecting).await;
        if !last_good.is_empty() {
            self.last_good.set(last_good);
        }
        let why = |refusal| match refusal {
            Refusal::Down(why) | Refusal::HungUp(why) | Refusal::Unsupported(why) => Cause::Connect(why),
        };
        let mut stream = connected.map_err(|_| Cause::ServiceTimeout(self.options.connect_timeout))?.map_err(why)?;
        let timeout = self.options.service_timeout;
        let exchange = async {
            let mut out = Vec::new();
            let signs_in = write_sign_in(self.options.credentials.as_ref(), version, &mut out).is_some();
            out.extend_from_slice(request);
            stream.write_all(&out).await.map_err(|error| Cause::Connect(Arc::from(error.to_string())))?;
            let mut replies = read_replies(&mut stream, 1 + usize::from(signs_in)).await.map_err(why)?;
            replies.pop().ok_or_else(|| Cause::Connect(Arc::from("no answer")))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Cause::ServiceTimeout(timeout)))
    }
}
