//! What the page of a run in progress promises its reader, whatever the run is called and its logs say.

use reports::progress::{Course, PhaseProgress, Progress};
use reports::render_progress_html;

use promise::HOSTILE;

mod promise;

/// The log of `steps` steps of 1,000 tokens and a tenth of a second.
fn course(steps: u64) -> Course {
    let mut course = Course::default();
    for step in 1..=steps {
        let loss = 7.0 / (step as f64).sqrt();
        let line = format!(
            "{{\"step\":{step},\"loss_nats\":{loss},\"tokens\":1000,\"tokens_per_s\":10000.0,\"unix_s\":{step},\"reward\":0.5,\"kl_nats\":0.1}}\n"
        );
        course.add_line(line.as_bytes());
    }
    course
}

/// Pretraining is done, SFT at step 480 of 1,200, and RLHF waits.
fn half_way() -> Progress {
    let phase = |name: &str, steps, logged, is_done| PhaseProgress {
        name: name.to_owned(),
        steps,
        is_done,
        course: course(logged),
        alarms: Vec::new(),
    };
    Progress {
        run: "small".to_owned(),
        path: "runs/small".to_owned(),
        is_worked_on: true,
        follows: true,
        since_last_s: Some(3.0),
        phases: vec![
            phase("pretrain", 1_200, 1_200, true),
            phase("sft", 1_200, 480, false),
            phase("rlhf", 80, 0, false),
        ],
    }
}

#[test]
fn hostile_text_is_shown_and_never_run() {
    let hostile = HOSTILE;
    for is_worked_on in [true, false] {
        let mut progress = half_way();
        progress.is_worked_on = is_worked_on;
        progress.run = hostile.to_owned();
        progress.path = hostile.to_owned();
        for phase in &mut progress.phases {
            phase.name = format!("{hostile}{}", phase.name);
            phase.alarms = vec![(7, hostile.to_owned())];
            phase.course.add_line(hostile.as_bytes());
        }
        let page = render_progress_html(&progress).unwrap();
        promise::shows_hostile_text(&page, 0);
    }
}

#[test]
fn the_page_needs_no_network_and_no_script() {
    for progress in [half_way(), Progress { phases: Vec::new(), ..half_way() }] {
        let page = render_progress_html(&progress).unwrap();
        promise::is_self_contained(&page, 0);
    }
}

#[test]
fn the_first_screen_says_where_the_run_is_how_fast_it_goes_and_how_long_it_takes() {
    let page = render_progress_html(&half_way()).unwrap();
    for text in [
        "<h1>SFT is being trained: 40% of its steps are done.</h1>",
        "The last step is step 480 of 1,200, logged 3.0 s ago.",
        // The template escapes the slash.
        "10,000 tokens&#x2f;s",
        "median of the last 20 steps",
        // 720 steps of a tenth of a second.
        "About 1 min 12 s for the rest of this phase (95% interval 1 min 12 s to 1 min 12 s): 720 steps at 0.100 s each",
        "Then RLHF. When the run is diagnosed, this page is its report.",
        "1 of 3",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("phasetrace train"), "somebody is at it already");
}

#[test]
fn every_curve_has_its_title_its_description_and_its_table() {
    let page = render_progress_html(&half_way()).unwrap();
    let charts: Vec<&str> = page.split("<svg class=\"chart\"").skip(1).collect();
    // Loss, reward and divergence of the two phases that have logged a step.
    assert_eq!(charts.len(), 6);
    for chart in charts {
        let (drawing, after) = chart.split_once("</svg>").unwrap();
        assert!(drawing.contains("<title") && drawing.contains("<desc"), "{drawing}");
        assert!(after.contains("The numbers in this chart"));
    }
    assert!(page.contains("loss, nats: from 7.000 at step 1 to 0.320 at step 480, of 1,200 steps"));
}

#[test]
fn the_page_loads_itself_again_only_while_it_follows_a_run_at_work() {
    let refresh = "<meta http-equiv=\"refresh\" content=\"2\">";
    let page = render_progress_html(&half_way()).unwrap();
    assert!(page.contains(refresh) && page.contains("<a href=\"/?follow=off\">Stop following</a>"));
    let still = render_progress_html(&Progress { follows: false, ..half_way() }).unwrap();
    assert!(!still.contains(refresh) && still.contains("<a href=\"/\">Follow the run</a>"));
    let stopped = render_progress_html(&Progress { is_worked_on: false, ..half_way() }).unwrap();
    assert!(!stopped.contains(refresh) && !stopped.contains("Stop following"));
}

#[test]
fn a_run_that_nobody_works_on_says_so_and_how_to_go_on() {
    let mut progress = Progress { is_worked_on: false, ..half_way() };
    let page = render_progress_html(&progress).unwrap();
    assert!(page.contains("Training has stopped in SFT, at step 480 of 1,200."));
    assert!(page.contains("Nobody is working on the run."));
    assert!(page.contains("<code>phasetrace train runs&#x2f;small</code>"), "{page}");
    for phase in &mut progress.phases {
        phase.is_done = true;
    }
    let page = render_progress_html(&progress).unwrap();
    assert!(page.contains("All phases are trained, and nothing is diagnosed yet."));
    assert!(page.contains("<code>phasetrace diagnose runs&#x2f;small</code>"), "{page}");
    progress.phases.clear();
    assert!(render_progress_html(&progress).unwrap().contains("The run has no plan yet."));
}

#[test]
fn what_is_not_known_yet_is_no_number() {
    let mut progress = half_way();
    progress.phases[1].course = Course::default();
    progress.since_last_s = None;
    let page = render_progress_html(&progress).unwrap();
    assert!(page.contains("<h1>SFT is being prepared.</h1>"));
    assert!(page.contains("How long this phase takes is not known before its first step."));
    assert!(page.contains("no step is logged yet"));
    progress.phases[1].course = course(1);
    let page = render_progress_html(&progress).unwrap();
    assert!(page.contains("as the one step so far; too few for an interval"), "{page}");
    assert!(!page.contains("NaN") && !page.contains("inf s"));
}

#[test]
fn warnings_are_listed_with_phase_and_step() {
    let mut progress = half_way();
    assert!(render_progress_html(&progress).unwrap().contains("Nothing so far."));
    progress.phases[1].alarms = vec![(400, "its answers went from 6.0 to 12.0 tokens".to_owned())];
    let page = render_progress_html(&progress).unwrap();
    assert!(page.contains("<th scope=\"row\">SFT</th><td>400</td><td>Its answers went from 6.0 to 12.0 tokens</td>"));
}
