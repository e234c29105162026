//! The pages that are opened: those of a small run, and those of invented records that have every part a page can have.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use evals::comparison::Comparison;
use evals::diagnosis::Diagnosis;
use reports::progress::{Course, PhaseProgress, Progress};

use crate::program::{arg, copy, phasetrace, succeed, trained};

#[expect(dead_code, reason = "one of the samples is enough")]
#[path = "../../../reports/tests/sample/mod.rs"]
mod sample;
#[expect(dead_code, reason = "one of the samples is enough")]
#[path = "../../../reports/tests/sweep/mod.rs"]
mod sweep;
#[path = "../../../reports/tests/texts/mod.rs"]
mod texts;

/// A page on disk.
#[derive(Debug)]
pub(crate) struct Page {
    /// What it is called in messages and in the names of pictures.
    pub(crate) name: &'static str,
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Sentences that a reader must be able to see on it, also without script.
    pub(crate) says: Vec<String>,
}

/// Texts that would break out of a page, reorder it or widen it, and how often each is repeated.
const HOSTILE: [(&str, usize); 12] = [
    ("<script>document.title = 'run'</script>", 1),
    ("</style></svg></title></textarea><img src=x onerror=\"document.title = 'run'\">", 1),
    ("\" autofocus onfocus=\"document.title = 'run'", 1),
    ("javascript:document.title='run'", 1),
    ("{{ page }}{% raw %}", 1),
    ("W", 300),
    ("\u{202e}\u{2066}\u{0}\u{1b}[31m\u{7f}", 9),
    ("\u{301}", 300),
    ("https://example.com/", 20),
    ("漢字", 200),
    ("\n", 12),
    ("ﷺ", 60),
];

/// The pages of a small run and of invented records, made once.
pub(crate) fn pages() -> &'static [Page] {
    static PAGES: OnceLock<Vec<Page>> = OnceLock::new();
    PAGES.get_or_init(|| {
        let folder = folder("pages");
        let mut pages = of_a_run(&folder);
        let (diagnosis, comparison) = (sample::failing(), sweep::of(3));
        pages.push(diagnosed(&folder, "failing", &diagnosis));
        pages.push(compared(&folder, "sweep", &comparison));
        pages.push(in_progress(&folder, "progress"));
        pages
    })
}

/// Pages whose every text is hostile.
pub(crate) fn hostile_pages() -> Vec<Page> {
    let folder = folder("hostile-pages");
    let text = |index: usize| {
        let (text, times) = HOSTILE[index % HOSTILE.len()];
        format!("{index:04}{}", text.repeat(times))
    };
    let diagnosis: Diagnosis = texts::Texts::of(&sample::failing()).with(text);
    let comparison: Comparison = texts::Texts::of(&sweep::of(3)).with(text);
    let pages = [diagnosed(&folder, "hostile-report", &diagnosis), compared(&folder, "hostile-compare", &comparison)];
    pages.into_iter().map(|page| Page { says: Vec::new(), ..page }).collect()
}

/// An empty folder that stays, so that its pages can be looked at after the tests.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Report, comparison and index of the run that all tests share: what the program itself writes.
fn of_a_run(folder: &Path) -> Vec<Page> {
    let run = folder.join("runs/first");
    copy(trained(), &run);
    let (report, compare, index) = (run.join("report.html"), folder.join("compare.html"), folder.join("index.html"));
    let told_of_run = succeed(&["diagnose", arg(&run)]);
    let told_of_comparison = succeed(&["compare", arg(&run), "--no-explore", "-o", arg(&compare)]);
    // An index has trends where there is more than one run.
    copy(&run, &folder.join("runs/second"));
    // From within the folder: the page names the runs as they are given.
    let written = phasetrace(&["index", "runs", "-o", "index.html"]).current_dir(folder).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    // Behind the place of the page the program prints the sentences that it says.
    let says = |told: &str| told.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    vec![
        Page { name: "report", path: report, says: says(&told_of_run) },
        Page { name: "compare", path: compare, says: says(&told_of_comparison) },
        Page { name: "index", path: index, says: Vec::new() },
    ]
}

/// The page that `view` serves before a diagnosis, of the same run: one phase is at work and one waits.
fn in_progress(folder: &Path, name: &'static str) -> Page {
    let phase = |name: &str, is_done, alarms| {
        let mut course = Course::default();
        let log = fs::read(trained().join(format!("logs/{name}.jsonl"))).unwrap_or_default();
        log.split_inclusive(|&byte| byte == b'\n').for_each(|line| course.add_line(line));
        PhaseProgress { name: name.to_owned(), steps: 200, is_done, course, alarms }
    };
    let alarm = (4, "answers got 41 % longer than at the start".to_owned());
    let phases = vec![
        phase("pretrain", true, Vec::new()),
        phase("sft", true, Vec::new()),
        phase("rlhf", false, vec![alarm]),
        phase("waits", false, Vec::new()),
    ];
    let (run, path) = ("small".to_owned(), "runs/small".to_owned());
    let progress = Progress { run, path, is_worked_on: false, follows: false, since_last_s: Some(3.0), phases };
    let path = folder.join(format!("{name}.html"));
    reports::write(&path, &reports::render_progress_html(&progress).unwrap()).unwrap();
    Page { name, path, says: Vec::new() }
}

fn diagnosed(folder: &Path, name: &'static str, diagnosis: &Diagnosis) -> Page {
    let path = folder.join(format!("{name}.html"));
    reports::write(&path, &reports::render_html(diagnosis).unwrap()).unwrap();
    Page { name, path, says: diagnosis.sentences.clone() }
}

fn compared(folder: &Path, name: &'static str, comparison: &Comparison) -> Page {
    let path = folder.join(format!("{name}.html"));
    reports::write(&path, &reports::render_comparison_html(comparison).unwrap()).unwrap();
    Page { name, path, says: comparison.sentences.clone() }
}
