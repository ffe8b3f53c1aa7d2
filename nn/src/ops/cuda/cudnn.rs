//! Convolution and both its gradients through cuDNN, channels last, accumulated in float32: bfloat16 on tensor cores, float32 with
//! float32 products (TF32 if candle's own switch asks for it). The algorithm of each shape is chosen once, among those that
//! give the same bits each time; all shapes share one workspace a thread and device.

use std::{cell::RefCell, collections::HashMap, mem::MaybeUninit, rc::Rc};

use candle_core::{
    CudaDevice, CudaStorage, DType, Result,
    cuda_backend::{
        DeviceId, WrapErr,
        cudarc::{
            cudnn::{result as call, sys},
            driver::{CudaSlice, CudaStream, DevicePtrMut},
        },
        gemm_reduced_precision_f32,
    },
};

use super::{
    device::View,
    nvidia::{alloc, pointer, pointer_mut},
};

/// The most workspace that an algorithm may ask for, in bytes.
const WORKSPACE: usize = 1 << 30;

/// A convolution as cuDNN sees it; padding is the same on opposite sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Batch, height, width, channels.
    pub input: [usize; 4],
    /// Batch, height, width, channels.
    pub output: [usize; 4],
    pub kernel: [usize; 2],
    pub padding: [usize; 2],
    pub stride: usize,
    pub dtype: DType,
}

/// Which of the three, and the arguments that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// y of x and the weight.
    Forward,
    /// dx of dy and the weight.
    InputGradient,
    /// The weight's gradient, of x and dy.
    WeightGradient,
}

/// Descriptors of one shape, the chosen algorithm's number and its workspace.
struct Plan {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
    algorithm: Algorithm,
    workspace: usize,
}

/// The chosen algorithm.
#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    InputGradient(sys::cudnnConvolutionBwdDataAlgo_t),
    WeightGradient(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// Of one thread, since cuDNN's handles belong to threads.
#[derive(Default)]
struct Library {
    handles: HashMap<DeviceId, sys::cudnnHandle_t>,
    /// None: cuDNN has nothing for the shape.
    plans: HashMap<(DeviceId, Shape, Direction, bool), Option<Rc<Plan>>>,
    workspaces: HashMap<DeviceId, CudaSlice<u8>>,
}

thread_local! {
    static LIBRARY: RefCell<Library> = RefCell::default();
}

/// The result, in the type of the arguments; none if cuDNN has no algorithm for this shape that is deterministic and modest.
/// Weights are `[c_out, kh, kw, c_in]`.
pub(super) fn run(
    device: &CudaDevice,
    shape: Shape,
    direction: Direction,
    a: View<'_>,
    b: View<'_>,
) -> Result<Option<CudaStorage>> {
    LIBRARY.with_borrow_mut(|library| {
        let handle = library.handle(device)?;
        let Some(plan) = library.plan(device, handle, shape, direction)? else { return Ok(None) };
        let mut out = alloc(device, shape.dtype, shape.result(direction))?;
        let stream = device.cuda_stream();
        let workspace = library.workspace(device, &stream, plan.workspace)?;
        let ((a, _a), (b, _b)) = (pointer(&a, &stream)?, pointer(&b, &stream)?);
        let (c, guard) = pointer_mut(&mut out, 0, &stream)?;
        let (space, _space) = workspace.device_ptr_mut(&stream);
        plan.call(handle, [a, b, c, space])?;
        drop(guard);
        Ok(Some(out))
    })
}

impl Shape {
    /// Elements of the result.
    fn result(&self, direction: Direction) -> usize {
        match direction {
            Direction::Forward => self.output.iter().product(),
            Direction::InputGradient => self.input.iter().product(),
            Direction::WeightGradient => self.output[3] * self.kernel[0] * self.kernel[1] * self.input[3],
        }
    }

    fn data_type(&self) -> sys::cudnnDataType_t {
        match self.dtype {
            DType::BF16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            _ => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        }
    }

    /// Which products are allowed.
    fn math(&self) -> sys::cudnnMathType_t {
        match self.dtype {
            DType::BF16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            // The default includes TF32.
            _ if gemm_reduced_precision_f32() => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            _ => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        }
    }
}

impl Library {
    fn handle(&mut self, device: &CudaDevice) -> Result<sys::cudnnHandle_t> {
        if let Some(handle) = self.handles.get(&device.id()) {
            return Ok(*handle);
        }
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let handle = call::create_handle().map_err(candle_core::Error::wrap)?;
        // SAFETY: both have just been made and live as long as the thread and the device.
        unsafe { call::set_stream(handle, stream.cu_stream().cast()) }.map_err(candle_core::Error::wrap)?;
        self.handles.insert(device.id(), handle);
        Ok(handle)
    }

    fn plan(
        &mut self,
        device: &CudaDevice,
        handle: sys::cudnnHandle_t,
        shape: Shape,
        direction: Direction,
    ) -> Result<Option<Rc<Plan>>> {
        let key = (device.id(), shape, direction, gemm_reduced_precision_f32());
        if let Some(plan) = self.plans.get(&key) {
            return Ok(plan.clone());
        }
        let plan = Plan::new(handle, shape, direction)?.map(Rc::new);
        self.plans.insert(key, plan.clone());
        Ok(plan)
    }

    fn workspace(&mut self, device: &CudaDevice, stream: &CudaStream, bytes: usize) -> Result<&mut CudaSlice<u8>> {
        let small = self.workspaces.get(&device.id()).is_none_or(|w| w.len() < bytes.max(1));
        if small {
            // The old one goes before the new one comes; the device frees it when what is queued has used it.
            self.workspaces.remove(&device.id());
            // SAFETY: cuDNN writes its workspace before it reads it.
            let space = unsafe { device.alloc::<u8>(bytes.max(1)) }?;
            self.workspaces.insert(device.id(), space);
            stream.context().bind_to_thread().w()?;
        }
        self.workspaces.get_mut(&device.id()).ok_or_else(super::device::elsewhere)
    }
}

fn int(v: usize) -> Result<i32> {
    i32::try_from(v).map_err(candle_core::Error::wrap)
}

fn nchw([n, h, w, c]: [usize; 4]) -> Result<[i32; 4]> {
    Ok([int(n)?, int(c)?, int(h)?, int(w)?])
}

/// cuDNN's error as candle's.
fn done<T>(result: std::result::Result<T, call::CudnnError>) -> Result<T> {
    result.map_err(candle_core::Error::wrap)
}

impl Plan {
    /// Descriptors and algorithm of a shape.
    fn new(handle: sys::cudnnHandle_t, shape: Shape, direction: Direction) -> Result<Option<Self>> {
        let mut plan = Self {
            x: done(call::create_tensor_descriptor())?,
            y: done(call::create_tensor_descriptor())?,
            w: done(call::create_filter_descriptor())?,
            convolution: done(call::create_convolution_descriptor())?,
            algorithm: Algorithm::Forward(sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM),
            workspace: 0,
        };
        plan.describe(shape)?;
        let chosen = match direction {
            Direction::Forward => plan.forward_algorithm(handle),
            Direction::InputGradient => plan.input_algorithm(handle),
            Direction::WeightGradient => plan.weight_algorithm(handle),
        };
        Ok(chosen.map(|(algorithm, workspace)| {
            (plan.algorithm, plan.workspace) = (algorithm, workspace);
            plan
        }))
    }

    fn describe(&self, shape: Shape) -> Result<()> {
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let (mode, float) = (sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
        let (data, stride) = (shape.data_type(), int(shape.stride)?);
        let [top, left] = [int(shape.padding[0])?, int(shape.padding[1])?];
        let filter = [int(shape.output[3])?, int(shape.input[3])?, int(shape.kernel[0])?, int(shape.kernel[1])?];
        // SAFETY: the descriptors are ours and alive.
        unsafe {
            done(call::set_tensor4d_descriptor(self.x, format, data, nchw(shape.input)?))?;
            done(call::set_tensor4d_descriptor(self.y, format, data, nchw(shape.output)?))?;
            done(call::set_filter4d_descriptor(self.w, data, format, filter))?;
            done(call::set_convolution2d_descriptor(self.convolution, top, left, stride, stride, 1, 1, mode, float))?;
            done(call::set_convolution_math_type(self.convolution, shape.math()))
        }
    }

    /// The fastest acceptable algorithm by cuDNN's own estimate, and its workspace; none if it has none or refuses the shape.
    fn forward_algorithm(&self, handle: sys::cudnnHandle_t) -> Option<(Algorithm, usize)> {
        let (mut found, mut all) = (0, [MaybeUninit::<sys::cudnnConvolutionFwdAlgoPerf_t>::uninit(); CANDIDATES]);
        let (count, first) = (CANDIDATES as i32, all.as_mut_ptr().cast());
        // SAFETY: cuDNN writes `found` results, at most as many as there is room for.
        let all = unsafe {
            if call::get_convolution_forward_algorithm(handle, self.x, self.w, self.convolution, self.y, count, &mut found, first)
                .is_err()
            {
                return None;
            }
            written(&all, found)
        };
        let good = |p: &&sys::cudnnConvolutionFwdAlgoPerf_t| acceptable(p.status, p.determinism, p.memory);
        all.iter().find(good).map(|p| (Algorithm::Forward(p.algo), p.memory))
    }

    fn input_algorithm(&self, handle: sys::cudnnHandle_t) -> Option<(Algorithm, usize)> {
        let (mut found, mut all) = (0, [MaybeUninit::<sys::cudnnConvolutionBwdDataAlgoPerf_t>::uninit(); CANDIDATES]);
        let (count, first) = (CANDIDATES as i32, all.as_mut_ptr().cast());
        // SAFETY: as above.
        let all = unsafe {
            if call::get_convolution_backward_data_algorithm(
                handle,
                self.w,
                self.y,
                self.convolution,
                self.x,
                count,
                &mut found,
                first,
            )
            .is_err()
            {
                return None;
            }
            written(&all, found)
        };
        let good = |p: &&sys::cudnnConvolutionBwdDataAlgoPerf_t| acceptable(p.status, p.determinism, p.memory);
        all.iter().find(good).map(|p| (Algorithm::InputGradient(p.algo), p.memory))
    }

    fn weight_algorithm(&self, handle: sys::cudnnHandle_t) -> Option<(Algorithm, usize)> {
        let (mut found, mut all) = (0, [MaybeUninit::<sys::cudnnConvolutionBwdFilterAlgoPerf_t>::uninit(); CANDIDATES]);
        let (count, first) = (CANDIDATES as i32, all.as_mut_ptr().cast());
        // SAFETY: as above.
        let all = unsafe {
            if call::get_convolution_backward_filter_algorithm(
                handle,
                self.x,
                self.y,
                self.convolution,
                self.w,
                count,
                &mut found,
                first,
            )
            .is_err()
            {
                return None;
            }
            written(&all, found)
        };
        let good = |p: &&sys::cudnnConvolutionBwdFilterAlgoPerf_t| acceptable(p.status, p.determinism, p.memory);
        all.iter().find(good).map(|p| (Algorithm::WeightGradient(p.algo), p.memory))
    }

    /// Runs it over the addresses of both arguments, the result and the workspace.
    fn call(&self, handle: sys::cudnnHandle_t, [a, b, c, space]: [u64; 4]) -> Result<()> {
        let (one, zero) = (std::ptr::from_ref(&1.0f32).cast(), std::ptr::from_ref(&0.0f32).cast());
        let (a, b, c, space, size) = (a as *const _, b as *const _, c as *mut _, space as *mut _, self.workspace);
        let Self { x, y, w, convolution, algorithm, .. } = *self;
        // SAFETY: the descriptors describe the memory behind the addresses, which `run` keeps; the workspace has `size` bytes.
        done(unsafe {
            match algorithm {
                Algorithm::Forward(chosen) => {
                    call::convolution_forward(handle, one, x, a, w, b, convolution, chosen, space, size, zero, y, c)
                }
                Algorithm::InputGradient(chosen) => {
                    call::convolution_backward_data(handle, one, w, b, y, a, convolution, chosen, space, size, zero, x, c)
                }
                Algorithm::WeightGradient(chosen) => {
                    call::convolution_backward_filter(handle, one, x, a, y, b, convolution, chosen, space, size, zero, w, c)
                }
            }
        })
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and no one else's. A failure leaks a few bytes.
        unsafe {
            let _ = call::destroy_tensor_descriptor(self.x);
            let _ = call::destroy_tensor_descriptor(self.y);
            let _ = call::destroy_filter_descriptor(self.w);
            let _ = call::destroy_convolution_descriptor(self.convolution);
        }
    }
}

/// Results that are asked for.
const CANDIDATES: usize = 10;

/// The results that cuDNN has written.
///
/// # Safety
/// The first `found` are.
unsafe fn written<T: Copy>(all: &[MaybeUninit<T>; CANDIDATES], found: i32) -> Vec<T> {
    // SAFETY: the caller's promise.
    all.iter().take(usize::try_from(found).unwrap_or(0)).map(|p| unsafe { p.assume_init() }).collect()
}

fn acceptable(status: sys::cudnnStatus_t, determinism: sys::cudnnDeterminism_t, memory: usize) -> bool {
    status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
        && determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
        && memory <= WORKSPACE
}
