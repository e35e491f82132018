//! The `Idempotency-Key` of calls that create something (draft-ietf-httpapi-idempotency-key-header): repeated with the
//! same key and body, they answer with what the first one made.

use super::problem::Problem;
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts},
    response::Response,
};
use cofferdam_core::{idempotency::Once, ids::IdempotencyKey};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The request's key, if it has one.
pub(crate) struct Key(Option<IdempotencyKey>);

impl Key {
    /// What is to be remembered of the request, if it has a key.
    pub fn once(&self, body: &[u8]) -> Option<Once> {
        self.0.as_ref().map(|key| Once::new(key, body))
    }

    /// The key itself.
    pub const fn get(&self) -> Option<&IdempotencyKey> {
        self.0.as_ref()
    }
}

/// Says that an answer tells what an earlier request made.
pub(crate) fn replayed(mut response: Response) -> Response {
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(&parts.headers).map(Self).ok_or_else(|| {
            invalid(
                "Idempotency-Key must be there once, with 1 to 255 visible ASCII characters, which may stand in quotes",
            )
            .field("Idempotency-Key")
        })
    }
}

/// The same of a frame of a socket.
pub(crate) fn once(key: Option<String>, body: &[u8]) -> Result<Option<Once>, Problem> {
    let Some(key) = key else { return Ok(None) };
    match key.parse::<IdempotencyKey>() {
        Ok(key) => Ok(Some(Once::new(&key, body))),
        Err(_) => Err(invalid("idempotency_key must have 1 to 255 visible ASCII characters").field("idempotency_key")),
    }
}

fn invalid(detail: &str) -> Problem {
    Problem::http(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail)
        .hint("send a new random key with each new request, such as a UUID, and the same key when sending it again")
}

/// The key in the request's one header, if there is one; none if it is not valid.
fn read(headers: &HeaderMap) -> Option<Option<IdempotencyKey>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Some(None) };
    if values.next().is_some() {
        return None;
    }
    let text = value.to_str().ok()?.trim_matches([' ', '\t']);
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquoted(quoted.strip_suffix('"')?)?,
        None => text.to_owned(),
    };
    key.parse().ok().map(Some)
}

/// What stands between the quotes of a string (RFC 9651): a backslash comes before a quote or a backslash only.
fn unquoted(text: &str) -> Option<String> {
    let mut key = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        key.push(match character {
            '\\' => characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?,
            '"' => return None,
            other => other,
        });
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Option<Option<String>> {
        let value = |text: &&str| (IDEMPOTENCY_KEY, HeaderValue::from_bytes(text.as_bytes()).expect("a header value"));
        let headers: HeaderMap = values.iter().map(value).collect();
        read(&headers).map(|key| key.map(String::from))
    }

    #[test]
    fn a_key_is_visible_ascii_in_quotes_or_without() {
        assert_eq!(key(&[]), Some(None));
        let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
        for (sent, read) in [
            ("a", "a"),
            ("\"a\"", "a"),
            (" 8e03978e-40d5-43dd-bc93-6894a57f9324\t", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("\"a\\\"b\\\\c\"", "a\"b\\c"),
            ("a\"b", "a\"b"),
            ("~!@#$%^&*(){}[]", "~!@#$%^&*(){}[]"),
            (&longest, &longest),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(key(&[sent]), Some(Some(read.to_owned())), "{sent}");
        }
        for sent in [
            "",
            " ",
            "\"\"",
            "\"",
            "\"a",
            "\"a\"b",
            "\"a\";x=1",
            "\"a\\\"",
            "\"a\\b\"",
            "a b",
            "\"a b\"",
            "é",
            &too_long,
        ] {
            assert_eq!(key(&[sent]), None, "{sent}");
        }
        assert_eq!(key(&["a", "a"]), None, "two are one too many");
    }
}
