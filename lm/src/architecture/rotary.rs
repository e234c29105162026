//! Rotary frequencies, as published models stretch them for longer contexts.

use crate::Result;
use crate::keys::Keys;
use kernels::Positions;
use serde_json::Value;
use std::f64::consts::TAU;

/// How queries and keys are turned.
pub(super) struct Rotary {
    /// In layers that see all tokens; in all layers where there is no `local`.
    pub(super) global: Turning,
    /// In layers that see a window, where they have frequencies of their own.
    pub(super) local: Option<Turning>,
}

/// The rotation of one kind of layer.
pub(super) struct Turning {
    /// Base of the frequencies.
    pub(super) theta: f64,
    scaling: Scaling,
}

/// How the frequencies of the base are changed.
enum Scaling {
    Default,
    /// Chen et al. 2023, arXiv:2306.15595.
    Linear {
        factor: f64,
    },
    /// Llama Team 2024, arXiv:2407.21783, as in Meta's and Hugging Face's code.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: Option<f64>,
    },
    /// Peng et al. 2023, arXiv:2309.00071, section 3.
    Yarn {
        factor: f64,
        fast: f64,
        slow: f64,
        original: Option<f64>,
        truncates: bool,
        attention_factor: f64,
    },
}

const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

impl Rotary {
    /// Both spellings: `rope_theta` (and `rope_local_base_freq`) with `rope_scaling` (transformers 4), and `rope_parameters`
    /// (transformers 5), which has a section for each kind of layer where they differ.
    pub(super) fn parse(keys: &Keys, has_local: bool) -> Result<Self> {
        let (old, new) = (keys.section("rope_scaling")?, keys.section("rope_parameters")?);
        if !has_local {
            let section = old.filter(|section| !section.is_empty()).or(new);
            if let Some(section) = &section {
                for kind in [GLOBAL, LOCAL] {
                    if let Some(value) = section.get(kind) {
                        return Err(section.refuse(kind, value, "all layers of this family turn alike"));
                    }
                }
            }
            let global = Turning::parse(section.as_ref(), keys.positive("rope_theta", 10_000.0)?)?;
            return Ok(Self { global, local: None });
        }
        let of_kind = |kind: &str| new.as_ref().map_or(Ok(None), |section| section.section(kind));
        if let Some(section) = new.as_ref().filter(|section| section.get("rope_type").is_some()) {
            let value = section.get("rope_type").cloned().unwrap_or_default();
            return Err(section.refuse("rope_type", &value, format!("only in sections `{GLOBAL}` and `{LOCAL}`")));
        }
        let global = old.filter(|section| !section.is_empty()).map_or_else(|| of_kind(GLOBAL), |old| Ok(Some(old)))?;
        let local = of_kind(LOCAL)?;
        Ok(Self {
            global: Turning::parse(global.as_ref(), keys.positive("rope_theta", 1e6)?)?,
            local: Some(Turning::parse(local.as_ref(), keys.positive("rope_local_base_freq", 1e4)?)?),
        })
    }
}

impl Turning {
    fn parse(section: Option<&Keys>, theta: f64) -> Result<Self> {
        let Some(keys) = section else { return Ok(Self { theta, scaling: Scaling::Default }) };
        if let Some(partial) = keys.get("partial_rotary_factor").filter(|factor| factor.as_f64() != Some(1.0)) {
            return Err(keys.refuse("partial_rotary_factor", partial, "only 1.0"));
        }
        let need = |key: &str| keys.positive_if_given(key)?.ok_or_else(|| keys.missing(key));
        let kind = keys.get("rope_type").or_else(|| keys.get("type"));
        let scaling = match kind.and_then(Value::as_str) {
            Some("default") => Scaling::Default,
            None if kind.is_none() => Scaling::Default,
            Some("linear") => Scaling::Linear { factor: need("factor")? },
            Some("llama3") => {
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if high <= low {
                    let value = keys.get("high_freq_factor").cloned().unwrap_or_default();
                    return Err(keys.refuse(
                        "high_freq_factor",
                        &value,
                        format!("it must be above low_freq_factor = {low}"),
                    ));
                }
                let original = keys.positive_if_given("original_max_position_embeddings")?;
                Scaling::Llama3 { factor: need("factor")?, low, high, original }
            }
            Some("yarn") => {
                let factor = need("factor")?;
                let of = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
                let weights = (keys.positive_if_given("mscale")?, keys.positive_if_given("mscale_all_dim")?);
                let inferred = if let (Some(mscale), Some(all)) = weights { of(mscale) / of(all) } else { of(1.0) };
                Scaling::Yarn {
                    factor,
                    fast: keys.positive("beta_fast", 32.0)?,
                    slow: keys.positive("beta_slow", 1.0)?,
                    original: keys.positive_if_given("original_max_position_embeddings")?,
                    truncates: keys.flag("truncate", true)?,
                    attention_factor: keys.positive("attention_factor", inferred)?,
                }
            }
            _ => {
                let value = kind.cloned().unwrap_or_default();
                return Err(keys.refuse("rope_type", &value, "only \"default\", \"linear\", \"llama3\" or \"yarn\""));
            }
        };
        Ok(Self { theta: keys.positive("rope_theta", theta)?, scaling })
    }

    /// Angles per position, and the factor of cosines and sines. `window` is the context window.
    pub(super) fn positions(&self, head_dim: usize, window: usize) -> (Positions, f64) {
        let half = head_dim / 2;
        let base = |i: usize| self.theta.powf(-(i as f64) / half as f64);
        let original = |given: Option<f64>| given.unwrap_or(window as f64);
        match self.scaling {
            Scaling::Default => (Positions::Theta, 1.0),
            Scaling::Linear { factor } => (Positions::Frequencies((0..half).map(|i| base(i) / factor).collect()), 1.0),
            Scaling::Llama3 { factor, low, high, original: given } => {
                let turned = |i: usize| {
                    let frequency = base(i);
                    // Full turns within the original context window: many stay as they are, few are slowed down.
                    let turns = original(given) * frequency / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / factor)
                };
                (Positions::Frequencies((0..half).map(turned).collect()), 1.0)
            }
            Scaling::Yarn { factor, fast, slow, original: given, truncates, attention_factor } => {
                // The pair of components that makes so many turns within the original context window.
                let pair_of = |turns: f64| half as f64 * (original(given) / (turns * TAU)).ln() / self.theta.ln();
                let (first, last) = (pair_of(fast), pair_of(slow));
                let (first, last) = if truncates { (first.floor(), last.ceil()) } else { (first, last) };
                let (first, last) = (first.max(0.0), last.min(head_dim as f64 - 1.0));
                let length = if first == last { 0.001 } else { last - first };
                let turned = |i: usize| {
                    let slowed = ((i as f64 - first) / length).clamp(0.0, 1.0);
                    base(i) * (1.0 - slowed + slowed / factor)
                };
                (Positions::Frequencies((0..half).map(turned).collect()), attention_factor)
            }
        }
    }
}
