//! Converts units of measure: a tool plugin with one exact table and no state.

mod table;

use cofferdam_sdk::{Tool, ToolContext, ToolError, ToolPlugin, export_tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use table::{Unit, unit};

/// A value to convert.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Convert {
    /// The number to convert.
    value: f64,
    /// The unit of the number: its symbol, such as `mi`, `degF`, `kg`, `MiB`. Symbols are case-sensitive. The tool
    /// `units.list` names them all.
    from: String,
    /// The unit to convert to, of the same quantity.
    to: String,
}

/// A converted value.
#[derive(Serialize, JsonSchema)]
struct Converted {
    value: f64,
    unit: &'static str,
    quantity: &'static str,
}

/// Which units to list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct List {
    /// Only units of this quantity, such as `length`. Without it, all.
    #[serde(default)]
    quantity: Option<String>,
}

/// A unit as it is listed.
#[derive(Serialize, JsonSchema)]
struct Listed {
    symbol: &'static str,
    name: &'static str,
    quantity: &'static str,
}

fn convert(_ctx: &ToolContext, Convert { value, from, to }: Convert) -> Result<Converted, ToolError> {
    let (from, to) = (known(&from)?, known(&to)?);
    if from.quantity != to.quantity {
        return Err(ToolError::InvalidArguments(format!(
            "`{}` is a unit of {} and `{}` one of {}: they do not convert",
            from.symbol, from.quantity, to.symbol, to.quantity
        )));
    }
    // Through the quantity's reference unit. The same unit both ways must not lose a bit.
    let value = if from.symbol == to.symbol { value } else { to.of_reference(from.to_reference(value)) };
    if !value.is_finite() {
        return Err(ToolError::Failed(format!("the value in `{}` is larger than a number can be", to.symbol)));
    }
    Ok(Converted { value, unit: to.symbol, quantity: to.quantity })
}

fn known(symbol: &str) -> Result<&'static Unit, ToolError> {
    unit(symbol).ok_or_else(|| {
        // What is most often wrong is the case: `Km`, `KG`, `degf`.
        let hint = match table::UNITS.iter().find(|unit| unit.symbol.eq_ignore_ascii_case(symbol)) {
            Some(unit) => format!("did you mean `{}`?", unit.symbol),
            None => "`units.list` names them all".to_owned(),
        };
        ToolError::InvalidArguments(format!("there is no unit `{symbol}`: {hint}"))
    })
}

fn list(_ctx: &ToolContext, List { quantity }: List) -> Result<Vec<Listed>, ToolError> {
    let units: Vec<_> = table::UNITS
        .iter()
        .filter(|unit| quantity.as_ref().is_none_or(|quantity| quantity == unit.quantity))
        .map(|unit| Listed { symbol: unit.symbol, name: unit.name, quantity: unit.quantity })
        .collect();
    match quantity {
        Some(quantity) if units.is_empty() => Err(ToolError::InvalidArguments(format!(
            "there is no quantity `{quantity}`: the quantities are {}",
            table::quantities().join(", ")
        ))),
        _ => Ok(units),
    }
}

struct Units;

impl ToolPlugin for Units {
    const DESCRIPTION: &'static str = "Converts units of length, mass, time, temperature, speed, area, volume, \
        pressure, energy, power and data, by their exact definitions.";

    fn tools() -> Vec<Tool> {
        vec![
            Tool::new(
                "convert",
                "Converts a number from one unit of measure to another of the same quantity.",
                convert,
            )
            .idempotent(),
            Tool::new("list", "Lists the units that `convert` knows, with their symbols.", list).idempotent(),
        ]
    }
}

export_tool!(Units);

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(value: f64, from: &str, to: &str) -> f64 {
        let (from, to) = (unit(from).unwrap(), unit(to).unwrap());
        to.of_reference(from.to_reference(value))
    }

    #[test]
    fn exact_definitions_convert_as_they_are_written() {
        for (value, from, to, expected) in [
            (1.0, "mi", "km", 1.609344),
            (1.0, "in", "mm", 25.4),
            (1.0, "lb", "g", 453.59237),
            (100.0, "degC", "degF", 212.0),
            (0.0, "K", "degC", -273.15),
            (-40.0, "degF", "degC", -40.0),
            (36.0, "km/h", "m/s", 10.0),
            (1.0, "GiB", "MB", 1073.741824),
            (1.0, "gal", "L", 3.785411784),
            (1.0, "atm", "hPa", 1013.25),
            (1.0, "kWh", "MJ", 3.6),
        ] {
            let value = converted(value, from, to);
            assert!((value - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{from} to {to}: {value}");
        }
    }

    #[test]
    fn every_unit_converts_to_itself_and_back() {
        for from in table::UNITS {
            for to in table::UNITS.iter().filter(|to| to.quantity == from.quantity) {
                let back = from.of_reference(to.to_reference(to.of_reference(from.to_reference(12.5))));
                assert!((back - 12.5).abs() < 1e-9, "{} by {}: {back}", from.symbol, to.symbol);
            }
        }
    }

    #[test]
    fn symbols_are_unique() {
        let symbols: std::collections::BTreeSet<_> = table::UNITS.iter().map(|unit| unit.symbol).collect();
        assert_eq!(symbols.len(), table::UNITS.len());
    }

    #[test]
    fn an_unknown_symbol_is_answered_with_what_to_do() {
        match known("KM") {
            Err(ToolError::InvalidArguments(text)) => assert!(text.contains("`km`"), "{text}"),
            other => panic!("{other:?}"),
        }
        match known("furlong") {
            Err(ToolError::InvalidArguments(text)) => assert!(text.contains("`units.list`"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
