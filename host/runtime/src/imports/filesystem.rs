//! `wasi:filesystem`: `/scratch`, which is the run's own and starts empty, and `/workspace`, the user's files, by grant.
//!
//! The interface is WASI's, everything behind it is ours: each operation is a path and what to do with it, done in the
//! user's turn on a [`Tree`], which charges the quota first. Links cannot be made, times cannot be set, and nothing of
//! the host's own files can be seen: not their owners, not their numbers, not when they were read.

mod streams;

use crate::{
    meter::HeldBytes,
    sandbox::{Guest, HostFailure},
    tree::{At, Node, Opened, Opening, Tree, joined},
    workspace::{EntryKind, FileError, PATH_BYTES_MAX, READ_BYTES_MAX, Workspace, log_failure},
};
use cofferdam_core::{
    context::Effect, grant::Access, journal::Recorder, quota::HOST_CALL_BYTES_MAX, record::Asked, run::Durability,
};
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::UNIX_EPOCH,
};
use streams::{Reader, Writer};
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult,
    bindings::{
        clocks::wall_clock::Datetime,
        filesystem::{
            preopens,
            types::{self, ErrorCode, HostDescriptor, HostDirectoryEntryStream},
        },
    },
};

/// What a name in an open listing costs the host beside its bytes, about.
const NAME_OVERHEAD_BYTES: usize = 40;

/// Links the interface.
///
/// # Errors
/// When it is defined twice.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasSelf<Guest>>(linker, Guest::called)?;
    preopens::add_to_linker::<_, HasSelf<Guest>>(linker, Guest::called)
}

/// One of the directories that a guest starts from.
#[derive(Clone)]
struct Mount {
    tree: Arc<Tree>,
    /// For the turns, which are the user's also in a run's scratch.
    turns: Workspace,
    is_workspace: bool,
    may_change: bool,
}

/// What a guest has open: a place, not a file of the host's. Kept in the guest's table under a handle whose type in the
/// linker is wasmtime-wasi's, which serves as a mark only.
#[derive(Clone)]
struct Descriptor {
    mount: Mount,
    path: String,
    node: Node,
    file: Arc<Opened>,
    flags: types::DescriptorFlags,
}

/// What a directory held when it was listed.
struct Names {
    rest: std::vec::IntoIter<(String, EntryKind)>,
    _held: HeldBytes,
}

fn code(error: FileError) -> ErrorCode {
    match error {
        FileError::InvalidPath(path) if path.len() >= PATH_BYTES_MAX => ErrorCode::NameTooLong,
        FileError::InvalidPath(_) => ErrorCode::NotPermitted,
        FileError::NotFound(_) => ErrorCode::NoEntry,
        FileError::NotAFile(_) => ErrorCode::IsDirectory,
        FileError::NotADirectory(_) => ErrorCode::NotDirectory,
        FileError::Exists(_) => ErrorCode::Exist,
        FileError::NotEmpty(_) => ErrorCode::NotEmpty,
        FileError::Full { .. } => ErrorCode::InsufficientSpace,
        FileError::Io(source) => {
            log_failure(&source);
            ErrorCode::Io
        }
    }
}

impl Mount {
    async fn turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, ErrorCode> {
        self.turns.turn_with(self.tree.clone(), work).await.map_err(code)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tree, &other.tree)
    }
}

impl Descriptor {
    fn joined(&self, path: &str) -> Result<String, ErrorCode> {
        if self.node.kind != EntryKind::Directory {
            return Err(ErrorCode::NotDirectory);
        }
        joined(&self.path, path).map_err(code)
    }

    /// As a file that was opened for this.
    fn file(&self, opened_for: types::DescriptorFlags) -> Result<&Self, ErrorCode> {
        if self.node.kind != EntryKind::File {
            return Err(ErrorCode::IsDirectory);
        }
        if self.flags.contains(opened_for) { Ok(self) } else { Err(ErrorCode::NotPermitted) }
    }

    /// What it is now.
    async fn node(&self) -> Result<Node, ErrorCode> {
        let path = self.path.clone();
        let node = self.mount.turn(move |tree| tree.stat(&path)).await?;
        // Another file has its path by now.
        if node.kind == EntryKind::File && !self.file.is(node.number) {
            return Err(ErrorCode::NoEntry);
        }
        Ok(node)
    }
}

fn kind(kind: EntryKind) -> types::DescriptorType {
    match kind {
        EntryKind::File => types::DescriptorType::RegularFile,
        EntryKind::Directory => types::DescriptorType::Directory,
    }
}

fn stat(node: Node, is_workspace: bool) -> types::DescriptorStat {
    // When something in the scratch was written, the guest knows itself.
    let modified = node.modified.filter(|_| is_workspace);
    let modified = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    types::DescriptorStat {
        type_: kind(node.kind),
        link_count: 1,
        size: node.bytes,
        data_access_timestamp: None,
        data_modification_timestamp: modified.map(|at| Datetime { seconds: at.as_secs(), nanoseconds: 0 }),
        status_change_timestamp: None,
    }
}

/// Tells files apart by where they are: the host's own numbers for them are nobody's business.
fn hash(mount: &Mount, path: &str) -> types::MetadataHashValue {
    let mut hasher = DefaultHasher::new();
    (mount.is_workspace, path).hash(&mut hasher);
    let lower = hasher.finish();
    "again".hash(&mut hasher);
    types::MetadataHashValue { lower, upper: hasher.finish() }
}

fn ours(descriptor: &Resource<types::Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(descriptor.rep())
}

impl Guest {
    fn open(&mut self, descriptor: Descriptor) -> wasmtime::Result<Resource<types::Descriptor>> {
        Ok(Resource::new_own(self.table.push(descriptor)?.rep()))
    }

    /// Every operation on something open comes here. What is done in `/scratch` follows from the run itself; what is in
    /// `/workspace` does not, and may be larger than any record.
    fn opened(&self, descriptor: &Resource<types::Descriptor>) -> FsResult<Descriptor> {
        let open = self.table.get(&ours(descriptor)).map_err(FsError::trap)?.clone();
        if open.mount.is_workspace
            && let Some(recorder) = &self.recorder
        {
            if recorder.known().is_some_and(|known| !known.is_past()) {
                return Err(FsError::trap(self.beyond_record("for its directory /workspace")));
            }
            recorder.incomplete("the agent used its directory /workspace; the tools file.* are recorded");
        }
        Ok(open)
    }

    /// Before anything is changed: whether it may be, and that the journal knows first.
    async fn about_to_change(&mut self, mount: &Mount) -> FsResult<()> {
        if !mount.may_change {
            // Asked for the record, so that a run that fails of it is told from one that fails of itself.
            let _ = self.ctx.authorize(Effect::WorkspaceWrite);
            return Err(ErrorCode::ReadOnly.into());
        }
        if mount.is_workspace
            && let Some(journal) = &self.journal
        {
            journal.before_effect().await.map_err(|error| FsError::trap(HostFailure::storage(error)))?;
        }
        Ok(())
    }

    /// How far the workspace is open. Kept where it is, because grants change.
    fn workspace_access(&self) -> Access {
        let asked = Asked::of("preopens.get-directories");
        if let Some(known) = self.recall_rare(&asked) {
            return if known { Access::ReadWrite } else { Access::Read };
        }
        let known = self.recorder.as_ref().and_then(Recorder::known);
        if known.is_some_and(|known| !known.is_past()) {
            return Access::None;
        }
        // A durable run must be able to do again all that it did; the tools file.* are recorded.
        if self.ctx.spec().durability == Durability::Durable && !self.ctx.is_tool() {
            return Access::None;
        }
        let access = self.ctx.permissions().workspace();
        if access >= Access::Read {
            self.record(|| asked, &(access >= Access::ReadWrite));
        }
        access
    }

    fn mounts(&mut self) -> Vec<(Mount, &'static str)> {
        let mut mounts = Vec::new();
        // A description has neither; a tool works on what its caller hands it, and on the workspace by its own grant.
        if self.journal.is_none() && self.recorder.is_none() {
            return mounts;
        }
        let turns = self.services.workspaces.of(&self.ctx.scope());
        if !self.ctx.is_tool() {
            let (scratch, run) = (&self.services.scratch, self.scratch_of);
            let quota = self.ctx.live_quota();
            let tree = self.scratch.get_or_insert_with(|| scratch.of(run, quota.clone())).clone();
            mounts.push((Mount { tree, turns: turns.clone(), is_workspace: false, may_change: true }, "/scratch"));
        }
        let access = self.workspace_access();
        if access >= Access::Read {
            let (tree, may_change) = (turns.tree().clone(), access >= Access::ReadWrite);
            mounts.push((Mount { tree, turns, is_workspace: true, may_change }, "/workspace"));
        }
        mounts
    }
}

impl preopens::Host for Guest {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<types::Descriptor>, String)>> {
        let flags = types::DescriptorFlags::READ | types::DescriptorFlags::MUTATE_DIRECTORY;
        let node = Node { kind: EntryKind::Directory, bytes: 0, number: 0, modified: None };
        let mounts = self.mounts().into_iter();
        mounts
            .map(|(mount, name)| {
                let file = Arc::new(Opened::directory());
                Ok((self.open(Descriptor { mount, path: String::new(), node, file, flags })?, name.to_owned()))
            })
            .collect()
    }
}

impl types::Host for Guest {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<ErrorCode>().copied())
    }
}

impl HostDescriptor for Guest {
    async fn advise(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _offset: u64,
        _length: u64,
        _advice: types::Advice,
    ) -> FsResult<()> {
        self.opened(&descriptor)?.file(types::DescriptorFlags::empty())?;
        Ok(())
    }

    /// What was written is read back by whoever reads next; whether it survives the machine is not the guest's to say.
    async fn sync_data(&mut self, descriptor: Resource<types::Descriptor>) -> FsResult<()> {
        self.opened(&descriptor).map(drop)
    }

    async fn sync(&mut self, descriptor: Resource<types::Descriptor>) -> FsResult<()> {
        self.opened(&descriptor).map(drop)
    }

    async fn get_flags(&mut self, descriptor: Resource<types::Descriptor>) -> FsResult<types::DescriptorFlags> {
        Ok(self.opened(&descriptor)?.flags)
    }

    async fn get_type(&mut self, descriptor: Resource<types::Descriptor>) -> FsResult<types::DescriptorType> {
        Ok(kind(self.opened(&descriptor)?.node.kind))
    }

    async fn set_size(&mut self, descriptor: Resource<types::Descriptor>, size: u64) -> FsResult<()> {
        let open = self.opened(&descriptor)?;
        open.file(types::DescriptorFlags::WRITE)?;
        self.about_to_change(&open.mount).await?;
        let (path, file) = (open.path, open.file);
        Ok(open.mount.turn(move |tree| tree.set_size(&path, &file, size)).await?)
    }

    /// Taken and ignored: programs that copy files set times and fail if they cannot.
    async fn set_times(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _accessed: types::NewTimestamp,
        _modified: types::NewTimestamp,
    ) -> FsResult<()> {
        let open = self.opened(&descriptor)?;
        self.about_to_change(&open.mount).await
    }

    async fn read(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        length: u64,
        offset: u64,
    ) -> FsResult<(Vec<u8>, bool)> {
        let open = self.opened(&descriptor)?;
        open.file(types::DescriptorFlags::READ)?;
        let (path, file) = (open.path, open.file);
        let length = length.min(HOST_CALL_BYTES_MAX as u64).min(READ_BYTES_MAX);
        Ok(open.mount.turn(move |tree| tree.read_at(&path, &file, offset, length)).await?)
    }

    async fn write(&mut self, descriptor: Resource<types::Descriptor>, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        let open = self.opened(&descriptor)?;
        open.file(types::DescriptorFlags::WRITE)?;
        self.about_to_change(&open.mount).await?;
        self.ctx.written().add(bytes.len());
        let (path, file, length) = (open.path, open.file, bytes.len() as u64);
        open.mount.turn(move |tree| tree.write_at(&path, &file, At::Offset(offset), &bytes)).await?;
        Ok(length)
    }

    async fn read_directory(
        &mut self,
        descriptor: Resource<types::Descriptor>,
    ) -> FsResult<Resource<types::DirectoryEntryStream>> {
        let open = self.opened(&descriptor)?;
        let path = open.joined("")?;
        let names = open.mount.turn(move |tree| tree.names(&path)).await?;
        let bytes = names.iter().map(|(name, _)| name.len() + NAME_OVERHEAD_BYTES).sum();
        let held = self.meter.run().hold(bytes).ok_or(ErrorCode::InsufficientMemory)?;
        let names = self.table.push(Names { rest: names.into_iter(), _held: held }).map_err(FsError::trap)?;
        Ok(Resource::new_own(names.rep()))
    }

    async fn create_directory_at(&mut self, descriptor: Resource<types::Descriptor>, path: String) -> FsResult<()> {
        let open = self.opened(&descriptor)?;
        let path = open.joined(&path)?;
        self.about_to_change(&open.mount).await?;
        Ok(open.mount.turn(move |tree| tree.make_dir(&path)).await?)
    }

    async fn stat(&mut self, descriptor: Resource<types::Descriptor>) -> FsResult<types::DescriptorStat> {
        let open = self.opened(&descriptor)?;
        Ok(stat(open.node().await?, open.mount.is_workspace))
    }

    async fn stat_at(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::DescriptorStat> {
        let open = self.opened(&descriptor)?;
        let path = open.joined(&path)?;
        Ok(stat(open.mount.turn(move |tree| tree.stat(&path)).await?, open.mount.is_workspace))
    }

    async fn set_times_at(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _flags: types::PathFlags,
        path: String,
        _accessed: types::NewTimestamp,
        _modified: types::NewTimestamp,
    ) -> FsResult<()> {
        let open = self.opened(&descriptor)?;
        let path = open.joined(&path)?;
        self.about_to_change(&open.mount).await?;
        open.mount.turn(move |tree| tree.stat(&path)).await?;
        Ok(())
    }

    async fn link_at(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _flags: types::PathFlags,
        _from: String,
        _to: Resource<types::Descriptor>,
        _path: String,
    ) -> FsResult<()> {
        self.opened(&descriptor)?;
        Err(ErrorCode::NotPermitted.into())
    }

    async fn open_at(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _path_flags: types::PathFlags,
        path: String,
        how: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Resource<types::Descriptor>> {
        let open = self.opened(&descriptor)?;
        let path = open.joined(&path)?;
        let opening = Opening {
            create: how.contains(types::OpenFlags::CREATE),
            exclusive: how.contains(types::OpenFlags::EXCLUSIVE),
            truncate: how.contains(types::OpenFlags::TRUNCATE),
            directory: how.contains(types::OpenFlags::DIRECTORY),
        };
        if opening.create || opening.truncate || flags.contains(types::DescriptorFlags::WRITE) {
            self.about_to_change(&open.mount).await?;
        }
        let at = path.clone();
        let (node, file) = open.mount.turn(move |tree| tree.open(&at, opening)).await?;
        self.open(Descriptor { mount: open.mount, path, node, file, flags }).map_err(FsError::trap)
    }

    fn drop(&mut self, descriptor: Resource<types::Descriptor>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Descriptor>::new_own(descriptor.rep()))?;
        Ok(())
    }

    async fn readlink_at(&mut self, descriptor: Resource<types::Descriptor>, path: String) -> FsResult<String> {
        let open = self.opened(&descriptor)?;
        let path = open.joined(&path)?;
        open.mount.turn(move |tree| tree.stat(&path)).await?;
        // What is there is no link: there are none.
        Err(ErrorCode::Invalid.into())
    }

    async fn remove_directory_at(&mut self, descriptor: Resource<types::Descriptor>, path: String) -> FsResult<()> {
        self.remove(&descriptor, &path, EntryKind::Directory).await
    }

    async fn rename_at(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        from: String,
        to_descriptor: Resource<types::Descriptor>,
        to: String,
    ) -> FsResult<()> {
        let (open, to_open) = (self.opened(&descriptor)?, self.opened(&to_descriptor)?);
        let (from, to) = (open.joined(&from)?, to_open.joined(&to)?);
        if !open.mount.is(&to_open.mount) {
            return Err(ErrorCode::CrossDevice.into());
        }
        self.about_to_change(&open.mount).await?;
        Ok(open.mount.turn(move |tree| tree.rename(&from, &to)).await?)
    }

    async fn symlink_at(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _to: String,
        _path: String,
    ) -> FsResult<()> {
        self.opened(&descriptor)?;
        Err(ErrorCode::NotPermitted.into())
    }

    async fn unlink_file_at(&mut self, descriptor: Resource<types::Descriptor>, path: String) -> FsResult<()> {
        self.remove(&descriptor, &path, EntryKind::File).await
    }

    fn read_via_stream(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynInputStream>> {
        let open = self.opened(&descriptor)?;
        open.file(types::DescriptorFlags::READ)?;
        let held = self.meter.run().hold(streams::CHUNK_BYTES).ok_or(ErrorCode::InsufficientMemory)?;
        let reader: DynInputStream = Box::new(Reader::new(self.ctx.clone(), open, offset, held));
        self.table.push(reader).map_err(FsError::trap)
    }

    fn write_via_stream(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&descriptor, At::Offset(offset))
    }

    fn append_via_stream(&mut self, descriptor: Resource<types::Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&descriptor, At::End)
    }

    async fn is_same_object(
        &mut self,
        a: Resource<types::Descriptor>,
        b: Resource<types::Descriptor>,
    ) -> wasmtime::Result<bool> {
        let (a, b) = (self.table.get(&ours(&a))?, self.table.get(&ours(&b))?);
        let same_file = a.node.kind == EntryKind::Directory || Arc::ptr_eq(&a.file, &b.file);
        Ok(a.mount.is(&b.mount) && a.path == b.path && a.node.kind == b.node.kind && same_file)
    }

    async fn metadata_hash(&mut self, descriptor: Resource<types::Descriptor>) -> FsResult<types::MetadataHashValue> {
        let open = self.opened(&descriptor)?;
        open.node().await?;
        Ok(hash(&open.mount, &open.path))
    }

    async fn metadata_hash_at(
        &mut self,
        descriptor: Resource<types::Descriptor>,
        _flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        let open = self.opened(&descriptor)?;
        let path = open.joined(&path)?;
        let found = hash(&open.mount, &path);
        open.mount.turn(move |tree| tree.stat(&path)).await?;
        Ok(found)
    }
}

impl Guest {
    async fn remove(&mut self, descriptor: &Resource<types::Descriptor>, path: &str, kind: EntryKind) -> FsResult<()> {
        let open = self.opened(descriptor)?;
        let path = open.joined(path)?;
        self.about_to_change(&open.mount).await?;
        Ok(open.mount.turn(move |tree| tree.remove_kind(&path, kind)).await?)
    }

    fn writer(&mut self, descriptor: &Resource<types::Descriptor>, at: At) -> FsResult<Resource<DynOutputStream>> {
        let open = self.opened(descriptor)?;
        // That the mount may be changed was asked when the file was opened for writing, and cannot change since.
        open.file(types::DescriptorFlags::WRITE)?;
        let held = self.meter.run().hold(streams::CHUNK_BYTES).ok_or(ErrorCode::InsufficientMemory)?;
        let writer: DynOutputStream = Box::new(Writer::new(self.ctx.clone(), open, at, held));
        self.table.push(writer).map_err(FsError::trap)
    }
}

impl HostDirectoryEntryStream for Guest {
    async fn read_directory_entry(
        &mut self,
        names: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        let names = self.table.get_mut(&Resource::<Names>::new_borrow(names.rep())).map_err(FsError::trap)?;
        let next = names.rest.next();
        Ok(next.map(|(name, of)| types::DirectoryEntry { type_: kind(of), name }))
    }

    fn drop(&mut self, names: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Names>::new_own(names.rep()))?;
        Ok(())
    }
}
