//! The table of routes, and the document that grows with it.

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::{Components, OpenApi, OpenApiBuilder, path::PathItem};
use utoipa_axum::router::UtoipaMethodRouter;

use super::complete;
use crate::Api;

/// What stands around the operations of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layers {
    /// Who may call from where, and how much is taken on at once.
    Guarded,
    /// Nothing: anybody may ask at any time.
    Open,
}

/// Addresses with their operations. There is no way in but [`Table::at`], so that no operation is left undescribed.
pub(crate) struct Table {
    layers: Layers,
    router: Router<Arc<Api>>,
    document: OpenApi,
}

impl Table {
    pub(crate) fn new(layers: Layers) -> Self {
        Self {
            layers,
            router: Router::new(),
            document: OpenApiBuilder::new().components(Some(Components::new())).build(),
        }
    }

    /// The operations of an address. What says `path = ""` at a handler is this address.
    pub(crate) fn at(mut self, address: &str, (schemas, paths, methods): UtoipaMethodRouter<Arc<Api>>) -> Self {
        let described = self.document.paths.paths.entry(address.to_owned()).or_default();
        for (_, mut item) in paths.paths {
            for (method, operation) in operations(&mut item) {
                complete::operation(address, method, self.layers, operation);
            }
            described.merge_operations(item);
        }
        self.document.components.get_or_insert_default().schemas.extend(schemas);
        self.router = self.router.route(address, methods);
        self
    }

    pub(crate) fn router(self) -> Router<Arc<Api>> {
        self.router
    }

    pub(crate) fn document(self) -> OpenApi {
        self.document
    }
}

/// The operations of an address with their methods.
pub(super) fn operations(
    item: &mut PathItem,
) -> impl Iterator<Item = (&'static str, &mut utoipa::openapi::path::Operation)> {
    [
        ("GET", &mut item.get),
        ("PUT", &mut item.put),
        ("POST", &mut item.post),
        ("PATCH", &mut item.patch),
        ("DELETE", &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}
