//! What the clients of a listener call a key of a store: the reverse of its routes. Pure.

use crate::command::glob_exact;
use crate::config::{Listener, Rewrite};

/// The keys of one pool as one listener's clients see them.
#[derive(Clone, Copy)]
pub(in crate::coordinator) struct Names<'l> {
    /// Whose clients.
    pub(in crate::coordinator) listener: &'l Listener,
    /// An index into the configuration's pools.
    pub(in crate::coordinator) pool: usize,
}

/// The pools that the clients of a listener can reach, each once.
pub(in crate::coordinator) fn pools_of(listener: &Listener) -> Vec<usize> {
    let mut pools: Vec<usize> =
        std::iter::once(listener.pool).chain(listener.routes.iter().map(|route| route.pool)).collect();
    pools.sort_unstable();
    pools.dedup();
    pools
}

impl Names<'_> {
    /// Whether clients call every key what the store calls it.
    pub(super) fn are_plain(&self) -> bool {
        self.listener.routes.iter().all(|route| route.pool != self.pool || route.rewrite == Rewrite::Keep)
    }

    /// The names by which clients reach a key of the store; none if they cannot.
    pub(in crate::coordinator) fn of(&self, key: &[u8]) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        if self.pool == self.listener.pool && self.listener.route(key).is_none() {
            names.push(key.to_vec());
        }
        for route in self.listener.routes.iter().filter(|route| route.pool == self.pool) {
            let name = match &route.rewrite {
                Rewrite::Keep => key.starts_with(&route.prefix).then(|| key.to_vec()),
                Rewrite::Strip => Some([&route.prefix, key].concat()),
                Rewrite::Replace(replacement) => {
                    key.strip_prefix(replacement.as_slice()).map(|rest| [&route.prefix, rest].concat())
                }
            };
            // A longer prefix may take the name elsewhere.
            names.extend(name.filter(|name| self.listener.route(name).is_some_and(|own| std::ptr::eq(own, route))));
        }
        names
    }

    /// Those of the names that a pattern matches.
    pub(super) fn matching(&self, key: &[u8], pattern: Option<&[u8]>) -> Vec<Vec<u8>> {
        let mut names = self.of(key);
        if let Some(pattern) = pattern {
            names.retain(|name| glob_exact(pattern, name));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, check_text};

    fn config(routes: &[(&str, &str, Option<&str>)]) -> Config {
        let mut text = "[[listener]]\nbind = \"127.0.0.1:1\"\npool = \"main\"\n".to_owned();
        for (prefix, pool, replacement) in routes {
            let replace = replacement.map(|with| format!("replace_prefix = \"{with}\"\n")).unwrap_or_default();
            text.extend([format!("[[listener.route]]\nprefix = \"{prefix}\"\npool = \"{pool}\"\n{replace}")]);
        }
        for (number, pool) in ["main", "other"].iter().enumerate() {
            text.extend([format!(
                "[[pool]]\nname = \"{pool}\"\n[[pool.node]]\nname = \"a\"\naddress = \"10.0.0.{number}:6379\"\n"
            )]);
        }
        check_text("test", &text).unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[track_caller]
    fn check(config: &Config, pool: usize, key: &str, want: &[&str]) {
        let names = Names { listener: &config.listeners[0], pool };
        let got: Vec<String> = names.of(key.as_bytes()).into_iter().map(|it| String::from_utf8(it).unwrap()).collect();
        assert_eq!(got, want, "{key} of pool {pool}");
    }

    #[test]
    fn without_routes_names_are_keys() {
        let config = config(&[]);
        check(&config, 0, "a", &["a"]);
        assert_eq!(pools_of(&config.listeners[0]), [0]);
        assert!(Names { listener: &config.listeners[0], pool: 0 }.are_plain());
    }

    #[test]
    fn a_route_takes_its_names_away() {
        let config = config(&[("s:", "other", None)]);
        check(&config, 0, "a", &["a"]);
        check(&config, 0, "s:a", &[]); // It lies there from before the route.
        check(&config, 1, "s:a", &["s:a"]);
        check(&config, 1, "a", &[]);
        assert_eq!(pools_of(&config.listeners[0]), [0, 1]);
    }

    #[test]
    fn rewrites_are_undone() {
        let config = config(&[("s:", "other", Some("")), ("t:", "other", Some("x:")), ("s:deep:", "main", None)]);
        check(&config, 1, "a", &["s:a"]);
        check(&config, 1, "x:a", &["s:x:a", "t:a"]);
        check(&config, 1, "deep:a", &[]); // `s:deep:a` is a key of the other pool.
        check(&config, 0, "s:deep:a", &["s:deep:a"]);
        check(&config, 0, "a", &["a"]);
        let names = Names { listener: &config.listeners[0], pool: 1 };
        assert!(!names.are_plain());
        assert_eq!(names.matching(b"x:a", Some(b"t:*")), [b"t:a".to_vec()]);
        assert_eq!(names.matching(b"x:a", Some(b"T:*")), Vec::<Vec<u8>>::new());
    }
}
