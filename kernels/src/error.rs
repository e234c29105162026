//! What can go wrong when an operation is called.

use candle_core::{DType, DeviceLocation, Shape};

/// An operation was called with something it cannot work on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A tensor or slice does not have the shape that the operation needs.
    #[error("{op}: `{what}` has shape {found}, expected {expected}")]
    ShapeMismatch {
        /// The operation.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// The shape that was needed.
        expected: String,
        /// The shape that was given.
        found: String,
    },

    /// The operation has no implementation on this device.
    #[error("{op}: `{what}` is on {found:?}, for which this operation is not built")]
    UnsupportedDevice {
        /// The operation.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// Where the tensor lies.
        found: DeviceLocation,
    },

    /// The operation is not defined for this element type.
    #[error("{op}: `{what}` has element type {found:?}, expected {expected}")]
    UnsupportedDtype {
        /// The operation.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// The element types that would do.
        expected: &'static str,
        /// The element type that was given.
        found: DType,
    },

    /// An id points outside of its table.
    #[error("{op}: {what} {id} at index {index} is not below {size}")]
    IdOutOfRange {
        /// The operation.
        op: &'static str,
        /// What the id names.
        what: &'static str,
        /// The id.
        id: u32,
        /// Where it stands in the input.
        index: usize,
        /// Size of the table.
        size: usize,
    },

    /// A cache row has no room for another token.
    #[error("key-value cache: row {row} would hold {needed} tokens, but its capacity is {capacity}")]
    CacheFull {
        /// The cache row.
        row: usize,
        /// Tokens it would hold.
        needed: usize,
        /// Tokens it can hold.
        capacity: usize,
    },

    /// A cache row or layer that does not exist.
    #[error("key-value cache: {what} {index} does not exist, there are {count}")]
    CacheIndex {
        /// `row` or `layer`.
        what: &'static str,
        /// The index that was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },

    /// Parameters, gradients or saved moments do not belong together.
    #[error("optimizer: parameter {index} is `{found}`, expected `{expected}`")]
    ParameterMismatch {
        /// Position in the list.
        index: usize,
        /// Name and size that the optimizer was made for.
        expected: String,
        /// Name and size that was given.
        found: String,
    },

    /// A gradient is infinite or not a number; nothing was updated.
    #[error("optimizer: the gradient of `{name}` is not finite")]
    NonFiniteGradient {
        /// The first such parameter.
        name: String,
    },

    /// The thread pool could not be set up.
    #[error("cannot use {n_threads} threads: {reason}")]
    Threads {
        /// Threads that were asked for.
        n_threads: usize,
        /// Why not.
        reason: String,
    },
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(inner) => inner,
            other => Self::msg(other),
        }
    }
}

/// The error for an argument of the wrong shape.
pub(crate) fn shape_mismatch(
    op: &'static str,
    what: &'static str,
    expected: impl Into<String>,
    found: &Shape,
) -> Error {
    Error::ShapeMismatch { op, what, expected: expected.into(), found: format!("{:?}", found.dims()) }
}

/// The error for a slice of the wrong length.
pub(crate) fn length_mismatch(op: &'static str, what: &'static str, expected: usize, found: usize) -> Error {
    Error::ShapeMismatch { op, what, expected: format!("[{expected}]"), found: format!("[{found}]") }
}
