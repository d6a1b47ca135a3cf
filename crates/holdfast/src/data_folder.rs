//! The folder that holds everything of one instance: the database, the key, environments and runs.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use store::{Db, secrets::SecretKey};

/// The data folder, held by this instance until it is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder where there is none, and takes it for this instance alone.
    ///
    /// # Errors
    /// When another instance has it, or when it can't be made or written to.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("The data folder {shown} can't be made. Choose another with --data-dir."))?;
        let path = path.canonicalize().with_context(|| format!("The data folder {shown} can't be reached."))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| format!("The data folder {shown} can't be written to. Choose another with --data-dir."))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "Another Holdfast uses the data folder {shown}. One instance a folder: stop the other one, or choose \
                 another folder with --data-dir."
            ),
            Err(TryLockError::Error(error)) => Err(error)
                .with_context(|| format!("The data folder {shown} can't be locked; its file system must offer locks.")),
        }
    }

    /// The folder's path, links followed.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("holdfast.db")
    }

    /// The key that secrets are encrypted with: made at the first start, readable by this user alone, and the same one ever
    /// after, which the database checks.
    ///
    /// # Errors
    /// When the key is gone or is another one than the database's secrets were encrypted with.
    pub(crate) async fn secret_key(&self, db: &Db) -> anyhow::Result<SecretKey> {
        let path = self.path.join("secret.key");
        let shown = path.display();
        let found = read_key(&path).with_context(|| format!("The key file {shown} can't be used."))?;
        let key = if let Some(key) = found {
            key
        } else {
            if let Some(known) = store::secrets::known_key(db).await? {
                bail!(
                    "The key file {shown} is gone. The secrets in the database are encrypted with the key {known}, and \
                     nobody can read them without it. Put the file back from a backup."
                );
            }
            make_key(&path).with_context(|| format!("The key file {shown} can't be made."))?
        };
        if let Err(known) = store::secrets::claim_key(db, &key).await? {
            bail!(
                "The key file {shown} holds the key {}, but the secrets in the database are encrypted with the key {known}. \
                 Put the right file back; with this one they can't be read.",
                key.id()
            );
        }
        Ok(key)
    }
}

fn read_key(path: &Path) -> anyhow::Result<Option<SecretKey>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("Others can read it (mode {:o}). Make it private: chmod 600.", mode & 0o777);
    }
    let mut text = String::new();
    Read::take(&mut file, 1024).read_to_string(&mut text)?;
    let bytes: Option<[u8; 32]> = hex::decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    match bytes {
        Some(bytes) => Ok(Some(SecretKey::new(bytes))),
        None => bail!("It does not hold 64 hexadecimal digits."),
    }
}

/// Makes a key and has it on disk before anything is encrypted with it.
fn make_key(path: &Path) -> anyhow::Result<SecretKey> {
    let bytes = SecretKey::generate();
    let temporary = path.with_extension("key.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{}", hex::encode(bytes))?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(SecretKey::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_key_is_made_once_and_a_wrong_or_missing_one_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&dir.path().join("data")).unwrap();
        let db = Db::open_sqlite(&folder.database()).await.unwrap();
        let first = folder.secret_key(&db).await.unwrap();
        let file = folder.path().join("secret.key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.secret_key(&db).await.unwrap().id(), first.id());

        fs::rename(&file, folder.path().join("kept")).unwrap();
        let gone = folder.secret_key(&db).await.unwrap_err().to_string();
        assert!(gone.contains(first.id()) && !file.exists(), "{gone}");
        make_key(&file).unwrap();
        let wrong = folder.secret_key(&db).await.unwrap_err().to_string();
        assert!(wrong.contains(first.id()), "{wrong}");

        fs::rename(folder.path().join("kept"), &file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(format!("{:#}", folder.secret_key(&db).await.unwrap_err()).contains("chmod 600"));
    }

    #[test]
    fn a_second_instance_of_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataFolder::open(dir.path()).unwrap();
        assert!(DataFolder::open(dir.path()).unwrap_err().to_string().contains("Another Holdfast"));
        drop(held);
        DataFolder::open(dir.path()).unwrap();
    }
}
