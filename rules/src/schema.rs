//! The JSON Schema of the policy, for editors.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Map, Value};

use crate::document::Document;

/// The JSON Schema of a policy document, pretty-printed: `docs/policy.schema.json` is this text.
///
/// It knows the shape of the document, not what the words in it mean: what passes the schema may
/// still be refused.
pub fn json_schema() -> String {
    let settings = SchemaSettings::default().with_transform(RecursiveTransform(without_null));
    let schema = settings.into_generator().into_root_schema_for::<Document>();
    serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n"
}

/// What may be left out may not be null: a key that stands in a policy has a value.
fn without_null(schema: &mut Schema) {
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &**types {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        let null = Value::Object(Map::from_iter([("type".to_owned(), "null".into())]));
        choices.retain(|choice| *choice != null);
        if let [Value::Object(only)] = &**choices {
            let only = only.clone();
            schema.remove("anyOf");
            schema.extend(only);
        }
    }
}
