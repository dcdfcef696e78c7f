//! The personal part of an event: clear in memory, sealed in the log, gone after an erasure.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::seal::{Binding, SealError, SubjectKey};

/// Personal data of an event's subject.
///
/// Only the sealed form can be serialized: what forgets to seal fails instead of leaking.
#[derive(Clone, PartialEq, Eq)]
pub enum Personal<T> {
    /// Readable.
    Clear(T),
    /// As it stands in the log.
    Sealed(String),
    /// The subject's key was destroyed; nobody can read it any more.
    Erased,
}

impl<T> Personal<T> {
    /// The data, unless it is sealed or erased.
    pub fn get(&self) -> Option<&T> {
        match self {
            Personal::Clear(t) => Some(t),
            Personal::Sealed(_) | Personal::Erased => None,
        }
    }
}

impl<T> From<T> for Personal<T> {
    fn from(t: T) -> Self {
        Personal::Clear(t)
    }
}

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Personal::Clear(_) => "Personal(clear)",
            Personal::Sealed(_) => "Personal(sealed)",
            Personal::Erased => "Personal(erased)",
        })
    }
}

impl<T> Serialize for Personal<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Personal::Sealed(text) => s.serialize_str(text),
            Personal::Clear(_) | Personal::Erased => Err(serde::ser::Error::custom(
                "personal data must be sealed before it is written",
            )),
        }
    }
}

impl<'de, T> Deserialize<'de> for Personal<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Personal::Sealed)
    }
}

/// The schema of the sealed text, with that of its content under `x-sealed-content`.
impl<T: schemars::JsonSchema> schemars::JsonSchema for Personal<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Sealed{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let content = generator.subschema_for::<T>();
        schemars::json_schema!({
            "type": "string",
            "description": "AES-256-GCM under the subject key, base64url: version, nonce, ciphertext, tag",
            "x-sealed-content": content,
        })
    }
}

/// Sealing and opening, whatever the content.
pub trait Sealable {
    /// Clear becomes sealed. Sealed stays.
    fn seal(&mut self, key: &SubjectKey, bound: &Binding<'_>, nonce: [u8; 12]) -> Result<(), SealError>;
    /// Sealed becomes clear; without a key, erased.
    fn open(&mut self, key: Option<&SubjectKey>, bound: &Binding<'_>) -> Result<(), SealError>;
    /// What is clear, as JSON, for those who were asked to show it. None if it is sealed or erased.
    fn content(&self) -> Option<serde_json::Value>;
}

impl<T: Serialize + DeserializeOwned> Sealable for Personal<T> {
    fn seal(&mut self, key: &SubjectKey, bound: &Binding<'_>, nonce: [u8; 12]) -> Result<(), SealError> {
        match self {
            Personal::Clear(t) => {
                let plain = zeroize::Zeroizing::new(serde_json::to_vec(t).map_err(|_| SealError::Content)?);
                *self = Personal::Sealed(key.seal(&plain, bound, nonce)?);
                Ok(())
            }
            Personal::Sealed(_) => Ok(()),
            Personal::Erased => Err(SealError::Content),
        }
    }

    fn open(&mut self, key: Option<&SubjectKey>, bound: &Binding<'_>) -> Result<(), SealError> {
        let Personal::Sealed(text) = self else {
            return Ok(());
        };
        *self = match key {
            None => Personal::Erased,
            Some(key) => {
                let plain = key.open(text, bound)?;
                Personal::Clear(serde_json::from_slice(&plain).map_err(|_| SealError::Content)?)
            }
        };
        Ok(())
    }

    fn content(&self) -> Option<serde_json::Value> {
        self.get().and_then(|t| serde_json::to_value(t).ok())
    }
}
