//! Of which keys the stores have to tell: the fewest prefixes that cover what clients ask for. Pure.

/// More prefixes than that are not told to a store: it looks at each of them at every write.
const PREFIXES_MAX: usize = 64;

/// Some keys, by what they begin with. Redis takes no two of one connection of which one begins with the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cover {
    /// In order, none of them the beginning of another. An empty one stands for all keys.
    prefixes: Vec<Vec<u8>>,
}

impl Cover {
    pub(super) fn prefixes(&self) -> &[Vec<u8>] {
        &self.prefixes
    }

    /// Whether all keys with that prefix are among them.
    pub(super) fn has(&self, prefix: &[u8]) -> bool {
        self.prefixes.iter().any(|own| prefix.starts_with(own))
    }

    /// Whether all keys of the other are among them.
    pub(super) fn includes(&self, other: &Self) -> bool {
        other.prefixes.iter().all(|prefix| self.has(prefix))
    }

    /// Adds all keys with that prefix.
    pub(super) fn add(&mut self, prefix: &[u8]) {
        if self.has(prefix) {
            return;
        }
        self.prefixes.retain(|own| !own.starts_with(prefix));
        self.prefixes.push(prefix.to_vec());
        self.prefixes.sort_unstable();
        if self.prefixes.len() > PREFIXES_MAX {
            self.prefixes = vec![Vec::new()];
        }
    }

    /// Adds all keys of the other.
    pub(super) fn add_all(&mut self, other: &Self) {
        other.prefixes.iter().for_each(|prefix| self.add(prefix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefixes: &[&str], want: &[&str]) {
        let mut cover = Cover::default();
        for prefix in prefixes {
            cover.add(prefix.as_bytes());
        }
        let got: Vec<&str> = cover.prefixes().iter().map(|prefix| std::str::from_utf8(prefix).unwrap()).collect();
        assert_eq!(got, want);
        let mut same = Cover::default();
        prefixes.iter().rev().for_each(|prefix| same.add(prefix.as_bytes()));
        assert!(cover.includes(&same) && same.includes(&cover));
    }

    #[test]
    fn no_prefix_begins_with_another() {
        check(&[], &[]);
        check(&["b", "a"], &["a", "b"]);
        check(&["user:1", "user:", "user:2", "item"], &["item", "user:"]);
        check(&["a", ""], &[""]);
    }

    #[test]
    fn too_many_are_all() {
        let mut cover = Cover::default();
        for number in 0..=PREFIXES_MAX {
            cover.add(format!("{number:03}").as_bytes());
        }
        assert_eq!(cover.prefixes(), [b""]);
    }
}
