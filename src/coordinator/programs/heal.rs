//! Gives stores a program that they lack: a script's text from what this process remembers or from a store that tells it
//! (`SCRIPT SHOW`, since Valkey 8), a function's library from a store that has it.

use std::rc::Rc;

use super::call::Call;
use super::everywhere::reach;
use super::{Came, Digest, FRUITLESS, Homes, Name, UNABLE};
use crate::backend::redis::Node;
use crate::coordinator::gather::{Gather, ask};
use crate::protocol::resp::write_request;
use crate::replication::Cursor;

/// The number under which it is noted that no store tells the texts of its scripts.
const SHOWS: u64 = 0;

/// The homes cannot be given it.
pub(super) struct NotFound;

/// A library, as `FUNCTION LIST` tells of it.
pub(super) struct Library<'a> {
    name: &'a [u8],
    /// Their names, and whether they say that they write nothing.
    pub(super) functions: Vec<(&'a [u8], bool)>,
    pub(super) code: &'a [u8],
}

impl Call {
    /// Whether it is worth looking.
    pub(super) fn can_be_found(&self) -> bool {
        let programs = &self.coordinator.programs;
        let now = self.coordinator.context.clock.now();
        let is_fruitless = || programs.is_fruitless(self.name.number(), now);
        match self.name {
            // The error could be the program's own, and then it has run. It has to have the words from somewhere.
            _ if self.says(b"NOSCRIPT") || self.says(b"Function not found") => false,
            Name::Script(digest) => {
                programs.sources.find(digest).is_some() || !programs.is_fruitless(SHOWS, now) && !is_fruitless()
            }
            Name::Function(_) => !is_fruitless(),
        }
    }

    /// Finds the program, and gives a function to its homes. When that is done the request may be sent once more.
    pub(super) async fn heal(&self) -> Result<(), NotFound> {
        let healed = match &self.name {
            Name::Script(digest) => self.heal_script(*digest).await,
            Name::Function(name) => self.heal_function(name).await,
        };
        if healed.is_err() {
            let until = self.coordinator.context.clock.now().after(FRUITLESS);
            self.coordinator.programs.note_fruitless(self.name.number(), until);
        }
        healed
    }

    async fn heal_script(&self, digest: Digest) -> Result<(), NotFound> {
        let sources = &self.coordinator.programs.sources;
        let text = if let Some(text) = sources.find(digest) {
            text
        } else {
            let text = self.show(digest).await.ok_or(NotFound)?;
            sources.remember(&text, Came::Run);
            text.into()
        };
        // The homes are given it when they are asked next.
        if has(&text, b"NOSCRIPT") { Err(NotFound) } else { Ok(()) }
    }

    /// The text, by a store that has it and tells.
    async fn show(&self, digest: Digest) -> Option<Vec<u8>> {
        let sha = digest.to_string();
        let gather = Gather::new(self.sink.origin());
        for node in self.others() {
            let words: [&[u8]; 3] = [b"SCRIPT", b"SHOW", sha.as_bytes()];
            gather.ask(&node, 1, &mut |out| write_request(out, words.into_iter()));
        }
        let mut tells = false;
        for reply in gather.all().await.into_iter().flatten() {
            tells |= !reply.starts_with(b"-ERR");
            let mut cursor = Cursor::new(&reply);
            if let Some(text) = cursor.bulk()
                && Digest::of(text) == digest
            {
                return Some(text.to_vec());
            }
        }
        if !tells {
            let until = self.coordinator.context.clock.now().after(UNABLE);
            self.coordinator.programs.note_fruitless(SHOWS, until);
        }
        None
    }

    async fn heal_function(&self, name: &[u8]) -> Result<(), NotFound> {
        let origin = self.sink.origin();
        // The homes first: another request may have healed them meanwhile.
        let nodes: Vec<Rc<Node>> = self.homes.iter().cloned().chain(self.others()).collect();
        let gather = Gather::new(origin);
        for node in &nodes {
            let words: [&[u8]; 2] = [b"FUNCTION", b"LIST"];
            gather.ask(node, 1, &mut |out| write_request(out, words.into_iter()));
        }
        let answers = gather.all().await;
        let library_of = |reply: &[u8]| {
            let library = libraries(reply)?
                .into_iter()
                .find(|library| library.functions.iter().any(|(function, _)| function.eq_ignore_ascii_case(name)))?;
            Some(library.name.to_vec())
        };
        let mut found =
            nodes.iter().zip(&answers).filter_map(|(node, answer)| Some((node, library_of(answer.as_ref().ok()?)?)));
        let (node, library) = found.next().ok_or(NotFound)?;
        let words: [&[u8]; 5] = [b"FUNCTION", b"LIST", b"LIBRARYNAME", &library, b"WITHCODE"];
        let listed = ask(node, origin, 1, &mut |out| write_request(out, words.into_iter())).await;
        let listed = listed.map_err(|_| NotFound)?;
        let code = libraries(&listed).and_then(|all| all.into_iter().find(|it| it.name == library)).ok_or(NotFound)?;
        if has(code.code, b"Function not found") {
            return Err(NotFound);
        }
        let words: [&[u8]; 3] = [b"FUNCTION", b"LOAD", code.code];
        let loaded = tell(&self.homes, origin, &mut |out| write_request(out, words.into_iter())).await;
        self.note_those(&loaded)
    }

    /// Notes the program at the homes that have it now; an error if there is none.
    fn note_those(&self, loaded: &[bool]) -> Result<(), NotFound> {
        for (node, _) in self.homes.iter().zip(loaded).filter(|(_, loaded)| **loaded) {
            node.note_program(self.name.number());
            tracing::debug!(node = %node.options().label, "was given a program that it lacked");
        }
        if loaded.contains(&true) { Ok(()) } else { Err(NotFound) }
    }

    /// The other nodes that the client can reach.
    fn others(&self) -> Vec<Rc<Node>> {
        let Some(listener) = self.view.topology.listener(self.listener) else { return Vec::new() };
        let mut nodes = reach(&self.view, listener);
        nodes.retain(|node| node.is_available() && !self.homes.iter().any(|home| Rc::ptr_eq(home, node)));
        nodes
    }
}

/// Tells nodes something, and which of them have done it: a library that is there already was loaded by another request.
async fn tell(nodes: &Homes, origin: usize, write: &mut dyn FnMut(&mut Vec<u8>)) -> Vec<bool> {
    let gather = Gather::new(origin);
    for node in nodes {
        gather.ask(node, 1, write);
    }
    let is_done = |reply: Vec<u8>| reply.first() != Some(&b'-') || has(&reply, b"already exists");
    gather.all().await.into_iter().map(|answer| answer.is_ok_and(is_done)).collect()
}

fn has(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

/// Reads the reply to `FUNCTION LIST` in RESP2.
pub(super) fn libraries(reply: &[u8]) -> Option<Vec<Library<'_>>> {
    let mut cursor = Cursor::new(reply);
    let count = cursor.array()?;
    let mut all = Vec::new();
    for _ in 0..count {
        let mut library = Library { name: b"", functions: Vec::new(), code: b"" };
        let fields = cursor.array()?;
        for _ in 0..fields / 2 {
            match cursor.bulk()? {
                b"library_name" => library.name = cursor.bulk()?,
                b"library_code" => library.code = cursor.bulk()?,
                b"functions" => {
                    for _ in 0..cursor.array()? {
                        let (mut name, mut reads) = (b"".as_slice(), false);
                        for _ in 0..cursor.array()? / 2 {
                            match cursor.bulk()? {
                                b"name" => name = cursor.bulk()?,
                                b"flags" => reads = has(cursor.value()?, b"no-writes"),
                                _ => drop(cursor.value()?),
                            }
                        }
                        library.functions.push((name, reads));
                    }
                }
                _ => drop(cursor.value()?),
            }
        }
        all.push(library);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read() {
        let reply =
            b"*1\r\n*8\r\n$12\r\nlibrary_name\r\n$1\r\nl\r\n$6\r\nengine\r\n$3\r\nLUA\r\n$9\r\nfunctions\r\n*2\r\n\
            *6\r\n$4\r\nname\r\n$1\r\nf\r\n$11\r\ndescription\r\n$-1\r\n$5\r\nflags\r\n*1\r\n+no-writes\r\n\
            *6\r\n$4\r\nname\r\n$1\r\ng\r\n$11\r\ndescription\r\n$1\r\nd\r\n$5\r\nflags\r\n*0\r\n\
            $12\r\nlibrary_code\r\n$4\r\n#!ab\r\n";
        let all = libraries(reply).unwrap();
        let [library] = all.as_slice() else { panic!("one library") };
        assert_eq!((library.name, library.code), (b"l".as_slice(), b"#!ab".as_slice()));
        assert_eq!(library.functions, [(b"f".as_slice(), true), (b"g", false)]);
        assert_eq!(libraries(b"*0\r\n").unwrap().len(), 0);
        assert!(libraries(b"-ERR unknown command\r\n").is_none());
        assert!(libraries(&reply[..60]).is_none());
    }
}
