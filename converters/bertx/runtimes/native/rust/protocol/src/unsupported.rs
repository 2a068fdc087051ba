//! What a library lacks.

use std::fmt;

/// An artifact that is whole, and needs an operator or a type that the library of this runner does not have.
///
/// It is no failure of the artifact, as long as another program runs it: so only what the library says of itself
/// while it loads belongs here, never a file that cannot be read.
#[derive(Debug)]
pub struct Unsupported(String);

impl Unsupported {
    pub fn new(what: impl fmt::Display) -> Self {
        Self(format!("{what:#}"))
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}
