//! LoRA adapters on the host: which there are, the threads that read them, and those in memory.
//!
//! | file | what |
//! |---|---|
//! | `list` | multi_lora.json: names, and where each adapter is found |
//! | `readers` | the threads that read adapters from folders and hubs |
//! | `host` | the adapters in host memory, and the sequences that wait for one |

mod host;
mod list;
mod readers;

pub(crate) use host::HostAdapters;
pub(crate) use list::AdapterList;
