//! Loading on the CPU: weights in panels, buffers, the KV pool.

use super::buffer::Tensor;
use super::kv_pool::Pool;
use super::state_pool::StatePool;
use super::weight::Weight;
use super::Cpu;
use crate::device::host_slots::HostSlots;
use crate::device::{DeviceLimits, LoadOps, WeightDesc};
use crate::error::Result;
use crate::internal;

impl LoadOps for Cpu {
    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<Weight> {
        Weight::pack(&weight, &self.workers)
    }

    fn tensor(&mut self, rows: usize, width: usize) -> Result<Tensor> {
        Tensor::new(rows, width)
    }

    fn reshape(&mut self, tensor: &mut Tensor, width: usize) -> Result<()> {
        let (rows, old) = (tensor.rows, tensor.width);
        if tensor.reshape(width) {
            return Ok(());
        }
        Err(internal!("{rows} x {old}, of which rows of {width} are to be made"))
    }

    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<Tensor> {
        Tensor::new(rows, vocab)
    }

    fn feeds(&mut self, _: &mut Tensor, _: &Weight) -> Result<()> {
        Ok(())
    }

    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()> {
        self.pool = Some(Pool::new(limits)?);
        self.states = Some(StatePool::new(limits)?);
        self.slots = HostSlots::new(limits);
        Ok(())
    }

    fn sizes_to_rehearse(&self, _: usize) -> Vec<usize> {
        Vec::new()
    }

    fn keep_choices(&mut self) {}

    fn read(&mut self, tensor: &Tensor, rows: usize) -> Result<Vec<f32>> {
        let len = rows * tensor.width;
        let data =
            tensor.data.get(..len).ok_or_else(|| internal!("{rows} of {} rows", tensor.rows))?;
        Ok(data.to_vec())
    }
}
