//! A device that breaks on purpose, for tests of everything above it: it fails, panics or stalls in
//! the steps that a seed chooses. `assemble` puts it around the real one, of ranks around the last,
//! when model.json says `"additional_config": {"inject_faults": {…}}` **and** the server's
//! environment has TRITON_VLLM_ALLOW_FAULTS=1; without the second the load is refused. It never
//! changes a token.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::engine::step_loop::Runner;
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::model::Adapter;
use crate::plan::{StepPlan, StepResult, TokenMasks};
use crate::{internal, invalid};

/// Set to 1 where faults may be injected.
const ALLOW: &str = "TRITON_VLLM_ALLOW_FAULTS";

/// What goes wrong. Steps count from 1; shares are of steps, 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    seed: u64,
    /// The device answers an error: always in this step, and in this share of steps.
    error_at: u64,
    error_share: f64,
    panic_at: u64,
    panic_share: f64,
    /// The device itself breaks in this step: a CUDA kernel reads what it must not. The process's
    /// context is lost with it.
    break_at: u64,
    /// A step takes `stall_ms` longer.
    stall_at: u64,
    stall_share: f64,
    stall_ms: u64,
}

impl Faults {
    /// Takes `additional_config.inject_faults` out of model.json.
    ///
    /// # Errors
    /// InvalidArgument: an unknown fault or a value of the wrong type.
    pub(super) fn take(map: &mut Map<String, Value>) -> Result<Option<Faults>> {
        let config = map.get_mut("additional_config").and_then(Value::as_object_mut);
        let Some(faults) = config.and_then(|config| config.shift_remove("inject_faults")) else {
            return Ok(None);
        };
        let faults = serde_json::from_value(faults)
            .map_err(|e| invalid!("additional_config.inject_faults: {e}"))?;
        Ok(Some(faults))
    }

    /// # Errors
    /// InvalidArgument: this is a server that serves people.
    pub(super) fn around(self, runner: Box<dyn Runner>) -> Result<Box<dyn Runner>> {
        if std::env::var(ALLOW).is_ok_and(|value| value == "1") {
            tracing::warn!("faults are injected on purpose: {self:?}");
            return Ok(Box::new(Faulty { runner, faults: self, step: 0 }));
        }
        Err(invalid!(
            "model.json: additional_config.inject_faults breaks this model on purpose: remove it, \
             or start the server with {ALLOW}=1 if this is a test"
        ))
    }

    /// Whether the fault number `kind` strikes in `step`.
    fn strikes(&self, kind: u64, at: u64, share: f64, step: u64) -> bool {
        // SplitMix64's finaliser over (seed, kind, step): as good as a fresh draw for each.
        let mut z = self.seed ^ (kind << 56) ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let draw = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        step == at || draw < share
    }
}

struct Faulty {
    runner: Box<dyn Runner>,
    faults: Faults,
    step: u64,
}

impl Runner for Faulty {
    fn depth(&self) -> usize {
        self.runner.depth()
    }

    fn install(&mut self, adapter_slot: AdapterSlotId, adapter: &Arc<Adapter>) -> Result<()> {
        self.runner.install(adapter_slot, adapter)
    }

    fn forward(&mut self, plan: &StepPlan) -> Result<()> {
        self.step = plan.step;
        let faults = self.faults;
        let step = plan.step;
        if faults.strikes(1, faults.panic_at, faults.panic_share, step) {
            std::panic::panic_any(format!("injected panic in step {step}"));
        }
        if faults.strikes(2, faults.error_at, faults.error_share, step) {
            return Err(internal!("injected device error in step {step}"));
        }
        if step == faults.break_at {
            self.runner.break_device()?;
        }
        self.runner.forward(plan)
    }

    fn sample(&mut self, masks: &TokenMasks) -> Result<()> {
        self.runner.sample(masks)
    }

    fn draft(&mut self, plans: &[StepPlan]) -> Result<Vec<StepResult>> {
        self.runner.draft(plans)
    }

    fn collect(&mut self) -> Result<StepResult> {
        let faults = self.faults;
        if faults.strikes(3, faults.stall_at, faults.stall_share, self.step) {
            std::thread::sleep(Duration::from_millis(faults.stall_ms));
        }
        self.runner.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sound;

    impl Runner for Sound {
        fn depth(&self) -> usize {
            1
        }

        fn install(&mut self, _: AdapterSlotId, _: &Arc<Adapter>) -> Result<()> {
            Ok(())
        }

        fn forward(&mut self, _: &StepPlan) -> Result<()> {
            Ok(())
        }

        fn sample(&mut self, _: &TokenMasks) -> Result<()> {
            Ok(())
        }

        fn collect(&mut self) -> Result<StepResult> {
            Err(internal!("nothing to collect"))
        }
    }

    fn read(text: &str) -> Result<Option<Faults>> {
        let value: Value = serde_json::from_str(text).unwrap();
        let mut map = Map::new();
        map.insert("additional_config".into(), value);
        let faults = Faults::take(&mut map)?;
        assert!(map["additional_config"].get("inject_faults").is_none());
        Ok(faults)
    }

    #[test]
    fn faults_are_read_and_misspelt_ones_refused() {
        assert_eq!(read("{}").unwrap(), None);
        let faults = read(r#"{"inject_faults": {"error_at": 3, "stall_ms": 9}}"#).unwrap().unwrap();
        assert_eq!((faults.error_at, faults.stall_ms, faults.panic_share), (3, 9, 0.0));
        let error = read(r#"{"inject_faults": {"erorr_at": 3}}"#).unwrap_err();
        assert!(error.message().contains("erorr_at"), "{error}");
    }

    #[test]
    fn nobody_is_broken_by_accident() {
        assert!(std::env::var(ALLOW).is_err(), "this test needs an environment without {ALLOW}");
        let refused = Faults::default().around(Box::new(Sound)).err().expect("refused");
        assert!(refused.message().contains(ALLOW), "{refused}");
    }

    #[test]
    fn a_seed_chooses_its_share_of_steps_and_a_number_one_step() {
        let faults = Faults { seed: 7, error_share: 0.1, ..Faults::default() };
        let struck = |kind| (1..=10_000).filter(|&step| faults.strikes(kind, 0, 0.1, step)).count();
        assert!((900..1100).contains(&struck(2)), "{}", struck(2));
        assert_ne!(
            (1..99).map(|s| faults.strikes(1, 0, 0.5, s)).collect::<Vec<_>>(),
            (1..99).map(|s| faults.strikes(2, 0, 0.5, s)).collect::<Vec<_>>()
        );
        let mut faulty = Faulty {
            runner: Box::new(Sound),
            faults: Faults { error_at: 2, ..Faults::default() },
            step: 0,
        };
        let mut plan = |step| faulty.forward(&StepPlan { step, ..StepPlan::default() });
        assert!(plan(1).is_ok() && plan(2).is_err() && plan(3).is_ok());
    }
}
