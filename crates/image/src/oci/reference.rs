//! The names of images: `registry.example.com:5000/team/job:tag@sha256:…`.

use std::fmt;

use super::digest::Digest;

/// The registry of names without one, as container engines have it.
const DOCKER_HUB: &str = "docker.io";
/// The host that serves it.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
const TAG_MAX_CHARS: usize = 128;
const REPOSITORY_MAX_CHARS: usize = 255;

/// The name of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The registry's host, and its port where it has one.
    pub registry: String,
    /// The path of the repository.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest, which counts when there is a tag as well.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a name. Names without a registry are those of Docker Hub.
    ///
    /// # Errors
    /// Why it is no name of an image.
    pub fn parse(raw: &str) -> Result<Self, String> {
        let (name, digest) = match raw.split_once('@') {
            Some((name, digest)) => {
                let digest = Digest::parse(digest).ok_or("its digest is not sha256: and 64 hexadecimal digits")?;
                (name, Some(digest))
            }
            None => (raw, None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (name, None),
        };
        if let Some(tag) = &tag
            && !is_tag(tag)
        {
            return Err(format!("its tag {tag:?} has other characters than letters, digits, \"_\", \".\" and \"-\""));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_owned(), rest.to_owned())
            }
            Some(_) => (DOCKER_HUB.to_owned(), path.to_owned()),
            None => (DOCKER_HUB.to_owned(), format!("library/{path}")),
        };
        if !is_host(&registry) {
            return Err(format!("{registry:?} is no host"));
        }
        if !is_repository(&repository) {
            return Err("its path has lower-case letters and digits, separated by \"/\", \".\", \"_\" and \"-\"".into());
        }
        Ok(Self { registry, repository, tag, digest })
    }

    /// The host that requests go to.
    pub fn host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_HOST } else { &self.registry }
    }

    /// The digest, else the tag, else `latest`.
    pub fn version(&self) -> &str {
        self.digest.as_ref().map(Digest::as_str).or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Whether a text may be a tag.
pub fn is_tag(text: &str) -> bool {
    text.len() <= TAG_MAX_CHARS
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Whether a text may be the path of a repository.
pub fn is_repository(text: &str) -> bool {
    let part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && !part.contains("..")
    };
    text.len() <= REPOSITORY_MAX_CHARS && text.split('/').all(part)
}

fn is_host(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    !host.is_empty()
        && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-[]:".contains(c))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_container_engines_read_them() {
        let hash = format!("sha256:{}", "0a".repeat(32));
        for (raw, registry, repository, version) in [
            ("python:3.11", "docker.io", "library/python", "3.11"),
            ("vmware/vdk", "docker.io", "vmware/vdk", "latest"),
            ("localhost/a/b", "localhost", "a/b", "latest"),
            ("127.0.0.1:5000/a:1", "127.0.0.1:5000", "a", "1"),
            ("r.example.com/a/b-c_d.e:v1", "r.example.com", "a/b-c_d.e", "v1"),
            (&format!("r.example.com/a:1@{hash}"), "r.example.com", "a", hash.as_str()),
        ] {
            let read = Reference::parse(raw).unwrap();
            assert_eq!(
                (read.registry.as_str(), read.repository.as_str(), read.version()),
                (registry, repository, version)
            );
            assert_eq!(Reference::parse(&read.to_string()), Ok(read));
        }
        assert_eq!(Reference::parse("python").unwrap().host(), "registry-1.docker.io");
    }

    #[test]
    fn what_could_leave_the_path_of_a_repository_is_no_name() {
        for bad in [
            "",
            "r.example.com/",
            "r.example.com/../x",
            "r.example.com/a?b",
            "r.example.com/A",
            "a b",
            "a:b c",
            "r.example.com/a@sha256:1",
            "r.example.com:x/a",
            "r.example.com//a",
            "u:p@r.example.com/a",
            "a/b:",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
