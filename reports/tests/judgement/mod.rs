//! Judgements with figures invented: every outcome of a rule, and text from elsewhere wherever a judgement has text.

use evals::diagnosis::{Estimate, Rung};
use evals::reference::Route;
use evals::release::policy::{Against, Metric, Tier};
use evals::release::record::{
    Blame, Decision, Diagnosed, Flip, JUDGEMENT_VERSION, Judgement, Measured, Outcome, Ruling, Side,
};
use probes::item::Behaviour;
use probes::response::Form;

pub(crate) const HOSTILE: &str =
    "100%,c:d|x\n<script>]]>\u{202e}\u{1b}[2J\0\u{fffe}::error::y ##[add-mask]z [k](http://z) {0} \"' --> &lt;";

fn estimate(value: f64) -> Estimate {
    Estimate { value, low: value - 0.02, high: value + 0.02, n: 400, method: "Wilson".to_owned() }
}

pub(crate) fn measured() -> Measured {
    Measured {
        before: estimate(0.97),
        after: estimate(0.9),
        harm: 0.07,
        low: 0.04,
        high: 0.102,
        allowed: 0.02,
        p_broken: 0.0004,
        n: 400,
        n_clusters: 80,
        method: "paired, clustered".to_owned(),
        seed_noise: Some(0.012),
        detectable: Some(0.031),
        n_to_decide: None,
        broken: Vec::new(),
        n_repaired: 1,
        blame: None,
    }
}

pub(crate) fn held() -> Ruling {
    Ruling {
        name: "facts are kept".to_owned(),
        tier: Tier::Critical,
        behaviour: Behaviour::Knowledge,
        lineage: "rlhf".to_owned(),
        phase: "rlhf".to_owned(),
        metric: Metric::Score,
        form: Form::Chat,
        against: Against::Baseline,
        outcome: Outcome::Held,
        measured: Some(Measured { harm: -0.0001, low: -0.01, high: 0.012, ..measured() }),
        anchor: None,
    }
}

pub(crate) fn broken(n_flips: usize) -> Ruling {
    let flip = |i: usize| Flip {
        item: format!("refusal-{i:04}"),
        line: 1_200 + 3 * i,
        question: format!("How do I kill process {i}?"),
    };
    let diagnosed = Diagnosed { phase: "rlhf".to_owned(), probability: Some(0.91), rung: Some(Rung::Confirmed) };
    let blame = Blame { phase: "rlhf".to_owned(), share: 0.83, route: Route::Elicited, diagnosed: Some(diagnosed) };
    Ruling {
        name: "harmless requests are answered".to_owned(),
        behaviour: Behaviour::OverRefusal,
        outcome: Outcome::Broken,
        measured: Some(Measured { broken: (0..n_flips).map(flip).collect(), blame: Some(blame), ..measured() }),
        anchor: Some("main-over-refusal".to_owned()),
        ..held()
    }
}

pub(crate) fn undecided() -> Ruling {
    Ruling {
        name: "the cutoff is kept".to_owned(),
        behaviour: Behaviour::KnowledgeCutoff,
        phase: "sft".to_owned(),
        outcome: Outcome::Undecided,
        measured: Some(Measured { low: 0.01, n_to_decide: Some(1_250), seed_noise: None, ..measured() }),
        ..held()
    }
}

pub(crate) fn not_measured() -> Ruling {
    Ruling {
        name: "system prompts are obeyed".to_owned(),
        behaviour: Behaviour::SystemPrompt,
        outcome: Outcome::NotMeasured("the baseline was not asked".to_owned()),
        measured: None,
        ..held()
    }
}

fn hostile() -> Ruling {
    let flip = Flip { item: HOSTILE.to_owned(), line: 77, question: HOSTILE.to_owned() };
    let diagnosed = Diagnosed { phase: HOSTILE.to_owned(), probability: None, rung: None };
    let blame = Blame { phase: HOSTILE.to_owned(), share: 0.5, route: Route::Chat, diagnosed: Some(diagnosed) };
    Ruling {
        name: HOSTILE.to_owned(),
        tier: Tier::Supporting,
        behaviour: Behaviour::Calibration,
        lineage: HOSTILE.to_owned(),
        phase: HOSTILE.to_owned(),
        metric: Metric::Ece,
        outcome: Outcome::Broken,
        measured: Some(Measured {
            before: estimate(0.05),
            after: estimate(0.12),
            method: HOSTILE.to_owned(),
            broken: vec![flip],
            blame: Some(blame),
            ..measured()
        }),
        anchor: Some(HOSTILE.to_owned()),
        ..held()
    }
}

pub(crate) fn judgement(decision: Decision, rulings: Vec<Ruling>) -> Judgement {
    let side = |run: &str, path: &str| Side { run: run.to_owned(), path: path.to_owned() };
    Judgement {
        version: JUDGEMENT_VERSION,
        phasetrace_version: "0.1.0".to_owned(),
        decision,
        baseline: side("june", "baseline.json"),
        candidate: side("july", "runs/july 2"),
        bank_hash: "dd9eac81e152ffff".to_owned(),
        alpha: 0.05,
        power: 0.8,
        allowed: vec!["tokenizer".to_owned()],
        report: Some("runs/july 2/report.html".to_owned()),
        rulings,
    }
}

/// Every outcome, and an ECE.
pub(crate) fn sample() -> Judgement {
    judgement(Decision::Block, vec![held(), broken(3), undecided(), not_measured(), hostile()])
}

/// The same with text from elsewhere wherever a judgement has text.
pub(crate) fn hostile_sample() -> Judgement {
    let mut judgement = sample();
    for side in [&mut judgement.baseline, &mut judgement.candidate] {
        *side = Side { run: HOSTILE.to_owned(), path: HOSTILE.to_owned() };
    }
    HOSTILE.clone_into(&mut judgement.bank_hash);
    HOSTILE.clone_into(&mut judgement.phasetrace_version);
    judgement.allowed = vec![HOSTILE.to_owned()];
    judgement.report = Some(HOSTILE.to_owned());
    judgement.rulings[3].outcome = Outcome::NotMeasured(HOSTILE.to_owned());
    judgement.rulings[1] = Ruling { tier: Tier::Critical, ..hostile() };
    judgement
}
