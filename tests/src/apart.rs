//! Host and bridge as processes of their own, as they run where one machine is not enough.

use std::{path::PathBuf, process::Child};

use crate::{Platform, free_port, launch, repository};

/// A bridge beside a platform's host.
pub struct Bridge {
    child: Option<Child>,
    /// Where it answers for jobs and tells how it is: `127.0.0.1:<port>`.
    listen: String,
}

impl Platform {
    /// Starts `innover up --no-bridge` with an empty state, and `innover bridge` over the same state.
    pub fn start_apart(environment: &[(&str, &str)]) -> (Platform, Bridge) {
        let mut platform = Platform::new(repository(), environment);
        let mut bridge = Bridge {
            child: None,
            listen: format!("127.0.0.1:{}", free_port()),
        };
        platform.arguments = ["--no-bridge", "--bridge-url", &bridge.url()]
            .map(str::to_owned)
            .into();
        // The bridge wants databases that are up to date, which the host sees to.
        platform.run();
        bridge.run(&platform);
        (platform, bridge)
    }
}

impl Bridge {
    /// `http://127.0.0.1:<port>` of its management.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where it logs.
    pub fn log(platform: &Platform) -> PathBuf {
        platform.state().join("bridge.log")
    }

    /// Starts the process and waits until it is ready.
    pub fn run(&mut self, platform: &Platform) {
        let mut command = platform.command("bridge");
        command
            .env("INNOVER_MANAGEMENT_LISTEN", &self.listen)
            .env("INNOVER_URL", &platform.url)
            .env("INNOVER_LOG", Bridge::log(platform));
        launch(&mut self.child, command, "bridge ready");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
