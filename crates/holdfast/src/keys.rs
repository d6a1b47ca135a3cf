//! The encryption key files of an instance, and the key set built from them.
//!
//! `secret.key` in the data folder is the first key, created at the first start; `keys/<id>.key` are those of later rotations.
//! The database names the active key, so that all instances agree.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Read},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use model::clock::SharedClock;
use store::{
    Db,
    keys::{KeyRing, SecretKey},
};
use tokio_util::sync::CancellationToken;

use crate::modes;

/// How often the folder and the database are checked for a new key.
const WATCH_INTERVAL: Duration = Duration::from_secs(3);

/// The most key files that are read.
const FILES_MAX: usize = 100;

/// The file of the key from the first start.
fn first(folder: &Path) -> PathBuf {
    folder.join("secret.key")
}

/// The folder of the keys of later rotations.
fn later(folder: &Path) -> PathBuf {
    folder.join("keys")
}

/// The file of a key of a rotation.
pub(crate) fn path(folder: &Path, id: &str) -> PathBuf {
    later(folder).join(format!("{id}.key"))
}

/// Every key of the folder with its file, by id. A file that can't be used is passed to `unfit`.
pub(crate) fn read_all(
    folder: &Path,
    mut unfit: impl FnMut(&Path, anyhow::Error),
) -> anyhow::Result<BTreeMap<String, (PathBuf, SecretKey)>> {
    let mut files = vec![first(folder)];
    match fs::read_dir(later(folder)) {
        Ok(entries) => {
            for entry in entries.take(FILES_MAX) {
                let path = entry.with_context(|| format!("{} can't be read.", later(folder).display()))?.path();
                if path.extension().is_some_and(|extension| extension == "key") {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{} can't be read.", later(folder).display())),
    }
    files.sort();
    let mut keys = BTreeMap::new();
    for path in files {
        match read(&path) {
            Ok(Some(key)) => drop(keys.insert(key.id().to_owned(), (path, key))),
            Ok(None) => {}
            Err(error) => unfit(&path, error),
        }
    }
    Ok(keys)
}

/// The keys of this instance. The first one is created if neither the database nor the folder has a key.
///
/// # Errors
/// When the active key is missing or is not the one in the database, or when a file can't be used.
pub(crate) async fn open(folder: &Path, db: &Db) -> anyhow::Result<Arc<KeyRing>> {
    let mut unfit = None;
    let mut keys = read_all(folder, |path, error| {
        unfit.get_or_insert_with(|| error.context(format!("The key file {} can't be used.", path.display())));
    })?;
    if let Some(error) = unfit {
        return Err(error);
    }
    let shown = first(folder);
    let shown = shown.display();
    let known = store::keys::active(db).await?;
    if keys.is_empty() {
        if let Some(known) = known {
            bail!(
                "The key file {shown} is missing, and {} has none. The secrets in the database are encrypted with the key \
                 {known} and can't be read without it. Restore the file from a backup.",
                later(folder).display()
            );
        }
        let key = make(&first(folder), &SecretKey::generate())
            .with_context(|| format!("The key file {shown} can't be created."))?;
        keys.insert(key.id().to_owned(), (first(folder), key));
    }
    let mine = keys.values().find(|(path, _)| *path == first(folder)).or_else(|| keys.values().next());
    let mine = mine.map(|(_, key)| key.id().to_owned()).unwrap_or_default();
    let mut tx = db.write().await?;
    let active = store::keys::claim(&mut tx, &mine).await?;
    tx.commit().await?;
    if !keys.contains_key(&active) {
        bail!(
            "The key file {shown} holds the key {mine}, but the secrets in the database are encrypted with the key \
             {active}. Restore the right file as {}; without it they can't be read.",
            path(folder, &active).display()
        );
    }
    for (id, rows) in store::keys::needed(&mut db.read().await?).await? {
        if !keys.contains_key(&id) {
            let file = path(folder, &id);
            tracing::error!(key = id, rows, file = %file.display(), "a key file is missing; the secrets under it can't be read");
        }
    }
    let folder = folder.to_owned();
    let source = move || match read_all(&folder, |path, error| {
        tracing::warn!(file = %path.display(), error = format!("{error:#}"), "a key file can't be used");
    }) {
        Ok(keys) => keys.into_values().map(|(_, key)| key).collect(),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the key files can't be read");
            Vec::new()
        }
    };
    Ok(Arc::new(KeyRing::new(Box::new(source), active)))
}

/// Watches for new and removed keys, and for a change of the active key, until the service stops.
pub(crate) async fn watch(ring: Arc<KeyRing>, folder: PathBuf, db: Db, clock: SharedClock, stop: CancellationToken) {
    let mut missing = None;
    loop {
        tokio::select! {
            () = clock.sleep(WATCH_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        let (came, went) = ring.reload();
        for id in came {
            tracing::info!(key = id, "found a new key file");
        }
        for id in went {
            tracing::info!(key = id, "a key file was removed");
        }
        // While the database does not answer, nothing is written with any key.
        let Ok(Some(active)) = store::keys::active(&db).await else { continue };
        if ring.set_active(&active) {
            tracing::info!(key = active, "the active encryption key changed");
        }
        let lacks = ring.lacks_active();
        if lacks && missing.as_ref() != Some(&active) {
            let file = path(&folder, &active);
            tracing::error!(
                key = active,
                file = %file.display(),
                "the file of the active encryption key is missing: secrets under other keys can be read, but no secret can be stored"
            );
        }
        missing = lacks.then_some(active);
    }
}

fn read(path: &Path) -> anyhow::Result<Option<SecretKey>> {
    modes::make_private(path).context("Its mode can't be made private.")?;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!(
            "Another user owns it, and others can read it (mode {:o}). Make it private: chown, chmod 600.",
            mode & 0o777
        );
    }
    key(&file).map(|bytes| Some(SecretKey::new(bytes)))
}

/// The key in a file.
fn key(mut file: &File) -> anyhow::Result<[u8; 32]> {
    let mut text = String::new();
    Read::take(&mut file, 1024).read_to_string(&mut text)?;
    let bytes: Option<[u8; 32]> = hex::decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.context("It does not hold 64 hexadecimal digits.")
}

/// Creates the file of a new key.
pub(crate) fn add(folder: &Path) -> anyhow::Result<SecretKey> {
    let bytes = SecretKey::generate();
    let path = path(folder, SecretKey::new(bytes).id());
    DirBuilder::new().recursive(true).mode(0o700).create(later(folder))?;
    files::sync_folder(folder)?;
    Ok(make(&path, &bytes)?)
}

/// Writes a key durably before it is used.
fn make(path: &Path, bytes: &[u8; 32]) -> std::io::Result<SecretKey> {
    files::write_durably(path, format!("{}\n", hex::encode(bytes)).as_bytes())?;
    Ok(SecretKey::new(*bytes))
}

/// Copies the key files of a folder, such as a mounted Secret, into the data folder, readable by the service's user alone. Gives
/// the files that were written.
///
/// # Errors
/// When there is no key file, one does not hold a key, or a file can't be written.
pub(crate) fn copy(from: &Path, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(from).with_context(|| format!("The folder {} can't be read.", from.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("The folder {} can't be read.", from.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            names.push(path);
        }
    }
    names.sort();
    if names.is_empty() || names.len() > FILES_MAX {
        bail!(
            "{} has {} key files (*.key); at least one and at most {FILES_MAX} are needed.",
            from.display(),
            names.len()
        );
    }
    DirBuilder::new().recursive(true).mode(0o700).create(later(folder))?;
    let mut written = Vec::new();
    for from in names {
        let unusable = || format!("The key file {} can't be used.", from.display());
        let key = key(&File::open(&from).with_context(unusable)?).with_context(unusable)?;
        let name = from.file_name().unwrap_or_default();
        let to = if name == "secret.key" { first(folder) } else { later(folder).join(name) };
        make(&to, &key).with_context(|| format!("The key file {} can't be written.", to.display()))?;
        written.push(to);
    }
    Ok(written)
}

/// Deletes a key file.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), files::sync_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_key_is_made_once_and_a_wrong_or_missing_one_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let db = Db::open_sqlite(&folder.join("holdfast.db"), Arc::new(clock::SystemClock)).await.unwrap();
        let refused = async || format!("{:#}", open(folder, &db).await.unwrap_err());
        let first_id = open(folder, &db).await.unwrap().ids();
        let file = folder.join("secret.key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(folder, &db).await.unwrap().ids(), first_id);

        fs::rename(&file, folder.join("kept")).unwrap();
        let gone = refused().await;
        assert!(gone.contains(&first_id[0]) && !file.exists(), "{gone}");
        make(&file, &SecretKey::generate()).unwrap();
        let wrong = refused().await;
        assert!(wrong.contains(&first_id[0]), "{wrong}");

        fs::rename(folder.join("kept"), &file).unwrap();
        // One of this user is made private again; a job may have changed its mode.
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        for wrong in [0o644, 0] {
            fs::set_permissions(&file, fs::Permissions::from_mode(wrong)).unwrap();
            assert_eq!(open(folder, &db).await.unwrap().ids(), first_id);
            assert_eq!(mode(), 0o600);
        }
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
            assert!(refused().await.contains("chmod 600"));
            assert_eq!(mode(), 0o644);
        }
    }

    #[test]
    fn key_files_of_a_mounted_secret_are_copied_for_the_service_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("secret"), dir.path().join("data"));
        fs::create_dir(&from).unwrap();
        let refused = || format!("{:#}", copy(&from, &to).unwrap_err());
        assert!(refused().contains("0 key files"), "{}", refused());
        for name in ["secret.key", "0123456789abcdef.key", "other.txt"] {
            fs::write(from.join(name), "0a".repeat(32)).unwrap();
            fs::set_permissions(from.join(name), fs::Permissions::from_mode(0o440)).unwrap();
        }
        let expected = [to.join("keys/0123456789abcdef.key"), to.join("secret.key")];
        // Again at each start of a pod.
        for _ in 0..2 {
            assert_eq!(copy(&from, &to).unwrap(), expected);
        }
        for file in &expected {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(read(file).unwrap().is_some(), "{}", file.display());
        }
        assert_eq!(fs::read_dir(to.join("keys")).unwrap().count(), 1);
        fs::write(from.join("secret.key"), "not a key").unwrap();
        let why = refused();
        assert!(why.contains("secret.key can't be used") && !why.contains("not a key"), "{why}");
    }

    #[tokio::test]
    async fn a_new_key_file_is_used_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&dir.path().join("holdfast.db"), Arc::new(clock::SystemClock)).await.unwrap();
        let ring = open(dir.path(), &db).await.unwrap();
        let added = add(dir.path()).unwrap();
        let file = path(dir.path(), added.id());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ring.key(added.id()).unwrap().id(), added.id());
        // One whose mode was changed stays, and is private again.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(ring.reload(), (vec![], vec![]));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
