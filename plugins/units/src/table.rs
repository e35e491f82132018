//! The units, by their definitions: the SI brochure, the international yard and pound, and IEC 80000-13 for data.

/// A unit: a value in it times `factor`, plus `offset`, is the value in the quantity's reference unit.
#[derive(Debug)]
pub struct Unit {
    pub symbol: &'static str,
    pub name: &'static str,
    pub quantity: &'static str,
    factor: f64,
    offset: f64,
}

impl Unit {
    pub fn to_reference(&self, value: f64) -> f64 {
        value * self.factor + self.offset
    }

    pub fn of_reference(&self, value: f64) -> f64 {
        (value - self.offset) / self.factor
    }
}

/// The unit of a symbol, as it is written here.
pub fn unit(symbol: &str) -> Option<&'static Unit> {
    UNITS.iter().find(|unit| unit.symbol == symbol)
}

/// The quantities, in the order of the table.
pub fn quantities() -> Vec<&'static str> {
    let mut quantities: Vec<_> = UNITS.iter().map(|unit| unit.quantity).collect();
    quantities.dedup();
    quantities
}

const fn of(symbol: &'static str, name: &'static str, quantity: &'static str, factor: f64) -> Unit {
    Unit { symbol, name, quantity, factor, offset: 0.0 }
}

/// Units of one quantity stand together.
pub static UNITS: &[Unit] = &[
    of("m", "metre", "length", 1.0),
    of("km", "kilometre", "length", 1e3),
    of("cm", "centimetre", "length", 1e-2),
    of("mm", "millimetre", "length", 1e-3),
    of("um", "micrometre", "length", 1e-6),
    of("in", "inch", "length", 0.0254),
    of("ft", "foot", "length", 0.3048),
    of("yd", "yard", "length", 0.9144),
    of("mi", "mile", "length", 1609.344),
    of("nmi", "nautical mile", "length", 1852.0),
    of("kg", "kilogram", "mass", 1.0),
    of("g", "gram", "mass", 1e-3),
    of("mg", "milligram", "mass", 1e-6),
    of("t", "tonne", "mass", 1e3),
    of("oz", "ounce", "mass", 0.028349523125),
    of("lb", "pound", "mass", 0.45359237),
    of("s", "second", "time", 1.0),
    of("ms", "millisecond", "time", 1e-3),
    of("us", "microsecond", "time", 1e-6),
    of("ns", "nanosecond", "time", 1e-9),
    of("min", "minute", "time", 60.0),
    of("h", "hour", "time", 3600.0),
    of("d", "day", "time", 86_400.0),
    of("wk", "week", "time", 604_800.0),
    of("K", "kelvin", "temperature", 1.0),
    Unit { symbol: "degC", name: "degree Celsius", quantity: "temperature", factor: 1.0, offset: 273.15 },
    Unit {
        symbol: "degF",
        name: "degree Fahrenheit",
        quantity: "temperature",
        factor: 5.0 / 9.0,
        offset: 459.67 * 5.0 / 9.0,
    },
    of("m/s", "metre per second", "speed", 1.0),
    of("km/h", "kilometre per hour", "speed", 1.0 / 3.6),
    of("mph", "mile per hour", "speed", 0.44704),
    of("kn", "knot", "speed", 1852.0 / 3600.0),
    of("m2", "square metre", "area", 1.0),
    of("km2", "square kilometre", "area", 1e6),
    of("cm2", "square centimetre", "area", 1e-4),
    of("ha", "hectare", "area", 1e4),
    of("ft2", "square foot", "area", 0.09290304),
    of("acre", "international acre", "area", 4046.8564224),
    of("mi2", "square mile", "area", 2_589_988.110336),
    of("L", "litre", "volume", 1.0),
    of("mL", "millilitre", "volume", 1e-3),
    of("m3", "cubic metre", "volume", 1e3),
    of("cup", "US cup", "volume", 0.2365882365),
    of("floz", "US fluid ounce", "volume", 0.0295735295625),
    of("gal", "US gallon", "volume", 3.785411784),
    of("Pa", "pascal", "pressure", 1.0),
    of("hPa", "hectopascal", "pressure", 1e2),
    of("kPa", "kilopascal", "pressure", 1e3),
    of("bar", "bar", "pressure", 1e5),
    of("atm", "standard atmosphere", "pressure", 101_325.0),
    of("psi", "pound-force per square inch", "pressure", 4.4482216152605 / 0.00064516),
    of("J", "joule", "energy", 1.0),
    of("kJ", "kilojoule", "energy", 1e3),
    of("MJ", "megajoule", "energy", 1e6),
    of("Wh", "watt hour", "energy", 3600.0),
    of("kWh", "kilowatt hour", "energy", 3.6e6),
    of("cal", "thermochemical calorie", "energy", 4.184),
    of("kcal", "thermochemical kilocalorie", "energy", 4184.0),
    of("W", "watt", "power", 1.0),
    of("kW", "kilowatt", "power", 1e3),
    of("MW", "megawatt", "power", 1e6),
    of("B", "byte", "data", 1.0),
    of("bit", "bit", "data", 0.125),
    of("kB", "kilobyte", "data", 1e3),
    of("MB", "megabyte", "data", 1e6),
    of("GB", "gigabyte", "data", 1e9),
    of("TB", "terabyte", "data", 1e12),
    of("KiB", "kibibyte", "data", 1024.0),
    of("MiB", "mebibyte", "data", 1_048_576.0),
    of("GiB", "gibibyte", "data", 1_073_741_824.0),
    of("TiB", "tebibyte", "data", 1_099_511_627_776.0),
];
