"""What traffic analysis can see, as the threat model says it: sizes that are powers of two."""

from __future__ import annotations

from benchmarks.traffic import measured


def test_an_outsider_counts_bundles_and_streams_and_their_sizes_are_padded() -> None:
    found = measured()
    sizes = {
        int(size)
        for run in found.values()
        for origin in run["origins"].values()
        for size in origin["bundle_bytes"]
    }
    assert all(size >= 512 and size & (size - 1) == 0 for size in sizes)
    idle, asked = (found[name]["origins"]["10.0.0.1"] for name in ("idle", "asked"))
    # The cadence is the same, the sizes are not: this is what remains to be seen.
    assert sum(idle["bundle_bytes"].values()) == sum(asked["bundle_bytes"].values())
    assert (idle["frames"], asked["frames"] > 20) == (0, True)
    for run in found.values():
        renamed = [origin["renamed_at_s"] for origin in run["origins"].values()]
        assert len(renamed) == 2
        assert renamed[0] == renamed[1], "a rotation renames the streams of all members together"
