//! Which requests may come in at all.
//!
//! A service on loopback that runs code can be reached by any page that the same person has open: a name that resolves to
//! 127.0.0.1, a form that posts across origins. So the host must be known, a foreign origin is refused, and what changes
//! something comes in a media type that a form can't have. Nothing is ever allowed across origins, but one thing: a link on
//! another site may open a page of this service in a tab of its own.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderMap, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use model::{Problem, name::excerpt, problem::Code};

use crate::{
    Api,
    error::{ApiError, Unrouted},
    openapi::RouteMarks,
    paths::{METRICS_PATH, TOKEN_PATH},
};

/// The media types that a request's body may have.
const BODY_TYPES: [&str; 2] = ["application/json", "application/octet-stream"];

/// The media type that it has at the token endpoint, by OAuth's rule. A page that sends a form there without a credential
/// achieves nothing.
const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// Refuses what a strange page could have sent.
pub(crate) async fn guard(
    State((api, marks)): State<(Arc<Api>, Arc<RouteMarks>)>,
    request: Request,
    next: Next,
) -> Response {
    match check(&api.hosts, marks.is_page(&request), &request) {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            let mut response = failure.into_response();
            response.extensions_mut().insert(Unrouted);
            response
        }
    }
}

fn check(hosts: &[String], is_page: bool, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    // A proxy in front could have decided by the other one (RFC 9112, section 3.2).
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Problem::new(
            Code::HostHeaderRepeated,
            "The request was rejected.",
            "It has more than one Host header.",
        )
        .nothing_changed()
        .fix("Send one Host header.")
        .into());
    }
    // An address with a host counts before the header; HTTP/2 has only that.
    let host = request.uri().authority().map(Authority::as_str).or(text(headers, &header::HOST)).unwrap_or_default();
    let Some(host) = authority(host) else {
        return Err(refused(Code::HostHeaderInvalid, "Its Host header is missing or is no host name."));
    };
    let is_known = is_loopback(&host)
        || hosts.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(host.host()))
        // Scrapers go to the address of each instance. A page that lured a browser here comes with a name.
        || (request.uri().path() == METRICS_PATH && address(&host).is_some());
    if !is_known {
        return Err(Problem::new(
            Code::HostNotAllowed,
            "The request was rejected.",
            format!("The host name {} is not in the setting `allowed_hosts`.", excerpt(host.host())),
        )
        .follows("Nothing was read or changed.")
        .fix(format!(
            "Add {} to `allowed_hosts`, or use the URL that the service printed at its start.",
            excerpt(host.host())
        ))
        .into());
    }
    if let Some(origin) = text(headers, &header::ORIGIN)
        && !same_origin(origin, &host)
    {
        return Err(refused(
            Code::CrossSiteRequest,
            &format!("It comes from a page of another origin, {}.", excerpt(origin)),
        ));
    }
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") && !(is_page && is_navigation(headers)) {
        return Err(refused(Code::CrossSiteRequest, "It comes from a page of another site."));
    }
    if !request.method().is_safe() && !request.body().is_end_stream() {
        let given = text(headers, &header::CONTENT_TYPE).unwrap_or_default();
        let essence = given.split(';').next().unwrap_or_default().trim();
        let is_form = request.uri().path() == TOKEN_PATH && essence.eq_ignore_ascii_case(FORM_TYPE);
        if !is_form && !BODY_TYPES.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
            return Err(ApiError::from(
                Problem::new(
                    Code::MediaTypeUnsupported,
                    "The request was rejected.",
                    format!("Its body has the media type {}.", excerpt(given)),
                )
                .nothing_changed()
                .fix("Send \"Content-Type: application/json\", or \"application/octet-stream\" for sources."),
            ));
        }
    }
    Ok(())
}

/// Whether a browser follows a link in a tab, as opposed to a frame, a picture or a script.
fn is_navigation(headers: &HeaderMap) -> bool {
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|given| given == value);
    says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document")
}

fn refused(code: Code, why: &str) -> ApiError {
    Problem::new(code, "The request was rejected.", why)
        .follows("Nothing was read or changed.")
        .fix("Send it from a client, or from a page of the service, to a name in `allowed_hosts`.")
        .into()
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or(""))
}

fn authority(text: &str) -> Option<Authority> {
    let authority = text.parse::<Authority>().ok().filter(|a| !a.host().is_empty())?;
    // Nothing but a host and a port: no user before it, no port that is no number.
    let port = authority.as_str().strip_prefix(authority.host())?;
    (port.is_empty() || authority.port_u16().is_some()).then_some(authority)
}

/// The address that a host is, when it is no name.
fn address(authority: &Authority) -> Option<IpAddr> {
    let host = authority.host();
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).parse().ok()
}

fn is_loopback(authority: &Authority) -> bool {
    authority.host().eq_ignore_ascii_case("localhost") || address(authority).is_some_and(|ip| ip.is_loopback())
}

/// Whether a page of this origin is one of this service. A proxy in front may have the port that its scheme implies.
fn same_origin(origin: &str, host: &Authority) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let implied = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    authority(rest).is_some_and(|page| {
        page.host().eq_ignore_ascii_case(host.host())
            && page.port_u16().unwrap_or(implied) == host.port_u16().unwrap_or(implied)
    })
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Method};

    use super::*;

    fn checked(headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(Method::GET).uri("/data-jobs/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        check(&["holdfast.example".into()], false, &request).err().map(|f| f.into_response().status().as_u16())
    }

    #[test]
    fn only_loopback_and_configured_hosts_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:8092",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:8092",
            "holdfast.example",
            "Holdfast.Example:443",
        ] {
            assert_eq!(checked(&[("host", host)]), None, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:8092",
            "0.0.0.0",
            "10.0.0.1",
            "[::2]",
            "a@localhost",
            "localhost:x",
            "local host",
        ] {
            assert_eq!(checked(&[("host", host)]), Some(403), "{host}");
        }
        assert_eq!(checked(&[]), Some(403));
    }

    #[test]
    fn metrics_are_read_under_any_address_and_under_no_strange_name() {
        let scraped = |host: &str| {
            let request = Request::builder().uri(METRICS_PATH).header("host", host).body(Body::empty()).unwrap();
            check(&[], false, &request).is_ok()
        };
        assert!(scraped("10.1.2.3:8092") && scraped("[2001:db8::1]:8092") && scraped("localhost"));
        assert!(!scraped("evil.example") && !scraped("10.1.2.3.evil.example") && !scraped(""));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let from = |host, origin| checked(&[("host", host), ("origin", origin)]);
        assert_eq!(from("localhost:8092", "http://localhost:8092"), None);
        assert_eq!(from("holdfast.example", "https://holdfast.example"), None);
        assert_eq!(from("holdfast.example:443", "https://holdfast.example"), None);
        for origin in [
            "null",
            "",
            "http://localhost:3000",
            "http://127.0.0.1:8092",
            "https://evil.example",
            "file://localhost:8092",
        ] {
            assert_eq!(from("localhost:8092", origin), Some(403), "{origin}");
        }
        assert_eq!(checked(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]), Some(403));
        for site in ["same-origin", "none", "same-site"] {
            assert_eq!(checked(&[("host", "localhost"), ("sec-fetch-site", site)]), None, "{site}");
        }
    }
}
