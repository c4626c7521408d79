//! What the administrator decided for all consumers, from the command line: one value that passes are given.

use std::{fmt, str::FromStr};

/// The user that pods run as unless the spec says otherwise: `nonroot` of the distroless images.
const NON_ROOT: i64 = 65_532;
/// The most pods of one consumer unless the administrator chose another number.
pub const MAX_REPLICAS: i32 = 256;

/// What holds for all consumers of this operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The stock consumer's image.
    pub image: Option<String>,
    /// The user that pods run as.
    pub run_as: RunAs,
    /// The most pods of one consumer, whatever its spec says.
    pub max_replicas: i32,
}

impl Default for Platform {
    fn default() -> Self {
        Self { image: None, run_as: RunAs::default(), max_replicas: MAX_REPLICAS }
    }
}

/// The user of consumer pods whose spec names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// This user and group.
    User(i64),
    /// The one that the platform assigns (OpenShift refuses pods that name one), or the image's own.
    Assigned,
}

impl Default for RunAs {
    fn default() -> Self {
        Self::User(NON_ROOT)
    }
}

impl RunAs {
    /// The number for `runAsUser`, `runAsGroup` and `fsGroup`, if there is to be one.
    pub const fn id(self) -> Option<i64> {
        match self {
            Self::User(id) => Some(id),
            Self::Assigned => None,
        }
    }
}

/// Why a word names no user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a user id from 1 to 2147483647, or `assigned` where the platform chooses one")]
pub struct NoUser;

impl FromStr for RunAs {
    type Err = NoUser;

    fn from_str(word: &str) -> Result<Self, NoUser> {
        match word {
            "assigned" => Ok(Self::Assigned),
            id => match id.parse::<i32>() {
                Ok(id) if id > 0 => Ok(Self::User(id.into())),
                _ => Err(NoUser),
            },
        }
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::Assigned => f.write_str("assigned"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_number_above_root_or_the_platforms_choice() {
        for (word, expected) in [
            ("65532", Ok(RunAs::User(65_532))),
            ("assigned", Ok(RunAs::Assigned)),
            ("0", Err(NoUser)),
            ("-1", Err(NoUser)),
            ("4294967296", Err(NoUser)),
            ("", Err(NoUser)),
            ("nobody", Err(NoUser)),
        ] {
            assert_eq!(word.parse::<RunAs>(), expected, "{word:?}");
        }
        assert_eq!(RunAs::default().to_string().parse(), Ok(RunAs::default()));
    }
}
