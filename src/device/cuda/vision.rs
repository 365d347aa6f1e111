//! Vision towers are not on the GPU yet: the engine refuses images there before any of these is
//! called.

use super::{Cuda, Tensor};
use crate::device::{AttnSpec, RowCopy, VisionOps};
use crate::error::{Error, Result};
use crate::plan::PatchRows;

fn missing<T>() -> Result<T> {
    Err(Error::Unsupported("images are not served on GPUs.".into()))
}

impl VisionOps for Cuda {
    fn begin_rows(&mut self, _: usize) -> Result<()> {
        missing()
    }

    fn end_rows(&mut self) {}

    fn put_patches(&mut self, _: &PatchRows, _: &[usize], _: &mut Tensor) -> Result<()> {
        missing()
    }

    fn turn_rows(&mut self, _: &AttnSpec, _: &[f32], _: &mut Tensor) -> Result<()> {
        missing()
    }

    fn attend_spans(
        &mut self,
        _: &AttnSpec,
        _: &[usize],
        _: &Tensor,
        _: &mut Tensor,
    ) -> Result<()> {
        missing()
    }

    fn join_rows(&mut self, _: usize, _: &Tensor, _: &mut Tensor) -> Result<()> {
        missing()
    }

    fn copy_rows(&mut self, _: &Tensor, _: &[RowCopy], _: &mut Tensor) -> Result<()> {
        missing()
    }
}
