//! The first look at an upload: its structure, counted without compiling or validating anything.
//!
//! Whether a component is valid is for the compile worker to say, which can be killed. The gate keeps out what would
//! only be there to make it work: an 800-byte component can nest instantiations so that they multiply to millions. It
//! reads the bytes once, from front to back, in memory that grows with the number of components in them and no faster.

use std::ops::Range;
use wasmparser::{
    BinaryReader, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentType,
    ComponentTypeDeclaration, ComponentTypeRef, CoreType, ElementItems, Encoding, FromReader, Instance, Parser,
    Payload, RecGroup, ValidPayload, Validator, WasmFeatures,
    component_types::{ComponentEntityType, ComponentItem},
    types::TypesRef,
};

/// One limit of the gate.
struct Bound {
    /// Of what there may be so many.
    what: &'static str,
    max: u64,
    /// What an author can do about it.
    instead: &'static str,
}

/// The way out for whoever was sent here by debug information.
const STRIP: &str = "strip it (strip = true in the release profile, or `wasm-tools strip`)";
/// The way out for whoever links too much into one component.
const SPLIT: &str = "make it smaller, or split it into an agent and tool plugins";
/// The way out for whoever has generated types.
const SIMPLIFY: &str = "simplify the types that it imports and exports";

/// Components and modules inside one another. Toolchains nest 2 or 3.
const NESTING: Bound = Bound {
    what: "levels of nesting",
    max: 16,
    instead: "compose its components side by side, not inside one another",
};
/// Modules and components in all. A Python agent has about 40.
const PARTS: Bound = Bound { what: "modules and components", max: 1_000, instead: SPLIT };
/// Instances that instantiation makes, nested ones multiplied out. A sandbox holds 64 of core modules.
const INSTANTIATIONS: Bound =
    Bound { what: "instantiations", max: 2_000, instead: "instantiate each inner component once" };
/// Functions of all modules together. CPython with its libraries has about 30,000.
const FUNCTIONS: Bound = Bound { what: "functions", max: 300_000, instead: SPLIT };
/// Locals of all functions together: each takes the compiler's memory, and a few bytes can declare 50,000.
const LOCALS: Bound =
    Bound { what: "locals", max: 10_000_000, instead: "build it with optimizations, which need fewer" };
/// The largest function: compiling takes more than proportionally long. An interpreter's loop has about 200 KB.
const FUNCTION_BYTES: Bound =
    Bound { what: "bytes in one function", max: 2 << 20, instead: "split the function, or build with opt-level \"s\"" };
/// Types of all modules and components together, those in recursion groups included. CPython has some thousands.
const TYPES: Bound = Bound { what: "types", max: 200_000, instead: SIMPLIFY };
/// All sections of types together. They are read with all that is declared inside them, at some 50 bytes of memory for
/// each byte; all worlds of WASI 0.2 together have about 50 KB.
const TYPE_BYTES: Bound = Bound { what: "bytes of types", max: 2 << 20, instead: SIMPLIFY };
/// Types inside types: an instance type in a component type, and so on. Whoever reads them recurses. Toolchains nest 4.
const TYPE_NESTING: Bound = Bound { what: "levels of types inside types", max: 16, instead: SIMPLIFY };
/// What all types of components and instances declare, counted recursively. A world with all of WASI 0.2 has about 2,000.
const DECLARATIONS: Bound = Bound { what: "declarations inside types", max: 100_000, instead: SIMPLIFY };
/// Imports, exports and aliases of all modules and components together.
const NAMES: Bound = Bound { what: "imports, exports and aliases", max: 500_000, instead: SPLIT };
/// Exports of one module or component: each is an entry in a table by name. The C library that a Python agent shares
/// between its modules has some thousands.
const EXPORTS: Bound = Bound {
    what: "exports of one module or component",
    max: 50_000,
    instead: "export only what is called from outside (a C library: -fvisibility=hidden)",
};
/// The longest name of an import, export or alias, which errors and logs repeat. The longest mangled names of C++
/// libraries have about 2,000 bytes.
const NAME_BYTES: Bound = Bound { what: "bytes in one name", max: 8 << 10, instead: "shorten the name" };
/// The names of all imports, exports and aliases together. They are kept for as long as the component is loaded; a Python
/// agent has some hundred KB.
const ALL_NAME_BYTES: Bound = Bound { what: "bytes of names", max: 16 << 20, instead: SPLIT };
/// Custom sections of all modules and components. A debug build in Rust has 13, each module of others up to 12.
const CUSTOM_SECTIONS: Bound = Bound { what: "custom sections", max: 2_000, instead: STRIP };
/// All custom sections together. The worker carries them through the compile for nothing. The debug build of
/// `echo`, an agent of 30 lines, has 8.6 MB of them in 9.0 MB; what it shares with larger agents is most of that.
const CUSTOM_BYTES: Bound = Bound { what: "bytes of custom sections", max: 48 << 20, instead: STRIP };
/// Data segments of all modules: each is an entry in the artifact, and is copied at each start. Snapshots of an
/// interpreter's memory have up to 10,000.
const DATA_SEGMENTS: Bound =
    Bound { what: "data segments", max: 50_000, instead: "let the linker merge them (--merge-data-segments)" };
/// Element segments of all modules. Toolchains make one for each module.
const ELEMENT_SEGMENTS: Bound = Bound { what: "element segments", max: 10_000, instead: "merge them" };
/// Elements of all segments: a sandbox's tables hold 16 × 65,536. CPython has about 10,000.
const ELEMENTS: Bound =
    Bound { what: "elements of tables", max: 1_000_000, instead: "take the address of fewer functions, or split it" };

/// Functions that tables can hold: each may be called from outside, which takes code of its own. CPython has about 10,000.
const ESCAPING: Bound =
    Bound { what: "functions in tables", max: 150_000, instead: "take the address of fewer functions, or split it" };

/// Why a component does not get in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// It has too much of something.
    #[error("the component has {found} {what}, at most {max} are allowed; {instead}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many; or as many as were counted before it was enough.
        found: u64,
        /// How many there may be.
        max: u64,
        /// What to do about it.
        instead: &'static str,
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
    exports: u64,
    is_component: bool,
}

/// What compiling a component will take depends on these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// All of it.
    pub bytes: u64,
    /// Functions of all modules.
    pub functions: u64,
    /// Of these, at most so many are in tables.
    pub escaping: u64,
    /// The largest function, in bytes.
    pub function_bytes_max: u64,
}

#[derive(Default)]
struct Gate {
    open: Vec<Open>,
    costliest: u64,
    parts: u64,
    functions: u64,
    function_bytes_max: u64,
    locals: u64,
    types: u64,
    type_bytes: u64,
    declarations: u64,
    names: u64,
    name_bytes: u64,
    custom_sections: u64,
    custom_bytes: u64,
    data_segments: u64,
    element_segments: u64,
    elements: u64,
}

/// Looks at the structure of a component.
///
/// # Errors
/// When it has too much of something, or ends in the middle.
pub fn check(bytes: &[u8]) -> Result<Shape, GateError> {
    let mut gate = Gate { costliest: 1, ..Gate::default() };
    for payload in Parser::new(0).parse_all(bytes) {
        gate.take(payload?, bytes)?;
    }
    let Gate { functions, elements, function_bytes_max, .. } = gate;
    let escaping = elements.min(functions);
    ESCAPING.check(escaping)?;
    Ok(Shape { bytes: bytes.len() as u64, functions, escaping, function_bytes_max })
}

/// Something that a component imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its name.
    pub name: String,
    /// Whether it has no function, so that nothing can be done with it.
    pub types_only: bool,
}

/// What a component imports, in its own order: its own imports, not those of what is inside it. Takes the time and the memory
/// that validating everything but the code of functions takes, so it is for components that a compile worker has taken.
///
/// # Errors
/// When it cannot be read to its end, or is not valid.
pub fn imports(bytes: &[u8]) -> Result<Vec<Import>, GateError> {
    let (mut validator, mut depth, mut names) = (Validator::new_with_features(WasmFeatures::all()), 0_u32, Vec::new());
    let mut types = None;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let ValidPayload::End(of_this) = validator.payload(&payload)? {
            types = Some(of_this);
        }
        match payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    // The end that comes last is that of the component itself.
    let types_only = |name: &str| types.as_ref().is_some_and(|types| has_types_only(types.as_ref(), name));
    Ok(names.into_iter().map(|name| Import { types_only: types_only(&name), name }).collect())
}

fn has_types_only(types: TypesRef<'_>, import: &str) -> bool {
    let is_type = |item: &ComponentItem| matches!(item.ty, ComponentEntityType::Type { .. });
    types.component_item_for_import(import).is_some_and(|item| match item.ty {
        ComponentEntityType::Instance(id) => types.get(id).is_some_and(|of| of.exports.values().all(is_type)),
        _ => is_type(item),
    })
}

impl Bound {
    fn check(&self, found: u64) -> Result<(), GateError> {
        if found <= self.max {
            return Ok(());
        }
        Err(GateError::TooMany { what: self.what, found, max: self.max, instead: self.instead })
    }

    /// Counts some more, and stops past the limit.
    fn add(&self, count: &mut u64, more: u64) -> Result<(), GateError> {
        *count = count.saturating_add(more);
        self.check(*count)
    }
}

impl Gate {
    fn take(&mut self, payload: Payload<'_>, bytes: &[u8]) -> Result<(), GateError> {
        match payload {
            Payload::Version { encoding, .. } => {
                PARTS.add(&mut self.parts, 1)?;
                self.open.push(Open { is_component: encoding == Encoding::Component, ..Open::default() });
                NESTING.check(self.open.len() as u64)
            }
            Payload::End(_) => self.close(),
            // The parser takes the end of the bytes for the end of what is inside, too.
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
                if unchecked_range.end <= bytes.len() {
                    return Ok(());
                }
                let (end, missing) = (bytes.len(), unchecked_range.end - bytes.len());
                Err(GateError::Malformed(format!("they end at {end}, inside of a part that has {missing} bytes more")))
            }
            Payload::CustomSection(custom) => {
                CUSTOM_SECTIONS.add(&mut self.custom_sections, 1)?;
                self.name(custom.name())?;
                CUSTOM_BYTES.add(&mut self.custom_bytes, custom.data().len() as u64)
            }
            Payload::TypeSection(types) => {
                TYPE_BYTES.add(&mut self.type_bytes, types.range().len() as u64)?;
                for group in types {
                    self.group(&group?)?;
                }
                Ok(())
            }
            Payload::CoreTypeSection(types) => {
                TYPE_BYTES.add(&mut self.type_bytes, types.range().len() as u64)?;
                for ty in types {
                    self.core_type(&ty?)?;
                }
                Ok(())
            }
            Payload::ComponentTypeSection(types) => self.component_types(types.range(), bytes),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    NAMES.add(&mut self.names, 1)?;
                    self.name(import.module)?;
                    self.name(import.name)?;
                }
                Ok(())
            }
            Payload::ExportSection(exports) => {
                self.exports(exports.count())?;
                for export in exports {
                    self.name(export?.name)?;
                }
                Ok(())
            }
            Payload::FunctionSection(functions) => FUNCTIONS.add(&mut self.functions, functions.count().into()),
            Payload::DataSection(segments) => DATA_SEGMENTS.add(&mut self.data_segments, segments.count().into()),
            Payload::ElementSection(segments) => {
                ELEMENT_SEGMENTS.add(&mut self.element_segments, segments.count().into())?;
                for segment in segments {
                    let elements = match segment?.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    ELEMENTS.add(&mut self.elements, elements.into())?;
                }
                Ok(())
            }
            Payload::CodeSectionEntry(body) => {
                let bytes = body.range().len() as u64;
                FUNCTION_BYTES.check(bytes)?;
                self.function_bytes_max = self.function_bytes_max.max(bytes);
                for locals in body.get_locals_reader()? {
                    LOCALS.add(&mut self.locals, locals?.0.into())?;
                }
                Ok(())
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let import = import?;
                    NAMES.add(&mut self.names, 1)?;
                    self.name(import.name.name)?;
                    if matches!(import.ty, ComponentTypeRef::Component(_)) {
                        self.know(1);
                    }
                }
                Ok(())
            }
            Payload::ComponentExportSection(exports) => {
                self.exports(exports.count())?;
                for export in exports {
                    // An export is a new name in the index space for what it exports.
                    let export = export?;
                    self.name(export.name.name)?;
                    if export.kind == ComponentExternalKind::Component {
                        self.know(self.cost_of(0, export.index));
                    }
                }
                Ok(())
            }
            Payload::ComponentAliasSection(aliases) => {
                NAMES.add(&mut self.names, aliases.count().into())?;
                for alias in aliases {
                    match alias? {
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                            self.know(self.cost_of(count, index));
                        }
                        ComponentAlias::InstanceExport { kind, name, .. } => {
                            self.name(name)?;
                            // Which component an instance exports is not tracked; it is one of those that were there.
                            if kind == ComponentExternalKind::Component {
                                self.know(self.costliest);
                            }
                        }
                        ComponentAlias::CoreInstanceExport { name, .. } => self.name(name)?,
                        ComponentAlias::Outer { .. } => {}
                    }
                }
                Ok(())
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances {
                    match instance? {
                        ComponentInstance::Instantiate { component_index, args } => {
                            self.spend(self.cost_of(0, component_index))?;
                            NAMES.add(&mut self.names, args.len() as u64)?;
                            args.iter().try_for_each(|arg| self.name(arg.name))?;
                        }
                        ComponentInstance::FromExports(exports) => {
                            NAMES.add(&mut self.names, exports.len() as u64)?;
                            exports.iter().try_for_each(|export| self.name(export.name.name))?;
                        }
                    }
                }
                Ok(())
            }
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    match instance? {
                        Instance::Instantiate { args, .. } => {
                            self.spend(1)?;
                            NAMES.add(&mut self.names, args.len() as u64)?;
                            args.iter().try_for_each(|arg| self.name(arg.name))?;
                        }
                        Instance::FromExports(exports) => {
                            NAMES.add(&mut self.names, exports.len() as u64)?;
                            exports.iter().try_for_each(|export| self.name(export.name))?;
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn name(&mut self, name: &str) -> Result<(), GateError> {
        let bytes = name.len() as u64;
        NAME_BYTES.check(bytes)?;
        ALL_NAME_BYTES.add(&mut self.name_bytes, bytes)
    }

    fn exports(&mut self, count: u32) -> Result<(), GateError> {
        NAMES.add(&mut self.names, count.into())?;
        match self.open.last_mut() {
            Some(open) => EXPORTS.add(&mut open.exports, count.into()),
            None => Ok(()),
        }
    }

    fn group(&mut self, group: &RecGroup) -> Result<(), GateError> {
        TYPES.add(&mut self.types, group.types().len() as u64)
    }

    fn core_type(&mut self, ty: &CoreType<'_>) -> Result<(), GateError> {
        match ty {
            CoreType::Rec(group) => self.group(group),
            CoreType::Module(declared) => {
                TYPES.add(&mut self.types, 1)?;
                DECLARATIONS.add(&mut self.declarations, declared.len() as u64)
            }
        }
    }

    /// Walks a section of component types. The parser's own reader recurses as deep as an uploader likes, and an overflow
    /// of the stack ends the host; so types inside types are walked here, and only what has none inside is given to it.
    fn component_types(&mut self, section: Range<usize>, bytes: &[u8]) -> Result<(), GateError> {
        TYPE_BYTES.add(&mut self.type_bytes, section.len() as u64)?;
        let offset = section.start;
        let mut reader = BinaryReader::new(bytes.get(section).unwrap_or_default(), offset);
        // How many items are left at each level; the types of the section itself are the first.
        let mut left = vec![reader.read_var_u32()?];
        while let Some(items) = left.last_mut() {
            let Some(fewer) = items.checked_sub(1) else {
                left.pop();
                continue;
            };
            *items = fewer;
            let declared = left.len() > 1;
            if declared {
                DECLARATIONS.add(&mut self.declarations, 1)?;
                match peek(&reader)? {
                    0x00 => {
                        reader.read_u8()?;
                        let ty = CoreType::from_reader(&mut reader)?;
                        self.core_type(&ty)?;
                        continue;
                    }
                    0x01 => {
                        reader.read_u8()?;
                    }
                    _ => {
                        // Of what an instance type and a component type declare, the latter is the larger language.
                        match ComponentTypeDeclaration::from_reader(&mut reader)? {
                            ComponentTypeDeclaration::Import(import) => self.name(import.name.name)?,
                            ComponentTypeDeclaration::Export { name, .. } => self.name(name.name)?,
                            _ => {}
                        }
                        continue;
                    }
                }
            }
            TYPES.add(&mut self.types, 1)?;
            if matches!(peek(&reader)?, 0x41 | 0x42) {
                reader.read_u8()?;
                left.push(reader.read_var_u32()?);
                TYPE_NESTING.check(left.len() as u64 - 1)?;
            } else {
                ComponentType::from_reader(&mut reader)?;
            }
        }
        Ok(())
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
            Some(open) => INSTANTIATIONS.add(&mut open.cost, cost),
            None => Ok(()),
        }
    }
}

/// The next byte.
fn peek(reader: &BinaryReader<'_>) -> Result<u8, GateError> {
    Ok(reader.clone().read_u8()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_encoder::{
        CodeSection, Component, ComponentBuilder, ComponentSectionId, ComponentTypeSection, CustomSection, DataSection,
        ElementSection, Elements, ExportKind, ExportSection, Function, FunctionSection, InstanceType, Module,
        ModuleSection, NestedComponentSection, PrimitiveValType, RawSection, SectionId, TypeSection, ValType,
    };

    fn nested(inner: &Component) -> Component {
        let mut outer = Component::new();
        outer.section(&NestedComponentSection(inner));
        outer
    }

    fn what(component: &[u8]) -> Result<(), &'static str> {
        match check(component) {
            Ok(_) => Ok(()),
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
        for _ in 1..NESTING.max {
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

    /// A component of these modules.
    fn of(modules: &[Module]) -> Vec<u8> {
        let mut component = Component::new();
        for module in modules {
            component.section(&ModuleSection(module));
        }
        component.finish()
    }

    fn raw(id: SectionId, data: &[u8]) -> Vec<u8> {
        let mut module = Module::new();
        module.section(&RawSection { id: id.into(), data });
        of(&[module])
    }

    fn raw_types(data: &[u8]) -> Vec<u8> {
        let mut component = Component::new();
        component.section(&RawSection { id: ComponentSectionId::Type.into(), data });
        component.finish()
    }

    /// What is made for a limit passes, and what is made for one more does not.
    fn edge(bound: &Bound, made: impl Fn(usize) -> Vec<u8>) {
        let max = usize::try_from(bound.max).expect("small");
        assert_eq!(what(&made(max)), Ok(()), "{} {}", bound.max, bound.what);
        assert_eq!(what(&made(max + 1)), Err(bound.what));
        let words = check(&made(max + 1)).expect_err("refused").to_string();
        assert!(words.contains(&format!("at most {max} are allowed; {}", bound.instead)), "{words}");
    }

    fn unsigned(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(number & 0x7F).expect("seven bits");
            number >>= 7;
            if number == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    }

    #[test]
    fn functions_in_tables_are_counted_once_however_often_they_are_there() {
        let table = |functions: usize, elements: usize| {
            let (mut types, mut declared, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
            types.ty().function([], []);
            let mut body = Function::new([]);
            body.instruction(&wasm_encoder::Instruction::End);
            for _ in 0..functions {
                declared.function(0);
                code.function(&body);
            }
            let mut segments = ElementSection::new();
            segments.passive(Elements::Functions(vec![0; elements].into()));
            let mut module = Module::new();
            module.section(&types).section(&declared).section(&segments).section(&code);
            of(&[module])
        };
        edge(&ESCAPING, |count| table(count, count));
        assert_eq!(check(&table(2, 1_000)).map(|shape| (shape.functions, shape.escaping)), Ok((2, 2)));
        assert_eq!(check(&table(9, 3)).map(|shape| shape.escaping), Ok(3));
    }

    #[test]
    fn custom_sections_are_counted_and_weighed_wherever_they_are() {
        let custom = |data: &[u8]| CustomSection { name: "".into(), data: data.to_vec().into() };
        edge(&CUSTOM_SECTIONS, |count| {
            let mut module = Module::new();
            for _ in 0..count / 2 {
                module.section(&custom(&[]));
            }
            let mut component = Component::new();
            component.section(&ModuleSection(&module));
            for _ in count / 2..count {
                component.section(&custom(&[]));
            }
            component.finish()
        });
        edge(&CUSTOM_BYTES, |bytes| {
            let mut component = Component::new();
            component.section(&custom(&vec![0; bytes / 2])).section(&custom(&vec![0; bytes - bytes / 2]));
            component.finish()
        });
    }

    #[test]
    fn names_have_a_length_alone_and_together() {
        let exporting = |lengths: &[usize]| {
            let mut exports = ExportSection::new();
            for length in lengths {
                exports.export(&"n".repeat(*length), ExportKind::Func, 0);
            }
            let mut module = Module::new();
            module.section(&exports);
            of(&[module])
        };
        edge(&NAME_BYTES, |length| exporting(&[length]));
        let longest = usize::try_from(NAME_BYTES.max).expect("small");
        edge(&ALL_NAME_BYTES, |bytes| {
            let mut lengths = vec![longest; bytes / longest];
            lengths.push(bytes % longest);
            exporting(&lengths)
        });
        // In types, too.
        edge(&NAME_BYTES, |length| {
            let mut ty = InstanceType::new();
            ty.ty().defined_type().primitive(PrimitiveValType::U8);
            ty.export("n".repeat(length), wasm_encoder::ComponentTypeRef::Value(PrimitiveValType::U8.into()));
            let mut types = ComponentTypeSection::new();
            types.instance(&ty);
            let mut component = Component::new();
            component.section(&types);
            component.finish()
        });
    }

    #[test]
    fn exports_are_counted_for_each_module() {
        let exporting = |count: usize| {
            let mut exports = ExportSection::new();
            for _ in 0..count {
                exports.export("", ExportKind::Func, 0);
            }
            let mut module = Module::new();
            module.section(&exports);
            module
        };
        edge(&EXPORTS, |count| of(&[exporting(count), exporting(50_000)]));
        edge(&NAMES, |count| {
            let mut modules = vec![exporting(50_000); count / 50_000];
            modules.push(exporting(count % 50_000));
            of(&modules)
        });
    }

    #[test]
    fn segments_and_elements_are_counted_over_all_modules() {
        edge(&DATA_SEGMENTS, |count| {
            let mut data = DataSection::new();
            for _ in 0..count {
                data.passive([]);
            }
            let mut module = Module::new();
            module.section(&data);
            of(&[module])
        });
        let elements = |segments: usize, each: usize| {
            let mut section = ElementSection::new();
            for _ in 0..segments {
                section.passive(Elements::Functions(vec![0; each].into()));
            }
            let mut module = Module::new();
            module.section(&section);
            module
        };
        edge(&ELEMENT_SEGMENTS, |count| of(&[elements(count - 1, 0), elements(1, 0)]));
        edge(&ELEMENTS, |count| of(&[elements(1, count - 7), elements(1, 7)]));
    }

    #[test]
    fn types_are_counted_in_their_groups_and_weighed() {
        edge(&TYPES, |count| {
            let group = [vec![1, 0x4E], unsigned(count), [0x60, 0, 0].repeat(count)].concat();
            raw(SectionId::Type, &group)
        });
        edge(&TYPE_BYTES, |bytes| {
            // So many functions, with as many parameters as make up the bytes.
            let count = 2_100;
            let parameters = bytes - 2 - 4 * count;
            let mut section = unsigned(count);
            for i in 0..count {
                let here = parameters / count + usize::from(i < parameters % count);
                section.push(0x60);
                section.extend(unsigned(here));
                section.extend(vec![0x7F; here]);
                section.push(0);
            }
            assert_eq!(section.len(), bytes);
            raw(SectionId::Type, &section)
        });
    }

    #[test]
    fn what_types_declare_is_counted_at_every_depth() {
        edge(&DECLARATIONS, |count| {
            // One type declares types that declare the rest.
            let inner = |items: usize| [vec![0x01, 0x42], unsigned(items), [0x01, 0x7D].repeat(items)].concat();
            let (first, second) = (count / 2, count - 2 - count / 2);
            raw_types(&[vec![1, 0x41, 2], inner(first), inner(second)].concat())
        });
    }

    #[test]
    fn types_inside_types_have_a_depth_and_do_not_use_up_the_stack() {
        let deep = |levels: usize| [vec![1], [0x42, 1, 1].repeat(levels - 1), vec![0x42, 0]].concat();
        edge(&TYPE_NESTING, |levels| raw_types(&deep(levels)));
        assert_eq!(what(&raw_types(&deep(600_000))), Err(TYPE_NESTING.what));
    }

    #[test]
    fn a_function_has_a_size_and_the_largest_is_told() {
        let of_bytes = |bytes: usize| {
            let mut code = CodeSection::new();
            code.raw(&[0; 7]);
            code.raw(&vec![0; bytes]);
            let mut module = Module::new();
            let mut declared = FunctionSection::new();
            declared.function(0).function(0);
            module.section(&declared).section(&code);
            of(&[module])
        };
        edge(&FUNCTION_BYTES, of_bytes);
        let component = of_bytes(1_000);
        let shape = check(&component).expect("taken");
        assert_eq!((shape.bytes, shape.function_bytes_max), (component.len() as u64, 1_000));
    }

    #[test]
    fn a_part_does_not_go_on_beyond_the_end() {
        let mut module = Module::new();
        module.section(&TypeSection::new()).section(&CustomSection { name: "".into(), data: [0; 9].as_slice().into() });
        let whole = of(&[module]);
        assert!(check(&whole).is_ok());
        // Cut between two sections of the module, which is a whole module to its parser.
        let cut = check(&whole[..whole.len() - 12]);
        assert!(matches!(&cut, Err(GateError::Malformed(why)) if why.contains("12 bytes more")), "{cut:?}");
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
