//! Assembles the image of the service, as `cargo xtask image` asks: a request as JSON on the standard input, and a summary as
//! JSON on the standard output.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clock::SystemClock;
use image::{
    oci::Reference,
    registry::{Blob, BlobContent, CredentialsFile, Registries, RegistryOptions},
    service::{Parts, ServiceImage, Summary, service_image},
};
use serde::Deserialize;

/// The image and its targets.
#[derive(Debug, Deserialize)]
struct Request {
    #[serde(flatten)]
    parts: Parts,
    /// The name of the image, with a tag.
    name: String,
    /// The archive to write.
    archive: Option<PathBuf>,
    /// Whether the image is pushed under its name.
    push: bool,
    /// Whether its registry is spoken to without TLS.
    plain_http: bool,
    /// A Docker configuration file with credentials for the registry.
    credentials: Option<PathBuf>,
    /// A folder for files on the way, which is empty.
    scratch: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(summary) => {
            let _ = writeln!(io::stdout(), "{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, String> {
    let request: Request = serde_json::from_reader(io::stdin()).map_err(|error| format!("the request: {error}"))?;
    let built = service_image(&request.parts, &request.scratch).map_err(|error| error.to_string())?;
    if let Some(archive) = &request.archive {
        built.write(&request.name, archive).map_err(|error| error.to_string())?;
    }
    if request.push {
        push(&request, &built).await?;
    }
    let summary = Summary { digest: built.image.manifest.digest.to_string(), bytes: built.bytes() };
    serde_json::to_string(&summary).map_err(|error| error.to_string())
}

async fn push(request: &Request, built: &ServiceImage) -> Result<(), String> {
    let name = Reference::parse(&request.name).map_err(|why| format!("{} is no name: {why}", request.name))?;
    let plain_http = if request.plain_http { vec![name.host().to_owned()] } else { Vec::new() };
    let registries = Registries::new(RegistryOptions {
        plain_http,
        credentials: request.credentials.clone().map(CredentialsFile),
        ..RegistryOptions::new(Arc::new(SystemClock))
    })?;
    let repository = Arc::new(registries).repository(&name);
    let failed =
        |error: image::registry::RegistryError| error.problem("The image was not pushed.").sentences().join("\n");
    for (layer, path) in &built.layers {
        let content = BlobContent::File(path.clone());
        let blob = Blob { digest: layer.digest.clone(), bytes: layer.bytes, content };
        repository.push(&blob, &[], &|_| ()).await.map_err(failed)?;
    }
    let config = &built.image.config;
    let content = BlobContent::Bytes(config.content.clone());
    let blob = Blob { digest: config.digest.clone(), bytes: config.content.len() as u64, content };
    repository.push(&blob, &[], &|_| ()).await.map_err(failed)?;
    let manifest = &built.image.manifest;
    repository.push_manifest(name.version(), manifest.media_type, &manifest.content).await.map_err(failed)
}
