//! Lineages of the same seeds, in one folder: the healthy twin and those with a fault.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use evals::diagnosis::{Diagnosis, ReferenceInfo};
use evals::reference::Reference;
use evals::store::RESULTS_FILE;
use evals::verdict::model::TierModel;
use evals::verdict::record::{Record, to_lines};
use lm::random::stream;
use probes::bank::Bank;
use probes::item::{Behaviour, Task};
use rand::Rng;
use trainer::recipe::{ModelRecipe, Positive, Probability};

use crate::bench::organism::Organism;
use crate::bench::record::{Subject, record};
use crate::bench::{CLEAN, SHARED, Seeds, record_file};
use crate::cli::Stop;
use crate::diagnose::{Wanted, diagnose_run, keep};
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::reference::jittered_rate;
use crate::report::read_diagnosis;
use crate::run::{Run, chains};
use crate::store::PhaseStore;
use crate::train::{Extent, train};

/// Lineages of the same seeds; that of no organism is the healthy twin.
#[derive(Clone)]
pub(crate) struct Group {
    /// Name of its folder, and of every lineage in it as a diagnosis sees them.
    pub(crate) name: String,
    dir: PathBuf,
    base: Recipe,
}

impl Group {
    pub(crate) fn new(dir: &Path, base: &Recipe, seeds: Seeds) -> Result<Self> {
        let mut base = base.clone();
        base.seed = seeds.training;
        base.world.seed = seeds.world;
        jitter(&mut base)?;
        let name = seeds.group();
        Ok(Self { dir: dir.join(&name), name, base })
    }

    pub(crate) fn run(&self, organism: Option<&Organism>) -> Run {
        Run::at(&self.dir.join(organism.map_or(CLEAN, |organism| &organism.name)))
    }

    pub(crate) fn record(&self, organism: Option<&Organism>) -> PathBuf {
        record_file(&self.run(organism))
    }

    /// The recipe of a lineage, as text and in its meaning.
    pub(crate) fn plan(&self, organism: Option<&Organism>) -> Result<(String, Recipe)> {
        match organism {
            Some(organism) => organism.plant(&Recipe { alignment: vec![Alignment::Rlhf], ..self.base.clone() }),
            None => Ok((toml::to_string(&self.base)?, self.base.clone())),
        }
    }

    /// Trains a lineage, or what is missing of it, asks it and diagnoses it without its label.
    pub(crate) fn measure(
        &self,
        organism: Option<&Organism>,
        reference: Option<&Reference>,
        bars: &Bars,
    ) -> Result<Diagnosis> {
        let run = self.run(organism);
        bars.say(&run.root().display().to_string());
        let (text, recipe) = self.plan(organism)?;
        let twin = self.run(None);
        let shares = organism.is_some_and(|organism| organism.shares_pretraining(&recipe, &self.base));
        let store = PhaseStore::at(&self.dir.join(SHARED));
        let extent = Extent { until: Stop::RlCai, store: Some(&store), tokenizer_of: shares.then_some(&twin) };
        train(&run, &text, &recipe, extent, bars)?;
        if organism.is_none_or(|organism| organism.card.wrong_labels.is_none()) {
            take_answers(&twin, &run)?;
        }
        let bank = bank_of(&run, organism)?;
        let lineage = Unlabelled { group: &self.name, run: &run, recipe: &recipe, bank: &bank };
        keep(&run, &lineage.diagnose(reference, None, bars)?)
    }

    /// The diagnosis that an earlier start has left, where recipe and questions are still the same, and the healthy runs too where some
    /// are given.
    pub(crate) fn diagnosed(
        &self,
        organism: Option<&Organism>,
        reference: Option<&ReferenceInfo>,
    ) -> Result<Option<Diagnosis>> {
        let run = self.run(organism);
        let (_, planned) = self.plan(organism)?;
        let path = run.recipe();
        // What cannot be read is no longer the same.
        let trained = fs::read_to_string(&path).ok().and_then(|text| Recipe::parse(&text, &path).ok());
        let (Some(trained), Ok(diagnosis)) = (trained, read_diagnosis(&run.diagnosis())) else { return Ok(None) };
        let is_same = trained.difference(&planned)?.is_none()
            && diagnosis.run == self.name
            && reference.is_none_or(|reference| diagnosis.provenance.reference.as_ref() == Some(reference))
            && bank_of(&run, organism).is_ok_and(|bank| bank.hash == diagnosis.provenance.bank_hash);
        Ok(is_same.then_some(diagnosis))
    }

    /// Whether a record is there that would come out the same again, beside the reference of this file.
    pub(crate) fn has_record(&self, organism: Option<&Organism>, reference: &Path) -> Result<bool> {
        // The reference is read after the record, since it is made before: another process may be at work on both.
        let Ok(text) = fs::read_to_string(self.record(organism)) else { return Ok(false) };
        let Ok(reference) = Reference::load(reference) else { return Ok(false) };
        let Some(diagnosis) = self.diagnosed(organism, Some(&reference.info()))? else { return Ok(false) };
        Ok(self.make_record(organism, &diagnosis).is_ok_and(|record| text == to_lines(&[record])))
    }

    pub(crate) fn keep_record(&self, organism: Option<&Organism>, diagnosis: &Diagnosis) -> Result<()> {
        let record = self.make_record(organism, diagnosis)?;
        Ok(reports::write(&self.record(organism), &to_lines(&[record]))?)
    }

    fn make_record(&self, organism: Option<&Organism>, diagnosis: &Diagnosis) -> Result<Record> {
        let ModelRecipe { layers, hidden, .. } = &self.base.model;
        let subject = Subject {
            name: organism.map_or(CLEAN, |organism| &organism.name),
            types: organism.map_or_else(Vec::new, |organism| organism.types.clone()),
            card: organism.map(|organism| &organism.card),
            seeds: (self.base.world.seed, self.base.seed),
            shape: format!("{layers} layers of width {hidden}"),
        };
        let twin = organism.map(|_| read_diagnosis(&self.run(None).diagnosis())).transpose()?;
        Ok(record(&subject, diagnosis, twin.as_ref()))
    }
}

/// A trained lineage as a diagnosis sees it: under the name of its group, so that its label stays out.
pub(crate) struct Unlabelled<'a> {
    /// Name of the group.
    pub(crate) group: &'a str,
    /// The lineage.
    pub(crate) run: &'a Run,
    /// Its recipe.
    pub(crate) recipe: &'a Recipe,
    /// What it is asked, from [`bank_of`].
    pub(crate) bank: &'a Bank,
}

impl Unlabelled<'_> {
    /// Asks what was not asked yet and diagnoses the lineage; nothing is kept.
    pub(crate) fn diagnose(
        &self,
        reference: Option<&Reference>,
        model: Option<&TierModel>,
        bars: &Bars,
    ) -> Result<Diagnosis> {
        let wanted = Wanted {
            name: self.group.to_owned(),
            chains: &chains(&self.recipe.alignment),
            answers: self.run.root(),
            reference,
            model,
            fixes: None,
            traces: false,
            remedies: false,
            bank: Some(self.bank),
            also: &[],
        };
        diagnose_run(self.run, self.recipe, &wanted, bars)
    }
}

/// What a lineage is asked: its own bank, with wrong labels where the fault is one of who asks.
pub(crate) fn bank_of(run: &Run, organism: Option<&Organism>) -> Result<Bank> {
    let bank = Bank::load(&run.bank())?;
    Ok(match organism.and_then(|organism| organism.card.wrong_labels) {
        Some(share) => mislabel(bank, share),
        None => bank,
    })
}

/// A bank in which this share of the questions on people has a wrong answer for right.
fn mislabel(mut bank: Bank, share: Probability) -> Bank {
    let mut rng = stream(0, "wrong labels", 0);
    for item in bank.items.iter_mut().filter(|item| item.behaviour == Behaviour::Knowledge) {
        if let Task::Choice { options, answer, .. } = &mut item.task
            && rng.random_bool(share.get())
        {
            *answer = (*answer + 1) % options.len();
        }
    }
    bank.hash = trainer::data::hash(format!("{} mislabelled {}", bank.hash, share.get()).as_bytes());
    bank
}

/// Draws the learning rates of the lineages of one seed, as healthy runs of a reference have theirs. For now that of DPO stays the
/// recipe's in all lineages of a bench, though `phasetrace reference` varies it too.
fn jitter(recipe: &mut Recipe) -> Result<()> {
    let seed = recipe.seed;
    let rates = [
        ("pretrain.lr", &mut recipe.pretrain.lr),
        ("sft.lr", &mut recipe.sft.lr),
        ("reward.lr", &mut recipe.reward.lr),
        ("rlhf.lr", &mut recipe.rlhf.lr),
    ];
    for (key, rate) in rates {
        *rate = Positive::new(jittered_rate(seed, key, *rate).parse()?).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// Takes the answers of another run, where there are none yet: checkpoints that both have are not asked again.
fn take_answers(from: &Run, to: &Run) -> Result<()> {
    let (source, place) = (from.root().join(RESULTS_FILE), to.root().join(RESULTS_FILE));
    if !source.exists() || place.exists() {
        return Ok(());
    }
    let partial = place.with_extension("partial");
    fs::copy(&source, &partial).with_context(|| format!("cannot copy {}", source.display()))?;
    fs::rename(&partial, &place).with_context(|| format!("cannot write {}", place.display()))
}
