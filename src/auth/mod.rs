//! Proving who is there: passwords (policy, hashing, imported hashes), tokens and their keys, limits on guessing.
//!
//! Nothing here reads the log or a view; time and identities are handed in.

pub mod api_keys;
mod blocklist;
pub mod imported;
pub mod keys;
pub mod policy;
pub mod pool;
pub(crate) mod private_file;
pub mod refresh;
pub mod secrets;
pub mod throttle;
pub mod tokens;

/// A password as text that is wiped from memory when dropped and that `Debug` does not show.
pub type Password = secrecy::SecretString;

/// The operating system gave no random bytes. Nothing may be issued then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

/// Fresh random bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0u8; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}
