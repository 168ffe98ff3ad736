//! The layers: the file, or the defaults, then the environment, then `--set`.
//!
//! Promise: pure but for [`Config::load`]; a layer above changes the keys that it names and no others.

use super::{Config, ConfigError, DEFAULT_PATH};
use std::path::Path;

/// Prefix of the environment's overrides.
const ENV_PREFIX: &str = "CGPATHD_";

impl Config {
    /// Reads `path`, or [`DEFAULT_PATH`] where none is given (defaults hold if that one is absent), then
    /// applies the variables of `env` that begin with `CGPATHD_`, then `sets` (`key=value`, sections by
    /// dots).
    ///
    /// # Errors
    /// See [`ConfigError`]. A path that was given must exist.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(ConfigError::Read {
                    path: file.to_owned(),
                    source,
                });
            }
        };
        Config::from_parts(file, &text, env, sets)
    }

    /// As [`Config::load`] with the file's text given; `path` is named in errors.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_parts(
        path: &Path,
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
        sets: &[String],
    ) -> Result<Config, ConfigError> {
        // Read as it stands first: only so an error can name the line.
        let mut config: Config = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: path.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        let mut overrides: Vec<(String, String, String)> = env
            .into_iter()
            .filter_map(|(name, value)| {
                let key = name
                    .strip_prefix(ENV_PREFIX)?
                    .to_ascii_lowercase()
                    .replace("__", ".");
                Some((format!("environment variable {name}"), key, value))
            })
            .collect();
        overrides.sort();
        for set in sets {
            let Some((key, value)) = set.split_once('=') else {
                return Err(ConfigError::Override {
                    origin: format!("--set {set}"),
                    message: "expected KEY=VALUE, for instance verifier.interval=10".into(),
                });
            };
            overrides.push((format!("--set {set}"), key.trim().to_owned(), value.to_owned()));
        }
        for (origin, key, value) in overrides {
            config = config
                .with(&key, &value)
                .map_err(|message| ConfigError::Override { origin, message })?;
        }
        config.validate()?;
        Ok(config)
    }

    /// The same with one key changed; `key` has its section before a dot.
    fn with(&self, key: &str, value: &str) -> Result<Config, String> {
        let mut root = toml::Table::try_from(self).map_err(|e| e.to_string())?;
        let (section, name) = match key.split_once('.') {
            Some((section, name)) => (Some(section), name),
            None => (None, key),
        };
        let unknown = || format!("no configuration key {key:?}; `cgpathd config` prints all of them");
        let table = match section {
            Some(section) => root
                .get_mut(section)
                .and_then(toml::Value::as_table_mut)
                .ok_or_else(unknown)?,
            None => &mut root,
        };
        let slot = table
            .get_mut(name)
            .filter(|v| !v.is_table())
            .ok_or_else(unknown)?;
        *slot = match slot {
            // Text needs no quotes on a command line.
            toml::Value::String(_) => toml::Value::String(value.to_owned()),
            toml::Value::Array(_) if !value.trim_start().starts_with('[') => toml::Value::Array(
                value
                    .split(',')
                    .filter(|v| !v.is_empty())
                    .map(|v| toml::Value::String(v.trim().into()))
                    .collect(),
            ),
            _ => format!("v = {value}")
                .parse::<toml::Table>()
                .ok()
                .and_then(|mut t| t.remove("v"))
                .ok_or_else(|| format!("{value:?} is not a value for {key}"))?,
        };
        root.try_into()
            .map_err(|e: toml::de::Error| format!("{key}: {}", e.message()))
    }
}
