//! A small client of the `WebDriver` protocol (W3C) for chromedriver, with commands of Chrome where it has none.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;

/// Slow machines run axe for tens of seconds on a large page.
const PATIENCE: Duration = Duration::from_secs(150);
/// A picture of a whole page is some megabytes.
const LARGEST_ANSWER: u64 = 256 << 20;

/// Chrome without a window, and chromedriver before it; both end with this value.
pub(crate) struct Browser {
    driver: Child,
    agent: Agent,
    session: String,
}

/// Says on standard error, past the capture of the test harness, what is not tested here.
pub(crate) fn skip(what: &str) {
    // Nobody reading is no failure of the test.
    let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
}

impl Browser {
    /// Starts both, or says what is missing. No name of a host leads anywhere.
    pub(crate) fn start() -> Option<Self> {
        let Some(driver) = find("CHROMEDRIVER", &["chromedriver"]) else {
            skip("no chromedriver on PATH (Debian: apt-get install chromium chromium-driver)");
            return None;
        };
        let Some(chrome) = find("CHROME", &["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"])
        else {
            skip("no chromium on PATH (Debian: apt-get install chromium chromium-driver)");
            return None;
        };
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = |line: String| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok();
        let port = lines.find_map(port).expect("chromedriver says where it listens");
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let agent: Agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let mut browser = Self { driver, agent, session: format!("http://127.0.0.1:{port}/session") };
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ];
        let wanted = json!({
            "goog:chromeOptions": {"binary": chrome, "args": args},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": PATIENCE.as_millis() as u64, "pageLoad": 60_000},
        });
        let session = browser.post("", &json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = format!("{}/{}", browser.session, session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Opens a file as a reader would, from disk; nothing is left of what the page before logged.
    pub(crate) fn open(&self, path: &Path) {
        self.post("/url", &json!({"url": "about:blank"}));
        self.log("browser");
        self.log("performance");
        self.post("/url", &json!({"url": address(path)}));
    }

    /// Runs the body of a function in the page, on the page's own terms, and waits for what it promises.
    pub(crate) fn run(&self, script: &str, args: &Value) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": args}))
    }

    /// What a script returns, as lines.
    pub(crate) fn lines(&self, script: &str) -> Vec<String> {
        serde_json::from_value(self.run(script, &json!([]))).unwrap()
    }

    /// A command of Chrome (`Chrome DevTools Protocol`).
    pub(crate) fn command(&self, name: &str, params: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": name, "params": params}))
    }

    /// Entries of the log `browser` or `performance` since it was read last.
    pub(crate) fn log(&self, kind: &str) -> Vec<Value> {
        serde_json::from_value(self.post("/se/log", &json!({"type": kind}))).unwrap()
    }

    /// Width and height of the page, in CSS pixels.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", &size);
    }

    /// On a screen, with `light` or `dark` preferred.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.command("Emulation.setEmulatedMedia", &json!({"media": "", "features": features}));
    }

    /// Types into the first element that the selector finds.
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|reference| reference.values().next()?.as_str()).unwrap();
        self.post(&format!("/element/{id}/value"), &json!({"text": text}));
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.session);
        let call = self.agent.post(url).header("Content-Type", "application/json");
        let mut response = call.send(body.to_string()).unwrap();
        let text = response.body_mut().with_config().limit(LARGEST_ANSWER).read_to_string().unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        assert!(response.status().is_success(), "{path}: {}", answer["value"]["message"]);
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The session first: it takes Chrome along, which would outlive a killed driver.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What an environment variable names, or the first of these programs on `PATH`.
fn find(variable: &str, names: &[&str]) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Some(path.into());
    }
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file())
}

fn address(path: &Path) -> String {
    let mut address = path.to_str().unwrap().to_owned();
    for (letter, code) in [("%", "%25"), (" ", "%20"), ("#", "%23"), ("?", "%3F")] {
        address = address.replace(letter, code);
    }
    format!("file://{address}")
}
