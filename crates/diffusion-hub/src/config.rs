//! Where the hub and its cache are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The hub itself; a mirror has its own address.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Everything this crate needs to know of its surroundings; plain data, nothing is read from the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// Address of the hub or of a mirror, such as `https://huggingface.co`.
    pub endpoint: String,
    /// The hub's cache folder, usually `~/.cache/huggingface/hub`.
    pub cache_dir: PathBuf,
    /// Access token, sent to `endpoint` and to nobody else; public datasets need none.
    pub token: Option<String>,
    /// Address of the proxy for `http` addresses, such as `http://user:password@host:3128`.
    pub http_proxy: Option<String>,
    /// Address of the proxy for `https` addresses.
    pub https_proxy: Option<String>,
    /// Hosts that are asked without a proxy, as `NO_PROXY` lists them: `localhost,.example.com,10.0.0.0/8`, or `*`.
    pub no_proxy: String,
    /// Makes no request: only the cache is consulted.
    pub offline: bool,
    /// How often a failed request, and a transfer cut in its middle, is repeated.
    pub retries: usize,
    /// Pauses before repetitions grow from twice this time, doubling; a server that asks for a longer one gets it.
    pub retry_base_delay: Duration,
    /// A connection that delivers nothing for this long is given up.
    pub stall_timeout: Duration,
}

impl HubConfig {
    /// The official hub without a token, with `cache_dir` as the cache: 4 retries over 6 seconds, 30 seconds of
    /// patience with a silent server.
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

    /// What the hub's usual variables say, asked of `get`: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`,
    /// `XDG_CACHE_HOME`, `HOME` (`USERPROFILE` where there is none), `HF_TOKEN` and `HF_HUB_OFFLINE`; and, in small or
    /// capital letters, `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` (where the one before is not set) and `NO_PROXY`.
    ///
    /// An empty variable counts as unset, as it does for the hub's own tools.
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
            let below = |home: String| PathBuf::from(home).join(".cache");
            let cache = cache.or_else(|| get("HOME").or_else(|| get("USERPROFILE")).map(below));
            cache.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
        };
        let below_home = || get("HF_HOME").map_or_else(home, PathBuf::from).join("hub");
        let get_any = |names: &[&str]| {
            names.iter().find_map(|name| get(name).or_else(|| get(&name.to_ascii_uppercase())))
        };
        let cache_dir = get("HF_HUB_CACHE").map_or_else(below_home, PathBuf::from);
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

// By hand, so that a token or a password never reaches a log.
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

    fn with(variables: &[(&str, &str)]) -> HubConfig {
        HubConfig::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_the_hubs_own_tools_keep_it() {
        let home = ("HOME", "/home/me");
        let cache = |more: &[(&str, &str)]| with(&[&[home], more].concat()).cache_dir;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/c")]), Path::new("/hf/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/hub"), ("HF_HOME", "/hf")]), Path::new("/hub"));
        assert_eq!(cache(&[("HF_HOME", "")]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(
            with(&[("USERPROFILE", "/me")]).cache_dir,
            Path::new("/me/.cache/huggingface/hub")
        );
    }

    #[test]
    fn the_other_variables_are_obeyed() {
        let config = with(&[]);
        assert_eq!(
            (config.endpoint.as_str(), config.token, config.offline),
            (DEFAULT_ENDPOINT, None, false)
        );
        let config =
            with(&[("HF_ENDPOINT", "http://m"), ("HF_TOKEN", "t\n"), ("HF_HUB_OFFLINE", "TRUE")]);
        assert_eq!((config.endpoint.as_str(), config.token.as_deref()), ("http://m", Some("t")));
        assert!(config.offline);
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline);
        let config =
            with(&[("HTTPS_PROXY", "http://s"), ("all_proxy", "http://a"), ("NO_PROXY", "b,c")]);
        assert_eq!(
            (config.https_proxy.as_deref(), config.http_proxy.as_deref()),
            (Some("http://s"), Some("http://a"))
        );
        assert_eq!(config.no_proxy, "b,c");
    }
}
