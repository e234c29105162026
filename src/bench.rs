//! `phasetrace bench attribution`: plants faults whose phase is known, diagnoses each lineage without its label, and measures how
//! far the verdicts can be trusted.

mod confirm;
pub(crate) mod fixes;
mod group;
mod jobs;
mod organism;
mod queue;
mod record;
mod tracing;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::reference::Reference;

use crate::bench::group::Group;
use crate::bench::organism::{Organism, read_organisms};
use crate::bench::queue::{Task, remove_stale, work_off};
use crate::cli::{AttributionArgs, BenchCommand};
use crate::exit::{self, NothingToAsk, Usage};
use crate::output;
use crate::progress::Bars;
use crate::recipe::Recipe;
use crate::report::read_diagnosis;
use crate::run::Run;
use crate::verdict;

/// The recipe of the bench's lineages.
const RECIPE: &str = include_str!("../recipes/bench.toml");

/// The twin without a fault.
const CLEAN: &str = "clean";

/// The folder of the phases that lineages of the same seeds share.
const SHARED: &str = "phases";

pub(crate) fn run(command: &BenchCommand, bars: &Bars) -> Result<u8> {
    match command {
        BenchCommand::Attribution(args) => attribution(args, bars),
        BenchCommand::Fit(args) => verdict::fit(args),
        BenchCommand::Score(args) => verdict::score(args),
        BenchCommand::Confirm(args) => confirm::run(args, bars),
        BenchCommand::Fixes(args) => fixes::run(args),
        BenchCommand::Tracing(args) => tracing::run(args, bars),
    }
}

fn attribution(args: &AttributionArgs, bars: &Bars) -> Result<u8> {
    if args.jobs > 1 {
        return jobs::share(args.jobs);
    }
    let base = match &args.recipe {
        Some(path) => Recipe::read_with(&read(path)?, path, false, &[])?.1,
        None => Recipe::parse(RECIPE, Path::new("recipes/bench.toml"))?,
    };
    if !base.world.faults.is_empty() {
        bail!("bench plants the faults itself: the recipe has `world.faults`");
    }
    let bench = Bench { dir: &args.dir, base: &base, bars };
    let known = read_organisms(&args.faults)?;
    let asked = choose(known.iter().collect::<Vec<_>>(), &args.only, "fault", |organism| organism.name.clone())?;
    if let Some(path) = &args.reference {
        bench.take_reference(path)?;
    }
    let tasks = bench.tasks(args, &asked)?;
    remove_stale(&tasks, |task| bench.is_stale(task))?;
    work_off(&tasks, |work| bench.work(work))?;
    output::print_line(&bench.collect(args, &tasks, &known)?.display().to_string())?;
    Ok(exit::SUCCESS)
}

/// What there is to do.
enum Work<'a> {
    /// Train and ask a healthy lineage of the reference.
    Healthy(Group),
    /// Collect them.
    Reference(Vec<Group>),
    /// Train, ask and diagnose a lineage, one with a fault or the healthy twin, and record what was found.
    Measure(Group, Option<&'a Organism>),
}

struct Bench<'a> {
    dir: &'a Path,
    base: &'a Recipe,
    bars: &'a Bars,
}

impl Bench<'_> {
    fn reference(&self) -> PathBuf {
        self.dir.join("reference.json")
    }

    /// Puts statistics that were collected elsewhere in the place of those that are there.
    fn take_reference(&self, path: &Path) -> Result<()> {
        Reference::load(path)?;
        // Byte for byte: numbers that are read and written again may move by their last bit, and the hash with them.
        let text = read(path)?;
        if fs::read_to_string(self.reference()).is_ok_and(|kept| kept == text) {
            return Ok(());
        }
        Ok(reports::write(&self.reference(), &text)?)
    }

    /// The lineages of these seeds, those of each once.
    fn groups<'s>(&self, seeds: impl IntoIterator<Item = &'s Seeds>) -> Result<Vec<Group>> {
        let mut seen = BTreeSet::new();
        let once = seeds.into_iter().filter(|seeds| seen.insert(**seeds));
        once.map(|seeds| Group::new(self.dir, self.base, *seeds)).collect()
    }

    fn tasks<'o>(&self, args: &AttributionArgs, organisms: &[&'o Organism]) -> Result<Vec<Task<Work<'o>>>> {
        let mut tasks = Vec::new();
        let reference = self.reference();
        if args.reference.is_none() {
            let healthy = self.groups(&args.healthy)?;
            for group in &healthy {
                let outcome = group.run(None).diagnosis();
                tasks.push(Task { work: Work::Healthy(group.clone()), outcome, after: Vec::new() });
            }
            let after = healthy.iter().map(|group| group.run(None).diagnosis()).collect();
            tasks.push(Task { work: Work::Reference(healthy), outcome: reference.clone(), after });
        }
        for group in self.groups(args.lineages.iter().chain(&args.clean))? {
            let outcome = group.record(None);
            tasks.push(Task { work: Work::Measure(group, None), outcome, after: vec![reference.clone()] });
        }
        for group in self.groups(&args.lineages)? {
            for organism in organisms.iter().copied().map(Some) {
                let (outcome, after) = (group.record(organism), vec![group.record(None)]);
                tasks.push(Task { work: Work::Measure(group.clone(), organism), outcome, after });
            }
        }
        Ok(tasks)
    }

    /// Whether an outcome is of another recipe, fault or reference than its task's, or of something that has to be made again first.
    fn is_stale(&self, task: &Task<Work<'_>>) -> Result<bool> {
        let is_current = match &task.work {
            Work::Healthy(group) => group.diagnosed(None, None)?.is_some(),
            Work::Reference(healthy) => self.has_reference_of(healthy),
            Work::Measure(group, organism) => group.has_record(*organism, &self.reference())?,
        };
        Ok(!is_current || task.after.iter().any(|needed| !needed.exists()))
    }

    /// Whether the reference is of these lineages, made from this recipe.
    fn has_reference_of(&self, healthy: &[Group]) -> bool {
        let Ok(Reference { runs, recipe: Some(plan), .. }) = Reference::load(&self.reference()) else { return false };
        let is_of_recipe =
            serde_json::from_value::<Recipe>(plan).is_ok_and(|recipe| matches!(recipe.difference(self.base), Ok(None)));
        is_of_recipe && runs.iter().eq(healthy.iter().map(|group| &group.name))
    }

    fn work(&self, work: &Work<'_>) -> Result<()> {
        match work {
            Work::Healthy(group) => group.measure(None, None, self.bars).map(|_| ()),
            Work::Reference(healthy) => {
                let diagnosis = |group: &Group| read_diagnosis(&group.run(None).diagnosis());
                let diagnoses = healthy.iter().map(diagnosis).collect::<Result<Vec<_>>>()?;
                let plan = serde_json::from_str(&self.base.to_plan()?)?;
                let reference = Reference { recipe: Some(plan), ..Reference::from_diagnoses(&diagnoses)? };
                Ok(reference.save(&self.reference())?)
            }
            Work::Measure(group, organism) => {
                let reference = Reference::load(&self.reference())?;
                let diagnosis = group.measure(*organism, Some(&reference), self.bars)?;
                group.keep_record(*organism, &diagnosis)
            }
        }
    }

    /// Puts the records of the tasks into one file, and with them those that earlier starts have left of the same seeds and other known
    /// faults, where they are of the same recipe and reference.
    fn collect(&self, args: &AttributionArgs, tasks: &[Task<Work<'_>>], known: &[Organism]) -> Result<PathBuf> {
        let asked: BTreeSet<&Path> = tasks.iter().map(|task| task.outcome.as_path()).collect();
        let mut text = String::new();
        for group in self.groups(args.lineages.iter().chain(&args.clean))? {
            for organism in std::iter::once(None).chain(known.iter().map(Some)) {
                let path = group.record(organism);
                if asked.contains(path.as_path()) || group.has_record(organism, &self.reference())? {
                    text += &read(&path)?;
                } else if path.exists() {
                    let path = path.display();
                    self.bars.say(&format!("{path}: left out, as it is of another recipe, fault or reference"));
                }
            }
        }
        let path = self.dir.join("records.jsonl");
        reports::write(&path, &text)?;
        Ok(path)
    }
}

/// World and training seed of lineages that share what their faults do not touch, written `WORLD:SEED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seeds {
    world: u64,
    training: u64,
}

impl Seeds {
    /// A world and a training seed of the same number.
    pub(crate) fn both(seed: u64) -> Self {
        Self { world: seed, training: seed }
    }

    /// Name of the group of lineages that share them.
    fn group(self) -> String {
        format!("world-{}-seed-{}", self.world, self.training)
    }
}

impl std::fmt::Display for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.world, self.training)
    }
}

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(':')
            .and_then(|(world, training)| Some(Self { world: world.parse().ok()?, training: training.parse().ok()? }));
        parsed.ok_or_else(|| format!("expected WORLD:SEED, two numbers, found {text:?}"))
    }
}

/// Where a lineage keeps its record.
fn record_file(run: &Run) -> PathBuf {
    run.root().join("record.json")
}

fn is_recorded(run: &Run) -> bool {
    record_file(run).exists()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The lineages of a kind in folders of the bench, or those that the folders are; those that `--only` names or all of them.
///
/// # Errors
/// [`NothingToAsk`] where there is none; those of [`choose`].
fn lineages(dirs: &[PathBuf], only: &[String], kind: &str, is_it: impl Fn(&Run) -> bool) -> Result<Vec<Run>> {
    let mut found = Vec::new();
    for dir in dirs {
        if is_it(&Run::at(dir)) {
            found.push(Run::at(dir));
            continue;
        }
        let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        found.extend(paths.iter().map(|path| Run::at(path)).filter(&is_it));
    }
    if found.is_empty() {
        let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        bail!(NothingToAsk(format!("{}: no {kind}; `phasetrace bench attribution` makes them", dirs.join(", "))));
    }
    choose(found, only, kind, Run::name)
}

/// Those that `--only` names, or all where it names none.
///
/// # Errors
/// [`Usage`] for a name that none has.
fn choose<T>(mut all: Vec<T>, only: &[String], kind: &str, name: impl Fn(&T) -> String) -> Result<Vec<T>> {
    let mut known = Vec::new();
    for name in all.iter().map(&name) {
        if !known.contains(&name) {
            known.push(name);
        }
    }
    if let Some(unknown) = only.iter().find(|only| !known.contains(only)) {
        bail!(Usage(format!("--only {unknown}: no such {kind}; known are {}", known.join(", "))));
    }
    all.retain(|one| only.is_empty() || only.contains(&name(one)));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evals::diagnosis::{DIAGNOSIS_VERSION, Diagnosis, Provenance};
    use evals::reference::REFERENCE_VERSION;
    use evals::verdict::record::{Family, load};
    use trainer::recipe::Probability;

    use super::*;
    use crate::bench::group::bank_of;
    use crate::diagnose::{keep, provenance};
    use crate::exit::{NOTHING_EVALUATED, USAGE, code};

    /// A world that is quickly written.
    fn base() -> Recipe {
        let world = fixtures::WorldRecipe {
            people: 8,
            months: 12,
            cutoff_month: 8,
            events_per_month: 4,
            conflicts: 6,
            exposures: 4,
            event_exposures: 4,
            conversations: 200,
            preferences: 120,
            prompts: 120,
            ..fixtures::WorldRecipe::default()
        };
        Recipe { world, ..Recipe::small().unwrap() }
    }

    fn organism(name: &str) -> Organism {
        read_organisms(&[]).unwrap().into_iter().find(|organism| organism.name == name).unwrap()
    }

    fn healthy_run(name: &str) -> Reference {
        Reference {
            version: REFERENCE_VERSION,
            probe_version: 1,
            runs: vec![name.to_owned()],
            recipe: None,
            cells: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Leaves what a lineage has once it was measured, without its training.
    fn leave(group: &Group, organism: Option<&Organism>, reference: &Reference) {
        let run = group.run(organism);
        let (text, recipe) = group.plan(organism).unwrap();
        if !run.data().exists() {
            fixtures::write_data(&recipe.world, recipe.seed, &run.data()).unwrap();
        }
        reports::write(&run.recipe(), &text).unwrap();
        let bank = bank_of(&run, organism).unwrap();
        let diagnosis = Diagnosis {
            version: DIAGNOSIS_VERSION,
            run: group.name.clone(),
            sentences: Vec::new(),
            lineages: Vec::new(),
            data: BTreeMap::new(),
            provenance: Provenance { reference: Some(reference.info()), ..provenance(None, &bank) },
        };
        group.keep_record(organism, &keep(&run, &diagnosis).unwrap()).unwrap();
    }

    #[test]
    fn a_record_of_another_recipe_fault_question_or_reference_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reference.json");
        let reference = healthy_run("a");
        reference.save(&path).unwrap();
        let group = Group::new(dir.path(), &base(), Seeds::both(7)).unwrap();
        let organism = organism("al_05_helpful_only");
        leave(&group, None, &reference);
        leave(&group, Some(&organism), &reference);
        let has = |group: &Group, organism: &Organism| group.has_record(Some(organism), &path).unwrap();
        assert!(has(&group, &organism));

        let mut other = organism.clone();
        other.card.family = Family::Knowledge;
        assert!(!has(&group, &other), "another truth");
        let mut other = organism.clone();
        other.card.wrong_labels = Some(Probability::new(0.5).unwrap());
        assert!(!has(&group, &other), "other questions");
        let mut other = base();
        other.world.people += 1;
        let other = Group::new(dir.path(), &other, Seeds::both(7)).unwrap();
        assert!(!has(&other, &organism), "another recipe");
        healthy_run("b").save(&path).unwrap();
        assert!(!has(&group, &organism), "another reference");
    }

    #[test]
    fn a_reference_of_other_healthy_lineages_or_another_recipe_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let (base, bars) = (base(), Bars::new(true));
        let bench = Bench { dir: dir.path(), base: &base, bars: &bars };
        let [first, second] = [21, 22].map(Seeds::both);
        let plan = serde_json::from_str(&base.to_plan().unwrap()).unwrap();
        let reference = Reference { recipe: Some(plan), ..healthy_run("world-21-seed-21") };
        reference.save(&bench.reference()).unwrap();
        let groups = |seeds: &[Seeds]| bench.groups(seeds).unwrap();
        assert!(bench.has_reference_of(&groups(&[first])));
        assert!(bench.has_reference_of(&groups(&[first, first])), "a seed counts once");
        assert!(!bench.has_reference_of(&groups(&[first, second])));
        let mut other = base.clone();
        other.world.people += 1;
        let other = Bench { dir: dir.path(), base: &other, bars: &bars };
        assert!(!other.has_reference_of(&groups(&[first])));
    }

    #[test]
    fn a_reference_from_elsewhere_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (base, bars) = (base(), Bars::new(true));
        let bench = Bench { dir: &dir.path().join("bench"), base: &base, bars: &bars };
        for name in ["a", "b", "b"] {
            let path = dir.path().join(name);
            healthy_run(name).save(&path).unwrap();
            bench.take_reference(&path).unwrap();
            assert_eq!(Reference::load(&bench.reference()).unwrap().runs, [name]);
        }
        let error = bench.take_reference(Path::new("nowhere.json")).unwrap_err().to_string();
        assert_eq!(error, "cannot read nowhere.json");
    }

    #[test]
    fn records_that_are_not_asked_for_stay_in_the_file_and_none_is_there_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (base, bars) = (base(), Bars::new(true));
        let bench = Bench { dir: dir.path(), base: &base, bars: &bars };
        let reference = healthy_run("a");
        reference.save(&bench.reference()).unwrap();
        let group = Group::new(dir.path(), &base, Seeds::both(7)).unwrap();
        // In the order of the tables.
        let known = ["pt_12_junk", "al_05_helpful_only"].map(organism);
        leave(&group, None, &reference);
        for organism in &known {
            leave(&group, Some(organism), &reference);
        }
        let args = AttributionArgs {
            dir: dir.path().to_owned(),
            recipe: None,
            healthy: Vec::new(),
            reference: Some(bench.reference()),
            lineages: vec![Seeds::both(7); 2],
            jobs: 1,
            clean: vec![Seeds::both(7)],
            faults: Vec::new(),
            only: Vec::new(),
        };
        let tasks = bench.tasks(&args, &[&known[1]]).unwrap();
        assert_eq!(tasks.len(), 2);
        let names = || -> Vec<String> {
            let path = bench.collect(&args, &tasks, &known).unwrap();
            load(&path).unwrap().into_iter().map(|record| record.name).collect()
        };
        let all = ["clean/world-7/seed-7", "pt_12_junk/world-7/seed-7", "al_05_helpful_only/world-7/seed-7"];
        assert_eq!(names(), all);

        // What is of another reference is left out, and left where it is.
        leave(&group, Some(&known[0]), &healthy_run("b"));
        assert_eq!(names(), [all[0], all[2]]);
        assert!(group.record(Some(&known[0])).exists());
    }

    #[test]
    fn a_name_that_no_lineage_has_is_refused_and_so_are_folders_without_any() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let find = |only: &[String]| lineages(&dirs, only, "recorded lineage", is_recorded);
        let error = find(&[]).unwrap_err();
        assert_eq!(code(&error), NOTHING_EVALUATED);
        assert!(error.to_string().contains(": no recorded lineage; `phasetrace bench"), "{error}");

        for name in ["clean", "junk"] {
            reports::write(&record_file(&Run::at(&dir.path().join(name))), "").unwrap();
        }
        let names = |only: &[String]| find(only).unwrap().iter().map(Run::name).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["clean", "junk"]);
        assert_eq!(names(&["junk".to_owned()]), ["junk"]);
        let error = find(&["jnk".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "--only jnk: no such recorded lineage; known are clean, junk");
        assert_eq!(code(&error), USAGE);
    }
}
