//! The page that `view` serves: to this machine alone, of one run alone, and what it shows as the run goes on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::program::{arg, copy, files, phasetrace, run, trained};

const REFRESH: &str = "http-equiv=\"refresh\"";

/// The program while it serves; ended when this goes.
struct Viewer {
    child: Child,
    address: String,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a request was answered with.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Viewer {
    /// Starts it on a folder and waits for the line that says where it is.
    fn start(folder: &Path) -> Self {
        let mut child = phasetrace(&["view", arg(folder)]).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut viewer = Self { child, address: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/\n"));
        viewer.address = address.unwrap_or_else(|| panic!("no address: {line:?}")).into();
        assert!(viewer.address.starts_with("127.0.0.1:"), "{line}");
        viewer
    }

    fn send(&self, request: &str) -> Reply {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn ask(&self, method: &str, path: &str, host: &str) -> Reply {
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &self.address)
    }
}

/// A copy of the finished run, to be changed.
fn copy_run(folder: &Path) -> PathBuf {
    let run = folder.join("copy");
    copy(trained(), &run);
    run
}

#[test]
fn a_trained_run_is_shown_to_this_machine_and_nothing_else_is() {
    let before = files(trained());
    let viewer = Viewer::start(trained());
    let page = viewer.get("/");
    assert_eq!(page.status, 200, "{}", page.body);
    for header in [
        "content-type: text/html; charset=utf-8",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "x-content-type-options: nosniff",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    assert!(page.body.contains("All phases are trained, and nothing is diagnosed yet."), "{}", page.body);
    assert!(page.body.contains("200 of 200 steps"), "SFT as its log tells");
    assert!(page.body.contains("phasetrace diagnose") && !page.body.contains(REFRESH));
    assert_eq!(page.body.matches("id=\"loss-").count() / 2, 7, "a title and a description for each phase");

    let head = viewer.ask("HEAD", "/", &viewer.address);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let port = viewer.address.split_once(':').unwrap().1;
    let elsewhere = format!("example.com:{port}");
    for host in ["example.com", "127.0.0.1.example.com", "", elsewhere.as_str()] {
        let reply = viewer.ask("GET", "/", host);
        assert_eq!(reply.status, 403, "{host}");
        assert!(!reply.body.contains("Pretraining"), "{host}");
    }
    assert_eq!(viewer.send("GET / HTTP/1.0\r\n\r\n").status, 403, "no host at all");
    assert_eq!(viewer.ask("GET", "/", &format!("localhost:{port}")).status, 200);
    let post = viewer.send(&format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        viewer.address
    ));
    assert!(post.status == 405 && post.head.contains("allow: get, head"), "{}", post.head);
    let nowhere = ["/../../etc/passwd", "/plan.json", "//", "/%2e%2e/plan.json", "/logs/sft.jsonl", "/diagnosis.json"];
    for path in nowhere {
        assert_eq!(viewer.get(path).status, 404, "{path}");
    }
    assert_eq!(viewer.get("/report.html").status, 404, "there is none yet");
    drop(viewer);
    assert!(files(trained()) == before, "who looks changes nothing");
}

#[test]
fn the_page_follows_a_run_and_becomes_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = copy_run(folder.path());
    fs::remove_dir_all(run_folder.join("checkpoints/rl-cai")).unwrap();
    let viewer = Viewer::start(&run_folder);
    let page = viewer.get("/").body;
    assert!(page.contains("Nobody is working on the run.") && page.contains("phasetrace train"), "{page}");
    assert!(!page.contains(REFRESH));

    // As a process that trains it does.
    let lock = File::create(run_folder.join(".lock")).unwrap();
    lock.try_lock().unwrap();
    let page = viewer.get("/").body;
    assert!(page.contains("RL-CAI is being trained") && page.contains(REFRESH), "{page}");
    assert!(!viewer.get("/?follow=off").body.contains(REFRESH));

    let diagnosis = serde_json::json!({
        "version": evals::diagnosis::DIAGNOSIS_VERSION,
        "run": "as-it-was-diagnosed",
        "sentences": ["Nothing was asked.", "No phase is blamed.", "Ask it something."],
        "lineages": [],
        "provenance": {
            "seed": 3, "bank_hash": "0", "n_items": 0, "probe_version": 1, "phasetrace_version": "0", "reference": null, "notes": {}
        }
    });
    reports::write(&run_folder.join("diagnosis.json"), &diagnosis.to_string()).unwrap();
    let report = viewer.get("/");
    assert!(report.status == 200 && report.body.contains("as-it-was-diagnosed"), "{}", report.body);
    assert!(!report.body.contains(REFRESH));
    assert_eq!(viewer.get("/report.html").body, report.body);
    let json = viewer.get("/diagnosis.json");
    assert!(json.head.contains("content-type: application/json; charset=utf-8"), "{}", json.head);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json.body).unwrap(), diagnosis);

    let text = diagnosis.to_string().replace("as-it-was-diagnosed", "diagnosed-again");
    reports::write(&run_folder.join("diagnosis.json"), &text).unwrap();
    assert!(viewer.get("/").body.contains("diagnosed-again"), "a report is made again where its record changes");

    // What is trained after the diagnosis is shown while somebody is at it.
    let log = run_folder.join("logs/rl-cai.jsonl");
    let later = fs::metadata(run_folder.join("diagnosis.json")).unwrap().modified().unwrap() + Duration::from_secs(9);
    File::options().append(true).open(log).unwrap().set_modified(later).unwrap();
    assert!(viewer.get("/").body.contains("RL-CAI is being trained"));
    drop(lock);
    assert!(viewer.get("/").body.contains("diagnosed-again"));

    fs::write(run_folder.join("diagnosis.json"), "{").unwrap();
    let broken = viewer.get("/");
    assert_eq!(broken.status, 500);
    assert!(broken.body.contains("diagnosis.json") && broken.head.contains("text/plain"), "{}", broken.body);
}

#[test]
fn what_cannot_be_shown_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(&["view", arg(folder.path())]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    assert!(outcome.stderr.contains("neither a run nor a comparison"), "{}", outcome.stderr);
    assert!(files(folder.path()).is_empty());

    let viewer = Viewer::start(trained());
    let port = viewer.address.split_once(':').unwrap().1;
    let taken = run(&["view", arg(trained()), "--port", port]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{}", taken.stderr);
}
