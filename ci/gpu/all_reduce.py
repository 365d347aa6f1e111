#!/usr/bin/env python3
"""All-reduce by NCCL inside a CUDA graph, by size: the peer of examples/gpu_ranks.rs. Needs PyTorch and two GPUs."""
import os
import sys

IN_GRAPH = 20
SIZES = [(8 << 10, 50), (16 << 10, 50), (64 << 10, 50), (128 << 10, 50), (256 << 10, 50), (512 << 10, 50), (1 << 20, 50),
         (2 << 20, 30), (4 << 20, 20), (8 << 20, 10), (16 << 20, 10), (32 << 20, 5), (64 << 20, 5)]


def measure(torch, dist, size, replays):
    """Microseconds of one."""
    x = torch.zeros(size // 2, dtype=torch.bfloat16, device="cuda")
    dist.all_reduce(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(IN_GRAPH):
            dist.all_reduce(x)
    for _ in range(3):
        graph.replay()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    dist.barrier()
    began.record()
    for _ in range(replays):
        graph.replay()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) * 1e3 / (IN_GRAPH * replays)


def rank_main(rank, ranks):
    import torch
    import torch.distributed as dist
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=ranks, device_id=torch.device("cuda", rank))
    if rank == 0:
        print(f"| bytes | us, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}, {ranks} ranks |\n|---|---|", flush=True)
    for size, replays in SIZES:
        mine = torch.tensor([measure(torch, dist, size, replays)], device="cuda")
        dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        if rank == 0:
            print(f"| {size} | {mine.item():.2f} |", flush=True)
    torch.cuda.synchronize()
    # Graphs hold the communicator: its orderly end hangs.
    os._exit(0)


def main():
    import torch
    import torch.multiprocessing as processes
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else torch.cuda.device_count()
    processes.spawn(rank_main, args=(ranks,), nprocs=ranks)


if __name__ == "__main__":
    main()
