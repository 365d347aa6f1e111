//! What the device does while nobody asks for anything: it holds nobody up.

use super::tests::{bench, Fault, GREEDY, PATIENCE};

#[test]
fn idle_work_holds_up_neither_requests_nor_the_end() {
    let bench = bench(Fault::Restless, 2, 2, 8);
    for stream in [true, false, true] {
        let (_, told) = bench.submit(stream, GREEDY).expect("room");
        assert!(told.recv_timeout(PATIENCE).expect("a final").is_ok());
    }
    bench.engine.drain(PATIENCE);
}
