//! Chooses the proxy of a request.

use std::net::IpAddr;

use ureq::Proxy;

use crate::HubConfig;
use crate::address::Address;

/// The proxy for requests to `address`, if there is one. The error says which proxy has no valid
/// address. It does not repeat the address, which may hold a password.
pub(crate) fn proxy_for(config: &HubConfig, address: &Address) -> Result<Option<Proxy>, String> {
    let secure = address.is_secure();
    let proxy = if secure { &config.https_proxy } else { &config.http_proxy };
    let Some(proxy) = proxy.as_ref().filter(|_| !is_exempt(&config.no_proxy, address.host()))
    else {
        return Ok(None);
    };
    let scheme = if secure { "https" } else { "http" };
    Proxy::new(proxy).map(Some).map_err(|_| format!("the proxy for {scheme} has no valid address"))
}

/// Whether `host` is in a list such as `localhost, .example.com, 10.0.0.0/8`. A name includes its
/// subdomains.
fn is_exempt(list: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        let name = entry.trim_start_matches('.');
        match ip {
            _ if entry == "*" => true,
            Some(ip) => is_in_network(&entry, ip),
            None => {
                !name.is_empty()
                    && host
                        .strip_suffix(name)
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    })
}

/// Whether `ip` is in `network`: an address, or a network such as `10.0.0.0/8`.
fn is_in_network(network: &str, ip: IpAddr) -> bool {
    let (base, length) = match network.split_once('/') {
        Some((base, length)) => (base, length.parse::<u32>().ok()),
        None => (network, Some(128)),
    };
    let (Ok(base), Some(length)) = (base.parse(), length) else { return false };
    let (differing, bits) = match (base, ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => ((base.to_bits() ^ ip.to_bits()).leading_zeros(), 32),
        (IpAddr::V6(base), IpAddr::V6(ip)) => {
            ((base.to_bits() ^ ip.to_bits()).leading_zeros(), 128)
        }
        _ => return false,
    };
    differing >= length.min(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_networks_are_exempt() {
        let list = "localhost, .example.com,10.0.0.0/8,::1,192.168.1.7";
        for host in ["localhost", "example.com", "a.EXAMPLE.com", "10.1.2.3", "::1", "192.168.1.7"]
        {
            assert!(is_exempt(list, host), "{host}");
        }
        for host in ["huggingface.co", "notexample.com", "11.1.2.3", "::2", "192.168.1.8", ""] {
            assert!(!is_exempt(list, host), "{host}");
        }
        assert!(
            is_exempt("*", "huggingface.co")
                && is_exempt("*", "10.0.0.1")
                && !is_exempt("", "localhost")
        );
    }

    #[test]
    fn each_scheme_has_its_own_proxy() {
        let proxies = |http: Option<&str>, https: Option<&str>| HubConfig {
            http_proxy: http.map(str::to_owned),
            https_proxy: https.map(str::to_owned),
            no_proxy: "mirror".to_owned(),
            ..HubConfig::new("cache")
        };
        let to = |config: &HubConfig, address: &str| {
            proxy_for(config, &Address::parse(address).unwrap())
        };
        let config = proxies(None, Some("http://me:secret@proxy:3128"));
        let proxy = to(&config, "https://hub").unwrap().unwrap();
        assert_eq!((proxy.host(), proxy.port(), proxy.username()), ("proxy", 3128, Some("me")));
        assert!(
            to(&config, "http://hub").unwrap().is_none()
                && to(&config, "https://mirror").unwrap().is_none()
        );
        let config = proxies(Some("http://a secret"), None);
        assert_eq!(
            to(&config, "http://hub").unwrap_err(),
            "the proxy for http has no valid address"
        );
    }
}
