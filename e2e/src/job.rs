//! Sample jobs as folders, and archives as bytes.

use std::{
    fs,
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

/// The folder of a data job.
#[derive(Debug)]
pub struct Job {
    name: String,
    parent: TempDir,
    schedule: String,
    options: String,
}

impl Job {
    /// A job of [`crate::TEAM`] without schedule, requirements and steps.
    pub fn new(name: &str) -> Self {
        let parent = tempfile::Builder::new().prefix("holdfast-job-").tempdir().expect("a temporary folder");
        fs::create_dir(parent.path().join(name)).expect("a folder");
        let job = Self { name: name.into(), parent, schedule: String::new(), options: String::new() };
        job.write_config();
        job
    }

    /// With a cron expression.
    #[must_use]
    pub fn schedule(mut self, cron: &str) -> Self {
        cron.clone_into(&mut self.schedule);
        self.write_config();
        self
    }

    /// With a line in the `[vdk]` section of `config.ini`.
    #[must_use]
    pub fn option(mut self, line: &str) -> Self {
        self.options.push_str(line);
        self.options.push('\n');
        self.write_config();
        self
    }

    /// With another file.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> Self {
        self.put(name, content);
        self
    }

    /// With the usual Python step, whose `run(job_input)` has this body.
    #[must_use]
    pub fn step(self, name: &str, body: &str) -> Self {
        let body: Vec<_> = body.lines().map(|line| format!("    {line}")).collect();
        let body = body.join("\n");
        self.file(name, &format!("import os, sys, time\n\n\ndef run(job_input):\n{body}\n"))
    }

    /// Writes a file into the folder.
    pub fn put(&self, name: &str, content: &str) {
        fs::write(self.path().join(name), content).expect("a file of the job");
    }

    fn write_config(&self) {
        let (team, schedule, options) = (crate::TEAM, &self.schedule, &self.options);
        self.put("config.ini", &format!("[owner]\nteam = {team}\n[job]\nschedule_cron = {schedule}\n[vdk]\n{options}"));
    }

    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cron expression; empty when it has none.
    pub fn cron(&self) -> &str {
        &self.schedule
    }

    /// Its folder.
    pub fn path(&self) -> PathBuf {
        self.parent.path().join(&self.name)
    }

    /// The folder above it.
    pub fn parent(&self) -> &Path {
        self.parent.path()
    }

    /// It as the client would upload it.
    pub fn archive(&self) -> Vec<u8> {
        let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(self.path())
            .expect("the job's folder")
            .flatten()
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                let name = format!("{}/{}", self.name, entry.file_name().to_string_lossy());
                (name, fs::read(entry.path()).expect("a file of the job"))
            })
            .collect();
        files.sort();
        archive(files.iter().map(|(name, content)| (name.as_str(), content.as_slice())))
    }
}

/// A zip archive of files. A name that ends in a slash is a folder.
pub fn archive<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        if name.ends_with('/') {
            zip.add_directory(name, SimpleFileOptions::default()).expect("a folder in an archive");
        } else {
            zip.start_file(name, SimpleFileOptions::default()).expect("a file in an archive");
            zip.write_all(content).expect("a file in an archive");
        }
    }
    zip.finish().expect("an archive").into_inner()
}
