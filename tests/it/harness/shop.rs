//! A whole shop in one process: the real binary as a newcomer starts it, with a data folder of this test alone.

use std::{collections::BTreeMap, path::Path};

use super::server::{SERVICE_TOKEN, TestServer};

/// A data folder, and the settings of servers that use it.
pub(crate) struct Shop {
    data: tempfile::TempDir,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Nothing is chosen here but where things are, and how the log looks.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("TOLLGATE_DATA", self.data().to_str().expect("a path in UTF-8")),
            ("TOLLGATE_BIND", "127.0.0.1:0"),
            ("TOLLGATE_ADMIN_BIND", "127.0.0.1:0"),
            ("TOLLGATE_SANDBOX_BIND", "127.0.0.1:0"),
            ("TOLLGATE_SERVICE_TOKEN", SERVICE_TOKEN),
            ("TOLLGATE_LOG_FORMAT", "json"),
            ("TOLLGATE_LOG", "info,tollgate=debug"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Starts a server; an empty value takes a setting away.
    pub(crate) async fn serve_with(&self, settings: &[(&str, &str)]) -> Result<TestServer, String> {
        let mut all = self.settings();
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        TestServer::start(&all).await
    }

    pub(crate) async fn serve(&self) -> TestServer {
        self.serve_with(&[]).await.unwrap_or_else(|log| panic!("the shop does not open:\n{log}"))
    }
}
