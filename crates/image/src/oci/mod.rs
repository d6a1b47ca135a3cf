//! OCI images: layers, manifests and indexes, made so that equal inputs give equal bytes on every machine.

pub mod archive;
pub mod assemble;
pub mod base;
pub mod content;
pub mod digest;
pub mod layer;
pub mod manifest;
pub mod reference;

pub use assemble::{Assembled, BaseImage, Settings};
pub use digest::Digest;
pub use layer::{Compression, Layer, LayerBlob};
pub use manifest::{Descriptor, Index, Manifest, Platform};
pub use reference::Reference;
