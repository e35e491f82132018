//! The first look at an upload: its structure, counted without compiling or validating anything.
//!
//! Whether a component is valid is for the compile worker to say, which can be killed. The gate keeps out what would
//! only be there to make it work: an 800-byte component can nest instantiations so that they multiply to millions. It
//! reads the bytes once, from front to back, in memory that grows with the number of components in them and no faster.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, Encoding,
    Instance, Parser, Payload,
};

/// Components and modules inside one another. Toolchains nest 2 or 3.
const NESTING_MAX: u64 = 16;
/// Modules and components in all. A Python agent has about 40.
const PARTS_MAX: u64 = 1_000;
/// Instances that instantiation makes, nested ones multiplied out. A sandbox holds 64 of core modules.
const INSTANTIATIONS_MAX: u64 = 2_000;
/// Functions of all modules together. CPython with its libraries has about 30,000.
const FUNCTIONS_MAX: u64 = 300_000;
/// Locals of all functions together: each takes the compiler's memory, and a few bytes can declare 50,000.
const LOCALS_MAX: u64 = 10_000_000;
/// The largest function, in bytes: compiling takes more than proportionally long. An interpreter's loop has about 200 KB.
const FUNCTION_BYTES_MAX: u64 = 2 << 20;
/// Types of all modules and components together.
const TYPES_MAX: u64 = 200_000;
/// Imports, exports and aliases of all modules and components together.
const NAMES_MAX: u64 = 500_000;

/// Why a component does not get in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// It has too much of something.
    #[error("the component has {found} {what}, at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many; or as many as were counted before it was enough.
        found: u64,
        /// How many there may be.
        max: u64,
    },
    /// It cannot be read to its end.
    #[error("these bytes are not a whole component: {0}")]
    Malformed(String),
}

impl From<wasmparser::BinaryReaderError> for GateError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        // The message may repeat a name from the bytes.
        Self::Malformed(error.to_string().chars().filter(|c| !c.is_control()).take(300).collect())
    }
}

/// A component whose end has not been reached, or a module, which has no components.
#[derive(Default)]
struct Open {
    /// What one instance of each component in this index space costs.
    components: Vec<u64>,
    /// What one instance of this one costs.
    cost: u64,
    is_component: bool,
}

#[derive(Default)]
struct Gate {
    open: Vec<Open>,
    costliest: u64,
    parts: u64,
    functions: u64,
    locals: u64,
    types: u64,
    names: u64,
}

/// Looks at the structure of a component.
///
/// # Errors
/// When it has too much of something, or ends in the middle.
pub fn check(bytes: &[u8]) -> Result<(), GateError> {
    let mut gate = Gate { costliest: 1, ..Gate::default() };
    for payload in Parser::new(0).parse_all(bytes) {
        gate.take(payload?)?;
    }
    Ok(())
}

fn bounded(what: &'static str, found: u64, max: u64) -> Result<(), GateError> {
    if found > max { Err(GateError::TooMany { what, found, max }) } else { Ok(()) }
}

/// Counts some more, and stops past the limit.
fn add(what: &'static str, count: &mut u64, more: u64, max: u64) -> Result<(), GateError> {
    *count = count.saturating_add(more);
    bounded(what, *count, max)
}

impl Gate {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), GateError> {
        match payload {
            Payload::Version { encoding, .. } => {
                add("modules and components", &mut self.parts, 1, PARTS_MAX)?;
                self.open.push(Open { is_component: encoding == Encoding::Component, ..Open::default() });
                bounded("levels of nesting", self.open.len() as u64, NESTING_MAX)
            }
            Payload::End(_) => self.close(),
            Payload::TypeSection(types) => self.types(types.count()),
            Payload::CoreTypeSection(types) => self.types(types.count()),
            Payload::ComponentTypeSection(types) => self.types(types.count()),
            Payload::ImportSection(imports) => self.names(imports.count()),
            Payload::ExportSection(exports) => self.names(exports.count()),
            Payload::FunctionSection(functions) => {
                add("functions", &mut self.functions, functions.count().into(), FUNCTIONS_MAX)
            }
            Payload::CodeSectionEntry(body) => {
                bounded("bytes in one function", body.range().len() as u64, FUNCTION_BYTES_MAX)?;
                for locals in body.get_locals_reader()? {
                    add("locals", &mut self.locals, locals?.0.into(), LOCALS_MAX)?;
                }
                Ok(())
            }
            Payload::ComponentImportSection(imports) => {
                self.names(imports.count())?;
                for import in imports {
                    if matches!(import?.ty, ComponentTypeRef::Component(_)) {
                        self.know(1);
                    }
                }
                Ok(())
            }
            Payload::ComponentExportSection(exports) => {
                self.names(exports.count())?;
                for export in exports {
                    // An export is a new name in the index space for what it exports.
                    let export = export?;
                    if export.kind == ComponentExternalKind::Component {
                        self.know(self.cost_of(0, export.index));
                    }
                }
                Ok(())
            }
            Payload::ComponentAliasSection(aliases) => {
                self.names(aliases.count())?;
                for alias in aliases {
                    match alias? {
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                            self.know(self.cost_of(count, index));
                        }
                        // Which component an instance exports is not tracked; it is one of those that were there.
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                            self.know(self.costliest);
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        self.spend(self.cost_of(0, component_index))?;
                    }
                }
                Ok(())
            }
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    if let Instance::Instantiate { .. } = instance? {
                        self.spend(1)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn types(&mut self, count: u32) -> Result<(), GateError> {
        add("types", &mut self.types, count.into(), TYPES_MAX)
    }

    fn names(&mut self, count: u32) -> Result<(), GateError> {
        add("imports, exports and aliases", &mut self.names, count.into(), NAMES_MAX)
    }

    /// A component or module ends: its parent knows now what an instance of it costs.
    fn close(&mut self) -> Result<(), GateError> {
        let Some(ended) = self.open.pop() else { return Ok(()) };
        if ended.is_component {
            self.know(ended.cost.saturating_add(1));
        }
        Ok(())
    }

    /// The component being read has one more component in its index space.
    fn know(&mut self, cost: u64) {
        self.costliest = self.costliest.max(cost);
        if let Some(open) = self.open.last_mut() {
            open.components.push(cost);
        }
    }

    /// What an instance of a component costs, by its index some levels out. An index that does not exist is for the
    /// validator to refuse; here it costs what the costliest does.
    fn cost_of(&self, levels_out: u32, index: u32) -> u64 {
        let level = self.open.len().checked_sub(1 + levels_out as usize);
        let open = level.and_then(|level| self.open.get(level));
        open.and_then(|open| open.components.get(index as usize)).copied().unwrap_or(self.costliest)
    }

    /// An instance of the component being read makes so many more.
    fn spend(&mut self, cost: u64) -> Result<(), GateError> {
        match self.open.last_mut() {
            Some(open) => add("instantiations", &mut open.cost, cost, INSTANTIATIONS_MAX),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::{
        CodeSection, Component, ComponentBuilder, Function, FunctionSection, Module, NestedComponentSection,
        TypeSection, ValType,
    };

    fn nested(inner: &Component) -> Component {
        let mut outer = Component::new();
        outer.section(&NestedComponentSection(inner));
        outer
    }

    fn what(component: &[u8]) -> Result<(), &'static str> {
        match check(component) {
            Ok(()) => Ok(()),
            Err(GateError::TooMany { what, .. }) => Err(what),
            Err(GateError::Malformed(why)) => panic!("{why}"),
        }
    }

    /// Each level instantiates the one below it ten times.
    fn bomb(levels: u32) -> Vec<u8> {
        let mut component = Component::new().finish();
        for _ in 0..levels {
            let mut outer = ComponentBuilder::default();
            let inner = outer.component_raw(None, &component);
            for _ in 0..10 {
                outer.instantiate(None, inner, Vec::<(&str, wasm_encoder::ComponentExportKind, u32)>::new());
            }
            component = outer.finish();
        }
        component
    }

    #[test]
    fn instantiations_that_multiply_are_refused_and_a_few_levels_are_not() {
        assert_eq!(what(&bomb(3)), Ok(()));
        assert_eq!(what(&bomb(4)), Err("instantiations"));
        let many = bomb(12);
        assert!(many.len() < 2_000, "a bomb is small: {} bytes", many.len());
        assert_eq!(what(&many), Err("instantiations"));
    }

    #[test]
    fn nesting_has_a_depth() {
        let mut component = Component::new();
        for _ in 1..NESTING_MAX {
            component = nested(&component);
        }
        assert_eq!(what(component.as_slice()), Ok(()));
        assert_eq!(what(nested(&component).as_slice()), Err("levels of nesting"));
    }

    #[test]
    fn locals_are_counted_over_all_functions() {
        let module = |functions: u32| {
            let (mut types, mut declared, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
            types.ty().function([], []);
            for _ in 0..functions {
                declared.function(0);
                let mut body = Function::new([(50_000, ValType::I64)]);
                body.instructions().end();
                code.function(&body);
            }
            let mut module = Module::new();
            module.section(&types).section(&declared).section(&code);
            let mut component = Component::new();
            component.section(&wasm_encoder::ModuleSection(&module));
            component.finish()
        };
        assert_eq!(what(&module(200)), Ok(()));
        assert_eq!(what(&module(201)), Err("locals"));
    }

    #[test]
    fn bytes_that_are_cut_or_changed_are_an_error_never_a_panic() {
        let whole = bomb(3);
        for end in 0..whole.len() {
            let _ = check(&whole[..end]);
            let mut changed = whole.clone();
            changed[end] ^= 0xA5;
            let _ = check(&changed);
        }
        assert!(matches!(check(&whole[..whole.len() - 1]), Err(GateError::Malformed(_))));
    }
}
