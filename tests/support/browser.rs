//! A real browser, driven by the WebDriver protocol (W3C), as far as tests need it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::ports::free_port;

/// The key under which WebDriver names an element (W3C WebDriver, section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Chromium without a window, and the driver that drives it.
pub struct Browser {
    driver: Child,
    client: Client,
    /// Of the session.
    url: String,
    _profile: tempfile::TempDir,
}

/// Says that a test is left out, and fails where it must not be.
fn leave_out(why: &str) {
    let demanded = std::env::var_os("GATELOG_REQUIRE_BROWSER").is_some_and(|v| v == "1");
    assert!(
        !demanded,
        "GATELOG_REQUIRE_BROWSER=1, but there is no browser: {why}. scripts/setup --browser installs it"
    );
    // Not by eprintln!, which the harness swallows where a test passes.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(
        std::io::stderr(),
        "LEFT OUT {test}, as there is no browser (scripts/setup --browser installs one): {why}"
    );
}

/// The program of this name, if it runs here.
fn program(name: &str) -> Result<(), String> {
    let ran = Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match ran {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} --version ends with {status}")),
        Err(e) => Err(format!("{name} does not run: {e}")),
    }
}

impl Browser {
    /// `None`: there is no Chromium here, which was said.
    pub async fn start() -> Option<Self> {
        if let Err(why) = program("chromedriver").and_then(|()| program("chromium")) {
            leave_out(&why);
            return None;
        }
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver,
            client: Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(60))
                .build()
                .unwrap(),
            url: format!("http://127.0.0.1:{port}"),
            _profile: profile,
        };
        browser.wait_for_driver().await;
        let data = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless=new",
            // Tests run as root in containers, where Chromium's own sandbox does not.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--lang=en-GB",
            &data,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium(), "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = browser.ask(Method::POST, "/session", Some(wanted)).await;
        browser.url += &format!("/session/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Ends the browser in good order.
    pub async fn close(self) {
        self.ask(Method::DELETE, "", None).await;
    }

    async fn wait_for_driver(&self) {
        for _ in 0..3000 {
            let status = self.client.get(format!("{}/status", self.url)).send().await;
            if status.is_ok_and(|s| s.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("chromedriver does not answer");
    }

    async fn try_ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Value> {
        let mut call = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            call = call.json(&body);
        }
        let answer = call.send().await.unwrap();
        let well = answer.status().is_success();
        let value = answer.json::<Value>().await.unwrap()["value"].take();
        if well { Ok(value) } else { Err(value) }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let asked = format!("{method} {path}");
        self.try_ask(method, path, body)
            .await
            .unwrap_or_else(|e| panic!("{asked}: {e}"))
    }

    pub async fn open(&self, url: &str) {
        self.ask(Method::POST, "/url", Some(json!({"url": url}))).await;
    }

    /// Runs a function's body in the page.
    pub async fn run(&self, script: &str, arguments: Value) -> Value {
        let body = json!({"script": script, "args": arguments});
        self.ask(Method::POST, "/execute/sync", Some(body)).await
    }

    async fn find(&self, selector: &str) -> Result<String, Value> {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.try_ask(Method::POST, "/element", Some(body)).await?;
        Ok(found[ELEMENT].as_str().unwrap().to_owned())
    }

    /// Clicks as a user does: only what can be seen.
    pub async fn click(&self, selector: &str) {
        let element = self
            .find(selector)
            .await
            .unwrap_or_else(|e| panic!("{selector}: {e}"));
        self.ask(
            Method::POST,
            &format!("/element/{element}/click"),
            Some(json!({})),
        )
        .await;
    }

    pub async fn type_in(&self, selector: &str, text: &str) {
        let element = self
            .find(selector)
            .await
            .unwrap_or_else(|e| panic!("{selector}: {e}"));
        self.ask(
            Method::POST,
            &format!("/element/{element}/value"),
            Some(json!({"text": text})),
        )
        .await;
    }

    /// The text that can be seen at the first place that a selector finds; empty where there is none.
    pub async fn text(&self, selector: &str) -> String {
        let script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : ''";
        let text = self.run(script, json!([selector])).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a text can be seen.
    pub async fn until(&self, selector: &str, part: &str) {
        for _ in 0..600 {
            if self.text(selector).await.contains(part) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{selector} does not say {part:?}: {}", self.text("body").await);
    }

    /// What the page or the browser complained of since the last call.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self
            .ask(Method::POST, "/se/log", Some(json!({"type": "browser"})))
            .await;
        let entries = entries.as_array().unwrap().iter();
        entries
            .map(|e| e["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The addresses that were asked for since the last call.
    pub async fn requests(&self) -> Vec<String> {
        let entries = self
            .ask(Method::POST, "/se/log", Some(json!({"type": "performance"})))
            .await;
        let read = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            (message["method"] == "Network.requestWillBeSent")
                .then(|| message["params"]["request"]["url"].as_str().map(str::to_owned))?
        };
        entries.as_array().unwrap().iter().filter_map(read).collect()
    }

    /// A window of a width in CSS pixels, and what its user prefers.
    pub async fn look(&self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.ask(Method::POST, "/goog/cdp/execute", Some(body)).await
    }

    /// Writes the whole page as an image into the folder that GATELOG_SCREENSHOTS names, if it names one.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("GATELOG_SCREENSHOTS") else {
            return;
        };
        let wanted = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.devtools("Page.captureScreenshot", wanted).await;
        let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        let folder = std::path::PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }
}

/// Where Chromium is: Debian's package, or what another system calls the same.
fn chromium() -> String {
    let found = Command::new("sh")
        .args(["-c", "command -v chromium"])
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

impl Drop for Browser {
    fn drop(&mut self) {
        // With all it has started: they are one group. A driver that is killed leaves its browser running.
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.wait();
    }
}
