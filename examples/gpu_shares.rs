//! Where a GPU's time goes, as Markdown tables.
//!
//! `gpu_shares attention [WORD]`: our attention kernels beside FlashAttention-3 on an H200; WORD
//! keeps the shapes whose name has it.
//!
//! `gpu_shares mixtures [WORD]`: layers of experts at 1, 16 and 64 rows beside their floors.
//!
//! `gpu_shares recurrences`: the delta rule and the selective scan beside theirs.
//!
//! `gpu_shares FOLDER WORK...`: what each kind of kernel costs in a step of the model (config.json
//! in FOLDER; weights are made up), found by leaving it out, and the floor of that. WORK is
//! `SEQUENCESxCONTEXT` (decode) or `prefill:TOKENS`.

mod gpu;
#[path = "gpu_shares/attention.rs"]
mod attention;
#[path = "gpu_shares/driver.rs"]
mod driver;
#[path = "gpu_shares/floor.rs"]
mod floor;
#[path = "gpu_shares/mixtures.rs"]
mod mixtures;
#[path = "gpu_shares/recurrences.rs"]
mod recurrences;
#[path = "gpu_shares/shares.rs"]
mod shares;
#[expect(dead_code, reason = "ops of a tower by name are another program's")]
#[path = "gpu_shares/without.rs"]
mod without;

use std::path::Path;

use gpu::Work;

const USAGE: &str = "usage: gpu_shares attention [WORD] | gpu_shares mixtures [WORD] | gpu_shares \
                     recurrences | gpu_shares FOLDER SEQUENCESxCONTEXT|prefill:TOKENS...";

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next().expect(USAGE);
    let done = match first.as_str() {
        "attention" => attention::run(&args.next().unwrap_or_default()),
        "mixtures" => mixtures::run(&args.next().unwrap_or_default()),
        "recurrences" => recurrences::run(),
        folder => {
            let works: Vec<Work> = args.map(|a| Work::parse(&a).expect(USAGE)).collect();
            assert!(!works.is_empty(), "{USAGE}");
            shares::run(Path::new(folder), &works)
        }
    };
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
