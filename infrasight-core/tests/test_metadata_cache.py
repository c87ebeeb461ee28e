"""The cache of container metadata: its bounds, and which of two runtimes it believes."""

from infrasight_core.containers.description import describe_container
from infrasight_core.containers.metadata_cache import MetadataCache
from infrasight_core.containers.metadata_lookup import MAX_BYTES, MAX_CONTAINERS


def test_cache_is_bounded_in_bytes() -> None:
    """Large labels evict the least recently used entries; published entries have no labels."""
    cache = MetadataCache(MAX_CONTAINERS, MAX_BYTES)
    labels = {"k": "v" * 60_000}
    for number in range(1000):
        cache.update(str(number), describe_container(str(number), "docker", b"n", b"i", labels))
        assert cache.bytes <= MAX_BYTES
    assert 200 < len(cache) < 300
    assert cache.get("999") is not None
    assert cache.get("0") is None
    for container_id in list(cache):
        entry = cache.get(container_id)
        assert entry is not None
        entry.has_events = True
        container = cache.pop_unpublished(entry)
        assert container is not None
        assert len(container.labels["k"]) == 60_000
        assert cache.pop_unpublished(entry) is None
    assert cache.bytes < 1 << 20
    assert len(cache) > 200


def test_cache_returns_to_zero_bytes_when_all_entries_are_evicted() -> None:
    """The account of bytes holds over updates and evictions: one small entry remains."""
    cache = MetadataCache(1, MAX_BYTES)
    for number in range(100):
        labels = {"k": "v" * number}
        cache.update(str(number), describe_container(str(number), "docker", b"n", b"i", labels))
    entry = cache.get("99")
    assert entry is not None
    assert (len(cache), cache.bytes) == (1, entry.size)


def test_cache_prefers_the_cri() -> None:
    """What the CRI reports replaces Docker's report, never the reverse, in whichever order."""
    docker, cri = (
        describe_container("a", runtime, runtime.encode(), b"i", {})
        for runtime in ("docker", "cri")
    )
    for order in ((docker, cri, docker), (cri, docker)):
        cache = MetadataCache(10, MAX_BYTES)
        changes = [cache.update("a", container) for container in order]
        entry = cache.get("a")
        assert entry is not None
        assert entry.container == cri
        assert changes[-1] is False
