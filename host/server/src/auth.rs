//! The only place where an identity enters from the wire: bearer API keys.

use crate::api::{Api, problem::Problem};
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use cofferdam_core::{
    identity::{Identity, Operator, Role, Scope},
    ids::{Digest, IdempotencyKey, KeyId, UserId},
    storage::{ApiKey, Storage, StorageError},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// How a key begins, so that people and secret scanners know one when they see it.
const PREFIX: &str = "cof_";

/// The characters of 32 bytes in base64url without padding.
const ENCODED_CHARS: usize = 43;

/// How many keys are remembered after they were looked up. At this mark all are forgotten and looked up again.
const KNOWN_KEYS_MAX: usize = 10_000;

/// A key as its owner keeps it: `cof_` and 43 characters. Storage knows its SHA-256 only.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new one, of 32 random bytes.
    ///
    /// # Errors
    /// When the operating system has no random numbers to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self::of_bytes(bytes))
    }

    /// The secret of the key that a repeatable request makes: as good as random to whoever lacks the host's secret, and
    /// the same each time, so that the request can be answered again though storage holds the secret of no key. Neither
    /// does it hold the idempotency key, so that storage and the host's secret together do not give the secret away.
    #[must_use]
    pub fn derive(
        host: &HostSecret,
        operator: &UserId,
        idempotency: &IdempotencyKey,
        body: &Digest,
        id: &KeyId,
    ) -> Self {
        let mut mac = <Hmac<Sha256>>::new(&host.0.into());
        let body = body.to_string();
        for part in ["cofferdam-api-key-1", operator.as_str(), idempotency.as_str(), &body, id.as_str()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        Self::of_bytes(mac.finalize().into_bytes().into())
    }

    fn of_bytes(bytes: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// A text that has the form of a key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX)?;
        let valid = encoded.len() == ENCODED_CHARS
            && encoded.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        valid.then(|| Self(text.to_owned()))
    }

    /// The key itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    // A key has 256 random bits, so a plain digest cannot be reversed by guessing; and looking it up by its digest
    // leaves nothing to time.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// What this host alone knows: 64 random bytes, made at its first start.
#[derive(Clone)]
pub struct HostSecret([u8; 64]);

impl HostSecret {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no random numbers to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 64];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// A text that [`reveal`](Self::reveal) gave.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The secret as text.
    #[must_use]
    pub fn reveal(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl fmt::Debug for HostSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostSecret(...)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cof_...")
    }
}

/// Keeps a key for its user, unless it is kept already.
///
/// # Errors
/// When storage fails.
pub async fn keep_key(
    storage: &dyn Storage,
    operator: Operator,
    secret: &Secret,
    user: UserId,
    role: Role,
) -> Result<KeyId, StorageError> {
    let key = ApiKey {
        id: KeyId::generate(),
        user,
        role,
        secret_digest: secret.digest(),
        created_at: cofferdam_core::clock::now(),
    };
    if storage.authenticate(key.secret_digest).await?.is_none() {
        storage.insert_key(operator, &key, None).await?;
    }
    Ok(key.id)
}

/// Finds out who is behind a request.
pub(crate) struct Authentication {
    storage: Arc<dyn Storage>,
    /// Keys that were found before. A key cannot be taken back yet; the change that brings that has to empty this.
    known: Mutex<HashMap<Digest, Identity>>,
}

impl Authentication {
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, known: Mutex::default() }
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        let digest = bearer(headers).ok_or_else(Problem::unauthenticated)?.digest();
        if let Some(identity) = self.known().get(&digest) {
            return Ok(identity.clone());
        }
        let identity = self.storage.authenticate(digest).await?.ok_or_else(Problem::unauthenticated)?;
        let mut known = self.known();
        if known.len() >= KNOWN_KEYS_MAX {
            known.clear();
        }
        known.insert(digest, identity.clone());
        Ok(identity)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Identity>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key in a request's one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") { Secret::parse(key.trim_matches(' ')) } else { None }
}

/// Lets a request through once it is known who is behind it. Runs before anything of the body is read.
pub(crate) async fn authenticate(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let identity = api.authentication.identify(request.headers()).await?;
    let under_way = api.shares.enter(identity.user())?;
    request.extensions_mut().insert(under_way.body_room(&api.room));
    request.extensions_mut().insert(identity);
    Ok(under_way.until_read(next.run(request).await))
}

/// Whoever asks.
pub(crate) struct Caller(pub Identity);

/// A user who asks, with the right to touch their own data.
pub(crate) struct Me(pub Scope);

/// An operator who asks.
pub(crate) struct OperatorKey(pub Operator);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Absent only on a route that was added without authentication: nobody gets in there.
        parts.extensions.get::<Identity>().cloned().map(Self).ok_or_else(Problem::unauthenticated)
    }
}

impl<S: Sync> FromRequestParts<S> for Me {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        Ok(Self(identity.scope()?))
    }
}

impl<S: Sync> FromRequestParts<S> for OperatorKey {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        Ok(Self(identity.operator()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use cofferdam_core::storage::MemoryStorage;

    fn headers(values: &[&str]) -> HeaderMap {
        let value = |text: &&str| HeaderValue::from_str(text).expect("a header value");
        values.iter().map(|text| (header::AUTHORIZATION, value(text))).collect()
    }

    #[test]
    fn a_key_is_taken_in_its_exact_form_only() {
        let secret = Secret::generate().expect("random numbers");
        assert_eq!(secret.reveal().len(), PREFIX.len() + ENCODED_CHARS);
        assert_eq!(Secret::parse(secret.reveal()), Some(secret.clone()));
        assert_eq!(format!("{secret:?}"), "cof_...");
        let key = secret.reveal();
        let (encoded, short) = (key.replace(PREFIX, ""), key.chars().take(46).collect::<String>());
        let forms =
            [&encoded, &short, &format!("{key}a"), &format!("{short}é"), &format!("{short}="), &key.to_uppercase()];
        for text in ["", PREFIX].into_iter().chain(forms.into_iter().map(String::as_str)) {
            assert_eq!(Secret::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_derived_key_is_the_same_for_the_same_request_and_another_for_any_other() {
        let host = HostSecret::generate().expect("random numbers");
        let again = HostSecret::parse(&host.reveal()).expect("reads back");
        let other_host = HostSecret::generate().expect("random numbers");
        let derive = |host: &HostSecret, operator: &str, key: &str, body: &[u8], id: &str| {
            let (operator, key) = (operator.parse().expect("a user"), key.parse().expect("a key"));
            Secret::derive(host, &operator, &key, &Digest::of(body), &id.parse().expect("a key id"))
        };
        let secret = derive(&host, "op", "key", b"body", "key_1");
        assert_eq!(Secret::parse(secret.reveal()), Some(secret.clone()), "it has the form of a key");
        assert_eq!(derive(&again, "op", "key", b"body", "key_1"), secret);
        for other in [
            derive(&other_host, "op", "key", b"body", "key_1"),
            derive(&host, "opk", "ey", b"body", "key_1"),
            derive(&host, "op", "key2", b"body", "key_1"),
            derive(&host, "op", "key", b"body2", "key_1"),
            derive(&host, "op", "key", b"body", "key_2"),
        ] {
            assert!(other != secret);
        }
    }

    #[test]
    fn the_header_is_one_bearer_key() {
        let secret = Secret::generate().expect("random numbers");
        let key = secret.reveal();
        for taken in [format!("Bearer {key}"), format!("bearer {key}"), format!("BEARER  {key}")] {
            assert_eq!(bearer(&headers(&[&taken])), Some(secret.clone()), "{taken}");
        }
        for refused in [
            key.to_owned(),
            format!("Basic {key}"),
            format!("Bearer{key}"),
            format!("Bearer {key} {key}"),
            "Bearer ".into(),
        ] {
            assert_eq!(bearer(&headers(&[&refused])), None, "{refused}");
        }
        let twice = format!("Bearer {key}");
        assert_eq!(bearer(&headers(&[&twice, &twice])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }

    #[tokio::test]
    async fn a_kept_key_stands_for_its_user_and_is_kept_once() {
        let storage = Arc::new(MemoryStorage::default());
        let secret = Secret::generate().expect("random numbers");
        let ann: UserId = "ann".parse().expect("a user id");
        let authentication = Authentication::new(storage.clone());
        let asked = headers(&[&format!("Bearer {}", secret.reveal())]);
        assert!(authentication.identify(&asked).await.is_err());
        for _ in 0..2 {
            keep_key(&*storage, Operator::host(), &secret, ann.clone(), Role::User).await.expect("kept");
        }
        assert_eq!(storage.keys_count(Operator::host()).await.expect("counted"), 1);
        assert_eq!(authentication.identify(&asked).await.expect("known").user(), &ann);
        assert_eq!(authentication.identify(&asked).await.expect("remembered").role(), Role::User);
    }
}
