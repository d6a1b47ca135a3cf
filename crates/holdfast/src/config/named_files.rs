//! The content of the files that settings name.

use std::path::Path;

use secrecy::SecretString;

use super::{
    error::{ConfigError, ConfigIssue},
    file,
    options::VdkOptions,
    table::Settings,
};

impl Settings {
    /// The password for PostgreSQL, if it is in a file of its own.
    pub(crate) fn database_password(&self) -> Result<Option<SecretString>, ConfigError> {
        let Some(path) = &self.database_password_file else { return Ok(None) };
        let text = named_file("database_password_file", path)?;
        Ok(Some(text.trim_end_matches(['\n', '\r']).into()))
    }

    /// The refresh token for the token endpoint of the webhook, if one is set.
    pub(crate) fn webhook_refresh_token(&self) -> Result<Option<SecretString>, ConfigError> {
        let Some(path) = &self.auth_webhook_refresh_token_file else { return Ok(None) };
        let text = named_file("auth.webhook_refresh_token_file", path)?;
        Ok(Some(text.trim().into()))
    }

    /// The token of scrapers, when one is set.
    pub(crate) fn metrics_token(&self) -> Result<Option<SecretString>, ConfigError> {
        let Some(path) = &self.metrics_token_file else { return Ok(None) };
        let text = named_file("metrics_token_file", path)?;
        if text.trim().is_empty() {
            let place = format!("metrics_token_file ({})", path.display());
            let hint = "Write a random token into it, for example that of `openssl rand -hex 32`.".into();
            return Err(ConfigError(vec![ConfigIssue { place, wrong: "it is empty.".into(), hint }]));
        }
        Ok(Some(text.trim().into()))
    }

    /// The constraints for VDK's packages, when a file of them is set.
    pub(crate) fn vdk_constraints(&self) -> Result<Option<String>, ConfigError> {
        self.vdk_constraints_file.as_deref().map(|path| named_file("vdk.constraints_file", path)).transpose()
    }

    /// The content of the options file; empty if none is set.
    pub(crate) fn vdk_options(&self) -> Result<VdkOptions, ConfigError> {
        let Some(path) = &self.vdk_options_file else { return Ok(VdkOptions::default()) };
        let text = named_file("vdk.options_file", path)?;
        VdkOptions::parse(&text, path).map_err(ConfigError)
    }
}

/// The text of a file that the setting `key` names.
fn named_file(key: &str, path: &Path) -> Result<String, ConfigError> {
    file::text(path).map_err(|wrong| {
        let place = format!("{key} ({})", path.display());
        ConfigError(vec![ConfigIssue { place, wrong, hint: "Name a file that this user can read.".into() }])
    })
}
