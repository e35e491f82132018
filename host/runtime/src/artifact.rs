//! Components and their compiled artifacts on disk. An artifact is machine code that the host will execute, so it is
//! loaded only with proof that this host wrote it: an HMAC over everything it depends on.

use crate::{
    compile::{CompileError, Compiler},
    disk::write_in_pieces,
    gate::{self, GateError},
    guest_threads::Aside,
};
use bytes::Bytes;
use cofferdam_core::ids::{Digest, UserId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use wasmtime::component::Component;

/// What an artifact depends on besides the component: a change here makes all artifacts of before strangers.
const ARTIFACT_VERSION: &str = concat!("cofferdam-artifact-1 ", env!("CARGO_PKG_VERSION"));

/// An HMAC-SHA256, in bytes.
const TAG_BYTES: usize = 32;

/// Why a component cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Its structure is one that is not compiled: the gate's limits are newer than the component.
    #[error(transparent)]
    Structure(#[from] GateError),
    /// Its bytes are gone or changed.
    #[error("the component {0} is not in the host's store any more; push the plugin again")]
    Missing(Digest),
    /// The disk failed.
    #[error("the component store cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// It asks for more than a slot of the pool has.
    #[error("{0}")]
    TooLarge(String),
    /// The engine refused what its own worker compiled.
    #[error("the engine refused an artifact: {0}")]
    Engine(String),
}

/// Components and artifacts below one directory, and the compiler that makes one of the other.
#[derive(Debug)]
pub struct Artifacts {
    disk: Arc<Disk>,
    compiler: Compiler,
    aside: Aside,
}

/// What is on disk. All of it blocks: files are read, hashed, and mapped as machine code.
#[derive(Debug)]
struct Disk {
    components: PathBuf,
    artifacts: PathBuf,
    secret: [u8; 64],
}

impl Artifacts {
    /// Opens the store, making it if need be, with the secret that proves what this host wrote.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(dir: &Path, compiler: Compiler, aside: Aside) -> io::Result<Self> {
        let (components, artifacts) = (dir.join("components"), dir.join("artifacts"));
        std::fs::create_dir_all(&components)?;
        std::fs::create_dir_all(&artifacts)?;
        let secret = secret(&dir.join("artifact.key"))?;
        // Before anything is kept in the two: a directory whose own name is not durable is lost with all that is in it.
        std::fs::File::open(dir)?.sync_all()?;
        Ok(Self { disk: Arc::new(Disk { components, artifacts, secret }), compiler, aside })
    }

    /// Keeps a component's bytes.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn keep(&self, digest: Digest, component: Bytes) -> Result<(), ArtifactError> {
        self.on_disk(move |disk| Ok(write_whole(&disk.component(digest), &[&component])?)).await
    }

    /// Compiles a component for a user, or takes the artifact from before. Whoever drops this ends the compile;
    /// `until_kept` is held for as long as something may still be written.
    ///
    /// # Errors
    /// When it does not compile.
    pub async fn compiled(
        &self,
        engine: &wasmtime::Engine,
        user: &UserId,
        digest: Digest,
        component: Bytes,
        until_kept: impl Send + 'static,
    ) -> Result<Component, ArtifactError> {
        let load = engine.clone();
        if let Some(component) = self.on_disk(move |disk| Ok(disk.load(&load, digest))).await? {
            return Ok(component);
        }
        let looked_at = component.clone();
        let shape = self.on_disk(move |_| Ok(gate::check(&looked_at)?)).await?;
        let compiled = self.compiler.compile(user, shape, &component).await?;
        let engine = engine.clone();
        self.on_disk(move |disk| {
            let _until_kept = until_kept;
            let artifact = &compiled.artifact;
            let loaded = deserialize(&engine, artifact).map_err(|error| refusal(&error))?;
            // What cannot be kept is compiled again next time.
            if let Err(error) = write_whole(&disk.artifact(digest), &[&disk.tag(digest, artifact), artifact]) {
                tracing::warn!(%digest, %error, "an artifact is not kept");
            }
            Ok(loaded)
        })
        .await
    }

    /// Removes what is kept of a component that is no plugin. Two names are taken out of two directories, which is soon
    /// done; so it can be the last thing that a push does when its client has gone.
    pub fn forget(&self, digest: Digest) {
        for path in [self.disk.artifact(digest), self.disk.component(digest)] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%digest, %error, "a file of a component that was refused is not removed");
            }
        }
    }

    /// A component that was kept, compiled.
    ///
    /// # Errors
    /// When its bytes are gone, or do not compile.
    pub async fn kept(
        &self,
        engine: &wasmtime::Engine,
        user: &UserId,
        digest: Digest,
    ) -> Result<Component, ArtifactError> {
        let load = engine.clone();
        if let Some(component) = self.on_disk(move |disk| Ok(disk.load(&load, digest))).await? {
            return Ok(component);
        }
        let component = self.on_disk(move |disk| disk.read_component(digest)).await?;
        self.compiled(engine, user, digest, component.into(), ()).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, ArtifactError> + Send + 'static,
    ) -> Result<T, ArtifactError> {
        let disk = self.disk.clone();
        // It takes a while, and is bounded by the largest artifact.
        self.aside.run(move || work(&disk)).await.map_err(ArtifactError::Io)?
    }
}

impl Disk {
    fn component(&self, digest: Digest) -> PathBuf {
        self.components.join(format!("{}.wasm", digest.hex()))
    }

    fn artifact(&self, digest: Digest) -> PathBuf {
        self.artifacts.join(format!("{}.cwasm", digest.hex()))
    }

    fn read_component(&self, digest: Digest) -> Result<Vec<u8>, ArtifactError> {
        let component = std::fs::read(self.component(digest)).map_err(|_| ArtifactError::Missing(digest))?;
        if Digest::of(&component) == digest { Ok(component) } else { Err(ArtifactError::Missing(digest)) }
    }

    /// An artifact from before, if it is there, whole, and ours.
    fn load(&self, engine: &wasmtime::Engine, digest: Digest) -> Option<Component> {
        let bytes = std::fs::read(self.artifact(digest)).ok()?;
        let (tag, artifact) = bytes.split_at_checked(TAG_BYTES)?;
        if self.mac(digest, artifact).verify_slice(tag).is_err() {
            tracing::warn!(%digest, "an artifact on disk was not written by this host, or has changed; compiling anew");
            return None;
        }
        deserialize(engine, artifact)
            .inspect_err(|error| tracing::info!(%digest, %error, "an artifact is of another engine; compiling anew"))
            .ok()
    }

    fn mac(&self, digest: Digest, artifact: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256>>::new(&self.secret.into());
        // The engine checks its own settings against those in the artifact, which the tag covers.
        for part in [ARTIFACT_VERSION.as_bytes(), digest.hex().as_bytes(), artifact] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    fn tag(&self, digest: Digest, artifact: &[u8]) -> [u8; TAG_BYTES] {
        self.mac(digest, artifact).finalize().into_bytes().into()
    }
}

/// Why the engine does not load what its own worker has compiled: the worker has no pool that code must fit into.
fn refusal(error: &wasmtime::Error) -> ArtifactError {
    let why = format!("{error:#}");
    if why.contains("pooling allocator") { ArtifactError::TooLarge(why) } else { ArtifactError::Engine(why) }
}

/// Loads machine code.
#[expect(
    unsafe_code,
    reason = "every caller holds bytes that our own compiler has just written, or that carry our tag"
)]
fn deserialize(engine: &wasmtime::Engine, artifact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes came from a compile worker of this host over a pipe, or from disk with an HMAC under a key that
    // only this host has; neither a guest nor an uploader can choose them.
    unsafe { Component::deserialize(engine, artifact) }
}

/// Writes a file, for its owner only, so that whoever reads it finds all of it or none.
fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut suffix = [0_u8; 8];
    getrandom::fill(&mut suffix).map_err(io::Error::other)?;
    let temporary = path.with_extension(format!("{:016x}.tmp", u64::from_le_bytes(suffix)));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut offset = 0;
        for part in parts {
            write_in_pieces(&mut file, offset, part)?;
            offset += part.len() as u64;
        }
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The name must be durable too before anyone is told that the component is kept.
        path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// The host's secret, made on first use, readable by its owner only.
fn secret(path: &Path) -> io::Result<[u8; 64]> {
    match read_own(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            let what = format!("{} is damaged; remove it, and artifacts are compiled anew", path.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut secret = [0_u8; 64];
            getrandom::fill(&mut secret).map_err(io::Error::other)?;
            // Whole or not at all: a start that was cut off must not leave a key behind that the next one refuses.
            write_whole(path, &[&secret])?;
            Ok(secret)
        }
        Err(error) => Err(error),
    }
}

/// Reads a file that nobody else could have written or read: who knows the secret can make artifacts that are executed.
fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        let what = format!("{} is not this user's alone; remove it, and artifacts are compiled anew", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes)
}
