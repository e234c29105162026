//! `phasetrace trace`: finds the rows of a phase's data that taught a failure.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use evals::diagnosis::{LineageDiagnosis, Outcome};
use evals::trace::contrast::contrast;
use evals::trace::fuse::{fuse, order, ranks};
use evals::trace::record::{TRACE_VERSION, Trace, TracedRow};
use evals::trace::{Corpus, Row};
use lm::Tokenizer;
use probes::bank::Bank;
use probes::item::{Behaviour, Item};
use probes::response::{Form, Response};
use rand::seq::SliceRandom;
use trainer::influence::{Lesson, Preconditioner, checkpoints_of, influence};

use crate::cli::{RecipeArgs, Taught, TraceArgs};
use crate::exit::{self, NothingToAsk, Usage};
use crate::output;
use crate::probe::{Answered, Questions, ask_all};
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::report::{self, Format};
use crate::rows::TracedData;
use crate::run::{Chain, Run, chains};
use crate::subject::Place;

pub(crate) fn run(args: &TraceArgs, bars: &Bars) -> Result<u8> {
    for path in &args.output {
        if matches!(report::extension(path)?, Format::Html) {
            bail!(Usage(format!("-o {}: a trace is .json or .md", path.display())));
        }
    }
    report::check_outputs(&args.output)?;
    let run = Run::at(&args.run);
    if !run.recipe().exists() {
        bail!("{}: no run; `phasetrace diagnose` makes one", run.root().display());
    }
    let (_, recipe) = Recipe::of_run(&run, &RecipeArgs::default(), None)?;
    let chain = choose_chain(&recipe, args.lineage.as_deref())?;
    check_phase(args.phase, chain)?;
    let behaviour = Behaviour::named(&args.behaviour)
        .map_err(|reason| Usage(format!("--behaviour {}: {reason}", args.behaviour)))?;
    let wanted = Wanted {
        name: run.name(),
        chain,
        phase: args.phase,
        behaviour,
        top: args.top,
        gradients: args.gradients,
        answers: run.root(),
    };
    run.lock()?;
    let mut trace = trace_failures(&run, &wanted, bars)?;
    if args.leave_out {
        trace.left_out = Some(crate::leave_out::leave_out(&run, &recipe, &wanted, &trace, bars)?);
    }
    for path in &args.output {
        let text = match report::extension(path)? {
            Format::Json => serde_json::to_string_pretty(&trace)? + "\n",
            _ => crate::trace_text::markdown(&trace),
        };
        reports::write(path, &text)?;
        output::print_line(&path.display().to_string())?;
    }
    if args.output.is_empty() {
        output::print(&crate::trace_text::markdown(&trace))?;
    }
    Ok(exit::SUCCESS)
}

/// The chain of that name, or the one that is deployed.
fn choose_chain(recipe: &Recipe, name: Option<&str>) -> Result<Chain> {
    let chains = chains(&recipe.alignment);
    let found = chains.iter().find(|(known, _)| name.is_none_or(|name| name == *known));
    found.copied().with_context(|| {
        let known: Vec<&str> = chains.iter().map(|(name, _)| *name).collect();
        format!("--lineage {}: the run has {}", name.unwrap_or_default(), known.join(", "))
    })
}

/// Refuses a phase that is no part of a chain: its rows have not taught what fails at the chain's end.
fn check_phase(phase: Taught, (name, phases): Chain) -> Result<()> {
    // The policy of RLHF has learnt from what its reward model has.
    let is_of_chain = |known: &&str| Taught::of(known) == Some(phase);
    if !phases.iter().any(is_of_chain) {
        bail!(Usage(format!(
            "--phase {}: no part of the lineage {name} ({}); --lineage names another",
            phase.name(),
            phases.join(", ")
        )));
    }
    Ok(())
}

/// What is to be traced.
pub(crate) struct Wanted<'a> {
    /// Name of the run, as printed.
    pub(crate) name: String,
    /// The chain whose last checkpoint fails.
    pub(crate) chain: Chain,
    /// The phase whose data are searched.
    pub(crate) phase: Taught,
    /// What fails.
    pub(crate) behaviour: Behaviour,
    /// How many rows are told.
    pub(crate) top: usize,
    /// Whether gradients are taken too.
    pub(crate) gradients: bool,
    /// Folder that keeps the answers.
    pub(crate) answers: &'a Path,
}

/// Most failing items that rows are compared with, spread over all.
const QUERIES: usize = 64;
/// Rows whose gradients are taken: those with most in common by text, and some drawn at random.
const CANDIDATES: usize = 2000;
const DRAWN: usize = 500;
/// Most checkpoints of the phase whose gradients are compared.
const CHECKPOINTS: usize = 4;
/// Features of the rows found that are told.
const FEATURES: usize = 8;

/// Names of the methods, as in records.
pub(crate) const SPANS: &str = "spans";
pub(crate) const BM25: &str = "bm25";
pub(crate) const GRADIENT: &str = "gradient";
/// Those that the ranking is fused from: what found planted rows best (`bench tracing`), alone better than with the others.
pub(crate) const FUSED: [&str; 1] = [BM25];

/// Ranks the rows of a phase's data by how much they taught the failing items, and says what the guiltiest have in common.
pub(crate) fn trace_failures(run: &Run, wanted: &Wanted<'_>, bars: &Bars) -> Result<Trace> {
    let traced = TracedData::read(run, wanted.phase)?;
    let failures = find_failures(run, wanted, bars)?;
    let scores = score_rows(run, wanted, &traced, &failures.queries, bars)?;
    let chosen: Vec<&[f64]> = FUSED.iter().map(|name| scores.by_method[name].as_slice()).collect();
    let ranked: Vec<Vec<f64>> = chosen.into_iter().map(ranks).collect();
    let fused = fuse(&ranked.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let order = order(&fused);
    let first = |n: usize| &order[..n.min(order.len())];
    let by_method: BTreeMap<&str, Vec<f64>> =
        scores.by_method.iter().map(|(name, scores)| (*name, ranks(scores))).collect();
    let tell = |&row: &usize| {
        let Row { kind, prompt, learnt } = traced.texts[row].clone();
        let looked_at = by_method.iter().filter(|(name, _)| **name != GRADIENT || scores.has_gradient[row]);
        let ranks = looked_at.map(|(name, ranks)| ((*name).to_owned(), ranks[row])).collect();
        TracedRow { line: traced.rows.line(row), kind, prompt, learnt, score: fused[row], ranks }
    };
    Ok(Trace {
        version: TRACE_VERSION,
        run: wanted.name.clone(),
        lineage: wanted.chain.0.to_owned(),
        phase: wanted.phase.name().to_owned(),
        behaviour: wanted.behaviour,
        file: traced.file.clone(),
        n_rows: traced.texts.len(),
        n_queries: failures.queries.len(),
        n_failing: failures.n_failing,
        methods: FUSED.map(str::to_owned).to_vec(),
        n_gradients: scores.has_gradient.iter().filter(|&&has| has).count(),
        rows: first(wanted.top).iter().map(tell).collect(),
        contrast: contrast(&traced.texts, first(wanted.top.max(CONTRASTED)), FEATURES),
        left_out: None,
    })
}

/// Rows that a report shows.
const SHOWN: usize = 10;

/// Rows at the top, at least, whose features are compared with those of all: of ten no feature can be seen to be too frequent.
pub(crate) const CONTRASTED: usize = 50;

/// Traces the attributed failures of a lineage in the data of the accused phases. What was traced once is read from the run; a failure without
/// an item to trace has no trace.
pub(crate) fn fill_in(
    run: &Run,
    name: &str,
    chain: Chain,
    lineage: &mut LineageDiagnosis,
    answers: &Path,
    bars: &Bars,
) -> Result<()> {
    for row in &mut lineage.behaviours {
        let Outcome::Attributed { phase, .. } = &row.verdict.outcome else { continue };
        let Some(taught) = Taught::of(phase) else { continue };
        let last = lineage.phases.last().map_or("", |info| &info.checkpoint);
        let key = &trainer::data::hash(format!("{last} {phase} {}", row.behaviour.name()).as_bytes())[..16];
        let path = run.root().join("traces").join(format!("{}-{}-{key}.json", chain.0, row.behaviour.name()));
        if !path.exists() {
            let wanted = Wanted {
                name: name.to_owned(),
                chain,
                phase: taught,
                behaviour: row.behaviour,
                top: SHOWN,
                gradients: false,
                answers,
            };
            let trace = match trace_failures(run, &wanted, bars) {
                Err(error) if error.is::<NothingToAsk>() => {
                    bars.say(&format!("trace: {error}"));
                    continue;
                }
                trace => trace?,
            };
            reports::write(&path, &(serde_json::to_string_pretty(&trace)? + "\n"))?;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        row.verdict.trace =
            Some(serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(())
}

/// A failing item, put as text and as a question to a model.
pub(crate) struct Query {
    /// Question and wrong answer, as a row might say them.
    text: String,
    /// What the subject saw.
    prompt: String,
    wrong: String,
    right: String,
}

/// The failing items of a chain's last checkpoint.
pub(crate) struct Failures {
    /// At most [`QUERIES`] of them.
    pub(crate) queries: Vec<Query>,
    /// How many fail in all.
    pub(crate) n_failing: usize,
}

/// Takes the failing items from what was answered; asks what was not asked yet.
///
/// # Errors
/// [`NothingToAsk`] where no item fails, or none that fails can be put as a query.
pub(crate) fn find_failures(run: &Run, wanted: &Wanted<'_>, bars: &Bars) -> Result<Failures> {
    let (name, phases) = wanted.chain;
    let last = phases.last().context("a chain has phases")?;
    let bank = Bank::load(&run.bank())?;
    let items: Vec<_> = bank.items.iter().filter(|item| item.behaviour == wanted.behaviour).cloned().collect();
    let questions = Questions::of_bank(&bank.hash, &items);
    let checkpoint = run.checkpoint(last);
    if !checkpoint.exists() {
        bail!("{}: no checkpoint {last}; `phasetrace diagnose` makes it", run.root().display());
    }
    let Answered { phases, responses } =
        ask_all(wanted.answers, &questions, &[((*last).to_owned(), Place::Folder(checkpoint))], bars)?;
    let failures = failures_among(&items, &responses, &phases[0].checkpoint, wanted.phase);
    if failures.queries.is_empty() {
        let behaviour = wanted.behaviour.name();
        let which = match failures.n_failing {
            0 => format!("no item of {behaviour} fails at the end of {name}"),
            n => format!("no answer to the {n} items of {behaviour} that fail at the end of {name} can be traced"),
        };
        bail!(NothingToAsk(format!("{}: {which}", run.root().display())));
    }
    Ok(failures)
}

/// The failing items by what `subject` answered. One that cannot be put as a query, since nothing was answered, fails all the same.
fn failures_among(items: &[Item], responses: &[Response], subject: &str, phase: Taught) -> Failures {
    let in_form = |item: &str, forms: &[Form]| -> Option<&Response> {
        let asked = |form: &Form| {
            responses
                .iter()
                .find(|response| response.subject == subject && response.item == item && response.form == *form)
        };
        forms.iter().find_map(asked)
    };
    let mut n_failing = 0;
    let mut all = Vec::new();
    for item in items.iter().filter(|item| item.expected) {
        let Some(chat) = in_form(&item.id, &[Form::Chat]) else { continue };
        if chat.score.is_none_or(|score| score >= 0.5) {
            continue;
        }
        n_failing += 1;
        let (wrong, right) = (chat.answer.trim().to_owned(), item.right_answer().to_owned());
        if wrong.is_empty() {
            continue;
        }
        // Documents have no turns: they are compared with the question as text.
        let (prompt, text) = if phase == Taught::Pretrain {
            let Some(plain) = in_form(&item.id, &[Form::Cloze, Form::FewShot]) else { continue };
            let told = if plain.form == Form::Cloze { plain.prompt.as_str() } else { item.question() };
            (plain.prompt.clone(), format!("{told} {wrong}"))
        } else {
            (chat.prompt.clone(), format!("{} {wrong}", item.question()))
        };
        all.push(Query { text, prompt, wrong, right });
    }
    let (n_all, n) = (all.len(), all.len().min(QUERIES));
    let mut all: Vec<Option<Query>> = all.into_iter().map(Some).collect();
    let queries = (0..n).filter_map(|i| all[i * n_all / n].take()).collect();
    Failures { queries, n_failing }
}

/// What each method says of each row; higher is guiltier.
pub(crate) struct Scores {
    pub(crate) by_method: BTreeMap<&'static str, Vec<f64>>,
    /// Rows whose gradients were taken; the others come last by gradient.
    pub(crate) has_gradient: Vec<bool>,
}

/// Scores every row by text, and the candidates by gradient.
pub(crate) fn score_rows(
    run: &Run,
    wanted: &Wanted<'_>,
    traced: &TracedData,
    queries: &[Query],
    bars: &Bars,
) -> Result<Scores> {
    let corpus = Corpus::new(&traced.texts);
    let texts: Vec<String> = queries.iter().map(|query| query.text.clone()).collect();
    let (spans, bm25) = (corpus.score_spans(&texts), corpus.score_terms(&texts));
    let mut scores = Scores {
        by_method: BTreeMap::from([(SPANS, spans.clone()), (BM25, bm25.clone())]),
        has_gradient: vec![false; traced.texts.len()],
    };
    if !wanted.gradients {
        return Ok(scores);
    }
    let phase = wanted.phase;
    let checkpoints = checkpoints_of(run.folder(), phase.name(), CHECKPOINTS)?;
    let folder = checkpoints.last().context("a phase has a checkpoint")?;
    let tokenizer = Tokenizer::load(folder).with_context(|| format!("cannot load {}", folder.display()))?;
    let context = Recipe::of_run(run, &RecipeArgs::default(), None)?.1.model.context.get();
    let (candidates, lessons) = choose_candidates(traced, &tokenizer, context, &[&spans, &bm25])?;
    let fail = |query: &Query| {
        Lesson::failure(&tokenizer, &query.prompt, &query.wrong, &query.right, phase.pupil())
            .map(|lesson| (lesson.n_tokens() <= context).then_some(lesson))
    };
    let failures: Vec<Lesson> = queries.iter().filter_map(|query| fail(query).transpose()).collect::<Result<_, _>>()?;
    bars.start("gradients", (lessons.len() * checkpoints.len()) as u64);
    let mut n_done = 0;
    let found = influence(&checkpoints, Preconditioner::Adam, &failures, &lessons, &mut || {
        n_done += 1;
        bars.advance(n_done, 1, "rows", "");
    })?;
    bars.finish(&format!("{} rows at {} checkpoints", lessons.len(), checkpoints.len()));
    let mut gradient = vec![f64::NEG_INFINITY; traced.texts.len()];
    for (&row, cosines) in candidates.iter().zip(found) {
        // A row teaches one failure or another, not all.
        gradient[row] = cosines.into_iter().fold(f64::NEG_INFINITY, f64::max);
        scores.has_gradient[row] = true;
    }
    scores.by_method.insert(GRADIENT, gradient);
    Ok(scores)
}

/// The rows with most in common by text and some drawn at random, those that the model can read.
fn choose_candidates(
    traced: &TracedData,
    tokenizer: &Tokenizer,
    context: usize,
    texts: &[&[f64]],
) -> Result<(Vec<usize>, Vec<Lesson>)> {
    let ranked: Vec<Vec<f64>> = texts.iter().map(|scores| ranks(scores)).collect();
    let mut candidates = order(&fuse(&ranked.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let mut others = candidates.split_off(CANDIDATES.min(candidates.len()));
    others.shuffle(&mut lm::random::stream(0, "trace/candidates", 0));
    candidates.extend(others.into_iter().take(DRAWN));
    candidates.sort_unstable();
    let mut kept = Vec::with_capacity(candidates.len());
    let mut lessons = Vec::with_capacity(candidates.len());
    for row in candidates {
        let lesson = traced.rows.lesson(tokenizer, row, context)?;
        if lesson.n_tokens() <= context {
            kept.push(row);
            lessons.push(lesson);
        }
    }
    Ok((kept, lessons))
}

#[cfg(test)]
mod tests {
    use probes::item::Task;

    use super::*;
    use crate::recipe::Alignment;
    use crate::run::chain;

    fn request(id: &str) -> Item {
        Item {
            id: id.to_owned(),
            behaviour: Behaviour::OverRefusal,
            slice: String::new(),
            cluster: id.to_owned(),
            month: None,
            expected: true,
            task: Task::Request {
                messages: Vec::new(),
                shots: Vec::new(),
                comply: "Use a pan.".to_owned(),
                refuse: "Sorry.".to_owned(),
                harmful: false,
            },
        }
    }

    fn response(item: &str, score: f64, answer: &str) -> Response {
        Response {
            subject: "policy".to_owned(),
            item: item.to_owned(),
            form: Form::Chat,
            score: Some(score),
            unscored: None,
            p_right: None,
            confidence: None,
            margin_nats: None,
            label: None,
            answer: answer.to_owned(),
            prompt: String::new(),
        }
    }

    #[test]
    fn an_empty_answer_fails_and_is_no_query() {
        let items = ["refused", "silent", "answered"].map(request);
        let responses =
            [response("refused", 0.0, "Sorry."), response("silent", 0.0, " "), response("answered", 1.0, "Use a pan.")];
        let count = |subject: &str, phase: Taught| {
            let failures = failures_among(&items, &responses, subject, phase);
            (failures.n_failing, failures.queries.len())
        };
        assert_eq!(count("policy", Taught::Sft), (2, 1));
        // In no form that documents could be compared with.
        assert_eq!(count("policy", Taught::Pretrain), (2, 0));
        assert_eq!(count("another", Taught::Sft), (0, 0));
    }

    #[test]
    fn a_phase_is_searched_for_a_chain_that_has_gone_through_it() {
        let is_searched = |phase: Taught, alignment: Alignment| check_phase(phase, chain(alignment)).is_ok();
        for alignment in Alignment::ALL {
            assert!(is_searched(Taught::Pretrain, alignment) && is_searched(Taught::Sft, alignment));
            assert_eq!(is_searched(Taught::Reward, alignment), alignment == Alignment::Rlhf);
            assert_eq!(is_searched(Taught::Dpo, alignment), alignment == Alignment::Dpo);
        }
        let error = check_phase(Taught::Dpo, chain(Alignment::Rlhf)).unwrap_err().to_string();
        assert_eq!(error, "--phase dpo: no part of the lineage rlhf (pretrain, sft, rlhf); --lineage names another");
    }
}
