//! The sandbox's own keys. They are made by the first start and kept in the data folder, so that commands beside the server can sign
//! with them, and sessions outlive a restart.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const FILE: &str = "sandbox-keys.json";

/// Worth nothing outside the sandbox, and guarded all the same: one of them makes session tokens.
#[derive(Debug, Clone)]
pub struct SandboxKeys {
    /// What the sandbox's API asks for: `sk_test_…`.
    pub stripe_key: SecretString,
    /// Signs the sandbox's deliveries: `whsec_…`.
    pub webhook_secret: SecretString,
    /// Signs session tokens (HS256).
    pub jwt_secret: SecretString,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The sandbox has never run with this folder.
    #[error("{} is not there: start `tollgate serve` once, or name its folder with --data", .0.display())]
    Absent(PathBuf),
    /// It is there, and cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What happened.
        cause: io::Error,
    },
    /// It does not hold keys. What it holds is not repeated.
    #[error("{} does not hold the sandbox's keys; remove it, and the next start makes new ones", .0.display())]
    Damaged(PathBuf),
}

/// As in the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    stripe_key: String,
    webhook_secret: String,
    jwt_secret: String,
}

impl SandboxKeys {
    /// The keys of the sandbox in this folder.
    ///
    /// # Errors
    /// [`KeysError`], also if there are none yet.
    pub fn load(directory: &Path) -> Result<Self, KeysError> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<Stored>(&text).map(Self::from).map_err(|_| KeysError::Damaged(path)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(KeysError::Absent(path)),
            Err(cause) => Err(KeysError::Failed { path, cause }),
        }
    }

    /// The same; makes folder and keys where there are none. Of several at once one makes them, and the others take those.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn load_or_create(directory: &Path) -> Result<Self, KeysError> {
        match Self::load(directory) {
            Err(KeysError::Absent(path)) => {
                create(directory, &path).map_err(|cause| KeysError::Failed { path, cause })?;
                Self::load(directory)
            }
            other => other,
        }
    }
}

/// Written aside and linked into place: nobody ever sees half a file, and nobody's keys are replaced.
fn create(directory: &Path, path: &Path) -> io::Result<()> {
    // Version 4: 122 random bits each, from the operating system.
    let random = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let keys = Stored {
        stripe_key: format!("sk_test_{}", random()),
        webhook_secret: format!("whsec_{}", random()),
        jwt_secret: random(),
    };
    fs::create_dir_all(directory)?;
    let aside = directory.join(format!("{FILE}.{}", Uuid::new_v4().simple()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let linked = file
        .write_all(serde_json::to_string_pretty(&keys)?.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| match fs::hard_link(&aside, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
    fs::remove_file(&aside)?;
    linked
}

impl From<Stored> for SandboxKeys {
    fn from(stored: Stored) -> Self {
        Self {
            stripe_key: stored.stripe_key.into(),
            webhook_secret: stored.webhook_secret.into(),
            jwt_secret: stored.jwt_secret.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn exposed(keys: &SandboxKeys) -> [&str; 3] {
        [&keys.stripe_key, &keys.webhook_secret, &keys.jwt_secret].map(|key| key.expose_secret())
    }

    #[test]
    fn made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("a/b");
        assert!(matches!(SandboxKeys::load(&directory), Err(KeysError::Absent(_))));
        let keys = SandboxKeys::load_or_create(&directory).unwrap();
        assert_eq!(exposed(&SandboxKeys::load(&directory).unwrap()), exposed(&keys));
        assert_eq!(exposed(&SandboxKeys::load_or_create(&directory).unwrap()), exposed(&keys));
        let [stripe_key, webhook_secret, jwt_secret] = exposed(&keys);
        assert!(stripe_key.starts_with("sk_test_") && webhook_secret.starts_with("whsec_") && jwt_secret.len() == 64);
        let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), 1, "nothing is left aside");
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn of_several_first_starts_all_have_the_same_keys() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<SandboxKeys> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| SandboxKeys::load_or_create(folder.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.windows(2).all(|pair| exposed(&pair[0]) == exposed(&pair[1])));
    }

    #[test]
    fn a_damaged_file_is_told_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), r#"{"stripeKey":"sk_test_canary"}"#).unwrap();
        let error = SandboxKeys::load_or_create(folder.path()).unwrap_err();
        assert!(matches!(error, KeysError::Damaged(_)) && !format!("{error} {error:?}").contains("canary"), "{error}");
    }
}
