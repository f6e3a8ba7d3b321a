//! The reference of the file for people, printed from the schema: what `docs/configuration.md` holds.

use std::fmt::Write;

use serde_json::Value;

use super::schema;
use super::shape::{choices, grouped};

/// Every setting as Markdown, a section a table.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         One TOML file holds everything. This page is printed by `quoit schema --markdown`, from the same source as the\n\
         JSON Schema (`quoit schema`) that editors use. `quoit check FILE` shows every mistake in a file at once.\n\n\
         A running proxy takes over an edited file by itself, on `SIGHUP` and on `POST /reload`. A file with a mistake\n\
         changes nothing: the running configuration stays. Settings that need a restart say so below.\n",
    );
    section(&mut page, schema::shared(), "", "");
    page
}

/// One table: its own keys first, then the tables inside it.
fn section(page: &mut String, table: &Value, path: &str, header: &str) {
    let properties = table.get("properties").and_then(Value::as_object);
    let required: Vec<&str> =
        table.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut tables = Vec::new();
    let mut rows = String::new();
    for (name, property) in properties.into_iter().flatten() {
        let described = text(property, "description");
        match property.get("items") {
            _ if property.get("properties").is_some() => tables.push((name, property, described, false)),
            Some(items) if items.get("properties").is_some() => tables.push((name, items, described, true)),
            _ => row(&mut rows, name, property, required.contains(&name.as_str()), &described),
        }
    }
    if !path.is_empty() {
        let _infallible = write!(page, "\n## `{header}`\n\n{}\n", text(table, "description"));
    }
    page.push_str(&rows);
    for (name, property, described, repeated) in tables {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let header = if repeated { format!("[[{path}]]") } else { format!("[{path}]") };
        let mut property = property.clone();
        if let Some(property) = property.as_object_mut() {
            property.insert("description".to_owned(), Value::from(described));
        }
        section(page, &property, &path, &header);
    }
}

fn row(rows: &mut String, name: &str, property: &Value, required: bool, described: &str) {
    let mut facts = vec![kind(property)];
    if required {
        facts.push("required".to_owned());
    }
    if let Some(default) = property.get("default").filter(|default| **default != Value::Array(Vec::new())) {
        facts.push(format!("default {}", shown(default)));
    }
    match (integer(property, "minimum"), integer(property, "maximum")) {
        (Some(least), Some(most)) => facts.push(format!("{} to {}", grouped(least), grouped(most))),
        (None, Some(most)) => facts.push(format!("at most {}", grouped(most))),
        _ => {}
    }
    let _infallible = write!(rows, "\n### `{name}`\n\n*{}.*\n\n{described}\n", facts.join(" · "));
    if let Some(all) = property.get("oneOf").and_then(Value::as_array) {
        rows.push('\n');
        for choice in all {
            let described = text(choice, "description");
            for word in choices(choice) {
                let _infallible = if described.is_empty() {
                    writeln!(rows, "- `{word}`")
                } else {
                    writeln!(rows, "- `{word}`: {described}")
                };
            }
        }
    }
}

fn kind(property: &Value) -> String {
    match property.get("type").and_then(Value::as_str) {
        Some("array") => "array of strings".to_owned(),
        _ if !choices(property).is_empty() => "one of a few words".to_owned(),
        Some(name) => name.to_owned(),
        None => "string".to_owned(),
    }
}

fn shown(value: &Value) -> String {
    match value.as_i64() {
        Some(number) => grouped(i128::from(number)),
        None => format!("`{value}`"),
    }
}

fn integer(property: &Value, bound: &str) -> Option<i128> {
    property.get(bound).and_then(Value::as_i64).map(i128::from)
}

/// Text of the schema, unwrapped: doc comments are broken where the source is.
fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
