//! What a stack of layers keeps for its backward pass, counted by the allocator, and that computing it again changes no bit.

use candle_core::{Device, Tensor, Var};
use kernels::{AttentionBlockSpec, AttentionSpec, FeedForwardSpec, LayersSpec, Segments, layers};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with the bytes that are in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: what is asked for is passed on as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the block came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const N_LAYERS: usize = 3;
const WIDTH: usize = 64;
const INNER: usize = 160;
/// Rows and their length.
const SHAPE: (usize, usize) = (4, 128);

fn spec(recomputes: bool) -> LayersSpec {
    let attention = AttentionSpec { n_heads: 4, n_kv_heads: 2, head_dim: 16, rope_theta: 10_000.0 };
    LayersSpec {
        n_layers: N_LAYERS,
        attention: AttentionBlockSpec { width: WIDTH, eps: 1e-5, attention, recomputes },
        feed_forward: FeedForwardSpec { width: WIDTH, inner: INNER, eps: 1e-5, recomputes },
    }
}

/// Bytes in use after the forward pass and not before, and the gradients of `x` and of the weights.
fn measure(recomputes: bool) -> (usize, [Vec<f32>; 2]) {
    let spec = spec(recomputes);
    let (batch, len) = SHAPE;
    let waves = |n: usize, scale: f32| (0..n).map(|i| (i as f32 * 0.37).sin() * scale).collect::<Vec<f32>>();
    let x = Tensor::from_vec(waves(batch * len * WIDTH, 1.0), (batch, len, WIDTH), &Device::Cpu).unwrap();
    let weights = Tensor::from_vec(waves(spec.n_weights(), 0.1), spec.n_weights(), &Device::Cpu).unwrap();
    let [x, weights] = [x, weights].map(|tensor| Var::from_tensor(&tensor).unwrap());
    let segments = Segments::whole_rows(batch, len);
    let before = IN_USE.load(Ordering::Relaxed);
    let y = layers(&x, &weights, &spec, &segments).unwrap();
    let kept = IN_USE.load(Ordering::Relaxed) - before;
    let found = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = |var: &Var| found.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (kept, [gradient(&x), gradient(&weights)])
}

#[test]
fn activations_computed_again_are_not_kept_and_change_no_bit() {
    // Tables that stay are made in the first pass.
    measure(false);
    let (kept, expected) = measure(false);
    let (kept_less, found) = measure(true);
    assert!(found == expected, "the gradients differ");
    let n_rows = SHAPE.0 * SHAPE.1;
    let spec = spec(true);
    // What comes out of each half stays either way, and where each token stands: its document, its position, the first token it sees.
    let between = N_LAYERS * n_rows * (2 * WIDTH * size_of::<f32>() + 2 * size_of::<u32>() + size_of::<usize>());
    let attention = spec.attention.attention;
    let of_attention = WIDTH + (attention.n_heads + 2 * attention.n_kv_heads + attention.n_heads) * attention.head_dim;
    let of_feed_forward = WIDTH + 3 * INNER;
    let activations = N_LAYERS * n_rows * (of_attention + of_feed_forward) * size_of::<f32>();
    let is_about = |found: usize, expected: usize| found.abs_diff(expected) * 100 <= expected;
    assert!(is_about(kept_less, between), "{kept_less} bytes are kept, {between} expected");
    assert!(is_about(kept - kept_less, activations), "{} bytes less, {activations} expected", kept - kept_less);
}
