//! The operations on NVIDIA GPUs: the same functions of the same arguments as on the CPU, for `f32` and for `bf16`.
//!
//! With `bf16`, sums are taken in `f32`, and weights may be `f32` (what is trained) as well as `bf16` (what is only read); a
//! gradient has the type of what it is of. One stream does everything in order. Nothing waits for the GPU but what hands a
//! number to the host. Every sum has one owner and a fixed order, so that the same input gives the same bits.
//!
//! The kernels are in `kernels/cuda/`, matrix products are cuBLASLt's. `unsafe` stands where a kernel is launched, which reads
//! and writes through addresses that the compiler knows nothing of.

mod adamw;
mod attention;
mod blas;
mod blocks;
mod decode;
mod head;
mod product;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use adamw::DeviceMoments;
pub(crate) use attention::rope_attention;
pub(crate) use blocks::{attention_block, feed_forward, layers, layers_of_parts};
pub(crate) use decode::{DeviceCache, decode_attention, decode_layers};
pub(crate) use head::{choose, linear_cross_entropy, linear_log_probs};
pub(crate) use product::{linear, logits};
pub(crate) use rows::{embedding, rms_norm, swiglu};

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, DevicePtr, LaunchConfig, PushKernelArg, result, sys, sys::CUdevice_attribute as Attribute,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, CustomOp2, DType, Device, Error, Layout, Result, Shape, Storage,
    Tensor,
};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// What a block of threads has without asking for more, bytes.
const SHARED_MEMORY: usize = 48 << 10;

const BINARIES: &[&[u8]] = &[
    include_bytes!(concat!(env!("OUT_DIR"), "/rows.cubin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/attention.cubin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/attention_bf16.cubin")),
    #[cfg(hopper)]
    include_bytes!(concat!(env!("OUT_DIR"), "/attention_hopper.cubin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/head.cubin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/adamw.cubin")),
];

/// A GPU with the kernels loaded.
pub(crate) struct Gpu {
    device: CudaDevice,
    modules: Vec<Arc<CudaModule>>,
    functions: Mutex<BTreeMap<String, CudaFunction>>,
    uploads: attention::Uploads,
    blas: blas::Blas,
    n_multiprocessors: usize,
    /// Bytes that a block may ask for.
    shared_memory: usize,
}

/// GPUs in use; what is loaded stays.
static GPUS: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());

impl Gpu {
    /// The GPU that a tensor lies on.
    pub(crate) fn of(tensor: &Tensor) -> Result<Arc<Self>> {
        match tensor.device() {
            Device::Cuda(device) => Self::with(device),
            _ => Err(Error::msg("expected a tensor on a GPU")),
        }
    }

    pub(crate) fn with(device: &CudaDevice) -> Result<Arc<Self>> {
        // A panic cannot leave the list half-changed, so a poisoned lock is still good.
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = gpus.iter().find(|gpu| gpu.device.id() == device.id()) {
            return Ok(Arc::clone(gpu));
        }
        let stream = device.cuda_stream();
        let load = |binary: &[u8]| stream.context().load_module(Ptx::from_binary(binary.to_vec())).w();
        let attribute = |which| Ok::<_, Error>(stream.context().attribute(which).w()?.unsigned_abs() as usize);
        let gpu = Arc::new(Self {
            device: device.clone(),
            modules: BINARIES.iter().map(|binary| load(binary)).collect::<Result<_>>()?,
            functions: Mutex::new(BTreeMap::new()),
            uploads: attention::Uploads::default(),
            blas: blas::Blas::new(device)?,
            n_multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        });
        gpus.push(Arc::clone(&gpu));
        Ok(gpu)
    }

    fn function(&self, name: String) -> Result<CudaFunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&name) {
            return Ok(function.clone());
        }
        let mut found = self.modules.iter().filter_map(|module| module.load_function(&name).ok());
        let function = found.next().ok_or_else(|| Error::msg(format!("no kernel `{name}`")))?;
        functions.insert(name, function.clone());
        Ok(function)
    }

    /// Puts a kernel into the stream.
    fn launch(&self, name: String, grid: Grid, args: &[Arg]) -> Result<()> {
        let [x, y, z] = grid.blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let function = self.function(name)?;
        if grid.shared_bytes > SHARED_MEMORY {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, grid.shared_bytes as i32).w()?;
        }
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Address(value) => builder.arg(value),
                Arg::Int(value) => builder.arg(value),
                Arg::Long(value) => builder.arg(value),
                Arg::Float(value) => builder.arg(value),
                Arg::Floats(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, z as u32),
            block_dim: (grid.threads[0] as u32, grid.threads[1] as u32, 1),
            shared_mem_bytes: grid.shared_bytes as u32,
        };
        // SAFETY: each caller passes what its kernel declares: buffers of the sizes that the kernel's comment says, on this
        // device, which live until the stream has come to their release.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// Memory for `n` numbers, not set.
    fn alloc(&self, n: usize, dtype: DType) -> Result<Buffer> {
        // SAFETY: whoever asks for a buffer has a kernel write all of it before anything reads it; tests fill it with
        // not-a-number first, so that what was left out shows.
        let storage = unsafe { self.device.alloc_uninit(&n.max(1).into(), dtype)? };
        let buffer = Buffer { storage };
        #[cfg(test)]
        self.poison(&buffer, n * dtype.size_in_bytes())?;
        Ok(buffer)
    }

    fn zeros(&self, n: usize, dtype: DType) -> Result<Buffer> {
        Ok(Buffer { storage: self.device.zeros_impl(&n.max(1).into(), dtype)? })
    }

    /// Fills a buffer with bytes that are not-a-number in every type of float.
    #[cfg(test)]
    fn poison(&self, buffer: &Buffer, n_bytes: usize) -> Result<()> {
        let stream = self.device.cuda_stream();
        // SAFETY: the buffer is that long, and nobody else has its address yet.
        unsafe { result::memset_d8_async(buffer.span().address, 0xff, n_bytes, stream.cu_stream()) }.w()
    }

    /// Copies numbers to the device.
    ///
    /// In pieces so small that the driver takes them at once into its own memory: for larger ones it waits until the stream has come
    /// so far, and the device then waits for the host.
    fn upload<T: candle_core::WithDType>(&self, values: &[T]) -> Result<Buffer> {
        const PIECE: usize = 64 << 10;
        let buffer = self.alloc(values.len(), T::DTYPE)?;
        let stream = self.device.cuda_stream();
        let mut to = buffer.span();
        for piece in values.chunks(PIECE / size_of::<T>()) {
            // SAFETY: the buffer has a place for each value.
            unsafe { result::memcpy_htod_async(to.address, piece, stream.cu_stream()) }.w()?;
            to = to.from(piece.len());
        }
        Ok(buffer)
    }

    /// Tensors one after the other, in a type that they have or are rounded to.
    fn join(&self, parts: &[Tensor], dtype: DType) -> Result<Buffer> {
        let all = self.alloc(parts.iter().map(Tensor::elem_count).sum(), dtype)?;
        let mut start = 0;
        for part in parts {
            let (to, from, n) = (all.span().from(start), Span::of(part)?, part.elem_count());
            if from.dtype == dtype {
                self.copy(to, from, n)?;
            } else {
                self.round(to, from, n)?;
            }
            start += n;
        }
        Ok(all)
    }

    /// Copies `n` numbers within the device.
    fn copy(&self, to: Span<'_>, from: Span<'_>, n: usize) -> Result<()> {
        let stream = self.device.cuda_stream();
        let n_bytes = n * from.dtype.size_in_bytes();
        // SAFETY: both spans are at least that long, and the copy is one of the stream's works in order.
        unsafe { result::memcpy_dtod_async(to.address, from.address, n_bytes, stream.cu_stream()) }.w()
    }
}

/// Sets up a GPU for one stream of work: kernels loaded, freed memory kept for the next step, no events around each buffer.
///
/// To be called before the first tensor is put there. Does nothing on the CPU.
///
/// # Errors
/// candle's, where the kernels were compiled for another GPU.
pub fn prepare_gpu(device: &Device) -> Result<()> {
    let Device::Cuda(device) = device else { return Ok(()) };
    // SAFETY: events order the uses of a buffer by several streams; here all uses are in one.
    unsafe { device.disable_event_tracking() };
    let stream = device.cuda_stream();
    let mut pool = std::ptr::null_mut();
    let mut everything = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own and is only told how much freed memory it may keep, by a number that outlives
    // the call.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device()).result().w()?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut everything).cast()).result().w()?;
    }
    Gpu::with(device).map(drop)
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy)]
struct Grid {
    blocks: [usize; 3],
    threads: [usize; 2],
    shared_bytes: usize,
}

impl Grid {
    const THREADS: usize = 256;

    /// A thread for each of `n`.
    fn threads(n: usize) -> Self {
        Self { blocks: [n.div_ceil(Self::THREADS), 1, 1], threads: [Self::THREADS, 1], shared_bytes: 0 }
    }

    /// A warp for each of `n`.
    fn warps(n: usize) -> Self {
        Self::threads(n * 32)
    }

    /// A block of `threads` for each of `blocks`.
    fn blocks(blocks: [usize; 3], threads: usize) -> Self {
        Self { blocks, threads: [threads, 1], shared_bytes: 0 }
    }
}

/// An argument of a kernel.
enum Arg {
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    Floats([f32; 8]),
}

impl From<Span<'_>> for Arg {
    fn from(span: Span<'_>) -> Self {
        Self::Address(span.address)
    }
}

impl From<Option<Span<'_>>> for Arg {
    fn from(span: Option<Span<'_>>) -> Self {
        Self::Address(span.map_or(0, |span| span.address))
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

/// For parameters of type `int`.
fn int(value: usize) -> Arg {
    Arg::Int(value as i32)
}

/// For parameters of type `long`.
fn long(value: usize) -> Arg {
    Arg::Long(value as i64)
}

/// Memory of the device that is owned.
pub(crate) struct Buffer {
    storage: CudaStorage,
}

impl Buffer {
    fn span(&self) -> Span<'_> {
        span_of_storage(&self.storage, 0).expect("buffers are of types that spans have")
    }

    fn into_tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), shape, BackpropOp::none(), false)
    }
}

/// Numbers one after the other on the device, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    address: u64,
    dtype: DType,
    lives: PhantomData<&'a ()>,
}

impl<'a> Span<'a> {
    /// Of a contiguous tensor.
    fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => span_of(storage, layout),
            _ => Err(Error::msg("expected a tensor on a GPU")),
        }
    }

    /// What stands behind the first `n` numbers.
    fn from(self, n: usize) -> Self {
        Self { address: self.address + (n * self.dtype.size_in_bytes()) as u64, ..self }
    }

    /// How kernels call the element type.
    fn suffix(self) -> &'static str {
        suffix(self.dtype)
    }
}

fn suffix(dtype: DType) -> &'static str {
    if dtype == DType::BF16 { "bf16" } else { "f32" }
}

/// What `layout` shows of `storage`.
fn span_of<'a>(storage: &CudaStorage, layout: &Layout) -> Result<Span<'a>> {
    match layout.contiguous_offsets() {
        Some((start, _)) => span_of_storage(storage, start),
        None => Err(Error::RequiresContiguous { op: "kernels" }),
    }
}

fn span_of_storage<'a>(storage: &CudaStorage, start: usize) -> Result<Span<'a>> {
    let stream = storage.device.cuda_stream();
    let (address, dtype) = match &storage.slice {
        CudaStorageSlice::F32(slice) => (slice.device_ptr(&stream).0, DType::F32),
        CudaStorageSlice::BF16(slice) => (slice.device_ptr(&stream).0, DType::BF16),
        CudaStorageSlice::U32(slice) => (slice.device_ptr(&stream).0, DType::U32),
        CudaStorageSlice::F64(slice) => (slice.device_ptr(&stream).0, DType::F64),
        CudaStorageSlice::U8(slice) => (slice.device_ptr(&stream).0, DType::U8),
        _ => return Err(Error::msg("expected f32, bf16, f64, u32 or u8 on the GPU")),
    };
    Ok(Span { address, dtype, lives: PhantomData }.from(start))
}

/// A function of `N` tensors with its gradient.
pub(crate) trait Operation<const N: usize>: Send + Sync {
    /// Name of the operation.
    const OP: &'static str;

    /// The result, of the given shape.
    fn forward(&self, gpu: &Gpu, inputs: [Span<'_>; N]) -> Result<(Buffer, Shape)>;

    /// Gradients of the inputs; `None` for those that need none.
    fn backward(&self, gpu: &Gpu, inputs: [&Tensor; N], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; N]>;
}

/// An operation as a node of candle's graph.
pub(crate) struct Node<O>(pub(crate) O);

fn only_on_a_gpu<T>(op: &str) -> Result<T> {
    Err(Error::msg(format!("{op}: this form of the operation runs on a GPU only")))
}

impl<O: Operation<1>> CustomOp1 for Node<O> {
    fn name(&self) -> &'static str {
        O::OP
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        only_on_a_gpu(O::OP)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (y, shape) = self.0.forward(&*Gpu::with(&x.device)?, [span_of(x, layout)?])?;
        Ok((y.storage, shape))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [dx] = self.0.backward(&*Gpu::of(x)?, [x], y, &dy.contiguous()?)?;
        Ok(dx)
    }
}

impl<O: Operation<2>> CustomOp2 for Node<O> {
    fn name(&self) -> &'static str {
        O::OP
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        only_on_a_gpu(O::OP)
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [span_of(x, x_layout)?, span_of(weight, weight_layout)?];
        let (y, shape) = self.0.forward(&*Gpu::with(&x.device)?, inputs)?;
        Ok((y.storage, shape))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw] = self.0.backward(&*Gpu::of(x)?, [x, weight], y, &dy.contiguous()?)?;
        Ok((dx, dw))
    }
}
