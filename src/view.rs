//! `phasetrace view`: serves a run's report to browsers on this machine, and until there is one, how far its training is.

mod log;
mod watch;

use std::fs;
use std::io::Cursor;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use evals::comparison::Comparison;
use reports::progress::Progress;
use tiny_http::{Header, Method, Request, Response, Server};

use crate::cli::ViewArgs;
use crate::lock;
use crate::output;
use crate::report::read_diagnosis;
use crate::run::Run;
use watch::Watch;

/// What every answer says besides its type: nothing is kept, nothing is guessed, and no other site is told.
const HEADERS: [(&str, &str); 3] =
    [("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"), ("X-Content-Type-Options", "nosniff")];

/// Serves until the process is ended (Ctrl-C).
pub(crate) fn run(args: &ViewArgs) -> Result<u8> {
    let mut site = Site::open(&args.run)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port))
        .with_context(|| format!("cannot listen on 127.0.0.1:{}", args.port))?;
    let address = listener.local_addr().context("cannot listen on 127.0.0.1")?;
    let server =
        Server::from_listener(listener, None).map_err(|error| anyhow!("cannot listen on {address}: {error}"))?;
    output::print_line(&format!("http://{address}/"))?;
    for request in server.incoming_requests() {
        let response = site.answer(&request).into_response();
        // A browser that is slow to take its page keeps nobody else waiting; one that has left is no error.
        thread::spawn(move || request.respond(response));
    }
    bail!("nothing can be received on {address} any more")
}

/// What a request is answered with.
struct Answer {
    status: u16,
    media_type: &'static str,
    body: String,
}

impl Answer {
    fn page(body: String) -> Self {
        Self { status: 200, media_type: "text/html; charset=utf-8", body }
    }

    fn json(body: String) -> Self {
        Self { status: 200, media_type: "application/json; charset=utf-8", body }
    }

    fn refusal(status: u16, reason: &str) -> Self {
        Self { status, media_type: "text/plain; charset=utf-8", body: format!("{reason}\n") }
    }

    fn into_response(self) -> Response<Cursor<Vec<u8>>> {
        let mut response =
            Response::from_data(self.body).with_status_code(self.status).with_chunked_threshold(usize::MAX);
        let allowed = (self.status == 405).then_some(("Allow", "GET, HEAD"));
        for (name, value) in HEADERS.into_iter().chain([("Content-Type", self.media_type)]).chain(allowed) {
            if let Ok(header) = Header::from_bytes(name, value) {
                response.add_header(header);
            }
        }
        response
    }
}

/// Whether the name that a request was sent to is this machine's own.
///
/// A page elsewhere can have its own name lead here (DNS rebinding) and would then read what is served; but its requests say that name.
fn is_local(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let is_port =
        |rest: &str| rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    ["127.0.0.1", "localhost", "[::1]"].into_iter().any(|name| host.strip_prefix(name).is_some_and(is_port))
}

/// Whether a request names one host, and this machine as it.
fn is_meant_for_here(headers: &[Header]) -> bool {
    let hosts: Vec<&Header> = headers.iter().filter(|header| header.field.equiv("Host")).collect();
    matches!(hosts[..], [host] if is_local(host.value.as_str()))
}

/// What is served of a folder. No path of a request ever becomes a path of a file.
struct Site {
    run: Run,
    watch: Watch,
    rendered: Option<Rendered>,
}

/// A report, and the record as it was when that was made.
struct Rendered {
    record: Record,
    version: (SystemTime, u64),
    html: String,
}

/// The file that a report is made from.
#[derive(PartialEq)]
enum Record {
    Diagnosis(PathBuf),
    Comparison(PathBuf),
}

impl Record {
    fn path(&self) -> &Path {
        match self {
            Self::Diagnosis(path) | Self::Comparison(path) => path,
        }
    }

    fn render(&self) -> Result<String> {
        match self {
            Self::Diagnosis(path) => Ok(reports::render_html(&read_diagnosis(path)?)?),
            Self::Comparison(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                let comparison: Comparison =
                    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(reports::render_comparison_html(&comparison)?)
            }
        }
    }
}

impl Site {
    /// The site of a run's folder or of a comparison's; other folders are refused.
    fn open(folder: &Path) -> Result<Self> {
        let site = Self { run: Run::at(folder), watch: Watch::default(), rendered: None };
        if !site.is_run() && site.record().is_none() {
            let shown = folder.display();
            bail!("{shown}: neither a run nor a comparison; `phasetrace train {shown}` makes a run");
        }
        Ok(site)
    }

    fn is_run(&self) -> bool {
        self.run.plan().exists() || self.run.recipe().exists()
    }

    /// The record that a report can be made from now. Results of `compare` may lie in a run's own folder, which stays a run.
    fn record(&self) -> Option<Record> {
        let (diagnosis, comparison) = (self.run.diagnosis(), self.run.root().join("comparison.json"));
        if diagnosis.exists() {
            return Some(Record::Diagnosis(diagnosis));
        }
        (!self.is_run() && comparison.exists()).then_some(Record::Comparison(comparison))
    }

    fn answer(&mut self, request: &Request) -> Answer {
        if !is_meant_for_here(request.headers()) {
            return Answer::refusal(403, "this page is for this machine alone: ask 127.0.0.1 for it");
        }
        if !matches!(request.method(), Method::Get | Method::Head) {
            return Answer::refusal(405, "pages are read here, and nothing else");
        }
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        let answer = match path {
            "/" => self.page(query != "follow=off").map(|html| Some(Answer::page(html))),
            "/report.html" => self.report().map(|html| html.map(Answer::page)),
            "/diagnosis.json" => self.diagnosis().map(|text| text.map(Answer::json)),
            _ => return Answer::refusal(404, "there is no such page"),
        };
        match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => Answer::refusal(404, "there is no such page yet"),
            Err(error) => Answer::refusal(500, &format!("{error:#}")),
        }
    }

    /// The report; before there is one, and while the run is trained on after it, how far the training is.
    fn page(&mut self, follows: bool) -> Result<String> {
        // Looked at before all else: what its owner writes before it lets go is then seen below.
        let is_worked_on = lock::is_taken(self.run.root());
        if let Some(record) = self.record()
            && !(is_worked_on && self.has_logged_since(record.path())?)
        {
            return self.render(record);
        }
        let progress = self.watch.look(&self.run)?;
        Ok(reports::render_progress_html(&Progress { is_worked_on, follows, ..progress })?)
    }

    fn report(&mut self) -> Result<Option<String>> {
        self.record().map(|record| self.render(record)).transpose()
    }

    fn diagnosis(&self) -> Result<Option<String>> {
        let path = self.run.diagnosis();
        if !path.exists() {
            return Ok(None);
        }
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display())).map(Some)
    }

    /// The report of a record; made again where the record has changed.
    fn render(&mut self, record: Record) -> Result<String> {
        let version = version(record.path())?;
        if let Some(kept) = &self.rendered
            && (&kept.record, kept.version) == (&record, version)
        {
            return Ok(kept.html.clone());
        }
        let html = record.render()?;
        self.rendered = Some(Rendered { record, version, html: html.clone() });
        Ok(html)
    }

    /// Whether a step was logged after a file was written.
    fn has_logged_since(&self, path: &Path) -> Result<bool> {
        let (written, _) = version(path)?;
        let Ok(entries) = fs::read_dir(self.run.folder().logs()) else { return Ok(false) };
        let is_later = |path: PathBuf| {
            let is_log = path.extension().is_some_and(|extension| extension == "jsonl");
            is_log && version(&path).is_ok_and(|(logged, _)| logged > written)
        };
        Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).any(is_later))
    }
}

/// When a file was last written, and its length in bytes.
fn version(path: &Path) -> Result<(SystemTime, u64)> {
    let version = fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len())));
    version.with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_this_machines_own_names_are_answered() {
        for host in ["127.0.0.1", "127.0.0.1:8787", "localhost", "LocalHost:80", "[::1]", "[::1]:8787"] {
            assert!(is_local(host), "{host}");
        }
        let others = [
            "",
            "example.com",
            "127.0.0.1.example.com",
            "localhost.example.com:80",
            "127.0.0.1:80:90",
            "127.0.0.1:",
            "127.0.0.1:99999",
            "127.0.0.2",
            "::1",
            "[::1].example.com",
            "user@127.0.0.1",
            "0.0.0.0:8787",
        ];
        for host in others {
            assert!(!is_local(host), "{host}");
        }
    }
}
