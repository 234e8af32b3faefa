//! HTTP addresses: of files on a server, and of redirections.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;

/// All characters but those that a path segment may hold unencoded (RFC 3986, `pchar`).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// A complete HTTP or HTTPS address.
#[derive(Clone, Debug)]
pub(crate) struct Address(Uri);

impl Address {
    /// Reads an address. The error is the reason why it is not valid.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri =
            text.parse().map_err(|error: ureq::http::uri::InvalidUri| error.to_string())?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(Self(uri)),
            (Some("http" | "https"), _) => Err("the host is missing".to_owned()),
            (Some(scheme), _) => Err(format!("the scheme must be http or https, got {scheme}")),
            (None, _) => Err("http:// or https:// is missing".to_owned()),
        }
    }

    /// This address with more path segments. A slash inside a segment is encoded.
    pub(crate) fn append<'a>(
        &self,
        segments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let mut address = format!("{}{}", self.server(), self.0.path().trim_end_matches('/'));
        for segment in segments {
            // Writing to a string cannot fail.
            let _ = write!(address, "/{}", utf8_percent_encode(segment, ENCODED));
        }
        Self::parse(&address)
    }

    /// The target of a `Location` header in the answer from this address (RFC 9110, section
    /// 10.2.2).
    pub(crate) fn resolve(&self, location: &str) -> Option<Self> {
        let address = if location.starts_with("//") {
            format!("{}:{location}", self.scheme())
        } else if location.starts_with('/') {
            format!("{}{location}", self.server())
        } else if location.contains("://") {
            location.to_owned()
        } else {
            let (folder, _) = self.0.path().rsplit_once('/').unwrap_or_default();
            format!("{}{folder}/{location}", self.server())
        };
        Self::parse(&address).ok()
    }

    /// Whether scheme, host and port are the same.
    pub(crate) fn has_same_origin(&self, other: &Self) -> bool {
        self.scheme() == other.scheme()
            && self.host().eq_ignore_ascii_case(other.host())
            && self.port() == other.port()
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.scheme() == "https"
    }

    /// The host name or IP address; an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    fn scheme(&self) -> &str {
        self.0.scheme_str().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// Scheme, user, host and port.
    fn server(&self) -> String {
        format!(
            "{}://{}",
            self.scheme(),
            self.0.authority().map_or("", |authority| authority.as_str())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_appended_to_the_endpoint_and_slashes_in_segments_are_encoded() {
        for (endpoint, file) in [
            ("https://hub.example", "https://hub.example/api/refs%2Fconvert/a%20b%25.parquet"),
            (
                "http://user@127.0.0.1:8080/hub/",
                "http://user@127.0.0.1:8080/hub/api/refs%2Fconvert/a%20b%25.parquet",
            ),
        ] {
            let address = Address::parse(endpoint).unwrap();
            let appended = address.append(["api", "refs/convert", "a b%.parquet"]).unwrap();
            assert_eq!(appended.uri().to_string(), file);
            assert!(appended.has_same_origin(&address));
        }
    }

    #[test]
    fn redirections_lead_to_another_server_or_path() {
        let address = Address::parse("https://hub.example:443/a/b?c=d").unwrap();
        for (location, target, same) in [
            ("https://HUB.example/x", "https://HUB.example/x", true),
            ("http://hub.example/x", "http://hub.example/x", false),
            ("https://store.example/x?y=z", "https://store.example/x?y=z", false),
            ("//hub.example:8443/x", "https://hub.example:8443/x", false),
            ("/x?y=http://z", "https://hub.example:443/x?y=http://z", true),
            ("x", "https://hub.example:443/a/x", true),
        ] {
            let resolved = address.resolve(location).unwrap();
            assert_eq!(
                (resolved.uri().to_string().as_str(), resolved.has_same_origin(&address)),
                (target, same)
            );
        }
        assert!(address.resolve("ftp://hub.example/x").is_none());
    }
}
