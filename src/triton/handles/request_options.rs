//! What a request asks of its serving: the timeout and the priority that gRPC and `/infer` carry as
//! fields of the request, and `/generate` as the parameters `timeout` and `priority`. Called by
//! `model`; it never waits and never orders anything.

use std::time::Duration;

use super::request::{Parameter, Request};
use crate::engine::RequestOptions;
use crate::error::Result;
use crate::invalid;
use crate::triton::error::check;
use crate::triton::sys::{self, TRITONSERVER_InferenceRequest};

impl Request {
    /// Takes `timeout` (microseconds) and `priority` (1 = most urgent) out of `parameters`. 0 means
    /// not given, as everywhere in Triton.
    ///
    /// # Errors
    /// InvalidArgument: one of them is no number from 0 up.
    pub(in crate::triton) fn options(
        &self,
        parameters: &mut Vec<(String, Parameter)>,
    ) -> Result<RequestOptions> {
        let (timeout_us, priority) = self.fields();
        let timeout_us = take(parameters, "timeout")?.unwrap_or(timeout_us);
        let priority = take(parameters, "priority")?.unwrap_or(priority);
        Ok(RequestOptions {
            timeout: (timeout_us > 0).then(|| Duration::from_micros(timeout_us)),
            priority: if priority > 0 { priority } else { RequestOptions::default().priority },
        })
    }

    /// Timeout in microseconds and priority of the request itself. The server cuts the priority to
    /// the levels of config.pbtxt's dynamic_batching, none of which leaves 0.
    fn fields(&self) -> (u64, u64) {
        let (mut timeout_us, mut priority) = (0, 0);
        let Some(api) = sys::api() else { return (0, 0) };
        // The server's two names for one object, as its own Python backend uses them.
        let request = self.as_ptr().cast::<TRITONSERVER_InferenceRequest>();
        if let Ok(ask) = &api.newer.TRITONSERVER_InferenceRequestTimeoutMicroseconds {
            // SAFETY: the request is live until it is released, `timeout_us` is ours.
            let _ = check(unsafe { ask(request, &mut timeout_us) });
        }
        if let Ok(ask) = &api.newer.TRITONSERVER_InferenceRequestPriorityUInt64 {
            // SAFETY: as above.
            let _ = check(unsafe { ask(request, &mut priority) });
        }
        (timeout_us, priority)
    }
}

fn take(parameters: &mut Vec<(String, Parameter)>, name: &str) -> Result<Option<u64>> {
    let Some(at) = parameters.iter().position(|(key, _)| key == name) else { return Ok(None) };
    let (_, value) = parameters.remove(at);
    let number = match &value {
        Parameter::Int(n) => u64::try_from(*n).ok(),
        Parameter::Text(text) => text.trim().parse().ok(),
        Parameter::Bool(_) | Parameter::Double(_) => None,
    };
    number.map(Some).ok_or_else(|| {
        let unit = if name == "timeout" { "microseconds" } else { "1 being the most urgent" };
        invalid!("request parameter '{name}' must be a number from 0 up ({unit}), got {value:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_out_or_refused() {
        let mut parameters = vec![
            ("timeout".to_string(), Parameter::Int(5)),
            ("top_k".to_string(), Parameter::Int(1)),
            ("priority".to_string(), Parameter::Text("2".into())),
        ];
        assert_eq!(take(&mut parameters, "timeout").unwrap(), Some(5));
        assert_eq!(take(&mut parameters, "timeout").unwrap(), None);
        assert_eq!(take(&mut parameters, "priority").unwrap(), Some(2));
        assert_eq!(parameters.len(), 1, "sampling parameters stay");
        let bad = [Parameter::Int(-1), Parameter::Text("soon".into()), Parameter::Bool(true)];
        for bad in bad.into_iter().chain([Parameter::Double(0.5)]) {
            let error = take(&mut vec![("timeout".into(), bad)], "timeout").unwrap_err();
            assert!(error.message().contains("microseconds"), "{error}");
        }
    }
}
