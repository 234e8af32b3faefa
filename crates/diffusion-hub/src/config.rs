//! The configuration of the hub and its cache.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The address of the official hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The configuration of all downloads. It is plain data: nothing here reads the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Address of the hub or of a mirror, such as `https://huggingface.co`.
    pub endpoint: String,
    /// Folder of the hub's cache, usually `~/.cache/huggingface/hub`.
    pub cache_dir: PathBuf,
    /// Access token, sent to `endpoint` only. Public data sets need none.
    pub token: Option<String>,
    /// Address of the proxy for `http` addresses, such as `http://user:password@host:3128`.
    pub http_proxy: Option<String>,
    /// Address of the proxy for `https` addresses.
    pub https_proxy: Option<String>,
    /// Hosts that are reached without a proxy, in the syntax of `NO_PROXY`:
    /// `localhost,.example.com,10.0.0.0/8`, or `*` for all.
    pub no_proxy: String,
    /// Whether to send no requests and use the cache only.
    pub offline: bool,
    /// How often a failed request or an interrupted transfer is repeated.
    pub retries: usize,
    /// Half of the pause before the first repetition. The pause doubles with each repetition. A
    /// server can request a longer one, up to a minute.
    pub retry_base_delay: Duration,
    /// How long to wait for a server that sends nothing.
    pub stall_timeout: Duration,
}

impl HubConfig {
    /// The official hub, with the cache in `cache_dir`, and without a token or proxy. 4 repetitions
    /// with pauses of 6 seconds in total; 30 seconds of waiting for a server that sends nothing.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            cache_dir: cache_dir.into(),
            token: None,
            http_proxy: None,
            https_proxy: None,
            no_proxy: String::new(),
            offline: false,
            retries: 4,
            retry_base_delay: Duration::from_millis(200),
            stall_timeout: Duration::from_secs(30),
        }
    }

    /// The configuration in the usual environment variables. `get` returns the value of a variable.
    ///
    /// - `HF_ENDPOINT`: the address of the hub.
    /// - `HF_HUB_CACHE`: the cache; else `hub` in `HF_HOME`; else `huggingface/hub` in
    ///   `XDG_CACHE_HOME`, which defaults to `.cache` in `HOME` or `USERPROFILE`.
    /// - `HF_TOKEN`: the access token.
    /// - `HF_HUB_OFFLINE`: `1`, `on`, `yes` or `true` switches downloads off.
    /// - `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`: the proxies and their exceptions. `ALL_PROXY`
    ///   replaces each of the first two that is not set. Lower-case names come first.
    ///
    /// An empty variable counts as unset, as in the hub's own tools.
    ///
    /// ```
    /// use diffusion_hub::HubConfig;
    ///
    /// let config = HubConfig::from_variables(|name| std::env::var(name).ok());
    /// assert!(config.endpoint.starts_with("http"));
    /// ```
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let home = || {
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
            let in_home = |home: String| PathBuf::from(home).join(".cache");
            let cache = cache.or_else(|| get("HOME").or_else(|| get("USERPROFILE")).map(in_home));
            cache.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
        };
        let hub_cache = || get("HF_HOME").map_or_else(home, PathBuf::from).join("hub");
        let get_any = |names: &[&str]| {
            names.iter().find_map(|name| get(name).or_else(|| get(&name.to_ascii_uppercase())))
        };
        let cache_dir = get("HF_HUB_CACHE").map_or_else(hub_cache, PathBuf::from);
        Self {
            endpoint: get("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            token: get("HF_TOKEN"),
            http_proxy: get_any(&["http_proxy", "all_proxy"]),
            https_proxy: get_any(&["https_proxy", "all_proxy"]),
            no_proxy: get_any(&["no_proxy"]).unwrap_or_default(),
            offline: get("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            ..Self::new(cache_dir)
        }
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

// Not derived, so that a token or a password never reaches a log.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token_set", &self.token.is_some())
            .field("proxy_set", &(self.http_proxy.is_some() || self.https_proxy.is_some()))
            .field("no_proxy", &self.no_proxy)
            .field("offline", &self.offline)
            .field("retries", &self.retries)
            .field("retry_base_delay", &self.retry_base_delay)
            .field("stall_timeout", &self.stall_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config_from(variables: &[(&str, &str)]) -> HubConfig {
        HubConfig::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_the_hubs_own_tools_keep_it() {
        let home = ("HOME", "/home/me");
        let cache = |more: &[(&str, &str)]| config_from(&[&[home], more].concat()).cache_dir;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/c")]), Path::new("/hf/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/hub"), ("HF_HOME", "/hf")]), Path::new("/hub"));
        assert_eq!(cache(&[("HF_HOME", "")]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(
            config_from(&[("USERPROFILE", "/me")]).cache_dir,
            Path::new("/me/.cache/huggingface/hub")
        );
    }

    #[test]
    fn the_other_variables_are_read() {
        let config = config_from(&[]);
        assert_eq!(
            (config.endpoint.as_str(), config.token, config.offline),
            (DEFAULT_ENDPOINT, None, false)
        );
        let config = config_from(&[
            ("HF_ENDPOINT", "http://m"),
            ("HF_TOKEN", "t\n"),
            ("HF_HUB_OFFLINE", "TRUE"),
        ]);
        assert_eq!((config.endpoint.as_str(), config.token.as_deref()), ("http://m", Some("t")));
        assert!(config.offline);
        assert!(!config_from(&[("HF_HUB_OFFLINE", "0")]).offline);
        let config = config_from(&[
            ("HTTPS_PROXY", "http://s"),
            ("all_proxy", "http://a"),
            ("NO_PROXY", "b,c"),
        ]);
        assert_eq!(
            (config.https_proxy.as_deref(), config.http_proxy.as_deref()),
            (Some("http://s"), Some("http://a"))
        );
        assert_eq!(config.no_proxy, "b,c");
    }
}
