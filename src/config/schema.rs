//! The JSON Schema of the file, derived from [`super::file`]: for editors, and for the walk in [`super::shape`].
//!
//! # Invariants
//! - The schema uses only `type`, `properties`, `required`, `additionalProperties`, `items`, `enum`, `oneOf` of
//!   constants, and bounds on numbers, strings and arrays: all of what the walk understands. A test holds it to that.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::file::File;

/// Made once: the walk reads it at every load.
static SCHEMA: LazyLock<Value> = LazyLock::new(generate);

/// The JSON Schema of a configuration file.
pub fn schema() -> Value {
    SCHEMA.clone()
}

/// The same, borrowed.
pub(super) fn shared() -> &'static Value {
    &SCHEMA
}

fn generate() -> Value {
    let generator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut schema = generator.into_root_schema_for::<File>().to_value();
    without_null(&mut schema);
    gather_required(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), Value::from("quoit configuration"));
    }
    schema
}

/// Takes out what `Option` brings: TOML has no null, so a key is there or it is not.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            let choice = object.get_mut("anyOf").and_then(Value::as_array_mut).and_then(|choices| {
                choices.retain(|choice| choice.get("type") != Some(&Value::from("null")));
                match choices.as_mut_slice() {
                    [Value::Object(only)] => Some(std::mem::take(only)),
                    _ => None,
                }
            });
            if let Some(choice) = choice {
                object.remove("anyOf");
                for (key, value) in choice {
                    object.entry(key).or_insert(value); // The field's own description wins over its type's.
                }
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(values) => values.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Moves the `required` mark of a property to its table, where JSON Schema has it. The derive cannot: to serde every
/// key is optional, so that the rules still see what is there when something is missing.
fn gather_required(schema: &mut Value) {
    let mut required = Vec::new();
    for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        if property.as_object_mut().and_then(|property| property.remove("required")).is_some() {
            required.push(Value::from(name.as_str()));
        }
        gather_required(property);
        property.get_mut("items").into_iter().for_each(gather_required);
        if required.last().is_some_and(|last| last == name.as_str()) {
            property.as_object_mut().and_then(|property| property.remove("default")); // An empty list is no default.
        }
    }
    if let (false, Some(table)) = (required.is_empty(), schema.as_object_mut()) {
        table.insert("required".to_owned(), Value::Array(required));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDERSTOOD: [&str; 17] = [
        "$schema",
        "title",
        "description",
        "default",
        "format",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "oneOf",
        "enum",
        "const",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
    ];

    #[track_caller]
    fn check_understood(path: &str, schema: &Value) {
        for (key, value) in schema.as_object().unwrap_or_else(|| panic!("{path} is not an object: {schema}")) {
            let path = format!("{path}/{key}");
            match key.as_str() {
                "properties" => value.as_object().unwrap().iter().for_each(|(name, property)| {
                    assert!(property.get("description").is_some(), "{path}/{name} says nothing");
                    check_understood(&format!("{path}/{name}"), property);
                }),
                "items" => check_understood(&path, value),
                "oneOf" => value.as_array().unwrap().iter().for_each(|choice| check_understood(&path, choice)),
                "type" => assert!(value.is_string(), "{path}: {value}"),
                "minItems" | "maxItems" => {}
                _ => assert!(UNDERSTOOD.contains(&key.as_str()), "{path} is not understood"),
            }
        }
        if schema.get("type") == Some(&Value::from("object")) {
            assert_eq!(schema.get("additionalProperties"), Some(&Value::Bool(false)), "{path} takes unknown keys");
        }
        if schema.get("type") == Some(&Value::from("integer")) {
            assert!(schema.get("maximum").is_some(), "{path} has no upper bound");
        }
    }

    #[test]
    fn every_word_of_the_schema_is_understood_by_the_walk() {
        check_understood("", shared());
    }
}
