//! What each family's file means, and what is refused.

use super::{Activation, Architecture, HeadNorm, Norms};
use crate::Error;
use kernels::Positions;
use serde_json::{Value, json};
use std::path::Path;

fn parse(value: &Value) -> crate::Result<Architecture> {
    Architecture::parse(&value.to_string(), Path::new("config.json"))
}

/// A file of that family with what none may leave out.
fn minimal(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": 300, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    })
}

fn with(model_type: &str, keys: &Value) -> Value {
    let mut config = minimal(model_type);
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn windows(config: &Value) -> Vec<Option<usize>> {
    parse(config).unwrap().attention.iter().map(|layer| layer.window).collect()
}

fn frequencies(config: &Value) -> Vec<f64> {
    match &parse(config).unwrap().attention[0].positions {
        Positions::Frequencies(given) => given.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_files_of_every_spelling_are_the_trainable_decoder() {
    let config = with("llama", &json!({ "rope_theta": 5e5, "tie_word_embeddings": true }));
    let expected = crate::ModelConfig::parse(&config.to_string(), Path::new("config.json")).unwrap();
    assert_eq!(parse(&config).unwrap().plain(), Some(&expected));
    let mistral = with("mistral", &json!({ "sliding_window": null, "max_position_embeddings": 2048 }));
    assert!(parse(&mistral).unwrap().plain().is_some());
    for (model_type, keys) in [
        ("llama", json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } })),
        ("llama", json!({ "attention_bias": true })),
        ("llama", json!({ "mlp_bias": true })),
        ("llama", json!({ "hidden_act": "gelu_pytorch_tanh" })),
        ("mistral", json!({})),
        ("qwen2", json!({})),
        ("qwen3", json!({})),
        ("olmo2", json!({})),
        ("smollm3", json!({})),
        ("gemma2", json!({})),
        ("gemma3_text", json!({})),
    ] {
        assert_eq!(parse(&with(model_type, &keys)).unwrap().plain(), None, "{model_type} {keys}");
    }
}

#[test]
fn each_family_takes_for_granted_what_its_files_leave_out() {
    let llama = parse(&minimal("llama")).unwrap();
    assert_eq!((llama.norms, llama.norm_offset, llama.head_norm), (Norms::Before, 0.0, None));
    assert_eq!(windows(&minimal("mistral")), [Some(4096); 6]);
    let qwen2 = parse(&minimal("qwen2")).unwrap();
    assert_eq!((qwen2.qkv_bias, qwen2.output_bias, qwen2.mlp_bias), (true, false, false));
    let mut qwen3 = minimal("qwen3");
    qwen3.as_object_mut().unwrap().remove("head_dim");
    let qwen3 = parse(&qwen3).unwrap();
    assert_eq!((qwen3.shape.head_dim, qwen3.head_norm, qwen3.qkv_bias), (128, Some(HeadNorm::PerHead), false));
    let olmo2 = parse(&minimal("olmo2")).unwrap();
    assert_eq!((olmo2.norms, olmo2.head_norm), (Norms::After, Some(HeadNorm::FullWidth)));
    assert_eq!(olmo2.shape.rms_norm_eps, 1e-5);
    let smollm3 = parse(&minimal("smollm3")).unwrap();
    assert!(smollm3.shape.tie_word_embeddings);
    assert_eq!(smollm3.attention[0].shape.rope_theta, 2e6);
    let gemma2 = parse(&minimal("gemma2")).unwrap();
    assert_eq!((gemma2.norms, gemma2.norm_offset), (Norms::Around, 1.0));
    assert_eq!((gemma2.activation, gemma2.embedding_scale), (Activation::GeluTanh, 8.0));
    assert_eq!((gemma2.final_soft_cap, gemma2.attention[0].soft_cap), (Some(30.0), Some(50.0)));
    assert_eq!(gemma2.attention[0].scale, 1.0 / 16.0);
    assert!(gemma2.shape.tie_word_embeddings);
    let gemma3 = parse(&minimal("gemma3_text")).unwrap();
    assert_eq!((gemma3.final_soft_cap, gemma3.attention[0].soft_cap), (None, None));
    let thetas: Vec<f64> = gemma3.attention.iter().map(|layer| layer.shape.rope_theta).collect();
    assert_eq!(thetas, [1e4, 1e4, 1e4, 1e4, 1e4, 1e6]);
}

#[test]
fn windows_stand_where_the_file_or_the_family_puts_them() {
    let full = None;
    let seen = Some(5);
    let upper = json!({ "use_sliding_window": true, "sliding_window": 5, "max_window_layers": 4 });
    assert_eq!(windows(&with("qwen2", &upper)), [full, full, full, full, seen, seen]);
    let off = json!({ "use_sliding_window": false, "sliding_window": 5, "max_window_layers": 4 });
    assert_eq!(windows(&with("qwen3", &off)), [full; 6]);
    let even = json!({ "sliding_window": 5 });
    assert_eq!(windows(&with("gemma2", &even)), [seen, full, seen, full, seen, full]);
    assert_eq!(windows(&with("gemma3_text", &even)), [seen, seen, seen, seen, seen, full]);
    let third = json!({ "sliding_window": 5, "sliding_window_pattern": 3 });
    assert_eq!(windows(&with("gemma3_text", &third)), [seen, seen, full, seen, seen, full]);
    let mut types = vec!["full_attention"; 5];
    types.push("sliding_attention");
    let listed = json!({ "sliding_window": 5, "use_sliding_window": true, "layer_types": types });
    for model_type in ["qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text"] {
        assert_eq!(windows(&with(model_type, &listed)), [full, full, full, full, full, seen], "{model_type}");
    }
    let unturned = json!({ "use_sliding_window": true, "sliding_window": 5 });
    assert_eq!(windows(&with("smollm3", &unturned)), [full, full, full, seen, full, full]);
}

#[test]
fn layers_without_positions_are_those_that_are_listed_with_0() {
    let unturned = |config: &Value| -> Vec<bool> {
        parse(config).unwrap().attention.iter().map(|layer| layer.positions == Positions::None).collect()
    };
    assert_eq!(unturned(&minimal("smollm3")), [false, false, false, true, false, false]);
    let listed = json!({ "no_rope_layers": [0, 1, 1, 1, 1, 0] });
    assert_eq!(unturned(&with("smollm3", &listed)), [true, false, false, false, false, true]);
}

#[test]
fn rotation_is_read_in_both_spellings() {
    let scaling = json!({ "rope_type": "linear", "factor": 8.0 });
    let old = json!({ "rope_theta": 3e4, "rope_local_base_freq": 2e4, "rope_scaling": scaling });
    let new = json!({ "rope_parameters": {
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 3e4 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 2e4 },
    } });
    let (old, new) = (parse(&with("gemma3_text", &old)).unwrap(), parse(&with("gemma3_text", &new)).unwrap());
    assert_eq!(old, new);
    assert_eq!(old.attention[0].positions, Positions::Theta);
    assert_eq!(old.attention[0].shape.rope_theta, 2e4);
    assert!(matches!(&old.attention[5].positions, Positions::Frequencies(given) if given[0] == 0.125));
    let llama = |keys| parse(&with("llama", &keys)).unwrap();
    assert_eq!(
        llama(json!({ "rope_theta": 2e4, "rope_scaling": { "type": "linear", "factor": 8.0 } })),
        llama(json!({ "rope_parameters": { "rope_type": "linear", "factor": 8.0, "rope_theta": 2e4 } })),
    );
}

#[test]
fn scaled_frequencies_keep_the_fast_and_slow_the_slow() {
    let base: Vec<f64> = (0..8).map(|i| 1e4_f64.powf(-f64::from(i) / 8.0)).collect();
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let yarn = json!({ "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 8.0 });
    for scaling in [llama3, yarn] {
        let found = frequencies(&with("llama", &json!({ "rope_scaling": scaling })));
        assert_eq!(found[0], base[0], "{scaling}");
        assert!((found[7] - base[7] / 8.0).abs() < 1e-12, "{scaling}");
        assert!(found.iter().zip(&base).any(|(f, b)| *f < 0.99 * b && *f > 0.126 * b), "none between: {scaling}");
        assert!(found.iter().rev().is_sorted(), "{scaling}");
    }
    let yarn = json!({ "rope_scaling": { "rope_type": "yarn", "factor": 8.0 } });
    // (0.1 ln 8 + 1)^2 / sqrt(16)
    assert!((parse(&with("qwen2", &yarn)).unwrap().attention[0].scale - 1.207_944_154_f64.powi(2) / 4.0).abs() < 1e-9);
}

#[test]
fn the_text_part_of_a_model_of_text_and_images_is_read() {
    let text = with("gemma3_text", &json!({ "sliding_window": 5 }));
    let whole = json!({ "model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106], "vision_config": {} });
    let (part, whole) = (parse(&text).unwrap(), parse(&whole).unwrap());
    assert_eq!(part.attention, whole.attention);
    assert_eq!((part.shape.eos_token_ids, whole.shape.eos_token_ids), (vec![1], vec![1, 106]));
    let sparse = json!({ "model_type": "gemma3", "text_config": { "model_type": "gemma3_text", "hidden_size": 2560 } });
    let sparse = parse(&sparse).unwrap();
    assert_eq!(
        (sparse.shape.vocab_size, sparse.shape.num_hidden_layers, sparse.shape.hidden_size),
        (262_208, 26, 2560)
    );
}

#[test]
fn tensors_of_text_keep_one_name_and_others_are_left_out() {
    let gemma3 = parse(&minimal("gemma3_text")).unwrap();
    for (name, expected) in [
        ("model.norm.weight", Some("model.norm.weight")),
        ("language_model.model.norm.weight", Some("model.norm.weight")),
        ("model.language_model.norm.weight", Some("model.norm.weight")),
        ("language_model.lm_head.weight", None),
        ("lm_head.weight", None),
        ("vision_tower.vision_model.head.weight", None),
        ("model.vision_tower.vision_model.head.weight", None),
        ("multi_modal_projector.mm_input_projection_weight", None),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
    ] {
        assert_eq!(gemma3.tensor_name(name).as_deref(), expected, "{name}");
    }
    let llama = parse(&minimal("llama")).unwrap();
    assert_eq!(llama.tensor_name("lm_head.weight").as_deref(), Some("lm_head.weight"));
}

#[test]
fn what_is_not_computed_is_refused_by_file_key_and_value() {
    let six = |kind: &str| json!(vec![kind; 6]);
    for (model_type, keys, named) in [
        ("gpt2", json!({}), "model_type"),
        ("llama", json!({ "hidden_act": "gelu" }), "hidden_act"),
        ("llama", json!({ "hidden_act": 3 }), "hidden_act"),
        ("gemma2", json!({ "hidden_activation": "gelu" }), "hidden_activation"),
        ("gemma3_text", json!({ "hidden_activation": null }), "hidden_activation"),
        ("mistral", json!({ "attention_bias": true }), "attention_bias"),
        ("llama", json!({ "attention_bias": "yes" }), "attention_bias"),
        ("qwen2", json!({ "mlp_bias": true }), "mlp_bias"),
        ("gemma2", json!({ "mlp_bias": true }), "mlp_bias"),
        ("gemma3_text", json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention"),
        ("llama", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
        (
            "llama",
            json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
            "rope_parameters.partial_rotary_factor",
        ),
        ("llama", json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } }), "rope_scaling.rope_type"),
        ("llama", json!({ "rope_scaling": { "type": "longrope" } }), "rope_scaling.rope_type"),
        ("llama", json!({ "rope_scaling": { "rope_type": 3 } }), "rope_scaling.rope_type"),
        ("llama", json!({ "rope_scaling": "linear" }), "rope_scaling"),
        ("llama", json!({ "rope_scaling": { "type": "linear", "factor": 0 } }), "rope_scaling.factor"),
        ("llama", json!({ "rope_parameters": { "full_attention": {} } }), "rope_parameters.full_attention"),
        ("gemma3_text", json!({ "rope_parameters": { "rope_type": "default" } }), "rope_parameters.rope_type"),
        (
            "gemma3_text",
            json!({ "rope_parameters": { "full_attention": { "rope_type": "dynamic" } } }),
            "rope_parameters.full_attention.rope_type",
        ),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4 } }),
            "rope_scaling.high_freq_factor",
        ),
        ("llama", json!({ "rope_theta": "big" }), "rope_theta"),
        ("gemma2", json!({ "layer_types": six("chunked_attention") }), "layer_types"),
        ("gemma2", json!({ "layer_types": ["full_attention"] }), "layer_types"),
        ("mistral", json!({ "layer_types": six("full_attention") }), "layer_types"),
        ("llama", json!({ "layer_types": six("sliding_attention") }), "layer_types"),
        ("qwen2", json!({ "layer_types": six("sliding_attention"), "sliding_window": null }), "sliding_window"),
        ("gemma2", json!({ "sliding_window": null }), "sliding_window"),
        ("mistral", json!({ "sliding_window": 0 }), "sliding_window"),
        ("gemma3_text", json!({ "sliding_window_pattern": 0 }), "sliding_window_pattern"),
        ("qwen3", json!({ "use_sliding_window": true, "max_window_layers": -1 }), "max_window_layers"),
        ("qwen3", json!({ "use_sliding_window": 1 }), "use_sliding_window"),
        ("smollm3", json!({ "no_rope_layers": [1, 0] }), "no_rope_layers"),
        ("smollm3", json!({ "no_rope_layers": [1, 0, 2, 1, 1, 1] }), "no_rope_layers"),
        ("smollm3", json!({ "no_rope_layer_interval": 0 }), "no_rope_layer_interval"),
        ("gemma2", json!({ "query_pre_attn_scalar": 0 }), "query_pre_attn_scalar"),
        ("gemma2", json!({ "attn_logit_softcapping": -50.0 }), "attn_logit_softcapping"),
        ("gemma2", json!({ "final_logit_softcapping": 0 }), "final_logit_softcapping"),
        ("gemma3_text", json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping"),
        ("llama", json!({ "num_key_value_heads": 3 }), "num_key_value_heads"),
        ("gemma3", json!({ "text_config": { "model_type": "gemma2" } }), "text_config.model_type"),
        ("gemma3", json!({ "text_config": { "sliding_window": -1 } }), "text_config.sliding_window"),
    ] {
        let error = parse(&with(model_type, &keys)).unwrap_err();
        assert!(matches!(&error, Error::BadConfig { key, .. } if key == named), "{model_type} {keys}: {error}");
        assert!(error.to_string().starts_with(&format!("config.json: `{named} = ")), "{error}");
    }
}

#[test]
fn missing_keys_are_named() {
    let missing = |config: &Value| parse(config).unwrap_err().to_string();
    assert_eq!(missing(&json!({})), "config.json: key `model_type` is missing");
    assert_eq!(missing(&json!({ "model_type": "gemma3" })), "config.json: key `text_config` is missing");
    assert_eq!(missing(&json!({ "model_type": "qwen2" })), "config.json: key `hidden_size` is missing");
    let llama3 = with("llama", &json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } }));
    assert_eq!(missing(&llama3), "config.json: key `rope_scaling.low_freq_factor` is missing");
}

#[test]
fn no_config_that_is_hostile_ends_the_program() {
    for text in ["", "[]", "{", "{\"model_type\": []}", "{\"model_type\": {\"llama\": 1}}"] {
        assert!(Architecture::parse(text, Path::new("config.json")).is_err(), "{text}");
    }
    for (key, value) in [
        ("num_hidden_layers", json!(1_u64 << 60)),
        ("num_hidden_layers", json!(1_u64 << 27)),
        ("num_attention_heads", json!(1_u64 << 40)),
        ("head_dim", json!(1_u64 << 27)),
        ("rope_theta", json!(1e308)),
    ] {
        // Whether it is refused or not: nothing is allocated by it.
        let _ = parse(&with("smollm3", &json!({ key: value })));
    }
}
