//! Which files besides the configuration are watched: those with certificates and keys, which others renew.
//!
//! It looks for them in the text alone. A configuration that is wrong elsewhere, or names a file that is not there yet, is
//! loaded again when that file comes.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// The files that the tables `tls` of this configuration name.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let Some(text) = super::super::bytes(path).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Vec::new();
    };
    let directory = path.parent().unwrap_or(Path::new(""));
    named(&text).iter().map(|file| directory.join(file)).collect()
}

fn named(text: &str) -> Vec<String> {
    let (document, _) = DeTable::parse_recoverable(text);
    let mut files = Vec::new();
    for key in ["listener", "pool"] {
        let Some(DeValue::Array(tables)) = document.get_ref().get(key).map(toml::Spanned::get_ref) else { continue };
        for table in tables {
            let DeValue::Table(table) = table.get_ref() else { continue };
            let Some(DeValue::Table(tls)) = table.get("tls").map(toml::Spanned::get_ref) else { continue };
            for (_, value) in tls.iter().filter(|(key, _)| key.get_ref().ends_with("_file")) {
                let DeValue::String(file) = value.get_ref() else { continue };
                files.push(file.to_string());
            }
        }
    }
    files.sort_unstable();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        assert_eq!(named(text), want, "{text}");
    }

    #[test]
    fn files_of_tls_are_found_whatever_else_is_wrong() {
        check("", &[]);
        check("[[listener]]\npassword_file = \"p\"\n", &[]);
        check("[[listener]]\ntls = { cert_file = \"c\", key_file = \"k\", client_auth = \"none\" }\n", &["c", "k"]);
        let two = "[[listener]]\n[listener.tls]\ncert_file = \"c\"\n[[listener]]\nbind = 7\n[listener.tls]\ncert_file = \"d\"\n";
        check(two, &["c", "d"]);
        check(
            "[[pool]]\n[pool.tls]\nca_file = \"/a\"\nkey_file = 9\n[[pool]]\n[pool.tls]\nca_file = \"/a\"\n",
            &["/a"],
        );
        check("[[pool]]\n[pool.tls]\nca_file = \"a\"\nno toml", &["a"]);
        check("listener = 3\npool = [1, \"tls\"]\n", &[]);
    }
}
