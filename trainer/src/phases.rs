//! Tests that every phase teaches every parameter.
//!
//! Without weight decay and without the pretraining mix, only the gradient of a phase's own loss moves a weight.

use crate::constitution::Constitution;
use crate::data::{Comparison, Conversation, DataFile, Prompt};
use crate::dpo::{self, DpoRecipe, IpoRecipe, PreferenceLossRecipe};
use crate::folder::RunFolder;
use crate::judge::Judge;
use crate::labels::{LabelKind, LabelsRecipe, ReasonedRecipe};
use crate::mix::PretrainMixRecipe;
use crate::pretrain;
use crate::recipe::{
    ConstantRecipe, NonNegative, OptimizerRecipe, Positive, PretrainRecipe, Probability, ScheduleRecipe, SftRecipe,
    count, steps,
};
use crate::reward::{self, RewardRecipe};
use crate::rl_cai::{self, RlCaiRecipe};
use crate::rlhf::grpo::GrpoRecipe;
use crate::rlhf::kl::AdaptiveKlRecipe;
use crate::rlhf::method::MethodRecipe;
use crate::rlhf::ppo::PpoRecipe;
use crate::rlhf::{self, RlhfRecipe};
use crate::rollout::SamplingRecipe;
use crate::sequence::numbers;
use crate::session::Silent;
use crate::sl_cai::{self, SlCaiRecipe};
use crate::{sft, tiny};
use candle_core::Tensor;
use lm::{Checkpoint, Message, ModelConfig, Role, Weights};
use std::path::Path;

const TOWNS: [&str; 4] = ["Lund", "Oslo", "Rome", "Lima"];
const SEED: u64 = 3;

/// Panics where a parameter is the same before and after.
fn assert_all_moved(phase: &str, before: &Weights, after: &Checkpoint) {
    for (name, old) in before.iter() {
        // A reward model has no output layer of its own.
        let Some(new) = after.weights.get(name) else {
            assert!(name == "lm_head.weight" && after.extra(reward::HEAD).is_some(), "{phase} lost {name}");
            continue;
        };
        assert_ne!(numbers(old).unwrap(), numbers(new).unwrap(), "{phase} leaves {name} as it was");
    }
    if let Some(head) = after.extra(reward::HEAD) {
        assert!(moved(head), "{phase} leaves the head at zero");
    }
}

fn moved(tensor: &Tensor) -> bool {
    numbers(tensor).unwrap().iter().any(|&x| x != 0.0)
}

/// Each pair has reasons of the judge under both principles, and a label from the middle.
fn assert_clamped_and_reasoned(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let pairs: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!pairs.is_empty());
    for pair in pairs {
        assert!((0.4..=0.6).contains(&pair["p_a"].as_f64().unwrap()), "{pair}");
        let judgements = pair["judgements"].as_array().unwrap();
        let names: Vec<&str> = judgements.iter().map(|said| said["principle"].as_str().unwrap()).collect();
        assert!(names.len() <= 2 && names.iter().all(|name| ["kind", "short"].contains(name)), "{pair}");
        assert!(judgements.iter().all(|said| said["reasons"].as_array().unwrap().len() == 2), "{pair}");
    }
}

#[test]
fn every_parameter_learns_in_every_phase() {
    for tied in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let run = Run { folder: RunFolder::new(root.path()) };
        let config = ModelConfig { tie_word_embeddings: tied, max_position_embeddings: 128, ..tiny::config() };
        let fresh = Weights::random(&config, SEED).unwrap();
        let pretrained = run.pretrain(&config);
        assert_all_moved("pretrain", &fresh, &pretrained);
        let tuned = run.sft(&pretrained);
        assert_all_moved("sft", &pretrained.weights, &tuned);
        let reward_models = run.reward(&tuned);
        assert_eq!(reward_models.len(), 2);
        for reward_model in &reward_models {
            assert_all_moved("reward", &tuned.weights, reward_model);
        }
        assert_ne!(reward_models[0].content_hash().unwrap(), reward_models[1].content_hash().unwrap());
        let unnormalised = GrpoRecipe { normalise: false, epochs: count(2), ..GrpoRecipe::default() };
        for (phase, method) in [
            ("rloo", MethodRecipe::default()),
            ("ppo", MethodRecipe::Ppo(PpoRecipe::default())),
            ("grpo", MethodRecipe::Grpo(GrpoRecipe::default())),
            ("dr-grpo", MethodRecipe::Grpo(unnormalised)),
        ] {
            let policy = run.rlhf(phase, method, &tuned, &reward_models);
            assert_all_moved(phase, &tuned.weights, &policy);
            assert!(policy.extra.is_empty(), "the critic is no part of the policy");
        }
        let ipo = PreferenceLossRecipe::Ipo(IpoRecipe {});
        for (losses, loss) in [("dpo", PreferenceLossRecipe::default()), ("ipo", ipo)] {
            assert_all_moved(losses, &tuned.weights, &Run::dpo(loss, &tuned));
        }
        let revised = run.sl_cai(&tuned);
        assert_all_moved("sl-cai", &tuned.weights, &revised);
        let policy = run.rl_cai(&revised);
        assert_all_moved("rl-cai", &revised.weights, &policy);
        let path = run.folder.checkpoint(rl_cai::PREFERENCE_PHASE);
        let preference_model = Checkpoint::load_with(&path, &[reward::HEAD]).unwrap();
        assert_all_moved("preference", &revised.weights, &preference_model);
        let data = preference_model.lineage.unwrap().data_hashes;
        assert_eq!(data["judge"], revised.content_hash().unwrap());
        assert_clamped_and_reasoned(&run.folder.generated("rl-cai.jsonl"));
    }
}

/// Runs each phase for a few steps.
struct Run {
    folder: RunFolder,
}

impl Run {
    fn pretrain(&self, config: &ModelConfig) -> Checkpoint {
        let recipe = PretrainRecipe { optimizer: undecayed(), ..tiny::pretrain_recipe(10) };
        let inputs = pretrain::Inputs { corpus: &tiny::corpus(), tokenizer: &tiny::tokenizer(), config, seed: SEED };
        pretrain::run(&self.folder, &recipe, inputs, &Silent).unwrap()
    }

    /// Long enough that answers end, and differ.
    fn sft(&self, parent: &Checkpoint) -> Checkpoint {
        let recipe = SftRecipe {
            optimizer: undecayed(),
            pretrain_mix: no_mix(),
            sequence_tokens: count(128),
            ..tiny::sft_recipe(60)
        };
        let (conversations, corpus) = (&conversations(), &tiny::corpus());
        let inputs = sft::Inputs { phase: "sft", parent, conversations, corpus, seed: SEED };
        sft::run(&self.folder, &recipe, inputs, &Silent).unwrap()
    }

    fn reward(&self, parent: &Checkpoint) -> Vec<Checkpoint> {
        let recipe = RewardRecipe { ensemble: count(2), ..reward_recipe() };
        let inputs = reward::Inputs { parent, preferences: &comparisons(), seed: SEED };
        reward::run(&self.folder, &recipe, inputs, &Silent).unwrap()
    }

    fn rlhf(&self, phase: &str, method: MethodRecipe, parent: &Checkpoint, reward_models: &[Checkpoint]) -> Checkpoint {
        let adaptive_kl = Some(AdaptiveKlRecipe { target_nats: lr(), gain: NonNegative::new(0.1).unwrap() });
        let recipe = RlhfRecipe { adaptive_kl, method, ..rlhf_recipe() };
        let (prompts, corpus) = (&prompts(), &tiny::corpus());
        let inputs = rlhf::Inputs { phase, parent, prompts, corpus, reward_models, seed: SEED };
        rlhf::run(&self.folder, &recipe, inputs, &Silent).unwrap()
    }

    /// In a folder of its own: the phase has one name, whichever its loss.
    fn dpo(loss: PreferenceLossRecipe, parent: &Checkpoint) -> Checkpoint {
        let root = tempfile::tempdir().unwrap();
        let recipe = DpoRecipe {
            steps: steps(3),
            batch_prompts: count(2),
            loss,
            lr: lr(),
            optimizer: undecayed(),
            schedule: constant(),
            pretrain_mix: no_mix(),
            ..DpoRecipe::default()
        };
        let (preferences, corpus) = (&comparisons(), &tiny::corpus());
        let inputs = dpo::Inputs { parent, preferences, corpus, seed: SEED };
        dpo::run(&RunFolder::new(root.path()), &recipe, inputs, &Silent).unwrap()
    }

    fn sl_cai(&self, parent: &Checkpoint) -> Checkpoint {
        let recipe = SlCaiRecipe {
            kinds: Vec::new(),
            replay_kinds: Vec::new(),
            sampling: sampling(),
            steps: steps(3),
            lr: lr(),
            optimizer: undecayed(),
            schedule: constant(),
            pretrain_mix: no_mix(),
            ..SlCaiRecipe::default()
        };
        let (constitution, prompts) = (&constitution(), &prompts());
        let (conversations, corpus) = (&conversations(), &tiny::corpus());
        let inputs = sl_cai::Inputs { parent, constitution, prompts, conversations, corpus, seed: SEED };
        sl_cai::run(&self.folder, &recipe, inputs, &Silent).unwrap()
    }

    fn rl_cai(&self, parent: &Checkpoint) -> Checkpoint {
        let recipe = RlCaiRecipe {
            kinds: Vec::new(),
            sampling: sampling(),
            labels: LabelsRecipe { principles: count(2), kind: LabelKind::Reasoned(ReasonedRecipe::default()) },
            preference: reward_recipe(),
            rl: rlhf_recipe(),
            ..RlCaiRecipe::default()
        };
        let (constitution, prompts) = (&constitution(), &prompts());
        let (preferences, corpus) = (&comparisons(), &tiny::corpus());
        let judge = &Judge::Checkpoint(Box::new(parent.clone()));
        let inputs = rl_cai::Inputs { parent, judge, constitution, prompts, preferences, corpus, seed: SEED };
        rl_cai::run(&self.folder, &recipe, inputs, &Silent).unwrap()
    }
}

fn undecayed() -> OptimizerRecipe {
    OptimizerRecipe { weight_decay: NonNegative::new(0.0).unwrap(), ..OptimizerRecipe::default() }
}

fn no_mix() -> PretrainMixRecipe {
    PretrainMixRecipe { coefficient: NonNegative::new(0.0).unwrap(), ..PretrainMixRecipe::default() }
}

fn sampling() -> SamplingRecipe {
    SamplingRecipe { max_new_tokens: count(12), ..SamplingRecipe::default() }
}

fn constant() -> ScheduleRecipe {
    ScheduleRecipe::Constant(ConstantRecipe { warmup_steps: 0 })
}

fn lr() -> Positive {
    Positive::new(1e-3).unwrap()
}

fn reward_recipe() -> RewardRecipe {
    RewardRecipe {
        steps: steps(3),
        batch_prompts: count(2),
        held_out: Probability::new(0.0).unwrap(),
        lr: lr(),
        optimizer: undecayed(),
        schedule: constant(),
        ..RewardRecipe::default()
    }
}

fn rlhf_recipe() -> RlhfRecipe {
    RlhfRecipe {
        rounds: steps(2),
        prompts: count(4),
        sampling: sampling(),
        pretrain_mix: no_mix(),
        lr: lr(),
        optimizer: undecayed(),
        schedule: constant(),
        ..RlhfRecipe::default()
    }
}

fn say(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

fn question(name: &str) -> Vec<Message> {
    vec![say(Role::User, &format!("Where does {name} live?"))]
}

/// Answers, and the forms of critique and revision.
fn conversations() -> DataFile<Conversation> {
    let conversation = |town: &str| {
        let mut messages = question("Ada");
        let turns = [(Role::Assistant, town), (Role::User, "Kind?"), (Role::Assistant, "Yes."), (Role::User, "Again.")];
        messages.extend(turns.map(|(role, content)| say(role, content)));
        messages.push(say(Role::Assistant, town));
        Conversation { messages, given: 0, kind: "qa".to_owned() }
    };
    tiny::data_file("sft.jsonl", TOWNS.map(conversation).to_vec())
}

fn prompts() -> DataFile<Prompt> {
    let prompt = |name| Prompt { prompt: question(name), kind: "qa".to_owned(), right: Vec::new() };
    tiny::data_file("prompts.jsonl", ["Ada", "Bo", "Cleo", "Dag"].map(prompt).to_vec())
}

fn comparisons() -> DataFile<Comparison> {
    let comparison = |name| Comparison {
        prompt: question(name),
        ranked: TOWNS[..3].iter().map(|&town| town.to_owned()).collect(),
        kind: "qa".to_owned(),
    };
    tiny::data_file("preferences.jsonl", ["Ada", "Bo"].map(comparison).to_vec())
}

fn constitution() -> Constitution {
    let principle = |name: &str| {
        format!(
            "[[principle]]\nname = \"{name}\"\ncritique = \"Kind?\"\nrevision = \"Again.\"\npreference = \"Kinder?\"\n"
        )
    };
    let text = principle("kind") + &principle("short");
    Constitution::parse(Path::new("constitution.toml"), &text).unwrap()
}
