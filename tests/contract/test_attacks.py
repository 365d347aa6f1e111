"""Two rounds of all attacks at once on a server that serves others; ci/soak attack runs 200."""
from attacks import Attacks, run
from server import TritonServer


def test_attacks_harm_nobody_else(tmp_path):
    attacks = Attacks(tmp_path, seed=12)
    with TritonServer(attacks.repository.folder) as server:
        run(server, attacks, rounds=2)
        assert "panicked" not in server.log_since()
    assert len(attacks.counts) >= len(attacks.all)
