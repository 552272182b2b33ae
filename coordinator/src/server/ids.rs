//! Where new ids come from.

use std::{fmt, sync::Arc};

/// Makes numbers that sort by time and never come twice: those of runs and backfills. Cheap to clone.
#[derive(Clone)]
pub struct Ids(Arc<dyn Fn() -> u128 + Send + Sync>);

impl Ids {
    /// Takes another source than time and chance, for a cluster that must go the same way twice.
    #[must_use]
    pub fn from(source: impl Fn() -> u128 + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// Gives the next one.
    #[must_use]
    pub fn next(&self) -> u128 {
        (self.0)()
    }

    /// Gives the next one in 26 characters that sort by time.
    #[must_use]
    pub fn next_text(&self) -> String {
        ulid::Ulid(self.next()).to_string().to_lowercase()
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::from(|| ulid::Ulid::new().0)
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}
