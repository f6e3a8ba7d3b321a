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
    /// Asks the store something that has a short answer, whatever it does and whether or not it is believed to answer.
    ///
    /// # Errors
    /// It does not answer in the time that a connection may take to open.
    pub async fn ask_aside(self: &Rc<Self>, request: &[u8], version: Version) -> Result<Vec<u8>, Cause> {
        let timeout = self.options.connect_timeout;
        match tokio::time::timeout(timeout, self.ask_alone(request, version)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(why)) => Err(Cause::Connect(why)),
            Err(_) => Err(Cause::ServiceTimeout(timeout)),
        }
    }

    async fn ask_alone(&self, request: &[u8], version: Version) -> Result<Vec<u8>, Arc<str>> {
        let mut last_good = self.last_good.take();
        let connected = connect(&self.options.address, self.options.tls.as_ref(), &mut last_good).await;
        if !last_good.is_empty() {
            self.last_good.set(last_good);
        }
        let why = |refusal| match refusal {
            Refusal::Down(why) | Refusal::HungUp(why) | Refusal::Unsupported(why) => why,
        };
        let mut stream = connected.map_err(why)?;
        let mut out = Vec::new();
        let signs_in = write_sign_in(self.options.credentials.as_ref(), version, &mut out).is_some();
        out.extend_from_slice(request);
        stream.write_all(&out).await.map_err(|error| Arc::from(error.to_string()))?;
        let replies = read_replies(&mut stream, 1 + usize::from(signs_in)).await;
        let mut replies = replies.map_err(why)?;
        replies.pop().ok_or_else(|| Arc::from("no answer"))
    }
}
