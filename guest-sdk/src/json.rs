//! Between typed values and the JSON texts of the contract.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

/// Reads a JSON text, or says what is wrong and where.
///
/// The place is looked for only once something is wrong: following the path costs an allocation per field, which a
/// good text should not pay for.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|plain| {
        let mut reader = serde_json::Deserializer::from_str(text);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            // A path of "." is the value as a whole and would say nothing.
            Err(placed) if placed.path().iter().next().is_some() && placed.path().to_string() != "." => {
                format!("at `{}`: {}", placed.path(), placed.inner())
            }
            // Without an error on the way, what is wrong comes after the value.
            _ => plain.to_string(),
        }
    })
}

/// The JSON Schema of what a type accepts.
pub fn schema_of_input<T: JsonSchema>() -> String {
    schema_text::<T>(SchemaSettings::draft2020_12())
}

/// The JSON Schema of what a type is written as: a field that has a default but is always written is required here.
pub fn schema_of_output<T: JsonSchema>() -> String {
    schema_text::<T>(SchemaSettings::draft2020_12().for_serialize())
}

fn schema_text<T: JsonSchema>(settings: SchemaSettings) -> String {
    settings.into_generator().into_root_schema_for::<T>().to_value().to_string()
}
