//! Folders that stand for a machine with control groups, and promises on this one.

use super::*;

const GIB: u64 = 1 << 30;

/// A folder that stands for `/`.
struct Root(PathBuf);

impl Root {
    /// A machine of 64 GiB, 40 of them available, and these files.
    fn new(name: &str, files: &[(&str, &str)]) -> Root {
        let id = std::process::id();
        let root = Root(std::env::temp_dir().join(format!("triton_vllm_memory_{name}_{id}")));
        let _ = std::fs::remove_dir_all(&root.0);
        let kib = |gib: u64| gib << 20;
        let info = format!("MemTotal: {} kB\nMemAvailable: {} kB\n", kib(64), kib(40));
        for (path, text) in [("proc/meminfo", info.as_str())].iter().chain(files) {
            let path = root.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[track_caller]
    fn has(&self, total_gib: u64, free_gib: u64, of: &str) {
        let memory = Memory::under(&self.0);
        let shown = (memory.total_bytes / GIB, memory.free_bytes / GIB, memory.of.as_str());
        assert_eq!(shown, (total_gib, free_gib, of));
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const TWO: (&str, &str) =
    ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");

fn gib(n: u64) -> String {
    format!("{}\n", n * GIB)
}

#[test]
fn without_groups_the_machine_counts() {
    Root::new("plain", &[]).has(64, 40, "the machine");
    let files = [TWO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")];
    Root::new("max", &files).has(64, 40, "the machine");
}

#[test]
fn a_group_of_version_two_leaves_its_limit_less_what_is_used_and_no_cache() {
    let stat = format!("anon 5\ninactive_file {}\nactive_file {}\n", 2 * GIB, GIB);
    let files = [
        TWO,
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/memory.max", &gib(16)),
        ("sys/fs/cgroup/memory.current", &gib(10)),
        ("sys/fs/cgroup/memory.stat", &stat),
    ];
    Root::new("two", &files).has(16, 16 - 10 + 3, "control group /sys/fs/cgroup");
}

#[test]
fn the_tightest_of_nested_groups_counts() {
    let files = [
        TWO,
        ("proc/self/cgroup", "0::/pods/one/server\n"),
        ("sys/fs/cgroup/pods/memory.max", &gib(20)),
        ("sys/fs/cgroup/pods/memory.current", &gib(19)),
        ("sys/fs/cgroup/pods/one/memory.max", &gib(8)),
        ("sys/fs/cgroup/pods/one/memory.current", &gib(2)),
        ("sys/fs/cgroup/pods/one/server/memory.max", "max\n"),
        ("sys/fs/cgroup/pods/one/server/memory.current", &gib(2)),
    ];
    Root::new("nested", &files).has(8, 1, "control group /sys/fs/cgroup/pods");
}

#[test]
fn version_one_has_other_names() {
    let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let stat = format!("cache 1\ntotal_inactive_file {GIB}\ntotal_active_file {GIB}\n");
    let files = [
        ("proc/self/mountinfo", mounts),
        ("proc/self/cgroup", "4:memory:/a\n2:cpu:/\n0::/\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", &gib(30)),
        ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", &gib(12)),
        ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", &gib(9)),
        ("sys/fs/cgroup/memory/a/memory.stat", &stat),
    ];
    Root::new("one", &files).has(12, 5, "control group /sys/fs/cgroup/memory/a");
}

/// A container that sees its own group as the mount's root, while its path is the host's.
#[test]
fn a_mount_of_a_part_is_the_group_itself() {
    let mounts = "35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    for own in ["4:memory:/docker/x\n", "4:memory:/somewhere/else\n", "4:memory:/../up\n"] {
        let files = [
            ("proc/self/mountinfo", mounts),
            ("proc/self/cgroup", own),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", &gib(4)),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", &gib(1)),
        ];
        Root::new("part", &files).has(4, 3, "control group /sys/fs/cgroup/memory");
    }
}

/// What was promised and not touched is free for nobody else, until the promise ends.
#[test]
fn two_loads_do_not_get_the_same_bytes() {
    let free = || promise(|memory| Ok((memory.free_bytes, 0))).unwrap().0;
    let half = free() / 2;
    let (_, promised) = promise(|_| Ok(((), half))).unwrap();
    // The machine's own free memory moves by itself, and by other tests.
    let slack = half / 2;
    assert!(free() < half + slack, "{} of {half}", free());
    drop(promised);
    assert!(free() > half + slack, "{} of {half}", free());
    let refused = promise::<()>(|_| Err(crate::invalid!("no")));
    assert_eq!(refused.unwrap_err().message(), "no");
}
