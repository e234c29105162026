//! Folders of models that can be asked though they cannot be trained.

use crate::fixture::cases;
use candle_core::Tensor;
use half::{bf16, f16};
use lm::subject::{GenerateRequest, Generation, Prompt, ScoreRequest};
use lm::{Checkpoint, Error, LoadedModel, ModelConfig, ModelParts, Realigned, Subject, Tokenizer, Weights};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A fixture's model with a tokenizer of some 270 tokens, and so with other tables.
struct Folder {
    config: Value,
    tensors: Vec<(String, Tensor)>,
    tokenizer: BTreeMap<&'static str, String>,
}

impl Folder {
    fn of(name: &str) -> Self {
        let mut case = cases().into_iter().find(|case| case.name == name).unwrap();
        let tokenizer = Tokenizer::train(["the boat and the bell lie in the bay"], 270, 64).unwrap();
        let n_tokens = tokenizer.vocab_size();
        let is_nested = case.config.get("text_config").is_some();
        let text = if is_nested { &mut case.config["text_config"] } else { &mut case.config };
        text["vocab_size"] = json!(n_tokens);
        for (name, shape) in &mut case.tensors {
            if name.ends_with("embed_tokens.weight") || name == "lm_head.weight" {
                shape[0] = n_tokens;
            }
        }
        Self { tensors: case.tensors(), config: case.config, tokenizer: tokenizer.files().clone() }
    }

    fn parts(&self) -> ModelParts {
        ModelParts {
            path: "config.json".into(),
            config: self.config.to_string(),
            generation_config: None,
            tensors: self.tensors.clone(),
            tokenizer: Tokenizer::from_files(self.tokenizer.clone(), Path::new(".")).unwrap(),
        }
    }

    fn load(&self) -> lm::Result<LoadedModel> {
        LoadedModel::from_parts(self.parts())
    }

    /// Writes the folder in a number format, in one file or in two shards.
    fn write(&self, folder: &Path, dtype: Dtype, is_sharded: bool) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        for (name, text) in &self.tokenizer {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let bytes = |tensor: &Tensor| -> Vec<u8> {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            match dtype {
                Dtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            }
        };
        let stored: Vec<(&str, Vec<u8>, &[usize])> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), bytes(tensor), tensor.dims())).collect();
        let write = |file: &str, stored: &[(&str, Vec<u8>, &[usize])]| {
            let views =
                stored.iter().map(|(name, bytes, dims)| (name, TensorView::new(dtype, dims.to_vec(), bytes).unwrap()));
            serialize_to_file(views, None, &folder.join(file)).unwrap();
        };
        if !is_sharded {
            return write("model.safetensors", &stored);
        }
        let (first, second) = stored.split_at(stored.len() / 2);
        let shards = [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)];
        let mut weight_map = BTreeMap::new();
        for (file, stored) in shards {
            write(file, stored);
            weight_map.extend(stored.iter().map(|(name, ..)| ((*name).to_owned(), file)));
        }
        let index = json!({ "metadata": {}, "weight_map": weight_map });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

const NAMES: [&str; 5] = ["llama_llama3", "qwen2", "qwen3", "gemma2", "gemma3"];

fn scores(model: &LoadedModel) -> Vec<f64> {
    let requests = ["the boat", "", "<|user|> the bell lies<|end|><|assistant|>"].map(|context| {
        let continuation = " lies in the bay".to_owned();
        ScoreRequest { context: Prompt::Text(context.to_owned()), continuation }
    });
    model.score(&requests).unwrap().into_iter().map(|score| score.unwrap().log_prob_nats).collect()
}

#[test]
fn folders_in_every_number_format_whole_or_sharded_are_the_model_in_memory() {
    let temporary = tempfile::tempdir().unwrap();
    for name in NAMES {
        let folder = Folder::of(name);
        let exact = scores(&folder.load().unwrap());
        for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::F16, 0.1), (Dtype::BF16, 1.0)] {
            for is_sharded in [false, true] {
                let path = temporary.path().join(format!("{name}-{dtype:?}-{is_sharded}"));
                folder.write(&path, dtype, is_sharded);
                let found = scores(&LoadedModel::load(&path).unwrap());
                for (found, exact) in found.iter().zip(&exact) {
                    assert!((found - exact).abs() <= tolerance, "{}: {found} instead of {exact}", path.display());
                }
            }
        }
    }
}

#[test]
fn a_published_model_is_asked_as_any_other_subject() {
    for name in NAMES {
        let model = Folder::of(name).load().unwrap();
        let prompt = model.render(&Prompt::user("the boat")).unwrap();
        let request = GenerateRequest { prompt: Prompt::user("the boat"), max_new_tokens: 8, stop: Vec::new() };
        let other = GenerateRequest { prompt: Prompt::Text("the bell".to_owned()), ..request.clone() };
        let answers = model.generate(&[request.clone(), other, request]).unwrap();
        let answers: Vec<Generation> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers[0], answers[2]);
        assert!(answers.iter().all(|answer| (1..=8).contains(&answer.n_tokens.unwrap())));
        let ids = model.tokenizer().encode(&prompt).unwrap();
        assert_eq!(model.logits(&ids).unwrap().dims(), [ids.len(), model.config().vocab_size]);
        assert!(matches!(model.logits(&[]), Err(Error::Empty { .. })));
        assert!(matches!(model.logits(&[7; 129]), Err(Error::TooLong { n_tokens: 129, limit: 128, .. })));
        assert!(matches!(model.logits(&[100_000]), Err(Error::TokenOutOfRange { .. })));
    }
}

#[test]
fn its_key_depends_on_weights_config_ends_and_tokenizer() {
    let folder = Folder::of("qwen2");
    let key = |folder: &Folder| folder.load().unwrap().fingerprint().to_owned();
    let own = key(&folder);
    assert_eq!(own, key(&Folder::of("qwen2")));
    let mut keys = vec![own];
    let mut add = |key: String| {
        assert!(key.len() == 64 && !keys.contains(&key));
        keys.push(key);
    };
    let mut other = Folder::of("qwen2");
    let norm = other.tensors.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
    norm.1 = (&norm.1 * 1.001).unwrap();
    add(key(&other));
    let mut other = Folder::of("qwen2");
    other.config["rms_norm_eps"] = json!(2e-6);
    add(key(&other));
    let mut other = Folder::of("qwen2");
    other.tokenizer.insert("chat_template.jinja", "{{ messages[0].content }}".to_owned());
    add(key(&other));
    let ends = Some(json!({ "eos_token_id": [5, 7] }).to_string());
    add(LoadedModel::from_parts(ModelParts { generation_config: ends, ..folder.parts() })
        .unwrap()
        .fingerprint()
        .to_owned());
}

#[test]
fn what_can_only_be_asked_is_refused_where_weights_are_trained_or_mixed() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("qwen3");
    let folder = Folder::of("qwen3");
    folder.write(&path, Dtype::F32, false);
    let model = folder.load().unwrap();
    assert!(matches!(model.decoder(), Err(Error::NotTrainable { model_type: "qwen3" })));
    assert!(matches!(Realigned::new(&model, &model, 0.5), Err(Error::NotTrainable { .. })));
    assert!(matches!(Realigned::transplanted(&model, &model, &model), Err(Error::NotTrainable { .. })));
    assert!(matches!(Checkpoint::load(&path), Err(Error::BadConfig { key, .. }) if key == "model_type"));
}

#[test]
fn a_plain_folder_is_the_trainable_decoder_under_the_key_of_its_checkpoint() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("llama");
    let folder = Folder::of("llama");
    folder.write(&path, Dtype::F32, false);
    let checkpoint = Checkpoint::load(&path).unwrap();
    let (loaded, taken_over) = (LoadedModel::load(&path).unwrap(), LoadedModel::new(&checkpoint).unwrap());
    assert!(loaded.decoder().is_ok());
    assert_eq!(loaded.fingerprint(), taken_over.fingerprint());
    assert_eq!(scores(&loaded), scores(&taken_over));
}

#[test]
fn missing_unknown_misshapen_and_doubled_tensors_are_named() {
    let refusal = |change: fn(&mut Vec<(String, Tensor)>)| {
        let mut folder = Folder::of("qwen2");
        change(&mut folder.tensors);
        folder.load().unwrap_err()
    };
    let without =
        |tensors: &mut Vec<(String, Tensor)>| tensors.retain(|(name, _)| !name.ends_with("1.self_attn.k_proj.bias"));
    assert!(
        matches!(refusal(without), Error::MissingTensor { name } if name == "model.layers.1.self_attn.k_proj.bias")
    );
    let with_more = |tensors: &mut Vec<(String, Tensor)>| {
        let (_, tensor) = tensors[0].clone();
        tensors.push(("model.layers.0.self_attn.q_norm.weight".to_owned(), tensor));
    };
    assert!(matches!(refusal(with_more), Error::UnexpectedTensor { name } if name.ends_with("q_norm.weight")));
    let misshapen = |tensors: &mut Vec<(String, Tensor)>| {
        let norm = tensors.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
        norm.1 = norm.1.narrow(0, 0, 7).unwrap();
    };
    assert!(
        matches!(refusal(misshapen), Error::ShapeMismatch { what, found, .. } if what == "model.norm.weight" && found == [7])
    );
    let doubled = |tensors: &mut Vec<(String, Tensor)>| tensors.push(tensors[5].clone());
    assert!(matches!(refusal(doubled), Error::UnexpectedTensor { .. }));
}

#[test]
fn a_tokenizer_that_knows_more_text_than_the_model_is_refused_but_not_other_modalities() {
    let mut folder = Folder::of("gemma3");
    let n_tokens = folder.config["text_config"]["vocab_size"].clone();
    let mut tokenizer: Value = serde_json::from_str(&folder.tokenizer["tokenizer.json"]).unwrap();
    let image = json!({
        "id": n_tokens, "content": "<image_soft_token>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    tokenizer["added_tokens"].as_array_mut().unwrap().push(image);
    folder.tokenizer.insert("tokenizer.json", tokenizer.to_string());
    let model = folder.load().unwrap();
    assert!(model.tokenizer().vocab_size() > model.config().vocab_size);
    assert_eq!(scores(&model), scores(&Folder::of("gemma3").load().unwrap()));
    folder.config["text_config"]["vocab_size"] = json!(250);
    assert!(matches!(folder.load(), Err(Error::TokenizerMismatch { n_embeddings: 250, .. })));
}

#[test]
fn a_turn_ends_with_the_token_that_the_template_puts_there() {
    let mut folder = Folder::of("gemma2");
    let template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|pad|>\n{% endfor %}";
    folder.tokenizer.insert("chat_template.jinja", template.to_owned());
    assert_eq!(folder.load().unwrap().end_of_turn(), Some("<|end|>"), "no end of an answer by the config");
    folder.config["eos_token_id"] = json!([5, 1]);
    assert_eq!(folder.load().unwrap().end_of_turn(), Some("<|pad|>"));
}

#[test]
fn a_published_shape_costs_no_memory_by_its_context_window() {
    let mut folder = Folder::of("llama_llama3");
    folder.config["max_position_embeddings"] = json!(1 << 27);
    let model = folder.load().unwrap();
    assert_eq!(model.config().max_position_embeddings, 1 << 27);
    let request = GenerateRequest { prompt: Prompt::Text("the".to_owned()), max_new_tokens: 3, stop: Vec::new() };
    assert!(model.generate(&[request]).unwrap().remove(0).unwrap().n_tokens <= Some(3));
    assert!(scores(&model).iter().all(|score| score.is_finite()));
}

#[test]
fn a_plain_config_of_another_family_is_trainable_too() {
    let mut folder = Folder::of("mistral");
    folder.config["sliding_window"] = Value::Null;
    let model = folder.load().unwrap();
    let config: &ModelConfig = model.decoder().unwrap().config();
    assert!(Weights::from_tensors(config, folder.tensors.clone()).is_ok());
}
