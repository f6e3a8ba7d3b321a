//! A script's text on its way to a store, right before the request that needs it.

use std::rc::Rc;

use super::{Digest, write_load};
use crate::backend::redis::Node;
use crate::backend::{Flow, Piece, ReplySink, Tag};
use crate::protocol::resp::Version;

/// Hears whether the store has taken it.
struct Ahead {
    node: Rc<Node>,
    number: u64,
    origin: usize,
}

/// Has a store load a script before it hears what is sent next in the name of the same client.
pub(super) fn load(node: &Rc<Node>, digest: Digest, text: &[u8], version: Version, origin: usize) {
    let number = digest.number();
    let sink: Rc<dyn ReplySink> = Rc::new(Ahead { node: Rc::clone(node), number, origin });
    let mut write = |out: &mut Vec<u8>| write_load(out, text);
    let tag = Tag { slot: 0, part: 0 };
    // If it cannot be sent, neither can what comes behind it.
    if node.send_with(text.len() + 64, &mut write, version, &sink, tag).is_ok() {
        node.note_program(number);
    }
}

impl ReplySink for Ahead {
    fn reply(self: Rc<Self>, _tag: Tag, piece: Piece<'_>) -> Flow {
        let refused = match piece {
            Piece::Whole(reply) => reply.first() == Some(&b'-'),
            Piece::Failed(_) => true,
            Piece::Begin(_) | Piece::More(_) | Piece::End(_) => false,
        };
        if refused {
            self.node.forget_program(self.number);
        }
        Flow::Continue
    }

    fn origin(&self) -> usize {
        self.origin
    }
}
