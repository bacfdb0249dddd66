//! Another configuration for a relay that runs.

use std::sync::Arc;

use relay_core::engine::Input;

use super::{Hub, lock};
use crate::load::{self, Loaded, Purpose};

impl Hub {
    /// Loads the configuration and the certificates anew, and puts them in force. Says what changed.
    ///
    /// # Errors
    /// Everything that is wrong with them; nothing changed then.
    pub fn reload(&self) -> Result<Vec<String>, String> {
        let Some(options) = &self.load else {
            return Err("this relay was started by a program, which alone can reload it".into());
        };
        let mut options = options.clone();
        let mut lines = Vec::new();
        let said = |error: load::LoadError| error.to_string();
        // The credentials that count are those in the data directory that is in use.
        let running = self.loaded().config.data_dir.clone();
        if load::draft(&options).map_err(said)?.0.data_dir() != running {
            options.data_dir = Some(running);
            lines.push("data_dir: a change needs a restart; the old one stays in use".to_owned());
        }
        let loaded = load::load(&options, Purpose::Reload).map_err(said)?;
        lines.extend(self.apply(loaded));
        Ok(lines)
    }

    /// Puts a loaded configuration in force, for new sessions and deliveries. Open sockets and the data
    /// directory stay as they are. Says what changed.
    pub fn apply(&self, loaded: Loaded) -> Vec<String> {
        // Two at once would leave the engine with one configuration and new sessions with the other.
        let _one_at_a_time = lock(&self.applying);
        let loaded = with_checks(
            loaded,
            self.credential_check.is_some(),
            self.token_check.is_some(),
        );
        let running = self.loaded();
        let mut lines = running.config.diff(&loaded.config);
        if !running.tls.shows_the_same_as(&loaded.tls) {
            lines.push("tls: another certificate".to_owned());
        }
        let kept = loaded.config.kept_open(&running.config);
        let loaded = match loaded.arranged(kept) {
            Ok(loaded) => loaded,
            Err(error) => return vec![format!("not applied: {error}")],
        };
        let config = Arc::clone(&loaded.config);
        *lock(&self.loaded) = Arc::new(loaded);
        self.with_resolver(|resolver| {
            resolver.reconfigure(&config.dns, config.delivery.ip_families);
        });
        self.input(Input::Reload(Arc::clone(&config)));
        lines
    }
}

/// What was loaded, for a relay whose embedder checks passwords or tokens, or does not.
pub(super) fn with_checks(mut loaded: Loaded, passwords: bool, tokens: bool) -> Loaded {
    let config = &loaded.config;
    if (config.external_credentials, config.external_tokens) != (passwords, tokens) {
        let config = Arc::make_mut(&mut loaded.config);
        (config.external_credentials, config.external_tokens) = (passwords, tokens);
    }
    loaded
}
