//! Replies on their way to the client: one slot for each request that is due, in order; a buffer of what may be sent.
//! What the client is told unasked goes between two replies, never into one.
//!
//! # Invariants
//! - A slot is answered once. Bytes enter the buffer in the order of the slots, whatever order the replies come in.
//! - What is told unasked enters the buffer in the order in which it came.
//! - What a slot holds because it is not first yet is counted, like the buffer, against the client's bound.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use super::slowlog::Notes;
use crate::backend::{Context, Stream};
use crate::clock::Moment;
use crate::coordinator::pubsub::{Message, Push};
use crate::metrics::Verb;

/// Bytes that a slot holds without memory of its own: a short value, a number, an OK.
const INLINE_BYTES: usize = 46;

/// The reply to one request.
#[derive(Debug)]
enum Reply {
    /// Nothing of it has come.
    Due,
    /// Some of it has come and was sent on; more follows.
    Begun,
    /// Some of it has come, before its turn.
    Held(Vec<u8>),
    /// It is here, before its turn.
    Whole(Vec<u8>),
    /// The same, short.
    Short { len: u8, bytes: [u8; INLINE_BYTES] },
}

/// One request that is due.
#[derive(Debug)]
pub(super) struct Slot {
    reply: Reply,
    /// The client asked for no reply (`CLIENT REPLY OFF`).
    silent: bool,
    /// What the metrics call it.
    pub(super) verb: Verb,
    /// When it was read.
    pub(super) at: Moment,
}

/// How a piece of a reply ends or does not end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// More pieces follow.
    No,
    /// The reply is complete.
    Yes,
}

/// Bytes that leave before those in the buffer.
#[derive(Debug)]
enum Chunk {
    Own(Vec<u8>),
    /// Held once for all clients: without its first byte, which is another in each protocol version.
    Shared(Rc<Message>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(message) => message.frame().get(1..).unwrap_or_default(),
        }
    }
}

/// What only clients have that are told something unasked.
#[derive(Debug, Default)]
struct Aside {
    /// Leaves before what is in the buffer.
    front: VecDeque<Chunk>,
    /// How much of the first of them was written, and how much of all was not.
    written: usize,
    pending_bytes: usize,
    /// Waits for the end of the reply of which a part has left.
    waiting: VecDeque<(u8, Chunk)>,
    waiting_bytes: usize,
}

/// Slots and buffer of one client.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) slots: VecDeque<Slot>,
    /// The number of the first slot.
    first: u32,
    pub(super) bytes: Vec<u8>,
    /// How much of `bytes` was written.
    pub(super) written: usize,
    /// Bytes held in slots.
    held_bytes: usize,
    aside: Option<Box<Aside>>,
    /// What the requests that are due are, for the log of those that take long.
    pub(super) notes: Notes,
}

impl Output {
    /// A slot for a request; its number.
    #[inline]
    pub(super) fn open(&mut self, verb: Verb, at: Moment, silent: bool) -> u32 {
        // Far fewer than 2^32 requests of one client are due at a time.
        #[expect(clippy::cast_possible_truncation, reason = "a number that may wrap")]
        let number = self.first.wrapping_add(self.slots.len() as u32);
        self.slots.push_back(Slot { reply: Reply::Due, silent, verb, at });
        number
    }

    /// The number that the next slot gets.
    #[expect(clippy::cast_possible_truncation, reason = "a number that may wrap")]
    pub(super) fn next(&self) -> u32 {
        self.first.wrapping_add(self.slots.len() as u32)
    }

    /// Whether the reply to the slot has not left in full.
    pub(super) fn is_due(&self, number: u32) -> bool {
        (number.wrapping_sub(self.first) as usize) < self.slots.len()
    }

    /// Whether no slot was opened after this one.
    pub(super) fn is_newest(&self, number: u32) -> bool {
        number.wrapping_sub(self.first) as usize + 1 == self.slots.len()
    }

    /// Whether nothing is due and nothing waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.pending_bytes() == 0
    }

    /// Bytes that wait to be written.
    #[inline]
    pub(super) fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.written + self.aside.as_ref().map_or(0, |aside| aside.pending_bytes)
    }

    /// Bytes in the buffer, in slots and aside.
    pub(super) fn bytes_held(&self) -> usize {
        self.pending_bytes() + self.held_bytes + self.aside.as_ref().map_or(0, |aside| aside.waiting_bytes)
    }

    /// The part of [`Output::bytes_held`] that is held for other clients as well, and charged elsewhere.
    pub(super) fn shared_bytes(&self) -> usize {
        let Some(aside) = &self.aside else { return 0 };
        let shared = |chunk: &Chunk| if let Chunk::Shared(_) = chunk { chunk.bytes().len() } else { 0 };
        let written = aside.front.front().map_or(0, |first| shared(first).min(aside.written));
        let chunks = aside.front.iter().chain(aside.waiting.iter().map(|(_, chunk)| chunk));
        chunks.map(shared).sum::<usize>() - written
    }

    /// The number of the first slot that is due.
    #[inline]
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// The slot, if it is still due.
    #[inline]
    pub(super) fn slot(&mut self, number: u32) -> Option<(usize, &mut Slot)> {
        let index = number.wrapping_sub(self.first) as usize;
        self.slots.get_mut(index).map(|slot| (index, slot))
    }

    /// Whether a reply to this slot can be sent now, in full or in part.
    #[inline]
    pub(super) fn is_next(&self, number: u32) -> bool {
        number == self.first && !self.slots.is_empty()
    }

    /// Whether bytes of a reply to this slot may go to the socket past the buffer.
    #[inline]
    pub(super) fn may_write_through(&self, number: u32) -> bool {
        self.is_next(number) && self.pending_bytes() == 0 && self.slots.front().is_some_and(|slot| !slot.silent)
    }

    /// Whether part of the reply to the slot has already been sent.
    pub(super) fn has_begun(&self, number: u32) -> bool {
        let index = number.wrapping_sub(self.first) as usize;
        matches!(self.slots.get(index), Some(Slot { reply: Reply::Begun, silent: false, .. }))
    }

    /// Forgets pieces of a reply that were held: another reply takes its place.
    pub(super) fn restart(&mut self, number: u32) {
        let Some((_, slot)) = self.slot(number) else { return };
        if let Reply::Held(held) = &slot.reply {
            let freed = held.len();
            slot.reply = Reply::Due;
            self.held_bytes -= freed;
        }
    }

    /// Takes (a piece of) the reply to the slot. `sent` of its bytes have already gone to the client directly.
    #[inline]
    pub(super) fn put(&mut self, context: &Context, number: u32, bytes: &[u8], last: Last, sent: usize) {
        let Some((index, slot)) = self.slot(number) else { return };
        if index == 0 {
            if !slot.silent {
                self.bytes.extend_from_slice(bytes.get(sent..).unwrap_or_default());
            }
            match last {
                Last::No => slot_begun(self.slots.front_mut()),
                Last::Yes => {
                    self.close_first();
                    self.advance(context);
                }
            }
            return;
        }
        let silent = slot.silent;
        if silent && last == Last::No {
            return;
        }
        let bytes = if silent { &[] } else { bytes };
        self.hold(context, index, bytes, last);
    }

    /// Keeps a reply that is not the first in the order.
    fn hold(&mut self, context: &Context, index: usize, bytes: &[u8], last: Last) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        self.held_bytes += bytes.len();
        let held = match std::mem::replace(&mut slot.reply, Reply::Due) {
            Reply::Held(mut held) => {
                held.extend_from_slice(bytes);
                held
            }
            _ if last == Last::Yes && bytes.len() <= INLINE_BYTES => {
                let mut short = [0; INLINE_BYTES];
                for (to, from) in short.iter_mut().zip(bytes) {
                    *to = *from;
                }
                slot.reply = Reply::Short { len: u8::try_from(bytes.len()).unwrap_or(0), bytes: short };
                return;
            }
            _ => {
                let mut held = context.take_buffer();
                held.extend_from_slice(bytes);
                held
            }
        };
        slot.reply = match last {
            Last::Yes => Reply::Whole(held),
            Last::No => Reply::Held(held),
        };
    }

    /// Takes what the client is told unasked: a frame of RESP3, to be sent with `first` as its first byte.
    pub(super) fn tell(&mut self, first: u8, push: Push<'_>) {
        let begun = matches!(self.slots.front(), Some(Slot { reply: Reply::Begun, .. }));
        match push {
            Push::Short(frame) if begun => {
                let rest = frame.get(1..).unwrap_or_default().to_vec();
                self.tell_later(first, Chunk::Own(rest));
            }
            Push::Long(message) if begun => self.tell_later(first, Chunk::Shared(Rc::clone(message))),
            Push::Short(frame) => {
                self.bytes.push(first);
                self.bytes.extend_from_slice(frame.get(1..).unwrap_or_default());
            }
            Push::Long(message) => self.append(first, Chunk::Shared(Rc::clone(message))),
            Push::TooLong(_) => {}
        }
    }

    fn tell_later(&mut self, first: u8, chunk: Chunk) {
        let aside = self.aside.get_or_insert_default();
        aside.waiting_bytes += 1 + chunk.bytes().len();
        aside.waiting.push_back((first, chunk));
    }

    /// Puts a chunk behind what is in the buffer.
    fn append(&mut self, first: u8, chunk: Chunk) {
        self.bytes.push(first);
        let message = match chunk {
            Chunk::Own(bytes) => return self.bytes.extend_from_slice(&bytes),
            Chunk::Shared(message) => message,
        };
        let aside = self.aside.get_or_insert_default();
        // A copy as long as it is: the buffer itself may be far longer, and there may be many chunks.
        let before = self.bytes.get(self.written..).unwrap_or_default().to_vec();
        self.bytes.clear();
        self.written = 0;
        for chunk in [Chunk::Own(before), Chunk::Shared(message)] {
            aside.pending_bytes += chunk.bytes().len();
            aside.front.push_back(chunk);
        }
    }

    /// Writes what leaves before the buffer: how many bytes were written, and whether the buffer is next.
    pub(super) fn write_front(&mut self, stream: &mut Stream, task: &mut TaskContext<'_>) -> io::Result<(usize, bool)> {
        let mut wrote = 0;
        let Some(aside) = self.aside.as_mut() else { return Ok((0, true)) };
        while let Some(chunk) = aside.front.front() {
            let rest = chunk.bytes().get(aside.written..).unwrap_or_default();
            if rest.is_empty() {
                aside.written = 0;
                drop(aside.front.pop_front());
                continue;
            }
            match stream.try_write(rest) {
                Ok(count) => {
                    wrote += count;
                    aside.written += count;
                    aside.pending_bytes -= count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match stream.poll_write_ready(task) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => return Ok((wrote, false)),
                },
                Err(error) => return Err(error),
            }
        }
        if aside.waiting.is_empty() {
            self.aside = None;
        }
        Ok((wrote, true))
    }

    #[inline]
    fn close_first(&mut self) {
        self.slots.pop_front();
        self.first = self.first.wrapping_add(1);
        if self.aside.is_some() {
            self.tell_what_waited();
        }
    }

    #[cold]
    fn tell_what_waited(&mut self) {
        let Some(aside) = self.aside.as_mut() else { return };
        aside.waiting_bytes = 0;
        for (first, chunk) in std::mem::take(&mut aside.waiting) {
            self.append(first, chunk);
        }
    }

    /// Moves what has become first into the buffer.
    #[inline]
    fn advance(&mut self, context: &Context) {
        while let Some(slot) = self.slots.front_mut() {
            match &mut slot.reply {
                Reply::Due | Reply::Begun => return,
                Reply::Short { len, bytes } => {
                    self.held_bytes -= usize::from(*len);
                    self.bytes.extend_from_slice(bytes.get(..usize::from(*len)).unwrap_or_default());
                }
                Reply::Whole(held) => {
                    self.held_bytes -= held.len();
                    self.bytes.extend_from_slice(held);
                    context.return_buffer(std::mem::take(held));
                }
                Reply::Held(held) => {
                    self.held_bytes -= held.len();
                    self.bytes.extend_from_slice(held);
                    context.return_buffer(std::mem::take(held));
                    slot.reply = Reply::Begun;
                    return;
                }
            }
            self.close_first();
        }
    }
}

fn slot_begun(slot: Option<&mut Slot>) {
    if let Some(slot) = slot {
        slot.reply = Reply::Begun;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Limits;

    fn context() -> Context {
        Context::new(Limits { connects_per_second_max: 1, buffer_bytes_max: 1 })
    }

    fn output(slots: u32) -> Output {
        let mut output = Output::default();
        for number in 0..slots {
            assert_eq!(output.open(Verb::NONE, Moment::default(), false), number);
        }
        output
    }

    #[test]
    fn replies_leave_in_the_order_of_the_requests() {
        let mut output = output(3);
        let long = [b'x'; 100];
        output.put(&context(), 2, b"+three\r\n", Last::Yes, 0);
        output.put(&context(), 1, &long, Last::Yes, 0);
        assert_eq!(output.bytes, b"");
        assert_eq!(output.bytes_held(), 108);
        output.put(&context(), 0, b"+one\r\n", Last::Yes, 0);
        assert_eq!(output.bytes, [b"+one\r\n".as_slice(), &long, b"+three\r\n"].concat());
        assert!(output.slots.is_empty());
        assert_eq!(output.held_bytes, 0);
    }

    #[test]
    fn a_reply_in_pieces_waits_for_its_turn_and_then_flows() {
        let mut output = output(2);
        output.put(&context(), 1, b"$4\r\na", Last::No, 0);
        output.put(&context(), 1, b"b", Last::No, 0);
        output.put(&context(), 0, b"+one\r\n", Last::Yes, 0);
        assert_eq!(output.bytes, b"+one\r\n$4\r\nab");
        assert!(output.has_begun(1));
        output.put(&context(), 1, b"cd\r\n", Last::Yes, 0);
        assert_eq!(output.bytes, b"+one\r\n$4\r\nabcd\r\n");
        assert!(output.slots.is_empty());
    }

    #[test]
    fn a_silent_request_leaves_nothing() {
        let mut output = Output::default();
        let first = output.open(Verb::NONE, Moment::default(), true);
        let second = output.open(Verb::NONE, Moment::default(), true);
        let third = output.open(Verb::NONE, Moment::default(), false);
        output.put(&context(), third, b"+3\r\n", Last::Yes, 0);
        output.put(&context(), second, b"+2\r\n", Last::Yes, 0);
        output.put(&context(), first, b"+1\r\n", Last::Yes, 0);
        assert_eq!(output.bytes, b"+3\r\n");
    }

    /// All that would be written now.
    fn written(output: &Output) -> String {
        let front = output.aside.iter().flat_map(|aside| &aside.front).flat_map(|chunk| chunk.bytes().to_vec());
        let bytes = front.chain(output.bytes.iter().copied()).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_told_unasked_goes_between_replies() {
        let context = std::rc::Rc::new(context());
        let mut output = output(3);
        output.tell(b'*', Push::Short(b">a"));
        output.put(&context, 0, b"$4\r\nx", Last::No, 0);
        output.tell(b'>', Push::Short(b">b"));
        let long = Message::new(b">long".to_vec(), &context);
        output.tell(b'*', Push::Long(&long));
        output.put(&context, 1, b"+two", Last::Yes, 0);
        assert_eq!(written(&output), "*a$4\r\nx");
        assert_eq!(output.bytes_held(), 7 + 4 + 2 + 5);
        output.put(&context, 0, b"yz", Last::Yes, 0);
        assert_eq!(written(&output), "*a$4\r\nxyz>b*long+two");
        output.tell(b'>', Push::Short(b">c"));
        assert_eq!(written(&output), "*a$4\r\nxyz>b*long+two>c");
        assert_eq!((output.bytes_held(), output.pending_bytes(), output.shared_bytes()), (22, 22, 4));
    }

    #[test]
    fn a_late_reply_finds_no_slot() {
        let mut output = output(1);
        output.put(&context(), 0, b"-ERR timed out\r\n", Last::Yes, 0);
        output.put(&context(), 0, b"+late\r\n", Last::Yes, 0);
        assert_eq!(output.bytes, b"-ERR timed out\r\n");
    }
}
