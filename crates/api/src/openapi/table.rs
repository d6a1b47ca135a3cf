//! The table of routes, and the document that grows with it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::Method,
};
use utoipa::openapi::{Components, OpenApi, OpenApiBuilder, path::PathItem};
use utoipa_axum::router::UtoipaMethodRouter;

use super::complete::{self, Layers};
use crate::Api;

/// The reader of the body of a request that has an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyedBody {
    /// The layer, which buffers and hashes at most this many bytes.
    Buffered {
        /// The largest body of the operation.
        max_bytes: usize,
    },
    /// The handler, which hashes the body while it stores it.
    Streamed,
}

/// Properties of single routes that the layers around the handlers depend on.
#[derive(Debug, Default)]
pub(crate) struct RouteMarks {
    keyed: HashMap<String, KeyedBody>,
    pages: HashSet<String>,
}

impl RouteMarks {
    /// The reader of this request's body if it has an idempotency key; `None` where a key has no effect.
    pub(crate) fn keyed_body(&self, request: &Request) -> Option<KeyedBody> {
        let path = matched(request).filter(|_| request.method() == Method::POST)?;
        self.keyed.get(path).copied()
    }

    /// Whether this request opens a page for people.
    pub(crate) fn is_page(&self, request: &Request) -> bool {
        request.method() == Method::GET && matched(request).is_some_and(|path| self.pages.contains(path))
    }
}

fn matched(request: &Request) -> Option<&str> {
    request.extensions().get::<MatchedPath>().map(MatchedPath::as_str)
}

/// Addresses with their operations. There is no way in for an operation but [`Table::at`], so that none is left undescribed.
pub(crate) struct Table {
    layers: Layers,
    router: Router<Arc<Api>>,
    document: OpenApi,
    marks: RouteMarks,
    /// The address that was added last: the one that a mark is for.
    last: String,
}

impl Table {
    pub(crate) fn new(layers: Layers) -> Self {
        Self {
            layers,
            router: Router::new(),
            document: OpenApiBuilder::new().components(Some(Components::new())).build(),
            marks: RouteMarks::default(),
            last: String::new(),
        }
    }

    /// The operations of a path. Handlers with `path = ""` get this path.
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
        address.clone_into(&mut self.last);
        self
    }

    /// Marks the POST operation of the last address: a request with an idempotency key is carried out once.
    pub(crate) fn idempotent(mut self, body: KeyedBody) -> Self {
        let operation = self.document.paths.paths.get_mut(&self.last).and_then(|item| item.post.as_mut());
        complete::idempotency(operation.expect("the address has a POST operation"));
        self.marks.keyed.insert(self.last.clone(), body);
        self
    }

    /// Marks the GET operation of the last address as a page for people, which a link on another site may open.
    pub(crate) fn page(mut self) -> Self {
        self.marks.pages.insert(self.last.clone());
        self
    }

    /// Routes of the web page, which are no operations of the API, with those of them that a link on another site may open.
    pub(crate) fn web_page(mut self, (router, pages): (Router<Arc<Api>>, Vec<&'static str>)) -> Self {
        self.router = self.router.merge(router);
        self.marks.pages.extend(pages.into_iter().map(str::to_owned));
        self
    }

    /// The routes, and what the layers have to know of them.
    pub(crate) fn into_router(self) -> (Router<Arc<Api>>, RouteMarks) {
        (self.router, self.marks)
    }

    pub(crate) fn document(self) -> OpenApi {
        self.document
    }
}

/// The operations of an address with their methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut utoipa::openapi::path::Operation)> {
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
